//! A device's registers, mapped; and what happens when the device, or a file's pages, are gone.
//!
//! Called by [`crate::backend::vfio`], and by [`super::window`] for files of others that may become
//! shorter while they are shown. An access to a BAR whose device was taken away, or whose
//! memory space was switched off, raises SIGBUS. The handler here recognises the address, maps a
//! page of ones over the BAR, marks the device as gone and returns: the access is done again and
//! reads all ones, which the driver takes for what it is. Addresses that are no BAR's go to
//! whoever handled SIGBUS before. Over a window zeros are mapped instead, which nobody else sees.
//!
//! ```text
//!   mapped ── SIGBUS ──▶ covered with ones, `gone` set       (the handler)
//!   mapped ── cover() ─▶ covered with ones                   (the host: release within a deadline)
//! ```
//! A covered BAR no longer holds the VFIO file, which a mapped one does.
//!
//! Invariants, named in the SAFETY lines:
//! 1. A range in `GUARDED` is a mapping that [`MappedBar`] made, or a window's; it is never
//!    unmapped, only mapped over at the same place, so that a pointer into it stays valid for the
//!    process's life.
//! 2. The handler makes no call but `mmap` (a plain system call), takes no lock, allocates nothing,
//!    and restores `errno`. What it reads is atomics that were published before the range could
//!    fault.
//! 3. The file of ones is made before the handler is installed, and never closed.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use hybrid_shm::Span;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// BARs and guarded windows that a process may have at once. A slot is used again when its BAR was
/// covered or its window dropped.
const SLOTS: usize = 32;

/// What the handler knows of one BAR.
struct Slot {
    taken: AtomicBool,
    /// 0: nothing is guarded.
    base: AtomicUsize,
    len: AtomicUsize,
    gone: AtomicBool,
    /// Zeros cover it, not ones.
    zeros: AtomicBool,
}

static GUARDED: [Slot; SLOTS] = [const {
    Slot {
        taken: AtomicBool::new(false),
        base: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        gone: AtomicBool::new(false),
        zeros: AtomicBool::new(false),
    }
}; SLOTS];

/// The file of ones, or -1 before it is made.
static ONES: AtomicI32 = AtomicI32::new(-1);

/// Longest BAR that is mapped: registers, and doorbells of 1,024 queue pairs at any usual stride.
pub const MOST_BYTES: usize = 1 << 20;

/// Who handled SIGBUS before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// A mapped BAR, from its first byte.
#[derive(Debug)]
pub struct MappedBar {
    base: NonNull<u8>,
    len: usize,
    slot: usize,
}

// SAFETY: the value owns the range, which is not bound to a thread (invariant 1).
unsafe impl Send for MappedBar {}

impl MappedBar {
    /// Maps `len` bytes (whole pages) of `file` from `offset` on, for reading and writing, and
    /// guards them.
    ///
    /// # Errors
    /// What the kernel said; `EMFILE` when all slots are taken, `EINVAL` beyond [`MOST_BYTES`].
    pub fn new(file: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Self, Errno> {
        if len > MOST_BYTES {
            return Err(Errno::INVAL);
        }
        install()?;
        let slot = take_slot()?;
        let made = Self::map(file, offset, len, slot);
        if made.is_err() {
            GUARDED[slot].taken.store(false, Ordering::Relaxed);
        }
        made
    }

    fn map(file: BorrowedFd<'_>, offset: u64, len: usize, slot: usize) -> Result<Self, Errno> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let base = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, file, offset)
        }?;
        let guard = &GUARDED[slot];
        guard.gone.store(false, Ordering::Relaxed);
        guard.zeros.store(false, Ordering::Relaxed);
        guard.len.store(len, Ordering::Relaxed);
        // SYNC bar-guard: pairs with the handler's Acquire load.
        guard.base.store(base.addr(), Ordering::Release);
        let base = NonNull::new(base.cast()).expect("the kernel maps nothing at address 0");
        Ok(Self { base, len, slot })
    }

