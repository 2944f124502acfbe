//! What the integration tests share: a runtime on the last CPU, one at a time, and partitions that
//! do model I/O.

use std::sync::{Mutex, MutexGuard, PoisonError};

use core_runtime::partition::{Partition, PartitionExit, run_until_stopped};
use core_runtime::task::{TaskOptions, yield_now};
use host_bridge::backend::ModelBackend;
use host_bridge::sys::memfd::PageSize;
use host_bridge::sys::partition_memory::KeepsNothing;
use host_bridge::topology::Topology;
use host_bridge::warnings::Warnings;
use host_bridge::{Entry, EntryFn, Isolation, PartitionSpec, Runtime};
use hybrid_conventions::CpuSet;
use nvme_driver::{Controller, ControllerConfig, DeviceParts, Lba, WriteFlags};
use nvme_model::{ModelConfig, NamespaceConfig};

/// Partitions spin: two at once on a small machine would disturb each other's deadlines.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A runtime over the core that nobody misses most.
pub(crate) struct OnlyOne {
    pub(crate) runtime: Runtime,
    _turn: MutexGuard<'static, ()>,
}

/// A runtime, or `None` (said so) on a machine with one CPU.
pub(crate) fn runtime(test: &str) -> Option<OnlyOne> {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(core) = Topology::read().suggested_core() else {
        hybrid_conventions::testing::skipped(test, "it needs two CPUs");
        return None;
    };
    let cores = CpuSet::single(core).expect("a small number");
    let runtime = Runtime::with_warnings(cores, Warnings::to(|_| {})).expect("a runtime");
    Some(OnlyOne { runtime, _turn: turn })
}

/// An entry of these tests; none of them keeps anything of its partition.
pub(crate) fn entry(name: &'static str, run: EntryFn) -> Entry {
    // SAFETY: the entries of these tests keep nothing beyond their return.
    Entry::new(name, run).self_contained(unsafe { KeepsNothing::promise() })
}

/// A small partition, in 4 KiB pages unless the machine has huge ones.
pub(crate) fn spec(name: &'static str, run: EntryFn) -> PartitionSpec {
    // The entries of these tests share statics with their tests.
    let mut spec = PartitionSpec::new(name, entry(name, run)).isolated_by(Isolation::Thread);
    spec.dma_bytes = 8 << 20;
    spec.private_bytes = 8 << 20;
    spec.event_ring_bytes = 64 << 10;
    spec.page = PageSize::Huge2M;
    spec.config.stop_grace_ns = 2_000_000_000;
    spec
}

/// 16 MiB of memory behind the model.
pub(crate) fn model() -> ModelBackend {
    let namespaces = vec![NamespaceConfig::memory(1, 4096)];
    ModelBackend::new(ModelConfig { namespaces, ..ModelConfig::default() })
}

/// A partition that waits until it is asked to stop.
pub(crate) fn idle(partition: &'static Partition, _device: Option<DeviceParts>) -> PartitionExit {
    let waiting = async move {
        let _ = partition.stopping().await;
        partition.finish(PartitionExit::done());
    };
    match partition.spawner().spawn(TaskOptions::normal("wait"), waiting) {
        Ok(task) => task.detach(),
        Err(error) => return PartitionExit::failed(1, format_args!("{error}")),
    }
    run_until_stopped(partition, ())
}

/// A controller, or the exit that says why not.
#[expect(clippy::result_large_err, reason = "once, at the start of a test's entry")]
pub(crate) fn controller(
    partition: &'static Partition,
    device: Option<DeviceParts>,
) -> Result<&'static Controller, PartitionExit> {
    let Some(parts) = device else {
        return Err(PartitionExit::failed(1, format_args!("no device")));
    };
    Controller::new(parts, partition.bump(), ControllerConfig::default())
        .map_err(|error| PartitionExit::failed(1, format_args!("{error}")))
}

/// Each test binary uses its part; this one says that all are meant.
const _: EntryFn = idle;
const _: fn() -> ModelBackend = model;
const _: fn(&'static Partition, Option<DeviceParts>, u64, Plant) -> PartitionExit = work;
const _: Plant = no_plant;

/// What is planted into the loop of [`work`].
pub(crate) type Plant = fn();

/// Writes and reads back blocks until it has done `rounds` of them, or is asked to stop, then shuts
/// the controller down. `plant` runs once, in the middle, on the partition's thread.
pub(crate) fn work(
    partition: &'static Partition,
    device: Option<DeviceParts>,
    rounds: u64,
    plant: Plant,
) -> PartitionExit {
    let controller = match controller(partition, device) {
        Ok(controller) => controller,
        Err(exit) => return exit,
    };
    let work = async move {
        let exit = match blocks(partition, controller, rounds, plant).await {
            Ok(()) => PartitionExit::from(controller.shutdown().await),
            Err(exit) => exit,
        };
        partition.finish(exit);
    };
    match partition.spawner().spawn(TaskOptions::normal("blocks"), work) {
        Ok(task) => task.detach(),
        Err(error) => return PartitionExit::failed(1, format_args!("{error}")),
    }
    run_until_stopped(partition, controller)
}

async fn blocks(
    partition: &'static Partition,
    controller: &'static Controller,
    rounds: u64,
    plant: Plant,
) -> Result<(), PartitionExit> {
    let failed = |error: &dyn std::fmt::Display| PartitionExit::failed(1, format_args!("{error}"));
    controller.ready().await.map_err(|error| failed(&error))?;
    let Some(namespace) = controller.namespaces().next() else {
        return Err(PartitionExit::failed(1, format_args!("no namespace")));
    };
    let mut buffer = partition.arena().alloc(4096).map_err(|error| failed(&error))?;
    for round in 0..rounds {
        if partition.stop_requested().is_some() {
            break;
        }
        if round == rounds / 2 {
            plant();
        }
        let lba = Lba(round * 7 % namespace.blocks());
        buffer.as_mut_slice().fill(round.to_le_bytes()[0]);
        let written = namespace.write(lba, buffer, WriteFlags::default()).await;
        let mut back = written.map_err(|error| failed(&error.error))?;
        back.as_mut_slice().fill(0xee);
        let read = namespace.read(lba, back).await;
        buffer = read.map_err(|error| failed(&error.error))?;
        let wrong = buffer.as_slice().iter().any(|byte| *byte != round.to_le_bytes()[0]);
        if wrong {
            return Err(PartitionExit::failed(2, format_args!("block {} is wrong", lba.0)));
        }
        yield_now().await;
    }
    Ok(())
}

/// Nothing.
pub(crate) fn no_plant() {}
