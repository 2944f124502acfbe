//! Which process the server is, and whether it still lives.
//!
//! A server that is gone may still write to our memory for as long as its process has it mapped.
//! The kernel says when that is over: a process file descriptor becomes readable when the whole
//! process has ended, and its mappings with it.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::error::VfioUserError;

/// The server's process, as it was when it began to listen.
#[derive(Debug)]
pub(super) struct Peer {
    pid: Pid,
    process: OwnedFd,
}

impl Peer {
    /// The process at the other end of `socket`.
    pub(super) fn of(socket: BorrowedFd<'_>) -> Result<Self, VfioUserError> {
        let pid =
            rustix::net::sockopt::socket_peercred(socket).map_err(|_| VfioUserError::NoPeer)?.pid;
        let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| VfioUserError::NoPeer)?;
        Ok(Self { pid, process })
    }

    /// Its number.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Whether it has ended, with all of its threads.
    pub(super) fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.process, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut fds, Some(&now)), Ok(1))
    }

    /// Whether `next`, to which we are connected anew, may be used: this one can no longer write to
    /// our memory.
    ///
    /// Either it has ended, or `next` is the same process, which by the protocol forgot our memory
    /// when the connection ended, before it took another one.
    pub(super) fn lets_in(&self, next: &Self) -> Result<(), VfioUserError> {
        // The number of a process that has ended may be another's by now, so this comes first.
        if self.has_ended() || self.pid == next.pid {
            return Ok(());
        }
        Err(VfioUserError::NotFenced { pid: self.pid(), new_pid: next.pid() })
    }
}