    /// The registers.
    #[must_use]
    pub fn span(&self) -> Span<'static> {
        // SAFETY: invariant 1; no reference to it is ever made.
        unsafe { Span::from_raw(self.base, self.len) }
    }

    /// Whether an access has found the device gone.
    #[must_use]
    pub fn faulted(&self) -> bool {
        GUARDED[self.slot].gone.load(Ordering::Relaxed)
    }

    /// Lets go of the device: from here on the range reads as all ones, and writes go nowhere.
    /// Whoever still holds a pointer into it does no harm.
    ///
    /// # Errors
    /// What the kernel said; the BAR is still mapped then.
    pub fn cover(&self) -> Result<(), Errno> {
        if cover(self.base.addr().get(), self.len, false) { Ok(()) } else { Err(last_error()) }
    }
}

impl Drop for MappedBar {
    fn drop(&mut self) {
        // Its addresses stay mapped, to ones; the slot is free again when that is so.
        if self.cover().is_ok() {
            GUARDED[self.slot].base.store(0, Ordering::Release);
            GUARDED[self.slot].taken.store(false, Ordering::Relaxed);
        }
    }
}

/// A free slot, taken.
fn take_slot() -> Result<usize, Errno> {
    let free = |slot: &Slot| !slot.taken.swap(true, Ordering::Relaxed);
    GUARDED.iter().position(free).ok_or(Errno::MFILE)
}

/// A window whose pages may be taken away: an access finds zeros then, instead of ending the
/// process.
#[derive(Debug)]
pub(super) struct Guard {
    slot: usize,
}

impl Guard {
    /// Guards a window's range, which invariant 1 must hold for.
    pub(super) fn over(base: NonNull<u8>, len: usize) -> Result<Self, Errno> {
        install()?;
        let slot = take_slot()?;
        let guard = &GUARDED[slot];
        guard.gone.store(false, Ordering::Relaxed);
        guard.zeros.store(true, Ordering::Relaxed);
        guard.len.store(len, Ordering::Relaxed);
        // SYNC bar-guard: pairs with the handler's Acquire load.
        guard.base.store(base.addr().get(), Ordering::Release);
        Ok(Self { slot })
    }

    /// Whether an access has found pages gone since the last look.
    pub(super) fn take_fault(&self) -> bool {
        GUARDED[self.slot].gone.swap(false, Ordering::Relaxed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        GUARDED[self.slot].base.store(0, Ordering::Release);
        GUARDED[self.slot].taken.store(false, Ordering::Relaxed);
    }
}

/// A memory file of [`MOST_BYTES`] ones.
fn file_of_ones() -> Result<OwnedFd, Errno> {
    let file = rustix::fs::memfd_create("hybrid-gone", MemfdFlags::CLOEXEC)?;
    let ones = vec![0xff_u8; MOST_BYTES];
    let mut written = 0;
    while written < ones.len() {
        written += rustix::io::pwrite(&file, &ones[written..], written as u64)?;
    }
    Ok(file)
}

/// Maps the file of ones, or zeros, privately, over a range. For the handler: invariant 2.
fn cover(base: usize, len: usize, zeros: bool) -> bool {
    let ones = if zeros { -1 } else { ONES.load(Ordering::Acquire) };
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let anonymous = if zeros { libc::MAP_ANONYMOUS | libc::MAP_NORESERVE } else { 0 };
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | anonymous;
    let at = std::ptr::without_provenance_mut(base);
    // SAFETY: invariant 1: MAP_FIXED replaces exactly a mapping of ours; invariant 3.
    let done = unsafe { libc::mmap(at, len, prot, flags, ones, 0) };
    done != libc::MAP_FAILED
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Installs the handler, once.
fn install() -> Result<(), Errno> {
    static DONE: OnceLock<Result<(), Errno>> = OnceLock::new();
    static FILE: OnceLock<OwnedFd> = OnceLock::new();
    *DONE.get_or_init(|| {
        let ones = file_of_ones()?;
        // SYNC ones: pairs with the Acquire load of `cover`.
        ONES.store(FILE.get_or_init(|| ones).as_raw_fd(), Ordering::Release);
        // SAFETY: all zeroes is a valid `sigaction`.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: reads the action in force; both pointers are to values of ours.
        if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before) } != 0 {
            return Err(last_error());
        }
        // Before the handler can run, so that it finds it.
        let _ = BEFORE.set(before);
        // SAFETY: invariant 2; `action` is initialised, its mask is set before it is installed.
        let result = unsafe {
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut())
        };
        if result == 0 { Ok(()) } else { Err(last_error()) }
    })
}

