//! Finds an order's slot by its reference: a table of buckets, each the head of a chain of slots.
//!
//! References are handed out nearly densely, and most orders die young. So the hash keeps runs of
//! [`RUN`] references together: new orders fall into consecutive buckets, the live ones share
//! cache lines, and the order sought is nearly always the first of its bucket. Runs are spread by
//! a multiplication, so that neither old orders nor references with a stride pile up.
//!
//! The chain lies in the order slots, which a search that succeeds reads anyway. So a bucket is
//! four bytes, an order is entered with two stores whatever is there already, and taken out with
//! one unless another one stands before it. (Open addressing had to look at the neighbour of each
//! entry that it took out, whose state cannot be predicted.)
//!
//! Invariant: an order in a book is in exactly one chain, that of its reference's bucket.

use super::slot::{IndexSlot, NONE, OrderSlot};

/// References that stay neighbours: 64 buckets are four cache lines, enough for the hardware's
/// prefetcher to see a stream, and few enough to spread the load.
const RUN: u32 = 64;

/// 2^32 divided by the golden ratio, odd: spreads consecutive runs evenly.
const SPREAD: u32 = 0x9E37_79B1;

/// The table.
#[derive(Debug)]
pub(super) struct Index<'m> {
    buckets: &'m mut [IndexSlot],
    mask: u32,
    /// Bits that a hashed run number is shifted right by.
    shift: u32,
}

impl<'m> Index<'m> {
    /// An empty table over `buckets`, a power of two between 1024 and 2^31.
    pub(super) fn new(buckets: &'m mut [IndexSlot]) -> Self {
        buckets.fill(IndexSlot::EMPTY);
        Self::over(buckets)
    }

    /// The table that `buckets` hold already.
    pub(super) fn over(buckets: &'m mut [IndexSlot]) -> Self {
        let len = u32::try_from(buckets.len()).expect("BookStorage has checked the size");
        assert!(len.is_power_of_two() && len >= 1024, "BookStorage has checked the size");
        let runs = len / RUN;
        Self { buckets, mask: len - 1, shift: 32 - runs.trailing_zeros() }
    }

    /// The bucket that an order of this reference belongs into.
    #[inline(always)]
    pub(super) fn bucket(&self, order_ref: u64) -> u32 {
        let tag = fold(order_ref);
        let run = (tag / RUN).wrapping_mul(SPREAD) >> (self.shift & 31);
        ((run << RUN.trailing_zeros()) | (tag % RUN)) & self.mask
    }

    /// Searches a reference in its bucket.
    #[inline(always)]
    pub(super) fn find(&self, bucket: u32, order_ref: u64, orders: &[OrderSlot]) -> Option<u32> {
        let mut order = self.buckets[bucket as usize].order;
        // `NONE` is beyond the last slot: one comparison ends the chain and guards the access.
        while let Some(slot) = orders.get(order as usize) {
            if slot.order_ref == order_ref {
                return Some(order);
            }
            order = slot.chain;
        }
        None
    }

    /// Puts an order in front of a bucket's chain; gives the order that was there, to be its
    /// `chain`.
    #[inline(always)]
    pub(super) fn enter(&mut self, bucket: u32, order: u32) -> u32 {
        core::mem::replace(&mut self.buckets[bucket as usize].order, order)
    }

    /// Takes an order out of its bucket's chain.
    #[inline(always)]
    pub(super) fn remove(&mut self, bucket: u32, order: u32, orders: &mut [OrderSlot]) {
        let chain = orders[order as usize].chain;
        let head = &mut self.buckets[bucket as usize].order;
        if *head == order {
            *head = chain;
        } else {
            let head = *head;
            unchain(head, order, chain, orders);
        }
    }

    /// Orders in all chains (for checks). Ends even if a chain is a circle.
    pub(super) fn count(&self, orders: &[OrderSlot]) -> usize {
        let mut count = 0;
        for bucket in self.buckets.iter() {
            let mut order = bucket.order;
            while let Some(slot) = orders.get(order as usize).filter(|_| count <= orders.len()) {
                count += 1;
                order = slot.chain;
            }
        }
        count
    }
}

/// Takes an order out of the chain that begins with another one.
#[cold]
#[inline(never)]
fn unchain(head: u32, order: u32, chain: u32, orders: &mut [OrderSlot]) {
    let mut before = head;
    while before != NONE {
        let next = orders[before as usize].chain;
        if next == order {
            orders[before as usize].chain = chain;
            return;
        }
        before = next;
    }
    unreachable!("an order is in the chain of its bucket");
}

/// A reference folded to half its width: its low half, moved elsewhere by a high half that is not
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

    /// Random operations against a map, with references that differ in one half only.
    #[test]
    fn the_table_agrees_with_a_map_under_collisions() {
        let mut buckets = vec![IndexSlot::default(); 1024];
        let mut index = Index::new(&mut buckets);
        let mut orders = vec![OrderSlot::default(); 512];
        let mut free: vec::Vec<u32> = (0..512).collect();
        let mut map = HashMap::new();
        let mut random = 7_u64;
        for step in 0..if cfg!(miri) { 4_000 } else { 400_000_u64 } {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let roll = random >> 40;
            // Dense references, strided ones, and ones that differ in the high half only.
            let order_ref = match roll % 3 {
                0 => roll % 700,
                1 => (roll % 300) * 64 * 1024,
                _ => (roll % 300) << 32 | 5,
            };
            let bucket = index.bucket(order_ref);
            let found = index.find(bucket, order_ref, &orders);
            assert_eq!(found, map.get(&order_ref).copied(), "step {step}");
            if let Some(order) = found {
                map.remove(&order_ref);
                index.remove(bucket, order, &mut orders);
                free.push(order);
            } else if let Some(slot) = free.pop() {
                let chain = index.enter(bucket, slot);
                orders[slot as usize] = OrderSlot { order_ref, chain, ..OrderSlot::default() };
                map.insert(order_ref, slot);
            }
            if step % 1000 == 0 {
                assert_eq!(index.count(&orders), map.len());
            }
        }
        assert!(map.len() > 100);
        let longest = |orders: &[OrderSlot]| {
            let mut lengths = HashMap::<u32, usize>::new();
            let chained = map.values().filter(|&&slot| orders[slot as usize].chain != NONE);
            chained.for_each(|&slot| {
                *lengths.entry(index.bucket(orders[slot as usize].order_ref)).or_default() += 1;
            });
            lengths.values().copied().max().unwrap_or(0)
        };
        assert!(longest(&orders) >= 2, "some chain has three orders, or it was no test");
    }

    #[test]
    fn a_run_of_references_lies_in_a_run_of_buckets() {
        let mut buckets = vec![IndexSlot::default(); 4096];
        let index = Index::new(&mut buckets);
        for run in 0..if cfg!(miri) { 20 } else { 1000 } {
            let first = index.bucket(run * u64::from(RUN));
            for tag in 0..RUN {
                assert_eq!(index.bucket(run * u64::from(RUN) + u64::from(tag)), first + tag);
            }
        }
    }
}
