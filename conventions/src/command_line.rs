//! How a program ends that its command line does not start.

use std::process::ExitCode;

use crate::Exit;

/// Prints help, version or a usage error, on the stream of clap's choice, and gives the exit code:
/// the first two are no errors.
#[must_use]
pub fn not_started(error: &clap::Error) -> ExitCode {
    // A closed stream is no reason for another code.
    let _ = error.print();
    ExitCode::from(exit_of(error).code())
}

fn exit_of(error: &clap::Error) -> Exit {
    if error.use_stderr() { Exit::Error } else { Exit::Ok }
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    #[test]
    fn help_and_version_are_no_errors() {
        let exit = |argument| {
            let parsed = Command::new("x").version("1").try_get_matches_from(["x", argument]);
            exit_of(&parsed.expect_err("never a start"))
        };
        assert_eq!(exit("--help"), Exit::Ok);
        assert_eq!(exit("--version"), Exit::Ok);
        assert_eq!(exit("--nothing"), Exit::Error);
    }
}
