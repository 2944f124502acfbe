//! Log-linear histograms: exact sum, count, least and greatest; quantiles to 1/32.

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use hybrid_abi::metrics::{bucket_of, bucket_upper, histogram_buckets, histogram_bytes};
use hybrid_shm::{OutOfBounds, ReadSpan, Span};

use super::handle::NotSend;

/// Sub-bucket bits of the histograms made here: a bucket is at most 1/32 of its values wide, so
/// that a quantile is at most 3.2 % too high; 15 KiB each.
pub const SUB_BITS: u32 = 5;

/// Words before the buckets: sum, max, complement of min, reserved.
const HEAD_WORDS: usize = 4;
const WORDS: usize = HEAD_WORDS + histogram_buckets(SUB_BITS) as usize;

/// A distribution over all of `u64`.
///
/// Invariants, named in the SAFETY lines:
/// 1. `words` is the first of `WORDS` aligned words inside a span that lives for `'static`, checked
///    when the handle was made; they are reached by atomics only.
/// 2. `bucket_of` is below `histogram_buckets` for every value (tested for every bucket's bounds).
#[derive(Clone, Copy, Debug)]
pub struct Histogram {
    words: NonNull<AtomicU64>,
    not_send: NotSend,
}

impl Histogram {
    /// The histogram at `offset` of `part`.
    pub(super) fn new(part: Span<'static>, offset: usize) -> Result<Self, OutOfBounds> {
        let bytes = part.sub(offset, histogram_bytes(SUB_BITS) as usize)?;
        bytes.word64(0)?;
        let refused = OutOfBounds { offset, len: bytes.len(), span_len: part.len() };
        Ok(Self {
            words: NonNull::new(bytes.as_ptr().cast()).ok_or(refused)?,
            not_send: PhantomData,
        })
    }

    /// Counts one value.
    #[inline]
    pub fn record(&self, value: u64) {
        let bucket = self.word(HEAD_WORDS + bucket_of(value, SUB_BITS) as usize);
        add(bucket, 1);
        add(self.word(0), value);
        raise(self.word(1), value);
        raise(self.word(2), !value);
    }

    /// Counts `times` equal values, such as the results of one batch.
    pub fn record_many(&self, value: u64, times: u64) {
        if times == 0 {
            return;
        }
        let bucket = self.word(HEAD_WORDS + bucket_of(value, SUB_BITS) as usize);
        add(bucket, times);
        add(self.word(0), value.wrapping_mul(times));
        raise(self.word(1), value);
        raise(self.word(2), !value);
    }

    /// The greatest value so far, 0 without one.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.word(1).load(Ordering::Relaxed)
    }

    /// Sum of all values, modulo 2^64.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.word(0).load(Ordering::Relaxed)
    }

    /// The word at `index`, which is below `WORDS` by invariant 2.
    #[inline(always)]
    fn word(&self, index: usize) -> &AtomicU64 {
        debug_assert!(index < WORDS);
        // SAFETY: invariants 1 and 2.
        unsafe { self.words.add(index).as_ref() }
    }
}

#[inline(always)]
fn add(word: &AtomicU64, more: u64) {
    let sum = word.load(Ordering::Relaxed).wrapping_add(more);
    word.store(sum, Ordering::Relaxed);
}

#[inline(always)]
fn raise(word: &AtomicU64, value: u64) {
    if value > word.load(Ordering::Relaxed) {
        word.store(value, Ordering::Relaxed);
    }
}

/// A histogram as a reader sees it: the words of a checked entry.
///
/// Each word is loaded when it is asked for, so that two questions may see different moments.
#[derive(Clone, Copy, Debug)]
pub struct HistogramSnapshot {
    words: ReadSpan<'static>,
    sub_bits: u32,
}

impl HistogramSnapshot {
    /// Over the bytes of a checked entry.
    pub(super) const fn new(words: ReadSpan<'static>, sub_bits: u32) -> Self {
        Self { words, sub_bits }
    }

    /// Number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets().fold(0, |sum, (_, count)| sum.wrapping_add(count))
    }

    /// Sum of all values, modulo 2^64.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.word(0)
    }

    /// The greatest value, 0 without one.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.word(1)
    }

    /// The least value, `u64::MAX` without one.
    #[must_use]
    pub fn min(&self) -> u64 {
        !self.word(2)
    }

    /// Mean, rounded down; 0 without values.
    #[must_use]
    pub fn mean(&self) -> u64 {
        self.sum().checked_div(self.count()).unwrap_or(0)
    }

    /// The value that `parts_per_million` of all values don't exceed: the upper bound of the bucket
    /// in which it lies, and never more than the greatest value. 0 without values.
    ///
    /// 500_000 is the median, 999_990 the 99.999th percentile.
    #[must_use]
    pub fn quantile(&self, parts_per_million: u32) -> u64 {
        const MILLION: u128 = 1_000_000;
        let wanted = u128::from(self.count()) * u128::from(parts_per_million.min(1_000_000));
        let rank = wanted.div_ceil(MILLION).max(1);
        let mut seen = 0u128;
        for (upper, count) in self.buckets() {
            seen += u128::from(count);
            if seen >= rank {
                return upper.min(self.max());
            }
        }
        self.max()
    }

    /// The greatest value of each bucket, and its count; empty buckets included.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let snapshot = *self;
        (0..histogram_buckets(self.sub_bits)).map(move |bucket| {
            let count = snapshot.word(HEAD_WORDS + bucket as usize);
            (bucket_upper(bucket, snapshot.sub_bits), count)
        })
    }

    fn word(&self, index: usize) -> u64 {
        // The entry's bounds were checked; a wrong index would read as an empty bucket.
        self.words.load64(index.saturating_mul(8)).unwrap_or(0)
    }
}
