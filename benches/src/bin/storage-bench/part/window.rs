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
        }
    }

    /// The loop was elsewhere: the next window begins when it has settled.
    pub(crate) fn settle(&self, now: Instant) {
        self.state.set(State::waiting(now + self.settle));
        self.looked.set(now);
        self.settled.set(now);
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
        }
        if !state.open {
            if now >= state.begin && done != 0 {
                state = State { begin: now, open: true, last: now, ..State::waiting(now) };
                state.model = self.model();
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
        (now.since(self.settled.get()) > self.stall).then(|| {
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
        !state.spoilt
    }

    fn model(&self) -> (u64, u64) {
        (self.gauges.busy_steps(), self.gauges.empty_steps())
    }

    /// When the running window began; the end of time if none has.
    pub(crate) fn begun(&self) -> Instant {
        let state = self.state.get();
        if state.open { state.begin } else { Instant::MAX }
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
