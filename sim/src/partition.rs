//! The partition's side: the real scheduler, the real driver, and a task for each operation.
//!
//! A task that serves takes operations from the host's ring and spawns a task for each, of any
//! class; some futures are dropped half-way, by a timeout. Answers go back over the other ring. The
//! world calls [`Partition::pass`], which is the order of `core_runtime`'s loop.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;

use core_runtime::channel::Notify;
use core_runtime::clock::{Clock, Instant};
use core_runtime::mem::{Bump, DmaArena, DmaBuf, DmaStats};
use core_runtime::ring::{Consumer, PopError, Producer, PushError};
use core_runtime::task::{Class, Scheduler, SchedulerConfig, TaskOptions};
use nvme_driver::{
    Controller, ControllerConfig, ControllerParts, Failed, IoError, Lba, Namespace, WriteFlags,
};
use nvme_spec::Nsid;

use crate::content;
use crate::op::{Answer, Code, Kind, Op};
use crate::oracle::{End, Token};
use crate::plan::Plan;
use crate::planted::Plant;
use crate::shared::Shared;
use crate::tape::{What, Who};

/// Private memory of a partition: scheduler, queues and requests of the largest plan.
const PRIVATE_BYTES: usize = 512 << 10;

/// One incarnation.
pub(crate) struct Partition {
    pub(crate) controller: &'static Controller,
    scheduler: &'static Scheduler,
    arena: &'static DmaArena,
    baseline: DmaStats,
    commands: Consumer<Op>,
    answers: Producer<Answer>,
    outbox: RefCell<VecDeque<Answer>>,
    /// Operations here: in a task, or answered and not told yet.
    running: Cell<u32>,
    limit: u32,
    bell: Notify,
    /// Flushes that were not acknowledged.
    failed_flushes: Cell<u64>,
    write_cache: bool,
    plant: Plant,
    shared: Rc<Shared>,
}

/// What a pass did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passed {
    /// Nothing was reaped and nothing answered, whatever tasks were polled.
    pub(crate) quiet: bool,
    pub(crate) idle: bool,
    pub(crate) next_timer: Option<Instant>,
}

fn scheduler_config() -> SchedulerConfig {
    SchedulerConfig {
        max_tasks: 128,
        max_timers: 128,
        // A task's future is under 2 KiB.
        task_memory_bytes: 256 << 10,
        ..SchedulerConfig::default()
    }
}

fn driver_config(plan: &Plan) -> ControllerConfig {
    let us = |us: u32| u64::from(us) * 1_000;
    ControllerConfig {
        io_queues: plan.queues,
        queue_depth: plan.depth,
        requests: plan.requests,
        max_transfer_bytes: 16 << 10,
        max_namespaces: 2,
        deadline_ns: us(plan.deadline_us),
        abort_grace_ns: us(plan.grace_us),
        admin_deadline_ns: us(plan.admin_deadline_us),
        ready_floor_ns: us(50_000),
        ready_ceiling_ns: us(200_000),
        shutdown_floor_ns: us(20_000),
        shutdown_ceiling_ns: us(50_000),
        drain_ns: us(30_000),
        latency_sampling: 16,
        shadow_doorbells: plan.shadow,
        retries: plan.retries,
        rogue_threshold: plan.rogue,
        health_ns: us(2_000),
        ..ControllerConfig::default()
    }
}

