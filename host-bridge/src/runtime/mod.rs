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
//! // Its program's main is made by `host_bridge::partition_main!`, which names this entry too.
//! let partition = runtime.spawn(PartitionSpec::new("counter", Entry::new("count", count)))?;
//! let report = partition.join();
//! println!("{} passes, {:?}", report.passes, report.exit.state);
//! # Ok(()) }
//! ```
//! A runtime spans cores, a partition is one of them. The runtime reads the machine, calibrates the
//! clock, confines everything else to the housekeeping CPUs, and starts partitions. It is used from
//! host threads and does nothing on a partition's core after it has started one.
//!
//! **Isolation.** A partition is a process ([`crate::process`]) or a thread of this one
//! ([`Isolation`]). Nothing of the interface depends on it: the entry is a plain named function,
//! its arguments are bytes, `PartitionParts` and [`DeviceIngredients`] are plain values over memory
//! files, and exits, states and events come through shared memory.
//!
//! [`DeviceIngredients`]: crate::backend::DeviceIngredients

mod body;
mod cores;
mod handle;
mod launch;
mod mesh;
mod pump;
mod report;
mod spec;
mod start;
mod start_apart;
mod table;
mod watch;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::{SystemTime, UNIX_EPOCH};

use core_runtime::clock::{Calibration, Clock, rdtsc};
use core_runtime::mem::{DmaRegion, IovaAllocator, IovaError, IovaRange};
use core_runtime::partition::RingSizes;
use core_runtime::region::RegionFacts;
use hybrid_conventions::CpuSet;

use self::cores::Cores;
use self::start::Plan;
use crate::affinity::{allowed, confine_to};
use crate::backend::Backend;
use crate::calibration;
use crate::error::RuntimeError;
use crate::facts::{MachineFacts, boot_id, build_id};
use crate::memory::MemorySource;
use crate::numa::{Nodes, mismatch_line};
use crate::probes::ProbeMethods;
use crate::supervisor::spare::Need;
use crate::sys::mapping::ALIGNMENT;
use crate::sys::partition_memory::MemorySizes;
use crate::sys::realtime::throttles;
use crate::sys::resident::read_program_in;
use crate::sys::state_memory::StateFile;
use crate::telemetry::Telemetry;
use crate::topology::Topology;
use crate::warnings::{WarningKind, Warnings};

pub use handle::PartitionHandle;
pub use mesh::{MeshPlace, PartitionMesh};
pub use pump::{EVENT_BYTES, Event, EventQueue};
pub use report::PartitionReport;
pub use spec::{CoreChoice, Entry, EntryFn, Isolation, PartitionSpec};
pub use table::{Spread, Table};

/// Cores for partitions, a calibrated clock, and what is known of the machine.
#[derive(Debug)]
pub struct Runtime {
    cores: Cores,
    housekeeping: CpuSet,
    topology: Topology,
    nodes: Nodes,
    facts: MachineFacts,
    clock: Clock,
    calibration: Calibration,
    warnings: Warnings,
    telemetry: Telemetry,
    probes: Arc<ProbeMethods>,
    /// Starts of each partition, by name.
    incarnations: Mutex<BTreeMap<String, u64>>,
    /// Which thread was confined, and what it could use before.
    confined: (ThreadId, CpuSet),
}

