//! `--report`: the run as a page with charts, and what they show as files beside it.

use std::fmt::Write as _;
use std::path::Path;

use host_bridge::page::svg::{Chart, Scale, decades};
use host_bridge::page::{begin, end, hgrm, section, table, tiles};
use hybrid_conventions::{Count, HumanBytes, HumanNanos, Si};

use crate::course::{Course, Distribution, Piece};
use crate::failure::Failure;
use crate::report::Report;

/// Quantiles of the percentile plot, in millionths.
const CURVE: [u64; 22] = [
    10_000, 50_000, 100_000, 200_000, 300_000, 400_000, 500_000, 600_000, 700_000, 800_000,
    850_000, 900_000, 950_000, 975_000, 990_000, 995_000, 998_000, 999_000, 999_500, 999_900,
    999_950, 999_990,
];

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
}

/// A curve: its class in the style sheet, its name, its values.
type Curve<'a> = (&'static str, &'static str, &'a Distribution);

/// A value of a piece, and the class of its line.
type Line = (&'static str, fn(&Piece) -> Option<f64>);

impl Shown {
    fn curves(&self) -> Vec<Curve<'_>> {
        let all = [
            ("p50", "reads in the window", &self.reads),
            ("p99", "writes in the window", &self.writes),
            ("all", "single reads", &self.singles),
        ];
        all.into_iter().filter(|(_, _, values)| values.count() != 0).collect()
    }
}

/// Writes the page, `.csv` with its pieces, and `.reads.hgrm` and `.writes.hgrm`.
pub(crate) fn write(path: &Path, report: &Report, shown: &Shown) -> Result<(), Failure> {
    let put = |path: &Path, text: &str| {
        std::fs::write(path, text).map_err(|error| {
            Failure::error(format_args!("--report: {} is not written: {error}", path.display()))
        })
    };
    put(path, &page(report, shown))?;
    put(&path.with_extension("csv"), &csv(shown.course.pieces()))?;
    for (name, values) in [("reads", &shown.reads), ("writes", &shown.writes)] {
        if values.count() != 0 {
            let text = hgrm(&values.buckets, values.sum_ns, values.max_ns);
            put(&path.with_extension(format!("{name}.hgrm")), &text)?;
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
        let keys: Vec<_> = curves.iter().map(|(class, name, _)| (*class, *name)).collect();
        let words = "Each step to the right is ten times rarer. A percentile beyond the last \
                     sample is not drawn.";
        out.push_str(&section("Latency by percentile", &keys, &percentiles(&curves), words));
        let words = "The share of commands above each latency (one minus the empirical \
                     distribution function), both axes logarithmic.";
        out.push_str(&section("How many were slower", &keys, &tail(&curves), words));
    }
    over_time(&mut out, shown.course.pieces());
    out.push_str(&stages(report));
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
        all.push(("reads, p99", at(990_000), format!("max {}", HumanNanos(reads.max_ns))));
    }
    let core = &report.core;
    let share = 100.0 * core.stolen_ns as f64 / core.ran_ns.max(1) as f64;
    let below = format!("in {} gaps", Count(core.stolen_gaps));
    all.push(("core taken away", format!("{share:.2} %"), below));
    tiles(&all)
}

