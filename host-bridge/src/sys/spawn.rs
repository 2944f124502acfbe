//! A process of our own program: started with exactly the descriptors that it is to have.
//!
//! Called by [`crate::process`]. The kernel's way is `posix_spawn`, which copies no page tables, so
//! that a host with gigabytes mapped starts a partition as fast as a small one. Between the two
//! processes close-on-exec is cleared for the named descriptors in the child alone: another start
//! at the same moment inherits none of them.
//!
//! Invariants, named in the SAFETY lines:
//! 1. Attributes and actions are initialised before use and destroyed once.
//! 2. Strings and tables given to the kernel live across the call and end with a null pointer.
//! 3. [`Inherited`] is used by a process that has just begun and has one thread: whatever is open
//!    and not close-on-exec was inherited, and nobody owns it.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};

/// Starts `program` with `args` (the first is its name) and these descriptors, at their own
/// numbers; whoever owns them waits meanwhile. Standard input and output are `/dev/null`, standard
/// error is ours. Every signal but faults is blocked in it, and every one has its default action.
///
/// # Errors
/// What the kernel said.
pub fn spawn(program: &CStr, args: &[CString], fds: &[RawFd]) -> std::io::Result<(Pid, OwnedFd)> {
    let mut argv: Vec<_> = args.iter().map(|arg| arg.as_ptr().cast_mut()).collect();
    argv.push(std::ptr::null_mut());
    let actions = Actions::new(fds)?;
    let attributes = Attributes::new()?;
    let mut pid = 0;
    // SAFETY: invariants 1 and 2. The environment is passed on as it is; nobody here changes it.
    let result = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            actions.0.as_ptr(),
            attributes.0.as_ptr(),
            argv.as_ptr(),
            libc::environ.cast_const(),
        )
    };
    checked(result)?;
    let pid = Pid::from_raw(pid).ok_or(std::io::ErrorKind::Other)?;
    // Nobody has waited for it, so that the number is still its own.
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok((pid, pidfd)),
        Err(errno) => {
            // Nobody could watch it. It is ours to reap until then.
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
            Err(errno.into())
        }
    }
}

fn checked(result: libc::c_int) -> std::io::Result<()> {
    if result == 0 { Ok(()) } else { Err(std::io::Error::from_raw_os_error(result)) }
}

/// What happens to descriptors between the two.
struct Actions(MaybeUninit<libc::posix_spawn_file_actions_t>);

impl Actions {
    fn new(fds: &[RawFd]) -> std::io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: invariant 1.
        checked(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        let mut this = Self(actions);
        let null = c"/dev/null".as_ptr();
        for (fd, flags) in [(0, libc::O_RDONLY), (1, libc::O_WRONLY)] {
            let actions = this.0.as_mut_ptr();
            // SAFETY: invariants 1 and 2: the C library copies the path.
            checked(unsafe {
                libc::posix_spawn_file_actions_addopen(actions, fd, null, flags, 0)
            })?;
        }
        for &fd in fds {
            // Onto itself: POSIX says that this clears close-on-exec, in the child alone.
            // SAFETY: invariant 1.
            checked(unsafe {
                libc::posix_spawn_file_actions_adddup2(this.0.as_mut_ptr(), fd, fd)
            })?;
        }
        Ok(this)
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: invariant 1.
        unsafe { libc::posix_spawn_file_actions_destroy(self.0.as_mut_ptr()) };
    }
}

/// Signals of the child at its start.
struct Attributes(MaybeUninit<libc::posix_spawnattr_t>);

impl Attributes {
    fn new() -> std::io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: invariant 1.
        checked(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        let mut this = Self(attributes);
        let (all, blocked) = (filled(&[]), filled(&super::signals::FAULTS));
        let attributes = this.0.as_mut_ptr();
        let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        let flags = libc::c_short::try_from(flags).unwrap_or(0);
        // SAFETY: invariant 1; both sets are initialised.
        unsafe {
            checked(libc::posix_spawnattr_setsigdefault(attributes, &raw const all))?;
            checked(libc::posix_spawnattr_setsigmask(attributes, &raw const blocked))?;
            checked(libc::posix_spawnattr_setflags(attributes, flags))?;
        }
        Ok(this)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: invariant 1.
        unsafe { libc::posix_spawnattr_destroy(self.0.as_mut_ptr()) };
    }
}

/// All signals but these.
fn filled(without: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigfillset` initialises the set, `sigdelset` takes signals out.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        without.iter().for_each(|signal| {
            libc::sigdelset(set.as_mut_ptr(), *signal);
        });
        set.assume_init()
    }
}

/// What a process has inherited, before it has opened anything itself: one for each process.
#[derive(Debug)]
pub(crate) struct Inherited(());

impl Inherited {
    /// The right to take descriptors over; `None` the second time. For the first lines of a
    /// process that was started with them, while it has one thread (invariant 3).
    pub(crate) fn of_this_process() -> Option<Self> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        (!TAKEN.swap(true, Ordering::Relaxed)).then_some(Self(()))
    }

    /// Takes a descriptor over; close-on-exec from here on, and it cannot be taken again.
    ///
    /// # Errors
    /// `EBADF` where there is none, for a standard stream, or for one that was taken.
    pub(crate) fn adopt(&self, number: u32) -> std::io::Result<OwnedFd> {
        let bad = || std::io::Error::from_raw_os_error(libc::EBADF);
        let number = RawFd::try_from(number).map_err(|_| bad())?;
        // SAFETY: a plain number; the kernel says whether it is one of ours.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        // What was taken, or opened by us, is close-on-exec.
        if number <= libc::STDERR_FILENO || flags != 0 {
            return Err(bad());
        }
        // SAFETY: as above.
        if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: invariant 3: it exists, was inherited, and was not taken before.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }

    /// Closes every descriptor from 3 on but those in `keep`: what a host's own parent has left
    /// open, say.
    ///
    /// # Errors
    /// What the kernel said: before Linux 5.9 it cannot.
    pub(crate) fn close_all_but(self, keep: &[RawFd]) -> std::io::Result<()> {
        let numbers = keep.iter().filter_map(|fd| libc::c_uint::try_from(*fd).ok());
        let mut keep: Vec<_> = numbers.collect();
        keep.sort_unstable();
        let mut first = 3;
        for kept in keep.into_iter().chain([libc::c_uint::MAX]) {
            if kept > first {
                let last = if kept == libc::c_uint::MAX { kept } else { kept - 1 };
                // SAFETY: plain numbers. Invariant 3: what was taken is kept, and nothing else of
                // this process has opened anything yet.
                if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            first = first.max(kept.saturating_add(1));
        }
        Ok(())
    }
}

/// Closes the standard streams: the last thing before nothing is opened or written any more.
pub fn close_standard_streams() {
    for fd in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: the streams are the process's own; who writes to one later gets an error.
        let _ = unsafe { libc::close(fd) };
    }
}
