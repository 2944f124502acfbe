//! `--report`: one page that holds everything it shows. Light and dark, readable on a phone.

use std::fmt::Write as _;

use host_bridge::page::svg::{Chart, Scale, decades};
use host_bridge::page::{STYLE, escape, hgrm};
use hybrid_benches::hist::Hist;
use hybrid_conventions::{Count, HumanBytes, HumanNanos, Si};

use crate::cli::RunArgs;
use crate::launch::{PhaseRun, Ran};
use crate::summary::{Cost, Load, Noise, PERCENTILES};
use crate::text::{title, whole};

/// Quantiles of the percentile plot, in millionths.
const CURVE: [u32; 22] = [
    10_000, 50_000, 100_000, 200_000, 300_000, 400_000, 500_000, 600_000, 700_000, 800_000,
    850_000, 900_000, 950_000, 975_000, 990_000, 995_000, 998_000, 999_000, 999_500, 999_900,
    999_950, 999_990,
];

/// The page.
pub(crate) fn page(args: &RunArgs, ran: &Ran, main: &PhaseRun) -> String {
    let title = title(args, &main.phase);
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <title>storage-bench: {title}</title>\n<style>\n{STYLE}</style>\n<main>\n\
         <header><p class=on>{}</p><h1>{title}</h1><p class=means>Measured on the {}: \
         {}.</p></header>",
        ran.on.name(),
        ran.on.name(),
        ran.on.means(),
    );
    let load = Load::of(ran, main).filter(|load| load.everything().count() != 0);
    match &load {
        Some(load) => {
            tiles(&mut out, ran, main, load);
            section(
                &mut out,
                "Latency by percentile",
                &percentiles(ran, load),
                "\
                Each step to the right is ten times rarer. <i>Undisturbed</i> leaves out windows \
                in which a core was taken away; <i>all</i> leaves out nothing.",
                load,
            );
            section(
                &mut out,
                "How many were slower",
                &tail(ran, load),
                "\
                The share of operations above each latency (one minus the empirical distribution \
                function), both axes logarithmic.",
                load,
            );
            if let Some(chart) = course(ran, main) {
                section(
                    &mut out,
                    "Over time",
                    &chart,
                    "\
                    Median, p99 and maximum of each piece of the run, one repetition after the \
                    other. Shaded: time that the core was taken away.",
                    load,
                );
            }
        }
        None => out
            .push_str("<p>This mode takes no operation's time; run it with <code>-L</code>.</p>\n"),
    }
    stages(&mut out, ran, main, load.as_ref());
    facts(&mut out, args, ran);
    out.push_str("</main>\n</html>\n");
    out
}

fn section(out: &mut String, title: &str, chart: &str, words: &str, load: &Load) {
    let both = load.clean.iter().any(|hist| hist.count() != 0);
    let legend = match title {
        "Over time" => {
            "<span class=\"key p50\">p50</span><span class=\"key p99\">p99</span>\
             <span class=\"key max\">max</span><span class=\"key stolen\">core taken away</span>"
        }
        _ if both => {
            "<span class=\"key clean\">undisturbed</span><span class=\"key all\">all</span>"
        }
        _ => "<span class=\"key all\">all</span>",
    };
    let _ = writeln!(
        out,
        "<section><h2>{title}</h2><p class=legend>{legend}</p>{chart}\
         <p class=words>{words}</p></section>"
    );
}

fn tiles(out: &mut String, ran: &Ran, main: &PhaseRun, load: &Load) {
    let hist = load.everything();
    let time = |ticks: u64| HumanNanos(whole(ran.ns(ticks as f64))).to_string();
    let at = |ppm| time(hist.quantile(ppm));
    let rate = load.rate();
    let bytes = rate * f64::from(main.phase.bytes);
    let tiles = [
        ("IOPS", Si(whole(rate)).to_string(), format!("{}/s", HumanBytes(whole(bytes)))),
        ("p50", at(500_000), format!("{} operations", Count(hist.count()))),
        ("p99", at(990_000), "one in 100 is slower".into()),
        ("p99.9", at(999_000), "one in 1,000 is slower".into()),
        ("max", time(hist.max()), "stolen time included".into()),
    ];
    out.push_str("<div class=tiles>\n");
    for (name, value, below) in tiles {
        let _ = writeln!(
            out,
            "<div class=tile><span class=name>{name}</span><span class=value>{value}</span>\
             <span class=below>{below}</span></div>"
        );
    }
    out.push_str("</div>\n");
}

