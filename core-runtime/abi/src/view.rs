//! Metrics and directories in bytes that were copied out of a region: for the host's exporter and
//! for tools, which see a partition from outside and may be of another version than it is.
//!
//! A view checks once and then hands out values that cannot lie outside of the bytes. What it finds
//! wrong is an error of that one thing.

use zerocopy::FromBytes;

use crate::metrics::{
    ENTRIES_OFFSET, HISTOGRAM_HEAD_BYTES, HistogramHead, MetricEntry, MetricKind, MetricsHeader,
    bucket_upper, histogram_buckets,
};
use crate::region::{DirectoryEntry, PartKind, RegionHeader};
use crate::{AbiError, prefix};

/// Bytes at a region's start that hold its header and its directory, whatever it is: tools read so
/// many, or the region if it is shorter.
pub const REGION_HEAD_BYTES: usize = 8192;

/// Header and directory of a region.
#[derive(Clone, Copy, Debug)]
pub struct RegionView<'a> {
    header: RegionHeader,
    directory: &'a [u8],
}

impl<'a> RegionView<'a> {
    /// Over the first bytes of a region of `region_bytes`.
    ///
    /// # Errors
    /// [`AbiError`] naming what is not allowed; a magic of zero means that it is not published yet.
    pub fn parse(head: &'a [u8], region_bytes: u64) -> Result<Self, AbiError> {
        let header = RegionHeader::parse(head, region_bytes)?;
        let (from, to) = (header.directory_offset as usize, header.directory_end());
        let to = usize::try_from(to).unwrap_or(usize::MAX);
        let short = AbiError::Short { what: "directory", found: head.len(), needed: to };
        Ok(Self { header, directory: head.get(from..to).ok_or(short)? })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &RegionHeader {
        &self.header
    }

    /// The parts that lie inside the region.
    pub fn parts(&self) -> impl Iterator<Item = DirectoryEntry> + use<'a> {
        let header = self.header;
        let entries = self.directory.chunks_exact(size_of::<DirectoryEntry>());
        let entries = entries.filter_map(|bytes| DirectoryEntry::read_from_bytes(bytes).ok());
        entries.filter(move |entry| entry.check(&header).is_ok())
    }

    /// The part of that kind and name.
    #[must_use]
    pub fn part(&self, kind: PartKind, name: &str) -> Option<DirectoryEntry> {
        self.parts().find(|entry| entry.kind == kind && entry.name.as_str() == name)
    }
}

/// A metrics part.
#[derive(Clone, Copy, Debug)]
pub struct MetricsView<'a> {
    header: MetricsHeader,
    part: &'a [u8],
}

impl<'a> MetricsView<'a> {
    /// Over the bytes of a part.
    ///
    /// # Errors
    /// [`AbiError`] naming what is not allowed.
    pub fn parse(part: &'a [u8]) -> Result<Self, AbiError> {
        Ok(Self { header: MetricsHeader::parse(part, part.len() as u64)?, part })
    }

    /// The metrics; an entry that is not what it should be is an error of its own.
    pub fn iter(&self) -> impl Iterator<Item = Result<MetricView<'a>, AbiError>> + use<'a> {
        let view = *self;
        (0..self.header.count as usize).map(move |index| view.metric(index))
    }

    /// The metric of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<MetricView<'a>> {
        self.iter().flatten().find(|metric| metric.name() == name)
    }

    /// The counter or gauge of that name; 0 where there is none.
    #[must_use]
    pub fn number(&self, name: &str) -> u64 {
        self.find(name).and_then(|metric| metric.number()).unwrap_or(0)
    }

    /// The histogram of that name.
    #[must_use]
    pub fn histogram(&self, name: &str) -> Option<HistogramView<'a>> {
        self.find(name)?.histogram()
    }

    fn metric(&self, index: usize) -> Result<MetricView<'a>, AbiError> {
        let from = ENTRIES_OFFSET + index * size_of::<MetricEntry>();
        let entry: MetricEntry = prefix("metric entry", self.part.get(from..).unwrap_or_default())?;
        entry.check(&self.header)?;
        let (from, len) = (entry.offset as usize, entry.value_bytes() as usize);
        let value = self.part.get(from..from.saturating_add(len)).unwrap_or_default();
        Ok(MetricView { entry, value })
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct MetricView<'a> {
    entry: MetricEntry,
    value: &'a [u8],
}

