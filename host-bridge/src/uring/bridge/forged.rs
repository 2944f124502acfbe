//! A server whose kernel is forged: what it queues is never submitted, and completions say what the
//! test wants. For answers that no kernel gives when asked.

use core_runtime::mem::{DmaRegion, Iova};
use core_runtime::ring::{Consumer, Producer};
use hybrid_abi::bridge::{
    BRIDGE_CANCEL, BRIDGE_DISCARD, BRIDGE_ERRNO, BRIDGE_FLUSH, BRIDGE_FUA, BRIDGE_NVME,
    BRIDGE_READ, BRIDGE_WRITE, BridgeCompletion,
};
use nvme_driver::spec::DsmRange;
use zerocopy::FromBytes;

use super::ends::specs;
use super::*;
use crate::sys::uring::{Op, ZeroMode};
use crate::testing::TempDir;
use crate::uring::rings::{Rings, RingsWish};
use crate::uring::target::{Limits, TargetWish, Way};

const IOVA: u64 = 1 << 38;
const BLOCK: u64 = 4096;

struct Forged {
    rings: Rings,
    server: BridgeServer,
    requests: Producer<BridgeRequest>,
    completions: Consumer<BridgeCompletion>,
    ranges: Span<'static>,
    lines: std::sync::mpsc::Receiver<String>,
    _dir: TempDir,
}

impl Forged {
    fn new(way: Way) -> Self {
        Self::with(way, 256, false)
    }

    /// Over rings of so many entries; `polled` with a poll ring.
    fn with(way: Way, entries: u32, polled: bool) -> Self {
        let dir = TempDir::new("forged");
        let path = dir.path().join("day.img");
        std::fs::File::create(&path).and_then(|file| file.set_len(1 << 20)).expect("a file");
        let limits = Limits { discard: Some(ZeroMode::PUNCH_HOLE), ..limits_of(&path) };
        let target = Target::dressed(&path, way, limits);
        let dma = DmaRegion::leak(1 << 20, Iova(IOVA));
        let info = info_of(&target, 8, 7);
        let host = hybrid_shm::leak_aligned(info.host_bytes(), 4096);
        let partition = hybrid_shm::leak_aligned(info.partition_bytes(), 4096);
        lay_out(host, &info).expect("room");
        let (request_spec, completion_spec) = specs(&info).expect("good");
        let own = |(at, len)| partition.sub(at, len).expect("inside");
        let peer = |(at, len)| host.read_only().sub(at, len).expect("inside");
        let (mine, theirs) = (own(info.requests_producer()), own(info.completions_consumer()));
        request_spec.make_producer_part(mine).expect("room");
        completion_spec.make_consumer_part(theirs).expect("room");
        let requests = Producer::new(mine, peer(info.requests_consumer()), request_spec);
        let completions = Consumer::new(theirs, peer(info.completions_producer()), completion_spec);
        let big = matches!(way, Way::Passthrough { .. });
        let wish = RingsWish { entries, big, iopoll: polled, ..RingsWish::default() };
        let rings = Rings::new(&wish).expect("io_uring is there");
        let file = rings.file(target.fd());
        let ranges = hybrid_shm::leak_aligned(Ranges::bytes(info.depth), 64);
        let (tell, lines) = std::sync::mpsc::channel();
        let server = BridgeServer::new(
            (info, BridgeMemory { own: host, peer: partition.read_only(), dma }),
            (target, file),
            (None, Some(Ranges::new(ranges, None))),
            polled,
            Box::new(move |line| tell.send(line).expect("heard")),
        );
        let (requests, completions) = (requests.expect("opened"), completions.expect("opened"));
        Self { rings, server, requests, completions, ranges, lines, _dir: dir }
    }

    /// Asks, and lets the server queue what it will.
    fn ask(&mut self, op: u16, flags: u16, (cid, slba, nlb): (u32, u64, u64)) {
        let addr = IOVA + u64::from(cid & 0xFFFF) * 0x1_0000;
        let request = BridgeRequest { op, flags, cid, slba, addr, nlb };
        self.requests.try_push(&request).expect("room");
        self.turn();
    }

