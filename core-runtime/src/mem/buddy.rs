//! The bookkeeping of the arena: which blocks are free, by size class.
//!
//! A binary buddy system. Block sizes are `UNIT << order`; a block's index in its order is its
//! offset divided by its size, its buddy is that index with the lowest bit flipped. Each order has
//! a bit for each block that could exist, set when that block is free as a whole, with summary
//! words above (a word of a layer says which words of the layer below are not zero), so that the
//! lowest free block of an order is found in at most five steps and setting or clearing costs one.
//! A block and its buddy are never both free: they are joined at once, so that what is free is
//! always in the largest blocks it can be in.
//!
//! All of it is two bits a unit, in bump memory: 256 KiB for 512 MiB. No unsafe, no addresses: it
//! deals in units of [`UNIT`] bytes.

use super::bump::{Bump, OutOfMemory};

/// Bytes of the smallest block: the smallest LBA, so that eight single-block buffers share a page.
pub(super) const UNIT: usize = 512;
/// The largest block is 1 GiB: the largest page, and no transfer is longer.
pub(super) const TOP_ORDER: u32 = 21;
/// Orders 0 (512 B) to [`TOP_ORDER`].
pub(super) const ORDERS: usize = TOP_ORDER as usize + 1;
/// Summary layers: 64^5 units are 512 GiB, beyond any machine of ours.
const LAYERS: usize = 5;
/// The most units an arena may have; below 2^30, so that `u32` arithmetic on units can't overflow.
pub(super) const MAX_UNITS: usize = 1 << 29;

/// A set of block numbers with a fast minimum.
#[derive(Debug)]
struct BitTree {
    layers: [&'static mut [u64]; LAYERS],
    depth: usize,
}

impl BitTree {
    fn new(bits: usize, bump: &Bump) -> Result<Self, OutOfMemory> {
        let mut layers: [&'static mut [u64]; LAYERS] = Default::default();
        let mut depth = 0;
        let mut words = bits.div_ceil(64);
        while depth < LAYERS && words > 0 {
            layers[depth] = bump.slice_with(words, |_| 0)?;
            depth += 1;
            words = if words == 1 { 0 } else { words.div_ceil(64) };
        }
        Ok(Self { layers, depth })
    }

    /// Bump bytes that a tree of `bits` takes.
    const fn bytes(bits: usize) -> usize {
        let mut total = 0;
        let mut words = bits.div_ceil(64);
        while words > 0 {
            total += words * 8;
            words = if words == 1 { 0 } else { words.div_ceil(64) };
        }
        total
    }

    #[inline]
    fn set(&mut self, bit: u32) {
        let mut bit = bit as usize;
        for layer in &mut self.layers[..self.depth] {
            let word = &mut layer[bit / 64];
            let was = *word;
            *word = was | 1 << (bit % 64);
            if was != 0 {
                return;
            }
            bit /= 64;
        }
    }

    /// Clears `bit` and says whether it was set.
    #[inline]
    fn clear(&mut self, bit: u32) -> bool {
        let mut bit = bit as usize;
        match self.layers[0].get(bit / 64) {
            Some(word) if word & 1 << (bit % 64) != 0 => {}
            _ => return false,
        }
        for layer in &mut self.layers[..self.depth] {
            let word = &mut layer[bit / 64];
            *word &= !(1 << (bit % 64));
            if *word != 0 {
                break;
            }
            bit /= 64;
        }
        true
    }

    fn is_empty(&self) -> bool {
        self.depth == 0 || self.layers[self.depth - 1][0] == 0
    }

    /// The lowest bit that is set.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "bits are below MAX_UNITS, 2^29")]
    fn first(&self) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        let mut at = 0;
        for layer in self.layers[..self.depth].iter().rev() {
            at = at * 64 + layer[at].trailing_zeros() as usize;
        }
        Some(at as u32)
    }
}

/// The free blocks.
#[derive(Debug)]
pub(super) struct Buddy {
    free: [BitTree; ORDERS],
    /// Bit `order` is set when that order has a free block.
    some: u32,
}

impl Buddy {
    /// `units` units, all free, in the largest aligned blocks that they hold.
    pub(super) fn new(units: usize, bump: &Bump) -> Result<Self, OutOfMemory> {
        debug_assert!(units <= MAX_UNITS);
        let mut failed = Ok(());
        let free = core::array::from_fn(|order| {
            BitTree::new(units >> order, bump).unwrap_or_else(|error| {
                failed = Err(error);
                BitTree { layers: Default::default(), depth: 0 }
            })
        });
        failed?;
        let mut buddy = Self { free, some: 0 };
        let mut at = 0;
        while at < units {
            let fits = (units - at).ilog2().min(at.trailing_zeros());
            let order = fits.min(TOP_ORDER);
            #[expect(clippy::cast_possible_truncation, reason = "units are at most 2^29")]
            buddy.insert(order, (at >> order) as u32);
            at += 1 << order;
        }
        Ok(buddy)
    }

