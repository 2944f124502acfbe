//! A campaign as rows of processes of a few runs each, one row a job.
//!
//! A partition's memory is never given back, as on a real one, so that a process which runs
//! thousands of them would grow without end. Totals do not depend on who ran what: counts and
//! hashes are sums over the runs.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use hybrid_conventions::Exit;
use hybrid_sim::{Limit, Total};

use crate::cli::Cli;
use crate::{TELL_EVERY, all_reached, stop};

/// Operations of one child: a few seconds, and a few hundred MiB.
const CHILD_OPS: u64 = 2_000_000;

/// Prints totals so that `Lines::take` reads them.
pub(crate) fn print_lines(total: &Total) {
    for (name, count) in [
        ("runs", total.runs),
        ("commands", total.commands),
        ("ops", total.ops),
        ("faults", total.faults),
        ("blocks", total.blocks),
        ("caught", total.caught),
        ("violations", total.violations),
        ("trace", total.trace_hash),
        ("state", total.state_hash),
    ] {
        println!("total {name} {count}");
    }
    for (name, count) in &total.reached {
        println!("reached {count} {name}");
    }
}

/// Takes a line of a child's; false if it is for people.
fn take(total: &mut Total, line: &str) -> bool {
    let mut words = line.splitn(3, ' ');
    let (head, second, third) = (words.next(), words.next(), words.next());
    match (head, second, third) {
        (Some("total"), Some(name), Some(count)) => {
            let Ok(count) = count.parse::<u64>() else { return false };
            match name {
                "runs" => total.runs += count,
                "commands" => total.commands += count,
                "ops" => total.ops += count,
                "faults" => total.faults += count,
                "blocks" => total.blocks += count,
                "caught" => total.caught += count,
                "violations" => total.violations += count,
                "trace" => total.trace_hash = total.trace_hash.wrapping_add(count),
                "state" => total.state_hash = total.state_hash.wrapping_add(count),
                _ => return false,
            }
            true
        }
        (Some("reached"), Some(count), Some(name)) => {
            let Ok(count) = count.parse::<u64>() else { return false };
            *total.reached.entry(name.to_owned()).or_default() += count;
            true
        }
        _ => false,
    }
}

/// What the jobs share.
struct Row<'a> {
    cli: &'a Cli,
    limit: Limit,
    start: Instant,
    told: Instant,
    total: Total,
    /// Runs given to children so far, and of those the ones that still run.
    given: u64,
    running: u64,
    /// Something was wrong: nothing new is begun.
    stopped: bool,
}

impl<'a> Row<'a> {
    /// Nothing is given out yet, and the time begins.
    fn new(cli: &'a Cli) -> Self {
        let now = Instant::now();
        Self {
            cli,
            limit: cli.limit(),
            start: now,
            told: now,
            total: Total::default(),
            given: 0,
            running: 0,
            stopped: false,
        }
    }

    /// The next runs for a child: the first one's number, and how many; `None` at the end.
    fn claim(&mut self) -> Option<(u64, u64)> {
        let run_ops = self.cli.run_ops;
        let most = (CHILD_OPS / run_ops).max(1);
        let took = self.start.elapsed();
        let runs = match self.limit {
            Limit::Runs(runs) => most.min(runs - self.given),
            // Small steps, so that the limit is not passed by much. An operation is a command at
            // least, or as good as one.
            Limit::Commands(commands) => {
                let left = commands.saturating_sub(self.total.commands + self.running * run_ops);
                most.min(left.div_ceil(run_ops))
            }
            Limit::Time(time) if took >= time => 0,
            Limit::Time(time) if time - took < TELL_EVERY => 1,
            Limit::Time(_) | Limit::Never => most,
        };
        if runs == 0 || self.stopped || stop::exit().is_some() {
            return None;
        }
        let first = self.given;
        self.given += runs;
        self.running += runs;
        Some((first, runs))
    }

    /// A child has ended, well or not.
    fn ended(&mut self, total: &Total, runs: u64, good: bool) {
        self.running -= runs;
        self.stopped |= !good;
        self.total.merge(total);
        self.total.took = self.start.elapsed();
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let next = self.cli.seed.wrapping_add(self.given);
            eprintln!("{}, next seed {next}", self.total);
        }
    }
}

