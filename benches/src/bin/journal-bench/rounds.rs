//! Rounds of an open loop: which of them were this machine's own.
//!
//! Where a hypervisor or another program takes a core for milliseconds, a percentile tells of them
//! and not of the log. Time is cut into rounds of [`ROUND_NS`], fixed beforehand, and a round in
//! which a core was away is left out as a whole: the partition's, when its loop stood still; the
//! device's, when nothing that was asked of it ended for far longer than it takes. So is the round
//! behind it, if appends from before come to their end there. How many were kept is told, and what
//! all of them say.

use core_runtime::clock::{Clock, Instant, Ticks};
use hybrid_benches::hist::Hist;

use crate::wire::Outcome;

/// A round.
const ROUND_NS: u64 = 2_000_000;
/// Samples of a round: more make it one that is left out.
const ROOM: usize = 2048;

/// The rounds of a measurement.
pub(crate) struct Rounds {
    round: Ticks,
    silent: Ticks,
    begun: Instant,
    /// Since when nothing has ended, if something is waited for.
    waiting: Option<Instant>,
    disturbed: bool,
    before: bool,
    samples: [u64; ROOM],
    len: usize,
    all: u64,
    quiet: u64,
    hist: Hist,
}

impl Rounds {
    /// A device that says nothing for `silent_ns` is away.
    pub(crate) fn new(clock: Clock, now: Instant, silent_ns: u64) -> Self {
        Self {
            round: clock.ns_to_ticks(ROUND_NS),
            silent: clock.ns_to_ticks(silent_ns),
            begun: now,
            waiting: None,
            disturbed: false,
            before: false,
            samples: [0; ROOM],
            len: 0,
            all: 0,
            quiet: 0,
            hist: Hist::new(),
        }
    }

    /// The loop stood still.
    pub(crate) const fn disturb(&mut self) {
        self.disturbed = true;
    }

    /// A turn of the loop: whether something is waited for, and whether something has ended.
    pub(crate) fn turn(&mut self, now: Instant, (waits, ended): (bool, bool)) {
        let since = *self.waiting.get_or_insert(now);
        self.disturbed |= now.since(since) > self.silent;
        self.waiting = (waits && !ended).then_some(since);
        if now.since(self.begun) < self.round {
            return;
        }
        self.all += 1;
        if !self.disturbed {
            self.quiet += 1;
            self.samples.iter().take(self.len).for_each(|ns| self.hist.record(*ns));
        }
        (self.before, self.disturbed, self.len, self.begun) = (self.disturbed, false, 0, now);
    }

    /// An append that was due then has ended.
    pub(crate) fn sample(&mut self, due: Instant, ns: u64) {
        self.disturbed |= self.before && due.ticks() < self.begun.ticks();
        match self.samples.get_mut(self.len) {
            Some(place) => (*place, self.len) = (ns, self.len + 1),
            None => self.disturbed = true,
        }
    }

    /// What they say.
    pub(crate) fn fill(&self, out: &mut Outcome) {
        (out.rounds, out.quiet_rounds) = (self.all, self.quiet);
        (out.quiet_p99, out.quiet_samples) = (self.hist.quantile(990_000), self.hist.count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_runtime::clock::ManualClock;

    #[test]
    fn a_round_with_a_core_away_and_what_comes_late_from_it_are_left_out() {
        let manual: &'static ManualClock = Box::leak(Box::new(ManualClock::new(5)));
        let clock = Clock::manual(manual);
        let mut rounds = Rounds::new(clock, clock.now(), 35_000);
        // The second round is ours no more, and the third ends what the second began.
        for round in 0..5_u64 {
            for _ in 0..200 {
                let due = clock.now();
                manual.advance(10_000);
                let late = if round == 1 { 900_000 } else { 8_000 };
                if round == 1 {
                    rounds.disturb();
                }
                rounds.sample(due, late);
                rounds.turn(clock.now(), (true, true));
            }
        }
        let mut out = Outcome::default();
        rounds.fill(&mut out);
        assert_eq!((out.rounds, out.quiet_rounds, out.quiet_samples), (5, 4, 800));
        assert!((8_000..8_200).contains(&out.quiet_p99), "{}", out.quiet_p99);
        // Nothing ends for 40 us: the device is away.
        rounds.turn(clock.now(), (true, false));
        manual.advance(40_000);
        rounds.turn(clock.now(), (true, false));
        manual.advance(2_000_000);
        rounds.turn(clock.now(), (false, true));
        // A sample from before the round that follows spoils that one, too.
        rounds.sample(Instant::from_ticks(clock.now().ticks() - 10), 1);
        manual.advance(2_000_000);
        rounds.turn(clock.now(), (false, false));
        rounds.fill(&mut out);
        assert_eq!((out.rounds, out.quiet_rounds), (7, 4));
    }
}
