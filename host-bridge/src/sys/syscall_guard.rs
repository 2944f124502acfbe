//! A proof that a running partition makes no system call: the kernel reports each one.
//!
//! Called by [`crate::runtime`] when a partition asks for it (`PartitionSpec::check_syscalls`). The
//! partition's thread installs a seccomp filter for itself alone, whose answer to every call is
//! "ask the listener". A host thread, the listener, looks at the partition's state word while the
//! caller is stopped inside its call, counts the call if the word says *running*, and lets it go
//! on. So starting and stopping need no exception list, nothing is killed, and the count is exact.
//! It costs nothing while no call is made. Reading the clock through the vDSO is not a system call.
//!
//! ```text
//!  partition thread                         listener thread
//!  arm() --- seccomp(NEW_LISTENER) --fd-->  poll
//!  any call --- stopped in the kernel --->  receive, load state word, count, answer "continue"
//!  the thread ends ---------------------->  hang-up: finish() returns the report
//! ```
//!
//! Needs Linux 5.8 (hang-up of the listener); an older kernel answers [`GuardUnavailable`].
//!
//! Invariants, named in the SAFETY lines:
//! 1. The filter program and its descriptor live on the stack across the call; the kernel copies.
//! 2. Notification buffers are zeroed before each receive, as the kernel demands, and have the
//!    kernel's own layout (`libc`); a kernel with larger ones is refused at the start.
//! 3. The listening descriptor is owned by exactly one `OwnedFd` once the listener has taken it.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hybrid_shm::Word32;

use super::signals::with_signals_blocked;

/// No descriptor yet.
const EMPTY: i32 = -1;
/// The partition's thread ended, or could not arm: nothing will come.
const NOTHING_COMES: i32 = -2;

/// The listener's thread: the kernel keeps 15 bytes.
const LISTENER: &str = "syscall-guard";

/// How many offending calls are named in a report: enough to recognise a loop's body.
pub const NAMED_CALLS: usize = 8;

/// Why the check cannot be made on this machine.
#[derive(Debug, thiserror::Error)]
#[error(
    "system calls cannot be checked here: {step} failed: {source}; it takes linux 5.8 and a \
     sandbox that lets seccomp through; or run without the check"
)]
pub struct GuardUnavailable {
    step: &'static str,
    source: std::io::Error,
}

fn unavailable(step: &'static str) -> GuardUnavailable {
    GuardUnavailable { step, source: std::io::Error::last_os_error() }
}

/// What the listener saw while the state word said *running*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyscallReport {
    /// System calls while running.
    pub calls: u64,
    /// Numbers (x86-64) of the first ones.
    pub first: Vec<i32>,
}

/// The two ends of one check, before they part.
#[derive(Debug)]
pub struct SyscallGuard {
    listener: JoinHandle<SyscallReport>,
    fd: Arc<AtomicI32>,
}

/// The end that the partition's thread arms.
#[derive(Debug)]
pub struct Arming(Arc<AtomicI32>);

impl SyscallGuard {
    /// Starts the listener. Calls are counted whenever `word` holds `while_value`.
    ///
    /// # Errors
    /// [`GuardUnavailable`] where the kernel's notifications are not those we know.
    pub fn listen(
        word: Word32<'static>,
        while_value: u32,
    ) -> Result<(Self, Arming), GuardUnavailable> {
        check_sizes()?;
        let fd = Arc::new(AtomicI32::new(EMPTY));
        let theirs = Arc::clone(&fd);
        let builder = std::thread::Builder::new().name(LISTENER.into());
        let listen = move || match wait_for_fd(&theirs) {
            Some(fd) => serve(&fd, word, while_value),
            None => SyscallReport::default(),
        };
        // A signal handled here would keep a stopped caller waiting.
        let listener = with_signals_blocked(|| builder.spawn(listen))
            .map_err(|source| GuardUnavailable { step: "starting the listener", source })?;
        let arming = Arming(Arc::clone(&fd));
        Ok((Self { listener, fd }, arming))
    }

    /// Waits for the listener, which ends when the armed thread has ended.
    #[must_use]
    pub fn finish(self) -> SyscallReport {
        // A thread that never armed leaves the listener waiting: release it.
        let _ = self.fd.compare_exchange(EMPTY, NOTHING_COMES, Ordering::AcqRel, Ordering::Relaxed);
        self.listener.join().unwrap_or_default()
    }
}

impl Arming {
    /// Reports every system call of this thread from now on; there is no way back.
    ///
    /// # Errors
    /// [`GuardUnavailable`]; then nothing is filtered.
    pub fn arm(self) -> Result<(), GuardUnavailable> {
        // SAFETY: plain numbers.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Err(unavailable("no_new_privs"));
        }
        let mut ask = libc::sock_filter {
            code: RETURN_CONSTANT,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_USER_NOTIF,
        };
        let program = libc::sock_fprog { len: 1, filter: &raw mut ask };
        // SAFETY: invariant 1.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                &raw const program,
            )
        };
        let Ok(fd @ 0..) = i32::try_from(fd) else {
            return Err(unavailable("seccomp with a listener"));
        };
        // From here on our own calls need the listener, which takes the descriptor from this word.
        self.0.store(fd, Ordering::Release);
        Ok(())
    }
}

