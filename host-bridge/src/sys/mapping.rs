//! Mappings: memory files and private memory in our address space.
//!
//! Called by [`crate::memory`]. A [`Mapped`] hands out `'static` views. Until the first one,
//! dropping it unmaps; after that only [`Mapped::unmap`] does, whose caller promises that nothing
//! looks any more. All memory is populated when it is handed out, or it is an error: no page of it
//! is found missing later, by a SIGBUS.
//!
//! Invariants, named in the SAFETY lines:
//! 1. `base .. base + len` is one mapping (or several neighbours) that this value alone owns; it
//!    stays mapped until `unmap` consumes the value, hence for `'static` as far as safe code goes;
//!    `Drop` unmaps only while `seen` is false: no view was ever handed out.
//! 2. `base` is aligned to 2 MiB and to the page size, `len` is a multiple of the page size.
//! 3. No Rust reference into the range is made here; a read-only mapping is only ever handed out as
//!    a [`ReadSpan`], which has no store.

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use hybrid_shm::{ReadSpan, Span};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::memfd::{Memfd, MemoryRefused, PageSize};
use crate::topology::free_huge_pages;

/// Every mapping starts at a multiple of this, whatever its page size: 2 MiB, so that an IOMMU and
/// the kernel may use large entries for it.
pub const ALIGNMENT: usize = 2 << 20;

/// A mapping that lives until it is unmapped by name, once somebody has looked at it.
#[derive(Debug)]
pub struct Mapped {
    base: NonNull<u8>,
    len: usize,
    page: PageSize,
    writable: bool,
    /// Whether a view was handed out.
    seen: AtomicBool,
}

// SAFETY: invariant 1: the value owns the range, and the range is not bound to a thread.
unsafe impl Send for Mapped {}

