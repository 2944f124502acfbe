//! A small, fast generator of random numbers: SplitMix64 (Steele, Lea, Flood, 2014).

/// The generator; the same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    #[inline(always)]
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound` (which is not 0), by multiplication; the bias is below 2^-32.
    #[inline(always)]
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        let high = ((self.next() >> 32) * u64::from(bound)) >> 32;
        u32::try_from(high).unwrap_or(0)
    }

    /// Whether an event of `chances` in 256 happens.
    #[inline(always)]
    pub(super) fn chance(&mut self, chances: u32) -> bool {
        self.below(256) < chances
    }

    /// Approximately exponential with this mean: doublings are geometric, between them uniform.
    pub(super) fn exponential(&mut self, mean: u64) -> u64 {
        let bits = self.next();
        let doublings = u64::from(bits.leading_zeros()) << 16 | (bits & 0xFFFF);
        // ln 2 = 45426 / 65536.
        let scaled = u128::from(mean) * u128::from(doublings) * 45_426;
        (scaled >> 32).try_into().unwrap_or(mean)
    }
}
