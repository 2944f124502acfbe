//! An event without a value, for all tasks of one core that wait for it.

use core::cell::Cell;
use core::future::Future;

use crate::task::WaitQueue;

/// Wakes everyone who waits. Who calls [`notified`](Self::notified) before the event sees it, even
/// if it is polled first after it. For an event that one task takes, see [`Signal`](super::Signal).
///
/// Core-local:
/// ```compile_fail,E0277
/// fn needs_sync<T: Sync>() {}
/// needs_sync::<core_runtime::channel::Notify>();
/// ```
#[derive(Debug, Default)]
pub struct Notify {
    events: Cell<u64>,
    waiters: WaitQueue,
}

impl Notify {
    /// Nothing happened yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { events: Cell::new(0), waiters: WaitQueue::new() }
    }

    /// It happened: wakes all who wait; returns how many.
    pub fn notify_all(&self) -> usize {
        self.events.set(self.events.get().wrapping_add(1));
        self.waiters.wake_all()
    }

    /// Waits for the first event after this call.
    pub fn notified(&self) -> impl Future<Output = ()> {
        let seen = self.events.get();
        let happened = move || (self.events.get() != seen).then_some(());
        async move {
            // Asked here because a wait queue with waiters in it does not ask at once.
            if happened().is_none() {
                self.waiters.wait_until(happened).await;
            }
        }
    }
}
