//! A run queue: ready tasks of one class in the order of their wakes, linked through their headers.
//!
//! Called by the wakers and the scheduler, on the owning core only. A task is in one queue at most,
//! and once; a push is a handful of plain stores.

use core::cell::Cell;
use core::ptr::NonNull;

use super::header::{TaskHeader, TaskRef};
use super::probes::woken;

/// The link of a header that is in no queue. Never dereferenced; no header lies there.
pub(super) const NOT_QUEUED: *const TaskHeader = core::ptr::without_provenance(1);

/// First in, first out; no capacity of its own, since the task table bounds the tasks.
pub(super) struct RunQueue {
    head: Cell<*const TaskHeader>,
    tail: Cell<*const TaskHeader>,
    len: Cell<u32>,
    high_water: Cell<u32>,
    /// Wakes are told to the probes.
    traced: Cell<bool>,
}

impl RunQueue {
    pub(super) const fn new() -> Self {
        Self {
            head: Cell::new(core::ptr::null()),
            tail: Cell::new(core::ptr::null()),
            len: Cell::new(0),
            high_water: Cell::new(0),
            traced: Cell::new(false),
        }
    }

    #[inline(always)]
    pub(super) fn len(&self) -> u32 {
        self.len.get()
    }

    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.head.get().is_null()
    }

    pub(super) fn high_water(&self) -> u32 {
        self.high_water.get()
    }

    /// Notes the depth; called once a tick, so that a push need not.
    #[inline]
    pub(super) fn note_depth(&self) {
        if self.len.get() > self.high_water.get() {
            self.high_water.set(self.len.get());
        }
    }

    /// Adds a task that is in no queue.
    #[inline(always)]
    pub(super) fn push(&self, task: TaskRef) {
        let at = task.as_ptr().as_ptr().cast_const();
        task.header().next.set(core::ptr::null());
        let last = self.tail.get();
        if last.is_null() {
            self.head.set(at);
        } else {
            // SAFETY: invariants 1 and 2: queued headers live for ever and are this core's.
            unsafe { &*last }.next.set(at);
        }
        self.tail.set(at);
        self.len.set(self.len.get().wrapping_add(1));
        if self.traced.get() {
            woken(task);
        }
    }

    /// Whether wakes are told to the probes.
    pub(super) fn trace(&self, traced: bool) {
        self.traced.set(traced);
    }

    /// Takes the oldest task out.
    #[inline(always)]
    pub(super) fn pop(&self) -> Option<TaskRef> {
        let first = NonNull::new(self.head.get().cast_mut())?;
        // SAFETY: invariant 1: the pointer is the one that `push` got from a `TaskRef`.
        let task = unsafe { TaskRef::new(first) };
        let next = task.header().next.replace(NOT_QUEUED);
        self.head.set(next);
        if next.is_null() {
            self.tail.set(core::ptr::null());
        }
        self.len.set(self.len.get().wrapping_sub(1));
        Some(task)
    }
}
