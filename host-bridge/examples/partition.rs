//! A partition of one's own: `cargo run --release -p host-bridge --example partition [CPUS]`.
//!
//! A task counts for a second on a core that it has to itself, in a process that can do nothing
//! else; the host waits, then says how it went and how quiet the core was. Ctrl-C ends it in order.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use core_runtime::partition::{Partition, PartitionExit, StopReason, run_until_stopped};
use core_runtime::task::{TaskOptions, select};
use host_bridge::sys::signals::StopSignals;
use host_bridge::topology::Topology;
use host_bridge::{Entry, PartitionSpec, Runtime, RuntimeError};
use hybrid_conventions::{CpuSet, Exit};
use nvme_driver::DeviceParts;

/// The partition's program: from here on everything runs on its core.
fn count(partition: &'static Partition, _device: Option<DeviceParts>) -> PartitionExit {
    let spawner = partition.spawner();
    let work = async move {
        select(spawner.sleep_ns(1_000_000_000), partition.stopping()).await;
        partition.finish(PartitionExit::done());
    };
    match spawner.spawn(TaskOptions::normal("count"), work) {
        Ok(task) => task.detach(),
        Err(error) => return PartitionExit::failed(1, format_args!("{error}")),
    }
    run_until_stopped(partition, ())
}

const COUNT: Entry = Entry::new("count", count);

fn run(cores: CpuSet) -> Result<Exit, RuntimeError> {
    let runtime = Runtime::new(cores)?;
    println!("{}", runtime.facts());
    let signals = StopSignals::install().ok();
    let begun = Instant::now();
    let mut partition = runtime.spawn(PartitionSpec::new("counter", COUNT))?;
    let (started, memory) = (begun.elapsed(), partition.memory());
    partition.wait(Duration::from_millis(10), |partition| {
        if signals.and_then(StopSignals::pending).is_some() {
            partition.request_stop(StopReason::Signal);
        }
        ControlFlow::Continue(())
    });
    let stolen_ns = partition.metrics().number("stolen_ns").unwrap_or(0);
    let report = partition.join();
    println!(
        "{} on cpu {}: started in {started:?}, {} passes in {:?}, stolen {stolen_ns} ns, exit {:?}",
        report.name, report.cpu, report.passes, report.ran, report.exit.state
    );
    println!("{memory:?}, {:?}, system calls {:?}", report.usage, report.syscalls);
    let signal = signals.and_then(StopSignals::pending);
    Ok(signal.map_or(Exit::Ok, |signal| signal.exit()))
}

// This program's `main`: the partition's where it was executed again to be one, else the host's.
host_bridge::partition_main! { entries: [COUNT], main: host }

fn host() -> ExitCode {
    let suggested = || CpuSet::single(Topology::read().suggested_core()?).ok();
    let cores = match std::env::args().nth(1) {
        Some(text) => text.parse().ok(),
        None => suggested(),
    };
    // On a machine with one CPU the runtime says why not.
    let exit = run(cores.unwrap_or(CpuSet::first_n(1))).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        error.exit()
    });
    ExitCode::from(exit.code())
}
