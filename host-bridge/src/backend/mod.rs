//! Backends: what gives a partition its device.
//!
//! A backend is attached by the host before the partition starts. It gets the partition's
//! DMA memory, makes it reachable for the device, and returns [`DeviceIngredients`]: everything the
//! partition needs to make its driver's parts on its own core, as values that may cross threads
//! (and, later, an `execve`). What must stay on the host's side while the partition runs is the
//! *keeper*: the model's thread, the thread of a vfio-user socket. [`from_spec`] makes a
//! backend of what `--device` names.
//!
//! | `--device` | registers | doorbells | state here |
//! |---|---|---|---|
//! | `model[:IMAGE]` | mailbox | shared memory | [`model::ModelBackend`] |
//! | a PCI address | BAR 0, mapped | BAR 0, mapped | [`vfio::VfioBackend`] |
//! | `vfio-user:SOCKET` | mailbox, status published | the server's, mapped | [`vfio_user`] |
//! | `uring:PATH`, `uring-cmd:NODE` | none: the bridge's rings | | [`uring::UringBackend`] |

pub mod factory;
pub mod ingredients;
pub mod model;
pub mod stepped;
pub mod uring;
pub mod vfio;
pub mod vfio_user;

use std::os::fd::{AsFd, OwnedFd};

use core_runtime::mem::IovaError;
use hybrid_abi::handoff::FileRole;
use hybrid_conventions::{CpuSet, Exit};
use hybrid_shm::{OutOfBounds, ReadSpan};

use crate::memory::{MemoryError, MemorySource, SharedMemory};
use crate::process::PartitionProcess;
use crate::runtime::Isolation;
use crate::sys::memfd::PageSize;
use crate::uring::UringError;

pub use factory::{DeviceOptions, ModelOptions, from_spec};
pub use ingredients::DeviceIngredients;
pub use model::ModelBackend;
pub use stepped::SteppedRegs;
pub use uring::{SqPollChoice, UringBackend, UringOptions};
pub use vfio::VfioBackend;
pub use vfio_user::{VfioUserBackend, VfioUserError, VfioUserOptions};

/// What a backend is given to attach its device to.
#[derive(Debug)]
pub struct DeviceSeat<'a> {
    /// The partition's DMA memory: reserved, touched, size sealed. It belongs to one incarnation.
    pub dma: &'a SharedMemory,
    /// Where other memory comes from (doorbells, mailboxes).
    pub memory: &'a MemorySource,
    /// CPUs on which the backend's own threads may run.
    pub housekeeping: CpuSet,
    /// Whether the partition is a process: it maps [`Attached::files`] itself, and opens what only
    /// its own process may have open.
    pub isolation: Isolation,
}

/// An attached device.
pub struct Attached {
    /// For the partition.
    pub ingredients: DeviceIngredients,
    /// The files in which the ingredients' memory lies, for a partition that is a process. The DMA
    /// memory's is known and not among them.
    pub files: Vec<AttachedFile>,
    /// For the host, until the partition has ended.
    pub keeper: Box<dyn DeviceKeeper>,
}

/// A file that a partition which is a process gets with its device.
#[derive(Debug)]
pub struct AttachedFile {
    /// A descriptor of it, for this purpose.
    pub file: OwnedFd,
    /// What it is, and so how it is mapped.
    pub role: FileRole,
    /// Where in the file `seen` begins: whole pages.
    pub offset: u64,
    /// Its pages.
    pub page: PageSize,
    /// The host's own mapping, in which the ingredients point; `None` for what is no memory.
    pub seen: Option<ReadSpan<'static>>,
}

impl AttachedFile {
    /// All of a memory file of ours.
    ///
    /// # Errors
    /// [`BackendError::Descriptors`] where no descriptor is to be had.
    pub fn of(shared: &SharedMemory, role: FileRole) -> Result<Self, BackendError> {
        let file = shared.memfd.as_fd().try_clone_to_owned().map_err(BackendError::Descriptors)?;
        let (page, seen) = (shared.memfd.page(), Some(shared.mapped.read_span()));
        Ok(Self { file, role, offset: 0, page, seen })
    }
}

/// The host's side of an attached device.
pub trait DeviceKeeper: Send {
    /// The partition's process has started, where it is one.
    fn started(&mut self, process: &PartitionProcess) {
        let _ = process;
    }

    /// Makes the device quiet, the partition having ended: from its success on nothing of the
    /// device reaches the DMA memory. It waits for a moment at most, and is asked again until it
    /// succeeds or its caller gives up.
    ///
    /// # Errors
    /// Why not yet.
    fn fence(&mut self) -> Result<(), String>;

    /// Ends what serves the device; the partition has ended before. After it returns, nobody but
    /// the caller looks at the DMA memory.
    fn stop(self: Box<Self>) -> Detached;
}

