//! Tests of the queue by hand against a host that answers what a test wants, and when.

use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use std::boxed::Box;
use std::vec::Vec;

use core_runtime::clock::{Clock, ManualClock};
use core_runtime::mem::{Bump, DmaArena, Iova};
use core_runtime::ring::{Consumer, Producer, RingSpec};
use hybrid_abi::bridge::{
    BRIDGE_CANCEL, BRIDGE_CANCELLED, BRIDGE_DONE, BridgeCompletion, BridgeInfo, BridgeRequest,
};
use hybrid_shm::leak_zeroed;
use nvme_spec::{Lba, Nsid};
use zerocopy::IntoBytes;

use super::*;
use crate::again::ReadAgain;
use crate::block::{BlockQueue, Device};
use crate::config::ControllerConfig;
use crate::controller::DeviceParts;
use crate::error::IoError;
use crate::raw::Target;

struct Rig {
    device: Device,
    target: Target,
    bump: Bump,
    arena: &'static DmaArena,
    clock: &'static ManualClock,
    requests: Consumer<BridgeRequest>,
    completions: Producer<BridgeCompletion>,
}

impl Rig {
    fn new() -> Self {
        let info = BridgeInfo::new(512, 1024, 8, 7);
        let own = leak_zeroed(info.partition_bytes());
        let host = leak_zeroed(info.host_bytes());
        let part = |(at, len)| host.sub(at, len).expect("inside");
        let peer = |(at, len)| own.read_only().sub(at, len).expect("inside");
        let spec = |spec: Result<RingSpec, RingError>| spec.expect("valid").with_epoch(info.epoch);
        let request_spec = spec(RingSpec::fixed::<BridgeRequest>(info.ring_slots));
        let completion_spec = spec(RingSpec::fixed::<BridgeCompletion>(info.ring_slots));
        let request_part = part(info.requests_consumer());
        let completion_part = part(info.completions_producer());
        request_spec.make_consumer_part(request_part).expect("room");
        completion_spec.make_producer_part(completion_part).expect("room");
        host.write(0, info.as_bytes()).expect("inside");
        let clock: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1)));
        let bump = Bump::leak(1 << 20);
        let parts =
            BridgeParts { own, peer: host.read_only(), clock: Clock::manual(clock), probes: None };
        let config = ControllerConfig::default();
        let device = Device::open(DeviceParts::Bridge(parts), &bump, config).expect("a bridge");
        let requests = Consumer::new(request_part, peer(info.requests_producer()), request_spec);
        let completions =
            Producer::new(completion_part, peer(info.completions_consumer()), completion_spec);
        Self {
            target: device.block_device(Nsid(1)).expect("one").target().expect("usable"),
            device,
            bump,
            arena: DmaArena::leak(1 << 20, Iova(0x4000_0000)).expect("arena"),
            clock,
            requests: requests.expect("laid out"),
            completions: completions.expect("laid out"),
        }
    }

    /// The bridge's queue with `buffers` buffers of 4,096 bytes.
    fn queue(&self, buffers: u16) -> BlockQueue {
        let queue = self.device.take_queue(0, buffers, &self.bump).expect("a queue");
        for index in 0..buffers {
            assert_eq!(queue.adopt(self.arena.alloc(4096).expect("memory")).ok(), Some(index));
        }
        queue
    }

    /// Why there is no queue now.
    fn refusal(&self) -> Option<QueueRefused> {
        let Device::Bridge(bridge) = self.device else { panic!("a bridge") };
        BridgeQueue::new(bridge, 1, &self.bump).err()
    }

    fn read(&self, queue: &BlockQueue, buf: u16, token: u32) -> Result<(), IoError> {
        queue.submit_read(&self.target, Lba(0), 1, buf, token)
    }

    /// What the host was sent since the last time.
    fn sent(&self) -> Vec<BridgeRequest> {
        core::iter::from_fn(|| self.requests.pop().ok()).collect()
    }

    fn answer(&self, request: &BridgeRequest) {
        let kind = BRIDGE_DONE;
        let done = BridgeCompletion { cid: request.cid, kind, reserved: 0, detail: 0 };
        self.completions.try_push(&done).expect("room");
    }

    fn poll(&self) {
        self.device.poll_io(Clock::manual(self.clock).now());
    }

    /// Polls `times`, each after so many milliseconds.
    fn pass_time(&self, times: u32, ms: u64) {
        for _ in 0..times {
            self.clock.advance(ms * 1_000_000);
            self.poll();
        }
    }

    /// Lets the host be silent beyond every limit.
    fn lose(&self) {
        self.pass_time(17, 700);
        assert!(self.device.failure().is_some(), "gone");
    }

    /// Live and quarantined blocks of DMA memory.
    fn blocks(&self) -> (usize, usize) {
        let stats = self.arena.stats();
        (stats.live, stats.quarantined)
    }
}

