//! What the kernel is to have in memory before a partition runs, beside the memory that it is
//! given: its stack and the program's text.
//!
//! Called by [`crate::runtime`]: the text once a runtime, the stack on the partition's thread. Both
//! are best effort; what the kernel refuses is said, or costs a page fault later, which the report
//! counts ([`super::usage`]).
//!
//! Invariants, named in the SAFETY lines:
//! 1. A thread's stack, as the C library describes it to the thread itself, stays mapped while the
//!    thread lives; [`LockedStack`] does not leave its thread.
//! 2. Reading pages in and locking them changes no byte, whatever lies there meanwhile.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::path::Path;

use rustix::io::Errno;
use rustix::mm::Advice;

/// Stack of a partition's thread: a future is polled by nested calls, so its depth is the
/// program's; 2 MiB is what Rust gives every thread.
pub const STACK_BYTES: usize = 2 << 20;

/// What is touched where the stack cannot be locked, so that the loop takes no page fault for it.
/// The rest is there for the panic path.
const STACK_TOUCHED: usize = 1 << 20;

/// The calling thread's stack, in memory as a whole until this is dropped.
#[derive(Debug)]
pub struct LockedStack {
    base: *mut c_void,
    len: usize,
}

impl LockedStack {
    /// Locks the calling thread's stack, and touches all of it so.
    ///
    /// # Errors
    /// The kernel's answer, mostly for RLIMIT_MEMLOCK; what the loop needs is touched then.
    pub fn of_this_thread() -> Result<Self, Errno> {
        let locked = Self::lock();
        if locked.is_err() {
            touch_stack();
        }
        locked
    }

    fn lock() -> Result<Self, Errno> {
        let (base, len) = this_stack()?;
        // SAFETY: invariants 1 and 2.
        unsafe { rustix::mm::mlock(base, len) }?;
        Ok(Self { base, len })
    }
}

impl Drop for LockedStack {
    fn drop(&mut self) {
        // The C library keeps stacks for later threads, which should not pay for this one.
        // SAFETY: invariants 1 and 2.
        let _ = unsafe { rustix::mm::munlock(self.base, self.len) };
    }
}

fn this_stack() -> Result<(*mut c_void, usize), Errno> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: it fills the attributes, or says that it did not.
    let result = unsafe { libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) };
    if result != 0 {
        return Err(Errno::from_raw_os_error(result));
    }
    let (mut base, mut len) = (std::ptr::null_mut(), 0);
    // SAFETY: the attributes were filled above, and are destroyed once.
    let result = unsafe {
        let result = libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut base, &raw mut len);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        result
    };
    if result == 0 { Ok((base, len)) } else { Err(Errno::from_raw_os_error(result)) }
}

/// Writes to the stack that the loop will use. Its pages stay: nothing gives them back.
#[inline(never)]
fn touch_stack() {
    let mut pages = [0_u8; STACK_TOUCHED];
    std::hint::black_box(&mut pages);
}

/// Reads in the program and its libraries, which the kernel otherwise does page by page when they
/// are first executed. Data files that the program has mapped are left alone.
pub fn read_program_in() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    let program = std::env::current_exe().unwrap_or_default();
    for (from, to) in program_ranges(&maps, &program) {
        // SAFETY: invariant 2: a range that is gone meanwhile is an error, which is no concern.
        let _ = unsafe {
            let start = std::ptr::without_provenance_mut(from);
            rustix::mm::madvise(start, to - from, Advice::LinuxPopulateRead)
        };
    }
}

/// Has the kernel find every page that this process has mapped, and lock all of it: from here on
/// nothing of it is a page fault. For a process that maps nothing more. Locking finds the pages,
/// copies of private ones included; only where it is refused they are asked for one range at a
/// time.
///
/// # Errors
/// The kernel's answer, mostly for RLIMIT_MEMLOCK; the pages are there then, and not locked.
pub fn lock_this_process() -> Result<(), Errno> {
    let Err(refused) = rustix::mm::mlockall(rustix::mm::MlockAllFlags::CURRENT) else {
        return Ok(());
    };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (from, to, advice) in all_ranges(&maps) {
        // What cannot be populated (a device's registers, the kernel's own pages) says so.
        // SAFETY: invariant 2.
        let _ = unsafe {
            rustix::mm::madvise(std::ptr::without_provenance_mut(from), to - from, advice)
        };
    }
    Err(refused)
}