// SAFETY: a shared reference gives lengths, an address and views, which may be used from any
// thread; what it changes (`seen`) is atomic.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps all of `memfd` for reading and writing, and touches every page.
    ///
    /// # Errors
    /// [`MemoryRefused`], for example after [`Memfd::seal_single_writer`].
    pub fn writable(memfd: &Memfd) -> Result<Self, MemoryRefused> {
        Self::file(memfd, true)
    }

    /// Maps all of `memfd` for reading, after a look at its size and its seals: its writer can
    /// neither take pages away nor be joined by another one.
    ///
    /// # Errors
    /// [`MemoryRefused`], for example before [`Memfd::seal_single_writer`].
    pub fn read_only(memfd: &Memfd) -> Result<Self, MemoryRefused> {
        memfd.check_single_writer()?;
        Self::file(memfd, false)
    }

    /// Maps all of what a read-only end of a file shows, after a look that it is one and that its
    /// size is sealed.
    ///
    /// # Errors
    /// [`MemoryRefused`], for example for a descriptor that can write.
    pub fn read_only_end(memfd: &Memfd) -> Result<Self, MemoryRefused> {
        memfd.check_read_only_end()?;
        Self::file(memfd, false)
    }

    /// Private memory of `len` bytes in pages of `page`, zeroed and touched. 4 KiB pages ask for
    /// transparent huge pages.
    ///
    /// # Errors
    /// [`MemoryRefused`].
    pub fn private(len: usize, page: PageSize) -> Result<Self, MemoryRefused> {
        let refused = |step| move |errno| MemoryRefused { step, len, page, errno };
        let hole = Hole::reserve(len, page).map_err(refused("address reservation"))?;
        let mapped = hole.private(page).map_err(refused("private mapping"))?;
        // Dropped on an error: nobody has seen it.
        mapped.populate().map_err(refused("populating"))?;
        Ok(mapped)
    }

    fn file(memfd: &Memfd, writable: bool) -> Result<Self, MemoryRefused> {
        let (len, page) = (memfd.len(), memfd.page());
        let refused = |step| move |errno| MemoryRefused { step, len, page, errno };
        let hole = Hole::reserve(len, page).map_err(refused("address reservation"))?;
        hole.file(memfd, writable).map_err(refused("mapping"))
    }

    fn owned(base: *mut c_void, len: usize, page: PageSize, writable: bool) -> Self {
        let base = NonNull::new(base.cast()).expect("the kernel maps nothing at address 0");
        Self { base, len, page, writable, seen: AtomicBool::new(false) }
    }

    /// Makes the kernel find every page now.
    fn populate(&self) -> rustix::io::Result<()> {
        let base = self.base.as_ptr().cast();
        if !self.page.is_huge() {
            // Transparent huge pages are a wish: a kernel without them says so, and nothing
            // changes. Before the pages are touched, so that they may be huge.
            // SAFETY: invariant 1; the advice changes no byte.
            let _ = unsafe { rustix::mm::madvise(base, self.len, Advice::LinuxHugepage) };
        }
        // SAFETY: invariant 1; it writes to no byte.
        match unsafe { rustix::mm::madvise(base, self.len, Advice::LinuxPopulateWrite) } {
            // Before Linux 5.14.
            Err(Errno::INVAL) => self.touch(free_huge_pages),
            result => result,
        }
    }

    /// Writes a zero into each page. A page of the pool that is missing would be a SIGBUS, so the
    /// pool is looked at first.
    fn touch(&self, free: impl Fn(&Path, usize, Option<u32>) -> Option<u64>) -> Result<(), Errno> {
        let step = self.page.bytes();
        let pages = self.len / step;
        if self.page.is_huge() && free(Path::new("/"), step, None) < Some(pages as u64) {
            return Err(Errno::NOMEM);
        }
        for page in 0..pages {
            // SAFETY: invariant 1: inside the fresh mapping, which nobody else has seen.
            unsafe { self.base.as_ptr().add(page * step).write_volatile(0) };
        }
        Ok(())
    }

    /// From here on only `unmap` unmaps.
    fn show(&self) {
        self.seen.store(true, Ordering::Relaxed);
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
    pub fn base(&self) -> NonNull<u8> {
        self.show();
        self.base
    }

    /// The whole range.
    ///
    /// # Panics
    /// On a read-only mapping: our own bug.
    #[must_use]
    pub fn span(&self) -> Span<'static> {
        assert!(self.writable, "a read-only mapping has no writable span");
        self.show();
        // SAFETY: invariants 1 and 3.
        unsafe { Span::from_raw(self.base, self.len) }
    }

    /// The whole range, to look at.
    #[must_use]
    pub fn read_span(&self) -> ReadSpan<'static> {
        self.show();
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

    /// Gives the file's pages back and leaves the addresses, readable as zeros (and writable into
    /// nowhere where they were writable): safe whoever still holds a view.
    ///
    /// # Errors
    /// The kernel's answer; the memory stays as it was then.
    pub fn blank(self) -> rustix::io::Result<()> {
        let this = ManuallyDrop::new(self);
        let write = if this.writable { ProtFlags::WRITE } else { ProtFlags::empty() };
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        let base = this.base.as_ptr().cast();
        // SAFETY: invariant 1: MAP_FIXED replaces exactly our own mapping, by one that can be read
        // and written as before, for the process's life.
        unsafe { rustix::mm::mmap_anonymous(base, this.len, ProtFlags::READ | write, flags) }?;
        Ok(())
    }

    /// Ends the mapping.
    ///
    /// # Safety
    /// No span, reference or owner type made from this mapping is used from here on.
    pub unsafe fn unmap(self) {
        let this = ManuallyDrop::new(self);
        // SAFETY: invariant 1, and the caller's promise.
        let done = unsafe { rustix::mm::munmap(this.base.as_ptr().cast(), this.len) };
        assert!(done.is_ok(), "munmap of our own mapping failed: {done:?}");
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if !*self.seen.get_mut() {
            // SAFETY: invariant 1: no view of it was ever handed out.
            let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        }
    }
}

/// A reserved, inaccessible, aligned range that a mapping is about to replace.
///
/// Dropped without being filled, it unmaps itself.
struct Hole {
    base: *mut c_void,
    len: usize,
}

