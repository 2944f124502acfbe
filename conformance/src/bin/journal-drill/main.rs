//! `journal-drill`: a log on a drive whose every write somebody else notes, and what a power
//! failure would have left of it.
//!
//! ```text
//!   drive  ─▶ records, openings, laps on a controller, and a mark in the last block for all that
//!             was acknowledged ─▶ QEMU's blklogwrites (or dm-log-writes) notes writes and flushes
//!   replay ◀─ the notes: every prefix, every write missing, alone or torn at the block
//! ```
//! The guest tests run the first in the guest and the second on the host. What is known of the log
//! comes from the notes and not from the journal: the marks say what was acknowledged, the batches
//! that were submitted say what there may be, and each record follows from seed and number.
#![forbid(unsafe_code)]

mod crash;
mod load;
mod notes;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use host_bridge::backend::model::{LatencyModel, ModelConfig, NamespaceConfig};
use host_bridge::backend::{DeviceOptions, from_spec};
use host_bridge::topology::Topology;
use host_bridge::{Entry, PartitionSpec, Runtime};
use hybrid_conventions::{CpuSet, DeviceSpec, Exit};
use zerocopy::IntoBytes as _;

use crate::load::Job;

/// The entry of the partition.
const ENTRY: Entry = Entry::new("journal-drill", load::run);

/// Blocks of 512 bytes of an image that is not there yet: 4 MiB.
const BLOCKS: u64 = 8192;

/// A drive in an emulator that is busy with others.
const LOOK_EVERY: Duration = Duration::from_millis(20);

host_bridge::partition_main! {
    entries: [ENTRY],
    main: host,
}

/// A log on a drive whose writes are noted, and the crashes that the notes tell of.
#[derive(Debug, Parser)]
#[command(name = "journal-drill", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 ok, 1 error (a record was lost, made up, or the device \
    failed), 3 something is missing (with the command that fixes it).")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Write a log, its openings and truncations, and marks of what was acknowledged
    Drive {
        /// The controller: a PCI address, `model:IMAGE` or `uring:PATH`; its namespace 1 is
        /// overwritten. The model has blocks of 512 bytes and a write cache, and completes commands
        /// out of order
        #[arg(long, value_name = "DEVICE")]
        device: String,
        /// Overwrite what is there
        #[arg(long)]
        allow_writes: bool,
        /// Records in all
        #[arg(long, value_name = "N", default_value_t = 6000)]
        records: u64,
        /// Openings of the log
        #[arg(long, value_name = "N", default_value_t = 4)]
        openings: u64,
        /// Seed of records and bursts
        #[arg(long, value_name = "SEED", default_value_t = 1)]
        seed: u64,
        /// The CPU that the partition takes [default: the last isolated one, else the last]
        #[arg(long, value_name = "CPU")]
        core: Option<u32>,
    },
    /// Go through the crashes that a file of notes tells of: dm-log-writes' format, version 1
    Replay {
        /// The notes
        notes: PathBuf,
        /// Seed of the drive's records
        #[arg(long, value_name = "SEED", default_value_t = 1)]
        seed: u64,
        /// Crashes, about: all prefixes, and of the rest one in so many that it comes to that; 0
        /// for all
        #[arg(long, value_name = "N", default_value_t = 20_000)]
        points: u64,
    },
}

fn host() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are results.
            let exit = if error.use_stderr() { Exit::Error } else { Exit::Ok };
            let _ = error.print();
            return exit.code().into();
        }
    };
    let result = match &cli.command {
        Command::Drive { .. } => drive(&cli.command),
        Command::Replay { notes, seed, points } => std::fs::read(notes)
            .map_err(|error| (Exit::Missing, format!("{}: {error}", notes.display())))
            .and_then(|bytes| {
                crash::replay(&bytes, *seed, *points).map_err(|line| (Exit::Error, line))
            }),
    };
    match result {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err((exit, line)) => {
            eprintln!("journal-drill: {line}");
            exit.code().into()
        }
    }
}

fn drive(command: &Command) -> Result<String, (Exit, String)> {
    let Command::Drive { device, allow_writes, records, openings, seed, core } = command else {
        return Err((Exit::Error, "not a drive".to_owned()));
    };
    let error = |line: &dyn std::fmt::Display| (Exit::Error, line.to_string());
    let spec = DeviceSpec::parse(device).map_err(|line| error(&line))?;
    if spec.needs_allow_writes() && !allow_writes {
        return Err(error(&format_args!(
            "device {device} may carry data, which would be overwritten; --allow-writes permits it"
        )));
    }
    let mut options = DeviceOptions::default();
    options.model.create_image = true;
    options.model.config = model(&spec, *seed);
    // A file that is exported over FUSE has pages of the kernel's in front of it.
    options.uring.buffered = true;
    options.uring.lba_bytes = 512;
    let backend = from_spec(&spec, options).map_err(|line| (line.exit(), line.to_string()))?;
    let topology = Topology::read();
    let cpu = core.or_else(|| topology.suggested_core());
    let cpu = cpu.ok_or_else(|| error(&"one cpu stays for linux; there is no other"))?;
    let cores = CpuSet::single(cpu).map_err(|line| error(&line))?;
    let runtime = Runtime::new(cores).map_err(|line| (line.exit(), line.to_string()))?;
    let mut partition = PartitionSpec::new("journal-drill", ENTRY).with_device(backend);
    let job = Job { records: *records, openings: (*openings).max(1), seed: *seed };
    partition.args = job.as_bytes().to_vec();
    let mut partition = runtime.spawn(partition).map_err(|line| (line.exit(), line.to_string()))?;
    partition.wait(LOOK_EVERY, |_| ControlFlow::Continue(()));
    let report = partition.join();
    match report.exit.is_done() {
        true => Ok(format!("{records} records in {openings} openings, all of them durable")),
        false => Err(error(&report.exit.text)),
    }
}

/// A controller as a drive may be that has a write cache: slow at times, and in no order.
fn model(spec: &DeviceSpec<'_>, seed: u64) -> ModelConfig {
    let there =
        matches!(spec, DeviceSpec::Model { image: Some(image) } if Path::new(image).exists());
    let blocks = if there { 0 } else { BLOCKS };
    ModelConfig {
        namespaces: vec![NamespaceConfig::memory(1, blocks).lba_bytes(512)],
        volatile_write_cache: true,
        latency: LatencyModel::UniformNs { min: 0, max: 40_000 },
        out_of_order: true,
        seed,
        ..ModelConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_does_not_contradict_itself() {
        Cli::command().debug_assert();
    }
}
