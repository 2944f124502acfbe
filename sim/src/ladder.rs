//! The recovery ladder's worst cases, measured on the virtual clock and held against
//! `docs/recovery.md`: a controller that does the worst at every point, the defaults of
//! [`ControllerConfig`], the real driver.
//!
//! The column *measured* of the table is in seconds, as it stands here to a hundredth; a driver
//! that takes longer, or shorter, fails until the table says so. Nothing may take longer than the
//! column before it says.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use core_runtime::clock::{Clock, Instant, ManualClock};
use core_runtime::mem::{Bump, DmaArena, DmaBuf, Iova};
use core_runtime::partition::PartitionConfig;
use core_runtime::task::{Scheduler, SchedulerConfig, TaskOptions};
use hybrid_policy::policy::{Action, Ending, Limits, Phase, Policy, Seen};
use hybrid_policy::restart::{BackOff, CrashLimit, RestartPolicy, Restarts};
use nvme_driver::{
    BlockDevice, Controller, ControllerConfig, ControllerParts, ControllerState, Failed, IoError,
    Lba, ReadAgain,
};
use nvme_model::{
    AbortPolicy, ControllerFault, CqeFault, FaultAction, FaultPlan, FaultRule, LatencyModel, Model,
    ModelConfig, NamespaceConfig, OnQueue, When,
};
use nvme_spec::{Nsid, StatusCode};

use crate::device::Regs;

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;

/// How finely time goes on: what a measurement may be too long by.
const STEP_NS: u64 = MS;

/// What a change of RDY may take at most (CAP.TO of 255 is beyond it), and what this controller
/// takes.
const SLOW_RDY_NS: u64 = 29_900 * MS;

/// An admin command that is just not too old.
const SLOW_ADMIN_NS: u64 = 1_700 * MS;

struct Rig {
    clock: &'static ManualClock,
    regs: &'static Regs,
    controller: &'static Controller,
    scheduler: &'static Scheduler,
    arena: &'static DmaArena,
    reads: Rc<RefCell<Vec<Option<IoError>>>>,
}

