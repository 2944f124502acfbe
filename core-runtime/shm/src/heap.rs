//! Heap-backed spans, for tests, Miri and tools that need no real mapping.

use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};

use crate::span::Span;

/// An alignment that every allocation has.
const SMALL_ALIGN: usize = 16;

/// A zeroed span of `len` bytes, aligned to 4 KiB, never freed.
#[must_use]
pub fn leak_zeroed(len: usize) -> Span<'static> {
    leak_aligned(len, 4096)
}

/// A zeroed span of `len` bytes, aligned to `align` (a power of two), never freed.
///
/// # Panics
/// If `align` is not a power of two or the heap is exhausted.
#[must_use]
pub fn leak_aligned(len: usize, align: usize) -> Span<'static> {
    assert!(align.is_power_of_two(), "a power-of-two alignment");
    // With a small alignment the allocator takes fresh pages for large spans, which are zero and
    // cost nothing until they are touched; with a large one it would clear them by hand.
    let slack = align.saturating_sub(SMALL_ALIGN);
    let layout = Layout::from_size_align(len.max(1) + slack, SMALL_ALIGN).expect("a size");
    // SAFETY: the layout's size is not zero.
    let base = unsafe { alloc_zeroed(layout) };
    let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
    #[cfg(miri)]
    keep(base);
    let skipped = base.as_ptr().addr().next_multiple_of(align) - base.as_ptr().addr();
    // SAFETY: at most `slack` bytes, since the base has the small alignment.
    let base = unsafe { base.byte_add(skipped) };
    // SAFETY: invariants 1 and 2: the bytes are leaked, and only the span names them.
    unsafe { Span::from_raw(base, len) }
}

/// Makes a leak known, since the interpreter reports memory that nothing points to any more.
#[cfg(miri)]
fn keep(base: NonNull<u8>) {
    use core::sync::atomic::AtomicPtr;
    use std::sync::{Mutex, PoisonError};
    use std::vec::Vec;

    static KEPT: Mutex<Vec<AtomicPtr<u8>>> = Mutex::new(Vec::new());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.push(AtomicPtr::new(base.as_ptr()));
}
