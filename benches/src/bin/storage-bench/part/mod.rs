//! What runs on the partition's core: brings the controller up and goes through the plan's phases.
//!
//! No allocation and no system call from the loop's begin to its end; all memory is the bump's and
//! the arena's.

mod block;
mod burst;
mod closed;
mod desk;
mod futures;
mod lane;
mod noise;
mod open;
mod prepare;
mod verify;
mod window;

use core::cell::{Cell, RefCell};
use std::sync::{Mutex, PoisonError};

use core_runtime::clock::Instant;
use core_runtime::partition::{Devices, Partition, PartitionExit, run_until_stopped};
use core_runtime::task::TaskOptions;
use host_bridge::sys::alloc_guard;
use hybrid_benches::hist::Hist;
use nvme_driver::{ControllerConfig, Device, DeviceParts, IoError};
use nvme_model::ModelGauges;
use zerocopy::{FromBytes, IntoBytes};

use crate::wire::{
    BATCH, BURST, CLOSED, FUTURES, HISTS, KIND_BEGIN, NOISE, OPEN, Phase, Plan, Sample,
};
use desk::{Bench, Course, Desk, Shared};
use lane::Engine;

pub(crate) use futures::TASKS;
pub(crate) use open::IN_FLIGHT;
pub(crate) use verify::PLACES;

/// Zipf draws: the walk through them repeats.
pub(crate) const DRAWS: usize = 1 << 18;

/// The gauges of the model that the next partition runs on. An entry is a function without
/// captures, and this is a measurement of a thread in our own process.
static GAUGES: Mutex<Option<ModelGauges>> = Mutex::new(None);

/// A poll of the measuring task: a few windows.
const BUDGET_NS: u64 = 1_000_000_000;

/// Commands older than this are aborted: long enough for a machine that is busy with other things.
const DEADLINE_NS: u64 = 10_000_000_000;

pub(crate) fn set_gauges(gauges: ModelGauges) {
    *GAUGES.lock().unwrap_or_else(PoisonError::into_inner) = Some(gauges);
}

pub(crate) fn run(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    match start(partition, device) {
        Ok(desk) => run_until_stopped(partition, Driven(desk)),
        Err(line) => PartitionExit::failed(1, format_args!("{line}")),
    }
}

