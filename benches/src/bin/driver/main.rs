//! The driver's speed on the controller model: a core for each side, and both on one core.
//!
//! The partition runs on one CPU, the model's thread on another, as in the feed handler. Closed
//! loops of random 4 KiB reads over a namespace whose blocks are a computed header only, and over
//! 256 MiB of memory of which every byte is copied; bursts; futures through the scheduler; and the
//! pure software cost with the model stepped on the same core.

#![forbid(unsafe_code)]

mod entry;
mod flow;
mod stepped;
mod window;
mod wire;

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use core_runtime::metrics::MetricsReader;
use host_bridge::affinity::{allowed, pin_to};
use host_bridge::backend::model::ModelBackend;
use host_bridge::memory::MemorySource;
use host_bridge::sys::memfd::PageSize;
use host_bridge::warnings::Warnings;
use host_bridge::{Entry, PartitionSpec, Runtime};
use hybrid_benches::cli::{self, Args};
use hybrid_benches::figures::{Series, median};
use hybrid_benches::report::{Cell, Report, Sheet};
use hybrid_conventions::CpuSet;
use nvme_model::{Backing, Idle, ModelConfig, ModelGauges, NamespaceConfig};
use zerocopy::{FromBytes, IntoBytes};

use crate::wire::{
    BURST, BURSTS, DEPTHS, IDLE, KIND_SAMPLE, Plan, RAW, READ_BYTES, Sample, TASK_DEPTHS, TASKS,
    VERIFIED, latency_name,
};

/// The pattern of the null namespace.
const PATTERN: u32 = 7;

/// Reads a second from the null namespace, and from memory with every byte copied.
const NULL_GOAL: f64 = 2.0;
const MEMORY_GOAL: f64 = 1.3;

/// Fewest clean windows that make a repetition count.
const LEAST_WINDOWS: u32 = 4;

const TITLE: &str = "driver: random 4 KiB reads on the controller model";

fn main() -> ExitCode {
    cli::main(bench)
}

fn bench(args: &Args) -> Result<Report> {
    let mut report = Report::new("bench-driver/1", TITLE, "model");
    let cpus = allowed();
    let cpu = args.core.or_else(|| cpus.iter().last()).context("no cpu")?;
    if cpus.len() < 2 {
        println!("closed loops: not run, this process may use one cpu only");
    } else {
        for namespace in ["null", "memory"] {
            if args.wants(namespace) {
                on_two_cores(args, cpu, namespace, &mut report)?;
            }
        }
    }
    if args.wants("stepped") {
        pin_to(cpu)?;
        on_one_core(args, &mut report)?;
    }
    Ok(report)
}

// ---- a core for each side ----------------------------------------------------------------------

/// What a partition sent.
struct Measured {
    samples: Vec<Sample>,
    latencies: Vec<Option<[u64; 5]>>,
    hz: u64,
    checksum: u64,
}

fn on_two_cores(args: &Args, cpu: u32, namespace: &str, report: &mut Report) -> Result<()> {
    let measured = measure(args, cpu, namespace)?;
    report.tsc(measured.hz);
    report.checksum(measured.checksum);
    let null = namespace == "null";
    let names = if null {
        ["reads, null", "latency, null", "bursts, null"]
    } else {
        ["reads, memory", "latency, memory", "bursts, memory"]
    };
    let best = loops(&measured, names[0], report);
    latencies(&measured, names[1], report);
    bursts(&measured, names[2], report);
    let goal = if null { NULL_GOAL } else { MEMORY_GOAL };
    report.goal(format!("M reads/s, {namespace} namespace, model on its own core"), best, goal);
    Ok(())
}

