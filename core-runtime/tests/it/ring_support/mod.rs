//! What the ring's tests share: leaked parts, a seeded generator, and cells of narrow indices.

use std::cell::Cell;

use core_runtime::ring::RingSpec;
use core_runtime::ring::cell::{OwnEnd, PeerEnd, Put, Take};
use core_runtime::ring::index::Index;
use hybrid_conventions::testing::Random;
use hybrid_shm::{Span, leak_aligned};

/// Leaked, zeroed parts for a ring of that shape.
pub(crate) fn parts(spec: RingSpec) -> (Span<'static>, Span<'static>) {
    let producer = leak_aligned(spec.producer_bytes(), 128);
    (producer, leak_aligned(spec.consumer_bytes(), 128))
}

/// Fewer rounds where an interpreter runs them.
pub(crate) const fn rounds(full: u32) -> u32 {
    if cfg!(miri) { full.div_ceil(500) } else { full }
}

/// A generator whose seed a failing test prints.
pub(crate) fn seeded(seed: u64) -> Random {
    println!("seed {seed:#x}");
    Random::new(seed)
}

/// The words of both ends on the heap, with indices of any width.
pub(crate) struct Words<I: Index> {
    pub(crate) tail: Cell<I>,
    pub(crate) head: Cell<I>,
    pub(crate) slots: Vec<Cell<u64>>,
}

impl<I: Index> Words<I> {
    pub(crate) fn leak(capacity: usize, first: I) -> &'static Self {
        Box::leak(Box::new(Self {
            tail: Cell::new(first),
            head: Cell::new(first),
            slots: (0..capacity).map(|_| Cell::new(0)).collect(),
        }))
    }

    fn slot(&self, index: I) -> &Cell<u64> {
        &self.slots[index.to_u32() as usize % self.slots.len()]
    }
}

/// The producer's part of [`Words`].
pub(crate) struct TailSide<I: Index>(pub(crate) &'static Words<I>);
/// The consumer's part of [`Words`].
pub(crate) struct HeadSide<I: Index>(pub(crate) &'static Words<I>);

macro_rules! copy {
    ($name:ident) => {
        impl<I: Index> Clone for $name<I> {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<I: Index> Copy for $name<I> {}
    };
}
copy!(TailSide);
copy!(HeadSide);

impl<I: Index> OwnEnd for TailSide<I> {
    type Index = I;
    fn publish(&self, index: I) {
        self.0.tail.set(index);
    }
    fn tell_state(&self, _: u32, _: u32) {}
    fn tell_counters(&self, _: u64, _: u64, _: u32) {}
    fn tell_records(&self, _: u64) {}
}

impl<I: Index> Put for TailSide<I> {
    type Item = u64;
    fn put(&self, index: I, item: &u64) {
        self.0.slot(index).set(*item);
    }
}

impl<I: Index> PeerEnd for TailSide<I> {
    type Index = I;
    fn index(&self) -> I {
        self.0.tail.get()
    }
    fn state(&self) -> u32 {
        0
    }
}

impl<I: Index> Take for TailSide<I> {
    type Item = u64;
    fn take(&self, index: I) -> u64 {
        self.0.slot(index).get()
    }
}

impl<I: Index> OwnEnd for HeadSide<I> {
    type Index = I;
    fn publish(&self, index: I) {
        self.0.head.set(index);
    }
    fn tell_state(&self, _: u32, _: u32) {}
    fn tell_counters(&self, _: u64, _: u64, _: u32) {}
    fn tell_records(&self, _: u64) {}
}

impl<I: Index> PeerEnd for HeadSide<I> {
    type Index = I;
    fn index(&self) -> I {
        self.0.head.get()
    }
    fn state(&self) -> u32 {
        0
    }
}
