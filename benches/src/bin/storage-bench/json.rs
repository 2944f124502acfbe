//! The result for programs: `storage-bench/1`. Times are integers of nanoseconds, costs are TSC
//! ticks. Readers ignore what they do not know; what is here keeps its meaning.

use hybrid_benches::hist::Hist;
use serde_json::{Map, Value, json};

use crate::cli::RunArgs;
use crate::launch::{PhaseRun, Ran};
use crate::summary::{Cost, Figure, Load, Noise, PERCENTILES, cost_figures, counted, load_figures};
use crate::text::whole;
use crate::wire::{BATCH, BURST, CLOSED, FUTURES, OPEN, Phase, Sample, VERIFY};

/// The name and version of this format.
pub(crate) const SCHEMA: &str = "storage-bench/1";

/// A run's result.
pub(crate) fn result(args: &RunArgs, ran: &Ran, main: &PhaseRun) -> Value {
    let mut figures = Vec::new();
    let body = match main.phase.kind {
        VERIFY => verification(main),
        BURST => {
            let cost = Cost::of(main);
            figures.extend(cost.iter().flat_map(|cost| cost_figures("", cost)));
            cost.map_or(Value::Null, |cost| self::cost(ran, &cost))
        }
        _ => {
            let load = Load::of(ran, main);
            figures.extend(load.iter().flat_map(|load| load_figures("", load)));
            load.map_or(Value::Null, |load| self::load(ran, main, &load))
        }
    };
    let cost = ran.phases.iter().rev().find_map(Cost::of).filter(|_| main.phase.kind != BURST);
    figures.extend(cost.iter().flat_map(|cost| cost_figures("", cost)));
    figures.extend(instructions(ran));
    figures.extend(counted());
    json!({
        "schema": SCHEMA,
        "version": env!("CARGO_PKG_VERSION"),
        "on": ran.on.name(),
        "device": device(ran),
        "machine": machine(ran),
        "job": job(args, &main.phase),
        "result": body,
        "cost": cost.map(|cost| self::cost(ran, &cost)),
        "noise": noise(ran),
        "counters": counters(ran),
        "interrupted": ran.signal.is_some(),
        "figures": self::figures(&figures),
    })
}

fn device(ran: &Ran) -> Value {
    let found = &ran.found;
    json!({
        "backend": ran.device,
        "model_number": found.model_name(),
        "blocks": found.blocks,
        "lba_bytes": found.lba_bytes,
        "max_transfer_bytes": found.max_transfer,
        "queue_pairs": found.queues,
        "queue_depth": found.queue_depth,
    })
}

pub(crate) fn machine(ran: &Ran) -> Value {
    let facts = &ran.facts;
    json!({
        "cpu": facts.cpu_model,
        "cpus": facts.online.len(),
        "kernel": facts.kernel,
        "virtual": facts.hypervisor,
        "tsc_hz": ran.clock.hz(),
        "core": ran.cpu,
        "core_isolated": ran.isolated,
        "governor": facts.governor,
        "dma_page_bytes": ran.dma_page,
        "stolen_ms": ran.steal_ms,
        "preempted": ran.usage.involuntary_switches,
    })
}

fn job(args: &RunArgs, phase: &Phase) -> Value {
    let load = &args.load;
    let distribution = match load.workload.is_random() {
        true => load.dist.to_string(),
        false => "sequential".to_owned(),
    };
    let mode = match phase.kind {
        OPEN => "open",
        BURST => "burst",
        BATCH => "batch",
        FUTURES => "futures",
        VERIFY => "verify",
        _ => "closed",
    };
    json!({
        "mode": mode,
        "workload": load.workload.name(),
        "io_bytes": load.bytes,
        "depth": load.depth,
        "queue_pairs": load.queues,
        "read_percent": (phase.reads * 100).div_ceil(65_536).min(100),
        "distribution": distribution,
        "time_ns": load.time_ns,
        "warm_up_ns": load.warm_up_ns,
        "repetitions": load.repetitions,
        "seed": load.seed,
        "batch": phase.batch,
        "doorbell_each": phase.doorbell_each != 0,
        "rate": args.mode.rate.map(|rate| rate.to_string()),
        "arrivals": args.mode.rate.map(|_| format!("{:?}", args.mode.arrivals).to_lowercase()),
        "group": phase.group,
        "backlog": phase.backlog,
        "namespace": args.machine.namespace,
    })
}

