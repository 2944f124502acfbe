//! Clocks that go back, registers that answer late, limits of the admin queue, forms that do not
//! wait.

use std::cell::Cell;
use std::rc::Rc;

use core_runtime::clock::{Clock, Instant, ManualClock};
use hybrid_conformance::{Backend, Flag, Rig, Stepped, quick};
use nvme_driver::{
    ControlRegs, ControllerConfig, ControllerError, ControllerParts, ControllerState, DeviceParts,
    IoError, Lba, RegsError, ResetReason, WriteFlags,
};
use nvme_model::{
    AbortPolicy, ControllerFault, FaultAction, FaultPlan, FaultRule, LatencyModel, ModelConfig,
    NamespaceConfig, OnQueue, Patch, When,
};
use nvme_spec::{
    AdminOpcode, AsyncEvent, DsmAttributes, DsmRange, LogPageId, Nsid, NvmOpcode, QueueId,
    StatusCode,
};

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;

fn model() -> ModelConfig {
    ModelConfig {
        namespaces: vec![NamespaceConfig::memory(1, 4096).lba_bytes(512)],
        not_ready_delay_ns: 2 * MS,
        ready_delay_ns: 2 * MS,
        paranoid: true,
        ..ModelConfig::default()
    }
}

fn config() -> ControllerConfig {
    ControllerConfig { queue_depth: 9, ..ControllerConfig::default() }
}

fn with_rules(rules: impl IntoIterator<Item = FaultRule>) -> ModelConfig {
    let faults = rules.into_iter().fold(FaultPlan::none(), FaultPlan::with);
    ModelConfig { faults, ..model() }
}

fn status(code: StatusCode) -> FaultAction {
    FaultAction::Status(code.status())
}

// ---- a backend whose host clock and registers misbehave -------------------------------------

/// The stepped backend, behind a clock and registers that can be spoilt.
struct Spoilt {
    inner: Stepped,
    regs: &'static LateRegs,
    clock: &'static ManualClock,
    /// Added to the inner clock, modulo 2^64.
    offset: Cell<u64>,
    stopped: Cell<Option<u64>>,
}

struct LateRegs {
    inner: &'static dyn ControlRegs,
    /// Accesses that are not answered; and the offset that they are at, if it matters.
    late: Rc<Cell<u32>>,
    at: Cell<Option<u32>>,
}

impl LateRegs {
    fn answer<T>(
        &self,
        offset: u32,
        f: impl FnOnce() -> Result<T, RegsError>,
    ) -> Result<T, RegsError> {
        if self.late.get() != 0 && self.at.get().is_none_or(|at| at == offset) {
            self.late.set(self.late.get() - 1);
            return Err(RegsError::TimedOut);
        }
        f()
    }
}

impl ControlRegs for LateRegs {
    fn read32(&self, offset: u32) -> Result<u32, RegsError> {
        self.answer(offset, || self.inner.read32(offset))
    }

    fn read64(&self, offset: u32) -> Result<u64, RegsError> {
        self.answer(offset, || self.inner.read64(offset))
    }

    fn write32(&self, offset: u32, value: u32) -> Result<(), RegsError> {
        self.answer(offset, || self.inner.write32(offset, value))
    }

    fn write64(&self, offset: u32, value: u64) -> Result<(), RegsError> {
        self.answer(offset, || self.inner.write64(offset, value))
    }
}

impl Spoilt {
    fn new(model: ModelConfig) -> Self {
        let inner = Stepped::new(model, 16 << 20);
        let regs = inner.parts().controller().expect("a controller").regs;
        let late = Rc::new(Cell::new(0));
        let regs = Box::leak(Box::new(LateRegs { inner: regs, late, at: Cell::new(None) }));
        let clock = Box::leak(Box::new(ManualClock::new(0)));
        Self { inner, regs, clock, offset: Cell::new(0), stopped: Cell::new(None) }
    }

    fn late(&self, accesses: u32, at: Option<u32>) {
        self.regs.late.set(accesses);
        self.regs.at.set(at);
    }
}

impl Backend for Spoilt {
    fn parts(&self) -> DeviceParts {
        let parts = self.inner.parts().controller().expect("a controller");
        let clock = Clock::manual(self.clock);
        ControllerParts { regs: self.regs, clock, ..parts }.into()
    }

    fn pass(&self, idle: bool) {
        self.inner.pass(idle);
    }

    fn now(&self) -> Instant {
        let ticks = self.inner.now().ticks().wrapping_add(self.offset.get());
        Instant::from_ticks(self.stopped.get().unwrap_or(ticks))
    }

