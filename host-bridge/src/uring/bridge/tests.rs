//! Both ends of the bridge in one thread, stepped: data, errors, nonsense, the end.

use std::fs;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use core_runtime::clock::{Clock, ManualClock};
use core_runtime::mem::{Bump, DmaArena, DmaBuf, DmaRegion, Iova};
use core_runtime::metrics::{MetricsReader, MetricsWriter, part_bytes};
use core_runtime::ring::{Consumer, Producer};
use hybrid_abi::bridge::{
    BRIDGE_FLUSH, BRIDGE_READ, BRIDGE_WRITE, BridgeCompletion, REFUSED_BUFFER, REFUSED_CID,
    REFUSED_OP, REFUSED_RANGE,
};
use hybrid_abi::metrics::MetricUnit;
use nvme_driver::{
    BlockDevice, BlockQueue, BridgeError, BridgeParts, ControllerConfig, Device, DeviceParts,
    IoError, LatencyHistograms, Lba, WriteFlags, spec::Nsid,
};

use super::ends::specs;
use super::*;
use crate::testing::TempDir;
use crate::uring::reactor::Reactor;
use crate::uring::rings::{Rings, RingsWish, SqPollWish};
use crate::uring::target::TargetWish;

const DMA: usize = 8 << 20;
const BYTES: u64 = 4 << 20;
const IOVA: Iova = Iova(1 << 38);

struct Rig {
    reactor: Reactor<BridgeServer>,
    info: BridgeInfo,
    partition: Span<'static>,
    host: Span<'static>,
    dma: DmaRegion,
    path: PathBuf,
    clock: &'static ManualClock,
    lines: Arc<Mutex<Vec<String>>>,
    _dir: TempDir,
}

/// A client and its memory.
struct Client {
    device: Device,
    block: BlockDevice,
    arena: &'static DmaArena,
    bump: &'static Bump,
}

impl Rig {
    fn new() -> Self {
        Self::with(RingsWish::default(), |_| {}, 32)
    }

    fn with(mut rings: RingsWish, change: impl FnOnce(&mut TargetWish), depth: u32) -> Self {
        let dir = TempDir::new("bridge");
        let path = dir.path().join("day.img");
        fs::File::create(&path).and_then(|file| file.set_len(BYTES)).expect("a file");
        let mut wish = TargetWish::new(&path);
        change(&mut wish);
        let target = Target::open(&wish).expect("a target");
        let dma = DmaRegion::leak(DMA, IOVA);
        let info = info_of(&target, depth, 7);
        let host = hybrid_shm::leak_aligned(info.host_bytes(), 4096);
        let partition = hybrid_shm::leak_aligned(info.partition_bytes(), 4096);
        lay_out(host, &info).expect("room");
        rings.buffers = BridgeServer::registrable(dma.span).expect("inside");
        rings.files = vec![target.fd()];
        rings.iopoll |= target.limits().iopoll;
        let rings = Rings::new(&rings).expect("io_uring is there");
        let file = rings.file(target.fd());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let fixed = rings.fixed_buffers.then_some(0);
        let polled = rings.poll.is_some();
        let server = BridgeServer::new(
            (info, BridgeMemory { own: host, peer: partition.read_only(), dma }),
            (target, file),
            (fixed, None),
            polled,
            Box::new(move |line| sink.lock().expect("lock").push(line)),
        );
        let reactor = Reactor::new(rings, vec![server]);
        let clock = Box::leak(Box::new(ManualClock::new(1_000_000_000)));
        Self { reactor, info, partition, host, dma, path, clock, lines, _dir: dir }
    }

    fn client(&self) -> Client {
        let bump: &'static Bump = Box::leak(Box::new(Bump::leak(4 << 20)));
        let arena = DmaArena::new(self.dma, bump).expect("an arena");
        let parts = BridgeParts {
            own: self.partition,
            peer: self.host.read_only(),
            clock: Clock::manual(self.clock),
            probes: None,
        };
        let config = ControllerConfig {
            queue_depth: 1023,
            latency_sampling: 1,
            ..ControllerConfig::default()
        };
        let device = Device::open(DeviceParts::Bridge(parts), bump, config).expect("a bridge");
        let block = device.block_device(Nsid(1)).expect("one device");
        Client { device, block, arena, bump }
    }

