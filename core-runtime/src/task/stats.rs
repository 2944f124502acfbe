//! What the scheduler and its tasks did, as plain numbers.
//!
//! Counted here with ordinary cells, because one core writes and the same core reads; the partition
//! copies the snapshots into its metrics region. Durations are in ticks of the scheduler's clock.

use core::cell::Cell;

use hybrid_abi::metrics::{bucket_of, bucket_upper};

use super::{Class, TaskId};
use crate::clock::Ticks;

/// Buckets of a [`Log2Histogram`]: bit lengths 0 to 30 of a tick count, and everything from 2^30
/// ticks (0.4 s at 2.4 GHz) in the last.
pub const LOG2_BUCKETS: usize = 32;

/// A histogram of durations by their bit length: bucket `n` counts `2^(n-1) <= ticks < 2^n`, bucket
/// 0 counts zero, the last bucket counts all that is longer. Core-local; small enough for each task
/// to have one. The counts have 64 bits, which no loop fills.
#[derive(Debug)]
pub struct Log2Histogram {
    buckets: [Cell<u64>; LOG2_BUCKETS],
}

impl Default for Log2Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Log2Histogram {
    /// An empty histogram.
    #[must_use]
    pub const fn new() -> Self {
        Self { buckets: [const { Cell::new(0) }; LOG2_BUCKETS] }
    }

    /// Counts one duration.
    #[inline]
    pub fn record(&self, ticks: Ticks) {
        bump(&self.buckets[Self::bucket_of(ticks)]);
    }

    /// The bucket that counts `ticks`.
    #[inline]
    #[must_use]
    pub const fn bucket_of(ticks: Ticks) -> usize {
        let bits = (u64::BITS - ticks.get().leading_zeros()) as usize;
        if bits < LOG2_BUCKETS { bits } else { LOG2_BUCKETS - 1 }
    }

    /// The longest duration that `bucket` counts.
    #[must_use]
    pub const fn upper_bound(bucket: usize) -> Ticks {
        if bucket + 1 >= LOG2_BUCKETS { Ticks::MAX } else { Ticks::new((1 << bucket) - 1) }
    }

    /// The counts.
    #[must_use]
    pub fn snapshot(&self) -> [u64; LOG2_BUCKETS] {
        core::array::from_fn(|bucket| self.buckets[bucket].get())
    }

    /// The sum of all counts.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Cell::get).sum()
    }

    /// Empties it.
    pub fn clear(&self) {
        for bucket in &self.buckets {
            bucket.set(0);
        }
    }
}

/// Sub-bucket bits of a [`GapHistogram`]: a bucket is at most 1/8 of its values wide.
const GAP_SUB_BITS: u32 = 3;

/// Durations below this (3.5 s at 2.4 GHz) have a bucket of at most 1/8 of their length; a loop
/// that stood still for longer is looked at by its longest gap.
const GAP_LIMIT: u64 = 1 << 33;

/// Buckets of a [`GapHistogram`], 2 KiB: those below the limit, and one for all that is longer.
pub const GAP_BUCKETS: usize = bucket_of(GAP_LIMIT, GAP_SUB_BITS) as usize + 1;

/// A histogram of durations of the whole loop: eight buckets for each power of two, so that a
/// bucket's upper bound is at most 1/8 above what it counts, and the longest one exactly.
/// Core-local; the counts have 64 bits: at 20 million passes a second 32 are full in 4 minutes.
#[derive(Debug)]
pub struct GapHistogram {
    buckets: [Cell<u64>; GAP_BUCKETS],
    longest: Cell<Ticks>,
}

impl Default for GapHistogram {
    fn default() -> Self {
        Self::new()
    }
}

impl GapHistogram {
    /// An empty histogram.
    #[must_use]
    pub const fn new() -> Self {
        Self { buckets: [const { Cell::new(0) }; GAP_BUCKETS], longest: Cell::new(Ticks::ZERO) }
    }

    /// Counts one duration.
    #[inline]
    pub fn record(&self, ticks: Ticks) {
        bump(&self.buckets[Self::bucket_of(ticks)]);
        if ticks > self.longest.get() {
            self.longest.set(ticks);
        }
    }

    /// The bucket that counts `ticks`.
    #[inline]
    #[must_use]
    pub const fn bucket_of(ticks: Ticks) -> usize {
        let bucket = bucket_of(ticks.get(), GAP_SUB_BITS) as usize;
        if bucket < GAP_BUCKETS { bucket } else { GAP_BUCKETS - 1 }
    }

    /// The longest duration that `bucket` counts.
    #[must_use]
    pub fn upper_bound(bucket: usize) -> Ticks {
        match u32::try_from(bucket) {
            Ok(index) if bucket + 1 < GAP_BUCKETS => Ticks::new(bucket_upper(index, GAP_SUB_BITS)),
            _ => Ticks::MAX,
        }
    }

    /// What `bucket` has counted; 0 for a bucket that is not there.
    #[inline]
    #[must_use]
    pub fn get(&self, bucket: usize) -> u64 {
        self.buckets.get(bucket).map_or(0, Cell::get)
    }

    /// The longest duration so far.
    #[inline]
    #[must_use]
    pub const fn longest(&self) -> Ticks {
        self.longest.get()
    }

    /// The sum of all counts.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Cell::get).sum()
    }
}

/// Adds one to a counter that a lifetime of polls cannot overflow.
#[inline(always)]
pub(super) fn bump(counter: &Cell<u64>) {
    counter.set(counter.get().wrapping_add(1));
}

