//! The runtime's parts: rings, scheduler, probes, memory, histograms, checksums.
//!
//! What others offer instead is measured beside them, in turn, by the crate in `benches/peers`.

#![forbid(unsafe_code)]

mod memory;
mod probes;
mod ring;
mod tasks;

use std::process::ExitCode;

use anyhow::Result;
use hybrid_benches::cli::{self, Args};
use hybrid_benches::cross::ours;
use hybrid_benches::race::{self, Group, Measured};
use hybrid_benches::report::Report;

const TITLE: &str = "runtime: rings, scheduler, probes, memory, histograms, checksums";

fn main() -> ExitCode {
    cli::main(bench)
}

/// What is aimed at: p99 of a push or a pop, and of a message to another core. No more than told.
const SINGLE_AIM_NS: f64 = 50.0;
const MESSAGE_AIM_NS: f64 = 500.0;

/// Beyond these the exit code is 2.
const SINGLE_MOST_NS: f64 = 100.0;
const MESSAGE_MOST_NS: f64 = 1000.0;

/// The same for a probe that is on, in ticks: with the pass's stamp, and with its own.
const PROBES_MOST: [(&str, f64); 2] = [(probes::STAMPED, 15.0), (probes::OWN, 60.0)];

fn bench(args: &Args) -> Result<Report> {
    let report = Report::new("bench-runtime/1", TITLE, "memory");
    let groups = |hz| -> Result<Vec<Box<dyn Group>>> {
        Ok(vec![
            Box::new(ring::Rings::new()?),
            Box::new(tasks::Tasks::new(hz)?),
            Box::new(probes::Events::new(hz)?),
            Box::new(memory::Memory::new()?),
        ])
    };
    let measured = race::run(args, report, groups, &mut [("ours", &mut ours)])?;
    let Measured { mut report, hz, ticks, message_p99_ns } = measured;
    let ns = |ticks: u64| ticks as f64 * 1e9 / hz as f64;
    if args.wants("ring") {
        for (what, p99) in ["push", "pop"].into_iter().zip(ring::singles(args.quick)?) {
            let what = format!("ns, p99 of a single {what}, two readings of the clock included");
            report.line(aim(&what, ns(p99), SINGLE_AIM_NS));
            report.goal_most(what, Some(ns(p99)), SINGLE_MOST_NS);
        }
    }
    for (what, most) in PROBES_MOST {
        // A few cycles are no matter for a build that is not optimized: the tests' quick one.
        if args.wants(what) && !args.quick {
            let reached = ticks.iter().find(|(part, _)| *part == what).and_then(|(_, of)| *of);
            report.goal_most(format!("ticks, {what}"), reached, most);
        }
    }
    if let Some(p99) = message_p99_ns {
        let what = "ns, p99 of a message to the other core";
        report.line(
            p99.map_or(format!("aim not measured: {what}"), |p99| aim(what, p99, MESSAGE_AIM_NS)),
        );
        report.goal_most(what, p99, MESSAGE_MOST_NS);
    }
    Ok(report)
}

fn aim(what: &str, reached: f64, most: f64) -> String {
    let verdict = if reached < most { "met" } else { "missed" };
    format!("aim {verdict}: {what}: {reached:.2}, wanted less than {most}")
}
