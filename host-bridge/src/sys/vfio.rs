//! VFIO's calls that the `vfio-ioctls` crate lacks, or whose answers it drops.
//!
//! Called by [`crate::backend::vfio`]. Maps and unmaps are issued here, under a contract of our
//! own: that crate declares any Rust reference into mapped memory undefined behaviour, while our
//! arena lends slices of blocks that the CPU owns, and of those only (`core_runtime::mem`,
//! invariants 2 and 3). Everything returns what the kernel said; nothing is swallowed.
//!
//! Invariants, named in the SAFETY lines:
//! 1. A request's structure has the size that its `argsz` names, lives across the call, and the
//!    kernel writes no further than `argsz`.
//! 2. What is mapped for a device is memory of a [`SharedMemory`](crate::memory::SharedMemory) that
//!    stays mapped and populated until [`unmap_dma`] has answered or the container is closed; a
//!    device writes bytes there, which all are valid values.

use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use core_runtime::mem::IovaRange;
use rustix::io::Errno;
use vfio_bindings::bindings::vfio as abi;
use vfio_ioctls::VfioDevice;
use vmm_sys_util::eventfd::EventFd;

use super::mapping::Mapped;

/// `_IO(';', 100 + nr)`.
const fn request(nr: u64) -> u64 {
    ((b';' as u64) << 8) | (100 + nr)
}

const DEVICE_RESET: u64 = request(11);
const IOMMU_GET_INFO: u64 = request(12);
const IOMMU_MAP_DMA: u64 = request(13);
const IOMMU_UNMAP_DMA: u64 = request(14);

/// Longest answer of `VFIO_IOMMU_GET_INFO` that is believed: a page of capabilities.
const MOST_INFO: usize = 4096;

/// What a container's IOMMU can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IommuInfo {
    /// A bit for each page size that can be mapped.
    pub page_sizes: u64,
    /// Usable addresses, ends inclusive; empty where the kernel does not tell.
    pub ranges: Vec<IovaRange>,
    /// Mappings that may still be made; `None` where the kernel does not tell.
    pub maps_left: Option<u32>,
}

/// An answer of the kernel that contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's description of the iommu makes no sense at byte {0}")]
pub struct BadInfo(pub usize);

