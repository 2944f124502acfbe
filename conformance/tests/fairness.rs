//! Neither side starves the other: in virtual time, a flood of completions does not keep
//! submissions from the device, and a flood of submissions does not keep completions from tasks.
//!
//! Time here is work: each completion taken and each task polled is one unit. The device completes
//! at once whatever it was told of. The loop is a partition's: take completions, poll tasks, ring.
//! The same floods through two loops that break the rule (completions until there are none; tasks
//! until none has anything to do) must exceed the bounds, or the test would prove nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use core_runtime::mem::DmaBuf;
use hybrid_conformance::{Backend, Flag, Rig, Stepped, quick};
use nvme_driver::{ControllerConfig, IoFuture, Lba};
use nvme_model::{ModelConfig, NamespaceConfig};

/// Commands that can be in flight.
const DEPTH: u16 = 63;

/// Completions that one pass takes at most: a quarter of the ring.
const SHARE: u64 = (DEPTH as u64 + 1) / 4;

/// Passes through the loop.
const PASSES: u32 = 500;

/// Of them, those before anything is measured.
const SETTLED: u32 = 8;

/// How the loop goes about its duties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// As a partition's loop.
    InTurn,
    /// Completions as long as there are any, and the tasks that they wake; only then the doorbell.
    CompletionsFirst,
    /// Tasks as long as any has something to do; only then completions.
    TasksFirst,
}

/// How far a command is, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Posted(u64),
    Rung,
    Ready(u64),
}

/// Reads one block after the other, for ever.
struct Task {
    flag: Arc<Flag>,
    waker: Waker,
    buf: Option<DmaBuf>,
    command: Option<(IoFuture, At)>,
}

/// All tasks, and the work done so far.
struct Flood {
    rig: Rig<Stepped>,
    tasks: Vec<Task>,
    /// Every task always has something to do; else only one that was woken.
    greedy: bool,
    now: u64,
    completed: u64,
    /// From the post of a command to its doorbell, at most.
    to_doorbell: u64,
    /// From a completion to its task, at most.
    to_task: u64,
    /// Most completions that were there when a pass began.
    most_ready: usize,
}

impl Flood {
    fn new(tasks: usize, greedy: bool) -> Self {
        let model = ModelConfig {
            namespaces: vec![NamespaceConfig::memory(1, 64).lba_bytes(512)],
            ..ModelConfig::default()
        };
        let config =
            ControllerConfig { queue_depth: DEPTH, io_queues: 1, ..ControllerConfig::default() };
        let rig = quick(model, config);
        let task = |_| {
            let (flag, waker) = Flag::raised();
            Task { flag, waker, buf: Some(rig.filled(512, 0)), command: None }
        };
        let tasks = (0..tasks).map(task).collect();
        let (now, completed, to_doorbell, to_task, most_ready) = (0, 0, 0, 0, 0);
        Self { rig, tasks, greedy, now, completed, to_doorbell, to_task, most_ready }
    }

    fn take_completions(&mut self) -> u64 {
        let taken = u64::from(self.rig.controller.poll(self.rig.backend.now()).reaped);
        self.now += taken;
        taken
    }

    /// Polls the tasks that have something to do; whether there was any.
    fn poll_tasks(&mut self) -> bool {
        let mut any = false;
        for task in &mut self.tasks {
            if !task.flag.take() && !self.greedy {
                continue;
            }
            any = true;
            self.now += 1;
            if let Some((future, at)) = &mut task.command
                && let Poll::Ready(read) =
                    Pin::new(future).poll(&mut Context::from_waker(&task.waker))
            {
                let &mut At::Ready(ready) = at else { panic!("completed before it was told") };
                self.to_task = self.to_task.max(self.now - ready);
                self.completed += 1;
                task.buf = Some(read.expect("a read"));
                task.command = None;
            }
            if let Some(buf) = task.buf.take() {
                match self.rig.ns().try_read(Lba(0), buf) {
                    Ok(mut future) => {
                        // Registers the waker.
                        let polled =
                            Pin::new(&mut future).poll(&mut Context::from_waker(&task.waker));
                        assert!(polled.is_pending());
                        task.command = Some((future, At::Posted(self.now)));
                    }
                    Err(failed) => task.buf = failed.buf,
                }
            }
        }
        any
    }

