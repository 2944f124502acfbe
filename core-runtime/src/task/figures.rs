//! A task's figures as another process reads them.

use hybrid_abi::crash::program::{TASK_DONE, TASK_READY, TASK_RUNNING, TASK_WAITING};
use hybrid_abi::tasks::TaskFigures;

use super::header::State;
use super::scheduler::Scheduler;

impl Scheduler {
    /// What the task at this place of the table has done; `None` behind the last place that was
    /// ever used. A task that has ended keeps its figures, without a state, until its place is used
    /// again.
    #[must_use]
    pub fn task_figures(&self, place: usize) -> Option<TaskFigures> {
        if place >= self.places_used() {
            return None;
        }
        let task = u32::try_from(place).unwrap_or(u32::MAX).saturating_add(1);
        let Some(task_ref) = self.at_place(place) else {
            return Some(TaskFigures { task, ..TaskFigures::default() });
        };
        let header = task_ref.header();
        let meter = &header.meter;
        let state = if self.current_ref() == Some(task_ref) {
            TASK_RUNNING
        } else {
            match header.state.get() {
                State::Free => 0,
                State::Done => TASK_DONE,
                _ if header.is_queued() => TASK_READY,
                _ => TASK_WAITING,
            }
        };
        Some(TaskFigures {
            task,
            class: u16::try_from(meter.class.get().index()).unwrap_or(u16::MAX),
            state,
            polls: meter.polls.get(),
            overruns: meter.overruns.get(),
            budget_ticks: meter.budget.get().get(),
            longest_ticks: meter.longest.get().get(),
            total_ticks: meter.total.get(),
        })
    }
}
