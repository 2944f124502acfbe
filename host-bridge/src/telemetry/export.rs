//! What a program's flags ask for, running until it is dropped.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::Telemetry;
use super::control::ControlSocket;
use super::http::{HttpExport, Listen};
use super::textfile::TextfileExport;
use crate::warnings::{WarningKind, Warnings};

/// How often a textfile is written: half of the usual time between two scrapes.
pub const TEXTFILE_EVERY: Duration = Duration::from_secs(15);

/// What is asked for; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// `--metrics`: where Prometheus scrapes.
    pub metrics: Option<Listen>,
    /// `--metrics-textfile`: a file for node_exporter, and how often it is written.
    pub textfile: Option<(PathBuf, Duration)>,
    /// The directory in which this process makes one of its own, with the control socket; see
    /// [`super::control::run_dir`].
    pub run_dir: Option<PathBuf>,
    /// What the host is called in lists: the program's name.
    pub program: String,
}

/// An export that was asked for and cannot be had: one line with what to change.
#[derive(Debug, thiserror::Error)]
#[error("{flag} {place}: {source}; name another place")]
pub struct ExportError {
    flag: &'static str,
    place: String,
    source: io::Error,
}

/// Everything that runs.
#[derive(Debug, Default)]
pub struct Exports {
    http: Option<HttpExport>,
    _textfile: Option<TextfileExport>,
    _control: Option<ControlSocket>,
}

impl Exports {
    /// Starts what is asked for. The control socket is a service that nobody has to ask for: if it
    /// cannot be made, that is a warning.
    ///
    /// # Errors
    /// [`ExportError`] for what was asked for.
    pub fn start(
        telemetry: &Telemetry,
        options: &ExportOptions,
        warnings: &Warnings,
    ) -> Result<Self, ExportError> {
        let http = options.metrics.as_ref().map(|listen| {
            HttpExport::start(telemetry, listen).map_err(|source| ExportError {
                flag: "--metrics",
                place: listen.to_string(),
                source,
            })
        });
        let textfile = options.textfile.as_ref().map(|(path, every)| {
            TextfileExport::start(telemetry, path, *every, warnings).map_err(|source| ExportError {
                flag: "--metrics-textfile",
                place: path.display().to_string(),
                source,
            })
        });
        let control = options.run_dir.as_ref().and_then(|dir| {
            let made = ControlSocket::start(telemetry, dir, &options.program);
            let complain = |error| {
                warnings.say(WarningKind::Export, || {
                    let dir = dir.display();
                    format!("no control socket in {dir}: {error}; probe-util finds this host not")
                });
            };
            made.map_err(complain).ok()
        });
        Ok(Self { http: http.transpose()?, _textfile: textfile.transpose()?, _control: control })
    }

    /// Where Prometheus scrapes.
    #[must_use]
    pub fn metrics_at(&self) -> Option<&Listen> {
        self.http.as_ref().map(HttpExport::at)
    }
}