    fn turn(&mut self) {
        self.server.turn(&mut Desk::first(&mut self.rings));
    }

    /// The kernel says how an operation went.
    fn land(&mut self, slot: u64, step: u64, result: i32) {
        let cqe = Cqe::forged(slot | step << 16, result);
        let mut desk = Desk::first(&mut self.rings);
        self.server.complete(Which::Main, cqe.user_data, cqe, &mut desk);
    }

    fn answer(&self) -> Option<(u32, u16, u64)> {
        let answer = self.completions.pop().ok()?;
        Some((answer.cid, answer.kind, answer.detail))
    }

    /// Entries queued on the main ring so far.
    fn queued(&self) -> u32 {
        self.rings.main.in_flight()
    }

    /// A flush that is answered at once; its kind, and whether the kernel was asked.
    fn flush(&mut self) -> (u16, bool) {
        let before = self.queued();
        self.ask(BRIDGE_FLUSH, 0, (7, 0, 0));
        let asked = self.queued() != before;
        if asked {
            self.land(7, DATA, 0);
        }
        (self.answer().expect("answered").1, asked)
    }
}

fn limits_of(path: &std::path::Path) -> Limits {
    Target::open(&TargetWish::new(path)).expect("a file").limits()
}

const fn failure(errno: i32) -> (u16, u64) {
    (BRIDGE_ERRNO, errno.unsigned_abs() as u64)
}

// ---- durability ----------------------------------------------------------------------------

/// What a sync may end with, and what its request is told.
const BAD_ENDS: [(i32, (u16, u64)); 4] = [
    (-libc::EIO, failure(libc::EIO)),
    (-libc::EINTR, failure(libc::EINTR)),
    (-libc::ENOSPC, failure(libc::ENOSPC)),
    (-libc::ECANCELED, failure(libc::ECANCELED)),
];

#[test]
fn a_sync_without_a_good_answer_makes_every_later_one_fail() {
    for (result, outcome) in BAD_ENDS {
        let mut forged = Forged::new(Way::Direct);
        forged.ask(BRIDGE_FLUSH, 0, (1, 0, 0));
        forged.land(1, DATA, result);
        assert_eq!(forged.answer(), Some((1, outcome.0, outcome.1)), "{result}");
        assert_eq!(forged.flush(), (BRIDGE_UNFLUSHED, false), "after {result}");
        forged.ask(BRIDGE_WRITE, BRIDGE_FUA, (2, 0, 1));
        assert_eq!(forged.answer(), Some((2, BRIDGE_UNFLUSHED, 0)), "after {result}");
    }
}

#[test]
fn a_flush_that_is_put_off_is_tried_again_and_fails_for_good_when_that_does_not_end() {
    let mut forged = Forged::new(Way::Direct);
    forged.ask(BRIDGE_FLUSH, 0, (1, 0, 0));
    forged.land(1, DATA, -libc::EAGAIN);
    assert_eq!((forged.answer(), forged.queued()), (None, 2), "once more");
    forged.land(1, DATA, 0);
    assert_eq!(forged.answer(), Some((1, BRIDGE_DONE, 0)));
    assert_eq!(forged.flush(), (BRIDGE_DONE, true));
    forged.ask(BRIDGE_FLUSH, 0, (1, 0, 0));
    for _ in 0..=landing::RETRIES {
        assert_eq!(forged.answer(), None);
        forged.land(1, DATA, -libc::EAGAIN);
    }
    let (kind, errno) = failure(libc::EAGAIN);
    assert_eq!(forged.answer(), Some((1, kind, errno)));
    assert_eq!(forged.flush(), (BRIDGE_UNFLUSHED, false));
}

#[test]
fn a_flush_that_was_cancelled_on_its_way_makes_every_later_one_fail() {
    let mut forged = Forged::new(Way::Direct);
    forged.ask(BRIDGE_FLUSH, 0, (1, 0, 0));
    forged.ask(BRIDGE_CANCEL, 0, (0, 1, 0));
    forged.land(1, DATA, -libc::ECANCELED);
    assert_eq!(forged.answer(), Some((1, BRIDGE_CANCELLED, 0)));
    assert_eq!(forged.flush(), (BRIDGE_UNFLUSHED, false));
}

