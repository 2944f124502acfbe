//! Whose a namespace is: ours to overwrite, nobody's, or somebody's.
//!
//! A namespace that the suite may overwrite carries a mark in its first block, which no case
//! touches. One without is looked at where file systems, partition tables, LVM and RAID keep their
//! signatures, the first and the last MiB, and at some places between; a byte that is neither 0 nor
//! 0xFF there makes it somebody's.

use hybrid_conformance::suite::{Fixture, RESERVED_BYTES};
use nvme_driver::{Lba, Namespace, WriteFlags};

/// The start of a marked block; the rest of it is zeros.
const MARK: &[u8] = b"hybrid-runtime conformance: this namespace may be overwritten\n";

/// How much is looked at, at either end.
const ENDS_BYTES: u64 = 1 << 20;

/// Places between the ends that are looked at.
const SAMPLES: u64 = 64;

const _: () = assert!(RESERVED_BYTES >= 65536, "the largest block is ours");

/// Whose a namespace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// It carries our mark.
    Suite,
    /// It is empty, as far as was looked.
    Nobody,
    /// This block of it holds something.
    Somebody(u64),
}

/// Looks at a namespace.
pub(crate) fn owner(rig: &Fixture<'_>, ns: &'static Namespace) -> Result<Owner, String> {
    if is_mark(&read(rig, ns, 0, 1)?) {
        return Ok(Owner::Suite);
    }
    let per_read = u64::from((64 << 10) / ns.lba_bytes()).max(1);
    let ends = (ENDS_BYTES / u64::from(ns.lba_bytes())).min(ns.blocks());
    let chunks = |from: u64, to: u64| (from..to).step_by(usize::try_from(per_read).unwrap_or(1));
    let stride = (ns.blocks() / SAMPLES).max(1);
    let between = (0..SAMPLES).map(|n| n * stride).filter(|slba| *slba < ns.blocks());
    let places = chunks(0, ends).chain(chunks(ns.blocks() - ends, ns.blocks())).chain(between);
    for slba in places {
        let count = per_read.min(ns.blocks() - slba);
        let bytes = read(rig, ns, slba, count)?;
        let blocks = bytes.chunks(ns.lba_bytes() as usize);
        if let Some((lba, _)) = (slba..).zip(blocks).find(|(_, block)| !is_blank(block)) {
            return Ok(Owner::Somebody(lba));
        }
    }
    Ok(Owner::Nobody)
}

/// Marks a namespace as one that may be overwritten.
pub(crate) fn put(rig: &Fixture<'_>, ns: &'static Namespace) -> Result<(), String> {
    let len = ns.lba_bytes() as usize;
    let mut buf = rig.filled(len, 0);
    buf.as_mut_slice()[..MARK.len()].copy_from_slice(MARK);
    let written = rig.run(ns.write(Lba(0), buf, WriteFlags::empty()));
    drop(written.map_err(|failed| format!("its mark cannot be written: {failed}"))?);
    rig.run(ns.flush()).map_err(|error| format!("its mark cannot be flushed: {error}"))
}

fn read(
    rig: &Fixture<'_>,
    ns: &'static Namespace,
    slba: u64,
    blocks: u64,
) -> Result<Vec<u8>, String> {
    let len = usize::try_from(blocks).unwrap_or(1) * ns.lba_bytes() as usize;
    let buf = rig.run(ns.read(Lba(slba), rig.filled(len, 0xEE)));
    let buf = buf.map_err(|failed| format!("block {slba} cannot be read: {failed}"))?;
    Ok(buf.as_slice().to_vec())
}

fn is_mark(block: &[u8]) -> bool {
    block.starts_with(MARK) && block[MARK.len()..].iter().all(|byte| *byte == 0)
}

/// As a drive gives blocks that were never written, or erased.
fn is_blank(block: &[u8]) -> bool {
    [0, 0xFF].iter().any(|blank| block.iter().all(|byte| byte == blank))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hybrid_conformance::suite::Cx;
    use hybrid_conformance::{Rig, Stepped};
    use nvme_driver::ControllerConfig;
    use nvme_model::{ModelConfig, NamespaceConfig};

    fn with_drive(lba_bytes: u32, blocks: u64, look: impl FnOnce(&Fixture<'_>)) {
        let namespaces = vec![NamespaceConfig::memory(1, blocks).lba_bytes(lba_bytes)];
        let model = ModelConfig { namespaces, ..ModelConfig::default() };
        let backend = Stepped::new(model, 16 << 20);
        let cx = Cx { backend: &backend, seed: 1, scale: 1, nsid: None, may_write: true };
        let rig = cx.rig_with(ControllerConfig::default());
        look(&rig);
        rig.finish();
    }

    fn spoil(rig: &Rig<&dyn hybrid_conformance::Backend>, lba: u64) {
        let mut buf = rig.filled(rig.ns().lba_bytes() as usize, 0);
        *buf.as_mut_slice().last_mut().expect("bytes") = 1;
        drop(rig.run(rig.ns().write(Lba(lba), buf, WriteFlags::empty())).expect("written"));
    }

    #[test]
    fn a_signature_at_either_end_makes_it_somebodys_and_a_mark_makes_it_ours() {
        for (lba_bytes, blocks) in [(512, 64 << 10), (4096, 8 << 10), (65536, 40), (512, 64)] {
            with_drive(lba_bytes, blocks, |rig| {
                assert_eq!(owner(rig, rig.ns()), Ok(Owner::Nobody));
            });
            let quarter = blocks / 64 * 16;
            for lba in [0, 1, 3, blocks - 34.min(blocks), blocks - 1, quarter] {
                with_drive(lba_bytes, blocks, |rig| {
                    spoil(rig, lba);
                    assert_eq!(owner(rig, rig.ns()), Ok(Owner::Somebody(lba)), "{lba_bytes}");
                    put(rig, rig.ns()).expect("marked");
                    assert_eq!(owner(rig, rig.ns()), Ok(Owner::Suite));
                });
            }
        }
    }

    #[test]
    fn a_mark_with_something_behind_it_is_none() {
        let mut block = vec![0; 512];
        block[..MARK.len()].copy_from_slice(MARK);
        assert!(is_mark(&block) && !is_blank(&block));
        block[511] = 1;
        assert!(!is_mark(&block));
        assert!(is_blank(&[0xFF; 512]) && !is_blank(&[0xFF, 0]));
    }
}
