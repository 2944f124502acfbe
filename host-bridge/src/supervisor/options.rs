//! What a user may say of supervision. Programs make their flags of it: docs/supervision.md has the
//! names.

use std::io;
use std::path::PathBuf;

use super::alert::Alerts;
use super::counters::Counters;
use super::hook::HookOptions;
use super::policy::Limits;
use super::restart::{BackOff, CrashLimit, RestartPolicy, Restarts};
use super::spare::Spares;
use super::store::StoreOptions;

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
