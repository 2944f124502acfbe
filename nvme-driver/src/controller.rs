//! The controller: owns the queues, is polled by the partition's loop, never blocks.
//!
//! [`Controller::poll`] reaps completions and, when something is due, moves the state machine of
//! [`crate::lifecycle`] and the watchdog of [`crate::watchdog`]. [`Controller::ring`] writes the
//! doorbells once a pass. All memory is taken in [`Controller::new`], from the bump and the DMA
//! arena given, and kept for the partition's life.
//!
//! Time: each poll is given the instant of its pass. The driver's own clock advances by what passed
//! since the last housekeeping, but by at most [`MAX_STEP_NS`]: a clock that jumps, or a core that
//! was stopped, fails nothing at once.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::poll_fn;
use core::task::Poll;

use core_runtime::clock::{Clock, Instant};
use core_runtime::crash::CrashSources;
use core_runtime::mem::{Bump, DmaArena, DmaBuf, DoorbellRegion, Iova, ShadowDoorbells, SharedDma};
use core_runtime::probe::Probes;
use core_runtime::task::WakeSlot;
use nvme_spec::registers::{Cap, Version};
use nvme_spec::{
    AdminOpcode, AsyncEvent, Cid, FirmwareSlotLog, GetLogPage, IDENTIFY_BYTES, IdentifyController,
    LogPageId, Nsid, SmartLog, Sqe,
};
use zerocopy::FromBytes;

use crate::admin::{AdminFuture, AdminSide};
use crate::bridge::BridgeParts;
use crate::bringup::{self, ADMIN_ENTRIES, ADMIN_REQUESTS};
use crate::config::ControllerConfig;
use crate::crash::Published;
use crate::error::{ControllerError, Failed, IoError};
use crate::events::Events;
use crate::hub::{Hub, Queues};
use crate::latency::LatencyHistograms;
use crate::lifecycle::{Life, Phase};
use crate::namespace::{Namespace, Standing};
use crate::probes;
use crate::queue::{QueuePair, QueueSpec};
use crate::quirks::{Quirks, quirks_of};
use crate::raw::RawQueue;
use crate::regs::{ControlRegs, Regs};
use crate::request::{Request, Retry};
use crate::requests::{NoInternal, Requests};
use crate::split;
use crate::stats::{ControllerStats, QueueStats};
use crate::waiters::Waiters;
use crate::watchdog::Watch;

/// The most that one poll lets the driver's clock advance; a loop that is away for longer is itself
/// late, which is no reason to fail commands.
const MAX_STEP_NS: u64 = 50_000_000;

/// Futures of [`Controller::ready`] and [`Controller::shutdown`] that are woken; more poll again.
const STATE_WAITERS: usize = 8;

/// What a backend hands over: the parts of a controller, or the partition's end of the bridge.
#[derive(Clone, Copy, Debug)]
pub enum DeviceParts {
    /// For [`Controller`].
    Nvme(ControllerParts),
    /// For [`crate::Bridge`].
    Bridge(BridgeParts),
}

impl DeviceParts {
    /// Clock of the partition.
    #[must_use]
    pub const fn clock(&self) -> Clock {
        match self {
            Self::Nvme(parts) => parts.clock,
            Self::Bridge(parts) => parts.clock,
        }
    }

    /// The parts of a controller, where it is one.
    #[must_use]
    pub const fn controller(self) -> Option<ControllerParts> {
        match self {
            Self::Nvme(parts) => Some(parts),
            Self::Bridge(_) => None,
        }
    }
}

impl From<ControllerParts> for DeviceParts {
    fn from(parts: ControllerParts) -> Self {
        Self::Nvme(parts)
    }
}

/// What a controller is made of.
#[derive(Clone, Copy)]
pub struct ControllerParts {
    /// Control registers.
    pub regs: &'static dyn ControlRegs,
    /// Doorbells; the stride is taken from CAP.
    pub doorbells: DoorbellRegion,
    /// DMA memory.
    pub arena: &'static DmaArena,
    /// Clock of the partition.
    pub clock: Clock,
    /// Where the controller says what it was doing should the partition die; none in tests.
    pub crash: Option<&'static CrashSources>,
    /// Where it writes its events; none in tests.
    pub probes: Option<&'static Probes>,
}

