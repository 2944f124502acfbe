//! What the caller chooses: classes, a task's options, the scheduler's capacities. And what may
//! fail.

use crate::clock::{Clock, Ticks};

/// A task's class. Each has a run queue of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Runs before all others, and between any two polls of them. For one event at a time.
    Latency,
    /// Runs after the latency tasks.
    Normal,
    /// Runs only when no latency and no normal task is ready.
    Background,
}

impl Class {
    /// All classes, most urgent first.
    pub const ALL: [Self; 3] = [Self::Latency, Self::Normal, Self::Background];

    /// Its index in per-class figures.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Latency => 0,
            Self::Normal => 1,
            Self::Background => 2,
        }
    }

    /// The default budget of one poll: 500 ns for one event, 5 us for a batch, 1 ms for a chunk of
    /// background work.
    #[must_use]
    pub const fn default_budget_ns(self) -> u64 {
        match self {
            Self::Latency => 500,
            Self::Normal => 5_000,
            Self::Background => 1_000_000,
        }
    }
}

/// How a task is spawned.
#[derive(Clone, Copy, Debug)]
pub struct TaskOptions {
    /// Its name, in statistics and crash records.
    pub name: &'static str,
    /// Its class.
    pub class: Class,
    /// What one poll may take, in nanoseconds; `None`: the class's default.
    pub budget_ns: Option<u64>,
}

impl TaskOptions {
    /// A task of `class` with its default budget.
    #[must_use]
    pub const fn new(name: &'static str, class: Class) -> Self {
        Self { name, class, budget_ns: None }
    }

    /// A latency task.
    #[must_use]
    pub const fn latency(name: &'static str) -> Self {
        Self::new(name, Class::Latency)
    }

    /// A normal task.
    #[must_use]
    pub const fn normal(name: &'static str) -> Self {
        Self::new(name, Class::Normal)
    }

    /// A background task.
    #[must_use]
    pub const fn background(name: &'static str) -> Self {
        Self::new(name, Class::Background)
    }

    /// With a budget of `ns` nanoseconds a poll.
    #[must_use]
    pub const fn budget_ns(mut self, ns: u64) -> Self {
        self.budget_ns = Some(ns);
        self
    }

    pub(super) fn budget(&self, clock: &Clock) -> Ticks {
        clock.ns_to_ticks(self.budget_ns.unwrap_or(self.class.default_budget_ns()))
    }
}

/// Capacities and bounds of a scheduler.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerConfig {
    /// Tasks in the table, ended ones whose block waits for the next included.
    pub max_tasks: u32,
    /// Timers in use at once; 56 bytes each.
    pub max_timers: u32,
    /// Bytes for the tasks of [`Spawner::spawn`](super::Spawner::spawn). A task takes its future
    /// plus about 400 bytes, rounded up to a power of two.
    pub task_memory_bytes: usize,
    /// Polls of latency tasks in a tick.
    pub latency_polls: u32,
    /// Polls of normal tasks in a tick.
    pub normal_polls: u32,
    /// Polls of background tasks in a tick.
    pub background_polls: u32,
    /// Timers that fire in a tick.
    pub timers_per_tick: u32,
    /// Whether each poll is timed, with one reading of the clock. Without it budgets are not
    /// checked, and stolen time is not told from long polls.
    pub time_polls: bool,
    /// A gap between two ticks that polls do not explain counts as stolen from here on, in
    /// nanoseconds.
    pub stolen_threshold_ns: u64,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            // A feed handler has about ten; a task for each of 256 outstanding I/Os fits too.
            max_tasks: 512,
            // Sleeps and timeouts of every task, several each.
            max_timers: 2048,
            // 512 tasks of 1 KiB.
            task_memory_bytes: 512 * 1024,
            // With 500 ns each: 32 us before completions are reaped again.
            latency_polls: 64,
            // With 5 us each: 160 us at most, and latency tasks in between.
            normal_polls: 32,
            // One chunk of up to 1 ms, then look at the device again.
            background_polls: 1,
            // 64 wakes take a few microseconds.
            timers_per_tick: 64,
            time_polls: true,
            // Longer than a pass of the loop without polls takes, shorter than a scheduler tick of
            // the host or a page fault of a neighbour that matters.
            stolen_threshold_ns: 10_000,
        }
    }
}

/// A task's place in the scheduler's table; the next task in the same storage has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u32);

/// Why a task was not spawned; its future was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpawnError {
    /// The table is full.
    #[error("all {capacity} places of the task table are taken")]
    TableFull {
        /// [`SchedulerConfig::max_tasks`].
        capacity: usize,
    },
    /// The memory for tasks is used up.
    #[error("a task wants {wanted} bytes of task memory, {left} of {capacity} are left")]
    TaskMemory {
        /// The size of its block.
        wanted: usize,
        /// Bytes that were never used.
        left: usize,
        /// [`SchedulerConfig::task_memory_bytes`].
        capacity: usize,
    },
    /// The future's alignment is larger than that of task memory.
    #[error("a task wants an alignment of {wanted} bytes, task memory has {allowed}")]
    Alignment {
        /// The storage's alignment.
        wanted: usize,
        /// What a block has.
        allowed: usize,
    },
    /// The storage still holds a task, its result, or a place in a run queue.
    #[error("task storage is still in use")]
    StorageBusy,
    /// The storage belongs to another scheduler: it serves one for ever.
    #[error("task storage belongs to another scheduler")]
    OtherScheduler,
    /// The storage lies at an address of more than 48 bits.
    #[error("task storage lies outside the 48-bit address range")]
    Address,
}
