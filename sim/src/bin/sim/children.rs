//! A campaign as a row of processes of a few runs each.
//!
//! A partition's memory is never given back, as on a real one, so that a process which runs
//! thousands of them would grow without end.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hybrid_conventions::Exit;
use hybrid_sim::{Limit, Total};

use crate::TELL_EVERY;
use crate::cli::Cli;

/// Operations of one child: some ten seconds, and a few hundred MiB.
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
            let mix = |sum: u64| (sum.rotate_left(17) ^ count).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            match name {
                "runs" => total.runs += count,
                "commands" => total.commands += count,
                "ops" => total.ops += count,
                "faults" => total.faults += count,
                "blocks" => total.blocks += count,
                "caught" => total.caught += count,
                "trace" => total.trace_hash = mix(total.trace_hash),
                "state" => total.state_hash = mix(total.state_hash),
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

/// Runs children until the limit.
pub(crate) fn campaign(cli: &Cli) -> Result<Exit, String> {
    let (mut total, limit, shape) = (Total::default(), cli.limit(), cli.shape());
    let (start, mut told) = (Instant::now(), Instant::now());
    let most = (CHILD_OPS / cli.run_ops).max(1);
    let mut good = true;
    while good && !is_over(limit, &total, start.elapsed()) {
        let runs = match limit {
            Limit::Runs(runs) => most.min(runs - total.runs),
            // Small steps, so that the limit is not passed by much.
            Limit::Commands(commands) => {
                most.min((commands - total.commands).div_ceil(cli.run_ops).max(1))
            }
            Limit::Time(time) if time.saturating_sub(start.elapsed()) < TELL_EVERY => 1,
            Limit::Time(_) | Limit::Never => most,
        };
        good = child(cli, &mut total, runs)?;
        total.took = start.elapsed();
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            eprintln!("{total}, next seed {}", cli.seed.wrapping_add(total.runs));
        }
    }
    println!("{total}");
    println!(
        "seeds {} to {}, trace hash {:016x}, state hash {:016x}",
        cli.seed,
        cli.seed.wrapping_add(total.runs.saturating_sub(1)),
        total.trace_hash,
        total.state_hash
    );
    let missing = total.missing(&shape);
    if good && !missing.is_empty() {
        println!("never reached: {}", missing.join(", "));
    }
    Ok(if good && missing.is_empty() { Exit::Ok } else { Exit::Error })
}

fn is_over(limit: Limit, total: &Total, took: Duration) -> bool {
    match limit {
        Limit::Commands(commands) => total.commands >= commands,
        Limit::Time(time) => took >= time,
        Limit::Runs(runs) => total.runs >= runs,
        Limit::Never => false,
    }
}

/// One child of `runs` runs; false if one of them was wrong.
fn child(cli: &Cli, total: &mut Total, runs: u64) -> Result<bool, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.arg("--lines").arg("--bundles").arg(&cli.bundles);
    let seed = cli.seed.wrapping_add(total.runs).to_string();
    for (name, value) in
        [("--seed", seed), ("--runs", runs.to_string()), ("--run-ops", cli.run_ops.to_string())]
    {
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
        _ => Err(format!("a child ended with {status}; its first seed was {}", cli.seed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
