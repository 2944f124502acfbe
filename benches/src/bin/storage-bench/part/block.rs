//! Blocks that say what they are: place, version, and a CRC32C over everything.
//!
//! Layout of a block, little-endian: magic (8 bytes), LBA (8), version (4), seed (4), then filling,
//! and the CRC32C of all before it in the last 4 bytes. Each 512-byte sector but the first begins
//! with a tag made of LBA, version, seed and its number, so that a block of which only some sectors
//! are new is told from one whose bits flipped.

use core_runtime::crc::crc32c;
use hybrid_benches::rng::mix;

/// `HYBRVRFY`.
const MAGIC: u64 = u64::from_le_bytes(*b"HYBRVRFY");
const SECTOR: usize = 512;
const CRC_BYTES: usize = 4;
const HEAD_BYTES: usize = 24;

/// What a block claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) lba: u64,
    pub(crate) version: u32,
    pub(crate) seed: u32,
}

/// What a block turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// What was expected.
    Right,
    /// Another block, whole: this is its LBA.
    Misdirected(u64),
    /// The right block, whole, of another version or run, or nothing of ours (0): a write was lost.
    Stale(u32),
    /// Some of its sectors are of another write.
    Torn,
    /// Its CRC is wrong and no sector explains it.
    Corrupt,
}

impl Label {
    /// Fills a block of at least 64 bytes.
    pub(crate) fn write(self, block: &mut [u8]) {
        let mut filling = mix(self.lba ^ u64::from(self.version) << 40);
        for (word, bytes) in block.chunks_exact_mut(8).enumerate() {
            filling = filling.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let value = match word {
                0 => MAGIC,
                1 => self.lba,
                2 => self.identity(),
                _ if (word * 8).is_multiple_of(SECTOR) => self.tag(word * 8 / SECTOR),
                _ => filling,
            };
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        let at = block.len() - CRC_BYTES;
        let crc = crc32c(&block[..at]);
        block[at..].copy_from_slice(&crc.to_le_bytes());
    }

    /// Compares what was read with what should be there.
    pub(crate) fn judge(self, block: &[u8]) -> Verdict {
        let at = block.len() - CRC_BYTES;
        let kept = block[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        if crc32c(&block[..at]) != kept || word(block, 0) != MAGIC {
            return self.explain(block);
        }
        let found = Self::read(block);
        if found == self {
            Verdict::Right
        } else if found.lba != self.lba {
            Verdict::Misdirected(found.lba)
        } else {
            Verdict::Stale(found.version)
        }
    }

    /// A block whose CRC is wrong: do its sectors agree about what it is?
    fn explain(self, block: &[u8]) -> Verdict {
        let found = Self::read(block);
        let sectors = block.len() / SECTOR;
        let of = |label: Self| {
            let tags = (1..sectors).filter(|n| word(block, n * SECTOR) == label.tag(*n));
            tags.count() + usize::from(found == label && word(block, 0) == MAGIC)
        };
        let ours = word(block, 0) == MAGIC || word(block, 16) == self.identity();
        if !ours && of(self) == 0 {
            // Nothing of it was ever written by us: the write was lost.
            return Verdict::Stale(0);
        }
        // All of them are of one write: bits changed elsewhere.
        if of(found) == sectors || of(self) == sectors { Verdict::Corrupt } else { Verdict::Torn }
    }

    fn read(block: &[u8]) -> Self {
        let low = word(block, 16);
        #[expect(clippy::cast_possible_truncation, reason = "two halves of a word")]
        let (version, seed) = (low as u32, (low >> 32) as u32);
        Self { lba: word(block, 8), version, seed }
    }

    /// Version and seed, as they stand in the head.
    fn identity(self) -> u64 {
        u64::from(self.version) | u64::from(self.seed) << 32
    }

    fn tag(self, sector: usize) -> u64 {
        let identity = self.lba ^ u64::from(self.version) << 32 ^ u64::from(self.seed) << 8;
        mix(identity).wrapping_add(sector as u64)
    }
}

fn word(block: &[u8], at: usize) -> u64 {
    let bytes = block.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

const _: () = assert!(HEAD_BYTES + CRC_BYTES <= 64);

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: Label = Label { lba: 77, version: 5, seed: 9 };

    fn block(label: Label, bytes: usize) -> Vec<u8> {
        let mut block = vec![0; bytes];
        label.write(&mut block);
        block
    }

    #[test]
    fn each_damage_has_its_name() {
        for bytes in [512, 4096, 65_536] {
            let right = block(LABEL, bytes);
            assert_eq!(LABEL.judge(&right), Verdict::Right);
            let other = block(Label { lba: 78, ..LABEL }, bytes);
            assert_eq!(LABEL.judge(&other), Verdict::Misdirected(78));
            let old = block(Label { version: 4, ..LABEL }, bytes);
            assert_eq!(LABEL.judge(&old), Verdict::Stale(4));
            let foreign = block(Label { seed: 8, ..LABEL }, bytes);
            assert_eq!(LABEL.judge(&foreign), Verdict::Stale(5));
            for sector in 1..bytes / 512 {
                let mut torn = right.clone();
                torn[sector * 512..].copy_from_slice(&old[sector * 512..]);
                assert_eq!(LABEL.judge(&torn), Verdict::Torn, "from sector {sector}");
            }
        }
    }

    #[test]
    fn every_bit_counts() {
        let right = block(LABEL, 4096);
        for byte in (0..4096).step_by(3) {
            let mut damaged = right.clone();
            damaged[byte] ^= 1 << (byte % 8);
            let seen = LABEL.judge(&damaged);
            assert!(matches!(seen, Verdict::Corrupt | Verdict::Torn), "byte {byte}: {seen:?}");
        }
        let zeros = LABEL.judge(&[0; 4096]);
        assert_eq!(zeros, Verdict::Stale(0), "never written");
    }
}
