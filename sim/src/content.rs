//! What a block holds: its address and the version that wrote it, and a pattern that proves both.
//!
//! The stamp of an application that checks its data end to end. Lengths are whole blocks of at
//! least 64 bytes; a version is never 0, and a block of zeros has none.

/// What was found in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// All zeros.
    Zeros,
    /// Whole, and written by this version.
    Version(u64),
    /// Whole, but of another block.
    Elsewhere(u64, u64),
    /// Anything else.
    Torn,
}

impl Content {
    /// A number that differs where contents do.
    #[inline]
    pub(crate) const fn number(self) -> u64 {
        match self {
            Self::Zeros => 0,
            Self::Version(version) => version,
            Self::Elsewhere(at, version) => mix(at, version) ^ 1 << 63,
            Self::Torn => u64::MAX,
        }
    }
}

const fn mix(lba: u64, version: u64) -> u64 {
    let x = lba.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version.wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ x >> 29 | 1
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().map(|word| u64::from_le_bytes(*word))
}

/// Writes `block` as version `version` of block `lba`.
pub(crate) fn stamp(block: &mut [u8], lba: u64, version: u64) {
    let step = mix(lba, version);
    let (words, _) = block.as_chunks_mut::<8>();
    let [first, second, rest @ ..] = words else { return };
    *first = lba.to_le_bytes();
    *second = version.to_le_bytes();
    let mut x = step;
    for word in rest {
        *word = x.to_le_bytes();
        x = x.wrapping_add(step);
    }
}

/// Spoils what a buffer held before, so that a read that transfers nothing is seen.
pub(crate) fn poison(block: &mut [u8]) {
    let (words, _) = block.as_chunks_mut::<8>();
    if let [first, second, .., last] = words {
        (*first, *second, *last) = ([0xEE; 8], [0xEE; 8], [0xEE; 8]);
    }
}

/// What `block`, read from block `lba`, holds.
pub(crate) fn look(block: &[u8], lba: u64) -> Content {
    let mut all = words(block);
    let (Some(at), Some(version)) = (all.next(), all.next()) else { return Content::Torn };
    let step = mix(at, version);
    let (mut x, mut differs, mut any) = (step, 0, at | version);
    for word in all {
        differs |= word ^ x;
        any |= word;
        x = x.wrapping_add(step);
    }
    match (any, differs) {
        (0, _) => Content::Zeros,
        (_, 0) if version != 0 && at == lba => Content::Version(version),
        (_, 0) if version != 0 => Content::Elsewhere(at, version),
        _ => Content::Torn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_and_every_flipped_bit_is_seen() {
        let mut block = [0; 512];
        assert_eq!(look(&block, 5), Content::Zeros);
        stamp(&mut block, 5, 77);
        assert_eq!(look(&block, 5), Content::Version(77));
        assert_eq!(look(&block, 6), Content::Elsewhere(5, 77));
        for bit in 0..512 * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(look(&block, 5), Content::Torn, "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
        let (half, other) = block.split_at_mut(256);
        half.copy_from_slice(other);
        assert_eq!(look(&block, 5), Content::Torn);
    }

    #[test]
    fn poison_is_no_content_whatever_was_there() {
        let mut block = [0; 512];
        stamp(&mut block, 1, 1);
        poison(&mut block);
        assert_eq!(look(&block, 1), Content::Torn);
        let mut zeros = [0; 512];
        poison(&mut zeros);
        assert_eq!(look(&zeros, 1), Content::Torn);
    }
}
