//! A scheduler on a clock that the test moves, and a log of what happened.

use core::cell::RefCell;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::boxed::Box;
use std::rc::Rc;

use core_runtime::clock::{Clock, Instant, ManualClock};
use core_runtime::mem::Bump;
use core_runtime::task::{
    JoinError, JoinHandle, Scheduler, SchedulerConfig, Spawner, TaskOptions, Tick,
};

/// What happened, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    pub(crate) fn note(&self, what: impl Into<String>) {
        self.0.borrow_mut().push(what.into());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    pub(crate) fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

/// A scheduler and its clock, leaked: each test has its own.
pub(crate) struct Rig {
    pub(crate) scheduler: &'static Scheduler,
    pub(crate) clock: &'static ManualClock,
}

impl Rig {
    pub(crate) fn new() -> Self {
        // Small, because Miri writes every byte of it one by one.
        Self::with(SchedulerConfig {
            max_tasks: 64,
            max_timers: 64,
            task_memory_bytes: 64 * 1024,
            ..SchedulerConfig::default()
        })
    }

    pub(crate) fn with(config: SchedulerConfig) -> Self {
        let clock: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1_000)));
        let bump = Bump::leak(2 << 20);
        let scheduler = Scheduler::new(config, Clock::manual(clock), &bump).expect("memory");
        Self { scheduler, clock }
    }

    pub(crate) fn spawner(&self) -> Spawner {
        self.scheduler.spawner()
    }

    pub(crate) fn spawn<F: Future + 'static>(
        &self,
        options: TaskOptions,
        future: F,
    ) -> JoinHandle<F::Output> {
        self.spawner().spawn(options, future).expect("room")
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(crate) fn tick(&self) -> Tick {
        self.scheduler.tick(self.clock.now())
    }

    /// Ticks until nothing is ready, at most `most` times.
    pub(crate) fn settle(&self, most: usize) {
        for _ in 0..most {
            if self.tick().ready_left == 0 {
                return;
            }
        }
        panic!("not settled after {most} ticks");
    }
}

/// The result of a task that has ended.
pub(crate) fn outcome<T>(rig: &Rig, mut handle: JoinHandle<T>) -> Result<T, JoinError> {
    rig.settle(100);
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(&mut handle).poll(&mut context) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("the task has not ended"),
    }
}
