//! The partition's process, seen by its host: a descriptor that says when it has ended, signals,
//! and how it ended.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid,
};

use crate::sys::dying::DUMP_SIGNAL;
use crate::sys::usage::ThreadUsage;
use crate::vfio_user::socket::timespec;

/// How a partition ended, beside what it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It was a thread, and returned or panicked.
    Thread,
    /// Its process ended with one of the codes of [`super::code`].
    Exited {
        /// The code.
        code: i32,
    },
    /// Its process was killed by a signal.
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// Nobody knows: somebody else waited for it.
    Lost,
}

/// A partition's process. Dropped, it is killed and waited for.
#[derive(Debug)]
pub struct PartitionProcess {
    pid: Pid,
    pidfd: OwnedFd,
    /// What it executes, for whoever looks for its symbols.
    program: Option<PathBuf>,
    /// What its start had cost.
    begun: ThreadUsage,
    landlock: bool,
    reaped: Option<(Death, ThreadUsage)>,
}

impl PartitionProcess {
    pub(super) const fn new(pid: Pid, pidfd: OwnedFd, program: Option<PathBuf>) -> Self {
        Self { pid, pidfd, program, begun: ThreadUsage::NOTHING, landlock: false, reaped: None }
    }

    /// Where the program lay that it executes.
    #[must_use]
    pub fn program(&self) -> Option<&Path> {
        self.program.as_deref()
    }

    pub(super) const fn begun(&mut self, usage: ThreadUsage, landlock: bool) {
        self.begun = usage;
        self.landlock = landlock;
    }

    /// Whether landlock holds it too, beside the filter of system calls: the kernel has it.
    #[must_use]
    pub const fn has_landlock(&self) -> bool {
        self.landlock
    }

    /// Its number. It stays its own until the partition is joined.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Readable once the process has ended with all that the kernel does for it, but for what
    /// another reader of its `/proc` files delays (`docs/security.md`).
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.reaped.is_some() || self.wait(Duration::ZERO)
    }

    /// Waits for its end, for `limit` at most; whether it has ended.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&timespec(limit))), Ok(1))
    }

    /// Asks it for a crash record; it ends with it.
    ///
    /// # Errors
    /// The kernel's answer: it has ended.
    pub fn ask_for_dump(&self) -> std::io::Result<()> {
        let signal = Signal::from_named_raw(DUMP_SIGNAL).unwrap_or(Signal::USR1);
        Ok(pidfd_send_signal(&self.pidfd, signal)?)
    }

    /// Kills it. That is not yet its end: [`PartitionProcess::wait`] says when that has come.
    ///
    /// # Errors
    /// The kernel's answer: it has ended.
    pub fn kill(&self) -> std::io::Result<()> {
        Ok(pidfd_send_signal(&self.pidfd, Signal::KILL)?)
    }

    /// Waits for its end and takes its status: how it ended, and what it cost since its start.
    pub(crate) fn reap(&mut self) -> (Death, ThreadUsage) {
        if let Some(reaped) = self.reaped {
            return reaped;
        }
        while !self.wait(Duration::from_secs(1)) {}
        // It is still there to be read, until its status is taken.
        let usage = ThreadUsage::of_process(self.pid()).unwrap_or_default().since(self.begun);
        let status = loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Err(rustix::io::Errno::INTR) => {}
                status => break status,
            }
        };
        let death = status.ok().flatten().map_or(Death::Lost, |status| death_of(&status));
        self.reaped = Some((death, usage));
        (death, usage)
    }
}

fn death_of(status: &WaitIdStatus) -> Death {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Death::Exited { code },
        (None, Some(signal)) => Death::Killed { signal },
        (None, None) => Death::Lost,
    }
}

impl Drop for PartitionProcess {
    fn drop(&mut self) {
        if self.reaped.is_none() {
            // An error says that it has ended.
            let _ = self.kill();
            let _ = self.reap();
        }
    }
}
