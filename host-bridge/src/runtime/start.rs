//! The host's steps of starting a partition, in order, each undone if a later one fails.
//!
//! ```text
//!  prepare   lay out the host's region, attach the device     undo: stop the device, end memory
//!  launch    process (`start_apart`) or thread: pin, assemble; wait for its word
//!                                                              undo: let it end
//!  open      the host's ends of regions and rings              undo: let it end
//!  go        the system-call listener, then the entry runs
//! ```

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use core_runtime::mem::DmaRegion;
use core_runtime::metrics::MetricsReader;
use core_runtime::partition::state::{StateReader, StopSwitch};
use core_runtime::partition::{
    COMMANDS_RING, EVENTS_RING, HostParts, METRICS_PART, PROBES_PART, PartitionError,
    PartitionParts, PartitionState, RingSizes, STATE_PART, TASK_NAMES_PART, TaskNames,
    lay_out_host_region,
};
use core_runtime::region::{RegionFacts, RegionReader};
use core_runtime::ring::{RecordConsumer, RecordProducer};
use hybrid_abi::region::PartKind;
use hybrid_shm::{ReadSpan, Word32};

use super::body::Body;
use super::cores::TakenCore;
use super::handle::PartitionHandle;
use super::launch::{self, Ended, Go, Launch, NotReady, Ready};
use super::mesh::MeshPlace;
use super::spec::{Isolation, PartitionSpec};
use super::{Runtime, iova_region};
use crate::alert::{AlertSink, AlertTap};
use crate::backend::{
    Attached, AttachedFile, BackendError, DeviceIngredients, DeviceKeeper, DeviceSeat,
};
use crate::error::RuntimeError;
use crate::memory::{MemoryError, MemorySource};
use crate::probes::{Keeper, Keeping, Origin, ProbeSwitch};
use crate::sys::partition_memory::PartitionMemory;
use crate::sys::resident::STACK_BYTES;
use crate::sys::signals::with_signals_blocked;
use crate::sys::syscall_guard::{Arming, SyscallGuard};
use crate::telemetry::{Entered, Identity};
use crate::warnings::WarningKind;

/// How long a partition may take to assemble: a second for a gigabyte of bookkeeping on a slow
/// machine, and some more for one that is busy.
pub(super) const ASSEMBLY_LIMIT: Duration = Duration::from_secs(20);

/// How long the host waits for the end of a thread that it does not let run: it has nothing left to
/// do, on a machine that may be busy.
const END_LIMIT: Duration = Duration::from_secs(5);

/// What `Runtime::spawn` has decided.
pub(super) struct Plan<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) spec: PartitionSpec,
    pub(super) core: TakenCore,
    pub(super) rings: RingSizes,
    pub(super) facts: RegionFacts,
    pub(super) source: &'a MemorySource,
}

/// The device's side of a start; stopping it is the way back.
pub(super) struct Prepared {
    pub(super) host_parts: HostParts,
    probes: ProbeSwitch,
    dma: DmaRegion,
    pub(super) ingredients: Option<DeviceIngredients>,
    pub(super) files: Vec<AttachedFile>,
    keeper: Option<Box<dyn DeviceKeeper>>,
    description: Option<String>,
}

/// A thread whose partition is assembled and waits.
struct Waiting {
    thread: JoinHandle<Option<Ended>>,
    go: SyncSender<Go>,
    state_word: Word32<'static>,
}

/// A partition that was let go.
pub(super) type Running = (Body, Ends);

/// A start that failed, and whether its thread is gone.
pub(super) struct NotRunning {
    error: RuntimeError,
    ended: bool,
}

/// Before there is a thread.
impl From<RuntimeError> for NotRunning {
    fn from(error: RuntimeError) -> Self {
        Self { error, ended: true }
    }
}