    fn complaints(&self) -> Vec<String> {
        self.inner.complaints()
    }
}

fn spoilt(model: ModelConfig) -> Rig<Spoilt> {
    let backend = Spoilt::new(model);
    // An hour after its zero, so that it can go back.
    backend.offset.set(3600 * S);
    let rig = Rig::new(backend, config()).expect("a controller");
    rig.bring_up().expect("ready");
    rig
}

#[test]
fn a_clock_that_goes_back_stops_neither_deadlines_nor_retries() {
    let busy = StatusCode::NAMESPACE_NOT_READY.status().with_crd(2);
    let mut m = with_rules([
        FaultRule::io(NvmOpcode::READ, FaultAction::Drop).when(When::Nth(1)),
        FaultRule::io(NvmOpcode::READ, FaultAction::Status(busy)).when(When::Nth(1)),
    ]);
    m.abort = AbortPolicy::Refuse;
    let rig = spoilt(m);
    let lost = rig.ns().read(Lba(0), rig.filled(512, 1));
    let retried = rig.ns().read(Lba(1), rig.filled(512, 1));
    (0..20).for_each(|_| {
        rig.pass();
    });
    rig.backend.offset.set(0);
    let start = rig.backend.inner.now();
    drop(rig.run(retried).expect("at the second try"));
    let took = rig.backend.inner.now().since(start).get();
    assert!(took < 2 * S, "{took} ns");
    let failed = rig.run(lost).expect_err("lost");
    assert_eq!(failed.error, IoError::Reset(ResetReason::Stuck { queue: QueueId(1) }));
    let took = rig.backend.inner.now().since(start).get();
    assert!((4 * S..9 * S).contains(&took), "{took} ns");
    drop(failed);
    rig.finish();
}

#[test]
fn a_clock_that_stops_stops_no_io_and_fails_nothing_when_it_goes_on() {
    let rig = spoilt(model());
    rig.backend.stopped.set(Some(rig.backend.now().ticks()));
    for lba in 0..200 {
        drop(rig.run(rig.ns().read(Lba(lba), rig.filled(512, 1))).expect("goes on"));
    }
    rig.backend.stopped.set(None);
    for lba in 0..200 {
        drop(rig.run(rig.ns().read(Lba(lba), rig.filled(512, 1))).expect("goes on"));
    }
    let stats = rig.controller.stats();
    assert_eq!((stats.deadlines, stats.resets), (0, 0));
    rig.finish();
}

#[test]
fn a_grace_longer_than_an_epoch_is_not_cut_to_whole_ones() {
    let mut m = with_rules([FaultRule::on(OnQueue::Io, FaultAction::Drop).when(When::Nth(1))]);
    m.abort = AbortPolicy::Refuse;
    // Epochs of 625 ms: the grace is 1.92 of them.
    let rig = quick(m, ControllerConfig { abort_grace_ns: 1_200 * MS, ..config() });
    let read = rig.ns().read(Lba(0), rig.filled(512, 1));
    rig.until(|c| c.stats().aborts == 1);
    let aborted = rig.backend.now();
    rig.until(|c| c.stats().queue_resets == 1);
    let grace = rig.backend.now().since(aborted).get();
    assert!(grace >= 1_200 * MS, "{grace} ns");
    assert!(rig.run(read).is_err());
    rig.finish();
}

// ---- registers that answer late ------------------------------------------------------------

#[test]
fn an_access_that_is_not_answered_once_or_twice_is_repeated() {
    for late in [1, 2] {
        let backend = Spoilt::new(model());
        let rig = Rig::new(backend, config()).expect("a controller");
        rig.backend.late(late, None);
        rig.bring_up().expect("ready");
        rig.backend.late(late, Some(0x14));
        rig.controller.request_reset();
        rig.until(|c| c.stats().resets == 1 && c.state() == ControllerState::Ready);
        let read = rig.run(rig.ns().read(Lba(0), rig.filled(512, 1)));
        drop(read.expect("ready again"));
        rig.backend.late(late, Some(0x14));
        rig.finish();
        assert_eq!(rig.backend.regs.late.get(), 0, "it was asked");
        assert_eq!(rig.controller.stats().bringup_failures, 0);
    }
}

#[test]
fn three_accesses_in_a_row_that_are_not_answered_are_a_device_that_is_gone() {
    let rig = Rig::new(Spoilt::new(model()), config()).expect("a controller");
    rig.backend.late(3, None);
    assert_eq!(rig.bring_up(), Err(ControllerError::Regs(RegsError::Gone)));
}

