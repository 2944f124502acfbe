//! Blocks that say what they are: number, version, and a checksum over all of it.

use core_runtime::crc::crc32c;

const MAGIC: u64 = u64::from_le_bytes(*b"CRSHDRLL");
/// Magic, block, version; then the pattern; the checksum is the last four bytes.
const HEAD: usize = 24;
const SUM: usize = 4;

/// Fills `bytes` for a block and a version.
pub(crate) fn fill(block: u64, version: u64, bytes: &mut [u8]) {
    let Some(pattern_end) = bytes.len().checked_sub(SUM) else { return };
    for (at, word) in [MAGIC, block, version].into_iter().enumerate() {
        bytes[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
    }
    let mut state = block.rotate_left(32) ^ version | 1;
    for word in bytes[HEAD..pattern_end].chunks_mut(8) {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
    let sum = crc32c(&bytes[..pattern_end]).to_le_bytes();
    bytes[pattern_end..].copy_from_slice(&sum);
}

/// The version that a block holds, 0 for one that was never written; `None` if it is torn, or is
/// another block.
pub(crate) fn version(block: u64, bytes: &[u8]) -> Option<u64> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Some(0);
    }
    let (body, sum) = bytes.split_last_chunk::<SUM>()?;
    let word = |at: usize| body.get(8 * at..8 * at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let good = crc32c(body).to_le_bytes() == *sum && word(0)? == MAGIC && word(1)? == block;
    if good { word(2) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_blocks_and_blocks_of_elsewhere_have_no_version() {
        let mut bytes = vec![0; 4096];
        assert_eq!(version(3, &bytes), Some(0));
        fill(3, 17, &mut bytes);
        assert_eq!((version(3, &bytes), version(4, &bytes)), (Some(17), None));
        let mut newer = vec![0; 4096];
        fill(3, 18, &mut newer);
        for cut in [17, 512, 2048, 4092] {
            let torn = [&newer[..cut], &bytes[cut..]].concat();
            assert_eq!(version(3, &torn), None, "cut at {cut}");
        }
    }
}
