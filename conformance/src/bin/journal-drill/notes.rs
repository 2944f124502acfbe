//! The notes of who logs writes: what dm-log-writes writes, and QEMU's blklogwrites after it.
//!
//! Sector 0 has the superblock; then one sector for each entry, and behind it the sectors that were
//! written. Integers are little-endian (Linux, `drivers/md/dm-log-writes.c`; QEMU,
//! `block/blklogwrites.c`). Entries stand in the order in which they were submitted.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes, KnownLayout, Unaligned};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;

const FLUSH: u64 = 1;
const DISCARD: u64 = 1 << 2;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Super {
    magic: U64,
    version: U64,
    entries: U64,
    sector_bytes: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    sector: U64,
    sectors: U64,
    flags: U64,
    data_len: U64,
}

/// One thing that was asked of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note<'a> {
    /// Bytes, and the byte of the device that they go to.
    Write { at: usize, bytes: &'a [u8] },
    /// A flush; a write with the same entry comes behind it.
    Flush,
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Takes the notes apart.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Note<'_>>, String> {
    let (head, _) = Super::read_from_prefix(bytes).map_err(|_| "no notes: no superblock")?;
    let (magic, version) = (head.magic.get(), head.version.get());
    if (magic, version) != (MAGIC, VERSION) {
        return Err(format!(
            "no notes: magic {magic:#x} and version {version}, allowed are {MAGIC:#x} and {VERSION}"
        ));
    }
    let sector = index(head.sector_bytes.get().into());
    if !sector.is_power_of_two() || !(512..=65_536).contains(&sector) {
        return Err(format!("sectors of {sector} bytes; allowed are powers of two from 512"));
    }
    let mut rest = bytes.get(sector..).unwrap_or_default();
    let mut notes = Vec::new();
    for number in 0..head.entries.get() {
        let cut = || format!("the notes end in entry {number} of {}", head.entries);
        let (entry, _) = Entry::read_from_prefix(rest).map_err(|_| cut())?;
        rest = rest.get(sector..).ok_or_else(cut)?;
        if entry.flags.get() & FLUSH != 0 {
            notes.push(Note::Flush);
        }
        let len = index(entry.sectors.get()).saturating_mul(sector);
        if entry.flags.get() & DISCARD != 0 || len == 0 {
            continue;
        }
        let (data, behind) = rest.split_at_checked(len).ok_or_else(cut)?;
        let at = index(entry.sector.get()).saturating_mul(sector);
        notes.push(Note::Write { at, bytes: data });
        rest = behind;
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(bytes: &[u8]) -> Vec<u8> {
        let mut sector = bytes.to_vec();
        sector.resize(512, 0);
        sector
    }

    fn golden() -> Vec<u8> {
        let super_ = [
            b"rhswfsj\0".as_slice(),
            &1_u64.to_le_bytes(),
            &3_u64.to_le_bytes(),
            &512_u32.to_le_bytes(),
        ];
        let entry = |words: [u64; 4]| sector(&words.map(u64::to_le_bytes).concat());
        [
            sector(&super_.concat()),
            entry([9, 1, 0, 0]),
            vec![0xA5; 512],
            entry([0, 0, FLUSH, 0]),
            entry([2, 4, DISCARD, 0]),
        ]
        .concat()
    }

    #[test]
    fn writes_and_flushes_are_taken_apart_in_order() {
        let bytes = golden();
        let notes = parse(&bytes).expect("notes");
        let write = Note::Write { at: 9 * 512, bytes: &[0xA5; 512] };
        assert_eq!(notes, [write, Note::Flush]);
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_named() {
        let mut bytes = golden();
        assert_eq!(parse(&bytes[..1600]), Err("the notes end in entry 1 of 3".to_owned()));
        bytes[8] = 2;
        assert!(parse(&bytes).expect_err("a version").contains("version 2"));
        assert!(parse(&[]).expect_err("nothing").contains("no superblock"));
    }
}