#[test]
fn the_separate_sync_of_a_durable_write_counts_as_a_flush() {
    let bytes = i32::try_from(BLOCK).expect("small");
    for (result, outcome) in BAD_ENDS {
        let mut forged = Forged::new(Way::Direct);
        forged.ask(BRIDGE_WRITE, BRIDGE_FUA, (1, 0, 2));
        assert_eq!(forged.queued(), 2, "a write and a sync behind it");
        // A short write breaks the link; the rest goes with a sync of its own.
        forged.land(1, DATA, bytes);
        forged.land(1, SYNC, -libc::ECANCELED);
        assert_eq!(forged.queued(), 4, "the rest, and its sync");
        forged.land(1, DATA, bytes);
        forged.land(1, SYNC, -libc::ECANCELED);
        assert_eq!((forged.answer(), forged.queued()), (None, 5), "not done without a sync");
        forged.land(1, DATA, result);
        assert_eq!(forged.answer(), Some((1, outcome.0, outcome.1)), "{result}");
        assert_eq!(forged.flush(), (BRIDGE_UNFLUSHED, false), "after {result}");
    }
}

#[test]
fn a_write_that_failed_is_no_failed_flush() {
    let mut forged = Forged::new(Way::Direct);
    forged.ask(BRIDGE_WRITE, BRIDGE_FUA, (1, 0, 2));
    forged.land(1, DATA, -libc::EIO);
    forged.land(1, SYNC, -libc::ECANCELED);
    let (kind, errno) = failure(libc::EIO);
    assert_eq!(forged.answer(), Some((1, kind, errno)));
    assert_eq!(forged.flush(), (BRIDGE_DONE, true));
}

#[test]
fn a_sync_that_went_well_beside_one_that_failed_is_not_believed() {
    let mut forged = Forged::new(Way::Direct);
    forged.ask(BRIDGE_FLUSH, 0, (1, 0, 0));
    forged.ask(BRIDGE_WRITE, BRIDGE_FUA, (2, 0, 1));
    forged.land(1, DATA, -libc::EIO);
    forged.land(2, DATA, i32::try_from(BLOCK).expect("small"));
    forged.land(2, SYNC, 0);
    assert_eq!(forged.answer().map(|(cid, ..)| cid), Some(1));
    assert_eq!(forged.answer(), Some((2, BRIDGE_UNFLUSHED, 0)), "the error was told to the other");
}

#[test]
fn behind_the_page_cache_one_sync_is_in_flight_at_a_time() {
    for (first, second, third) in [
        (0, 0, (BRIDGE_DONE, 0)),
        (0, -libc::EIO, (BRIDGE_UNFLUSHED, 0)),
        (-libc::EIO, 0, (BRIDGE_UNFLUSHED, 0)),
    ] {
        let mut forged = Forged::new(Way::Buffered);
        forged.ask(BRIDGE_FLUSH, 0, (1, 0, 0));
        forged.ask(BRIDGE_FLUSH, 0, (2, 0, 0));
        assert_eq!(forged.queued(), 1, "the second waits");
        // A durable write goes, and its sync waits behind both.
        forged.ask(BRIDGE_WRITE, BRIDGE_FUA, (3, 0, 1));
        assert_eq!(forged.queued(), 2, "no sync is linked behind it");
        forged.land(3, DATA, i32::try_from(BLOCK).expect("small"));
        // Reads do not wait.
        forged.ask(BRIDGE_READ, 0, (4, 0, 1));
        assert_eq!((forged.answer(), forged.queued()), (None, 3));
        forged.land(1, DATA, first);
        if first != 0 {
            let (kind, errno) = failure(first);
            assert_eq!(forged.answer(), Some((1, kind, errno)));
            assert_eq!(forged.answer(), Some((2, BRIDGE_UNFLUSHED, 0)));
            assert_eq!((forged.answer(), forged.queued()), (Some((3, third.0, third.1)), 3));
            continue;
        }
        assert_eq!(forged.answer(), Some((1, BRIDGE_DONE, 0)));
        assert_eq!(forged.queued(), 4, "the second's turn, and not the third's");
        forged.land(2, DATA, second);
        assert_eq!(forged.answer().map(|(cid, ..)| cid), Some(2));
        if second == 0 {
            assert_eq!((forged.answer(), forged.queued()), (None, 5), "the third's turn");
            forged.land(3, DATA, 0);
        }
        assert_eq!(forged.answer(), Some((3, third.0, third.1)));
        assert_eq!(forged.flush(), (third.0, third.0 == BRIDGE_DONE), "and for good");
    }
}

