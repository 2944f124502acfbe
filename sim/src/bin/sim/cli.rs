//! The command line.

use std::path::PathBuf;

use clap::Parser;
use hybrid_conventions::Nanos;
use hybrid_sim::{Limit, Shape, Workload};

/// Simulates scheduler, rings, driver and controller in one process, on a virtual clock.
///
/// Runs one after the other, each from the next seed, until `--commands`, `--for`, `--runs`, or
/// until SIGINT (^C) or SIGTERM, at which the runs under way are finished; the same a second time
/// ends it at once. First the seed, then the faults by kind and, last, one line of totals. The same
/// seed gives the same run, bit for bit. A run that is wrong leaves a bundle, a text file that
/// `--repro` repeats. docs/simulation.md.
///
/// Exit codes: 0 nothing wrong, 1 a violation, something not reached, or an error, 130 and 143 on
/// signals where nothing was wrong (progress is on stderr every ten seconds).
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask sim", bin_name = "cargo xtask sim", version)]
pub(crate) struct Cli {
    /// Seed of the first run
    #[arg(long, value_name = "N", default_value_t = 1, env = "HYBRID_SEED")]
    pub(crate) seed: u64,
    /// Stop after so many I/O commands of the controller
    #[arg(long, value_name = "N", conflicts_with_all = ["for_", "runs"])]
    pub(crate) commands: Option<u64>,
    /// Stop after this time (60s, 10m, 2h)
    #[arg(long = "for", id = "for_", value_name = "TIME", conflicts_with = "runs")]
    pub(crate) time: Option<Nanos>,
    /// Stop after so many runs
    #[arg(long, value_name = "N")]
    pub(crate) runs: Option<u64>,
    /// Processes at once, each with seeds of its own; the totals do not depend on it
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=1024),
          conflicts_with_all = ["repro", "record", "bisect", "trace"])]
    pub(crate) jobs: u16,
    /// Operations of a run
    #[arg(long, value_name = "N", default_value_t = 100_000,
          value_parser = clap::value_parser!(u64).range(1..=10_000_000),
          conflicts_with_all = ["repro", "bisect"])]
    pub(crate) run_ops: u64,
    /// The workload of every run: mixed, hot-spot, sequential, bursty, read-modify-write; by
    /// default they take turns
    #[arg(long, value_name = "NAME", value_parser = workload)]
    pub(crate) workload: Option<Workload>,
    /// Draw everything that may vary (device, driver, tasks, kinds of faults, their rate) for each
    /// run
    #[arg(long)]
    pub(crate) swarm: bool,
    /// Only these faults, by name, with commas between them, each of which must strike; `none` for
    /// none. Those of the host's kernel (kernel-...) come with losses of the device, all-ones
    #[arg(long, value_name = "NAMES")]
    pub(crate) faults: Option<String>,
    /// Print the names of the faults and run nothing
    #[arg(long)]
    pub(crate) list_faults: bool,
    /// One run, the first; print the last N events as a timeline of host, queues and device
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1000000",
          conflicts_with_all = ["record", "bisect"])]
    pub(crate) trace: Option<usize>,
    /// Make a run that is wrong smaller: fewer faults, fewer operations
    #[arg(long)]
    pub(crate) shrink: bool,
    /// Repeat the run of a bundle
    #[arg(long, value_name = "FILE",
          conflicts_with_all = ["swarm", "faults", "workload", "commands", "for_", "runs"])]
    pub(crate) repro: Option<PathBuf>,
    /// One run, the first or that of --repro; write the hashes of trace and state after each event
    #[arg(long, value_name = "FILE", conflicts_with = "bisect")]
    pub(crate) record: Option<PathBuf>,
    /// Repeat the run that --record wrote, with this build, and show the first event after which
    /// trace or state differ
    #[arg(long, value_name = "FILE", conflicts_with_all = ["swarm", "faults", "workload", "repro",
          "shrink", "commands", "for_", "runs"])]
    pub(crate) bisect: Option<PathBuf>,
    /// Where bundles are left
    #[arg(long, value_name = "FOLDER", default_value = "target/sim")]
    pub(crate) bundles: PathBuf,
    /// All runs in this process (memory grows with each), totals as lines for a program
    #[arg(long)]
    pub(crate) lines: bool,
}

fn workload(name: &str) -> Result<Workload, String> {
    let names = || Workload::ALL.map(|(name, _)| name).join(", ");
    Workload::find(name).ok_or_else(|| format!("the workloads are {}", names()))
}

impl Cli {
    pub(crate) fn shape(&self) -> Shape {
        let faults = self.faults.as_deref().map(|names| {
            let names = names.split(',').filter(|name| *name != "none" && !name.is_empty());
            names.map(str::to_owned).collect()
        });
        Shape {
            seed: self.seed,
            run_ops: self.run_ops,
            workload: self.workload,
            swarm: self.swarm,
            faults,
        }
    }

    /// What is about to be run, seed first.
    pub(crate) fn in_words(&self) -> String {
        let Self { seed, run_ops, .. } = self;
        let kind = if self.swarm { "swarm" } else { "ordinary" };
        let limit = match self.limit() {
            Limit::Commands(commands) => format!("for {commands} commands"),
            Limit::Time(time) => format!("for {} s", time.as_secs()),
            Limit::Runs(1) => "once".to_owned(),
            Limit::Runs(runs) => format!("{runs} times"),
            Limit::Never => "until ^C".to_owned(),
        };
        let jobs = self.jobs_in_words();
        format!("seed {seed}, {kind} runs of {run_ops} operations, {limit}, {jobs}")
    }

    pub(crate) fn jobs_in_words(&self) -> String {
        match self.jobs {
            1 => "one job".to_owned(),
            jobs => format!("{jobs} jobs"),
        }
    }

    pub(crate) fn limit(&self) -> Limit {
        match (self.commands, self.time, self.runs) {
            (Some(commands), ..) => Limit::Commands(commands),
            (_, Some(time), _) => Limit::Time(time.to_duration()),
            (.., Some(runs)) => Limit::Runs(runs),
            _ => Limit::Never,
        }
    }
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
    fn limits_exclude_each_other_and_names_are_checked() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("sim --commands 5 --for 1s").is_err());
        assert!(parse("sim --workload nothing").is_err());
        // What would be ignored is refused.
        for line in ["--repro f --run-ops 5", "--record f --trace 5", "--bisect f --jobs 2"] {
            assert!(parse(&format!("sim {line}")).is_err(), "{line}");
        }
        let cli = parse("sim --faults fatal,pause --for 2s").expect("good");
        assert_eq!(cli.shape().faults, Some(vec!["fatal".to_owned(), "pause".to_owned()]));
        assert_eq!(cli.limit(), Limit::Time(std::time::Duration::from_secs(2)));
        assert_eq!(parse("sim --faults none").expect("good").shape().faults, Some(Vec::new()));
    }
}
