//! CRC32C (Castagnoli) by table, for the headers that this crate checks.
//!
//! Payloads are checked with `core_runtime::crc`, which uses the processor's instruction; this one
//! is for tools that know only the layouts, and for structures of a few dozen bytes.

/// Reflected polynomial of CRC32C, RFC 3720, appendix B.4.
const POLYNOMIAL: u32 = 0x82F6_3B78;

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0u32;
    while byte < 256 {
        let mut crc = byte;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
}

/// CRC32C of `bytes`.
#[must_use]
pub const fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    let mut i = 0;
    while i < bytes.len() {
        crc = (crc >> 8) ^ TABLE[((crc ^ bytes[i] as u32) & 0xFF) as usize];
        i += 1;
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    /// Vectors of RFC 3720, appendix B.4, and the usual check value.
    #[test]
    fn crc32c_gives_the_published_values() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(crc32c(b""), 0);
    }
}