#[test]
fn a_sync_that_waits_for_its_turn_is_cancelled_at_once_and_is_no_failed_one() {
    let mut forged = Forged::new(Way::Buffered);
    forged.ask(BRIDGE_FLUSH, 0, (1, 0, 0));
    forged.ask(BRIDGE_FLUSH, 0, (2, 0, 0));
    forged.ask(BRIDGE_CANCEL, 0, (0, 2, 0));
    assert_eq!(forged.answer(), Some((2, BRIDGE_CANCELLED, 0)));
    assert_eq!(forged.queued(), 1, "the kernel knows nothing of it");
    forged.land(1, DATA, 0);
    assert_eq!(forged.answer(), Some((1, BRIDGE_DONE, 0)));
    assert_eq!(forged.flush(), (BRIDGE_DONE, true));
}

#[test]
fn a_drive_that_refuses_a_flush_makes_every_later_one_fail() {
    let mut forged = Forged::new(Way::Passthrough { nsid: 1 });
    forged.ask(BRIDGE_FLUSH, 0, (1, 0, 0));
    forged.land(1, DATA, 0x4006);
    assert_eq!(forged.answer(), Some((1, BRIDGE_NVME, 0x4006)));
    assert_eq!(forged.flush(), (BRIDGE_UNFLUSHED, false));
}

#[test]
fn the_sync_of_a_durable_write_never_goes_to_a_polled_ring() {
    let mut forged = Forged::with(Way::Direct, 256, true);
    if forged.rings.poll.is_none() {
        return;
    }
    forged.ask(BRIDGE_WRITE, BRIDGE_FUA, (1, 0, 1));
    forged.land(1, DATA, i32::try_from(BLOCK).expect("small"));
    forged.land(1, SYNC, -libc::ECANCELED);
    assert_eq!(forged.queued(), 3, "its sync is on the main ring");
    assert_eq!(forged.rings.poll.as_ref().map(crate::sys::uring::Ring::in_flight), Some(0));
}

// ---- transfers that stop in the middle -----------------------------------------------------

#[test]
fn a_transfer_that_stops_within_a_block_goes_on_at_that_block_until_the_kernel_says_why() {
    let mut forged = Forged::new(Way::Direct);
    forged.ask(BRIDGE_WRITE, 0, (1, 0, 4));
    forged.land(1, DATA, 4096 + 512);
    assert_eq!((forged.answer(), forged.queued()), (None, 2), "no guess");
    assert_eq!(forged.server.flight(1).map(|flight| flight.done), Some(BLOCK), "whole blocks");
    forged.land(1, DATA, 100);
    assert_eq!((forged.answer(), forged.queued()), (None, 3));
    forged.land(1, DATA, -libc::EDQUOT);
    let (kind, errno) = failure(libc::EDQUOT);
    assert_eq!(forged.answer(), Some((1, kind, errno)), "the kernel's own word");
}

#[test]
fn a_transfer_that_never_gets_on_ends_after_a_bounded_number_of_tries() {
    for (op, moved, outcome) in [
        (BRIDGE_WRITE, 0, failure(libc::EIO)),
        (BRIDGE_WRITE, 100, failure(libc::EIO)),
        (BRIDGE_READ, 100, (BRIDGE_SHORT, 0)),
    ] {
        let mut forged = Forged::new(Way::Direct);
        forged.ask(op, 0, (1, 0, 4));
        for _ in 0..=landing::RETRIES {
            assert_eq!(forged.answer(), None);
            forged.land(1, DATA, moved);
        }
        assert_eq!(forged.answer(), Some((1, outcome.0, outcome.1)), "{op} {moved}");
    }
    // A read of nothing is the file's end, at once.
    let mut forged = Forged::new(Way::Direct);
    forged.ask(BRIDGE_READ, 0, (1, 0, 4));
    forged.land(1, DATA, 0);
    assert_eq!(forged.answer(), Some((1, BRIDGE_SHORT, 0)));
}

