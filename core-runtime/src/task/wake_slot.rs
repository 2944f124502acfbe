//! Our waker, and a place to keep one until its event comes.
//!
//! [`WakeSlot`] is what the driver's slots, the timers and the channels hold: registering one of
//! our wakers copies two words, waking goes straight to the run queue with no indirect call. Any
//! other waker (a test's, another executor's) works too, through its own functions.
//!
//! Invariants: those of [`super`].

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::task::{RawWaker, RawWakerVTable, Waker};

use super::header::{TaskRef, wake_data};

/// Tells our wakers from others, by its address. Nothing is counted: clone and drop are free.
static VTABLE: RawWakerVTable = RawWakerVTable::new(raw_clone, raw_wake, raw_wake, raw_drop);

/// # Safety
/// As for [`raw_wake`].
unsafe fn raw_clone(data: *const ()) -> RawWaker {
    RawWaker::new(data, &VTABLE)
}

/// # Safety
/// `data` is the data pointer of a waker that `waker_of` made.
unsafe fn raw_wake(data: *const ()) {
    // SAFETY: the caller's promise.
    unsafe { wake_data(data) }
}

/// # Safety
/// None; nothing is touched.
unsafe fn raw_drop(_data: *const ()) {}

/// The waker of the task that lives in `task` now. Never needs to be dropped.
#[inline(always)]
pub(super) fn waker_of(task: TaskRef) -> ManuallyDrop<Waker> {
    // SAFETY: the functions of `VTABLE` are sound from any thread for packed references to headers
    // that live for ever (invariant 1, and the owner test in `wake_data`).
    ManuallyDrop::new(unsafe { Waker::new(task.waker_data(), &VTABLE) })
}

#[inline(always)]
fn is_ours(waker: &Waker) -> bool {
    core::ptr::eq(waker.vtable(), &raw const VTABLE)
}

/// A place for one waker. Core-local.
///
/// ```
/// # use core_runtime::task::WakeSlot;
/// let slot = WakeSlot::new();
/// assert!(!slot.wake());
/// slot.register(std::task::Waker::noop());
/// assert!(slot.wake());
/// assert!(!slot.is_registered());
/// ```
/// It stays on its core:
/// ```compile_fail,E0277
/// fn needs_send<T: Send>() {}
/// needs_send::<core_runtime::task::WakeSlot>();
/// ```
/// ```compile_fail,E0277
/// fn needs_sync<T: Sync>() {}
/// needs_sync::<core_runtime::task::WakeSlot>();
/// ```
#[derive(Default)]
pub struct WakeSlot {
    waker: Cell<Option<Waker>>,
    core_local: PhantomData<*const ()>,
}

impl WakeSlot {
    /// An empty place.
    #[must_use]
    pub const fn new() -> Self {
        Self { waker: Cell::new(None), core_local: PhantomData }
    }

    /// Keeps `waker`; the one that was here before is forgotten, not woken.
    #[inline]
    pub fn register(&self, waker: &Waker) {
        let copy = if is_ours(waker) {
            // SAFETY: our wakers are two plain words, and cloning them does nothing else.
            unsafe { Waker::new(waker.data(), &VTABLE) }
        } else {
            waker.clone()
        };
        discard(self.waker.replace(Some(copy)));
    }

    /// Wakes and forgets the waker; returns whether there was one.
    #[inline]
    pub fn wake(&self) -> bool {
        let Some(waker) = self.waker.take() else {
            return false;
        };
        if is_ours(&waker) {
            let waker = ManuallyDrop::new(waker);
            // SAFETY: it is one of our wakers.
            unsafe { wake_data(waker.data()) };
        } else {
            waker.wake();
        }
        true
    }

    /// Forgets the waker without waking it.
    #[inline]
    pub fn clear(&self) {
        discard(self.waker.take());
    }

    /// Whether a waker is kept.
    #[inline]
    #[must_use]
    pub fn is_registered(&self) -> bool {
        let waker = self.waker.take();
        let registered = waker.is_some();
        if let Some(waker) = waker {
            self.waker.set(Some(waker));
        }
        registered
    }
}

impl fmt::Debug for WakeSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WakeSlot(registered: {})", self.is_registered())
    }
}

/// Drops a waker; ours need no call.
#[inline(always)]
fn discard(waker: Option<Waker>) {
    if let Some(waker) = waker {
        if is_ours(&waker) {
            core::mem::forget(waker);
        } else {
            drop(waker);
        }
    }
}
