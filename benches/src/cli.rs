//! The command line that all benchmarks have, and their exit codes.

use std::process::ExitCode;

use clap::Parser;
use hybrid_conventions::{Exit, not_started};

use crate::report::Report;

/// Options of every benchmark.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Tiny sizes: shows that it works, not how fast.
    #[arg(long)]
    pub quick: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
    /// Write the report as JSON to this file too.
    #[arg(long, value_name = "FILE")]
    pub out: Option<std::path::PathBuf>,
    /// CPU that is measured; by default the last one that this process may use.
    #[arg(long, value_name = "CPU")]
    pub core: Option<u32>,
    /// Repetitions; the table has their medians [default: 5; 1 with --quick].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repetitions: Option<u32>,
    /// Only the parts whose name contains this.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
}

impl Args {
    /// Whether a part is wanted.
    #[must_use]
    pub fn wants(&self, part: &str) -> bool {
        self.only.as_ref().is_none_or(|only| part.contains(only.as_str()))
    }

    /// `full`, or `quick` for a quick run.
    #[must_use]
    pub const fn size(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }

    /// Repetitions; one is enough to see that it works.
    #[must_use]
    pub fn repetitions(&self) -> u32 {
        self.repetitions.unwrap_or(if self.quick { 1 } else { 5 })
    }
}

/// Parses the command line, runs the benchmark and prints its report.
///
/// In a run of full size the exit code is 2 if a goal was missed, and 1 if one was not measured.
pub fn main(bench: impl FnOnce(&Args) -> anyhow::Result<Report>) -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return not_started(&error),
    };
    let exit = match bench(&args) {
        Ok(report) => {
            let text = if args.json { report.to_json() } else { report.to_text() };
            print!("{text}");
            if let Some(path) = &args.out
                && let Err(error) = std::fs::write(path, report.to_json())
            {
                eprintln!("error: {}: {error}", path.display());
                return ExitCode::from(Exit::Error.code());
            }
            match args.quick {
                true => Exit::Ok,
                false => report.exit(),
            }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::Error
        }
    };
    ExitCode::from(exit.code())
}
