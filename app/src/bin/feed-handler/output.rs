//! The two streams: results to stdout, everything else to stderr.
//!
//! Called by whoever has something to say. A reader that has gone (`feed-handler | head`) is no
//! error and never a panic; another stdout that cannot be written is one, since it is the result.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use host_bridge::supervisor::alert::Alert;
use host_bridge::telemetry::log::{LogFormat, alert_fields, json_line};
use serde_json::{Map, Value};

use crate::failure::Failure;

/// Writes a result to stdout, wholly.
pub(crate) fn result(text: impl Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::error(format_args!("stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Whether lines are objects.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// From now on lines are written so.
pub(crate) fn log_as(format: LogFormat) {
    AS_JSON.store(format == LogFormat::Json, Ordering::Relaxed);
}

/// Writes a line to stderr; one that nobody can read is lost.
pub(crate) fn note(line: impl Display) {
    write_line(&line.to_string(), Map::new);
}

/// As [`note`], with what the alert knows beside its line.
pub(crate) fn alert(alert: &Alert) {
    write_line(&alert.to_string(), || alert_fields(alert));
}

fn write_line(line: &str, fields: impl FnOnce() -> Map<String, Value>) {
    let mut stderr = io::stderr().lock();
    let _ = match AS_JSON.load(Ordering::Relaxed) {
        true => {
            let line = json_line(SystemTime::now(), "feed-handler", line, fields());
            writeln!(stderr, "{line}")
        }
        false => writeln!(stderr, "{line}"),
    };
}
