//! Windows of a closed loop: counted if neither core was taken away.
//!
//! The loop stamps each pass that reaped something. Between two of them at most a few microseconds
//! pass, unless the kernel or the hypervisor took a core away from one of the two sides: a gap
//! above [`GAP_NS`] spoils its window. The rule does not know which side it was, and a device that
//! stalls for so long would be dropped too; the count of dropped windows and the longest gap are
//! printed for that reason.

use core::cell::Cell;

use core_runtime::clock::{Clock, Instant, Ticks};
use nvme_model::ModelGauges;

use crate::wire::Sample;

/// Longest time without a completion that is taken for the loop's own: many times the longest
/// queueing of 255 copies of 4 KiB between two bursts, far below a time slice.
const GAP_NS: u64 = 30_000;

/// Time before a window in which the loop settles after it was elsewhere.
const SETTLE_NS: u64 = 30_000;

/// Accumulates windows.
pub(crate) struct Windows {
    gap: Ticks,
    settle: Ticks,
    length: Ticks,
    gauges: ModelGauges,
    state: Cell<State>,
    sum: Cell<Sample>,
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
    reads: u64,
    passes: u64,
    empty: u64,
    model: (u64, u64),
}

impl Windows {
    pub(crate) fn new(clock: Clock, window_ns: u32, gauges: ModelGauges, now: Instant) -> Self {
        let settle = clock.ns_to_ticks(SETTLE_NS);
        Self {
            gap: clock.ns_to_ticks(GAP_NS),
            settle,
            length: clock.ns_to_ticks(window_ns.into()),
            gauges,
            state: Cell::new(State::waiting(now + settle)),
            sum: Cell::new(Sample::default()),
        }
    }

    /// The loop was elsewhere: the next window begins when it has settled.
    pub(crate) fn settle(&self, now: Instant) {
        self.state.set(State::waiting(now + self.settle));
    }

    /// A pass that reaped `reads` (or none) ended at `now`. Returns how a window ended, if one did:
    /// whether it counts.
    #[inline]
    pub(crate) fn pass(&self, now: Instant, reads: u64) -> Option<bool> {
        let mut state = self.state.get();
        if !state.open {
            if now >= state.begin && reads != 0 {
                state = State { begin: now, open: true, last: now, ..State::waiting(now) };
                state.model = self.model();
            }
            self.state.set(state);
            return None;
        }
        let gap = now.since(state.last);
        state.spoilt |= gap > self.gap;
        if reads == 0 {
            state.empty += 1;
            self.state.set(state);
            return None;
        }
        state.last = now;
        state.reads += reads;
        state.passes += 1;
        self.state.set(state);
        if gap.get() > self.sum.get().longest_gap {
            let longest_gap = gap.get();
            self.sum.set(Sample { longest_gap, ..self.sum.get() });
        }
        (now.since(state.begin) >= self.length).then(|| self.close(now, &state))
    }

    #[inline(never)]
    fn close(&self, now: Instant, state: &State) -> bool {
        let mut sum = self.sum.get();
        if state.spoilt {
            sum.dropped += 1;
        } else {
            let (busy, empty) = self.model();
            sum.kept += 1;
            sum.reads += state.reads;
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

    pub(crate) fn ended(&self) -> u32 {
        self.sum.get().kept + self.sum.get().dropped
    }

    pub(crate) fn sum(&self, kind: u32, depth: u16) -> Sample {
        Sample { kind, depth: depth.into(), ..self.sum.get() }
    }
}

impl State {
    const fn waiting(begin: Instant) -> Self {
        Self {
            begin,
            open: false,
            spoilt: false,
            last: begin,
            reads: 0,
            passes: 0,
            empty: 0,
            model: (0, 0),
        }
    }
}