#[test]
fn a_buffer_that_is_lent_keeps_its_place() {
    let rig = Rig::new();
    let queue = rig.queue(1);
    let lent = queue.with_buf(0, |_| {
        let small = rig.arena.alloc(512).expect("memory");
        assert!(queue.adopt(small).is_err(), "the place is not free");
        assert!(rig.read(&queue, 0, 1).is_err(), "and nothing can be submitted");
    });
    assert!(lent.is_some());
    queue.submit_read(&rig.target, Lba(0), 8, 0, 1).expect("as long as before");
    assert_eq!(rig.sent().first().map(|r| (r.addr, r.nlb)), Some((0x4000_0000, 8)));
}

#[test]
fn what_was_lost_with_the_host_is_never_seen_again() {
    let rig = Rig::new();
    let queue = rig.queue(2);
    rig.read(&queue, 0, 5).expect("room");
    rig.read(&queue, 0, 6).expect("twice on one buffer");
    let sent = rig.sent();
    rig.answer(&sent[0]);
    assert_eq!(queue.reap(8, |token, result| assert_eq!((token, result), (5, Ok(())))), 1);
    rig.lose();
    let gone = |token, result| assert_eq!((token, result), (6, Err(IoError::Gone)));
    assert_eq!(queue.reap(8, gone), 1);
    assert!(queue.is_idle());
    assert!(queue.with_buf(0, |_| ()).is_none(), "the host may still write it");
    assert!(queue.with_buf(1, |_| ()).is_some());
    drop(queue);
    assert_eq!(rig.blocks(), (0, 1));
}

/// What the queue tells, in order.
fn told(queue: &BlockQueue) -> Vec<(u32, Result<(), IoError>)> {
    let mut told = Vec::new();
    queue.reap(8, |token, result| told.push((token, result)));
    told
}

/// Deadline and grace are 5 s each, and a look counts as an eighth of the deadline at most.
#[test]
fn time_in_which_nobody_looked_is_not_the_hosts() {
    let rig = Rig::new();
    let queue = rig.queue(1);
    rig.poll();
    rig.read(&queue, 0, 5).expect("room");
    let read = rig.sent()[0];
    rig.pass_time(1, 3_600_000);
    assert!(rig.sent().is_empty(), "this core was away, not the host");
    rig.pass_time(6, 625);
    assert_eq!(rig.device.stats().deadlines, 0, "7 eighths");
    rig.pass_time(1, 625);
    let cancel = rig.sent();
    assert_eq!(
        cancel.iter().map(|r| (r.op, r.slba)).collect::<Vec<_>>(),
        [(BRIDGE_CANCEL, u64::from(read.cid))]
    );
    rig.pass_time(1, 3_600_000);
    rig.pass_time(6, 625);
    assert!(rig.device.failure().is_none(), "7 eighths of the grace time");
    assert!(rig.sent().is_empty(), "it is asked once");
    rig.answer(&read);
    assert_eq!(told(&queue), [(5, Ok(()))]);
    // The next one has a deadline of its own.
    rig.read(&queue, 0, 6).expect("room");
    rig.pass_time(7, 625);
    assert_eq!(rig.device.stats().deadlines, 1);
    rig.pass_time(8, 625);
    assert!(rig.device.failure().is_none());
    rig.pass_time(1, 625);
    assert!(rig.device.failure().is_some(), "twice 8 eighths");
    assert_eq!(told(&queue), [(6, Err(IoError::Gone))]);
}

#[test]
fn a_clock_that_goes_back_stops_no_deadline_of_the_bridge() {
    let rig = Rig::new();
    let queue = rig.queue(1);
    rig.pass_time(1, 3_600_000);
    rig.read(&queue, 0, 5).expect("room");
    rig.clock.set(1);
    rig.lose();
    assert_eq!(told(&queue), [(5, Err(IoError::Gone))]);
}

#[test]
fn what_ended_before_the_host_was_lost_keeps_its_result() {
    let rig = Rig::new();
    let queue = rig.queue(2);
    rig.read(&queue, 0, 5).expect("room");
    rig.read(&queue, 1, 6).expect("room");
    rig.answer(&rig.sent()[0]);
    rig.poll();
    rig.lose();
    assert_eq!(told(&queue), [(5, Ok(())), (6, Err(IoError::Gone))]);
    assert!(queue.is_idle() && told(&queue).is_empty());
    assert!(queue.with_buf(0, |_| ()).is_some(), "answered");
    assert!(queue.with_buf(1, |_| ()).is_none(), "the host may still write it");
}

#[test]
fn a_second_answer_to_what_was_not_reaped_yet_is_ignored() {
    let rig = Rig::new();
    let queue = rig.queue(2);
    rig.read(&queue, 0, 5).expect("room");
    rig.read(&queue, 1, 6).expect("room");
    let sent = rig.sent();
    for request in [&sent[0], &sent[0], &sent[1], &sent[0]] {
        rig.answer(request);
    }
    rig.poll();
    assert_eq!(told(&queue), [(5, Ok(())), (6, Ok(()))]);
    assert!(queue.is_idle() && told(&queue).is_empty());
    assert_eq!(queue.stats().ignored.free_slot, 2);
}

