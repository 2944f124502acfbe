//! The kernel's iommufd: addresses, maps and unmaps of an address space.
//!
//! Called by [`crate::backend::vfio`]; opening, binding and attaching are `vfio-ioctls`'. Layouts
//! and numbers as in Linux's `include/uapi/linux/iommufd.h` since 6.2. Invariants 1 and 2 are those
//! of [`super::vfio`]; here the length is called `size`.
//!
//! 3. `allowed_iovas` points to as many ranges as `num_iovas` says, which live across the call.

use std::mem::offset_of;
use std::os::fd::BorrowedFd;

use core_runtime::mem::{IovaRange, PAGE_4K};
use rustix::io::Errno;
use vfio_bindings::bindings::vfio as abi;
use zerocopy::{Immutable, IntoBytes};

use super::mapping::Mapped;
use super::vfio::{IommuInfo, argsz, ioctl};

/// `_IO(';', 0x80 + nr)`.
const fn request(nr: u64) -> u64 {
    ((b';' as u64) << 8) | (0x80 + nr)
}

const IOAS_IOVA_RANGES: u64 = request(4);
const IOAS_MAP: u64 = request(5);
const IOAS_UNMAP: u64 = request(6);

const MAP_FIXED_IOVA: u32 = 1 << 0;
const MAP_WRITEABLE: u32 = 1 << 1;
const MAP_READABLE: u32 = 1 << 2;

/// Ranges that are asked for at first; the kernel says if there are more.
const FIRST_RANGES: usize = 32;
/// Most ranges that are believed.
const MOST_RANGES: usize = 4096;

/// `struct iommu_iova_range`: ends inclusive.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
struct Range {
    start: u64,
    last: u64,
}

/// `struct iommu_ioas_iova_ranges`.
#[repr(C)]
#[derive(Debug, IntoBytes, Immutable)]
struct IovaRanges {
    size: u32,
    ioas_id: u32,
    num_iovas: u32,
    reserved: u32,
    allowed_iovas: u64,
    out_iova_alignment: u64,
}

/// `struct iommu_ioas_map`.
#[repr(C)]
#[derive(Debug, IntoBytes, Immutable)]
struct Map {
    size: u32,
    flags: u32,
    ioas_id: u32,
    reserved: u32,
    user_va: u64,
    length: u64,
    iova: u64,
}

/// `struct iommu_ioas_unmap`.
#[repr(C)]
#[derive(Debug, IntoBytes, Immutable)]
struct Unmap {
    size: u32,
    ioas_id: u32,
    iova: u64,
    length: u64,
}

const _: () = {
    assert!(size_of::<Range>() == 16);
    assert!(size_of::<IovaRanges>() == 32);
    assert!(size_of::<Map>() == 40);
    assert!(size_of::<Unmap>() == 24);
    // What `vfio-ioctls` sends; kernels before 6.17 read the first 16 and 12 bytes.
    assert!(size_of::<abi::vfio_device_bind_iommufd>() == 24);
    assert!(offset_of!(abi::vfio_device_bind_iommufd, iommufd) == 8);
    assert!(size_of::<abi::vfio_device_attach_iommufd_pt>() == 16);
    assert!(offset_of!(abi::vfio_device_attach_iommufd_pt, pt_id) == 8);
};

/// The addresses that the address space `ioas` may use: narrower with each device attached, so it
/// is asked after that.
///
/// # Errors
/// What the kernel said; `EPROTO` for an answer that contradicts itself, or has no address.
pub fn iova_ranges(iommufd: BorrowedFd<'_>, ioas: u32) -> Result<IommuInfo, Errno> {
    let mut ranges = vec![Range::default(); FIRST_RANGES];
    loop {
        let mut query = query(ioas, &mut ranges)?;
        let answer = ioctl(iommufd, IOAS_IOVA_RANGES, (&raw mut query).cast());
        let count = query.num_iovas as usize;
        match answer {
            Err(Errno::MSGSIZE) if (ranges.len() + 1..=MOST_RANGES).contains(&count) => {
                ranges.resize(count, Range::default());
            }
            Err(errno) => return Err(errno),
            Ok(_) => {
                let told = ranges.get(..count).ok_or(Errno::PROTO)?;
                return info(told, query.out_iova_alignment);
            }
        }
    }
}

fn query(ioas_id: u32, ranges: &mut [Range]) -> Result<IovaRanges, Errno> {
    Ok(IovaRanges {
        size: argsz::<IovaRanges>(),
        ioas_id,
        num_iovas: u32::try_from(ranges.len()).map_err(|_| Errno::PROTO)?,
        reserved: 0,
        allowed_iovas: ranges.as_mut_ptr().expose_provenance() as u64,
        out_iova_alignment: 0,
    })
}

