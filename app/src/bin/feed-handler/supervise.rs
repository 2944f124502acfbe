//! `--restart`, `--dump-dir` and the like: how the host watches its partition.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use host_bridge::supervisor::alert::{AlertKind, Alerts};
use host_bridge::supervisor::counters::Counters;
use host_bridge::supervisor::fallback::Fallback;
use host_bridge::supervisor::hook::HookOptions;
use host_bridge::supervisor::options::SupervisionOptions;
use host_bridge::supervisor::policy::{Ending, Limits};
use host_bridge::supervisor::restart::{BackOff, CrashLimit, RestartPolicy};
use host_bridge::supervisor::spare::Spares;
use host_bridge::supervisor::store::{StoreOptions, default_dir, is_root};

use crate::failure::Failure;
use crate::output;
use crate::values::{parse_limit, parse_policy, parse_size, parse_some_wait, parse_wait};

/// What happens when the partition hangs or dies: docs/supervision.md.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Supervision")]
pub(crate) struct SupervisionArgs {
    /// After which ends the partition is started again, to go on where it was: `never`,
    /// `on-abnormal` (crashed, killed, or needs a reset), `on-failure` (errors too), `always`
    #[arg(long, value_name = "POLICY", default_value = "on-abnormal", value_parser = parse_policy)]
    pub(crate) restart: RestartPolicy,
    /// Crashes that are answered with a restart, and in which time; `off` for no limit
    #[arg(long, value_name = "N/TIME", default_value = "5/1m", value_parser = parse_limit)]
    pub(crate) restart_limit: CrashLimit,
    /// Wait before the second restart within that time, doubled each time; the first one comes at
    /// once
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse_wait)]
    pub(crate) restart_delay: Duration,
    /// The longest such wait
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_wait)]
    pub(crate) restart_delay_max: Duration,
    /// Without a pass of the partition's loop for so long there is an alarm; as long again, and it
    /// is asked for a dump
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_some_wait)]
    pub(crate) heartbeat_timeout: Duration,
    /// A task that is polled for longer is asked for a dump at once; 0 for no such watch
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_wait)]
    pub(crate) task_timeout: Duration,
    /// From the request for a dump to SIGKILL
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_some_wait)]
    pub(crate) dump_timeout: Duration,
    /// Where crash dumps go [default: /var/lib/hybrid-runtime for root, else
    /// $XDG_STATE_HOME/hybrid-runtime, else ~/.local/state/hybrid-runtime]
    #[arg(long, value_name = "DIR")]
    pub(crate) dump_dir: Option<PathBuf>,
    /// Dumps kept there; the oldest go
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) dump_keep: usize,
    /// Bytes of dumps kept there
    #[arg(long, value_name = "BYTES", default_value = "256M", value_parser = parse_size)]
    pub(crate) dump_keep_bytes: u64,
    /// Run this by /bin/sh after each crash: $1 is the dump, HYBRID_PARTITION, HYBRID_REASON and
    /// others say more
    #[arg(long, value_name = "CMD")]
    pub(crate) on_crash: Option<String>,
    /// How long that may take before it is killed
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_wait)]
    pub(crate) on_crash_timeout: Duration,
    /// Keep memory for a next start ready, made in the background: restarts are quicker
    #[arg(long)]
    pub(crate) spare: bool,
}

/// What a run is supervised with.
pub(crate) struct Supervision {
    pub(crate) options: SupervisionOptions,
    pub(crate) alerts: Alerts,
    pub(crate) counters: Counters,
    pub(crate) spares: Option<Spares>,
}

impl SupervisionArgs {
    /// Where dumps go, if there is a place.
    fn store(&self) -> Option<StoreOptions> {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        let (state, home) = (path("XDG_STATE_HOME"), path("HOME"));
        let usual = || default_dir(is_root(), state.as_deref(), home.as_deref());
        let dir = self.dump_dir.clone().or_else(usual)?;
        let (keep, keep_bytes) = (self.dump_keep, self.dump_keep_bytes);
        Some(StoreOptions { dir, keep, keep_bytes })
    }

    /// All of it. Alerts are shown even to who wants no notes: they are errors.
    pub(crate) fn supervision(&self, fallback: Fallback) -> Result<Supervision, Failure> {
        let limits = Limits {
            heartbeat: self.heartbeat_timeout,
            escalate: self.heartbeat_timeout,
            task: (!self.task_timeout.is_zero()).then_some(self.task_timeout),
            dump: self.dump_timeout,
            ..Limits::default()
        };
        let counters = Counters::default();
        let spares = self.spare.then(|| Spares::new(counters.clone()));
        let timeout = self.on_crash_timeout;
        let hook = self.on_crash.clone();
        let options = SupervisionOptions {
            restart: self.restart,
            limit: self.restart_limit,
            back_off: BackOff { first: self.restart_delay, cap: self.restart_delay_max },
            limits,
            store: self.store(),
            hook: hook.map(|command| HookOptions { command, timeout }),
            spares: spares.clone(),
            fallback,
            ..SupervisionOptions::default()
        };
        let alerts = Alerts::to(|alert| {
            // An error that it came to in order is the program's own to tell.
            let own = [Ending::Failed.word(), Ending::DeviceGone.word()];
            let own = own.contains(&alert.reason.as_str()) && alert.dump.is_none();
            if !(alert.kind == AlertKind::GaveUp && own) {
                output::alert(alert);
            }
        });
        let alerts = options.alerts(alerts, &counters);
        let alerts = alerts
            .map_err(|error| Failure::error(format_args!("no thread for --on-crash: {error}")))?;
        Ok(Supervision { options, alerts, counters, spares })
    }
}
