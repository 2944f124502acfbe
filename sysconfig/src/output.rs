//! The two streams: results to stdout, everything else to stderr.
//!
//! A reader that has gone (`sysconfig status | head`) is no error and never a panic.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};

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

/// Writes a line to stderr; one that nobody can read is lost.
pub(crate) fn note(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
