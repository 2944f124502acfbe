//! The way from a partition that goes quiet to one that runs again: what was seen in, what to do
//! out.
//!
//! Called by `host_bridge::supervisor` at every look. Pure: no clock, no system call, no allocation
//! in a step; times are since any fixed moment and come with what was seen. Each step answers with
//! one [`Action`] at most, and takes for granted that it is carried out.
//!
//! ```text
//!            silence, crawl          as much again           dump's time over
//!  Watching ----------------> Alarmed -----------> Asked ------------------> Killed
//!   |  ^  \                   |    |                 |                          |
//!   |  |   `- task over its limit -+-----------------^                          |
//!   |  `------- beats again --'                                                 |
//!   |                                                                           |
//!   |  every state above: ended ------------------------------------------------'
//!   |  every state above: process state T: its clocks stand still, one alarm     |
//!   v                                                                           v
//!  (ended) ------------------> Dead -- the device is free ------> Saving -- saved --.
//!                                `---- not in time -> SavingUnfenced -> Over        |
//!                                                                                   v
//!                    Over <----- policy, or too many crashes -------------- Restarts::decide
//!                                                                                   |
//!                 Watching <-- started -- Starting <-- delay is over -- Delayed <---'
//!                              (failed: counts as an end)
//! ```
//!
//! Invariants:
//! 1. Nothing is read from a partition's memory, and nothing is started again, before the
//!    fence: its end *and* a device that can be had again. One that stays away ends
//!    supervision; of what the dead partition left, only what no device could write is saved
//!    then.
//! 2. A stopped process (state T, or stopped by a tracer) is never escalated, whatever is pending.
//! 3. A look that comes late accuses nobody: silence counts only once it was seen at several looks.
//! 4. A partition that is a thread can only be accused: nothing follows its alarm.
//! 5. An end that blames the device is answered with a start on other storage, where there is some,
//!    once.

mod watch;
mod words;

#[cfg(test)]
mod tests;

use std::time::Duration;

use self::watch::Watch;
use super::restart::{Decision, Restarts};

pub use words::{Action, Alarm, Cause, Ending, Limits, Over, Phase, Polled, Seen};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Watching,
    Alarmed(Cause, Duration),
    Asked(Cause, Duration),
    Killed(Cause, Duration, bool),
    /// Since when, and whether its fence was asked after its deadline.
    Dead(Duration, bool),
    Saving,
    SavingUnfenced,
    Delayed(Duration),
    Starting,
    Over(Over),
}

/// The machine for one partition and all its incarnations.
#[derive(Clone, Debug)]
pub struct Policy {
    limits: Limits,
    restarts: Restarts,
    state: State,
    watch: Watch,
    /// Since when its process is stopped.
    stopped: Option<Duration>,
    stop_asked: bool,
    /// The partition has called itself critically ill.
    critical: bool,
    /// Somebody wants it to be started again when it has ended.
    restart_asked: bool,
    ending: Ending,
    /// There is other storage for when the device is at fault.
    fallback: bool,
}

impl Policy {
    /// For a partition whose first incarnation was just started.
    #[must_use]
    pub const fn new(limits: Limits, restarts: Restarts, now: Duration) -> Self {
        Self {
            limits,
            restarts,
            state: State::Watching,
            watch: Watch::new(now),
            stopped: None,
            stop_asked: false,
            critical: false,
            restart_asked: false,
            ending: Ending::Killed,
            fallback: false,
        }
    }

    /// The partition itself says that something is critically wrong: it goes the way of one that
    /// is accused, from its next look on.
    pub const fn critical(&mut self) {
        self.critical = matches!(self.state, State::Watching | State::Alarmed(..));
    }

    /// Somebody wants the partition to be started again; the caller asks it to end. Its end is then
    /// no crash, if it ends in order, whatever the policy of restarts is.
    pub const fn restart_asked(&mut self) {
        self.restart_asked = true;
    }

    /// Whether the end that was decided on last was one that somebody asked for.
    #[must_use]
    pub const fn was_asked_to_restart(&self) -> bool {
        self.restart_asked && matches!(self.ending, Ending::Done | Ending::Failed)
    }

    /// Whether there is other storage for when the device is at fault.
    pub const fn fallback(&mut self, ready: bool) {
        self.fallback = ready;
    }