impl Partition {
    /// A new incarnation on `parts`, with its ends of the rings.
    pub(crate) fn start(
        plan: &Plan,
        parts: ControllerParts,
        (commands, answers): (Consumer<Op>, Producer<Answer>),
        shared: Rc<Shared>,
    ) -> Result<Rc<Self>, String> {
        let bump = Bump::leak(PRIVATE_BYTES);
        let scheduler = Scheduler::new(scheduler_config(), Clock::manual(shared.clock), &bump)
            .map_err(|error| error.to_string())?;
        let controller = Controller::new(parts.into(), &bump, driver_config(plan))
            .map_err(|error| error.to_string())?;
        let partition = Rc::new(Self {
            controller,
            scheduler,
            arena: parts.arena,
            baseline: parts.arena.stats(),
            commands,
            answers,
            outbox: RefCell::new(VecDeque::new()),
            running: Cell::new(0),
            limit: plan.tasks.into(),
            bell: Notify::new(),
            failed_flushes: Cell::new(0),
            write_cache: plan.write_cache,
            plant: Plant::of(plan.plant),
            shared,
        });
        let serving = Self::serve(partition.clone());
        let spawned = scheduler.spawner().spawn(TaskOptions::latency("serve"), serving);
        spawned.map_err(|error| error.to_string())?.detach();
        Ok(partition)
    }

    /// One pass of the partition's loop.
    pub(crate) fn pass(&self, now: Instant) -> Passed {
        let report = self.controller.poll(now);
        if !report.is_idle() {
            let numbers = [report.reaped.into(), report.reaped_admin.into(), 0];
            self.shared.event(Who::Queues, What::Reap, numbers);
        }
        // The ring is polled: nobody rings for the host.
        if self.running.get() < self.limit {
            self.bell.notify_all();
        }
        let tick = self.scheduler.tick(now);
        self.controller.ring();
        let told = self.tell();
        Passed {
            quiet: report.is_idle() && told == 0,
            // One poll is that of the task that serves.
            idle: report.is_idle() && tick.polled() <= 1 && tick.ready_left == 0 && told == 0,
            next_timer: self.scheduler.next_deadline(),
        }
    }

    /// Moves answers to the ring while there is room.
    fn tell(&self) -> u32 {
        let mut outbox = self.outbox.borrow_mut();
        let mut told = 0;
        while let Some(answer) = outbox.front() {
            match self.answers.try_push(answer) {
                Ok(()) => {
                    outbox.pop_front();
                    told += 1;
                }
                Err(PushError::Full) => break,
                Err(error) => {
                    self.shared.violate(|| format!("the answers' ring: {error}"));
                    break;
                }
            }
        }
        self.running.set(self.running.get() - told);
        if told != 0 {
            self.bell.notify_all();
        }
        told
    }

    /// Operations that are not answered.
    pub(crate) fn running(&self) -> u32 {
        self.running.get()
    }

    /// After an orderly end: each flush that the device refused was told of, and not repeated.
    pub(crate) fn check_flushes(&self, refused: u64) {
        let failed = self.failed_flushes.get();
        if failed < refused {
            self.shared.violate(|| {
                format!("the device refused {refused} flushes, and {failed} were not acknowledged")
            });
        }
    }

