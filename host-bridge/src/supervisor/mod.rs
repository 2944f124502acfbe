//! Supervision: a partition that dies or hangs is noticed, its evidence kept, its device fenced,
//! and the next incarnation started.
//!
//! [`Supervisor`] owns the incarnation that runs. Whoever serves the partition (sends it commands,
//! takes its events) calls [`Supervisor::poll`] in the same loop, every millisecond or so; it waits
//! for nothing but the fence's answer and the dump's way to the disk. [`Supervisor::wait`] sleeps
//! until the next look is due, or until the partition has ended.
//!
//! | module | what |
//! |---|---|
//! | [`policy`] | the state machine, drawn there: what was seen in, what to do out; pure |
//! | [`restart`] | which ends are answered with a restart, when, and how often; pure |
//! | [`incarnation`] | what is watched, as a trait |
//! | [`store`] | the directory of dumps |
//! | [`alert`], [`hook`] | the line, systemd's status, the user's command |
//! | [`fallback`] | other storage for when the device is at fault |
//! | [`spare`] | memory for the next incarnation, made in the background |
//! | [`counters`] | figures for metrics |
//! | [`options`] | what a user may say |

pub mod alert;
pub mod counters;
mod evidence;
pub mod hook;
pub mod incarnation;
#[cfg(all(test, shuttle))]
mod interleavings;
mod lines;
pub mod options;
pub mod spare;
pub(crate) mod stamp;
pub mod store;
mod supervised;
#[cfg(test)]
mod tests;

pub use hybrid_policy::{fallback, policy, restart};

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use crate::error::RuntimeError;

use self::alert::{Alert, AlertKind, Alerts};
use self::counters::Counters;
use self::incarnation::{Evidence, Fence, Incarnation, Look};
use self::lines::Dump;
use self::options::{Asked, SupervisionOptions};
use self::policy::{Action, Alarm, Cause, Ending, Over, Policy, Seen};
use self::restart::CrashLimit;
use self::store::{DumpName, DumpStore};

/// Actions carried out at one poll: from a death to the next start are five, and a fence that does
/// not open at once is asked again at the next poll.
const ACTIONS_A_POLL: u32 = 8;

/// How long a waiting supervisor sleeps at most: far below every deadline.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What the next incarnation comes after.
#[derive(Debug)]
pub struct Next<I> {
    /// The one before, ended and fenced: to be joined before its device is taken again.
    pub before: I,
    /// How it ended. An end that blames the device is a reason to try the fallback.
    pub ending: Ending,
}

/// Makes the next incarnation.
pub type Starter<'a, I> = Box<dyn FnMut(Option<Next<I>>) -> Result<I, RuntimeError> + 'a>;

/// What a poll found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The partition is there.
    Alive,
    /// It is dead, and the next one is on its way.
    Between,
    /// Supervision is over.
    Over(Over),
}

/// When the last death was, and what came of it: for measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The end was noticed.
    pub noticed: Instant,
    /// The fence was open.
    pub fenced: Option<Instant>,
    /// The dump was saved, or given up.
    pub saved: Option<Instant>,
    /// The next one was started.
    pub started: Option<Instant>,
}

/// Watches one partition through all its incarnations.
pub struct Supervisor<'a, I> {
    policy: Policy,
    options: SupervisionOptions,
    alerts: Alerts,
    counters: Counters,
    store: Option<DumpStore>,
    starter: Starter<'a, I>,
    current: Option<I>,
    begun: Instant,
    stop_asked: bool,
    killed: Option<Cause>,
    /// Of the one that ended last: its alert, which waits for what comes next.
    pending: Option<Alert>,
    ending: Ending,
    timing: Option<Timing>,
}

impl<I: std::fmt::Debug> std::fmt::Debug for Supervisor<'_, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor")
            .field("policy", &self.policy)
            .field("current", &self.current)
            .field("stop_asked", &self.stop_asked)
            .finish_non_exhaustive()
    }
}

