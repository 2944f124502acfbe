//! `--report`: the run as a page with charts, and what they show as files beside it.

mod steps;

use std::fmt::Write as _;
use std::path::Path;

use host_bridge::page::latency::{self, Curve, by_percentile, over_time, tail, us};
use host_bridge::page::svg::{Scale, short, steps};
use host_bridge::page::{Beside, Distribution, begin, end, section, table, tiles};
use hybrid_conventions::{Count, HumanBytes, HumanNanos, Si};

use crate::cli::MachineArgs;
use crate::course::{Course, Piece};
use crate::failure::Failure;
use crate::report::{Driver, Report};

pub(crate) use steps::{STEPS, Step};

/// What the charts show beside the report.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) course: Course,
    pub(crate) reads: Distribution,
    pub(crate) writes: Distribution,
    pub(crate) singles: Distribution,
    pub(crate) passes: Distribution,
    pub(crate) stolen: Distribution,
    pub(crate) exceeded: Distribution,
    /// What the steps of the replay took; empty where nothing was replayed from a feed.
    pub(crate) steps: [(Step, Distribution); STEPS.len()],
    /// What others measured.
    pub(crate) beside: Vec<Beside>,
}

/// A value of a piece, and the class of its line.
type Line = (&'static str, fn(&Piece) -> Option<f64>);

impl Shown {
    fn curves(&self) -> Vec<Curve<'_>> {
        let all = [
            ("p50", "reads in the window", &self.reads),
            ("p99", "writes in the window", &self.writes),
            ("all", "single reads", &self.singles),
        ];
        let own = all.into_iter().map(|(class, name, values)| Curve { class, name, values });
        let own = own.filter(|curve| curve.values.count() != 0);
        own.chain(self.beside.iter().map(Beside::curve)).collect()
    }
}

/// What a page is made from, if one is asked for: whether it can be written is known before
/// anything runs for it.
pub(crate) fn prepare(machine: &MachineArgs) -> Result<(Option<Course>, Vec<Beside>), Failure> {
    if let Some(path) = &machine.report {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if folder.is_some_and(|folder| !folder.is_dir()) || path.is_dir() {
            return Err(Failure::error(format_args!(
                "--report: {} is not written: it has to be a file in a folder that is there",
                path.display()
            )));
        }
    }
    let beside = Beside::read(&machine.report_beside)
        .map_err(|why| Failure::error(format_args!("--report-beside: {why}")))?;
    Ok((machine.report.as_ref().map(|_| Course::new()), beside))
}

/// Writes the page, `.csv` with its pieces, `.steps.csv` with the steps of the replay, and `.hgrm`
/// for reads, writes and each step.
pub(crate) fn write(path: &Path, report: &Report, shown: &Shown) -> Result<(), Failure> {
    let put = |path: &Path, text: &str| {
        std::fs::write(path, text).map_err(|error| {
            Failure::error(format_args!("--report: {} is not written: {error}", path.display()))
        })
    };
    put(path, &page(report, shown))?;
    put(&path.with_extension("csv"), &csv(shown.course.pieces()))?;
    if steps::are_measured(&shown.steps) {
        put(&path.with_extension("steps.csv"), &steps::csv(&shown.steps))?;
    }
    let own = shown.steps.iter().filter(|(step, _)| step.is_own());
    let steps = own.map(|(step, values)| (step.name, values));
    for (name, values) in
        [("reads", &shown.reads), ("writes", &shown.writes)].into_iter().chain(steps)
    {
        if values.count() != 0 {
            put(&path.with_extension(format!("{name}.hgrm")), &values.hgrm())?;
        }
    }
    Ok(())
}

fn page(report: &Report, shown: &Shown) -> String {
    let device = &report.device;
    let (badge, means) = match device.is_model {
        true => ("model", "A software model of a controller: figures say what our software costs."),
        false => ("device", "Measured on the storage that is named below."),
    };
    let mut out = begin("feed-handler", badge, &report.title, means);
    out.push_str(&top_tiles(report, shown));
    let curves = shown.curves();
    if !curves.is_empty() {
        let keys: Vec<_> = curves.iter().map(|curve| (curve.class, curve.name)).collect();
        let words = "Each step to the right is ten times rarer. A curve ends with its greatest \
                     sample.";
        out.push_str(&section("Latency by percentile", &keys, &by_percentile(&curves), words));
        let words = "The share of commands above each latency (one minus the empirical \
                     distribution function), both axes logarithmic.";
        out.push_str(&section("How many were slower", &keys, &tail(&curves), words));
    }
    course(&mut out, shown.course.pieces());
    out.push_str(&stages(report));
    out.push_str(&steps::section(&shown.steps));
    out.push_str(&quiet(report, shown));
    out.push_str(&facts(report));
    let help = "docs/observability.md explains each figure.";
    out.push_str(&end("feed-handler", env!("CARGO_PKG_VERSION"), help));
    out
}

