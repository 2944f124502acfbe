//! The controller: what it is made of, and what the outside calls.

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::fault::{ControllerFault, FaultNote};
use crate::flight::Flights;
use crate::logs::Logs;
use crate::mistake::{HostMistake, MistakeLog};
use crate::namespace::Namespace;
use crate::queues::{Cq, Sq};
use crate::registers::Registers;
use crate::rng::Rng;
use crate::shadow::Shadows;
use crate::stats::ModelStats;
use core_runtime::mem::{DmaError, DmaMap, DmaRegion, DoorbellRegion, Iova};
use hybrid_shm::{Span, Word32};
use nvme_spec::{AsyncEvent, Cid, CriticalWarning, Nsid, QueueId};
use std::collections::VecDeque;

/// What the doorbell of a queue that does not exist holds; anything else was written by a host.
pub(crate) const NO_QUEUE: u32 = u32::MAX;
/// Room for the largest page, twice: a compare's two sides.
const SCRATCH: usize = 2 << 16;
/// Faults that are remembered until somebody takes them; older ones are forgotten.
const KEPT_NOTES: usize = 1024;
/// Events that are remembered until a request is there.
pub(crate) const PENDING_EVENTS: usize = 64;

/// A software NVMe controller. See the crate's documentation.
#[derive(Debug)]
pub struct Model {
    pub(crate) config: ModelConfig,
    pub(crate) regs: Registers,
    pub(crate) dma: DmaMap,
    pub(crate) doorbells: Span<'static>,
    /// By queue identifier; index 0 is the admin queue.
    pub(crate) sqs: Vec<Option<Sq>>,
    pub(crate) cqs: Vec<Option<Cq>>,
    /// Identifiers of the submission queues that exist, in the order of service.
    pub(crate) active: Vec<QueueId>,
    /// Where the next step starts in `active`.
    pub(crate) turn: usize,
    /// Shadow doorbells, once the host has given them.
    pub(crate) shadows: Option<Shadows>,
    /// Which missing queue's doorbells are looked at next.
    pub(crate) scan: usize,
    /// What each doorbell held when EN or SHN was written; tail and head in turn.
    pub(crate) frozen: Vec<u32>,
    /// Sorted by identifier.
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) flights: Flights,
    pub(crate) events: Events,
    pub(crate) features: Features,
    pub(crate) logs: Logs,
    pub(crate) mistakes: MistakeLog,
    pub(crate) notes: VecDeque<FaultNote>,
    pub(crate) stats: ModelStats,
    pub(crate) rng: Rng,
    pub(crate) scratch: Box<[u8]>,
    pub(crate) now_ns: u64,
    /// No queue is served before this.
    pub(crate) paused_until_ns: u64,
    /// Whether each I/O command must take the long way: latency, faults, order, paranoia.
    pub(crate) long_way: bool,
}

/// Asynchronous events and the requests that wait for them.
#[derive(Debug)]
pub(crate) struct Events {
    pub(crate) requests: VecDeque<Cid>,
    pub(crate) pending: VecDeque<AsyncEvent>,
    /// Event types that were reported and whose log page was not read since, a bit each.
    pub(crate) masked: u8,
    /// Events that are reported whatever the masks say.
    pub(crate) storm: Option<(AsyncEvent, u32)>,
}

impl Events {
    /// With room for as many requests as a host may post, so that none of them allocates.
    fn with_room_for(requests: u16) -> Self {
        Self {
            requests: VecDeque::with_capacity(usize::from(requests)),
            pending: VecDeque::new(),
            masked: 0,
            storm: None,
        }
    }

    /// As a reset leaves them.
    pub(crate) fn forget(&mut self) {
        self.requests.clear();
        self.pending.clear();
        (self.masked, self.storm) = (0, None);
    }
}

/// Values of the features that a host can set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Features {
    pub(crate) arbitration: u32,
    pub(crate) power: u32,
    pub(crate) temperature: u32,
    pub(crate) error_recovery: u32,
    pub(crate) write_cache: u32,
    pub(crate) coalescing: u32,
    pub(crate) write_atomicity: u32,
    pub(crate) events: u32,
}

impl Features {
    /// Values after a reset.
    pub(crate) const fn new(config: &ModelConfig) -> Self {
        Self {
            arbitration: 0,
            power: 0,
            // 70 °C.
            temperature: 343,
            error_recovery: 0,
            write_cache: config.volatile_write_cache as u32,
            coalescing: 0,
            write_atomicity: 0,
            events: 0,
        }
    }
}

