//! A partition of one's own: `cargo run --release -p host-bridge --example partition [CPUS]`.
//!
//! A task has a core for a second, in a process that can do nothing else. Ctrl-C ends it in order.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

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

// This program's `main`: the partition's where it was executed again to be one, else the host's.
host_bridge::partition_main! { entries: [COUNT], main: host }

fn run(cores: CpuSet) -> Result<Exit, RuntimeError> {
    let runtime = Runtime::new(cores)?;
    let signals = StopSignals::install().ok();
    let pending = || signals.and_then(StopSignals::pending);
    let mut partition = runtime.spawn(PartitionSpec::new("counter", COUNT))?;
    partition.wait(Duration::from_millis(10), |partition| {
        if pending().is_some() {
            partition.request_stop(StopReason::Signal);
        }
        ControlFlow::Continue(())
    });
    println!("{:#?}", partition.join());
    Ok(pending().map_or(Exit::Ok, |signal| signal.exit()))
}

fn host() -> ExitCode {
    let suggested = || CpuSet::single(Topology::read().suggested_core()?).ok();
    let named = std::env::args().nth(1);
    let cores = named.map_or_else(suggested, |text| text.parse().ok());
    let exit = run(cores.unwrap_or(CpuSet::first_n(1))).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        error.exit()
    });
    ExitCode::from(exit.code())
}
