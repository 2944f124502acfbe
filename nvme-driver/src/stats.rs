//! Counters: what was done, what was ignored and why. Snapshots are plain values; the partition
//! publishes them.

use core::cell::Cell;

/// Completions that were ignored, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// The CID names no slot.
    pub cid_beyond: u64,
    /// The CID names a slot in which nothing is in flight.
    pub free_slot: u64,
    /// The CID is the one that the slot used last: a second completion.
    pub duplicate: u64,
    /// The CID carries another generation than the command in flight.
    pub old_generation: u64,
    /// The SQID is not the queue's.
    pub sqid: u64,
}

impl Ignored {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.cid_beyond + self.free_slot + self.duplicate + self.old_generation + self.sqid
    }

    pub(crate) const fn plus(&self, o: &Self) -> Self {
        Self {
            cid_beyond: self.cid_beyond + o.cid_beyond,
            free_slot: self.free_slot + o.free_slot,
            duplicate: self.duplicate + o.duplicate,
            old_generation: self.old_generation + o.old_generation,
            sqid: self.sqid + o.sqid,
        }
    }
}

/// One queue pair's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Commands posted.
    pub submitted: u64,
    /// Commands answered, with whatever status.
    pub completed: u64,
    /// Bytes of the data commands posted, however they end; a retry is not counted again.
    pub bytes: u64,
    /// Commands answered with an error status.
    pub failed: u64,
    /// Commands ended by a reset.
    pub lost: u64,
    /// Commands in flight now.
    pub in_flight: u32,
    /// Most commands in flight at a doorbell; of several queues, the sum of each one's most.
    pub high_water: u32,
    /// Completions ignored.
    pub ignored: Ignored,
    /// SQHD values that cannot be; the completion itself was taken.
    pub bad_sqhd: u64,
    /// Submission doorbell writes.
    pub sq_doorbells: u64,
    /// Completion doorbell writes.
    pub cq_doorbells: u64,
    /// Posts refused because no slot was free.
    pub full: u64,
    /// Retries posted.
    pub retries: u64,
    /// Latency samples: count, minimum, maximum and sum in ticks.
    pub latency: LatencySummary,
}

impl QueueStats {
    pub(crate) const fn plus(&self, o: &Self) -> Self {
        Self {
            submitted: self.submitted + o.submitted,
            completed: self.completed + o.completed,
            bytes: self.bytes.wrapping_add(o.bytes),
            failed: self.failed + o.failed,
            lost: self.lost + o.lost,
            in_flight: self.in_flight + o.in_flight,
            high_water: self.high_water + o.high_water,
            ignored: self.ignored.plus(&o.ignored),
            bad_sqhd: self.bad_sqhd + o.bad_sqhd,
            sq_doorbells: self.sq_doorbells + o.sq_doorbells,
            cq_doorbells: self.cq_doorbells + o.cq_doorbells,
            full: self.full + o.full,
            retries: self.retries + o.retries,
            latency: self.latency.plus(&o.latency),
        }
    }
}

/// Sampled latencies, in ticks of the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencySummary {
    /// Samples.
    pub count: u64,
    /// Smallest.
    pub min_ticks: u64,
    /// Largest.
    pub max_ticks: u64,
    /// Sum.
    pub sum_ticks: u64,
}

impl LatencySummary {
    pub(crate) const fn record(&self, ticks: u64) -> Self {
        Self {
            count: self.count + 1,
            min_ticks: if self.count == 0 || ticks < self.min_ticks {
                ticks
            } else {
                self.min_ticks
            },
            max_ticks: if ticks > self.max_ticks { ticks } else { self.max_ticks },
            sum_ticks: self.sum_ticks.saturating_add(ticks),
        }
    }

    const fn plus(&self, o: &Self) -> Self {
        if o.count == 0 {
            return *self;
        }
        if self.count == 0 {
            return *o;
        }
        Self {
            count: self.count + o.count,
            min_ticks: if self.min_ticks < o.min_ticks { self.min_ticks } else { o.min_ticks },
            max_ticks: if self.max_ticks > o.max_ticks { self.max_ticks } else { o.max_ticks },
            sum_ticks: self.sum_ticks.saturating_add(o.sum_ticks),
        }
    }
}

/// The controller's counters; those of its queues are sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControllerStats {
    /// All I/O queues together.
    pub io: QueueStats,
    /// The admin queue.
    pub admin: QueueStats,
    /// Controller resets begun (bring-up not counted).
    pub resets: u64,
    /// Queue resets begun.
    pub queue_resets: u64,
    /// Aborts sent.
    pub aborts: u64,
    /// Aborts answered with "not aborted".
    pub aborts_refused: u64,
    /// Commands that passed their deadline.
    pub deadlines: u64,
    /// Bring-ups that failed.
    pub bringup_failures: u64,
    /// Asynchronous events received.
    pub events: u64,
    /// Asynchronous events after which the request was not renewed at once.
    pub events_held_back: u64,
    /// Namespaces that were refused.
    pub namespaces_refused: u64,
    /// Namespaces beyond [`crate::ControllerConfig::max_namespaces`], of which nothing is known.
    pub namespaces_beyond: u64,
    /// Futures dropped while their command was in flight.
    pub orphans: u64,
    /// Reads that were lost and read again ([`crate::ReadAgain`]).
    pub reads_repeated: u64,
}

/// A counter with one writer, this core.
#[derive(Debug, Default)]
pub(crate) struct Count(Cell<u64>);

impl Count {
    pub(crate) const fn new() -> Self {
        Self(Cell::new(0))
    }

    #[inline(always)]
    pub(crate) fn add(&self, n: u64) {
        self.0.set(self.0.get().wrapping_add(n));
    }

    #[inline(always)]
    pub(crate) fn get(&self) -> u64 {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_keeps_extremes_through_sums() {
        let a = LatencySummary::default().record(5).record(9);
        let b = LatencySummary::default().record(3);
        let sum = a.plus(&b).plus(&LatencySummary::default());
        assert_eq!((sum.count, sum.min_ticks, sum.max_ticks), (3, 3, 9));
        assert_eq!(sum.sum_ticks, 17);
        assert_eq!(LatencySummary::default().plus(&b), b);
    }
}
