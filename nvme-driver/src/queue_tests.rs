//! Tests of [`crate::queue`] against a device that writes whatever a test wants.

#[path = "queue/rare_tests.rs"]
mod rare;
#[path = "queue/told_tests.rs"]
mod told;

use std::boxed::Box;
use std::vec::Vec;

use core_runtime::clock::{Clock, ManualClock};
use core_runtime::mem::{Bump, DeviceCq, DeviceSq, DmaArena, DoorbellRegion, Iova};
use hybrid_shm::{Span, leak_zeroed};
use nvme_spec::{Cid, Cqe, QueueId, Status, StatusCode};

use super::*;
use crate::slot::{STATES, SlotAction, SlotEvent, SlotState, transition};

/// Records what is delivered; errors are held if asked for.
#[derive(Default)]
struct Seen {
    good: Vec<u64>,
    bad: Vec<(u64, StatusCode)>,
    hold: bool,
    slots: Vec<u16>,
}

impl Sink for Seen {
    fn success(&mut self, token: u64, _: u16) {
        self.good.push(token);
    }

    fn failure(&mut self, slot: u16, token: u64, status: Status, _: u16) -> Verdict {
        self.bad.push((token, status.code()));
        self.slots.push(slot);
        if self.hold { Verdict::Hold } else { Verdict::Release }
    }
}

struct Rig {
    qp: QueuePair,
    arena: &'static DmaArena,
    cq: DeviceCq,
    sq: DeviceSq,
    doorbells: Span<'static>,
    /// The device's own place and phase.
    at: u32,
    phase: bool,
    /// Entries fetched.
    fetched: u32,
}

impl Rig {
    fn new(entries: u16, max_len: u32) -> Self {
        Self::made(Self::spec(entries, max_len), None)
    }

    const fn spec(entries: u16, max_len: u32) -> QueueSpec {
        QueueSpec { qid: 1, entries, page_bytes: 4096, max_len, sample_every: 0, stream_from: 4 }
    }

