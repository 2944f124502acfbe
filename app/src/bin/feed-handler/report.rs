//! What one run found, and its two forms: a screen for people, JSON for programs.
//!
//! Filled by `run` from the partition's metrics and the host's clock; it measures nothing itself.
//! Times are nanoseconds, sizes bytes, prices not shown. Every figure that the model took part in
//! is labelled so: it says what our software costs, not what a drive does.

use std::fmt::{self, Write as _};

use hybrid_conventions::{Count, HumanBytes, HumanNanos, Si};
use serde::Serialize;

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
    /// Whether a signal ended the run before its work was done.
    pub(crate) interrupted: bool,
}

/// The controller and its namespace.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Device {
    pub(crate) name: String,
    /// A model, and not a drive.
    pub(crate) is_model: bool,
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
    pub(crate) dma_bytes: u64,
    pub(crate) page_bytes: u64,
    pub(crate) private_used_bytes: u64,
}

/// A stretch of work.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Phase {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) ns: u64,
}

impl Phase {
    fn per_second(&self, amount: u64) -> u64 {
        let rate = u128::from(amount) * 1_000_000_000 / u128::from(self.ns.max(1));
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

/// What the feed held and what the books made of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Feed {
    /// Message type and count, in the specification's order, without those that did not occur.
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
    /// Bytes that one request asks for; the driver may split it at MDTS.
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
    pub(crate) resets: u64,
    /// TSC ticks of submitting one 4 KiB read in a burst of 32: building, posting and ringing.
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

/// What the partition's thread did that it must not do while it runs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Silence {
    /// Heap calls while running.
    pub(crate) heap_allocations: Option<u64>,
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

    /// One screen of text, at most 100 columns.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "{}", self.title)?;
        if self.interrupted {
            writeln!(out, "interrupted: the figures are those of the part that was done")?;
        }
        writeln!(out)?;
        self.device.write(out)?;
        self.machine.write(out)?;
        self.write_phases(out)?;
        if let Some(feed) = &self.feed {
            feed.write(out)?;
        }
        self.write_latencies(out)?;
        self.driver.write(out)?;
        self.ring.write(out)?;
        self.core.write(out)?;
        self.silence.write(out)
    }

    fn write_phases(&self, out: &mut String) -> fmt::Result {
        let phases = [("ingest", &self.ingest), ("replay", &self.replay)];
        if phases.iter().all(|(_, phase)| phase.is_none()) {
            return Ok(());
        }
        writeln!(
            out,
            "\n{:8}  {:>14} {:>12} {:>12} {:>16} {:>14}",
            "", "messages", "bytes", "time", "messages/s", "bytes/s"
        )?;
        for (name, phase) in phases {
            let Some(phase) = phase else { continue };
            writeln!(
                out,
                "{name:8}  {:>14} {:>12} {:>12} {:>16} {:>14}",
                Count(phase.messages),
                HumanBytes(phase.bytes),
                HumanNanos(phase.ns),
                Si(phase.per_second(phase.messages)),
                format!("{}/s", HumanBytes(phase.per_second(phase.bytes))),
            )?;
        }
        writeln!(out)
    }

    fn write_latencies(&self, out: &mut String) -> fmt::Result {
        let kinds = [
            ("write", "window", &self.writes),
            ("read", "window", &self.reads),
            ("read", "alone", &self.single_reads),
        ];
        if kinds.iter().all(|(_, _, latency)| latency.is_none()) {
            return Ok(());
        }
        let kind = if self.device.is_model { "(model)" } else { "" };
        writeln!(
            out,
            "\n{:20}  {:>9} {:>10} {:>10} {:>10} {:>10} {:>10}",
            format!("latency {kind}"),
            "size", "samples", "p50", "p99", "p99.9", "max"
        )?;
        for (name, how, latency) in kinds {
            let Some(latency) = latency else { continue };
            writeln!(
                out,
                "{:20}  {:>9} {:>10} {:>10} {:>10} {:>10} {:>10}",
                format!("{name}, {how}"),
                HumanBytes(latency.request_bytes),
                Count(latency.samples),
                HumanNanos(latency.p50_ns),
                HumanNanos(latency.p99_ns),
                HumanNanos(latency.p999_ns),
                HumanNanos(latency.max_ns),
            )?;
        }
        writeln!(out)
    }
}