/// Joins a thread that is about to end; false if it does not.
fn ends_soon(thread: JoinHandle<Option<Ended>>) -> bool {
    let begun = Instant::now();
    while !thread.is_finished() {
        if begun.elapsed() >= END_LIMIT {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = thread.join();
    true
}

/// The host's ends of what it shares with a partition.
pub(super) struct Ends {
    region: ReadSpan<'static>,
    task_names: Option<TaskNames>,
    state: StateReader,
    stop: StopSwitch,
    metrics: MetricsReader,
    events: RecordConsumer,
    commands: RecordProducer,
    event_parts: (ReadSpan<'static>, ReadSpan<'static>),
}

impl Plan<'_> {
    /// All steps.
    pub(super) fn start(
        mut self,
        mut memory: PartitionMemory,
    ) -> Result<PartitionHandle, RuntimeError> {
        let alerts = self.alerts();
        let promise = self.spec.entry.promise;
        let mut prepared = match self.prepare(&memory) {
            Ok(prepared) => prepared,
            Err(error) => {
                memory.end(promise, None, Vec::new());
                return Err(error);
            }
        };
        let running = match self.spec.isolation {
            Isolation::Process => self.run_apart(&mut memory, &prepared).map_err(NotRunning::from),
            Isolation::Thread => self.run(&mut memory, &prepared),
        };
        let keeper = &mut prepared.keeper;
        if let (Ok((Body::Process { process, .. }, _)), Some(keeper)) = (&running, keeper) {
            keeper.started(process);
        }
        match running {
            Ok((body, ends)) => Ok(PartitionHandle {
                probe_keeper: self.keep_probes(&ends, &prepared.probes),
                probes: prepared.probes,
                entered: self.enter(&body, &memory, prepared.description.as_ref()),
                name: self.spec.name,
                core: self.core,
                clock: self.runtime.clock,
                state: ends.state,
                stop: ends.stop,
                events: Some(ends.events),
                event_parts: ends.event_parts,
                alerts,
                place: self.spec.place,
                pump: None,
                commands: ends.commands,
                metrics: ends.metrics,
                region: ends.region,
                task_names: ends.task_names,
                incarnation: self.facts.incarnation,
                stop_grace: Duration::from_nanos(self.spec.config.stop_grace_ns),
                memory_facts: memory.facts(),
                device: prepared.description,
                body: Some(body),
                keeper: prepared.keeper,
                memory: Some(memory),
                dma: prepared.dma,
                promise,
            }),
            Err(NotRunning { error, ended: true }) => {
                // The entry never ran, and what waited for it has ended.
                let detached = prepared.keeper.map(DeviceKeeper::stop);
                let more = detached.map(|detached| detached.memory).unwrap_or_default();
                memory.end(promise, Some(&prepared.dma), more);
                Err(error)
            }
            Err(NotRunning { error, ended: false }) => {
                // Everything that the thread may look at stays until the process ends.
                self.core.keep();
                std::mem::forget((prepared.keeper, memory));
                Err(error)
            }
        }
    }

    /// Enters the partition among those of which telemetry tells. Where that cannot be, it runs
    /// without being seen.
    fn enter(
        &self,
        body: &Body,
        memory: &PartitionMemory,
        device: Option<&String>,
    ) -> Option<Entered> {
        let identity = Identity {
            name: self.spec.name.clone(),
            cpu: self.core.cpu(),
            incarnation: self.facts.incarnation,
            pid: match body {
                Body::Process { process, .. } => u32::try_from(process.pid()).ok(),
                Body::Thread { .. } => None,
            },
            device: device.cloned(),
        };
        match memory.region_file().read_only_end() {
            Ok(region) => Some(self.runtime.telemetry.enter(identity, region.into_fd())),
            Err(refused) => {
                let line = || format!("partition {} is not exported: {refused}", self.spec.name);
                self.runtime.warnings.say(WarningKind::Export, line);
                None
            }
        }
    }

    /// Follows the probe ring, if anything of it is to be kept. Where that cannot be, it runs all
    /// the same.
    fn keep_probes(&self, ends: &Ends, switch: &ProbeSwitch) -> Option<Keeper> {
        let wishes = &self.spec.probes;
        if !wishes.keeps() {
            return None;
        }
        let started = || -> Result<Keeper, Box<dyn std::error::Error>> {
            let region = RegionReader::new(ends.region)?;
            let this = || PathBuf::from("/proc/self/exe");
            let program = self.spec.executable.clone().unwrap_or_else(this);
            let origin = Origin { name: self.spec.name.clone(), region: *region.header(), program };
            Ok(Keeper::start(Keeping {
                ring: region.part(PartKind::PROBE, PROBES_PART)?,
                task_names: region.part(PartKind::TASK_NAMES, TASK_NAMES_PART).ok(),
                origin,
                switch: switch.clone(),
                wishes: wishes.clone(),
                warnings: self.runtime.warnings.clone(),
            })?)
        };
        match started() {
            Ok(keeper) => Some(keeper),
            Err(error) => {
                let line = || format!("the probes of {} are not kept: {error}", self.spec.name);
                self.runtime.warnings.say_each(WarningKind::Probes, line);
                None
            }
        }
    }

    fn alerts(&self) -> AlertTap {
        let default = || AlertSink::to_warnings(&self.runtime.warnings);
        let sink = self.spec.on_alert.clone().unwrap_or_else(default);
        AlertTap { partition: self.spec.name.clone(), cpu: self.core.cpu(), sink }
    }

    fn prepare(&mut self, memory: &PartitionMemory) -> Result<Prepared, RuntimeError> {
        let host_parts = lay_out_host_region(memory.host_region(), self.facts, self.rings)
            .map_err(|source| self.not_assembled(source))?;
        let probes = ProbeSwitch::new(host_parts.probes, self.runtime.clock);
        probes.apply(&self.spec.probes);
        self.runtime.probes.enter(&self.spec.name, &probes);
        let device = self.spec.device.take();
        let description = device.as_ref().map(|device| device.describe());
        if let Some(device) = &device {
            self.runtime.warn_if_far(device.as_ref(), self.core.cpu());
        }
        let seat = DeviceSeat {
            dma: memory.dma(),
            memory: self.source,
            housekeeping: self.runtime.housekeeping,
            isolation: self.spec.isolation,
        };
        let attached = device.map(|device| device.attach(&seat)).transpose()?;
        let (ingredients, files, keeper) = match attached {
            Some(Attached { ingredients, files, keeper }) => {
                (Some(ingredients), files, Some(keeper))
            }
            None => (None, Vec::new(), None),
        };
        let dma = match &ingredients {
            Some(ingredients) => ingredients.dma(),
            None => {
                let mapped = &memory.dma().mapped;
                iova_region(mapped.span(), mapped.page().bytes()).map_err(BackendError::from)?
            }
        };
        Ok(Prepared { host_parts, probes, dma, ingredients, files, keeper, description })
    }

    fn run(
        &self,
        memory: &mut PartitionMemory,
        prepared: &Prepared,
    ) -> Result<Running, NotRunning> {
        let parts = PartitionParts {
            cpu: self.core.cpu(),
            facts: self.facts,
            clock: self.runtime.clock,
            bump: memory.take_bump().expect("the bump memory of a fresh set"),
            dma: prepared.dma,
            region: memory.region(),
            host_region: memory.host_region_seen_by_partition(),
            rings: self.rings,
            config: self.spec.config,
        };
        let waiting = self.launch(parts, prepared.ingredients)?;
        let ready = self
            .open_ends(memory, prepared.host_parts)
            .map_err(|source| self.not_assembled(source))
            .and_then(|ends| Ok((ends, self.guard(waiting.state_word)?)));
        let Waiting { thread, go, .. } = waiting;
        let (ends, guard, arming) = match ready {
            Ok((ends, Some((guard, arming)))) => (ends, Some(guard), Some(arming)),
            Ok((ends, None)) => (ends, None, None),
            Err(error) => {
                drop(go);
                return Err(NotRunning { error, ended: ends_soon(thread) });
            }
        };
        match go.send(Go { arming }) {
            Ok(()) => Ok((Body::Thread { thread, guard }, ends)),
            Err(_) => {
                let error = self.not_started("its thread ended early");
                Err(NotRunning { error, ended: ends_soon(thread) })
            }
        }
    }

    /// Starts the thread and waits until its partition is assembled.
    fn launch(
        &self,
        parts: PartitionParts,
        device: Option<DeviceIngredients>,
    ) -> Result<Waiting, NotRunning> {
        let (ready, word) = sync_channel(1);
        let (go, start) = sync_channel(1);
        let launch = Launch {
            parts,
            args: self.spec.args.clone(),
            entry: self.spec.entry,
            device,
            cpu: self.core.cpu(),
            rt_priority: self.spec.rt_priority,
            seat: self.spec.place.as_ref().and_then(MeshPlace::seat),
            tables: self.spec.tables.clone(),
            state: self.spec.state.clone(),
            ready,
            go: start,
        };
        let name = self.spec.name.clone();
        // The kernel keeps 15 bytes of a thread's name.
        let builder = std::thread::Builder::new().name(name.clone()).stack_size(STACK_BYTES);
        let thread = with_signals_blocked(|| builder.spawn(move || launch::run(launch)))
            .map_err(|source| RuntimeError::Thread { name, source })?;
        match self.wait_for(&word) {
            Ok(Ready { stack_unlocked, state_word }) => {
                if let Some(errno) = stack_unlocked {
                    self.source.say_unlocked(errno);
                }
                Ok(Waiting { thread, go, state_word })
            }
            Err(error) => {
                // Without a host a thread that comes to it later ends there.
                drop(go);
                Err(NotRunning { error, ended: ends_soon(thread) })
            }
        }
    }

    fn wait_for(&self, word: &Receiver<Result<Ready, NotReady>>) -> Result<Ready, RuntimeError> {
        match word.recv_timeout(ASSEMBLY_LIMIT) {
            Ok(Ok(ready)) => Ok(ready),
            Ok(Err(NotReady::Pin(error))) => Err(error.into()),
            Ok(Err(NotReady::Realtime(error))) => Err(error.into()),
            Ok(Err(NotReady::Mesh(error))) => Err(error.into()),
            Ok(Err(NotReady::Table(error))) => Err(error.into()),
            Ok(Err(NotReady::State(refused))) => Err(MemoryError::Refused(refused).into()),
            Ok(Err(NotReady::Assembly(source))) => Err(self.not_assembled(source)),
            Err(RecvTimeoutError::Disconnected) => {
                Err(self.not_started("its thread ended without a word"))
            }
            Err(RecvTimeoutError::Timeout) => {
                Err(self.not_started("it was not assembled within 20 s"))
            }
        }
    }

    /// The partition has published its region.
    pub(super) fn open_ends(
        &self,
        memory: &PartitionMemory,
        own: HostParts,
    ) -> Result<Ends, PartitionError> {
        let seen = memory.region_seen_by_host().expect("a region that was opened");
        let region = RegionReader::new(seen)?;
        let events = region.part(PartKind::RING_PRODUCER, EVENTS_RING)?;
        let commands = region.part(PartKind::RING_CONSUMER, COMMANDS_RING)?;
        let (events_spec, commands_spec) =
            (self.rings.events_spec(&self.facts)?, self.rings.commands_spec(&self.facts)?);
        Ok(Ends {
            region: seen,
            // Its absence takes nothing but words from an alarm.
            task_names: region.part(PartKind::TASK_NAMES, TASK_NAMES_PART).ok().map(TaskNames::new),
            state: StateReader::new(region.part(PartKind::STATE, STATE_PART)?)?,
            stop: StopSwitch::new(own.state)?,
            metrics: MetricsReader::new(region.part(PartKind::METRICS, METRICS_PART)?)?,
            events: RecordConsumer::new(own.events, events, events_spec)?,
            commands: RecordProducer::new(own.commands, commands, commands_spec)?,
            event_parts: (events, own.events.read_only()),
        })
    }

    fn guard(
        &self,
        state_word: Word32<'static>,
    ) -> Result<Option<(SyscallGuard, Arming)>, RuntimeError> {
        if !self.spec.check_syscalls {
            return Ok(None);
        }
        let running = PartitionState::Running.to_word();
        Ok(Some(SyscallGuard::listen(state_word, running)?))
    }

    pub(super) fn not_assembled(&self, source: PartitionError) -> RuntimeError {
        RuntimeError::Assembly { name: self.spec.name.clone(), source }
    }

    fn not_started(&self, reason: &str) -> RuntimeError {
        RuntimeError::NotStarted { name: self.spec.name.clone(), reason: reason.to_owned() }
    }
}
