//! What a user may say of supervision. Programs make their flags of it: docs/supervision.md has the
//! names.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use super::alert::Alerts;
use super::counters::Counters;
use super::fallback::Fallback;
use super::hook::HookOptions;
use super::policy::Limits;
use super::restart::{BackOff, CrashLimit, RestartPolicy, Restarts};
use super::spare::Spares;
use super::store::StoreOptions;
use crate::alert::AlertSink;
use crate::sync::Mutex;
use crate::warnings::{WarningKind, Warnings};

/// All of it, with defaults that are right for a service.
#[derive(Clone, Debug, Default)]
pub struct SupervisionOptions {
    /// `--restart`: after which ends.
    pub restart: RestartPolicy,
    /// `--restart-limit`: how many crashes in which time.
    pub limit: CrashLimit,
    /// `--restart-delay`, `--restart-delay-max`.
    pub back_off: BackOff,
    /// `--heartbeat-timeout`, `--task-timeout` and the other deadlines.
    pub limits: Limits,
    /// `--dump-dir`, `--dump-keep`, `--dump-keep-bytes`; `None` keeps no dumps.
    pub store: Option<StoreOptions>,
    /// `--on-crash`, `--on-crash-timeout`.
    pub hook: Option<HookOptions>,
    /// The spare memory that the partition's specs have: given back when the machine is short of
    /// it.
    pub spares: Option<Spares>,
    /// Critical alerts of the partition itself: see [`Criticals::sink`].
    pub criticals: Criticals,
    /// What the control socket asks: see [`Requests`].
    pub requests: Requests,
    /// `--storage auto`: what takes over when the device is at fault.
    pub fallback: Fallback,
}

/// Critical alerts on their way from who reads the events to the supervisor, which treats each as
/// the beginning of a death: a dump, the fence, another start. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Criticals(Arc<Mutex<Vec<String>>>);

impl Criticals {
    /// For [`PartitionSpec::on_alert`](crate::PartitionSpec::on_alert): lesser alerts are lines
    /// among the warnings.
    #[must_use]
    pub fn sink(&self, warnings: &Warnings) -> AlertSink {
        let (waiting, warnings) = (Arc::clone(&self.0), warnings.clone());
        AlertSink::new(move |alert| {
            if !alert.severity.is_critical() {
                return warnings.say_each(WarningKind::Alert, || alert.to_string());
            }
            // One is enough to end it; a partition that shouts fills no memory.
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.is_empty() {
                waiting.push(format!("critical alert {}: {}", alert.code, alert.text));
            }
        })
    }

    pub(super) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

/// What is asked of a supervisor from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Let the partition end in order, and start it again.
    Restart,
    /// Let the partition end in order, and start nothing again.
    Drain,
}

impl Asked {
    /// A word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Drain => "drain",
        }
    }
}

/// Wishes on their way from the control socket to the supervisor, which looks at each poll. The
/// last one counts, and none counts after a drain. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Requests(Arc<Mutex<Option<Asked>>>);

impl Requests {
    /// Asks.
    pub fn ask(&self, asked: Asked) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *waiting != Some(Asked::Drain) {
            *waiting = Some(asked);
        }
    }

    pub(super) fn take(&self) -> Option<Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl SupervisionOptions {
    /// With dumps in `dir`.
    #[must_use]
    pub fn with_dumps(mut self, dir: impl Into<PathBuf>) -> Self {
        self.store = Some(StoreOptions::new(dir));
        self
    }

    pub(super) const fn restarts(&self) -> Restarts {
        Restarts::new(self.restart, self.limit, self.back_off)
    }

    /// `alerts`, with the command of these options.
    ///
    /// # Errors
    /// If there is no thread to be had for the command.
    pub fn alerts(&self, alerts: Alerts, counters: &Counters) -> io::Result<Alerts> {
        match &self.hook {
            Some(hook) => alerts.with_hook(hook.clone(), counters),
            None => Ok(alerts),
        }
    }
}
