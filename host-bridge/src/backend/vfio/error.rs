//! Why a PCI function cannot be driven: one line each, what was seen and the command that fixes it.

use core_runtime::mem::IovaError;
use hybrid_conventions::{Bdf, Exit};
use rustix::io::Errno;

use super::bar::BarError;

/// Why the function named by `--device` is not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VfioError {
    /// No such function.
    #[error("no pci function {bdf}; {}; list them with: lspci -D -d ::0108", others(.nvme))]
    NotThere {
        /// What was named.
        bdf: Bdf,
        /// The NVMe functions that are there.
        nvme: Vec<Bdf>,
    },
    /// Something else than an NVMe controller.
    #[error("{bdf} is not an nvme controller: its class is {class:06x}, nvme is 010802; {}",
            others(.nvme))]
    NotNvme {
        /// What was named.
        bdf: Bdf,
        /// Its class code.
        class: u32,
        /// The NVMe functions that are there.
        nvme: Vec<Bdf>,
    },
    /// The machine has no working IOMMU.
    #[error(
        "{bdf} is in no iommu group: this machine has no iommu in use; switch VT-d or AMD-Vi on in \
         the firmware and boot with intel_iommu=on (amd needs no option), then look: \
         dmesg | grep -e DMAR -e AMD-Vi"
    )]
    NoIommu {
        /// The function.
        bdf: Bdf,
    },
    /// VFIO works without an IOMMU here, which nobody should want.
    #[error(
        "{bdf} is in vfio's no-iommu mode: it could write anywhere in memory; switch VT-d or \
         AMD-Vi on in the firmware, boot with intel_iommu=on (amd needs no option), and unset \
         enable_unsafe_noiommu_mode of module vfio"
    )]
    NoIommuRefused {
        /// The function.
        bdf: Bdf,
    },
    /// The kernel's part of VFIO is not loaded.
    #[error("kernel module {module} is not loaded; as root: modprobe {module}")]
    NoModule {
        /// Its name.
        module: &'static str,
    },
    /// Another driver has the function.
    #[error("{bdf} is in use by driver {driver}{}; as root: {}", holds(.disks), bind(*.bdf))]
    InUse {
        /// The function.
        bdf: Bdf,
        /// The driver.
        driver: String,
        /// What the driver made of it: `nvme0n1`.
        disks: Vec<String>,
    },
    /// No driver has the function.
    #[error("{bdf} is bound to no driver; as root: {}", bind(*.bdf))]
    Unbound {
        /// The function.
        bdf: Bdf,
    },
    /// A neighbour in the IOMMU group belongs to the kernel.
    #[error(
        "{bdf} shares iommu group {group} with {neighbour}, which driver {driver} has: the whole \
         group must be on vfio-pci or unbound; as root: driverctl set-override {neighbour} vfio-pci"
    )]
    Neighbour {
        /// The function.
        bdf: Bdf,
        /// Its group.
        group: u32,
        /// The other function.
        neighbour: Bdf,
        /// Its driver.
        driver: String,
    },
    /// The group's or device's file did not appear.
    #[error(
        "{path} is not there although {bdf} is on vfio-pci; is udev running? try: udevadm settle"
    )]
    NoNode {
        /// The function.
        bdf: Bdf,
        /// The file.
        path: String,
    },
    /// The file is somebody else's.
    #[error(
        "{path} may not be opened by user {user}; as root: chown {user} {path}, or for good: \
         echo '{files}, OWNER=\"{user}\"' > \
         /etc/udev/rules.d/70-hybrid-vfio.rules"
    )]
    NoPermission {
        /// The file.
        path: String,
        /// Who may not.
        user: String,
        /// What udev calls such files.
        files: &'static str,
    },
    /// Somebody holds the group or the device.
    #[error(
        "{path} is still busy after {waited_ms} ms: another process has {bdf}; find it with: \
         fuser -v {path}"
    )]
    Busy {
        /// The function.
        bdf: Bdf,
        /// The file.
        path: String,
        /// How long was waited.
        waited_ms: u64,
    },
    /// The limit of locked memory is too low for the DMA memory.
    #[error(
        "dma memory of {needed} bytes must be pinned and {locked} are locked already, \
         RLIMIT_MEMLOCK is {limit} bytes: {short} bytes short; put \"{user} - memlock {kib}\" into \
         /etc/security/limits.conf and log in again"
    )]
    Memlock {
        /// Bytes of the DMA memory.
        needed: u64,
        /// Bytes locked by this process.
        locked: u64,
        /// The limit.
        limit: u64,
        /// How much it falls short.
        short: u64,
        /// Who is limited.
        user: String,
        /// What to write into `limits.conf`.
        kib: u64,
    },
    /// A call to VFIO failed.
    #[error("{bdf}: {step} failed: {source}")]
    Step {
        /// The function.
        bdf: Bdf,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// `vfio-ioctls` said no.
    #[error("{bdf}: {source}")]
    Vfio {
        /// The function.
        bdf: Bdf,
        /// What it said.
        source: vfio_ioctls::VfioError,
    },
    /// The IOMMU cannot translate what we need.
    #[error("{bdf}: no device addresses for the dma memory: {source}")]
    Iova {
        /// The function.
        bdf: Bdf,
        /// Why.
        source: IovaError,
    },
    /// The IOMMU does not know our page size.
    #[error("{bdf}: the iommu maps pages of {sizes:#x}, 4 KiB is not one of them")]
    PageSizes {
        /// The function.
        bdf: Bdf,
        /// A bit for each size.
        sizes: u64,
    },
    /// The kernel keeps no more mappings of this process.
    #[error(
        "{bdf}: the kernel takes no further dma mapping of this process, one is needed; as root: \
         echo 65535 > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
    )]
    MapsUsedUp {
        /// The function.
        bdf: Bdf,
    },
    /// A configuration register did not keep what was written.
    #[error("{bdf}: command register reads {seen:#06x} after {wrote:#06x} was written")]
    Command {
        /// The function.
        bdf: Bdf,
        /// What was written.
        wrote: u16,
        /// What it reads.
        seen: u16,
    },
    /// BAR 0 cannot be mapped as the driver needs it.
    #[error("{bdf}: {source}")]
    Bar {
        /// The function.
        bdf: Bdf,
        /// Why.
        source: BarError,
    },
    /// It was there, and is not any more.
    #[error("{bdf} is gone: its registers read as {seen}")]
    Gone {
        /// The function.
        bdf: Bdf,
        /// All ones or all zeros.
        seen: &'static str,
    },
    /// A kernel driver or a boot loader left the controller running and it does not stop.
    #[error("{bdf}: the controller was left enabled and did not stop within {limit_ms} ms")]
    StillEnabled {
        /// The function.
        bdf: Bdf,
        /// How long was waited.
        limit_ms: u64,
    },
    /// The thread that hears of a removal could not be started.
    #[error("the device's keeper cannot be started: {0}")]
    Thread(std::io::Error),
}