    /// Turns until `future` is done; at most some seconds.
    fn finish<F: Future>(&mut self, client: &Client, future: F) -> F::Output {
        let mut future = pin!(future);
        let begun = Instant::now();
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return output;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "nothing for 20 s");
            self.turn(client);
        }
    }

    fn turn(&mut self, client: &Client) {
        if !self.reactor.turn() {
            self.reactor.wait(Duration::from_millis(1));
        }
        client.device.poll_io(Clock::manual(self.clock).now());
    }

    fn stats(&mut self) -> BridgeStats {
        self.reactor.sources()[0].stats()
    }

    /// Pushes nonsense through a ring of its own making, as a partition gone wrong would.
    fn wild(&mut self) -> (Producer<BridgeRequest>, Consumer<BridgeCompletion>) {
        let (requests, completions) = specs(&self.info).expect("good");
        let own = |(at, len)| self.partition.sub(at, len).expect("inside");
        let peer = |(at, len)| self.host.read_only().sub(at, len).expect("inside");
        let (mine, theirs) =
            (own(self.info.requests_producer()), own(self.info.completions_consumer()));
        requests.make_producer_part(mine).expect("room");
        completions.make_consumer_part(theirs).expect("room");
        (
            Producer::new(mine, peer(self.info.requests_consumer()), requests).expect("opened"),
            Consumer::new(theirs, peer(self.info.completions_producer()), completions)
                .expect("opened"),
        )
    }

    /// Answers to what was pushed, `count` of them.
    fn answers(
        &mut self,
        ring: &Consumer<BridgeCompletion>,
        count: usize,
    ) -> Vec<BridgeCompletion> {
        let begun = Instant::now();
        let mut answers = Vec::new();
        while answers.len() < count {
            assert!(begun.elapsed() < Duration::from_secs(20), "{answers:?}");
            if !self.reactor.turn() {
                self.reactor.wait(Duration::from_millis(1));
            }
            while let Ok(answer) = ring.pop() {
                answers.push(answer);
            }
        }
        answers
    }
}

fn filled(client: &Client, bytes: usize, seed: u8) -> DmaBuf {
    let mut buf = client.arena.alloc(bytes).expect("memory");
    for (at, byte) in buf.as_mut_slice().iter_mut().enumerate() {
        *byte = at.to_le_bytes()[0].wrapping_mul(31).wrapping_add(seed);
    }
    buf
}

fn round_trip(rig: &mut Rig) {
    let client = rig.client();
    for (lba, bytes) in [(0_u64, 4096), (7, 64 << 10), (256, 3 << 20)] {
        let buf = filled(&client, bytes, lba.to_le_bytes()[0]);
        let expected = buf.as_slice().to_vec();
        let write = client.block.write(Lba(lba), buf, WriteFlags::empty());
        let mut buf = rig.finish(&client, write).expect("written");
        buf.as_mut_slice().fill(0);
        let buf = rig.finish(&client, client.block.read(Lba(lba), buf)).expect("read");
        assert!(buf.as_slice() == expected, "{bytes} bytes at block {lba}");
    }
    rig.finish(&client, client.block.flush()).expect("flushed");
    let fua = client.block.write(Lba(1), filled(&client, 8192, 9), WriteFlags::FUA);
    rig.finish(&client, fua).expect("durable");
    rig.finish(&client, client.device.shutdown()).expect("in order");
    assert_eq!(rig.stats().refused, 0);
}

#[test]
fn data_come_back_over_plain_rings() {
    let wish = RingsWish { restricted: false, ..RingsWish::default() };
    round_trip(&mut Rig::with(wish, |_| {}, 32));
}

#[test]
fn data_come_back_over_restricted_rings_with_registered_memory() {
    let mut rig = Rig::new();
    assert_eq!(rig.reactor.rings().steps, [], "this kernel takes all of it");
    assert!(rig.reactor.rings().fixed_buffers);
    round_trip(&mut rig);
}

#[test]
fn data_come_back_with_the_kernels_thread_submitting() {
    let sqpoll = SqPollWish { cpu: Some(0), idle: Duration::from_millis(20) };
    round_trip(&mut Rig::with(
        RingsWish { sqpoll: Some(sqpoll), ..RingsWish::default() },
        |_| {},
        32,
    ));
}

