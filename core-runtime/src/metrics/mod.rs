//! Counters, gauges and histograms in the shared region.
//!
//! [`MetricsWriter`] lays a metrics part out and gives handles onto its words; a partition keeps
//! the handles and writes them with plain relaxed stores; [`MetricsReader`], in the host or a tool,
//! iterates what is there by name. The layout is [`hybrid_abi::metrics`].
//!
//! Each word has one writer: the core that made the handle. So there is no read-modify-write, and a
//! handle can't be sent to another thread. Handles are copies of a reference and cost a pointer. A
//! counter is loaded and stored in its place: the region can't be written by others, and if it
//! could, a counter would be wrong and nothing else.
//!
//! Readers see each word whole, and different words at slightly different times.

mod handle;
mod histogram;
mod reader;
mod runtime;
mod writer;

pub use handle::{Counter, Gauge};
pub use histogram::{Histogram, HistogramSnapshot, SUB_BITS};
pub use reader::{Metric, MetricValue, MetricsReader};
pub use runtime::RuntimeMetrics;
pub use writer::{MetricsError, MetricsWriter, part_bytes};

#[cfg(test)]
mod tests {
    use super::*;
    use hybrid_abi::metrics::MetricUnit;

    #[test]
    fn handles_write_what_a_reader_finds() {
        let part = hybrid_shm::leak_aligned(part_bytes(3, 1), 128);
        let mut writer = MetricsWriter::new(part, 3).unwrap();
        let counter = writer.counter("counter", MetricUnit::COUNT).unwrap();
        let gauge = writer.gauge("gauge", MetricUnit::COUNT).unwrap();
        let histogram = writer.histogram("histogram", MetricUnit::COUNT).unwrap();
        counter.increment();
        gauge.raise(9);
        for value in [0, 77, u64::MAX] {
            histogram.record(value);
        }
        let reader = MetricsReader::new(part.read_only()).unwrap();
        assert_eq!((reader.number("counter"), reader.number("gauge")), (Some(1), Some(9)));
        let read = reader.histogram("histogram").unwrap();
        assert_eq!((read.count(), read.min(), read.max()), (3, 0, u64::MAX));
        assert_eq!(read.sum(), 76);
    }
}
