//! A listening socket that the service manager hands over: `sd_listen_fds(3)`.
//!
//! Invariants, named in the SAFETY lines:
//! 1. The protocol passes descriptors from 3 on; [`listener`] is called once, before anything else
//!    opens or closes a descriptor of that number, and owns it from then on.

use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor that the protocol passes.
const FIRST: i32 = 3;

/// Whether the descriptor was taken.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The socket, or [`None`] if it was taken before or no descriptor 3 is there.
pub(crate) fn listener() -> Option<UnixListener> {
    if TAKEN.swap(true, Ordering::Relaxed) || !std::path::Path::new("/proc/self/fd/3").exists() {
        return None;
    }
    // SAFETY: invariant 1, held by TAKEN.
    let fd = unsafe { OwnedFd::from_raw_fd(FIRST) };
    Some(UnixListener::from(fd))
}