    /// With these probes, or without any.
    fn made(spec: QueueSpec, given: Option<(Clock, &'static Probes)>) -> Self {
        let arena = DmaArena::leak(8 << 20, Iova(0x4000_0000)).expect("arena");
        let doorbells = leak_zeroed(4096);
        let region = DoorbellRegion { span: doorbells, dstrd: 0 };
        let bump = Bump::leak(1 << 20);
        let still = || Clock::manual(Box::leak(Box::new(ManualClock::new(0))));
        let (clock, probes) = match given {
            Some((clock, probes)) => (clock, Some(probes)),
            None => (still(), None),
        };
        let probes = crate::probes::or_off(probes, clock, &bump).expect("memory");
        let entries = usize::from(spec.entries);
        let qp = QueuePair::new(spec, region, arena, (clock, probes), &bump).expect("queue");
        qp.open_when_drained();
        let memory = |iova: Iova, len| {
            let offset = usize::try_from(iova.0 - arena.region().iova.0).expect("offset");
            arena.region().span.sub(offset, len).expect("in the arena")
        };
        let (sq, cq) = qp.iovas();
        Self {
            cq: DeviceCq::new(memory(cq, entries * 16)),
            sq: DeviceSq::new(memory(sq, entries * 64)),
            qp,
            arena,
            doorbells,
            at: 0,
            phase: true,
            fetched: 0,
        }
    }

    fn post(&self, token: u64) -> Result<(), PostError> {
        self.qp.post(token, |_| [0x02; 8])
    }

    /// CID of the `i`th entry ever posted, as the device would fetch it.
    fn fetch(&mut self) -> u16 {
        let entries = u32::from(self.qp.entries);
        let sqe = self.sq.read(self.fetched % entries).expect("in the ring");
        self.fetched += 1;
        u16::try_from(sqe[0] >> 16 & 0xFFFF).expect("16 bits")
    }

    fn complete_as(&mut self, cid: u16, sqid: u16, sqhd: u16, status: Status) {
        let cqe = Cqe::new(0, sqhd, QueueId(sqid), Cid(cid), self.phase, status);
        self.cq.post(self.at, cqe.low, cqe.high).expect("in the ring");
        self.at += 1;
        if self.at == u32::from(self.qp.entries) {
            self.at = 0;
            self.phase = !self.phase;
        }
    }

    fn complete(&mut self, cid: u16, status: Status) {
        let sqhd = u16::try_from(self.fetched % u32::from(self.qp.entries)).expect("small");
        self.complete_as(cid, 1, sqhd, status);
    }

    fn reap(&self) -> Seen {
        let mut seen = Seen::default();
        self.qp.reap(u16::MAX, &mut seen);
        seen
    }
}

const OK: Status = Status::SUCCESS;

#[test]
fn a_thousand_laps_in_order_and_reversed_deliver_each_token_once() {
    for entries in [2_u16, 3, 4, 7, 64] {
        let mut rig = Rig::new(entries, 0);
        let depth = u64::from(entries - 1);
        let mut token = 0;
        for lap in 0..if cfg!(miri) { 20 } else { 1000 } {
            let first = token;
            for _ in 0..depth {
                rig.post(token).expect("room");
                token += 1;
            }
            assert_eq!(rig.post(99), Err(PostError::Full));
            let mut cids: Vec<u16> = (0..depth).map(|_| rig.fetch()).collect();
            if lap % 2 == 1 {
                cids.reverse();
            }
            cids.iter().for_each(|cid| rig.complete(*cid, OK));
            let mut good = rig.reap().good;
            good.sort_unstable();
            assert_eq!(good, (first..token).collect::<Vec<_>>(), "ring of {entries}");
        }
        let stats = rig.qp.stats();
        assert_eq!(stats.completed, token);
        assert_eq!((stats.ignored.total(), stats.bad_sqhd), (0, 0));
        assert_eq!(stats.in_flight, 0);
    }
}

#[test]
fn every_stray_completion_is_counted_by_its_kind_and_touches_nothing() {
    let mut rig = Rig::new(8, 0);
    rig.post(10).expect("room");
    let old = rig.fetch();
    rig.complete(old, OK);
    assert_eq!(rig.reap().good, [10]);
    // The same slot again, with a new generation.
    rig.post(11).expect("room");
    let new = rig.fetch();
    assert_ne!(old, new);
    rig.complete(old, OK); // old generation
    rig.complete(7, OK); // slot 7 of 0..=6
    rig.complete(3, OK); // a free slot
    rig.complete(4, OK); // another one
    rig.complete_as(new, 2, 2, OK); // not our queue
    assert!(rig.reap().good.is_empty());
    rig.complete(new, OK);
    assert_eq!(rig.reap().good, [11], "its owner was not touched");
    rig.complete(new, OK); // a second time
    assert!(rig.reap().good.is_empty());
    let ignored = rig.qp.stats().ignored;
    assert_eq!(ignored.old_generation, 1);
    assert_eq!(ignored.cid_beyond, 1);
    assert_eq!(ignored.free_slot, 2);
    assert_eq!(ignored.sqid, 1);
    assert_eq!(ignored.duplicate, 1);
    assert_eq!(ignored.total(), 6);
}

#[test]
fn a_lying_sqhd_is_counted_and_its_completion_taken() {
    let mut rig = Rig::new(8, 0);
    for token in 0..4 {
        rig.post(token).expect("room");
    }
    let cids: Vec<u16> = (0..4).map(|_| rig.fetch()).collect();
    rig.complete_as(cids[0], 1, 2, OK);
    assert_eq!((rig.reap().good, rig.qp.stats().bad_sqhd), (std::vec![0], 0));
    rig.complete_as(cids[1], 1, 8, OK); // beyond the ring
    rig.complete_as(cids[2], 1, 1, OK); // backwards
    rig.complete_as(cids[3], 1, 6, OK); // past the tail
    assert_eq!(rig.reap().good, [1, 2, 3]);
    assert_eq!(rig.qp.stats().bad_sqhd, 3);
    // Flow control does not care: seven more fit.
    for token in 0..7 {
        rig.post(token).expect("room");
    }
}

#[test]
fn a_phase_that_flips_early_ends_after_one_lap_at_most() {
    let rig = Rig::new(8, 0);
    rig.post(1).expect("room");
    for index in 0..8 {
        let cqe = Cqe::new(0, 0, QueueId(1), Cid(0x0800), true, OK);
        rig.cq.post(index, cqe.low, cqe.high).expect("in the ring");
    }
    let mut seen = Seen::default();
    let taken = rig.qp.reap(u16::MAX, &mut seen).taken;
    assert_eq!(taken, 8, "the second lap wants the other phase");
    assert!(seen.good.is_empty());
}

#[test]
fn one_poll_takes_no_more_than_its_limit() {
    let mut rig = Rig::new(64, 0);
    for token in 0..60 {
        rig.post(token).expect("room");
    }
    for _ in 0..60 {
        let cid = rig.fetch();
        rig.complete(cid, OK);
    }
    assert_eq!(rig.qp.reap_limit(), 16);
    let mut seen = Seen::default();
    assert_eq!(rig.qp.reap(rig.qp.reap_limit(), &mut seen).taken, 16);
    assert_eq!(seen.good.len(), 16);
}

#[test]
fn doorbells_are_written_once_and_only_if_the_tail_moved() {
    let rig = Rig::new(8, 0);
    rig.qp.ring();
    assert_eq!(rig.qp.stats().sq_doorbells, 0);
    for token in 0..3 {
        rig.post(token).expect("room");
    }
    rig.qp.ring();
    rig.qp.ring();
    assert_eq!(rig.qp.stats().sq_doorbells, 1);
    let tail = rig.doorbells.word32(8).expect("doorbell of queue 1").load();
    assert_eq!(tail, 3);
}

#[test]
fn the_device_hears_of_what_was_taken_before_it_could_lack_room() {
    let mut rig = Rig::new(8, 0);
    let head = |rig: &Rig| rig.doorbells.word32(12).expect("completion doorbell").load();
    let turn = |rig: &mut Rig, count: u64| {
        for token in 0..count {
            rig.post(token).expect("room");
        }
        rig.qp.ring();
        for _ in 0..count {
            let cid = rig.fetch();
            rig.complete(cid, OK);
        }
        assert_eq!(rig.reap().good.len() as u64, count);
    };
    turn(&mut rig, 1);
    turn(&mut rig, 1);
    turn(&mut rig, 1);
    assert_eq!((head(&rig), rig.qp.stats().cq_doorbells), (0, 0), "nothing lacks room yet");
    turn(&mut rig, 1);
    assert_eq!(head(&rig), 3, "more than a quarter of the ring");
    // Seven in flight need the whole ring.
    turn(&mut rig, 7);
    assert_eq!(head(&rig), 4);
    rig.qp.acknowledge_all();
    assert_eq!(head(&rig), 3, "all of it");
    rig.qp.acknowledge_all();
    assert_eq!(rig.qp.stats().cq_doorbells, 3, "once");
}

#[test]
fn entries_are_streamed_after_a_long_batch_and_say_the_same() {
    let rig = Rig::new(64, 0);
    let mut token = 0_u64;
    for (batch, streamed_after) in [(1, false), (3, false), (4, true), (9, true), (2, false)] {
        for _ in 0..batch {
            let words = core::array::from_fn(|word| (token + 1) << 32 | word as u64);
            rig.qp.post(token, |_| words).expect("room");
            let index = u32::try_from(token).expect("small");
            let mut sqe = rig.sq.read(index).expect("in the ring");
            sqe[0] &= !0xFFFF_0000;
            assert_eq!(sqe, words, "entry {index}");
            token += 1;
        }
        rig.qp.ring();
        assert_eq!(rig.qp.stream.get(), streamed_after, "after {batch}");
    }
}

#[test]
fn room_for_completions_is_never_hidden_from_the_device() {
    for entries in [2_u16, 3, 4, 5, 8, 64] {
        let mut rig = Rig::new(entries, 0);
        let (mut posted, mut rung, mut done) = (0_u32, 0_u32, 0_u32);
        let mut random = 12345_u32;
        for _ in 0..3000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match random >> 30 {
                0 if rig.post(0).is_ok() => posted += 1,
                1 => {
                    rig.qp.ring();
                    rung = posted;
                    // Whatever was rung for has room, as far as the device knows.
                    let known = rig.doorbells.word32(12).expect("doorbell").load();
                    let used = (rig.at + u32::from(entries) - known) % u32::from(entries);
                    assert!(used + (rung - done) < u32::from(entries), "ring of {entries}");
                }
                2 if done < rung => {
                    let cid = rig.fetch();
                    rig.complete(cid, OK);
                    done += 1;
                }
                _ => {
                    rig.qp.reap(rig.qp.reap_limit(), &mut Seen::default());
                }
            }
        }
        assert!(done > 100, "ring of {entries}: {done}");
    }
}

