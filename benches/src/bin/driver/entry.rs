//! The partition: brings the controller up, checks that what it reads is right, and measures.

use core::cell::Cell;
use std::sync::{Mutex, PoisonError};

use core_runtime::clock::Instant;
use core_runtime::mem::DmaBuf;
use core_runtime::metrics::Histogram;
use core_runtime::partition::{Devices, Partition, PartitionExit, run_until_stopped};
use core_runtime::task::{JoinHandle, TaskOptions};
use hybrid_benches::rng::{Rng, mix};
use nvme_driver::{Controller, ControllerConfig, DeviceParts, IoError, Lba, Namespace, WriteFlags};
use nvme_model::{ModelGauges, null_header};
use zerocopy::{FromBytes, IntoBytes};

use crate::flow::{self, Bursts, Flow, SLOTS};
use crate::window::Windows;
use crate::wire::{
    BURSTS, DEPTHS, IDLE, KIND_SAMPLE, Plan, READ_BYTES, Sample, TASK_DEPTHS, TASKS, VERIFIED,
    latency_name,
};

/// The gauges of the model that the next partition runs on. An entry is a function without
/// captures, and this is a measurement of a thread in our own process.
static GAUGES: Mutex<Option<ModelGauges>> = Mutex::new(None);

/// Bytes of a write that fills the namespace: the model's largest transfer.
const FILL_BYTES: usize = 128 << 10;

/// A poll of the measuring task: a few windows.
const BUDGET_NS: u64 = 1_000_000_000;

/// Windows between two turns of the partition's loop, which keeps the controller's watch.
const WINDOWS_A_TURN: u32 = 8;

pub(crate) fn set_gauges(gauges: ModelGauges) {
    *GAUGES.lock().unwrap_or_else(PoisonError::into_inner) = Some(gauges);
}

/// What the measuring task and its workers share.
#[derive(Clone, Copy)]
struct Desk {
    partition: &'static Partition,
    controller: &'static Controller,
    plan: &'static Plan,
    gauges: &'static ModelGauges,
    latency: &'static [Histogram],
    shared: &'static Shared,
}

/// Between the loop, the measuring task and its workers.
#[derive(Default)]
struct Shared {
    /// Where the loop counts completions while futures are measured.
    windows: Cell<Option<&'static Windows>>,
    stop: Cell<bool>,
}

pub(crate) fn run(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    match start(partition, device) {
        Ok(desk) => run_until_stopped(partition, Driven(desk)),
        Err(line) => PartitionExit::failed(1, format_args!("{line}")),
    }
}