/// What one call of [`Scheduler::tick`](super::Scheduler::tick) did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// Polls of latency tasks.
    pub polled_latency: u32,
    /// Polls of normal tasks.
    pub polled_normal: u32,
    /// Polls of background tasks.
    pub polled_background: u32,
    /// Tasks that ended in this tick.
    pub completed: u32,
    /// Tasks whose future was dropped because they were cancelled.
    pub cancelled: u32,
    /// Wakes that came from other cores or processes.
    pub remote_wakes: u32,
    /// Timers whose deadline had come.
    pub timers_fired: u32,
    /// Tasks that are ready now and wait for the next tick.
    pub ready_left: u32,
    /// Polls that exceeded their budget.
    pub overruns: u32,
    /// Whether this call was made from inside a tick (or after a task panicked): it did nothing.
    pub refused: bool,
}

impl Tick {
    /// Polls of all classes.
    #[must_use]
    pub const fn polled(&self) -> u32 {
        self.polled_latency + self.polled_normal + self.polled_background
    }

    /// Whether the tick found nothing to do: an empty poll of the loop.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.polled() == 0
            && self.remote_wakes == 0
            && self.timers_fired == 0
            && self.cancelled == 0
    }
}

/// The scheduler's counters since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerStats {
    /// Calls of `tick` that ran.
    pub ticks: u64,
    /// Of these, calls that found nothing to do.
    pub idle_ticks: u64,
    /// Polls by class, indexed by [`Class::index`].
    pub polls: [u64; 3],
    /// Tasks that were started.
    pub spawned: u64,
    /// Tasks that ended by themselves.
    pub completed: u64,
    /// Tasks that were cancelled.
    pub cancelled: u64,
    /// Wakes from other cores or processes.
    pub remote_wakes: u64,
    /// Timers that fired.
    pub timers_fired: u64,
    /// Sleeps that found every timer in use and poll instead.
    pub timers_full: u64,
    /// Polls that exceeded their budget.
    pub overruns: u64,
    /// Time spent in polls.
    pub poll_ticks: u64,
    /// The longest time between two ticks.
    pub longest_gap: Ticks,
    /// Gaps beyond the threshold that no poll explains: someone else had the core.
    pub stolen_gaps: u64,
    /// The sum of these gaps.
    pub stolen: Ticks,
    /// The longest of these gaps.
    pub longest_stolen: Ticks,
    /// Tasks that have not ended.
    pub live_tasks: u32,
    /// The most tasks that were live at once.
    pub live_tasks_high_water: u32,
    /// Places in the task table.
    pub task_capacity: u32,
    /// Timers in use.
    pub live_timers: u32,
    /// The most timers in use at once.
    pub live_timers_high_water: u32,
    /// Timers that can be in use.
    pub timer_capacity: u32,
    /// Ready tasks by class.
    pub ready: [u32; 3],
    /// The most ready tasks at once, by class.
    pub ready_high_water: [u32; 3],
    /// Bytes of task memory in use or kept for the next task of their size.
    pub task_memory_used: usize,
    /// Bytes of task memory.
    pub task_memory_bytes: usize,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// It waits for a wake.
    Waiting,
    /// It is in a run queue.
    Ready,
    /// It is being polled.
    Running,
    /// It has ended; its handle has not taken the result yet.
    Done,
}

/// One task's numbers.
#[derive(Clone, Copy, Debug)]
pub struct TaskStats {
    /// Its place in the table.
    pub id: TaskId,
    /// The name it was spawned with.
    pub name: &'static str,
    /// Its class.
    pub class: Class,
    /// Where it stands.
    pub state: TaskState,
    /// Times it was polled.
    pub polls: u64,
    /// Polls that exceeded the budget.
    pub overruns: u64,
    /// What one poll may take.
    pub budget: Ticks,
    /// Its longest poll.
    pub longest: Ticks,
    /// All its polls together.
    pub total: Ticks,
    /// By how much the budget was exceeded; buckets as in [`Log2Histogram`].
    pub exceeded_by: [u64; LOG2_BUCKETS],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_on_beyond_32_bits() {
        let (gaps, task) = (GapHistogram::new(), Log2Histogram::new());
        let ticks = Ticks::new(100);
        gaps.buckets[GapHistogram::bucket_of(ticks)].set(u32::MAX.into());
        task.buckets[Log2Histogram::bucket_of(ticks)].set(u32::MAX.into());
        gaps.record(ticks);
        task.record(ticks);
        assert_eq!((gaps.count(), task.count()), (1 << 32, 1 << 32));
    }

    #[test]
    fn a_gaps_bucket_is_at_most_an_eighth_above_it() {
        for shift in 0..33 {
            for ticks in [1_u64 << shift, (1 << shift) + 1, (3 << shift) >> 1, (1 << shift) - 1] {
                let bucket = GapHistogram::bucket_of(Ticks::new(ticks));
                let bound = GapHistogram::upper_bound(bucket).get();
                assert!(bound >= ticks && bound - ticks <= ticks / 8, "{ticks}: {bound}");
            }
        }
        for long in [GAP_LIMIT, GAP_LIMIT * 2, u64::MAX] {
            assert_eq!(GapHistogram::bucket_of(Ticks::new(long)), GAP_BUCKETS - 1);
        }
        assert_eq!(GapHistogram::upper_bound(GAP_BUCKETS - 1), Ticks::MAX);
        assert_eq!(GapHistogram::upper_bound(usize::MAX), Ticks::MAX);
    }
}
