//! What can go wrong, one enum a boundary: an I/O, and the controller as a whole.
//!
//! An NVMe status is data that the device sent; it stands apart from "the controller was reset" and
//! from "the queue is full". The buffer of a failed I/O travels with the error ([`Failed`]).

use core::fmt;

use core_runtime::mem::DmaBuf;
use nvme_spec::{Lba, Nsid, QueueId, Status, StatusCode};
use thiserror::Error;

use crate::bridge::{BridgeError, BridgeRefused};
use crate::regs::RegsError;

/// Why the controller, or one queue of it, was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetReason {
    /// CSTS.CFS was set.
    FatalStatus,
    /// CSTS.RDY fell without our doing: a reset from elsewhere.
    NotReady,
    /// A command was neither completed nor aborted in time.
    Stuck {
        /// Queue of the command.
        queue: QueueId,
    },
    /// An admin command was not answered in time.
    AdminStuck,
    /// Too many completions that belong to no command.
    Rogue,
    /// The controller reported an invalid doorbell write or a persistent internal error.
    Event,
    /// The queue could not be deleted and made again.
    QueueReset,
    /// Somebody asked for it.
    Requested,
}

impl ResetReason {
    /// As the probes tell it, from 1 in the order above.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::FatalStatus => 1,
            Self::NotReady => 2,
            Self::Stuck { .. } => 3,
            Self::AdminStuck => 4,
            Self::Rogue => 5,
            Self::Event => 6,
            Self::QueueReset => 7,
            Self::Requested => 8,
        }
    }
}

impl fmt::Display for ResetReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FatalStatus => f.write_str("fatal controller status"),
            Self::NotReady => f.write_str("controller left the ready state"),
            Self::Stuck { queue } => write!(f, "command stuck on queue {queue}"),
            Self::AdminStuck => f.write_str("admin command stuck"),
            Self::Rogue => f.write_str("too many completions for commands that do not exist"),
            Self::Event => f.write_str("controller reported an internal error"),
            Self::QueueReset => f.write_str("queue could not be reset"),
            Self::Requested => f.write_str("reset requested"),
        }
    }
}

/// How an I/O ended other than well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IoError {
    /// The device answered with a status.
    #[error("{status} at block {slba}")]
    Status {
        /// What it said.
        status: Status,
        /// First block of the command that failed (0 where it has none).
        slba: Lba,
    },
    /// No room in the queue; only from `try_` forms.
    #[error("the queue is full")]
    QueueFull,
    /// So many futures wait for room already; only from forms that wait.
    #[error("{places} futures wait for room already, no more have a place (`waiters`)")]
    TooManyWaiters {
        /// Places of the line.
        places: usize,
    },
    /// The command passed its deadline and was aborted.
    #[error("the command passed its deadline and was aborted")]
    TimedOut,
    /// The controller or the queue was reset while the command was in flight.
    #[error("the command was lost in a reset: {0}")]
    Reset(ResetReason),
    /// The controller is gone, or has failed for good.
    #[error("the controller is gone")]
    Gone,
    /// The controller is not ready for I/O, or no longer.
    #[error("the controller is not ready")]
    NotReady,
    /// The buffer's length is not a whole number of blocks, or zero.
    #[error("length of {len_bytes} bytes is not a positive multiple of the {lba_bytes}-byte block")]
    BadLength {
        /// Length given.
        len_bytes: usize,
        /// Block size of the namespace.
        lba_bytes: u32,
    },
    /// The buffer does not start on a dword.
    #[error("buffer at {0:#x} is not aligned to 4 bytes")]
    Unaligned(u64),
    /// The blocks are not all inside the namespace.
    #[error("{nlb} blocks from {slba} leave the namespace of {blocks} blocks")]
    OutOfRange {
        /// First block.
        slba: Lba,
        /// Number of blocks.
        nlb: u64,
        /// Blocks of the namespace.
        blocks: u64,
    },
    /// The controller does not offer this command.
    #[error("the controller does not support {0}")]
    Unsupported(&'static str),
    /// The namespace changed its shape or went away after it was first seen.
    #[error("namespace {0} changed or went away")]
    NamespaceChanged(Nsid),
    /// No DMA memory for the command's own data.
    #[error("no DMA memory left")]
    NoMemory,
    /// The host, which drives the device, ended it.
    #[error("{0}")]
    Bridge(BridgeError),
}

