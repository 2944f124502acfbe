//! `--metrics`, `--control-dir` and the like: what the host tells of its partition while it runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use host_bridge::Runtime;
use host_bridge::supervisor::store::is_root;
use host_bridge::telemetry::control::run_dir;
use host_bridge::telemetry::export::{ExportOptions, Exports};
use host_bridge::telemetry::http::Listen;
use host_bridge::telemetry::log::LogFormat;

use crate::failure::Failure;
use crate::output;
use crate::values::parse_some_wait;

/// Figures for others, and the control socket: docs/observability.md.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Telemetry")]
pub(crate) struct TelemetryArgs {
    /// Serve figures to Prometheus at `/metrics` of this address and port (127.0.0.1:9464; port 0
    /// takes a free one, which is told), or on a socket (unix:PATH)
    #[arg(long, value_name = "WHERE")]
    pub(crate) metrics: Option<Listen>,
    /// Write the same figures to a file, for the textfile collector of node_exporter
    #[arg(long, value_name = "FILE.prom")]
    pub(crate) metrics_textfile: Option<PathBuf>,
    /// How often that file is written
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_some_wait)]
    pub(crate) metrics_every: Duration,
    /// Where this process makes a directory of its own, with the control socket that probe-util
    /// asks [default: /run/hybrid-runtime for root, else $XDG_RUNTIME_DIR/hybrid-runtime]
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Make no control socket
    #[arg(long, conflicts_with = "run_dir")]
    pub(crate) no_control: bool,
    /// Lines on stderr: `text`, or `json`, one object a line
    #[arg(long, value_name = "text|json", default_value = "text")]
    pub(crate) log: LogFormat,
}

impl TelemetryArgs {
    /// Starts what is asked for; it runs until the answer is dropped.
    pub(crate) fn start(&self, runtime: &Runtime, quiet: bool) -> Result<Exports, Failure> {
        let usual = || {
            let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
            run_dir(is_root(), runtime_dir.as_deref())
        };
        let dir = if self.no_control { None } else { self.run_dir.clone().or_else(usual) };
        let options = ExportOptions {
            metrics: self.metrics.clone(),
            textfile: self.metrics_textfile.clone().map(|path| (path, self.metrics_every)),
            run_dir: dir,
            program: "feed-handler".to_owned(),
        };
        let exports = Exports::start(runtime.telemetry(), &options, runtime.warnings());
        let exports = exports.map_err(Failure::error)?;
        if let (Some(at), false) = (exports.metrics_at(), quiet) {
            output::note(format_args!("note: metrics at {at}, path /metrics"));
        }
        Ok(exports)
    }
}