/// Every readable range; private writable ones are to be written to, so that they are no copies
/// that have yet to be made.
fn all_ranges(maps: &str) -> impl Iterator<Item = (usize, usize, Advice)> + '_ {
    maps.lines().filter_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let hex = |text| usize::from_str_radix(text, 16).ok();
        let advice = match rest.get(..4)? {
            rights if rights.starts_with("rw") => Advice::LinuxPopulateWrite,
            rights if rights.starts_with('r') => Advice::LinuxPopulateRead,
            _ => return None,
        };
        Some((hex(from)?, hex(to)?, advice)).filter(|(from, to, _)| from < to)
    })
}

/// Lets the C library's heap have `bytes` from now on and ask the kernel for nothing while that is
/// enough: neither for large blocks, nor to give memory back.
pub fn prepare_heap(bytes: usize) {
    #[cfg(target_env = "gnu")]
    {
        let pad = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        for (what, value) in [
            (libc::M_MMAP_MAX, 0),
            (libc::M_TRIM_THRESHOLD, libc::c_int::MAX),
            (libc::M_TOP_PAD, pad),
        ] {
            // SAFETY: plain numbers; one that is refused changes nothing.
            unsafe { libc::mallopt(what, value) };
        }
        // The next growth takes the pad with it.
        drop(std::hint::black_box(Vec::<u8>::with_capacity(GROWTH_BYTES)));
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = bytes;
}

/// More than the free end of a young heap.
#[cfg(target_env = "gnu")]
const GROWTH_BYTES: usize = 256 << 10;

/// Readable ranges of `program`, and executable ones of any file.
fn program_ranges<'a>(
    maps: &'a str,
    program: &'a Path,
) -> impl Iterator<Item = (usize, usize)> + 'a {
    maps.lines().filter_map(move |line| {
        let (range, rest) = line.split_once(' ')?;
        let path = Path::new(&rest[rest.find('/')?..]);
        if !(rest.starts_with("r-x") || rest.starts_with('r') && path == program) {
            return None;
        }
        let (from, to) = range.split_once('-')?;
        let hex = |text| usize::from_str_radix(text, 16).ok();
        Some((hex(from)?, hex(to)?)).filter(|(from, to)| from < to)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entry of `/proc/self/smaps` that holds `addr`.
    fn smaps_of(addr: usize) -> String {
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("procfs");
        let mut found = String::new();
        for line in smaps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let hex = |text| usize::from_str_radix(text, 16).ok();
            if let Some((from, to)) = range.and_then(|(from, to)| Some((hex(from)?, hex(to)?))) {
                found = if (from..to).contains(&addr) { format!("{line}\n") } else { found };
                if addr < from {
                    break;
                }
            } else if !found.is_empty() && !found.contains("VmFlags:") {
                found += &format!("{line}\n");
            }
        }
        found
    }

    fn kib(smaps: &str, field: &str) -> usize {
        let line = smaps.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|line| line.trim().strip_suffix("kB"));
        number.and_then(|kib| kib.trim().parse().ok()).expect(field)
    }

    #[test]
    fn a_threads_stack_is_locked_and_wholly_there_until_it_is_let_go() {
        let look = || {
            let here = 0_u8;
            let addr = (&raw const here).addr();
            let locked = match LockedStack::of_this_thread() {
                Ok(locked) => locked,
                Err(errno) => return eprintln!("not run: mlock: {errno}"),
            };
            let smaps = smaps_of(addr);
            assert!(smaps.lines().any(|line| line.starts_with("VmFlags:") && line.contains(" lo")));
            assert!(kib(&smaps, "Rss:") >= STACK_BYTES >> 10, "{smaps}");
            drop(locked);
            let smaps = smaps_of(addr);
            assert!(!smaps.lines().any(|l| l.starts_with("VmFlags:") && l.contains(" lo")));
        };
        let builder = std::thread::Builder::new().stack_size(STACK_BYTES);
        builder.spawn(look).expect("a thread").join().expect("its assertions");
    }

    #[test]
    fn program_and_libraries_are_read_in_and_data_files_are_not() {
        let maps = "\
            1000-2000 r--p 00000000 08:01 7   /opt/my program\n\
            2000-4000 r-xp 00001000 08:01 7   /opt/my program\n\
            4000-5000 ---p 00001000 08:01 7   /opt/my program\n\
            5000-6000 r-xp 00000000 08:01 8   /lib/libc.so.6\n\
            6000-7000 r--p 00000000 08:01 8   /lib/libc.so.6\n\
            7000-8000 rw-s 00000000 08:01 9   /data/image\n\
            8000-9000 rw-p 00000000 00:00 0   [heap]\n\
            nonsense\n";
        let ranges: Vec<_> = program_ranges(maps, Path::new("/opt/my program")).collect();
        assert_eq!(ranges, [(0x1000, 0x2000), (0x2000, 0x4000), (0x5000, 0x6000)]);
        read_program_in();
    }
}
