//! `crash-drill`: a partition that dies, again and again, under a host that stays.
//!
//! A write-verify load runs on the model, or with `--device` on a PCI function, in a partition that
//! is a process. At a random point it
//! dies: by a panic, a bad pointer, a stack overflow, an illegal instruction, an allocation, a
//! system call, an endless loop, or by SIGKILL; before that it may be stopped and let go on, which
//! it must survive. The supervisor notices, fences, saves the dump and starts the next one, which
//! reads every block; the host's oracle knows what was acknowledged. Each dump is read back and
//! must say what happened. The same seed makes the same plan.
//!
//! `cargo xtask test` runs 100 crashes, `cargo xtask soak` 1,000. Output in libtest's form, a
//! line a kind, then a table of times.

mod block;
mod die;
mod kind;
mod load;
mod oracle;
mod record;
mod rounds;
mod times;
mod words;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use host_bridge::topology::Topology;
use host_bridge::{Entry, Runtime};
use hybrid_conventions::{CpuSet, DeviceSpec, Exit, not_started};

use crate::kind::Kind;
use crate::rounds::{Options, Outcome};

/// The entry of every partition here.
const ENTRY: Entry = Entry::new("crash-drill", load::run);

host_bridge::partition_main! {
    entries: [ENTRY],
    main: host,
}

/// Crashes of a partition under load: the host survives, nothing acknowledged is lost.
#[derive(Debug, Parser)]
#[command(name = "crash-drill", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 ok, 1 error, 2 the time to the first i/o exceeds \
    --most, 3 something is missing (with the command that fixes it).")]
struct Cli {
    /// Crashes
    #[arg(long, value_name = "N", default_value_t = 100, env = "HYBRID_CRASHES")]
    crashes: u64,
    /// Seed of the plan
    #[arg(long, value_name = "SEED", env = "HYBRID_SEED", default_value_t = 1)]
    seed: u64,
    /// Die of this alone: panic, bad_pointer, stack_overflow, illegal_instruction, allocation,
    /// system_call, endless_loop, sigkill
    #[arg(long, value_name = "KIND", value_parser = parse_kind)]
    only: Option<Kind>,
    /// The controller: `model`, or a PCI address, whose first MiB is overwritten
    #[arg(long, value_name = "DEVICE", default_value = "model")]
    device: String,
    /// Overwrite what is there
    #[arg(long)]
    allow_writes: bool,
    /// The CPU that the partition takes for itself [default: the last isolated one,
    /// else the last]
    #[arg(long, value_name = "CPU")]
    core: Option<u32>,
    /// Where dumps go [default: a directory below the temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    dump_dir: Option<PathBuf>,
    /// Exit with 2 if half of the restarts take longer from death to first I/O (for an idle
    /// machine)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    most: Option<std::time::Duration>,
    /// Print every alert
    #[arg(short, long)]
    verbose: bool,
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    let known = Kind::ALL.into_iter().find(|kind| kind.name() == text);
    known.ok_or_else(|| format!("{text} is no way to die here"))
}

fn parse_time(text: &str) -> Result<std::time::Duration, String> {
    let time: hybrid_conventions::Nanos = text.parse().map_err(|error| format!("{error}"))?;
    Ok(time.to_duration())
}

fn host() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_started(&error),
    };
    match drill(&cli) {
        Ok(exit) => exit.code().into(),
        Err((exit, line)) => {
            eprintln!("crash-drill: {line}");
            exit.code().into()
        }
    }
}

type Failure = (Exit, String);

fn error(line: impl std::fmt::Display) -> Failure {
    (Exit::Error, line.to_string())
}

fn drill(cli: &Cli) -> Result<Exit, Failure> {
    let device = DeviceSpec::parse(&cli.device).map_err(error)?;
    if device.needs_allow_writes() && !cli.allow_writes {
        let device = &cli.device;
        return Err(error(format_args!(
            "device {device} may carry data, which the drill overwrites; --allow-writes permits it"
        )));
    }
    let core = cli.core.or_else(|| Topology::read().suggested_core());
    let core = core.ok_or_else(|| {
        (Exit::Missing, "one cpu only; a partition needs one of its own".to_owned())
    })?;
    let runtime = Runtime::new(CpuSet::single(core).map_err(error)?);
    let runtime = runtime.map_err(|error| (error.exit(), error.to_string()))?;
    let own = std::env::temp_dir().join(format!("crash-drill-{}", std::process::id()));
    let dir = cli.dump_dir.clone().unwrap_or_else(|| own.clone());
    let Cli { crashes, seed, only, verbose, .. } = *cli;
    let device = cli.device.clone();
    say(format_args!("crash-drill: {crashes} crashes with --seed {seed}, partition on cpu {core}"));
    let result = rounds::run(&runtime, Options { crashes, seed, only, dir, device, verbose });
    let _ = std::fs::remove_dir_all(own);
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(why) => {
            say(format_args!(
                "test crash_drill ... FAILED\n\n{why}\nrepeat it with --seed {seed}\n"
            ));
            say(format_args!("0 passed, 1 failed, 0 skipped"));
            return Ok(Exit::Error);
        }
    };
    print(&outcome);
    Ok(match cli.most {
        Some(most) if outcome.first_io.percentile(50) > most => {
            say(format_args!("the median of death to first i/o exceeds {most:?}"));
            Exit::Threshold
        }
        _ => Exit::Ok,
    })
}

/// A line on stdout. A pipe that was closed is nobody who reads.
fn say(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn print(outcome: &Outcome) {
    for (kind, count) in &outcome.deaths {
        say(format_args!("test {}_{count}_times ... ok", kind.name()));
    }
    let deaths: u64 = outcome.deaths.values().sum();
    say(format_args!(
        "\n{deaths} deaths and dumps ({} bytes), {} restarts, {} stops survived",
        outcome.dump_bytes, outcome.restarts, outcome.stops_survived
    ));
    say(format_args!(
        "{} writes acknowledged, {} blocks verified, {} held a write that was in flight",
        outcome.acknowledged, outcome.verified, outcome.unacknowledged_kept
    ));
    say(format_args!(
        "{} memories watched behind the fence, {} starts with a spare\n",
        outcome.watched, outcome.spare_hits
    ));
    say(format_args!("                      samples        p50        p99        max"));
    say(format_args!("end to fence        {}", outcome.fenced));
    say(format_args!("end to dump saved   {}", outcome.saved));
    say(format_args!("end to next start   {}", outcome.started));
    say(format_args!("death to first i/o  {}\n", outcome.first_io));
    say(format_args!("{} passed, 0 failed, 0 skipped", outcome.deaths.len()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_does_not_contradict_itself() {
        Cli::command().debug_assert();
    }

    #[test]
    fn kinds_have_names() {
        for kind in Kind::ALL {
            assert_eq!(parse_kind(kind.name()), Ok(kind));
        }
        assert!(parse_kind("boredom").is_err());
    }
}