    /// A number that differs where states differ.
    pub(crate) fn digest(&self) -> u64 {
        let stats = self.controller.stats();
        let words = [stats.io.submitted, stats.io.completed, stats.io.lost, stats.io.retries];
        let more = [stats.resets, stats.admin.submitted, self.running.get().into()];
        words.iter().chain(&more).fold(0, |sum: u64, word| {
            (sum.rotate_left(9) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
    }

    /// After an orderly end: every buffer is back.
    pub(crate) fn check_leaks(&self, quarantine_allowed: bool) {
        let now = self.arena.stats();
        // What is quarantined is not live.
        if now.live != self.baseline.live {
            self.shared.violate(|| {
                format!(
                    "buffers are missing or left over: {} live, {} at the start, {} quarantined",
                    now.live, self.baseline.live, now.quarantined
                )
            });
        }
        if now.quarantined != 0 && !quarantine_allowed {
            self.shared.violate(|| format!("{} buffers are quarantined", now.quarantined));
        }
    }

    // ---- tasks -------------------------------------------------------------------------------

    async fn serve(self: Rc<Self>) {
        // Either way: without a controller every operation fails, and is answered.
        let _ = self.controller.ready().await;
        loop {
            let bell = self.bell.notified();
            while self.running.get() < self.limit {
                match self.commands.pop() {
                    Ok(op) => self.launch(op),
                    Err(PopError::Empty) => break,
                    Err(error) => {
                        self.shared.violate(|| format!("the operations' ring: {error}"));
                        return;
                    }
                }
            }
            bell.await;
        }
    }

    fn launch(self: &Rc<Self>, op: Op) {
        self.running.set(self.running.get() + 1);
        let class = match op.index % 8 {
            0 => Class::Latency,
            1 => Class::Background,
            _ => Class::Normal,
        };
        let task = Self::carry_out(self.clone(), op);
        match self.scheduler.spawner().spawn(TaskOptions::new("operation", class), task) {
            Ok(handle) => handle.detach(),
            Err(error) => {
                self.shared.violate(|| format!("no task for an operation: {error}"));
                self.answer(op, Code::NotSpawned);
            }
        }
    }

    fn answer(&self, op: Op, code: Code) {
        let what = match code {
            Code::Good => What::Done,
            Code::Dropped => What::Dropped,
            _ => What::Failed,
        };
        self.shared.event(Who::Queues, what, [op.index, 0, 0]);
        self.outbox.borrow_mut().push_back(Answer { index: op.index, code: code as u64 });
    }

    async fn carry_out(self: Rc<Self>, op: Op) {
        self.shared.event(Who::Queues, What::Start, [op.index, 0, 0]);
        if op.index % 16 == 3 {
            self.scheduler.spawner().yield_now().await;
        }
        let Some(ns) = self.controller.namespace(Nsid(1)) else {
            self.answer(op, Code::Failed);
            return;
        };
        let code = match op.kind() {
            Kind::Read => self.read(ns, op).await.map(drop),
            Kind::Write | Kind::Through => self.write(ns, op, None).await,
            Kind::Rewrite => match self.read(ns, op).await {
                Ok(buf) => self.write(ns, op, Some(buf)).await,
                Err(code) => Err(code),
            },
            Kind::Zeroes => self.zero(ns, op).await,
            Kind::Flush => self.flush(ns, op).await,
        };
        self.answer(op, code.err().unwrap_or(Code::Good));
    }

    /// Waits for a future, or drops it half-way where the operation says so.
    async fn bounded<F: Future>(&self, op: Op, future: F) -> Option<F::Output> {
        if op.drop_after_ns == 0 {
            return Some(future.await);
        }
        let spawner = self.scheduler.spawner();
        let ticks = spawner.clock().ns_to_ticks(op.drop_after_ns.into());
        spawner.timeout(ticks, future).await.ok()
    }

    fn failed(&self, op: Op, error: IoError) -> Code {
        let count = if op.kind() == Kind::Flush { 0 } else { op.count };
        self.shared.explain(error, (op.lba.into(), count.into()));
        Code::Failed
    }

    async fn read(&self, ns: &'static Namespace, op: Op) -> Result<DmaBuf, Code> {
        let block = ns.lba_bytes() as usize;
        let mut buf = self.memory(ns, op)?;
        buf.as_mut_slice().chunks_exact_mut(block).for_each(content::poison);
        let single = buf.len() <= ns.max_transfer_bytes() as usize;
        let token = self.shared.oracle.borrow_mut().read_begin(op.lba, op.count);
        let done = self.bounded(op, ns.read(Lba(op.lba.into()), buf)).await;
        let mut oracle = self.shared.oracle.borrow_mut();
        let checked = match &done {
            Some(Ok(buf)) => oracle.check(token, buf.as_slice(), single),
            _ => Ok(()),
        };
        oracle.read_end(token);
        drop(oracle);
        if let Err(what) = checked {
            self.shared.violate(|| format!("operation {}: {what}", op.index));
        }
        match done {
            None => Err(Code::Dropped),
            Some(Ok(buf)) => Ok(buf),
            Some(Err(failed)) => Err(self.failed(op, failed.error)),
        }
    }

    fn memory(&self, ns: &Namespace, op: Op) -> Result<DmaBuf, Code> {
        let len = op.count as usize * ns.lba_bytes() as usize;
        if len == 0 {
            // The namespace is refused: its controller is on the way out.
            return Err(Code::Failed);
        }
        self.arena.alloc(len).map_err(|_| {
            self.shared.reach("out of dma memory", 1);
            Code::NoMemory
        })
    }

    async fn write(&self, ns: &'static Namespace, op: Op, buf: Option<DmaBuf>) -> Result<(), Code> {
        let block = ns.lba_bytes() as usize;
        let mut buf = match buf {
            Some(buf) => buf,
            None => self.memory(ns, op)?,
        };
        for (bytes, lba) in buf.as_mut_slice().chunks_exact_mut(block).zip(u64::from(op.lba)..) {
            content::stamp(bytes, lba, op.version());
        }
        let single = buf.len() <= ns.max_transfer_bytes() as usize;
        let through = op.kind() == Kind::Through;
        let token = self.begin(op, false, single);
        let flags = if through && self.plant != Plant::NoFua {
            WriteFlags::FUA
        } else {
            WriteFlags::empty()
        };
        if self.plant.strikes(op.index) == Some(Plant::AckEarly) {
            // Acknowledged before it is on its way, and then forgotten.
            self.shared.oracle.borrow_mut().write_end(token, End::Acked);
            return Ok(());
        }
        let done = self.bounded(op, ns.write(Lba(op.lba.into()), buf, flags)).await;
        self.end(op, token, through, done.map(|done| done.map(drop)))
    }

    async fn zero(&self, ns: &'static Namespace, op: Op) -> Result<(), Code> {
        if ns.lba_bytes() == 0 {
            return Err(Code::Failed);
        }
        let token = self.begin(op, true, true);
        let future = ns.write_zeroes(Lba(op.lba.into()), op.count.into(), WriteFlags::empty());
        let done = self.bounded(op, future).await;
        let done = done.map(|done| done.map_err(|error| Failed { error, buf: None }));
        self.end(op, token, false, done)
    }

    fn begin(&self, op: Op, zero: bool, single: bool) -> Token {
        let mut oracle = self.shared.oracle.borrow_mut();
        oracle.write_begin((op.lba, op.count), op.version(), zero, single)
    }

    /// Tells the oracle how a write ended.
    fn end(
        &self,
        op: Op,
        token: Token,
        through: bool,
        done: Option<Result<(), Failed>>,
    ) -> Result<(), Code> {
        let good = if through || !self.write_cache { End::Durable } else { End::Acked };
        let mut oracle = self.shared.oracle.borrow_mut();
        match done {
            None => {
                oracle.write_abandon(token);
                Err(Code::Dropped)
            }
            Some(Ok(())) => {
                oracle.write_end(token, good);
                Ok(())
            }
            Some(Err(failed)) => {
                match failed.error {
                    // Nobody confirmed that the device has let go of it.
                    IoError::Gone => oracle.write_abandon(token),
                    _ if self.plant == Plant::AckFailed => oracle.write_end(token, good),
                    _ => oracle.write_end(token, End::Unknown),
                }
                drop(oracle);
                Err(self.failed(op, failed.error))
            }
        }
    }

    async fn flush(&self, ns: &'static Namespace, op: Op) -> Result<(), Code> {
        let token = self.shared.oracle.borrow_mut().flush_begin();
        if self.plant == Plant::NoFlush {
            self.shared.oracle.borrow_mut().flush_end(token, true);
            return Ok(());
        }
        let done = self.bounded(op, ns.flush()).await;
        if !matches!(done, Some(Ok(()))) {
            self.failed_flushes.set(self.failed_flushes.get() + 1);
        }
        match done {
            None => Err(Code::Dropped),
            Some(Ok(())) => {
                self.shared.oracle.borrow_mut().flush_end(token, true);
                Ok(())
            }
            Some(Err(error)) => {
                let good = self.plant == Plant::AckFailed;
                self.shared.oracle.borrow_mut().flush_end(token, good);
                Err(self.failed(op, error))
            }
        }
    }
}
