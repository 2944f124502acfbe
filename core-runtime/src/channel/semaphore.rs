//! A number of permits that tasks of one core take and give back: a window of outstanding work.

use core::cell::Cell;

use crate::task::WaitQueue;

/// Permits, handed out first come, first served. Core-local:
/// ```compile_fail,E0277
/// fn needs_sync<T: Sync>() {}
/// needs_sync::<core_runtime::channel::Semaphore>();
/// ```
#[derive(Debug, Default)]
pub struct Semaphore {
    permits: Cell<usize>,
    waiters: WaitQueue,
}

impl Semaphore {
    /// With `permits` to take.
    #[must_use]
    pub const fn new(permits: usize) -> Self {
        Self { permits: Cell::new(permits), waiters: WaitQueue::new() }
    }

    /// Permits that can be taken now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.permits.get()
    }

    /// Takes a permit, waiting for one; it goes back when the guard is dropped.
    pub async fn acquire(&self) -> Permit<'_> {
        self.waiters.wait_until(|| self.take()).await
    }

    /// Takes a permit if one is there and nobody waits.
    #[must_use]
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        if self.waiters.is_empty() { self.take() } else { None }
    }

    /// Adds permits.
    pub fn add(&self, permits: usize) {
        self.permits.set(self.permits.get().saturating_add(permits));
        for _ in 0..permits {
            if !self.waiters.wake_one() {
                break;
            }
        }
    }

    fn take(&self) -> Option<Permit<'_>> {
        let left = self.permits.get().checked_sub(1)?;
        self.permits.set(left);
        Some(Permit { semaphore: self })
    }
}

/// A permit of a [`Semaphore`]; dropping it gives it back.
#[derive(Debug)]
#[must_use = "a permit that is dropped at once protects nothing"]
pub struct Permit<'s> {
    semaphore: &'s Semaphore,
}

impl Permit<'_> {
    /// Keeps the permit for ever, or until [`Semaphore::add`] gives it back.
    pub fn forget(self) {
        core::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.semaphore.add(1);
    }
}
