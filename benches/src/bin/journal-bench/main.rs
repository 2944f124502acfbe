//! `journal-bench`: appends a second, their latency, and what opening a log costs.
//!
//! The host's side: command line, device, partition, tables. What is measured runs on the
//! partition's core ([`part`]); what stands beside it is in [`peers`].
#![forbid(unsafe_code)]

mod cli;
mod part;
mod peers;
mod rounds;
mod run;
mod sheet;
mod stepped;
mod wire;

use std::process::ExitCode;

use clap::Parser;
use hybrid_conventions::{Exit, not_started};
use serde_json::{Value, json};

use cli::Cli;
use run::{Failure, Ran};
use sheet::{Goal, Row};
use wire::{BATCH, FILL, OPEN, OPENING, Outcome, Phase};

host_bridge::partition_main! {
    entries: [run::ENTRY],
    main: host,
}

/// The program, unless it is a partition of itself.
fn host() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_started(&error),
    };
    match measure(&cli) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(Failure { exit, line }) => {
            eprintln!("journal-bench: {line}");
            ExitCode::from(exit.code())
        }
    }
}

/// Everything that was measured.
#[derive(Default)]
struct Results {
    rows: Vec<Row>,
    goals: Vec<Goal>,
    machine: String,
    device: String,
    interrupted: Option<Exit>,
}

fn measure(cli: &Cli) -> Result<Exit, Failure> {
    if cli.size > part::PAYLOAD_MAX {
        return Err(Failure::error(format_args!(
            "-o {}: a record of this log has at most {} bytes",
            cli.size,
            part::PAYLOAD_MAX
        )));
    }
    let mut results = Results::default();
    if cli.beside.is_none() || cli.goals {
        ours(cli, &mut results)?;
    }
    if let Some(folder) = cli.beside.as_ref().filter(|_| results.interrupted.is_none()) {
        peers::beside(cli, folder, &mut results)?;
    }
    let value = results.json();
    if cli.json {
        println!("{value:#}");
    } else {
        print!("{}", results.text());
    }
    if let Some(path) = &cli.out {
        std::fs::write(path, format!("{value:#}\n"))
            .map_err(|error| Failure::error(format_args!("{}: {error}", path.display())))?;
    }
    let missed = results.goals.iter().any(Goal::is_missed);
    Ok(match results.interrupted {
        Some(exit) => exit,
        None if missed && cli.goals => Exit::Threshold,
        None => Exit::Ok,
    })
}

/// This journal on the device that is named.
fn ours(cli: &Cli, results: &mut Results) -> Result<(), Failure> {
    let open_size = if cli.quick { cli.open_size.min(48 << 20) } else { cli.open_size };
    let phases = phases(cli, open_size);
    let ran = run::run(cli, &cli.device, &phases)?;
    for (phase, outcome) in phases.iter().zip(&ran.outcomes) {
        results.rows.push(Row::ours(phase, outcome, ran.tsc_hz));
    }
    results.note(&ran);
    if cli.rate.is_some() || cli.batch.is_some() || ran.signal.is_some() {
        return Ok(());
    }
    results.goals = goals(&phases, &ran.outcomes, open_size);
    if !cli.device.starts_with("model") {
        return Ok(());
    }
    let (rows, goals) = stepped::measure(cli)?;
    results.rows.splice(0..0, rows);
    results.goals.splice(0..0, goals);
    Ok(())
}

fn phases(cli: &Cli, open_size: u64) -> Vec<Phase> {
    let duration_ns = if cli.quick { cli.time.min(50_000_000) } else { cli.time };
    let base = Phase {
        kind: OPEN,
        record_bytes: u32::try_from(cli.size).unwrap_or(u32::MAX),
        duration_ns,
        in_flight: cli.in_flight.into(),
        seed: cli.seed,
        silent_ns: cli.model_latency.saturating_add(part::GAP_NS),
        ..Phase::default()
    };
    let open = |rate, record_bytes| Phase { rate, record_bytes, ..base };
    let batch = |batch, record_bytes| Phase { kind: BATCH, batch, record_bytes, ..base };
    let fill = Phase { kind: FILL, bytes: open_size, record_bytes: 4000, ..base };
    let opening = Phase { kind: OPENING, ..base };
    if let Some(rate) = cli.rate {
        return vec![Phase { rate, ..base }];
    }
    if let Some(count) = cli.batch {
        return vec![Phase { kind: BATCH, batch: count, ..base }];
    }
    if cli.goals {
        return vec![open(100_000, 128), batch(1000, 128), fill, opening];
    }
    let mut all = vec![open(10_000, 128), open(100_000, 128), open(200_000, 128)];
    all.extend([64, 1024, 4096, 16_384, 65_000].map(|size| open(10_000, size)));
    all.extend([1, 10, 100, 1000, 8000].map(|count| batch(count, 128)));
    all.extend([64, 1024, 4096, 65_000].map(|size| batch(100, size)));
    all.extend([fill, opening]);
    all
}

/// The log whose opening the goal speaks of.
const GOAL_SIZE: u64 = 1 << 30;

/// What the project promises of it.
fn goals(phases: &[Phase], outcomes: &[Outcome], open_size: u64) -> Vec<Goal> {
    let all = phases.iter().zip(outcomes);
    let mut goals = Vec::new();
    for (phase, outcome) in all {
        match phase.kind {
            OPEN if phase.rate == 100_000 && phase.record_bytes == 128 => {
                // Where cores were taken most of the time, nothing is known of the log.
                let is_quiet = outcome.quiet_rounds * 3 >= outcome.rounds;
                let got = (is_quiet && outcome.quiet_samples > 0)
                    .then_some(outcome.quiet_p99 as f64 / 1000.0);
                let what = "append p99 at 100,000/s of 128 bytes, open loop, quiet rounds, us";
                goals.push(Goal { what, got, bound: 10.0, at_most: true });
            }
            BATCH if phase.batch == 1000 && phase.record_bytes == 128 => {
                let got = outcome.appends as f64 * 1e9 / outcome.ns.max(1) as f64;
                let what = "appends/s of 128 bytes in batches of 1,000";
                goals.push(Goal { what, got: Some(got), bound: 1e6, at_most: false });
            }
            // A smaller log says nothing of it.
            OPENING if open_size >= GOAL_SIZE => {
                let got = outcome.verify_ns as f64 / outcome.open_ns.max(1) as f64;
                let what = "opening 1 GiB with a checkpoint, times faster than without";
                goals.push(Goal { what, got: Some(got), bound: 20.0, at_most: false });
            }
            _ => {}
        }
    }
    goals
}

impl Results {
    fn note(&mut self, ran: &Ran) {
        self.machine.clone_from(&ran.machine);
        if !self.device.is_empty() {
            self.device.push_str("; ");
        }
        self.device.push_str(&ran.device);
        if let Some(signal) = ran.signal {
            self.interrupted = Some(signal.exit());
        }
    }

    fn json(&self) -> Value {
        json!({
            "schema": "journal-bench/1",
            "machine": self.machine,
            "device": self.device,
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "goals": self.goals.iter().map(Goal::json).collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        sheet::text(&self.machine, &self.device, &self.rows, &self.goals)
    }
}
