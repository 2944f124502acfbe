//! `--stepped`: driver and model in turn on one core, printed.

use std::fmt::Write as _;

use host_bridge::affinity::pin_to;
use host_bridge::facts::MachineFacts;
use host_bridge::sys::alloc_guard;
use host_bridge::topology::Topology;
use hybrid_benches::figures::Series;
use serde_json::{Value, json};

use crate::cli::RunArgs;
use crate::failure::Failure;
use crate::stepped::{SIZES, Stepped};
use crate::summary::{Figure, counted};

/// What all batch sizes cost, in ticks an operation.
pub(crate) struct SteppedRun {
    pub(crate) rows: Vec<Row>,
    pub(crate) empty_poll: Series,
    pub(crate) stamp: Series,
    pub(crate) done: u64,
    pub(crate) hz: u64,
    facts: MachineFacts,
    cpu: u32,
}

/// One batch size.
pub(crate) struct Row {
    pub(crate) size: u16,
    pub(crate) submit: Series,
    pub(crate) reap: Series,
    pub(crate) model: Series,
}

impl Row {
    pub(crate) fn sum(&self) -> Option<f64> {
        Some(self.submit.median()? + self.reap.median()?)
    }

    pub(crate) const fn goal(&self) -> Option<f64> {
        goal(self.size)
    }
}

/// Goal (a): at most so many ticks to submit and reap one in batches of `size`; `None` between the
/// sizes that it names.
pub(crate) const fn goal(size: u16) -> Option<f64> {
    match size {
        1 => Some(120.0),
        32.. => Some(60.0),
        _ => None,
    }
}

/// Goal (a) for an empty poll, in ticks.
pub(crate) const EMPTY_POLL_GOAL: f64 = 10.0;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) core: Option<u32>,
    pub(crate) repetitions: u32,
    /// Of each size in each repetition.
    pub(crate) operations: u64,
    pub(crate) seed: u64,
}

impl Work {
    /// As the flags have it.
    pub(crate) fn of(args: &RunArgs) -> Self {
        let (load, core) = (&args.load, args.machine.core);
        // Some 100 ns an operation.
        let sizes = SIZES.len() as u64;
        let operations = load.time_ns / u64::from(load.repetitions) / sizes / 100;
        Self { core, repetitions: load.repetitions, operations, seed: load.seed }
    }
}

pub(crate) fn measure(work: Work) -> Result<SteppedRun, Failure> {
    let Work { core, repetitions, operations, seed } = work;
    let topology = Topology::read();
    let cpu = core.or(topology.suggested_core()).or(topology.allowed.iter().last());
    let cpu = cpu.ok_or_else(|| Failure::error("this process may use no cpu"))?;
    pin_to(cpu).map_err(Failure::error)?;
    let hz = host_bridge::calibration::measure().map_err(Failure::error)?.hz;
    let failed = |error: anyhow::Error| Failure::error(format_args!("{error:#}"));
    let mut stepped = Stepped::new(hz, seed).map_err(failed)?;
    let row = |size: &u16| Row {
        size: *size,
        submit: Series::default(),
        reap: Series::default(),
        model: Series::default(),
    };
    let mut run = SteppedRun {
        rows: SIZES.iter().map(row).collect(),
        empty_poll: Series::default(),
        stamp: Series::default(),
        done: 0,
        hz,
        facts: MachineFacts::read(&topology),
        cpu,
    };
    stepped.batches(32, (operations / 200).max(4)).map_err(failed)?; // warm
    for _ in 0..repetitions {
        for row in &mut run.rows {
            let batches = (operations / u64::from(row.size)).max(1);
            let cost = stepped.batches(row.size, batches).map_err(failed)?;
            row.submit.push(Some(cost.submit));
            row.reap.push(Some(cost.reap));
            row.model.push(Some(cost.model));
            run.stamp.push(Some(cost.stamp));
        }
        run.empty_poll.push(Some(stepped.empty_poll((operations / 200).clamp(10, 1000))));
    }
    run.done = stepped.done;
    Ok(run)
}

