//! The proposal's table: four goals, what was measured, fio with io_uring beside.
//!
//! Jitter here: half the width of the band around the median that holds 99 % of the depth-1 reads.
//! All reads count, those that met a core which was taken away too.

use std::fmt::Write as _;

use hybrid_benches::hist::Hist;
use serde_json::{Value, json};

use crate::cli::RunArgs;
use crate::device;
use crate::failure::Failure;
use crate::fio::{Baseline, Target};
use crate::job;
use crate::launch::{PhaseRun, Ran, Setup};
use crate::summary::Load;
use crate::values::Workload;
use crate::wire::{CLOSED, NOISE, Phase, Plan};

/// Operations in flight where throughput is measured.
const DEEP: u32 = 128;

/// Share of reads within the band, in millionths.
const BAND: u32 = 990_000;

const READ_BYTES: u32 = 4096;

/// One goal.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    unit: &'static str,
    goal: f64,
    more: bool,
    pub(crate) measured: Option<f64>,
    baseline: Option<f64>,
    /// How many times better than the baseline the proposal says that we are.
    claimed: f64,
}

impl Row {
    pub(crate) fn passed(&self) -> Option<bool> {
        self.measured.map(|x| if self.more { x >= self.goal } else { x <= self.goal })
    }

    /// How many times better than the baseline.
    fn gain(&self) -> Option<f64> {
        let (ours, theirs) = (self.measured?, self.baseline?);
        Some(if self.more { ours / theirs } else { theirs / ours })
    }
}

/// The table.
pub(crate) struct Proposal {
    pub(crate) rows: Vec<Row>,
    on: &'static str,
    baseline: Result<String, String>,
}

/// Two depths, and the noise of the core.
pub(crate) fn setup(args: &RunArgs) -> Result<Setup, Failure> {
    let machine = &args.machine;
    let device = device::device(machine, READ_BYTES, false)?;
    let (mut plan, mut phases) = plan(args);
    phases.iter_mut().for_each(|phase| phase.gap_ns = device.gap_ns);
    plan.fill = device.fill.into();
    plan.null_pattern = device.null_pattern;
    plan.latency_sampling = args.probes.wants_latencies().into();
    let (core, isolation) = (machine.core, machine.isolation);
    let quiet = args.output.quiet;
    let probes = args.probes.clone();
    Ok(Setup { core, isolation, plan, device, phases, probes, quiet, check_syscalls: false })
}

/// What is done, but for what depends on the device.
pub(crate) fn plan(args: &RunArgs) -> (Plan, Vec<Phase>) {
    let (load, machine) = (&args.load, &args.machine);
    let each_ns = load.time_ns / u64::from(load.repetitions) / 2;
    let base = Phase {
        kind: CLOSED,
        queues: 1,
        bytes: READ_BYTES,
        reads: job::reads(Workload::RandRead, None),
        window_ns: job::window_ns(machine),
        duration_ns: each_ns,
        patience_ns: job::PATIENCE_NS,
        seed: load.seed,
        ..Phase::default()
    };
    let phases = vec![
        Phase { depth: DEEP, duration_ns: load.warm_up_ns, warm_up: 1, ..base },
        Phase { kind: NOISE, duration_ns: each_ns / 5, ..Phase::default() },
        Phase { depth: 1, stamped: 1, ..base },
        Phase { depth: DEEP, ..base },
    ];
    let plan = Plan {
        repetitions: load.repetitions,
        nsid: machine.namespace,
        queues: 1,
        slots: DEEP,
        buffer_bytes: READ_BYTES,
        watch_allocations: cfg!(feature = "allocation-tracking").into(),
        ..Plan::default()
    };
    (plan, phases)
}

