//! io_uring: a device that the host drives for the partition, over the bridge.
//!
//! `uring:PATH` is a block device or a file, `uring-cmd:/dev/ngXnY` an NVMe namespace, by
//! passthrough.
//! The partition's requests come over two rings to a reactor on a housekeeping CPU
//! ([`crate::uring`]); data go between the storage and the partition's DMA memory, which is
//! registered with the kernel once. What the kernel or the storage does not take is left out, one
//! line each.
//!
//! At the end, the partition being gone, the keeper cancels what is in flight and waits for it:
//! only then does nobody write into DMA memory any more.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use core_runtime::mem::DmaRegion;
use hybrid_abi::handoff::FileRole;
use hybrid_conventions::CpuSet;
use hybrid_shm::Span;

use super::{
    Attached, AttachedFile, Backend, BackendError, Detached, DeviceIngredients, DeviceKeeper,
    DeviceReport, DeviceSeat,
};
use crate::memory::{MemorySource, SharedMemory};
use crate::runtime::iova_region;
use crate::topology::Topology;
use crate::uring::bridge::{BridgeMemory, BridgeServer, Ranges, info_of, lay_out};
use crate::uring::error::UringError;
use crate::uring::features::Step;
use crate::uring::rings::{self, Rings, RingsWish, SqPollWish};
use crate::uring::target::{Target, TargetWish};
use crate::uring::thread::{Finished, IdleOptions, ReactorThread, ThreadOptions};
use crate::warnings::{WarningKind, Warnings};

/// What the kernel's submission thread is wanted for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SqPollChoice {
    /// Where there are two housekeeping CPUs or more: it spins beside the reactor.
    #[default]
    Auto,
    /// Never.
    Off,
    /// On this CPU.
    Cpu(u32),
}

impl FromStr for SqPollChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            cpu => cpu
                .parse()
                .map(Self::Cpu)
                .map_err(|_| format!("`{text}` is not understood: auto, off, or a cpu's number")),
        }
    }
}

/// What goes with `uring:` and `uring-cmd:`.
#[derive(Clone, Debug)]
pub struct UringOptions {
    /// The kernel's submission thread.
    pub sqpoll: SqPollChoice,
    /// How long that thread looks for work before it sleeps.
    pub sqpoll_idle: Duration,
    /// Poll for completions, where the device can.
    pub iopoll: bool,
    /// Through the page cache.
    pub buffered: bool,
    /// Register DMA memory with the kernel.
    pub fixed: bool,
    /// Blocks of a file; 0 is 4 KiB where its size allows, else 512.
    pub lba_bytes: u32,
    /// Make a file of so many bytes if it is not there.
    pub create_bytes: Option<u64>,
    /// Open it for reading only.
    pub read_only: bool,
    /// Requests in flight.
    pub depth: u32,
    /// The housekeeping CPU of the reactor.
    pub pin: Option<u32>,
}

impl Default for UringOptions {
    fn default() -> Self {
        Self {
            sqpoll: SqPollChoice::Auto,
            sqpoll_idle: Duration::from_millis(50),
            iopoll: false,
            buffered: false,
            fixed: true,
            lba_bytes: 0,
            create_bytes: None,
            read_only: false,
            depth: 1024,
            pin: None,
        }
    }
}

/// Storage behind the bridge.
pub struct UringBackend {
    device: String,
    path: PathBuf,
    passthrough: bool,
    options: UringOptions,
}

impl UringBackend {
    /// A block device or a file.
    #[must_use]
    pub fn new(path: &str, options: UringOptions) -> Self {
        let device = format!("uring:{path}");
        Self { device, path: path.into(), passthrough: false, options }
    }

    /// An NVMe node, by passthrough.
    #[must_use]
    pub fn passthrough(node: &str, options: UringOptions) -> Self {
        let device = format!("uring-cmd:{node}");
        Self { device, path: node.into(), passthrough: true, options }
    }

    fn refused(&self, source: UringError) -> BackendError {
        BackendError::Uring { device: self.device.clone(), source: Box::new(source) }
    }