/// The kernel tells the least alignment instead of page sizes.
fn info(ranges: &[Range], alignment: u64) -> Result<IommuInfo, Errno> {
    if ranges.is_empty() || !alignment.is_power_of_two() {
        return Err(Errno::PROTO);
    }
    let ranges = ranges.iter().map(|range| IovaRange { first: range.start, last: range.last });
    Ok(IommuInfo { page_sizes: alignment.max(PAGE_4K), ranges: ranges.collect(), maps_left: None })
}

/// Makes all of `memory` reachable at `iova` for the devices attached to `ioas`, as one mapping.
///
/// # Errors
/// What the kernel said; `EADDRINUSE` is an error like any other.
pub fn map(iommufd: BorrowedFd<'_>, ioas: u32, iova: u64, memory: &Mapped) -> Result<(), Errno> {
    let mut map = map_at(ioas, iova, memory.base().addr().get() as u64, memory.len() as u64);
    ioctl(iommufd, IOAS_MAP, (&raw mut map).cast())?;
    if map.iova == iova { Ok(()) } else { Err(Errno::PROTO) }
}

const fn map_at(ioas_id: u32, iova: u64, user_va: u64, length: u64) -> Map {
    Map {
        size: argsz::<Map>(),
        flags: MAP_FIXED_IOVA | MAP_WRITEABLE | MAP_READABLE,
        ioas_id,
        reserved: 0,
        user_va,
        length,
        iova,
    }
}

/// Takes a mapping away; returns how many bytes the kernel unmapped.
///
/// # Errors
/// What the kernel said.
pub fn unmap(iommufd: BorrowedFd<'_>, ioas: u32, iova: u64, len: u64) -> Result<u64, Errno> {
    let mut unmap = unmap_of(ioas, iova, len);
    ioctl(iommufd, IOAS_UNMAP, (&raw mut unmap).cast())?;
    Ok(unmap.length)
}

const fn unmap_of(ioas_id: u32, iova: u64, length: u64) -> Unmap {
    Unmap { size: argsz::<Unmap>(), ioas_id, iova, length }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::vfio::borrow;

    /// Words of 4 bytes, as the header's fields lie.
    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn requests_have_the_numbers_of_the_kernels_header() {
        assert_eq!((IOAS_IOVA_RANGES, IOAS_MAP, IOAS_UNMAP), (0x3b84, 0x3b85, 0x3b86));
    }

    #[test]
    fn requests_have_the_bytes_of_the_kernels_header() {
        let map = map_at(7, 0x1_0020_0000, 0x7f12_3400_0000, 0x120_0000);
        let (va, len, iova) = ([0x3400_0000, 0x7f12], [0x120_0000, 0], [0x20_0000, 1]);
        let tail = [va, len, iova].concat();
        assert_eq!(map.as_bytes(), words(&[&[40, 7, 7, 0], &tail[..]].concat()));
        let unmap = unmap_of(9, 0x1_0020_0000, 0x120_0000);
        assert_eq!(unmap.as_bytes(), words(&[24, 9, 0x20_0000, 1, 0x120_0000, 0]));
        let mut ranges = [Range { start: 1, last: 2 }, Range { start: 3, last: u64::MAX }];
        assert_eq!(ranges.as_bytes(), words(&[1, 0, 2, 0, 3, 0, u32::MAX, u32::MAX]));
        let mut query = query(5, &mut ranges).expect("few");
        assert_eq!(query.allowed_iovas, ranges.as_ptr().addr() as u64);
        query.allowed_iovas = 0x1122_3344_5566_7788;
        query.out_iova_alignment = 4096;
        assert_eq!(query.as_bytes(), words(&[32, 5, 2, 0, 0x5566_7788, 0x1122_3344, 4096, 0]));
    }

    #[test]
    fn the_answer_is_addresses_and_a_page_size_that_an_alignment_allows() {
        let told = [Range { start: 0, last: 0xfedf_ffff }];
        let of = |alignment| info(&told, alignment);
        let range = IovaRange { first: 0, last: 0xfedf_ffff };
        let wanted = IommuInfo { page_sizes: 4096, ranges: vec![range], maps_left: None };
        assert_eq!(of(1), Ok(wanted.clone()));
        assert_eq!(of(4096), Ok(wanted));
        assert_eq!(of(65_536).map(|info| info.page_sizes), Ok(65_536));
        assert_eq!(of(0), Err(Errno::PROTO));
        assert_eq!(info(&[], 4096), Err(Errno::PROTO));
    }

    #[test]
    fn a_descriptor_that_is_no_iommufd_is_the_kernels_answer() {
        let file = std::fs::File::open("/dev/null").expect("a file");
        assert_eq!(iova_ranges(borrow(&file), 1), Err(Errno::NOTTY));
        assert_eq!(unmap(borrow(&file), 1, 0, 4096), Err(Errno::NOTTY));
    }
}