fn measure(args: &Args, cpu: u32, namespace: &str) -> Result<Measured> {
    let null = namespace == "null";
    let plan = Plan {
        repetitions: args.repetitions(),
        windows: if args.quick { 4 } else { 200 },
        window_ns: if args.quick { 20_000 } else { 250_000 },
        bursts: if args.quick { 8 } else { 200 },
        verify: if args.quick { 64 } else { 20_000 },
        null_pattern: if null { PATTERN } else { 0 },
    };
    let blocks = if null { 1 << 24 } else { args.size(65_536, 512) };
    let mut config = NamespaceConfig::null(1, blocks, PATTERN.into());
    if !null {
        let bytes = usize::try_from(blocks)? * READ_BYTES;
        let source = MemorySource::new(PageSize::Huge2M, bytes, Warnings::default());
        config.backing = Backing::Mapped(source.private(bytes)?.span());
    }
    let gauges = ModelGauges::default();
    entry::set_gauges(gauges.clone());
    let model = ModelConfig { namespaces: vec![config], ..ModelConfig::default() };
    let backend = ModelBackend::new(model).idle(Idle::Spin).watched_by(&gauges);

    let runtime = Runtime::new(CpuSet::single(cpu)?)?;
    let mut spec = PartitionSpec::new("bench", Entry::new("bench", entry::run));
    spec.args = plan.as_bytes().to_vec();
    spec.dma_bytes = 16 << 20;
    let mut partition = runtime.spawn(spec.with_device(backend))?;
    let mut samples = Vec::new();
    partition.wait(Duration::from_millis(20), |partition| {
        // A ring that the partition broke is closed; its exit says more.
        let _ = partition.poll_events(u32::MAX, |header, payload| {
            if header.kind == KIND_SAMPLE {
                samples.extend(Sample::read_from_bytes(payload));
            }
        });
        ControlFlow::Continue(())
    });
    let latencies = DEPTHS.iter().map(|depth| quantiles(partition.metrics(), *depth)).collect();
    let ended = partition.join();
    if !ended.exit.is_done() {
        bail!("the partition failed: {}", ended.exit.text);
    }
    if let Some(mistake) = ended.device.iter().flat_map(|device| &device.mistakes).next() {
        bail!("the model noticed a mistake of the driver: {mistake}");
    }
    let verified = samples.iter().find(|sample| sample.kind == VERIFIED);
    let checksum = verified.context("nothing was verified")?.checksum;
    Ok(Measured { samples, latencies, hz: runtime.clock().hz(), checksum })
}

/// p50, p99, p99.9, max and count.
fn quantiles(metrics: &MetricsReader, depth: u16) -> Option<[u64; 5]> {
    let seen = metrics.histogram(latency_name(depth)).filter(|seen| seen.count() != 0)?;
    let at = |ppm| seen.quantile(ppm);
    Some([at(500_000), at(990_000), at(999_000), seen.max(), seen.count()])
}

/// Columns of the closed loops.
const LOOP_TITLES: [&str; 11] = [
    "path",
    "depth",
    "M reads/s",
    "ticks/read",
    "reads/pass",
    "driver empty %",
    "model idle %",
    "reads/step",
    "full",
    "windows",
    "dropped",
];

/// The closed loops; returns the best rate in millions a second.
fn loops(measured: &Measured, name: &'static str, report: &mut Report) -> Option<f64> {
    let mut sheet = Sheet::new(name, &LOOP_TITLES);
    // A step that finds nothing, in ticks, when the model's thread had its core to itself.
    let idle = measured.samples.iter().filter(|s| s.kind == IDLE && s.model_empty != 0);
    let empty_step = idle.map(|s| s.ticks as f64 / s.model_empty as f64).reduce(f64::min);
    let mut best = None::<f64>;
    let raw = DEPTHS.iter().map(|depth| (RAW, *depth));
    for (kind, depth) in raw.chain(TASK_DEPTHS.iter().map(|depth| (TASKS, *depth))) {
        let of = |s: &&Sample| s.kind == kind && s.depth == u32::from(depth);
        let all: Vec<&Sample> = measured.samples.iter().filter(of).collect();
        let good: Vec<&&Sample> = all.iter().filter(|s| s.kept >= LEAST_WINDOWS).collect();
        let figure =
            |f: &dyn Fn(&Sample) -> f64| median(&good.iter().map(|s| f(s)).collect::<Vec<_>>());
        let ticks = figure(&|s| s.ticks as f64 / s.reads as f64);
        let rate = ticks.map(|ticks| measured.hz as f64 / ticks / 1e6);
        let empty = figure(&|s| 100.0 * s.empty as f64 / (s.empty + s.passes) as f64);
        let idle = empty_step.and_then(|step| {
            figure(&|s| (100.0 * s.model_empty as f64 * step / s.ticks as f64).min(100.0))
        });
        let full = match (idle, empty) {
            (Some(idle), _) if idle < 10.0 => "model",
            (Some(_), Some(empty)) if empty < 10.0 => "driver",
            (Some(_), Some(_)) => "neither: the way between",
            _ => "-",
        };
        sheet.row(vec![
            if kind == RAW { "raw queue" } else { "futures" }.into(),
            u64::from(depth).into(),
            Cell::maybe(rate, 2),
            Cell::maybe(ticks, 0),
            Cell::maybe(figure(&|s| s.reads as f64 / s.passes.max(1) as f64), 1),
            Cell::maybe(empty, 0),
            Cell::maybe(idle, 0),
            Cell::maybe(figure(&|s| s.reads as f64 / s.model_busy.max(1) as f64), 1),
            full.into(),
            all.iter().map(|s| u64::from(s.kept)).sum::<u64>().into(),
            all.iter().map(|s| u64::from(s.dropped)).sum::<u64>().into(),
        ]);
        if kind == RAW {
            best = rate.map_or(best, |rate| Some(best.map_or(rate, |best| best.max(rate))));
        }
    }
    sheet.note(
        "medians of repetitions; a window with 30 us without a completion is dropped (a core was \
         taken away); a repetition with fewer than 4 clean windows does not count",
    );
    sheet.note(
        "on a virtual machine the two CPUs may at times be threads of one core: depth 1 then takes \
         a third of the time; compare runs by it",
    );
    if let Some(step) = empty_step {
        sheet.note(format!("a step of the model that finds nothing takes {step:.0} ticks"));
    }
    report.add(sheet);
    best
}