fn top_tiles(report: &Report, shown: &Shown) -> String {
    let rate = |per_second: u64| format!("{}/s", Si(per_second));
    let mut all = Vec::new();
    for (name, phase) in [("replayed", report.replay), ("ingested", report.ingest)] {
        if let Some(phase) = phase {
            let below = format!("messages, {}/s", HumanBytes(phase.bytes_per_second));
            all.push((name, rate(phase.messages_per_second), below));
        }
    }
    let reads = &shown.reads;
    if reads.count() != 0 {
        let at = |ppm| HumanNanos(reads.quantile(ppm)).to_string();
        all.push(("reads, p50", at(500_000), format!("{} samples", Count(reads.count()))));
        all.push(("reads, p99", at(990_000), format!("max {}", HumanNanos(reads.max_ns()))));
    }
    let core = &report.core;
    let share = 100.0 * core.stolen_ns as f64 / core.ran_ns.max(1) as f64;
    let below = format!("in {} gaps", Count(core.stolen_gaps));
    all.push(("core taken away", format!("{share:.2} %"), below));
    tiles(&all)
}

/// The charts whose horizontal axis is time.
fn course(out: &mut String, pieces: &[Piece]) {
    if pieces.len() < 2 {
        return;
    }
    let per_second = |piece: &Piece, bytes: u64| {
        let seconds = (piece.to - piece.from).as_secs_f64().max(1e-9);
        bytes as f64 / seconds / f64::from(1 << 20)
    };
    let most = pieces
        .iter()
        .map(|piece| per_second(piece, piece.written_bytes.max(piece.read_bytes)))
        .fold(1.0, f64::max);
    let times: Vec<_> = pieces.iter().map(time_of).collect();
    let mut chart = over_time(&times, Scale::Linear(0.0, most * 1.1), "feed bytes a second");
    let ticks = steps(most * 1.1).into_iter();
    let ticks: Vec<_> = ticks.map(|at| (at, format!("{} MiB/s", short(at)))).collect();
    chart.y_ticks(&ticks, "feed");
    let lines: [Line; 2] = [
        ("p99", |piece| Some(piece.written_bytes as f64)),
        ("p50", |piece| Some(piece.read_bytes as f64)),
    ];
    for (class, of) in lines {
        let scale = |piece: &Piece| {
            let seconds = (piece.to - piece.from).as_secs_f64().max(1e-9);
            of(piece).map(|bytes| bytes / seconds / f64::from(1 << 20))
        };
        chart.line(class, &points(pieces, scale));
    }
    let keys = [("p99", "written"), ("p50", "read"), ("stolen", "core taken away")];
    let words = "What of the feed was written and read, piece by piece. Shaded: time that the core \
                 was taken away, the darker the more. What comes after the feed's end is the \
                 measurement of single reads.";
    out.push_str(&section("Throughput over time", &keys, &chart.finish(), words));

    let max = pieces.iter().filter_map(|piece| piece.quantile(1_000_000)).max();
    let min = pieces.iter().filter_map(|piece| piece.quantile(500_000)).min();
    let (Some(max), Some(min)) = (max, min) else { return };
    let (low, high) = (us(min) * 0.8, us(max) * 1.2);
    let mut chart = over_time(&times, Scale::Log(low, high), "latency over time");
    chart.y_ticks(&latency::ticks(low, high), "latency");
    let lines: [Line; 3] = [
        ("max", |piece| piece.quantile(1_000_000).map(us)),
        ("p99", |piece| piece.quantile(990_000).map(us)),
        ("p50", |piece| piece.quantile(500_000).map(us)),
    ];
    for (class, of) in lines {
        chart.line(class, &points(pieces, of));
    }
    let keys = [("p50", "p50"), ("p99", "p99"), ("max", "max"), ("stolen", "core taken away")];
    let words = "Median, p99 and greatest latency of each piece's sampled commands.";
    out.push_str(&section("Latency over time", &keys, &chart.finish(), words));
}

fn points(pieces: &[Piece], of: impl Fn(&Piece) -> Option<f64>) -> Vec<(f64, f64)> {
    pieces.iter().filter_map(|piece| Some((time_of(piece).middle(), of(piece)?))).collect()
}

fn time_of(piece: &Piece) -> latency::Piece {
    let (from, to) = (piece.from.as_secs_f64(), piece.to.as_secs_f64());
    latency::Piece { from, to, stolen: piece.stolen_ns as f64 / 1e9 / (to - from).max(1e-9) }
}

