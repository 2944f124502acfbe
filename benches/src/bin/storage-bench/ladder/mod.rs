//! The ladder (`--ladder FILE|DEV`): one workload through the ways that Linux has, rung by rung,
//! then through this project's, with fio beside each rung of the kernel's.
//!
//! Ours and fio's runs of a rung take turns, [`ROUNDS`] times; medians are printed, and the ratio
//! is the median of the pairs' ratios. A rung that cannot be had here says why. What the documents
//! of thread-per-core designs expect of a step stands beside what it gave.

mod engine;
mod fio;
mod nop;

use std::path::{Path, PathBuf};
use std::time::Duration;

use host_bridge::topology::Topology;
use host_bridge::uring::features::Kernel;
use host_bridge::uring::target::{Target, TargetWish};
use hybrid_benches::figures::{Series, median};
use hybrid_benches::hist::Hist;
use hybrid_benches::report::{Cell, Report, Sheet};
use hybrid_conventions::Exit;

use crate::cli::RunArgs;
use crate::failure::{Failure, write_file};
use crate::values::Workload;
use crate::{job, launch, summary};
pub(crate) use engine::Load;
use engine::{Measured, Rung};

/// Pairs of runs of a rung.
const ROUNDS: usize = 5;

/// Size of a file that is made because none is there.
const FILE_BYTES: u64 = 256 << 20;

/// System calls a second of the submitting thread under SQPOLL: the goal's limit.
const MOST_CALLS: f64 = 10.0;

/// A rung must reach this share of fio's operations.
const LEAST_OF_FIO: f64 = 0.95;

