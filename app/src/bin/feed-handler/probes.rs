//! `--probes`, `--trace`, `--freeze-over` and the like: what the host keeps of the probes.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use host_bridge::PartitionSpec;
use host_bridge::probes::{FreezeOver, ProbeWishes};
use hybrid_abi::probe::{RECORD_BYTES, parse_groups};

use crate::values::{parse_size, parse_wait};

/// What is traced: docs/probes.md.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Probes")]
pub(crate) struct ProbeArgs {
    /// Probes that are on from the start: `all`, `none`, or some of sched, timer, driver, bridge,
    /// ring, watchdog, feed, app, journal, each with an optional :error, :info, :debug or :trace
    /// [default: none; all:debug with --trace or a --freeze option]
    #[arg(long, value_name = "GROUPS", value_parser = parse_mask)]
    pub(crate) probes: Option<u64>,
    /// Follow the probes into this file, for `probe-util trace`
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// Save what the probes wrote last when a command takes longer
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_wait)]
    pub(crate) freeze_over: Duration,
    /// Save it when a task exceeds its budget by more
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_wait)]
    pub(crate) freeze_budget_over: Duration,
    /// Save it when the core was taken away for longer
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_wait)]
    pub(crate) freeze_stolen_over: Duration,
    /// Where it is saved, a *.hytrace each time
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) freeze_dir: PathBuf,
    /// Most times that it is saved
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) freeze_most: u32,
    /// Bytes of the probe ring, rounded up to a power of two [default: 256k; 16M with --trace or a
    /// --freeze option]
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    pub(crate) probe_ring: Option<u64>,
}

/// A list of groups as the command line has it.
fn parse_mask(text: &str) -> Result<u64, String> {
    parse_groups(text).map_err(|no| no.to_string())
}

impl ProbeArgs {
    const fn over(&self) -> FreezeOver {
        FreezeOver {
            latency: self.freeze_over,
            budget: self.freeze_budget_over,
            stolen: self.freeze_stolen_over,
        }
    }

    /// Makes a spec trace what is wanted.
    pub(crate) fn apply(&self, spec: &mut PartitionSpec) {
        let freezes = self.over().is_on();
        let keeps = freezes || self.trace.is_some();
        let usual = if keeps { "all:debug" } else { "none" };
        let mask = self.probes.unwrap_or_else(|| parse_groups(usual).unwrap_or(0));
        let usual = if keeps { 16 << 20 } else { 256 << 10 };
        let records = self.probe_ring.unwrap_or(usual) / RECORD_BYTES as u64;
        spec.config.probe_records = u32::try_from(records).unwrap_or(u32::MAX);
        spec.probes = ProbeWishes {
            mask,
            freeze_over: self.over(),
            flight_dir: freezes.then(|| self.freeze_dir.clone()),
            flights: self.freeze_most,
            trace: self.trace.clone(),
        };
    }
}
