//! A bounded channel: many senders, one receiver, first in, first out.
//!
//! A full channel makes its senders wait in the order in which they came. Core-local.
//!
//! Closing: when the last sender is gone the receiver gets what is left and then `None`; when the
//! receiver is gone (or has called [`Receiver::close`]) senders get their value back at once.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::{Future, poll_fn};
use core::marker::PhantomData;
use core::task::{Context, Poll};

use heapless::Deque;

use super::AlreadySplit;
use crate::task::{WaitQueue, WakeSlot};

/// The value that could not be sent, since nobody will receive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("channel is closed")]
pub struct SendError<T>(pub T);

/// Why [`Sender::try_send`] gave the value back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrySendError<T> {
    /// No place is free, or senders wait for one already.
    #[error("channel is full")]
    Full(T),
    /// Nobody will receive it.
    #[error("channel is closed")]
    Closed(T),
}

/// Why [`Receiver::try_recv`] has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TryRecvError {
    /// Nothing is there now.
    #[error("channel is empty")]
    Empty,
    /// Nothing is there, and nothing will come.
    #[error("channel is empty, and all senders are gone")]
    Closed,
}

/// Room for `N` values. It stays on its core:
/// ```compile_fail,E0277
/// fn needs_sync<T: Sync>() {}
/// needs_sync::<core_runtime::channel::Channel<u8, 4>>();
/// ```
pub struct Channel<T, const N: usize> {
    values: RefCell<Deque<T, N>>,
    senders: Cell<usize>,
    receiver: Cell<bool>,
    closed: Cell<bool>,
    high_water: Cell<usize>,
    has_value: WakeSlot,
    has_room: WaitQueue,
    core_local: PhantomData<*const ()>,
}

impl<T, const N: usize> Default for Channel<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const N: usize> Channel<T, N> {
    /// An empty channel without ends.
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(N > 0, "a channel needs room for one value") };
        Self {
            values: RefCell::new(Deque::new()),
            senders: Cell::new(0),
            receiver: Cell::new(false),
            closed: Cell::new(false),
            high_water: Cell::new(0),
            has_value: WakeSlot::new(),
            has_room: WaitQueue::new(),
            core_local: PhantomData,
        }
    }

    /// The two ends; senders are made by cloning.
    ///
    /// # Errors
    /// [`AlreadySplit`] while an earlier end is still there.
    pub fn split(&'static self) -> Result<(Sender<T, N>, Receiver<T, N>), AlreadySplit> {
        if self.receiver.get() || self.senders.get() > 0 {
            return Err(AlreadySplit);
        }
        self.clear();
        self.closed.set(false);
        self.senders.set(1);
        self.receiver.set(true);
        Ok((Sender { channel: self }, Receiver { channel: self }))
    }

    /// Values that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.borrow().len()
    }

    /// Whether no value waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values it has room for.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        N
    }

    /// The most values that ever waited.
    #[must_use]
    pub fn high_water(&self) -> usize {
        self.high_water.get()
    }

    fn push(&self, value: T) -> Result<(), T> {
        let len = {
            let mut values = self.values.borrow_mut();
            values.push_back(value)?;
            values.len()
        };
        if len > self.high_water.get() {
            self.high_water.set(len);
        }
        self.has_value.wake();
        Ok(())
    }

    fn pop(&self) -> Option<T> {
        let value = self.values.borrow_mut().pop_front();
        if value.is_some() {
            self.has_room.wake_one();
        }
        value
    }

    /// Drops all values, one at a time: a value's own `drop` may look at the channel.
    fn clear(&self) {
        while let Some(value) = self.pop() {
            drop(value);
        }
    }
}

impl<T, const N: usize> fmt::Debug for Channel<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({} of {N})", self.len())
    }
}

/// A sending end. Core-local.
///
/// ```compile_fail,E0277
/// fn needs_send<T: Send>() {}
/// needs_send::<core_runtime::channel::Sender<u8, 4>>();
/// ```
#[derive(Debug)]
pub struct Sender<T: 'static, const N: usize> {
    channel: &'static Channel<T, N>,
}

impl<T, const N: usize> Sender<T, N> {
    /// Sends `value`, waiting for room.
    ///
    /// # Errors
    /// [`SendError`] with the value when the receiver is gone.
    pub async fn send(&self, value: T) -> Result<(), SendError<T>> {
        let channel = self.channel;
        let mut value = Some(value);
        let mut attempt = move || {
            let unsent = value.take()?;
            if channel.closed.get() {
                return Some(Err(SendError(unsent)));
            }
            match channel.push(unsent) {
                Ok(()) => Some(Ok(())),
                Err(unsent) => {
                    value = Some(unsent);
                    None
                }
            }
        };
        channel.has_room.wait_until(&mut attempt).await
    }

    /// Sends `value` if there is room and nobody waits for it.
    ///
    /// # Errors
    /// [`TrySendError`] with the value.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        if self.channel.closed.get() {
            return Err(TrySendError::Closed(value));
        }
        if !self.channel.has_room.is_empty() {
            return Err(TrySendError::Full(value));
        }
        self.channel.push(value).map_err(TrySendError::Full)
    }

    /// Whether nobody will receive.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.channel.closed.get()
    }

    /// The channel: its depth and high-water mark.
    #[must_use]
    pub const fn channel(&self) -> &'static Channel<T, N> {
        self.channel
    }
}

impl<T, const N: usize> Clone for Sender<T, N> {
    fn clone(&self) -> Self {
        self.channel.senders.set(self.channel.senders.get() + 1);
        Self { channel: self.channel }
    }
}

impl<T, const N: usize> Drop for Sender<T, N> {
    fn drop(&mut self) {
        let left = self.channel.senders.get() - 1;
        self.channel.senders.set(left);
        if left == 0 {
            self.channel.has_value.wake();
        }
    }
}

/// The receiving end. Core-local.
///
/// ```compile_fail,E0277
/// fn needs_send<T: Send>() {}
/// needs_send::<core_runtime::channel::Receiver<u8, 4>>();
/// ```
#[derive(Debug)]
pub struct Receiver<T: 'static, const N: usize> {
    channel: &'static Channel<T, N>,
}

impl<T, const N: usize> Receiver<T, N> {
    /// The next value, or `None` when all senders are gone and nothing is left.
    pub fn recv(&mut self) -> impl Future<Output = Option<T>> {
        poll_fn(|cx| self.poll_recv(cx))
    }

    /// [`recv`](Self::recv) for futures written by hand.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match self.try_recv() {
            Ok(value) => Poll::Ready(Some(value)),
            Err(TryRecvError::Closed) => Poll::Ready(None),
            Err(TryRecvError::Empty) => {
                self.channel.has_value.register(cx.waker());
                Poll::Pending
            }
        }
    }

    /// The next value if it is there.
    ///
    /// # Errors
    /// [`TryRecvError`].
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let channel = self.channel;
        match channel.pop() {
            Some(value) => Ok(value),
            None if channel.senders.get() == 0 || channel.closed.get() => Err(TryRecvError::Closed),
            None => Err(TryRecvError::Empty),
        }
    }

    /// Refuses further values; those that were sent can still be received.
    pub fn close(&mut self) {
        self.channel.closed.set(true);
        self.channel.has_room.wake_all();
    }

    /// The channel: its depth and high-water mark.
    #[must_use]
    pub const fn channel(&self) -> &'static Channel<T, N> {
        self.channel
    }
}

impl<T, const N: usize> Drop for Receiver<T, N> {
    fn drop(&mut self) {
        self.close();
        self.channel.clear();
        self.channel.has_value.clear();
        self.channel.receiver.set(false);
    }
}