fn latencies(measured: &Measured, name: &'static str, report: &mut Report) {
    let titles = ["depth", "p50 ns", "p99 ns", "p99.9 ns", "max ns", "samples"];
    let mut sheet = Sheet::new(name, &titles);
    for (depth, latency) in DEPTHS.iter().zip(&measured.latencies) {
        let mut row = vec![u64::from(*depth).into()];
        match latency {
            Some(values) => row.extend(values.iter().map(|value| (*value).into())),
            None => row.extend([(); 5].map(|()| Cell::None)),
        }
        sheet.row(row);
    }
    sheet.note("of clean windows, all repetitions together; from before submit to after reap");
    report.add(sheet);
}

fn bursts(measured: &Measured, name: &'static str, report: &mut Report) {
    let titles = ["reads", "submit ticks", "reap ticks", "sum", "sum ns", "bursts", "dropped"];
    let mut sheet = Sheet::new(name, &titles);
    for size in BURSTS {
        let mut series = [Series::default(), Series::default()];
        let (mut kept, mut dropped) = (0, 0);
        let of = |s: &&Sample| s.kind == BURST && s.depth == u32::from(size);
        for sample in measured.samples.iter().filter(of) {
            kept += u64::from(sample.kept);
            dropped += u64::from(sample.dropped);
            let each = |ticks: u64| (sample.kept != 0).then(|| ticks as f64 / f64::from(size));
            series[0].push(each(sample.passes));
            series[1].push(each(sample.ticks));
        }
        let [submit, reap] = series.map(|series| series.median());
        let sum = submit.zip(reap).map(|(submit, reap)| submit + reap);
        sheet.row(vec![
            u64::from(size).into(),
            Cell::maybe(submit, 0),
            Cell::maybe(reap, 0),
            Cell::maybe(sum, 0),
            Cell::maybe(sum.map(|sum| sum * 1e9 / measured.hz as f64), 0),
            kept.into(),
            dropped.into(),
        ]);
    }
    sheet.note(
        "a read; medians of bursts, then of repetitions: N submits and one doorbell, 100 us left \
         alone, one reap; two readings of the clock included",
    );
    report.add(sheet);
}

// ---- both on one core --------------------------------------------------------------------------

fn on_one_core(args: &Args, report: &mut Report) -> Result<()> {
    let hz = host_bridge::calibration::measure()?.hz;
    report.tsc(hz);
    let mut stepped = stepped::Stepped::new(hz)?;
    let mut series: Vec<[Series; 3]> = stepped::SIZES.iter().map(|_| Default::default()).collect();
    let mut empty = Series::default();
    stepped.batches(32, args.size(1000, 4))?; // warm
    for _ in 0..args.repetitions() {
        for (size, series) in stepped::SIZES.iter().zip(&mut series) {
            let batches = args.size(200_000, 256) / u64::from(*size);
            let cost = stepped.batches(*size, batches.max(1))?;
            for (series, value) in series.iter_mut().zip([cost.submit, cost.reap, cost.model]) {
                series.push(Some(value));
            }
        }
        empty.push(Some(stepped.empty_poll(args.size(1000, 10))));
    }
    let titles = ["batch", "submit ticks", "reap ticks", "sum", "model ticks"];
    let mut sheet = Sheet::new("stepped on one core", &titles);
    for (size, series) in stepped::SIZES.iter().zip(&series) {
        let [submit, reap, model] = series.each_ref().map(Series::median);
        let sum = submit.zip(reap).map(|(submit, reap)| submit + reap);
        let mut row = vec![u64::from(*size).into()];
        row.extend([submit, reap, sum, model].map(|value| Cell::maybe(value, 1)));
        sheet.row(row);
    }
    let poll = empty.median().unwrap_or(0.0);
    sheet.note(format!(
        "a read, null namespace, completions posted before the reap; net of {} ticks that two \
         readings of the clock take; an empty poll takes {poll:.1} ticks",
        stepped.stamp()
    ));
    report.add(sheet);
    report.checksum(stepped.done);
    Ok(())
}
