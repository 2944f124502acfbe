//! One value, sent once from one task to another of the same core.

use core::cell::Cell;
use core::fmt;
use core::future::Future;
use core::marker::PhantomData;
use core::pin::Pin;
use core::task::{Context, Poll};

use super::AlreadySplit;
use crate::task::WakeSlot;

/// The sender was dropped and has sent nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sender is gone and has sent nothing")]
pub struct SenderGone;

/// Room for one value, for one use at a time. Core-local:
/// ```compile_fail,E0277
/// fn needs_sync<T: Sync>() {}
/// needs_sync::<core_runtime::channel::Oneshot<u8>>();
/// ```
pub struct Oneshot<T> {
    value: Cell<Option<T>>,
    sender: Cell<bool>,
    receiver: Cell<bool>,
    wake: WakeSlot,
    core_local: PhantomData<*const ()>,
}

impl<T> Default for Oneshot<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Oneshot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Oneshot")
    }
}

impl<T> Oneshot<T> {
    /// An empty one without ends.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            value: Cell::new(None),
            sender: Cell::new(false),
            receiver: Cell::new(false),
            wake: WakeSlot::new(),
            core_local: PhantomData,
        }
    }

    /// The two ends.
    ///
    /// # Errors
    /// [`AlreadySplit`] while an earlier end is still there.
    pub fn split(&'static self) -> Result<(OneshotSender<T>, OneshotReceiver<T>), AlreadySplit> {
        if self.sender.get() || self.receiver.get() {
            return Err(AlreadySplit);
        }
        self.sender.set(true);
        self.receiver.set(true);
        Ok((OneshotSender { shared: self }, OneshotReceiver { shared: self }))
    }
}

/// The sending end. Core-local.
#[derive(Debug)]
pub struct OneshotSender<T: 'static> {
    shared: &'static Oneshot<T>,
}

impl<T> OneshotSender<T> {
    /// Sends the value.
    ///
    /// # Errors
    /// The value, when the receiver is gone.
    pub fn send(self, value: T) -> Result<(), T> {
        if !self.shared.receiver.get() {
            return Err(value);
        }
        self.shared.value.set(Some(value));
        // Dropping `self` wakes the receiver.
        Ok(())
    }

    /// Whether the receiver is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.shared.receiver.get()
    }
}

impl<T> Drop for OneshotSender<T> {
    fn drop(&mut self) {
        self.shared.sender.set(false);
        self.shared.wake.wake();
    }
}

/// The receiving end: a future of the value. Core-local.
#[derive(Debug)]
pub struct OneshotReceiver<T: 'static> {
    shared: &'static Oneshot<T>,
}

impl<T> Future for OneshotReceiver<T> {
    type Output = Result<T, SenderGone>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.shared.value.take() {
            Some(value) => Poll::Ready(Ok(value)),
            None if !self.shared.sender.get() => Poll::Ready(Err(SenderGone)),
            None => {
                self.shared.wake.register(cx.waker());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for OneshotReceiver<T> {
    fn drop(&mut self) {
        // The value goes first: its own `drop` finds the end still in use, so that nobody can
        // split meanwhile.
        drop(self.shared.value.take());
        self.shared.wake.clear();
        self.shared.receiver.set(false);
    }
}
