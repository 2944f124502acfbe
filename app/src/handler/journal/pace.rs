//! The speed at which packets came.
//!
//! A packet is due when as much time has passed since the last one as did when they came. What
//! their clock did in between is another matter: it may have been set.

use core_runtime::clock::{Clock, Instant};

/// Packets that were put in order may be a little older than the one before. More is a clock that
/// was set back.
const BACK_NS: u64 = 1_000_000_000;
/// A longer pause is a clock that was set forward, or a break: a recording's longest `--idle` but
/// for never.
const AHEAD_NS: u64 = 60_000_000_000;

/// When packets are due.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    begun: Option<Instant>,
    /// Latest time of a packet since the clock was set.
    latest_ns: u64,
    /// From the beginning to the last packet.
    due_ns: u64,
    /// Times that the clock jumped; no pause is made there.
    pub(super) jumps: u64,
    /// The record before which it did so first.
    pub(super) first_jump: u64,
}

impl Pace {
    /// Whether `record` of this time is due; it is asked again where it is not.
    pub(super) fn is_due(&mut self, record: u64, time_ns: u64, now: Instant, clock: Clock) -> bool {
        let Some(begun) = self.begun else {
            (self.begun, self.latest_ns) = (Some(now), time_ns);
            return true;
        };
        let back = self.latest_ns.saturating_sub(time_ns);
        let ahead = time_ns.saturating_sub(self.latest_ns);
        let jumped = back > BACK_NS || ahead > AHEAD_NS;
        let due_ns = if jumped { self.due_ns } else { self.due_ns.saturating_add(ahead) };
        if now.since(begun) < clock.ns_to_ticks(due_ns) {
            return false;
        }
        self.due_ns = due_ns;
        if jumped {
            self.latest_ns = time_ns;
            self.jumps += 1;
            if self.jumps == 1 {
                self.first_jump = record;
            }
        }
        self.latest_ns = self.latest_ns.max(time_ns);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_runtime::clock::ManualClock;
    use std::boxed::Box;
    use std::vec::Vec;

    const S: u64 = 1_000_000_000;

    /// When packets of these times are replayed, in milliseconds, and how they were paced.
    fn replayed(times: &[u64]) -> (Vec<u64>, Pace) {
        let manual = Box::leak(Box::new(ManualClock::new(7_777)));
        let clock = Clock::manual(manual);
        let (begun, mut pace, mut at) = (clock.now(), Pace::default(), Vec::new());
        for (record, time) in (0..).zip(times) {
            while !pace.is_due(record, *time, clock.now(), clock) {
                manual.advance(1_000_000);
            }
            at.push(clock.ticks_to_ns(clock.now().since(begun)) / 1_000_000);
        }
        (at, pace)
    }

    #[test]
    fn packets_come_as_far_apart_as_they_came() {
        let (at, pace) = replayed(&[5 * S, 5 * S, 5 * S + 20_000_000, 7 * S]);
        assert_eq!(at, [0, 0, 20, 2000]);
        assert_eq!(pace.jumps, 0);
    }

    #[test]
    fn a_packet_that_was_put_before_an_earlier_one_makes_nobody_wait_twice() {
        let (at, pace) = replayed(&[5 * S, 5 * S + 30_000_000, 5 * S + 10_000_000, 6 * S]);
        assert_eq!(at, [0, 30, 30, 1000]);
        assert_eq!(pace.jumps, 0);
    }

    #[test]
    fn a_clock_that_jumps_makes_no_pause_and_the_pace_goes_on_behind_it() {
        let hour = 3600 * S;
        let times = [9 * hour, 9 * hour + S, 5, 5 + S, 20 * hour, 20 * hour + S, u64::MAX];
        let (at, pace) = replayed(&times);
        assert_eq!(at, [0, 1000, 1000, 2000, 2000, 3000, 3000]);
        assert_eq!((pace.jumps, pace.first_jump), (3, 2));
    }

    #[test]
    fn a_pause_of_a_minute_is_a_pause() {
        let (at, pace) = replayed(&[S, 61 * S, 121 * S + 1]);
        assert_eq!((at, pace.jumps), (Vec::from([0, 60_000, 60_000]), 1));
    }
}