/// A step of the table, and what takes its longest.
type Measure = (&'static str, fn() -> u64);

/// A controller that takes as long as it may for everything that bring-up waits for.
fn slow(config: ModelConfig) -> ModelConfig {
    ModelConfig { not_ready_delay_ns: SLOW_RDY_NS, ready_delay_ns: SLOW_RDY_NS, ..config }
}

fn admin_takes(ns: u64) -> FaultRule {
    // Event requests wait for ever anyway.
    FaultRule::on(OnQueue::Admin, FaultAction::DelayNs(ns))
}

impl Rig {
    fn new() -> Self {
        let config = ModelConfig {
            namespaces: vec![NamespaceConfig::memory(1, 64).lba_bytes(512)],
            timeout_500ms: 255,
            max_io_queues: 1,
            max_queue_entries: 8,
            retry_delays_100ms: [50, 50, 50],
            shutdown_limit_us: 60_000_000,
            ..ModelConfig::default()
        };
        let model = Model::new(config).expect("a model");
        let doorbells = model.doorbells();
        let regs: &'static Regs = Box::leak(Box::new(Regs::new(model)));
        let clock: &'static ManualClock = Box::leak(Box::new(ManualClock::new(S)));
        let arena = DmaArena::leak(1 << 20, Iova(1 << 32)).expect("an arena");
        regs.model.borrow_mut().as_mut().expect("one").map_dma(arena.region()).expect("room");
        let bump = Bump::leak(512 << 10);
        let tasks = SchedulerConfig {
            max_tasks: 16,
            max_timers: 16,
            task_memory_bytes: 64 << 10,
            ..SchedulerConfig::default()
        };
        let scheduler = Scheduler::new(tasks, Clock::manual(clock), &bump).expect("a scheduler");
        let parts = ControllerParts {
            regs,
            doorbells,
            arena,
            clock: Clock::manual(clock),
            crash: None,
            probes: None,
        };
        let config = ControllerConfig {
            queue_depth: 7,
            max_namespaces: 1,
            max_transfer_bytes: 4096,
            ..ControllerConfig::default()
        };
        let controller = Controller::new(parts.into(), &bump, config).expect("a controller");
        let reads = Rc::new(RefCell::new(Vec::new()));
        let rig = Self { clock, regs, controller, scheduler, arena, reads };
        rig.until(|rig| rig.state() == ControllerState::Ready);
        rig
    }

    fn now(&self) -> u64 {
        self.clock.now().ticks()
    }

    fn state(&self) -> ControllerState {
        self.controller.state()
    }

    fn is_failed(&self) -> bool {
        matches!(self.state(), ControllerState::Failed(_))
    }

    fn model<R>(&self, f: impl FnOnce(&mut Model) -> R) -> R {
        f(self.regs.model.borrow_mut().as_mut().expect("it is there"))
    }

    fn faults(&self, faults: FaultPlan) {
        self.model(|model| model.reconfigure(|config| config.faults = faults));
    }

    /// Lets time go on until something is so; returns how long that took.
    fn until(&self, done: impl Fn(&Self) -> bool) -> u64 {
        let begun = self.now();
        while !done(self) {
            let now = Instant::from_ticks(self.now());
            self.controller.poll(now);
            self.scheduler.tick(now);
            self.controller.ring();
            self.model(|model| model.step(now.ticks()));
            self.clock.advance(STEP_NS);
            assert!(self.now() - begun < 600 * S, "it never comes: {:?}", self.state());
        }
        self.now() - begun
    }

    /// A read of one block, which ends some time.
    fn read(&self) {
        self.read_by(BlockDevice::read);
    }

    /// The same, as `how` does it.
    fn read_by<F>(&self, how: fn(BlockDevice, Lba, DmaBuf) -> F)
    where
        F: Future<Output = Result<DmaBuf, Failed>> + 'static,
    {
        let (controller, arena) = (self.controller, self.arena);
        let reads = self.reads.clone();
        let read = async move {
            let ns = controller.namespace(Nsid(1)).expect("a namespace");
            let device = BlockDevice::Nvme(ns);
            let done = how(device, Lba(0), arena.alloc(512).expect("memory")).await;
            reads.borrow_mut().push(done.err().map(|failed| failed.error));
        };
        let spawned = self.scheduler.spawner().spawn(TaskOptions::latency("read"), read);
        spawned.expect("a task").detach();
    }

    fn has_ended(&self) -> bool {
        !self.reads.borrow().is_empty()
    }

    fn error(&self) -> Option<IoError> {
        self.reads.borrow().first().copied().flatten()
    }
}

/// A read that is lost in a queue reset as often as it may be, at the worst moment, with an admin
/// queue that is slow.
fn read_again() -> u64 {
    longest(|rig| {
        let lost = FaultAction::Cqe(CqeFault::WrongCid(0x8000));
        let rule = FaultRule::on(OnQueue::Io, lost);
        rig.faults(FaultPlan::none().with(rule).with(admin_takes(900 * MS)));
        rig.model(|model| model.reconfigure(|config| config.abort = AbortPolicy::Refuse));
        rig.read_by(|device, lba, buf| ReadAgain::default().read(device, lba, buf));
        let took = rig.until(Rig::has_ended);
        assert!(matches!(rig.error(), Some(IoError::Reset(_))), "{:?}", rig.error());
        let stats = rig.controller.stats();
        let times = u64::from(ReadAgain::TIMES);
        assert_eq!((stats.reads_repeated, stats.queue_resets), (times, times + 1));
        took
    })
}

/// The longest of what `measure` finds, over begins that lie within one eighth of the deadline.
fn longest(measure: impl Fn(&Rig) -> u64) -> u64 {
    let rests = (0..5).map(|i| i * 131 * MS);
    let measured = rests.map(|rest| {
        let rig = Rig::new();
        let from = rig.now();
        rig.until(|rig| rig.now() - from >= rest);
        measure(&rig)
    });
    measured.max().unwrap_or(0)
}

fn retries() -> u64 {
    let rig = Rig::new();
    let later = StatusCode::NAMESPACE_NOT_READY.status().with_crd(1);
    rig.faults(FaultPlan::none().with(FaultRule::on(OnQueue::Io, FaultAction::Status(later))));
    let nearly = ControllerConfig::default().deadline_ns - 10 * MS;
    rig.model(|m| m.reconfigure(|config| config.latency = LatencyModel::FixedNs(nearly)));
    rig.read();
    let took = rig.until(Rig::has_ended);
    assert!(matches!(rig.error(), Some(IoError::Status { .. })), "{:?}", rig.error());
    took
}

fn deadline() -> u64 {
    longest(|rig| {
        rig.faults(FaultPlan::none().with(FaultRule::on(OnQueue::Io, FaultAction::Drop)));
        rig.read();
        let took = rig.until(Rig::has_ended);
        assert_eq!(rig.error(), Some(IoError::TimedOut));
        took
    })
}

fn queue_reset() -> u64 {
    longest(|rig| {
        // Neither done nor aborted, and the admin queue is slow.
        let lost = FaultAction::Cqe(CqeFault::WrongCid(0x8000));
        let rule = FaultRule::on(OnQueue::Io, lost).when(When::First(1));
        rig.faults(FaultPlan::none().with(rule).with(admin_takes(900 * MS)));
        rig.model(|model| model.reconfigure(|config| config.abort = AbortPolicy::Refuse));
        rig.read();
        let took = rig.until(Rig::has_ended);
        assert!(matches!(rig.error(), Some(IoError::Reset(_))), "{:?}", rig.error());
        assert_eq!(rig.controller.stats().queue_resets, 1);
        took
    })
}

fn controller_reset() -> u64 {
    let rig = Rig::new();
    rig.model(|model| model.reconfigure(|config| *config = slow(config.clone())));
    rig.faults(FaultPlan::none().with(admin_takes(SLOW_ADMIN_NS)));
    rig.model(|model| model.inject(ControllerFault::Fatal));
    rig.until(|rig| rig.state() == ControllerState::Resetting)
        + rig.until(|rig| rig.state() == ControllerState::Ready)
}

fn attempts() -> u64 {
    let rig = Rig::new();
    rig.model(|model| model.reconfigure(|config| *config = slow(config.clone())));
    rig.model(|model| {
        model.inject(ControllerFault::NeverReady);
        model.inject(ControllerFault::Fatal);
    });
    rig.until(Rig::is_failed)
}

fn gone() -> u64 {
    let rig = Rig::new();
    rig.regs.silent.set(u32::MAX);
    rig.until(Rig::is_failed)
}

fn shutdown() -> u64 {
    let longest = Cell::new(0);
    for stuck in [false, true] {
        let rig = Rig::new();
        // A command that hangs, deletions that take their time, a shutdown that is never
        // confirmed, RDY that never falls.
        let drop = FaultRule::on(OnQueue::Io, FaultAction::Drop);
        let faults = FaultPlan::none().with(admin_takes(SLOW_ADMIN_NS));
        rig.faults(if stuck { faults.with(drop) } else { faults });
        rig.model(|model| {
            model.inject(ControllerFault::NeverShutDown);
            model.inject(ControllerFault::NeverNotReady);
        });
        rig.read();
        let over = |rig: &Rig| rig.is_failed() || rig.state() == ControllerState::Off;
        rig.until(|rig| stuck || rig.has_ended());
        rig.controller.request_shutdown();
        longest.set(longest.get().max(rig.until(over)));
    }
    // One that comes in the middle of a bring-up that takes its time.
    let rig = Rig::new();
    rig.model(|model| model.reconfigure(|config| *config = slow(config.clone())));
    rig.model(|model| model.inject(ControllerFault::Fatal));
    rig.until(|rig| rig.state() == ControllerState::Resetting);
    rig.controller.request_shutdown();
    longest.get().max(rig.until(|rig| rig.is_failed() || rig.state() == ControllerState::Off))
}

/// From what `seen` shows to the action that `is` the end, with looks 5 ms apart.
fn policy(seen: impl Fn(Duration) -> Seen, is: impl Fn(Action) -> bool) -> u64 {
    let restarts = Restarts::new(RestartPolicy::OnFailure, CrashLimit::OFF, BackOff::default());
    let mut policy = Policy::new(Limits::default(), restarts, Duration::ZERO);
    for look in 0..40_000 {
        let now = Duration::from_millis(5 * look);
        let action = policy.step(&seen(now));
        if action == Action::Fence {
            policy.fenced(false, Ending::Killed);
        }
        if is(action) {
            return u64::try_from(now.as_nanos()).expect("short");
        }
    }
    panic!("it never comes");
}

fn look(now: Duration, ended: bool) -> Seen {
    Seen {
        now,
        ended,
        stopped: false,
        phase: Phase::Running,
        passes: 0,
        task: None,
        killable: true,
        stop_asked: false,
    }
}

fn hang() -> u64 {
    policy(|now| look(now, false), |action| matches!(action, Action::Kill(_)))
}

fn fence() -> u64 {
    policy(|now| look(now, true), |action| action == Action::Save { fenced: false })
}

/// Seconds at the beginning of a cell.
fn seconds(cell: &str) -> f64 {
    let number: String = cell.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    number.parse().unwrap_or_else(|_| panic!("no seconds in {cell:?}"))
}

/// The steps of the table: their limit, and what was measured.
fn table() -> BTreeMap<String, (f64, f64)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recovery.md");
    let text = fs::read_to_string(path).expect("the table");
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", step, _, _, _, worst, measured, _, _, _, ""] = cells[..]
            && measured.ends_with(" s")
        {
            rows.insert(step.to_owned(), (seconds(worst), seconds(measured)));
        }
    }
    rows
}

