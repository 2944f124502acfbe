//! The runtime: the documented way in.
//!
//! ```no_run
//! use core_runtime::partition::{Partition, PartitionExit, run_until_stopped};
//! use host_bridge::{Entry, PartitionSpec, Runtime};
//! use nvme_driver::DeviceParts;
//!
//! fn count(partition: &'static Partition, _device: Option<DeviceParts>) -> PartitionExit {
//!     // … spawn tasks; one of them calls `partition.finish(…)` in the end.
//!     run_until_stopped(partition, ())
//! }
//!
//! # fn main() -> Result<(), host_bridge::RuntimeError> {
//! let runtime = Runtime::new("1".parse().expect("a CPU set"))?;
//! let partition = runtime.spawn(PartitionSpec::new("counter", Entry::new("count", count)))?;
//! let report = partition.join();
//! println!("{} passes, {:?}", report.passes, report.exit.state);
//! # Ok(()) }
//! ```
//! A runtime spans cores, a partition is one of them. The runtime reads the machine, calibrates the
//! clock, confines everything else to the housekeeping CPUs, and starts partitions. It is used from
//! host threads and does nothing on a partition's core after it has started one.
//!
//! **Isolation.** A partition is a thread here. Nothing of the interface depends on it: the entry is
//! a plain named function, its arguments are bytes, [`PartitionParts`] and [`DeviceIngredients`] are
//! plain values over memory files, and exits, states and events come through shared memory. A
//! partition that is a process of its own gets the same things through inherited descriptors; what
//! changes then is `launch` alone.
//!
//! [`DeviceIngredients`]: crate::backend::DeviceIngredients

mod cores;
mod handle;
mod launch;
mod pump;
mod report;
mod spec;

use std::collections::BTreeMap;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use core_runtime::clock::{Calibration, Clock, rdtsc};
use core_runtime::mem::{DmaRegion, IovaAllocator, IovaError, IovaRange, MSI_WINDOW};
use core_runtime::metrics::MetricsReader;
use core_runtime::partition::state::{StateReader, StopSwitch};
use core_runtime::partition::{
    COMMANDS_RING, EVENTS_RING, HostParts, METRICS_PART, PartitionError, PartitionParts, RingSizes,
    STATE_PART, lay_out_host_region,
};
use core_runtime::region::{RegionFacts, RegionReader};
use core_runtime::ring::{RecordConsumer, RecordProducer};
use hybrid_abi::region::PartKind;
use hybrid_conventions::CpuSet;

use self::cores::{Cores, TakenCore};
use self::launch::{Go, Launch, NotReady, Ready, STACK_BYTES};
use crate::affinity::confine_to;
use crate::backend::{Attached, DeviceKeeper, DeviceSeat};
use crate::calibration;
use crate::error::RuntimeError;
use crate::facts::{MachineFacts, boot_id, build_id};
use crate::memory::MemorySource;
use crate::sys::mapping::ALIGNMENT;
use crate::sys::partition_memory::{MemorySizes, PartitionMemory};
use crate::sys::signals::with_signals_blocked;
use crate::sys::syscall_guard::{Arming, SyscallGuard};
use crate::topology::Topology;
use crate::warnings::{WarningKind, Warnings};

pub use handle::PartitionHandle;
pub use pump::{EVENT_BYTES, Event, EventQueue};
pub use report::PartitionReport;
pub use spec::{CoreChoice, Entry, EntryFn, PartitionSpec};

/// How long a partition may take to assemble: a second for a gigabyte of bookkeeping on a slow
/// machine, and some more for one that is busy.
const ASSEMBLY_LIMIT: Duration = Duration::from_secs(20);

/// Cores for partitions, a calibrated clock, and what is known of the machine.
#[derive(Debug)]
pub struct Runtime {
    cores: Cores,
    housekeeping: CpuSet,
    topology: Topology,
    facts: MachineFacts,
    clock: Clock,
    calibration: Calibration,
    warnings: Warnings,
    /// Starts of each partition, by name.
    incarnations: Mutex<BTreeMap<String, u64>>,
}

impl Runtime {
    /// A runtime over these cores, with warnings on stderr.
    ///
    /// The calling thread, and threads that it starts from now on, stay on the other CPUs.
    ///
    /// # Errors
    /// [`RuntimeError`] for a CPU that does not exist or is not allowed, for a machine with one CPU,
    /// and for a clock that cannot be calibrated.
    pub fn new(isolated_cores: CpuSet) -> Result<Self, RuntimeError> {
        Self::with_warnings(isolated_cores, Warnings::default())
    }

    /// As [`Runtime::new`], with warnings to a sink of the caller's.
    ///
    /// # Errors
    /// As [`Runtime::new`].
    pub fn with_warnings(isolated_cores: CpuSet, warnings: Warnings) -> Result<Self, RuntimeError> {
        let topology = Topology::read();
        let housekeeping = cores::check(isolated_cores, &topology)?;
        let facts = MachineFacts::read(&topology);
        let (clock, calibration) = calibration::clock(&warnings)?;
        confine_to(housekeeping)?;
        Ok(Self {
            cores: Cores::new(isolated_cores),
            housekeeping,
            topology,
            facts,
            clock,
            calibration,
            warnings,
            incarnations: Mutex::default(),
        })
    }

