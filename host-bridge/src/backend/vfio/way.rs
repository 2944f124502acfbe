//! The two ways into VFIO: the group's container, or the device's own file and an address space of
//! iommufd. What [`super::device`] does after opening is the same for both.
//!
//! A device that somebody has is `EBUSY` when its group is opened. The newer way opens the file all
//! the same, and `VFIO_DEVICE_BIND_IOMMUFD` says `EBUSY` where the group is in use, and `EINVAL`
//! where the device is bound already (`vfio_df_open`, Linux 6.6 and later); the other causes of
//! that `EINVAL` are malformed requests. Both are tried again.

use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iommufd_ioctls::{IommuFd, IommufdError};
use rustix::io::Errno;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError as IoctlError, VfioIommufd};

use super::error::VfioError;
use super::probe::{self, Found, Way};
use crate::sys::mapping::Mapped;
use crate::sys::{iommufd, vfio as sys};

/// Between two tries.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Who holds the mappings of a device.
pub enum Space {
    /// The group's container.
    Container(Arc<VfioContainer>),
    /// An address space of iommufd, which the device is attached to.
    Iommufd(Arc<VfioIommufd>),
}

/// Who keeps mappings: a [`Space`] of the kernel's, or one that a test makes up.
pub trait Mappings {
    /// Addresses and page sizes of the IOMMU; the device is in already.
    ///
    /// # Errors
    /// What the kernel said.
    fn info(&self) -> Result<sys::IommuInfo, Errno>;

    /// Makes `memory` reachable for the device at `iova`.
    ///
    /// # Errors
    /// What the kernel said.
    fn map(&self, iova: u64, memory: &Mapped) -> Result<(), Errno>;

    /// Takes the mapping away; returns how many bytes the kernel unmapped.
    ///
    /// # Errors
    /// What the kernel said.
    fn unmap(&self, iova: u64, len: u64) -> Result<u64, Errno>;
}

impl Mappings for Space {
    fn info(&self) -> Result<sys::IommuInfo, Errno> {
        match self {
            Self::Container(container) => sys::iommu_info(sys::borrow(&**container)),
            Self::Iommufd(space) => {
                iommufd::iova_ranges(sys::borrow(&**space.iommufd()), space.ioas().id())
            }
        }
    }

    fn map(&self, iova: u64, memory: &Mapped) -> Result<(), Errno> {
        match self {
            Self::Container(container) => sys::map_dma(sys::borrow(&**container), iova, memory),
            Self::Iommufd(space) => {
                let fd = sys::borrow(&**space.iommufd());
                iommufd::map(fd, space.ioas().id(), iova, memory)
            }
        }
    }

    fn unmap(&self, iova: u64, len: u64) -> Result<u64, Errno> {
        match self {
            Self::Container(container) => sys::unmap_dma(sys::borrow(&**container), iova, len),
            Self::Iommufd(space) => {
                let fd = sys::borrow(&**space.iommufd());
                iommufd::unmap(fd, space.ioas().id(), iova, len)
            }
        }
    }
}

impl Space {
    /// Lets go of a device of this space. `there`: its function is still in sysfs.
    pub fn let_go(self, device: ManuallyDrop<VfioDevice>, there: bool) {
        match self {
            Self::Container(container) if there => {
                drop((ManuallyDrop::into_inner(device), container));
            }
            Self::Container(container) => {
                sys::close_device_and(device, ManuallyDrop::new(container));
            }
            // Closing detaches and unbinds, whatever state the device is in.
            Self::Iommufd(space) => {
                let fd = Arc::clone(space.iommufd());
                sys::close_device_and(device, ManuallyDrop::new(fd));
            }
        }
    }
}

/// Opens the function the way that was found, again while somebody else has it.
///
/// # Errors
/// [`VfioError`].
pub fn open_until(
    found: &Found,
    limit: Duration,
) -> Result<(Space, ManuallyDrop<VfioDevice>), VfioError> {
    let begun = Instant::now();
    loop {
        let error = match open_once(found) {
            Ok((space, device)) => return Ok((space, ManuallyDrop::new(device))),
            Err(error) => error,
        };
        let bdf = found.bdf;
        match kind_of(&error) {
            Some(Errno::BUSY) if begun.elapsed() < limit => std::thread::sleep(BUSY_PAUSE),
            Some(Errno::BUSY) => {
                let waited_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                return Err(VfioError::Busy { bdf, path: found.node(), waited_ms });
            }
            Some(Errno::ACCESS | Errno::PERM) => {
                return Err(probe::no_permission(Path::new("/"), found.node()));
            }
            _ => return Err(VfioError::Vfio { bdf, source: error }),
        }
    }
}