fn start(partition: &'static Partition, device: Option<DeviceParts>) -> Result<Desk, &'static str> {
    let plan = Plan::read_from_bytes(partition.args()).map_err(|_| "the plan is cut short")?;
    let gauges = GAUGES.lock().unwrap_or_else(PoisonError::into_inner).take();
    let config = ControllerConfig {
        io_queues: 2,
        queue_depth: 255,
        latency_sampling: 0,
        ..ControllerConfig::default()
    };
    let parts = device.ok_or("no device")?;
    let bump = partition.bump();
    let controller = Controller::new(parts, bump, config).map_err(|_| "no controller")?;
    let histogram = |index: usize| {
        let name = latency_name(DEPTHS[index]);
        let unit = hybrid_abi::metrics::MetricUnit::NANOSECONDS;
        partition.add_metrics(|writer| writer.histogram(name, unit)).expect("room for metrics")
    };
    let no_memory = "private memory is used up";
    let desk = Desk {
        partition,
        controller,
        plan: bump.alloc(plan).map_err(|_| no_memory)?,
        gauges: bump.alloc(gauges.unwrap_or_default()).map_err(|_| no_memory)?,
        latency: bump.slice_with(DEPTHS.len(), histogram).map_err(|_| no_memory)?,
        shared: bump.alloc(Shared::default()).map_err(|_| no_memory)?,
    };
    let task = async move {
        let outcome = desk.work().await;
        let off = desk.controller.shutdown().await;
        desk.partition.finish(match (outcome, off) {
            (Err(error), _) => PartitionExit::failed(1, format_args!("{error}")),
            (Ok(()), Err(error)) => PartitionExit::failed(1, format_args!("{error}")),
            (Ok(()), Ok(())) => PartitionExit::done(),
        });
    };
    let options = TaskOptions::normal("bench").budget_ns(BUDGET_NS);
    partition.spawner().spawn(options, task).map_err(|_| "no task")?.detach();
    Ok(desk)
}

impl Desk {
    async fn work(self) -> Result<(), IoError> {
        self.controller.ready().await.map_err(|_| IoError::NotReady)?;
        let namespace = self.controller.namespaces().next().ok_or(IoError::NotReady)?;
        if self.plan.null_pattern == 0 {
            self.fill(namespace).await?;
        }
        self.verify(namespace).await?;
        let queue = self.controller.take_raw_queue(1, SLOTS, self.partition.bump());
        let queue = queue.ok_or(IoError::NotReady)?;
        let place = (self.partition.clock(), self.partition.arena(), self.partition.bump());
        let flow = Flow::new(queue, namespace.target()?, namespace.blocks(), place)?;
        for _ in 0..self.plan.repetitions {
            self.idle().await;
            for (depth, latency) in DEPTHS.iter().zip(self.latency) {
                self.raw(&flow, *depth, latency).await?;
            }
            for size in BURSTS {
                self.bursts(&flow, size).await?;
            }
            for depth in TASK_DEPTHS {
                self.tasks(namespace, depth).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, sample: Sample) {
        let ring = self.partition.events();
        while matches!(ring.has_room(size_of::<Sample>()), Ok(false)) {
            self.partition.spawner().yield_now().await;
        }
        // A ring that was closed has nobody who waits for it.
        let _ = ring.write(KIND_SAMPLE, 0, sample.as_bytes());
    }

    // ---- right data ------------------------------------------------------------------------

    /// Writes every block, so that no page behind it is the kernel's zero page.
    async fn fill(&self, namespace: &'static Namespace) -> Result<(), IoError> {
        let arena = self.partition.arena();
        let mut buf = arena.alloc(FILL_BYTES).map_err(|_| IoError::NoMemory)?;
        let step = (FILL_BYTES / READ_BYTES) as u64;
        for first in (0..namespace.blocks()).step_by(FILL_BYTES / READ_BYTES) {
            let left = (namespace.blocks() - first).min(step);
            let _ = buf.set_len(usize::try_from(left).unwrap_or(0) * READ_BYTES);
            for (lba, block) in (first..).zip(buf.as_mut_slice().chunks_exact_mut(READ_BYTES)) {
                for (word, bytes) in (0_u64..).zip(block.chunks_exact_mut(8)) {
                    bytes.copy_from_slice(&content(lba, word).to_le_bytes());
                }
            }
            let written = namespace.write(Lba(first), buf, WriteFlags::empty()).await;
            buf = written.map_err(|failed| failed.error)?;
        }
        Ok(())
    }

    /// Reads blocks through the futures and compares each byte that should be there.
    async fn verify(&self, namespace: &'static Namespace) -> Result<(), IoError> {
        let arena = self.partition.arena();
        let mut rng = Rng::new(1);
        let mut buf = arena.alloc(READ_BYTES).map_err(|_| IoError::NoMemory)?;
        let mut checksum = 0;
        for _ in 0..self.plan.verify {
            let lba = rng.below(namespace.blocks());
            buf.as_mut_slice().fill(0xa5);
            let read = namespace.read(Lba(lba), buf).await;
            buf = read.map_err(|failed| failed.error)?;
            if !self.is_right(lba, &buf) {
                return Err(IoError::Unsupported("a block that holds other data than it should"));
            }
            let first = buf.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            checksum = mix(checksum ^ first ^ lba);
        }
        let reads = self.plan.verify.into();
        self.send(Sample { kind: VERIFIED, reads, checksum, ..Sample::default() }).await;
        Ok(())
    }

    fn is_right(&self, lba: u64, buf: &DmaBuf) -> bool {
        let mut words = buf
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()));
        if self.plan.null_pattern == 0 {
            return words.zip(0..).all(|(seen, word)| seen == content(lba, word));
        }
        let header = null_header(lba, self.plan.null_pattern.into());
        [words.next(), words.next()] == header.map(Some)
    }

    // ---- figures ---------------------------------------------------------------------------

    /// How often the device's thread looks around when there is nothing to do.
    async fn idle(&self) {
        let clock = self.partition.clock();
        for _ in 0..self.plan.windows {
            let (begin, empty) = (clock.now(), self.gauges.empty_steps());
            let end = begin + clock.ns_to_ticks(self.plan.window_ns.into());
            while clock.now() < end {
                core::hint::spin_loop();
            }
            let model_empty = self.gauges.empty_steps() - empty;
            let ticks = clock.now().since(begin).get();
            self.send(Sample { kind: IDLE, ticks, model_empty, ..Sample::default() }).await;
            self.partition.spawner().yield_now().await;
        }
    }

    async fn raw(&self, flow: &Flow, depth: u16, latency: &Histogram) -> Result<(), IoError> {
        for stamped in [false, true] {
            let windows = flow.windows(self.plan.window_ns, self.gauges);
            flow.fill(depth);
            while windows.ended() < self.plan.windows {
                if stamped {
                    flow.latencies(&windows, depth, latency)?;
                } else {
                    flow.window(&windows, depth)?;
                }
                if windows.ended().is_multiple_of(WINDOWS_A_TURN) {
                    self.partition.spawner().yield_now().await;
                }
            }
            flow.drain()?;
            if !stamped {
                self.send(flow::raw_sample(&windows, depth)).await;
            }
        }
        Ok(())
    }

    async fn bursts(&self, flow: &Flow, size: u16) -> Result<(), IoError> {
        let mut bursts = Bursts::default();
        for _ in 0..self.plan.bursts {
            bursts.add(flow.burst(size)?);
            self.partition.spawner().yield_now().await;
        }
        self.send(bursts.sum(size)).await;
        Ok(())
    }

    /// `depth` tasks that each read one block after the other.
    async fn tasks(self, namespace: &'static Namespace, depth: u16) -> Result<(), IoError> {
        let partition = self.partition;
        let (clock, spawner) = (partition.clock(), partition.spawner());
        let window_ns = self.plan.window_ns;
        let windows = Windows::new(clock, window_ns, self.gauges.clone(), clock.now());
        // Bump memory is never freed: a few words for each of a handful of runs.
        let windows = partition.bump().alloc(windows).map_err(|_| IoError::NoMemory)?;
        self.shared.stop.set(false);
        let mut workers = heapless::Vec::<JoinHandle<Result<(), IoError>>, 128>::new();
        for seed in 0..depth {
            let buf = partition.arena().alloc(READ_BYTES).map_err(|_| IoError::NoMemory)?;
            let work = worker(namespace, self.shared, buf, Rng::new(seed.into()));
            let worker = spawner.spawn(TaskOptions::normal("reader"), work);
            // As many as the deepest of TASK_DEPTHS.
            let _ = workers.push(worker.map_err(|_| IoError::NoMemory)?);
        }
        self.shared.windows.set(Some(windows));
        while windows.ended() < self.plan.windows {
            spawner.sleep_ns(window_ns.into()).await;
        }
        self.shared.windows.set(None);
        self.shared.stop.set(true);
        for worker in workers {
            worker.await.unwrap_or(Ok(()))?;
        }
        self.send(windows.sum(TASKS, depth)).await;
        Ok(())
    }
}

async fn worker(
    namespace: &'static Namespace,
    shared: &'static Shared,
    mut buf: DmaBuf,
    mut rng: Rng,
) -> Result<(), IoError> {
    let blocks = namespace.blocks();
    while !shared.stop.get() {
        let read = namespace.read(Lba(rng.below(blocks)), buf).await;
        buf = read.map_err(|failed| failed.error)?;
    }
    Ok(())
}

/// Word `word` of block `lba`.
fn content(lba: u64, word: u64) -> u64 {
    mix(lba + 1).wrapping_add(word)
}

/// The controller in the standard loop, its completions counted while futures are measured.
struct Driven(Desk);

impl Devices for Driven {
    fn poll(&mut self, now: Instant) -> bool {
        let report = self.0.controller.poll(now);
        if let Some(windows) = self.0.shared.windows.get() {
            windows.pass(now, report.reaped.into());
        }
        !report.is_idle()
    }

    fn ring(&mut self) {
        self.0.controller.ring();
    }
}
