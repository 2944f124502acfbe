//! Why a runtime or a partition could not be made, and the exit code that says so.

use core_runtime::clock::CalibrationError;
use core_runtime::mesh::MeshError;
use core_runtime::partition::{PartitionError, TableError};
use hybrid_conventions::{CpuSet, Exit};

use crate::affinity::PinError;
use crate::backend::BackendError;
use crate::memory::MemoryError;
use crate::sys::realtime::RtRefused;
use crate::sys::syscall_guard::GuardUnavailable;

/// Why [`crate::Runtime`] said no. Each is one line that names what was seen and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// Linux and a partition need a CPU each.
    #[error(
        "one cpu only (cpu {allowed}): a partition takes a cpu for itself and linux needs another; \
         use a machine with two, or allow more with taskset -c or a wider cpuset"
    )]
    OneCpu {
        /// What this process may use.
        allowed: Box<CpuSet>,
    },
    /// No CPU was named.
    #[error("no cpu named for partitions: the set is empty")]
    NoCores,
    /// A CPU that the machine does not have.
    #[error("cpu {cpu} does not exist: online are cpus {online}")]
    NoSuchCore {
        /// The CPU named.
        cpu: u32,
        /// What runs.
        online: Box<CpuSet>,
    },
    /// A CPU that this process may not use.
    #[error(
        "cpu {cpu} is not allowed for this process, only cpus {allowed} are; start it in a cpuset \
         that holds cpu {cpu} (taskset -c, systemd AllowedCPUs=)"
    )]
    CoreNotAllowed {
        /// The CPU named.
        cpu: u32,
        /// What this process may use.
        allowed: Box<CpuSet>,
    },
    /// The partitions would take every CPU.
    #[error("cpus {cores} are all that this process may use: leave one of them to linux")]
    NoneLeftForLinux {
        /// The CPUs named.
        cores: Box<CpuSet>,
    },
    /// A CPU that is none of the runtime's.
    #[error("cpu {cpu} is not one of the runtime's cpus {cores}")]
    NotOurs {
        /// The CPU named.
        cpu: u32,
        /// The runtime's.
        cores: Box<CpuSet>,
    },
    /// Every CPU, or the one that was named, has a partition already.
    #[error("cpus {wanted} are taken: one partition a cpu")]
    CoresTaken {
        /// The CPUs that would do.
        wanted: Box<CpuSet>,
    },
    /// The clock could not be measured.
    #[error("the clock cannot be calibrated: {0}")]
    Clock(#[from] CalibrationError),
    /// Memory.
    #[error("no memory for the partition: {0}")]
    Memory(#[from] MemoryError),
    /// Pinning.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// Rings between partitions.
    #[error("the partitions cannot be linked: {0}")]
    Mesh(#[from] MeshError),
    /// A table.
    #[error("a table cannot be given to the partition: {0}")]
    Table(#[from] TableError),
    /// Several partitions on one core, one of which would never let the others run.
    #[error(
        "partition {name} shares cpu {cpu} and asks for a real-time priority: it would never let \
         the others run; give it a core of its own, or leave the priority out"
    )]
    SharedRealtime {
        /// Its name.
        name: String,
        /// The CPU.
        cpu: u32,
    },
    /// A real-time priority.
    #[error(transparent)]
    Realtime(#[from] RtRefused),
    /// The device.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The partition could not be assembled on its thread.
    #[error("partition {name} did not start: {source}{}", what_to_raise(source))]
    Assembly {
        /// Its name.
        name: String,
        /// Why.
        source: PartitionError,
    },
    /// The partition's thread ended before it said anything: a panic, mostly.
    #[error("partition {name} did not start: {reason}")]
    NotStarted {
        /// Its name.
        name: String,
        /// What is known.
        reason: String,
    },
    /// The partition's process could not be started.
    #[error("partition {name} did not start: {reason}")]
    NotLaunched {
        /// Its name.
        name: String,
        /// What is known.
        reason: String,
    },
    /// The partition's process said why it did not start.
    #[error("{line}")]
    Refused {
        /// The exit code that the line goes with.
        exit: Exit,
        /// The line.
        line: String,
    },
    /// The partition's process could not have its device.
    #[error("{line}")]
    NoDevice {
        /// The exit code that the line goes with.
        exit: Exit,
        /// The line.
        line: String,
    },
    /// A thread could not be made.
    #[error("thread {name} cannot be started: {source}")]
    Thread {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The system-call check was asked for and is not possible.
    #[error(transparent)]
    Guard(#[from] GuardUnavailable),
}

/// What a program changes in its `PartitionSpec`, where that is known.
pub(crate) const fn what_to_raise(error: &PartitionError) -> &'static str {
    match error {
        PartitionError::Memory(_) => "; raise private_bytes, or ask for fewer tasks",
        _ => "",
    }
}

impl RuntimeError {
    /// Whether the device is why, so that other storage may help.
    #[must_use]
    pub const fn blames_device(&self) -> bool {
        match self {
            Self::Backend(error) => error.blames_device(),
            Self::NoDevice { .. } => true,
            _ => false,
        }
    }

    /// The exit code of a tool that ends because of it: 3 where the machine lacks something that
    /// the line says how to get, 1 for what the user or we got wrong.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::OneCpu { .. }
            | Self::CoreNotAllowed { .. }
            | Self::NoneLeftForLinux { .. }
            | Self::Memory(_)
            | Self::Pin(_)
            | Self::Realtime(_)
            | Self::Guard(_) => Exit::Missing,
            Self::Backend(error) => error.exit(),
            Self::Refused { exit, .. } | Self::NoDevice { exit, .. } => *exit,
            _ => Exit::Error,
        }
    }
}