impl Hole {
    /// Reserves address space only, where pages of this size may lie: the kernel maps pages of
    /// 1 GiB at multiples of 1 GiB alone.
    fn reserve(len: usize, page: PageSize) -> rustix::io::Result<Self> {
        let alignment = page.bytes().max(ALIGNMENT);
        let whole = len.checked_add(alignment).ok_or(Errno::NOMEM)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new range at an address of the kernel's choice replaces nothing.
        let start = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), whole, ProtFlags::empty(), flags)
        }?;
        let head = start.addr().next_multiple_of(alignment) - start.addr();
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
        let huge = match page {
            PageSize::Small4K => MapFlags::empty(),
            PageSize::Huge2M => MapFlags::HUGETLB | MapFlags::HUGE_2MB,
            PageSize::Huge1G => MapFlags::HUGETLB | MapFlags::HUGE_1GB,
        };
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | huge;
        // SAFETY: MAP_FIXED replaces exactly the hole, which nobody but us knows.
        let base = unsafe { rustix::mm::mmap_anonymous(self.base, self.len, prot, flags) }?;
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
        assert_eq!(refused.errno, Errno::PERM);
        // SAFETY: the spans above were temporaries.
        unsafe { (writer.unmap(), reader.unmap()) };
    }

    #[test]
    fn a_read_only_end_cannot_be_mapped_writable_and_its_writer_can_map_it_again() {
        let memfd = Memfd::create("lives", 4096, PageSize::Small4K).expect("4 KiB");
        memfd.seal_size().expect("sealed");
        let end = memfd.read_only_end().expect("procfs");
        let refused = Mapped::file(&end, true).expect_err("no writer");
        assert_eq!(refused.errno, Errno::ACCESS);
        assert!(Mapped::read_only_end(&memfd).is_err(), "the writer's own is no reader's");
        let reader = Mapped::read_only_end(&end).expect("a reader");
        for life in 1..3 {
            let writer = Mapped::writable(&memfd).expect("each life maps it");
            writer.span().word64(8).expect("inside").store(life);
            assert_eq!(reader.read_span().load64(8), Ok(life));
        }
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

    #[test]
    fn a_hole_lies_where_pages_of_its_size_may_lie() {
        for page in [PageSize::Small4K, PageSize::Huge2M, PageSize::Huge1G] {
            let hole = Hole::reserve(page.bytes(), page).expect("address space");
            assert_eq!(hole.base.addr() % page.bytes().max(ALIGNMENT), 0, "{page}");
        }
    }

    #[test]
    fn a_mapping_that_nobody_has_seen_goes_when_it_is_dropped_and_one_that_was_seen_stays() {
        let mappings = |name: &str| {
            let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
            maps.lines().filter(|line| line.contains(name)).count()
        };
        let map = |name| {
            let memfd = Memfd::create(name, 4096, PageSize::Small4K).expect("4 KiB");
            let mapped = Mapped::writable(&memfd).expect("mapped");
            assert_eq!(mappings(name), 1);
            mapped
        };
        drop(map("hybrid-test-unseen"));
        assert_eq!(mappings("hybrid-test-unseen"), 0);
        let seen = map("hybrid-test-seen");
        let span = seen.span();
        drop(seen);
        span.fill(0, 4096, 0xa5).expect("it stays mapped");
        assert_eq!(mappings("hybrid-test-seen"), 1);
    }

    #[test]
    fn a_reader_does_not_map_what_may_still_change_its_size_or_get_another_writer() {
        let memfd = Memfd::create("unsealed", 4096, PageSize::Small4K).expect("4 KiB");
        let refused = Mapped::read_only(&memfd).expect_err("no seal at all");
        assert_eq!((refused.step, refused.errno), ("checking the seals", Errno::PERM));
        memfd.seal_size().expect("half of it");
        let refused = Mapped::read_only(&memfd).expect_err("several writers");
        assert_eq!(refused.step, "checking the seals");
    }

    #[test]
    fn without_populate_the_pool_is_looked_at_before_a_huge_page_is_touched() {
        let mut mapped = Mapped::private(4 << 20, PageSize::Small4K).expect("private");
        mapped.page = PageSize::Huge2M;
        assert_eq!(mapped.touch(|_, _, _| Some(1)), Err(Errno::NOMEM));
        assert_eq!(mapped.touch(|_, _, _| None), Err(Errno::NOMEM));
        assert_eq!(mapped.touch(|_, _, _| Some(2)), Ok(()));
    }

    #[test]
    fn where_the_machine_has_huge_pages_they_are_mapped_shared_read_only_and_private() {
        // Other tests take pages of 2 MiB meanwhile, none takes one of 1 GiB.
        for (page, needed) in [(PageSize::Huge2M, 32), (PageSize::Huge1G, 1)] {
            if free_huge_pages(Path::new("/"), page.bytes(), None) < Some(needed) {
                eprintln!("not run: {needed} free pages of {page} are needed");
                continue;
            }
            let last = page.bytes() - 8;
            let memfd = Memfd::create("huge", page.bytes(), page).expect("a page of the pool");
            let writer = Mapped::writable(&memfd).expect("shared");
            memfd.seal_single_writer().expect("sealed");
            let reader = Mapped::read_only(&memfd).expect("read-only");
            writer.span().word64(last).expect("in bounds").store(42);
            assert_eq!(reader.read_span().load64(last), Ok(42));
            // SAFETY: the spans above were temporaries.
            unsafe { (writer.unmap(), reader.unmap()) };
            drop(memfd);
            let private = Mapped::private(page.bytes(), page).expect("private");
            private.span().word64(last).expect("in bounds").store(42);
            assert_eq!(private.base().addr().get() % page.bytes(), 0, "{page}");
            // SAFETY: as above.
            unsafe { private.unmap() };
        }
    }
}
