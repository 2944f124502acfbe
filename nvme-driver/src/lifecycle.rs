//! Bring-up, reset and shutdown: one state machine, moved a step at a time by housekeeping.
//!
//! ```text
//!  Start --EN := 0--> Settling (a quirk's delay) --> Disabling --RDY = 0, all fenced--+
//!    ^ \--EN = 1, RDY = 0--> AwaitReady --RDY = 1 or limit, EN := 0--^  (Resting first |
//!    |                                                      after a failed attempt)   |
//!    |                                                                                v
//!    |<-- attempt failed, tries left --- Admin(step) <------ RDY = 1 ------------ Enabling
//!    |                                      |
//!    |<-- reset -- QueueReset(step) <--> Ready --shutdown--> Draining --> Deleting
//!    v                                                                       v
//!   Dead <-- no tries left, gone               Off <-- FinalDisable <-- ShutdownWait
//! ```
//!
//! A reset and a first bring-up are the same way. Rules kept here: every wait has a limit (CAP.TO
//! or CRTO, admin deadline, RTD3E, and all of those of a shutdown together); all ones end it at
//! once; queues are not touched while EN goes
//! from 1 to 0; Delete Queue goes only to a controller that answers; buffers return to the CPU only
//! after RDY = 0 was seen or a deletion acknowledged, and stay quarantined otherwise.

mod identify;
mod ready;
mod shutdown;

use core::cell::Cell;

use core_runtime::mem::Iova;
use core_runtime::probe::{Probes, Register};
use nvme_spec::registers::{Acq, Aqa, Asq, Cc, Crto, Csts, Shn};
use nvme_spec::{
    AdminOpcode, AsyncEventConfig, Cid, Cns, CreateCq, CreateSq, FeatureId, Nsid, NumberOfQueues,
    OptionalAsyncEvents, QueueGrant, Sqe, Status, StatusCode,
};

use crate::admin::{AdminSide, AdminToken};
use crate::bringup::{self, ADMIN_ENTRIES};
use crate::controller::Controller;
use crate::error::{ControllerError, ResetReason, Step};
use crate::hub::Gate;
use crate::probes;
use crate::queue::Mode;
use crate::quirks::{CHECK_DELAY_NS, Quirks};
use crate::regs::RegsError;
use crate::shape::Refusal;
use crate::stats::Count;

/// How often registers are read while something is waited for: a round trip through a mailbox
/// costs a microsecond or two, a controller's reset milliseconds.
const POLL_NS: u64 = 100_000;

/// Rest between two attempts to bring the controller up: whoever watches over the function (its bus
/// mastering, its reset) looks many times a second.
const ATTEMPT_REST_NS: u64 = 250_000_000;
/// Housekeeping while ready; deadlines and retries need no better.
pub(crate) const READY_NS: u64 = 1_000_000;

/// Once nothing will happen any more.
const IDLE_NS: u64 = 1_000_000_000;

/// Register accesses of one bring-up that may go unanswered, none three times in a row (which is a
/// device that is gone): more than a slow server ever misses, and an end for one that answers every
/// second time.
const MAX_HICCUPS: u8 = 8;

/// An admin command that the machine waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Controller,
    QueueCount,
    /// Active identifiers above this one.
    List(u32),
    /// The command set of a namespace of the list.
    CommandSet(u32),
    /// One namespace of the list.
    Namespace(u32),
    /// One namespace, by counting up to NN.
    Scan(u32),
    EventConfig,
    ShadowDoorbells,
    CreateCq(u16),
    CreateSq(u16),
    DeleteSq(u16),
    DeleteCq(u16),
}

