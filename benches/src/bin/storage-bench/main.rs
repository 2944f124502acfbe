//! `storage-bench`: NVMe I/O through this project's driver, measured.
//!
//! The host's side parses the command line, chooses the device, starts one partition, hears it and
//! prints. What happens on the partition's core is in [`part`]. The same phases serve single runs,
//! the proposal's table and the suite.

#![forbid(unsafe_code)]

mod cli;
mod compare;
mod device;
mod echo;
mod failure;
mod fio;
mod flags;
mod html;
mod in_turn;
mod job;
mod json;
mod ladder;
mod launch;
mod own_server;
mod part;
mod proposal;
mod stepped;
mod stepped_run;
mod suite;
mod suite_sheets;
mod summary;
mod text;
mod values;
mod wire;

use std::process::ExitCode;

use clap::CommandFactory as _;
use host_bridge::page::Beside;
use hybrid_conventions::Exit;
use hybrid_conventions::config::parsed;

use cli::{Cli, Command, OutputArgs, RunArgs};
use failure::{Failure, check_folders, write_file};

host_bridge::partition_main! {
    entries: [launch::ENTRY],
    main: host,
}

/// The program, unless it is a partition of itself.
fn host() -> ExitCode {
    let (cli, matches) = match parsed::<Cli>(Cli::command(), &cli::RULES) {
        Ok(parsed) => parsed,
        Err(exit) => return exit,
    };
    let outcome = match &cli.command {
        None => flags::check(&matches, &cli.run).and_then(|()| run(&cli.run)),
        Some(Command::Suite(args)) => check_folders([&args.out]).and_then(|()| suite::run(args)),
        Some(Command::Compare { a, b, json }) => compare::run(a, b, *json),
    };
    match outcome {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(Failure { exit, line }) => {
            eprintln!("storage-bench: {line}");
            ExitCode::from(exit.code())
        }
    }
}

/// A single run.
fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let OutputArgs { out, report, csv, .. } = &args.output;
    check_folders([out, report, csv])?;
    let beside = Beside::read(&args.output.report_beside)
        .map_err(|why| Failure::error(format_args!("--report-beside: {why}")))?;
    if args.mode.stepped {
        return stepped(args);
    }
    if let Some(path) = &args.mode.ladder {
        return ladder::run(args, path);
    }
    if args.mode.proposal {
        return proposal(args);
    }
    let (setup, about) = job::setup(args)?;
    let ran = launch::run(setup)?;
    let main = &ran.phases[about];
    let output = &args.output;
    let result = json::result(args, &ran, main);
    if output.json {
        println!("{result:#}");
    } else if output.fio_json {
        println!("{:#}", json::fio(args, &ran, main));
    } else {
        print!("{}", text::screen(args, &ran, main));
    }
    if let Some(path) = &output.out {
        write_file(path, &format!("{result:#}\n"))?;
    }
    if let Some(path) = &output.csv {
        write_file(path, &json::csv(&ran, main))?;
    }
    if let Some(path) = &output.report {
        write_file(path, &html::page(args, &ran, main, &beside))?;
        write_file(&path.with_extension("csv"), &json::csv(&ran, main))?;
        if let Some(file) = html::percentile_file(&ran, main) {
            write_file(&path.with_extension("hgrm"), &file)?;
        }
    }
    ran.check_allocations()?;
    verdict(&ran, main)
}

/// What the exit code says: signals first, then findings.
fn verdict(ran: &launch::Ran, main: &launch::PhaseRun) -> Result<Exit, Failure> {
    let wrong: u64 =
        main.samples.iter().map(|s| s.misdirected + s.torn + s.stale + s.corrupt).sum();
    match ran.signal {
        Some(signal) => Ok(signal.exit()),
        None if wrong != 0 => {
            Err(Failure::error(format_args!("{wrong} blocks hold other data than they should")))
        }
        None => Ok(Exit::Ok),
    }
}

fn stepped(args: &RunArgs) -> Result<Exit, Failure> {
    let run = stepped_run::measure(stepped_run::Work::of(args))?;
    let result = run.json();
    if args.output.json {
        println!("{result:#}");
    } else {
        print!("{}", run.screen());
    }
    if let Some(path) = &args.output.out {
        write_file(path, &format!("{result:#}\n"))?;
    }
    stepped_run::SteppedRun::check_allocations()?;
    Ok(Exit::Ok)
}

fn proposal(args: &RunArgs) -> Result<Exit, Failure> {
    let fio =
        (fio::Target::new(args.mode.baseline.as_deref()), proposal::fio_seconds(args.load.time_ns));
    let ran = launch::run(proposal::setup(args)?)?;
    let closed = |stamped| {
        let wanted = |run: &&launch::PhaseRun| {
            run.phase.kind == wire::CLOSED && run.phase.warm_up == 0 && run.phase.stamped == stamped
        };
        ran.phases.iter().find(wanted).ok_or_else(|| Failure::error("the run was stopped"))
    };
    let table = proposal::Proposal::new(&ran, (closed(1)?, closed(0)?), Some(fio));
    let mut value = table.json();
    if let Some(object) = value.as_object_mut() {
        object.insert("schema".into(), "storage-bench-proposal/1".into());
        object.insert("machine".into(), json::machine(&ran));
    }
    if args.output.json {
        println!("{value:#}");
    } else {
        let mut out = String::new();
        text::head(&mut out, "the proposal's table", &ran);
        out.push_str(&table.text());
        text::noise(&mut out, &ran);
        print!("{out}");
    }
    if let Some(path) = &args.output.out {
        write_file(path, &format!("{value:#}\n"))?;
    }
    ran.check_allocations()?;
    let unmeasured = table.unmeasured();
    match ran.signal {
        Some(signal) => Ok(signal.exit()),
        None if !unmeasured.is_empty() => Err(Failure::error(format_args!(
            "not measured: {}; no read was seen whole, lengthen -t",
            unmeasured.join(", ")
        ))),
        None if table.missed() => Ok(Exit::Threshold),
        None => Ok(Exit::Ok),
    }
}
