//! `--report`: one page that holds everything it shows. Light and dark, readable on a phone.

use host_bridge::page::latency::{self, Curve, by_percentile, over_time, tail, us};
use host_bridge::page::svg::{Scale, short, steps};
use host_bridge::page::{Beside, Distribution, begin, end, section, table, tiles};
use hybrid_benches::hist::Hist;
use hybrid_conventions::{Count, HumanBytes, HumanNanos, Si};

use crate::cli::RunArgs;
use crate::launch::{PhaseRun, Ran};
use crate::summary::{Cost, Load, Noise};
use crate::text::{title, whole};
use crate::wire::Interval;

/// The page; `beside` is what others measured.
pub(crate) fn page(args: &RunArgs, ran: &Ran, main: &PhaseRun, beside: &[Beside]) -> String {
    let on = ran.on.name();
    let means = format!("Measured on the {on}: {}.", ran.on.means());
    let mut out = begin("storage-bench", on, &title(args, &main.phase), &means);
    let load = Load::of(ran, main).filter(|load| load.everything().count() != 0);
    match &load {
        Some(load) => {
            out.push_str(&top_tiles(ran, main, load));
            out.push_str(&latencies(ran, load, beside));
            out.push_str(&course(ran, main));
        }
        None => out
            .push_str("<p>This mode takes no operation's time; run it with <code>-L</code>.</p>\n"),
    }
    out.push_str(&stages(ran, main, load.as_ref()));
    out.push_str(&quiet(ran, load.as_ref()));
    out.push_str(&facts(args, ran));
    let help = "docs/benchmarks.md explains each figure.";
    out.push_str(&end("storage-bench", env!("CARGO_PKG_VERSION"), help));
    out
}

fn top_tiles(ran: &Ran, main: &PhaseRun, load: &Load) -> String {
    let hist = load.everything();
    let time = |ticks: u64| HumanNanos(whole(ran.ns(ticks as f64))).to_string();
    let at = |ppm| time(hist.quantile(ppm));
    let rate = load.rate();
    let bytes = rate * f64::from(main.phase.bytes);
    tiles(&[
        ("IOPS", Si(whole(rate)).to_string(), format!("{}/s", HumanBytes(whole(bytes)))),
        ("p50", at(500_000), format!("{} operations", Count(hist.count()))),
        ("p99", at(990_000), "one in 100 is slower".into()),
        ("p99.9", at(999_000), "one in 1,000 is slower".into()),
        ("max", time(hist.max()), "stolen time included".into()),
    ])
}

/// A histogram of ticks, in nanoseconds.
fn distribution(ran: &Ran, hist: &Hist) -> Distribution {
    let ns = |ticks: u64| whole(ran.ns(ticks as f64));
    let buckets = hist.buckets().map(|(_, upper, count)| (ns(upper), count));
    Distribution::new(buckets, whole(ran.ns(hist.sum() as f64)), ns(hist.max()))
}

/// By percentile and the tail, with what others measured on the same axes.
fn latencies(ran: &Ran, load: &Load, beside: &[Beside]) -> String {
    let all = distribution(ran, &load.everything());
    let clean = distribution(ran, &load.clean_only());
    let mut curves: Vec<_> = beside.iter().map(Beside::curve).collect();
    curves.push(Curve { class: "all", name: "all", values: &all });
    if clean.count() != 0 {
        curves.push(Curve { class: "clean", name: "undisturbed", values: &clean });
    }
    let keys: Vec<_> = curves.iter().rev().map(|curve| (curve.class, curve.name)).collect();
    let words = "Each step to the right is ten times rarer; a curve ends with its greatest sample. \
                 Undisturbed leaves out windows in which a core was taken away, all leaves out \
                 nothing.";
    let mut out = section("Latency by percentile", &keys, &by_percentile(&curves), words);
    let words = "The share of operations above each latency (one minus the empirical distribution \
                 function), both axes logarithmic.";
    out.push_str(&section("How many were slower", &keys, &tail(&curves), words));
    out
}

/// Pieces of the run: throughput and latency. Repetitions follow each other.
fn course(ran: &Ran, main: &PhaseRun) -> String {
    let pieces: Vec<_> = main.intervals.iter().filter(|piece| piece.max != 0).collect();
    if pieces.len() < 2 {
        return String::new();
    }
    let mut begin = 0.0;
    let times: Vec<_> = pieces
        .iter()
        .map(|piece| {
            let (from, length) = (begin, ran.ns(piece.ticks as f64) / 1e9);
            begin += length;
            let stolen = piece.stolen as f64 / piece.ticks.max(1) as f64;
            latency::Piece { from, to: begin, stolen }
        })
        .collect();
    let points = |of: &dyn Fn(&Interval) -> f64| -> Vec<(f64, f64)> {
        pieces.iter().zip(&times).map(|(piece, time)| (time.middle(), of(piece))).collect()
    };
    let rate = |piece: &Interval| piece.done as f64 * 1e9 / ran.ns(piece.ticks.max(1) as f64);
    let most = pieces.iter().map(|piece| rate(piece)).fold(1.0, f64::max) * 1.1;
    let mut chart = over_time(&times, Scale::Linear(0.0, most), "operations a second over time");
    let ticks: Vec<_> =
        steps(most).into_iter().map(|at| (at, format!("{}/s", short(at)))).collect();
    chart.y_ticks(&ticks, "operations");
    chart.line("p50", &points(&rate));
    let words = "Operations a second of each piece of the run, one repetition after the other. \
                 Shaded: time that the core was taken away, the darker the more.";
    let keys = [("p50", "operations a second"), ("stolen", "core taken away")];
    let mut out = section("Throughput over time", &keys, &chart.finish(), words);

    let in_us = |ticks: u64| us(whole(ran.ns(ticks as f64)));
    let high = pieces.iter().map(|piece| in_us(piece.max)).fold(0.0, f64::max) * 1.1;
    let low = pieces.iter().map(|piece| in_us(piece.p50)).fold(f64::MAX, f64::min) * 0.8;
    let mut chart = over_time(&times, Scale::Log(low, high), "latency over time");
    chart.y_ticks(&latency::ticks(low, high), "latency");
    chart.line("max", &points(&|piece| in_us(piece.max)));
    chart.line("p99", &points(&|piece| in_us(piece.p99)));
    chart.line("p50", &points(&|piece| in_us(piece.p50)));
    let keys = [("p50", "p50"), ("p99", "p99"), ("max", "max"), ("stolen", "core taken away")];
    let words = "Median, p99 and maximum of each piece.";
    out.push_str(&section("Latency over time", &keys, &chart.finish(), words));
    out
}

