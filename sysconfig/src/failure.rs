//! How the program fails: one line and an exit code.

use std::fmt::Display;

use hybrid_conventions::Exit;

/// One line for the user, and what the program exits with.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) line: String,
}

impl Failure {
    /// An error, exit code 1.
    pub(crate) fn error(line: impl Display) -> Self {
        Self { exit: Exit::Error, line: line.to_string() }
    }

    /// Something is missing, exit code 3.
    pub(crate) fn missing(line: impl Display) -> Self {
        Self { exit: Exit::Missing, line: line.to_string() }
    }
}