// ---- cancellation --------------------------------------------------------------------------

#[test]
fn the_kernel_is_asked_once_to_cancel_and_not_at_all_on_a_polled_ring() {
    let mut forged = Forged::new(Way::Direct);
    forged.ask(BRIDGE_READ, 0, (1, 0, 4));
    for _ in 0..3 {
        forged.ask(BRIDGE_CANCEL, 0, (0, 1, 0));
    }
    assert_eq!(forged.queued(), 2, "the read and one cancellation");
    // Stopping asks for nothing that was asked for.
    forged.server.stop(&mut Desk::first(&mut forged.rings));
    assert_eq!(forged.queued(), 2);

    let mut forged = Forged::with(Way::Direct, 256, true);
    if forged.rings.poll.is_none() {
        return;
    }
    forged.ask(BRIDGE_READ, 0, (1, 0, 4));
    forged.ask(BRIDGE_CANCEL, 0, (0, 1, 0));
    let polled = forged.rings.poll.as_ref().map(crate::sys::uring::Ring::in_flight);
    assert_eq!((polled, forged.queued()), (Some(1), 0), "a polled ring takes no cancellation");
    // It ends by the drive's answer: cancelled, because not all of it was done.
    forged.land(1, DATA, 4096);
    assert_eq!(forged.answer(), Some((1, BRIDGE_CANCELLED, 0)));
}

#[test]
fn a_cancellation_without_room_is_pushed_when_there_is_some() {
    let mut forged = Forged::with(Way::Direct, 4, false);
    for slot in 1..=3 {
        forged.ask(BRIDGE_READ, 0, (slot, 0, 4));
    }
    while forged.rings.main.push(&Op::Nop, 0).is_ok() {}
    let queued = forged.queued();
    forged.ask(BRIDGE_CANCEL, 0, (0, 1, 0));
    assert_eq!((forged.queued(), forged.server.cancels_waiting), (queued, 1));
    forged.rings.main.submit().expect("taken");
    forged.turn();
    assert!(forged.queued() > queued);
    assert_eq!(forged.server.cancels_waiting, 0);
}

// ---- Dataset Management --------------------------------------------------------------------

#[test]
fn each_discard_in_flight_has_a_range_of_its_own_and_one_without_room_writes_none() {
    let mut forged = Forged::with(Way::Passthrough { nsid: 1 }, 4, false);
    let range = |forged: &Forged, slot: u32| {
        let mut bytes = [0; 16];
        forged.ranges.read(slot as usize * 16, &mut bytes).expect("inside");
        let range = DsmRange::read_from_bytes(&bytes).expect("a range");
        (range.slba, range.blocks)
    };
    for slot in 0..4_u32 {
        forged.ask(BRIDGE_DISCARD, 0, (slot, 10 * u64::from(slot), 3 + u64::from(slot)));
    }
    assert_eq!((forged.queued(), forged.server.stats().parked), (3, 1));
    for slot in 0..3 {
        assert_eq!(range(&forged, slot), (10 * u64::from(slot), 3 + slot), "slot {slot}");
    }
    assert_eq!(range(&forged, 3), (0, 0), "it waits for room");
    // As if it were another's: it is written when the operation goes, and no sooner.
    forged.rings.main.submit().expect("taken");
    forged.turn();
    assert_eq!(range(&forged, 3), (30, 6));
}

// ---- a ring that breaks --------------------------------------------------------------------

#[test]
fn a_broken_ring_closes_the_bridge_and_the_partition_sees_it() {
    let mut forged = Forged::new(Way::Direct);
    forged.ask(BRIDGE_READ, 0, (1, 0, 4));
    forged.server.broken(Errno::BADF);
    let line = forged.lines.try_recv().expect("one line");
    assert!(line.contains("broke") && line.contains("day.img"), "{line}");
    assert!(forged.completions.pop().is_err_and(|error| error.to_string().contains("closed")));
    assert!(!forged.server.serves());
}
