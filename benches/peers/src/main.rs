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
//! | probe | `tracing`, with a subscriber that keeps three numbers |
//! | histogram | `hdrhistogram` |
//! | ITCH | `itch5`, `itchy` |
//!
//! It stands outside the workspace, so that its dependencies are in nobody else's build.

mod histogram;
mod itch;
mod pools;
mod probes;
mod rings;
mod tasks;

use std::process::ExitCode;

use anyhow::Result;
use hybrid_benches::cli::{self, Args};
use hybrid_benches::cross::{Maker, ours};
use hybrid_benches::race::{self, Group};
use hybrid_benches::report::Report;

const TITLE: &str =
    "peers: rings, scheduler, timers, probes, histogram, ITCH, beside public crates";

fn main() -> ExitCode {
    cli::main(bench)
}

fn bench(args: &Args) -> Result<Report> {
    let report = Report::new("bench-peers/1", TITLE, "memory");
    let messages = args.size(400_000, 5_000);
    let groups = |hz| -> Result<Vec<Box<dyn Group>>> {
        Ok(vec![
            Box::new(rings::Rings::new()?),
            Box::new(tasks::Tasks::new(hz)?),
            Box::new(probes::Events::new(hz)?),
            Box::new(histogram::Histograms::new()?),
            Box::new(itch::Itch::new(messages)?),
        ])
    };
    let mut makers: [Maker<'_>; 4] = [
        ("ours", &mut ours),
        ("rtrb", &mut || Ok(rings::rtrb())),
        ("heapless spsc", &mut || Ok(rings::heapless())),
        ("crossbeam ArrayQueue", &mut || Ok(rings::crossbeam())),
    ];
    Ok(race::run(args, report, groups, &mut makers)?.report)
}
