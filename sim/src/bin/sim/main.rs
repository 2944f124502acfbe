//! `sim`: the simulation from a command line. `cargo xtask sim` runs it.

#![forbid(unsafe_code)]

mod children;
mod cli;
mod record;
mod stop;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser as _;
use hybrid_conventions::{Exit, not_started};
use hybrid_sim::{
    CATALOGUE, HEADING, Limit, Outcome, Plan, Shape, Total, Watch, campaign, run, shrink,
};

use crate::cli::Cli;

/// Runs that shrinking may take.
const SHRINK_RUNS: u32 = 4_000;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_started(&error),
    };
    let exit = act(&cli).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        Exit::Error
    });
    ExitCode::from(exit.code())
}

fn act(cli: &Cli) -> Result<Exit, String> {
    if cli.list_faults {
        for kind in CATALOGUE {
            println!("{:24} row {:2} of docs/faults.md", kind.name, kind.row);
        }
        return Ok(Exit::Ok);
    }
    let shape = cli.shape();
    if let Some(file) = &cli.bisect {
        return record::bisect(file);
    }
    let plan = match &cli.repro {
        Some(file) => Plan::parse(&read(file)?).map_err(|error| place(file, &error))?,
        None => shape.plan(0)?,
    };
    if let Some(file) = &cli.record {
        return record::record(&plan, file);
    }
    if cli.repro.is_some() || cli.trace.is_some() {
        return one(cli, &plan);
    }
    stop::install()?;
    if cli.lines {
        return in_this_process(cli, &shape);
    }
    children::campaign(cli)
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| place(file, &error.to_string()))
}

fn place(file: &Path, error: &str) -> String {
    format!("{}: {error}", file.display())
}

/// One run, with its timeline if that was asked for.
fn one(cli: &Cli, plan: &Plan) -> Result<Exit, String> {
    let timeline = cli.trace.unwrap_or(0);
    let start = Instant::now();
    let outcome = run(plan, Watch { timeline, check_every: 0 });
    if timeline != 0 {
        println!("{HEADING}");
        outcome.timeline.iter().for_each(|event| println!("{event}"));
    }
    let mut total = Total::default();
    total.add(&outcome);
    total.took = start.elapsed();
    println!("{total}");
    println!("trace hash {:016x}, state hash {:016x}", outcome.trace_hash, outcome.state_hash);
    match &outcome.violation {
        None if cli.repro.is_some() => Ok(Exit::Ok),
        None => Ok(all_reached(&total, &cli.shape())),
        Some(what) => {
            told(cli, plan, what)?;
            Ok(Exit::Error)
        }
    }
}

/// Says what should have been reached and was not.
fn all_reached(total: &Total, shape: &Shape) -> Exit {
    let missing = total.missing(shape);
    if missing.is_empty() {
        return Exit::Ok;
    }
    println!("never reached: {}", missing.join(", "));
    Exit::Error
}

/// Says what was wrong, leaves a bundle, and shrinks it if that was asked for.
fn told(cli: &Cli, plan: &Plan, what: &str) -> Result<(), String> {
    println!("violation: {what}");
    let save = |plan: &Plan, what: &str, name: &str| {
        fs::create_dir_all(&cli.bundles)
            .map_err(|error| place(&cli.bundles, &error.to_string()))?;
        let file = cli.bundles.join(format!("seed-{}{name}.plan", plan.seed));
        let (head, rest) = plan.to_text().split_once('\n').map_or_else(
            || (String::new(), String::new()),
            |(head, rest)| (head.to_owned(), rest.to_owned()),
        );
        let text = format!("{head}\n# {}\n{rest}", what.replace('\n', " "));
        fs::write(&file, text).map_err(|error| place(&file, &error.to_string()))?;
        println!("repeat it with: cargo xtask sim --repro {}", file.display());
        Ok::<_, String>(())
    };
    save(plan, what, "")?;
    if cli.shrink {
        let Some(small) = shrink(plan, SHRINK_RUNS) else {
            return Err(
                "the plan that failed does not fail again: that is a bug of the simulation"
                    .to_owned(),
            );
        };
        println!(
            "shrunk in {} runs to {} operations and {} faults: {}",
            small.runs,
            small.plan.kept(),
            small.plan.faults.len(),
            small.violation
        );
        save(&small.plan, &small.violation, "-small")?;
    }
    Ok(())
}

/// The runs of a campaign in this process, for a parent that reads lines.
fn in_this_process(cli: &Cli, shape: &Shape) -> Result<Exit, String> {
    let limit = cli.runs.map_or_else(|| cli.limit(), Limit::Runs);
    let each = |_: &Total, _: &Plan, _: &Outcome| stop::exit().is_none();
    let (total, violation) = campaign(shape, limit, each)?;
    children::print_lines(&total);
    match violation {
        None => Ok(Exit::Ok),
        Some((plan, what)) => {
            told(cli, &plan, &what)?;
            Ok(Exit::Error)
        }
    }
}

/// How often a campaign says how it is getting on.
const TELL_EVERY: Duration = Duration::from_secs(10);
