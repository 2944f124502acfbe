//! A global allocator that counts what a running partition allocates: the number must be zero.
//!
//! A binary (or a test) that wants the proof declares it:
//!
//! ```
//! use host_bridge::sys::alloc_guard::CountingAllocator;
//!
//! #[global_allocator]
//! static ALLOCATOR: CountingAllocator = CountingAllocator::system();
//! # fn main() { assert!(host_bridge::sys::alloc_guard::installed()); }
//! ```
//!
//! [`crate::runtime`] watches each partition's thread: whatever is allocated, resized or freed
//! while that partition's state word says *running* is counted in its report. Without the
//! declaration the report says "not checked". In a thread that is not watched the cost is one
//! thread-local load.
//!
//! In a partition that is a process ([`guard_this_process`]) such a call ends the partition with a
//! record of it ([`super::dying`]). Only a panic that is under way may allocate then, its message
//! mostly, from a small reserve.
//!
//! Threads of the host that belong to a hot loop too (the model's, a benchmark's) are watched in
//! another way: each marks itself once with [`mark_hot_thread`], and what any of them allocates
//! between [`arm_hot`] and [`disarm_hot`] is counted for all of them together.
//!
//! Invariants, named in the SAFETY lines:
//! 1. Every call is passed on unchanged to the allocator behind, whose contract is the caller's.
//! 2. The thread-local state has no destructor and a constant initial value, so using it neither
//!    allocates nor fails, at any time of a thread's life.
//! 3. The reserve gives out each of its bytes once and takes none back.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use hybrid_shm::Word32;

/// Set by the first call: a binary without the declaration leaves it false.
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Hot threads of the host are counted now.
static ARMED: AtomicBool = AtomicBool::new(false);
static HOT_CALLS: AtomicU64 = AtomicU64::new(0);
static HOT_FIRST: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static WATCH: Cell<Option<Watched>> = const { Cell::new(None) };
    static HOT: Cell<bool> = const { Cell::new(false) };
}

/// What this thread counts, and when.
#[derive(Clone, Copy)]
struct Watched {
    word: Word32<'static>,
    while_value: u32,
    calls: u64,
    first_bytes: usize,
    /// A call ends the process.
    fatal: bool,
}

/// What was seen on a watched thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllocReport {
    /// Calls of the allocator (allocate, resize, free) while watched.
    pub calls: u64,
    /// Size of the first one in bytes, or 0.
    pub first_bytes: usize,
}

/// Whether a [`CountingAllocator`] is this process's global allocator.
#[must_use]
pub fn installed() -> bool {
    INSTALLED.load(Ordering::Relaxed)
}

/// Counts on this thread from now on, whenever `word` holds `while_value`.
pub fn watch_this_thread(word: Word32<'static>, while_value: u32) {
    WATCH.set(Some(Watched { word, while_value, calls: 0, first_bytes: 0, fatal: false }));
}

/// Ends this process at the first call of its one thread while `word` holds `while_value`. Once the
/// thread panics, memory comes from the reserve, whatever `word` says.
pub fn guard_this_process(word: Word32<'static>, while_value: u32) {
    WATCH.set(Some(Watched { word, while_value, calls: 0, first_bytes: 0, fatal: true }));
}

/// Bytes for a panic's message: several times what a state part keeps of it.
const RESERVE_BYTES: usize = 64 << 10;

/// Memory of the panic path.
struct Reserve {
    bytes: UnsafeCell<[u8; RESERVE_BYTES]>,
    used: AtomicUsize,
}

// SAFETY: invariant 3: a byte is given to one caller.
unsafe impl Sync for Reserve {}

static RESERVE: Reserve =
    Reserve { bytes: UnsafeCell::new([0; RESERVE_BYTES]), used: AtomicUsize::new(0) };

impl Reserve {
    /// The next bytes, or null when they are used up.
    fn take(&self, layout: Layout) -> *mut u8 {
        let base = self.bytes.get().cast::<u8>();
        let used = self.used.load(Ordering::Relaxed);
        let at = (base.addr() + used).next_multiple_of(layout.align()) - base.addr();
        let Some(end) = at.checked_add(layout.size()).filter(|end| *end <= RESERVE_BYTES) else {
            return std::ptr::null_mut();
        };
        self.used.store(end, Ordering::Relaxed);
        base.wrapping_add(at)
    }

    fn has(&self, at: *mut u8) -> bool {
        at.addr().wrapping_sub(self.bytes.get().addr()) < RESERVE_BYTES
    }
}

/// Stops counting and says what was seen; `None` if nothing was watched or nothing could be seen.
#[must_use]
pub fn unwatch_this_thread() -> Option<AllocReport> {
    let watched = WATCH.take()?;
    installed().then_some(AllocReport { calls: watched.calls, first_bytes: watched.first_bytes })
}

/// From now on this thread's calls count while the hot threads are watched.
pub fn mark_hot_thread() {
    HOT.set(true);
}

