//! How the program fails: one line and an exit code.

use std::fmt::Display;
use std::path::Path;

use hybrid_conventions::Exit;

/// One line for the user, and what the program exits with.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) line: String,
    /// The device is why: other storage may help.
    pub(crate) device: bool,
}

impl Failure {
    /// An error, exit code 1.
    pub(crate) fn error(line: impl Display) -> Self {
        Self { exit: Exit::Error, line: line.to_string(), device: false }
    }

    /// Something is missing, exit code 3.
    pub(crate) fn missing(line: impl Display) -> Self {
        Self { exit: Exit::Missing, ..Self::error(line) }
    }

    /// A file that cannot be used.
    pub(crate) fn file(what: &str, path: &Path, error: &std::io::Error) -> Self {
        Self::error(format_args!("{what} {}: {error}", path.display()))
    }
}

impl From<host_bridge::RuntimeError> for Failure {
    fn from(error: host_bridge::RuntimeError) -> Self {
        Self { exit: error.exit(), line: error.to_string(), device: error.blames_device() }
    }
}
