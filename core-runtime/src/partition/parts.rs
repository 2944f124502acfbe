//! What a partition is made of, and where it lies in the two regions.
//!
//! The host calls [`lay_out_host_region`] and hands [`PartitionParts`] over; the partition's core
//! calls [`PartitionParts::assemble`], which lays out the partition's own region and opens its
//! ends. Both sides find each other's parts by kind and name, so that neither counts offsets.

use core::cell::OnceCell;

use hybrid_abi::crash::CRASH_PART_BYTES;
use hybrid_abi::crash::device::QUEUE_PART_BYTES;
use hybrid_abi::crash::program::TASK_NAME_BYTES;
use hybrid_abi::probe::registers::BANK_BYTES;
use hybrid_abi::probe::{CAPACITY_MAX, CONTROL_BYTES, ProbeHeader};
use hybrid_abi::region::PartKind;
use hybrid_abi::tasks::TASK_FIGURES_BYTES;
use hybrid_shm::{ReadSpan, Span};

use super::Partition;
use super::exit::PartitionError;
use super::state::{
    HOST_STATE_PART_BYTES, PartitionState, STATE_PART_BYTES, StateWriter, StopWord,
};
use super::task_table::TaskTable;
use super::telemetry::MORE_METRICS;
use crate::clock::Clock;
use crate::crash::CrashPart;
use crate::mem::{Bump, DmaArena, DmaRegion};
use crate::metrics::{MetricsWriter, RuntimeMetrics};
use crate::region::{RegionFacts, RegionReader, RegionWriter, Writer};
use crate::ring::{RecordConsumer, RecordProducer, RingError, RingSpec};
use crate::task::{Scheduler, SchedulerConfig};

/// The state part of either region.
pub const STATE_PART: &str = "state";
/// The metrics part of the partition's region.
pub const METRICS_PART: &str = "metrics";
/// The crash part of the partition's region.
pub const CRASH_PART: &str = "crash";
/// Where the partition's queue pairs lie.
pub const QUEUES_PART: &str = "queues";
/// What the partition's tasks are called.
pub const TASK_NAMES_PART: &str = "task-names";
/// The ring of probe events.
pub const PROBES_PART: &str = "probes";
/// The bank of last values.
pub const PROBE_REGISTERS_PART: &str = "registers";
/// What the host wishes of the probes.
pub const PROBE_CONTROL_PART: &str = "probe-control";
/// What each of them has done.
pub const TASKS_PART: &str = "tasks";
/// The ring from the partition to the host.
pub const EVENTS_RING: &str = "events";
/// The ring from the host to the partition.
pub const COMMANDS_RING: &str = "commands";

/// Parts of the partition's region: state, metrics, events, commands, crash, queues, task names,
/// tasks, probes, registers.
const PARTS: u32 = 10;
/// Parts of the host's region: state, commands, events, probe control.
const HOST_PARTS: u32 = 4;

/// Header and directory: a page is more than either region has.
const DIRECTORY_BYTES: usize = 4096;

/// The longest command that a partition takes: a page; longer ones are skipped and counted.
pub const COMMAND_BYTES: usize = 4096;

/// What the caller chooses for scheduler, metrics and loop.
#[derive(Clone, Copy, Debug)]
pub struct PartitionConfig {
    /// Capacities of the scheduler.
    pub scheduler: SchedulerConfig,
    /// Metrics that the entry may add, histograms included. Default: 64.
    pub more_metrics: u32,
    /// Histograms among them. Default: 8.
    pub more_histograms: u32,
    /// How often the figures are copied to the host: often enough for a screen and a heartbeat,
    /// rare enough not to be seen (about 1 us each time). Default: 1 ms.
    pub publish_every_ns: u64,
    /// Commands taken in a pass, so that a talkative host does not stall I/O. Default: 4.
    pub commands_per_pass: u32,
    /// What tasks have to end after the host asked to stop. Default: 14.5 s, above what an orderly
    /// shutdown of a controller takes at most, below what a supervisor gives a partition to end.
    pub stop_grace_ns: u64,
    /// Records of the probe ring, of 32 bytes each; rounded up to a power of two. Default: 8192.
    pub probe_records: u32,
}