fn within(
    field: &'static str,
    value: u64,
    range: core::ops::RangeInclusive<u64>,
    allowed: &'static str,
) -> Result<(), ModelError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(ModelError::Config { field, value, allowed })
}

fn check(config: &ModelConfig) -> Result<(), ModelError> {
    let entries = u64::from(config.max_queue_entries);
    within("max_queue_entries", entries, 1..=65_536, "1 to 65536")?;
    within("dstrd", u64::from(config.dstrd), 0..=12, "0 to 12")?;
    let queues = u64::from(config.max_io_queues);
    within("max_io_queues", queues, 1..=65_534, "1 to 65534")?;
    within("mpsmin", u64::from(config.mpsmin), 0..=4, "0 to 4")?;
    let mpsmax = u64::from(config.mpsmax);
    within("mpsmax", mpsmax, u64::from(config.mpsmin)..=4, "mpsmin to 4")?;
    let events = u64::from(config.async_event_limit);
    within("async_event_limit", events, 1..=256, "1 to 256")?;
    let errors = u64::from(config.error_log_entries);
    within("error_log_entries", errors, 1..=256, "1 to 256")?;
    within("burst", u64::from(config.burst), 1..=64, "1 to 64")?;
    let atomic = u64::from(config.atomic_write_blocks);
    within("atomic_write_blocks", atomic, 1..=65_536, "1 to 65536")?;
    let atomic = u64::from(config.atomic_write_blocks_power_fail);
    within("atomic_write_blocks_power_fail", atomic, 1..=65_536, "1 to 65536")?;
    within("serial", config.serial.len() as u64, 0..=20, "0 to 20 bytes")
}

/// A count of 1 to 65,536 as it stands in a field that counts from zero.
pub(crate) fn zero_based(count: u32) -> u16 {
    u16::try_from(count.saturating_sub(1)).unwrap_or(u16::MAX)
}

impl Model {
    /// Makes a controller, disabled, without mapped memory, with doorbells in memory of its own.
    ///
    /// # Errors
    /// A configuration that is out of range, or an image that cannot be had.
    pub fn new(config: ModelConfig) -> Result<Self, ModelError> {
        check(&config)?;
        let atomic_z = [
            zero_based(config.atomic_write_blocks),
            zero_based(config.atomic_write_blocks_power_fail),
        ];
        let mut namespaces = Vec::with_capacity(config.namespaces.len());
        for namespace in &config.namespaces {
            let mut made = Namespace::new(namespace, atomic_z)?;
            if config.power_cuts {
                made.keep_cache(config.atomic_write_blocks_power_fail);
            }
            namespaces.push(made);
        }
        namespaces.sort_by_key(|namespace| namespace.nsid);
        if let Some(pair) = namespaces.windows(2).find(|pair| pair[0].nsid == pair[1].nsid) {
            return Err(ModelError::Nsid(pair[0].nsid.0));
        }
        let queues = usize::from(config.max_io_queues) + 1;
        let mut model = Self {
            regs: Registers::new(&config),
            dma: DmaMap::new(),
            doorbells: hybrid_shm::leak_zeroed(Self::doorbell_bytes_for(&config)),
            sqs: (0..queues).map(|_| None).collect(),
            cqs: (0..queues).map(|_| None).collect(),
            active: Vec::with_capacity(queues),
            turn: 0,
            shadows: None,
            scan: 0,
            frozen: Vec::with_capacity(2 * queues),
            namespaces,
            flights: Flights::new(),
            events: Events::with_room_for(config.async_event_limit),
            features: Features::new(&config),
            logs: Logs::new(config.error_log_entries),
            mistakes: MistakeLog::default(),
            notes: VecDeque::new(),
            stats: ModelStats::default(),
            rng: Rng::new(config.seed),
            scratch: vec![0; SCRATCH].into_boxed_slice(),
            now_ns: 0,
            paused_until_ns: 0,
            long_way: Self::needs_long_way(&config),
            config,
        };
        model.clear_doorbells();
        Ok(model)
    }

    pub(crate) fn needs_long_way(config: &ModelConfig) -> bool {
        !config.latency.is_none()
            || config.out_of_order
            || config.paranoid
            || !config.faults.is_empty()
    }

    fn doorbell_bytes_for(config: &ModelConfig) -> usize {
        DoorbellRegion::bytes_for(config.max_io_queues + 1, config.dstrd)
    }