/// A hot loop begins.
pub fn arm_hot() {
    ARMED.store(true, Ordering::Relaxed);
}

/// A hot loop has ended.
pub fn disarm_hot() {
    ARMED.store(false, Ordering::Relaxed);
}

/// What the hot threads called since the last report; `None` if nothing could be seen.
#[must_use]
pub fn hot_report() -> Option<AllocReport> {
    let calls = HOT_CALLS.swap(0, Ordering::Relaxed);
    let first_bytes = HOT_FIRST.swap(0, Ordering::Relaxed);
    installed().then_some(AllocReport { calls, first_bytes })
}

#[cold]
fn note_hot(bytes: usize) {
    if HOT_CALLS.fetch_add(1, Ordering::Relaxed) == 0 {
        HOT_FIRST.store(bytes, Ordering::Relaxed);
    }
}

/// Passes every call on to `A` and counts for the watched threads.
#[derive(Debug)]
pub struct CountingAllocator<A = System>(A);

impl CountingAllocator<System> {
    /// Over the system's allocator.
    #[must_use]
    pub const fn system() -> Self {
        Self(System)
    }
}

impl<A> CountingAllocator<A> {
    /// Over another allocator.
    #[must_use]
    pub const fn over(allocator: A) -> Self {
        Self(allocator)
    }

    /// Counts a call, or ends the process by it; whether the reserve serves it.
    #[inline]
    fn note(bytes: usize) -> bool {
        if ARMED.load(Ordering::Relaxed) && HOT.get() {
            note_hot(bytes);
        }
        let Some(mut watched) = WATCH.get() else {
            if !INSTALLED.load(Ordering::Relaxed) {
                INSTALLED.store(true, Ordering::Relaxed);
            }
            return false;
        };
        if watched.fatal && std::thread::panicking() {
            return true;
        }
        if watched.word.load() == watched.while_value {
            if watched.fatal {
                super::dying::allocated(bytes);
            }
            if watched.calls == 0 {
                watched.first_bytes = bytes;
            }
            watched.calls += 1;
            WATCH.set(Some(watched));
        }
        false
    }
}

// SAFETY: invariants 1, 2 and 3.
unsafe impl<A: GlobalAlloc> GlobalAlloc for CountingAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if Self::note(layout.size()) {
            return RESERVE.take(layout);
        }
        // SAFETY: invariant 1.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if Self::note(layout.size()) {
            // Its bytes are given out once: they are zero.
            return RESERVE.take(layout);
        }
        // SAFETY: invariant 1.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if Self::note(new_size) {
            let Ok(wanted) = Layout::from_size_align(new_size, layout.align()) else {
                return std::ptr::null_mut();
            };
            let new = RESERVE.take(wanted);
            if !new.is_null() {
                // SAFETY: both blocks have so many bytes, and invariant 3: they are not one.
                unsafe { new.copy_from_nonoverlapping(at, layout.size().min(new_size)) };
            }
            return new;
        }
        // SAFETY: invariant 1.
        unsafe { self.0.realloc(at, layout, new_size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if Self::note(layout.size()) || RESERVE.has(at) {
            return;
        }
        // SAFETY: invariant 1.
        unsafe { self.0.dealloc(at, layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_watched_thread_in_the_named_state_is_counted() {
        let guard = CountingAllocator::system();
        let layout = Layout::from_size_align(48, 8).expect("a layout");
        let once = || {
            // SAFETY: allocated and freed with the same layout, of non-zero size.
            unsafe { guard.dealloc(guard.alloc(layout), layout) };
        };
        once();
        let word = hybrid_shm::leak_zeroed(4096).word32(0).expect("aligned");
        watch_this_thread(word, 2);
        once();
        word.store(2);
        once();
        std::thread::scope(|scope| {
            scope.spawn(|| guard_once(&guard, layout));
        });
        word.store(3);
        once();
        // The scope's own bookkeeping does not pass through `guard`: it is not the global one here.
        assert_eq!(unwatch_this_thread(), Some(AllocReport { calls: 2, first_bytes: 48 }));
        assert_eq!(unwatch_this_thread(), None);
    }

    #[test]
    fn hot_threads_are_counted_together_while_armed() {
        let guard = CountingAllocator::system();
        let layout = Layout::from_size_align(48, 8).expect("a layout");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                arm_hot();
                guard_once(&guard, layout);
                mark_hot_thread();
                guard_once(&guard, layout);
                disarm_hot();
                guard_once(&guard, layout);
            });
        });
        assert_eq!(hot_report(), Some(AllocReport { calls: 2, first_bytes: 48 }));
        assert_eq!(hot_report(), Some(AllocReport::default()));
    }

    fn guard_once(guard: &CountingAllocator, layout: Layout) {
        // SAFETY: allocated and freed with the same layout, of non-zero size.
        unsafe { guard.dealloc(guard.alloc(layout), layout) };
    }
}
