//! How quiet a partition is, and whether that is an accusation.

use std::time::Duration;

use super::words::{Cause, Limits, Phase, Seen};

/// Silence so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Watch {
    pub(super) phase: Phase,
    /// When this phase began, or the last stop ended.
    pub(super) phase_since: Duration,
    pub(super) passes: u64,
    /// When the number of passes last changed.
    pub(super) moved: Duration,
    /// Looks since then.
    pub(super) looks: u32,
    /// A window of one heartbeat limit: when it began, and with how many passes.
    pub(super) window: (Duration, u64),
    /// Accused ages count from here at the earliest.
    pub(super) base: Duration,
}

impl Watch {
    pub(super) const fn new(now: Duration) -> Self {
        Self {
            phase: Phase::Starting,
            phase_since: now,
            passes: 0,
            moved: now,
            looks: 0,
            window: (now, 0),
            base: now,
        }
    }

    /// Begins afresh from `now`, the partition being innocent until then.
    pub(super) const fn rebase(&mut self, now: Duration) {
        self.phase_since = now;
        self.moved = now;
        self.looks = 0;
        self.window = (now, self.passes);
        self.base = now;
    }

    pub(super) fn see(&mut self, seen: &Seen) {
        if self.phase != seen.phase {
            self.phase = seen.phase;
            self.rebase(seen.now);
        }
        if self.passes == seen.passes {
            self.looks = self.looks.saturating_add(1);
        } else {
            self.passes = seen.passes;
            self.moved = seen.now;
            self.looks = 0;
        }
    }

    /// What it can be accused of, and for how long that lasts.
    pub(super) fn accuse(&mut self, seen: &Seen, limits: &Limits) -> Option<(Cause, Duration)> {
        let in_phase = seen.now.saturating_sub(self.phase_since);
        match self.phase {
            Phase::Starting if in_phase >= limits.start => {
                return Some((Cause::NotRunning, in_phase));
            }
            Phase::Stopping if in_phase >= limits.stop => {
                return Some((Cause::NotEnding, in_phase));
            }
            Phase::Running => {}
            Phase::Starting | Phase::Stopping => return None,
        }
        if self.looks < limits.looks {
            return self.crawl(seen, limits);
        }
        if let (Some(polled), Some(limit)) = (seen.task, limits.task) {
            let age = polled.age.min(seen.now.saturating_sub(self.base));
            if age >= limit {
                return Some((Cause::Task, age));
            }
        }
        let silent = seen.now.saturating_sub(self.moved);
        if silent >= limits.heartbeat {
            return Some((Cause::Silent, silent));
        }
        self.crawl(seen, limits)
    }

    fn crawl(&mut self, seen: &Seen, limits: &Limits) -> Option<(Cause, Duration)> {
        let (since, before) = self.window;
        let lasted = seen.now.saturating_sub(since);
        if lasted < limits.heartbeat {
            return None;
        }
        self.window = (seen.now, self.passes);
        // A window much longer than asked for was not watched; none is silence's business.
        let made = self.passes.wrapping_sub(before);
        let watched = lasted < limits.heartbeat.saturating_mul(2);
        (watched && made > 0 && made < limits.passes).then_some((Cause::Crawling, lasted))
    }
}
