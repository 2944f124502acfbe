//! Anonymous memory files: what shared and DMA memory is made of.
//!
//! Called by [`crate::memory`]. A memory file is reserved in full when it is created, so that a
//! machine without room answers with an error here instead of a SIGBUS on first touch. That holds
//! for huge pages; the kernel fills a file of 4 KiB pages until it kills someone, so
//! [`crate::memory`] compares with what is available first. It maps
//! nothing ([`super::mapping`] does) and contains no unsafe code.
//!
//! Invariants:
//! 1. Every page of `0 .. len` is reserved from creation on (until [`Memfd::punch`]).
//! 2. `len` is a multiple of the page size and never changes.
//! 3. Close-on-exec: no child inherits it by accident.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;

/// The page size that a piece of memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 4 KiB: what every machine has.
    Small4K,
    /// 2 MiB: the default.
    Huge2M,
    /// 1 GiB: on request.
    Huge1G,
}

impl PageSize {
    /// Bytes of one page.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Small4K => 4 << 10,
            Self::Huge2M => 2 << 20,
            Self::Huge1G => 1 << 30,
        }
    }

    /// The size of pages of so many bytes.
    #[must_use]
    pub const fn of_bytes(bytes: u64) -> Option<Self> {
        match bytes {
            0x1000 => Some(Self::Small4K),
            0x20_0000 => Some(Self::Huge2M),
            0x4000_0000 => Some(Self::Huge1G),
            _ => None,
        }
    }

    /// The next smaller size to try, if there is one.
    #[must_use]
    pub const fn smaller(self) -> Option<Self> {
        match self {
            Self::Huge1G => Some(Self::Huge2M),
            Self::Huge2M => Some(Self::Small4K),
            Self::Small4K => None,
        }
    }

    /// The size to try first for a piece of `len` bytes: 1 GiB pages only where they are filled.
    #[must_use]
    pub const fn fitting(self, len: usize) -> Self {
        match self {
            Self::Huge1G if len < Self::Huge1G.bytes() => Self::Huge2M,
            other => other,
        }
    }

    /// Whether the page comes from the huge-page pool.
    #[must_use]
    pub const fn is_huge(self) -> bool {
        !matches!(self, Self::Small4K)
    }

    /// `len` rounded up to whole pages, or `None` beyond the address space.
    #[must_use]
    pub fn round_up(self, len: usize) -> Option<usize> {
        len.max(1).checked_next_multiple_of(self.bytes())
    }
}

impl std::fmt::Display for PageSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Small4K => "4 KiB",
            Self::Huge2M => "2 MiB",
            Self::Huge1G => "1 GiB",
        })
    }
}

/// A step of making or mapping memory that the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{step} of {len} bytes in {page} pages failed: {errno}")]
pub struct MemoryRefused {
    /// The system call, in words.
    pub step: &'static str,
    /// Bytes asked for.
    pub len: usize,
    /// Page size asked for.
    pub page: PageSize,
    /// What the kernel said.
    pub errno: Errno,
}

/// A memory file whose pages are reserved.
#[derive(Debug)]
pub struct Memfd {
    fd: OwnedFd,
    len: usize,
    page: PageSize,
}

