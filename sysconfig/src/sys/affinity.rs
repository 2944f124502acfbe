//! The CPUs that a thread may run on.
//!
//! Invariants, named in the SAFETY lines:
//! 1. `sched_setaffinity` reads exactly the bytes that it is told of and keeps nothing of them.

use std::io;

use hybrid_conventions::CpuSet;

/// Moves the thread `tid` to these CPUs.
///
/// # Errors
/// What the kernel answered: EINVAL for a thread bound to its CPU, ESRCH for one that ended.
pub(crate) fn set(tid: u32, cpus: CpuSet) -> io::Result<()> {
    let tid = i32::try_from(tid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    let words = cpus.as_words();
    // SAFETY: invariant 1; the pointer and the length are those of one array.
    let result = unsafe {
        libc::sched_setaffinity(tid, size_of_val(words), words.as_ptr().cast::<libc::cpu_set_t>())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