impl Proposal {
    /// From the depth-1 phase with latencies and the deep one; runs fio for `fio_s` at each depth.
    pub(crate) fn new(
        ran: &Ran,
        (single, deep): (&PhaseRun, &PhaseRun),
        fio: Option<(Target, f64)>,
    ) -> Self {
        let baseline = fio.map_or(Err("fio was not run".to_owned()), |(target, seconds)| {
            let single = target.run(1, seconds)?;
            let deep = target.run(DEEP, seconds)?;
            Ok((single, deep, target.path().display().to_string()))
        });
        let of = |f: &dyn Fn(&Baseline, &Baseline) -> f64| {
            baseline.as_ref().ok().map(|(single, deep, _)| f(single, deep))
        };
        let latency = Load::of(ran, single).map(|load| load.everything());
        let latency = latency.filter(|hist| hist.count() != 0);
        let us = |f: &dyn Fn(&Hist) -> f64| latency.as_ref().map(|hist| ran.ns(f(hist)) / 1e3);
        let deep = Load::of(ran, deep).map(|load| load.rate() / 1e6);
        let rows = vec![
            Row {
                what: "average latency",
                unit: "us",
                goal: 5.0,
                more: false,
                measured: us(&|hist| hist.mean().unwrap_or(0.0)),
                baseline: of(&|single, _| single.average_ns / 1e3),
                claimed: 10.0,
            },
            Row {
                what: "p99 latency",
                unit: "us",
                goal: 10.0,
                more: false,
                measured: us(&|hist| hist.quantile(BAND) as f64),
                baseline: of(&|single, _| single.p99_ns / 1e3),
                claimed: 15.0,
            },
            Row {
                what: "throughput",
                unit: "M IOPS",
                goal: 2.0,
                more: true,
                measured: deep,
                baseline: of(&|_, deep| deep.iops / 1e6),
                claimed: 4.0,
            },
            Row {
                what: "jitter",
                unit: "+- us",
                goal: 1.0,
                more: false,
                measured: us(&|hist| jitter(hist) as f64),
                baseline: of(&|single, _| single.jitter_ns / 1e3),
                claimed: 30.0,
            },
        ];
        Self { rows, on: ran.on.name(), baseline: baseline.map(|(_, _, path)| path) }
    }

    /// Whether a goal was missed.
    pub(crate) fn missed(&self) -> bool {
        self.rows.iter().any(|row| row.passed() == Some(false))
    }

    /// Rows that nothing was measured for: neither passed nor missed, and no success.
    pub(crate) fn unmeasured(&self) -> Vec<&'static str> {
        let rows = self.rows.iter().filter(|row| row.measured.is_none());
        rows.map(|row| row.what).collect()
    }

    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let title = format!("on the {}", self.on);
        let _ = writeln!(
            out,
            "{:<18}{:>12}{:>22}{:>8}{:>16}{:>10}{:>10}",
            "the proposal", "goal", title, "", "fio io_uring", "ratio", "claimed"
        );
        let cell = |value: Option<f64>| match value {
            None => "-".to_owned(),
            Some(x) if x < 100.0 => format!("{x:.2}"),
            Some(x) => format!("{x:.0}"),
        };
        for row in &self.rows {
            let (sign, unit) = match row.unit.strip_prefix("+- ") {
                Some(unit) => ("+-", unit),
                None => ("", row.unit),
            };
            let bound = if row.more { ">=" } else { "<=" };
            let verdict = match row.passed() {
                None => "none",
                Some(true) => "pass",
                Some(false) => "FAIL",
            };
            let _ = writeln!(
                out,
                "{:<18}{:>12}{:>22}{verdict:>8}{:>16}{:>10}{:>10}",
                row.what,
                format!("{bound} {} {}", row.goal, unit),
                match row.measured {
                    None => "not measured".to_owned(),
                    measured => format!("{sign}{} {unit}", cell(measured)),
                },
                cell(row.baseline),
                row.gain().map_or("-".to_owned(), |gain| format!("{gain:.1} x")),
                format!("{} x", row.claimed),
            );
        }
        let _ = writeln!(
            out,
            "latency and jitter at depth 1, throughput at depth {DEEP}, random 4 KiB reads, one \
             queue pair; latency\nand jitter are of all reads, those that met a stolen core too, \
             throughput is of clean windows.\njitter: 99 % of reads lie within so much of the \
             median"
        );
        match &self.baseline {
            Ok(path) => {
                let _ = writeln!(
                    out,
                    "fio reads {path} with io_uring, direct: another device than the {}, so the \
                     ratio is of\nthe two ways on this machine, not of two drivers on one drive",
                    self.on
                );
            }
            Err(why) => {
                let _ = writeln!(out, "no baseline: {why}");
            }
        }
        out
    }

    pub(crate) fn json(&self) -> Value {
        let row = |row: &Row| {
            json!({
                "what": row.what,
                "unit": row.unit,
                "goal": row.goal,
                "better": if row.more { "more" } else { "less" },
                "measured": row.measured,
                "passed": row.passed(),
                "fio": row.baseline,
                "ratio": row.gain(),
                "claimed": row.claimed,
            })
        };
        json!({
            "on": self.on,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "jitter": "99 % of the depth-1 reads lie within so much of their median",
            "baseline": match &self.baseline {
                Ok(path) => json!({ "file": path }),
                Err(why) => json!({ "missing": why }),
            },
        })
    }
}

/// In ticks.
fn jitter(hist: &Hist) -> u64 {
    hist.radius(hist.quantile(500_000), BAND).unwrap_or(0)
}

/// Seconds of fio at each depth for a run of so many nanoseconds.
pub(crate) fn fio_seconds(time_ns: u64) -> f64 {
    (time_ns as f64 / 2e9).clamp(0.2, 5.0)
}