#[test]
fn looks_that_nobody_answers_for_half_a_minute_are_a_device_that_is_gone() {
    let rig = spoilt(model());
    rig.backend.late(u32::MAX, None);
    let start = rig.backend.inner.now();
    rig.wait_ns(10 * S);
    assert_eq!(rig.controller.state(), ControllerState::Ready, "a server that is stopped");
    rig.until(|c| matches!(c.state(), ControllerState::Failed(_)));
    let took = rig.backend.inner.now().since(start).get();
    assert!((29 * S..32 * S).contains(&took), "{took} ns");
}

// ---- the admin queue -----------------------------------------------------------------------

#[test]
fn log_pages_longer_than_a_transfer_are_read_in_parts_or_refused_by_name() {
    for offsets in [true, false] {
        let mut m = model();
        // Two pages of 4 KiB.
        m.mdts = 1;
        m.error_log_entries = 256;
        let lpa = if offsets { 0x04 } else { 0x00 };
        m.identify_patches = vec![Patch { offset: 261, bytes: vec![lpa] }];
        let rig = quick(m, config());
        let log = rig.controller.error_log(rig.filled(16 << 10, 0xEE));
        let read = rig.run(log);
        if offsets {
            let log = read.expect("in two parts");
            assert!(log.iter().all(|byte| *byte == 0), "an error log without entries");
            assert_eq!(rig.controller.stats().admin.failed, 0);
        } else {
            let failed = read.expect_err("no offsets");
            assert!(matches!(failed.error, IoError::Unsupported(_)), "{failed}");
            assert!(failed.buf.is_some());
        }
        rig.finish();
    }
}

