//! Windows: ranges of our address space in which somebody else's file is shown, or none.
//!
//! Called by the vfio-user client, for the doorbells that a server offers, and by the vfio-user
//! server, for the memory that a client gives. What is shown may change while others look: always
//! at the same address, in one step of the kernel, and always memory that can be read and written.
//! A window is never unmapped, so a view of it can't dangle; dropped, it is blank and keeps its
//! addresses until the process ends.
//!
//! What it cannot prevent: the owner of a shown file may take its pages away later; what is shown
//! was long enough when it was shown. An access is a SIGBUS then, which ends the process, but for a
//! [guarded](Window::guard) window: that one turns blank.
//!
//! Invariants, named in the SAFETY lines:
//! 1. `base .. base + len` is address space that this value alone maps into, from its reservation
//!    to the end of the process, readable and writable at all times; `len` is a multiple of 4 KiB.
//! 2. No Rust reference into the range is made here: the bytes may change under everybody's eyes.

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use hybrid_shm::Span;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use super::bar::Guard;
use super::mapping::ALIGNMENT;

/// Bytes of the pages in which windows are counted.
const PAGE: usize = 4096;

/// What is shown is found by the kernel at once up to this size; a larger file (a virtual machine's
/// memory) when it is touched.
const POPULATE_MOST: usize = 1 << 30;

/// A range that shows a file or nothing.
#[derive(Debug)]
pub struct Window {
    base: NonNull<u8>,
    len: usize,
    guard: Option<Guard>,
}

// SAFETY: invariant 1: the value owns the range, and the range is not bound to a thread.
unsafe impl Send for Window {}

// SAFETY: what its methods do to the mapping the kernel does in one step, whoever else asks it to.
unsafe impl Sync for Window {}