    fn wish(&self) -> TargetWish {
        TargetWish {
            path: self.path.clone(),
            passthrough: self.passthrough,
            direct: !self.options.buffered,
            iopoll: self.options.iopoll,
            write: !self.options.read_only,
            create_bytes: self.options.create_bytes,
            lba_bytes: self.options.lba_bytes,
        }
    }

    fn sqpoll(&self, housekeeping: CpuSet) -> Result<Option<SqPollWish>, BackendError> {
        let idle = self.options.sqpoll_idle;
        let cpu = match self.options.sqpoll {
            SqPollChoice::Off => return Ok(None),
            SqPollChoice::Auto if housekeeping.len() < 2 => return Ok(None),
            SqPollChoice::Auto => neighbour(&Topology::read(), self.options.pin, housekeeping),
            SqPollChoice::Cpu(cpu) if !housekeeping.contains(cpu) => {
                let housekeeping = Box::new(housekeeping);
                return Err(BackendError::NotHousekeeping { cpu, housekeeping });
            }
            SqPollChoice::Cpu(cpu) => Some(cpu),
        };
        Ok(Some(SqPollWish { cpu, idle }))
    }

    /// What the reactor's thread is started with.
    fn thread(
        &self,
        seat: &DeviceSeat<'_>,
        (target, ranges): (&Target, Option<Span<'static>>),
    ) -> Result<ThreadOptions, BackendError> {
        let housekeeping = seat.housekeeping;
        if let Some(cpu) = self.options.pin.filter(|cpu| !housekeeping.contains(*cpu)) {
            let housekeeping = Box::new(housekeeping);
            return Err(BackendError::NotHousekeeping { cpu, housekeeping });
        }
        let mut buffers = Vec::new();
        if self.options.fixed {
            buffers.extend(ranges);
            buffers.extend(BridgeServer::registrable(seat.dma.mapped.span())?);
        }
        let rings = RingsWish {
            // A transfer with its sync is two entries.
            entries: (2 * self.options.depth).clamp(64, 4096),
            sqpoll: self.sqpoll(housekeeping)?,
            iopoll: target.limits().iopoll,
            big: self.passthrough,
            restricted: true,
            buffers,
            files: vec![target.fd()],
            receive: None,
        };
        let alone = housekeeping.len() > 1;
        let idle = if alone { IdleOptions::alone() } else { IdleOptions::shared() };
        Ok(ThreadOptions { rings, pin: self.options.pin, housekeeping, idle })
    }
}

/// A housekeeping CPU for the submission thread: on the reactor's NUMA node, and not the reactor's.
fn neighbour(topology: &Topology, reactor: Option<u32>, housekeeping: CpuSet) -> Option<u32> {
    let node = |cpu| topology.cpu(cpu).and_then(|cpu| cpu.node);
    let reactor = reactor.or_else(|| housekeeping.iter().next())?;
    let near = housekeeping.iter().filter(|cpu| *cpu != reactor && node(*cpu) == node(reactor));
    near.last().or_else(|| housekeeping.iter().find(|cpu| *cpu != reactor))
}

impl Backend for UringBackend {
    fn describe(&self) -> String {
        self.device.clone()
    }

    fn look(&self) -> Result<(), BackendError> {
        rings::look().map_err(|error| self.refused(error))?;
        if self.options.create_bytes.is_some() && !self.path.exists() {
            return Ok(());
        }
        let wish = TargetWish { create_bytes: None, ..self.wish() };
        Target::open(&wish).map(drop).map_err(|error| self.refused(error))
    }