    /// The deadlines.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether nothing more comes, and why.
    #[must_use]
    pub const fn over(&self) -> Option<Over> {
        match self.state {
            State::Over(over) => Some(over),
            _ => None,
        }
    }

    /// Crashes that count towards the limit at the moment.
    #[must_use]
    pub fn recent_crashes(&self) -> u32 {
        self.restarts.recent()
    }

    /// One look, one action.
    pub fn step(&mut self, seen: &Seen) -> Action {
        self.stop_asked |= seen.stop_asked;
        match self.state {
            State::Watching | State::Alarmed(..) | State::Asked(..) | State::Killed(..) => {
                self.step_alive(seen)
            }
            State::Dead(since, late) => self.step_dead(since, late, seen.now),
            State::Saving => Action::Save { fenced: true },
            State::SavingUnfenced => Action::Save { fenced: false },
            State::Delayed(until) if self.stop_asked || seen.now >= until => self.leave_delay(),
            State::Delayed(_) => Action::Wait,
            State::Starting => Action::Start,
            State::Over(over) => Action::Over(over),
        }
    }

    fn step_alive(&mut self, seen: &Seen) -> Action {
        if seen.ended {
            self.state = State::Dead(seen.now, false);
            self.stopped = None;
            return Action::Fence;
        }
        if let Some(action) = self.step_stopped(seen) {
            return action;
        }
        self.watch.see(seen);
        if std::mem::take(&mut self.critical) {
            if !seen.killable {
                self.state = State::Alarmed(Cause::Critical, seen.now);
                let what = Alarm::Accused(Cause::Critical);
                return Action::Alarm { what, lasted: Duration::ZERO };
            }
            self.state = State::Asked(Cause::Critical, seen.now);
            return Action::AskDump(Cause::Critical);
        }
        match self.state {
            State::Watching => self.step_watching(seen),
            State::Alarmed(cause, since) => self.step_alarmed(cause, since, seen),
            State::Asked(cause, since) if passed(since, seen.now, self.limits.dump) => {
                self.state = State::Killed(cause, seen.now, false);
                Action::Kill(cause)
            }
            State::Killed(cause, since, false) if passed(since, seen.now, self.limits.death) => {
                self.state = State::Killed(cause, since, true);
                let lasted = seen.now.saturating_sub(since);
                Action::Alarm { what: Alarm::DoesNotDie, lasted }
            }
            _ => Action::Wait,
        }
    }

    /// Invariant 2: the clocks of a stopped process stand still. SIGKILL works on it, so that one
    /// that was sent already is waited for as ever.
    fn step_stopped(&mut self, seen: &Seen) -> Option<Action> {
        if matches!(self.state, State::Killed(..)) {
            return None;
        }
        match (self.stopped, seen.stopped) {
            (None, false) => None,
            (None, true) => {
                self.stopped = Some(seen.now);
                Some(Action::Alarm { what: Alarm::Stopped, lasted: Duration::ZERO })
            }
            (Some(_), true) => Some(Action::Wait),
            (Some(since), false) => {
                self.stopped = None;
                self.watch.rebase(seen.now);
                self.state = match self.state {
                    // What it was asked before it could not hear: its time begins now.
                    State::Asked(cause, _) => State::Asked(cause, seen.now),
                    _ => State::Watching,
                };
                let lasted = seen.now.saturating_sub(since);
                Some(Action::Clear { what: Alarm::Stopped, lasted })
            }
        }
    }

    fn step_watching(&mut self, seen: &Seen) -> Action {
        let Some((cause, lasted)) = self.watch.accuse(seen, &self.limits) else {
            return Action::Wait;
        };
        if cause == Cause::Task && seen.killable {
            self.state = State::Asked(cause, seen.now);
            return Action::AskDump(cause);
        }
        self.state = State::Alarmed(cause, seen.now);
        Action::Alarm { what: Alarm::Accused(cause), lasted }
    }

