//! Where the ring's words lie: shared memory, or what a test puts there.
//!
//! [`super::engine`] reaches every word through the four traits of this file, and only through
//! them, so that `loom` can run the same engine over its own cells. The implementations here are
//! the real ones, over [`Span`]s. All of a part is reached from one base address, since the slots
//! lie at a fixed distance from their owner's index.
//!
//! Invariants, named in the SAFETY lines:
//! 1. `base` is the start of a span of at least `SLOTS_OFFSET` bytes plus its slots, checked when
//!    the part was made, that lives for `'static`; it is a multiple of 8.
//! 2. `mask` is `capacity - 1` and `capacity` is a power of two, so that a masked index is a slot.
//! 3. Bytes of a part are reached through atomics only (shm's invariant 2), each word always with
//!    one width.
//! 4. A [`Peer`] part may be mapped read-only: it is loaded from, with Relaxed, and never stored
//!    to.

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use hybrid_abi::ring::{COUNTERS_OFFSET, END_OFFSET, RECORD_BYTES_MAX, SLOTS_OFFSET};
use hybrid_shm::{OutOfBounds, ReadSpan, Span};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::index::Index;

/// The words that this end writes and nobody else.
pub trait OwnEnd: Copy {
    /// Width of the indices.
    type Index: Index;
    /// Publishes this end's index; what was done before is visible to who acquires it.
    fn publish(&self, index: Self::Index);
    /// Publishes one of the `STATE_` constants and the index that broke the rules, or 0.
    fn tell_state(&self, state: u32, violation: u32);
    /// Publishes the counters, for whoever watches.
    fn tell_counters(&self, slots: u64, dropped: u64, high_water: u32);
    /// Publishes the number of records of a variable-length ring.
    fn tell_records(&self, records: u64);
}

/// The words that the peer writes and this end only reads: allegations.
pub trait PeerEnd: Copy {
    /// Width of the indices.
    type Index: Index;
    /// The peer's index, loaded once with Acquire.
    fn index(&self) -> Self::Index;
    /// The peer's state, loaded once with Acquire; read before the index.
    fn state(&self) -> u32;
}

/// The producer's own end, which has the slots.
pub trait Put: OwnEnd {
    /// What a slot holds.
    type Item;
    /// Writes the slot of a free-running index.
    fn put(&self, index: Self::Index, item: &Self::Item);
}

/// The producer's end as the consumer sees it.
pub trait Take: PeerEnd {
    /// What a slot holds.
    type Item;
    /// Copies the slot of a free-running index out.
    fn take(&self, index: Self::Index) -> Self::Item;
}

/// What a fixed ring can carry: plain bytes, a multiple of 8 of them, at most a page.
pub trait Item: Sized + FromBytes + IntoBytes + Immutable {
    /// 64-bit words of it.
    const WORDS: usize = {
        let bytes = size_of::<Self>();
        assert!(bytes != 0 && bytes.is_multiple_of(8), "whole words only");
        assert!(bytes <= RECORD_BYTES_MAX as usize, "at most a page");
        bytes / 8
    };
}

impl<T: FromBytes + IntoBytes + Immutable> Item for T {}

/// A checked part, with slots of `T`, or none for `()`.
#[derive(Debug)]
struct Part<T> {
    base: NonNull<u8>,
    mask: u32,
    item: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Part<T> {}

// SAFETY: invariants 1 and 3: the bytes live for ever, and any thread may access them atomically.
unsafe impl<T> Send for Part<T> {}

impl<T> Part<T> {
    /// The part at the start of `span`; `slot_bytes` of slots were counted by the caller.
    fn check(span: ReadSpan<'static>, slots: usize) -> Result<NonNull<u8>, OutOfBounds> {
        let refused = OutOfBounds {
            offset: 0,
            len: SLOTS_OFFSET.saturating_add(slots),
            span_len: span.len(),
        };
        span.sub(0, refused.len)?;
        NonNull::new(span.as_ptr().cast_mut())
            .filter(|base| base.addr().get().is_multiple_of(8))
            .ok_or(refused)
    }

    #[inline(always)]
    fn word32(&self, offset: usize) -> &AtomicU32 {
        debug_assert!(offset + 4 <= SLOTS_OFFSET && offset.is_multiple_of(4));
        // SAFETY: invariants 1 and 3; the offsets are this file's constants, below SLOTS_OFFSET.
        unsafe { self.base.add(offset).cast().as_ref() }
    }

    #[inline(always)]
    fn word64(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset + 8 <= SLOTS_OFFSET && offset.is_multiple_of(8));
        // SAFETY: invariants 1 and 3; the offsets are this file's constants, below SLOTS_OFFSET.
        unsafe { self.base.add(offset).cast().as_ref() }
    }
}

