//! What crosses to the partition's thread, and how it becomes the driver's parts there.

use core_runtime::clock::Clock;
use core_runtime::mailbox::MailboxClient;
use core_runtime::mem::{DmaRegion, DoorbellRegion};
use core_runtime::partition::Partition;
use hybrid_shm::Span;
use nvme_driver::{ControlRegs, DeviceParts, RegsError};
use nvme_spec::registers::{Cap, Register};

use super::vfio::bar::DOORBELLS_AT;
use super::vfio::regs::BarRegs;
use super::vfio_user::registers::WatchedRegs;

/// How the partition reaches the control registers. More ways come with more backends.
#[derive(Clone, Copy, Debug)]
enum Registers {
    Mailbox {
        span: Span<'static>,
        timeout_ns: u64,
    },
    /// A mapped BAR, and the word that says that the device is to be left alone.
    Bar {
        bar: Span<'static>,
        gone: Span<'static>,
    },
    /// A mailbox, and CSTS published beside it.
    Session {
        span: Span<'static>,
        timeout_ns: u64,
    },
}

/// A device, ready to be taken over by a partition's thread.
#[derive(Clone, Copy, Debug)]
pub struct DeviceIngredients {
    registers: Registers,
    doorbells: Span<'static>,
    dma: DmaRegion,
}

/// Why the driver's parts could not be made on the partition's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IngredientsError {
    /// The backend's layout does not fit: our own mistake.
    #[error(transparent)]
    Layout(#[from] hybrid_shm::OutOfBounds),
    /// The partition's memory is used up.
    #[error(transparent)]
    Memory(#[from] core_runtime::mem::OutOfMemory),
    /// The controller does not answer.
    #[error("controller capabilities cannot be read: {0}")]
    Registers(RegsError),
    /// A read of all ones: nobody is there.
    #[error("controller capabilities read as all ones: the device is gone")]
    Gone,
}

impl DeviceIngredients {
    /// Registers behind a mailbox; each access may take `timeout_ns`.
    #[must_use]
    pub const fn by_mailbox(
        mailbox: Span<'static>,
        timeout_ns: u64,
        doorbells: Span<'static>,
        dma: DmaRegion,
    ) -> Self {
        Self { registers: Registers::Mailbox { span: mailbox, timeout_ns }, doorbells, dma }
    }

    /// Registers and doorbells in `bar`; the word at the start of `gone` ends all access to it.
    ///
    /// # Errors
    /// [`hybrid_shm::OutOfBounds`] if the BAR ends before its doorbells.
    pub fn by_bar(
        bar: Span<'static>,
        gone: Span<'static>,
        dma: DmaRegion,
    ) -> Result<Self, hybrid_shm::OutOfBounds> {
        let at = usize::try_from(DOORBELLS_AT).unwrap_or(usize::MAX);
        let doorbells = bar.sub(at, bar.len().saturating_sub(at))?;
        Ok(Self { registers: Registers::Bar { bar, gone }, doorbells, dma })
    }

    /// Registers behind the mailbox of a session that also publishes the status: looks at it do not
    /// wait.
    #[must_use]
    pub const fn by_session(
        shared: Span<'static>,
        timeout_ns: u64,
        doorbells: Span<'static>,
        dma: DmaRegion,
    ) -> Self {
        Self { registers: Registers::Session { span: shared, timeout_ns }, doorbells, dma }
    }

    /// The memory that the device reaches.
    #[must_use]
    pub const fn dma(&self) -> DmaRegion {
        self.dma
    }

    /// Makes the driver's parts, on the partition's thread.
    ///
    /// # Errors
    /// [`IngredientsError`].
    pub fn into_parts(
        self,
        partition: &'static Partition,
    ) -> Result<DeviceParts, IngredientsError> {
        let regs = self.registers.open(partition.clock(), partition)?;
        let cap = regs.read64(Cap::OFFSET).map_err(IngredientsError::Registers)?;
        if cap == u64::MAX {
            return Err(IngredientsError::Gone);
        }
        let dstrd = Cap::from_raw(cap).dstrd();
        Ok(DeviceParts {
            regs,
            doorbells: DoorbellRegion { span: self.doorbells, dstrd },
            arena: partition.arena(),
            clock: partition.clock(),
            crash: Some(partition.crash_sources()),
        })
    }
}

impl Registers {
    fn open(
        self,
        clock: Clock,
        partition: &'static Partition,
    ) -> Result<&'static dyn ControlRegs, IngredientsError> {
        match self {
            Self::Mailbox { span, timeout_ns } => {
                let client = MailboxClient::new(span, clock, timeout_ns)?;
                Ok(partition.bump().alloc(client)?)
            }
            Self::Bar { bar, gone } => Ok(partition.bump().alloc(BarRegs::new(bar, gone)?)?),
            Self::Session { span, timeout_ns } => {
                let client = MailboxClient::new(span, clock, timeout_ns)?;
                Ok(partition.bump().alloc(WatchedRegs::new(client, span)?)?)
            }
        }
    }
}