fn latency_ticks(from: f64, to: f64) -> Vec<(f64, String)> {
    let label = |us: f64| {
        let ns = format!("{:.0}", us * 1e3).parse().unwrap_or(0);
        HumanNanos(ns).to_string().replace(".0", "")
    };
    decades(from, to).into_iter().map(|us| (us, label(us))).collect()
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// Least and greatest latency of all curves, with a margin.
fn ends(curves: &[Curve<'_>]) -> (f64, f64) {
    let least = curves.iter().filter_map(|(_, _, v)| v.buckets.first()).map(|(ns, _)| *ns).min();
    let most = curves.iter().map(|(_, _, values)| values.max_ns).max();
    let (low, high) = (us(least.unwrap_or(1)) * 0.8, us(most.unwrap_or(1)) * 1.2);
    (low.max(0.001), high.max(low * 2.0))
}

fn percentiles(curves: &[Curve<'_>]) -> String {
    let (low, high) = ends(curves);
    let nines = |ppm: u64| -(1.0 - ppm as f64 / 1e6).log10();
    let words = "latency by percentile, towards the tail";
    let mut chart = Chart::new(Scale::Linear(0.0, 5.0), Scale::Log(low, high), words);
    chart.y_ticks(&latency_ticks(low, high), "latency");
    let marks = [
        (0, "0"),
        (900_000, "90"),
        (990_000, "99"),
        (999_000, "99.9"),
        (999_900, "99.99"),
        (999_990, "99.999"),
    ];
    chart.x_ticks(&marks.map(|(ppm, label)| (nines(ppm), label.to_owned())), "percentile");
    for (class, name, values) in curves {
        let count = values.count() as f64;
        let known = |ppm: &u64| *ppm <= 500_000 || count * (1.0 - *ppm as f64 / 1e6) >= 1.0;
        let at = |ppm: u64| (nines(ppm), us(values.quantile(ppm)));
        let points: Vec<_> = CURVE.into_iter().filter(known).map(at).collect();
        chart.line(class, &points);
        let named = [500_000, 900_000, 990_000, 999_000, 999_900];
        let dots: Vec<_> = named
            .into_iter()
            .filter(known)
            .map(|ppm| {
                let (x, y) = at(ppm);
                let percent = ppm as f64 / 1e4;
                (x, y, format!("{name}, p{percent}: {}", HumanNanos(values.quantile(ppm))))
            })
            .collect();
        chart.dots(class, &dots);
    }
    chart.finish()
}

fn tail(curves: &[Curve<'_>]) -> String {
    let (low, high) = ends(curves);
    let most = curves.iter().map(|(_, _, values)| values.count()).max().unwrap_or(10).max(10);
    let floor = 10_f64.powf(-(most as f64).log10().ceil());
    let words = "share of commands above each latency";
    let mut chart = Chart::new(Scale::Log(low, high), Scale::Log(floor, 1.0), words);
    let share = |value: f64| format!("{} %", (value * 1e8).round() / 1e6);
    let tens = |value: &f64| (value.log10() - value.log10().round()).abs() < 1e-6;
    let shares: Vec<_> =
        decades(floor, 1.0).into_iter().filter(tens).map(|value| (value, share(value))).collect();
    chart.y_ticks(&shares, "share that is slower");
    chart.x_ticks(&latency_ticks(low, high), "latency");
    for (class, _, values) in curves {
        let count = values.count() as f64;
        let (mut left, mut points) = (values.count(), Vec::new());
        for (upper, in_it) in &values.buckets {
            points.push((us((*upper).min(values.max_ns)), left as f64 / count));
            left -= in_it;
            points.push((us((*upper).min(values.max_ns)), (left as f64 / count).max(floor)));
        }
        chart.line(class, &points);
    }
    chart.finish()
}

/// The charts whose horizontal axis is time.
fn over_time(out: &mut String, pieces: &[Piece]) {
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
    let mut chart = time_chart(pieces, Scale::Linear(0.0, most * 1.1), "feed bytes a second");
    let step = most * 1.1 / 4.0;
    let ticks: Vec<_> =
        (0..=4).map(|n| f64::from(n) * step).map(|at| (at, format!("{at:.0} MiB/s"))).collect();
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
                 was taken away, the darker the more.";
    out.push_str(&section("Throughput over time", &keys, &chart.finish(), words));

    let max = pieces.iter().filter_map(|piece| piece.quantile(1_000_000)).max();
    let min = pieces.iter().filter_map(|piece| piece.quantile(500_000)).min();
    let (Some(max), Some(min)) = (max, min) else { return };
    let (low, high) = (us(min) * 0.8, us(max) * 1.2);
    let mut chart = time_chart(pieces, Scale::Log(low, high), "latency over time");
    chart.y_ticks(&latency_ticks(low, high), "latency");
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
    let middle = |piece: &Piece| f64::midpoint(piece.from.as_secs_f64(), piece.to.as_secs_f64());
    pieces.iter().filter_map(|piece| Some((middle(piece), of(piece)?))).collect()
}

/// An empty one with time along the bottom and stolen time as bands.
fn time_chart(pieces: &[Piece], scale: Scale, words: &str) -> Chart {
    let end = pieces.last().map_or(1.0, |piece| piece.to.as_secs_f64());
    let mut chart = Chart::new(Scale::Linear(0.0, end), scale, words);
    for piece in pieces.iter().filter(|piece| piece.stolen_ns != 0) {
        let (from, to) = (piece.from.as_secs_f64(), piece.to.as_secs_f64());
        let share = piece.stolen_ns as f64 / 1e9 / (to - from).max(1e-9);
        let tip = format!("{:.1} % taken away, {from:.2} s to {to:.2} s", share * 100.0);
        chart.band("stolen", from, to, share, &tip);
    }
    let name = |at: f64| match end < 1.0 {
        true => format!("{:.0} ms", at * 1e3),
        false => format!("{at:.1} s"),
    };
    let step = end / 5.0;
    let ticks: Vec<_> = (0..=5).map(|n| step * f64::from(n)).map(|at| (at, name(at))).collect();
    chart.x_ticks(&ticks, "time");
    chart
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
        ("failed, retried, resets", {
            format!("{}, {}, {}", driver.failed, driver.retried, driver.resets)
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
        row.push(time(values.max_ns));
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