pub(crate) fn load(ran: &Ran, run: &PhaseRun, load: &Load) -> Value {
    let rate = load.rate();
    let mut value = json!({
        "iops": rate,
        "iops_with_everything": load.wall_iops,
        "mib_per_s": rate * f64::from(run.phase.bytes) / f64::from(1 << 20),
        "write_share": load.write_share,
        "average_ns": load.average_ns.median().map(whole),
        "in_flight_ns": load.service_ns(ran, run).map(whole),
        "windows": { "kept": load.kept, "dropped": load.dropped },
        "operations_per_pass": load.per_pass,
        "empty_polls_percent": load.empty_percent,
        "model_busy_percent": load.model_idle_percent.map(|idle| 100.0 - idle),
        "full": load.full,
        "core_away": {
            "gaps": load.gaps,
            "ns": whole(load.stolen_ns),
            "longest_completion_gap_ns": whole(load.longest_gap_ns),
        },
        "latency": {
            "read": latency(ran, &load.all[0]),
            "write": latency(ran, &load.all[1]),
            "read_undisturbed": latency(ran, &load.clean[0]),
            "write_undisturbed": latency(ran, &load.clean[1]),
        },
    });
    if let (Some(open), Some(object)) = (&load.open, value.as_object_mut()) {
        object.insert(
            "arrivals".into(),
            json!({
                "rate": open.rate,
                "count": open.arrivals,
                "rejected": open.rejected,
                "backlog_most": open.backlog_most,
                "bound_ns": whole(open.bound_ns),
                "latency_from_submit": latency(ran, &open.service),
            }),
        );
    }
    value
}

/// A histogram: exact ends and mean, quantiles, buckets of `[ns, count]` by their upper bound.
pub(crate) fn latency(ran: &Ran, hist: &Hist) -> Value {
    if hist.count() == 0 {
        return Value::Null;
    }
    let ns = |ticks: u64| whole(ran.ns(ticks as f64));
    let quantiles: Map<String, Value> = PERCENTILES
        .iter()
        .map(|(ppm, name)| ((*name).to_owned(), json!(ns(hist.quantile(*ppm)))))
        .collect();
    let buckets: Vec<[u64; 2]> = hist.buckets().map(|(_, high, count)| [ns(high), count]).collect();
    json!({
        "count": hist.count(),
        "min_ns": ns(hist.min()),
        "mean_ns": hist.mean().map(|ticks| whole(ran.ns(ticks))),
        "max_ns": ns(hist.max()),
        "percentiles_ns": quantiles,
        "buckets": buckets,
    })
}

pub(crate) fn cost(ran: &Ran, cost: &Cost) -> Value {
    let ns = |ticks: Option<f64>| ticks.map(|ticks| whole(ran.ns(ticks).round()));
    let (submit, reap) = (cost.submit.median(), cost.reap.median());
    json!({
        "burst": cost.size,
        "submit_ticks": submit,
        "complete_ticks": reap,
        "empty_poll_ticks": cost.empty_poll.median(),
        "submit_ns": ns(submit),
        "complete_ns": ns(reap),
        "bursts": { "kept": cost.kept, "dropped": cost.dropped },
    })
}

pub(crate) fn noise(ran: &Ran) -> Value {
    let Some(noise) = Noise::of(ran) else { return Value::Null };
    json!({
        "ns": whole(noise.ns),
        "gaps": noise.gaps,
        "stolen_ns": whole(noise.stolen_ns),
        "longest_ns": whole(noise.longest_ns),
        "gap": latency(ran, &noise.hist),
    })
}

fn counters(ran: &Ran) -> Value {
    use host_bridge::sys::perf::Counter;
    match &ran.counters {
        Err(why) => json!({ "missing": why }),
        Ok(readings) => {
            let all = Counter::HARDWARE.iter();
            all.map(|counter| (counter.name().to_owned(), json!(readings.get(*counter)))).collect()
        }
    }
}

/// Instructions an operation, where they are counted.
fn instructions(ran: &Ran) -> Option<Figure> {
    use host_bridge::sys::perf::Counter;
    let counted = ran.counters.as_ref().ok()?.get(Counter::Instructions)?;
    let done: u64 = ran.phases.iter().flat_map(|run| &run.samples).map(|s| s.wall_done).sum();
    Some(Figure {
        name: "instructions an operation".into(),
        unit: "instructions",
        more: false,
        instructions: true,
        values: vec![counted as f64 / done.max(1) as f64],
    })
}

