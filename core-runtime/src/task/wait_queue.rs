//! Tasks that wait for the same thing, first in, first out, with no capacity to run out of.
//!
//! [`WaitQueue`] is what back-pressure is made of: senders of a full channel, submitters of a full
//! submission queue. Each waiter is a node inside its own future, linked while it waits.
//! Core-local.
//!
//! Invariants, named in the SAFETY lines:
//! 1. A node is linked only while its future is pinned; the future's drop unlinks it, so every
//!    linked node is valid (a pinned future that is never dropped keeps its memory for ever).
//! 2. A node is linked only into the queue that its future borrows, which therefore outlives the
//!    link (or the future was leaked, and then neither is looked at again through the other: the
//!    queue's drop touches no node).
//! 3. All of it is touched on one core (`!Send + !Sync`), and no reference to a node is held across
//!    a call of code that is not ours.

use core::cell::Cell;
use core::fmt;
use core::future::Future;
use core::marker::{PhantomData, PhantomPinned};
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::{Context, Poll};

use super::wake_slot::WakeSlot;

type Link = Cell<Option<NonNull<Node>>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Never linked, or done.
    Out,
    /// In the queue.
    Linked,
    /// Taken out by a wake that it has not used yet.
    Notified,
}

struct Node {
    prev: Link,
    next: Link,
    place: Cell<Place>,
    wake: WakeSlot,
    _pinned: PhantomPinned,
}

/// A queue of waiting tasks. It stays on its core:
/// ```compile_fail,E0277
/// fn needs_send<T: Send>() {}
/// needs_send::<core_runtime::task::WaitQueue>();
/// ```
#[derive(Default)]
pub struct WaitQueue {
    head: Link,
    tail: Link,
    core_local: PhantomData<*const ()>,
}

impl WaitQueue {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self { head: Cell::new(None), tail: Cell::new(None), core_local: PhantomData }
    }

    /// Whether nobody waits.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head.get().is_none()
    }

    /// Wakes who has waited longest; returns whether somebody did.
    pub fn wake_one(&self) -> bool {
        let Some(first) = self.head.get() else {
            return false;
        };
        self.unlink(first);
        // SAFETY: invariant 1: it was linked until now, and nothing ran since.
        let node = unsafe { first.as_ref() };
        node.place.set(Place::Notified);
        node.wake.wake();
        true
    }

    /// Wakes all who wait now; returns their number.
    pub fn wake_all(&self) -> usize {
        let mut woken = 0;
        while self.wake_one() {
            woken += 1;
        }
        woken
    }

    /// Waits until `ready` gives a value. It is asked at once unless others wait already, and again
    /// after each wake. Whoever makes it true calls [`wake_one`](Self::wake_one) once for each
    /// waiter that can go on; a waiter that is dropped passes its wake on.
    pub const fn wait_until<T, R>(&self, ready: R) -> WaitUntil<'_, R>
    where
        R: FnMut() -> Option<T>,
    {
        WaitUntil {
            queue: self,
            ready,
            node: Node {
                prev: Cell::new(None),
                next: Cell::new(None),
                place: Cell::new(Place::Out),
                wake: WakeSlot::new(),
                _pinned: PhantomPinned,
            },
        }
    }

    fn link_last(&self, node: NonNull<Node>) {
        let last = self.tail.replace(Some(node));
        // SAFETY: invariant 1: the caller's node is pinned, the last one is linked.
        unsafe { node.as_ref() }.prev.set(last);
        match last {
            // SAFETY: as above.
            Some(last) => unsafe { last.as_ref() }.next.set(Some(node)),
            None => self.head.set(Some(node)),
        }
    }

    fn link_first(&self, node: NonNull<Node>) {
        let first = self.head.replace(Some(node));
        // SAFETY: invariant 1: the caller's node is pinned, the first one is linked.
        unsafe { node.as_ref() }.next.set(first);
        match first {
            // SAFETY: as above.
            Some(first) => unsafe { first.as_ref() }.prev.set(Some(node)),
            None => self.tail.set(Some(node)),
        }
    }

    /// Takes a linked node out.
    fn unlink(&self, node: NonNull<Node>) {
        // SAFETY: invariant 1: it is linked, and so are its neighbours.
        let (prev, next) = unsafe { (node.as_ref().prev.take(), node.as_ref().next.take()) };
        match prev {
            // SAFETY: as above.
            Some(prev) => unsafe { prev.as_ref() }.next.set(next),
            None => self.head.set(next),
        }
        match next {
            // SAFETY: as above.
            Some(next) => unsafe { next.as_ref() }.prev.set(prev),
            None => self.tail.set(prev),
        }
    }
}

impl fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WaitQueue(empty: {})", self.is_empty())
    }
}

/// Made by [`WaitQueue::wait_until`].
#[must_use = "a wait does nothing unless it is awaited"]
pub struct WaitUntil<'q, R> {
    queue: &'q WaitQueue,
    ready: R,
    node: Node,
}

impl<T, R: FnMut() -> Option<T>> Future for WaitUntil<'_, R> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // SAFETY: nothing is moved out of the pinned future below; `ready` and `queue` are not
        // pinned structurally, the node is and stays in place.
        let this = unsafe { self.get_unchecked_mut() };
        let place = this.node.place.get();
        let may_ask = match place {
            // Those who came first go first.
            Place::Out => this.queue.is_empty(),
            // Nobody woke us: a neighbour in a `join` did.
            Place::Linked => false,
            Place::Notified => true,
        };
        if may_ask && let Some(value) = (this.ready)() {
            this.node.place.set(Place::Out);
            return Poll::Ready(value);
        }
        this.node.wake.register(cx.waker());
        let node = NonNull::from(&this.node);
        match place {
            // Still there, or taken out and woken again while the old waker was dropped.
            Place::Linked => return Poll::Pending,
            Place::Out => this.queue.link_last(node),
            // Its turn had come, and somebody was quicker: it keeps its turn.
            Place::Notified => this.queue.link_first(node),
        }
        this.node.place.set(Place::Linked);
        Poll::Pending
    }
}

impl<R> Drop for WaitUntil<'_, R> {
    fn drop(&mut self) {
        match self.node.place.get() {
            Place::Out => {}
            Place::Linked => self.queue.unlink(NonNull::from(&self.node)),
            Place::Notified => {
                self.queue.wake_one();
            }
        }
    }
}
