//! The loop that looks at the clock and nothing else, on a core that should be left alone.
//!
//! Called on its own pinned thread by [`super::run()`]; tests call it with a clock of their own.
//! While it spins it makes no system call and allocates nothing: what it misses was taken by
//! others.
//!
//! ```text
//!            go            until            stop (or grace over)
//! waiting ────────► recording ──────► idling ────────► done
//! ```
//! It idles, still on its core, until the counters of the kernel have been read, so that its own
//! end is not counted as a disturbance. Times are ticks of the clock that is passed in.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::histogram::Histogram;

/// How many of the largest gaps are kept with their time.
pub(crate) const WORST: usize = 16;

/// What a spinner shares with the thread that watches it. One writer for each word.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Set by the watcher: recording may begin.
    pub(crate) go: AtomicBool,
    /// Set by the watcher, or by a spinner that stops at its threshold: recording ends.
    pub(crate) stop: AtomicBool,
    /// Set by the watcher: the counters have been read, threads may end.
    pub(crate) leave: AtomicBool,
}

/// What one spinner tells while it runs, for the progress line.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// It is pinned and spins.
    pub(crate) ready: AtomicBool,
    /// Largest gap so far, in ticks.
    pub(crate) max: AtomicU64,
    /// Gaps over the threshold so far.
    pub(crate) over: AtomicU64,
    /// It has recorded all it was asked for.
    pub(crate) done: AtomicBool,
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long to record, in ticks.
    pub(crate) duration: u64,
    /// Ticks beyond the duration after which the watcher is no longer waited for.
    pub(crate) grace: u64,
    /// A gap above this is counted as one over the threshold.
    pub(crate) threshold: u64,
    /// End everybody's recording at the first gap above the threshold.
    pub(crate) stop_on_threshold: bool,
}

/// A gap and where it began, in ticks since the recording began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) ticks: u64,
    pub(crate) at: u64,
}

/// What one spinner saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) histogram: Histogram,
    /// Gaps above the threshold, and their sum in ticks.
    pub(crate) over: u64,
    pub(crate) over_ticks: u64,
    /// The clock's value when recording began.
    pub(crate) began: u64,
    /// Ticks from the first look to the last.
    pub(crate) spun: u64,
    /// Looks at which the clock had gone back; such a clock measures nothing.
    pub(crate) backwards: u64,
    worst: [Gap; WORST],
}

impl Seen {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            histogram: Histogram::new(),
            over: 0,
            over_ticks: 0,
            began: 0,
            spun: 0,
            backwards: 0,
            worst: [Gap::default(); WORST],
        }
    }

    /// The largest gaps, the largest first.
    pub(crate) fn worst(&self) -> impl Iterator<Item = Gap> + '_ {
        self.worst.iter().copied().filter(|gap| gap.ticks > 0)
    }

    /// Keeps the gap if it is among the largest; of equal ones the first stays.
    #[inline]
    fn keep(&mut self, gap: Gap) {
        if gap.ticks <= self.worst[WORST - 1].ticks {
            return;
        }
        let place = self.worst.partition_point(|kept| kept.ticks >= gap.ticks);
        self.worst[place..].rotate_right(1);
        self.worst[place] = gap;
    }
}

/// Waits for `go`, records until the time is over or `stop`, then idles until `leave`.
pub(crate) fn spin(
    now: impl Fn() -> u64,
    shared: &Shared,
    live: &Live,
    limits: Limits,
    seen: &mut Seen,
) {
    live.ready.store(true, Ordering::Release); // SYNC spinner-ready
    // SYNC spinner-go: what the watcher read before it is older than the first look.
    while !shared.go.load(Ordering::Acquire) && !shared.leave.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
    record(&now, shared, live, limits, seen);
    live.done.store(true, Ordering::Relaxed);
    let end = now().saturating_add(limits.grace);
    // SYNC spinner-leave
    while !shared.leave.load(Ordering::Acquire) && now() < end {
        std::hint::spin_loop();
    }
}

