//! The way from a partition that goes quiet to one that runs again: what was seen in, what to do
//! out.
//!
//! Called by [`super::Supervisor`] at every look. Pure: no clock, no system call, no allocation in a
//! step; times are since any fixed moment and come with what was seen. Each step answers with one
//! [`Action`] at most, and takes for granted that it is carried out.
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
//!                    Over <----- policy, or too many crashes -------------- [Restarts::decide]
//!                                                                                   |
//!                 Watching <-- started -- Starting <-- delay is over -- Delayed <---'
//!                              (failed: counts as an end)
//! ```
//!
//! Invariants:
//! 1. Nothing is read from a partition's memory, and nothing is started again, before the fence: its
//!    end *and* a device that can be had again. A device that stays away ends supervision; of what
//!    the dead partition left, only what no device could write is saved then.
//! 2. A stopped process (state T, or stopped by a tracer) is never escalated, whatever is pending.
//! 3. A look that comes late accuses nobody: silence counts only once it was seen at several looks.

use std::time::Duration;

use super::restart::{Decision, Restarts};

#[cfg(test)]
mod tests;

/// Deadlines. Each is counted from what comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Without a pass of the loop for so long: an alarm.
    pub heartbeat: Duration,
    /// A loop that makes fewer passes in that time crawls, which is an alarm too; 0 for never.
    pub passes: u64,
    /// Looks without a pass that it takes at least: a host that slept accuses nobody.
    pub looks: u32,
    /// From the alarm to the request for a dump.
    pub escalate: Duration,
    /// A task that is polled for longer is asked for a dump at once; `None` for no such watch.
    pub task: Option<Duration>,
    /// From the request for a dump to SIGKILL.
    pub dump: Duration,
    /// From SIGKILL to the alarm that it does not die.
    pub death: Duration,
    /// From its end until its device must be free.
    pub fence: Duration,
    /// From its start to its first pass, the device's bring-up included.
    pub start: Duration,
    /// From *stopping*, or from the host's wish, to its end.
    pub stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            // A pass of the loop takes a millisecond at most when every budget is kept.
            passes: 4,
            looks: 3,
            escalate: Duration::from_millis(500),
            task: Some(Duration::from_secs(1)),
            // A record of 64 KiB takes well below a millisecond; a crowded machine does not.
            dump: Duration::from_secs(1),
            death: Duration::from_secs(5),
            // Measured: up to 23 ms where someone reads the dying one's /proc.
            fence: Duration::from_secs(10),
            // A controller may take CAP.TO, up to 127.5 s; that has its own deadline inside.
            start: Duration::from_secs(150),
            stop: Duration::from_secs(15),
        }
    }
}

/// Where the partition says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not yet in its loop.
    Starting,
    /// In its loop: beats are due.
    Running,
    /// Out of its loop, cleaning up; or asked to end.
    Stopping,
}

/// The task being polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled {
    /// Its number, from 1.
    pub number: u32,
    /// For how long so far, by its own stamps.
    pub age: Duration,
}

/// How an incarnation ended, for what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// In order, with success.
    Done,
    /// In order, with an error of its own.
    Failed,
    /// It crashed and wrote a record of it.
    Crashed,
    /// It was killed, by us or by someone else.
    Killed,
    /// Its device needs what only the next incarnation can give it.
    NeedsReset,
    /// Its device is gone, or at fault.
    DeviceGone,
    /// It could not be started.
    NotStarted,
}

impl Ending {
    /// All of them, for tables and counters.
    pub const ALL: [Self; 7] = [
        Self::Done,
        Self::Failed,
        Self::Crashed,
        Self::Killed,
        Self::NeedsReset,
        Self::DeviceGone,
        Self::NotStarted,
    ];

    /// Whether the device is what failed: the next incarnation may use the fallback.
    #[must_use]
    pub const fn blames_device(self) -> bool {
        matches!(self, Self::DeviceGone)
    }

    /// In a word, for lines and labels.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Crashed => "crashed",
            Self::Killed => "killed",
            Self::NeedsReset => "needs-reset",
            Self::DeviceGone => "device-gone",
            Self::NotStarted => "not-started",
        }
    }
}

/// One look at a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When, since a moment that does not change.
    pub now: Duration,
    /// Its process is gone (or its thread was).
    pub ended: bool,
    /// Its process is stopped: state T.
    pub stopped: bool,
    /// What it says of itself.
    pub phase: Phase,
    /// Passes of its loop.
    pub passes: u64,
    /// The task being polled.
    pub task: Option<Polled>,
    /// The host has asked it to end: whatever it does then, nothing is started again.
    pub stop_asked: bool,
}

/// Why a partition is accused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No pass of its loop.
    Silent,
    /// Too few of them.
    Crawling,
    /// One task was polled for too long.
    Task,
    /// It did not reach its loop.
    NotRunning,
    /// It did not come to its end.
    NotEnding,
    /// It said so itself: an alert of the highest severity, which it survived.
    Critical,
}

impl Cause {
    /// All of them, for tables and counters.
    pub const ALL: [Self; 6] = [
        Self::Silent,
        Self::Crawling,
        Self::Task,
        Self::NotRunning,
        Self::NotEnding,
        Self::Critical,
    ];

