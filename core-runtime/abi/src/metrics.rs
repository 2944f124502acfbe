//! Metrics of a region: entries that name them, then their words.
//!
//! ```text
//!   0                MetricsHeader (128 bytes)
//!   128              MetricEntry x capacity; the first `count` are valid
//!   values_offset    the values, each at a multiple of 8
//! ```
//! A counter or gauge is one `u64`. A histogram is a [`HistogramHead`] and then its buckets, one
//! `u64` each: log-linear, `2^sub_bits` buckets for each power of two, so that the width of a
//! bucket is at most `2^-sub_bits` of its values. Each word has one writer.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{ABI_VERSION, AbiError, LINE_BYTES, Name, check_version, prefix};

/// Magic of a metrics part: `HYMETRIC`.
pub const METRICS_MAGIC: u64 = u64::from_le_bytes(*b"HYMETRIC");

/// Most metrics of a part: a runtime has about 40, an application rarely as many again.
pub const METRICS_MAX: u32 = 512;

/// Sub-bucket bits of a histogram: a bucket is at most 1/8 of its values wide.
pub const SUB_BITS_MIN: u32 = 3;
/// Sub-bucket bits of a histogram: a bucket is at most 1/128 of its values wide.
pub const SUB_BITS_MAX: u32 = 7;

/// The first bytes of a metrics part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MetricsHeader {
    /// [`METRICS_MAGIC`]; stored last.
    pub magic: u64,
    /// [`ABI_VERSION`] of the writer.
    pub version: u32,
    /// Entries for which there is room, at most [`METRICS_MAX`].
    pub capacity: u32,
    /// Offset of the first value.
    pub values_offset: u32,
    /// Length of the part in bytes.
    pub part_bytes: u32,
    /// Entries that are valid; stored with Release after each addition.
    pub count: u32,
    /// Zero.
    pub reserved: [u8; 100],
}

const _: () = assert!(size_of::<MetricsHeader>() == LINE_BYTES && align_of::<MetricsHeader>() == 8);
const _: () = assert!(offset_of!(MetricsHeader, values_offset) == 16);
const _: () = assert!(offset_of!(MetricsHeader, count) == 24);

/// Offset of [`MetricsHeader::count`], which a reader loads by itself.
pub const COUNT_OFFSET: usize = offset_of!(MetricsHeader, count);
/// Offset of the first [`MetricEntry`].
pub const ENTRIES_OFFSET: usize = LINE_BYTES;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct MetricKind(pub u16);

impl MetricKind {
    /// Only grows, but for its wrap at 2^64.
    pub const COUNTER: Self = Self(1);
    /// Any value at any time.
    pub const GAUGE: Self = Self(2);
    /// A distribution.
    pub const HISTOGRAM: Self = Self(3);

    /// Its name, `unknown` for a kind of a newer writer.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::COUNTER => "counter",
            Self::GAUGE => "gauge",
            Self::HISTOGRAM => "histogram",
            _ => "unknown",
        }
    }
}

/// In what a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct MetricUnit(pub u16);

impl MetricUnit {
    /// Things.
    pub const COUNT: Self = Self(0);
    /// Nanoseconds.
    pub const NANOSECONDS: Self = Self(1);
    /// TSC ticks.
    pub const TICKS: Self = Self(2);
    /// Bytes.
    pub const BYTES: Self = Self(3);

    /// Its name as a suffix: `ns`, `ticks`, `bytes`, or nothing.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NANOSECONDS => "ns",
            Self::TICKS => "ticks",
            Self::BYTES => "bytes",
            _ => "",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MetricEntry {
    /// Its name, unique in the part.
    pub name: Name<48>,
    /// What it is.
    pub kind: MetricKind,
    /// In what it counts.
    pub unit: MetricUnit,
    /// Offset of its value in the part, a multiple of 8.
    pub offset: u32,
    /// Sub-bucket bits of a histogram, else 0.
    pub sub_bits: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<MetricEntry>() == 64 && align_of::<MetricEntry>() == 4);
const _: () = assert!(offset_of!(MetricEntry, kind) == 48);
const _: () = assert!(offset_of!(MetricEntry, offset) == 52);
const _: () = assert!(offset_of!(MetricEntry, sub_bits) == 56);

/// What stands before the buckets of a histogram. The number of samples is the buckets' sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct HistogramHead {
    /// Sum of all samples, modulo 2^64.
    pub sum: u64,
    /// Greatest sample; 0 where there is none.
    pub max: u64,
    /// Bitwise complement of the least sample, so that zeroed memory is an empty histogram.
    pub min_inverted: u64,
    /// Zero.
    pub reserved: u64,
}