/// A device that was stopped.
pub struct Detached {
    /// Its last words.
    pub report: DeviceReport,
    /// Memory of the backend that the partition saw: doorbells, mailboxes. It goes the way of the
    /// partition's own memory.
    pub memory: Vec<SharedMemory>,
}

/// What the backend has to say at the end.
#[derive(Debug, Default)]
pub struct DeviceReport {
    /// What it was, for the one-screen report.
    pub description: String,
    /// The driver's mistakes that the device noticed: must be empty.
    pub mistakes: Vec<String>,
    /// What is worth a line although nothing failed by it: transfers that an IOMMU stopped.
    pub notes: Vec<String>,
    /// What went wrong on the device's side at the end: an image that could not be synced.
    pub problem: Option<String>,
    /// The model itself, to be used again or looked into.
    pub model: Option<Box<nvme_model::Model>>,
}

/// A way to get a device.
pub trait Backend: Send {
    /// What it is, in a few words: `model, 256 MiB of memory`.
    fn describe(&self) -> String;

    /// Looks whether the device is there and may be had, and touches nothing: a program asks before
    /// it takes memory for a device that it cannot have. What it finds may change right after.
    ///
    /// # Errors
    /// [`BackendError`], as [`Backend::attach`] would.
    fn look(&self) -> Result<(), BackendError> {
        Ok(())
    }

    /// The NUMA node that it hangs on, where the machine says.
    fn node(&self) -> Option<u32> {
        None
    }

    /// Attaches the device to the partition's memory.
    ///
    /// # Errors
    /// [`BackendError`]; nothing is left behind then.
    fn attach(self: Box<Self>, seat: &DeviceSeat<'_>) -> Result<Attached, BackendError>;
}

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The model refused its configuration or its memory.
    #[error("the model controller cannot be made: {0}")]
    Model(String),
    /// No addresses for the device.
    #[error("no device addresses for the dma memory: {0}")]
    Iova(#[from] IovaError),
    /// No memory for doorbells or mailbox.
    #[error("no memory for the device's doorbells: {0}")]
    Memory(#[from] MemoryError),
    /// Our own layout does not fit.
    #[error(transparent)]
    Layout(#[from] OutOfBounds),
    /// A PCI function cannot be had.
    #[error(transparent)]
    Vfio(#[from] vfio::VfioError),
    /// A CPU for the device's thread that is a partition's, or not ours at all.
    #[error("cpu {cpu} is not for the device's thread: housekeeping cpus are {housekeeping}")]
    NotHousekeeping {
        /// The CPU named.
        cpu: u32,
        /// The CPUs that it may use.
        housekeeping: Box<CpuSet>,
    },
    /// A vfio-user server cannot be had, or is not what it should be.
    #[error("device {device}: {source}")]
    VfioUser {
        /// What was asked for.
        device: String,
        /// Why.
        source: Box<VfioUserError>,
    },
    /// io_uring, or its storage, cannot be had.
    #[error("device {device}: {source}")]
    Uring {
        /// What was asked for.
        device: String,
        /// Why.
        source: Box<UringError>,
    },
    /// Our own layout of the bridge does not fit.
    #[error("the bridge cannot be laid out: {0}")]
    Bridge(String),
    /// No descriptor or address space for what the device shares with us.
    #[error("nothing to share the device's memory with: {0}")]
    Descriptors(std::io::Error),
    /// The device's thread could not be started.
    #[error("the device's thread cannot be started: {0}")]
    Thread(std::io::Error),
}

impl BackendError {
    /// Whether the device itself is why, and not what a run needs beside it, nor who named another
    /// kind of device.
    #[must_use]
    pub const fn blames_device(&self) -> bool {
        match self {
            Self::Vfio(error) => !matches!(error, vfio::VfioError::NotNvme { .. }),
            Self::VfioUser { .. } => true,
            _ => false,
        }
    }

    /// 3 where a backend is missing, 1 otherwise.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Memory(_) => Exit::Missing,
            Self::Uring { source, .. } => source.exit(),
            Self::Vfio(error) => error.exit(),
            Self::VfioUser { source, .. } => source.exit(),
            _ => Exit::Error,
        }
    }
}

/// A backend whose type is known to nobody.
impl Backend for Box<dyn Backend> {
    fn describe(&self) -> String {
        (**self).describe()
    }

    fn look(&self) -> Result<(), BackendError> {
        (**self).look()
    }

    fn node(&self) -> Option<u32> {
        (**self).node()
    }

    fn attach(self: Box<Self>, seat: &DeviceSeat<'_>) -> Result<Attached, BackendError> {
        (*self).attach(seat)
    }
}