    /// Bytes that the doorbells take, from register offset 1000h on.
    #[must_use]
    pub fn doorbell_bytes(&self) -> usize {
        Self::doorbell_bytes_for(&self.config)
    }

    /// The doorbells, for the host's side.
    #[must_use]
    pub const fn doorbells(&self) -> DoorbellRegion {
        DoorbellRegion { span: self.doorbells, dstrd: self.config.dstrd }
    }

    /// Puts the doorbells into memory that the caller shares with the host's side. Before the
    /// controller is enabled.
    ///
    /// # Errors
    /// [`ModelError::Doorbells`] if it is too small or not aligned to 8 bytes.
    pub fn set_doorbells(&mut self, span: Span<'static>) -> Result<(), ModelError> {
        let need = self.doorbell_bytes();
        if span.len() < need || span.word64(0).is_err() {
            return Err(ModelError::Doorbells { need, have: span.len() });
        }
        self.doorbells = span;
        self.clear_doorbells();
        Ok(())
    }

    /// Makes a region reachable for the controller.
    ///
    /// # Errors
    /// As for [`DmaMap::map`].
    pub fn map_dma(&mut self, region: DmaRegion) -> Result<(), DmaError> {
        self.dma.map(region)
    }

    /// Takes back the region at `iova`. Live queues or commands in it are a mistake of the host;
    /// the controller turns fatal if a queue is hit, as after a fault of the IOMMU.
    pub fn unmap(&mut self, iova: Iova) -> Option<DmaRegion> {
        let region = self.dma.unmap(iova)?;
        let inside = |at: u64| at.wrapping_sub(region.iova.0) < region.len() as u64;
        let sqs = self.sqs.iter().flatten().map(|sq| (sq.id, sq.iova));
        let cqs = self.cqs.iter().flatten().map(|cq| (cq.id, cq.iova));
        let mut hit: Vec<_> = sqs.chain(cqs).filter(|(_, iova)| inside(iova.0)).collect();
        hit.dedup_by_key(|(qid, _)| *qid);
        for (qid, _) in &hit {
            self.mistakes.add(HostMistake::QueueUnmapped { qid: *qid });
        }
        for (sqid, sqe) in self.flights.commands() {
            if sqid != QueueId::ADMIN && (inside(sqe.prp1()) || inside(sqe.prp2())) {
                let cid = sqe.cid();
                self.mistakes.add(HostMistake::UnmappedInFlight { sqid, cid });
            }
        }
        if !hit.is_empty() {
            self.inject(ControllerFault::Fatal);
        }
        Some(region)
    }

    /// The IOMMU stops the controller at all that is mapped, which is mapped again at once: it
    /// turns fatal if it has a queue. What that makes of the host's doings are not its mistakes.
    ///
    /// # Errors
    /// As for [`Self::map_dma`].
    pub fn iommu_fault(&mut self) -> Result<(), DmaError> {
        let before = self.mistakes.clone();
        let regions: Vec<_> = self.dma.regions().copied().collect();
        for region in regions {
            self.unmap(region.iova);
            self.map_dma(region)?;
        }
        self.mistakes = before;
        Ok(())
    }

    /// The mistakes of the host so far, the first ones.
    #[must_use]
    pub fn mistakes(&self) -> &[HostMistake] {
        self.mistakes.kept()
    }

    /// How many mistakes there were, those not kept included.
    #[must_use]
    pub const fn mistake_count(&self) -> u64 {
        self.mistakes.total()
    }

    /// Takes the mistakes and forgets them.
    pub fn take_mistakes(&mut self) -> Vec<HostMistake> {
        self.mistakes.take()
    }

    /// The oldest fault that hit a command and was not taken yet; of many the last ones are kept.
    pub fn take_fault(&mut self) -> Option<FaultNote> {
        self.notes.pop_front()
    }

    #[cold]
    pub(crate) fn note_fault(&mut self, note: FaultNote) {
        if self.notes.len() == KEPT_NOTES {
            self.notes.pop_front();
        }
        self.notes.push_back(note);
    }

    /// For the end of a test. Looks at every doorbell and all that it remembers first.
    ///
    /// # Panics
    /// If the host made a mistake, with all of them in the message.
    pub fn assert_no_mistakes(&mut self) {
        self.look_at_all();
        let kept = self.mistakes.kept();
        let text: Vec<String> = kept.iter().map(ToString::to_string).collect();
        let total = self.mistakes.total();
        assert!(total == 0, "{total} mistakes of the host:\n  {}", text.join("\n  "));
    }

