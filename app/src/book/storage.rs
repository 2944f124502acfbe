//! How much memory the books need, and that memory divided.
//!
//! The caller decides on a [`Capacity`] (or asks [`Capacity::for_feed`]), gives
//! [`Capacity::bytes`] of memory, and gets a [`BookStorage`]. Nothing grows afterwards.

use super::slot::{BookSlot, IndexSlot, LevelSlot, OrderSlot, PageSlot};
use crate::message::AddOrder;
use thiserror::Error;
use zerocopy::FromBytes;

/// How much the books can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Locate codes from 0 to this minus 1.
    pub symbols: u32,
    /// Orders that rest at the same time, over all books.
    pub orders: u32,
    /// Prices with an order at the same time, over all books and sides.
    pub levels: u32,
}

/// Locate codes are dense from 1; a public day has about 11,000, so 16,384 leaves room.
const DEFAULT_SYMBOLS: u32 = 16_384;

/// Most orders assumed to rest at once. A public day of some 400 million messages holds between
/// one and two million at its peak; twice that.
const MOST_ORDERS: u32 = 4 << 20;

/// Orders for a feed of a few messages; less saves nothing.
const LEAST_ORDERS: u32 = 1024;

impl Capacity {
    /// Enough for a feed of `bytes` in file framing, whatever it holds, up to the size of a public
    /// day: an order costs its feed at least an add message (38 bytes with its length), and more
    /// than 4 Mi orders at once are not assumed. Levels: each order could have its own in a small
    /// feed; in a large one at most every second does.
    #[must_use]
    pub fn for_feed(bytes: u64) -> Self {
        let adds = bytes / (AddOrder::LENGTH as u64 + 2) + 1;
        let orders = u32::try_from(adds).unwrap_or(u32::MAX).clamp(LEAST_ORDERS, MOST_ORDERS);
        let levels = orders.min((orders / 2).max(64 * 1024));
        Self { symbols: DEFAULT_SYMBOLS, orders, levels }
    }

    /// Buckets of the order index: a power of two, at least two for each order.
    #[must_use]
    pub const fn index_entries(&self) -> usize {
        let twice = self.orders as usize * 2;
        let least = if twice < 1024 { 1024 } else { twice };
        least.next_power_of_two()
    }

    /// Pages that can never run out: two neighbours in a list always have eight levels or more, so
    /// a side of `n` levels has at most `n/4 + 1` pages.
    #[must_use]
    pub const fn pages(&self) -> usize {
        let sides = self.symbols as usize * 2;
        let levels = self.levels as usize;
        levels / 4 + 1 + if sides < levels { sides } else { levels }
    }

    /// Bytes of memory for all of it, to be given aligned to 128 bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.symbols as usize * size_of::<BookSlot>()
            + self.pages() * size_of::<PageSlot>()
            + self.levels as usize * size_of::<LevelSlot>()
            + self.orders as usize * size_of::<OrderSlot>()
            + self.index_entries() * size_of::<IndexSlot>()
    }
}

/// Memory given is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StorageError {
    /// Too few bytes, or not aligned.
    #[error("{need} bytes of memory aligned to 128 are needed for the books, {have} were given")]
    TooSmall {
        /// Bytes given.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// A table has a size that the books cannot use.
    #[error("the books cannot use a table of {have} {what}: {rule}")]
    BadTable {
        /// Which.
        what: &'static str,
        /// Its entries.
        have: usize,
        /// What it has to be.
        rule: &'static str,
    },
}

/// The books' memory, divided. What it held before does not matter.
#[derive(Debug)]
pub struct BookStorage<'m> {
    pub(super) books: &'m mut [BookSlot],
    pub(super) pages: &'m mut [PageSlot],
    pub(super) levels: &'m mut [LevelSlot],
    pub(super) orders: &'m mut [OrderSlot],
    pub(super) index: &'m mut [IndexSlot],
}