impl Drop for Arming {
    fn drop(&mut self) {
        let _ = self.0.compare_exchange(EMPTY, NOTHING_COMES, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// `BPF_RET | BPF_K`: the whole filter is one return of a constant.
const RETURN_CONSTANT: u16 = 0x06;

/// Invariant 2: the kernel's structures are as long as ours.
fn check_sizes() -> Result<(), GuardUnavailable> {
    let mut sizes =
        libc::seccomp_notif_sizes { seccomp_notif: 0, seccomp_notif_resp: 0, seccomp_data: 0 };
    // SAFETY: the kernel fills three 16-bit numbers.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_NOTIF_SIZES, 0, &raw mut sizes)
    };
    if result != 0 {
        return Err(unavailable("asking for seccomp notifications"));
    }
    let ours = (size_of::<libc::seccomp_notif>(), size_of::<libc::seccomp_notif_resp>());
    if ours != (sizes.seccomp_notif.into(), sizes.seccomp_notif_resp.into()) {
        let source = std::io::Error::other("the kernel's notifications have another size");
        return Err(GuardUnavailable { step: "comparing notification sizes", source });
    }
    Ok(())
}

/// Takes the descriptor when the partition's thread has armed. The thread cannot make the call that
/// would wake us, so this looks every 200 us: armed threads wait no longer than that.
fn wait_for_fd(word: &AtomicI32) -> Option<OwnedFd> {
    loop {
        match word.load(Ordering::Acquire) {
            EMPTY => std::thread::sleep(Duration::from_micros(200)),
            // SAFETY: invariant 3: the armed thread stored a fresh descriptor and forgets it.
            fd @ 0.. => return Some(unsafe { OwnedFd::from_raw_fd(fd) }),
            _ => return None,
        }
    }
}

/// Answers "continue" until the filtered thread has ended.
fn serve(fd: &OwnedFd, word: Word32<'static>, while_value: u32) -> SyscallReport {
    let mut report = SyscallReport::default();
    while let Some(call) = receive(fd) {
        if word.load_acquire() == while_value {
            report.calls += 1;
            if report.first.len() < NAMED_CALLS {
                report.first.push(call.data.nr);
            }
        }
        answer(fd, call.id);
    }
    report
}

/// The next call, or `None` after hang-up.
fn receive(fd: &OwnedFd) -> Option<libc::seccomp_notif> {
    loop {
        let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one `pollfd`, as said.
        let ready = unsafe { libc::poll(&raw mut poll, 1, -1) };
        if ready <= 0 {
            // Interrupted: to receive now would wait for a call that may never come.
            continue;
        }
        if poll.revents & libc::POLLIN == 0 {
            return None;
        }
        // SAFETY: invariant 2: all zeroes is valid and demanded.
        let mut call: libc::seccomp_notif = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: invariant 2: the kernel fills one notification.
        let result =
            unsafe { libc::ioctl(fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) };
        if result == 0 {
            return Some(call);
        }
    }
}

/// Lets the call go on. A caller that died meanwhile makes this fail, which is no concern of ours.
#[expect(clippy::cast_possible_truncation, reason = "the flag is bit 0 of a 32-bit field")]
fn answer(fd: &OwnedFd, id: u64) {
    let mut response = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: 0,
        flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
    };
    // SAFETY: invariant 2: the kernel reads one response.
    let _ =
        unsafe { libc::ioctl(fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_in_the_named_state_are_counted_and_all_are_let_through() {
        let word = hybrid_shm::leak_zeroed(4096).word32(0).expect("aligned");
        let (guard, arming) = match SyscallGuard::listen(word, 2) {
            Ok(pair) => pair,
            Err(error) => return eprintln!("not run: {error}"),
        };
        let worker = std::thread::spawn(move || {
            arming.arm().expect("armed");
            let before = rustix::process::getppid();
            word.store_release(2);
            let during = rustix::process::getppid();
            word.store_release(3);
            let after = rustix::process::getppid();
            assert!(before == during && during == after, "calls return what they should");
        });
        worker.join().expect("the worker's assertion");
        let report = guard.finish();
        let getppid = i32::try_from(libc::SYS_getppid).expect("small");
        assert_eq!(report, SyscallReport { calls: 1, first: vec![getppid] });
    }

    #[test]
    fn a_guard_that_was_never_armed_ends() {
        let word = hybrid_shm::leak_zeroed(4096).word32(0).expect("aligned");
        let Ok((guard, arming)) = SyscallGuard::listen(word, 2) else {
            return;
        };
        drop(arming);
        assert_eq!(guard.finish(), SyscallReport::default());
    }

    #[test]
    fn signals_do_not_reach_the_listener() {
        let word = hybrid_shm::leak_zeroed(4096).word32(0).expect("aligned");
        let Ok((guard, arming)) = SyscallGuard::listen(word, 2) else {
            return;
        };
        let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let tasks = || std::fs::read_dir("/proc/self/task").expect("procfs").flatten();
        // A thread gives itself its name, after it has started; other tests have listeners too.
        let listeners = loop {
            let all: Vec<_> = tasks().map(|task| read(task.path().join("status"))).collect();
            let named = format!("Name:\t{LISTENER}\n");
            let listeners: Vec<_> =
                all.into_iter().filter(|status| status.starts_with(&named)).collect();
            if !listeners.is_empty() {
                break listeners;
            }
            std::thread::yield_now();
        };
        for status in listeners {
            let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
            let blocked = u64::from_str_radix(line.expect("a mask").trim(), 16).expect("hex");
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGALRM] {
                assert_ne!(blocked & 1 << (signal - 1), 0, "{status}");
            }
        }
        drop(arming);
        assert_eq!(guard.finish(), SyscallReport::default());
    }

    #[test]
    fn a_check_that_cannot_be_made_says_what_it_takes() {
        let source = std::io::Error::from_raw_os_error(libc::EINVAL);
        let line = GuardUnavailable { step: "seccomp with a listener", source }.to_string();
        assert!(line.contains("seccomp with a listener failed: Invalid argument"), "{line}");
        assert!(line.ends_with("or run without the check"), "{line}");
    }
}
