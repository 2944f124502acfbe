//! A storm that stands still: every read of its window is in flight, and none ends.
//!
//! From then on the driver rings no doorbell, until the device says something. Whoever resets a
//! device with the whole window in it waits for that moment (the guest tests do).

use core_runtime::clock::{Clock, Instant};

/// How long nothing has to end, and then again for each further mark.
const STEP_NS: u64 = 100_000_000;

/// Looks at a storm's counts.
pub(crate) struct Still {
    clock: Clock,
    /// Reads that had ended, and whether all others were in flight, at the last look; since when
    /// both are so.
    ended: u64,
    whole: bool,
    since: Instant,
}

impl Still {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, ended: 0, whole: false, since: clock.now() }
    }

    /// For how many whole steps of 100 ms all of `window` have been in flight.
    pub(crate) fn steps(&mut self, started: u64, ended: u64, window: u16) -> u64 {
        let whole = started - ended == u64::from(window);
        if ended != self.ended || !whole || !self.whole {
            (self.ended, self.whole, self.since) = (ended, whole, self.clock.now());
        }
        self.clock.ticks_to_ns(self.clock.now().since(self.since)) / STEP_NS
    }
}

/// What is said of it: a line a step.
pub(crate) fn line(steps: u64) -> String {
    format!("the window is in flight, and for {} ms nothing ended", steps * STEP_NS / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_runtime::clock::ManualClock;

    static NOW: ManualClock = ManualClock::new(0);

    #[test]
    fn only_a_whole_window_of_which_nothing_ends_stands_still() {
        let mut still = Still::new(Clock::manual(&NOW));
        let mut after = |ms: u64, started, ended| {
            NOW.advance(ms * 1_000_000);
            still.steps(started, ended, 32)
        };
        assert_eq!(after(1_000, 31, 0), 0, "one is not in flight");
        assert_eq!(after(99, 32, 0), 0, "since the whole window is");
        assert_eq!(after(100, 32, 0), 1);
        assert_eq!(after(150, 32, 0), 2);
        assert_eq!(after(50, 33, 1), 0, "one ended");
        assert_eq!(after(300, 33, 1), 3);
        assert_eq!(line(3), "the window is in flight, and for 300 ms nothing ended");
    }
}
