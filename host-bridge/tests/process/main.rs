//! Partitions that are processes: how they start, what they can reach, how they die.
//!
//! Has a `main` of its own, since a partition is this program executed again. Understands what
//! people type: `cargo test -p host-bridge --test process -- [FILTER]... [--exact] [--list]`.

#[path = "../common/mod.rs"]
mod common;
mod deaths;
mod device;
mod host_death;
mod life;
mod sandbox;
mod seen;
#[path = "../common/survivor.rs"]
mod survivor;
mod victims;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use host_bridge::Entry;

/// What partitions of this program run.
pub(crate) const IDLE: Entry = Entry::new("idle", common::idle);
pub(crate) const WORK: Entry = Entry::new("work", victims::work);
pub(crate) const SURVIVOR: Entry = Entry::new("survivor", survivor::survivor);
pub(crate) const VICTIM: Entry = Entry::new("victim", victims::run);
/// An entry that the table below does not have.
pub(crate) const FORGOTTEN: Entry = Entry::new("forgotten", common::idle);

host_bridge::partition_main! {
    entries: [IDLE, WORK, SURVIVOR, VICTIM],
    main: tests,
}

/// A test by name. It panics, as everywhere.
type Test = (&'static str, fn());

fn tests() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == host_death::HOST_ROLE) {
        return host_death::host();
    }
    let flag = |name: &str| args.iter().any(|arg| arg == name);
    let filters: Vec<_> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |(name, _): &&Test| {
        let hit = |filter: &&String| match flag("--exact") {
            true => *filter == name,
            false => name.contains(filter.as_str()),
        };
        filters.is_empty() || filters.iter().any(hit)
    };
    let all: Vec<Test> =
        [life::TESTS, sandbox::TESTS, deaths::TESTS, device::TESTS, host_death::TESTS].concat();
    let tests: Vec<_> = all.iter().filter(wanted).collect();
    if flag("--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        println!("\n{} tests, 0 benchmarks", tests.len());
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", tests.len());
    let mut failed = Vec::new();
    for (name, test) in &tests {
        // Its message has gone to standard error.
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(*name);
        }
    }
    failed.iter().for_each(|name| println!("\n---- {name} ----\nsee its panic on stderr"));
    let (end, passed) =
        (if failed.is_empty() { "ok" } else { "FAILED" }, tests.len() - failed.len());
    println!(
        "\ntest result: {end}. {passed} passed; {} failed; 0 ignored; 0 measured; {} filtered out",
        failed.len(),
        all.len() - tests.len()
    );
    ExitCode::from(u8::from(!failed.is_empty()))
}
