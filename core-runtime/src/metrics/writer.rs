//! Lays a metrics part out and gives the handles.

use core::mem::offset_of;

use hybrid_abi::metrics::{
    COUNT_OFFSET, ENTRIES_OFFSET, METRICS_MAGIC, METRICS_MAX, MetricEntry, MetricKind, MetricUnit,
    MetricsHeader,
};
use hybrid_abi::{AbiError, Name};
use hybrid_shm::{OutOfBounds, Span, Word32};
use thiserror::Error;
use zerocopy::IntoBytes;

use super::handle::{Counter, Gauge};
use super::histogram::{Histogram, SUB_BITS};

/// Why a metrics part can't be made or a metric can't be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MetricsError {
    /// The part is too short.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    /// A header, an entry or a name is not what it should be.
    #[error(transparent)]
    Abi(#[from] AbiError),
    /// All entries are taken.
    #[error("metrics are full: {capacity} entries are taken")]
    EntriesFull {
        /// Entries of the part.
        capacity: u32,
    },
    /// The values' room is taken.
    #[error("metrics are full: {needed} bytes are needed for a value, {left} are left")]
    ValuesFull {
        /// Bytes that the value needs.
        needed: u32,
        /// Bytes that are left.
        left: u32,
    },
    /// The name is taken.
    #[error("a metric of that name is number {index} already")]
    Duplicate {
        /// Number of the entry that has it.
        index: u32,
    },
}

/// Bytes of a metrics part for so many entries, of which so many are histograms.
#[must_use]
pub const fn part_bytes(entries: u32, histograms: u32) -> usize {
    let (entries, histograms) = (entries as usize, histograms as usize);
    let numbers = entries.saturating_mul(8 + size_of::<MetricEntry>());
    let histograms = histograms.saturating_mul(histogram_value_bytes());
    numbers.saturating_add(histograms).saturating_add(ENTRIES_OFFSET)
}

const fn histogram_value_bytes() -> usize {
    hybrid_abi::metrics::histogram_bytes(SUB_BITS) as usize
}

/// Adds metrics to a part, before or while a reader looks at it.
///
/// Names are unique in a part.
#[derive(Debug)]
pub struct MetricsWriter {
    part: Span<'static>,
    header: MetricsHeader,
    count_word: Word32<'static>,
    next_value: u32,
}

impl MetricsWriter {
    /// Makes an empty metrics part with room for `entries` metrics in `part`; what is left after
    /// them is for values.
    ///
    /// # Errors
    /// [`MetricsError`] if the entries don't fit, or are more than [`METRICS_MAX`].
    pub fn new(part: Span<'static>, entries: u32) -> Result<Self, MetricsError> {
        let entries_bytes = u64::from(entries) * size_of::<MetricEntry>() as u64;
        let values = entries_bytes.saturating_add(ENTRIES_OFFSET as u64);
        let values_offset = u32::try_from(values).unwrap_or(u32::MAX);
        let part_bytes = u32::try_from(part.len()).unwrap_or(!7);
        let header = MetricsHeader::new(entries, values_offset, part_bytes);
        part.sub(0, ENTRIES_OFFSET)?;
        let magic = part.word64(offset_of!(MetricsHeader, magic))?;
        magic.store(0);
        header.check(part.len() as u64)?;
        part.fill(0, part.len(), 0)?;
        part.write(8, header.as_bytes().split_at(8).1)?;
        // SYNC metrics-made: who sees the magic sees the header.
        magic.store_release(METRICS_MAGIC);
        Ok(Self { part, header, count_word: part.word32(COUNT_OFFSET)?, next_value: values_offset })
    }

    /// The part, for whoever copies it.
    pub(crate) const fn part(&self) -> Span<'static> {
        self.part
    }

    /// Adds a counter.
    ///
    /// # Errors
    /// [`MetricsError`] if there is no room, or the name is taken or not one.
    pub fn counter(&mut self, name: &str, unit: MetricUnit) -> Result<Counter, MetricsError> {
        let offset = self.add(name, MetricKind::COUNTER, unit)?;
        Ok(Counter::new(self.part.word64(offset)?))
    }

    /// Adds a gauge.
    ///
    /// # Errors
    /// [`MetricsError`] if there is no room, or the name is taken or not one.
    pub fn gauge(&mut self, name: &str, unit: MetricUnit) -> Result<Gauge, MetricsError> {
        let offset = self.add(name, MetricKind::GAUGE, unit)?;
        Ok(Gauge::new(self.part.word64(offset)?))
    }

    /// Adds a histogram.
    ///
    /// # Errors
    /// [`MetricsError`] if there is no room, or the name is taken or not one.
    pub fn histogram(&mut self, name: &str, unit: MetricUnit) -> Result<Histogram, MetricsError> {
        let offset = self.add(name, MetricKind::HISTOGRAM, unit)?;
        Ok(Histogram::new(self.part, offset)?)
    }

    /// Metrics added so far.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.header.count
    }

    /// Whether none was added yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.header.count == 0
    }

    /// Adds an entry and gives its value's offset; the value is zero.
    fn add(
        &mut self,
        name: &str,
        kind: MetricKind,
        unit: MetricUnit,
    ) -> Result<usize, MetricsError> {
        let histogram = kind == MetricKind::HISTOGRAM;
        let entry = MetricEntry {
            name: Name::new("metric", name)?,
            kind,
            unit,
            offset: self.next_value,
            sub_bits: if histogram { SUB_BITS } else { 0 },
            reserved: 0,
        };
        let index = self.header.count;
        if index >= self.header.capacity {
            return Err(MetricsError::EntriesFull { capacity: self.header.capacity });
        }
        let needed = entry.value_bytes();
        let left = self.header.part_bytes - self.next_value;
        if needed > left {
            return Err(MetricsError::ValuesFull { needed, left });
        }
        self.check_unique(&entry)?;
        self.part.write(entry_offset(index), entry.as_bytes())?;
        self.next_value += needed;
        self.header.count += 1;
        // SYNC metrics-count: who sees the count sees the entries before it.
        self.count_word.store_release(self.header.count);
        Ok(entry.offset as usize)
    }

    fn check_unique(&self, entry: &MetricEntry) -> Result<(), MetricsError> {
        for index in 0..self.header.count {
            let mut name = [0; 48];
            self.part.read(entry_offset(index), &mut name)?;
            if name == *entry.name.as_bytes_padded() {
                return Err(MetricsError::Duplicate { index });
            }
        }
        Ok(())
    }
}

/// Offset of an entry; the name is its first field.
pub(super) const fn entry_offset(index: u32) -> usize {
    ENTRIES_OFFSET + index as usize * size_of::<MetricEntry>()
}

const _: () = assert!(offset_of!(MetricEntry, name) == 0);
const _: () = assert!(part_bytes(METRICS_MAX, METRICS_MAX) < u32::MAX as usize);
