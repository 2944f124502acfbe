//! Stand-in: how the program fails.

use std::fmt::Display;

use hybrid_conventions::Exit;

/// One line for the user, and what the program exits with.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) line: String,
}

impl Failure {
    pub(crate) fn error(line: impl Display) -> Self {
        Self { exit: Exit::Error, line: line.to_string() }
    }
    pub(crate) fn missing(line: impl Display) -> Self {
        Self { exit: Exit::Missing, line: line.to_string() }
    }
}
