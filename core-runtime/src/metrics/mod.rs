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
