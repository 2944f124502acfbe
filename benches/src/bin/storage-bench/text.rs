//! The result for people: spdk's table first, then what we add.

use std::fmt::Write as _;

use hybrid_benches::hist::Hist;
use hybrid_conventions::{Bytes, HumanBytes, HumanNanos, Si};

use crate::cli::RunArgs;
use crate::device::On;

use crate::launch::{PhaseRun, Ran};
use crate::summary::{Cost, Load, Noise, PERCENTILES};
use crate::wire::{BATCH, BURST, CLOSED, FUTURES, Phase, VERIFY};

/// What the proposal asks for; the depth for it is Little's law.
const WANTED_IOPS: f64 = 2e6;

/// Lines of the histogram with `-LL`.
const BAR: usize = 48;

/// The whole screen.
pub(crate) fn screen(args: &RunArgs, ran: &Ran, main: &PhaseRun) -> String {
    let mut out = String::new();
    head(&mut out, &title(args, &main.phase), ran);
    match main.phase.kind {
        BURST => bursts(&mut out, ran, main),
        VERIFY => verification(&mut out, ran, main),
        _ => load(&mut out, args, ran, main),
    }
    noise(&mut out, ran);
    counters(&mut out, ran, main);
    out
}

/// What was done, in one line.
pub(crate) fn title(args: &RunArgs, phase: &Phase) -> String {
    let load = &args.load;
    let mut line = format!("{} {}", load.workload.name(), Bytes(load.bytes.into()));
    if phase.reads != 0 && phase.reads != 65_536 {
        let _ = write!(line, " ({} % reads)", (phase.reads * 100).div_ceil(65_536).min(100));
    }
    if load.workload.is_random() {
        let _ = write!(line, " {}", load.dist);
    }
    let _ = match phase.kind {
        BURST => write!(line, ", bursts of {}", phase.batch),
        BATCH => write!(line, ", batches of {}, depth {}", phase.batch, phase.depth),
        VERIFY => write!(line, ", verified, depth {}", phase.depth),
        FUTURES => write!(line, ", futures, depth {}", phase.depth),
        _ => write!(line, ", depth {}", phase.depth),
    };
    if phase.queues > 1 {
        let _ = write!(line, " over {} queue pairs", phase.queues);
    }
    if let Some(rate) = args.mode.rate {
        let _ = write!(line, ", arrivals at {rate} ({:?})", args.mode.arrivals);
        if args.mode.bursty > 1 {
            let _ = write!(line, " in groups of {}", args.mode.bursty);
        }
    }
    let _ = write!(line, ", seed {}", load.seed);
    line.to_lowercase()
}

/// On what, by which machine.
pub(crate) fn head(out: &mut String, title: &str, ran: &Ran) {
    let found = &ran.found;
    let model = found.model_name();
    let capacity = found.blocks.saturating_mul(found.lba_bytes.into());
    let _ = writeln!(out, "storage-bench: {title}\n");
    let _ = writeln!(out, "on        {}: {}", ran.on.name(), ran.on.means());
    let _ = writeln!(
        out,
        "          {}, {} in blocks of {}, transfers of at most {}",
        model,
        HumanBytes(capacity),
        HumanBytes(found.lba_bytes.into()),
        HumanBytes(found.max_transfer.into()),
    );
    let facts = &ran.facts;
    let virtual_machine = if facts.hypervisor { ", virtual machine" } else { "" };
    let _ = writeln!(
        out,
        "machine   {}, {} CPUs, Linux {}, TSC {:.3} GHz{virtual_machine}",
        facts.cpu_model,
        facts.online.len(),
        facts.kernel,
        ran.clock.hz() as f64 / 1e9,
    );
    let _ = writeln!(
        out,
        "          partition on CPU {} ({}isolated, governor {}), DMA memory in {} pages\n",
        ran.cpu,
        if ran.isolated { "" } else { "not " },
        facts.governor.as_deref().unwrap_or("unknown"),
        HumanBytes(ran.dma_page as u64),
    );
}

fn us(ns: f64) -> String {
    if ns >= 99_999.5 { format!("{:.0}", ns / 1e3) } else { format!("{:.2}", ns / 1e3) }
}