    fn commands(&mut self) -> impl Iterator<Item = &mut At> {
        self.tasks.iter_mut().filter_map(|task| Some(&mut task.command.as_mut()?.1))
    }

    /// Rings, and the device completes all that it was told of.
    fn ring(&mut self) {
        let now = self.now;
        self.rig.controller.ring();
        let mut longest = 0;
        for at in self.commands() {
            if let &mut At::Posted(posted) = at {
                longest = longest.max(now - posted);
                *at = At::Rung;
            }
        }
        self.to_doorbell = self.to_doorbell.max(longest);
        let before = self.rig.controller.stats().io.in_flight;
        self.rig.backend.pass(false);
        assert_eq!(self.rig.controller.stats().io.in_flight, before, "nobody reaped");
        let mut ready = 0;
        for at in self.commands() {
            if *at == At::Rung {
                *at = At::Ready(now);
            }
            ready += usize::from(matches!(at, At::Ready(_)));
        }
        self.most_ready = self.most_ready.max(ready);
    }

    /// Goes through the loop; gives what it measured.
    fn run(mut self, order: Order) -> Self {
        for pass in 0..PASSES {
            if pass == SETTLED {
                // Before, all tasks began at once.
                (self.to_doorbell, self.to_task) = (0, 0);
            }
            match order {
                Order::InTurn => {
                    self.take_completions();
                    self.poll_tasks();
                }
                Order::CompletionsFirst => {
                    while self.take_completions() > 0 {
                        self.poll_tasks();
                    }
                    self.poll_tasks();
                }
                Order::TasksFirst => {
                    // Greedy ones would go on for ever.
                    (0..100).take_while(|_| self.poll_tasks()).count();
                    self.take_completions();
                }
            }
            self.ring();
        }
        // In peace, so that the model sees an orderly end.
        self.greedy = false;
        for task in &mut self.tasks {
            if let Some((future, _)) = task.command.take() {
                drop(self.rig.run(future));
            }
        }
        println!(
            "{order:?}: {} completed, {} ready at most, {} to the doorbell, {} to the task",
            self.completed, self.most_ready, self.to_doorbell, self.to_task
        );
        self
    }
}

/// A command waits for its doorbell while the tasks of one share of completions are polled.
const TO_DOORBELL: u64 = SHARE;

/// Fewer tasks than the queue has room for: all of their commands are ready in every pass.
fn completions() -> Flood {
    Flood::new(48, false)
}

/// More tasks than the queue has room for, which never rest.
const GREEDY: u64 = 2 * DEPTH as u64;

/// A completion waits for the shares before it, and for a turn of all tasks with each.
const TO_TASK: u64 = (DEPTH as u64 / SHARE + 1) * (SHARE + GREEDY);

fn submissions() -> Flood {
    Flood::new(usize::try_from(GREEDY).expect("small"), true)
}

#[test]
fn a_flood_of_completions_does_not_keep_submissions_waiting() {
    let flood = completions().run(Order::InTurn);
    assert!(flood.most_ready as u64 > 2 * SHARE, "no flood: {} ready", flood.most_ready);
    assert!(flood.completed >= u64::from(PASSES) * SHARE - 48, "{} done", flood.completed);
    assert!(flood.to_doorbell <= TO_DOORBELL, "{} units to the doorbell", flood.to_doorbell);
    let broken = completions().run(Order::CompletionsFirst);
    assert!(broken.to_doorbell > TO_DOORBELL, "a broken rule went unnoticed");
}

#[test]
fn a_flood_of_submissions_does_not_keep_completions_waiting() {
    let flood = submissions().run(Order::InTurn);
    assert!(flood.most_ready >= usize::from(DEPTH), "no flood: {} ready", flood.most_ready);
    assert!(flood.completed >= u64::from(PASSES) * SHARE - 64, "{} done", flood.completed);
    assert!(flood.to_task <= TO_TASK, "{} units to the task", flood.to_task);
    assert!(flood.to_doorbell <= GREEDY, "{} units to the doorbell", flood.to_doorbell);
    let broken = submissions().run(Order::TasksFirst);
    assert!(broken.to_task > TO_TASK, "a broken rule went unnoticed");
}