fn record(now: &impl Fn() -> u64, shared: &Shared, live: &Live, limits: Limits, seen: &mut Seen) {
    seen.began = now();
    let mut last = seen.began;
    while seen.spun < limits.duration && !shared.stop.load(Ordering::Relaxed) {
        let look = now();
        let Some(ticks) = look.checked_sub(last) else {
            seen.backwards += 1;
            last = look;
            continue;
        };
        let at = seen.spun;
        last = look;
        seen.spun += ticks;
        if ticks > seen.histogram.max() {
            live.max.store(ticks, Ordering::Relaxed);
        }
        seen.histogram.record(ticks);
        seen.keep(Gap { ticks, at });
        if ticks > limits.threshold {
            seen.over += 1;
            seen.over_ticks += ticks;
            live.over.store(seen.over, Ordering::Relaxed);
            if limits.stop_on_threshold {
                shared.stop.store(true, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A clock that takes the given steps and then 10 ticks each.
    fn clock(steps: &[i64]) -> impl Fn() -> u64 + '_ {
        let (time, at) = (Cell::new(1_000_u64), Cell::new(0));
        move || {
            let step = steps.get(at.get()).copied().unwrap_or(10);
            at.set(at.get() + 1);
            time.set(time.get().wrapping_add_signed(step));
            time.get()
        }
    }

    fn limits(duration: u64) -> Limits {
        Limits { duration, grace: 100, threshold: 50, stop_on_threshold: false }
    }

    fn run(steps: &[i64], limits: Limits) -> (Seen, Shared, Live) {
        let (shared, live, mut seen) = (Shared::default(), Live::default(), Seen::new());
        shared.go.store(true, Ordering::Relaxed);
        spin(clock(steps), &shared, &live, limits, &mut seen);
        (seen, shared, live)
    }

    #[test]
    fn gaps_are_counted_with_their_time() {
        let (seen, _, live) = run(&[0, 10, 10, 700, 10, 50, 51], limits(1_000));
        assert_eq!((seen.over, seen.over_ticks, seen.backwards), (2, 751, 0));
        assert_eq!(seen.began, 1_000);
        let worst: Vec<Gap> = seen.worst().take(4).collect();
        assert_eq!(
            worst[..3],
            [Gap { ticks: 700, at: 20 }, Gap { ticks: 51, at: 780 }, Gap { ticks: 50, at: 730 }]
        );
        assert_eq!(worst[3], Gap { ticks: 10, at: 0 }, "of equal gaps the first is kept");
        assert_eq!((live.max.into_inner(), live.over.into_inner()), (700, 2));
        assert!(seen.spun >= 1_000 && seen.spun < 1_010);
    }

    #[test]
    fn it_stops_at_the_threshold_when_asked() {
        let mut limits = limits(1_000_000);
        limits.stop_on_threshold = true;
        let (seen, shared, _) = run(&[0, 10, 51, 10, 900], limits);
        assert_eq!((seen.over, seen.histogram.max(), seen.spun), (1, 51, 61));
        assert!(shared.stop.into_inner(), "the other spinners stop too");
    }

    #[test]
    fn a_clock_that_goes_back_is_counted_and_is_no_gap() {
        let (seen, _, _) = run(&[0, 10, -500, 10], limits(100));
        assert_eq!((seen.backwards, seen.over), (1, 0));
        assert_eq!(seen.histogram.max(), 10);
    }

    #[test]
    fn without_go_it_leaves_when_told() {
        let (shared, live, mut seen) = (Shared::default(), Live::default(), Seen::new());
        shared.leave.store(true, Ordering::Relaxed);
        shared.stop.store(true, Ordering::Relaxed);
        spin(clock(&[]), &shared, &live, limits(10), &mut seen);
        assert_eq!(seen.histogram.samples(), 0);
        assert!(live.ready.into_inner());
    }

    #[test]
    fn the_worst_list_keeps_the_largest_of_many() {
        let mut seen = Seen::new();
        for ticks in 1..=100_u64 {
            seen.keep(Gap { ticks: ticks * 37 % 101, at: ticks });
        }
        let kept: Vec<u64> = seen.worst().map(|gap| gap.ticks).collect();
        assert_eq!(kept, (85..=100).rev().collect::<Vec<u64>>());
    }
}