fn load(out: &mut String, args: &RunArgs, ran: &Ran, run: &PhaseRun) {
    let Some(load) = Load::of(ran, run) else {
        let _ =
            writeln!(out, "nothing was measured: the run was stopped before its first repetition");
        return;
    };
    table(out, ran, run, &load);
    if let Some(open) = &load.open {
        let turned = open.rejected as f64 * 100.0 / open.arrivals.max(1) as f64;
        let _ = writeln!(
            out,
            "\narrivals  {}/s, {turned:.1} % turned away ({} of {}), {} waited at most",
            Si(whole(open.rate)),
            open.rejected,
            open.arrivals,
            open.backlog_most,
        );
        let _ = writeln!(
            out,
            "          latency counts from the intended start; a full backlog before a full queue \
             takes {}",
            HumanNanos(whole(open.bound_ns)),
        );
    }
    if load.undisturbed().count() != 0 {
        percentiles(out, ran, run, &load);
    }
    if args.output.latency > 1 {
        histogram(out, ran, &load.everything());
    }
    cost(out, ran, run, &load);
}

/// spdk's table.
fn table(out: &mut String, ran: &Ran, run: &PhaseRun, load: &Load) {
    let _ = writeln!(
        out,
        "{:<10}{:>14}{:>12}{:>12}{:>12}{:>12}   in us",
        "", "IOPS", "MiB/s", "average", "min", "max"
    );
    let unit = if run.phase.kind == BATCH { "batches" } else { "total" };
    let mut row = |name: &str, iops: f64, hist: &Hist| {
        let value = |x: Option<f64>| x.map_or("-".to_owned(), us);
        let of = |ticks: u64| (hist.count() != 0).then(|| ran.ns(ticks as f64));
        let mean = hist.mean().map(|ticks| ran.ns(ticks));
        let mean = mean.or(load.average_ns.median().filter(|_| name == "total"));
        let _ = writeln!(
            out,
            "{name:<10}{iops:>14.0}{:>12.1}{:>12}{:>12}{:>12}",
            iops * f64::from(run.phase.bytes) / f64::from(1 << 20),
            value(mean),
            value(of(hist.min())),
            value(of(hist.max())),
        );
    };
    let rate = load.rate();
    if load.write_share > 0.0 && load.write_share < 1.0 {
        row("read", rate * (1.0 - load.write_share), &shown(load, 0));
        row("write", rate * load.write_share, &shown(load, 1));
    }
    row(unit, rate, &load.undisturbed());
    let share = 100.0 * f64::from(u32::try_from(load.dropped).unwrap_or(u32::MAX))
        / (load.kept + load.dropped).max(1) as f64;
    if run.phase.kind == CLOSED || run.phase.kind == crate::wire::FUTURES {
        let _ = writeln!(
            out,
            "          median of {} repetitions, windows of {}; {share:.1} % of them dropped: \
             a core was taken away\n          {:.0} IOPS with everything counted, dropped windows \
             and our own bookkeeping too",
            load.iops.0.len(),
            HumanNanos(run.phase.window_ns.into()),
            load.wall_iops,
        );
    }
    if load.undisturbed().count() == 0 {
        out.push_str("          average by Little's law; -L takes each operation's time\n");
    }
}

fn shown(load: &Load, which: usize) -> Hist {
    let clean = &load.clean[which];
    if clean.count() == 0 { load.all[which].clone() } else { clean.clone() }
}

fn percentiles(out: &mut String, ran: &Ran, run: &PhaseRun, load: &Load) {
    let (all, clean) = (load.everything(), load.clean_only());
    let mut columns = vec![("all", all)];
    if clean.count() != 0 {
        columns.push(("undisturbed", clean));
    }
    if let Some(open) = &load.open {
        columns.push(("from submit", open.service.clone()));
    }
    let what = if run.phase.kind == BATCH { "batch" } else { "latency" };
    let _ = write!(out, "\n{:<10}", format!("{what}, us"));
    columns.iter().for_each(|(title, _)| {
        let _ = write!(out, "{title:>14}");
    });
    out.push('\n');
    for (ppm, name) in PERCENTILES {
        let _ = write!(out, "{:>8} %", name);
        for (_, hist) in &columns {
            let _ = write!(out, "{:>14}", us(ran.ns(hist.quantile(ppm) as f64)));
        }
        out.push('\n');
    }
    let _ = write!(out, "{:>10}", "max");
    columns.iter().for_each(|(_, hist)| {
        let _ = write!(out, "{:>14}", us(ran.ns(hist.max() as f64)));
    });
    let _ = write!(out, "\n{:>10}", "samples");
    columns.iter().for_each(|(_, hist)| {
        let _ = write!(out, "{:>14}", hist.count());
    });
    out.push('\n');
}