#[test]
fn a_durable_write_is_never_linked_where_the_kernels_thread_submits() {
    let sqpoll = SqPollWish { cpu: Some(0), idle: Duration::from_millis(20) };
    let plain = RingsWish::default();
    let polled = RingsWish { sqpoll: Some(sqpoll), ..RingsWish::default() };
    // The write and its sync are one operation of two entries, or two, one after the other.
    for (wish, operations) in [(plain, 1), (polled, 2)] {
        let mut rig = Rig::with(wish, |_| {}, 8);
        let client = rig.client();
        let write = client.block.write(Lba(1), filled(&client, 4096, 1), WriteFlags::FUA);
        rig.finish(&client, write).expect("durable");
        assert_eq!(rig.stats().operations, operations);
    }
}

#[test]
fn data_come_back_through_the_page_cache() {
    round_trip(&mut Rig::with(RingsWish::default(), |wish| wish.direct = false, 32));
}

#[test]
fn polling_that_the_storage_cannot_do_is_a_step_and_no_data_are_lost() {
    let wish = RingsWish { iopoll: true, ..RingsWish::default() };
    // Through the page cache, where no kernel polls.
    let mut rig = Rig::with(wish, |wish| wish.direct = false, 32);
    assert!(rig.reactor.rings().poll.is_some(), "the ring itself can be had");
    round_trip(&mut rig);
    let lines = rig.lines.lock().expect("lock").clone();
    assert_eq!(lines.len(), 1, "one line: {lines:?}");
    assert!(lines[0].contains("without IOPOLL"), "{lines:?}");
}

#[test]
fn zeros_and_discards_do_what_they_say() {
    let mut rig = Rig::new();
    let client = rig.client();
    let write = client.block.write(Lba(0), filled(&client, 64 << 10, 1), WriteFlags::empty());
    let buf = rig.finish(&client, write).expect("written");
    let zeroes = client.block.write_zeroes(Lba(1), 2, WriteFlags::FUA);
    match rig.finish(&client, zeroes) {
        Ok(()) => {
            let buf = rig.finish(&client, client.block.read(Lba(0), buf)).expect("read");
            assert!(buf[4096..12288].iter().all(|byte| *byte == 0));
            assert!(buf[..4096].iter().any(|byte| *byte != 0));
            assert!(buf[12288..].iter().any(|byte| *byte != 0));
            rig.finish(&client, client.block.discard(Lba(4), 4)).expect("given back");
        }
        // A filesystem without holes says so at the start.
        Err(error) => assert_eq!(error, IoError::Unsupported("write zeroes")),
    }
}

#[test]
fn only_reads_and_writes_are_in_the_histograms_of_reads_and_writes() {
    let mut rig = Rig::new();
    let client = rig.client();
    let part = hybrid_shm::leak_aligned(part_bytes(2, 2), 128);
    let mut metrics = MetricsWriter::new(part, 2).expect("room");
    let mut histogram = |name| metrics.histogram(name, MetricUnit::NANOSECONDS).expect("room");
    let histograms = LatencyHistograms { reads: histogram("reads"), writes: histogram("writes") };
    client.device.record_latencies_into(histograms);
    let write = client.block.write(Lba(0), filled(&client, 4096, 1), WriteFlags::empty());
    let buf = rig.finish(&client, write).expect("written");
    for _ in 0..3 {
        rig.finish(&client, client.block.flush()).expect("flushed");
    }
    let _ = rig.finish(&client, client.block.write_zeroes(Lba(1), 2, WriteFlags::empty()));
    let _ = rig.finish(&client, client.block.discard(Lba(4), 4));
    rig.finish(&client, client.block.read(Lba(0), buf)).expect("read");
    let reader = MetricsReader::new(part.read_only()).expect("whole");
    let count = |name| reader.histogram(name).expect("there").count();
    assert_eq!((count("reads"), count("writes")), (1, 1));
}

