//! The scheduler: wake and poll, spawn, timers, beside the public executors.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use anyhow::Result;
use core_runtime::clock::{Clock, Ticks};
use core_runtime::mem::Bump;
use core_runtime::task::{Scheduler, SchedulerConfig, TaskOptions};
use hybrid_benches::race::{Bench, Group, SLICE};

use crate::pools::{BATCH, Embassy, Pool};

/// Wakers of tasks that wait, and how often these were polled.
#[derive(Clone)]
pub(crate) struct Waiting {
    wakers: Rc<[Cell<Option<Waker>>]>,
    pub(crate) polls: Rc<Cell<u64>>,
}

impl Waiting {
    pub(crate) fn new() -> Self {
        Self { wakers: (0..BATCH).map(|_| Cell::new(None)).collect(), polls: Rc::new(Cell::new(0)) }
    }

    /// A task that counts its polls and waits for ever; its first poll leaves its waker.
    pub(crate) fn task(&self, index: u64) -> impl Future<Output = ()> + use<> {
        let this = self.clone();
        let index = usize::try_from(index).unwrap_or(0);
        let mut first = true;
        poll_fn(move |cx| {
            this.polls.set(this.polls.get() + 1);
            if std::mem::take(&mut first) {
                this.wakers[index].set(Some(cx.waker().clone()));
            }
            Poll::Pending
        })
    }

    /// The wakers, after all tasks were polled once.
    pub(crate) fn wakers(&self) -> Vec<Waker> {
        self.wakers.iter().filter_map(Cell::take).collect()
    }
}

/// Wakes all, lets `poll` poll them, and so on for a slice; polls, twice.
fn wake_and_poll(wakers: &[Waker], polls: &Cell<u64>, mut poll: impl FnMut()) -> (u64, u64) {
    let before = polls.get();
    for _ in 0..SLICE / BATCH {
        wakers.iter().for_each(Waker::wake_by_ref);
        poll();
    }
    let polls = polls.get() - before;
    (polls, polls)
}

/// Our scheduler with tasks that wait.
struct Ours {
    scheduler: &'static Scheduler,
    waiting: Waiting,
    wakers: Vec<Waker>,
}

impl Ours {
    fn new(time_polls: bool, hz: u64) -> Result<Self> {
        let config = SchedulerConfig { time_polls, ..SchedulerConfig::default() };
        let scheduler = Scheduler::new(config, Clock::tsc(hz), &Bump::leak(4 << 20))?;
        let waiting = Waiting::new();
        for index in 0..BATCH {
            scheduler.spawner().spawn(TaskOptions::normal("waits"), waiting.task(index))?.detach();
        }
        scheduler.tick(scheduler.clock().now());
        let wakers = waiting.wakers();
        Ok(Self { scheduler, waiting, wakers })
    }

    fn slice(&self) -> (u64, u64) {
        wake_and_poll(&self.wakers, &self.waiting.polls, || {
            self.scheduler.tick(self.scheduler.clock().now());
        })
    }
}

pub(crate) struct Tasks {
    timed: Ours,
    plain: Ours,
    embassy: Embassy,
    pool: Pool,
}

impl Tasks {
    pub(crate) fn new(hz: u64) -> Result<Self> {
        Ok(Self {
            timed: Ours::new(true, hz)?,
            plain: Ours::new(false, hz)?,
            embassy: Embassy::new()?,
            pool: Pool::new()?,
        })
    }

    /// Spawns tasks that end in their first poll.
    fn spawn(&self) -> (u64, u64) {
        let (scheduler, mut done) = (self.plain.scheduler, 0);
        for _ in 0..SLICE / BATCH {
            for n in 0..BATCH {
                let task = async move { std::hint::black_box(n) };
                if let Ok(handle) = scheduler.spawner().spawn(TaskOptions::normal("t"), task) {
                    handle.detach();
                }
            }
            done += u64::from(scheduler.tick(scheduler.clock().now()).completed);
        }
        (done, done)
    }

    /// Spawns tasks that sleep once; the clock is then told to be late enough.
    fn timers(&self) -> (u64, u64) {
        let (scheduler, mut done) = (self.plain.scheduler, 0);
        for _ in 0..SLICE / BATCH {
            let now = scheduler.clock().now();
            for n in 0..BATCH {
                let task = scheduler.spawner().sleep_until(now + Ticks::new(1 + n * 37 % 64));
                if let Ok(handle) = scheduler.spawner().spawn(TaskOptions::normal("s"), task) {
                    handle.detach();
                }
            }
            for later in [0, 65, 66] {
                done += u64::from(scheduler.tick(now + Ticks::new(later)).completed);
            }
        }
        (done, done)
    }
}

impl Group for Tasks {
    fn measure(&mut self, slices: u64, bench: &mut Bench<'_>) -> Result<()> {
        for (what, rig) in [
            ("task: wake + poll, not timed", &self.plain),
            ("task: wake + poll, each poll timed", &self.timed),
        ] {
            let mut ours = || rig.slice();
            let embassy = &self.embassy;
            bench.race(what, "embassy-executor", slices, &mut ours, &mut || {
                wake_and_poll(&embassy.wakers, &embassy.waiting.polls, || embassy.poll())
            });
            let pool = &mut self.pool;
            bench.race(what, "futures LocalPool", slices, &mut ours, &mut || {
                let Pool { pool, waiting, wakers } = &mut *pool;
                wake_and_poll(wakers, &waiting.polls, || pool.run_until_stalled())
            });
        }
        let what = "task: spawn, poll once, end";
        let mut theirs = || self.embassy.spawn();
        bench.race(what, "embassy-executor", slices, &mut || self.spawn(), &mut theirs);
        let mut pool = futures_executor::LocalPool::new();
        let mut theirs = || crate::pools::spawn_on(&mut pool);
        bench.race(what, "futures LocalPool", slices, &mut || self.spawn(), &mut theirs);
        let what = "task: spawn, timer set and fired, end";
        let mut theirs = || self.embassy.timers();
        bench.race(what, "embassy-time", slices, &mut || self.timers(), &mut theirs);
        Ok(())
    }
}
