//! The latest value of something: a newer one overwrites what was not taken.

use core::cell::Cell;
use core::fmt;
use core::future::{Future, poll_fn};
use core::task::Poll;

use crate::task::WakeSlot;

/// A value that one task sets and one task waits for. Core-local:
/// ```compile_fail,E0277
/// fn needs_sync<T: Sync>() {}
/// needs_sync::<core_runtime::channel::Signal<u8>>();
/// ```
pub struct Signal<T> {
    value: Cell<Option<T>>,
    wake: WakeSlot,
}

impl<T> Default for Signal<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Signal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signal")
    }
}

impl<T> Signal<T> {
    /// Without a value.
    #[must_use]
    pub const fn new() -> Self {
        Self { value: Cell::new(None), wake: WakeSlot::new() }
    }

    /// Sets the value and returns the one that nobody took.
    pub fn set(&self, value: T) -> Option<T> {
        let old = self.value.replace(Some(value));
        self.wake.wake();
        old
    }

    /// The value, if there is one.
    pub fn take(&self) -> Option<T> {
        self.value.take()
    }

    /// Waits for a value and takes it. One task may wait: a second one replaces the first.
    pub fn wait(&self) -> impl Future<Output = T> {
        poll_fn(|cx| match self.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                self.wake.register(cx.waker());
                Poll::Pending
            }
        })
    }
}