#[test]
fn a_full_bridge_is_back_pressure_and_nobody_is_forgotten() {
    let mut rig = Rig::with(RingsWish::default(), |_| {}, 4);
    let client = rig.client();
    let reads: Vec<_> = (0..64)
        .map(|lba| client.block.read(Lba(lba), client.arena.alloc(4096).expect("memory")))
        .collect();
    let full = client.block.try_read(Lba(0), client.arena.alloc(4096).expect("memory"));
    let Err(failed) = full else { panic!("four at a time") };
    assert_eq!(failed.error, IoError::QueueFull);
    assert!(failed.buf.is_some());
    for read in reads {
        rig.finish(&client, read).expect("read");
    }
    assert_eq!(rig.stats().accepted, 64);
    assert_eq!(client.device.stats().io.high_water, 4);
}

#[test]
fn a_dropped_future_gives_its_buffer_back_when_the_host_has_answered() {
    let mut rig = Rig::new();
    let client = rig.client();
    let before = client.arena.stats();
    let read = client.block.read(Lba(3), client.arena.alloc(4096).expect("memory"));
    drop(read);
    assert_eq!(client.device.stats().orphans, 1);
    let begun = Instant::now();
    while client.device.stats().io.in_flight != 0 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        rig.turn(&client);
    }
    assert_eq!(client.arena.stats().live, before.live);
    assert_eq!(client.arena.stats().quarantined, before.quarantined);
}

#[test]
fn a_queue_by_hand_reads_what_futures_wrote() {
    let mut rig = Rig::new();
    let client = rig.client();
    let write = client.block.write(Lba(5), filled(&client, 4096, 5), WriteFlags::empty());
    let expected = rig.finish(&client, write).expect("written").as_slice().to_vec();
    let queue = client.device.take_queue(0, 8, client.bump).expect("a queue");
    assert!(matches!(queue, BlockQueue::Bridge(_)));
    let target = client.block.target().expect("usable");
    for buf in 0..8 {
        assert_eq!(queue.adopt(client.arena.alloc(4096).expect("memory")).ok(), Some(buf));
        queue.submit_read(&target, Lba(5), 1, buf, u32::from(buf) + 100).expect("submitted");
    }
    let begun = Instant::now();
    let mut tokens = Vec::new();
    while !queue.is_idle() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        rig.turn(&client);
        queue.reap(3, |token, result| {
            result.expect("read");
            tokens.push(token);
        });
    }
    tokens.sort_unstable();
    assert_eq!(tokens, (100..108).collect::<Vec<_>>());
    for buf in 0..8 {
        assert_eq!(queue.with_buf(buf, |bytes| *bytes == *expected), Some(true));
    }
}

// ---- what goes wrong -----------------------------------------------------------------------

#[test]
fn a_file_that_shrinks_is_a_named_error_of_reads_and_flushes() {
    let mut rig = Rig::new();
    let client = rig.client();
    fs::OpenOptions::new().write(true).open(&rig.path).and_then(|f| f.set_len(8192)).expect("cut");
    let buf = client.arena.alloc(16 << 10).expect("memory");
    let failed = rig.finish(&client, client.block.read(Lba(0), buf)).expect_err("cut short");
    assert_eq!(failed.error, IoError::Bridge(BridgeError::Short));
    assert!(failed.buf.is_some(), "the buffer comes back");
    let error = rig.finish(&client, client.block.flush()).expect_err("it shrank");
    assert_eq!(error, IoError::Bridge(BridgeError::Short));
    // No later flush makes it well again.
    let error = rig.finish(&client, client.block.flush()).expect_err("and stays so");
    assert_eq!(error, IoError::Bridge(BridgeError::Unflushed));
    let fua = client.block.write(Lba(0), filled(&client, 4096, 0), WriteFlags::FUA);
    let failed = rig.finish(&client, fua).expect_err("not durable");
    assert_eq!(failed.error, IoError::Bridge(BridgeError::Unflushed));
}