/// One rung's runs.
struct Climbed {
    rung: Rung,
    ours: Vec<Measured>,
    fio: Result<Vec<f64>, String>,
    ratio: Option<f64>,
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
    let mut sheet = Sheet::new(
        "rungs",
        &[
            "rung",
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
        ],
    );
    let mut before: Option<f64> = None;
    let mut first: Option<f64> = None;
    let mut last: Option<f64> = None;
    for rung in Rung::ALL {
        match one(rung, path, load) {
            Err(why) => sheet.note(format!("{}: not here: {why}", rung.name())),
            Ok(climbed) => {
                let iops = of(&climbed.ours, |m| m.iops());
                add(&mut sheet, &mut report, &climbed, iops.zip(before).map(|(a, b)| a / b));
                first = first.or(iops);
                (before, last) = (iops, iops);
            }
        }
    }
    let hz = partition_rungs(args, path, &mut sheet, before);
    report.tsc(hz.unwrap_or(0));
    if let Some((all, plain)) = last.zip(first) {
        sheet.note(format!(
            "all options of the kernel over psync: {:.2} (expected 2.05, on a drive)",
            all / plain
        ));
    }
    sheet.note("cpu: of the process, the kernel's submission thread included; calls: entries into");
    sheet
        .note("the kernel of the submitting thread; a model's figures say what our software costs");
    report.add(sheet);
    let mut alone = Sheet::new("alone", &["what", "figure", "unit", "goal"]);
    counted(&mut report, &mut alone, path, load);
    nop::add(&mut report, &mut alone, load, path);
    report.add(alone);
    Ok(report)
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

fn one(rung: Rung, path: &Path, load: Load) -> Result<Climbed, String> {
    let target = target(rung, path, load)?;
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    let mut why = None;
    for round in 0..ROUNDS {
        let load = Load { seed: load.seed + round as u64, ..load };
        ours.push(engine::run(rung, &target, load)?);
        match fio::run(rung, target.path(), load) {
            Ok(iops) => theirs.push(iops),
            Err(line) => why = Some(line),
        }
    }
    let pairs: Vec<_> =
        ours.iter().zip(&theirs).map(|(mine, fio)| mine.iops() / fio.max(1.0)).collect();
    let ratio = if why.is_none() { median(&pairs) } else { None };
    Ok(Climbed { rung, ours, fio: why.map_or(Ok(theirs), Err), ratio })
}

fn of(runs: &[Measured], figure: impl Fn(&Measured) -> f64) -> Option<f64> {
    median(&runs.iter().map(figure).collect::<Vec<_>>())
}

fn add(sheet: &mut Sheet, report: &mut Report, climbed: &Climbed, to_before: Option<f64>) {
    let Climbed { rung, ours, fio, ratio } = climbed;
    let us = |ppm| of(ours, |m| m.latency_ns(ppm) / 1000.0);
    let fio_cell = match fio {
        Ok(iops) => Cell::maybe(median(iops), 0),
        Err(line) => Cell::from(line.as_str()),
    };
    sheet.row(vec![
        rung.name().into(),
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
    // Without fio there is nothing to be as fast as.
    if ratio.is_some() {
        report.goal(format!("{}: operations of fio's", rung.name()), *ratio, LEAST_OF_FIO);
    }
    if rung.polls_submissions() {
        let calls = of(ours, Measured::calls_per_s);
        report.goal_most(format!("{}: system calls a second", rung.name()), calls, MOST_CALLS);
    }
    ours.iter().for_each(|run| report.checksum(run.done()));
}

/// Under SQPOLL once more, with the kernel itself counting each system call of the thread.
fn counted(report: &mut Report, sheet: &mut Sheet, path: &Path, load: Load) {
    let counted =
        target(Rung::SqPoll, path, load).and_then(|target| engine::counted(&target, load));
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

/// The same blocks through a partition: over the bridge, and through our driver on the model, or on
/// the device that was named. Returns the frequency of the counter, which partitions find out.
fn partition_rungs(
    args: &RunArgs,
    path: &Path,
    sheet: &mut Sheet,
    mut before: Option<f64>,
) -> Option<u64> {
    let mut hz = None;
    let file = path.is_file();
    let mut devices = vec![format!("uring:{}", path.display())];
    if args.machine.device != "model" {
        devices.push(args.machine.device.clone());
    } else if file {
        devices.push(format!("model:{}", path.display()));
    } else {
        sheet.note("model: not here: its image is a file; name a file, or another --device");
    }
    for device in devices {
        let mut run = args.clone();
        run.machine.device.clone_from(&device);
        run.output.latency = 1;
        let ran = job::setup(&run).and_then(|(setup, about)| Ok((launch::run(setup)?, about)));
        let (ran, about) = match ran {
            Ok(ran) => ran,
            Err(failure) => {
                sheet.note(format!("{device}: not here: {}", failure.line));
                continue;
            }
        };
        hz = Some(ran.clock.hz());
        let Some(figures) = summary::Load::of(&ran, &ran.phases[about]) else { continue };
        // On a machine that is busy no window may be clean: then all of it counts.
        let iops = figures.iops.median().or(Some(figures.wall_iops));
        let mut all = Hist::new();
        figures.all.iter().for_each(|hist| all.merge(hist));
        let us = |series: &Series, ppm| {
            let whole = || (all.count() != 0).then(|| ran.ns(all.quantile(ppm) as f64));
            series.median().or_else(whole).map(|ns| ns / 1000.0)
        };
        sheet.row(vec![
            format!("partition, {}", device.split(':').next().unwrap_or("model")).into(),
            Cell::maybe(iops, 0),
            Cell::maybe(us(&figures.p50_ns, 500_000), 1),
            Cell::maybe(us(&figures.p99_ns, 990_000), 1),
            Cell::maybe(us(&figures.p999_ns, 999_000), 1),
            Cell::None,
            // Nobody counts the partition's here; `feed-handler --check-silence` does.
            Cell::None,
            Cell::None,
            Cell::maybe(iops.zip(before).map(|(a, b)| a / b), 2),
            "".into(),
            Cell::None,
            Cell::None,
        ]);
        before = iops.or(before);
    }
    hz
}

/// The kernel that this runs on, for reasons.
fn kernel() -> Kernel {
    Kernel::read(Path::new("/"))
}
