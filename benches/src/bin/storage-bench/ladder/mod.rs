//! The ladder (`--ladder FILE|DEV`): one workload through the ways that Linux has, rung by rung,
//! then through this project's, with fio beside each rung of the kernel's.
//!
//! Every rung of the kernel's runs with one operation in flight and with `-q` of them, so that each
//! is compared with its like: psync has a thread for each. Ours and fio's runs of a rung take
//! turns, [`ROUNDS`] times, each as often first as the other; medians are printed, and the ratio is
//! the median of the pairs' ratios. Each run proves by a checksum that it read what the others
//! read. A rung that cannot be had here says why. What the documents of thread-per-core designs
//! expect of a step stands beside what it gave.

mod engine;
mod fio;
mod nop;
mod partition;
mod places;
mod psync;
mod rung;

use std::path::{Path, PathBuf};
use std::time::Duration;

use host_bridge::topology::Topology;
use host_bridge::uring::features::Kernel;
use host_bridge::uring::target::{Target, TargetWish};
use hybrid_benches::figures::median;
use hybrid_benches::report::{Cell, Report, Sheet};
use hybrid_conventions::Exit;

use crate::cli::RunArgs;
use crate::failure::{Failure, write_file};
use crate::values::Workload;
use engine::Buffers;
pub(crate) use rung::Load;
use rung::{Measured, Rung};

/// Pairs of runs of a rung.
const ROUNDS: usize = 5;

/// Size of a file that is made because none is there.
const FILE_BYTES: u64 = 256 << 20;

/// System calls a second of the submitting thread under SQPOLL: the goal's limit.
const MOST_CALLS: f64 = 10.0;

/// A rung must reach this share of fio's operations.
const LEAST_OF_FIO: f64 = 0.95;

/// Of the table of rungs.
const TITLES: [&str; 13] = [
    "rung",
    "depth",
    "iops",
    "p50 us",
    "p99 us",
    "p99.9 us",
    "cpu %",
    "calls/s",
    "switches/s",
    "to before",
    "expected",
    "fio iops",
    "to fio",
];

/// One rung's runs.
struct Climbed {
    rung: Rung,
    ours: Vec<Measured>,
    fio: Result<Vec<f64>, String>,
    ratio: Option<f64>,
    /// What the storage does not have of what the rung wanted.
    steps: Vec<String>,
}

/// Runs the ladder and prints it.
pub(crate) fn run(args: &RunArgs, path: &Path) -> Result<Exit, Failure> {
    let load = load(args)?;
    let made = make_file(path)?;
    let outcome = climb(args, path, load);
    if made {
        // Nothing is left to do about one that cannot be removed.
        let _ = std::fs::remove_file(path);
    }
    let report = outcome?;
    let value = report.to_json();
    if args.output.json {
        println!("{value}");
    } else {
        print!("{}", report.to_text());
    }
    if let Some(out) = &args.output.out {
        write_file(out, &format!("{value}\n"))?;
    }
    Ok(report.exit())
}

/// What every rung does.
pub(crate) fn load(args: &RunArgs) -> Result<Load, Failure> {
    let workload = args.load.workload;
    if workload == Workload::RandRw {
        return Err(Failure::error("--ladder runs reads or writes, not -w randrw"));
    }
    if workload.writes() && !args.machine.allow_writes {
        return Err(Failure::error("-w that writes would overwrite it; --allow-writes permits it"));
    }
    let topology = Topology::read();
    let cpu = args.machine.core.or_else(|| topology.suggested_core());
    let cpu = cpu.ok_or_else(two_cpus)?;
    let sq_cpu = topology.allowed.iter().find(|other| *other != cpu);
    Ok(Load {
        depth: args.load.depth.min(1024),
        bytes: args.load.bytes,
        write: workload.writes(),
        random: workload.is_random(),
        time: Duration::from_nanos(args.load.time_ns / 20).max(Duration::from_millis(20)),
        seed: args.load.seed,
        cpu,
        sq_cpu: sq_cpu.ok_or_else(two_cpus)?,
    })
}

fn two_cpus() -> Failure {
    let line =
        "the ladder needs two cpus: one that submits, one for the kernel's thread".to_owned();
    Failure { exit: Exit::Missing, line }
}

