//! Stand-in: the two streams.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};

use crate::failure::Failure;

pub(crate) fn result(text: impl Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::error(format_args!("stdout: {error}")))
        }
        _ => Ok(()),
    }
}

pub(crate) fn note(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
