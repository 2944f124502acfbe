//! Mappings: memory files and private memory in our address space.
//!
//! Called by [`crate::memory`]. A [`Mapped`] hands out `'static` spans, so dropping it does *not*
//! unmap; only [`Mapped::unmap`] does, whose caller promises that nothing looks any more.
//!
//! Invariants, named in the SAFETY lines:
//! 1. `base .. base + len` is one mapping (or several neighbours) that this value alone owns; it
//!    stays mapped until `unmap` consumes the value, hence for `'static` as far as safe code goes.
//! 2. `base` is aligned to 2 MiB at least, `len` is a multiple of the page size.
//! 3. No Rust reference into the range is made here; a read-only mapping is only ever handed out as
//!    a [`ReadSpan`], which has no store.

use std::ffi::c_void;
use std::ptr::NonNull;

use hybrid_shm::{ReadSpan, Span};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::memfd::{Memfd, MemoryRefused, PageSize};

/// Every mapping starts at a multiple of this, whatever its page size: 2 MiB, so that an IOMMU and
/// the kernel may use large entries for it.
pub const ALIGNMENT: usize = 2 << 20;

/// A mapping that lives until it is unmapped by name.
#[derive(Debug)]
pub struct Mapped {
    base: NonNull<u8>,
    len: usize,
    page: PageSize,
    writable: bool,
}

// SAFETY: invariant 1: the value owns the range, and the range is not bound to a thread.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps all of `memfd` for reading and writing, and touches every page.
    ///
    /// # Errors
    /// [`MemoryRefused`], for example after [`Memfd::seal_single_writer`].
    pub fn writable(memfd: &Memfd) -> Result<Self, MemoryRefused> {
        Self::file(memfd, true)
    }

    /// Maps all of `memfd` for reading.
    ///
    /// # Errors
    /// [`MemoryRefused`].
    pub fn read_only(memfd: &Memfd) -> Result<Self, MemoryRefused> {
        Self::file(memfd, false)
    }

    /// Private memory of `len` bytes in pages of `page`, zeroed and touched. 4 KiB pages ask for
    /// transparent huge pages.
    ///
    /// # Errors
    /// [`MemoryRefused`].
    pub fn private(len: usize, page: PageSize) -> Result<Self, MemoryRefused> {
        let refused = |step| move |errno| MemoryRefused { step, len, page, errno };
        let huge = match page {
            PageSize::Small4K => {
                let hole = Hole::reserve(len).map_err(refused("address reservation"))?;
                return hole.private(page).map_err(refused("private mapping"));
            }
            PageSize::Huge2M => MapFlags::HUGETLB | MapFlags::HUGE_2MB,
            PageSize::Huge1G => MapFlags::HUGETLB | MapFlags::HUGE_1GB,
        };
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE | huge;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new range at an address of the kernel's choice replaces nothing.
        let base = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, prot, flags) }
            .map_err(refused("private mapping"))?;
        Ok(Self::owned(base, len, page, true))
    }

    fn file(memfd: &Memfd, writable: bool) -> Result<Self, MemoryRefused> {
        let (len, page) = (memfd.len(), memfd.page());
        let refused = |step| move |errno| MemoryRefused { step, len, page, errno };
        let hole = Hole::reserve(len).map_err(refused("address reservation"))?;
        hole.file(memfd, writable).map_err(refused("mapping"))
    }

    fn owned(base: *mut c_void, len: usize, page: PageSize, writable: bool) -> Self {
        let base = NonNull::new(base.cast()).expect("the kernel maps nothing at address 0");
        Self { base, len, page, writable }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is mapped: never.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Page size behind it.
    #[must_use]
    pub const fn page(&self) -> PageSize {
        self.page
    }

    /// First address, for system calls and for `core_runtime::mem`.
    #[must_use]
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The whole range.
    ///
    /// # Panics
    /// On a read-only mapping: our own bug.
    #[must_use]
    pub fn span(&self) -> Span<'static> {
        assert!(self.writable, "a read-only mapping has no writable span");
        // SAFETY: invariants 1 and 3.
        unsafe { Span::from_raw(self.base, self.len) }
    }

    /// The whole range, to look at.
    #[must_use]
    pub const fn read_span(&self) -> ReadSpan<'static> {
        // SAFETY: invariants 1 and 3; only the view without stores leaves this function.
        unsafe { Span::from_raw(self.base, self.len) }.read_only()
    }

    /// Keeps the pages from being swapped out. Memory from the huge-page pool needs no lock.
    ///
    /// # Errors
    /// The kernel's answer, mostly for RLIMIT_MEMLOCK.
    pub fn lock(&self) -> rustix::io::Result<()> {
        if self.page.is_huge() {
            return Ok(());
        }
        // SAFETY: invariant 1; locking changes no byte.
        unsafe { rustix::mm::mlock(self.base.as_ptr().cast(), self.len) }
    }

    /// Ends the mapping.
    ///
    /// # Safety
    /// No span, reference or owner type made from this mapping is used from here on.
    pub unsafe fn unmap(self) {
        // SAFETY: invariant 1, and the caller's promise.
        let done = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        assert!(done.is_ok(), "munmap of our own mapping failed: {done:?}");
    }
}

