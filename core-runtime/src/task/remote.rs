//! The way in for wakes from other cores: an intrusive many-to-one list of nodes.
//!
//! Any thread [`push`](RemoteQueue::push)es, the owning core [`drain`](RemoteQueue::drain)s.
//! Nothing is allocated and nothing is lost: a node is in the list at most once (its *pending* flag
//! says so), so the list is bounded by the number of nodes. The loom test compiles this file with
//! loom's atomics.
//!
//! A push: set *pending*; if it was clear, link the node at the head.
//! A drain: take the whole list, reverse it to the order of the pushes, and for each node read its
//! link, clear *pending*, and only then hand it over: a wake that comes later pushes it again.
//!
//! Invariants, named in the SAFETY lines:
//! 1. A node that was pushed stays valid for ever.
//! 2. Only who set *pending* writes the link until it is in the list; from then on only the drain
//!    does.

use core::ptr::NonNull;

use super::sync::{AtomicBool, AtomicPtr, Ordering};

/// Something that can be pushed: it has a [`RemoteLink`].
pub(crate) trait RemoteNode: Sized {
    /// Its link.
    fn link(&self) -> &RemoteLink<Self>;
}

/// The part of a node that other cores touch.
pub(crate) struct RemoteLink<N> {
    next: AtomicPtr<N>,
    pending: AtomicBool,
}

impl<N> RemoteLink<N> {
    pub(crate) fn new() -> Self {
        Self { next: AtomicPtr::new(core::ptr::null_mut()), pending: AtomicBool::new(false) }
    }
}

/// The list's head. Any core pushes, one core drains.
pub(crate) struct RemoteQueue<N> {
    head: AtomicPtr<N>,
}

impl<N: RemoteNode> RemoteQueue<N> {
    pub(crate) fn new() -> Self {
        Self { head: AtomicPtr::new(core::ptr::null_mut()) }
    }

    /// Whether a drain would find something. May be late by one look.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed).is_null()
    }

    /// Adds `node` unless it is in the list already. What the caller stored before is visible to
    /// the drain that finds the node. Returns whether it was added.
    ///
    /// # Safety
    /// `node` is valid for ever (invariant 1) and is only ever pushed to this queue.
    pub(crate) unsafe fn push(&self, node: NonNull<N>) -> bool {
        // SAFETY: invariant 1.
        let link = unsafe { node.as_ref() }.link();
        // SYNC remote-pending: releases to the drain's swap, whoever of us pushed the node.
        if link.pending.swap(true, Ordering::AcqRel) {
            return false;
        }
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            link.next.store(head, Ordering::Relaxed);
            // SYNC remote-list: publishes the link.
            match self.head.compare_exchange_weak(
                head,
                node.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(seen) => head = seen,
            }
        }
    }

    /// Takes all nodes, oldest first, and calls `f` for each; returns how many. Owning core only.
    pub(crate) fn drain(&self, mut f: impl FnMut(NonNull<N>)) -> u32 {
        if self.is_empty() {
            return 0;
        }
        // SYNC remote-list: acquires every link in the list.
        let newest = self.head.swap(core::ptr::null_mut(), Ordering::Acquire);
        let mut oldest = Self::reverse(newest);
        let mut count = 0;
        while let Some(node) = NonNull::new(oldest) {
            // SAFETY: invariant 1.
            let link = unsafe { node.as_ref() }.link();
            oldest = link.next.load(Ordering::Relaxed);
            // SYNC remote-pending: acquires what every waker stored before it woke. From here on
            // the node may be pushed again, so its link was read above.
            link.pending.swap(false, Ordering::AcqRel);
            f(node);
            count += 1;
        }
        count
    }

    /// Turns a taken list around; invariant 2 makes the links ours.
    fn reverse(mut list: *mut N) -> *mut N {
        let mut done = core::ptr::null_mut();
        while let Some(node) = NonNull::new(list) {
            // SAFETY: invariant 1.
            let link = unsafe { node.as_ref() }.link();
            list = link.next.load(Ordering::Relaxed);
            link.next.store(done, Ordering::Relaxed);
            done = node.as_ptr();
        }
        done
    }
}
