//! From the command line to a device and what may be claimed of it.

use host_bridge::backend::model::{Backing, Idle, LatencyModel, ModelConfig, NamespaceConfig};
use host_bridge::backend::{Backend, BackendError, DeviceOptions, UringOptions, from_spec};
use hybrid_conventions::DeviceSpec;
use nvme_driver::spec::NvmOpcode;
use nvme_model::{DataFault, FaultAction, FaultPlan, FaultRule, ModelGauges, When};

use crate::cli::MachineArgs;
use crate::failure::Failure;
use crate::values::Fault;

/// The pattern of the model's namespace that has no memory.
pub(crate) const PATTERN: u32 = 7;

/// Longest time without a completion of a model that answers at once.
pub(crate) const GAP_NS: u32 = 30_000;

/// Empty steps of the model before its thread begins to give way to others: some 100 ms. With fewer
/// the look at the core alone, in which the device has no work, would time the giving way.
const SPIN_STEPS: u32 = 1 << 20;

/// One command in so many is spoilt.
const FAULT_EVERY: u64 = 1000;

/// What a figure was measured on: it stands beside every claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    Model,
    VfioUser,
    Drive,
    Kernel,
}

impl On {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::VfioUser => "vfio-user target",
            Self::Drive => "drive",
            Self::Kernel => "host's kernel over io_uring",
        }
    }

    /// What its figures say.
    pub(crate) const fn means(self) -> &'static str {
        match self {
            Self::Model => {
                "a software controller: what our software costs, never what a drive does"
            }
            Self::VfioUser => "a controller in another process: its figures are that program's too",
            Self::Drive => "hardware behind VFIO",
            Self::Kernel => {
                "storage that the host's kernel drives: its figures are those of two cores, of the \
                 bridge between them, of io_uring and of the storage"
            }
        }
    }
}

/// A device to measure.
pub(crate) struct Device {
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) on: On,
    pub(crate) gauges: ModelGauges,
    /// Its namespace has no memory behind it: a read brings this pattern's header.
    pub(crate) null_pattern: u32,
    /// It is ours: it may be filled before it is read.
    pub(crate) fill: bool,
    /// Longest time without a completion when nothing was taken away; 0: unknown.
    pub(crate) gap_ns: u32,
}

/// How the device that is named is made, what it is, and whether an image is behind it.
pub(crate) fn options(args: &MachineArgs) -> Result<(DeviceOptions, On, bool), Failure> {
    let spec = DeviceSpec::parse(&args.device).map_err(Failure::error)?;
    let mut options = DeviceOptions::default();
    let mut image = false;
    let on = match spec {
        DeviceSpec::Model { image: path } => {
            image = path.is_some();
            options.model.config = model(args);
            options.model.idle = Some(Idle::Yield { after_steps: SPIN_STEPS });
            if image {
                // As many blocks as it holds.
                options.model.config.namespaces[0].blocks = 0;
            }
            On::Model
        }
        DeviceSpec::VfioUser { .. } => On::VfioUser,
        DeviceSpec::Uring { .. } | DeviceSpec::UringCmd { .. } => {
            options.uring = uring(args);
            On::Kernel
        }
        DeviceSpec::Pci(_) => On::Drive,
    };
    Ok((options, on, image))
}

/// The device that the options name, for operations of `bytes`.
pub(crate) fn device(args: &MachineArgs, bytes: u32, writes: bool) -> Result<Device, Failure> {
    let spec = DeviceSpec::parse(&args.device).map_err(Failure::error)?;
    let (mut options, on, image) = options(args)?;
    options.uring.read_only = !writes;
    if writes && (on != On::Model || image) && !args.allow_writes {
        return Err(Failure::error(format_args!(
            "device {spec} may carry data, which this workload would overwrite; --allow-writes \
             permits it"
        )));
    }
    let gauges = options.model.gauges.clone();
    let refused = |error: BackendError| Failure { exit: error.exit(), line: error.to_string() };
    let backend = from_spec(&spec, options).map_err(refused)?;
    backend.look().map_err(refused)?;
    let null = args.model_null && on == On::Model;
    Ok(Device {
        backend,
        on,
        gauges,
        null_pattern: if null { PATTERN } else { 0 },
        fill: on == On::Model && !image && !null,
        gap_ns: if on == On::Model { gap_ns(args.model_latency, bytes) } else { 0 },
    })
}

fn uring(args: &MachineArgs) -> UringOptions {
    UringOptions {
        sqpoll: args.uring_sqpoll,
        iopoll: args.uring_iopoll,
        buffered: args.uring_buffered,
        fixed: !args.uring_no_fixed,
        ..UringOptions::default()
    }
}

fn model(args: &MachineArgs) -> ModelConfig {
    let default = if args.model_null { 64 << 30 } else { 256 << 20 };
    let blocks = args.model_size.unwrap_or(default) / u64::from(args.model_lba);
    let mut namespace = NamespaceConfig::memory(args.namespace, blocks).lba_bytes(args.model_lba);
    if args.model_null {
        namespace.backing = Backing::Null { pattern: PATTERN.into() };
    }
    let mut config = ModelConfig {
        namespaces: vec![namespace],
        serial: "HYBRIDBENCH0001".to_owned(),
        ..ModelConfig::default()
    };
    if args.model_latency != 0 {
        config.latency = LatencyModel::FixedNs(args.model_latency);
    }
    if let Some(fault) = args.model_fault {
        config.faults = faults(fault);
    }
    config
}

fn faults(fault: Fault) -> FaultPlan {
    let (opcode, data) = match fault {
        Fault::Misdirect => (NvmOpcode::READ, DataFault::WrongLba(1)),
        Fault::Torn => (NvmOpcode::WRITE, DataFault::Half),
        Fault::Lost => (NvmOpcode::WRITE, DataFault::Nothing),
        Fault::Flip => (NvmOpcode::READ, DataFault::BitFlip),
    };
    let rule = FaultRule::io(opcode, FaultAction::Data(data)).when(When::Every(FAULT_EVERY));
    FaultPlan::none().with(rule)
}

/// Longest time without a completion of a model that was not taken off its core: many times the
/// longest queueing behind a few copies at 1 GB/s, far below a time slice.
fn gap_ns(latency_ns: u64, bytes: u32) -> u32 {
    let ns = u64::from(GAP_NS) + 2 * latency_ns + 8 * u64::from(bytes.saturating_sub(4096)) / 2;
    u32::try_from(ns).unwrap_or(u32::MAX)
}
