//! Slots handed out and taken back: a mark of the highest one used, and a list of the free ones.
//!
//! Fresh slots are taken in order, freed ones come back last in, first out, so that what is in use
//! stays together and warm in the cache. Nothing has to be initialised at start.

use super::mark::PoolMark;
use super::slot::{LevelSlot, NONE, OrderSlot, PageSlot};

/// A slot that can be linked into the free list.
pub(super) trait Link {
    fn link(&self) -> u32;
    fn set_link(&mut self, next: u32);
}

impl Link for OrderSlot {
    fn link(&self) -> u32 {
        self.next
    }
    fn set_link(&mut self, next: u32) {
        self.next = next;
        self.shares = 0;
    }
}

impl Link for LevelSlot {
    fn link(&self) -> u32 {
        self.head
    }
    fn set_link(&mut self, next: u32) {
        self.head = next;
        self.orders = 0;
    }
}

impl Link for PageSlot {
    fn link(&self) -> u32 {
        self.worse
    }
    fn set_link(&mut self, next: u32) {
        self.worse = next;
        self.len = 0;
    }
}

/// The slots of one kind.
#[derive(Debug)]
pub(super) struct Pool<'m, T> {
    pub(super) slots: &'m mut [T],
    free: u32,
    /// Slots ever used.
    fresh: u32,
    live: u32,
}

impl<'m, T: Link> Pool<'m, T> {
    pub(super) fn new(slots: &'m mut [T]) -> Self {
        assert!(slots.len() < NONE as usize, "BookStorage has checked the size");
        Self { slots, free: NONE, fresh: 0, live: 0 }
    }

    /// What [`Pool::resume`] needs beside the slots.
    pub(super) const fn mark(&self) -> PoolMark {
        PoolMark { free: self.free, fresh: self.fresh, live: self.live }
    }

    /// The slots as they were at `mark`; `None` if it cannot be theirs. Whether the free list is
    /// whole is [`Pool::count_free`]'s to see.
    pub(super) fn resume(slots: &'m mut [T], mark: &PoolMark) -> Option<Self> {
        let PoolMark { free, fresh, live } = *mark;
        mark.fits(slots.len()).then_some(Self { slots, free, fresh, live })
    }

    /// A slot of a number that somebody else gives.
    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)
    }

    /// A slot with whatever it held, or `None` when all are in use.
    #[inline(always)]
    pub(super) fn take(&mut self) -> Option<u32> {
        let slot = self.free;
        if slot != NONE {
            self.free = self[slot].link();
        } else if (self.fresh as usize) < self.slots.len() {
            self.live += 1;
            self.fresh += 1;
            return Some(self.fresh - 1);
        } else {
            return None;
        }
        self.live += 1;
        Some(slot)
    }

    #[inline(always)]
    pub(super) fn give(&mut self, slot: u32) {
        let free = self.free;
        self[slot].set_link(free);
        self.free = slot;
        self.live -= 1;
    }

    pub(super) fn is_full(&self) -> bool {
        self.live as usize == self.slots.len()
    }

    pub(super) fn usage(&self) -> super::Usage {
        super::Usage {
            live: self.live as usize,
            high_water: self.fresh as usize,
            capacity: self.slots.len(),
        }
    }

    /// Length of the free list (for checks).
    pub(super) fn count_free(&self) -> usize {
        let mut count = self.slots.len() - self.fresh as usize;
        let mut slot = self.free;
        while slot != NONE && count <= self.slots.len() {
            count += 1;
            // A link to nowhere ends it: the count is wrong then, unless it was the last one.
            slot = self.get(slot).map_or(NONE, Link::link);
        }
        count
    }
}

impl<T> core::ops::Index<u32> for Pool<'_, T> {
    type Output = T;
    #[inline(always)]
    fn index(&self, slot: u32) -> &T {
        &self.slots[slot as usize]
    }
}

impl<T> core::ops::IndexMut<u32> for Pool<'_, T> {
    #[inline(always)]
    fn index_mut(&mut self, slot: u32) -> &mut T {
        &mut self.slots[slot as usize]
    }
}