    fn attach(self: Box<Self>, seat: &DeviceSeat<'_>) -> Result<Attached, BackendError> {
        let target = Target::open(&self.wish()).map_err(|error| self.refused(error))?;
        let warnings = seat.memory.warnings().clone();
        target.steps.iter().for_each(|step| warnings.say_each(WarningKind::Uring, || step.clone()));
        let dma = iova_region(seat.dma.mapped.span(), seat.dma.mapped.page().bytes())?;
        let mut memory = Memory::default();
        let served = self.serve(seat, target, dma, &mut memory);
        match served {
            Ok(Served { reactor, ingredients, files, description }) => {
                let state = Reactor::Runs(reactor);
                let keeper = UringKeeper { state, memory: memory.files, description };
                Ok(Attached { ingredients, files, keeper: Box::new(keeper) })
            }
            Err(error) => {
                memory.files.into_iter().for_each(SharedMemory::retire);
                Err(error)
            }
        }
    }
}

/// Files of the bridge, to be given back.
#[derive(Default)]
struct Memory {
    files: Vec<SharedMemory>,
}

impl Memory {
    fn shared(
        &mut self,
        source: &MemorySource,
        name: &str,
        len: usize,
    ) -> Result<(Span<'static>, AttachedFile), BackendError> {
        let memory = source.shared(name, len)?;
        let (span, file) = (memory.mapped.span(), AttachedFile::of(&memory, FileRole::SHARED));
        self.files.push(memory);
        Ok((span, file?))
    }
}

/// What serves a partition.
struct Served {
    reactor: ReactorThread<BridgeServer>,
    ingredients: DeviceIngredients,
    files: Vec<AttachedFile>,
    description: String,
}

impl UringBackend {
    /// Lays out the bridge and starts the reactor.
    fn serve(
        &self,
        seat: &DeviceSeat<'_>,
        target: Target,
        dma: DmaRegion,
        memory: &mut Memory,
    ) -> Result<Served, BackendError> {
        let epoch = u64::from(std::process::id()) << 32 | dma.span.as_ptr() as u64 >> 12;
        let info = info_of(&target, self.options.depth, epoch);
        let source = seat.memory;
        let host = source.one_writer("hybrid-bridge-host", info.host_bytes())?;
        let (own, own_seen) = (host.writer.mapped.span(), host.reader.read_span());
        let seen = AttachedFile::of(&host.writer, FileRole::FROM_HOST);
        memory.files.push(host.writer);
        let seen = AttachedFile { seen: Some(own_seen), ..seen? };
        let (peer, written) =
            memory.shared(source, "hybrid-bridge-partition", info.partition_bytes())?;
        let ranges = if self.passthrough {
            let bytes = Ranges::bytes(info.depth);
            Some(memory.shared(source, "hybrid-bridge-ranges", bytes)?.0)
        } else {
            None
        };
        lay_out(own, &info).map_err(|error| BackendError::Bridge(error.to_string()))?;
        let options = self.thread(seat, (&target, ranges))?;
        let bridge = BridgeMemory { own, peer: peer.read_only(), dma };
        let warnings = seat.memory.warnings().clone();
        let tell = warnings.clone();
        let (device, registered) = (self.device.clone(), self.options.fixed);
        let make = move |rings: &Rings| {
            let description = describe(&device, &target, rings);
            let fixed = rings.fixed_buffers && registered;
            let base = u16::from(ranges.is_some());
            let ranges = ranges.map(|span| Ranges::new(span, fixed.then_some(0)));
            let file = rings.file(target.fd());
            let polled = rings.poll.is_some();
            let told = move |line| tell.say_each(WarningKind::Uring, || line);
            let server = BridgeServer::new(
                (info, bridge),
                (target, file),
                (fixed.then_some(base), ranges),
                polled,
                Box::new(told),
            );
            (server, (rings.steps.clone(), description))
        };
        let spawned = ReactorThread::spawn("uring", options, make);
        let (reactor, (steps, description)) = spawned.map_err(|error| self.refused(error))?;
        say(&warnings, &self.device, &steps);
        let ingredients = DeviceIngredients::by_bridge(peer, own_seen, dma);
        Ok(Served { reactor, ingredients, files: vec![seen, written], description })
    }
}

fn say(warnings: &Warnings, device: &str, steps: &[Step]) {
    let kind = WarningKind::Uring;
    steps.iter().for_each(|step| warnings.say_each(kind, || format!("{device}: {step}")));
}

/// `uring:/tmp/day.img, file, O_DIRECT; SQPOLL, registered buffers, registered files`.
fn describe(device: &str, target: &Target, rings: &Rings) -> String {
    format!("{device}, {}; {}", target.way(), rings.describe())
}

/// The reactor's thread, or what it left.
enum Reactor {
    Runs(ReactorThread<BridgeServer>),
    /// `None` if it panicked.
    Ended(Option<Box<Finished<BridgeServer>>>),
}

/// The reactor, and what to undo.
struct UringKeeper {
    state: Reactor,
    memory: Vec<SharedMemory>,
    description: String,
}

/// How long one try of the fence takes at most: what is in flight is cancelled, and a drive answers
/// within milliseconds.
const FENCE_TRY: Duration = Duration::from_millis(20);

impl UringKeeper {
    /// Stops the thread and keeps what it left; waits for it.
    fn end(self) -> (Option<Box<Finished<BridgeServer>>>, Vec<SharedMemory>, String) {
        let finished = match self.state {
            Reactor::Runs(reactor) => reactor.stop().map(Box::new),
            Reactor::Ended(finished) => finished,
        };
        (finished, self.memory, self.description)
    }
}

impl DeviceKeeper for UringKeeper {
    fn fence(&mut self) -> Result<(), String> {
        if let Reactor::Runs(reactor) = &self.state {
            reactor.ask_to_stop();
            let begun = Instant::now();
            while !reactor.has_ended() {
                if begun.elapsed() >= FENCE_TRY {
                    return Err("operations of the kernel are still under way".to_owned());
                }
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        // Only joins now.
        let state = std::mem::replace(&mut self.state, Reactor::Ended(None));
        let finished = match state {
            Reactor::Runs(reactor) => reactor.stop().map(Box::new),
            Reactor::Ended(finished) => finished,
        };
        let drained = finished.as_ref().is_some_and(|finished| finished.drained);
        self.state = Reactor::Ended(finished);
        if drained { Ok(()) } else { Err("the kernel did not let go of the memory".to_owned()) }
    }

    fn stop(self: Box<Self>) -> Detached {
        let (finished, memory, description) = self.end();
        let mut report = DeviceReport { description, ..DeviceReport::default() };
        match finished {
            None => report.problem = Some("the reactor's thread panicked".to_owned()),
            Some(finished) => tell(&mut report, &finished),
        }
        Detached { report, memory }
    }
}

/// What a reactor's end has to say.
fn tell(report: &mut DeviceReport, finished: &Finished<BridgeServer>) {
    let stats = finished.source.stats();
    if stats.refused != 0 {
        report.mistakes.push(format!(
            "{} requests were refused by the bridge, the first with code {}",
            stats.refused, stats.first_refusal
        ));
    }
    if let Some(why) = finished.source.closed() {
        report.mistakes.push(format!("the bridge's rings were closed: {why}"));
    }
    if let Some(errno) = finished.broken {
        report.problem = Some(format!("a ring of the reactor broke: {errno}"));
    }
    if !finished.drained {
        report.problem = Some(
            "operations of the kernel are still under way after 10 s: the memory that they use is \
             the kernel's until they end"
                .to_owned(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Cpu;

    #[test]
    fn the_submission_thread_is_on_the_reactors_node_and_beside_it() {
        let cpu = |id, node| Cpu { id, node: Some(node), siblings: CpuSet::EMPTY, governor: None };
        let topology =
            Topology { cpus: vec![cpu(0, 0), cpu(1, 0), cpu(2, 1), cpu(3, 1)], ..Topology::read() };
        let all: CpuSet = "0-3".parse().expect("cpus");
        assert_eq!(neighbour(&topology, Some(0), all), Some(1));
        assert_eq!(neighbour(&topology, Some(3), all), Some(2));
        let far: CpuSet = "0,2".parse().expect("cpus");
        assert_eq!(neighbour(&topology, Some(0), far), Some(2), "another node before none");
        let one: CpuSet = "0".parse().expect("cpus");
        assert_eq!(neighbour(&topology, Some(0), one), None);
    }
}