    /// Bump bytes that the bookkeeping of `units` takes.
    pub(super) const fn bytes(units: usize) -> usize {
        let mut total = 0;
        let mut order = 0;
        while order < ORDERS {
            total += BitTree::bytes(units >> order);
            order += 1;
        }
        total
    }

    /// Takes a block of `order`; returns its first unit.
    pub(super) fn take(&mut self, order: u32) -> Option<u32> {
        let candidates = self.some >> order << order;
        if candidates == 0 {
            return None;
        }
        let mut from = candidates.trailing_zeros();
        let mut block = self.free[from as usize].first()?;
        self.remove(from, block);
        // Keep the lower half, free the upper, down to the size that was asked for.
        while from > order {
            from -= 1;
            block *= 2;
            self.insert(from, block + 1);
        }
        Some(block << order)
    }

    /// Gives back the block of `order` that starts at `unit`, joined with its free buddies.
    pub(super) fn give(&mut self, order: u32, unit: u32) {
        let mut order = order;
        let mut block = unit >> order;
        while order < TOP_ORDER && self.remove(order, block ^ 1) {
            order += 1;
            block /= 2;
        }
        self.insert(order, block);
    }

    /// The largest order with a free block.
    pub(super) fn largest(&self) -> Option<u32> {
        self.some.checked_ilog2()
    }

    #[inline]
    fn insert(&mut self, order: u32, block: u32) {
        self.free[order as usize].set(block);
        self.some |= 1 << order;
    }

    /// Takes the block out of the free set; says whether it was in it.
    #[inline]
    fn remove(&mut self, order: u32, block: u32) -> bool {
        let tree = &mut self.free[order as usize];
        let was = tree.clear(block);
        if was && tree.is_empty() {
            self.some &= !(1 << order);
        }
        was
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which units are free, and nothing else.
    struct Naive(Vec<bool>);

    impl Naive {
        fn is_free(&self, order: u32, unit: usize) -> bool {
            let units = self.0.get(unit..unit + (1 << order));
            units.is_some_and(|units| units.iter().all(|&free| free))
        }

        fn has(&self, order: u32) -> bool {
            (0..self.0.len()).step_by(1 << order).any(|unit| self.is_free(order, unit))
        }

        fn set(&mut self, order: u32, unit: u32, free: bool) {
            for was in &mut self.0[unit as usize..][..1 << order] {
                assert_ne!(*was, free, "unit taken or given twice");
                *was = free;
            }
        }
    }

    #[test]
    fn every_small_arena_agrees_with_a_list_of_units() {
        let mut seed = 0x2545_F491_4F6C_DD1D_u64;
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed >> 33).unwrap() % below
        };
        let last = if cfg!(miri) { 10 } else { 150 };
        for units in 1..last {
            let mut buddy = Buddy::new(units, &Bump::leak(Buddy::bytes(units))).unwrap();
            let start = buddy.largest();
            let mut naive = Naive(vec![true; units]);
            let mut live = Vec::new();
            for _ in 0..if cfg!(miri) { 30 } else { 400 } {
                let order = u32::try_from(random(5)).unwrap();
                if random(5) < 3 {
                    let unit = buddy.take(order);
                    assert_eq!(unit.is_some(), naive.has(order), "order {order} of {units}");
                    let Some(unit) = unit else { continue };
                    assert_eq!(unit % (1 << order), 0, "aligned to its size");
                    naive.set(order, unit, false);
                    live.push((order, unit));
                } else if !live.is_empty() {
                    let (order, unit) = live.swap_remove(random(live.len()));
                    naive.set(order, unit, true);
                    buddy.give(order, unit);
                }
            }
            for (order, unit) in live {
                buddy.give(order, unit);
            }
            assert_eq!(buddy.largest(), start, "joined again: {units} units");
            assert_eq!(start, units.checked_ilog2().map(|o| o.min(TOP_ORDER)));
        }
    }

    #[test]
    fn the_lowest_bit_is_found_through_all_layers() {
        let bits = 64 * 64 * 64 + 5;
        let bits = if cfg!(miri) { 64 * 5 + 5 } else { bits };
        let mut tree = BitTree::new(bits, &Bump::leak(BitTree::bytes(bits))).unwrap();
        assert_eq!(tree.first(), None);
        let last = u32::try_from(bits).unwrap() - 1;
        for bit in [last, last - 64, 130, 64, 63, 1, 0] {
            tree.set(bit);
            assert_eq!(tree.first(), Some(bit));
        }
        for bit in [0, 1, 63, 64, 130, last - 64, last] {
            assert_eq!(tree.first(), Some(bit));
            assert!(tree.clear(bit));
            assert!(!tree.clear(bit), "only once");
        }
        assert!(tree.is_empty());
        assert!(!tree.clear(last + 1_000_000), "beyond the end is not set");
    }
}
