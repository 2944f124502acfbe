//! `--probes`, `--trace`, `--freeze-over` and the like: what the host keeps of the probes.
//!
//! The same for every program that starts a partition.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use hybrid_abi::probe::{Group, Level, RECORD_BYTES, bit_of, parse_groups};
use hybrid_conventions::{Bytes, Nanos, TimeUnit};

use super::{FreezeOver, ProbeWishes};
use crate::PartitionSpec;

/// Longest time that a threshold may be.
const LONGEST: Nanos = Nanos(3_600_000_000_000);

/// What is traced: docs/probes.md.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Probes", group = ArgGroup::new("freezes").multiple(true))]
pub struct ProbeArgs {
    /// Probes that are on from the start: `all`, `none`, or some of sched, timer, driver, bridge,
    /// ring, watchdog, feed, app, journal (no probe yet), each with an optional :error, :info,
    /// :debug or :trace [default: none; all:debug with --trace or a --freeze option]
    #[arg(long, value_name = "GROUPS", value_parser = parse_mask)]
    pub probes: Option<u64>,
    /// Follow the probes into this file, for `probe-util trace`
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// What the file has no room for yet is dropped and counted, instead of overwriting what was
    /// not read
    #[arg(long, requires = "trace")]
    pub trace_drop: bool,
    /// Save what the probes wrote last when a command takes longer
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_wait,
          group = "freezes")]
    pub freeze_over: Duration,
    /// Save it when a task exceeds its budget by more
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_wait,
          group = "freezes")]
    pub freeze_budget_over: Duration,
    /// Save it when the core was taken away for longer
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_wait,
          group = "freezes")]
    pub freeze_stolen_over: Duration,
    /// Where it is saved, a *.hytrace each time
    #[arg(long, value_name = "DIR", default_value = ".", requires = "freezes")]
    pub freeze_dir: PathBuf,
    /// Most times that it is saved
    #[arg(long, value_name = "N", default_value_t = 16, requires = "freezes")]
    pub freeze_most: u32,
    /// Bytes of the probe ring, rounded up to a power of two [default: 256k; 16M with --trace or a
    /// --freeze option]
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    pub probe_ring: Option<u64>,
}

/// A list of groups as the command line has it.
fn parse_mask(text: &str) -> Result<u64, String> {
    parse_groups(text).map_err(|no| no.to_string())
}

/// `200us`; plain numbers are nanoseconds.
fn parse_wait(text: &str) -> Result<Duration, String> {
    let time = Nanos::parse(text, TimeUnit::Nano).map_err(|no| no.to_string())?;
    if time.get() > LONGEST.get() {
        return Err(format!("allowed are 0 to {LONGEST}"));
    }
    Ok(Duration::from_nanos(time.get()))
}

/// `4k`, `2M`, `1G` or plain bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    text.parse::<Bytes>().map(Bytes::get).map_err(|no| no.to_string())
}

impl ProbeArgs {
    const fn over(&self) -> FreezeOver {
        FreezeOver {
            latency: self.freeze_over,
            budget: self.freeze_budget_over,
            stolen: self.freeze_stolen_over,
        }
    }

    /// Whether what it wrote is kept, and not just left in the region.
    fn keeps(&self) -> bool {
        self.over().is_on() || self.trace.is_some()
    }

    /// Which probes are on.
    fn mask(&self) -> u64 {
        let usual = if self.keeps() { "all:debug" } else { "none" };
        self.probes.unwrap_or_else(|| parse_groups(usual).unwrap_or(0))
    }

    /// Whether somebody looks at the latency of each command: the driver takes those of sampled
    /// ones only.
    #[must_use]
    pub fn wants_latencies(&self) -> bool {
        !self.freeze_over.is_zero() || self.mask() & bit_of(Group::DRIVER, Level::INFO) != 0
    }

    /// Makes a spec trace what is wanted.
    pub fn apply(&self, spec: &mut PartitionSpec) {
        let freezes = self.over().is_on();
        let (keeps, mask) = (self.keeps(), self.mask());
        let usual = if keeps { 16 << 20 } else { 256 << 10 };
        let records = self.probe_ring.unwrap_or(usual) / RECORD_BYTES as u64;
        spec.config.probe_records = u32::try_from(records).unwrap_or(u32::MAX);
        spec.probes = ProbeWishes {
            mask,
            freeze_over: self.over(),
            flight_dir: freezes.then(|| self.freeze_dir.clone()),
            flights: self.freeze_most,
            trace: self.trace.clone(),
            drops: self.trace_drop,
        };
    }
}