/// A bar for each power of two, in quarters.
fn histogram(out: &mut String, ran: &Ran, hist: &Hist) {
    let mut bars: Vec<(f64, u64)> = Vec::new();
    for (low, _, count) in hist.buckets() {
        let ns = ran.ns(low as f64).max(1.0);
        let quarter = (ns.log2() * 4.0).floor() / 4.0;
        match bars.last_mut() {
            Some((last, sum)) if (*last - quarter).abs() < 1e-9 => *sum += count,
            _ => bars.push((quarter, count)),
        }
    }
    let most = bars.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
    out.push_str("\nhistogram, from us            operations\n");
    for (quarter, count) in bars {
        let length = (count as f64 / most as f64 * BAR as f64).ceil();
        #[expect(clippy::cast_possible_truncation, reason = "at most BAR")]
        #[expect(clippy::cast_sign_loss, reason = "not negative")]
        let bar = "#".repeat(length as usize);
        let _ = writeln!(out, "{:>14}{count:>16}  {bar}", us(quarter.exp2()));
    }
}

fn cost(out: &mut String, ran: &Ran, run: &PhaseRun, load: &Load) {
    let cost = ran.phases.iter().rev().find_map(Cost::of);
    if cost.as_ref().is_some_and(|cost| cost.kept == 0) {
        out.push_str(
            "\nour cost  - (no burst had all completed after 100 us, or a core was taken away)\n",
        );
    } else if let Some(cost) = cost {
        let each = |series: &hybrid_benches::figures::Series| series.median().unwrap_or(0.0);
        let (submit, reap) = (each(&cost.submit), each(&cost.reap));
        let _ = writeln!(
            out,
            "\nour cost  {submit:.0} cycles to submit and {reap:.0} to complete one ({:.0} + {:.0} \
             ns; TSC ticks, bursts of {}, the device's time left out)",
            ran.ns(submit),
            ran.ns(reap),
            cost.size,
        );
    }
    let passes = [
        load.per_pass.map(|n| format!("{n:.1} operations a pass")),
        load.empty_percent.map(|n| format!("{n:.0} % of our polls empty")),
        load.model_idle_percent.map(|n| format!("the model's core {:.0} % busy", 100.0 - n)),
    ];
    let passes: Vec<String> = passes.into_iter().flatten().collect();
    if !passes.is_empty() {
        let _ = writeln!(out, "full      {} ({})", load.full, passes.join(", "));
    }
    let Some(each_ns) = load.service_ns(ran, run) else { return };
    let _ = writeln!(
        out,
        "depth     {:.1} in flight on average, {} each; {} IOPS at this latency ask for a depth of \
         {:.0} (Little's law)",
        load.rate() * each_ns / 1e9,
        HumanNanos(whole(each_ns)),
        Si(whole(WANTED_IOPS)),
        (WANTED_IOPS * each_ns / 1e9).ceil().max(1.0),
    );
}

fn bursts(out: &mut String, ran: &Ran, run: &PhaseRun) {
    let Some(cost) = Cost::of(run) else { return };
    let bells = if run.phase.doorbell_each == 0 { "one doorbell" } else { "a doorbell each" };
    let _ = writeln!(out, "{:<26}{:>10}{:>10}", format!("an operation, {bells}"), "ticks", "ns");
    let rows =
        [("submit and ring", &cost.submit), ("reap", &cost.reap), ("empty poll", &cost.empty_poll)];
    for (name, series) in rows {
        match series.median() {
            Some(ticks) => {
                let _ = writeln!(out, "{name:<26}{ticks:>10.1}{:>10.1}", ran.ns(ticks));
            }
            None => {
                let _ = writeln!(out, "{name:<26}{:>10}{:>10}", "-", "-");
            }
        }
    }
    let _ = writeln!(
        out,
        "medians of {} bursts, then of {} repetitions; two readings of the clock included\n\
         {} bursts dropped: a core was taken away, or not all had completed after 100 us",
        cost.kept,
        cost.submit.0.len(),
        cost.dropped,
    );
}

