//! Finds an order's slot by its reference: open addressing, linear probing, Robin Hood order.
//!
//! References are handed out nearly densely, and most orders die young. So the hash keeps runs of
//! [`RUN`] references together: new orders fall into consecutive entries, the live ones share
//! cache lines, and the entry sought is nearly always the first one looked at. Runs are spread by
//! a multiplication, so that neither old orders nor references with a stride pile up.
//!
//! An entry holds the reference folded to half its width; the order's slot has all of it. Robin
//! Hood order (an entry never stands before one whose home is earlier) lets a search for what is
//! not there stop early and a removal close its gap without leaving a mark, so the table never
//! degrades.
//!
//! Invariant: the table is at most half full, because it has twice as many entries as there are
//! order slots; so every probe ends.

use super::slot::{IndexSlot, NONE, OrderSlot};

/// References that stay neighbours: 64 entries are eight cache lines, enough for the hardware's
/// prefetcher to see a stream, and few enough to spread the load.
const RUN: u32 = 64;

/// 2^32 divided by the golden ratio, odd: spreads consecutive runs evenly.
const SPREAD: u32 = 0x9E37_79B1;

/// The table.
#[derive(Debug)]
pub(super) struct Index<'m> {
    entries: &'m mut [IndexSlot],
    mask: u32,
    /// Bits that a hashed run number is shifted right by.
    shift: u32,
}

/// What a search found.
pub(super) enum Probe {
    /// The order, and the entry that says so.
    Found { entry: u32, order: u32 },
    /// Not there; it would go here.
    Vacant { entry: u32 },
}

impl<'m> Index<'m> {
    /// An empty table over `entries`, a power of two between 1024 and 2^31.
    pub(super) fn new(entries: &'m mut [IndexSlot]) -> Self {
        let len = u32::try_from(entries.len()).expect("BookStorage has checked the size");
        assert!(len.is_power_of_two() && len >= 1024, "BookStorage has checked the size");
        entries.fill(IndexSlot::EMPTY);
        let runs = len / RUN;
        Self { entries, mask: len - 1, shift: 32 - runs.trailing_zeros() }
    }

    /// Where an order with this tag belongs.
    #[inline(always)]
    fn home(&self, tag: u32) -> u32 {
        let run = (tag / RUN).wrapping_mul(SPREAD) >> self.shift;
        run * RUN + tag % RUN
    }

    #[inline(always)]
    fn distance(&self, from: u32, to: u32) -> u32 {
        to.wrapping_sub(from) & self.mask
    }

    #[inline(always)]
    fn at(&self, entry: u32) -> IndexSlot {
        self.entries[(entry & self.mask) as usize]
    }

    #[inline(always)]
    fn set(&mut self, entry: u32, slot: IndexSlot) {
        self.entries[(entry & self.mask) as usize] = slot;
    }

    /// Searches `order_ref`.
    #[inline(always)]
    pub(super) fn probe(&self, order_ref: u64, orders: &[OrderSlot]) -> Probe {
        let tag = fold(order_ref);
        let mut entry = self.home(tag);
        let first = self.at(entry);
        if first.order == NONE {
            return Probe::Vacant { entry };
        }
        let mut found = first;
        let mut distance = 0;
        loop {
            if found.tag == tag && orders[found.order as usize].order_ref == order_ref {
                return Probe::Found { entry, order: found.order };
            }
            entry = (entry + 1) & self.mask;
            distance += 1;
            found = self.at(entry);
            if found.order == NONE || self.distance(self.home(found.tag), entry) < distance {
                return Probe::Vacant { entry };
            }
        }
    }

    /// Enters an order at the entry that a search gave; moves what is in the way.
    #[inline(always)]
    pub(super) fn insert(&mut self, entry: u32, order_ref: u64, order: u32) {
        let mut hand = IndexSlot { tag: fold(order_ref), order };
        let mut entry = entry;
        loop {
            let old = self.at(entry);
            self.set(entry, hand);
            if old.order == NONE {
                return;
            }
            // All entries up to the next free one move by one: their order stays.
            hand = old;
            entry = (entry + 1) & self.mask;
        }
    }

    /// Takes an entry out and closes the gap.
    #[inline(always)]
    pub(super) fn remove(&mut self, entry: u32) {
        let mut gap = entry;
        loop {
            let next = (gap + 1) & self.mask;
            let moved = self.at(next);
            if (moved.order == NONE) | (self.home(moved.tag) == next) {
                self.set(gap, IndexSlot::EMPTY);
                return;
            }
            self.set(gap, moved);
            gap = next;
        }
    }

    /// Entries in use, and the farthest that one is from its home (for reports and checks).
    pub(super) fn survey(&self) -> (usize, u32) {
        let mut used = 0;
        let mut farthest = 0;
        for (entry, slot) in (0_u32..).zip(self.entries.iter()) {
            if slot.order != NONE {
                used += 1;
                farthest = farthest.max(self.distance(self.home(slot.tag), entry));
            }
        }
        (used, farthest)
    }
}

/// What an entry holds of a reference: its low half, moved elsewhere by a high half that is not
/// zero, so that references which differ there only do not meet.
#[inline(always)]
const fn fold(order_ref: u64) -> u32 {
    let low = (order_ref & 0xFFFF_FFFF) as u32;
    let high = (order_ref >> 32) as u32;
    low ^ high.wrapping_mul(SPREAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::vec;

    fn order(order_ref: u64) -> OrderSlot {
        OrderSlot { order_ref, ..OrderSlot::default() }
    }

    /// Random operations against a map, with references that differ in one half only.
    #[test]
    fn the_table_agrees_with_a_map_under_collisions() {
        let mut entries = vec![IndexSlot::default(); 1024];
        let mut index = Index::new(&mut entries);
        let mut orders = vec![OrderSlot::default(); 512];
        let mut free: vec::Vec<u32> = (0..512).collect();
        let mut map = HashMap::new();
        let mut random = 7_u64;
        for step in 0..400_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let roll = random >> 40;
            // Dense references, strided ones, and ones that differ in the high half only.
            let order_ref = match roll % 3 {
                0 => roll % 700,
                1 => (roll % 300) * 64 * 1024,
                _ => (roll % 300) << 32 | 5,
            };
            match index.probe(order_ref, &orders) {
                Probe::Found { entry, order } => {
                    assert_eq!(map.remove(&order_ref), Some(order), "step {step}");
                    index.remove(entry);
                    free.push(order);
                }
                Probe::Vacant { entry } => {
                    assert!(!map.contains_key(&order_ref), "step {step}");
                    if let Some(slot) = free.pop() {
                        orders[slot as usize] = order(order_ref);
                        index.insert(entry, order_ref, slot);
                        map.insert(order_ref, slot);
                    }
                }
            }
            if step % 1000 == 0 {
                assert_eq!(index.survey().0, map.len());
            }
        }
        assert!(map.len() > 100);
        for (&order_ref, &slot) in &map {
            let found = index.probe(order_ref, &orders);
            assert!(matches!(found, Probe::Found { order, .. } if order == slot));
        }
    }

    #[test]
    fn a_run_of_references_lies_in_a_run_of_entries() {
        let mut entries = vec![IndexSlot::default(); 4096];
        let index = Index::new(&mut entries);
        for run in 0..1000 {
            let first = index.home(run * RUN);
            for tag in 0..RUN {
                assert_eq!(index.home(run * RUN + tag), first + tag);
            }
        }
    }
}
