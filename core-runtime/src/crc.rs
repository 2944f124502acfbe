//! CRC32C (Castagnoli), the checksum of everything of ours that leaves a core: chunks on a device,
//! crash records, dumps.
//!
//! With SSE4.2 and PCLMULQDQ (every x86-64 server since 2010) the `crc32` instruction runs over
//! three parts of a block at once, since its latency is three times its throughput, and a
//! carry-less multiplication joins the three results. Without them, a table of 8 x 256 words does
//! eight bytes a step. What the processor has is asked once a process. Short inputs, and headers of
//! other crates, may use `hybrid_abi::crc`.
//!
//! Any thread may call it. Invariant, named in the SAFETY line:
//! 1. `hardware` is called only after CPUID said that the processor has both features.

/// Reflected polynomial of CRC32C. RFC 3720, appendix B.4.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// CRC32C of `bytes`.
#[inline]
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = Crc32c::new();
    crc.update(bytes);
    crc.value()
}

/// CRC32C of bytes that come in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crc32c {
    state: u32,
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

impl Crc32c {
    /// The checksum of no bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: !0 }
    }

    /// Adds `bytes`.
    #[inline]
    pub fn update(&mut self, bytes: &[u8]) {
        self.state = update(self.state, bytes);
    }

    /// The checksum of all that was added.
    #[inline]
    #[must_use]
    pub const fn value(&self) -> u32 {
        !self.state
    }
}

fn update(state: u32, bytes: &[u8]) -> u32 {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    if x86::available() {
        // SAFETY: invariant 1.
        return unsafe { x86::hardware(state, bytes) };
    }
    by_table(state, bytes)
}

/// `TABLES[k][b]`: what byte `b` does to the state when `k` more bytes follow in the step.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0_u32;
    while byte < 256 {
        let mut crc = byte;
        let mut bit = 0;
        while bit < 8 {
            crc = times_x(crc);
            bit += 1;
        }
        tables[0][byte as usize] = crc;
        byte += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[k - 1][byte];
            tables[k][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        k += 1;
    }
    tables
}

/// Multiplies by x, modulo the polynomial; the highest power is the lowest bit.
const fn times_x(crc: u32) -> u32 {
    (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg())
}

