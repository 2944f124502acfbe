//! What the books know beside their memory, as plain bytes: for who keeps both for a next start.
//!
//! Written by [`Books::mark`] when a state is sealed, read by [`Books::resume`] over the same
//! memory. What is read may be anything: it is checked before it is used, and so is the memory.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::index::Index;
use super::ladder::Ladder;
use super::pool::Pool;
use super::slot::NONE;
use super::{BookStats, BookStorage, Books, Inconsistency};
use crate::field::Symbol;

/// Of one kind of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct PoolMark {
    pub(super) free: u32,
    pub(super) fresh: u32,
    pub(super) live: u32,
}

/// Of all books.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BookMark {
    orders: PoolMark,
    levels: PoolMark,
    pages: PoolMark,
    in_session: u32,
    kept: u64,
    /// As [`BookStats`] has them, in its order.
    stats: [u64; 5],
}

const _: () = assert!(size_of::<BookMark>() == 88);

impl<'m> Books<'m> {
    /// What [`Books::resume`] needs beside the memory.
    #[must_use]
    pub fn mark(&self) -> BookMark {
        let BookStats { bbo_changes, session_bbo_changes, trades, shares_traded, passed_over } =
            self.stats;
        BookMark {
            orders: self.orders.mark(),
            levels: self.ladder.levels.mark(),
            pages: self.ladder.pages.mark(),
            in_session: u32::from(self.in_session),
            kept: self.kept as u64,
            stats: [bbo_changes, session_bbo_changes, trades, shares_traded, passed_over],
        }
    }

    /// The books that lie in `storage`, as they were at `mark`. They are not walked: who believes
    /// neither memory nor mark calls [`Books::check_consistency`] before anything else.
    ///
    /// # Errors
    /// [`Inconsistency`] for a mark that cannot be that of such storage.
    pub fn resume(
        storage: BookStorage<'m>,
        wanted: &'m [Symbol],
        mark: &BookMark,
    ) -> Result<Self, Inconsistency> {
        let BookStorage { books, pages, levels, orders, index } = storage;
        let whole = |rule| Inconsistency { rule, locate: 0 };
        let known = books.iter().filter(|book| book.known == super::KEPT).count();
        let kept = usize::try_from(mark.kept).unwrap_or(usize::MAX);
        if kept != known {
            return Err(whole("books that are kept are counted"));
        }
        let pool = || whole("a pool's counts fit its slots");
        let ladder = Ladder {
            levels: Pool::resume(levels, &mark.levels).ok_or_else(pool)?,
            pages: Pool::resume(pages, &mark.pages).ok_or_else(pool)?,
        };
        let [bbo_changes, session_bbo_changes, trades, shares_traded, passed_over] = mark.stats;
        Ok(Self {
            books,
            orders: Pool::resume(orders, &mark.orders).ok_or_else(pool)?,
            ladder,
            index: Index::over(index),
            wanted,
            in_session: mark.in_session != 0,
            kept,
            stats: BookStats {
                bbo_changes,
                session_bbo_changes,
                trades,
                shares_traded,
                passed_over,
            },
        })
    }
}

impl PoolMark {
    /// Whether slots, used ones and free ones can be so many.
    pub(super) fn fits(&self, slots: usize) -> bool {
        let Self { free, fresh, live } = *self;
        let inside = free == NONE || free < fresh;
        fresh as usize <= slots && live <= fresh && inside
    }
}
