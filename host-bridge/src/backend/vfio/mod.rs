//! VFIO: an NVMe function of this machine, driven from user space behind the IOMMU.
//!
//! `--device 0000:03:00.0`. The function must be bound to vfio-pci, together with all of its IOMMU
//! group; then an ordinary user who may open the group's file needs no root. [`open`] does
//! everything that one process does to get a device: it takes an address and DMA memory, and can be
//! called by whoever will drive the device. Descriptors are close-on-exec and never passed on.
//!
//! | module | what |
//! |---|---|
//! | `probe` | sysfs: is it there, is it NVMe, who has it, which way in |
//! | `memlock` | may its memory be pinned |
//! | `way` | by the group's container, or by iommufd and the device's file |
//! | `device` | addresses, registers, reset, and the way back |
//! | `bar`, `config_space` | which part of BAR 0 is mapped; the command register |
//! | `apart` | a function that the partition's process opens, and what the host keeps of it |
//! | `regs` | control registers as the driver wants them |
//! | `keeper` | hears of removals and errors, stops the device at the end |
//! | `faults` | what the IOMMU stopped, from the kernel's log |
//! | `give_back` | back to the kernel's driver, on request |
//! | `bind_back` | the same while the program goes on, by the privileged helper; the nodes there |
//!
//! The hot path knows nothing of all that: queues and doorbells are plain mapped memory.

pub(crate) mod apart;
pub mod bar;
pub mod bind_back;
pub mod config_space;
pub mod device;
pub mod error;
pub mod faults;
pub mod give_back;
pub mod keeper;
pub mod memlock;
pub mod probe;
pub mod regs;
pub mod way;

use std::path::Path;
use std::time::{Duration, Instant};

use hybrid_conventions::Bdf;

use self::device::Device;
use self::keeper::{Keeping, VfioKeeper};
use self::memlock::Budget;
use super::{Attached, Backend, BackendError, DeviceIngredients, DeviceSeat};
use crate::memory::{MemorySource, SharedMemory};
use crate::numa::node_of_device;
use crate::runtime::Isolation;

pub use error::VfioError;

/// How long a file in /dev may take to appear after a function was bound to vfio-pci.
const NODE_LIMIT: Duration = Duration::from_secs(2);

/// What a run wants of its device beyond its address.
#[derive(Clone, Copy, Debug, Default)]
pub struct VfioOptions {
    /// Give the function to the kernel's driver at the end.
    pub give_back: bool,
}

/// A PCI function as a partition's device.
#[derive(Clone, Copy, Debug)]
pub struct VfioBackend {
    bdf: Bdf,
    options: VfioOptions,
}

impl VfioBackend {
    /// The function at `bdf`; nothing is looked at yet.
    #[must_use]
    pub const fn new(bdf: Bdf, options: VfioOptions) -> Self {
        Self { bdf, options }
    }
}

/// Opens the function at `bdf` and makes `dma` reachable for it. `memory` knows what the whole run
/// locks, for the line of a limit that is too low.
///
/// # Errors
/// [`VfioError`]; nothing is left behind then.
pub fn open(bdf: Bdf, dma: &SharedMemory, memory: &MemorySource) -> Result<Device, VfioError> {
    let root = Path::new("/");
    let found = look_until(root, bdf, NODE_LIMIT)?;
    let needed = dma.mapped.len() as u64;
    let for_all = (memory.locked_in_all() as u64).saturating_add(needed);
    Budget::of_this_process(root).check(root, needed, for_all)?;
    Device::open(found, dma)
}

/// Whether nobody has the function open any more, by opening it and letting it go again: the second
/// half of the fence behind a partition that was a process (the first is its pidfd). The kernel has
/// reset the function and taken its mappings away by then.
///
/// # Errors
/// [`VfioError::Busy`] while somebody has it; [`VfioError`] for everything else that [`open`] would
/// say, but that a function which has left the machine reaches nobody's memory.
pub fn can_be_had(bdf: Bdf) -> Result<(), VfioError> {
    match probe::look(Path::new("/"), bdf) {
        Ok(found) => way::can_be_had(&found),
        Err(VfioError::NotThere { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Looks again while the only thing missing is a file that udev is about to make.
fn look_until(root: &Path, bdf: Bdf, limit: Duration) -> Result<probe::Found, VfioError> {
    let begun = Instant::now();
    loop {
        match probe::look(root, bdf) {
            Err(VfioError::NoNode { .. }) if begun.elapsed() < limit => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

impl Backend for VfioBackend {
    fn describe(&self) -> String {
        format!("vfio {}", self.bdf)
    }

    fn look(&self) -> Result<(), BackendError> {
        look_until(Path::new("/"), self.bdf, NODE_LIMIT)?;
        Ok(())
    }

    fn node(&self) -> Option<u32> {
        node_of_device(Path::new("/"), self.bdf)
    }

    fn attach(self: Box<Self>, seat: &DeviceSeat<'_>) -> Result<Attached, BackendError> {
        match seat.isolation {
            Isolation::Process => apart::attach(self.bdf, self.options, seat),
            Isolation::Thread => self.attach_here(seat),
        }
    }
}

impl VfioBackend {
    /// For a partition that is a thread: this process has the device.
    fn attach_here(&self, seat: &DeviceSeat<'_>) -> Result<Attached, BackendError> {
        let device = open(self.bdf, seat.dma, seat.memory)?;
        let gone = match seat.memory.shared("hybrid-vfio", 4096) {
            Ok(gone) => gone,
            Err(error) => {
                device.close(false);
                return Err(error.into());
            }
        };
        let (bar, word) = (device.registers(), gone.mapped.span());
        let Some(dma) = device.dma() else {
            // `open` maps it, or fails.
            device.close(false);
            return Err(VfioError::NoModule { module: "vfio_iommu_type1" }.into());
        };
        let ingredients = DeviceIngredients::by_bar(bar, word, dma)?;
        let description = described(device.found());
        let (housekeeping, give_back) = (seat.housekeeping, self.options.give_back);
        let keeping = Keeping { description, gone, housekeeping, give_back };
        let keeper = VfioKeeper::start(device, keeping)?;
        Ok(Attached { ingredients, files: Vec::new(), keeper: Box::new(keeper) })
    }
}

/// `vfio 0000:03:00.0, 8086:f1a8, …`.
fn described(found: &probe::Found) -> String {
    let (vendor, id) = found.id;
    format!("vfio {}, {vendor:04x}:{id:04x}, {}", found.bdf, found.why)
}
