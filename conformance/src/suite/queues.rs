//! Queues: how many, how deep, around their ends, full, and by hand.

use core_runtime::mem::Bump;
use nvme_driver::{ControllerConfig, IoError, RawQueue, Target};

use super::cx::{Cx, Fixture, Space, deepest, refused};
use super::{Case, Outcome, Skip, reads, writes};

pub(super) const CASES: &[Case] = &[
    writes("queues::every_count_that_is_granted_shares_the_work", counts),
    reads("queues::fewer_than_asked_for_are_lived_with", fewer),
    writes("queues::depths_from_one_to_a_few_move_data", small_depths),
    reads("queues::the_largest_depth_is_filled_and_emptied", largest_depth),
    writes("queues::rings_are_gone_round_many_times", wrap_around),
    reads("queues::a_full_queue_refuses_or_makes_wait", full),
    writes("queues::a_raw_queue_moves_bursts", raw_bursts),
    reads("queues::a_raw_queue_is_told_of_a_reset_once_a_command", raw_reset),
];

fn config(io_queues: u16, queue_depth: u16) -> ControllerConfig {
    ControllerConfig {
        io_queues,
        queue_depth,
        max_transfer_bytes: 64 << 10,
        ..ControllerConfig::default()
    }
}

fn counts(cx: &Cx<'_>) -> Outcome {
    let granted = cx.rig_with(config(nvme_driver::MAX_IO_QUEUES, 3)).controller.io_queues();
    for count in 1..=granted {
        let rig = cx.rig_with(config(count, 3));
        assert_eq!(rig.controller.io_queues(), count);
        cx.exercise(&rig, cx.space(&rig)?, 64, 600);
        for queue in 0..count {
            let stats = rig.controller.queue_stats(queue).expect("a queue");
            assert!(stats.completed > 0, "queue {queue} of {count} did nothing: {stats:?}");
        }
        rig.finish();
    }
    Ok(())
}

fn fewer(cx: &Cx<'_>) -> Outcome {
    let asked = nvme_driver::MAX_IO_QUEUES;
    let rig = cx.rig_with(config(asked, 3));
    let granted = rig.controller.io_queues();
    let space = cx.space(&rig)?;
    for at in 0..2 * u64::from(granted) {
        let buf = rig.filled(space.lba_bytes(), 1);
        drop(rig.run(space.ns.read(space.lba(at % 8), buf)).expect("read"));
    }
    rig.finish();
    match granted < asked {
        true => Ok(()),
        false => Err(Skip(format!("it grants all {asked} queues that the driver asks for"))),
    }
}

fn small_depths(cx: &Cx<'_>) -> Outcome {
    for depth in [1, 2, 3, 7, 15] {
        let rig = cx.rig_with(config(1, depth));
        let most = deepest(rig.controller.capabilities());
        assert_eq!(rig.controller.queue_depth(), depth.min(most));
        for space in cx.spaces(&rig)? {
            cx.exercise(&rig, space, 20, 400);
        }
        let stats = rig.controller.stats();
        assert!(stats.io.high_water <= depth.into());
        rig.finish();
    }
    Ok(())
}

fn largest_depth(cx: &Cx<'_>) -> Outcome {
    let probe = cx.new_rig(config(1, 1));
    let depth = deepest(probe.controller.capabilities());
    let rig = cx.rig_with(ControllerConfig { max_transfer_bytes: 16 << 10, ..config(1, depth) });
    assert_eq!(rig.controller.queue_depth(), depth);
    let space = cx.space(&rig)?;
    let lba = space.lba_bytes();
    for _ in 0..2 {
        let mut reads = Vec::new();
        while let Ok(buf) = rig.arena.alloc(lba) {
            match space.ns.try_read(space.lba(reads.len() as u64 % space.blocks), buf) {
                Ok(read) => reads.push(read),
                Err(failed) => {
                    assert_eq!(failed.error, IoError::QueueFull);
                    break;
                }
            }
        }
        assert_eq!(reads.len(), usize::from(depth), "commands fit");
        reads.into_iter().for_each(|read| drop(rig.run(read).expect("read")));
    }
    assert_eq!(rig.controller.stats().io.high_water, u32::from(depth));
    rig.finish();
    Ok(())
}

fn wrap_around(cx: &Cx<'_>) -> Outcome {
    for depth in [1, 4] {
        let rig = cx.rig_with(config(1, depth));
        let space = cx.space(&rig)?;
        let operations = cx.ops(4_000);
        cx.exercise(&rig, space, usize::from(depth) + 1, operations * cx.scale.max(1));
        let stats = rig.controller.stats().io;
        let entries = u64::from(depth) + 1;
        assert!(stats.completed >= 3 * entries, "{stats:?}");
        assert_eq!((stats.ignored.total(), stats.bad_sqhd), (0, 0), "{stats:?}");
        rig.finish();
    }
    Ok(())
}