#[test]
fn every_state_and_event_do_on_the_queue_what_the_table_says() {
    use {SlotAction as A, SlotEvent as E, SlotState as S};
    for state in STATES {
        for event in [E::Complete, E::Hold, E::Stray, E::Deadline, E::Repost, E::Fence] {
            let mut rig = Rig::new(2, 0);
            // Bring the only slot to `state`.
            let mut cid = 0;
            if state != S::Free {
                rig.post(5).expect("room");
                cid = rig.fetch();
            }
            if state == S::Expired {
                (0..=EPOCHS_PER_DEADLINE).for_each(|_| {
                    rig.qp.next_epoch(9, |_, _| true);
                });
            }
            if state == S::Held {
                rig.complete(cid, StatusCode::INTERNAL_ERROR.status());
                let mut seen = Seen { hold: true, ..Seen::default() };
                rig.qp.reap(9, &mut seen);
            }
            assert_eq!(rig.qp.slots[0].state(), state);
            let before = rig.qp.stats();
            let mut seen = Seen { hold: event == E::Hold, ..Seen::default() };
            let mut late = 0;
            let mut lost = 0;
            let mut wrote = false;
            match event {
                E::Complete => rig.complete(cid, OK),
                E::Hold => rig.complete(cid, StatusCode::INTERNAL_ERROR.status()),
                E::Stray => rig.complete(cid.wrapping_add(2), OK),
                E::Deadline => (0..=EPOCHS_PER_DEADLINE).for_each(|_| {
                    rig.qp.next_epoch(99, |_, _| {
                        late += 1;
                        true
                    });
                }),
                E::Repost => wrote = rig.qp.repost(0, 6, [0; 8]).is_ok(),
                E::Fence => {
                    rig.qp.fence(Mode::Fenced(ResetReason::Requested));
                    rig.qp.drain(|_| lost += 1);
                }
                E::Post => {}
            }
            rig.qp.reap(9, &mut seen);
            let (next, action) = transition(state, event);
            let after = rig.qp.stats();
            assert_eq!(rig.qp.slots[0].state(), next, "{state:?} on {event:?}");
            let delivered = seen.good.len() + seen.bad.len();
            assert_eq!(delivered == 1, action == A::Deliver, "{state:?} on {event:?}");
            let dropped = after.ignored.total() - before.ignored.total();
            assert_eq!(dropped == 1, action == A::Drop, "{state:?} on {event:?}");
            assert_eq!(late == 1, action == A::Abort, "{state:?} on {event:?}");
            assert_eq!(lost == 1, action == A::Fail, "{state:?} on {event:?}");
            assert_eq!(wrote, action == A::Write, "{state:?} on {event:?}");
        }
    }
}

