//! Iterates the metrics of a part that someone else writes.

use hybrid_abi::metrics::{COUNT_OFFSET, MetricEntry, MetricKind, MetricUnit, MetricsHeader};
use hybrid_shm::ReadSpan;

use super::histogram::HistogramSnapshot;
use super::writer::{MetricsError, entry_offset};

/// Reads a metrics part. The header is checked once, each entry when it is met.
#[derive(Clone, Copy, Debug)]
pub struct MetricsReader {
    part: ReadSpan<'static>,
    header: MetricsHeader,
}

/// One metric, with its value when it was met.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    entry: MetricEntry,
    /// Its value.
    pub value: MetricValue,
}

/// The value of a metric.
#[derive(Clone, Copy, Debug)]
pub enum MetricValue {
    /// A number that only grows.
    Counter(u64),
    /// A number.
    Gauge(u64),
    /// A distribution.
    Histogram(HistogramSnapshot),
    /// A kind of a newer writer.
    Unknown(u16),
}

impl Metric {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.entry.name.as_str()
    }

    /// In what it counts.
    #[must_use]
    pub const fn unit(&self) -> MetricUnit {
        self.entry.unit
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> MetricKind {
        self.entry.kind
    }
}

impl MetricsReader {
    /// Opens a metrics part.
    ///
    /// # Errors
    /// [`MetricsError`] if it is none, or is written by a newer version.
    pub fn new(part: ReadSpan<'static>) -> Result<Self, MetricsError> {
        let mut bytes = [0; size_of::<MetricsHeader>()];
        // SYNC metrics-made
        part.load64(0)?;
        part.read(0, &mut bytes)?;
        let header = MetricsHeader::parse(&bytes, part.len() as u64)?;
        Ok(Self { part, header })
    }

    /// Metrics that are there now.
    #[must_use]
    pub fn len(&self) -> u32 {
        // SYNC metrics-count
        let count = self.part.load32(COUNT_OFFSET).unwrap_or(0);
        count.min(self.header.capacity)
    }

    /// Whether there is none yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The metrics that are there now; an entry that is not what it should be is an error of its
    /// own, and does not hide the others.
    pub fn iter(&self) -> impl Iterator<Item = Result<Metric, MetricsError>> + use<> {
        let reader = *self;
        (0..reader.len()).map(move |index| reader.metric(index))
    }

    /// The metric of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Metric> {
        self.iter().flatten().find(|metric| metric.name() == name)
    }

    /// The counter or gauge of that name.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.find(name)?.value {
            MetricValue::Counter(value) | MetricValue::Gauge(value) => Some(value),
            _ => None,
        }
    }

    /// The histogram of that name.
    #[must_use]
    pub fn histogram(&self, name: &str) -> Option<HistogramSnapshot> {
        match self.find(name)?.value {
            MetricValue::Histogram(snapshot) => Some(snapshot),
            _ => None,
        }
    }

    fn metric(&self, index: u32) -> Result<Metric, MetricsError> {
        let mut bytes = [0; size_of::<MetricEntry>()];
        self.part.read(entry_offset(index), &mut bytes)?;
        let entry: MetricEntry = zerocopy::transmute!(bytes);
        entry.check(&self.header)?;
        let offset = entry.offset as usize;
        let value = match entry.kind {
            MetricKind::COUNTER => MetricValue::Counter(self.part.load64(offset)?),
            MetricKind::GAUGE => MetricValue::Gauge(self.part.load64(offset)?),
            MetricKind::HISTOGRAM => {
                let words = self.part.sub(offset, entry.value_bytes() as usize)?;
                MetricValue::Histogram(HistogramSnapshot::new(words, entry.sub_bits))
            }
            MetricKind(other) => MetricValue::Unknown(other),
        };
        Ok(Metric { entry, value })
    }
}