impl<'m> BookStorage<'m> {
    /// Takes one slice for each kind.
    ///
    /// # Errors
    /// [`StorageError::BadTable`]: the index has to be a power of two, at least twice the orders;
    /// the pages have to be as many as [`Capacity::pages`] says; there are at most 2^31 of each.
    pub fn new(
        books: &'m mut [BookSlot],
        pages: &'m mut [PageSlot],
        levels: &'m mut [LevelSlot],
        orders: &'m mut [OrderSlot],
        index: &'m mut [IndexSlot],
    ) -> Result<Self, StorageError> {
        let bad = |what, have, rule| Err(StorageError::BadTable { what, have, rule });
        let count = |what, have: usize| match u32::try_from(have) {
            Ok(count) if count <= 1 << 30 => Ok(count),
            _ => Err(StorageError::BadTable { what, have, rule: "at most 2^30 are possible" }),
        };
        let capacity = Capacity {
            symbols: count("books", books.len())?,
            orders: count("orders", orders.len())?,
            levels: count("levels", levels.len())?,
        };
        if !index.len().is_power_of_two() || index.len() < capacity.index_entries() {
            return bad(
                "index entries",
                index.len(),
                "a power of two, twice the orders, is needed",
            );
        }
        if index.len() > 1 << 31 {
            return bad("index entries", index.len(), "at most 2^31 are possible");
        }
        if pages.len() < capacity.pages() {
            return bad("pages", pages.len(), "at least Capacity::pages are needed");
        }
        Ok(Self { books, pages, levels, orders, index })
    }

    /// Divides `memory`, which has to be aligned to 128 bytes (a page is) and at least
    /// [`Capacity::bytes`] long.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn carve(memory: &'m mut [u8], capacity: Capacity) -> Result<Self, StorageError> {
        let error = StorageError::TooSmall { have: memory.len(), need: capacity.bytes() };
        let books = capacity.symbols as usize;
        let (levels, orders) = (capacity.levels as usize, capacity.orders as usize);
        let rest = memory;
        // In falling order of alignment, so that nothing is lost between them.
        let (pages, rest) = take(rest, capacity.pages()).ok_or(error)?;
        let (books, rest) = take(rest, books).ok_or(error)?;
        let (levels, rest) = take(rest, levels).ok_or(error)?;
        let (orders, rest) = take(rest, orders).ok_or(error)?;
        let (index, _) = take(rest, capacity.index_entries()).ok_or(error)?;
        Self::new(books, pages, levels, orders, index)
    }

    /// What this memory can hold.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        Capacity {
            symbols: count(self.books.len()),
            orders: count(self.orders.len()),
            levels: count(self.levels.len()),
        }
    }
}

/// The first `count` slots of `memory` and what is behind them.
fn take<T>(memory: &mut [u8], count: usize) -> Option<(&mut [T], &mut [u8])>
where
    T: FromBytes + zerocopy::IntoBytes + zerocopy::KnownLayout,
{
    <[T]>::mut_from_prefix_with_elems(memory, count).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{format, vec};

    #[test]
    fn a_feed_of_any_size_gets_a_capacity_that_fits_its_memory() {
        for bytes in [0, 38, 617_120, 170_000_000, u64::MAX] {
            let capacity = Capacity::for_feed(bytes);
            assert!(u64::from(capacity.orders) >= (bytes / 38).min(4 << 20));
            assert!(capacity.index_entries() >= 2 * capacity.orders as usize);
            assert!(capacity.bytes() < 512 << 20, "{}", capacity.bytes());
        }
    }

    #[test]
    fn memory_that_is_too_small_is_refused_with_both_numbers() {
        let capacity = Capacity { symbols: 4, orders: 8, levels: 8 };
        let need = capacity.bytes();
        let mut memory = vec![0_u64; need / 8 + 16];
        let memory = zerocopy::IntoBytes::as_mut_bytes(memory.as_mut_slice());
        let skew = memory.as_ptr().align_offset(128);
        assert!(BookStorage::carve(&mut memory[skew..skew + need], capacity).is_ok());
        let error = BookStorage::carve(&mut memory[skew..skew + need - 1], capacity).unwrap_err();
        assert_eq!(error, StorageError::TooSmall { have: need - 1, need });
        assert!(format!("{error}").contains(&format!("{need}")));
    }
}
