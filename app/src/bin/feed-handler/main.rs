//! `feed-handler`: reads an ITCH feed from an NVMe controller on a core of its own.
//!
//! The program of the host's side: parses the command line, prepares device and job, starts the
//! partition through `host_bridge`, feeds it, hears it, and prints what came of it. What happens on
//! the partition's core is the library's (`feed_handler::handler`); its process is this program,
//! executed again.

mod admin;
mod bbo;
mod cli;
mod course;
mod device;
mod events;
mod failure;
mod feed;
mod journal;
mod live;
mod nvme_text;
mod outbox;
mod output;
mod page;
mod progress;
mod record;
mod report;
mod run;
mod storage;
mod summary;
mod supervise;
mod telemetry;
mod values;

use std::process::ExitCode;

use clap::CommandFactory as _;
use hybrid_conventions::config::parsed;

use cli::{Cli, Command};
use failure::Failure;

host_bridge::partition_main! {
    entries: [run::ENTRY],
    main: host,
}

/// The program, unless it is a partition of itself.
fn host() -> ExitCode {
    let cli = match parsed::<Cli>(Cli::command(), &cli::RULES) {
        Ok((cli, _)) => cli,
        Err(exit) => return exit,
    };
    output::log_as(cli.log_format());
    let outcome = match &cli.command {
        None => run::day(&cli.day, &cli.machine),
        Some(Command::Ingest(args)) => run::ingest(args),
        Some(Command::Replay(args)) => run::replay(args),
        Some(Command::Live(args)) => live::live(args),
        Some(Command::Record(args)) => record::record(args),
        Some(Command::IdCtrl(args)) => admin::id_ctrl(&args.machine),
        Some(Command::IdNs(args)) => admin::id_ns(args),
        Some(Command::SmartLog(args)) => admin::smart_log(&args.machine),
        Some(Command::ErrorLog(args)) => admin::error_log(&args.machine),
        Some(Command::List(args)) => admin::list(&args.machine),
    };
    match outcome {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(Failure { exit, line, .. }) => {
            output::note(format_args!("feed-handler: {line}"));
            ExitCode::from(exit.code())
        }
    }
}
