//! Blocks that say where they belong.

/// Bytes of a stamped block.
pub(crate) const BLOCK: usize = 4096;
/// Stamped blocks of a device.
pub(crate) const BLOCKS: u64 = 4096;

/// Fills a block so that it is like no other, and like no memory that was never written.
pub(crate) fn stamp(block: u64, bytes: &mut [u8]) {
    for (at, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&word_of(block, at as u64).to_le_bytes());
    }
}

/// Whether every word is the one of this block.
pub(crate) fn is_right(block: u64, bytes: &[u8]) -> bool {
    let words = bytes.chunks_exact(8).enumerate();
    bytes.len() == BLOCK
        && words.into_iter().all(|(at, word)| word == word_of(block, at as u64).to_le_bytes())
}

const fn word_of(block: u64, at: u64) -> u64 {
    let mixed = (block << 20 | at).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_another_place_a_torn_one_and_an_empty_one_are_wrong() {
        let mut bytes = vec![0; BLOCK];
        assert!(!is_right(0, &bytes));
        stamp(7, &mut bytes);
        assert!(is_right(7, &bytes) && !is_right(8, &bytes) && !is_right(7, &bytes[..512]));
        let mut other = vec![0; BLOCK];
        stamp(8, &mut other);
        bytes[2048..].copy_from_slice(&other[2048..]);
        assert!(!is_right(7, &bytes));
    }
}
