//! Bring-up, take-over, shutdown, and a fresh controller over what an earlier one wrote.

use nvme_driver::{ControllerConfig, ControllerState, IoError};

use super::cx::{Cx, refused};
use super::{Case, Outcome, reads, writes};

pub(super) const CASES: &[Case] = &[
    reads("bringup::registers_say_what_an_nvme_controller_says", registers),
    reads("bringup::it_becomes_ready_at_the_first_attempt_and_shuts_down", ready_then_off),
    reads("bringup::it_comes_up_again_and_again", again_and_again),
    writes("bringup::a_controller_left_enabled_is_taken_over", left_enabled),
    writes("bringup::a_controller_left_with_commands_in_flight_is_taken_over", left_busy),
    writes("shutdown::what_is_in_flight_ends_first_and_new_commands_are_refused", in_flight),
    writes("shutdown::a_fresh_controller_sees_what_was_flushed", fresh_controller),
];

fn registers(cx: &Cx<'_>) -> Outcome {
    let rig = cx.new_rig(ControllerConfig::default());
    let (cap, version) = (rig.controller.capabilities(), rig.controller.version());
    assert_ne!(cap.mqes_z(), 0, "CAP.MQES");
    assert!(cap.min_page_bytes() <= cap.max_page_bytes(), "CAP.MPSMIN is above CAP.MPSMAX");
    assert!(version.into_bits() >= 0x0001_0000, "VS is {:#x}", version.into_bits());
    assert_eq!(rig.controller.state(), ControllerState::Starting);
    Ok(())
}

fn ready_then_off(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    assert_eq!(rig.controller.state(), ControllerState::Ready);
    assert!(rig.controller.io_queues() >= 1);
    let stats = rig.controller.stats();
    assert_eq!((stats.bringup_failures, stats.resets, stats.queue_resets), (0, 0, 0));
    rig.finish();
    let late = cx.spaces(&rig)?.into_iter().map(|space| {
        let buf = rig.filled(space.lba_bytes(), 1);
        refused(rig.run(space.ns.read(space.lba(0), buf)))
    });
    late.for_each(|error| assert!(matches!(error, IoError::NotReady | IoError::Gone), "{error}"));
    Ok(())
}

fn again_and_again(cx: &Cx<'_>) -> Outcome {
    let mut first = None;
    for _ in 0..5 {
        let rig = cx.rig();
        let said = (rig.controller.identify_bytes(), rig.controller.namespaces().count());
        let first = first.get_or_insert(said);
        assert!(said.0[..64] == first.0[..64], "it says to be another controller");
        assert_eq!(said.1, first.1, "namespaces");
        let space = cx.space(&rig)?;
        let buf = rig.filled(space.lba_bytes(), 1);
        drop(rig.run(space.ns.read(space.lba(0), buf)).expect("read"));
        rig.finish();
    }
    Ok(())
}

fn left_enabled(cx: &Cx<'_>) -> Outcome {
    let first = cx.rig();
    let space = cx.space(&first)?;
    space.write(&first, 3, space.lba_bytes(), 17);
    // The first one just stops, its controller enabled and its queues in place.
    let next = cx.rig();
    assert_eq!(next.controller.stats().bringup_failures, 0);
    let space = cx.space(&next)?;
    space.holds(&next, 3, space.lba_bytes(), 17);
    cx.works(&next)
}

fn left_busy(cx: &Cx<'_>) -> Outcome {
    let first = cx.rig();
    let space = cx.space(&first)?;
    let reads: Vec<_> = (0..16)
        .map(|at| space.ns.read(space.lba(at), first.filled(space.lba_bytes(), 1)))
        .collect();
    first.controller.ring();
    let next = cx.rig();
    let result = cx.works(&next);
    // Their controller is never polled again: the buffers stay the device's.
    drop(reads);
    result
}

fn in_flight(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    let space = cx.space(&rig)?;
    let bytes = space.lba_bytes();
    space.write(&rig, 0, 12 * bytes, 5);
    let read = |at| space.ns.read(space.lba(at), rig.filled(bytes, 1));
    // Those without a place in the queue would be new ones.
    let reads: Vec<_> = (0..u64::from(rig.controller.queue_depth().min(12))).map(read).collect();
    rig.controller.ring();
    let shutdown = rig.controller.shutdown();
    rig.controller.request_shutdown();
    rig.until(|c| c.state() != ControllerState::Ready);
    let late = refused(rig.run(read(0)));
    assert_eq!(late, IoError::NotReady);
    rig.run(shutdown).expect("an orderly shutdown");
    for (at, read) in (0..).zip(reads) {
        let buf = rig.run(read).expect("it was in flight before");
        space.check(&buf, at, 5);
    }
    rig.finish();
    Ok(())
}

fn fresh_controller(cx: &Cx<'_>) -> Outcome {
    for (round, orderly) in [(1, true), (2, false), (3, true)] {
        let rig = cx.rig();
        for space in cx.spaces(&rig)? {
            let bytes = 8 * space.lba_bytes();
            space.write(&rig, 4, bytes, round);
            rig.run(space.ns.flush()).expect("flushed");
        }
        if orderly {
            rig.finish();
        }
        let next = cx.rig();
        for space in cx.spaces(&next)? {
            let bytes = 8 * space.lba_bytes();
            space.holds(&next, 4, bytes, round);
        }
        next.finish();
    }
    Ok(())
}
