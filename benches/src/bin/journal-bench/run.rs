//! One partition for a list of phases.

use std::ops::ControlFlow;
use std::time::Duration;

use core_runtime::partition::StopReason;
use host_bridge::backend::model::{Idle, LatencyModel, ModelConfig, NamespaceConfig};
use host_bridge::backend::{BackendError, DeviceOptions, from_spec};
use host_bridge::sys::signals::{StopSignal, StopSignals};
use host_bridge::topology::Topology;
use host_bridge::warnings::Warnings;
use host_bridge::{Entry, PartitionSpec, Runtime};
use hybrid_conventions::{CpuSet, DeviceSpec, Exit};
use zerocopy::{FromBytes, IntoBytes};

use crate::cli::Cli;
use crate::part;
use crate::wire::{FILL, KIND_OUTCOME, Outcome, Phase};

/// What the partition of this program runs.
pub(crate) const ENTRY: Entry = Entry::new("journal-bench", part::run);

/// Rarely: each look takes some time from a model that shares its CPU.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Buffers of each phase's log (1 MiB and an index block), the one for reads, and the driver's own.
const DMA_BYTES: usize = 16 << 20;
const DMA_PHASE_BYTES: usize = 2 << 20;
const PRIVATE_BYTES: usize = 24 << 20;

/// How a run ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) line: String,
}

impl Failure {
    pub(crate) fn error(line: impl std::fmt::Display) -> Self {
        Self { exit: Exit::Error, line: line.to_string() }
    }
}

/// What a run gave.
pub(crate) struct Ran {
    pub(crate) device: String,
    pub(crate) machine: String,
    pub(crate) tsc_hz: u64,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) signal: Option<StopSignal>,
}

/// Runs the phases on `device`, in this order.
pub(crate) fn run(cli: &Cli, device: &str, phases: &[Phase]) -> Result<Ran, Failure> {
    let spec = DeviceSpec::parse(device).map_err(Failure::error)?;
    let is_memory = matches!(spec, DeviceSpec::Model { image: None });
    if !is_memory && !cli.allow_writes && cli.beside.is_none() {
        return Err(Failure::error(format_args!(
            "device {spec} may carry data, which the journal would overwrite; --allow-writes \
             permits it"
        )));
    }
    let refused = |error: BackendError| Failure { exit: error.exit(), line: error.to_string() };
    let backend = from_spec(&spec, options(cli, phases)).map_err(refused)?;
    backend.look().map_err(refused)?;
    let description = backend.describe();
    let topology = Topology::read();
    let cpu = cli.core.or_else(|| topology.suggested_core());
    let cpu = cpu.ok_or_else(|| Failure::error("one cpu stays for linux; there is no other"))?;
    let cores = CpuSet::single(cpu).map_err(Failure::error)?;
    let failed =
        |error: host_bridge::RuntimeError| Failure { exit: error.exit(), line: error.to_string() };
    let runtime = Runtime::with_warnings(cores, Warnings::to(|_| {})).map_err(failed)?;
    let mut partition = PartitionSpec::new("journal-bench", ENTRY).isolated_by(cli.isolation);
    partition.args = phases.iter().flat_map(|phase| phase.as_bytes().to_vec()).collect();
    partition.dma_bytes = DMA_BYTES + phases.len() * DMA_PHASE_BYTES;
    partition.private_bytes = PRIVATE_BYTES;
    let signals = StopSignals::install().map_err(Failure::error)?;
    let mut partition = runtime.spawn(partition.with_device(backend)).map_err(failed)?;
    let (mut outcomes, mut signal) = (Vec::new(), None);
    partition.wait(LOOK_EVERY, |partition| {
        if signal.is_none()
            && let Some(pending) = signals.pending()
        {
            signal = Some(pending);
            partition.request_stop(StopReason::Signal);
        }
        // A ring that the partition broke is closed; its exit says more.
        let _ = partition.poll_events(u32::MAX, |header, payload| {
            if header.kind == KIND_OUTCOME {
                outcomes.extend(Outcome::read_from_bytes(payload));
            }
        });
        ControlFlow::Continue(())
    });
    let ended = partition.join();
    if !ended.exit.is_done() && signal.is_none() {
        return Err(Failure::error(ended.exit.text));
    }
    if outcomes.len() < phases.len() && signal.is_none() {
        return Err(Failure::error("the partition ended before all was measured"));
    }
    let facts = runtime.facts();
    let isolated = if topology.isolated.contains(cpu) { "isolated" } else { "not isolated" };
    let machine = format!("{facts}, partition on CPU {cpu} ({isolated})");
    Ok(Ran { device: description, machine, tsc_hz: runtime.clock().hz(), outcomes, signal })
}

fn options(cli: &Cli, phases: &[Phase]) -> DeviceOptions {
    let filled = phases.iter().filter(|phase| phase.kind == FILL).map(|phase| phase.bytes);
    let bytes = filled.max().map_or(128 << 20, |bytes| bytes + bytes / 8 + (128 << 20));
    let blocks = bytes / u64::from(cli.model_lba.max(512));
    let mut options = DeviceOptions::default();
    options.model.config = ModelConfig {
        namespaces: vec![NamespaceConfig::memory(1, blocks).lba_bytes(cli.model_lba)],
        latency: match cli.model_latency {
            0 => LatencyModel::None,
            ns => LatencyModel::FixedNs(ns),
        },
        volatile_write_cache: cli.model_cache,
        ..ModelConfig::default()
    };
    // It gives way to others after some 100 ms without work, so that a quiet moment is not timed.
    options.model.idle = Some(Idle::Yield { after_steps: 1 << 20 });
    options
}