#[test]
fn a_closed_queue_posts_rings_and_reaps_nothing_and_ends_each_command_once() {
    let mut rig = Rig::new(8, 0);
    for token in 0..3 {
        rig.post(token).expect("room");
    }
    let cid = rig.fetch();
    rig.complete(cid, OK);
    rig.qp.close();
    rig.qp.ring();
    assert_eq!(rig.post(9), Err(PostError::Closed));
    assert!(rig.reap().good.is_empty(), "queue memory is not looked at");
    assert_eq!(rig.doorbells.word32(8).expect("doorbell").load(), 0);
    rig.qp.fence(Mode::Fenced(ResetReason::FatalStatus));
    let mut lost = Vec::new();
    rig.qp.drain(|token| lost.push(token));
    lost.sort_unstable();
    assert_eq!(lost, [0, 1, 2]);
    rig.qp.drain(|_| panic!("told twice"));
    rig.qp.clear();
    rig.qp.open_when_drained();
    for token in 0..7 {
        rig.post(token).expect("all slots are back");
    }
    assert_eq!(rig.post(9), Err(PostError::Full));
}

#[test]
fn a_queue_opens_only_after_its_holder_was_told_of_the_losses() {
    let rig = Rig::new(4, 0);
    rig.post(1).expect("room");
    rig.qp.fence(Mode::Fenced(ResetReason::FatalStatus));
    rig.qp.open_when_drained();
    assert_eq!(rig.post(2), Err(PostError::Closed));
    let mut lost = Vec::new();
    rig.qp.drain(|token| lost.push(token));
    assert_eq!(lost, [1]);
    assert_eq!(rig.post(2), Ok(()));
}

