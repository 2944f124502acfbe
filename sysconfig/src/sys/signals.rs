//! SIGINT and SIGTERM as a flag, so that what was measured is still printed.
//!
//! Installed once by the verbs that run for long. Whoever waits looks at [`StopSignals::pending`],
//! ends in order, flushes its results and exits with [`StopSignals::exit`]. The second signal of a
//! kind has its default action again: an impatient Ctrl-C ends the process at once.
//!
//! Invariants, named in the SAFETY lines:
//! 1. The handler stores one number in an atomic: nothing in it can deadlock or allocate.
//! 2. Signal sets are initialised by `sigemptyset` before they are read.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicI32, Ordering};

use hybrid_conventions::Exit;

/// The last stop signal, or 0.
static PENDING: AtomicI32 = AtomicI32::new(0);

/// Proof that the handlers are installed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StopSignals(());

impl StopSignals {
    /// Installs the handlers for SIGINT and SIGTERM.
    ///
    /// # Errors
    /// What the kernel answered.
    pub(crate) fn install() -> std::io::Result<Self> {
        for signal in [libc::SIGINT, libc::SIGTERM] {
            install_one(signal)?;
        }
        Ok(Self(()))
    }

    /// Whether a stop signal has arrived.
    pub(crate) fn pending(self) -> bool {
        PENDING.load(Ordering::Relaxed) != 0
    }

    /// The exit code that says which one came: 130 or 143.
    pub(crate) fn exit(self) -> Option<Exit> {
        match PENDING.load(Ordering::Relaxed) {
            libc::SIGINT => Some(Exit::Interrupted),
            libc::SIGTERM => Some(Exit::Terminated),
            _ => None,
        }
    }
}

extern "C" fn remember(signal: libc::c_int) {
    PENDING.store(signal, Ordering::Relaxed);
}

fn install_one(signal: libc::c_int) -> std::io::Result<()> {
    // SAFETY: all zeroes is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    let handler: extern "C" fn(libc::c_int) = remember;
    action.sa_sigaction = handler as libc::sighandler_t;
    // Once only: the second one has the default action. No SA_RESTART: waits end early.
    action.sa_flags = libc::SA_RESETHAND;
    // SAFETY: invariants 1 and 2; the mask is set before the action is installed.
    let result = unsafe {
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
