//! The runtime's parts beside what our users would take instead, each a crate of the registry.
//!
//! Both sides of a comparison do the same work in turn, slice by slice, in one run; the ratio is
//! the peer's time over ours. The peers live in one process and trust their other end; our rings
//! lie in shared memory and trust nobody.
//!
//! | part | peers |
//! |---|---|
//! | ring | `rtrb`, `heapless::spsc`, `crossbeam_queue::ArrayQueue` |
//! | scheduler | `embassy-executor` (its raw executor), `futures-executor` (`LocalPool`) |
//! | timer | `embassy-time` on its mock clock |
//! | histogram | `hdrhistogram` |
//! | ITCH | `itch5`, `itchy` |
//!
//! It stands outside the workspace, so that its dependencies are in nobody else's build.

mod histogram;
mod itch;
mod pools;
mod rings;
mod tasks;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use host_bridge::affinity::{allowed, pin_to};
use hybrid_benches::cli::{self, Args};
use hybrid_benches::cross::{Maker, cross_core, ours};
use hybrid_benches::race::{Bench, Group};
use hybrid_benches::report::Report;

const TITLE: &str = "peers: rings, scheduler, timers, histogram, ITCH, beside public crates";

fn main() -> ExitCode {
    cli::main(bench)
}

fn bench(args: &Args) -> Result<Report> {
    let mut report = Report::new("bench-peers/1", TITLE, "memory");
    let cpus = allowed();
    let cpu = args.core.or_else(|| cpus.iter().last()).context("no cpu")?;
    let other = cpus.iter().find(|other| *other != cpu);
    pin_to(cpu)?;
    let hz = host_bridge::calibration::measure()?.hz;
    report.tsc(hz);
    let mut groups: Vec<Box<dyn Group>> = vec![
        Box::new(rings::Rings::new()?),
        Box::new(tasks::Tasks::new(hz)?),
        Box::new(histogram::Histograms::new()?),
        Box::new(itch::Itch::new(args.size(400_000, 5_000))?),
    ];
    let mut race = Bench::new(args);
    race.measure(&mut groups)?;
    race.report(hz, &mut report);
    if let Some(other) = other.filter(|_| args.wants("cross")) {
        let mut makers: [Maker<'_>; 4] = [
            ("ours", &mut ours),
            ("rtrb", &mut || Ok(rings::rtrb())),
            ("heapless spsc", &mut || Ok(rings::heapless())),
            ("crossbeam ArrayQueue", &mut || Ok(rings::crossbeam())),
        ];
        report.add(cross_core(args, (cpu, other), hz, &mut makers)?);
    }
    Ok(report)
}
