//! What either end knows of the ring, and what it may do next: arithmetic only.
//!
//! Called by [`super::engine`]. It touches no shared word: the peer's index comes in as a value,
//! once, and is checked here. Generic over the index's width so that a test can go through every
//! state with 8 bits; the ring itself has 32.
//!
//! Invariants, with all differences modulo the index's range:
//! 1. `capacity` is a power of two of at most half the range.
//! 2. Producer: `tail - seen <= capacity`, and `limit - tail <= capacity - (tail - seen)`.
//! 3. Consumer: `end - head <= capacity`.
//! 4. The peer's index only moves forward, and never past what this end has published.

use core::cell::Cell;
use core::fmt::Debug;

/// A free-running index that wraps.
pub trait Index: Copy + Ord + Debug + 'static {
    /// No slots.
    const ZERO: Self;
    /// One slot.
    const ONE: Self;
    /// `self + slots`, wrapping.
    #[must_use]
    fn plus(self, slots: Self) -> Self;
    /// Slots from `earlier` to `self`, wrapping.
    #[must_use]
    fn since(self, earlier: Self) -> Self;
    /// An eighth, rounded down.
    #[must_use]
    fn eighth(self) -> Self;
    /// As the widest index.
    #[must_use]
    fn to_u32(self) -> u32;
    /// The low bits of `wide`.
    #[must_use]
    fn from_u32(wide: u32) -> Self;
}

macro_rules! index {
    ($($int:ty),*) => {$(
        impl Index for $int {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            #[inline(always)]
            fn plus(self, slots: Self) -> Self {
                self.wrapping_add(slots)
            }
            #[inline(always)]
            fn since(self, earlier: Self) -> Self {
                self.wrapping_sub(earlier)
            }
            #[inline(always)]
            fn eighth(self) -> Self {
                self / 8
            }
            #[inline(always)]
            fn to_u32(self) -> u32 {
                self.into()
            }
            #[inline(always)]
            fn from_u32(wide: u32) -> Self {
                const MASK: u32 = <$int>::MAX as u32;
                <$int>::try_from(wide & MASK).unwrap_or(<$int>::MAX)
            }
        }
    )*};
}

index!(u8, u16, u32);

/// An index of the peer that breaks the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What the peer claimed.
    pub seen: u32,
    /// The least index that it could have claimed.
    pub least: u32,
    /// The greatest index that it could have claimed.
    pub greatest: u32,
}

/// Why slots were not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There are not as many free slots.
    Full,
    /// The peer broke the rules.
    Violation(Violation),
}

/// The producer's end.
///
/// `limit` is the index up to which it may go without looking at the peer: at most an eighth of the
/// ring ahead (see `stride`). So the depth is sampled at least that often, and the fast path pays
/// nothing for the high-water mark.
#[derive(Debug)]
pub struct ProducerIndex<I: Copy> {
    tail: Cell<I>,
    limit: Cell<I>,
    seen: Cell<I>,
    high_water: Cell<I>,
    capacity: I,
}

impl<I: Index> ProducerIndex<I> {
    /// An empty ring of `capacity` slots whose indices begin at `first`.
    #[must_use]
    pub const fn new(capacity: I, first: I) -> Self {
        Self {
            tail: Cell::new(first),
            limit: Cell::new(first),
            seen: Cell::new(first),
            high_water: Cell::new(I::ZERO),
            capacity,
        }
    }

    /// Index of the next slot to publish.
    #[inline(always)]
    pub fn tail(&self) -> I {
        self.tail.get()
    }

    /// Slots of the ring.
    #[inline(always)]
    pub const fn capacity(&self) -> I {
        self.capacity
    }

    /// Most slots that were seen in use at once. There may have been more by an eighth of the
    /// capacity, or by 32; a ring that refused was seen full.
    pub fn high_water(&self) -> I {
        self.high_water.get()
    }

    /// Slots in use when the peer was last looked at, and since then.
    pub fn depth(&self) -> I {
        self.tail.get().since(self.seen.get())
    }

    /// Whether `slots` slots from index `from` on may be written without looking at the peer.
    ///
    /// `from` is the tail, or a later index up to which slots were claimed but not published.
    #[inline(always)]
    pub fn has_room(&self, from: I, slots: I) -> bool {
        self.room(from) >= slots
    }

    /// Slots from index `from` on that may be written without looking at the peer.
    #[inline(always)]
    pub fn room(&self, from: I) -> I {
        self.limit.get().since(from)
    }

    /// The indices `tail .. to` are published by the caller: the next slot is `to`.
    #[inline(always)]
    pub fn advance(&self, to: I) {
        self.tail.set(to);
    }

    /// Takes the peer's head, loaded once just now, and says whether `slots` slots from `from` on
    /// are free.
    ///
    /// # Errors
    /// [`Refused`]; after a violation there is never room again.
    pub fn refresh(&self, head: I, from: I, slots: I) -> Result<(), Refused> {
        let (seen, tail) = (self.seen.get(), self.tail.get());
        if head.since(seen) > tail.since(seen) {
            self.limit.set(tail);
            return Err(Refused::Violation(Violation {
                seen: head.to_u32(),
                least: seen.to_u32(),
                greatest: tail.to_u32(),
            }));
        }
        self.seen.set(head);
        let used = from.since(head);
        let free = self.capacity.since(used);
        let fits = slots <= free;
        let depth = if fits { used.plus(slots) } else { used };
        self.high_water.set(self.high_water.get().max(depth));
        self.limit.set(from.plus(free.min(slots.max(self.stride()))));
        if fits { Ok(()) } else { Err(Refused::Full) }
    }

