//! What is told when a partition is in trouble, and to whom: a line, systemd, a command.
//!
//! Called by [`super::Supervisor`]. One line says what died, why, which task was being polled,
//! where the dump is, and what happens next. Nothing here waits: the command has a thread of
//! its own.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use super::counters::Counters;
use super::hook::{Hook, HookOptions};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AlertKind {
    /// Something is wrong, and may mend itself.
    Alarm,
    /// It has.
    Clear,
    /// It was asked for a dump, or killed.
    Escalated,
    /// It died, or ended with an error.
    Crashed,
    /// Somebody asked for its end.
    Asked,
    /// It runs again.
    Restarted,
    /// Its device is at fault, and it runs on other storage from now on.
    FellBack,
    /// It will not be started again.
    GaveUp,
    /// The partition itself said that something is critically wrong, and goes on.
    Critical,
    /// Supervision could not do a part of its work.
    Trouble,
}

impl AlertKind {
    /// What happened, in a word, for logs that are read by programs.
    #[must_use]
    pub const fn event(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Clear => "clear",
            Self::Escalated => "escalated",
            Self::Crashed => "crash",
            Self::Asked => "asked",
            Self::Restarted => "restarted",
            Self::GaveUp => "gave-up",
            Self::Critical => "critical",
            Self::FellBack => "fallback",
            Self::Trouble => "trouble",
        }
    }

    /// How serious it is: the word in front of the line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Alarm
            | Self::Escalated
            | Self::Crashed
            | Self::Critical
            | Self::FellBack
            | Self::GaveUp => "alert",
            Self::Asked | Self::Clear | Self::Restarted => "note",
            Self::Trouble => "warning",
        }
    }
}

/// One alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// What happened.
    pub kind: AlertKind,
    /// Whose.
    pub partition: String,
    /// Which incarnation's.
    pub incarnation: u64,
    /// Its process.
    pub pid: Option<u32>,
    /// Why, in a word; empty where nothing is wrong.
    pub reason: String,
    /// The line, without a full stop.
    pub line: String,
    /// The dump, if one was saved.
    pub dump: Option<PathBuf>,
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.word(), self.line)
    }
}

type Sink = dyn Fn(&Alert) + Send + Sync;

/// Everyone who hears of alerts. Clones are the same.
#[derive(Clone)]
pub struct Alerts {
    sink: Arc<Sink>,
    hook: Option<Arc<Hook>>,
    notify: bool,
}

impl fmt::Debug for Alerts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sink: _, hook, notify } = self;
        f.debug_struct("Alerts").field("hook", hook).field("notify", notify).finish_non_exhaustive()
    }
}

impl Default for Alerts {
    fn default() -> Self {
        // A closed stderr is no reason to stop.
        Self::to(|alert| drop(writeln!(io::stderr(), "{alert}")))
    }
}

impl Alerts {
    /// Lines to `sink` (the default one is stderr), and to systemd where it started this process.
    #[must_use]
    pub fn to(sink: impl Fn(&Alert) + Send + Sync + 'static) -> Self {
        Self { sink: Arc::new(sink), hook: None, notify: true }
    }

    /// Runs a command too, for each crash, for a change of storage and for the end of supervision.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn with_hook(mut self, options: HookOptions, counters: &Counters) -> io::Result<Self> {
        let sink = Arc::clone(&self.sink);
        let complain = Box::new(move |line| {
            sink(&Alert {
                kind: AlertKind::Trouble,
                partition: String::new(),
                incarnation: 0,
                pid: None,
                reason: "hook".to_owned(),
                line,
                dump: None,
            });
        });
        self.hook = Some(Arc::new(Hook::start(options, counters.clone(), complain)?));
        Ok(self)
    }

    /// Tells everyone.
    pub fn raise(&self, alert: &Alert) {
        (self.sink)(alert);
        if self.notify && alert.kind != AlertKind::Trouble {
            // Nobody there is the usual case; a manager that does not listen is its own business.
            let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Status(&alert.line)]);
        }
        let runs =
            matches!(alert.kind, AlertKind::Crashed | AlertKind::FellBack | AlertKind::GaveUp);
        if let Some(hook) = self.hook.as_ref().filter(|_| runs) {
            hook.run(alert);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn every_alert_is_one_line_and_only_crashes_run_the_command() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let counters = Counters::default();
        let sink = Arc::clone(&lines);
        let alerts = Alerts::to(move |alert| sink.lock().expect("lock").push(alert.to_string()))
            .with_hook(HookOptions::new("exit 1"), &counters)
            .expect("a thread");
        for kind in [AlertKind::Alarm, AlertKind::Crashed, AlertKind::Restarted] {
            alerts.raise(&Alert {
                kind,
                partition: "feed".to_owned(),
                incarnation: 1,
                pid: None,
                reason: String::new(),
                line: format!("{kind:?}"),
                dump: None,
            });
        }
        drop(alerts);
        let lines = lines.lock().expect("lock");
        assert_eq!(lines[..3], ["alert: Alarm", "alert: Crashed", "note: Restarted"]);
        assert_eq!(lines[3..], ["warning: --on-crash \"exit 1\": ended with exit status: 1"]);
    }
}