#[test]
fn a_filesystem_that_is_full_is_told_in_the_kernels_own_word_and_reads_go_on() {
    const TEST: &str = "a_filesystem_that_is_full_is_told_in_the_kernels_own_word_and_reads_go_on";
    const FULL: &str = "it was full";
    let temp = std::env::temp_dir();
    let space = rustix::fs::statvfs(&temp).expect("a filesystem");
    if space.f_blocks * space.f_frsize > 1 << 20 {
        // Once more, with temporary files on a filesystem of 256 KiB that nobody else sees.
        let dir = TempDir::new("full");
        let own = std::env::current_exe().expect("this program");
        let script = "mount -t tmpfs -o size=256k none \"$1\" && TMPDIR=$1 exec \"$2\" \
                      --exact \"uring::bridge::tests::$3\" --nocapture";
        let output = std::process::Command::new("unshare")
            .args(["-r", "-m", "sh", "-c", script, "sh"])
            .args([dir.path().as_os_str(), own.as_os_str(), TEST.as_ref()])
            .output();
        let output = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        return match output {
            Ok(text) if text.contains(FULL) && text.contains("1 passed") => {}
            Ok(text) if text.is_empty() => {
                hybrid_conventions::testing::skipped(TEST, "no mounts in a namespace of its own");
            }
            other => panic!("{other:?}"),
        };
    }
    let mut rig = Rig::new();
    let client = rig.client();
    let mut lba = 0;
    let error = loop {
        let write = client.block.write(Lba(lba), filled(&client, 64 << 10, 1), WriteFlags::empty());
        match rig.finish(&client, write) {
            Ok(_) => lba += 16,
            Err(failed) => break failed.error,
        }
    };
    assert_eq!(error, IoError::Bridge(BridgeError::Errno(libc::ENOSPC.unsigned_abs())));
    assert!((16..=64).contains(&lba), "{lba} blocks went in");
    let buf = client.arena.alloc(64 << 10).expect("memory");
    rig.finish(&client, client.block.read(Lba(0), buf)).expect("what was written is there");
    println!("{FULL}");
}

#[test]
fn writes_to_what_was_opened_for_reading_are_refused_by_name() {
    let mut rig = Rig::with(RingsWish::default(), |wish| wish.write = false, 8);
    let client = rig.client();
    let write = client.block.write(Lba(0), filled(&client, 4096, 0), WriteFlags::empty());
    let failed = rig.finish(&client, write).expect_err("read only");
    assert!(failed.error.to_string().contains("may only be read"), "{}", failed.error);
}

#[test]
fn nonsense_is_refused_one_by_one_and_the_good_ones_between_are_served() {
    let mut rig = Rig::new();
    let (requests, completions) = rig.wild();
    let good = BridgeRequest { op: BRIDGE_READ, flags: 0, cid: 1, slba: 0, addr: IOVA.0, nlb: 1 };
    let wild = [
        (BridgeRequest { op: 99, cid: 2, ..good }, REFUSED_OP),
        (BridgeRequest { cid: 0xFFFF_FFFF, ..good }, REFUSED_CID),
        (BridgeRequest { slba: u64::MAX, cid: 3, ..good }, REFUSED_RANGE),
        (BridgeRequest { addr: 0, cid: 4, ..good }, REFUSED_BUFFER),
        (BridgeRequest { addr: u64::MAX - 4095, cid: 5, ..good }, REFUSED_BUFFER),
        (BridgeRequest { op: BRIDGE_WRITE, nlb: 1 << 40, cid: 6, ..good }, REFUSED_RANGE),
    ];
    for (request, _) in &wild {
        requests.try_push(request).expect("room");
        requests.try_push(&BridgeRequest { cid: 1, ..good }).expect("room");
        let answers = rig.answers(&completions, 2);
        let refused = answers.iter().find(|answer| answer.cid == request.cid).expect("refused");
        let code = wild.iter().find(|(each, _)| each == request).expect("itself").1;
        assert_eq!((refused.kind, refused.detail), (BRIDGE_REFUSED, code), "{request:?}");
        let served = answers.iter().find(|answer| answer.cid == 1).expect("served");
        assert_eq!(served.kind, BRIDGE_DONE);
    }
    let stats = rig.stats();
    assert_eq!((stats.refused, stats.accepted), (wild.len() as u64, wild.len() as u64));
}