impl Ask {
    const fn step(self) -> Step {
        match self {
            Self::Controller => Step::IdentifyController,
            Self::QueueCount => Step::NumberOfQueues,
            Self::List(_) => Step::NamespaceList,
            Self::CommandSet(_) | Self::Namespace(_) | Self::Scan(_) => Step::IdentifyNamespace,
            Self::EventConfig => Step::EventConfig,
            Self::ShadowDoorbells => Step::ShadowDoorbells,
            Self::CreateCq(_) | Self::DeleteCq(_) => Step::CreateCq,
            Self::CreateSq(_) | Self::DeleteSq(_) => Step::CreateSq,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Start,
    AwaitReady,
    Disabling,
    /// A quirk's delay; then CSTS is looked at again.
    Settling,
    /// Between two attempts; the controller is disabled.
    Resting,
    Enabling,
    Admin(Ask),
    Ready,
    /// Ready, but this queue (index) is being made anew.
    QueueReset(u16, Ask),
    Draining,
    Deleting(Ask),
    ShutdownWait,
    FinalDisable,
    Off,
    Dead,
}

impl Phase {
    /// As the probes tell it, from 1 in the order above.
    const fn number(self) -> u32 {
        match self {
            Self::Start => 1,
            Self::AwaitReady => 2,
            Self::Disabling => 3,
            Self::Settling => 4,
            Self::Resting => 5,
            Self::Enabling => 6,
            Self::Admin(_) => 7,
            Self::Ready => 8,
            Self::QueueReset(..) => 9,
            Self::Draining => 10,
            Self::Deleting(_) => 11,
            Self::ShutdownWait => 12,
            Self::FinalDisable => 13,
            Self::Off => 14,
            Self::Dead => 15,
        }
    }
}

/// Where the machine stands.
#[derive(Debug)]
pub(crate) struct Life {
    phase: Cell<Phase>,
    phase_now: Register,
    resets_now: Register,
    /// Limit of the wait that is on, on the driver's clock, and its length.
    until: Cell<u64>,
    limit_ns: Cell<u64>,
    /// Answer to the admin command of the phase.
    answer: Cell<Option<Result<u32, Status>>>,
    /// How often that command was tried again, and when it is, on the driver's clock.
    tries: Cell<u8>,
    again_at: Cell<Option<u64>>,
    /// What the commands in flight are told when the device is fenced.
    reason: Cell<ResetReason>,
    attempts: Cell<u8>,
    /// No attempt before this, on the driver's clock.
    rest_until: Cell<u64>,
    failures: Count,
    error: Cell<Option<ControllerError>>,
    was_ready: Cell<bool>,
    shutdown: Cell<bool>,
    /// Every wait of a shutdown ends then, on the driver's clock.
    shutdown_end: Cell<u64>,
    granted: Cell<u16>,
    /// Namespaces of this bring-up that found no place.
    beyond: Cell<u32>,
    /// Why the namespace that is asked for next cannot be used, whatever it will say.
    barred: Cell<Option<Refusal>>,
    /// Register accesses of this bring-up that were not answered.
    hiccups: Cell<u8>,
    shutdown_limit_ns: Cell<u64>,
    mdts: Cell<u8>,
}

impl Life {
    pub(crate) fn new(probes: &Probes) -> Self {
        Self {
            phase: Cell::new(Phase::Start),
            phase_now: probes.registers().add(probes::PHASE_NOW),
            resets_now: probes.registers().add(probes::RESETS),
            until: Cell::new(0),
            limit_ns: Cell::new(0),
            answer: Cell::new(None),
            tries: Cell::new(0),
            again_at: Cell::new(None),
            reason: Cell::new(ResetReason::Requested),
            attempts: Cell::new(0),
            rest_until: Cell::new(0),
            failures: Count::new(),
            error: Cell::new(None),
            was_ready: Cell::new(false),
            shutdown: Cell::new(false),
            shutdown_end: Cell::new(u64::MAX),
            granted: Cell::new(0),
            beyond: Cell::new(0),
            barred: Cell::new(None),
            hiccups: Cell::new(0),
            shutdown_limit_ns: Cell::new(0),
            mdts: Cell::new(0),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn error(&self) -> Option<ControllerError> {
        self.error.get()
    }

    pub(crate) fn was_ready(&self) -> bool {
        self.was_ready.get()
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures.get()
    }

    pub(crate) fn mdts(&self) -> u8 {
        self.mdts.get()
    }

    pub(crate) fn beyond(&self) -> u32 {
        self.beyond.get()
    }

    /// Counts a register access that was not answered.
    fn may_hiccup(&self) -> bool {
        let so_far = self.hiccups.get();
        self.hiccups.set(so_far.saturating_add(1));
        so_far < MAX_HICCUPS
    }

    /// A shutdown is wanted, and is to be over by `end`.
    pub(crate) fn want_shutdown(&self, end: u64) {
        if !self.shutdown.replace(true) {
            self.shutdown_end.set(end);
        }
    }

    pub(crate) fn answer(&self, result: Result<u32, Status>) {
        self.answer.set(Some(result));
    }
}

/// Whether a status says that the controller does not know the command, or not in this form.
pub(crate) fn is_unknown(status: Status) -> bool {
    matches!(status.code(), StatusCode::INVALID_FIELD | StatusCode::INVALID_OPCODE)
}

/// Bring-up failed for this reason.
type Outcome = Result<(), ControllerError>;

impl Controller {
    /// Moves the machine; returns how long it may be left alone.
    pub(crate) fn step(&'static self) -> u64 {
        let phase = self.life.phase();
        let outcome = match phase {
            Phase::Start => self.start(),
            Phase::AwaitReady => self.await_ready(),
            Phase::Disabling => self.disabling(),
            Phase::Settling => self.settling(),
            Phase::Resting => self.resting(),
            Phase::Enabling => self.enabling(),
            Phase::Admin(ask) => self.admin_step(ask),
            Phase::Ready => {
                self.ready_step();
                Ok(())
            }
            Phase::QueueReset(queue, ask) => {
                self.queue_reset_step(queue, ask);
                Ok(())
            }
            Phase::Draining => {
                self.draining();
                Ok(())
            }
            Phase::Deleting(ask) => {
                self.deleting(ask);
                Ok(())
            }
            Phase::ShutdownWait => {
                self.shutdown_wait();
                Ok(())
            }
            Phase::FinalDisable => {
                self.final_disable();
                Ok(())
            }
            Phase::Off | Phase::Dead => Ok(()),
        };
        match outcome {
            Ok(()) => {}
            Err(ControllerError::Regs(RegsError::TimedOut)) if self.life.may_hiccup() => {
                // Once more; before EN is set from the start, as nobody knows what was written.
                if !matches!(phase, Phase::Enabling | Phase::Admin(_)) {
                    self.enter(Phase::Start);
                }
            }
            Err(error) => self.attempt_failed(error),
        }
        if self.life.phase() != phase {
            // Whatever comes next starts without waiting for the next period.
            self.urgent.set(!matches!(self.life.phase(), Phase::Off | Phase::Dead));
        }
        match self.life.phase() {
            Phase::Ready => READY_NS.min(self.config.health_ns),
            Phase::Off | Phase::Dead => IDLE_NS,
            _ => POLL_NS,
        }
    }

    fn enter(&self, phase: Phase) {
        self.life.phase.set(phase);
        self.life.phase_now.set(phase.number().into());
        probes::PHASE.emit(self.probes, phase.number(), 0, 0);
        if let Phase::QueueReset(queue, Ask::DeleteSq(_)) = phase {
            probes::QUEUE_RESET.emit(self.probes, u32::from(queue) + 1, 0, 0);
        }
    }

    /// Enters a phase that may last `limit_ns`.
    fn enter_for(&self, phase: Phase, limit_ns: u64) {
        self.life.until.set(self.time_in(limit_ns));
        self.life.limit_ns.set(limit_ns);
        self.enter(phase);
    }

    fn is_over(&self) -> bool {
        self.time() >= self.life.until.get().min(self.life.shutdown_end.get())
    }

    fn timed_out(&self, step: Step) -> ControllerError {
        ControllerError::TimedOut { step, limit_ms: self.life.limit_ns.get() / 1_000_000 }
    }

    // ---- down ------------------------------------------------------------------------------

    /// Takes the controller away from everybody and starts over.
    pub(crate) fn begin_reset(&self, reason: ResetReason) {
        self.watch.resets.add(1);
        let resets = self.watch.resets.get();
        self.life.resets_now.set(resets);
        probes::RESET.emit(self.probes, reason.number(), resets, 0);
        self.life.reason.set(reason);
        self.life.error.set(None);
        self.close_all();
        self.enter(Phase::Start);
        self.urgent.set(true);
    }

    /// From here on nothing touches queue memory or doorbells.
    fn close_all(&self) {
        if self.hub.gate.get() == Gate::Open {
            self.hub.gate.set(Gate::Paused);
        }
        self.close_io();
        self.admin.qp().close();
    }

    /// The same for the I/O queues alone.
    fn close_io(&self) {
        for queue in &self.hub.queues {
            queue.qp().close();
        }
    }

    /// An attempt to bring the controller up failed.
    fn attempt_failed(&'static self, error: ControllerError) {
        self.life.failures.add(1);
        self.life.error.set(Some(error));
        self.close_all();
        let attempts = self.life.attempts.get().saturating_add(1);
        self.life.attempts.set(attempts);
        let hopeless = self.regs.is_gone() || matches!(error, ControllerError::Regs(_));
        if hopeless || attempts >= self.config.bringup_attempts || self.life.shutdown.get() {
            self.die(error);
        } else {
            self.life.rest_until.set(self.time_in(ATTEMPT_REST_NS));
            self.enter(Phase::Start);
        }
    }

    /// The end: nobody confirmed that the device lets go, so what it had stays quarantined.
    fn die(&'static self, error: ControllerError) {
        self.life.error.set(Some(error));
        if !self.regs.is_gone() {
            // Best effort: stop it.
            let _ = self.regs.write(self.plan.cc);
        }
        self.hub.end(Gate::Gone);
        self.fence_all(Mode::Lost);
        self.enter(Phase::Dead);
        self.state_changed();
    }

    /// The device has let go of everything (or never will tell): ends what was in flight.
    fn fence_all(&'static self, mode: Mode) {
        for (i, queue) in (0_u16..).zip(&self.hub.queues) {
            queue.qp().fence(mode);
            self.hub.drain(i, queue);
        }
        self.admin.qp().fence(mode);
        self.admin.drain(&mut AdminSide(self));
        self.events.lost();
    }

    fn start(&self) -> Outcome {
        let (cap, _) = self.regs.identity()?;
        let csts: Csts = self.regs.read()?;
        let cc: Cc = self.regs.read()?;
        let crto = match cap.crwms() {
            true => Some(self.regs.read::<Crto>()?),
            false => None,
        };
        let limit = bringup::ready_limit_ns(cap, crto, &self.config);
        let waited = ControllerError::TimedOut { step: Step::Enable, limit_ms: limit / 1_000_000 };
        let on_its_way = cc.en() && !csts.rdy() && !csts.cfs();
        if on_its_way && self.life.error() != Some(waited) {
            // It is on its way up; NVMe Base 2.0, section 3.5.1: let it arrive before it is
            // stopped.
            self.enter_for(Phase::AwaitReady, limit);
            return Ok(());
        }
        if cc.en() {
            self.regs.write(cc.with_en(false).with_shn(Shn::None))?;
        }
        self.enter_disabling(limit);
        Ok(())
    }

    fn enter_disabling(&self, limit_ns: u64) {
        if self.quirks.contains(Quirks::DELAY_BEFORE_RDY) {
            self.life.until.set(self.time_in(CHECK_DELAY_NS));
            self.life.limit_ns.set(limit_ns);
            self.enter(Phase::Settling);
        } else {
            self.enter_for(Phase::Disabling, limit_ns);
        }
    }

    fn await_ready(&self) -> Outcome {
        let csts: Csts = self.regs.read()?;
        if csts.rdy() || csts.cfs() || self.is_over() {
            let cc: Cc = self.regs.read()?;
            self.regs.write(cc.with_en(false).with_shn(Shn::None))?;
            self.enter_disabling(self.life.limit_ns.get());
        }
        Ok(())
    }

    fn settling(&self) -> Outcome {
        if self.is_over() {
            self.enter_for(Phase::Disabling, self.life.limit_ns.get());
        }
        Ok(())
    }

    fn disabling(&'static self) -> Outcome {
        let csts: Csts = self.regs.read()?;
        if csts.rdy() {
            return match self.is_over() {
                true => Err(self.timed_out(Step::Disable)),
                false => Ok(()),
            };
        }
        // All zeros is what a removed device may read like, and it has let go of nothing.
        self.regs.identity()?;
        // RDY = 0: the device has let go of all memory.
        self.fence_all(Mode::Fenced(self.life.reason.get()));
        if self.life.shutdown.get() {
            self.finish_shutdown();
            return Ok(());
        }
        if self.time() < self.life.rest_until.get() {
            self.enter(Phase::Resting);
            return Ok(());
        }
        self.enable()
    }

    fn resting(&'static self) -> Outcome {
        if self.life.shutdown.get() {
            self.finish_shutdown();
        } else if self.time() >= self.life.rest_until.get() {
            return self.enable();
        }
        Ok(())
    }

    // ---- up --------------------------------------------------------------------------------

    fn enable(&self) -> Outcome {
        let admin = self.admin.qp();
        // A reset makes the controller forget them.
        self.use_shadows(false);
        admin.clear();
        let (sq, cq) = admin.iovas();
        self.regs.write(Aqa::of(ADMIN_ENTRIES))?;
        self.regs.write64(Asq(sq.0))?;
        self.regs.write64(Acq(cq.0))?;
        self.regs.write(self.plan.cc)?;
        self.regs.write(self.plan.cc.with_en(true))?;
        self.enter_for(Phase::Enabling, self.life.limit_ns.get());
        Ok(())
    }

    fn enabling(&self) -> Outcome {
        let csts: Csts = self.regs.read()?;
        if csts.cfs() {
            return Err(ControllerError::FatalStatus(Step::Enable));
        }
        if !csts.rdy() {
            return match self.is_over() {
                true => Err(self.timed_out(Step::Enable)),
                false => Ok(()),
            };
        }
        self.admin.qp().open_when_drained();
        self.restart_admin_watch();
        self.forget_seen();
        self.ask(Ask::Controller);
        Ok(())
    }

    /// Sends the admin command of a step and waits for it.
    fn ask(&self, ask: Ask) {
        self.life.tries.set(0);
        self.ask_again(ask);
    }

    fn ask_again(&self, ask: Ask) {
        self.send(ask);
        self.enter_for(Phase::Admin(ask), self.config.admin_deadline_ns);
    }

    /// Whether a step whose command failed is to be tried again, after the delay that was asked
    /// for: NVMe Base 2.0, figure 92 (CRD, DNR). A command that is not known stays so.
    fn wants_again(&self, status: Status) -> bool {
        let tries = self.life.tries.get();
        if status.dnr() || is_unknown(status) || tries >= self.config.retries {
            return false;
        }
        self.life.tries.set(tries + 1);
        self.life.again_at.set(Some(self.time_in(self.retry_delay_ns(status.crd()))));
        true
    }

    fn send(&self, ask: Ask) {
        self.life.answer.set(None);
        self.life.again_at.set(None);
        // No room cannot be: one command at a time, and a ring of 32. The deadline covers it.
        self.post_admin(AdminToken::Step, self.command(ask));
        self.admin.qp().ring();
    }

    fn command(&self, ask: Ask) -> Sqe {
        const CID: Cid = Cid(0);
        let data = self.scratch.iova().0;
        let queue = |i: u16| self.hub.queues.get(usize::from(i)).map(|q| q.qp());
        match ask {
            Ask::Controller => Sqe::identify(CID, Cns::CONTROLLER, Nsid::NONE, data, 0),
            Ask::QueueCount => {
                let wanted = NumberOfQueues::pairs(self.made_queues());
                let feature = FeatureId::NUMBER_OF_QUEUES;
                Sqe::set_feature(CID, Nsid::NONE, feature, wanted.into())
            }
            Ask::List(after) => Sqe::identify(CID, Cns::ACTIVE_NSIDS, Nsid(after), data, 0),
            Ask::CommandSet(nsid) => Sqe::identify(CID, Cns::NS_DESCRIPTORS, Nsid(nsid), data, 0),
            Ask::Namespace(nsid) | Ask::Scan(nsid) => {
                Sqe::identify(CID, Cns::NAMESPACE, Nsid(nsid), data, 0)
            }
            Ask::EventConfig => {
                let wanted = self.wanted_events();
                Sqe::set_feature(CID, Nsid::NONE, FeatureId::ASYNC_EVENT_CONFIG, wanted.into())
            }
            Ask::ShadowDoorbells => {
                let (shadow, event) = self.shadows.map_or((Iova(0), Iova(0)), |s| s.iovas());
                Sqe::admin(AdminOpcode::DOORBELL_BUFFER_CONFIG, CID, Nsid::NONE)
                    .with_prps(shadow.0, event.0)
            }
            Ask::CreateCq(i) => queue(i).map_or(Sqe::default(), |qp| {
                let spec = CreateCq {
                    qid: qp.qid(),
                    size_z: qp.size_z(),
                    contiguous: true,
                    interrupts: false,
                    vector: 0,
                };
                Sqe::create_cq(CID, qp.iovas().1.0, spec)
            }),
            Ask::CreateSq(i) => queue(i).map_or(Sqe::default(), |qp| {
                let spec = CreateSq {
                    qid: qp.qid(),
                    size_z: qp.size_z(),
                    contiguous: true,
                    priority: 0,
                    cqid: qp.qid(),
                };
                Sqe::create_sq(CID, qp.iovas().0.0, spec)
            }),
            Ask::DeleteSq(i) => queue(i).map_or(Sqe::default(), |qp| Sqe::delete_sq(CID, qp.qid())),
            Ask::DeleteCq(i) => queue(i).map_or(Sqe::default(), |qp| Sqe::delete_cq(CID, qp.qid())),
        }
    }

    /// Queues that we have memory and doorbells for.
    fn made_queues(&self) -> u16 {
        u16::try_from(self.hub.queues.len()).unwrap_or(1)
    }

    fn wanted_events(&self) -> AsyncEventConfig {
        let offered = OptionalAsyncEvents::from_bits_retain(self.identify().oaes.get());
        AsyncEventConfig::new()
            .with_critical_warnings(0x1f)
            .with_namespace_attributes(offered.contains(OptionalAsyncEvents::NAMESPACE_ATTRIBUTE))
            .with_firmware_activation(offered.contains(OptionalAsyncEvents::FIRMWARE_ACTIVATION))
    }

    fn admin_step(&'static self, ask: Ask) -> Outcome {
        let Some(answer) = self.life.answer.take() else {
            let csts: Csts = self.regs.read()?;
            if csts.cfs() || !csts.rdy() {
                return Err(ControllerError::FatalStatus(ask.step()));
            }
            if let Some(at) = self.life.again_at.get()
                && self.time() < self.life.shutdown_end.get()
            {
                // Nothing is in flight: the wait is bounded by the longest delay.
                if self.time() >= at {
                    self.ask_again(ask);
                }
                return Ok(());
            }
            return match self.is_over() {
                true => Err(self.timed_out(ask.step())),
                false => Ok(()),
            };
        };
        if let Err(status) = answer
            && self.wants_again(status)
        {
            return Ok(());
        }
        let refused = |status| ControllerError::Refused { step: ask.step(), status };
        match (ask, answer) {
            (Ask::Controller, answer) => {
                answer.map_err(refused)?;
                self.take_identify()?;
                self.ask(Ask::QueueCount);
            }
            (Ask::QueueCount, answer) => {
                let grant = QueueGrant(answer.map_err(refused)?);
                let wanted = u32::from(self.made_queues());
                let granted = u16::try_from(grant.pairs().min(wanted)).unwrap_or(1);
                self.life.granted.set(granted.max(1));
                self.ask(self.first_namespace());
            }
            (Ask::List(after), Ok(_)) => self.take_list(after)?,
            // NVMe 1.0, and some later ones: no list.
            (Ask::List(0), Err(status)) if is_unknown(status) => self.scan_from(1),
            (Ask::List(_), Err(status)) => return Err(refused(status)),
            (Ask::CommandSet(nsid), answer) => self.take_command_set(nsid, answer.err())?,
            (Ask::Namespace(nsid), answer) => {
                self.take_namespace(nsid, answer.err(), self.life.barred.take())?;
                self.list_after(nsid);
            }
            (Ask::Scan(nsid), answer) => {
                self.take_scanned(nsid, answer.err())?;
            }
            // Not every controller takes it, and nothing depends on it.
            (Ask::EventConfig, _) => self.offer_shadows(),
            (Ask::ShadowDoorbells, answer) => {
                self.use_shadows(answer.is_ok());
                self.create_from(0);
            }
            (Ask::CreateCq(i), Ok(_)) => self.ask(Ask::CreateSq(i)),
            (Ask::CreateSq(i), Ok(_)) => self.create_from(i + 1),
            // The first queue is needed; with fewer than were granted we can live.
            (Ask::CreateCq(0) | Ask::CreateSq(0), Err(status)) => return Err(refused(status)),
            (Ask::CreateCq(i), Err(_)) => self.go_live(i),
            (Ask::CreateSq(i), Err(_)) => self.ask(Ask::DeleteCq(i)),
            (Ask::DeleteCq(i) | Ask::DeleteSq(i), answer) => {
                answer.map_err(refused)?;
                self.go_live(i);
            }
        }
        Ok(())
    }
}
