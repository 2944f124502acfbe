//! Which process the server is, and whether it still lives.
//!
//! A server that is gone may still write to our memory for as long as its process has it mapped.
//! The kernel says when that is over: a process file descriptor becomes readable when the whole
//! process has ended, and its mappings with it.
//!
//! The process is the one that answers, as the kernel names the sender of each message. It is not
//! the one that began to listen: where a socket was inherited (a service manager's, a supervisor's)
//! that one lives on while servers come and go, and never had our memory.

use std::num::NonZeroI32;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::error::VfioUserError;

/// The server's process.
#[derive(Debug)]
pub(super) struct Peer {
    pid: Pid,
    process: OwnedFd,
}

impl Peer {
    /// The process that sent the replies. If it has ended and its number is another's by now, it is
    /// that one's end that is waited for: too long, never too short.
    pub(super) fn of(sender: Option<NonZeroI32>) -> Result<Self, VfioUserError> {
        let pid = sender.and_then(|pid| Pid::from_raw(pid.get())).ok_or(VfioUserError::NoPeer)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_waits_until_the_one_before_has_ended() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("sleep");
        let pid = |id: u32| i32::try_from(id).ok().and_then(NonZeroI32::new);
        let before = Peer::of(pid(child.id())).expect("it lives");
        let next = Peer::of(pid(std::process::id())).expect("we live");
        assert!(before.lets_in(&before).is_ok(), "the same process has let go");
        assert!(matches!(before.lets_in(&next), Err(VfioUserError::NotFenced { .. })));
        child.kill().and_then(|()| child.wait()).expect("it ends");
        assert!(before.lets_in(&next).is_ok());
        assert!(matches!(Peer::of(None), Err(VfioUserError::NoPeer)));
    }
}
