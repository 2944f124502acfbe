//! `probe-util`: looks at partitions that run, and reads what others have left behind.
//!
//! Knows the layouts of `hybrid-abi` and no other crate of ours but the conventions, so that it can
//! explain what an older program wrote, on a machine that has none of the rest. It changes nothing.
#![forbid(unsafe_code)]

mod dump;
mod figures;
mod hosts;
mod jitter;
mod journal;
mod list;
mod look;
mod metrics;
mod stop;
mod top;
mod trace;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use hybrid_conventions::Exit;
use hybrid_conventions::config::{Rules, parsed};

/// Look at the partitions of hybrid-runtime, and read what they leave behind
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 ok, 1 error, usage errors and damaged files included, 2 a \
                  threshold exceeded, 130 and 143 on signals."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
enum Command {
    /// Explain a crash dump: what died and why, where, what it was doing, what the device owed it
    Dump(dump::Args),
    /// List the hosts and partitions that run on this machine
    List(list::Args),
    /// Print every figure that a partition publishes
    Metrics(metrics::Args),
    /// Watch partitions live: useful, empty and stolen time, I/O, latencies, tasks
    Top(top::Args),
    /// Record what a partition's probes write, show it, export it for Perfetto
    Trace(trace::Args),
    /// Report how quiet the partitions' cores have been
    Jitter(jitter::Args),
    /// Show, verify and dump a journal: superblock, segments, where it ends and why, records
    Journal(journal::Args),
}

fn main() -> ExitCode {
    let cli = match parsed::<Cli>(Cli::command(), &Rules::FILES) {
        Ok((cli, _)) => cli,
        Err(exit) => return exit,
    };
    let outcome = match &cli.command {
        Command::Dump(args) => dump::command(args),
        Command::List(args) => list::command(args),
        Command::Metrics(args) => metrics::command(args),
        Command::Top(args) => top::command(args),
        Command::Trace(args) => trace::command(args),
        Command::Jitter(args) => jitter::command(args),
        Command::Journal(args) => journal::command(args),
    };
    let exit = outcome.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr().lock(), "probe-util: {error:#}");
        Exit::Error
    });
    ExitCode::from(exit.code())
}