#[test]
fn there_is_one_queue_at_a_time() {
    let rig = Rig::new();
    let first = rig.queue(1);
    assert!(rig.device.take_queue(0, 1, &rig.bump).is_none(), "taken");
    assert_eq!(rig.refusal(), Some(QueueRefused::Taken));
    assert!(rig.device.take_queue(1, 1, &rig.bump).is_none(), "there is no other");
    rig.read(&first, 0, 1).expect("room");
    rig.answer(&rig.sent()[0]);
    assert_eq!(first.reap(8, |token, _| assert_eq!(token, 1)), 1);
    drop(first);
    let second = rig.queue(1);
    assert_eq!((second.reap(8, |_, _| panic!("nothing was sent")), rig.blocks()), (0, (1, 0)));
}

#[test]
fn a_queue_dropped_in_flight_is_not_handed_out_before_the_host_has_answered() {
    let rig = Rig::new();
    let queue = rig.queue(3);
    for token in [0, 1] {
        rig.read(&queue, 0, token).expect("room");
    }
    rig.read(&queue, 1, 2).expect("room");
    drop(queue);
    assert_eq!(rig.blocks(), (0, 2), "the third had nothing in flight");
    for (left, request) in (1..=3).rev().zip(rig.sent()) {
        assert!(rig.device.take_queue(0, 1, &rig.bump).is_none(), "in flight");
        assert_eq!(rig.refusal(), Some(QueueRefused::InFlight(left)));
        rig.answer(&request);
        rig.poll();
    }
    // No completion of the first reaches the second, nor does it lack a slot.
    let queue = rig.queue(1);
    let depth = queue.depth();
    for token in 0..u32::from(depth) {
        rig.read(&queue, 0, 100 + token).expect("room");
    }
    assert_eq!(queue.reap(8, |_, _| panic!("nothing was answered")), 0);
    assert!(queue.with_buf(0, |_| ()).is_none(), "in flight");
    rig.sent().iter().for_each(|request| rig.answer(request));
    assert_eq!(queue.reap(depth, |token, _| assert!(token >= 100)), depth);
    assert!(queue.is_idle());
}

#[test]
fn a_queue_dropped_before_it_has_reaped_gets_its_buffers_back() {
    let rig = Rig::new();
    let queue = rig.queue(2);
    rig.read(&queue, 0, 0).expect("room");
    rig.read(&queue, 1, 1).expect("room");
    rig.sent().iter().for_each(|request| rig.answer(request));
    rig.poll();
    drop(queue);
    assert_eq!(rig.blocks(), (0, 0));
    rig.queue(2);
}

#[test]
fn a_queue_dropped_in_flight_may_be_lost_with_the_host() {
    let rig = Rig::new();
    let queue = rig.queue(1);
    rig.read(&queue, 0, 0).expect("room");
    drop(queue);
    rig.lose();
    let queue = rig.queue(1);
    assert_eq!(rig.read(&queue, 0, 1), Err(IoError::Gone));
    assert!(queue.is_idle());
    drop(queue);
    assert_eq!(rig.blocks(), (0, 1));
}

#[test]
fn a_read_that_the_host_cancelled_is_read_again_and_one_that_it_has_still_is_not() {
    let rig = Rig::new();
    let block = rig.device.block_device(Nsid(1)).expect("one");
    let mut read =
        pin!(ReadAgain::times(1).read(block, Lba(3), rig.arena.alloc(512).expect("memory")));
    let mut cx = Context::from_waker(Waker::noop());
    for repeats in [1, 1] {
        assert!(read.as_mut().poll(&mut cx).is_pending());
        let first = rig.sent();
        assert_eq!(first.iter().map(|r| (r.slba, r.nlb)).collect::<Vec<_>>(), [(3, 1)]);
        // Its deadline passes, and the host lets go of it.
        rig.pass_time(9, 700);
        let cancel = rig.sent();
        assert_eq!(cancel.iter().map(|r| r.op).collect::<Vec<_>>(), [BRIDGE_CANCEL]);
        let done =
            BridgeCompletion { cid: first[0].cid, kind: BRIDGE_CANCELLED, reserved: 0, detail: 0 };
        rig.completions.try_push(&done).expect("room");
        rig.poll();
        let polled = read.as_mut().poll(&mut cx);
        assert_eq!(rig.device.stats().reads_repeated, repeats);
        if let Poll::Ready(ended) = polled {
            let failed = ended.expect_err("twice is once too often");
            assert_eq!((failed.error, failed.buf.is_some()), (IoError::TimedOut, true));
            break;
        }
    }
    // One that the host still has when it is given up is not repeated.
    let mut read =
        pin!(ReadAgain::default().read(block, Lba(3), rig.arena.alloc(512).expect("memory")));
    assert!(read.as_mut().poll(&mut cx).is_pending());
    rig.lose();
    let Poll::Ready(Err(failed)) = read.as_mut().poll(&mut cx) else { panic!("it has ended") };
    assert_eq!((failed.error, failed.buf.is_some()), (IoError::Gone, false));
    assert_eq!(rig.device.stats().reads_repeated, 1);
}