impl<'a, I: Incarnation> Supervisor<'a, I> {
    /// Starts the first incarnation.
    ///
    /// # Errors
    /// The starter's: what never ran is not restarted.
    pub fn start(
        options: SupervisionOptions,
        alerts: Alerts,
        counters: Counters,
        mut starter: Starter<'a, I>,
    ) -> Result<Self, RuntimeError> {
        let first = starter(None)?;
        counters.started(false);
        let begun = Instant::now();
        let policy = Policy::new(options.limits, options.restarts(), Duration::ZERO);
        let store = options.store.clone().map(DumpStore::new);
        Ok(Self {
            policy,
            options,
            alerts,
            counters,
            store,
            starter,
            current: Some(first),
            begun,
            stop_asked: false,
            killed: None,
            pending: None,
            ending: Ending::Done,
            timing: None,
        })
    }

    /// The incarnation that runs, or that ended last.
    pub const fn current(&mut self) -> Option<&mut I> {
        self.current.as_mut()
    }

    /// Times of the last death.
    #[must_use]
    pub const fn timing(&self) -> Option<Timing> {
        self.timing
    }

    /// The figures.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// After this nothing is started again; the caller asks the incarnation itself to end.
    pub const fn stop(&mut self) {
        self.stop_asked = true;
    }

    /// The partition has said that something is critically wrong: `line` is what. It is asked for a
    /// dump at the next poll, and started again.
    pub fn critical(&mut self, line: &str) {
        self.counters.alarm(Alarm::Accused(Cause::Critical));
        let text = format!("{} says: {line}", self.who());
        self.raise(AlertKind::Critical, Cause::Critical.word(), text, None);
        self.policy.critical();
    }

    /// The last incarnation, when supervision is over (or is given up).
    #[must_use]
    pub fn into_current(self) -> Option<I> {
        self.current
    }

    /// Sleeps until a look is due, or until the partition has ended; `at_most` so long.
    pub fn wait(&mut self, at_most: Duration) {
        let at_most = at_most.min(LOOK_EVERY);
        match &mut self.current {
            Some(current) if self.timing.is_none_or(|timing| timing.started.is_some()) => {
                current.wait(at_most);
            }
            _ => std::thread::sleep(at_most),
        }
    }

    /// Looks, and does what is due.
    pub fn poll(&mut self) -> Status {
        if let Some(spares) = &self.options.spares {
            spares.release_if_tight();
        }
        if let Some(line) = self.options.criticals.take() {
            self.critical(&line);
        }
        if let Some(asked) = self.options.requests.take() {
            self.obey(asked);
        }
        for _ in 0..ACTIONS_A_POLL {
            let seen = self.see();
            self.policy.fallback(self.options.fallback.is_ready());
            let action = self.policy.step(&seen);
            match action {
                Action::Wait => break,
                Action::Fence if !self.fence() => break,
                Action::Fence => {}
                Action::Over(over) if self.pending.is_none() => return Status::Over(over),
                Action::Over(over) => self.over(over),
                Action::Save { fenced } => self.save(fenced),
                Action::Start => self.restart(),
                Action::Delay(delay) => self.delay(delay),
                Action::Alarm { what, lasted } => self.alarm(what, lasted),
                Action::Clear { what, lasted } => {
                    let line = lines::clear(&self.who(), what, lasted);
                    self.raise(AlertKind::Clear, "", line, None);
                }
                Action::AskDump(cause) => self.ask_for_dump(cause),
                Action::Kill(cause) => self.kill(cause),
            }
        }
        match (self.policy.over(), self.timing) {
            (Some(over), _) => Status::Over(over),
            (None, Some(Timing { started: None, .. })) => Status::Between,
            (None, _) => Status::Alive,
        }
    }