#[test]
fn bytes_and_the_most_in_flight_are_counted_where_a_sample_would_miss_them() {
    let mut rig = Rig::new(8, 16 << 10);
    for token in 0..5 {
        rig.qp.post_data(token, 2, (Iova(0x5000_0000), 8 << 10), 0, 0).expect("room");
    }
    rig.qp.ring();
    for _ in 0..5 {
        let cid = rig.fetch();
        rig.complete(cid, OK);
    }
    assert_eq!(rig.reap().good.len(), 5);
    rig.post(6).expect("room");
    rig.qp.ring();
    let stats = rig.qp.stats();
    assert_eq!((stats.in_flight, stats.high_water, stats.bytes), (1, 5, 40 << 10));
}

#[test]
fn prp_lists_of_different_slots_do_not_share_memory() {
    let mut rig = Rig::new(4, 128 << 10);
    let buffers = [0x5000_0200_u64, 0x6000_0000, 0x7000_0e00];
    for (i, base) in buffers.into_iter().enumerate() {
        rig.qp.post_data(i as u64, 2, (Iova(base), 128 << 10), 0, 0).expect("room");
    }
    let mut lists = Vec::new();
    for base in buffers {
        let sqe = rig.sq.read(rig.fetched).expect("in the ring");
        rig.fetched += 1;
        assert_eq!(sqe[3], base);
        lists.push(sqe[4]);
    }
    let all = rig.qp.lists.as_ref().expect("lists");
    for (base, list) in buffers.into_iter().zip(&lists) {
        let index = usize::try_from((list - all.iova().0) / 8).expect("small");
        let pages = (base % 4096 + (128 << 10)).div_ceil(4096) - 1;
        assert!(list % 4096 + pages * 8 <= 4096, "a list crosses no page");
        for page in 0..pages {
            let want = (base & !4095) + (page + 1) * 4096;
            let at = index + usize::try_from(page).expect("small");
            assert_eq!(all.get(at).0, want);
        }
    }
}

#[test]
fn an_age_is_counted_in_epochs_and_exempt_commands_never_expire() {
    let rig = Rig::new(4, 0);
    rig.post(1).expect("room");
    rig.post(2).expect("room");
    let mut late = Vec::new();
    for epoch in 0..200 {
        rig.qp.next_epoch(1, |_, token| {
            late.push((epoch, token));
            token == 2
        });
    }
    let of_two: Vec<_> = late.iter().filter(|(_, token)| *token == 2).collect();
    assert_eq!(of_two, [&(8, 2)], "once, after eight whole epochs");
    assert_eq!(rig.qp.slots[0].state(), SlotState::InFlight);
    assert_eq!(rig.qp.slots[1].state(), SlotState::Expired);
}

#[test]
fn an_age_counts_from_the_epoch_of_posting_and_the_grace_behind_it() {
    // The count of epochs wraps in the middle of the last ones.
    for before in [0, 5, 200, 250, 255] {
        let rig = Rig::new(4, 0);
        for _ in 0..before {
            rig.qp.next_epoch(1, |_, _| panic!("nothing is in flight"));
        }
        rig.post(1).expect("room");
        let mut late = 0;
        let mut stuck = Vec::new();
        for epoch in 1..=11 {
            let is_stuck = rig.qp.next_epoch(2, |_, _| {
                late = epoch;
                true
            });
            if is_stuck {
                stuck.push(epoch);
            }
        }
        assert_eq!(late, 9, "posted {before} epochs after the start");
        assert_eq!(stuck, [11], "posted {before} epochs after the start");
    }
}

#[test]
fn lists_longer_than_a_page_begin_on_one() {
    for (entries, want) in [(0, 0), (1, 1), (3, 4), (512, 512), (513, 1024), (1500, 1536)] {
        assert_eq!(stride(entries, 4096), want, "{entries} entries");
    }
}

#[test]
fn sampling_stamps_one_command_in_so_many() {
    for (every, want) in [(0, 0), (1, 100), (4, 25), (64, 1)] {
        let mut rig = Rig::new(8, 0);
        rig.qp.sample_every = every;
        rig.qp.sample_in = Cell::new(every.wrapping_sub(1));
        for token in 0..100 {
            rig.post(token).expect("room");
            let cid = rig.fetch();
            rig.complete(cid, OK);
            rig.reap();
        }
        assert_eq!(rig.qp.stats().latency.count, want, "1 in {every}");
    }
}