    /// The partitions' CPUs.
    #[must_use]
    pub const fn cores(&self) -> CpuSet {
        self.cores.all()
    }

    /// The CPUs for everything else of this process.
    #[must_use]
    pub const fn housekeeping(&self) -> CpuSet {
        self.housekeeping
    }

    /// The processors.
    #[must_use]
    pub const fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The machine, for reports.
    #[must_use]
    pub const fn facts(&self) -> &MachineFacts {
        &self.facts
    }

    /// The clock that partitions use.
    #[must_use]
    pub const fn clock(&self) -> Clock {
        self.clock
    }

    /// How well it is known.
    #[must_use]
    pub const fn calibration(&self) -> Calibration {
        self.calibration
    }

    /// Where warnings go.
    #[must_use]
    pub const fn warnings(&self) -> &Warnings {
        &self.warnings
    }

    /// Starts a partition: memory, device, thread. Returns when it is assembled and about to enter
    /// its entry.
    ///
    /// # Errors
    /// [`RuntimeError`]; the core is free again then.
    pub fn spawn(&self, spec: PartitionSpec) -> Result<PartitionHandle, RuntimeError> {
        let core = self.cores.take(spec.core)?;
        let rings = RingSizes { events: spec.event_ring_bytes, commands: spec.command_ring_bytes };
        let sizes = MemorySizes {
            dma: spec.dma_bytes,
            private: spec.private_bytes,
            region: rings.region_bytes(&spec.config),
            host_region: rings.host_region_bytes(),
        };
        let source = MemorySource::new(spec.page, sizes.total(), self.warnings.clone());
        let memory = PartitionMemory::new(&source, &sizes)?;
        self.start(spec, core, rings, memory, &source)
    }

    /// With its memory at hand: device, parts, thread, the host's ends.
    fn start(
        &self,
        mut spec: PartitionSpec,
        core: TakenCore,
        rings: RingSizes,
        mut memory: PartitionMemory,
        source: &MemorySource,
    ) -> Result<PartitionHandle, RuntimeError> {
        let not_assembled = |name: &str| {
            let name = name.to_owned();
            move |source| RuntimeError::Assembly { name, source }
        };
        let facts = self.region_facts(&spec.name, core.cpu());
        let host_parts = lay_out_host_region(memory.host_region(), facts, rings)
            .map_err(not_assembled(&spec.name))?;
        let attached = self.attach(&mut spec, &memory, source)?;
        let ingredients = attached.as_ref().map(|attached| attached.ingredients);
        let dma = match &attached {
            Some(attached) => attached.ingredients.dma(),
            None => dma_region(&memory).map_err(crate::backend::BackendError::from)?,
        };
        let keeper = attached.map(|attached| attached.keeper);
        let parts = PartitionParts {
            cpu: core.cpu(),
            facts,
            clock: self.clock,
            bump: memory.take_bump().expect("the bump memory of a fresh set"),
            dma,
            region: memory.region(),
            host_region: memory.host_region_seen_by_partition(),
            rings,
            config: spec.config,
        };
        let started = self.launch(&spec, parts, ingredients, core.cpu());
        let (thread, guard) = match started {
            Ok(started) => started,
            Err(error) => {
                // The partition never ran: its device has nothing to do with the memory any more.
                drop(keeper.map(DeviceKeeper::stop));
                memory.retire();
                return Err(error);
            }
        };
        let ends =
            open_ends(&memory, host_parts, facts, rings).map_err(not_assembled(&spec.name))?;
        Ok(PartitionHandle {
            name: spec.name,
            core,
            clock: self.clock,
            state: ends.state,
            stop: ends.stop,
            events: Some(ends.events),
            pump: None,
            commands: ends.commands,
            metrics: ends.metrics,
            thread: Some(thread),
            guard,
            keeper,
            memory: Some(memory),
            dma: Some(dma),
            promise: spec.entry.promise,
        })
    }

    fn attach(
        &self,
        spec: &mut PartitionSpec,
        memory: &PartitionMemory,
        source: &MemorySource,
    ) -> Result<Option<Attached>, RuntimeError> {
        let seat = DeviceSeat {
            dma: memory.dma(),
            memory: source,
            clock: self.clock,
            housekeeping: self.housekeeping,
        };
        let device = spec.device.take();
        Ok(device.map(|device| device.attach(&seat)).transpose()?)
    }

