//! A scheduler on a clock that the test moves, and a log of what happened.
#![expect(dead_code, reason = "each test file uses its part")]

use core::cell::RefCell;
use core::future::Future;
use std::boxed::Box;
use std::rc::Rc;

use core_runtime::clock::{Clock, Instant, ManualClock};
use core_runtime::mem::Bump;
use core_runtime::task::{JoinHandle, Scheduler, SchedulerConfig, Spawner, TaskOptions, Tick};

/// What happened, in order.
#[derive(Clone, Default)]
pub struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    pub fn note(&self, what: impl Into<String>) {
        self.0.borrow_mut().push(what.into());
    }

    pub fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

/// A scheduler and its clock, leaked: each test has its own.
pub struct Rig {
    pub scheduler: &'static Scheduler,
    pub clock: &'static ManualClock,
}

impl Rig {
    pub fn new() -> Self {
        Self::with(SchedulerConfig::default())
    }

    pub fn with(config: SchedulerConfig) -> Self {
        let clock: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1_000)));
        let bump = Bump::leak(8 << 20);
        let scheduler = Scheduler::new(config, Clock::manual(clock), &bump).expect("memory");
        Self { scheduler, clock }
    }

    pub fn spawner(&self) -> Spawner {
        self.scheduler.spawner()
    }

    pub fn spawn<F: Future + 'static>(
        &self,
        options: TaskOptions,
        future: F,
    ) -> JoinHandle<F::Output> {
        self.spawner().spawn(options, future).expect("room")
    }

    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    pub fn tick(&self) -> Tick {
        self.scheduler.tick(self.clock.now())
    }

    /// Ticks until nothing is ready, at most `most` times.
    pub fn settle(&self, most: usize) {
        for _ in 0..most {
            if self.tick().ready_left == 0 {
                return;
            }
        }
        panic!("not settled after {most} ticks");
    }
}

/// A seeded generator: xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