    /// What was done so far.
    #[must_use]
    pub const fn stats(&self) -> &ModelStats {
        &self.stats
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Changes what the controller does from the next command on: latency, order, faults, abort
    /// policy, delays. What it reports of itself stays as it was made.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut ModelConfig)) {
        let mut changed = self.config.clone();
        change(&mut changed);
        self.config.latency = changed.latency;
        self.config.out_of_order = changed.out_of_order;
        self.config.faults = changed.faults;
        self.config.abort = changed.abort;
        self.config.ready_delay_ns = changed.ready_delay_ns;
        self.config.not_ready_delay_ns = changed.not_ready_delay_ns;
        self.config.shutdown_delay_ns = changed.shutdown_delay_ns;
        self.long_way = Self::needs_long_way(&self.config);
    }

    /// Makes a namespace end after so many blocks, as if somebody had resized it: Identify says so,
    /// commands beyond are refused, the changed namespace list has it, and the event is raised.
    ///
    /// # Panics
    /// If there is no such namespace, or it would grow.
    pub fn shrink_namespace(&mut self, nsid: Nsid, blocks: u64) {
        let found = self.namespaces.iter_mut().find(|ns| ns.nsid == nsid);
        let namespace = found.unwrap_or_else(|| panic!("no namespace {nsid}"));
        assert!(blocks <= namespace.blocks, "a namespace of {} blocks grows", namespace.blocks);
        namespace.blocks = blocks;
        self.logs.changed.push(nsid);
        self.raise(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED);
    }

    /// Sets the critical warning byte of the SMART log; a newly set bit raises its event. With
    /// read-only media, whatever writes is refused from then on.
    pub fn set_critical_warning(&mut self, bits: u8) {
        let new = bits & !self.logs.critical_warning;
        self.logs.critical_warning = bits;
        if new & CriticalWarning::READ_ONLY.bits() != 0 {
            self.namespaces.iter_mut().for_each(|ns| ns.write_protected = true);
        }
        for (bit, event) in [
            (1, AsyncEvent::SMART_SPARE),
            (2, AsyncEvent::SMART_TEMPERATURE),
            (4, AsyncEvent::SMART_RELIABILITY),
            (8, AsyncEvent::SMART_RELIABILITY),
        ] {
            if new & bit != 0 {
                self.raise(event);
            }
        }
    }

    /// Commands fetched and not completed, event requests not counted.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// The same for I/O commands alone.
    #[must_use]
    pub fn io_in_flight(&self) -> usize {
        self.flights.commands().filter(|(sqid, _)| *sqid != QueueId::ADMIN).count()
    }

    /// Blocks of a namespace as they stand, for inspection by tests.
    ///
    /// Returns false if there is no such namespace or the range leaves it.
    pub fn peek_block(&mut self, nsid: u32, lba: u64, bytes: &mut [u8]) -> bool {
        let Some(ns) = self.namespaces.iter_mut().find(|ns| ns.nsid.0 == nsid) else {
            return false;
        };
        let end = lba.checked_mul(ns.stride()).and_then(|at| at.checked_add(bytes.len() as u64));
        if end.is_none_or(|end| end > ns.blocks * ns.stride()) {
            return false;
        }
        ns.store.peek(lba * ns.stride(), bytes).is_ok()
    }

    /// Makes everything written durable, as a normal shutdown does.
    ///
    /// # Errors
    /// The first image that could not be synced.
    pub fn flush_images(&mut self) -> std::io::Result<()> {
        for ns in &mut self.namespaces {
            match ns.flush() {
                Ok(()) => {}
                Err(crate::store::StoreError::Io(error)) => return Err(error),
                Err(crate::store::StoreError::Bounds) => {
                    return Err(std::io::ErrorKind::InvalidInput.into());
                }
            }
        }
        Ok(())
    }

    /// The doorbell word of a queue; both were checked to lie inside when the span was set.
    pub(crate) fn doorbell(&self, qid: usize, cq: bool) -> Option<Word32<'static>> {
        let stride = 4_usize << self.config.dstrd;
        self.doorbells.word32((2 * qid + usize::from(cq)) * stride).ok()
    }

    /// Marks every doorbell as one of no queue.
    pub(crate) fn clear_doorbells(&mut self) {
        for qid in 0..self.sqs.len() {
            for cq in [false, true] {
                if let Some(word) = self.doorbell(qid, cq) {
                    word.store(NO_QUEUE);
                }
            }
        }
    }
}