impl IoError {
    /// The device's status code, where it was the device that refused.
    #[must_use]
    pub const fn status_code(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(status.code()),
            _ => None,
        }
    }
}

/// An I/O that failed, and its buffer.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: IoError,
    /// The buffer; `None` if it is quarantined because the device may still write to it.
    pub buf: Option<DmaBuf>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)?;
        if self.buf.is_none() {
            f.write_str(", its buffer is quarantined")?;
        }
        Ok(())
    }
}

impl core::error::Error for Failed {}

/// A step of bring-up or shutdown, named in errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// CC.EN = 0, waiting for CSTS.RDY = 0.
    Disable,
    /// CC.EN = 1, waiting for CSTS.RDY = 1.
    Enable,
    /// Identify Controller.
    IdentifyController,
    /// Set Features, Number of Queues.
    NumberOfQueues,
    /// The list of active namespaces.
    NamespaceList,
    /// Identify Namespace.
    IdentifyNamespace,
    /// Set Features, Asynchronous Event Configuration.
    EventConfig,
    /// Doorbell Buffer Config.
    ShadowDoorbells,
    /// Create I/O Completion Queue.
    CreateCq,
    /// Create I/O Submission Queue.
    CreateSq,
    /// CC.SHN set, waiting for CSTS.SHST.
    Shutdown,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disable => "disabling the controller",
            Self::Enable => "enabling the controller",
            Self::IdentifyController => "identify controller",
            Self::NumberOfQueues => "negotiating the number of queues",
            Self::NamespaceList => "listing namespaces",
            Self::IdentifyNamespace => "identify namespace",
            Self::EventConfig => "configuring asynchronous events",
            Self::ShadowDoorbells => "configuring shadow doorbells",
            Self::CreateCq => "creating a completion queue",
            Self::CreateSq => "creating a submission queue",
            Self::Shutdown => "shutting the controller down",
        })
    }
}

/// Why there is no working controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ControllerError {
    /// The registers cannot be reached, or read all ones or all zeros.
    #[error("controller registers: {0}")]
    Regs(#[from] RegsError),
    /// CAP.MQES is 0, which the specification forbids.
    #[error("CAP.MQES is 0, at least 1 is required")]
    BadMqes,
    /// CAP.MPSMIN asks for pages larger than we use.
    #[error(
        "the controller's smallest page has {min_bytes} bytes, at most {max_bytes} are supported"
    )]
    PageSize {
        /// What it wants.
        min_bytes: u64,
        /// What we can do.
        max_bytes: u64,
    },
    /// CAP.CSS does not name the NVM command set.
    #[error("the controller does not offer the NVM command set (CAP.CSS is {0:#x})")]
    NoNvmCommandSet(u8),
    /// The configuration asks for what cannot be.
    #[error("configuration: {0}")]
    Config(&'static str),
    /// No DMA memory or no partition memory for the driver's own structures.
    #[error("not enough memory for {0}")]
    NoMemory(&'static str),
    /// The doorbell region is too small for the queues.
    #[error("the doorbell region has no doorbell for queue {0}")]
    NoDoorbell(QueueId),
    /// CSTS.CFS was set during bring-up.
    #[error("fatal controller status while {0}")]
    FatalStatus(Step),
    /// A step took longer than CAP.TO, CRTO or the admin deadline allows.
    #[error("{step} took longer than {limit_ms} ms")]
    TimedOut {
        /// The step.
        step: Step,
        /// Its limit.
        limit_ms: u64,
    },
    /// An admin command of bring-up was refused.
    #[error("{step} failed: {status}")]
    Refused {
        /// The step.
        step: Step,
        /// The controller's answer.
        status: Status,
    },
    /// Identify data that no controller may give.
    #[error("identify data make no sense: {0}")]
    BadIdentify(&'static str),
    /// An orderly shutdown was asked for.
    #[error("the controller was shut down")]
    ShutDown,
    /// The device is not a controller: the host drives it.
    #[error("the device is the host's bridge, not an nvme controller")]
    NotAController,
    /// The bridge to the host cannot be opened.
    #[error("{0}")]
    Bridge(BridgeRefused),
    /// The host does not answer, or broke the rules of the bridge.
    #[error("the bridge to the host is gone: it does not answer, or broke the rules")]
    BridgeGone,
}
