//! Windows of a closed loop: counted if no core was taken away.
//!
//! The loop looks at the clock in each pass that reaped something, and once in a while when none
//! does. Two rules spoil a window. A gap between two looks above [`AWAY_NS`] was not the loop's:
//! its own core was taken. And where the device is a thread of this machine that answers at once, a
//! time above the phase's `gap_ns` without a completion means that *its* core was. The second rule
//! would also drop a device that stalls; the count of dropped windows and the longest gap are
//! printed for that reason.

use core::cell::Cell;

use core_runtime::clock::{Clock, Instant, Ticks};
use nvme_model::ModelGauges;

use crate::wire::{LEAST_CLEAN, Phase, Sample};

/// Longest time between two looks at the clock that is taken for the loop's own: a pass that reaps
/// and submits 255 commands takes a third of it.
pub(crate) const AWAY_NS: u64 = 30_000;

/// Time before a window in which the loop settles after it was elsewhere.
const SETTLE_NS: u64 = 30_000;

/// A window that takes this long is given up: the partition's loop must get its turn, for it keeps
/// the watch over commands that are never answered.
const STALL_NS: u64 = 5_000_000;

/// Accumulates windows.
pub(crate) struct Windows {
    gap: Ticks,
    away: Ticks,
    settle: Ticks,
    length: Ticks,
    stall: Ticks,
    gauges: ModelGauges,
    state: Cell<State>,
    sum: Cell<Sum>,
    longest: Cell<u64>,
    looked: Cell<Instant>,
    settled: Cell<Instant>,
    /// When the last window ended, or the loop settled.
    rested: Cell<Instant>,
    /// Begin of the first of the clean windows that follow each other up to now, the running one
    /// among them; the end of time if there is none.
    row: Cell<Instant>,
}

/// From when on an operation must have begun to be counted when it ends now.
#[derive(Clone, Copy)]
pub(crate) struct Since {
    /// With all others: the loop has not been elsewhere since.
    pub(crate) all: Instant,
    /// As undisturbed, if its window turns out to be clean: those before were.
    pub(crate) clean: Instant,
}

/// The running window.
#[derive(Clone, Copy)]
struct State {
    /// When it begins or began.
    begin: Instant,
    /// Whether it has begun.
    open: bool,
    spoilt: bool,
    last: Instant,
    done: u64,
    passes: u64,
    empty: u64,
    model: (u64, u64),
}

/// Of all clean windows.
#[derive(Clone, Copy, Default)]
struct Sum {
    kept: u32,
    dropped: u32,
    done: u64,
    ticks: u64,
    passes: u64,
    empty: u64,
    model_busy: u64,
    model_empty: u64,
    gaps: u64,
    stolen: u64,
}

impl Windows {
    pub(crate) fn new(clock: Clock, phase: &Phase, gauges: &ModelGauges) -> Self {
        let settle = clock.ns_to_ticks(SETTLE_NS);
        let gap = match phase.gap_ns {
            0 => Ticks::new(u64::MAX),
            ns => clock.ns_to_ticks(ns.into()),
        };
        let now = clock.now();
        Self {
            gap,
            away: clock.ns_to_ticks(AWAY_NS),
            settle,
            length: clock.ns_to_ticks(phase.window_ns.into()),
            stall: clock.ns_to_ticks(STALL_NS.max(4 * u64::from(phase.window_ns))),
            gauges: gauges.clone(),
            state: Cell::new(State::waiting(now + settle)),
            sum: Cell::new(Sum::default()),
            longest: Cell::new(0),
            looked: Cell::new(now),
            settled: Cell::new(now),
            rested: Cell::new(now),
            row: Cell::new(Instant::MAX),
        }
    }

    /// The loop was elsewhere: the next window begins when it has settled.
    pub(crate) fn settle(&self, now: Instant) {
        self.state.set(State::waiting(now + self.settle));
        self.looked.set(now);
        self.settled.set(now);
        self.rested.set(now);
        self.row.set(Instant::MAX);
    }