impl VfioError {
    /// 3 where the machine lacks something that the line says how to get, 1 otherwise.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::NotThere { .. }
            | Self::NoIommu { .. }
            | Self::NoIommuRefused { .. }
            | Self::NoModule { .. }
            | Self::InUse { .. }
            | Self::Unbound { .. }
            | Self::Neighbour { .. }
            | Self::NoNode { .. }
            | Self::NoPermission { .. }
            | Self::Busy { .. }
            | Self::Memlock { .. }
            | Self::MapsUsedUp { .. } => Exit::Missing,
            _ => Exit::Error,
        }
    }

    /// From a failed step.
    pub(super) fn step(bdf: Bdf, step: &'static str) -> impl Fn(Errno) -> Self {
        move |source| Self::Step { bdf, step, source }
    }
}

/// The command that gives a function to vfio-pci, until it is given back.
pub(super) fn bind(bdf: Bdf) -> String {
    format!("sysconfig bind {bdf}")
}

fn others(nvme: &[Bdf]) -> String {
    if nvme.is_empty() {
        return "this machine has no nvme function".to_owned();
    }
    let list: Vec<_> = nvme.iter().map(ToString::to_string).collect();
    format!("nvme functions here are {}", list.join(", "))
}

fn holds(disks: &[String]) -> String {
    if disks.is_empty() { String::new() } else { format!(" as {}", disks.join(", ")) }
}
