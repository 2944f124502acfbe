//! The metrics that every partition has.

use hybrid_abi::metrics::MetricUnit;

use super::handle::{Counter, Gauge};
use super::histogram::Histogram;
use super::writer::{MetricsError, MetricsWriter, part_bytes};

macro_rules! runtime_metrics {
    ($($field:ident: $handle:ident, $add:ident, $unit:ident, $doc:literal;)*) => {
        /// Handles onto the metrics that every partition has; their names are the fields' names.
        #[derive(Clone, Copy, Debug)]
        pub struct RuntimeMetrics {
            $(#[doc = $doc] pub $field: $handle,)*
        }

        impl RuntimeMetrics {
            /// Number of metrics here.
            pub const COUNT: u32 = 0 $(+ { let _ = stringify!($field); 1 })*;

            /// Adds all of them to a part.
            ///
            /// # Errors
            /// [`MetricsError`] if there is no room.
            pub fn register(writer: &mut MetricsWriter) -> Result<Self, MetricsError> {
                Ok(Self {
                    $($field: writer.$add(stringify!($field), MetricUnit::$unit)?,)*
                })
            }
        }
    };
}

runtime_metrics! {
    heartbeat: Counter, counter, COUNT, "Counts up while the loop lives.";
    polls: Counter, counter, COUNT, "Passes of the loop.";
    polls_empty: Counter, counter, COUNT, "Passes of the loop that found nothing to do.";
    task_polls: Counter, counter, COUNT, "Polls of tasks.";
    timers_fired: Counter, counter, COUNT, "Timers that came due.";
    budget_overruns: Counter, counter, COUNT, "Polls of tasks that took longer than their budget.";
    io_submitted: Counter, counter, COUNT, "Commands given to the device.";
    io_completed: Counter, counter, COUNT, "Commands that the device answered with success.";
    io_failed: Counter, counter, COUNT, "Commands that ended with an error.";
    io_retried: Counter, counter, COUNT, "Commands that were given to the device again.";
    io_repeated: Counter, counter, COUNT, "Reads that were lost and read again.";
    io_bytes: Counter, counter, BYTES, "Bytes of the commands given to the device, once each.";
    controller_resets: Counter, counter, COUNT, "Resets of the controller.";
    ring_dropped: Counter, counter, COUNT, "Records that found a ring to the host full.";
    stolen_ns: Counter, counter, NANOSECONDS, "Time in which the core did something else.";
    useful_ns: Counter, counter, NANOSECONDS,
        "Time of passes that found something to do, stolen time within a poll included.";
    empty_ns: Counter, counter, NANOSECONDS,
        "Time of the loop that was neither useful nor stolen: it looked and found nothing.";
    max_latency_ns: Gauge, gauge, NANOSECONDS, "Greatest latency of a command.";
    queue_depth: Gauge, gauge, COUNT, "Commands in flight.";
    queue_depth_high_water: Gauge, gauge, COUNT, "Most commands in flight.";
    ready_tasks: Gauge, gauge, COUNT, "Tasks that wait to be polled.";
    ready_tasks_high_water: Gauge, gauge, COUNT, "Most tasks that waited to be polled.";
    event_ring_depth: Gauge, gauge, BYTES, "Bytes in use of the ring to the host.";
    event_ring_high_water: Gauge, gauge, BYTES, "Most bytes in use of the ring to the host.";
    poll_to_poll_ns: Histogram, histogram, NANOSECONDS,
        "From one pass of the loop to the next; up to 1/8 too high, the greatest one exact.";
    stolen_gap_ns: Histogram, histogram, NANOSECONDS,
        "Gaps in which the core did something else; up to 1/8 too high, the greatest one exact.";
    read_latency_ns: Histogram, histogram, NANOSECONDS, "Sampled latency of reads.";
    write_latency_ns: Histogram, histogram, NANOSECONDS, "Sampled latency of writes.";
    budget_exceeded_ns: Histogram, histogram, NANOSECONDS,
        "By how much budgets were exceeded; up to 1/8 too high, the greatest one exact.";
}

impl RuntimeMetrics {
    /// Histograms among them.
    pub const HISTOGRAMS: u32 = 5;

    /// Bytes of a metrics part with all of these, and so many of an application, of which so many
    /// are histograms.
    #[must_use]
    pub const fn part_bytes(more: u32, more_histograms: u32) -> usize {
        part_bytes(
            Self::COUNT.saturating_add(more),
            Self::HISTOGRAMS.saturating_add(more_histograms),
        )
    }
}