/// Runs children until the limit, as many at once as there are jobs.
pub(crate) fn campaign(cli: &Cli) -> Result<Exit, String> {
    println!("{}", cli.in_words());
    let row = Mutex::new(Row::new(cli));
    let failed: Vec<String> = thread::scope(|scope| {
        let jobs: Vec<_> = (0..cli.jobs).map(|_| scope.spawn(|| job(cli, &row))).collect();
        jobs.into_iter().filter_map(|job| job.join().ok()?.err()).collect()
    });
    if let Some(error) = failed.into_iter().next() {
        return Err(error);
    }
    let Row { total, given, stopped, .. } =
        row.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{}", total.faults_by_kind());
    let last = cli.seed.wrapping_add(given.saturating_sub(1));
    let some = if total.runs < given { "of seeds" } else { "seeds" };
    println!(
        "{some} {} to {last}, trace hash {:016x}, state hash {:016x}",
        cli.seed, total.trace_hash, total.state_hash
    );
    let wrong = stopped || total.violations != 0;
    let signal = stop::exit();
    let exit = match signal {
        _ if wrong => Exit::Error,
        // Not one run was whole.
        Some(signal) if total.runs == 0 => signal,
        _ => all_reached(&total, &cli.shape()),
    };
    println!("{total}, {}", cli.jobs_in_words());
    Ok(signal.filter(|_| exit == Exit::Ok).unwrap_or(exit))
}

/// One child after the other.
fn job(cli: &Cli, row: &Mutex<Row<'_>>) -> Result<(), String> {
    let lock = || row.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let Some((first, runs)) = lock().claim() else { return Ok(()) };
        let mut total = Total::default();
        let good = child(cli, &mut total, (first, runs));
        lock().ended(&total, runs, good == Ok(true));
        good?;
    }
}

/// One child of `runs` runs from run `first` on; false if one of them was wrong.
fn child(cli: &Cli, total: &mut Total, (first, runs): (u64, u64)) -> Result<bool, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.arg("--lines").arg("--bundles").arg(&cli.bundles);
    let seed = cli.seed.wrapping_add(first);
    for (name, value) in [
        ("--seed", seed.to_string()),
        ("--runs", runs.to_string()),
        ("--run-ops", cli.run_ops.to_string()),
    ] {
        command.arg(name).arg(value);
    }
    if let Some(workload) = cli.workload {
        command.arg("--workload").arg(workload.name());
    }
    if let Some(faults) = &cli.faults {
        command.arg("--faults").arg(faults);
    }
    for (flag, on) in [("--swarm", cli.swarm), ("--shrink", cli.shrink)] {
        if on {
            command.arg(flag);
        }
    }
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = started.map_err(|error| format!("a child could not be started: {error}"))?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line.map_err(|error| error.to_string())?;
            if !take(total, &line) {
                println!("{line}");
            }
        }
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        // The signal that ends us all came before it listened to any.
        None if stop::exit().is_some() && stop::is_ours(status.signal()) => Ok(true),
        _ => {
            let last = seed.wrapping_add(runs - 1);
            Err(format!("a child ended with {status}; its seeds were {seed} to {last}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn every_run_is_given_to_one_child_and_no_more_of_them_than_asked_for() {
        let cli = Cli::try_parse_from("sim --runs 45 --run-ops 100000".split(' ')).expect("good");
        let mut row = Row::new(&cli);
        assert_eq!(
            [row.claim(), row.claim(), row.claim()],
            [Some((0, 20)), Some((20, 20)), Some((40, 5))]
        );
        assert_eq!(row.claim(), None);
        row.limit = Limit::Commands(4_600_000);
        assert_eq!(row.claim(), Some((45, 1)), "those that still run count as if they were done");
        row.ended(&Total::default(), 20, false);
        assert_eq!(row.claim(), None, "nothing is begun after a violation");
    }

    #[test]
    fn lines_of_children_add_up_and_others_are_passed_on() {
        let mut total = Total::default();
        for line in ["total runs 2", "total runs 3", "reached 7 state ready -> off"] {
            assert!(take(&mut total, line));
        }
        assert_eq!((total.runs, total.reached["state ready -> off"]), (5, 7));
        assert!(!take(&mut total, "violation: a lost write"));
        assert!(!take(&mut total, "total nothing 3"));
    }
}