    /// Slots after which the peer is looked at again, though there was more room: an eighth of the
    /// ring, but 32 slots where there are, so that the look costs little.
    fn stride(&self) -> I {
        self.capacity.eighth().max(self.capacity.min(I::from_u32(32)))
    }

    /// There is never room again.
    pub fn shut(&self) {
        self.limit.set(self.tail.get());
    }
}

/// The consumer's end.
///
/// `usual` is the most slots that were found waiting so far: as long as no more wait, what the
/// peer claims is in bounds and no news, which is one comparison.
#[derive(Debug)]
pub struct ConsumerIndex<I: Copy> {
    head: Cell<I>,
    end: Cell<I>,
    usual: Cell<I>,
    high_water: Cell<I>,
    capacity: I,
}

impl<I: Index> ConsumerIndex<I> {
    /// An empty ring of `capacity` slots whose indices begin at `first`.
    #[must_use]
    pub const fn new(capacity: I, first: I) -> Self {
        Self {
            head: Cell::new(first),
            end: Cell::new(first),
            usual: Cell::new(I::ZERO),
            high_water: Cell::new(I::ZERO),
            capacity,
        }
    }

    /// Index of the next slot to read.
    #[inline(always)]
    pub fn head(&self) -> I {
        self.head.get()
    }

    /// Slots of the ring.
    #[inline(always)]
    pub const fn capacity(&self) -> I {
        self.capacity
    }

    /// Most slots that were found waiting at once.
    pub fn high_water(&self) -> I {
        self.high_water.get()
    }

    /// Slots that may be read without looking at the peer.
    #[inline(always)]
    pub fn ready(&self) -> I {
        self.end.get().since(self.head.get())
    }

    /// The slots before `to` were read.
    #[inline(always)]
    pub fn advance(&self, to: I) {
        self.head.set(to);
    }

    /// Whether the slot of `head`, this end's head, may be read without looking at the peer.
    #[inline(always)]
    pub fn is_ready(&self, head: I) -> bool {
        self.end.get() != head
    }

    /// Takes the peer's tail, loaded once just now, if nothing was ready and something is, and no
    /// more than usual; else it does nothing and [`ConsumerIndex::refresh`] says why.
    #[inline(always)]
    pub fn refresh_usual(&self, head: I, tail: I) -> bool {
        // Nothing waiting wraps to the greatest number, which is not below.
        let usual = tail.since(head).since(I::ONE) < self.usual.get();
        if usual {
            self.end.set(tail);
        }
        usual
    }

    /// Takes the peer's tail, loaded once just now.
    ///
    /// # Errors
    /// [`Violation`]; after it nothing is ever ready again.
    pub fn refresh(&self, tail: I) -> Result<(), Violation> {
        let (head, end) = (self.head.get(), self.end.get());
        let free = self.capacity.since(end.since(head));
        if tail.since(end) > free {
            self.shut();
            return Err(Violation {
                seen: tail.to_u32(),
                least: end.to_u32(),
                greatest: head.plus(self.capacity).to_u32(),
            });
        }
        self.end.set(tail);
        let waiting = tail.since(head);
        self.high_water.set(self.high_water.get().max(waiting));
        self.usual.set(self.high_water.get());
        Ok(())
    }

    /// Nothing is ever ready again.
    pub fn shut(&self) {
        self.end.set(self.head.get());
        self.usual.set(I::ZERO);
    }
}

/// For those who have Kani (`cargo kani -p core-runtime`): every index of 32 bits, where the tests
/// go through all of 8.
#[cfg(any(kani, test))]
mod proofs {
    use super::*;
    #[cfg(not(kani))]
    use hybrid_conventions::testing::kani;

    fn capacity() -> u32 {
        1 << kani::any_where(|shift: &u32| *shift < 32)
    }

    /// Whatever the consumer claims: what may be written then is free by what it claimed.
    #[cfg_attr(kani, kani::proof)]
    pub(super) fn a_producer_never_gets_a_slot_that_is_in_use() {
        let (capacity, first) = (capacity(), kani::any());
        let producer = ProducerIndex::<u32>::new(capacity, first);
        let used = kani::any_where(|used| *used <= capacity);
        producer.advance(first.wrapping_add(used));
        let (head, slots): (u32, u32) = (kani::any(), kani::any());
        let tail = producer.tail();
        if producer.refresh(head, tail, slots).is_ok() {
            assert!(head.wrapping_sub(first) <= used);
            assert!(tail.wrapping_sub(head) <= capacity - slots);
        }
        assert!(
            tail.wrapping_add(producer.room(tail)).wrapping_sub(head) <= capacity
                || producer.room(tail) == 0
        );
    }

    /// Whatever the producer claims: what may be read then was claimed, and is at most a full ring.
    #[cfg_attr(kani, kani::proof)]
    pub(super) fn a_consumer_never_gets_more_than_a_full_ring() {
        let (capacity, first) = (capacity(), kani::any());
        let consumer = ConsumerIndex::<u32>::new(capacity, first);
        let tail: u32 = kani::any();
        match consumer.refresh(tail) {
            Ok(()) => assert!(consumer.ready() == tail.wrapping_sub(first)),
            Err(_) => assert!(consumer.ready() == 0),
        }
        assert!(consumer.ready() <= capacity);
    }
}

#[cfg(test)]
mod tests {
    use super::proofs;
    use hybrid_conventions::testing::kani;

    #[test]
    fn the_proofs_hold_for_random_values() {
        kani::sample(proofs::a_producer_never_gets_a_slot_that_is_in_use);
        kani::sample(proofs::a_consumer_never_gets_more_than_a_full_ring);
    }
}
