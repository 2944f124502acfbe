//! The bookkeeping of the arena: which blocks are free, by size class.
//!
//! A binary buddy system. Block sizes are `UNIT << order`; a block's index in its order is its
//! offset divided by its size, its buddy is that index with the lowest bit flipped. Each order has a
//! bit for each block that could exist, set when that block is free as a whole, with summary words
//! above (a word of a layer says which words of the layer below are not zero), so that the lowest
//! free block of an order is found in at most five steps and setting or clearing costs one. A block
//! and its buddy are never both free: they are joined at once, so that what is free is always in the
//! largest blocks it can be in.
//!
//! All of it is two bits a unit, in bump memory: 256 KiB for 512 MiB. No unsafe, no addresses: it
//! deals in units of [`UNIT`] bytes.

use super::bump::{Bump, OutOfMemory};

/// Bytes of the smallest block: the smallest LBA, so that eight single-block buffers share a page.
pub(super) const UNIT: usize = 512;
/// Orders 0 (512 B) to 21 (1 GiB, the largest page; no transfer is longer).
pub(super) const ORDERS: usize = 22;
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
    #[expect(
        clippy::cast_possible_truncation,
        reason = "bits are below MAX_UNITS, 2^29"
    )]
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
                BitTree {
                    layers: Default::default(),
                    depth: 0,
                }
            })
        });
        failed?;
        let mut buddy = Self { free, some: 0 };
        let mut at = 0;
        while at < units {
            let fits = (units - at).ilog2().min(at.trailing_zeros());
            let order = fits.min(ORDERS as u32 - 1);
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
        while order < ORDERS as u32 - 1 && self.remove(order, block ^ 1) {
            order += 1;
            block /= 2;
        }
        self.insert(order, block);
    }

    /// The largest order with a free block.
    pub(super) fn largest(&self) -> Option<u32> {
        self.some.checked_ilog2()
    }

    /// How many blocks of `order` are free as such; for tests.
    #[cfg(test)]
    pub(super) fn count(&self, order: usize) -> u32 {
        self.free[order].layers[0]
            .iter()
            .map(|w| w.count_ones())
            .sum()
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