#[test]
fn a_slot_in_use_is_refused_and_a_cancel_of_nothing_is_nothing() {
    let mut rig = Rig::new();
    let (requests, completions) = rig.wild();
    let read = BridgeRequest { op: BRIDGE_READ, flags: 0, cid: 7, slba: 0, addr: IOVA.0, nlb: 512 };
    requests.try_push(&read).expect("room");
    requests.try_push(&BridgeRequest { cid: 0x0001_0007, ..read }).expect("room");
    for cid in [0, 7_u64, u64::MAX, 0x0009_0007] {
        let cancel = BridgeRequest { op: BRIDGE_CANCEL, slba: cid, ..BridgeRequest::default() };
        requests.try_push(&cancel).expect("room");
    }
    requests.try_push(&BridgeRequest { op: BRIDGE_FLUSH, cid: 8, ..read }).expect("room");
    let answers = rig.answers(&completions, 3);
    let busy = answers.iter().find(|answer| answer.cid == 0x0001_0007).expect("refused");
    assert_eq!((busy.kind, busy.detail), (BRIDGE_REFUSED, REFUSED_BUSY));
    let read = answers.iter().find(|answer| answer.cid == 7).expect("once");
    assert!([BRIDGE_DONE, BRIDGE_CANCELLED].contains(&read.kind), "{read:?}");
}

#[test]
fn a_partition_that_takes_no_answers_is_not_served_further_and_loses_nothing() {
    let mut rig = Rig::with(RingsWish::default(), |_| {}, 4);
    let (requests, completions) = rig.wild();
    let slots = rig.info.ring_slots;
    let bad = BridgeRequest { op: 77, ..BridgeRequest::default() };
    let mut pushed = 0;
    for _ in 0..3 * slots {
        pushed += u32::from(requests.try_push(&bad).is_ok());
        rig.reactor.turn();
    }
    assert_eq!(rig.stats().refused, u64::from(slots), "as many answers as there is room for");
    assert_eq!(pushed, 2 * slots, "the rest waits in the ring, which is full");
    let mut answers = rig.answers(&completions, slots as usize).len();
    answers += rig.answers(&completions, slots as usize).len();
    assert_eq!(answers, 2 * slots as usize);
}

#[test]
fn a_wild_index_closes_the_bridge_and_says_so() {
    let mut rig = Rig::new();
    let _ends = rig.wild();
    rig.reactor.turn();
    let tail = hybrid_abi::ring::END_OFFSET;
    rig.partition.word32(tail).expect("the tail").store(0x7FFF_FFFF);
    rig.reactor.turn();
    let why = rig.reactor.sources()[0].closed().expect("closed").to_owned();
    assert!(why.contains("claims index"), "{why}");
    assert!(!rig.reactor.sources()[0].serves());
}

#[test]
fn a_host_that_does_not_answer_is_given_up_and_its_buffers_are_quarantined() {
    let rig = Rig::new();
    let client = rig.client();
    let read = client.block.read(Lba(0), client.arena.alloc(4096).expect("memory"));
    let mut read = pin!(read);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(read.as_mut().poll(&mut cx).is_pending());
    // The reactor never turns. One deadline, and the grace time after it: eight looks each.
    for look in 0..16 {
        assert!(client.device.failure().is_none(), "given up at look {look}");
        rig.clock.advance(700_000_000);
        client.device.poll_io(Clock::manual(rig.clock).now());
    }
    let Poll::Ready(Err(failed)) = read.as_mut().poll(&mut cx) else { panic!("given up") };
    assert_eq!(failed.error, IoError::Gone);
    assert!(failed.buf.is_none(), "the host may still write it");
    assert_eq!(client.device.stats().deadlines, 1);
    assert!(client.device.failure().is_some());
    let late = client.block.try_read(Lba(0), client.arena.alloc(4096).expect("memory"));
    assert!(matches!(late, Err(failed) if failed.error == IoError::Gone));
}

#[test]
fn stopping_ends_what_is_in_flight_and_takes_nothing_more() {
    let mut rig = Rig::new();
    let client = rig.client();
    let _reads: Vec<_> = (0..16)
        .map(|lba| client.block.read(Lba(lba), client.arena.alloc(64 << 10).expect("memory")))
        .collect();
    rig.reactor.turn();
    rig.reactor.each_source(|server, desk| server.stop(desk));
    let begun = Instant::now();
    while !rig.reactor.sources()[0].is_idle() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        rig.reactor.turn();
    }
    assert!(!rig.reactor.sources()[0].serves());
}