/// The curves that are there, in the order in which they are drawn.
fn curves(load: &Load) -> Vec<(&'static str, Hist)> {
    let mut curves = vec![("all", load.everything())];
    let mut clean = load.clean[0].clone();
    clean.merge(&load.clean[1]);
    if clean.count() != 0 {
        curves.push(("clean", clean));
    }
    curves
}

fn ends(ran: &Ran, load: &Load) -> (f64, f64) {
    let all = load.everything();
    let (low, high) = (ran.ns(all.min() as f64) / 1e3, ran.ns(all.max() as f64) / 1e3);
    (low.max(0.001) * 0.9, (high * 1.1).max(low * 2.0))
}

fn latency_ticks(from: f64, to: f64) -> Vec<(f64, String)> {
    let label = |us: f64| HumanNanos(whole((us * 1e3).round())).to_string().replace(".0", "");
    decades(from, to).into_iter().map(|us| (us, label(us))).collect()
}

/// Nines along the bottom.
fn percentiles(ran: &Ran, load: &Load) -> String {
    let (low, high) = ends(ran, load);
    let words = "latency by percentile, towards the tail";
    let nines = |ppm: u32| -(1.0 - f64::from(ppm) / 1e6).log10();
    let mut chart = Chart::new(Scale::Linear(0.0, 5.0), Scale::Log(low, high), words);
    chart.y_ticks(&latency_ticks(low, high), "latency");
    let marks = [
        (0, "0"),
        (500_000, "50"),
        (900_000, "90"),
        (990_000, "99"),
        (999_000, "99.9"),
        (999_900, "99.99"),
        (999_990, "99.999"),
    ];
    let marks = marks.map(|(ppm, label)| (nines(ppm), label.to_owned()));
    chart.x_ticks(&marks, "percentile");
    for (class, hist) in curves(load) {
        let at = |ppm: u32| (nines(ppm), ran.ns(hist.quantile(ppm) as f64) / 1e3);
        // A quantile beyond the last sample says nothing.
        let known = |ppm: &u32| {
            hist.count() as f64 * (1.0 - f64::from(*ppm) / 1e6) >= 1.0 || *ppm <= 500_000
        };
        let points: Vec<_> = CURVE.into_iter().filter(known).map(at).collect();
        chart.line(class, &points);
        let named = PERCENTILES.iter().filter(|(ppm, _)| *ppm >= 500_000 && known(ppm));
        let dots: Vec<_> = named
            .map(|(ppm, name)| {
                let (x, y) = at(*ppm);
                (x, y, format!("p{name}: {y:.2} us"))
            })
            .collect();
        chart.dots(class, &dots);
    }
    chart.finish()
}

/// One minus the distribution function, by buckets.
fn tail(ran: &Ran, load: &Load) -> String {
    let (low, high) = ends(ran, load);
    let most = load.everything().count().max(10) as f64;
    let floor = 10_f64.powf(-most.log10().ceil());
    let words = "share of operations above each latency";
    let mut chart = Chart::new(Scale::Log(low, high), Scale::Log(floor, 1.0), words);
    let share = |value: f64| format!("{} %", (value * 1e8).round() / 1e6);
    let shares: Vec<_> = decades(floor, 1.0)
        .into_iter()
        .filter(|v| (v.log10() - v.log10().round()).abs() < 1e-6)
        .map(|value| (value, share(value)))
        .collect();
    chart.y_ticks(&shares, "share that is slower");
    chart.x_ticks(&latency_ticks(low, high), "latency");
    for (class, hist) in curves(load) {
        let (mut seen, mut points) = (0, Vec::new());
        for (from, to, count) in hist.buckets() {
            let above = (hist.count() - seen) as f64 / hist.count() as f64;
            points.push((ran.ns(from as f64) / 1e3, above));
            seen += count;
            let above = ((hist.count() - seen) as f64 / hist.count() as f64).max(floor);
            points.push((ran.ns(to.min(hist.max()) as f64) / 1e3, above));
        }
        chart.line(class, &points);
    }
    chart.finish()
}

/// A figure of a piece.
type Of = fn(&crate::wire::Interval) -> u64;