    /// A pass that reaped `done` (or none) ended at `now`. Returns how a window ended, if one did:
    /// whether it counts.
    #[inline]
    pub(crate) fn pass(&self, now: Instant, done: u64) -> Option<bool> {
        let mut state = self.state.get();
        let looked = now.since(self.looked.replace(now));
        if looked > self.away {
            self.was_away(looked);
            state.spoilt = true;
            self.row.set(Instant::MAX);
        }
        if !state.open {
            if now >= state.begin && done != 0 {
                // Neither core was taken away since the window before.
                if now.since(self.rested.get()) > self.gap {
                    self.row.set(Instant::MAX);
                }
                state = State { begin: now, open: true, last: now, ..State::waiting(now) };
                state.model = self.model();
                self.row.set(self.row.get().min(now));
            }
            self.state.set(state);
            return self.stalled(now);
        }
        let gap = now.since(state.last);
        state.spoilt |= gap > self.gap;
        if done == 0 {
            state.empty += 1;
            self.state.set(state);
            return self.stalled(now);
        }
        state.last = now;
        state.done += done;
        state.passes += 1;
        self.state.set(state);
        if gap.get() > self.longest.get() {
            self.longest.set(gap.get());
        }
        (now.since(state.begin) >= self.length).then(|| self.close(now, &state))
    }

    /// Gives the window up when its time is long over.
    #[inline]
    fn stalled(&self, now: Instant) -> Option<bool> {
        (now.since(self.rested.get()) > self.stall).then(|| {
            let mut sum = self.sum.get();
            sum.dropped += 1;
            self.sum.set(sum);
            self.settle(now);
            false
        })
    }

    #[cold]
    fn was_away(&self, gap: Ticks) {
        let mut sum = self.sum.get();
        sum.gaps += 1;
        sum.stolen += gap.get();
        self.sum.set(sum);
    }

    #[inline(never)]
    fn close(&self, now: Instant, state: &State) -> bool {
        let mut sum = self.sum.get();
        if state.spoilt {
            sum.dropped += 1;
            self.row.set(Instant::MAX);
        } else {
            let (busy, empty) = self.model();
            sum.kept += 1;
            sum.done += state.done;
            sum.passes += state.passes;
            sum.empty += state.empty;
            sum.ticks += now.since(state.begin).get();
            sum.model_busy += busy.wrapping_sub(state.model.0);
            sum.model_empty += empty.wrapping_sub(state.model.1);
        }
        self.sum.set(sum);
        self.state.set(State::waiting(now));
        self.rested.set(now);
        !state.spoilt
    }

    fn model(&self) -> (u64, u64) {
        (self.gauges.busy_steps(), self.gauges.empty_steps())
    }

    /// Which operations count that end now: none between windows.
    #[inline]
    pub(crate) fn since(&self) -> Since {
        match self.state.get().open {
            true => Since { all: self.settled.get(), clean: self.row.get() },
            false => Since { all: Instant::MAX, clean: Instant::MAX },
        }
    }

    /// Adds empty passes that were not stamped.
    #[inline]
    pub(crate) fn add_empty(&self, passes: u64) {
        let mut state = self.state.get();
        state.empty += passes;
        self.state.set(state);
    }

    /// Ticks that the core was away so far.
    pub(crate) fn stolen(&self) -> u64 {
        self.sum.get().stolen
    }

    pub(crate) fn ended(&self) -> u32 {
        self.sum.get().kept + self.sum.get().dropped
    }

    /// Whether fewer windows were clean than make a repetition count.
    pub(crate) fn lacks(&self) -> bool {
        self.sum.get().kept < LEAST_CLEAN
    }