fn verification(out: &mut String, ran: &Ran, run: &PhaseRun) {
    let sum = |f: &dyn Fn(&crate::wire::Sample) -> u64| run.samples.iter().map(f).sum::<u64>();
    let compared = sum(&|s| s.compared);
    let time = HumanNanos(whole(ran.ns(sum(&|s| s.wall_ticks) as f64)));
    let _ = writeln!(
        out,
        "verified  {compared} blocks compared, {} operations wrote, in {time}\n\
         misdirected {}, torn {}, stale {}, corrupt {}",
        sum(&|s| s.writes),
        sum(&|s| s.misdirected),
        sum(&|s| s.torn),
        sum(&|s| s.stale),
        sum(&|s| s.corrupt),
    );
    if let Some([lba, version, found]) =
        run.samples.iter().map(|s| s.first).find(|first| *first != [0; 3])
    {
        let _ = writeln!(out, "first     block {lba}, version {version} expected, {found} found");
    }
}

/// How quiet the core was.
pub(crate) fn noise(out: &mut String, ran: &Ran) {
    if let Some(noise) = Noise::of(ran) {
        let _ = writeln!(
            out,
            "\ncore      alone for {}: {} gaps above 500 ns, {:.2} % of the time, {} at most",
            HumanNanos(whole(noise.ns)),
            noise.gaps,
            100.0 * noise.stolen_ns / noise.ns.max(1.0),
            HumanNanos(whole(noise.longest_ns)),
        );
        let timed = |run: &&PhaseRun| run.phase.stamped != 0 && run.phase.kind == CLOSED;
        let loads = ran.phases.iter().filter(timed);
        if let Some(load) = loads.filter_map(|run| Load::of(ran, run)).next() {
            // Of clean windows, or of all where none was clean; nothing if nothing was seen.
            let all = load.everything();
            let median = || (all.count() != 0).then(|| ran.ns(all.quantile(500_000) as f64));
            if let Some(service) = load.p50_ns.median().or_else(median) {
                let floor = |ppm| us(noise.floor_ns(ran, service, ppm));
                let _ = writeln!(
                    out,
                    "          of themselves they add {} us at p99 and {} us at p99.9 to \
                     operations of {} us",
                    floor(990_000),
                    floor(999_000),
                    us(service),
                );
            }
        }
    }
    let usage = &ran.usage;
    let steal = ran.steal_ms.map_or("unknown".to_owned(), |ms| format!("{ms} ms"));
    let _ = writeln!(
        out,
        "          preempted {} times; {steal} stolen by the hypervisor from all CPUs meanwhile",
        usage.involuntary_switches,
    );
    if let (On::Model, false) = (ran.on, ran.facts.online.len() > 2) {
        out.push_str("          the model shares its CPU with everything else on this machine\n");
    }
}

/// What `perf stat` would say.
fn counters(out: &mut String, ran: &Ran, run: &PhaseRun) {
    use host_bridge::sys::perf::Counter;
    let done: u64 = ran.phases.iter().flat_map(|run| &run.samples).map(|s| s.wall_done).sum();
    match &ran.counters {
        Err(why) => {
            let _ = writeln!(out, "counters  {why}");
        }
        Ok(readings) => {
            let parts = Counter::HARDWARE.iter().filter_map(|counter| {
                let each = readings.get(*counter)? as f64 / done.max(1) as f64;
                Some(format!("{each:.1} {}", counter.name()))
            });
            let parts: Vec<String> = parts.collect();
            let _ = writeln!(
                out,
                "counters  {} an operation of {} B, polls included",
                parts.join(", "),
                run.phase.bytes
            );
        }
    }
}

/// To a whole number for people.
#[expect(clippy::cast_possible_truncation, reason = "saturates")]
#[expect(clippy::cast_sign_loss, reason = "saturates at 0")]
pub(crate) const fn whole(value: f64) -> u64 {
    value as u64
}
