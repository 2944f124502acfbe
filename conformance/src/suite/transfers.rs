//! PRP shapes, MDTS and splitting.
//!
//! A buffer of several pages starts on a page, so a shape with an offset is made by cutting: with a
//! largest transfer of `pages` pages and `offset` bytes the first command of a request starts on a
//! page and the second `offset` bytes into one. A request of twice `pages` pages is thus a command
//! of each kind, and what it moved is compared block by block.

use nvme_driver::ControllerConfig;

use super::cx::{Cx, Fixture, Space};
use super::{Case, Outcome, Skip, writes};

pub(super) const CASES: &[Case] = &[
    writes("transfers::one_to_three_pages_at_every_offset_are_whole", few_pages),
    writes("transfers::lists_of_511_to_514_pages_are_whole", many_pages),
    writes("transfers::small_buffers_anywhere_in_a_page_are_whole", small_buffers),
    writes("transfers::one_block_less_and_more_than_mdts_are_whole", around_mdts),
    writes("transfers::requests_far_above_mdts_are_one_future", far_above_mdts),
];

const PAGE: u32 = 4096;

/// A controller whose commands move `bytes` at most.
fn limited<'a>(cx: &Cx<'a>, bytes: u32) -> Fixture<'a> {
    cx.rig_with(ControllerConfig {
        queue_depth: 4,
        max_transfer_bytes: bytes,
        ..ControllerConfig::default()
    })
}

/// Writes and reads `bytes` from block `at` on; the blocks around are as they were.
fn round_trip(rig: &Fixture<'_>, space: Space, at: u64, bytes: usize, version: u64) {
    let lba = space.lba_bytes();
    let after = at + (bytes / lba) as u64;
    space.write(rig, at - 1, lba, version + 1000);
    space.write(rig, after, lba, version + 1000);
    space.write(rig, at, bytes, version);
    space.holds(rig, at, bytes, version);
    space.holds(rig, at - 1, lba, version + 1000);
    space.holds(rig, after, lba, version + 1000);
}

/// Commands of `pages` pages at each offset that the block size allows; whether there was one.
fn shape(cx: &Cx<'_>, pages: u32, version: u64) -> Result<bool, Skip> {
    let mut tried = false;
    for offset in [0, 512, 2048, 3584] {
        let most = pages * PAGE + offset;
        // The driver's own least.
        let rig = limited(cx, most.max(PAGE));
        for space in cx.spaces(&rig)? {
            let fits = space.ns.max_transfer_bytes() == most;
            let bytes = 2 * (pages * PAGE) as usize;
            if fits && space.at_least(bytes as u64 + 3 * u64::from(PAGE)).is_ok() {
                tried = true;
                round_trip(&rig, space, 1, bytes, version + u64::from(offset));
            }
        }
        rig.finish();
    }
    Ok(tried)
}

fn few_pages(cx: &Cx<'_>) -> Outcome {
    let mut tried = false;
    for pages in [1, 2, 3] {
        tried |= shape(cx, pages, u64::from(pages) << 16)?;
    }
    match tried {
        true => Ok(()),
        false => Err(Skip("its namespaces are too small for transfers of a page".to_owned())),
    }
}

fn many_pages(cx: &Cx<'_>) -> Outcome {
    let mut tried = 0;
    for pages in [511, 512, 513, 514] {
        tried += u32::from(shape(cx, pages, u64::from(pages) << 16)?);
    }
    let most = cx.rig().controller.identify().mdts;
    match tried {
        4 => Ok(()),
        0 => Err(Skip(format!("its MDTS of {most} allows no transfer of 2 MiB"))),
        _ => Err(Skip(format!("its MDTS of {most} or its size allow {tried} of the 4 lengths"))),
    }
}

fn small_buffers(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    for space in cx.spaces(&rig)? {
        let (lba, ns) = (space.lba_bytes(), space.ns);
        let mut held = Vec::new();
        let mut offsets = std::collections::BTreeSet::new();
        let count = space.blocks.min(32);
        for at in 0..count {
            let buf = space.stamped(&rig, at, lba, at + 1);
            offsets.insert(buf.iova().0 % u64::from(PAGE));
            let written = ns.write(space.lba(at), buf, nvme_driver::WriteFlags::empty());
            held.push(rig.run(written).expect("written"));
        }
        assert!(offsets.len() >= (PAGE as usize / lba).clamp(1, 8), "{offsets:?}");
        for (at, buf) in (0..).zip(held) {
            // Into the same places again, so that reads have the offsets too.
            let buf = rig.run(ns.read(space.lba(at), buf)).expect("read");
            space.check(&buf, at, at + 1);
        }
    }
    rig.finish();
    Ok(())
}

fn around_mdts(cx: &Cx<'_>) -> Outcome {
    let rig = limited(cx, 2 << 20);
    for space in cx.spaces(&rig)? {
        let (lba, most) = (space.lba_bytes(), space.ns.max_transfer_bytes() as usize);
        for (version, bytes) in (1..).zip([most.saturating_sub(lba), most, most + lba]) {
            if bytes != 0 && space.at_least((bytes + 3 * lba) as u64).is_ok() {
                round_trip(&rig, space, 1, bytes, version);
            }
        }
    }
    rig.finish();
    Ok(())
}

fn far_above_mdts(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig_with(ControllerConfig {
        queue_depth: 1,
        max_transfer_bytes: 8192,
        ..ControllerConfig::default()
    });
    for space in cx.spaces(&rig)? {
        // A prime number of blocks, so that the last piece is a short one.
        let blocks = if space.lba_bytes() < 4096 { 2039 } else { 251 };
        let bytes = (blocks * space.lba_bytes()).min(1 << 20) / space.lba_bytes();
        let bytes = bytes * space.lba_bytes();
        if space.at_least(bytes as u64 + 64 * 1024).is_ok() {
            round_trip(&rig, space, 3, bytes, 77);
            let pieces = bytes as u64 / u64::from(space.ns.max_transfer_bytes());
            assert!(rig.controller.stats().io.submitted >= 2 * pieces);
        }
    }
    rig.finish();
    Ok(())
}