    /// What the windows say, into a sample.
    pub(crate) fn fill(&self, sample: &mut Sample) {
        let sum = self.sum.get();
        sample.kept = sum.kept;
        sample.dropped = sum.dropped;
        sample.done = sum.done;
        sample.ticks = sum.ticks;
        sample.passes = sum.passes;
        sample.empty = sum.empty;
        sample.model_busy = sum.model_busy;
        sample.model_empty = sum.model_empty;
        sample.gaps = sum.gaps;
        sample.stolen = sum.stolen;
        sample.longest_gap = self.longest.get();
    }
}

impl State {
    const fn waiting(begin: Instant) -> Self {
        Self {
            begin,
            open: false,
            spoilt: false,
            last: begin,
            done: 0,
            passes: 0,
            empty: 0,
            model: (0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::CLOSED;
    use core_runtime::clock::ManualClock;

    /// Ends a window with a pass that reaps something every so many nanoseconds.
    fn window(windows: &Windows, clock: &ManualClock, now: Clock, every_ns: u64) -> bool {
        loop {
            clock.advance(every_ns);
            if let Some(clean) = windows.pass(now.now(), 1) {
                return clean;
            }
        }
    }

    #[test]
    fn operations_may_cross_from_one_clean_window_to_the_next() {
        let manual: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1)));
        let clock = Clock::manual(manual);
        let phase = Phase { kind: CLOSED, window_ns: 250_000, gap_ns: 50_000, ..Phase::default() };
        let windows = Windows::new(clock, &phase, &ModelGauges::default());
        manual.advance(1000);
        windows.settle(clock.now());
        let settled = clock.now();
        assert_eq!(windows.since().all, Instant::MAX, "nothing counts while it settles");
        assert!(window(&windows, manual, clock, 1000));
        // The next one opens with the next pass that reaps.
        manual.advance(1000);
        assert_eq!(windows.pass(clock.now(), 1), None);
        let first = windows.since();
        assert_eq!(first.all, settled);
        assert!(first.clean > settled && first.clean < clock.now(), "the first one's begin");
        // Its own core was away: what began before that is disturbed, and not left out.
        manual.advance(AWAY_NS + 1);
        assert_eq!(windows.pass(clock.now(), 1), None);
        assert!(!window(&windows, manual, clock, 1000));
        let ended = clock.now();
        manual.advance(1000);
        assert_eq!(windows.pass(clock.now(), 1), None);
        let after = windows.since();
        assert_eq!((after.all, after.clean), (settled, clock.now()));
        assert!(after.clean > ended);
        // The device's core was away between two windows, and so was ours once more.
        assert!(window(&windows, manual, clock, 1000));
        for _ in 0..51 {
            manual.advance(1000);
            assert_eq!(windows.pass(clock.now(), 0), None);
        }
        assert_eq!(windows.pass(clock.now(), 1), None);
        assert_eq!(windows.since().clean, clock.now());
        assert!(window(&windows, manual, clock, 1000));
        manual.advance(AWAY_NS + 1);
        assert_eq!(windows.pass(clock.now(), 1), None);
        assert_eq!(windows.since().clean, clock.now());
        // The loop was elsewhere: all that came before is left out.
        manual.advance(1000);
        windows.settle(clock.now());
        let settled = clock.now();
        manual.advance(SETTLE_NS);
        assert_eq!(windows.pass(clock.now(), 1), None);
        assert_eq!((windows.since().all, windows.since().clean), (settled, clock.now()));
    }

    #[test]
    fn long_windows_in_a_row_are_not_taken_for_a_stall() {
        let manual: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1)));
        let clock = Clock::manual(manual);
        let phase = Phase { kind: CLOSED, window_ns: 20_000_000, ..Phase::default() };
        let windows = Windows::new(clock, &phase, &ModelGauges::default());
        for _ in 0..16 {
            assert!(window(&windows, manual, clock, 10_000));
        }
        assert_eq!(windows.ended(), 16);
        manual.advance(81_000_000);
        assert_eq!(windows.pass(clock.now(), 0), Some(false), "nothing ended for so long");
    }
}