impl Device {
    fn write(&self, out: &mut String) -> fmt::Result {
        let kind = if self.is_model {
            "a software model of an NVMe controller: figures say what our software costs, \
             \n          not what a drive does"
        } else {
            "an NVMe controller"
        };
        writeln!(out, "device    {}: {kind}", self.name)?;
        writeln!(
            out,
            "          {} {}, {} in blocks of {}, MDTS {}, queue depth {}",
            self.model_number,
            self.firmware,
            HumanBytes(self.namespace_bytes),
            HumanBytes(self.lba_bytes),
            HumanBytes(self.max_transfer_bytes),
            self.queue_depth,
        )
    }
}

impl Machine {
    fn write(&self, out: &mut String) -> fmt::Result {
        let isolated = if self.partition_cpu_isolated { "isolated" } else { "not isolated" };
        writeln!(
            out,
            "machine   {}, {} CPUs, Linux {}, TSC {:.3} GHz",
            self.cpu_model,
            self.cpus,
            self.kernel,
            self.tsc_hz as f64 / 1e9,
        )?;
        writeln!(
            out,
            "          partition on CPU {} ({isolated}, governor {}{}), {} DMA and {} private memory in \
             {} pages",
            self.partition_cpu,
            self.governor.as_deref().unwrap_or("unknown"),
            if self.virtual_machine { ", virtual machine" } else { "" },
            HumanBytes(self.dma_bytes),
            HumanBytes(self.private_used_bytes),
            HumanBytes(self.page_bytes),
        )
    }
}

impl Feed {
    fn write(&self, out: &mut String) -> fmt::Result {
        let mut line = String::from("messages ");
        for (kind, count) in &self.messages_by_type {
            let entry = format!(" {kind} {}", Count(*count));
            if line.len() + entry.len() > 98 {
                writeln!(out, "{line}")?;
                line = String::from("         ");
            }
            line.push_str(&entry);
        }
        writeln!(out, "{line}")?;
        writeln!(
            out,
            "          {} of unknown type, {} refused",
            Count(self.unknown_types),
            Count(self.refused)
        )?;
        writeln!(
            out,
            "books     {} books, {} BBO changes, {} trades, {} trading states",
            Count(self.books),
            Count(self.bbo_changes),
            Count(self.trades),
            Count(self.trading_states),
        )?;
        writeln!(
            out,
            "          {} orders open at the end, {} at most (room for {})",
            Count(self.orders_open),
            Count(self.orders_high_water),
            Count(self.orders_capacity),
        )
    }
}

impl Driver {
    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(
            out,
            "driver    {} commands, {} failed, {} retried, {} resets",
            Count(self.commands),
            Count(self.failed),
            Count(self.retried),
            Count(self.resets),
        )?;
        let (Some(submit), Some(complete)) = (self.submit_cycles, self.complete_cycles) else {
            return Ok(());
        };
        writeln!(
            out,
            "          {submit:.0} cycles to submit and {complete:.0} to complete a 4 KiB read (TSC \
             ticks, bursts of 32)",
        )
    }
}

impl Ring {
    fn write(&self, out: &mut String) -> fmt::Result {
        let full = self.high_water_bytes * 100 / self.capacity_bytes.max(1);
        writeln!(
            out,
            "ring      {} events, {} dropped, {} waits, at most {full} % of {} used",
            Count(self.events),
            Count(self.dropped),
            Count(self.waits),
            HumanBytes(self.capacity_bytes),
        )
    }
}

impl Core {
    fn write(&self, out: &mut String) -> fmt::Result {
        let stolen_ppm = self.stolen_ns.saturating_mul(1_000_000) / self.ran_ns.max(1);
        writeln!(
            out,
            "core      {} passes in {}, {} task polls, {} over budget",
            Count(self.passes),
            HumanNanos(self.ran_ns),
            Count(self.task_polls),
            Count(self.budget_overruns),
        )?;
        writeln!(
            out,
            "          pass to pass p99 {}, max {}; stolen by others {} in {} gaps ({} ppm)",
            HumanNanos(self.gap_p99_ns),
            HumanNanos(self.gap_max_ns),
            HumanNanos(self.stolen_ns),
            Count(self.stolen_gaps),
            Count(stolen_ppm),
        )
    }
}

impl Silence {
    fn write(&self, out: &mut String) -> fmt::Result {
        match self.heap_allocations {
            Some(calls) => write!(out, "          {} heap allocations", Count(calls))?,
            None => write!(out, "          heap allocations not counted")?,
        }
        writeln!(
            out,
            ", {} page faults, {} times preempted",
            Count(self.page_faults),
            Count(self.involuntary_switches)
        )
    }
}