fn verification(run: &PhaseRun) -> Value {
    let sum = |f: &dyn Fn(&Sample) -> u64| run.samples.iter().map(f).sum::<u64>();
    json!({
        "compared": sum(&|s| s.compared),
        "operations": sum(&|s| s.wall_done),
        "writes": sum(&|s| s.writes),
        "misdirected": sum(&|s| s.misdirected),
        "torn": sum(&|s| s.torn),
        "stale": sum(&|s| s.stale),
        "corrupt": sum(&|s| s.corrupt),
    })
}

/// What `compare` reads.
pub(crate) fn figures(figures: &[Figure]) -> Value {
    let figure = |figure: &Figure| {
        json!({
            "name": figure.name,
            "unit": figure.unit,
            "better": if figure.more { "more" } else { "less" },
            "instructions": figure.instructions,
            "values": figure.values,
        })
    };
    figures.iter().map(figure).collect()
}

// ---- fio's layout ------------------------------------------------------------------------------

/// What plot scripts for fio's JSON read: bandwidth, IOPS, completion latency with percentiles.
pub(crate) fn fio(args: &RunArgs, ran: &Ran, main: &PhaseRun) -> Value {
    let load = Load::of(ran, main);
    let side = |which: usize| {
        let Some(load) = &load else { return json!({}) };
        let share = if which == 0 { 1.0 - load.write_share } else { load.write_share };
        let (iops, hist) = (load.rate() * share, &load.all[which]);
        let ns = |ticks: u64| whole(ran.ns(ticks as f64));
        let quantile = |(ppm, name): &(u32, &str)| {
            let name: f64 = name.parse().unwrap_or_default();
            (format!("{name:.6}"), json!(ns(hist.quantile(*ppm))))
        };
        let percentile: Map<String, Value> = PERCENTILES.iter().map(quantile).collect();
        json!({
            "iops": iops,
            "bw_bytes": whole(iops * f64::from(main.phase.bytes)),
            "bw": whole(iops * f64::from(main.phase.bytes) / 1024.0),
            "total_ios": hist.count(),
            "clat_ns": {
                "min": ns(hist.min()),
                "max": ns(hist.max()),
                "mean": hist.mean().map_or(0.0, |ticks| ran.ns(ticks)),
                "N": hist.count(),
                "percentile": percentile,
            },
        })
    };
    json!({
        "fio version": format!("storage-bench-{}", env!("CARGO_PKG_VERSION")),
        "global options": { "on": ran.on.name(), "device": ran.device },
        "jobs": [{
            "jobname": crate::text::title(args, &main.phase),
            "job options": {
                "rw": args.load.workload.name(),
                "bs": args.load.bytes.to_string(),
                "iodepth": args.load.depth.to_string(),
            },
            "read": side(0),
            "write": side(1),
        }],
    })
}

// ---- CSV ---------------------------------------------------------------------------------------

/// Percentiles, then the empirical distribution function: for trends.
pub(crate) fn csv(ran: &Ran, main: &PhaseRun) -> String {
    use std::fmt::Write as _;
    let mut out = String::from("kind,series,value,latency_ns\n");
    let Some(load) = Load::of(ran, main) else { return out };
    let (all, clean) = (load.everything(), load.clean_only());
    // What nothing was seen of has no rows.
    let seen = |(_, hist): &(&str, &Hist)| hist.count() != 0;
    for (name, hist) in [("all", &all), ("undisturbed", &clean)].into_iter().filter(seen) {
        for (ppm, percent) in PERCENTILES {
            let ns = whole(ran.ns(hist.quantile(ppm) as f64));
            let _ = writeln!(out, "percentile,{name},{percent},{ns}");
        }
        let mut seen = 0;
        for (_, high, count) in hist.buckets() {
            seen += count;
            let share = seen as f64 / hist.count().max(1) as f64;
            let ns = whole(ran.ns(high.min(hist.max()) as f64));
            let _ = writeln!(out, "ecdf,{name},{share:.9},{ns}");
        }
    }
    if let Some(clean) = load.iops.median() {
        let _ = writeln!(out, "iops,clean,{clean:.0},");
    }
    let _ = writeln!(out, "iops,everything,{:.0},", load.wall_iops);
    out
}

// A closed loop is what the other kinds are told from.
const _: () = assert!(CLOSED == 1);
