//! The scheduler: spawn, wake and poll (with and without a time stamp), timers.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use anyhow::Result;
use core_runtime::clock::{Clock, Ticks};
use core_runtime::mem::Bump;
use core_runtime::task::{Scheduler, SchedulerConfig, TaskOptions};

use hybrid_benches::race::{Bench, Group, SLICE};

/// Tasks or timers of one tick.
const BATCH: u64 = 32;

pub(crate) struct Tasks {
    timed: Rig,
    plain: Rig,
}

/// A scheduler with tasks that wait to be woken.
struct Rig {
    scheduler: &'static Scheduler,
    wakers: Rc<[Cell<Option<Waker>>]>,
    polls: Rc<Cell<u64>>,
}

impl Rig {
    fn new(time_polls: bool, hz: u64) -> Result<Self> {
        let config = SchedulerConfig { time_polls, ..SchedulerConfig::default() };
        let scheduler = Scheduler::new(config, Clock::tsc(hz), &Bump::leak(4 << 20))?;
        let wakers: Rc<[Cell<Option<Waker>>]> = (0..BATCH).map(|_| Cell::new(None)).collect();
        let polls = Rc::new(Cell::new(0));
        for index in 0..wakers.len() {
            let (wakers, polls) = (Rc::clone(&wakers), Rc::clone(&polls));
            let task = poll_fn(move |cx| {
                polls.set(polls.get() + 1);
                if polls.get() <= BATCH {
                    wakers[index].set(Some(cx.waker().clone()));
                }
                Poll::<()>::Pending
            });
            scheduler.spawner().spawn(TaskOptions::normal("waits"), task)?.detach();
        }
        scheduler.tick(scheduler.clock().now());
        Ok(Self { scheduler, wakers, polls })
    }

    /// Wakes all, and lets the tick poll them.
    fn wake_and_poll(&self, wakers: &[Waker]) -> (u64, u64) {
        let before = self.polls.get();
        for _ in 0..SLICE / BATCH {
            for waker in wakers {
                waker.wake_by_ref();
            }
            self.scheduler.tick(self.scheduler.clock().now());
        }
        let polls = self.polls.get() - before;
        (polls, polls)
    }

    fn wakers(&self) -> Vec<Waker> {
        let cloned = |cell: &Cell<Option<Waker>>| {
            let waker = cell.take();
            cell.set(waker.clone());
            waker
        };
        self.wakers.iter().filter_map(cloned).collect()
    }
}

impl Tasks {
    pub(crate) fn new(hz: u64) -> Result<Self> {
        Ok(Self { timed: Rig::new(true, hz)?, plain: Rig::new(false, hz)? })
    }
}

impl Group for Tasks {
    fn measure(&mut self, slices: u64, bench: &mut Bench<'_>) -> Result<()> {
        for (what, rig) in [
            ("task: wake + poll, each poll timed", &self.timed),
            ("task: wake + poll, not timed", &self.plain),
        ] {
            let wakers = rig.wakers();
            bench.alone(what, slices, &mut || rig.wake_and_poll(&wakers));
        }
        let scheduler = self.plain.scheduler;
        let clock = scheduler.clock();
        let mut spawn = || {
            let mut done = 0;
            for _ in 0..SLICE / BATCH {
                for n in 0..BATCH {
                    let task = async move { std::hint::black_box(n) };
                    if let Ok(handle) = scheduler.spawner().spawn(TaskOptions::normal("t"), task) {
                        handle.detach();
                    }
                }
                done += u64::from(scheduler.tick(clock.now()).completed);
            }
            (done, done)
        };
        bench.alone("task: spawn, poll once, end", slices, &mut spawn);
        let mut timers = || {
            let mut fired = 0;
            for _ in 0..SLICE / BATCH {
                let now = clock.now();
                for n in 0..BATCH {
                    let task = scheduler.spawner().sleep_until(now + Ticks::new(n * 37 % 64));
                    let spawned = scheduler.spawner().spawn(TaskOptions::normal("s"), task);
                    if let Ok(handle) = spawned {
                        handle.detach();
                    }
                }
                // The first tick sets the timers, the second is late enough for all.
                scheduler.tick(now);
                fired += u64::from(scheduler.tick(now + Ticks::new(64)).timers_fired);
                scheduler.tick(now + Ticks::new(65));
            }
            // Those that were due when they were set never became timers.
            (SLICE, fired)
        };
        bench.alone("task: spawn, timer set and fired, end", slices, &mut timers);
        Ok(())
    }
}