impl<T: Item> Part<T> {
    fn with_slots(span: ReadSpan<'static>, capacity: u32) -> Result<Self, OutOfBounds> {
        assert!(capacity.is_power_of_two(), "checked by the ring's header");
        let bytes = (capacity as usize).saturating_mul(T::WORDS * 8);
        Ok(Self { base: Self::check(span, bytes)?, mask: capacity - 1, item: PhantomData })
    }

    /// The words of the slot of `index`.
    #[inline(always)]
    fn slot(&self, index: u32) -> &[AtomicU64] {
        let at = (index & self.mask) as usize * T::WORDS;
        // SAFETY: invariants 1 to 3: at + WORDS <= capacity * WORDS words behind SLOTS_OFFSET.
        unsafe {
            let slots = self.base.add(SLOTS_OFFSET).cast::<AtomicU64>();
            core::slice::from_raw_parts(slots.add(at).as_ptr(), T::WORDS)
        }
    }
}

/// This end's part in its own region; the producer's has slots of `T`, the consumer's has none.
#[derive(Debug)]
pub struct Own<T = ()>(Part<T>);

impl<T> Clone for Own<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Own<T> {}

impl Own {
    /// The consumer's own part.
    pub(super) fn new(own: Span<'static>) -> Result<Self, OutOfBounds> {
        Ok(Self(Part { base: Part::<()>::check(own.read_only(), 0)?, mask: 0, item: PhantomData }))
    }
}

impl<T: Item> Own<T> {
    /// The producer's own part.
    pub(super) fn with_slots(own: Span<'static>, capacity: u32) -> Result<Self, OutOfBounds> {
        Part::with_slots(own.read_only(), capacity).map(Self)
    }
}

impl<T> OwnEnd for Own<T> {
    type Index = u32;

    #[inline(always)]
    fn publish(&self, index: u32) {
        // SYNC ring-publish: the slots before the tail are written, those before the head read.
        self.0.word32(END_OFFSET).store(index, Ordering::Release);
    }

    fn tell_state(&self, state: u32, violation: u32) {
        let word = |at: usize| self.0.word32(END_OFFSET + at);
        word(8).store(violation, Ordering::Relaxed);
        // SYNC ring-state: the last index is visible to who sees the ring closed.
        word(4).store(state, Ordering::Release);
    }

    fn tell_counters(&self, slots: u64, dropped: u64, high_water: u32) {
        let word = |at: usize| self.0.word64(COUNTERS_OFFSET + at);
        word(0).store(slots, Ordering::Relaxed);
        word(8).store(dropped, Ordering::Relaxed);
        let high = self.0.word32(COUNTERS_OFFSET + 16);
        high.store(high_water, Ordering::Relaxed);
    }

    #[inline(always)]
    fn tell_records(&self, records: u64) {
        let word = self.0.word64(COUNTERS_OFFSET + 24);
        word.store(records, Ordering::Relaxed);
    }
}

impl<T: Item> Put for Own<T> {
    type Item = T;

    /// Word by word with relaxed atomics: a peer that reads too early gets a torn item at worst.
    #[inline(always)]
    fn put(&self, index: u32, item: &T) {
        let (chunks, _) = item.as_bytes().as_chunks::<8>();
        for (word, bytes) in self.0.slot(index).iter().zip(chunks) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
    }
}

/// The peer's part in its region, read only.
#[derive(Debug)]
pub struct Peer<T = ()>(Part<T>);

impl<T> Clone for Peer<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Peer<T> {}

impl Peer {
    /// The consumer's part, as the producer sees it.
    pub(super) fn new(peer: ReadSpan<'static>) -> Result<Self, OutOfBounds> {
        Ok(Self(Part { base: Part::<()>::check(peer, 0)?, mask: 0, item: PhantomData }))
    }
}

impl<T: Item> Peer<T> {
    /// The producer's part, as the consumer sees it.
    pub(super) fn with_slots(peer: ReadSpan<'static>, capacity: u32) -> Result<Self, OutOfBounds> {
        Part::with_slots(peer, capacity).map(Self)
    }
}

impl<T> PeerEnd for Peer<T> {
    type Index = u32;

    #[inline(always)]
    fn index(&self) -> u32 {
        let index = self.0.word32(END_OFFSET).load(Ordering::Relaxed);
        // SYNC ring-publish: a fence, because of invariant 4.
        fence(Ordering::Acquire);
        index
    }

    #[inline(always)]
    fn state(&self) -> u32 {
        let state = self.0.word32(END_OFFSET + 4).load(Ordering::Relaxed);
        // SYNC ring-state: a fence, because of invariant 4.
        fence(Ordering::Acquire);
        state
    }
}

impl<T: Item> Take for Peer<T> {
    type Item = T;

    /// Word by word with relaxed atomics: any bytes are an [`Item`], and what was copied out no
    /// longer changes.
    #[inline(always)]
    fn take(&self, index: u32) -> T {
        let mut item = T::new_zeroed();
        let (chunks, _) = item.as_mut_bytes().as_chunks_mut::<8>();
        for (word, bytes) in self.0.slot(index).iter().zip(chunks) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        item
    }
}