/// Asks a container twice: for the length, then for everything.
///
/// # Errors
/// What the kernel said; `EPROTO` for an answer that contradicts itself.
pub fn iommu_info(container: BorrowedFd<'_>) -> Result<IommuInfo, Errno> {
    let mut bytes = vec![0_u8; size_of::<abi::vfio_iommu_type1_info>()];
    for _ in 0..2 {
        let len = u32::try_from(bytes.len()).map_err(|_| Errno::PROTO)?;
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
        ioctl(container, IOMMU_GET_INFO, bytes.as_mut_ptr().cast())?;
        let wanted = word32(&bytes, 0).ok_or(Errno::PROTO)? as usize;
        if wanted <= bytes.len() {
            break;
        }
        bytes.resize(wanted.min(MOST_INFO), 0);
    }
    parse_iommu_info(&bytes).map_err(|BadInfo(_)| Errno::PROTO)
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn word64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Reads `vfio_iommu_type1_info` and the capabilities behind it.
///
/// # Errors
/// [`BadInfo`] where an offset leaves the answer, or the chain does not go forwards.
pub fn parse_iommu_info(bytes: &[u8]) -> Result<IommuInfo, BadInfo> {
    const CAPS: u32 = 1 << 1;
    let flags = word32(bytes, 4).ok_or(BadInfo(4))?;
    let page_sizes = word64(bytes, 8).ok_or(BadInfo(8))?;
    let mut info = IommuInfo { page_sizes, ..IommuInfo::default() };
    let mut at = if flags & CAPS == 0 { 0 } else { word32(bytes, 16).ok_or(BadInfo(16))? as usize };
    while at != 0 {
        // id: u16, version: u16, next: u32
        let head = word32(bytes, at).ok_or(BadInfo(at))?;
        let next = word32(bytes, at + 4).ok_or(BadInfo(at + 4))? as usize;
        match head & 0xffff {
            abi::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => info.ranges = ranges(bytes, at)?,
            abi::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => info.maps_left = word32(bytes, at + 8),
            _ => {}
        }
        if next != 0 && next <= at {
            return Err(BadInfo(at));
        }
        at = next;
    }
    Ok(info)
}

fn ranges(bytes: &[u8], at: usize) -> Result<Vec<IovaRange>, BadInfo> {
    let count = word32(bytes, at + 8).ok_or(BadInfo(at + 8))? as usize;
    let first = at + 16;
    (0..count)
        .map(|i| {
            let at = first + 16 * i;
            let bad = BadInfo(at);
            let (first, last) = (word64(bytes, at).ok_or(bad)?, word64(bytes, at + 8).ok_or(bad)?);
            Ok(IovaRange { first, last })
        })
        .collect()
}

/// The size of a request's structure, as the structure itself says it.
pub(super) const fn argsz<T>() -> u32 {
    assert!(size_of::<T>() < 4096);
    #[expect(clippy::cast_possible_truncation, reason = "below 4096, as asserted")]
    let bytes = size_of::<T>() as u32;
    bytes
}

/// Makes all of `memory` reachable for the container's devices at `iova`, as one mapping.
///
/// # Errors
/// What the kernel said; `EEXIST` is an error like any other.
pub fn map_dma(container: BorrowedFd<'_>, iova: u64, memory: &Mapped) -> Result<(), Errno> {
    let mut map = abi::vfio_iommu_type1_dma_map {
        argsz: argsz::<abi::vfio_iommu_type1_dma_map>(),
        flags: abi::VFIO_DMA_MAP_FLAG_READ | abi::VFIO_DMA_MAP_FLAG_WRITE,
        vaddr: memory.base().addr().get() as u64,
        iova,
        size: memory.len() as u64,
    };
    ioctl(container, IOMMU_MAP_DMA, (&raw mut map).cast()).map(drop)
}

/// Takes a mapping away; returns how many bytes the kernel unmapped.
///
/// # Errors
/// What the kernel said.
pub fn unmap_dma(container: BorrowedFd<'_>, iova: u64, len: u64) -> Result<u64, Errno> {
    let mut unmap = abi::vfio_iommu_type1_dma_unmap {
        argsz: argsz::<abi::vfio_iommu_type1_dma_unmap>(),
        flags: 0,
        iova,
        size: len,
        ..Default::default()
    };
    ioctl(container, IOMMU_UNMAP_DMA, (&raw mut unmap).cast())?;
    Ok(unmap.size)
}

/// Resets the function.
///
/// # Errors
/// What the kernel said; `EINVAL` or `ENOTTY` where the function cannot be reset.
pub fn reset_device(device: BorrowedFd<'_>) -> Result<(), Errno> {
    ioctl(device, DEVICE_RESET, std::ptr::null_mut()).map(drop)
}

pub(super) fn ioctl(
    fd: BorrowedFd<'_>,
    request: u64,
    argument: *mut std::ffi::c_void,
) -> Result<libc::c_int, Errno> {
    // SAFETY: invariants 1 and 2: every caller passes the structure that its request wants, or none
    // where it wants none.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, argument) };
    if result < 0 { Err(last_error()) } else { Ok(result) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// A descriptor of a value that outlives the borrow but only names its number.
pub fn borrow<T: AsRawFd>(owner: &T) -> BorrowedFd<'_> {
    // SAFETY: the owner keeps it open for as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

/// An eventfd that was handed over.
pub fn eventfd(fd: OwnedFd) -> EventFd {
    // SAFETY: the descriptor is owned, and given on.
    unsafe { EventFd::from_raw_fd(fd.into_raw_fd()) }
}

/// Lets go of a device by its descriptors, `space` being the one that holds its mappings. The
/// crate's own way looks for a function in sysfs, or detaches it, and panics where that fails; so
/// the values are leaked, and with them a group's descriptor, which is all that stays open until
/// the process ends. The mappings were taken away before.
pub fn close_device_and<T: AsRawFd>(device: ManuallyDrop<VfioDevice>, space: ManuallyDrop<Arc<T>>) {
    for fd in [device.as_raw_fd(), space.as_raw_fd()] {
        // SAFETY: both values are leaked here, so that nobody else closes or uses the descriptors.
        let _ = unsafe { libc::close(fd) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer as the kernel lays it out: head, then capabilities.
    fn answer(flags: u32, cap_offset: u32, rest: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(0x4020_1000_u64.to_ne_bytes());
        bytes.extend(cap_offset.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        rest.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes
    }

    const fn head(id: u64, next: u64) -> u64 {
        id | 1 << 16 | next << 32
    }

    #[test]
    fn ranges_with_inclusive_ends_and_the_limit_of_mappings_are_read() {
        let bytes = answer(
            3,
            24,
            &[head(3, 40), 65_535, head(1, 0), 2, 0, 0xfedf_ffff, 0xfef0_0000, u64::MAX],
        );
        let info = parse_iommu_info(&bytes).expect("well formed");
        let range = |first, last| IovaRange { first, last };
        assert_eq!(info.ranges, [range(0, 0xfedf_ffff), range(0xfef0_0000, u64::MAX)]);
        assert_eq!((info.page_sizes, info.maps_left), (0x4020_1000, Some(65_535)));
    }

    #[test]
    fn an_old_kernel_without_capabilities_tells_only_page_sizes() {
        let info = parse_iommu_info(&answer(1, 0, &[])).expect("well formed");
        assert_eq!(info, IommuInfo { page_sizes: 0x4020_1000, ..IommuInfo::default() });
    }

    #[test]
    fn chains_that_leave_the_answer_or_go_back_are_refused() {
        assert_eq!(parse_iommu_info(&[0; 8]), Err(BadInfo(8)));
        assert_eq!(parse_iommu_info(&answer(3, 4000, &[])), Err(BadInfo(4000)));
        let loops = answer(3, 24, &[head(9, 24), 0]);
        assert_eq!(parse_iommu_info(&loops), Err(BadInfo(24)));
        let short = answer(3, 24, &[head(1, 0), 2, 0, 9]);
        assert_eq!(parse_iommu_info(&short), Err(BadInfo(56)));
    }

    #[test]
    fn a_descriptor_that_is_no_container_is_the_kernels_answer() {
        let file = std::fs::File::open("/dev/null").expect("a file");
        assert_eq!(iommu_info(borrow(&file)), Err(Errno::NOTTY));
        assert_eq!(unmap_dma(borrow(&file), 0, 4096), Err(Errno::NOTTY));
        assert_eq!(reset_device(borrow(&file)), Err(Errno::NOTTY));
    }
}