#[test]
fn the_worst_case_of_every_step_is_what_the_table_says() {
    let measured: [Measure; 10] = [
        ("retry of a command", retries),
        ("deadline", deadline),
        ("queue reset", queue_reset),
        ("controller reset", controller_reset),
        ("further attempts", attempts),
        ("a read again", read_again),
        ("gone", gone),
        ("orderly shutdown", shutdown),
        ("hang", hang),
        ("fence", fence),
    ];
    let table = table();
    let mut wrong = Vec::new();
    for (step, measure) in measured {
        let took = measure();
        let hundredths = took.div_ceil(10 * MS);
        let text = format!("{}.{:02} s", hundredths / 100, hundredths % 100);
        match table.get(step) {
            Some((worst, told)) if seconds(&text) <= *worst && seconds(&text) == *told => {}
            Some((worst, told)) => {
                wrong.push(format!("{step}: {text}, the table says {told} of {worst}"));
            }
            None => wrong.push(format!("{step}: {text}, and not in the table")),
        }
    }
    assert!(wrong.is_empty(), "docs/recovery.md: {wrong:#?}");
}

#[test]
fn a_partition_that_ends_in_order_is_never_killed_for_its_slow_device() {
    let (driver, host) = (ControllerConfig::default(), Limits::default());
    assert!(Duration::from_nanos(driver.shutdown_total_ns) < host.stop);
    // The partition's own loop lets it end, and ends before it is killed.
    let grace = PartitionConfig::default().stop_grace_ns;
    assert!(driver.shutdown_total_ns < grace && Duration::from_nanos(grace) < host.stop);
    // The drain and the longest wait for SHST have room in it.
    assert!(driver.drain_ns + driver.shutdown_ceiling_ns < driver.shutdown_total_ns);
}