fn full(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig_with(config(1, 3));
    let depth = rig.controller.queue_depth();
    let space = cx.space(&rig)?;
    let buf = || rig.filled(space.lba_bytes(), 1);
    let read = |at| space.ns.read(space.lba(at % 16), buf());
    for _ in 0..cx.ops(50) {
        // Started, and not looked at by the device's side of the loop before all are.
        let first: Vec<_> = (0..u64::from(depth)).map(read).collect();
        let error = refused(space.ns.try_read(space.lba(0), buf()));
        assert_eq!(error, IoError::QueueFull);
        let waiting: Vec<_> = (0..10).map(read).collect();
        for read in first.into_iter().chain(waiting) {
            drop(rig.run(read).expect("read"));
        }
    }
    rig.finish();
    Ok(())
}

// ---- by hand ---------------------------------------------------------------------------------

/// A raw queue with a buffer of `bytes` for each command.
struct Raw {
    queue: RawQueue,
    target: Target,
    space: Space,
    depth: u16,
    blocks: u32,
}

impl Raw {
    fn new(cx: &Cx<'_>, rig: &Fixture<'_>) -> Result<Self, Skip> {
        let space = cx.space(rig)?;
        let bump = Bump::leak(16 << 10);
        let depth = rig.controller.queue_depth().min(16);
        let queue = rig.controller.take_raw_queue(0, depth, &bump).expect("a queue");
        assert!(rig.controller.take_raw_queue(0, depth, &bump).is_none(), "only once");
        let target = space.ns.target().expect("usable");
        let blocks = u32::try_from(4096 / space.lba_bytes().min(4096)).expect("small");
        for place in 0..depth {
            let buf = rig.filled(blocks as usize * space.lba_bytes(), 0);
            assert_eq!(queue.adopt(buf).expect("room"), place);
        }
        Ok(Self { queue, target, space, depth, blocks })
    }

    /// Submits a command for each buffer.
    fn submit(&self, write: bool) {
        for buf in 0..self.depth {
            let at = u64::from(buf) * u64::from(self.blocks) % (self.space.blocks / 2);
            let (slba, token) = (self.space.lba(at), u32::from(buf));
            let posted = match write {
                true => self.queue.submit_write(&self.target, slba, self.blocks, buf, token),
                false => self.queue.submit_read(&self.target, slba, self.blocks, buf, token),
            };
            posted.expect("room");
        }
        self.queue.ring();
    }

    /// Takes an end for each buffer.
    fn reap(&self, rig: &Fixture<'_>) -> Vec<(u32, Result<(), IoError>)> {
        let mut done = Vec::new();
        rig.until(|_| {
            self.queue.reap(64, |token, result| done.push((token, result)));
            done.len() == usize::from(self.depth)
        });
        done.sort_by_key(|(token, _)| *token);
        assert!(done.iter().zip(0..).all(|((token, _), i)| *token == i), "{done:?}");
        done
    }
}

fn raw_bursts(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig_with(config(1, 16));
    let raw = Raw::new(cx, &rig)?;
    let byte = |round: u64, buf: u16| (round * 31 + u64::from(buf) + 1).to_le_bytes()[0];
    for round in 0..cx.ops(200) {
        for buf in 0..raw.depth {
            raw.queue.with_buf(buf, |bytes| bytes.fill(byte(round, buf))).expect("idle");
        }
        raw.submit(true);
        assert!(raw.reap(&rig).iter().all(|(_, result)| result.is_ok()), "round {round}");
        for buf in 0..raw.depth {
            raw.queue.with_buf(buf, |bytes| bytes.fill(0)).expect("idle");
        }
        raw.submit(false);
        assert!(raw.reap(&rig).iter().all(|(_, result)| result.is_ok()), "round {round}");
        let distinct = u64::from(raw.depth) * u64::from(raw.blocks) <= raw.space.blocks / 2;
        for buf in (0..raw.depth).filter(|_| distinct) {
            let same = |bytes: &mut [u8]| bytes.iter().all(|b| *b == byte(round, buf));
            assert_eq!(raw.queue.with_buf(buf, same), Some(true), "round {round}, buffer {buf}");
        }
    }
    let past = raw.space.ns.blocks();
    let beyond = raw.queue.submit_read(&raw.target, nvme_spec::Lba(past), 1, 0, 0);
    assert!(matches!(beyond, Err(IoError::OutOfRange { .. })), "{beyond:?}");
    let long = raw.queue.submit_read(&raw.target, raw.space.lba(0), raw.blocks + 1, 0, 0);
    assert!(matches!(long, Err(IoError::BadLength { .. })), "{long:?}");
    assert!(raw.queue.is_idle());
    drop(raw);
    rig.finish();
    Ok(())
}

fn raw_reset(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig_with(config(1, 16));
    let raw = Raw::new(cx, &rig)?;
    for round in 1..=3 {
        raw.submit(false);
        rig.controller.request_reset();
        let ends = raw.reap(&rig);
        // Those that were quicker than the reset are well.
        let known = |end: &Result<(), IoError>| matches!(end, Ok(()) | Err(IoError::Reset(_)));
        assert!(ends.iter().all(|(_, end)| known(end)), "{ends:?}");
        rig.until(|c| {
            c.stats().resets == round && c.state() == nvme_driver::ControllerState::Ready
        });
        raw.submit(false);
        assert!(raw.reap(&rig).iter().all(|(_, result)| result.is_ok()), "after reset {round}");
        assert!(raw.queue.is_idle());
    }
    drop(raw);
    rig.finish();
    Ok(())
}
