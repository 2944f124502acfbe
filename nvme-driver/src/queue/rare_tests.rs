//! Retries, PRP2 of retries, shadow doorbells, and what a queue says of itself.

use core::cell::RefCell;
use std::vec;

use core_runtime::mem::ShadowDoorbells;

use super::*;

const ERROR: Status = StatusCode::INTERNAL_ERROR.status();

/// Answers the oldest command with an error; its owner keeps the slot.
fn fail_and_hold(rig: &mut Rig) -> u16 {
    let cid = rig.fetch();
    rig.complete(cid, ERROR);
    let mut seen = Seen { hold: true, ..Seen::default() };
    rig.qp.reap(9, &mut seen);
    assert_eq!(seen.bad.len(), 1);
    cid
}

fn held(rig: &Rig) -> Vec<(u16, u64)> {
    let mut held = Vec::new();
    rig.qp.each_held(|slot, token| held.push((slot, token)));
    held
}

#[test]
fn held_commands_are_counted_told_and_go_out_again_with_the_next_generation() {
    let mut rig = Rig::new(8, 0);
    assert_eq!((held(&rig), rig.qp.unfinished()), (vec![], 0));
    for token in 10..13 {
        rig.post(token).expect("room");
    }
    let cid = fail_and_hold(&mut rig);
    assert_eq!((rig.qp.in_flight(), rig.qp.unfinished()), (2, 3));
    fail_and_hold(&mut rig);
    assert_eq!((rig.qp.in_flight(), rig.qp.unfinished()), (1, 3));
    assert_eq!(held(&rig), [(0, 10), (1, 11)]);
    assert_eq!(rig.qp.repost(2, 9, [0; 8]), Err(PostError::Full), "it is in flight");
    assert_eq!(rig.qp.repost(7, 9, [0; 8]), Err(PostError::Full), "there is no such slot");
    assert_eq!(rig.qp.repost(0, 20, [2; 8]), Ok(()));
    assert_eq!(held(&rig), [(1, 11)]);
    assert_eq!((rig.qp.in_flight(), rig.qp.unfinished()), (2, 3));
    rig.fetch();
    assert_eq!(rig.fetch(), cid + 8, "the next generation of slot 0");
    rig.complete(cid + 8, OK);
    assert_eq!(rig.reap().good, [20]);
    assert_eq!((rig.qp.in_flight(), rig.qp.unfinished()), (1, 2));
    assert_eq!((rig.qp.stats().retries, rig.qp.stats().failed), (1, 2));
}

#[test]
fn a_held_command_that_is_given_up_frees_its_slot_and_no_other() {
    let mut rig = Rig::new(4, 0);
    for token in 0..3 {
        rig.post(token).expect("room");
    }
    fail_and_hold(&mut rig);
    rig.qp.release_held(1);
    rig.qp.release_held(3);
    assert_eq!(rig.qp.slots[1].state(), SlotState::InFlight);
    assert!(!rig.qp.has_room());
    rig.qp.release_held(0);
    assert_eq!((held(&rig), rig.qp.unfinished()), (vec![], 2));
    assert!(rig.qp.has_room());
    rig.post(9).expect("its slot");
    assert_eq!(rig.post(9), Err(PostError::Full));
}

#[test]
fn prp2_of_a_retry_is_nothing_a_page_or_a_list() {
    let rig = Rig::new(4, 64 << 10);
    let prp2 = |at, len| rig.qp.prp2(1, Iova(at), len);
    assert_eq!(prp2(0x5000_0000, 4096), 0);
    assert_eq!(prp2(0x5000_0001, 4096), 0, "no such command was posted");
    assert_eq!(prp2(0x5000_0200, 4096), 0x5000_1000);
    let list = prp2(0x5000_0200, 8192);
    let all = rig.qp.lists.as_ref().expect("lists");
    assert_eq!(list, all.iova_of(rig.qp.list_stride).0, "the second slot's");
    let pages = [0, 1].map(|i| all.get(rig.qp.list_stride + i).0);
    assert_eq!(pages, [0x5000_1000, 0x5000_2000]);
    let without = Rig::new(4, 0);
    assert_eq!(without.qp.prp2(1, Iova(0x5000_0200), 8192), 0, "no list memory, no list");
}

#[test]
fn a_queue_says_what_it_is_and_whether_it_is_open_and_has_room() {
    let mut rig = Rig::new(4, 64 << 10);
    let qp = &rig.qp;
    assert_eq!((qp.qid(), qp.depth(), qp.size_z()), (QueueId(1), 3, 3));
    assert_eq!((qp.max_len(), qp.mode()), (64 << 10, Mode::Open));
    assert!(qp.is_open() && qp.has_room());
    for token in 0..3 {
        rig.post(token).expect("room");
    }
    assert!(!rig.qp.has_room());
    for refused in 1..=2 {
        assert_eq!(rig.post(3), Err(PostError::Full));
        assert_eq!(rig.qp.stats().full, refused);
    }
    rig.complete_as(2, 5, 0, OK);
    rig.complete_as(2, 5, 0, OK);
    assert!(rig.reap().good.is_empty());
    assert_eq!(rig.qp.ignored(), 2);
    rig.qp.close();
    assert_eq!((rig.qp.is_open(), rig.qp.mode()), (false, Mode::Closed));
    assert_eq!(rig.post(3), Err(PostError::Closed));
    assert_eq!(rig.qp.stats().full, 2, "closed is not full");
}

