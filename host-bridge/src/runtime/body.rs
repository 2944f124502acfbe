//! What a running partition is: a thread or a process, and how either ends.

use std::thread::JoinHandle;
use std::time::Duration;

use core_runtime::partition::PartitionExit;
use core_runtime::partition::state::StateReader;

use super::launch::Ended;
use crate::process::{Death, PartitionProcess, code};
use crate::sys::alloc_guard::AllocReport;
use crate::sys::syscall_guard::{SyscallGuard, SyscallReport};
use crate::sys::usage::ThreadUsage;

/// A partition that was let go.
#[derive(Debug)]
pub(super) enum Body {
    Thread {
        thread: JoinHandle<Option<Ended>>,
        guard: Option<SyscallGuard>,
    },
    Process {
        process: PartitionProcess,
        /// Whether an allocation ends it.
        guarded: bool,
    },
}

/// How it ended.
#[derive(Debug)]
pub(super) struct End {
    pub(super) exit: PartitionExit,
    pub(super) death: Death,
    pub(super) allocations: Option<AllocReport>,
    pub(super) syscalls: Option<SyscallReport>,
    pub(super) usage: ThreadUsage,
}

impl End {
    /// Nobody knows.
    pub(super) fn lost() -> Self {
        Self {
            exit: PartitionExit::failed(1, format_args!("the partition was lost")),
            death: Death::Lost,
            allocations: None,
            syscalls: None,
            usage: ThreadUsage::default(),
        }
    }
}

impl Body {
    pub(super) fn is_finished(&self) -> bool {
        match self {
            Self::Thread { thread, .. } => thread.is_finished(),
            Self::Process { process, .. } => process.has_ended(),
        }
    }

    /// Waits for `time`; less where the end can be waited for and comes.
    pub(super) fn rest(&self, time: Duration) {
        match self {
            Self::Thread { thread, .. } if thread.is_finished() => {}
            Self::Thread { .. } => std::thread::sleep(time),
            Self::Process { process, .. } => {
                let _ = process.wait(time);
            }
        }
    }

    /// Waits for the end.
    pub(super) fn join(self, state: &StateReader) -> End {
        match self {
            Self::Thread { thread, guard } => joined(thread, guard),
            Self::Process { mut process, guarded } => {
                let (death, usage) = process.reap();
                End {
                    exit: exit_of(death, state),
                    death,
                    allocations: guarded.then(AllocReport::default),
                    // One would have ended it with another code.
                    syscalls: Some(SyscallReport::default()),
                    usage,
                }
            }
        }
    }
}

fn joined(thread: JoinHandle<Option<Ended>>, guard: Option<SyscallGuard>) -> End {
    let ended = thread.join().ok().flatten();
    let syscalls = guard.map(SyscallGuard::finish);
    let death = Death::Thread;
    match ended {
        Some(Ended { exit, allocations, usage, guard_failed }) => {
            let syscalls = syscalls.filter(|_| guard_failed.is_none());
            End { exit, death, allocations, syscalls, usage }
        }
        None => End { death, syscalls, ..End::lost() },
    }
}

/// What a process that has ended said last, if it fits how it ended.
fn exit_of(death: Death, state: &StateReader) -> PartitionExit {
    let seen = state.snapshot();
    let failed = |code: i32, line: std::fmt::Arguments<'_>| {
        PartitionExit::failed(u32::try_from(code).unwrap_or(1), line)
    };
    match death {
        Death::Exited { .. } if seen.state.is_final() => {
            PartitionExit { state: seen.state, code: seen.code, text: state.text() }
        }
        Death::Exited { code } => {
            failed(code, format_args!("its process ended with code {code} and said nothing"))
        }
        Death::Killed { signal } => {
            failed(code::SIGNAL + signal, format_args!("its process was killed by signal {signal}"))
        }
        Death::Thread | Death::Lost => failed(1, format_args!("its process was lost")),
    }
}
