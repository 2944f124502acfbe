//! A partition as what a supervisor watches.
//!
//! Whether a process is stopped is asked by `waitid`, which takes no reference to its memory; a
//! tracer's stop is seen in `/proc/PID/stat` alone, which does, and so is read only when the
//! partition has been silent for a while: a reader of `/proc` can hold what a dying process has
//! mapped beyond its end. The fence waits for that too.

use std::fs;
use std::io;
use std::time::Duration;

use core_runtime::partition::{DEVICE_FAULT, PartitionState, StopReason};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::incarnation::{Evidence, Fence, Incarnation, Look};
use super::policy::{Cause, Ending, Phase, Polled};
use crate::PartitionHandle;
use crate::process::{Death, PartitionProcess, code};

/// Silence after which a tracer is looked for.
const QUIET: Duration = Duration::from_millis(100);

impl Incarnation for PartitionHandle {
    fn name(&self) -> &str {
        self.name()
    }

    fn number(&self) -> u64 {
        self.incarnation()
    }

    fn pid(&self) -> Option<u32> {
        self.process().and_then(|process| u32::try_from(process.pid()).ok())
    }

    fn look(&mut self) -> Look {
        let ended = self.is_finished();
        let seen = self.snapshot();
        let phase = match seen.state {
            PartitionState::Unborn | PartitionState::Starting => Phase::Starting,
            PartitionState::Running if self.is_asked_to_stop() => Phase::Stopping,
            PartitionState::Running => Phase::Running,
            _ => Phase::Stopping,
        };
        let polled = seen.task != 0 && phase == Phase::Running;
        let task = polled.then(|| Polled { number: seen.task, age: self.since(seen.task_since) });
        let quiet = self.silent_for() >= QUIET;
        let stopped = !ended && self.process().is_some_and(|process| is_stopped(process, quiet));
        Look { ended, stopped, phase, passes: seen.heartbeat, task }
    }

    fn task_name(&self, number: u32) -> Option<String> {
        self.task_name(number)
    }

    fn wait(&mut self, at_most: Duration) {
        self.rest(at_most);
    }

    fn ask_to_stop(&mut self) {
        self.request_stop(StopReason::Finished);
    }

    fn ask_for_dump(&mut self) -> io::Result<()> {
        self.process().map_or_else(no_process, PartitionProcess::ask_for_dump)
    }

    fn kill(&mut self) -> io::Result<()> {
        self.process().map_or_else(no_process, PartitionProcess::kill)
    }

    fn fence(&mut self) -> Fence {
        match self.fence() {
            Ok(death) => Fence::Free(ending(death, self.snapshot().state, self.snapshot().code)),
            Err(why) => Fence::Held(why),
        }
    }

    fn evidence(&mut self, fenced: bool, killed: Option<Cause>) -> Evidence {
        super::evidence::collect(self, fenced, killed)
    }
}

fn no_process() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// State T, or t where that is looked for.
fn is_stopped(process: &PartitionProcess, tracers_too: bool) -> bool {
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::PidFd(process.pidfd()), options);
    if matches!(status, Ok(Some(status)) if status.stopped()) {
        return true;
    }
    tracers_too && state_letter(process.pid()).is_some_and(|letter| matches!(letter, 'T' | 't'))
}

/// The third field of `/proc/PID/stat`: behind the name, which may hold anything.
fn state_letter(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// What an end means for what comes next.
pub(super) fn ending(death: Death, state: PartitionState, exit: u32) -> Ending {
    match death {
        Death::Exited { code: code::DONE } => Ending::Done,
        Death::Exited { code: code::FAILED } => Ending::Failed,
        Death::Exited { code: code::NEEDS_RESET } => Ending::NeedsReset,
        Death::Exited { code: code::DEVICE_GONE } => Ending::DeviceGone,
        Death::Exited { code: code::NOT_STARTED } => Ending::NotStarted,
        Death::Exited { .. } => Ending::Crashed,
        Death::Killed { .. } | Death::Lost => Ending::Killed,
        Death::Thread => match state {
            PartitionState::Stopped => Ending::Done,
            PartitionState::NeedsReset => Ending::NeedsReset,
            PartitionState::Failed if exit == DEVICE_FAULT => Ending::DeviceGone,
            PartitionState::Failed if exit != code::PANIC.unsigned_abs() => Ending::Failed,
            _ => Ending::Crashed,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_die_says_what_comes_next() {
        let of = |death| ending(death, PartitionState::Failed, 1);
        for (code, expected) in [
            (0, Ending::Done),
            (1, Ending::Failed),
            (70, Ending::NeedsReset),
            (71, Ending::DeviceGone),
            (72, Ending::NotStarted),
            (80, Ending::Crashed),
            (101, Ending::Crashed),
            (139, Ending::Crashed),
            (159, Ending::Crashed),
            (5, Ending::Crashed),
        ] {
            assert_eq!(of(Death::Exited { code }), expected, "code {code}");
        }
        assert_eq!(of(Death::Killed { signal: 9 }), Ending::Killed);
        let thread = |state, code| ending(Death::Thread, state, code);
        assert_eq!(thread(PartitionState::Stopped, 0), Ending::Done);
        assert_eq!(thread(PartitionState::Failed, 101), Ending::Crashed);
        assert_eq!(thread(PartitionState::Failed, 71), Ending::DeviceGone);
        assert_eq!(thread(PartitionState::Failed, 1), Ending::Failed);
        assert_eq!(thread(PartitionState::NeedsReset, 1), Ending::NeedsReset);
        assert_eq!(thread(PartitionState::Running, 0), Ending::Crashed);
    }

    #[test]
    fn the_state_stands_behind_the_last_bracket() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert!(state_letter(own).is_some_and(|letter| letter.is_ascii_uppercase()));
        assert_eq!(state_letter(0), None);
    }
}
