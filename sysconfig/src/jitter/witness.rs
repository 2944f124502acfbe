//! Two pictures of the kernel's counters, and what moved between them on one CPU.
//!
//! Taken by [`super::run()`] while the spinners already spin and still spin, so that neither their
//! start nor their end is in the difference.

use serde::Serialize;

use super::counters::{Matrix, Moved, stolen_ticks};
use super::tasks::{self, Ran, Task};
use crate::root::Root;

/// The counters at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picture {
    interrupts: Matrix,
    softirqs: Matrix,
    stat: String,
    tasks: Vec<Task>,
}

/// What disturbed one CPU, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Disturbers {
    /// Local timer interrupts: the tick.
    pub(crate) timer_interrupts: u64,
    /// Interrupts, the tick included, the busiest first.
    pub(crate) interrupts: Vec<Counted>,
    /// Soft interrupts, the busiest first.
    pub(crate) softirqs: Vec<Counted>,
    /// Tasks that were last seen on the CPU and ran meanwhile, the longest first.
    pub(crate) tasks: Vec<TaskRan>,
    /// Time that the hypervisor kept, where the kernel counts it; in steps of a clock tick.
    pub(crate) stolen_ns: Option<u64>,
}

/// A counter that moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Counted {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) count: u64,
}

/// A task that ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TaskRan {
    pub(crate) tid: u32,
    pub(crate) name: String,
    pub(crate) kernel: bool,
    pub(crate) slices: u64,
    pub(crate) ran_ns: u64,
}

impl From<Moved> for Counted {
    fn from(moved: Moved) -> Self {
        Self { id: moved.label, name: moved.name, count: moved.count }
    }
}

impl From<Ran> for TaskRan {
    fn from(ran: Ran) -> Self {
        let Ran { tid, name, kernel, slices, ran_ns } = ran;
        Self { tid, name, kernel, slices, ran_ns }
    }
}

impl Picture {
    /// Reads everything; the interrupts last, so that the reading itself counts least.
    pub(crate) fn take(root: &Root) -> Self {
        let text = |path: &str| root.read(path).unwrap_or_default();
        let tasks = tasks::all(root);
        let stat = text("/proc/stat");
        let softirqs = Matrix::parse(&text("/proc/softirqs"));
        let interrupts = Matrix::parse(&text("/proc/interrupts"));
        Self { interrupts, softirqs, stat, tasks }
    }

    /// What happened on `cpu` since `before`; `ours` are the spinners' thread ids.
    ///
    /// `clock_ticks` is the unit of `/proc/stat`: `_SC_CLK_TCK`.
    pub(crate) fn since(
        &self,
        before: &Self,
        cpu: u32,
        ours: &[u32],
        clock_ticks: u64,
    ) -> Disturbers {
        let counted = |moved: Vec<Moved>| moved.into_iter().map(Counted::from).collect();
        let interrupts: Vec<Counted> = counted(self.interrupts.since(&before.interrupts, cpu));
        let tick = interrupts.iter().find(|row| row.id == "LOC");
        let stolen = stolen_ticks(&self.stat, cpu).zip(stolen_ticks(&before.stat, cpu));
        let tick_ns = 1_000_000_000 / clock_ticks.max(1);
        let ran = tasks::ran(&before.tasks, &self.tasks, cpu, ours);
        Disturbers {
            timer_interrupts: tick.map_or(0, |row| row.count),
            softirqs: counted(self.softirqs.since(&before.softirqs, cpu)),
            tasks: ran.into_iter().map(TaskRan::from).collect(),
            stolen_ns: stolen.map(|(now, then)| now.saturating_sub(then) * tick_ns),
            interrupts,
        }
    }
}