fn start(partition: &'static Partition, device: Option<DeviceParts>) -> Result<Desk, &'static str> {
    let args = partition.args();
    let (plan, rest) = Plan::read_from_prefix(args).map_err(|_| "the plan is cut short")?;
    let gauges = GAUGES.lock().unwrap_or_else(PoisonError::into_inner).take();
    let config = ControllerConfig {
        // One more than the raw loops take: the futures'.
        io_queues: u16::try_from(plan.queues + 1).unwrap_or(1).min(nvme_driver::MAX_IO_QUEUES),
        queue_depth: u16::try_from(plan.slots).unwrap_or(u16::MAX).clamp(255, 1023),
        max_transfer_bytes: plan.buffer_bytes.max(128 << 10),
        latency_sampling: plan.latency_sampling,
        deadline_ns: DEADLINE_NS,
        ..ControllerConfig::default()
    };
    let parts = device.ok_or("no device")?;
    let bump = partition.bump();
    let device = Device::open(parts, bump, config).map_err(|_| "no device")?;
    let no_memory = "private memory is used up";
    let mut phases = rest.chunks_exact(size_of::<Phase>());
    let count = phases.len();
    let mut phase = |_| phases.next().and_then(|bytes| Phase::read_from_bytes(bytes).ok());
    let phases = bump.slice_with(count, |n| phase(n).unwrap_or_default());
    let phases = phases.map_err(|_| no_memory)?;
    let room = phases.iter().map(|phase| phase.backlog).max().unwrap_or(0).max(1);
    let room = usize::try_from(room).unwrap_or(1);
    let desk = Desk {
        partition,
        device,
        plan: bump.alloc(plan).map_err(|_| no_memory)?,
        phases,
        gauges: bump.alloc(gauges.unwrap_or_default()).map_err(|_| no_memory)?,
        shared: bump.alloc(Shared::default()).map_err(|_| no_memory)?,
        window: bump.alloc(RefCell::default()).map_err(|_| no_memory)?,
        hists: bump.alloc(RefCell::new([const { Hist::new() }; HISTS])).map_err(|_| no_memory)?,
        interval: bump.alloc(RefCell::new(Hist::new())).map_err(|_| no_memory)?,
        backlog: bump
            .slice_with(room, |_| Cell::new(Instant::from_ticks(0)))
            .map_err(|_| no_memory)?,
    };
    let task = async move {
        let outcome = desk.work().await;
        let off = desk.device.shutdown().await;
        desk.partition.finish(match (outcome, off) {
            (Err(why), _) => PartitionExit::failed(1, format_args!("{why}")),
            (Ok(()), Err(error)) => PartitionExit::failed(1, format_args!("{error}")),
            (Ok(()), Ok(())) => PartitionExit::done(),
        });
    };
    let options = TaskOptions::normal("bench").budget_ns(BUDGET_NS);
    partition.spawner().spawn(options, task).map_err(|_| "no task")?.detach();
    Ok(desk)
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Io(#[from] IoError),
    #[error("there is no namespace {0}; --namespace names another")]
    NoNamespace(u32),
    #[error("{0} bytes are no multiple of the namespace's blocks of {1}; -o takes those: -o {1}")]
    BadSize(u32, u32),
    #[error("{0} bytes are more than the controller takes at once, {1}; lower -o")]
    TooLong(u32, u32),
    #[error("the controller gives {1} i/o queues, {0} are asked for; lower --queues")]
    Queues(u32, u16),
    #[error("a queue holds {1} commands, {0} are asked for; lower -q or raise --queues")]
    Depth(u32, u16),
    #[error("the namespace is smaller than one operation of {0} bytes")]
    TooSmall(u32),
    #[error("block {0} holds other data than it should")]
    WrongData(u64),
}

impl Desk {
    async fn work(self) -> Result<(), Stopped> {
        let bench = self.prepare().await?;
        let mut capacity_milli = 0;
        for repetition in 0..self.plan.repetitions {
            for (index, phase) in (0_u32..).zip(self.phases) {
                if self.stopping() {
                    return Ok(());
                }
                if phase.warm_up != 0 && repetition != 0 {
                    continue;
                }
                let mut course = Course::new(&self, (index, phase), repetition);
                self.send(KIND_BEGIN, index, &[]).await;
                if self.plan.watch_allocations != 0 {
                    alloc_guard::arm_hot();
                }
                let sample = self.phase(&bench, phase, capacity_milli, &mut course).await;
                alloc_guard::disarm_hot();
                let sample = sample?;
                let measured = sample.kept != 0 && sample.ticks != 0;
                if matches!(phase.kind, CLOSED) && measured {
                    capacity_milli = self.rate_milli(sample.done, sample.ticks);
                }
                if phase.warm_up != 0 {
                    self.hists.borrow_mut().iter_mut().for_each(Hist::clear);
                    continue;
                }
                let sample = Sample { phase: index, repetition, ..sample };
                self.send_result(sample, &mut course).await;
            }
        }
        Ok(())
    }

    /// Whether the host asked to end.
    fn stopping(&self) -> bool {
        self.partition.stop_requested().is_some()
    }

    /// Operations in 1,000 s.
    fn rate_milli(&self, done: u64, ticks: u64) -> u64 {
        let hz = self.partition.clock().hz();
        let rate = u128::from(done) * u128::from(hz) * 1000 / u128::from(ticks.max(1));
        u64::try_from(rate).unwrap_or(u64::MAX)
    }

    async fn phase(
        &self,
        bench: &Bench,
        phase: &Phase,
        capacity_milli: u64,
        course: &mut Course,
    ) -> Result<Sample, IoError> {
        if phase.kind == NOISE {
            return self.noise(phase, course).await;
        }
        let target = bench.block.target()?;
        let lba_bytes = bench.block.lba_bytes();
        let pick = self.pick(bench, phase);
        let clock = self.partition.clock();
        if phase.kind == FUTURES {
            let pick = self.partition.bump().alloc(pick).map_err(|_| IoError::NoMemory)?;
            return self.futures(bench.block, pick, phase, course).await;
        }
        let engine = Engine::new((bench.lanes, phase), (target, lba_bytes), pick, clock);
        match phase.kind {
            CLOSED => self.closed(&engine, phase, course).await,
            OPEN => self.open(&engine, phase, capacity_milli, course).await,
            BURST => self.bursts(&engine, phase).await,
            BATCH => self.batches(&engine, phase, course).await,
            _ => {
                let places = self.places(bench.block, phase);
                let places = usize::try_from(places).unwrap_or(PLACES).min(PLACES);
                self.verify(&engine, phase, (&bench.versions[..places], lba_bytes)).await
            }
        }
    }
}

/// The controller in the standard loop, its completions counted while futures are measured.
struct Driven(Desk);

impl Devices for Driven {
    fn poll(&mut self, now: Instant) -> bool {
        let (reaped, any) = self.0.device.poll_io(now);
        let shared = self.0.shared;
        if let Some(windows) = shared.windows.get() {
            shared.done.set(shared.done.get() + u64::from(reaped));
            if let Some(clean) = windows.pass(now, reaped.into()) {
                self.0.close_window(clean);
            }
        }
        any
    }

    fn ring(&mut self) {
        Devices::ring(&mut self.0.device);
    }
}

/// As bytes, for arguments.
pub(crate) fn arguments(plan: &Plan, phases: &[Phase]) -> Vec<u8> {
    let mut bytes = plan.as_bytes().to_vec();
    phases.iter().for_each(|phase| bytes.extend_from_slice(phase.as_bytes()));
    bytes
}