/// Makes the file if there is nothing, with every block written; whether it did.
fn make_file(path: &Path) -> Result<bool, Failure> {
    if path.exists() {
        return Ok(false);
    }
    let failed =
        |error: std::io::Error| Failure::error(format_args!("{}: {error}", path.display()));
    let mut file = std::fs::File::create_new(path).map_err(failed)?;
    let block: Vec<u8> = (0..1 << 20).map(|at: u32| at.to_le_bytes()[0] | 1).collect();
    for _ in 0..FILE_BYTES >> 20 {
        std::io::Write::write_all(&mut file, &block).map_err(failed)?;
    }
    file.sync_all().map_err(failed)?;
    Ok(true)
}

fn climb(args: &RunArgs, path: &Path, load: Load) -> Result<Report, Failure> {
    let title = format!(
        "storage-bench --ladder {}: {} of {} bytes, {} in flight",
        path.display(),
        args.load.workload.name(),
        load.bytes,
        load.depth
    );
    let mut report = Report::new("storage-bench-ladder/1", title, "storage of the host's kernel");
    let mut sheet = Sheet::new("rungs", &TITLES);
    let buffers = Buffers::for_load(load).map_err(Failure::error)?;
    let mut before = None;
    // One in flight, and as many as were asked for.
    let mut depths = vec![1, load.depth];
    depths.dedup();
    for depth in depths {
        before = climb_at(&mut report, &mut sheet, path, (Load { depth, ..load }, buffers))?;
    }
    let hz = partition::add(args, path, &mut sheet, before);
    report.tsc(hz.unwrap_or(0));
    sheet.note("cpu: of the process, the kernel's submission thread included; calls: entries into");
    sheet
        .note("the kernel of the submitting thread; a model's figures say what our software costs");
    report.add(sheet);
    let mut alone = Sheet::new("alone", &["what", "figure", "unit", "goal"]);
    counted(&mut report, &mut alone, path, (load, buffers));
    nop::add(&mut report, &mut alone, load, path);
    report.add(alone);
    Ok(report)
}

/// The rungs of the kernel's with so many in flight; the last one's operations a second.
fn climb_at(
    report: &mut Report,
    sheet: &mut Sheet,
    path: &Path,
    (load, buffers): (Load, Buffers),
) -> Result<Option<f64>, Failure> {
    let (mut first, mut before) = (None, None);
    let mut digests = None;
    for rung in Rung::ALL {
        let climbed = match one(rung, path, load, buffers) {
            Ok(climbed) => climbed,
            Err(why) => {
                sheet.note(format!("{}, depth {}: not here: {why}", rung.name(), load.depth));
                continue;
            }
        };
        let seen: Vec<_> = climbed.ours.iter().map(|run| run.digest).collect();
        if *digests.get_or_insert_with(|| seen.clone()) != seen {
            let rung = rung.name();
            let line = format_args!("{rung}: it read other data than the rungs before it");
            return Err(Failure::error(line));
        }
        seen.into_iter().for_each(|digest| report.checksum(digest));
        let iops = of(&climbed.ours, Measured::iops);
        add(sheet, report, &climbed, (load.depth, iops.zip(before).map(|(a, b)| a / b)));
        first = first.or(iops);
        before = iops;
    }
    if let Some((all, plain)) = before.zip(first) {
        sheet.note(format!(
            "depth {}: all options of the kernel over psync: {:.2} (expected 2.05, on a drive)",
            load.depth,
            all / plain
        ));
    }
    Ok(before)
}

/// The storage as a rung wants it.
fn target(rung: Rung, path: &Path, load: Load) -> Result<Target, String> {
    let mut wish = TargetWish::new(path);
    wish.write = load.write;
    wish.iopoll = matches!(rung, Rung::IoPoll | Rung::Passthrough);
    if rung == Rung::Passthrough {
        wish.path = node_of(path).ok_or("it is for NVMe namespaces, /dev/nvmeXnY")?;
        wish.passthrough = true;
    }
    let target = Target::open(&wish).map_err(|error| error.to_string())?;
    if wish.iopoll && !target.limits().iopoll {
        // Passthrough goes without polling where there are no poll queues.
        if rung == Rung::IoPoll {
            let why = target.steps.first().cloned();
            return Err(why.unwrap_or_else(|| "a file's device has no poll queues".to_owned()));
        }
    }
    Ok(target)
}