impl Default for PartitionConfig {
    fn default() -> Self {
        Self {
            scheduler: SchedulerConfig::default(),
            more_metrics: 64,
            more_histograms: 8,
            publish_every_ns: 1_000_000,
            commands_per_pass: 4,
            stop_grace_ns: 14_500_000_000,
            probe_records: 8192,
        }
    }
}

/// The two rings' sizes, on which both sides agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSizes {
    /// Bytes of the ring of events to the host, a power of two.
    pub events: usize,
    /// Bytes of the ring of commands from the host, a power of two.
    pub commands: usize,
}

impl RingSizes {
    /// The shape of the event ring.
    ///
    /// # Errors
    /// [`RingError`] if the size is no power of two.
    pub fn events_spec(&self, facts: &RegionFacts) -> Result<RingSpec, RingError> {
        Ok(RingSpec::variable(self.events)?.with_epoch(facts.incarnation))
    }

    /// The shape of the command ring.
    ///
    /// # Errors
    /// [`RingError`] if the size is no power of two.
    pub fn commands_spec(&self, facts: &RegionFacts) -> Result<RingSpec, RingError> {
        Ok(RingSpec::variable(self.commands)?.with_epoch(facts.incarnation))
    }

    /// Bytes that the partition's region must have at least; more than there can be for sizes that
    /// nothing holds.
    #[must_use]
    pub const fn region_bytes(&self, config: &PartitionConfig) -> usize {
        let metrics = metrics_bytes(config);
        // Each part may leave a gap of up to a line before it: the directory's page has them all.
        let fixed = 2 * DIRECTORY_BYTES + STATE_PART_BYTES + CRASH_PART_BYTES + QUEUE_PART_BYTES;
        let tasks = task_names_bytes(config).saturating_add(task_figures_bytes(config));
        let probes = probe_part_bytes(config).saturating_add(BANK_BYTES);
        let rest = fixed.saturating_add(tasks).saturating_add(probes);
        metrics.saturating_add(self.events).saturating_add(rest)
    }

    /// Bytes that the host's region must have at least.
    #[must_use]
    pub const fn host_region_bytes(&self) -> usize {
        self.commands.saturating_add(2 * DIRECTORY_BYTES + HOST_STATE_PART_BYTES + CONTROL_BYTES)
    }
}

/// The host's own parts, made before the partition starts.
#[derive(Clone, Copy, Debug)]
pub struct HostParts {
    /// For [`super::state::StopSwitch`].
    pub state: Span<'static>,
    /// The producer's part of the command ring.
    pub commands: Span<'static>,
    /// The consumer's part of the event ring.
    pub events: Span<'static>,
    /// What the host wishes of the probes: [`hybrid_abi::probe::ProbeControl`].
    pub probes: Span<'static>,
}

/// Lays out the host's region; called by the host, before the partition looks at it.
///
/// # Errors
/// [`PartitionError`] if it is too small or a ring's size is no power of two.
pub fn lay_out_host_region(
    region: Span<'static>,
    facts: RegionFacts,
    rings: RingSizes,
) -> Result<HostParts, PartitionError> {
    let (events, commands) = (rings.events_spec(&facts)?, rings.commands_spec(&facts)?);
    let mut writer = RegionWriter::new(region, Writer::Host, facts, HOST_PARTS)?;
    let parts = HostParts {
        state: writer.add_part(PartKind::STATE, STATE_PART, HOST_STATE_PART_BYTES)?,
        commands: writer.add_part(
            PartKind::RING_PRODUCER,
            COMMANDS_RING,
            commands.producer_bytes(),
        )?,
        events: writer.add_part(PartKind::RING_CONSUMER, EVENTS_RING, events.consumer_bytes())?,
        probes: writer.add_part(PartKind::PROBE_CONTROL, PROBE_CONTROL_PART, CONTROL_BYTES)?,
    };
    commands.make_producer_part(parts.commands)?;
    events.make_consumer_part(parts.events)?;
    writer.publish()?;
    Ok(parts)
}