/// Whether an address lies in a BAR that is guarded, for a partition that is a process: its handler
/// cannot map, and ends it instead.
#[must_use]
pub fn is_guarded(address: usize) -> bool {
    GUARDED.iter().any(|slot| {
        // SYNC bar-guard: pairs with the Release store of `map`.
        let base = slot.base.load(Ordering::Acquire);
        base != 0 && address.wrapping_sub(base) < slot.len.load(Ordering::Relaxed)
    })
}

extern "C" fn on_bus(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler with SA_SIGINFO.
    let at = unsafe { (*info).si_addr() }.addr();
    for slot in &GUARDED {
        // SYNC bar-guard: pairs with the Release store of `map`.
        let base = slot.base.load(Ordering::Acquire);
        let len = slot.len.load(Ordering::Relaxed);
        if base == 0 || at.wrapping_sub(base) >= len {
            continue;
        }
        // SAFETY: the calling thread's own errno.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: as above.
        let kept = unsafe { *errno };
        slot.gone.store(true, Ordering::Relaxed);
        let done = cover(base, len, slot.zeros.load(Ordering::Relaxed));
        // SAFETY: as above.
        unsafe { *errno = kept };
        if done {
            return;
        }
    }
    hand_on(signal);
}

/// Puts back who handled these faults before: the access, done again when the handler returns, goes
/// there, or ends the process.
fn hand_on(signal: libc::c_int) {
    let before = BEFORE.get().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `before` was filled by the kernel when ours was installed, or is null, which changes
    // nothing; callable in a handler.
    unsafe { libc::sigaction(signal, before, std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file whose pages are cut away behind a mapping: an access raises SIGBUS, as one to a BAR
    /// does whose device is gone.
    fn device(len: u64) -> OwnedFd {
        let file = rustix::fs::memfd_create("bar", MemfdFlags::CLOEXEC).expect("a memory file");
        rustix::fs::ftruncate(&file, len).expect("its size");
        file
    }

    #[test]
    fn an_access_to_a_device_that_is_gone_reads_all_ones_and_the_process_lives() {
        use std::os::fd::AsFd;
        let file = device(8192);
        let bar = MappedBar::new(file.as_fd(), 0, 8192).expect("mapped");
        let regs = core_runtime::mem::Mmio::new(bar.span());
        regs.write32(0x14, 7).expect("in bounds");
        assert_eq!((regs.read32(0x14), bar.faulted()), (Ok(7), false));
        rustix::fs::ftruncate(&file, 0).expect("gone");
        assert_eq!(regs.read32(0x1c), Ok(u32::MAX));
        assert!(bar.faulted());
        assert_eq!(regs.read64(0x1000), Ok(u64::MAX), "every page of it");
        regs.write32(0x1000, 5).expect("a doorbell rung in the void");
        assert_eq!(regs.read64(0), Ok(u64::MAX));
    }

    #[test]
    fn a_covered_bar_lets_go_of_its_file_and_reads_all_ones() {
        use std::os::fd::AsFd;
        let file = device(4096);
        let bar = MappedBar::new(file.as_fd(), 0, 4096).expect("mapped");
        let regs = core_runtime::mem::Mmio::new(bar.span());
        regs.write32(0, 1).expect("in bounds");
        bar.cover().expect("covered");
        assert_eq!(regs.read32(0), Ok(u32::MAX));
        assert!(!bar.faulted());
        let mut byte = [0];
        rustix::io::pread(&file, &mut byte, 0).expect("the file is as it was");
        assert_eq!(byte, [1]);
    }

    #[test]
    fn slots_are_used_again() {
        use std::os::fd::AsFd;
        let file = device(4096);
        for _ in 0..3 * SLOTS {
            drop(MappedBar::new(file.as_fd(), 0, 4096).expect("a free slot"));
        }
    }
}