    /// Starts the thread and waits until its partition is assembled.
    fn launch(
        &self,
        spec: &PartitionSpec,
        parts: PartitionParts,
        device: Option<crate::backend::DeviceIngredients>,
        cpu: u32,
    ) -> Result<Started, RuntimeError> {
        let (ready_to, ready_from) = sync_channel(1);
        let (go_to, go_from) = sync_channel(1);
        let launch = Launch {
            parts,
            args: spec.args.clone(),
            entry: spec.entry,
            device,
            cpu,
            ready: ready_to,
            go: go_from,
        };
        // The kernel keeps 15 bytes of a thread's name.
        let builder = std::thread::Builder::new().name(spec.name.clone()).stack_size(STACK_BYTES);
        let thread = with_signals_blocked(|| builder.spawn(move || launch::run(launch)))
            .map_err(|source| RuntimeError::Thread { name: spec.name.clone(), source })?;
        let not_started = |reason: &str| RuntimeError::NotStarted {
            name: spec.name.clone(),
            reason: reason.to_owned(),
        };
        let Ready { state_word } = match ready_from.recv_timeout(ASSEMBLY_LIMIT) {
            Ok(Ok(ready)) => ready,
            Ok(Err(NotReady::Pin(error))) => return Err(error.into()),
            Ok(Err(NotReady::Assembly(source))) => {
                return Err(RuntimeError::Assembly { name: spec.name.clone(), source });
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(not_started("its thread ended without a word"));
            }
            Err(RecvTimeoutError::Timeout) => {
                return Err(not_started("it was not assembled within 20 s"));
            }
        };
        let (guard, arming): (Option<SyscallGuard>, Option<Arming>) = if spec.check_syscalls {
            let running = core_runtime::partition::PartitionState::Running.to_word();
            let (guard, arming) = SyscallGuard::listen(state_word, running)?;
            (Some(guard), Some(arming))
        } else {
            (None, None)
        };
        go_to.send(Go { arming }).map_err(|_| not_started("its thread ended early"))?;
        Ok((thread, guard))
    }

    fn region_facts(&self, name: &str, cpu: u32) -> RegionFacts {
        let mut incarnations = self.incarnations.lock().unwrap_or_else(PoisonError::into_inner);
        let incarnation = incarnations.entry(name.to_owned()).or_insert(0);
        *incarnation += 1;
        let mut id = [0; 20];
        id[..8].copy_from_slice(&build_id().to_le_bytes());
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        RegionFacts {
            boot_id: boot_id(),
            build_id: id,
            partition: cpu,
            incarnation: *incarnation,
            tsc_hz: self.clock.hz(),
            anchor_tsc: rdtsc(),
            anchor_unix_ns: u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

type Started = (std::thread::JoinHandle<Option<launch::Ended>>, Option<SyscallGuard>);

/// The host's ends of what it shares with a partition.
struct Ends {
    state: StateReader,
    stop: StopSwitch,
    metrics: MetricsReader,
    events: RecordConsumer,
    commands: RecordProducer,
}

/// Opens them; the partition has published its region.
fn open_ends(
    memory: &PartitionMemory,
    own: HostParts,
    facts: RegionFacts,
    rings: RingSizes,
) -> Result<Ends, PartitionError> {
    let region = RegionReader::new(memory.region_seen_by_host())?;
    let events = region.part(PartKind::RING_PRODUCER, EVENTS_RING)?;
    let commands = region.part(PartKind::RING_CONSUMER, COMMANDS_RING)?;
    Ok(Ends {
        state: StateReader::new(region.part(PartKind::STATE, STATE_PART)?)?,
        stop: StopSwitch::new(own.state)?,
        metrics: MetricsReader::new(region.part(PartKind::METRICS, METRICS_PART)?)?,
        events: RecordConsumer::new(own.events, events, rings.events_spec(&facts)?)?,
        commands: RecordProducer::new(own.commands, commands, rings.commands_spec(&facts)?)?,
    })
}

/// The DMA memory at an address of our choice, for devices that can reach any: a software
/// controller, or none. Half of a 39-bit space, the smallest IOMMU's, so that no code comes to rely
/// on small addresses; never a pointer's value, which lies far above or below.
pub(crate) fn dma_region(memory: &PartitionMemory) -> Result<DmaRegion, IovaError> {
    let dma = memory.dma();
    iova_region(dma.mapped.span(), dma.mapped.page().bytes())
}

/// As [`dma_region`], of any mapped memory.
pub(crate) fn iova_region(
    span: hybrid_shm::Span<'static>,
    page_bytes: usize,
) -> Result<DmaRegion, IovaError> {
    const UPPER_HALF: IovaRange = IovaRange { first: 1 << 38, last: (1 << 39) - 1 };
    let mut addresses = IovaAllocator::new(&[UPPER_HALF])?;
    // Outside the half that is used; reserved all the same, as on any real machine.
    let _ = addresses.reserve(MSI_WINDOW);
    let align = page_bytes.max(ALIGNMENT) as u64;
    let iova = addresses.alloc(span.len() as u64, align)?;
    Ok(DmaRegion { span, iova, page_bytes })
}

impl Runtime {
    /// Warns where the named cores are not to themselves: Linux still puts other work there.
    pub fn warn_if_shared(&self) {
        let shared = self.cores().difference(self.topology.isolated);
        if shared.is_empty() {
            return;
        }
        self.warnings.say(WarningKind::SharedCore, || {
            format!(
                "cpus {shared} are not isolated: other work runs there too, and latencies show it; \
                 boot with isolcpus={shared} nohz_full={shared} rcu_nocbs={shared}"
            )
        });
    }
}