#[test]
fn event_requests_and_users_leave_room_for_an_abort() {
    let mut m = with_rules([
        FaultRule::io(NvmOpcode::READ, FaultAction::DelayNs(600 * S)),
        FaultRule::admin(AdminOpcode::GET_LOG_PAGE, FaultAction::DelayNs(6 * S)),
    ]);
    m.async_event_limit = 256;
    let many = ControllerConfig { async_events: 255, admin_deadline_ns: 60 * S, ..config() };
    let rig = quick(m, many);
    let read = rig.ns().read(Lba(0), rig.filled(512, 1));
    rig.wait_ns(20 * MS);
    let (_, waker) = Flag::raised();
    let mut logs: Vec<_> = (0..40)
        .map(|_| {
            let buf = rig.filled(512, 0);
            Box::pin(rig.controller.get_log_page(LogPageId::SMART, Nsid::ALL, buf))
        })
        .collect();
    for log in &mut logs {
        let polled = log.as_mut().poll(&mut std::task::Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
    let failed = rig.run(read).expect_err("too late");
    assert_eq!(failed.error, IoError::TimedOut, "the abort found room");
    drop((failed, logs));
    assert_eq!(rig.controller.stats().resets, 0);
    rig.run(rig.controller.shutdown()).expect("off");
}

#[test]
fn an_event_that_asks_for_a_reset_is_served_by_the_reset_that_comes_first() {
    let rig = quick(model(), config());
    rig.wait_ns(10 * MS);
    rig.backend
        .with_model(|m| m.inject(ControllerFault::Event(AsyncEvent::INVALID_DOORBELL_VALUE)));
    rig.pass();
    // The event and the request are seen in the same pass.
    rig.controller.request_reset();
    rig.pass();
    let stats = rig.controller.stats();
    assert_eq!((stats.events, stats.resets), (1, 1));
    rig.until(|c| c.state() == ControllerState::Ready);
    rig.wait_ns(100 * MS);
    assert_eq!(rig.controller.stats().resets, 1);
    rig.finish();
}

#[test]
fn a_log_page_that_could_not_be_read_is_read_again() {
    for (failures, read) in [(1, true), (3, true), (4, false)] {
        let fault = status(StatusCode::INTERNAL_ERROR);
        let rule = FaultRule::admin(AdminOpcode::GET_LOG_PAGE, fault).when(When::First(failures));
        let rig = quick(with_rules([rule]), config());
        rig.wait_ns(10 * MS);
        rig.backend.with_model(|m| m.set_critical_warning(1));
        rig.wait_ns(100 * MS);
        assert_eq!(rig.controller.critical_warning() == 1, read, "{failures} failures");
        rig.finish();
    }
}

#[test]
fn an_event_request_that_fails_once_is_sent_again() {
    let request = AdminOpcode::ASYNC_EVENT_REQUEST;
    let busy = FaultRule::admin(request, status(StatusCode::INTERNAL_ERROR));
    let rig = quick(with_rules([busy.when(When::First(9))]), config());
    rig.wait_ns(2 * S);
    rig.backend.with_model(|m| m.set_critical_warning(1));
    rig.until(|c| c.critical_warning() == 1);
    rig.finish();
    // One that is told that there are too many, or that never may, asks for fewer.
    let many = FaultAction::Status(StatusCode::AER_LIMIT_EXCEEDED.status());
    let rig = quick(with_rules([FaultRule::admin(request, many)]), config());
    rig.wait_ns(S);
    let sent = rig.controller.stats().admin.submitted;
    rig.wait_ns(5 * S);
    assert_eq!(rig.controller.stats().admin.submitted, sent);
    rig.finish();
}

// ---- commands ------------------------------------------------------------------------------

#[test]
fn a_write_fault_is_told_at_once_whatever_dnr_says() {
    for code in [StatusCode::WRITE_FAULT, StatusCode::CAPACITY_EXCEEDED] {
        let rig = quick(with_rules([FaultRule::io(NvmOpcode::WRITE, status(code))]), config());
        let write = rig.ns().write(Lba(0), rig.filled(512, 1), WriteFlags::empty());
        let failed = rig.run(write).expect_err("it fails");
        assert_eq!(failed.error.status_code(), Some(code));
        assert_eq!(rig.controller.stats().io.retries, 0);
        drop(failed);
        rig.finish();
    }
}

#[test]
fn forms_that_do_not_wait_say_that_the_queue_is_full() {
    let mut m = model();
    m.latency = LatencyModel::FixedNs(MS);
    let rig = quick(m, config());
    let ns = rig.ns();
    let range = DsmRange { attributes: 0, blocks: 8, slba: 0 };
    let dealloc = DsmAttributes::DEALLOCATE;
    let started = (
        ns.try_flush().expect("room"),
        ns.try_write_zeroes(Lba(0), 8, WriteFlags::empty()).expect("room"),
        ns.try_dsm(&[range], dealloc).expect("room"),
        ns.try_compare(Lba(100), rig.filled(512, 0)).expect("room"),
    );
    let others: Vec<_> = (0..5).map(|i| ns.read(Lba(i), rig.filled(512, 1))).collect();
    let full = Some(IoError::QueueFull);
    assert_eq!(ns.try_flush().err(), full);
    assert_eq!(ns.try_write_zeroes(Lba(0), 8, WriteFlags::empty()).err(), full);
    assert_eq!(ns.try_dsm(&[range], dealloc).err(), full);
    let failed = ns.try_compare(Lba(100), rig.filled(512, 0)).expect_err("full");
    assert_eq!((Some(failed.error), failed.buf.is_some()), (full, true));
    drop(failed);
    rig.run(started.0).expect("flushed");
    rig.run(started.1).expect("zeroed");
    rig.run(started.2).expect("deallocated");
    drop(rig.run(started.3).expect("equal"));
    for read in others {
        drop(rig.run(read).expect("whole"));
    }
    rig.finish();
}

#[test]
fn a_large_read_that_found_little_room_fills_the_queue_once_it_is_idle() {
    let mut m = model();
    m.mdts = 1;
    m.latency = LatencyModel::FixedNs(MS);
    let rig = quick(m, config());
    // Eight of nine slots, so that the large one starts with a single command of 64.
    let small: Vec<_> = (0..8).map(|i| rig.ns().read(Lba(i), rig.filled(512, 1))).collect();
    let large = rig.ns().read(Lba(0), rig.filled(512 << 10, 1));
    let start = rig.backend.now();
    drop(rig.run(large).expect("whole"));
    // 64 rounds one by one; 8 with all of the queue.
    let took = rig.backend.now().since(start).get();
    assert!(took < 20 * MS, "{took} ns");
    for read in small {
        drop(rig.run(read).expect("whole"));
    }
    rig.finish();
}

#[test]
fn times_beyond_all_time_never_end_and_do_not_overflow() {
    let endless = ControllerConfig {
        deadline_ns: u64::MAX,
        admin_deadline_ns: u64::MAX,
        abort_grace_ns: u64::MAX,
        drain_ns: u64::MAX,
        ready_floor_ns: u64::MAX,
        shutdown_floor_ns: u64::MAX,
        ..config()
    };
    let rig = quick(model(), endless);
    drop(rig.run(rig.ns().read(Lba(0), rig.filled(512, 1))).expect("whole"));
    rig.wait_ns(S);
    rig.finish();
}