impl Memfd {
    /// Makes a memory file of `len` bytes (a multiple of the page size) and reserves all of it.
    ///
    /// # Errors
    /// [`MemoryRefused`] with the failing step: no such huge pages, no room, no permission.
    pub fn create(name: &str, len: usize, page: PageSize) -> Result<Self, MemoryRefused> {
        let refused = |step| move |errno| MemoryRefused { step, len, page, errno };
        if len == 0 || !len.is_multiple_of(page.bytes()) {
            return Err(refused("sizing")(Errno::INVAL));
        }
        let huge = match page {
            PageSize::Small4K => MemfdFlags::empty(),
            PageSize::Huge2M => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
            PageSize::Huge1G => MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
        };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | huge;
        let fd = rustix::fs::memfd_create(name, flags).map_err(refused("memfd_create"))?;
        rustix::fs::ftruncate(&fd, len as u64).map_err(refused("ftruncate"))?;
        // A ring of io_uring that was just closed leaves work for this thread, which the kernel
        // takes for a signal.
        let all = || rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, len as u64);
        rustix::io::retry_on_intr(all).map_err(refused("reservation"))?;
        Ok(Self { fd, len, page })
    }

    /// A memory file of somebody else's, as it was described: its size is what was said, and
    /// sealed so.
    ///
    /// # Errors
    /// [`MemoryRefused`] with what is not as it was said.
    pub fn adopt(fd: OwnedFd, len: usize, page: PageSize) -> Result<Self, MemoryRefused> {
        let this = Self { fd, len, page };
        if len == 0 || !len.is_multiple_of(page.bytes()) {
            return Err(this.refused("sizing", Errno::INVAL));
        }
        let size = rustix::fs::fstat(&this.fd);
        let size = size.map_err(|errno| this.refused("reading the size", errno))?.st_size;
        if usize::try_from(size) != Ok(len) {
            return Err(this.refused("checking the size", Errno::FBIG));
        }
        Ok(this)
    }

    /// A descriptor of the same file that cannot write: no mapping of it can be made writable. For
    /// the readers of memory whose writer maps it again, and which no seal can hence protect.
    ///
    /// # Errors
    /// [`MemoryRefused`], for example without procfs.
    pub fn read_only_end(&self) -> Result<Self, MemoryRefused> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| self.refused("opening a read-only end", errno))?;
        Ok(Self { fd, len: self.len, page: self.page })
    }

    /// What a reader of such memory checks before it maps: its descriptor cannot write, and the
    /// size is as it should be and sealed.
    ///
    /// # Errors
    /// [`MemoryRefused`].
    pub fn check_read_only_end(&self) -> Result<(), MemoryRefused> {
        self.check_size_sealed()?;
        let flags = rustix::fs::fcntl_getfl(&self.fd);
        let flags = flags.map_err(|errno| self.refused("reading the flags", errno))?;
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
            return Err(self.refused("checking that it cannot write", Errno::PERM));
        }
        let size = rustix::fs::fstat(&self.fd);
        let size = size.map_err(|errno| self.refused("reading the size", errno))?.st_size;
        if usize::try_from(size) != Ok(self.len) {
            return Err(self.refused("checking the size", Errno::FBIG));
        }
        Ok(())
    }

    /// The descriptor alone.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Whether its size is sealed: nobody can take pages away from who has mapped it.
    ///
    /// # Errors
    /// [`MemoryRefused`].
    pub fn check_size_sealed(&self) -> Result<(), MemoryRefused> {
        self.check_seals(SealFlags::SHRINK | SealFlags::GROW)
    }

    fn check_seals(&self, wanted: SealFlags) -> Result<(), MemoryRefused> {
        let seals = rustix::fs::fcntl_get_seals(&self.fd);
        let seals = seals.map_err(|errno| self.refused("reading the seals", errno))?;
        if seals.contains(wanted) {
            Ok(())
        } else {
            Err(self.refused("checking the seals", Errno::PERM))
        }
    }

    const fn refused(&self, step: &'static str, errno: Errno) -> MemoryRefused {
        MemoryRefused { step, len: self.len, page: self.page, errno }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Never: an empty memory file cannot be made.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Page size that it is made of.
    #[must_use]
    pub const fn page(&self) -> PageSize {
        self.page
    }

    /// Fixes the size for good: for memory that several parties write (DMA, doorbells).
    ///
    /// # Errors
    /// [`MemoryRefused`].
    pub fn seal_size(&self) -> Result<(), MemoryRefused> {
        self.seal(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
    }

    /// Fixes the size and forbids any *new* writable mapping: the writer has mapped it already.
    ///
    /// # Errors
    /// [`MemoryRefused`].
    pub fn seal_single_writer(&self) -> Result<(), MemoryRefused> {
        self.seal(SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL)
    }

    fn seal(&self, seals: SealFlags) -> Result<(), MemoryRefused> {
        rustix::fs::fcntl_add_seals(&self.fd, seals).map_err(|errno| MemoryRefused {
            step: "sealing",
            len: self.len,
            page: self.page,
            errno,
        })
    }

    /// What a reader checks before it maps: the file is as long as it should be, and its seals
    /// keep it so and keep further writers out.
    ///
    /// # Errors
    /// [`MemoryRefused`].
    pub fn check_single_writer(&self) -> Result<(), MemoryRefused> {
        self.check_seals(SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE)?;
        let size = rustix::fs::fstat(&self.fd);
        let size = size.map_err(|errno| self.refused("reading the size", errno))?.st_size;
        if usize::try_from(size) != Ok(self.len) {
            return Err(self.refused("checking the size", Errno::FBIG));
        }
        Ok(())
    }

    /// Gives the pages back to the kernel; mappings stay and read as zero from here on.
    ///
    /// # Errors
    /// [`MemoryRefused`], for example where the file is sealed against writes.
    pub fn punch(&self) -> Result<(), MemoryRefused> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.fd, flags, 0, self.len as u64).map_err(|errno| MemoryRefused {
            step: "giving back",
            len: self.len,
            page: self.page,
            errno,
        })
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_is_no_multiple_of_the_page_is_refused() {
        let refused = Memfd::create("odd", 4097, PageSize::Small4K).expect_err("odd length");
        assert_eq!((refused.step, refused.errno), ("sizing", Errno::INVAL));
    }

    #[test]
    fn pages_are_reserved_at_creation_and_given_back_by_punch() {
        let memfd = Memfd::create("reserved", 1 << 20, PageSize::Small4K).expect("1 MiB");
        let blocks = |fd: &Memfd| rustix::fs::fstat(fd).expect("fstat").st_blocks;
        assert_eq!(blocks(&memfd) * 512, 1 << 20);
        memfd.punch().expect("punch");
        assert_eq!(blocks(&memfd), 0);
    }

    #[test]
    fn a_sealed_file_changes_neither_size_nor_seals() {
        let memfd = Memfd::create("sealed", 8192, PageSize::Small4K).expect("8 KiB");
        memfd.seal_size().expect("seal");
        assert_eq!(rustix::fs::ftruncate(&memfd, 4096), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&memfd, 16384), Err(Errno::PERM));
        assert_eq!(memfd.seal_single_writer().map_err(|e| e.errno), Err(Errno::PERM));
    }

    #[test]
    fn a_read_only_end_is_known_from_one_that_can_write() {
        let memfd = Memfd::create("ends", 8192, PageSize::Small4K).expect("8 KiB");
        let unsealed = memfd.read_only_end().expect("procfs").check_read_only_end();
        assert_eq!(unsealed.expect_err("its size may change").step, "checking the seals");
        memfd.seal_size().expect("seal");
        assert_eq!(memfd.read_only_end().expect("procfs").check_read_only_end(), Ok(()));
        let writer = memfd.check_read_only_end().expect_err("it can write");
        assert_eq!((writer.step, writer.errno), ("checking that it cannot write", Errno::PERM));
        let mut longer = memfd.read_only_end().expect("procfs");
        longer.len = 16384;
        let refused = longer.check_read_only_end().expect_err("half of it is missing");
        assert_eq!(refused.step, "checking the size");
    }

    #[test]
    fn a_reader_refuses_a_file_of_another_length_than_it_was_told() {
        let mut memfd = Memfd::create("short", 8192, PageSize::Small4K).expect("8 KiB");
        memfd.seal_single_writer().expect("seal");
        assert_eq!(memfd.check_single_writer(), Ok(()));
        memfd.len = 16384;
        let refused = memfd.check_single_writer().expect_err("half of it is missing");
        assert_eq!(refused.step, "checking the size");
    }
}