/// Pieces of the run; repetitions follow each other.
fn course(ran: &Ran, main: &PhaseRun) -> Option<String> {
    let pieces: Vec<_> = main.intervals.iter().filter(|piece| piece.max != 0).collect();
    if pieces.len() < 2 {
        return None;
    }
    let us = |ticks: u64| ran.ns(ticks as f64) / 1e3;
    let high = pieces.iter().map(|piece| us(piece.max)).fold(0.0, f64::max) * 1.1;
    let low = pieces.iter().map(|piece| us(piece.p50)).fold(f64::MAX, f64::min) * 0.8;
    let mut time = 0.0;
    let mut spans = Vec::new();
    for piece in &pieces {
        let length = ran.ns(piece.ticks as f64) / 1e9;
        spans.push((time, time + length));
        time += length;
    }
    let words = "latency over time, with stolen time marked";
    let mut chart = Chart::new(Scale::Linear(0.0, time), Scale::Log(low, high), words);
    for (piece, (from, to)) in pieces.iter().zip(&spans) {
        if piece.stolen != 0 {
            let share = piece.stolen as f64 / piece.ticks.max(1) as f64;
            let tip = format!("{:.1} % of {:.2} s to {:.2} s", share * 100.0, from, to);
            chart.band("stolen", *from, *to, share, &tip);
        }
    }
    chart.y_ticks(&latency_ticks(low, high), "latency");
    let step = time / 5.0;
    let name = |at: f64| match time < 1.0 {
        true => format!("{:.0} ms", at * 1e3),
        false => format!("{at:.1} s"),
    };
    let ticks: Vec<_> = (0..=5).map(|n| step * f64::from(n)).map(|at| (at, name(at))).collect();
    chart.x_ticks(&ticks, "time");
    let value: [(&str, Of); 3] =
        [("max", |piece| piece.max), ("p99", |piece| piece.p99), ("p50", |piece| piece.p50)];
    for (class, of) in value {
        let middle = |(from, to): &(f64, f64)| f64::midpoint(*from, *to);
        let points: Vec<_> =
            pieces.iter().zip(&spans).map(|(piece, span)| (middle(span), us(of(piece)))).collect();
        chart.line(class, &points);
    }
    Some(chart.finish())
}

/// Where an operation's time goes.
fn stages(out: &mut String, ran: &Ran, main: &PhaseRun, load: Option<&Load>) {
    out.push_str("<section><h2>Where the time goes</h2><table>\n");
    let mut row = |name: &str, value: String, words: &str| {
        let _ = writeln!(out, "<tr><th>{name}<td class=number>{value}<td>{words}");
    };
    let each = load.and_then(|load| load.service_ns(ran, main));
    let cost = ran.phases.iter().rev().find_map(Cost::of);
    if let Some(cost) = &cost {
        let ns = |series: &hybrid_benches::figures::Series| ran.ns(series.median().unwrap_or(0.0));
        let (submit, reap) = (ns(&cost.submit), ns(&cost.reap));
        row(
            "submit",
            format!("{submit:.0} ns"),
            "our driver: entry written, its share of a doorbell",
        );
        if let Some(each) = each {
            let rest = (each - submit - reap).max(0.0);
            row(
                "device and the way to it",
                format!("{rest:.0} ns"),
                "the rest: queueing, the device's work, cache lines between cores",
            );
        }
        row(
            "complete",
            format!("{reap:.0} ns"),
            "our driver: entry checked, its share of a doorbell",
        );
    }
    if let Some(each) = each {
        row("in flight", format!("{each:.0} ns"), "on average, by Little's law");
    }
    if let Some(load) = load {
        row("full", load.full.to_owned(), "what bounds the rate");
    }
    if let Some(noise) = Noise::of(ran) {
        let share = 100.0 * noise.stolen_ns / noise.ns.max(1.0);
        row(
            "core alone",
            format!("{share:.2} %"),
            "of its time is taken by others, in gaps above 500 ns",
        );
        let longest = HumanNanos(whole(noise.longest_ns)).to_string();
        row("longest gap", longest, "of the core alone, in the same run");
    }
    out.push_str("</table></section>\n");
}

fn facts(out: &mut String, args: &RunArgs, ran: &Ran) {
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
    out.push_str("<section><h2>Machine</h2><table>\n");
    for (name, value) in rows {
        let _ = writeln!(out, "<tr><th>{name}<td>{}", escape(&value));
    }
    let _ = writeln!(
        out,
        "</table></section>\n<footer>storage-bench {}: docs/benchmarks.md explains each \
         figure.</footer>",
        env!("CARGO_PKG_VERSION")
    );
}

/// All operations as HdrHistogram's tools read them.
pub(crate) fn percentile_file(ran: &Ran, main: &PhaseRun) -> Option<String> {
    let hist = Load::of(ran, main)?.everything();
    let ns = |ticks: u64| whole(ran.ns(ticks as f64));
    let buckets: Vec<_> = hist.buckets().map(|(_, to, count)| (ns(to), count)).collect();
    let sum = buckets.iter().map(|(ns, count)| ns.saturating_mul(*count)).sum();
    (hist.count() != 0).then(|| hgrm(&buckets, sum, ns(hist.max())))
}
