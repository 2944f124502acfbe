//! What crosses to the partition, and how it becomes the driver's parts there.

use core_runtime::clock::Clock;
use core_runtime::mailbox::MailboxClient;
use core_runtime::mem::{DmaRegion, DoorbellRegion, Iova};
use core_runtime::partition::Partition;
use hybrid_abi::handoff::{DeviceKind, HandoffDevice, Place};
use hybrid_conventions::Bdf;
use hybrid_shm::{ReadSpan, Span};
use nvme_driver::{BridgeParts, ControlRegs, ControllerParts, DeviceParts, RegsError};
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
    /// A function that the partition's process opens, and the word that says that it is to be left
    /// alone.
    Function {
        bdf: Bdf,
        gone: Span<'static>,
    },
}

/// What the partition drives itself, or whom it asks.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Controller {
        registers: Registers,
        doorbells: Span<'static>,
    },
    /// The bridge: the file that the partition writes, and the host's.
    Bridge {
        own: Span<'static>,
        peer: ReadSpan<'static>,
    },
}

/// A device, ready to be taken over by a partition.
#[derive(Clone, Copy, Debug)]
pub struct DeviceIngredients {
    kind: Kind,
    dma: DmaRegion,
}

/// Why the driver's parts could not be made by the partition.
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
    /// What was handed over makes no sense.
    #[error("the device that was handed over makes no sense: {0}")]
    Handoff(&'static str),
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
        let registers = Registers::Mailbox { span: mailbox, timeout_ns };
        Self { kind: Kind::Controller { registers, doorbells }, dma }
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
        let registers = Registers::Bar { bar, gone };
        Ok(Self { kind: Kind::Controller { registers, doorbells }, dma })
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
        let registers = Registers::Session { span: shared, timeout_ns };
        Self { kind: Kind::Controller { registers, doorbells }, dma }
    }

    /// The bridge: the host drives the device. `own` is what the partition writes, `peer` what the
    /// host does, laid out.
    #[must_use]
    pub const fn by_bridge(own: Span<'static>, peer: ReadSpan<'static>, dma: DmaRegion) -> Self {
        Self { kind: Kind::Bridge { own, peer }, dma }
    }

    /// A PCI function that the partition's own process opens; the word at the start of `gone` ends
    /// all access to it. `dma` has no address for the device yet.
    #[must_use]
    pub const fn of_function(bdf: Bdf, gone: Span<'static>, dma: DmaRegion) -> Self {
        let registers = Registers::Function { bdf, gone };
        Self { kind: Kind::Controller { registers, doorbells: gone }, dma }
    }

    /// The function to open, and its word, if it is one.
    pub(crate) const fn function(&self) -> Option<(Bdf, Span<'static>)> {
        match self.kind {
            Kind::Controller { registers: Registers::Function { bdf, gone }, .. } => {
                Some((bdf, gone))
            }
            _ => None,
        }
    }

    /// As values that may cross an `execve`. `place` finds the file in which memory lies.
    ///
    /// # Errors
    /// [`IngredientsError::Handoff`] for memory that lies in none.
    pub(crate) fn to_handoff(
        self,
        place: impl Fn(ReadSpan<'static>) -> Option<Place>,
    ) -> Result<HandoffDevice, IngredientsError> {
        let seen = |span: ReadSpan<'static>| {
            let nowhere = IngredientsError::Handoff("its memory lies in no file");
            place(span).ok_or(nowhere)
        };
        let place = |span: Span<'static>| seen(span.read_only());
        let (registers, doorbells) = match self.kind {
            Kind::Controller { registers, doorbells } => (registers, doorbells),
            Kind::Bridge { own, peer } => {
                return Ok(HandoffDevice {
                    kind: DeviceKind::BRIDGE,
                    iova: self.dma.iova.0,
                    registers: place(own)?,
                    doorbells: seen(peer)?,
                    ..HandoffDevice::default()
                });
            }
        };
        let (kind, span, timeout_ns, function) = match registers {
            Registers::Mailbox { span, timeout_ns } => (DeviceKind::MAILBOX, span, timeout_ns, 0),
            Registers::Session { span, timeout_ns } => (DeviceKind::SESSION, span, timeout_ns, 0),
            Registers::Function { bdf, gone } => (DeviceKind::FUNCTION, gone, 0, packed(bdf)),
            Registers::Bar { .. } => {
                let why = "another process has it open, and only one may";
                return Err(IngredientsError::Handoff(why));
            }
        };
        Ok(HandoffDevice {
            kind,
            reserved: 0,
            function,
            timeout_ns,
            iova: self.dma.iova.0,
            registers: place(span)?,
            doorbells: place(doorbells)?,
        })
    }

    /// From values that crossed an `execve`. `find` gives the bytes of a place, `see` those that
    /// only the host writes.
    ///
    /// # Errors
    /// [`IngredientsError`] for a kind or a place that is none.
    pub(crate) fn from_handoff(
        device: &HandoffDevice,
        dma: DmaRegion,
        find: impl Fn(Place) -> Option<Span<'static>>,
        see: impl Fn(Place) -> Option<ReadSpan<'static>>,
    ) -> Result<Self, IngredientsError> {
        let outside = IngredientsError::Handoff("a place outside of its file");
        let find = |place| find(place).ok_or(outside);
        let (span, timeout_ns) = (find(device.registers)?, device.timeout_ns);
        let dma = DmaRegion { iova: Iova(device.iova), ..dma };
        let registers = match device.kind {
            DeviceKind::MAILBOX => Registers::Mailbox { span, timeout_ns },
            DeviceKind::SESSION => Registers::Session { span, timeout_ns },
            DeviceKind::BRIDGE => {
                let peer = see(device.doorbells).ok_or(outside)?;
                return Ok(Self::by_bridge(span, peer, dma));
            }
            DeviceKind::FUNCTION => {
                let nowhere = IngredientsError::Handoff("an address that is none");
                let bdf = unpacked(device.function).ok_or(nowhere)?;
                Registers::Function { bdf, gone: span }
            }
            _ => return Err(IngredientsError::Handoff("a kind of device that is not known")),
        };
        let doorbells = find(device.doorbells)?;
        Ok(Self { kind: Kind::Controller { registers, doorbells }, dma })
    }

    /// The memory that the device reaches.
    #[must_use]
    pub const fn dma(&self) -> DmaRegion {
        self.dma
    }

    /// Makes the driver's parts, in the partition.
    ///
    /// # Errors
    /// [`IngredientsError`].
    pub fn into_parts(
        self,
        partition: &'static Partition,
    ) -> Result<DeviceParts, IngredientsError> {
        let (registers, doorbells) = match self.kind {
            Kind::Controller { registers, doorbells } => (registers, doorbells),
            Kind::Bridge { own, peer } => {
                let (clock, probes) = (partition.clock(), Some(partition.probes()));
                return Ok(DeviceParts::Bridge(BridgeParts { own, peer, clock, probes }));
            }
        };
        let regs = registers.open(partition.clock(), partition)?;
        let cap = regs.read64(Cap::OFFSET).map_err(IngredientsError::Registers)?;
        if cap == u64::MAX {
            return Err(IngredientsError::Gone);
        }
        let dstrd = Cap::from_raw(cap).dstrd();
        Ok(DeviceParts::Nvme(ControllerParts {
            regs,
            doorbells: DoorbellRegion { span: doorbells, dstrd },
            arena: partition.arena(),
            clock: partition.clock(),
            crash: Some(partition.crash_sources()),
            probes: Some(partition.probes()),
        }))
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
                let client = client.unless(partition.host_gone());
                Ok(partition.bump().alloc(client)?)
            }
            Self::Function { .. } => Err(IngredientsError::Handoff("it was not opened")),
            Self::Bar { bar, gone } => Ok(partition.bump().alloc(BarRegs::new(bar, gone)?)?),
            Self::Session { span, timeout_ns } => {
                let client = MailboxClient::new(span, clock, timeout_ns)?;
                let client = client.unless(partition.host_gone());
                Ok(partition.bump().alloc(WatchedRegs::new(client, span)?)?)
            }
        }
    }
}

/// Domain in bits 47:16, bus in 15:8, device in 7:3, function in 2:0.
fn packed(bdf: Bdf) -> u64 {
    u64::from(bdf.domain()) << 16
        | u64::from(bdf.bus()) << 8
        | u64::from(bdf.device()) << 3
        | u64::from(bdf.function())
}

fn unpacked(function: u64) -> Option<Bdf> {
    let [low, bus, domain @ .., zero, also_zero] = function.to_le_bytes();
    let known = zero == 0 && also_zero == 0;
    Bdf::new(u32::from_le_bytes(domain), bus, low >> 3, low & 7).filter(|_| known)
}