/// `/dev/nvme0n1` is `/dev/ng0n1`.
fn node_of(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?.strip_prefix("nvme")?;
    path.starts_with("/dev").then(|| Path::new("/dev").join(format!("ng{name}")))
}

fn one(rung: Rung, path: &Path, load: Load, buffers: Buffers) -> Result<Climbed, String> {
    let mut target = target(rung, path, load)?;
    let steps = std::mem::take(&mut target.steps);
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    let mut why = None;
    for round in 0..ROUNDS {
        let load = Load { seed: load.seed + round as u64, ..load };
        let mut fio = || match fio::run(rung, target.path(), load) {
            Ok(iops) => theirs.push(iops),
            Err(line) => why = Some(line),
        };
        // Whoever is second finds the machine as the first left it.
        if round % 2 == 1 {
            fio();
            ours.push(engine::run(rung, &target, load, buffers)?);
        } else {
            ours.push(engine::run(rung, &target, load, buffers)?);
            fio();
        }
    }
    let pairs: Vec<_> =
        ours.iter().zip(&theirs).map(|(mine, fio)| mine.iops() / fio.max(1.0)).collect();
    let ratio = if why.is_none() { median(&pairs) } else { None };
    Ok(Climbed { rung, ours, fio: why.map_or(Ok(theirs), Err), ratio, steps })
}

fn of(runs: &[Measured], figure: impl Fn(&Measured) -> f64) -> Option<f64> {
    median(&runs.iter().map(figure).collect::<Vec<_>>())
}

fn add(
    sheet: &mut Sheet,
    report: &mut Report,
    climbed: &Climbed,
    (depth, to_before): (u32, Option<f64>),
) {
    let Climbed { rung, ours, fio, ratio, steps } = climbed;
    let us = |ppm| of(ours, |m| m.latency_ns(ppm) / 1000.0);
    let fio_cell = match fio {
        Ok(iops) => Cell::maybe(median(iops), 0),
        Err(line) => Cell::from(line.as_str()),
    };
    sheet.row(vec![
        rung.name().into(),
        u64::from(depth).into(),
        Cell::maybe(of(ours, Measured::iops), 0),
        Cell::maybe(us(500_000), 1),
        Cell::maybe(us(990_000), 1),
        Cell::maybe(us(999_000), 1),
        Cell::maybe(of(ours, Measured::cpu_percent), 0),
        Cell::maybe(of(ours, Measured::calls_per_s), 1),
        Cell::maybe(of(ours, Measured::switches_per_s), 1),
        Cell::maybe(to_before, 2),
        rung.expected().into(),
        fio_cell,
        Cell::maybe(*ratio, 2),
    ]);
    let name = format!("{}, depth {depth}", rung.name());
    let lost = steps.iter().chain(ours.iter().flat_map(|run| &run.steps));
    let mut lost: Vec<_> = lost.collect();
    lost.sort();
    lost.dedup();
    lost.into_iter().for_each(|step| sheet.note(format!("{name}: {step}")));
    // Without fio there is nothing to be as fast as.
    if ratio.is_some() {
        report.goal(format!("{name}: operations of fio's"), *ratio, LEAST_OF_FIO);
    }
    if rung.polls_submissions() {
        let calls = of(ours, Measured::calls_per_s);
        report.goal_most(format!("{name}: system calls a second"), calls, MOST_CALLS);
    }
}

/// Under SQPOLL once more, with the kernel itself counting each system call of the thread.
fn counted(report: &mut Report, sheet: &mut Sheet, path: &Path, (load, buffers): (Load, Buffers)) {
    let counted =
        target(Rung::SqPoll, path, load).and_then(|target| engine::counted(&target, load, buffers));
    match counted {
        Ok((calls, seconds)) => {
            let per_s = calls as f64 / seconds;
            let what = "SQPOLL, system calls a second, counted by a seccomp listener";
            nop::row(sheet, what, per_s, "1/s", "below 10");
            report.goal_most(what, Some(per_s), MOST_CALLS);
        }
        Err(why) => sheet.note(format!("system calls are not counted here: {why}")),
    }
}

/// The kernel that this runs on, for reasons.
fn kernel() -> Kernel {
    Kernel::read(Path::new("/"))
}
