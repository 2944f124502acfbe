//! Gaps between two looks at the clock, counted in log-linear buckets.
//!
//! Written by one spinner ([`super::spinner`]), read when it has ended. All memory is there from
//! the start: recording neither allocates nor faults. Values are TSC ticks; the report converts
//! them. A bucket is at most 1/32 of its value wide, so a percentile is at most 3.2 % too high.

/// Buckets an octave, as a power of two.
const SUB_BITS: u32 = 5;
const SUB: usize = 1 << SUB_BITS;
/// Values below 64 have a bucket each; each of the 58 octaves above has 32.
const BUCKETS: usize = (64 - SUB_BITS as usize) * SUB + SUB;

/// The counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    samples: u64,
    sum: u64,
    min: u64,
    max: u64,
}

impl Histogram {
    /// An empty one, its memory touched.
    pub(crate) fn new() -> Self {
        let mut counts = vec![0; BUCKETS];
        // Zeroed memory from the kernel is one shared page until it is written.
        for count in counts.iter_mut().step_by(64) {
            *std::hint::black_box(count) = 0;
        }
        Self { counts, samples: 0, sum: 0, min: u64::MAX, max: 0 }
    }

    /// Counts one value.
    #[inline]
    pub(crate) fn record(&mut self, value: u64) {
        if let Some(count) = self.counts.get_mut(bucket(value)) {
            *count += 1;
        }
        self.samples += 1;
        self.sum = self.sum.wrapping_add(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Values counted.
    pub(crate) fn samples(&self) -> u64 {
        self.samples
    }

    /// The smallest value; 0 without any.
    pub(crate) fn min(&self) -> u64 {
        if self.samples == 0 { 0 } else { self.min }
    }

    /// The largest value, exactly.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// The mean; 0 without any.
    pub(crate) fn mean(&self) -> u64 {
        self.sum.checked_div(self.samples).unwrap_or(0)
    }

    /// The value that `per_mille` of a thousand samples do not exceed, never above the maximum.
    pub(crate) fn permille(&self, per_mille: u64) -> u64 {
        let wanted = u128::from(self.samples) * u128::from(per_mille);
        let mut seen = 0_u128;
        for (index, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count) * 1000;
            if seen >= wanted && *count > 0 {
                return upper(index).min(self.max);
            }
        }
        self.max
    }

    /// Buckets that hold something: upper bound and count, ascending.
    pub(crate) fn filled(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let counts = self.counts.iter().enumerate();
        counts.filter(|(_, count)| **count > 0).map(|(index, count)| (upper(index), *count))
    }
}

/// The bucket of a value.
#[inline]
fn bucket(value: u64) -> usize {
    let shift = (64 - (value | 63).leading_zeros()) - (SUB_BITS + 1);
    // At most 63, because the shift leaves six bits.
    let place = usize::try_from(value >> shift).unwrap_or(0);
    shift as usize * SUB + place
}

/// The largest value of a bucket.
fn upper(index: usize) -> u64 {
    if index < 2 * SUB {
        return index as u64;
    }
    let shift = index / SUB - 1;
    let place = (index % SUB + SUB) as u64;
    ((u128::from(place) + 1) << shift).saturating_sub(1).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_the_bucket_that_its_upper_bound_names() {
        let mut values: Vec<u64> = (0..5_000).collect();
        for shift in 10..64 {
            for delta in [-1_i64, 0, 1] {
                values.push((1_u64 << shift).wrapping_add_signed(delta));
            }
        }
        values.push(u64::MAX);
        for value in values {
            let index = bucket(value);
            assert!(index < BUCKETS, "{value}");
            assert!(upper(index) >= value, "{value} above the bound of bucket {index}");
            assert!(index == 0 || upper(index - 1) < value, "{value} fits a bucket before {index}");
            assert!(upper(index) - value <= value / 32, "{value}: bucket {index} is too wide");
        }
    }

    #[test]
    fn percentiles_agree_with_a_sorted_list() {
        let mut seed = 7_u64;
        let mut histogram = Histogram::new();
        let mut values = Vec::new();
        for _ in 0..10_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let value = (seed >> 40) >> (seed % 20);
            histogram.record(value);
            values.push(value);
        }
        values.sort_unstable();
        for (per_mille, at) in [(500, 4_999), (990, 9_899), (999, 9_989), (1_000, 9_999)] {
            let (exact, said) = (values[at], histogram.permille(per_mille));
            assert!(said >= exact && said - exact <= exact / 32, "{per_mille}: {exact} {said}");
        }
        assert_eq!((histogram.min(), histogram.max()), (values[0], values[9_999]));
        assert_eq!(histogram.mean(), values.iter().sum::<u64>() / 10_000);
        assert_eq!(histogram.filled().map(|(_, count)| count).sum::<u64>(), 10_000);
    }

    #[test]
    fn an_empty_one_is_all_zeros() {
        let empty = Histogram::new();
        let figures =
            [empty.samples(), empty.min(), empty.mean(), empty.max(), empty.permille(999)];
        assert_eq!(figures, [0; 5]);
    }
}
