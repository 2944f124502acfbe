//! The machine's processors, for one run at a time.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hybrid_conventions::testing::skipped;

use crate::run::{self, Run, Started};

static TURN: Mutex<()> = Mutex::new(());

/// The right to start partitions: each takes a processor for itself, and two at once on the same
/// one would measure each other.
pub(crate) struct Machine(#[expect(dead_code, reason = "held, not used")] MutexGuard<'static, ()>);

impl Machine {
    /// Waits for the turn of `test`; `None`, reported, where a partition cannot run at all.
    pub(crate) fn of(test: &str) -> Option<Self> {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if cpus < 2 {
            skipped(test, "one processor only; a partition needs one for itself");
            return None;
        }
        Some(Self(TURN.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        self.start(args).wait()
    }

    /// Starts the program.
    pub(crate) fn start(&self, args: &[&str]) -> Started {
        run::start(args)
    }

    /// Starts a command that ends up in the program.
    pub(crate) fn start_command(&self, command: Command) -> Started {
        run::start_command(command)
    }

    /// Runs a command that ends up in the program.
    pub(crate) fn run_command(&self, command: Command) -> Run {
        run::start_command(command).wait()
    }
}

/// Whether `tool` is there; if not, `test` is reported as skipped.
pub(crate) fn has_tool(test: &str, tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").output().is_ok();
    if !there {
        skipped(test, &format!("{tool} is not installed"));
    }
    there
}