impl fmt::Debug for ControllerParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControllerParts")
            .field("doorbells", &self.doorbells)
            .finish_non_exhaustive()
    }
}

/// State as users see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerState {
    /// First bring-up.
    Starting,
    /// I/O is taken.
    Ready,
    /// A reset is under way; I/O waits.
    Resetting,
    /// An orderly shutdown is under way.
    ShuttingDown,
    /// Shut down.
    Off,
    /// Failed for good: the partition should end, the next one may try.
    Failed(ControllerError),
}

/// What one poll did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollReport {
    /// Completions taken from I/O queues, ignored ones included.
    pub reaped: u32,
    /// Completions taken from the admin queue.
    pub reaped_admin: u32,
    /// The state machine was moved.
    pub housekeeping: bool,
}

impl PollReport {
    /// Whether anything was taken.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.reaped == 0 && self.reaped_admin == 0
    }
}

/// An NVMe controller. Belongs to one core.
#[derive(Debug)]
pub struct Controller {
    pub(crate) hub: &'static Hub,
    pub(crate) admin: Requests,
    /// Ticks after [`Self::last`] at which [`Controller::housekeep`] is due. A clock that goes back
    /// looks like a huge time, so that it is due at once.
    wait: Cell<u64>,
    /// Something happened that housekeeping should see at once.
    pub(crate) urgent: Cell<bool>,
    pub(crate) regs: Regs,
    pub(crate) clock: Clock,
    pub(crate) config: ControllerConfig,
    pub(crate) cap: Cap,
    pub(crate) version: Version,
    pub(crate) plan: bringup::Plan,
    pub(crate) quirks: Quirks,
    pub(crate) namespaces: &'static [Namespace],
    /// Shadow doorbells, if they are wanted.
    pub(crate) shadows: Option<&'static ShadowDoorbells>,
    /// 4,096 bytes for identify data and internal log reads.
    pub(crate) scratch: SharedDma,
    pub(crate) identify: RefCell<[u8; IDENTIFY_BYTES]>,
    pub(crate) probes: &'static Probes,
    pub(crate) life: Life,
    pub(crate) watch: Watch,
    pub(crate) events: Events,
    /// The driver's clock, in ticks, and the instant at which it was last moved.
    time: Cell<u64>,
    last: Cell<Instant>,
    waiters: [WakeSlot; STATE_WAITERS],
    /// Where its queues were published for crash dumps.
    pub(crate) published: Cell<Option<Published>>,
}

/// The admin queue's shape.
const fn admin_spec(plan: &bringup::Plan, config: &ControllerConfig) -> QueueSpec {
    QueueSpec {
        qid: 0,
        entries: ADMIN_ENTRIES,
        page_bytes: plan.page_bytes,
        max_len: config.max_transfer_bytes,
        sample_every: 0,
        stream_from: 0,
    }
}

