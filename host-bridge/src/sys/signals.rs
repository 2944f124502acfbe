//! SIGINT and SIGTERM as a flag, and threads that no signal may disturb.
//!
//! Called by the binaries (once, at start) and by [`crate::runtime`] when it starts a partition's
//! or a device's thread. The handler stores one number and nothing else; whoever waits looks at
//! [`StopSignals::pending`], ends in order, flushes its results and exits with
//! [`StopSignal::exit`]. The second signal of a kind has its default action again: an impatient
//! Ctrl-C ends the process at once.
//!
//! Invariants, named in the SAFETY lines:
//! 1. The handler touches one atomic: nothing in it can deadlock or allocate.
//! 2. Signal sets are initialised by `sigemptyset` or `sigfillset` before they are read.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicI32, Ordering};

use hybrid_conventions::Exit;

/// Signals that belong to the thread that causes them: they are never blocked.
pub const FAULTS: [libc::c_int; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];

/// The last stop signal, or 0.
static PENDING: AtomicI32 = AtomicI32::new(0);

/// A signal that asks for an orderly end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: a service manager.
    Terminate,
}

impl StopSignal {
    /// The exit code that says so: 130 or 143.
    #[must_use]
    pub const fn exit(self) -> Exit {
        match self {
            Self::Interrupt => Exit::Interrupted,
            Self::Terminate => Exit::Terminated,
        }
    }
}

/// Proof that the handlers are installed.
#[derive(Clone, Copy, Debug)]
pub struct StopSignals(());

impl StopSignals {
    /// Installs the handlers for SIGINT and SIGTERM.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn install() -> std::io::Result<Self> {
        for signal in [libc::SIGINT, libc::SIGTERM] {
            install_one(signal)?;
        }
        Ok(Self(()))
    }

    /// The stop signal that has arrived, if any.
    #[must_use]
    pub fn pending(self) -> Option<StopSignal> {
        match PENDING.load(Ordering::Relaxed) {
            libc::SIGINT => Some(StopSignal::Interrupt),
            libc::SIGTERM => Some(StopSignal::Terminate),
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
    // SAFETY: invariant 1; `action` is initialised, and its mask is set before it is installed.
    let result = unsafe {
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Runs `spawn` with every signal blocked that may be, so that the threads made in it start blocked
/// and stay undisturbed: the kernel hands signals to other threads.
///
/// Faults (SIGSEGV and its kin) are not blocked: they belong to the thread that causes them.
pub fn with_signals_blocked<T>(spawn: impl FnOnce() -> T) -> T {
    let mut blocked = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: invariant 2: `sigfillset` initialises `blocked`; the mask call initialises `before`.
    let result = unsafe {
        libc::sigfillset(blocked.as_mut_ptr());
        for fault in FAULTS {
            libc::sigdelset(blocked.as_mut_ptr(), fault);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, blocked.as_ptr(), before.as_mut_ptr())
    };
    assert_eq!(result, 0, "pthread_sigmask takes these arguments");
    let _restore = Restore(before);
    spawn()
}

/// Puts the signal mask back, also when `spawn` unwinds.
struct Restore(MaybeUninit<libc::sigset_t>);

impl Drop for Restore {
    fn drop(&mut self) {
        // SAFETY: invariant 2: `before` was filled by the call that blocked.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, self.0.as_ptr(), std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocked_mask() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("procfs");
        let line = status.lines().find(|line| line.starts_with("SigBlk:")).expect("SigBlk");
        u64::from_str_radix(line["SigBlk:".len()..].trim(), 16).expect("a hex mask")
    }

    #[test]
    fn threads_made_inside_start_blocked_and_the_maker_is_as_before() {
        let before = blocked_mask();
        let inside = with_signals_blocked(|| std::thread::spawn(blocked_mask)).join().expect("ran");
        let bit = |signal: libc::c_int| 1_u64 << (signal - 1);
        assert_ne!(inside & bit(libc::SIGINT), 0);
        assert_ne!(inside & bit(libc::SIGALRM), 0);
        assert_eq!(inside & bit(libc::SIGSEGV), 0);
        assert_eq!(blocked_mask(), before);
    }

    #[test]
    fn stop_signals_carry_the_exit_codes_of_a_shell() {
        assert_eq!(StopSignal::Interrupt.exit().code(), 130);
        assert_eq!(StopSignal::Terminate.exit().code(), 143);
    }
}