impl<'a> MetricView<'a> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.entry.name.as_str()
    }

    /// What stands of it in the part.
    #[must_use]
    pub const fn entry(&self) -> &MetricEntry {
        &self.entry
    }

    /// The value of a counter or a gauge.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        match self.entry.kind {
            MetricKind::COUNTER | MetricKind::GAUGE => words(self.value).next().or(Some(0)),
            _ => None,
        }
    }

    /// The distribution of a histogram.
    #[must_use]
    pub fn histogram(&self) -> Option<HistogramView<'a>> {
        if self.entry.kind != MetricKind::HISTOGRAM {
            return None;
        }
        let (head, buckets) = self.value.split_at_checked(HISTOGRAM_HEAD_BYTES as usize)?;
        let head: HistogramHead = prefix("histogram", head).ok()?;
        let sub_bits = self.entry.sub_bits;
        Some(HistogramView { head, buckets, before: None, sub_bits })
    }
}

/// The percentiles that are told of every distribution, in millionths.
pub const PERCENTILES: [(&str, u32); 6] = [
    ("p50", 500_000),
    ("p90", 900_000),
    ("p99", 990_000),
    ("p99_9", 999_000),
    ("p99_99", 999_900),
    ("p99_999", 999_990),
];

/// A distribution: all of it, or what came since an earlier look.
#[derive(Clone, Copy, Debug)]
pub struct HistogramView<'a> {
    head: HistogramHead,
    buckets: &'a [u8],
    before: Option<(HistogramHead, &'a [u8])>,
    sub_bits: u32,
}

impl<'a> HistogramView<'a> {
    /// What came since `before`, an earlier look at the same histogram; one of another shape is
    /// none.
    #[must_use]
    pub const fn since(self, before: Option<HistogramView<'a>>) -> Self {
        match before {
            Some(before) if before.sub_bits == self.sub_bits => {
                Self { before: Some((before.head, before.buckets)), ..self }
            }
            _ => self,
        }
    }

    /// The greatest value of each bucket, and its count; empty buckets included. A count that went
    /// back is one that was begun anew.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + use<'a> {
        let sub_bits = self.sub_bits;
        let mut counts = words(self.buckets);
        let mut before = words(self.before.map_or(&[][..], |(_, buckets)| buckets));
        (0..histogram_buckets(sub_bits)).map(move |bucket| {
            let (now, then) = (counts.next().unwrap_or(0), before.next().unwrap_or(0));
            (bucket_upper(bucket, sub_bits), now.checked_sub(then).unwrap_or(now))
        })
    }

    /// Number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets().fold(0, |sum, (_, count)| sum.wrapping_add(count))
    }

    /// Sum of all values, modulo 2^64.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.head.sum.wrapping_sub(self.before.map_or(0, |(head, _)| head.sum))
    }

    /// The greatest value, 0 without one; of a difference the upper bound of its last bucket.
    #[must_use]
    pub fn max(&self) -> u64 {
        if self.before.is_none() {
            return self.head.max;
        }
        let last = self.buckets().filter(|(_, count)| *count != 0).last();
        last.map_or(0, |(upper, _)| upper.min(self.head.max))
    }

    /// The least value of all that ever came, 0 without one.
    #[must_use]
    pub const fn min(&self) -> u64 {
        if self.head.min_inverted == 0 && self.head.max == 0 { 0 } else { !self.head.min_inverted }
    }

    /// The value that `parts_per_million` of all values don't exceed: the upper bound of its
    /// bucket, and never more than the greatest value. 0 without values.
    #[must_use]
    pub fn quantile(&self, parts_per_million: u32) -> u64 {
        let wanted = u128::from(self.count()) * u128::from(parts_per_million.min(1_000_000));
        let rank = wanted.div_ceil(1_000_000).max(1);
        let mut seen = 0_u128;
        for (upper, count) in self.buckets() {
            seen = seen.saturating_add(count.into());
            if seen >= rank {
                return upper.min(self.head.max);
            }
        }
        0
    }

    /// What is told of it, by name: count, mean, [`PERCENTILES`] and the greatest value.
    pub fn told(self) -> impl Iterator<Item = (&'static str, u64)> + use<'a> {
        let count = self.count();
        let first = [("count", count), ("mean", self.sum().checked_div(count).unwrap_or(0))];
        let percentiles =
            PERCENTILES.into_iter().map(move |(name, ppm)| (name, self.quantile(ppm)));
        first.into_iter().chain(percentiles).chain([("max", self.max())])
    }
}

