//! `conformance`: the suite on a partition's core, through `host_bridge`, on what `--device` names.
//!
//! Each case is a partition of its own: the device is attached anew, in fresh memory, for each.
//! What can't be tried on a device is reported as such, with its reason. `docs/conformance.md` says
//! how to run it on a controller of somebody else's.

mod cli;
mod core;
mod device;
mod mark;
mod run;
mod survey;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use hybrid_conventions::{Exit, not_started};

use cli::Cli;

/// Why the program ends early, and how.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    line: String,
}

impl Failure {
    fn new(exit: Exit, line: impl ToString) -> Self {
        Self { exit, line: line.to_string() }
    }

    fn error(line: impl ToString) -> Self {
        Self::new(Exit::Error, line)
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_started(&error),
    };
    let exit = run::all(&cli).unwrap_or_else(|Failure { exit, line }| {
        let _ = writeln!(std::io::stderr(), "conformance: {line}");
        exit
    });
    ExitCode::from(exit.code())
}