const _: () = assert!(size_of::<HistogramHead>() == 32 && align_of::<HistogramHead>() == 8);
const _: () = assert!(offset_of!(HistogramHead, min_inverted) == 16);

/// Bytes of a [`HistogramHead`].
pub const HISTOGRAM_HEAD_BYTES: u32 = 32;

/// Buckets of a histogram over all of `u64`.
#[must_use]
pub const fn histogram_buckets(sub_bits: u32) -> u32 {
    (65 - sub_bits) << sub_bits
}

/// Bytes of a histogram, its head included.
#[must_use]
pub const fn histogram_bytes(sub_bits: u32) -> u32 {
    HISTOGRAM_HEAD_BYTES + 8 * histogram_buckets(sub_bits)
}

/// The bucket of a value: linear below `2^sub_bits`, then `2^sub_bits` for each power of two.
#[inline(always)]
#[must_use]
pub const fn bucket_of(value: u64, sub_bits: u32) -> u32 {
    // The shift that leaves `sub_bits + 1` significant bits; 0 for small values.
    let shift = (63 - sub_bits).wrapping_sub((value | (1 << sub_bits)).leading_zeros());
    #[expect(clippy::cast_possible_truncation, reason = "at most sub_bits + 1 bits are left")]
    let top = (value >> (shift & 63)) as u32;
    (shift << sub_bits).wrapping_add(top)
}

/// The greatest value of a bucket.
#[must_use]
pub const fn bucket_upper(bucket: u32, sub_bits: u32) -> u64 {
    let above = bucket >> sub_bits;
    if above < 2 {
        return bucket as u64;
    }
    let shift = if above > 64 - sub_bits { 63 - sub_bits } else { above - 1 };
    let top = (1u64 << sub_bits) | (bucket & ((1 << sub_bits) - 1)) as u64;
    // The last bucket ends at u64::MAX: the shifted successor wraps to 0.
    ((top + 1) << shift).wrapping_sub(1)
}

impl MetricsHeader {
    /// The header at the start of `bytes`, checked against a part of `part_bytes`.
    ///
    /// # Errors
    /// [`AbiError`] naming the field that is not allowed.
    pub fn parse(bytes: &[u8], part_bytes: u64) -> Result<Self, AbiError> {
        let header: Self = prefix("metrics", bytes)?;
        header.check(part_bytes)?;
        Ok(header)
    }

    /// A header of this version without entries.
    #[must_use]
    pub const fn new(capacity: u32, values_offset: u32, part_bytes: u32) -> Self {
        Self {
            magic: METRICS_MAGIC,
            version: ABI_VERSION,
            capacity,
            values_offset,
            part_bytes,
            count: 0,
            reserved: [0; 100],
        }
    }

    /// Whether the fields are within their bounds.
    ///
    /// # Errors
    /// [`AbiError`] naming the field that is not allowed.
    pub fn check(&self, part_bytes: u64) -> Result<(), AbiError> {
        if self.magic != METRICS_MAGIC {
            return Err(AbiError::Magic {
                what: "metrics",
                found: self.magic,
                expected: METRICS_MAGIC,
            });
        }
        check_version("metrics", self.version)?;
        let entries = u64::from(self.capacity) * size_of::<MetricEntry>() as u64;
        let entries_end = ENTRIES_OFFSET as u64 + entries;
        for (field, found, allowed) in [
            ("length", u64::from(self.part_bytes), part_bytes),
            ("capacity", self.capacity.into(), METRICS_MAX.into()),
            ("count", self.count.into(), self.capacity.into()),
            ("entries' end", entries_end, self.values_offset.into()),
            ("values offset", self.values_offset.into(), self.part_bytes.into()),
        ] {
            if found > allowed {
                return Err(AbiError::Field { what: "metrics", field, found, allowed });
            }
        }
        Ok(())
    }
}

impl MetricEntry {
    /// Bytes of its value; 0 for a kind of a newer writer.
    #[must_use]
    pub const fn value_bytes(&self) -> u32 {
        match self.kind {
            MetricKind::COUNTER | MetricKind::GAUGE => 8,
            MetricKind::HISTOGRAM if self.sub_bits <= SUB_BITS_MAX => {
                histogram_bytes(self.sub_bits)
            }
            _ => 0,
        }
    }

