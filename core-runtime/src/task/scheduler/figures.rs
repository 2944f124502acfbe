//! What a scheduler tells of itself: its tasks, its counters, its histograms.

use super::{CurrentTask, Scheduler};
use crate::clock::Ticks;
use crate::task::header::{State, TaskRef};
use crate::task::stats::{GapHistogram, SchedulerStats, TaskState, TaskStats};

impl Scheduler {
    /// The task that is being polled; after a panic, the one that panicked.
    #[must_use]
    pub fn current(&self) -> Option<CurrentTask> {
        let header = self.current.get()?.header();
        Some(CurrentTask {
            id: header.id.get(),
            name: header.meter.name.get(),
            since: self.poll_began.get(),
        })
    }

    /// Every task that has not ended, or whose result was not taken yet.
    pub fn tasks(&self) -> impl Iterator<Item = TaskStats> + '_ {
        self.attached()
            .filter(|task| task.header().state.get() != State::Free)
            .map(|task| self.describe(task))
    }

    fn describe(&self, task: TaskRef) -> TaskStats {
        let header = task.header();
        let meter = &header.meter;
        let state = if self.current.get() == Some(task) {
            TaskState::Running
        } else if header.state.get() == State::Done {
            TaskState::Done
        } else if header.is_queued() {
            TaskState::Ready
        } else {
            TaskState::Waiting
        };
        TaskStats {
            id: header.id.get(),
            name: meter.name.get(),
            class: meter.class.get(),
            state,
            polls: meter.polls.get(),
            overruns: meter.overruns.get(),
            budget: meter.budget.get(),
            longest: meter.longest.get(),
            total: Ticks::new(meter.total.get()),
            exceeded_by: meter.exceeded.snapshot(),
        }
    }

    /// All counters.
    #[must_use]
    pub fn stats(&self) -> SchedulerStats {
        let counters = &self.counters;
        SchedulerStats {
            ticks: counters.ticks.get(),
            idle_ticks: counters.idle_ticks.get(),
            polls: core::array::from_fn(|class| counters.polls[class].get()),
            spawned: counters.spawned.get(),
            completed: counters.completed.get(),
            cancelled: counters.cancelled.get(),
            remote_wakes: counters.remote_wakes.get(),
            timers_fired: counters.timers_fired.get(),
            timers_full: counters.timers_full.get(),
            overruns: counters.overruns.get(),
            poll_ticks: counters.poll_ticks.get(),
            longest_gap: self.poll_to_poll.longest(),
            stolen_gaps: counters.stolen_gaps.get(),
            stolen: counters.stolen.get(),
            longest_stolen: self.stolen.longest(),
            live_tasks: counters.live.get(),
            live_tasks_high_water: counters.live_high_water.get(),
            task_capacity: self.config.max_tasks,
            live_timers: self.timers.in_use(),
            live_timers_high_water: self.timers.high_water(),
            timer_capacity: self.config.max_timers,
            ready: core::array::from_fn(|class| self.queues[class].len()),
            ready_high_water: core::array::from_fn(|class| self.queues[class].high_water()),
            task_memory_used: self.memory.used(),
            task_memory_bytes: self.memory.capacity(),
        }
    }

    /// Time from one tick's `now` to the next one's.
    #[must_use]
    pub const fn poll_to_poll(&self) -> &GapHistogram {
        &self.poll_to_poll
    }

    /// Gaps beyond the threshold that nothing of ours explains.
    #[must_use]
    pub const fn stolen(&self) -> &GapHistogram {
        &self.stolen
    }

    /// By how much polls exceeded their budgets.
    #[must_use]
    pub const fn exceeded(&self) -> &GapHistogram {
        &self.exceeded
    }
}
