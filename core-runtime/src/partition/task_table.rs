//! The part of tasks: what each one has done, for whoever looks from outside.
//!
//! Published with the metrics, some places at a time, so that a table of 512 tasks costs a pass no
//! more than one of 32 does; all of it is as new as 16 publications.

use core::cell::Cell;

use hybrid_abi::tasks::TASK_FIGURES_BYTES;
use hybrid_shm::Span;
use zerocopy::IntoBytes;

use crate::task::Scheduler;

/// Places told at a time: 1.5 KiB of stores.
const PLACES: usize = 32;

/// The writer of the part.
#[derive(Debug)]
pub(super) struct TaskTable {
    part: Span<'static>,
    next: Cell<usize>,
}

impl TaskTable {
    pub(super) const fn new(part: Span<'static>) -> Self {
        Self { part, next: Cell::new(0) }
    }

    /// Tells of the next places.
    pub(super) fn publish(&self, scheduler: &Scheduler) {
        let mut place = self.next.get();
        for _ in 0..PLACES {
            let Some(figures) = scheduler.task_figures(place) else {
                // The end of the table: what is left of the turn is not worth a beginning.
                place = 0;
                break;
            };
            // There is room for as many as the table has places.
            let _ = self.part.write(place * TASK_FIGURES_BYTES, figures.as_bytes());
            place += 1;
        }
        self.next.set(place);
    }
}
