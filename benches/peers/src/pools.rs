//! The public executors, each on this thread, polled by hand.
//!
//! Unsafe code is here because `embassy-executor` asks for it: its pender is a symbol, and its raw
//! executor is polled under a promise.
//!
//! Invariants:
//! 1. An executor of embassy is polled only by the thread that made it, and never from inside one
//!    of its own polls.

use std::task::Waker;

use anyhow::{Result, anyhow};
use embassy_executor::raw::{Executor, TaskStorage};
use embassy_time::{Duration, MockDriver, Timer};
use futures_executor::LocalPool;
use futures_util::task::LocalSpawnExt as _;
use hybrid_benches::race::SLICE;

use crate::tasks::Waiting;

/// Tasks or timers of one round.
pub(crate) const BATCH: u64 = 32;

/// Called by embassy when an idle executor gets work; who polls by hand need not be told.
// SAFETY: the symbol that embassy-executor asks its platform for, with its signature.
#[unsafe(export_name = "__pender")]
extern "Rust" fn pender(_: *mut ()) {}

type Boxed = std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// Embassy's executor with tasks that wait.
pub(crate) struct Embassy {
    executor: &'static Executor,
    pub(crate) waiting: Waiting,
    pub(crate) wakers: Vec<Waker>,
}

impl Embassy {
    pub(crate) fn new() -> Result<Self> {
        let executor: &'static Executor = Box::leak(Box::new(Executor::new(std::ptr::null_mut())));
        let waiting = Waiting::new();
        for index in 0..BATCH {
            // Boxed, so that tasks of one type can be made in a loop; polled through one pointer.
            let storage: &'static TaskStorage<Boxed> = Box::leak(Box::new(TaskStorage::new()));
            let token = storage.spawn(|| Box::pin(waiting.task(index)) as Boxed);
            executor.spawner().spawn(token.map_err(|error| anyhow!("{error:?}"))?);
        }
        let mut this = Self { executor, waiting, wakers: Vec::new() };
        this.poll();
        this.wakers = this.waiting.wakers();
        Ok(this)
    }

    pub(crate) fn poll(&self) {
        // SAFETY: invariant 1: `Embassy` is neither Send nor Sync, and no task holds it.
        unsafe { self.executor.poll() };
    }

    /// Spawns tasks that end in their first poll.
    pub(crate) fn spawn(&self) -> (u64, u64) {
        let mut done = 0;
        for _ in 0..SLICE / BATCH {
            for n in 0..BATCH {
                if let Ok(token) = at_once(n) {
                    self.executor.spawner().spawn(token);
                    done += 1;
                }
            }
            self.poll();
        }
        (done, done)
    }

    /// Spawns tasks that sleep once on the mock clock, and moves it past all of them.
    pub(crate) fn timers(&self) -> (u64, u64) {
        let mut done = 0;
        for _ in 0..SLICE / BATCH {
            for n in 0..BATCH {
                if let Ok(token) = sleeps(1 + n * 37 % 64) {
                    self.executor.spawner().spawn(token);
                    done += 1;
                }
            }
            self.poll();
            MockDriver::get().advance(Duration::from_ticks(65));
            self.poll();
        }
        (done, done)
    }
}

#[embassy_executor::task(pool_size = 32)]
async fn at_once(n: u64) {
    std::hint::black_box(n);
}

#[embassy_executor::task(pool_size = 32)]
async fn sleeps(ticks: u64) {
    Timer::after(Duration::from_ticks(ticks)).await;
}

/// `LocalPool` with tasks that wait.
pub(crate) struct Pool {
    pub(crate) pool: LocalPool,
    pub(crate) waiting: Waiting,
    pub(crate) wakers: Vec<Waker>,
}

impl Pool {
    pub(crate) fn new() -> Result<Self> {
        let mut pool = LocalPool::new();
        let waiting = Waiting::new();
        for index in 0..BATCH {
            pool.spawner().spawn_local(waiting.task(index))?;
        }
        pool.run_until_stalled();
        let wakers = waiting.wakers();
        Ok(Self { pool, waiting, wakers })
    }
}

/// Spawns tasks that end in their first poll.
pub(crate) fn spawn_on(pool: &mut LocalPool) -> (u64, u64) {
    let mut done = 0;
    for _ in 0..SLICE / BATCH {
        for n in 0..BATCH {
            let task = async move {
                std::hint::black_box(n);
            };
            done += u64::from(pool.spawner().spawn_local(task).is_ok());
        }
        pool.run_until_stalled();
    }
    (done, done)
}