/// Opens the function as exclusively as the kernel can, and lets it go: at once, without waiting
/// for whoever has it.
///
/// A group's file is enough: each open device of the group holds a reference to it, so that it can
/// be opened only when there is none, and opening it resets nothing. A device's own file can be
/// opened by anyone; binding it to an iommufd is what only one may.
///
/// # Errors
/// [`VfioError::Busy`] while somebody has it, and what else the kernel says.
pub fn can_be_had(found: &Found) -> Result<(), VfioError> {
    let busy = || VfioError::Busy { bdf: found.bdf, path: found.node(), waited_ms: 0 };
    match found.way {
        Way::Group => {
            let mut options = std::fs::OpenOptions::new();
            match options.read(true).write(true).open(found.node()).map(drop) {
                Ok(()) => Ok(()),
                Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => Err(busy()),
                Err(error) => {
                    let source = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                    Err(VfioError::step(found.bdf, "opening the group")(source))
                }
            }
        }
        Way::Iommufd { .. } => match open_once(found) {
            Ok((space, device)) => {
                space.let_go(ManuallyDrop::new(device), found.is_there());
                Ok(())
            }
            Err(error) if kind_of(&error) == Some(Errno::BUSY) => Err(busy()),
            Err(source) => Err(VfioError::Vfio { bdf: found.bdf, source }),
        },
    }
}

fn open_once(found: &Found) -> Result<(Space, VfioDevice), IoctlError> {
    match found.way {
        Way::Group => {
            let container = Arc::new(VfioContainer::new(None)?);
            let device = VfioDevice::new(&found.sysfs, container.clone(), false)?;
            Ok((Space::Container(container), device))
        }
        Way::Iommufd { .. } => {
            let iommufd = IommuFd::new().map_err(IoctlError::NewVfioIommufd)?;
            let space = Arc::new(VfioIommufd::new(Arc::new(iommufd), None, None)?);
            let device = VfioDevice::new(&found.sysfs, space.clone(), true)?;
            Ok((Space::Iommufd(space), device))
        }
    }
}

/// What the kernel said, where it decides what happens next.
fn kind_of(error: &IoctlError) -> Option<Errno> {
    match error {
        IoctlError::OpenGroup(error, _)
        | IoctlError::OpenContainer(error)
        | IoctlError::OpenDeviceCdev(error)
        | IoctlError::NewVfioIommufd(IommufdError::OpenIommufd(error)) => {
            Errno::from_io_error(error)
        }
        IoctlError::GroupGetDeviceFD(error) => Some(Errno::from_raw_os_error(error.errno())),
        IoctlError::VfioDeviceBindIommufd(error) => {
            let errno = Errno::from_raw_os_error(error.errno());
            matches!(errno, Errno::BUSY | Errno::INVAL).then_some(Errno::BUSY)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Error;
    use vmm_sys_util::errno::Error as SysError;

    #[test]
    fn a_device_that_somebody_has_is_busy_either_way() {
        let group = IoctlError::OpenGroup(Error::from_raw_os_error(libc::EBUSY), "7".to_owned());
        assert_eq!(kind_of(&group), Some(Errno::BUSY));
        let bind = |errno| kind_of(&IoctlError::VfioDeviceBindIommufd(SysError::new(errno)));
        assert_eq!(bind(libc::EBUSY), Some(Errno::BUSY));
        assert_eq!(bind(libc::EINVAL), Some(Errno::BUSY));
        // Interrupts that cannot be remapped, not a file's mode.
        assert_eq!(bind(libc::EPERM), None);
        assert_eq!(bind(libc::ENODEV), None);
    }

    #[test]
    fn files_that_may_not_be_opened_are_told_so_either_way() {
        let denied = || Error::from_raw_os_error(libc::EACCES);
        for error in [
            IoctlError::OpenContainer(denied()),
            IoctlError::OpenDeviceCdev(denied()),
            IoctlError::NewVfioIommufd(IommufdError::OpenIommufd(denied())),
        ] {
            assert_eq!(kind_of(&error), Some(Errno::ACCESS), "{error}");
        }
    }
}
