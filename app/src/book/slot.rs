//! The four kinds of slots that the books' memory is divided into.
//!
//! Plain integers of fixed layout, so that the memory may be any bytes (a region of huge pages, a
//! `Vec` in tests). Links are slot numbers, [`NONE`] is no link. Only [`super`] reads or writes
//! them; they are public because a caller has to be able to give them.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// An order that rests in a book: half a cache line.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(32))]
pub struct OrderSlot {
    /// The order's reference.
    pub(super) order_ref: u64,
    /// Open shares; 0 in a free slot.
    pub(super) shares: u32,
    /// Level that it waits at.
    pub(super) level: u32,
    /// The order before it in the queue.
    pub(super) prev: u32,
    /// The order behind it, or the next free slot.
    pub(super) next: u32,
    /// Stock.
    pub(super) locate: u16,
    /// 0 bid, 1 offer.
    pub(super) side: u16,
    /// The next order whose reference falls into the same bucket of the index.
    pub(super) chain: u32,
}

/// A price of one side of one book, with the queue of its orders: half a cache line.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(32))]
pub struct LevelSlot {
    /// Shares over all orders.
    pub(super) shares: u64,
    /// Price.
    pub(super) price: u32,
    /// Page that lists it.
    pub(super) page: u32,
    /// First order of the queue, or the next free slot.
    pub(super) head: u32,
    /// Last order of the queue.
    pub(super) tail: u32,
    /// Orders in the queue; 0 in a free slot.
    pub(super) orders: u32,
    /// Nothing.
    pub(super) reserved: u32,
}

/// Levels of a page: two cache lines hold 14 keys and slot numbers beside the links.
pub(super) const PAGE_LEVELS: usize = 14;

/// A run of a side's levels, sorted by key, worst first. The pages of a side form a list that
/// begins with the best one.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct PageSlot {
    /// Keys: the price for bids, its complement for offers, so that more is better on both.
    /// `u32::MAX` from `len` on.
    pub(super) keys: [u32; PAGE_LEVELS],
    /// The next worse page, or the next free slot.
    pub(super) worse: u32,
    /// Keys in use; 0 in a free slot.
    pub(super) len: u32,
    /// Level of each key.
    pub(super) levels: [u32; PAGE_LEVELS],
    /// The next better page.
    pub(super) better: u32,
    /// Nothing.
    pub(super) reserved: u32,
}

/// Best level and list of pages of one side.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Top {
    /// Shares at the best level; 0 when the side is empty.
    pub(super) shares: u64,
    /// Best price; 0 when the side is empty.
    pub(super) price: u32,
    /// Best level.
    pub(super) level: u32,
    /// First page.
    pub(super) page: u32,
    /// Orders of the side.
    pub(super) orders: u32,
}

impl Top {
    pub(super) const EMPTY: Self = Self { shares: 0, price: 0, level: NONE, page: NONE, orders: 0 };
}

/// One stock: a cache line.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct BookSlot {
    /// Bids, offers.
    pub(super) tops: [Top; 2],
    /// The stock's symbol.
    pub(super) symbol: [u8; 8],
    /// `UNKNOWN`, `PASSED_OVER` or `KEPT`.
    pub(super) known: u8,
    /// Trading state, 0 when none was told.
    pub(super) trading: u8,
    /// Markets that halt it: bit 0 Q, bit 1 B, bit 2 X, bit 3 any other.
    pub(super) halted: u8,
    /// Reg SHO action, 0 when none was told.
    pub(super) reg_sho: u8,
    /// Nothing.
    pub(super) reserved: [u8; 4],
}

/// No stock directory message has named the stock.
pub(super) const UNKNOWN: u8 = 0;
/// The stock is not among the symbols asked for.
pub(super) const PASSED_OVER: u8 = 1;
/// The stock's book is kept.
pub(super) const KEPT: u8 = 2;

impl BookSlot {
    pub(super) const EMPTY: Self = Self {
        tops: [Top::EMPTY; 2],
        symbol: [0; 8],
        known: UNKNOWN,
        trading: 0,
        halted: 0,
        reg_sho: 0,
        reserved: [0; 4],
    };
}

/// A bucket of the table that finds an order by its reference.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IndexSlot {
    /// The slot of the bucket's first order; `NONE` in an empty bucket.
    pub(super) order: u32,
}

impl IndexSlot {
    pub(super) const EMPTY: Self = Self { order: NONE };
}

const _: () = {
    assert!(size_of::<OrderSlot>() == 32);
    assert!(size_of::<LevelSlot>() == 32);
    assert!(size_of::<PageSlot>() == 128);
    assert!(size_of::<BookSlot>() == 64);
    assert!(size_of::<IndexSlot>() == 4);
};

/// Zeroed slots, for callers that make them one by one.
macro_rules! zeroed_default {
    ($($slot:ty),*) => {$(
        impl Default for $slot {
            fn default() -> Self {
                Self::new_zeroed()
            }
        }
    )*};
}
zeroed_default!(OrderSlot, LevelSlot, PageSlot, BookSlot, IndexSlot);