    fn step_alarmed(&mut self, cause: Cause, since: Duration, seen: &Seen) -> Action {
        if self.mended(cause, since, seen) {
            let lasted = seen.now.saturating_sub(since);
            // A crawl that ends in silence: the silence began when it began.
            let silent = seen.now.saturating_sub(self.watch.moved) >= self.limits.heartbeat;
            if cause != Cause::Crawling || !silent {
                self.watch.rebase(seen.now);
            }
            self.state = State::Watching;
            return Action::Clear { what: Alarm::Accused(cause), lasted };
        }
        let overrun = matches!(self.watch.accuse(seen, &self.limits), Some((Cause::Task, _)));
        // A crawling loop still works: it is told of, and left alone.
        let climbs = cause != Cause::Crawling && passed(since, seen.now, self.limits.escalate);
        // Invariant 4: a thread stays accused until it moves.
        if seen.killable && (overrun || climbs) {
            let cause = if overrun { Cause::Task } else { cause };
            self.state = State::Asked(cause, seen.now);
            return Action::AskDump(cause);
        }
        Action::Wait
    }

    /// Whether what it is accused of is over.
    fn mended(&mut self, cause: Cause, since: Duration, seen: &Seen) -> bool {
        let moved = self.watch.moved > since;
        match cause {
            Cause::Silent => moved || seen.phase != Phase::Running,
            // Only alarmed where nobody can be killed.
            Cause::Task | Cause::Critical => moved,
            Cause::NotRunning => seen.phase != Phase::Starting,
            Cause::NotEnding => seen.phase != Phase::Stopping,
            // A whole window without another accusation.
            Cause::Crawling => {
                let (began, before) = self.watch.window;
                let enough = self.watch.passes.wrapping_sub(before) >= self.limits.passes;
                let silent = seen.now.saturating_sub(self.watch.moved) >= self.limits.heartbeat;
                enough && began >= since || silent || seen.phase != Phase::Running
            }
        }
    }

    /// Invariant 3: a look that comes late asks once more before it gives up.
    fn step_dead(&mut self, since: Duration, late: bool, now: Duration) -> Action {
        if late {
            self.state = State::SavingUnfenced;
            return Action::Save { fenced: false };
        }
        self.state = State::Dead(since, passed(since, now, self.limits.fence));
        Action::Fence
    }

    /// The answer to [`Action::Fence`]: whether the device can be had again, and how the partition
    /// ended, which is known by then.
    pub const fn fenced(&mut self, free: bool, ending: Ending) {
        if let State::Dead(..) = self.state {
            self.ending = ending;
            if free {
                self.state = State::Saving;
            }
        }
    }

    /// The answer to [`Action::Save`]: it was, or it never will be. `ending` is what the dump says,
    /// if it knows better.
    pub fn saved(&mut self, now: Duration, ending: Option<Ending>) -> Action {
        self.ending = ending.unwrap_or(self.ending);
        match self.state {
            State::Saving => self.decide(now),
            State::SavingUnfenced => self.end(Over::NotFenced(self.ending)),
            _ => Action::Wait,
        }
    }

    fn decide(&mut self, now: Duration) -> Action {
        if self.stop_asked {
            return self.end(Over::Ended(self.ending));
        }
        // On another device: no policy and no limit is about that.
        if self.fallback && self.ending.blames_device() {
            self.fallback = false;
            self.state = State::Delayed(now);
            return Action::Delay(Duration::ZERO);
        }
        if self.was_asked_to_restart() {
            self.state = State::Delayed(now);
            return Action::Delay(Duration::ZERO);
        }
        match self.restarts.decide(now, self.ending) {
            Decision::Restart(delay) => {
                self.state = State::Delayed(now.saturating_add(delay));
                Action::Delay(delay)
            }
            Decision::Enough => self.end(Over::Ended(self.ending)),
            Decision::CrashLoop(crashes) => self.end(Over::CrashLoop(self.ending, crashes)),
        }
    }

    const fn end(&mut self, over: Over) -> Action {
        self.state = State::Over(over);
        Action::Over(over)
    }

    const fn leave_delay(&mut self) -> Action {
        if self.stop_asked {
            return self.end(Over::Ended(self.ending));
        }
        self.state = State::Starting;
        Action::Start
    }

    /// The answer to [`Action::Start`]: whether there is a partition again.
    pub fn started(&mut self, now: Duration, running: bool) -> Action {
        if self.state != State::Starting {
            return Action::Wait;
        }
        if running {
            self.state = State::Watching;
            self.watch = Watch::new(now);
            (self.stopped, self.critical, self.restart_asked) = (None, false, false);
            return Action::Wait;
        }
        self.ending = Ending::NotStarted;
        self.decide(now)
    }
}

fn passed(since: Duration, now: Duration, limit: Duration) -> bool {
    now.saturating_sub(since) >= limit
}