/// The whole words of `bytes`. One walk over them, and no look at all of them for each: an
/// interpreter that checks borrows takes minutes for that.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + use<'_> {
    bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Name;
    use crate::metrics::{MetricUnit, SUB_BITS_MIN, bucket_of, histogram_bytes};
    use zerocopy::IntoBytes;

    /// A part with a counter of 7 and a histogram of `values`.
    fn part(values: &[u64]) -> Vec<u8> {
        shaped(values, 5)
    }

    /// The same, its histogram of another shape.
    fn shaped(values: &[u64], sub_bits: u32) -> Vec<u8> {
        let entry = |name, kind, offset, sub_bits| MetricEntry {
            name: Name::lossy(name),
            kind,
            unit: MetricUnit::COUNT,
            offset,
            sub_bits,
            reserved: 0,
        };
        let entries = [
            entry("io", MetricKind::COUNTER, 256, 0),
            entry("latency", MetricKind::HISTOGRAM, 264, sub_bits),
        ];
        let bytes = 264 + histogram_bytes(sub_bits);
        let mut header = MetricsHeader::new(2, 256, bytes);
        header.count = 2;
        let mut part = header.as_bytes().to_vec();
        part.extend(entries.as_bytes());
        part.extend(7_u64.to_le_bytes());
        let max = values.iter().copied().max().unwrap_or(0);
        let min = values.iter().copied().min().map_or(0, |min| !min);
        let head = HistogramHead { sum: values.iter().sum(), max, min_inverted: min, reserved: 0 };
        part.extend(head.as_bytes());
        let mut buckets = vec![0_u64; histogram_buckets(sub_bits) as usize];
        for value in values {
            buckets[bucket_of(*value, sub_bits) as usize] += 1;
        }
        part.extend(buckets.as_bytes());
        part
    }

    #[test]
    fn values_are_read_by_name() {
        let part = part(&[10, 20, 1000]);
        let view = MetricsView::parse(&part).expect("a part");
        assert_eq!((view.number("io"), view.number("nothing")), (7, 0));
        let latency = view.histogram("latency").expect("one");
        assert_eq!((latency.count(), latency.sum(), latency.min()), (3, 1030, 10));
        assert_eq!((latency.quantile(500_000), latency.quantile(1_000_000)), (20, 1000));
        assert!(view.histogram("io").is_none());
    }

    #[test]
    fn a_difference_knows_only_what_came_since() {
        let (before, after) = (part(&[10, 5000]), part(&[10, 5000, 30, 30]));
        let of = |bytes| MetricsView::parse(bytes).expect("a part").histogram("latency");
        let latency = of(&after).expect("one").since(of(&before));
        assert_eq!((latency.count(), latency.sum(), latency.max()), (2, 60, 30));
        assert_eq!(latency.quantile(999_000), 30);
        let none = of(&after).expect("one").since(of(&after));
        assert_eq!((none.count(), none.max(), none.quantile(500_000)), (0, 0, 0));
    }

    #[test]
    fn parts_that_lie_give_errors_and_never_more() {
        // Each look walks all buckets, twice, and there are 1200: fewer of both when interpreted.
        let (good, step) =
            if cfg!(miri) { (shaped(&[1], SUB_BITS_MIN), 19) } else { (part(&[1]), 1) };
        for at in (0..good.len().min(300)).step_by(step) {
            for value in [0, 1, 0x7F, 0xFF] {
                let mut part = good.clone();
                part[at] = value;
                let Ok(view) = MetricsView::parse(&part) else { continue };
                for metric in view.iter().flatten() {
                    let _ = (metric.number(), metric.histogram().map(|h| h.quantile(990_000)));
                }
            }
        }
        for len in 0..good.len().min(300) {
            assert!(MetricsView::parse(&good[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn a_directory_is_read_from_a_regions_first_bytes() {
        let entry = DirectoryEntry {
            offset: 256,
            len: 64,
            kind: PartKind::METRICS,
            reserved: 0,
            name: Name::lossy("metrics"),
        };
        let header = RegionHeader {
            region_bytes: 4096,
            directory_entries: 2,
            ..RegionHeader::blank(crate::region::WRITER_PARTITION)
        };
        let outside = DirectoryEntry { offset: 4096, ..entry };
        let mut head = header.as_bytes().to_vec();
        head.extend(entry.as_bytes());
        head.extend(outside.as_bytes());
        let view = RegionView::parse(&head, 4096).expect("a region");
        assert_eq!(view.part(PartKind::METRICS, "metrics"), Some(entry));
        assert_eq!(view.parts().count(), 1);
        assert!(RegionView::parse(&head[..200], 4096).is_err());
        assert!(RegionView::parse(&head, 4095).is_err());
    }
}
