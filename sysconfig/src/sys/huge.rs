//! A trial of huge pages: a mapping that is really backed, on the node that it was asked for.
//!
//! A pool that counts pages is no proof: a cgroup limit, a reservation or another node's pages only
//! show when a page is touched. `apply` and `verify` call this; the pages go back at once.
//!
//! Invariants, named in the SAFETY lines:
//! 1. The mapping is private, anonymous and ours, from `mmap` to `munmap`; nobody else has it.
//! 2. It is touched only within its length, and only after `MAP_POPULATE` or `madvise` has had its
//!    chance to say no: `MADV_POPULATE_WRITE` turns what would be SIGBUS into an error.

use std::io;
use std::ptr;

/// `MADV_POPULATE_WRITE` of Linux 5.14.
const MADV_POPULATE_WRITE: libc::c_int = 23;

/// `MPOL_BIND` of `<linux/mempolicy.h>`.
const MPOL_BIND: libc::c_ulong = 2;

/// Maps one page of `bytes` (a power of two), bound to `node` if there is one, and fills it.
///
/// # Errors
/// What the kernel answered: ENOMEM for an empty pool, EFAULT for pages that the node can't give.
pub(crate) fn try_one(bytes: usize, node: Option<u32>) -> io::Result<()> {
    let log2 = libc::c_int::try_from(bytes.trailing_zeros()).unwrap_or(21);
    let flags = libc::MAP_PRIVATE
        | libc::MAP_ANONYMOUS
        | libc::MAP_HUGETLB
        | (log2 << libc::MAP_HUGE_SHIFT);
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: invariant 1; a fresh mapping wherever the kernel likes.
    let page = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let tried =
        node.map_or(Ok(()), |node| bind(page, bytes, node)).and_then(|()| fill(page, bytes));
    // SAFETY: invariant 1.
    unsafe { libc::munmap(page, bytes) };
    tried
}

fn bind(page: *mut libc::c_void, bytes: usize, node: u32) -> io::Result<()> {
    const BITS: u32 = 64;
    let mut mask = [0_u64; 16];
    let word = mask.get_mut((node / BITS) as usize);
    let word = word.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    *word = 1 << (node % BITS);
    let bits = mask.len() as u64 * u64::from(BITS);
    // SAFETY: invariant 1; the kernel reads at most `bits` bits of the mask.
    let result = unsafe {
        libc::syscall(libc::SYS_mbind, page, bytes, MPOL_BIND, mask.as_ptr(), bits, 0_u64)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn fill(page: *mut libc::c_void, bytes: usize) -> io::Result<()> {
    // SAFETY: invariants 1 and 2.
    let result = unsafe { libc::madvise(page, bytes, MADV_POPULATE_WRITE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