impl SteppedRun {
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        for row in &self.rows {
            let name = |what| format!("stepped {what} of batches of {}", row.size);
            figures.push(Figure::time(name("submit"), "ticks", &row.submit));
            figures.push(Figure::time(name("complete"), "ticks", &row.reap));
        }
        figures.push(Figure::time("stepped empty poll", "ticks", &self.empty_poll));
        figures
    }

    /// The table alone.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{:<10}{:>14}{:>14}{:>14}{:>10}{:>10}{:>14}   ticks a read",
            "batch", "submit", "complete", "sum", "sum, ns", "goal", "model's work"
        );
        let cell = |value: Option<f64>| value.map_or("-".to_owned(), |x| format!("{x:.1}"));
        for row in &self.rows {
            let sum = row.sum();
            let goal = row.goal().map_or(String::new(), |goal| {
                let met = sum.is_some_and(|sum| sum <= goal);
                format!("{goal:.0} {}", if met { "met" } else { "missed" })
            });
            let _ = writeln!(
                out,
                "{:<10}{:>14}{:>14}{:>14}{:>10}{goal:>10}{:>14}",
                row.size,
                cell(row.submit.median()),
                cell(row.reap.median()),
                cell(sum),
                cell(sum.map(|ticks| ticks * 1e9 / self.hz as f64)),
                cell(row.model.median()),
            );
        }
        let poll = self.empty_poll.median();
        let met = poll.is_some_and(|poll| poll <= EMPTY_POLL_GOAL);
        let _ = writeln!(
            out,
            "empty poll {} ticks (goal {EMPTY_POLL_GOAL:.0} {})",
            cell(poll),
            if met { "met" } else { "missed" }
        );
        let _ = writeln!(
            out,
            "medians of repetitions; 4 KiB reads of a null namespace, completions posted before \
             the reap,\nnet of the {:.0} ticks that two readings of the clock take",
            self.stamp.median().unwrap_or(0.0)
        );
        out
    }

    pub(crate) fn screen(&self) -> String {
        let mut out = String::from("storage-bench: stepped, randread 4k, one core\n\n");
        let _ = writeln!(
            out,
            "on        model, stepped on the same core between submit and reap: our software's \
             cost alone\nmachine   {}, Linux {}, TSC {:.3} GHz, CPU {}\n",
            self.facts.cpu_model,
            self.facts.kernel,
            self.hz as f64 / 1e9,
            self.cpu
        );
        out.push_str(&self.table());
        out
    }

    pub(crate) fn rows_json(&self) -> Value {
        let row = |row: &Row| {
            json!({
                "batch": row.size,
                "submit_ticks": row.submit.median(),
                "complete_ticks": row.reap.median(),
                "sum_ticks": row.sum(),
                "goal_ticks": row.goal(),
                "model_ticks": row.model.median(),
            })
        };
        json!({
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "empty_poll_ticks": self.empty_poll.median(),
            "stamp_ticks": self.stamp.median(),
            "operations": self.done,
        })
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "schema": crate::json::SCHEMA,
            "version": env!("CARGO_PKG_VERSION"),
            "on": "model",
            "machine": {
                "cpu": self.facts.cpu_model,
                "kernel": self.facts.kernel,
                "virtual": self.facts.hypervisor,
                "tsc_hz": self.hz,
                "core": self.cpu,
            },
            "job": { "mode": "stepped", "io_bytes": 4096 },
            "result": self.rows_json(),
            "figures": crate::json::figures(&[self.figures(), counted()].concat()),
        })
    }

    /// What the stepped loops allocated, if that was watched.
    pub(crate) fn check_allocations() -> Result<(), Failure> {
        allocations(alloc_guard::hot_report(), "the stepped loop")
    }
}

/// A hot loop that allocates is an error where it is watched.
pub(crate) fn allocations(
    report: Option<alloc_guard::AllocReport>,
    whose: &str,
) -> Result<(), Failure> {
    match report {
        Some(alloc_guard::AllocReport { calls: calls @ 1.., first_bytes }) => {
            Err(Failure::error(format_args!(
                "{whose} called the allocator {calls} times, first for {first_bytes} bytes"
            )))
        }
        None if cfg!(feature = "allocation-tracking") => Err(Failure::error(format_args!(
            "{whose} was not watched for allocations, as this build should"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_to_the_allocator_is_an_error_where_calls_are_watched() {
        let seen = |calls, first_bytes| Some(alloc_guard::AllocReport { calls, first_bytes });
        assert_eq!(allocations(seen(0, 0), "the loop"), Ok(()));
        let error = allocations(seen(2, 48), "the loop").expect_err("two calls");
        assert_eq!(error.line, "the loop called the allocator 2 times, first for 48 bytes");
        assert_eq!(allocations(None, "it").is_err(), cfg!(feature = "allocation-tracking"));
    }

    #[cfg(feature = "allocation-tracking")]
    #[test]
    fn a_planted_call_is_seen() {
        alloc_guard::mark_hot_thread();
        let _ = alloc_guard::hot_report();
        alloc_guard::arm_hot();
        drop(std::hint::black_box(Box::new(7_u64)));
        alloc_guard::disarm_hot();
        assert!(allocations(alloc_guard::hot_report(), "the loop").is_err());
    }
}
