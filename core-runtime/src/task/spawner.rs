//! What a task knows of its scheduler: spawn, sleep, the time, its budget.
//!
//! A [`Spawner`] is copied into every task that needs it. Core-local.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use super::config::{Class, SpawnError, TaskOptions};
use super::header::{State, TaskRef, TaskStorage, place};
use super::join_handle::JoinHandle;
use super::scheduler::Scheduler;
use super::sleep::{Interval, Sleep, Timeout};
use crate::clock::{Clock, Instant, Ticks};
use crate::probe::Probes;

/// A copyable reference to the scheduler, for tasks.
///
/// ```compile_fail,E0277
/// fn needs_send<T: Send>() {}
/// needs_send::<core_runtime::task::Spawner>();
/// ```
/// ```compile_fail,E0277
/// fn needs_sync<T: Sync>() {}
/// needs_sync::<core_runtime::task::Spawner>();
/// ```
#[derive(Clone, Copy)]
pub struct Spawner(&'static Scheduler);

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spawner")
    }
}

impl Spawner {
    pub(super) const fn new(scheduler: &'static Scheduler) -> Self {
        Self(scheduler)
    }

    /// Starts a task in a block of the scheduler's memory, which the next task uses after it. It is
    /// polled first in the next tick, or in this one if its class comes later.
    ///
    /// # Errors
    /// [`SpawnError`] if table or memory is full; the future is dropped then.
    pub fn spawn<F>(
        &self,
        options: TaskOptions,
        future: F,
    ) -> Result<JoinHandle<F::Output>, SpawnError>
    where
        F: Future + 'static,
    {
        let size = size_of::<TaskStorage<F>>();
        let task = self.0.memory.take(size, align_of::<TaskStorage<F>>())?;
        if let Err(error) = self.0.attach(task) {
            self.0.memory.give_back(task);
            return Err(error);
        }
        // SAFETY: the block is free, attached, and as large and aligned as `TaskStorage<F>`.
        Ok(unsafe { self.launch(task, &options, future) })
    }

    /// Starts a task in storage of the caller's, which may be used again when the task has ended
    /// and its handle is gone.
    ///
    /// # Errors
    /// [`SpawnError`] if the table is full or the storage is in use; the future is dropped then.
    pub fn spawn_in<F>(
        &self,
        storage: &'static TaskStorage<F>,
        options: TaskOptions,
        future: F,
    ) -> Result<JoinHandle<F::Output>, SpawnError>
    where
        F: Future + 'static,
    {
        let task = storage.as_task();
        if task.header().state.get() != State::Free {
            return Err(SpawnError::StorageBusy);
        }
        self.0.attach(task)?;
        // SAFETY: the storage is free, attached, and of this future's type.
        Ok(unsafe { self.launch(task, &options, future) })
    }

    /// # Safety
    /// As for [`place`]; and the task is attached to this scheduler.
    unsafe fn launch<F>(
        &self,
        task: TaskRef,
        options: &TaskOptions,
        future: F,
    ) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
    {
        // SAFETY: the caller's promise.
        unsafe { place(task, future) };
        self.0.start(task, options);
        // SAFETY: `start` made it live and says that a handle is held; this is the only one.
        unsafe { JoinHandle::new(task) }
    }

    /// The clock.
    #[must_use]
    pub const fn clock(&self) -> Clock {
        self.0.clock
    }

    /// The present instant: reads the clock. [`tick_now`](Self::tick_now) costs nothing.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.clock.now()
    }

    /// The instant at which the running tick began.
    #[inline]
    #[must_use]
    pub fn tick_now(&self) -> Instant {
        self.0.tick_now()
    }

    /// Waits for `ticks` from now on.
    pub fn sleep(&self, ticks: Ticks) -> Sleep {
        self.sleep_until(self.now() + ticks)
    }

    /// Waits for `ns` nanoseconds from now on.
    pub fn sleep_ns(&self, ns: u64) -> Sleep {
        self.sleep(self.0.clock.ns_to_ticks(ns))
    }

    /// Waits until `deadline`.
    pub const fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep::new(self.0, deadline)
    }

    /// Gives `future` until `ticks` from now; it is dropped with the [`Timeout`].
    pub fn timeout<F: Future>(&self, ticks: Ticks, future: F) -> Timeout<F> {
        Timeout::new(future, self.sleep(ticks))
    }

    /// Gives `future` until `deadline`.
    pub const fn timeout_at<F: Future>(&self, deadline: Instant, future: F) -> Timeout<F> {
        Timeout::new(future, self.sleep_until(deadline))
    }

    /// Beats every `period`, first at `now + period`.
    #[must_use]
    pub fn interval(&self, period: Ticks) -> Interval {
        Interval::new(self.0, self.now() + period, period)
    }

    /// The core's probes.
    #[inline]
    #[must_use]
    pub const fn probes(&self) -> &'static Probes {
        self.0.probes()
    }

    /// What the running poll has left.
    #[inline]
    #[must_use]
    pub fn budget(&self) -> Budget {
        let limit = match self.0.current_ref() {
            Some(task) => task.header().meter.budget.get(),
            None => Ticks::MAX,
        };
        Budget { clock: self.0.clock, began: self.0.poll_began(), limit }
    }

    /// Whether the running task should give way: more urgent work is ready, or its budget is used
    /// up. Reads the clock once.
    #[inline]
    #[must_use]
    pub fn should_yield(&self) -> bool {
        let class = match self.0.current_ref() {
            Some(task) => task.header().meter.class.get(),
            None => return false,
        };
        let urgent = match class {
            Class::Latency => false,
            Class::Normal => self.0.ready(Class::Latency) > 0,
            Class::Background => {
                self.0.ready(Class::Latency) > 0 || self.0.ready(Class::Normal) > 0
            }
        };
        urgent || self.0.has_remote() || self.budget().exceeded()
    }

    /// Lets the others run once.
    pub const fn yield_now(&self) -> YieldNow {
        yield_now()
    }

    /// Lets the others run if [`should_yield`](Self::should_yield) says so.
    pub async fn yield_if_needed(&self) {
        if self.should_yield() {
            yield_now().await;
        }
    }
}

/// The time that the running poll may take. A snapshot of its limits: ask for it once a poll.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    clock: Clock,
    began: Instant,
    limit: Ticks,
}

impl Budget {
    /// Time since the poll began; where polls are not timed, since the tick began.
    #[inline]
    #[must_use]
    pub fn elapsed(&self) -> Ticks {
        self.clock.now().since(self.began)
    }

    /// What is left; zero when it is exceeded.
    #[inline]
    #[must_use]
    pub fn remaining(&self) -> Ticks {
        self.limit.saturating_sub(self.elapsed())
    }

    /// Whether the poll has taken longer than it may.
    #[inline]
    #[must_use]
    pub fn exceeded(&self) -> bool {
        self.elapsed() > self.limit
    }

    /// What a poll of this task may take in all.
    #[must_use]
    pub const fn limit(&self) -> Ticks {
        self.limit
    }
}

/// Made by [`yield_now`].
#[derive(Debug)]
#[must_use = "a yield does nothing unless it is awaited"]
pub struct YieldNow {
    yielded: bool,
}

/// Waits for one round: the task goes to the end of its class's queue.
pub const fn yield_now() -> YieldNow {
    YieldNow { yielded: false }
}

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            return Poll::Ready(());
        }
        self.yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