fn by_table(mut crc: u32, bytes: &[u8]) -> u32 {
    let (steps, tail) = bytes.as_chunks::<8>();
    for step in steps {
        let mut word = u64::from_le_bytes(*step) ^ u64::from(crc);
        crc = 0;
        for table in TABLES.iter().rev() {
            crc ^= table[(word & 0xff) as usize];
            word >>= 8;
        }
    }
    for &byte in tail {
        crc = (crc >> 8) ^ TABLES[0][((crc ^ u32::from(byte)) & 0xff) as usize];
    }
    crc
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod x86 {
    use core::arch::x86_64::{
        __cpuid, _mm_clmulepi64_si128, _mm_crc32_u8, _mm_crc32_u64, _mm_cvtsi64_si128,
        _mm_cvtsi128_si64,
    };

    use core::sync::atomic::{AtomicU8, Ordering};

    use super::times_x;

    /// Bytes of each of the three parts of a long block: three of them are just below a 4 KiB page.
    const LONG: usize = 1360;
    /// Bytes of each part of a short block: two of them fill most of 1 KiB.
    const SHORT: usize = 168;

    const UNKNOWN: u8 = 0;
    const ABSENT: u8 = 1;
    const PRESENT: u8 = 2;
    static HARDWARE: AtomicU8 = AtomicU8::new(UNKNOWN);

    #[inline]
    pub(super) fn available() -> bool {
        match HARDWARE.load(Ordering::Relaxed) {
            UNKNOWN => detect(),
            known => known == PRESENT,
        }
    }

    #[cold]
    fn detect() -> bool {
        /// CPUID leaf 1, ECX: bit 20 is SSE4.2, bit 1 is PCLMULQDQ.
        const NEEDED: u32 = 1 << 20 | 1 << 1;
        // The interpreter has neither CPUID nor the instructions.
        let present = !cfg!(miri) && __cpuid(1).ecx & NEEDED == NEEDED;
        HARDWARE.store(if present { PRESENT } else { ABSENT }, Ordering::Relaxed);
        present
    }

    /// What moves a state over `bytes` zero bytes: `x^(8 * bytes - 33)`. The carry-less product of
    /// two reflected words is one power short, and `crc32` of 64 bits multiplies by `x^32`.
    const fn shift(bytes: usize) -> u64 {
        let mut power = 1 << 31;
        let mut exponent = 0;
        while exponent < 8 * bytes - 33 {
            power = times_x(power);
            exponent += 1;
        }
        power as u64
    }

    #[target_feature(enable = "sse4.2,pclmulqdq")]
    pub(super) fn hardware(state: u32, bytes: &[u8]) -> u32 {
        let mut crc = u64::from(state);
        let mut rest = bytes;
        while let Some((block, after)) = rest.split_at_checked(3 * LONG) {
            crc = three::<LONG>(crc, block);
            rest = after;
        }
        while let Some((block, after)) = rest.split_at_checked(3 * SHORT) {
            crc = three::<SHORT>(crc, block);
            rest = after;
        }
        let (words, tail) = rest.as_chunks::<8>();
        for word in words {
            crc = _mm_crc32_u64(crc, u64::from_le_bytes(*word));
        }
        let mut crc = low(crc);
        for &byte in tail {
            crc = _mm_crc32_u8(crc, byte);
        }
        crc
    }

    /// Three parts of `PART` bytes at once. `block` has three times `PART` bytes.
    #[inline]
    #[target_feature(enable = "sse4.2,pclmulqdq")]
    fn three<const PART: usize>(state: u64, block: &[u8]) -> u64 {
        let (first, rest) = block.split_at(PART);
        let (second, third) = rest.split_at(PART);
        let parts = first.as_chunks::<8>().0.iter();
        let parts = parts.zip(second.as_chunks::<8>().0).zip(third.as_chunks::<8>().0);
        let (mut a, mut b, mut c) = (state, 0, 0);
        for ((x, y), z) in parts {
            a = _mm_crc32_u64(a, u64::from_le_bytes(*x));
            b = _mm_crc32_u64(b, u64::from_le_bytes(*y));
            c = _mm_crc32_u64(c, u64::from_le_bytes(*z));
        }
        let moved = multiply(a, const { shift(2 * PART) }) ^ multiply(b, const { shift(PART) });
        _mm_crc32_u64(0, moved) ^ c
    }

    /// Carry-less product of two 32-bit values.
    #[inline]
    #[target_feature(enable = "sse4.2,pclmulqdq")]
    fn multiply(a: u64, b: u64) -> u64 {
        let a = _mm_cvtsi64_si128(a.cast_signed());
        let b = _mm_cvtsi64_si128(b.cast_signed());
        _mm_cvtsi128_si64(_mm_clmulepi64_si128::<0>(a, b)).cast_unsigned()
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "`crc32` leaves the upper half zero")]
    const fn low(crc: u64) -> u32 {
        crc as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bitwise(bytes: &[u8]) -> u32 {
        let mut crc = !0;
        for &byte in bytes {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = times_x(crc);
            }
        }
        !crc
    }

    fn table(bytes: &[u8]) -> u32 {
        !by_table(!0, bytes)
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()[3]
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn golden_vectors_of_rfc_3720() {
        let up: Vec<u8> = (0..32).collect();
        let down: Vec<u8> = (0..32).rev().collect();
        let mut scsi_read = [0_u8; 48];
        scsi_read[0] = 0x01;
        scsi_read[1] = 0xc0;
        scsi_read[16] = 0x14;
        scsi_read[22] = 0x04;
        scsi_read[27] = 0x14;
        scsi_read[31] = 0x18;
        scsi_read[32] = 0x28;
        scsi_read[40] = 0x02;
        let vectors: [(&[u8], u32); 7] = [
            (b"", 0),
            (b"123456789", 0xE306_9283),
            (&[0; 32], 0x8A91_36AA),
            (&[0xFF; 32], 0x62A8_AB43),
            (&up, 0x46DD_794E),
            (&down, 0x113F_DB5C),
            (&scsi_read, 0xD996_3A56),
        ];
        for (bytes, crc) in vectors {
            assert_eq!(crc32c(bytes), crc, "{bytes:?}");
            assert_eq!(table(bytes), crc, "{bytes:?} by table");
            assert_eq!(bitwise(bytes), crc, "{bytes:?} by bit");
        }
    }

    #[test]
    fn every_length_and_offset_equals_the_bitwise_sum() {
        let bytes = noise(if cfg!(miri) { 64 } else { 9000 });
        let lengths =
            (0..64).chain([503, 504, 505, 1023, 1024, 4079, 4080, 4081, 4096, 8192, 8990]);
        for len in lengths {
            for offset in [0, 1, 7] {
                let Some(piece) = bytes.get(offset..offset + len) else {
                    continue;
                };
                assert_eq!(crc32c(piece), bitwise(piece), "{len} bytes at {offset}");
                assert_eq!(table(piece), bitwise(piece), "{len} bytes at {offset} by table");
            }
        }
    }

    #[test]
    fn pieces_give_the_sum_of_the_whole() {
        let bytes = noise(if cfg!(miri) { 100 } else { 6000 });
        let whole = crc32c(&bytes);
        for cut in (0..bytes.len()).step_by(97) {
            let (head, tail) = bytes.split_at(cut);
            let mut crc = Crc32c::new();
            crc.update(head);
            crc.update(tail);
            assert_eq!(crc.value(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn one_flipped_bit_changes_the_sum() {
        let mut bytes = noise(if cfg!(miri) { 16 } else { 256 });
        let whole = crc32c(&bytes);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(crc32c(&bytes), whole, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