impl Window {
    /// A blank window of `len` bytes, rounded up to whole pages, aligned to 2 MiB where it is that
    /// long.
    ///
    /// # Errors
    /// The kernel's answer: no address space.
    pub fn reserve(len: usize) -> Result<Self, Errno> {
        let len = len.max(1).checked_next_multiple_of(PAGE).ok_or(Errno::NOMEM)?;
        let alignment = if len >= ALIGNMENT { ALIGNMENT } else { PAGE };
        let whole = len.checked_add(alignment - PAGE).ok_or(Errno::NOMEM)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new range at an address of the kernel's choice replaces nothing.
        let start =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), whole, prot, flags) }?;
        let head = start.addr().next_multiple_of(alignment) - start.addr();
        let base = start.wrapping_byte_add(head);
        let tail = whole - head - len;
        if head > 0 {
            // SAFETY: part of the range just made, which nobody knows yet.
            unsafe { rustix::mm::munmap(start, head) }?;
        }
        if tail > 0 {
            // SAFETY: as above: the part behind the window.
            unsafe { rustix::mm::munmap(base.wrapping_byte_add(len), tail) }?;
        }
        let base = NonNull::new(base.cast()).expect("the kernel maps nothing at address 0");
        Ok(Self { base, len, guard: None })
    }

    /// From here on an access to pages that were taken away finds the window blank.
    ///
    /// # Errors
    /// `MFILE` if too many are guarded already, or what the kernel says.
    pub fn guard(&mut self) -> Result<(), Errno> {
        if self.guard.is_none() {
            self.guard = Some(Guard::over(self.base, self.len)?);
        }
        Ok(())
    }

    /// Whether a guarded window has turned blank by itself since the last look.
    #[must_use]
    pub fn take_fault(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::take_fault)
    }

    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes: never.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first `len` bytes, whatever they show; all of it if it is shorter.
    #[must_use]
    pub fn span(&self, len: usize) -> Span<'static> {
        // SAFETY: invariants 1 and 2.
        unsafe { Span::from_raw(self.base, len.min(self.len)) }
    }

    /// Shows `len` bytes of `file` from `offset` on (both whole pages of the file) at the window's
    /// start, for reading and writing; what lies behind them is blank.
    ///
    /// # Errors
    /// `FBIG` if the file does not have these bytes, `INVAL` if they are no whole pages or more
    /// than the window has, or what the kernel says; the window shows what it did before then, or
    /// nothing.
    pub fn show(&self, file: BorrowedFd<'_>, offset: u64, len: usize) -> Result<(), Errno> {
        if len == 0 || len > self.len || !len.is_multiple_of(PAGE) {
            return Err(Errno::INVAL);
        }
        let size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
        if offset.checked_add(len as u64).is_none_or(|end| end > size) {
            return Err(Errno::FBIG);
        }
        let mut flags = MapFlags::SHARED | MapFlags::FIXED;
        flags.set(MapFlags::POPULATE, len <= POPULATE_MOST);
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: invariant 1: MAP_FIXED replaces pages of the window only, by readable and
        // writable ones.
        unsafe { rustix::mm::mmap(self.start(), len, prot, flags, file, offset) }?;
        self.blank_from(len)
    }

    /// Shows nothing: zeros that others do not see.
    ///
    /// # Errors
    /// What the kernel says; the window shows what it did before then.
    pub fn blank(&self) -> Result<(), Errno> {
        self.blank_from(0)
    }

    fn blank_from(&self, at: usize) -> Result<(), Errno> {
        if at == self.len {
            return Ok(());
        }
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let start = self.start().wrapping_byte_add(at);
        // SAFETY: invariant 1: as in `show`.
        unsafe { rustix::mm::mmap_anonymous(start, self.len - at, prot, flags) }?;
        Ok(())
    }

    const fn start(&self) -> *mut c_void {
        self.base.as_ptr().cast()
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // A file that can't be taken away stays shown, which is as safe.
        let _ = self.blank();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::super::memfd::{Memfd, PageSize};
    use super::*;

    fn file(pages: usize, byte: u8) -> Memfd {
        let memfd = Memfd::create("window", pages * PAGE, PageSize::Small4K).expect("a file");
        let all = vec![byte; pages * PAGE];
        assert_eq!(rustix::io::pwrite(&memfd, &all, 0), Ok(all.len()));
        memfd
    }

    fn word(window: &Window, at: usize) -> u64 {
        window.span(window.len()).word64(at).expect("in bounds").load()
    }

    #[test]
    fn what_is_shown_changes_under_the_same_view() {
        let window = Window::reserve(2 * PAGE).expect("address space");
        let view = window.span(2 * PAGE).word64(PAGE).expect("in bounds");
        let (one, two) = (file(3, 1), file(1, 2));
        assert_eq!(view.load(), 0, "blank at first");
        window.show(one.as_fd(), PAGE as u64, 2 * PAGE).expect("shown");
        assert_eq!(view.load(), 0x0101_0101_0101_0101);
        view.store(7);
        let mut seen = [0; 8];
        assert_eq!(rustix::io::pread(&one, &mut seen, 2 * PAGE as u64), Ok(8));
        assert_eq!(u64::from_le_bytes(seen), 7, "a store is the file's");
        window.show(two.as_fd(), 0, PAGE).expect("shown");
        assert_eq!((word(&window, 0), view.load()), (0x0202_0202_0202_0202, 0), "blank behind");
        window.blank().expect("blank");
        view.store(9);
        assert_eq!(word(&window, 0), 0);
    }

    #[test]
    fn a_file_that_is_too_short_or_pages_that_are_none_are_refused() {
        let window = Window::reserve(2 * PAGE).expect("address space");
        let two = file(2, 1);
        let show = |offset, len| window.show(two.as_fd(), offset, len);
        for (offset, len) in [(PAGE as u64, 2 * PAGE), (u64::MAX, PAGE), (2 * PAGE as u64, PAGE)] {
            assert_eq!(show(offset, len), Err(Errno::FBIG), "{offset} {len}");
        }
        for (offset, len) in [(0, 0), (0, 3 * PAGE), (0, 100), (100, PAGE)] {
            assert_eq!(show(offset, len), Err(Errno::INVAL), "{offset} {len}");
        }
        assert_eq!(word(&window, 0), 0);
        let pipe = std::io::pipe().expect("a pipe").0;
        assert_eq!(window.show(pipe.as_fd(), 0, PAGE), Err(Errno::FBIG));
        assert!(Window::reserve(usize::MAX).is_err() && Window::reserve(1 << 52).is_err());
    }

    #[test]
    fn a_guarded_window_turns_blank_when_its_pages_are_taken_away() {
        let mut window = Window::reserve(2 * PAGE).expect("address space");
        window.guard().expect("guarded");
        window.guard().expect("once is enough");
        let two = file(2, 1);
        window.show(two.as_fd(), 0, 2 * PAGE).expect("shown");
        assert_eq!((word(&window, PAGE), window.take_fault()), (0x0101_0101_0101_0101, false));
        rustix::fs::ftruncate(&two, 0).expect("nobody sealed it");
        window.span(2 * PAGE).word64(PAGE).expect("in bounds").store(5);
        assert_eq!((word(&window, 0), word(&window, PAGE)), (0, 5), "private memory");
        assert!(window.take_fault() && !window.take_fault(), "told once");
        window.show(file(1, 3).as_fd(), 0, PAGE).expect("shown again");
        assert_eq!((word(&window, 0), window.take_fault()), (0x0303_0303_0303_0303, false));
    }

    #[test]
    fn large_windows_lie_where_huge_pages_may() {
        let window = Window::reserve((2 << 20) + 1).expect("address space");
        assert_eq!(window.start().addr() % ALIGNMENT, 0);
        assert_eq!(window.len(), (2 << 20) + PAGE);
        assert_eq!(Window::reserve(1).map(|window| window.len()), Ok(PAGE));
    }
}