/// A reserved, inaccessible, 2 MiB aligned range that a mapping is about to replace.
///
/// Dropped without being filled, it unmaps itself.
struct Hole {
    base: *mut c_void,
    len: usize,
}

impl Hole {
    /// Reserves address space only.
    fn reserve(len: usize) -> rustix::io::Result<Self> {
        let whole = len.checked_add(ALIGNMENT).ok_or(rustix::io::Errno::NOMEM)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new range at an address of the kernel's choice replaces nothing.
        let start = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), whole, ProtFlags::empty(), flags)
        }?;
        let head = start.addr().next_multiple_of(ALIGNMENT) - start.addr();
        let tail = whole - head - len;
        let hole = Self { base: start.wrapping_byte_add(head), len };
        if head > 0 {
            // SAFETY: part of the range just made, which nobody knows yet.
            unsafe { rustix::mm::munmap(start, head) }?;
        }
        if tail > 0 {
            // SAFETY: as above: the part behind the hole.
            unsafe { rustix::mm::munmap(hole.base.wrapping_byte_add(len), tail) }?;
        }
        Ok(hole)
    }

    fn file(self, memfd: &Memfd, writable: bool) -> rustix::io::Result<Mapped> {
        let prot = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        let flags = MapFlags::SHARED | MapFlags::FIXED | MapFlags::POPULATE;
        // SAFETY: MAP_FIXED replaces exactly the hole, which nobody but us knows.
        let base = unsafe { rustix::mm::mmap(self.base, self.len, prot, flags, memfd, 0) }?;
        Ok(self.filled(base, memfd.page(), writable))
    }

    fn private(self, page: PageSize) -> rustix::io::Result<Mapped> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: MAP_FIXED replaces exactly the hole, which nobody but us knows.
        let base = unsafe { rustix::mm::mmap_anonymous(self.base, self.len, prot, flags) }?;
        // Transparent huge pages are a wish: a kernel without them says so, and nothing changes.
        // SAFETY: the range is ours and holds no data yet.
        let _ = unsafe { rustix::mm::madvise(base, self.len, Advice::LinuxHugepage) };
        // SAFETY: as above; the pages are touched after the advice, so that they may be huge.
        unsafe { rustix::mm::madvise(base, self.len, Advice::LinuxPopulateWrite) }
            .or_else(|_| touch(base, self.len))?;
        Ok(self.filled(base, page, true))
    }

    fn filled(self, base: *mut c_void, page: PageSize, writable: bool) -> Mapped {
        let mapped = Mapped::owned(base, self.len, page, writable);
        std::mem::forget(self);
        mapped
    }
}

impl Drop for Hole {
    fn drop(&mut self) {
        // SAFETY: the hole was never filled, or never handed out: nobody else knows the range.
        let _ = unsafe { rustix::mm::munmap(self.base, self.len) };
    }
}

/// Writes a zero into each page, for kernels before MADV_POPULATE_WRITE (5.14).
#[expect(clippy::unnecessary_wraps, reason = "it stands in for a call that may fail")]
fn touch(base: *mut c_void, len: usize) -> rustix::io::Result<()> {
    for offset in (0..len).step_by(PageSize::Small4K.bytes()) {
        // SAFETY: inside the fresh, private, zeroed mapping that only our caller knows.
        unsafe { base.cast::<u8>().add(offset).write_volatile(0) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writer_and_reader_see_the_same_bytes_and_the_seal_stops_a_second_writer() {
        let memfd = Memfd::create("pair", 2 << 20, PageSize::Small4K).expect("2 MiB");
        let writer = Mapped::writable(&memfd).expect("the writer maps first");
        memfd.seal_single_writer().expect("then the seal");
        let reader = Mapped::read_only(&memfd).expect("the reader maps");
        writer.span().word64(64).expect("in bounds").store(0x1234_5678_9abc);
        assert_eq!(reader.read_span().load64(64), Ok(0x1234_5678_9abc));
        let refused = Mapped::writable(&memfd).expect_err("a second writer");
        assert_eq!(refused.errno, rustix::io::Errno::PERM);
        // SAFETY: the spans above were temporaries.
        unsafe { (writer.unmap(), reader.unmap()) };
    }

    #[test]
    fn every_mapping_is_aligned_to_two_mebibytes_whatever_its_pages() {
        for len in [4096, 2 << 20, (2 << 20) + 4096] {
            let memfd = Memfd::create("aligned", len, PageSize::Small4K).expect("memfd");
            let shared = Mapped::writable(&memfd).expect("shared");
            let private = Mapped::private(len, PageSize::Small4K).expect("private");
            for mapped in [shared, private] {
                assert_eq!(mapped.base().addr().get() % ALIGNMENT, 0);
                assert_eq!(mapped.len(), len);
                mapped.span().fill(0, len, 0xa5).expect("all of it is writable");
                // SAFETY: the span above was a temporary.
                unsafe { mapped.unmap() };
            }
        }
    }

    #[test]
    fn address_space_that_does_not_exist_is_an_error() {
        let refused = Mapped::private(1 << 52, PageSize::Small4K).expect_err("4 PiB");
        assert_eq!(refused.step, "address reservation");
    }
}