/// Where an operation's time goes.
fn stages(ran: &Ran, main: &PhaseRun, load: Option<&Load>) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String, words: &str| {
        rows.push(vec![name.to_owned(), value, words.to_owned()]);
    };
    row("stage", "time".to_owned(), "what it is");
    let time = |ns: f64| HumanNanos(whole(ns.round())).to_string();
    let each = load.and_then(|load| load.service_ns(ran, main));
    let cost = ran.phases.iter().rev().find_map(Cost::of);
    if let Some(cost) = &cost {
        let ns = |series: &hybrid_benches::figures::Series| ran.ns(series.median().unwrap_or(0.0));
        let (submit, reap) = (ns(&cost.submit), ns(&cost.reap));
        let words = "our driver: entry written, its share of a doorbell";
        row("submit", time(submit), words);
        if let Some(each) = each {
            let rest = (each - submit - reap).max(0.0);
            let words = "the rest: queueing, the device's work, cache lines between cores";
            row("device and the way to it", time(rest), words);
        }
        let words = "our driver: entry checked, its share of a doorbell";
        row("complete", time(reap), words);
    }
    if let Some(each) = each {
        row("in flight", time(each), "on average, by Little's law");
    }
    if let Some(load) = load {
        row("full", load.full.to_owned(), "what bounds the rate");
    }
    table("Where the time goes", &rows)
}

/// How quiet the core was: alone, and while it worked.
fn quiet(ran: &Ran, load: Option<&Load>) -> String {
    let titles = ["", "gaps", "taken away", "longest"].map(str::to_owned);
    let mut rows = vec![titles.to_vec()];
    let mut row = |name: &str, gaps: u64, taken: String, longest_ns: f64| {
        let longest = HumanNanos(whole(longest_ns)).to_string();
        rows.push(vec![name.to_owned(), Count(gaps).to_string(), taken, longest]);
    };
    if let Some(noise) = Noise::of(ran) {
        let share = 100.0 * noise.stolen_ns / noise.ns.max(1.0);
        let taken = format!("{share:.2} % of {}", HumanNanos(whole(noise.ns)));
        row("the core alone, gaps above 500 ns", noise.gaps, taken, noise.longest_ns);
    }
    if let Some(load) = load {
        let taken = HumanNanos(whole(load.stolen_ns)).to_string();
        row("while it worked", load.gaps, taken, load.longest_gap_ns);
    }
    table("How quiet the core was", &rows)
}

fn facts(args: &RunArgs, ran: &Ran) -> String {
    let (facts, found) = (&ran.facts, &ran.found);
    let capacity = found.blocks.saturating_mul(found.lba_bytes.into());
    let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
    let counters = match &ran.counters {
        Ok(_) => "counted; see the JSON".to_owned(),
        Err(why) => why.clone(),
    };
    let rows = [
        ("device", ran.device.clone()),
        ("controller", found.model_name()),
        (
            "namespace",
            format!("{} in blocks of {}", HumanBytes(capacity), HumanBytes(found.lba_bytes.into())),
        ),
        ("processor", facts.cpu_model.clone()),
        ("CPUs", facts.online.len().to_string()),
        ("partition", format!("CPU {}", ran.cpu)),
        ("isolated", yes(ran.isolated)),
        ("governor", facts.governor.clone().unwrap_or_else(|| "unknown".into())),
        ("virtual machine", yes(facts.hypervisor)),
        ("kernel", facts.kernel.clone()),
        ("TSC", format!("{:.3} GHz", ran.clock.hz() as f64 / 1e9)),
        ("DMA pages", HumanBytes(ran.dma_page as u64).to_string()),
        ("preempted", format!("{} times", ran.usage.involuntary_switches)),
        (
            "stolen by the hypervisor",
            ran.steal_ms.map_or("unknown".into(), |ms| format!("{ms} ms")),
        ),
        ("counters", counters),
        ("seed", args.load.seed.to_string()),
    ];
    table("Machine", &rows.map(|(name, value)| vec![name.to_owned(), value]))
}

/// All operations as HdrHistogram's tools read them.
pub(crate) fn percentile_file(ran: &Ran, main: &PhaseRun) -> Option<String> {
    let all = distribution(ran, &Load::of(ran, main)?.everything());
    (all.count() != 0).then(|| all.hgrm())
}
