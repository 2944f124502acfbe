//! The partition's side: bring-up, the drill, shutdown.
//!
//! An entry is a function without captures, and this is a tool of one process: what is to be done
//! and what came of it cross through statics.

use std::cell::Cell;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use core_runtime::clock::Instant;
use core_runtime::mem::{DmaArena, DmaBuf, Iova};
use core_runtime::partition::{Devices, Partition, PartitionExit, run_until_stopped};
use core_runtime::task::TaskOptions;
use nvme_driver::{
    Controller, ControllerConfig, ControllerState, DeviceParts, Failed, IoError, Lba, Namespace,
    WriteFlags,
};

use crate::stamp::{BLOCK, BLOCKS, is_right, stamp};
use crate::still::Still;

/// What to do.
pub(crate) enum Drill {
    Fill,
    Storm { reads: u64, window: u16 },
    Stray { address: u64 },
    Put { offset: u64, bytes: Vec<u8> },
    Get { offset: u64, len: usize },
}

pub(crate) static DRILL: Mutex<Option<Drill>> = Mutex::new(None);
static UNDER_WAY: AtomicBool = AtomicBool::new(false);
static STILL_STEPS: AtomicU64 = AtomicU64::new(0);
static RESULTS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static TAKEN: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// Whether commands are in flight: the moment to pull the plug.
pub(crate) fn is_under_way() -> bool {
    UNDER_WAY.load(Ordering::Relaxed)
}

/// How long a whole window has been in flight without that a read ended: steps of [`Still`].
pub(crate) fn still_steps() -> u64 {
    STILL_STEPS.load(Ordering::Relaxed)
}

/// The lines to print.
pub(crate) fn results() -> Vec<String> {
    std::mem::take(&mut *RESULTS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// What was read.
pub(crate) fn taken() -> Option<Vec<u8>> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn tell(line: impl Display) {
    RESULTS.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_string());
}

/// The entry.
pub(crate) fn run(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    let drill = DRILL.lock().unwrap_or_else(PoisonError::into_inner).take();
    match start(partition, device, drill) {
        Ok(controller) => run_until_stopped(partition, Driven { partition, controller }),
        Err(line) => PartitionExit::failed(1, format_args!("{line}")),
    }
}

fn start(
    partition: &'static Partition,
    device: Option<DeviceParts>,
    drill: Option<Drill>,
) -> Result<&'static Controller, String> {
    let (parts, drill) = device.zip(drill).ok_or("no device, or nothing to do")?;
    // Somebody may switch its bus mastering off again and again.
    let config =
        ControllerConfig { queue_depth: 63, bringup_attempts: 10, ..ControllerConfig::default() };
    let controller =
        Controller::new(parts, partition.bump(), config).map_err(|error| error.to_string())?;
    let task = async move {
        let outcome = work(partition, controller, drill).await;
        let stats = controller.stats();
        tell(format_args!(
            "resets {}, queue resets {}, quarantined blocks {}",
            stats.resets,
            stats.queue_resets,
            partition.arena().stats().quarantined
        ));
        let off = controller.shutdown().await;
        partition.finish(match (outcome, off) {
            (Err(line), _) => PartitionExit::failed(1, format_args!("{line}")),
            (Ok(()), Err(error)) => PartitionExit::failed(1, format_args!("{error}")),
            (Ok(()), Ok(())) => PartitionExit::done(),
        });
    };
    let options = TaskOptions::normal("drill").budget_ns(1_000_000_000);
    partition.spawner().spawn(options, task).map_err(|error| error.to_string())?.detach();
    Ok(controller)
}

async fn work(
    partition: &'static Partition,
    controller: &'static Controller,
    drill: Drill,
) -> Result<(), String> {
    controller.ready().await.map_err(|error| error.to_string())?;
    let namespace = controller.namespaces().next().ok_or("no namespace that can be used")?;
    let desk = Desk { partition, controller, namespace };
    match drill {
        Drill::Fill => desk.fill().await,
        Drill::Storm { reads, window } => desk.storm(reads, window).await,
        Drill::Stray { address } => desk.stray(address).await,
        Drill::Put { offset, bytes } => desk.put(offset, &bytes).await,
        Drill::Get { offset, len } => desk.get(offset, len).await,
    }
}