#[test]
fn the_result_of_a_completion_is_its_first_dword() {
    let mut rig = Rig::new(4, 0);
    rig.post(1).expect("room");
    let cid = rig.fetch();
    let cqe = Cqe::new(0xABCD_1234, 1, QueueId(1), Cid(cid), true, OK);
    rig.cq.post(0, cqe.low, cqe.high).expect("in the ring");
    assert_eq!(rig.reap().good, [1]);
    assert_eq!(rig.qp.result(0), 0xABCD_1234);
}

/// Page 0 of a controller's shadows and their events, for the queue.
fn shadows(rig: &Rig) -> &'static ShadowDoorbells {
    let page = || rig.arena.alloc_shared(4096, 4096).expect("memory");
    let shadows: &'static ShadowDoorbells =
        Box::leak(Box::new(ShadowDoorbells::new(page(), page(), 0)));
    shadows.clear();
    shadows
}

/// The shadow words of a queue: tail and head.
fn shadow_words(rig: &Rig, shadows: &ShadowDoorbells, qid: usize) -> (u32, u32) {
    let at = shadows.iovas().0.0 - rig.arena.region().iova.0;
    let at = usize::try_from(at).expect("offset") + qid * 8;
    let word = |at| rig.arena.region().span.word32(at).expect("in the arena").load();
    (word(at), word(at + 4))
}

#[test]
fn a_register_is_spared_where_the_shadow_says_so_but_never_the_admin_queues() {
    for qid in [0, 1] {
        let spec = QueueSpec { qid, ..Rig::spec(8, 0) };
        let mut rig = Rig::made(spec, None);
        // The shadows come when the queue has moved: by one entry, told of.
        let turn = |rig: &mut Rig| {
            rig.post(1).expect("room");
            rig.qp.ring();
            let cid = rig.fetch();
            rig.complete_as(cid, qid, u16::try_from(rig.fetched).expect("small"), OK);
            assert_eq!(rig.reap().good, [1]);
            rig.qp.acknowledge_all();
            let stats = rig.qp.stats();
            (stats.sq_doorbells, stats.cq_doorbells)
        };
        assert_eq!(turn(&mut rig), (1, 1), "queue {qid} without shadows");
        let shadows = shadows(&rig);
        rig.qp.shadow(shadows.pair(qid));
        let words = |rig: &Rig| shadow_words(rig, shadows, usize::from(qid));
        assert_eq!(words(&rig), (1, 1), "where it was");
        // The event words are 0, which the indices left behind: nobody wants to hear of more.
        let (second, third) = if qid == 0 { ((2, 2), (3, 3)) } else { ((1, 1), (1, 1)) };
        assert_eq!(turn(&mut rig), second, "queue {qid}");
        assert_eq!(words(&rig), (2, 2), "queue {qid}");
        assert_eq!(turn(&mut rig), third, "queue {qid}");
        rig.qp.shadow(None);
        assert_eq!(turn(&mut rig), (third.0 + 1, third.1 + 1), "queue {qid}");
        assert_eq!(words(&rig), (3, 3), "they are not its any more");
    }
}

/// A queue with shadow doorbells on which one command was sent, answered and acknowledged.
fn answered_over_shadows(entries: u16) -> (Rig, &'static ShadowDoorbells) {
    let mut rig = Rig::new(entries, 0);
    let shadows = shadows(&rig);
    rig.qp.shadow(shadows.pair(1));
    rig.post(1).expect("room");
    rig.qp.ring();
    let cid = rig.fetch();
    rig.complete(cid, OK);
    rig.reap();
    rig.qp.acknowledge_all();
    (rig, shadows)
}

#[test]
fn a_register_is_written_when_the_index_passes_the_event() {
    let (rig, shadows) = answered_over_shadows(8);
    // Both left the event index, 0, behind.
    assert_eq!((rig.qp.stats().sq_doorbells, rig.qp.stats().cq_doorbells), (1, 1));
    assert_eq!(shadow_words(&rig, shadows, 1), (1, 1));
}

#[test]
fn a_cleared_queue_holds_neither_entries_nor_indices() {
    let (rig, shadows) = answered_over_shadows(4);
    rig.qp.fence(Mode::Fenced(ResetReason::Requested));
    rig.qp.clear();
    assert_eq!(rig.sq.read(0), Ok([0; 8]));
    assert_eq!((rig.qp.cq.low(0), rig.qp.cq.high(0)), (0, 0));
    assert_eq!(shadow_words(&rig, shadows, 1), (0, 0));
}

#[test]
fn lines_are_asked_for_where_completions_are_likely_and_over_the_rings_end() {
    let rig = Rig::new(16, 0);
    let asked = |entry, likely| {
        let asked = RefCell::new(Vec::new());
        let with = |last, in_flight, limit| {
            rig.qp.last_taken.set(last);
            rig.qp.in_flight.set(in_flight);
            asked.borrow_mut().clear();
            rig.qp.look_ahead(entry, limit, |at| asked.borrow_mut().push(at));
            asked.borrow().clone()
        };
        let all = [with(likely, 15, 15), with(15, likely, 15), with(15, 15, likely)];
        assert!(all[0] == all[1] && all[1] == all[2], "the least of the three counts");
        all[0].clone()
    };
    assert!(asked(0, 0).is_empty() && asked(0, 4).is_empty());
    assert_eq!(asked(0, 5), [4]);
    assert_eq!(asked(0, 8), [4]);
    assert_eq!(asked(2, 9), [6, 10]);
    assert_eq!(asked(12, 5), [0]);
    assert_eq!(asked(14, 15), [2, 6, 10]);
}