    /// Whether the value lies inside the values of a checked header.
    ///
    /// # Errors
    /// [`AbiError`] naming the field that is not allowed.
    pub fn check(&self, header: &MetricsHeader) -> Result<(), AbiError> {
        const WHAT: &str = "metric entry";
        let bad = |field, found: u64, allowed: u64| {
            Err(AbiError::Field { what: WHAT, field, found, allowed })
        };
        self.name.check(WHAT)?;
        let sub_bits = self.sub_bits;
        let histogram = self.kind == MetricKind::HISTOGRAM;
        if histogram && !(SUB_BITS_MIN..=SUB_BITS_MAX).contains(&sub_bits) {
            return bad("sub-bucket bits", sub_bits.into(), SUB_BITS_MAX.into());
        }
        if !self.offset.is_multiple_of(8) || self.offset < header.values_offset {
            return bad("offset", self.offset.into(), header.values_offset.into());
        }
        let end = u64::from(self.offset) + u64::from(self.value_bytes());
        if end > u64::from(header.part_bytes) {
            return bad("end", end, header.part_bytes.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_its_golden_bytes() {
        let entry = MetricEntry {
            name: Name::lossy("io_completed"),
            kind: MetricKind::HISTOGRAM,
            unit: MetricUnit::NANOSECONDS,
            offset: 0x0102_0300,
            sub_bits: 5,
            reserved: 0,
        };
        let mut golden = b"io_completed".to_vec();
        golden.extend([0; 36]);
        golden.extend([3, 0, 1, 0, 0, 3, 2, 1, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(entry.as_bytes(), golden);
    }

    #[test]
    fn the_header_has_its_golden_bytes() {
        let header = MetricsHeader::new(2, 256, 4096);
        let mut golden = b"HYMETRIC".to_vec();
        golden.extend([1, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 16, 0, 0]);
        golden.extend([0; 104]);
        assert_eq!(header.as_bytes(), golden);
        assert_eq!(MetricsHeader::parse(&golden, 4096), Ok(header));
        assert!(MetricsHeader::parse(&golden, 4095).is_err());
    }

    #[test]
    fn every_bucket_begins_where_the_one_before_ends() {
        for sub_bits in SUB_BITS_MIN..=SUB_BITS_MAX {
            let last = histogram_buckets(sub_bits) - 1;
            for bucket in 0..last {
                let upper = bucket_upper(bucket, sub_bits);
                assert_eq!(bucket_of(upper, sub_bits), bucket);
                assert_eq!(bucket_of(upper + 1, sub_bits), bucket + 1);
            }
            assert_eq!(bucket_upper(last, sub_bits), u64::MAX);
            assert_eq!(bucket_of(u64::MAX, sub_bits), last);
        }
    }

    #[test]
    fn a_bucket_is_at_most_its_share_of_its_values_wide() {
        for sub_bits in SUB_BITS_MIN..=SUB_BITS_MAX {
            for bucket in 1..histogram_buckets(sub_bits) {
                let lower = bucket_upper(bucket - 1, sub_bits) + 1;
                let width = bucket_upper(bucket, sub_bits) - lower + 1;
                assert!(width == 1 || width <= lower >> sub_bits, "{sub_bits} {bucket}");
            }
        }
    }

    #[test]
    fn bucket_functions_stand_any_argument() {
        for sub_bits in SUB_BITS_MIN..=SUB_BITS_MAX {
            for bucket in [u32::MAX, u32::MAX / 2, histogram_buckets(sub_bits)] {
                let _ = bucket_upper(bucket, sub_bits);
            }
        }
    }

    #[test]
    fn entries_that_lie_are_refused() {
        let header = MetricsHeader::new(2, 256, 4096);
        let good = MetricEntry {
            name: Name::lossy("a"),
            kind: MetricKind::COUNTER,
            unit: MetricUnit::COUNT,
            offset: 256,
            sub_bits: 0,
            reserved: 0,
        };
        assert_eq!(good.check(&header), Ok(()));
        let said = |change: fn(&mut MetricEntry)| {
            let mut entry = good;
            change(&mut entry);
            entry.check(&header).unwrap_err().to_string()
        };
        assert_eq!(said(|e| e.offset = 248), "metric entry has offset 248, allowed is 256");
        assert_eq!(said(|e| e.offset = 4096), "metric entry has end 4104, allowed is 4096");
        assert!(said(|e| e.offset = u32::MAX - 7).contains("end 4294967296"));
        assert!(said(|e| e.offset = 257).contains("offset 257"));
        assert!(said(|e| e.kind = MetricKind::HISTOGRAM).contains("sub-bucket bits 0"));
        assert!(said(|e| e.name = Name::EMPTY).contains("name"));
    }
}
