//! Resets with commands in flight, commands that are never answered, futures that are dropped.

use nvme_driver::{ControllerConfig, ControllerState, Failed, IoError, ResetReason, WriteFlags};

use super::cx::{Cx, Fixture, in_flight};
use super::{Case, Outcome, reads, stalls, writes};

pub(super) const CASES: &[Case] = &[
    writes("resets::commands_in_flight_end_once_and_their_buffers_come_back", one_reset),
    writes("resets::one_after_another_under_load_loses_nothing", many_resets),
    reads("resets::commands_that_wait_for_room_are_served_after_the_reset", waiting),
    stalls("deadlines::a_command_that_is_never_answered_ends_in_time", deadline),
    stalls("deadlines::a_reset_ends_what_is_never_answered", stalled_reset),
    stalls("deadlines::a_shutdown_ends_what_is_never_answered", stalled_shutdown),
    writes("futures::dropped_ones_give_their_buffers_back", dropped),
    reads("futures::those_dropped_in_the_line_leave_it", dropped_in_line),
];

/// Waits for the reset number `count` and its end.
fn until_reset(rig: &Fixture<'_>, count: u64) {
    rig.until(|c| c.stats().resets == count && c.state() == ControllerState::Ready);
}

/// What a command that met a reset may end with.
fn met_a_reset(failed: &Failed) {
    let requested = matches!(failed.error, IoError::Reset(ResetReason::Requested));
    assert!(requested, "{failed}");
    assert!(failed.buf.is_some(), "its buffer is gone: {failed}");
}

fn one_reset(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    let space = cx.space(&rig)?;
    let bytes = space.lba_bytes();
    for round in 1..=3 {
        space.write(&rig, 0, 8 * bytes, round);
        let reads: Vec<_> =
            (0..8).map(|at| space.ns.read(space.lba(at), rig.filled(bytes, 1))).collect();
        let writes: Vec<_> = (8..16)
            .map(|at| {
                let buf = space.stamped(&rig, at, bytes, round);
                space.ns.write(space.lba(at), buf, WriteFlags::empty())
            })
            .collect();
        rig.controller.ring();
        rig.controller.request_reset();
        for (at, read) in (0..).zip(reads) {
            match rig.run(read) {
                Ok(buf) => space.check(&buf, at, round),
                Err(failed) => met_a_reset(&failed),
            }
        }
        for write in writes {
            if let Err(failed) = rig.run(write) {
                met_a_reset(&failed);
            }
        }
        until_reset(&rig, round);
        assert_eq!(in_flight(rig.controller), 0);
        rig.assert_no_leak();
        space.holds(&rig, 0, 8 * bytes, round);
    }
    cx.works(&rig)
}

fn many_resets(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    let space = cx.space(&rig)?;
    let mut oracle = space.oracle(24, cx.seed);
    oracle.errors_expected = true;
    let rounds = cx.ops(20);
    for round in 1..=rounds {
        rig.controller.request_reset();
        oracle.run(&rig, cx.ops(200));
        until_reset(&rig, round);
    }
    // Nothing is unknown any more once everything was written again.
    oracle.errors_expected = false;
    oracle.run(&rig, cx.ops(400));
    rig.finish();
    Ok(())
}

fn waiting(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig_with(ControllerConfig { queue_depth: 2, ..ControllerConfig::default() });
    let space = cx.space(&rig)?;
    let read = |at| space.ns.read(space.lba(at), rig.filled(space.lba_bytes(), 1));
    let mut reads: Vec<_> = (0..12).map(read).map(Box::pin).collect();
    // Each is polled once, so that those without a place stand in the line.
    let mut cx_noop = std::task::Context::from_waker(std::task::Waker::noop());
    let pending = reads
        .iter_mut()
        .filter_map(|read| match read.as_mut().poll(&mut cx_noop) {
            std::task::Poll::Pending => Some(()),
            std::task::Poll::Ready(_) => None,
        })
        .count();
    assert_eq!(pending, 12, "nothing was reaped yet");
    rig.controller.request_reset();
    let lost = reads.into_iter().filter_map(|read| rig.run(read).err()).inspect(met_a_reset);
    assert!(lost.count() <= 2, "only those that had a place are lost");
    until_reset(&rig, 1);
    rig.finish();
    Ok(())
}