#[derive(Clone, Copy)]
struct Desk {
    partition: &'static Partition,
    controller: &'static Controller,
    namespace: &'static Namespace,
}

/// How the commands of a storm ended.
#[derive(Default)]
struct Ends {
    started: Cell<u64>,
    right: Cell<u64>,
    wrong: Cell<u64>,
    gone: Cell<u64>,
    reset: Cell<u64>,
    failed: Cell<u64>,
    /// The first error that was neither.
    first: Cell<Option<IoError>>,
    running: Cell<u16>,
}

impl Ends {
    fn ended(&self) -> u64 {
        let ended = [&self.right, &self.wrong, &self.gone, &self.reset, &self.failed];
        ended.iter().map(|count| count.get()).sum()
    }
}

fn more(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

impl Desk {
    fn buffer(self, bytes: usize) -> Result<DmaBuf, String> {
        self.partition.arena().alloc_zeroed(bytes).map_err(|error| error.to_string())
    }

    fn lba(self, byte: u64) -> Lba {
        Lba(byte / u64::from(self.namespace.lba_bytes()))
    }

    async fn fill(self) -> Result<(), String> {
        let mut buf = self.buffer(BLOCK)?;
        for block in 0..BLOCKS {
            stamp(block, &mut buf);
            let lba = self.lba(block * BLOCK as u64);
            let written = self.namespace.write(lba, buf, WriteFlags::default()).await;
            buf = written.map_err(|failed| failed.to_string())?;
        }
        self.namespace.flush().await.map_err(|error| error.to_string())?;
        tell(format_args!("filled {BLOCKS} blocks"));
        Ok(())
    }

    async fn storm(self, reads: u64, window: u16) -> Result<(), String> {
        let ends: &'static Ends = Box::leak(Box::default());
        ends.running.set(window);
        for worker in 0..window {
            let task = self.reader(ends, reads, u64::from(worker));
            let options = TaskOptions::normal("reader");
            let spawned = self.partition.spawner().spawn(options, task);
            spawned.map_err(|error| error.to_string())?.detach();
        }
        let mut still = Still::new(self.partition.spawner().clock());
        while ends.running.get() != 0 {
            let steps = still.steps(ends.started.get(), ends.ended(), window);
            STILL_STEPS.store(steps, Ordering::Relaxed);
            self.partition.spawner().yield_now().await;
        }
        tell(format_args!(
            "reads: {} started, {} right, {} gone, {} lost in a reset, {} failed, {} wrong",
            ends.started.get(),
            ends.right.get(),
            ends.gone.get(),
            ends.reset.get(),
            ends.failed.get(),
            ends.wrong.get()
        ));
        if let Some(error) = ends.first.get() {
            tell(format_args!("first failure: {error}"));
        }
        if ends.ended() != ends.started.get() {
            let (started, ended) = (ends.started.get(), ends.ended());
            return Err(format!("{started} reads started and {ended} ended"));
        }
        if ends.gone.get() != 0 {
            return Err(format!("device gone: {} reads ended so", ends.gone.get()));
        }
        match (ends.wrong.get(), ends.failed.get()) {
            (0, 0) => Ok(()),
            (wrong, failed) => Err(format!("{wrong} blocks were wrong, {failed} reads failed")),
        }
    }

    async fn reader(self, ends: &'static Ends, reads: u64, worker: u64) {
        let mut block = worker;
        let mut spare = None;
        while reads == 0 || ends.started.get() < reads {
            if self.partition.stop_requested().is_some() {
                break;
            }
            let buf = match spare.take().map_or_else(|| self.buffer(BLOCK), Ok) {
                Ok(buf) => buf,
                // All of it is in quarantine: nothing more to be had.
                Err(_) => break,
            };
            more(&ends.started);
            block = (block * 5 + 1) % BLOCKS;
            let read = self.namespace.read(self.lba(block * BLOCK as u64), buf).await;
            UNDER_WAY.store(true, Ordering::Relaxed);
            match read {
                Ok(buf) => {
                    more(if is_right(block, &buf) { &ends.right } else { &ends.wrong });
                    spare = Some(buf);
                }
                Err(Failed { error: IoError::Gone, .. }) => {
                    more(&ends.gone);
                    break;
                }
                Err(Failed { error, buf }) => {
                    spare = buf;
                    if !self.goes_on(ends, error).await {
                        break;
                    }
                }
            }
        }
        ends.running.set(ends.running.get() - 1);
    }

    /// Counts a read that failed; false when there is no device to go on with.
    async fn goes_on(self, ends: &Ends, error: IoError) -> bool {
        match error {
            IoError::Reset(_) | IoError::NotReady => more(&ends.reset),
            error => {
                more(&ends.failed);
                ends.first.set(ends.first.get().or(Some(error)));
            }
        }
        self.controller.ready().await.is_ok()
    }

    /// A read whose buffer lies at an address that no mapping has, then one that is right.
    async fn stray(self, address: u64) -> Result<(), String> {
        const POISON: u8 = 0xa5;
        let elsewhere =
            DmaArena::leak(1 << 20, Iova(address)).map_err(|error| error.to_string())?;
        let mut buf = elsewhere.alloc(BLOCK).map_err(|error| error.to_string())?;
        buf.fill(POISON);
        let at = buf.iova();
        match self.namespace.read(self.lba(0), buf).await {
            Ok(buf) if buf.iter().all(|&byte| byte == POISON) => {
                tell(format_args!("stray read to {at}: success was reported, no byte arrived"));
            }
            Ok(_) => return Err(format!("stray read to {at}: the iommu let it through")),
            Err(failed) => tell(format_args!("stray read to {at}: {failed}")),
        }
        self.controller.ready().await.map_err(|error| error.to_string())?;
        for block in 0..64 {
            let buf = self.buffer(BLOCK)?;
            let lba = self.lba(block * BLOCK as u64);
            let buf = self.namespace.read(lba, buf).await.map_err(|failed| failed.to_string())?;
            if !is_right(block, &buf) {
                return Err(format!("block {block} is wrong after the stray read"));
            }
        }
        tell("64 reads after it are right");
        Ok(())
    }

    async fn put(self, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let mut buf = self.buffer(bytes.len())?;
        buf.copy_from_slice(bytes);
        let written = self.namespace.write(self.lba(offset), buf, WriteFlags::default()).await;
        written.map_err(|failed| failed.to_string())?;
        self.namespace.flush().await.map_err(|error| error.to_string())?;
        tell(format_args!("{} bytes written at {offset}", bytes.len()));
        Ok(())
    }

    async fn get(self, offset: u64, len: usize) -> Result<(), String> {
        let buf = self.buffer(len)?;
        let read = self.namespace.read(self.lba(offset), buf).await;
        let buf = read.map_err(|failed| failed.to_string())?;
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(buf.to_vec());
        tell(format_args!("{len} bytes read at {offset}"));
        Ok(())
    }
}

/// The devices of the standard loop.
struct Driven {
    partition: &'static Partition,
    controller: &'static Controller,
}

impl Devices for Driven {
    fn poll(&mut self, now: Instant) -> bool {
        Devices::poll(&mut self.controller, now)
    }

    fn ring(&mut self) {
        Devices::ring(&mut self.controller);
    }

    fn publish(&mut self, metrics: &core_runtime::metrics::RuntimeMetrics) {
        // A controller that failed takes no command any more; the drill's own end says so.
        let failed = matches!(self.controller.state(), ControllerState::Failed(_));
        if failed && self.partition.stop_requested().is_some() {
            self.controller.request_shutdown();
        }
        Devices::publish(&mut self.controller, metrics);
    }
}
