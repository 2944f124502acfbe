//! What a supervisor watches: one incarnation of a partition, as a process or as a thread.

use std::io;
use std::time::Duration;

use super::policy::{Cause, Ending, Phase, Polled};

/// One look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its process (or thread) is gone.
    pub ended: bool,
    /// Its process is stopped: state T.
    pub stopped: bool,
    /// What it says of itself.
    pub phase: Phase,
    /// Passes of its loop.
    pub passes: u64,
    /// The task being polled.
    pub task: Option<Polled>,
}

/// Whether its device can be had again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fence {
    /// It can: nothing of the dead one reaches memory any more. How it ended is known too.
    Free(Ending),
    /// Not yet, and why.
    Held(String),
}

/// What it left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// How it ended, by its record if it wrote one.
    pub ending: Ending,
    /// Why, in a word: `panic`, `fault`, `killed`, ...
    pub reason: String,
    /// Why, in words of one line: the panic's message and place, the signal and its address.
    pub what: String,
    /// The task that was being polled, and for how long.
    pub task: Option<(String, Duration)>,
    /// The dump file's bytes; none where there is nothing to keep.
    pub dump: Option<Vec<u8>>,
}

/// One incarnation.
pub trait Incarnation {
    /// The partition's name.
    fn name(&self) -> &str;

    /// Its number, from 1.
    fn number(&self) -> u64;

    /// Its process; `None` for a thread.
    fn pid(&self) -> Option<u32>;

    /// Whether it can be asked for a dump and killed: a thread can be neither.
    fn can_be_killed(&self) -> bool {
        self.pid().is_some()
    }

    /// Looks, and waits for nothing.
    fn look(&mut self) -> Look;

    /// The name of a task of its, by number.
    fn task_name(&self, number: u32) -> Option<String>;

    /// Waits for its end, for so long at most.
    fn wait(&mut self, at_most: Duration);

    /// Asks it to end in order.
    fn ask_to_stop(&mut self);

    /// Asks it to write a crash record and to end.
    ///
    /// # Errors
    /// The system's, for one that cannot hear it.
    fn ask_for_dump(&mut self) -> io::Result<()>;

    /// SIGKILL.
    ///
    /// # Errors
    /// The system's.
    fn kill(&mut self) -> io::Result<()>;

    /// Whether its device can be had again, it having ended. Asked until it can; each time it takes
    /// a moment at most.
    fn fence(&mut self) -> Fence;

    /// Reads what it left. With `fenced` its device is quiet, so that queues and buffers may be
    /// read; without, only what no device could write. `killed` is why we killed it, if we did.
    fn evidence(&mut self, fenced: bool, killed: Option<Cause>) -> Evidence;
}
