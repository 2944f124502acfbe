//! The partition's side: the real scheduler, the real driver, and a task for each operation.
//!
//! A task that serves takes operations from the host's ring and spawns a task for each, of any
//! class; some futures are dropped half-way, by a timeout. Answers go back over the other ring. The
//! world calls [`Partition::pass`], which is the order of `core_runtime`'s loop. The device is a
//! controller of the partition's own, or the host's bridge: tasks do not know which.
//!
//! Between any two steps of the loop and around every await of a task is a *crash point*, where the
//! partition may die in the middle of what it does ([`Shared::crash_point`]).

mod tasks;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use core_runtime::channel::Notify;
use core_runtime::clock::{Clock, Instant};
use core_runtime::mem::{Bump, DmaArena, DmaStats};
use core_runtime::ring::{Consumer, Producer, PushError};
use core_runtime::task::{Scheduler, SchedulerConfig, TaskOptions};
use nvme_driver::{ControllerConfig, ControllerState, Device, DeviceParts};

use crate::op::{Answer, Op};
use crate::plan::Plan;
use crate::planted::Plant;
use crate::shared::Shared;
use crate::tape::{What, Who};

/// Private memory of a partition: scheduler, queues and requests of the largest plan.
const PRIVATE_BYTES: usize = 512 << 10;

/// One incarnation.
pub(crate) struct Partition {
    pub(crate) device: Device,
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
    /// Passes of its loop.
    passes: Cell<u64>,
    /// It was asked to end; a bridge, that it has.
    asked_to_end: Cell<bool>,
    off: Cell<bool>,
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

impl Passed {
    /// A pass that was not made.
    pub(crate) const NOTHING: Self = Self { quiet: true, idle: true, next_timer: None };
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
        bridge_grace_ns: us(plan.grace_us.max(plan.deadline_us)),
        admin_deadline_ns: us(plan.admin_deadline_us),
        ready_floor_ns: us(50_000),
        ready_ceiling_ns: us(200_000),
        shutdown_floor_ns: us(20_000),
        shutdown_ceiling_ns: us(50_000),
        drain_ns: us(30_000),
        shutdown_total_ns: us(250_000),
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
        (parts, arena): (DeviceParts, &'static DmaArena),
        (commands, answers): (Consumer<Op>, Producer<Answer>),
        shared: Rc<Shared>,
    ) -> Result<Rc<Self>, String> {
        let bump = Bump::leak(PRIVATE_BYTES);
        let scheduler = Scheduler::new(scheduler_config(), Clock::manual(shared.clock), &bump)
            .map_err(|error| error.to_string())?;
        let device =
            Device::open(parts, &bump, driver_config(plan)).map_err(|error| error.to_string())?;
        let partition = Rc::new(Self {
            device,
            scheduler,
            arena,
            baseline: arena.stats(),
            commands,
            answers,
            outbox: RefCell::new(VecDeque::new()),
            running: Cell::new(0),
            limit: plan.tasks.into(),
            bell: Notify::new(),
            passes: Cell::new(0),
            asked_to_end: Cell::new(false),
            off: Cell::new(false),
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
        self.passes.set(self.passes.get() + 1);
        let (io, admin, quiet) = match self.device {
            Device::Nvme(controller) => {
                let report = controller.poll(now);
                (report.reaped, report.reaped_admin, report.is_idle())
            }
            Device::Bridge(bridge) => {
                let taken = bridge.poll(now);
                (taken, 0, taken == 0)
            }
        };
        self.shared.crash_point();
        if !quiet {
            self.shared.event(Who::Queues, What::Reap, [io.into(), admin.into(), 0]);
        }
        // The ring is polled: nobody rings for the host.
        if self.running.get() < self.limit {
            self.bell.notify_all();
        }
        let tick = self.scheduler.tick(now);
        self.shared.crash_point();
        if let Device::Nvme(controller) = self.device {
            controller.ring();
        }
        self.shared.crash_point();
        let told = self.tell();
        self.shared.crash_point();
        Passed {
            quiet: quiet && told == 0,
            // One poll is that of the task that serves.
            idle: quiet && tick.polled() <= 1 && tick.ready_left == 0 && told == 0,
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

    /// Passes of its loop so far.
    pub(crate) fn passes(&self) -> u64 {
        self.passes.get()
    }

    /// Where its device is in its life, as a place in [`STATES`](crate::tape::STATES).
    pub(crate) fn state(&self) -> usize {
        match self.device {
            Device::Nvme(controller) => match controller.state() {
                ControllerState::Starting => 0,
                ControllerState::Ready => 1,
                ControllerState::Resetting => 2,
                ControllerState::ShuttingDown => 3,
                ControllerState::Off => 4,
                ControllerState::Failed(_) => 5,
            },
            Device::Bridge(bridge) if bridge.is_gone() => 5,
            Device::Bridge(_) if self.off.get() => 4,
            Device::Bridge(_) if self.asked_to_end.get() => 3,
            Device::Bridge(_) => 1,
        }
    }

    /// Lets its device go in order.
    pub(crate) fn close(self: &Rc<Self>) {
        if self.asked_to_end.replace(true) {
            return;
        }
        match self.device {
            Device::Nvme(controller) => controller.request_shutdown(),
            Device::Bridge(_) => {
                let partition = self.clone();
                let closing = async move {
                    partition.off.set(partition.device.shutdown().await.is_ok());
                };
                let options = TaskOptions::latency("closing");
                match self.scheduler.spawner().spawn(options, closing) {
                    Ok(handle) => handle.detach(),
                    Err(error) => self.shared.violate(|| format!("no task to end with: {error}")),
                }
            }
        }
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
        let stats = self.device.stats();
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
}