    /// In a word, for lines and labels.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Crawling => "crawling",
            Self::Task => "task-overrun",
            Self::NotRunning => "not-running",
            Self::NotEnding => "not-ending",
            Self::Critical => "critical-alert",
        }
    }
}

/// What is wrong, without a step up yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// It goes the way up unless it mends itself.
    Accused(Cause),
    /// Someone stopped its process; nothing else comes of it.
    Stopped,
    /// SIGKILL was sent long ago and the process is still there.
    DoesNotDie,
}

/// Why supervision is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// It ended, and the policy (or the host's wish) says that this is all.
    Ended(Ending),
    /// Too many crashes in the window: how many.
    CrashLoop(Ending, u32),
    /// Its device did not become free.
    NotFenced(Ending),
}

/// What to do now. The numbers are for the line that tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing; look again.
    Wait,
    /// Tell it.
    Alarm {
        /// What is wrong.
        what: Alarm,
        /// For how long.
        lasted: Duration,
    },
    /// An alarm is over.
    Clear {
        /// Which one.
        what: Alarm,
        /// How long it was.
        lasted: Duration,
    },
    /// Ask it for a dump, after which it ends.
    AskDump(Cause),
    /// SIGKILL.
    Kill(Cause),
    /// Ask whether the device can be had again, and answer with [`Policy::fenced`].
    Fence,
    /// Take the dump, and answer with [`Policy::saved`].
    Save {
        /// Whether the device is quiet: queues and buffers may be read too.
        fenced: bool,
    },
    /// It will be started again after so long.
    Delay(Duration),
    /// Start the next one, and answer with [`Policy::started`].
    Start,
    /// Nothing more comes.
    Over(Over),
}

/// Silence so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watch {
    phase: Phase,
    /// When this phase began, or the last stop ended.
    phase_since: Duration,
    passes: u64,
    /// When the number of passes last changed.
    moved: Duration,
    /// Looks since then.
    looks: u32,
    /// A window of one heartbeat limit: when it began, and with how many passes.
    window: (Duration, u64),
    /// Accused ages count from here at the earliest.
    base: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Watching,
    Alarmed(Cause, Duration),
    Asked(Cause, Duration),
    Killed(Cause, Duration, bool),
    Dead(Duration),
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
    ending: Ending,
}

impl Watch {
    const fn new(now: Duration) -> Self {
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
    const fn rebase(&mut self, now: Duration) {
        self.phase_since = now;
        self.moved = now;
        self.looks = 0;
        self.window = (now, self.passes);
        self.base = now;
    }

    fn see(&mut self, seen: &Seen) {
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
    fn accuse(&mut self, seen: &Seen, limits: &Limits) -> Option<(Cause, Duration)> {
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
            ending: Ending::Killed,
        }
    }

    /// The partition itself says that something is critically wrong: it goes the way of one that
    /// is accused, from its next look on.
    pub const fn critical(&mut self) {
        self.critical = matches!(self.state, State::Watching | State::Alarmed(..));
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
            State::Dead(since) => self.step_dead(since, seen.now),
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
            self.state = State::Dead(seen.now);
            self.stopped = None;
            return Action::Fence;
        }
        if let Some(action) = self.step_stopped(seen) {
            return action;
        }
        self.watch.see(seen);
        if std::mem::take(&mut self.critical) {
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
        if cause == Cause::Task {
            self.state = State::Asked(cause, seen.now);
            return Action::AskDump(cause);
        }
        self.state = State::Alarmed(cause, seen.now);
        Action::Alarm { what: Alarm::Accused(cause), lasted }
    }

    fn step_alarmed(&mut self, cause: Cause, since: Duration, seen: &Seen) -> Action {
        if self.mended(cause, since, seen) {
            let lasted = seen.now.saturating_sub(since);
            self.watch.rebase(seen.now);
            self.state = State::Watching;
            return Action::Clear { what: Alarm::Accused(cause), lasted };
        }
        let overrun = matches!(self.watch.accuse(seen, &self.limits), Some((Cause::Task, _)));
        // A crawling loop still works: it is told of, and left alone.
        let climbs = cause != Cause::Crawling && passed(since, seen.now, self.limits.escalate);
        if overrun || climbs {
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
            // These two are never only alarmed.
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

    fn step_dead(&mut self, since: Duration, now: Duration) -> Action {
        if passed(since, now, self.limits.fence) {
            self.state = State::SavingUnfenced;
            return Action::Save { fenced: false };
        }
        Action::Fence
    }

    /// The answer to [`Action::Fence`]: whether the device can be had again, and how the partition
    /// ended, which is known by then.
    pub const fn fenced(&mut self, free: bool, ending: Ending) {
        if let State::Dead(_) = self.state {
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
            (self.stopped, self.critical) = (None, false);
            return Action::Wait;
        }
        self.ending = Ending::NotStarted;
        self.decide(now)
    }
}

fn passed(since: Duration, now: Duration, limit: Duration) -> bool {
    now.saturating_sub(since) >= limit
}
