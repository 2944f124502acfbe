//! What the scheduler writes to the probe ring.

use super::header::TaskRef;

crate::probe! {
    /// A poll begins.
    pub(super) POLL = "sched.poll", SCHED, DEBUG, "a task's poll begins"
        (task: TASK COUNT, class: NUMBER COUNT);
    /// A poll ended.
    pub(super) POLLED = "sched.polled", SCHED, DEBUG, "a task's poll ended"
        (task: TASK COUNT, done: FLAG COUNT);
    /// A task became ready.
    pub(super) WAKE = "sched.wake", SCHED, DEBUG, "a task became ready"
        (task: TASK COUNT, ready: NUMBER COUNT);
    /// A poll exceeded its budget.
    pub(super) OVERRUN = "sched.overrun", SCHED, ERROR, "a poll exceeded its budget"
        (task: TASK COUNT, by: TICKS TICKS, budget: TICKS TICKS);
    /// The core was away.
    pub(super) STOLEN = "sched.stolen", SCHED, ERROR, "time taken by others, up to now"
        (none: NUMBER COUNT, gap: TICKS TICKS);
    /// A task was started.
    pub(super) SPAWN = "sched.spawn", SCHED, INFO, "a task was started"
        (task: TASK COUNT, class: NUMBER COUNT);
    /// A task ended, or was cancelled.
    pub(super) END = "sched.end", SCHED, INFO, "a task has ended" (task: TASK COUNT);
    /// Timers fired; the wakes that follow say whose.
    pub(super) TIMER = "timer.fired", TIMER, DEBUG, "timers whose deadline has come"
        (count: NUMBER COUNT, left: NUMBER COUNT);
}

/// A wake in a queue that is traced. It looks up itself what there is to say, so that a wake which
/// is not traced has nothing ready for it.
#[cold]
#[inline(never)]
pub(super) fn woken(task: TaskRef) {
    if let Some(scheduler) = task.header().scheduler.get() {
        let ready = scheduler.ready(task.header().meter.class.get());
        WAKE.emit_stamped(scheduler.probes(), task.number(), ready.into(), 0);
    }
}