/// A controller that is quick to lose patience.
fn impatient<'a>(cx: &Cx<'a>) -> Fixture<'a> {
    const MS: u64 = 1_000_000;
    cx.rig_with(ControllerConfig {
        queue_depth: 7,
        deadline_ns: 100 * MS,
        abort_grace_ns: 50 * MS,
        drain_ns: 100 * MS,
        ..ControllerConfig::default()
    })
}

fn deadline(cx: &Cx<'_>) -> Outcome {
    let rig = impatient(cx);
    let space = cx.space(&rig)?;
    let bytes = space.lba_bytes();
    space.write(&rig, 0, bytes, 4);
    cx.backend.stall(true);
    let failed = rig.run(space.ns.read(space.lba(0), rig.filled(bytes, 1))).expect_err("stalled");
    let known = matches!(
        failed.error,
        IoError::TimedOut | IoError::Reset(ResetReason::Stuck { .. } | ResetReason::QueueReset)
    );
    assert!(known, "{failed}");
    assert!(failed.buf.is_some());
    drop(failed);
    cx.backend.stall(false);
    let stats = rig.controller.stats();
    assert!(stats.deadlines >= 1 && stats.aborts >= 1, "{stats:?}");
    rig.until(|c| c.state() == ControllerState::Ready);
    space.holds(&rig, 0, bytes, 4);
    cx.works(&rig)
}

fn stalled_reset(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    let space = cx.space(&rig)?;
    let bytes = space.lba_bytes();
    cx.backend.stall(true);
    let count = rig.controller.queue_depth().min(8);
    let read = |at| space.ns.read(space.lba(at), rig.filled(bytes, 1));
    let reads: Vec<_> = (0..u64::from(count)).map(read).collect();
    rig.wait_ns(1_000_000);
    assert_eq!(in_flight(rig.controller), u32::from(count));
    rig.controller.request_reset();
    for read in reads {
        met_a_reset(&rig.run(read).expect_err("never answered"));
    }
    cx.backend.stall(false);
    until_reset(&rig, 1);
    rig.assert_no_leak();
    cx.works(&rig)
}

fn stalled_shutdown(cx: &Cx<'_>) -> Outcome {
    let rig = impatient(cx);
    let space = cx.space(&rig)?;
    cx.backend.stall(true);
    let read = space.ns.read(space.lba(0), rig.filled(space.lba_bytes(), 1));
    let ended = rig.run(rig.controller.shutdown());
    cx.backend.stall(false);
    ended.expect("an orderly shutdown");
    let failed = rig.run(read).expect_err("never answered");
    assert!(matches!(failed.error, IoError::Reset(_) | IoError::TimedOut), "{failed}");
    assert!(failed.buf.is_some());
    drop(failed);
    rig.assert_no_leak();
    rig.assert_no_mistakes();
    Ok(())
}

fn dropped(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    for space in cx.spaces(&rig)? {
        let mut oracle = space.oracle(40, cx.seed);
        oracle.drop_one_in = 10;
        oracle.drop_writes = true;
        oracle.run(&rig, cx.ops(5_000));
    }
    rig.finish();
    Ok(())
}

fn dropped_in_line(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig_with(ControllerConfig { queue_depth: 2, ..ControllerConfig::default() });
    let space = cx.space(&rig)?;
    let read = |at| space.ns.read(space.lba(at), rig.filled(space.lba_bytes(), 1));
    for _ in 0..cx.ops(50) {
        let reads: Vec<_> = (0..12).map(read).collect();
        // Every second one goes, whether it has a place or not.
        for (n, read) in reads.into_iter().enumerate() {
            match n % 2 {
                0 => drop(read),
                _ => drop(rig.run(read).expect("read")),
            }
        }
    }
    rig.finish();
    Ok(())
}