/// Everything that the host hands over. Plain values: they may cross to the partition's thread or
/// process.
#[derive(Debug)]
pub struct PartitionParts {
    /// The CPU it was pinned to.
    pub cpu: u32,
    /// Machine, program and incarnation.
    pub facts: RegionFacts,
    /// The calibrated clock.
    pub clock: Clock,
    /// Private memory.
    pub bump: Bump,
    /// Memory that the device reaches.
    pub dma: DmaRegion,
    /// The partition's own region, zeroed.
    pub region: Span<'static>,
    /// The host's region, laid out.
    pub host_region: ReadSpan<'static>,
    /// Sizes of the rings.
    pub rings: RingSizes,
    /// Scheduler, metrics, loop.
    pub config: PartitionConfig,
}

impl PartitionParts {
    /// Makes the partition, on its own core. `args` are copied.
    ///
    /// # Errors
    /// [`PartitionError`] if some memory is too small, or the host's region is not what it should
    /// be.
    pub fn assemble(self, args: &[u8]) -> Result<&'static Partition, PartitionError> {
        let bump = into_itself(self.bump)?;
        let mut writer = RegionWriter::new(self.region, Writer::Partition, self.facts, PARTS)?;
        let state = writer.add_part(PartKind::STATE, STATE_PART, STATE_PART_BYTES)?;
        let state = StateWriter::new(state)?;
        let (mut metrics_writer, metrics) = make_metrics(&mut writer, &self.config)?;
        let rings = OwnRings::make(&mut writer, &self.facts, self.rings)?;
        let crash = make_crash(&mut writer, &self.facts, metrics_writer.part().read_only())?;
        let names = task_names_bytes(&self.config);
        let names = writer.add_part(PartKind::TASK_NAMES, TASK_NAMES_PART, names)?;
        let figures = task_figures_bytes(&self.config);
        let figures = writer.add_part(PartKind::TASKS, TASKS_PART, figures)?;
        let probes = OwnProbes::make(&mut writer, &self.config)?;
        state.set(PartitionState::Starting);
        writer.publish()?;
        let host = RegionReader::new(self.host_region)?;
        let stop = StopWord::new(host.part(PartKind::STATE, STATE_PART)?)?;
        let (events, commands) = rings.open(&host)?;
        let scheduler = Scheduler::new(self.config.scheduler, self.clock, bump)?;
        scheduler.publish_current(state.current_words());
        scheduler.publish_names(names);
        probes.attach(scheduler, &host, &self.config)?;
        let partition = Partition {
            cpu: self.cpu,
            incarnation: self.facts.incarnation,
            args: bump.slice_with(args.len(), |index| args[index])?,
            arena: DmaArena::new(self.dma, bump)?,
            scheduler,
            events,
            alerts: super::alerts::Alerts::new(),
            commands,
            command_buffer: core::cell::RefCell::new(bump.slice_with(COMMAND_BYTES, |_| 0)?),
            more: super::telemetry::More::register(
                &mut metrics_writer,
                scheduler.probes().registers(),
            )?,
            task_table: TaskTable::new(figures),
            metrics_writer: core::cell::RefCell::new(metrics_writer),
            metrics,
            bump,
            clock: self.clock,
            config: self.config,
            facts: self.facts,
            mesh: OnceCell::new(),
            tables: super::tables::Tables::new(),
            kept: core::cell::Cell::new(None),
            state,
            crash,
            stop,
            host_gone: core::sync::atomic::AtomicBool::new(false),
            run: super::RunState::new(&self.clock, &self.config),
        };
        Ok(bump.alloc(partition)?)
    }
}

/// Moves bump memory into itself, so that it is `'static` and single.
fn into_itself(bump: Bump) -> Result<&'static Bump, PartitionError> {
    let place: &'static OnceCell<Bump> = bump.alloc(OnceCell::new())?;
    Ok(place.get_or_init(|| bump))
}

/// A name for each task that the table can hold.
const fn task_names_bytes(config: &PartitionConfig) -> usize {
    (config.scheduler.max_tasks as usize).saturating_mul(TASK_NAME_BYTES)
}

/// Figures for each task that the table can hold.
const fn task_figures_bytes(config: &PartitionConfig) -> usize {
    (config.scheduler.max_tasks as usize).saturating_mul(TASK_FIGURES_BYTES)
}

/// The runtime's metrics, the partition's, and room for the entry's.
const fn metrics_bytes(config: &PartitionConfig) -> usize {
    let more = config.more_metrics.saturating_add(MORE_METRICS);
    RuntimeMetrics::part_bytes(more, config.more_histograms)
}

