//! How a run ends early: an exit code and one line.

use std::fmt::Display;
use std::path::Path;

use hybrid_conventions::Exit;

/// What is printed, and with what the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) line: String,
}

impl Failure {
    pub(crate) fn error(line: impl Display) -> Self {
        Self { exit: Exit::Error, line: line.to_string() }
    }

    pub(crate) fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::error(format_args!("{}: {error}", path.display()))
    }
}

impl From<host_bridge::RuntimeError> for Failure {
    fn from(error: host_bridge::RuntimeError) -> Self {
        Self { exit: error.exit(), line: error.to_string() }
    }
}

/// Writes a result file.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure::file(path, &error))
}