    /// What somebody outside wants of the partition that runs. One that hangs, and does not end, is
    /// then dealt with as ever.
    fn obey(&mut self, asked: Asked) {
        match asked {
            Asked::Restart => self.policy.restart_asked(),
            Asked::Drain => self.stop(),
        }
        let line = format!("{} is asked to end ({})", self.who(), asked.word());
        self.raise(AlertKind::Asked, asked.word(), line, None);
        if let Some(current) = &mut self.current {
            current.ask_to_stop();
        }
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn see(&mut self) -> Seen {
        let (now, stop_asked) = (self.now(), self.stop_asked);
        let look = self.current.as_mut().map_or_else(gone, Incarnation::look);
        let Look { ended, stopped, phase, passes, task } = look;
        let killable = self.current.as_ref().is_some_and(Incarnation::can_be_killed);
        Seen { now, ended, stopped, phase, passes, task, killable, stop_asked }
    }

    fn fence(&mut self) -> bool {
        let noticed = self.timing.filter(|timing| timing.started.is_none());
        let mut timing = noticed.unwrap_or_else(|| Timing {
            noticed: Instant::now(),
            fenced: None,
            saved: None,
            started: None,
        });
        let answer = match &mut self.current {
            Some(current) => current.fence(),
            None => Fence::Free(Ending::NotStarted),
        };
        let free = match answer {
            Fence::Free(ending) => {
                timing.fenced = Some(Instant::now());
                self.policy.fenced(true, ending);
                true
            }
            Fence::Held(_) => {
                self.policy.fenced(false, Ending::Killed);
                false
            }
        };
        self.timing = Some(timing);
        free
    }

    fn save(&mut self, fenced: bool) {
        let killed = self.killed.take();
        let Some(current) = &mut self.current else { return };
        let evidence = current.evidence(fenced, killed);
        let (pid, incarnation) = (current.pid(), current.number());
        let who = lines::who(current.name(), pid, incarnation);
        let (dump, path) = self.store_dump(&evidence);
        let line = lines::died(&who, &evidence, &dump);
        self.counters.ended(evidence.ending);
        let kind = AlertKind::Crashed;
        let mut alert = self.alert(kind, &evidence.reason, line, path);
        (alert.pid, alert.incarnation) = (pid, incarnation);
        self.pending = Some(alert);
        self.ending = evidence.ending;
        if let Some(timing) = &mut self.timing {
            timing.saved = Some(Instant::now());
        }
        match self.policy.saved(self.begun.elapsed(), Some(evidence.ending)) {
            Action::Delay(delay) => self.delay(delay),
            Action::Over(over) => self.over(over),
            _ => {}
        }
    }

    fn store_dump(&self, evidence: &Evidence) -> (Dump, Option<PathBuf>) {
        let (Some(store), Some(bytes)) = (&self.store, &evidence.dump) else {
            return (Dump::NotKept, None);
        };
        let Some(current) = &self.current else { return (Dump::NotKept, None) };
        let name = DumpName {
            at: SystemTime::now(),
            partition: current.name(),
            incarnation: current.number(),
            reason: &evidence.reason,
        };
        match store.save(&name, &[bytes]) {
            Ok(path) => {
                self.counters.dump_saved(&evidence.reason);
                (Dump::Saved(path.clone()), Some(path))
            }
            Err(error) => {
                self.counters.dump_failed();
                self.raise(AlertKind::Trouble, "dump-not-saved", error.to_string(), None);
                (Dump::NotSaved, None)
            }
        }
    }

    /// Its death is told now, with what comes next.
    fn delay(&mut self, delay: Duration) {
        let limit = match self.options.limit {
            CrashLimit::OFF => u32::MAX,
            limit => limit.crashes,
        };
        if self.policy.was_asked_to_restart() {
            // Its end is what was wanted; its next start is told when it has come.
            self.pending = None;
            return;
        }
        if self.ending.blames_device() && self.options.fallback.is_ready() {
            // Told together with what takes over.
            return;
        }
        let next = lines::next_start(delay, self.policy.recent_crashes(), limit);
        self.tell_pending(AlertKind::Crashed, &next);
    }

    fn over(&mut self, over: Over) {
        let next = lines::over(over, self.options.limit.window);
        if let Over::Ended(Ending::Done) = over {
            // Nothing is wrong.
            self.pending = None;
            return;
        }
        self.counters.gave_up();
        self.tell_pending(AlertKind::GaveUp, &next);
    }

    fn tell_pending(&mut self, kind: AlertKind, next: &str) {
        if let Some(mut alert) = self.pending.take() {
            alert.kind = kind;
            alert.line.push_str(next);
            self.alerts.raise(&alert);
        }
    }

    fn restart(&mut self) {
        let ending = self.ending;
        // What the one before said of itself is not the next one's.
        let _ = self.options.criticals.take();
        let next = self.current.take().map(|before| Next { before, ending });
        match (self.starter)(next) {
            Ok(next) => {
                self.current = Some(next);
                self.counters.started(true);
                if let Some(timing) = &mut self.timing {
                    timing.started = Some(Instant::now());
                }
                self.policy.started(self.begun.elapsed(), true);
                self.tell_started();
            }
            Err(error) => {
                // Why the one before ended, if that was not told yet.
                self.tell_pending(AlertKind::Crashed, "");
                self.counters.ended(Ending::NotStarted);
                let line = format!("the partition could not be started again: {error}");
                let kind = AlertKind::Crashed;
                self.pending = Some(self.alert(kind, Ending::NotStarted.word(), line, None));
                match self.policy.started(self.begun.elapsed(), false) {
                    Action::Delay(delay) => self.delay(delay),
                    Action::Over(over) => self.over(over),
                    _ => {}
                }
            }
        }
    }

    /// It runs again; with what is told where that is not what it was.
    fn tell_started(&mut self) {
        if self.pending.is_some() {
            self.counters.fell_back();
            let took = self.timing.and_then(|timing| {
                let since = |at: Instant| at.saturating_duration_since(timing.noticed);
                Some((since(timing.fenced?), since(timing.started?)))
            });
            let storage = lines::storage(&self.options.fallback, took);
            return self.tell_pending(AlertKind::FellBack, &storage);
        }
        let line = format!("{} runs", self.who());
        self.raise(AlertKind::Restarted, "", line, None);
    }

    fn alarm(&mut self, what: Alarm, lasted: Duration) {
        self.counters.alarm(what);
        let task = self.polled();
        let killable = self.current.as_ref().is_some_and(Incarnation::can_be_killed);
        let limits = &self.options.limits;
        let line = lines::alarm(&self.who(), what, lasted, task.as_ref(), limits, killable);
        let reason = match what {
            Alarm::Accused(cause) => cause.word(),
            Alarm::Stopped => "stopped",
            Alarm::DoesNotDie => "does-not-die",
        };
        self.raise(AlertKind::Alarm, reason, line, None);
    }

    fn ask_for_dump(&mut self, cause: Cause) {
        let task = self.polled();
        let Some(current) = &mut self.current else { return };
        self.counters.dump_requested(cause);
        self.killed = Some(cause);
        let result = current.ask_for_dump();
        let line = lines::asked(&self.who(), cause, task.as_ref(), &self.options.limits);
        self.raise(AlertKind::Escalated, cause.word(), line, None);
        self.tell_trouble("cannot be asked for a dump", result);
    }

    fn kill(&mut self, cause: Cause) {
        let Some(current) = &mut self.current else { return };
        self.counters.killed(cause);
        self.killed = Some(cause);
        let result = current.kill();
        let line = lines::killed(&self.who(), cause, &self.options.limits);
        self.raise(AlertKind::Escalated, cause.word(), line, None);
        self.tell_trouble("cannot be killed", result);
    }

    /// The system's refusals. One that ended meanwhile is no trouble: the next look sees it.
    fn tell_trouble(&mut self, what: &str, result: std::io::Result<()>) {
        if let Err(error) = result
            && error.raw_os_error() != Some(libc::ESRCH)
        {
            let line = format!("{} {what}: {error}", self.who());
            self.raise(AlertKind::Trouble, "signal", line, None);
        }
    }

    fn polled(&mut self) -> Option<(String, Duration)> {
        let current = self.current.as_mut()?;
        let polled = current.look().task?;
        let name = current.task_name(polled.number);
        Some((name.unwrap_or_else(|| format!("number {}", polled.number)), polled.age))
    }

    fn who(&self) -> String {
        match &self.current {
            Some(current) => lines::who(current.name(), current.pid(), current.number()),
            None => "the partition".to_owned(),
        }
    }

    fn alert(&self, kind: AlertKind, reason: &str, line: String, dump: Option<PathBuf>) -> Alert {
        let current = self.current.as_ref();
        Alert {
            kind,
            partition: current.map(|current| current.name().to_owned()).unwrap_or_default(),
            incarnation: current.map_or(0, Incarnation::number),
            pid: current.and_then(Incarnation::pid),
            reason: reason.to_owned(),
            line,
            dump,
        }
    }

    fn raise(&self, kind: AlertKind, reason: &str, line: String, dump: Option<PathBuf>) {
        self.alerts.raise(&self.alert(kind, reason, line, dump));
    }
}

/// What is seen of an incarnation that could not be started.
const fn gone() -> Look {
    Look { ended: true, stopped: false, phase: policy::Phase::Stopping, passes: 0, task: None }
}
