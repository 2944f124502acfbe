//! Namespaces side by side, and random I/O against a copy in memory.

use nvme_driver::{ControllerConfig, Lba, WriteFlags};

use super::cx::{Cx, Fixture, Space};
use super::{Case, Outcome, Skip, writes};
use crate::oracle::is_filled;

pub(super) const CASES: &[Case] = &[
    writes("namespaces::the_same_block_of_each_is_another_block", apart),
    writes("namespaces::the_last_block_can_be_written_and_read", last_block),
    writes("namespaces::all_at_once_keep_their_data", all_at_once),
    writes("random::blocks_of_512_bytes_hold_what_was_written", |cx| random(cx, 512)),
    writes("random::blocks_of_4096_bytes_hold_what_was_written", |cx| random(cx, 4096)),
    writes("random::blocks_of_other_sizes_hold_what_was_written", |cx| random(cx, 0)),
    writes("random::several_queues_hold_what_was_written", several_queues),
];

fn several(cx: &Cx<'_>, rig: &Fixture<'_>) -> Result<Vec<Space>, Skip> {
    let spaces = cx.spaces(rig)?;
    match spaces.len() {
        1 => Err(Skip("there is one namespace to be used".to_owned())),
        _ => Ok(spaces),
    }
}

fn apart(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    let spaces = several(cx, &rig)?;
    // From the same block number on in each, whatever its block size.
    let slba = spaces.iter().map(|space| space.first).max().unwrap_or(0);
    let at = |space: &Space| slba - space.first;
    for space in &spaces {
        space.at_least((at(space) + 4) * space.lba_bytes() as u64)?;
        space.write(&rig, at(space), 4 * space.lba_bytes(), space.ns.nsid().0.into());
    }
    for space in &spaces {
        space.holds(&rig, at(space), 4 * space.lba_bytes(), space.ns.nsid().0.into());
    }
    rig.finish();
    Ok(())
}

fn last_block(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    for space in cx.spaces(&rig)? {
        let (ns, bytes) = (space.ns, space.lba_bytes());
        let last = Lba(ns.blocks() - 1);
        let mut buf = rig.arena.alloc(bytes).expect("memory");
        crate::oracle::fill(buf.as_mut_slice(), last.0, cx.seed | 1);
        let buf = rig.run(ns.write(last, buf, WriteFlags::empty())).expect("written");
        let buf = rig.run(ns.read(last, buf)).expect("read");
        assert!(is_filled(&buf, last.0, cx.seed | 1), "namespace {}", ns.nsid().0);
    }
    rig.finish();
    Ok(())
}

fn all_at_once(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    let spaces = several(cx, &rig)?;
    let mut oracles: Vec<_> = spaces
        .iter()
        .map(|space| space.oracle(12, cx.seed + u64::from(space.ns.nsid().0)))
        .collect();
    for _ in 0..4 {
        for oracle in &mut oracles {
            oracle.run(&rig, cx.ops(500));
        }
    }
    rig.finish();
    Ok(())
}

fn random(cx: &Cx<'_>, lba_bytes: usize) -> Outcome {
    let rig = cx.rig_with(ControllerConfig { queue_depth: 63, ..ControllerConfig::default() });
    let wanted = |space: &Space| match lba_bytes {
        0 => ![512, 4096].contains(&space.lba_bytes()),
        bytes => space.lba_bytes() == bytes,
    };
    let spaces: Vec<_> = cx.spaces(&rig)?.into_iter().filter(wanted).collect();
    for space in &spaces {
        let mut oracle = space.oracle(80, cx.seed);
        let report = oracle.run(&rig, cx.ops(20_000));
        assert!(report.reads > 0 && report.writes > 0, "{report:?}");
    }
    let stats = rig.controller.stats().io;
    assert_eq!((stats.failed, stats.ignored.total(), stats.bad_sqhd), (0, 0, 0), "{stats:?}");
    rig.finish();
    match (spaces.is_empty(), lba_bytes) {
        (false, _) => Ok(()),
        (true, 0) => Err(Skip("no namespace with blocks of another size".to_owned())),
        (true, bytes) => Err(Skip(format!("no namespace with blocks of {bytes} bytes"))),
    }
}

fn several_queues(cx: &Cx<'_>) -> Outcome {
    let config = ControllerConfig { io_queues: 4, queue_depth: 7, ..ControllerConfig::default() };
    let rig = cx.rig_with(config);
    if rig.controller.io_queues() == 1 {
        return Err(Skip("it grants one queue".to_owned()));
    }
    for space in cx.spaces(&rig)? {
        cx.exercise(&rig, space, 48, 5_000);
    }
    rig.finish();
    Ok(())
}