fn stages(report: &Report) -> String {
    let title = ["", "messages", "bytes", "time", "messages/s", "bytes/s"].map(str::to_owned);
    let mut rows = vec![title.to_vec()];
    for (name, phase) in [("ingest", report.ingest), ("replay", report.replay)] {
        if let Some(phase) = phase {
            rows.push(vec![
                name.to_owned(),
                Count(phase.messages).to_string(),
                HumanBytes(phase.bytes).to_string(),
                HumanNanos(phase.ns).to_string(),
                Si(phase.messages_per_second).to_string(),
                format!("{}/s", HumanBytes(phase.bytes_per_second)),
            ]);
        }
    }
    let mut out = table("Stages", &rows);
    let driver = &report.driver;
    let ticks = |ticks: Option<f64>| ticks.map_or("not measured".to_owned(), |t| format!("{t:.0}"));
    let rows = [
        ("commands", Count(driver.commands).to_string()),
        ("failed, retried, read again, resets", {
            let Driver { failed, retried, repeated, resets, .. } = driver;
            format!("{failed}, {retried}, {repeated}, {resets}")
        }),
        ("to submit, TSC ticks", ticks(driver.submit_cycles)),
        ("to complete, TSC ticks", ticks(driver.complete_cycles)),
        ("events to the host", Count(report.ring.events).to_string()),
        ("of these dropped", Count(report.ring.dropped).to_string()),
    ];
    out.push_str(&table("Driver and ring", &pairs(&rows)));
    out
}

fn pairs(rows: &[(&str, String)]) -> Vec<Vec<String>> {
    rows.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]).collect()
}

/// How quiet the core was.
fn quiet(report: &Report, shown: &Shown) -> String {
    let title = ["", "samples", "p50", "p99", "p99.9", "p99.99", "max"].map(str::to_owned);
    let mut rows = vec![title.to_vec()];
    for (name, values) in [
        ("pass to pass", &shown.passes),
        ("stolen gaps", &shown.stolen),
        ("over budget by", &shown.exceeded),
    ] {
        let time =
            |ns| if values.count() == 0 { "-".to_owned() } else { HumanNanos(ns).to_string() };
        let mut row = vec![name.to_owned(), Count(values.count()).to_string()];
        let quantiles = [500_000, 990_000, 999_000, 999_900];
        row.extend(quantiles.into_iter().map(|ppm| time(values.quantile(ppm))));
        row.push(time(values.max_ns()));
        rows.push(row);
    }
    let mut out = table("How quiet the core was", &rows);
    let core = &report.core;
    let counted = |count: Option<u64>| count.map_or("not counted".to_owned(), |n| n.to_string());
    let rows = [
        ("ran", HumanNanos(core.ran_ns).to_string()),
        ("passes", Count(core.passes).to_string()),
        ("taken by others", HumanNanos(core.stolen_ns).to_string()),
        ("preempted", format!("{} times", report.silence.involuntary_switches)),
        ("page faults", report.silence.page_faults.to_string()),
        ("heap allocations", counted(report.silence.heap_allocations)),
        ("system calls", counted(report.silence.system_calls)),
    ];
    out.push_str(&table("The loop", &pairs(&rows)));
    out
}

fn facts(report: &Report) -> String {
    let (device, machine) = (&report.device, &report.machine);
    let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
    let rows = [
        ("device", device.backend.clone()),
        ("controller", format!("{} {}", device.model_number, device.firmware)),
        ("namespace", {
            let (all, lba) = (HumanBytes(device.namespace_bytes), HumanBytes(device.lba_bytes));
            format!("{all} in blocks of {lba}")
        }),
        ("queue depth", device.queue_depth.to_string()),
        ("processor", machine.cpu_model.clone()),
        ("CPUs", machine.cpus.to_string()),
        ("partition", format!("CPU {} ({})", machine.partition_cpu, machine.isolation)),
        ("isolated", yes(machine.partition_cpu_isolated)),
        ("governor", machine.governor.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("virtual machine", yes(machine.virtual_machine)),
        ("kernel", machine.kernel.clone()),
        ("TSC", format!("{:.3} GHz", machine.tsc_hz as f64 / 1e9)),
        ("DMA memory", {
            let pages = HumanBytes(machine.page_bytes);
            format!("{} in pages of {pages}", HumanBytes(machine.dma_bytes))
        }),
    ];
    table("Machine", &pairs(&rows))
}

/// The pieces, a line each.
fn csv(pieces: &[Piece]) -> String {
    let mut out = String::from(
        "from_ns,to_ns,written_bytes,read_bytes,commands,io_bytes,stolen_ns,p50_ns,p99_ns,max_ns\n",
    );
    for piece in pieces {
        let at = |ppm| piece.quantile(ppm).map_or_else(String::new, |ns| ns.to_string());
        let _ = writeln!(
            out,
            "{},{},{},{},{},{},{},{},{},{}",
            piece.from.as_nanos(),
            piece.to.as_nanos(),
            piece.written_bytes,
            piece.read_bytes,
            piece.commands,
            piece.io_bytes,
            piece.stolen_ns,
            at(500_000),
            at(990_000),
            at(1_000_000),
        );
    }
    out
}
