//! The cooperative scheduler of one core: tasks, wakers, timers, budgets.
//!
//! The partition's loop calls [`Scheduler::tick`]; tasks are spawned through a [`Spawner`], before
//! the loop starts or from inside another task. Ready tasks run first in, first out, in three
//! classes: *latency* always first, *normal*, and *background* only when the others are idle. A
//! tick polls each task that was ready at its start once at most per wake, within the caps of
//! [`SchedulerConfig`], and says what it did.
//!
//! It does not preempt: a poll that takes longer than its budget is counted, never stopped. It does
//! not idle: what to do when a tick found nothing is the loop's business. It allocates nothing
//! after it was made: tasks live in blocks of its own memory or in storage that the caller gives.
//!
//! **Cores.** Everything here belongs to the core (thread) that called [`Scheduler::new`], and is
//! neither `Send` nor `Sync`, with one exception: a [`core::task::Waker`] may go anywhere. A wake
//! on the owning core is a few plain stores; on any other it goes through a lossless list that the
//! next tick drains. Another *process* wakes through counters in shared memory: [`RemoteWaker`] and
//! [`RemoteLines`], which a [`mesh`](crate::mesh) has for each peer (the host is looked at in each
//! pass instead). A waker must not be woken from a signal handler that may interrupt the owning
//! core.
//!
//! **Wakes.** A task that is woken twice before its poll is polled once; one that is woken during
//! its own poll is polled again in a later tick, after those that were ready before. Wakers of a
//! task that has ended are stale by their generation (16 bits) and do nothing; a wake from another
//! core that races with the end of its task may cause one spurious poll of the storage's next task.
//!
//! **Panics.** A task that panics ends the partition. Should the panic be caught, every later tick
//! is refused; nothing is freed that someone may still look at.
//!
//! Units: durations in [`Ticks`](crate::clock::Ticks) of the scheduler's clock; `_ns` where said.
//!
//! Invariants, named in the SAFETY lines:
//! 1. A task's header lives for ever at one address; a `TaskRef` may access its whole
//!    storage.
//! 2. All fields of a header but *tag*, *owner*, *remote* and *link* are touched on the owning core
//!    only: every type that reaches them is `!Send + !Sync`, and a waker tests the owner first.
//! 3. A header is opened (owner, queue, remote queue set) before the first waker to it exists, and
//!    never changes its scheduler.
//! 4. The future or output in a storage is accessed by one at a time: in state *live* by the
//!    scheduler inside a tick (ticks do not nest), in *done* by the handle, in *free* by the
//!    spawner. A storage is *free* only when no handle, run queue or future names it.
//! 5. A future is never moved after it was placed, and is dropped in place before its storage is
//!    reused.

mod combine;
mod config;
mod figures;
mod header;
mod join_handle;
mod memory;
mod owner;
mod probes;
mod queue;
mod remote;
mod remote_words;
mod scheduler;
mod sleep;
mod spawner;
mod stats;
mod sync;
mod timers;
mod wait_queue;
mod wake_slot;

pub use combine::{
    Either, Either3, Join2, Join3, Join4, JoinArray, Select2, Select3, SelectArray, join,
    join_array, join3, join4, select, select_array, select3,
};
pub use config::{Class, SchedulerConfig, SpawnError, TaskId, TaskOptions};
pub use header::TaskStorage;
pub use join_handle::{JoinError, JoinHandle};
pub(crate) use remote_words::OutgoingWakes;
pub use remote_words::{REMOTE_LINES, REMOTE_WORDS_BYTES, RemoteLines, RemoteWaker};
pub use scheduler::{CurrentTask, CurrentWords, Scheduler};
pub use sleep::{Elapsed, Interval, Sleep, Timeout};
pub use spawner::{Budget, Spawner, YieldNow, yield_now};
pub use stats::{
    GAP_BUCKETS, GapHistogram, LOG2_BUCKETS, Log2Histogram, SchedulerStats, TaskState, TaskStats,
    Tick,
};
pub use wait_queue::{WaitQueue, WaitUntil};
pub use wake_slot::WakeSlot;
