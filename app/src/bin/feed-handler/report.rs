//! What one run found, and its two forms: a screen for people ([`screen`]), JSON for programs.
//!
//! Filled by `run` from the partition's metrics and the host's clock; it measures nothing itself.
//! Times are nanoseconds, sizes bytes, prices not shown. Every figure that the model took part in
//! is labelled so: it says what our software costs, not what a drive does.

mod screen;
#[cfg(test)]
mod tests;

use serde::{Serialize, Serializer};

/// Schema of the JSON form; a field that changes its meaning gets a new number.
pub(crate) const SCHEMA: &str = "feed-handler/1";

/// Everything that is reported of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// [`SCHEMA`].
    pub(crate) schema: &'static str,
    pub(crate) title: String,
    pub(crate) device: Device,
    pub(crate) machine: Machine,
    pub(crate) ingest: Option<Phase>,
    pub(crate) replay: Option<Phase>,
    pub(crate) feed: Option<Feed>,
    pub(crate) reads: Option<Latency>,
    pub(crate) writes: Option<Latency>,
    /// 4 KiB reads, one at a time, after the work.
    pub(crate) single_reads: Option<Latency>,
    pub(crate) driver: Driver,
    pub(crate) ring: Ring,
    pub(crate) core: Core,
    pub(crate) silence: Silence,
    pub(crate) starts: Starts,
    /// What of a journal was replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) journal: Option<serde_json::Value>,
    /// Whether a signal ended the run before its work was done.
    pub(crate) interrupted: bool,
}

/// The controller and its namespace.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Device {
    pub(crate) name: String,
    /// A model, and not a drive.
    pub(crate) is_model: bool,
    /// What the backend says of it and of the way to it.
    pub(crate) backend: String,
    pub(crate) model_number: String,
    pub(crate) firmware: String,
    pub(crate) namespace_bytes: u64,
    pub(crate) lba_bytes: u64,
    pub(crate) max_transfer_bytes: u64,
    pub(crate) queue_depth: u64,
}

/// The machine, and what of it the partition got.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu_model: String,
    pub(crate) cpus: u64,
    pub(crate) kernel: String,
    pub(crate) governor: Option<String>,
    pub(crate) virtual_machine: bool,
    pub(crate) tsc_hz: u64,
    pub(crate) partition_cpu: u32,
    pub(crate) partition_cpu_isolated: bool,
    pub(crate) isolation: String,
    pub(crate) dma_bytes: u64,
    pub(crate) page_bytes: u64,
    pub(crate) private_used_bytes: u64,
    /// What it keeps for a next start: its books.
    pub(crate) state_bytes: u64,
}

/// A stretch of work.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Phase {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) ns: u64,
    pub(crate) messages_per_second: u64,
    pub(crate) bytes_per_second: u64,
}

impl Phase {
    /// `messages` and `bytes` in `ns`.
    pub(crate) fn new(messages: u64, bytes: u64, ns: u64) -> Self {
        let per_second = |amount: u64| {
            let rate = u128::from(amount) * 1_000_000_000 / u128::from(ns.max(1));
            u64::try_from(rate).unwrap_or(u64::MAX)
        };
        Self {
            messages,
            bytes,
            ns,
            messages_per_second: per_second(messages),
            bytes_per_second: per_second(bytes),
        }
    }
}

/// What the feed held and what the books made of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Feed {
    /// Message type and count, in the specification's order, without those that did not occur.
    #[serde(serialize_with = "as_object")]
    pub(crate) messages_by_type: Vec<(String, u64)>,
    pub(crate) unknown_types: u64,
    pub(crate) refused: u64,
    pub(crate) books: u64,
    pub(crate) bbo_changes: u64,
    pub(crate) trades: u64,
    pub(crate) trading_states: u64,
    pub(crate) orders_open: u64,
    pub(crate) orders_high_water: u64,
    pub(crate) orders_capacity: u64,
}

/// Latencies of one kind of command, from post to reap.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    /// Bytes of each command but a few: a chunk's, or as much of it as one transfer may have.
    pub(crate) request_bytes: u64,
    pub(crate) samples: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    pub(crate) max_ns: u64,
}

/// What the driver cost.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Driver {
    pub(crate) commands: u64,
    pub(crate) failed: u64,
    pub(crate) retried: u64,
    /// Reads that were lost and read again.
    pub(crate) repeated: u64,
    pub(crate) resets: u64,
    /// TSC ticks of submitting one 4 KiB read in a burst of 32: building, posting and ringing. The
    /// median burst's.
    pub(crate) submit_cycles: Option<f64>,
    /// TSC ticks of completing one of them.
    pub(crate) complete_cycles: Option<f64>,
}

/// The event ring from the partition to the host.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Ring {
    pub(crate) events: u64,
    pub(crate) dropped: u64,
    /// How often the partition found it full and waited.
    pub(crate) waits: u64,
    pub(crate) high_water_bytes: u64,
    pub(crate) capacity_bytes: u64,
}

/// How quiet the partition's core was while it ran.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Core {
    pub(crate) ran_ns: u64,
    pub(crate) passes: u64,
    pub(crate) task_polls: u64,
    pub(crate) budget_overruns: u64,
    pub(crate) gap_p99_ns: u64,
    pub(crate) gap_max_ns: u64,
    pub(crate) stolen_ns: u64,
    pub(crate) stolen_gaps: u64,
}

/// What became of the partition's starts.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Starts {
    /// Starts after an end.
    pub(crate) restarts: u64,
    /// Changes from the device to other storage.
    pub(crate) fallbacks: u64,
    /// Bytes of the feed that the last start did not decode again.
    pub(crate) resumed_bytes: u64,
}

/// What the partition did that it must not do while it runs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Silence {
    /// Heap calls while running.
    pub(crate) heap_allocations: Option<u64>,
    /// System calls while running; `None`: not asked for.
    pub(crate) system_calls: Option<u64>,
    /// Page faults from the entry's begin to its end.
    pub(crate) page_faults: u64,
    /// How often Linux took the CPU away.
    pub(crate) involuntary_switches: u64,
}

impl Report {
    /// The JSON form, one object on many lines.
    pub(crate) fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// One screen of text, at most [`screen::COLUMNS`] wide.
    pub(crate) fn to_text(&self) -> String {
        screen::of(self)
    }
}

/// Pairs as one object, in their order.
fn as_object<S: Serializer>(pairs: &[(String, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, count)| (name, count)))
}
