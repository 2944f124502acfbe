//! How a partition's entry ends, and why a partition could not begin.

use core::fmt;

use hybrid_shm::OutOfBounds;
use thiserror::Error;

use super::state::{FailureText, PartitionState, failure_text};
use crate::mem::{DmaError, OutOfMemory};
use crate::metrics::MetricsError;
use crate::region::RegionError;
use crate::ring::RingError;

/// Code of an exit that blames the device; a process that is a partition ends with it.
pub const DEVICE_FAULT: u32 = 71;

/// What an entry returns: the final state, a code that the entry defines, and a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionExit {
    /// [`PartitionState::Stopped`], [`PartitionState::Failed`] or [`PartitionState::NeedsReset`].
    pub state: PartitionState,
    /// 0 for success; what else it says is the entry's business.
    pub code: u32,
    /// Empty for success, else one line for the user.
    pub text: FailureText,
}

impl PartitionExit {
    /// All is well.
    #[must_use]
    pub const fn done() -> Self {
        Self { state: PartitionState::Stopped, code: 0, text: FailureText::new() }
    }

    /// An error: `PartitionExit::failed(1, format_args!("block {lba} is torn"))`.
    #[must_use]
    pub fn failed(code: u32, line: fmt::Arguments<'_>) -> Self {
        Self { state: PartitionState::Failed, code, text: failure_text(line) }
    }

    /// The device needs what only the next incarnation can give it.
    #[must_use]
    pub fn needs_reset(code: u32, line: fmt::Arguments<'_>) -> Self {
        Self { state: PartitionState::NeedsReset, ..Self::failed(code, line) }
    }

    /// The device is at fault, and another start on it would not help: the host may go on with
    /// other storage. Its code is [`DEVICE_FAULT`].
    #[must_use]
    pub fn device_fault(line: fmt::Arguments<'_>) -> Self {
        Self::failed(DEVICE_FAULT, line)
    }

    /// Whether it ended in order.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == PartitionState::Stopped
    }
}

/// An entry's error becomes its exit: code 1 and the error's own line.
impl<E: core::error::Error> From<Result<(), E>> for PartitionExit {
    fn from(result: Result<(), E>) -> Self {
        match result {
            Ok(()) => Self::done(),
            Err(error) => Self::failed(1, format_args!("{error}")),
        }
    }
}

/// Why a partition could not be assembled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// The private memory is too small for what was asked for.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// The DMA memory cannot be used.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// A part of a region is too short: the host laid it out wrongly.
    #[error(transparent)]
    Layout(#[from] OutOfBounds),
    /// A region is not what it should be.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// A ring is not what it should be.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The metrics part is too small for what was asked for.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}
