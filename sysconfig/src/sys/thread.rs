//! Real-time priority of the calling thread.
//!
//! Invariants, named in the SAFETY lines:
//! 1. `sched_setscheduler` reads one `sched_param` and keeps nothing of it.

/// Gives the calling thread SCHED_FIFO with this priority.
///
/// # Errors
/// What the kernel answered; EPERM without CAP_SYS_NICE or RLIMIT_RTPRIO.
pub(crate) fn be_fifo(priority: u8) -> std::io::Result<()> {
    let param = libc::sched_param { sched_priority: i32::from(priority) };
    // SAFETY: invariant 1; the pid 0 is this thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
