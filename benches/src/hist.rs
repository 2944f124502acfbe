//! A log-linear histogram that allocates nothing: what a partition counts and the host reads.
//!
//! Values are ticks. Each power of two is cut into 64 buckets, so that a value is known to 1.6 % of
//! itself; count, sum, least and greatest are exact. A quantile is the upper bound of its bucket,
//! never below what was measured.

/// Buckets of each power of two, as a power of two.
const SUB_BITS: u32 = 6;
const SUB: usize = 1 << SUB_BITS;

/// Values from here on share the last bucket: 2^44 ticks are more than an hour.
const TOP_BITS: u32 = 44;

/// Number of buckets.
pub const BUCKETS: usize = (TOP_BITS - SUB_BITS + 1) as usize * SUB;

/// Counts of values.
#[derive(Clone, Debug)]
pub struct Hist {
    counts: [u64; BUCKETS],
    count: u64,
    sum: u64,
    min: u64,
    max: u64,
}

impl Default for Hist {
    fn default() -> Self {
        Self::new()
    }
}

impl Hist {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self { counts: [0; BUCKETS], count: 0, sum: 0, min: u64::MAX, max: 0 }
    }

    /// Counts a value.
    #[inline]
    pub const fn record(&mut self, value: u64) {
        self.counts[bucket_of(value)] += 1;
        self.count += 1;
        self.sum += value;
        if value < self.min {
            self.min = value;
        }
        if value > self.max {
            self.max = value;
        }
    }

    /// Forgets everything.
    pub const fn clear(&mut self) {
        *self = Self::new();
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.merge_totals(other.count, other.sum, other.min, other.max);
    }

    /// Moves all that was counted to `other`, or forgets it; looks only at the buckets between the
    /// least and the greatest value.
    pub fn drain_to(&mut self, other: Option<&mut Self>) {
        if self.count == 0 {
            return;
        }
        let range = bucket_of(self.min)..=bucket_of(self.max);
        if let Some(other) = other {
            let all = other.counts[range.clone()].iter_mut().zip(&self.counts[range.clone()]);
            all.for_each(|(theirs, mine)| *theirs += mine);
            other.merge_totals(self.count, self.sum, self.min, self.max);
        }
        self.counts[range].fill(0);
        (self.count, self.sum, self.min, self.max) = (0, 0, u64::MAX, 0);
    }

    /// Adds `count` to a bucket; one that does not exist is ignored. The exact totals come with
    /// [`Hist::merge_totals`].
    pub fn merge_bucket(&mut self, bucket: usize, count: u64) {
        if let Some(mine) = self.counts.get_mut(bucket) {
            *mine += count;
        }
    }

    /// Adds the exact totals of another one.
    pub fn merge_totals(&mut self, count: u64, sum: u64, min: u64, max: u64) {
        self.count += count;
        self.sum += sum;
        self.min = self.min.min(min);
        self.max = self.max.max(max);
    }

    /// Values counted.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.sum
    }

    /// The least; 0 of none.
    #[must_use]
    pub const fn min(&self) -> u64 {
        if self.count == 0 { 0 } else { self.min }
    }

    /// The greatest; 0 of none.
    #[must_use]
    pub const fn max(&self) -> u64 {
        self.max
    }

    /// Their mean; `None` of none.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.count != 0).then(|| self.sum as f64 / self.count as f64)
    }

    /// The value that `parts_per_million` of all do not exceed; 0 of none.
    #[must_use]
    pub fn quantile(&self, parts_per_million: u32) -> u64 {
        let wanted = u128::from(self.count) * u128::from(parts_per_million);
        let wanted = u64::try_from(wanted.div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return bounds(bucket).1.min(self.max).max(self.min());
            }
        }
        self.max
    }

    /// The least `r` such that `parts_per_million` of all lie within `centre - r` and
    /// `centre + r`, to a bucket's width; `None` of none.
    #[must_use]
    pub fn radius(&self, centre: u64, parts_per_million: u32) -> Option<u64> {
        let mut distances: Vec<(u64, u64)> = self
            .buckets()
            .map(|(low, high, count)| {
                // Whole buckets, by their far end: never below the true radius.
                let (low, high) = (low.max(self.min()), high.min(self.max));
                (centre.abs_diff(low).max(centre.abs_diff(high)), count)
            })
            .collect();
        distances.sort_unstable();
        let wanted = u128::from(self.count) * u128::from(parts_per_million);
        let mut seen = 0_u128;
        distances.into_iter().find_map(|(distance, count)| {
            seen += u128::from(count) * 1_000_000;
            (seen >= wanted).then_some(distance)
        })
    }

    /// The buckets that are not empty: least value, greatest value, count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let all = self.counts.iter().enumerate().filter(|(_, count)| **count != 0);
        all.map(|(bucket, count)| {
            let (low, high) = bounds(bucket);
            (low, high, *count)
        })
    }

    /// As [`Hist::buckets`], by number: what crosses a ring.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let all = self.counts.iter().enumerate().filter(|(_, count)| **count != 0);
        all.map(|(bucket, count)| (bucket, *count))
    }
}