fn make_metrics(
    writer: &mut RegionWriter,
    config: &PartitionConfig,
) -> Result<(MetricsWriter, RuntimeMetrics), PartitionError> {
    let part = writer.add_part(PartKind::METRICS, METRICS_PART, metrics_bytes(config))?;
    let entries = RuntimeMetrics::COUNT + MORE_METRICS;
    let entries = entries.saturating_add(config.more_metrics);
    let mut metrics_writer = MetricsWriter::new(part, entries)?;
    let metrics = RuntimeMetrics::register(&mut metrics_writer)?;
    Ok((metrics_writer, metrics))
}

fn make_crash(
    writer: &mut RegionWriter,
    facts: &RegionFacts,
    metrics: ReadSpan<'static>,
) -> Result<CrashPart, PartitionError> {
    let part = writer.add_part(PartKind::CRASH, CRASH_PART, CRASH_PART_BYTES)?;
    let queues = writer.add_part(PartKind::QUEUES, QUEUES_PART, QUEUE_PART_BYTES)?;
    Ok(CrashPart::new(part, metrics, queues, facts)?)
}

/// Records of the probe ring, as many as there may be.
const fn probe_records(config: &PartitionConfig) -> u32 {
    let wanted =
        if config.probe_records > CAPACITY_MAX { CAPACITY_MAX } else { config.probe_records };
    if wanted == 0 { 1 } else { wanted.next_power_of_two() }
}

const fn probe_part_bytes(config: &PartitionConfig) -> usize {
    ProbeHeader::part_bytes(probe_records(config))
}

/// The partition's parts of its probes.
struct OwnProbes {
    ring: Span<'static>,
    bank: Span<'static>,
}

impl OwnProbes {
    fn make(writer: &mut RegionWriter, config: &PartitionConfig) -> Result<Self, PartitionError> {
        let ring = writer.add_part(PartKind::PROBE, PROBES_PART, probe_part_bytes(config))?;
        let bank = PartKind::PROBE_REGISTERS;
        let bank = writer.add_part(bank, PROBE_REGISTERS_PART, BANK_BYTES)?;
        Ok(Self { ring, bank })
    }

    fn attach(
        &self,
        scheduler: &Scheduler,
        host: &RegionReader,
        config: &PartitionConfig,
    ) -> Result<(), PartitionError> {
        let control = host.part(PartKind::PROBE_CONTROL, PROBE_CONTROL_PART)?;
        let probes = scheduler.probes();
        probes.attach(self.ring, self.bank, control, probe_records(config))?;
        scheduler.trace_wakes();
        Ok(())
    }
}

/// The partition's parts of its rings.
struct OwnRings {
    events_spec: RingSpec,
    commands_spec: RingSpec,
    events: Span<'static>,
    commands: Span<'static>,
}

impl OwnRings {
    fn make(
        writer: &mut RegionWriter,
        facts: &RegionFacts,
        sizes: RingSizes,
    ) -> Result<Self, PartitionError> {
        let (events_spec, commands_spec) = (sizes.events_spec(facts)?, sizes.commands_spec(facts)?);
        let (events_bytes, commands_bytes) =
            (events_spec.producer_bytes(), commands_spec.consumer_bytes());
        let events = writer.add_part(PartKind::RING_PRODUCER, EVENTS_RING, events_bytes)?;
        let commands = writer.add_part(PartKind::RING_CONSUMER, COMMANDS_RING, commands_bytes)?;
        events_spec.make_producer_part(events)?;
        commands_spec.make_consumer_part(commands)?;
        Ok(Self { events_spec, commands_spec, events, commands })
    }

    fn open(
        &self,
        host: &RegionReader,
    ) -> Result<(RecordProducer, RecordConsumer), PartitionError> {
        let peer_events = host.part(PartKind::RING_CONSUMER, EVENTS_RING)?;
        let peer_commands = host.part(PartKind::RING_PRODUCER, COMMANDS_RING)?;
        Ok((
            RecordProducer::new(self.events, peer_events, self.events_spec)?,
            RecordConsumer::new(self.commands, peer_commands, self.commands_spec)?,
        ))
    }
}