impl Controller {
    /// Reads CAP and VS and takes all memory; the controller itself is not touched before the first
    /// [`Controller::poll`].
    ///
    /// # Errors
    /// [`ControllerError`] if the device is gone, cannot be used, or memory is short.
    pub fn new(
        parts: DeviceParts,
        bump: &Bump,
        config: ControllerConfig,
    ) -> Result<&'static Self, ControllerError> {
        let DeviceParts::Nvme(parts) = parts else {
            return Err(ControllerError::NotAController);
        };
        let regs = Regs::new(parts.regs);
        let (cap, version) = regs.identity()?;
        let quirks = quirks_of(config.pci_id);
        let plan = bringup::plan(cap, &config, quirks)?;
        let doorbells = DoorbellRegion { span: parts.doorbells.span, dstrd: cap.dstrd() };
        let no_memory = |what| move |_| ControllerError::NoMemory(what);
        let line = || -> Result<&'static Waiters, ControllerError> {
            let line = Waiters::new(config.waiters, bump).map_err(no_memory("waiting tasks"))?;
            bump.alloc(line).map_err(no_memory("waiting tasks"))
        };
        let (io_line, admin_line) = (line()?, line()?);
        let probes =
            probes::or_off(parts.probes, parts.clock, bump).map_err(no_memory("probes"))?;
        let make = |spec: QueueSpec, requests: u16, waiters| {
            let clock = (parts.clock, probes);
            let qp = QueuePair::new(spec, doorbells, parts.arena, clock, bump)?;
            Requests::new(qp, requests, waiters, bump)
        };
        let admin = make(admin_spec(&plan, &config), ADMIN_REQUESTS, admin_line)?;
        let queues = Self::make_queues(&config, &plan, bump, |spec, n| make(spec, n, io_line))?;
        let hub = Hub::new(queues, io_line, parts.arena);
        let hub = bump.alloc(hub).map_err(no_memory("the controller"))?;
        let page = usize::try_from(plan.page_bytes).unwrap_or(4096);
        let scratch = parts
            .arena
            .alloc_shared(IDENTIFY_BYTES, page)
            .map_err(|_| ControllerError::NoMemory("identify data"))?;
        let namespaces = bump
            .slice_with(usize::from(config.max_namespaces), |_| Namespace::vacant(hub))
            .map_err(no_memory("namespaces"))?;
        let controller = bump.alloc(Self {
            hub,
            admin,
            wait: Cell::new(0),
            urgent: Cell::new(false),
            regs,
            clock: parts.clock,
            config,
            cap,
            version,
            plan,
            quirks,
            namespaces,
            shadows: Self::make_shadows(&parts, &config, (cap.dstrd(), page), bump)?,
            scratch,
            identify: RefCell::new([0; IDENTIFY_BYTES]),
            probes,
            life: Life::new(probes),
            watch: Watch::new(),
            events: Events::new(),
            time: Cell::new(0),
            last: Cell::new(Instant::MIN),
            waiters: [const { WakeSlot::new() }; STATE_WAITERS],
            published: Cell::new(None),
        });
        let controller: &'static Self = controller.map_err(no_memory("the controller"))?;
        if let Some(sources) = parts.crash {
            controller.join(sources);
        }
        Ok(controller)
    }

    /// A page each of shadow and event words.
    fn make_shadows(
        parts: &ControllerParts,
        config: &ControllerConfig,
        (dstrd, page): (u8, usize),
        bump: &Bump,
    ) -> Result<Option<&'static ShadowDoorbells>, ControllerError> {
        if !config.shadow_doorbells {
            return Ok(None);
        }
        let no_memory = ControllerError::NoMemory("shadow doorbells");
        let words = || parts.arena.alloc_shared(page, page).map_err(|_| no_memory);
        let shadows = ShadowDoorbells::new(words()?, words()?, dstrd);
        bump.alloc(shadows).map(Some).map_err(|_| no_memory)
    }

    fn make_queues(
        config: &ControllerConfig,
        plan: &bringup::Plan,
        bump: &Bump,
        make: impl Fn(QueueSpec, u16) -> Result<Requests, ControllerError>,
    ) -> Result<Queues, ControllerError> {
        let depth = plan.entries - 1;
        let requests = match config.requests {
            0 => depth.saturating_mul(2),
            n => n,
        };
        let mut queues = Queues::new();
        for i in 0..config.io_queues {
            let spec = QueueSpec {
                qid: i + 1,
                entries: plan.entries,
                page_bytes: plan.page_bytes,
                max_len: config.max_transfer_bytes,
                sample_every: config.latency_sampling,
                stream_from: config.stream_from,
            };
            let queue = match make(spec, requests) {
                Ok(queue) => queue,
                // Doorbells for fewer queues than asked for: fewer it is.
                Err(ControllerError::NoDoorbell(_)) if i > 0 => break,
                Err(error) => return Err(error),
            };
            let queue = bump.alloc(queue).map_err(|_| ControllerError::NoMemory("queues"))?;
            if queues.push(queue).is_err() {
                return Err(ControllerError::Config("io_queues"));
            }
        }
        Ok(queues)
    }

    // ---- the loop's side -------------------------------------------------------------------

    /// One pass: takes completions (a quarter of each ring at most) and does what is due. Bounded;
    /// never blocks. `now` is the instant of the pass.
    #[inline]
    pub fn poll(&'static self, now: Instant) -> PollReport {
        let mut report = PollReport::default();
        let raw = self.hub.raw.get();
        for (i, queue) in self.hub.live().enumerate() {
            if raw >> i & 1 == 0 {
                report.reaped += u32::from(queue.poll(now, &mut NoInternal));
            }
        }
        report.reaped_admin = u32::from(self.admin.poll(now, &mut AdminSide(self)));
        let passed = now.ticks().wrapping_sub(self.last.get().ticks());
        if passed >= self.wait.get() || self.urgent.get() {
            report.housekeeping = true;
            self.housekeep(now);
        }
        report
    }

    /// Writes the doorbells of the queues whose tail moved: once a pass, after the tasks.
    #[inline]
    pub fn ring(&'static self) {
        for queue in self.hub.live() {
            queue.qp().ring();
        }
        self.admin.qp().ring();
    }

    #[inline(never)]
    fn housekeep(&'static self, now: Instant) {
        self.urgent.set(false);
        let step = self.clock.ns_to_ticks(MAX_STEP_NS).get();
        let passed = match self.last.replace(now) {
            Instant::MIN => 0,
            last => now.since(last).get().min(step),
        };
        self.time.set(self.time.get().saturating_add(passed));
        let wait_ns = self.step();
        self.wait.set(self.ticks(wait_ns));
    }

    /// When housekeeping was done last.
    pub(crate) fn last_housekeeping(&self) -> Instant {
        self.last.get()
    }

    /// When CSTS was looked at last while ready, on the driver's clock.
    pub(crate) fn last_look(&self) -> u64 {
        self.watch.next_health().saturating_sub(self.ticks(self.config.health_ns))
    }

    /// When the next epoch of the admin queue, or of the I/O queues, begins.
    pub(crate) fn next_epoch(&self, admin: bool) -> u64 {
        self.watch.next_epoch(admin)
    }

    /// The driver's clock, in ticks.
    pub(crate) fn time(&self) -> u64 {
        self.time.get()
    }

    /// The driver's clock in `ns`; never if that is beyond all time.
    pub(crate) fn time_in(&self, ns: u64) -> u64 {
        self.time().saturating_add(self.ticks(ns))
    }

    pub(crate) fn ticks(&self, ns: u64) -> u64 {
        self.clock.ns_to_ticks(ns).get()
    }

    // ---- the users' side -------------------------------------------------------------------

    /// The state now.
    #[must_use]
    pub fn state(&self) -> ControllerState {
        match self.life.phase() {
            Phase::Ready | Phase::QueueReset(..) => ControllerState::Ready,
            Phase::Off => ControllerState::Off,
            Phase::Dead => {
                ControllerState::Failed(self.life.error().unwrap_or(ControllerError::ShutDown))
            }
            Phase::Draining | Phase::Deleting(..) | Phase::ShutdownWait | Phase::FinalDisable => {
                ControllerState::ShuttingDown
            }
            _ if self.life.was_ready() => ControllerState::Resetting,
            _ => ControllerState::Starting,
        }
    }

    /// Waits until I/O is taken.
    ///
    /// # Errors
    /// Why it never will be.
    pub async fn ready(&'static self) -> Result<(), ControllerError> {
        poll_fn(|cx| match self.state() {
            ControllerState::Ready => Poll::Ready(Ok(())),
            ControllerState::Failed(error) => Poll::Ready(Err(error)),
            ControllerState::Off | ControllerState::ShuttingDown => {
                Poll::Ready(Err(ControllerError::ShutDown))
            }
            ControllerState::Starting | ControllerState::Resetting => {
                self.wait_for_state(cx.waker());
                Poll::Pending
            }
        })
        .await
    }

    /// Shuts the controller down in order: takes no more I/O, waits for what is in flight (up to
    /// `drain_ns`), deletes the queues, notifies the controller and disables it. Everything is
    /// bounded; what is still in flight ends with an error.
    ///
    /// # Errors
    /// [`ControllerError`] if the controller did not stop in time, or had failed before.
    pub async fn shutdown(&'static self) -> Result<(), ControllerError> {
        self.request_shutdown();
        poll_fn(|cx| match self.state() {
            ControllerState::Off => Poll::Ready(self.life.error().map_or(Ok(()), Err)),
            ControllerState::Failed(error) => Poll::Ready(Err(error)),
            _ => {
                self.wait_for_state(cx.waker());
                Poll::Pending
            }
        })
        .await
    }

    /// Asks for the orderly shutdown without waiting for it.
    pub fn request_shutdown(&self) {
        self.life.want_shutdown(self.time_in(self.config.shutdown_total_ns));
        self.urgent.set(true);
    }

    /// Asks for a controller reset: everything in flight ends with an error, bring-up follows.
    pub fn request_reset(&self) {
        self.watch.want_reset();
        self.urgent.set(true);
    }

    fn wait_for_state(&self, waker: &core::task::Waker) {
        let free = self.waiters.iter().find(|slot| !slot.is_registered());
        match free {
            Some(slot) => slot.register(waker),
            None => waker.wake_by_ref(),
        }
    }

    /// Wakes all who wait for a state.
    pub(crate) fn state_changed(&self) {
        for slot in &self.waiters {
            slot.wake();
        }
        self.hub.wake_all();
    }

    /// The namespace with this identifier, if it is there and usable.
    #[must_use]
    pub fn namespace(&self, nsid: Nsid) -> Option<&'static Namespace> {
        self.namespaces().find(|namespace| namespace.nsid() == nsid)
    }

    /// The usable namespaces, in the order of their identifiers; those that a reset found come
    /// last.
    pub fn namespaces(&self) -> impl Iterator<Item = &'static Namespace> + use<> {
        self.all_namespaces()
            .filter(|namespace| matches!(namespace.standing(), Standing::Usable(_)))
    }

    /// All namespaces that were found, refused ones too ([`Namespace::refusal`] says why).
    pub fn all_namespaces(&self) -> impl Iterator<Item = &'static Namespace> + use<> {
        self.namespaces.iter().filter(|namespace| namespace.standing() != Standing::Vacant)
    }

    /// The 4,096 bytes that Identify Controller returned.
    #[must_use]
    pub fn identify_bytes(&self) -> [u8; IDENTIFY_BYTES] {
        *self.identify.borrow()
    }

    /// Identify Controller, as its fields.
    #[must_use]
    pub fn identify(&self) -> IdentifyController {
        use zerocopy::FromZeros;
        IdentifyController::read_from_bytes(&self.identify.borrow()[..])
            .unwrap_or_else(|_| IdentifyController::new_zeroed())
    }

    /// CAP as read at the start.
    #[must_use]
    pub const fn capabilities(&self) -> Cap {
        self.cap
    }

    /// VS as read at the start.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// I/O queues in use.
    #[must_use]
    pub fn io_queues(&self) -> u16 {
        self.hub.live.get()
    }

    /// Commands that can be in flight on each I/O queue.
    #[must_use]
    pub const fn queue_depth(&self) -> u16 {
        self.plan.entries - 1
    }

    /// Takes I/O queue `index` (from 0) for raw use, with room for `buffers` buffers, whose records
    /// are made in `bump`; from then on only its holder reaps it. `None` if there is no such queue,
    /// it is taken already, it has commands in flight, or `bump` is full.
    #[must_use]
    pub fn take_raw_queue(
        &'static self,
        index: u16,
        buffers: u16,
        bump: &Bump,
    ) -> Option<RawQueue> {
        let queue = self.hub.queues.get(usize::from(index))?;
        let free = index < self.hub.live.get() && !self.hub.is_raw(index);
        if !free || queue.qp().unfinished() != 0 {
            return None;
        }
        let raw = RawQueue::new((queue.qp(), index), self.hub, buffers, bump).ok()?;
        self.hub.raw.set(self.hub.raw.get() | 1 << index);
        // If it was the last one, nobody should wait for it.
        self.hub.wake_all();
        Some(raw)
    }

    /// Reads a log page into `buf`, as many bytes as it has (a multiple of 4).
    ///
    /// # Errors
    /// The controller's status, or why it could not be asked; the buffer comes back.
    pub async fn get_log_page(
        &'static self,
        lid: LogPageId,
        nsid: Nsid,
        buf: DmaBuf,
    ) -> Result<DmaBuf, Failed> {
        let len = buf.len();
        let (Ok(bytes), 0) = (u32::try_from(len), len & 3) else {
            return Err(bad_log_length(len, buf));
        };
        if bytes == 0 || bytes > self.admin.qp().max_len() {
            return Err(bad_log_length(len, buf));
        }
        // MDTS bounds this too; a page has at least a few dwords.
        let unit = u64::from(self.cap.min_page_bytes());
        let most = split::max_transfer(self.life.mdts(), unit, bytes, 4, 0).unwrap_or(4);
        if bytes > most && !self.identify().log_offsets() {
            let error = IoError::Unsupported("log pages beyond its largest transfer");
            return Err(Failed { error, buf: Some(buf) });
        }
        let (mut buf, mut at) = (buf, 0);
        while at < bytes {
            let part = (bytes - at).min(most);
            let mut page = GetLogPage::first(lid, part);
            page.offset = at.into();
            // Only the last part may let the event come again.
            page.retain_event = at + part < bytes;
            let sqe = Sqe::admin(AdminOpcode::GET_LOG_PAGE, Cid(0), nsid)
                .with_cdw(10, page.cdw10())
                .with_cdw(11, page.cdw11());
            let iova = Iova(buf.iova().0 + u64::from(at));
            let request = Request::single(sqe, iova, part, Retry::Allowed).at_offset(at);
            buf = AdminFuture::new(self, request, buf).await?;
            at += part;
        }
        Ok(buf)
    }

    /// The SMART / health log of the controller.
    ///
    /// # Errors
    /// As for [`Controller::get_log_page`].
    pub async fn smart_log(&'static self) -> Result<SmartLog, IoError> {
        self.log(LogPageId::SMART, Nsid::ALL).await
    }

    /// The firmware slot log.
    ///
    /// # Errors
    /// As for [`Controller::get_log_page`].
    pub async fn firmware_log(&'static self) -> Result<FirmwareSlotLog, IoError> {
        self.log(LogPageId::FIRMWARE, Nsid::NONE).await
    }

    /// The newest entries of the error log, 64 bytes each, into `buf` (at most as many as the
    /// controller keeps).
    ///
    /// # Errors
    /// As for [`Controller::get_log_page`].
    pub async fn error_log(&'static self, mut buf: DmaBuf) -> Result<DmaBuf, Failed> {
        let entries = usize::try_from(self.identify().error_log_entries()).unwrap_or(1);
        buf.truncate(entries * size_of::<nvme_spec::ErrorLogEntry>());
        self.get_log_page(LogPageId::ERROR, Nsid::ALL, buf).await
    }

    async fn log<T: FromBytes>(&'static self, lid: LogPageId, nsid: Nsid) -> Result<T, IoError> {
        let buf = self.hub.arena.alloc_zeroed(size_of::<T>());
        let buf = buf.map_err(|_| IoError::NoMemory)?;
        let done = self.get_log_page(lid, nsid, buf).await;
        let buf = done.map_err(|failed| failed.error)?;
        T::read_from_bytes(buf.as_slice()).map_err(|_| IoError::NoMemory)
    }

    /// The oldest asynchronous event that was not taken yet.
    pub fn take_event(&self) -> Option<AsyncEvent> {
        self.events.take()
    }

    /// Critical warnings of the SMART log that was read after the last SMART event.
    #[must_use]
    pub fn critical_warning(&self) -> u8 {
        self.events.critical_warning()
    }

    /// Sampled latencies of all I/O queues are recorded there too, in nanoseconds.
    pub fn record_latencies_into(&self, histograms: LatencyHistograms) {
        for queue in &self.hub.queues {
            queue.qp().record_into(histograms);
        }
    }

    /// Snapshot of the counters.
    #[must_use]
    pub fn stats(&self) -> ControllerStats {
        let mut stats = ControllerStats {
            io: QueueStats::default(),
            admin: self.admin.qp().stats(),
            ..self.watch.stats()
        };
        for queue in &self.hub.queues {
            stats.io = stats.io.plus(&queue.qp().stats());
            stats.orphans += queue.orphans();
        }
        stats.orphans += self.admin.orphans();
        stats.reads_repeated = self.hub.reads_repeated.get();
        stats.bringup_failures = self.life.failures();
        stats.events = self.events.received();
        stats.events_held_back = self.events.held_back();
        let refused = self.all_namespaces().filter(|n| n.refusal().is_some());
        stats.namespaces_refused = refused.count() as u64;
        stats.namespaces_beyond = u64::from(self.life.beyond());
        stats
    }

    /// Counters of I/O queue `index` (from 0).
    #[must_use]
    pub fn queue_stats(&self, index: u16) -> Option<QueueStats> {
        let queue = self.hub.queues.get(usize::from(index))?;
        Some(queue.qp().stats())
    }
}

#[cold]
const fn bad_log_length(len_bytes: usize, buf: DmaBuf) -> Failed {
    Failed { error: IoError::BadLength { len_bytes, lba_bytes: 4 }, buf: Some(buf) }
}