/// The bucket of a value.
#[inline]
const fn bucket_of(value: u64) -> usize {
    const MOST: u64 = (1 << TOP_BITS) - 1;
    let value = if value > MOST { MOST } else { value };
    if value < SUB as u64 {
        return low_word(value);
    }
    let shift = 63 - value.leading_zeros() - SUB_BITS;
    (shift as usize + 1) * SUB + low_word(value >> shift) - SUB
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "below 2^7, by the shift")]
const fn low_word(value: u64) -> usize {
    value as usize
}

/// Least and greatest value of a bucket.
const fn bounds(bucket: usize) -> (u64, u64) {
    if bucket < SUB {
        return (bucket as u64, bucket as u64);
    }
    let shift = bucket / SUB - 1;
    let low = ((bucket % SUB + SUB) as u64) << shift;
    (low, low + (1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn a_histogram_that_is_drained_is_as_new() {
        let mut rng = Rng::new(3);
        let (mut part, mut whole, mut once) = (Hist::new(), Hist::new(), Hist::new());
        for round in 0..4 {
            for _ in 0..100 {
                let value = rng.next() >> (20 + rng.below(44));
                part.record(value);
                if round != 2 {
                    once.record(value);
                }
            }
            part.drain_to((round != 2).then_some(&mut whole));
            assert_eq!((part.count(), part.max(), part.buckets().count()), (0, 0, 0));
        }
        assert!(whole.numbered().eq(once.numbered()));
        let totals = |hist: &Hist| (hist.count(), hist.sum(), hist.min(), hist.max());
        assert_eq!(totals(&whole), totals(&once));
        part.drain_to(Some(&mut whole));
        assert_eq!(totals(&whole), totals(&once), "nothing is nothing");
    }

    #[test]
    fn each_value_lies_within_its_bucket_and_buckets_touch() {
        let mut rng = Rng::new(1);
        for bits in 0..44 {
            for value in [1 << bits, (1_u64 << bits) - 1, rng.next() >> (64 - bits.max(1))] {
                let (low, high) = bounds(bucket_of(value));
                assert!(low <= value && value <= high, "{value}: {low} to {high}");
                assert!((high - low) as f64 <= low as f64 / 32.0, "{value}: {low} to {high}");
            }
        }
        for bucket in 1..BUCKETS {
            assert_eq!(bounds(bucket).0, bounds(bucket - 1).1 + 1, "bucket {bucket}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_a_sorted_list_within_a_bucket() {
        let (mut hist, mut rng, mut all) = (Hist::new(), Rng::new(2), Vec::new());
        for _ in 0..10_000 {
            let value = rng.next() >> (30 + rng.below(30));
            hist.record(value);
            all.push(value);
        }
        all.sort_unstable();
        for ppm in [1, 500_000, 900_000, 990_000, 999_000, 1_000_000] {
            let exact = all[(all.len() * ppm as usize).div_ceil(1_000_000).max(1) - 1];
            let seen = hist.quantile(ppm);
            assert!(seen >= exact, "{ppm}: {seen} below {exact}");
            assert!(seen as f64 <= exact as f64 * 1.016 + 1.0, "{ppm}: {seen} for {exact}");
        }
        assert_eq!((hist.min(), hist.max()), (all[0], all[all.len() - 1]));
        assert_eq!(hist.sum(), all.iter().sum::<u64>());
    }

    #[test]
    fn a_merge_is_the_sum_and_a_transfer_by_buckets_loses_nothing() {
        let (mut a, mut b, mut both) = (Hist::new(), Hist::new(), Hist::new());
        for value in 0..1000 {
            if value % 3 == 0 {
                a.record(value * 7)
            } else {
                b.record(value * 7)
            }
            both.record(value * 7);
        }
        let mut sum = Hist::new();
        for part in [&a, &b] {
            part.numbered().for_each(|(bucket, count)| sum.merge_bucket(bucket, count));
            sum.merge_totals(part.count(), part.sum(), part.min(), part.max());
        }
        a.merge(&b);
        assert!(a.buckets().eq(both.buckets()) && sum.buckets().eq(both.buckets()));
        assert_eq!(sum.quantile(990_000), both.quantile(990_000));
    }

    #[test]
    fn the_radius_holds_so_many_on_both_sides() {
        let mut hist = Hist::new();
        (0..99).for_each(|_| hist.record(50));
        hist.record(20);
        assert_eq!(hist.radius(50, 990_000), Some(0));
        assert_eq!(hist.radius(50, 1_000_000), Some(30));
        assert_eq!(Hist::new().radius(5, 990_000), None);
    }
}