impl Runtime {
    /// A runtime over these cores, with warnings on stderr.
    ///
    /// The calling thread, and threads that it starts from now on, stay on the other CPUs, until
    /// the runtime is dropped on the same thread.
    ///
    /// # Errors
    /// [`RuntimeError`] for a CPU that does not exist or is not allowed, for a machine with one
    /// CPU, and for a clock that cannot be calibrated.
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
        let confined = (std::thread::current().id(), allowed());
        confine_to(housekeeping)?;
        read_program_in();
        let telemetry = Telemetry::new(clock);
        let probes = Arc::new(ProbeMethods::new());
        telemetry.add_methods(Arc::clone(&probes));
        Ok(Self {
            cores: Cores::new(isolated_cores),
            housekeeping,
            nodes: Nodes::read(),
            topology,
            facts,
            clock,
            calibration,
            warnings,
            telemetry,
            probes,
            incarnations: Mutex::default(),
            confined,
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

    /// What is known of its partitions, for exporters.
    #[must_use]
    pub const fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// Starts a partition: memory, device, process or thread. Returns when it is assembled and
    /// about to enter its entry.
    ///
    /// # Errors
    /// [`RuntimeError`]; the core is free again then.
    pub fn spawn(&self, mut spec: PartitionSpec) -> Result<PartitionHandle, RuntimeError> {
        let core = self.cores.take(spec.core)?;
        let (rings, sizes, whole) = sizes_of(&spec);
        self.check_shared(&spec)?;
        if spec.rt_priority.is_some() {
            for line in throttles(Path::new("/"), core.cpu()) {
                self.warnings.say(WarningKind::RtThrottled, || line);
            }
        }
        let node = self.node_of(core.cpu());
        let source = || MemorySource::new(spec.page, whole, self.warnings.clone()).near(node);
        let need = Need { sizes, page: spec.page, isolation: spec.isolation, node };
        let (now, next) = (source(), source());
        let spares = spec.spares.take();
        let memory = match spares.as_ref().and_then(|spares| spares.take(&need)) {
            Some(memory) => memory,
            None => need.make(&now)?,
        };
        if let Some(state) = &spec.state {
            state.prepare(&now)?;
        }
        let facts = self.region_facts(&spec, core.cpu());
        let plan = Plan { runtime: self, spec, core, rings, facts, source: &now };
        let started = plan.start(memory)?;
        if let Some(spares) = spares {
            spares.prepare(need, next, self.housekeeping);
        }
        Ok(started)
    }

    /// The NUMA node of a CPU, where there is more than one.
    #[must_use]
    pub fn node_of(&self, cpu: u32) -> Option<u32> {
        self.nodes.of_cpu(&self.topology, cpu)
    }

    /// The nodes of this machine.
    #[must_use]
    pub const fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Warns where the device hangs on another node than the core.
    fn warn_if_far(&self, device: &dyn Backend, cpu: u32) {
        let line = device
            .node()
            .and_then(|node| mismatch_line(&self.topology, &device.describe(), node, cpu));
        if let Some(line) = line {
            self.warnings.say(WarningKind::RemoteDevice, || line);
        }
    }

    fn check_shared(&self, spec: &PartitionSpec) -> Result<(), RuntimeError> {
        let CoreChoice::Shared(cpu) = spec.core else { return Ok(()) };
        if spec.rt_priority.is_some() {
            return Err(RuntimeError::SharedRealtime { name: spec.name.clone(), cpu });
        }
        self.warnings.say(WarningKind::CoreInTurns, || {
            format!(
                "partitions share cpu {cpu} and take turns of milliseconds: for tests and \
                 demonstrations; give each a core of its own where latencies count"
            )
        });
        Ok(())
    }

    fn region_facts(&self, spec: &PartitionSpec, cpu: u32) -> RegionFacts {
        let mut incarnations = self.incarnations.lock().unwrap_or_else(PoisonError::into_inner);
        let incarnation = incarnations.entry(spec.name.clone()).or_insert(0);
        *incarnation += 1;
        if let Some(place) = &spec.place {
            *incarnation = place.memory.take_place(place.index(), *incarnation);
        }
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        RegionFacts {
            boot_id: boot_id(),
            build_id: build_id(),
            partition: cpu,
            incarnation: *incarnation,
            tsc_hz: self.clock.hz(),
            anchor_tsc: rdtsc(),
            anchor_unix_ns: u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

/// What a partition needs: its rings, its pieces of memory, and all of it in whole pages.
fn sizes_of(spec: &PartitionSpec) -> (RingSizes, MemorySizes, usize) {
    let rings = RingSizes { events: spec.event_ring_bytes, commands: spec.command_ring_bytes };
    let sizes = MemorySizes {
        dma: spec.dma_bytes,
        private: spec.private_bytes,
        region: rings.region_bytes(&spec.config),
        host_region: rings.host_region_bytes(),
    };
    // The device takes a page for its doorbells.
    let whole = sizes.rounded(spec.page).saturating_add(spec.page.bytes());
    let state = spec.state.as_ref().map_or(0, StateFile::bytes);
    let whole = whole.saturating_add(spec.page.round_up(state).unwrap_or(usize::MAX));
    (rings, sizes, whole)
}

/// Mapped memory at a device address of our choice, for devices that can reach any: a software
/// controller, or none. From the upper half of a 39-bit space, the smallest IOMMU's, so that no
/// code comes to rely on small addresses; never a pointer's value, which lies far above or below.
pub(crate) fn iova_region(
    span: hybrid_shm::Span<'static>,
    page_bytes: usize,
) -> Result<DmaRegion, IovaError> {
    const UPPER_HALF: IovaRange = IovaRange { first: 1 << 38, last: (1 << 39) - 1 };
    let mut addresses = IovaAllocator::new(&[UPPER_HALF])?;
    let align = page_bytes.max(ALIGNMENT) as u64;
    let iova = addresses.alloc(span.len() as u64, align)?;
    Ok(DmaRegion { span, iova, page_bytes })
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let (thread, allowed) = self.confined;
        if std::thread::current().id() == thread {
            // It could use them before; if a cpuset was changed since, less is right.
            let _ = confine_to(allowed);
        }
    }
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
