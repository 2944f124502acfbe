//! The part of tasks: what each one has done, by its place in the table.
//!
//! The part of kind [`PartKind::TASKS`](crate::region::PartKind::TASKS) is an array of
//! [`TaskFigures`], one for each place of the partition's task table, written some at a time about
//! once a millisecond. Their names stand in the part of kind
//! [`PartKind::TASK_NAMES`](crate::region::PartKind::TASK_NAMES). A reader may see a row between
//! two moments; its words only grow while the task is the same.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Name;
use crate::crash::program::{TASK_DONE, TASK_NAME_BYTES, TASK_READY, TASK_RUNNING, TASK_WAITING};

/// One task's figures. All zero: nobody was ever there.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct TaskFigures {
    /// Its number, from 1; 0 for a place that was never used.
    pub task: u32,
    /// 0 latency, 1 normal, 2 background.
    pub class: u16,
    /// One of the `TASK_` states of [`crate::crash::program`]; 0 for none: it has ended.
    pub state: u16,
    /// Times it was polled.
    pub polls: u64,
    /// Polls that exceeded the budget.
    pub overruns: u64,
    /// What one poll may take, ticks.
    pub budget_ticks: u64,
    /// Its longest poll, ticks; the one that runs is not in it.
    pub longest_ticks: u64,
    /// All its polls together, ticks; the one that runs is not in it.
    pub total_ticks: u64,
}

/// Bytes of a task's figures.
pub const TASK_FIGURES_BYTES: usize = 48;

const _: () = assert!(size_of::<TaskFigures>() == TASK_FIGURES_BYTES);
const _: () = assert!(align_of::<TaskFigures>() == 8);
const _: () = assert!(offset_of!(TaskFigures, polls) == 8);
const _: () = assert!(offset_of!(TaskFigures, total_ticks) == 40);

impl TaskFigures {
    /// The class's name.
    #[must_use]
    pub const fn class_name(&self) -> &'static str {
        match self.class {
            0 => "latency",
            1 => "normal",
            2 => "background",
            _ => "unknown",
        }
    }

    /// The state's name.
    #[must_use]
    pub const fn state_name(&self) -> &'static str {
        match self.state {
            TASK_WAITING => "waiting",
            TASK_READY => "ready",
            TASK_RUNNING => "running",
            TASK_DONE => "done",
            _ => "unknown",
        }
    }
}

/// The places of a part that were ever used, in order. Bytes behind the last whole row are none.
pub fn rows(part: &[u8]) -> impl Iterator<Item = TaskFigures> + '_ {
    let (chunks, _) = part.as_chunks::<TASK_FIGURES_BYTES>();
    let rows = chunks.iter().map(|chunk| -> TaskFigures { zerocopy::transmute!(*chunk) });
    rows.filter(|row| row.task != 0)
}

/// The name of a task, by its number, out of the part of names; empty where there is none.
#[must_use]
pub fn name(names: &[u8], task: u32) -> Name<TASK_NAME_BYTES> {
    let (chunks, _) = names.as_chunks::<TASK_NAME_BYTES>();
    let place = task.checked_sub(1).and_then(|place| usize::try_from(place).ok());
    let Some(bytes) = place.and_then(|place| chunks.get(place)) else { return Name::EMPTY };
    let text = core::str::from_utf8(bytes).unwrap_or_default();
    Name::lossy(text.trim_end_matches('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_its_golden_bytes_and_empty_places_are_left_out() {
        let row = TaskFigures {
            task: 2,
            class: 1,
            state: TASK_WAITING,
            polls: 3,
            overruns: 4,
            budget_ticks: 5,
            longest_ticks: 6,
            total_ticks: 7,
        };
        let mut golden = vec![2, 0, 0, 0, 1, 0, 1, 0];
        for word in 3..8_u64 {
            golden.extend(word.to_le_bytes());
        }
        assert_eq!(row.as_bytes(), golden);
        let mut part = vec![0; TASK_FIGURES_BYTES];
        part.extend(&golden);
        part.extend([9; 47]);
        assert_eq!(rows(&part).collect::<Vec<_>>(), [row]);
        assert_eq!(row.class_name(), "normal");
    }

    #[test]
    fn names_are_found_by_number_and_never_beyond_the_part() {
        let mut names = vec![0; TASK_NAME_BYTES];
        names.extend(Name::<TASK_NAME_BYTES>::lossy("job").as_bytes());
        assert_eq!(name(&names, 2).as_str(), "job");
        for nobody in [0, 1, 3, u32::MAX] {
            assert_eq!(name(&names, nobody), Name::EMPTY);
        }
    }
}
