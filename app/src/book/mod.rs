//! Order books of all stocks: price levels, FIFO queues, best bid and offer.
//!
//! [`Books`] is a [`crate::message::Visitor`]'s worth of state in memory that the caller gives
//! ([`BookStorage`]); it tells changes to a [`Sink`]. Called by [`crate::pipeline`], or directly.
//!
//! What it does with each message:
//! - R gives a locate code its stock (and decides whether its book is kept).
//! - A and F join the end of their level's queue. U takes an order out and puts its successor at
//!   the end of a queue: nothing of its priority is kept. X, E and C take shares off, D all of
//!   them; an order without shares is gone.
//! - E is a trade at the resting price, C at the price that it carries, P and Q trades that no
//!   book shows.
//! - H, h, Y, W, S and B are told as a [`Status`]. A halted stock's book goes on.
//!
//! What it does not do: check that prices do not cross (auctions do that before the open), or
//! that time goes forward.
//!
//! **All or nothing.** A message that contradicts the books (unknown or doubled reference, more
//! shares than are open, another stock) is a [`BookError`](crate::error::BookError) and has changed
//! nothing. So it is the caller's choice to stop or to go on.

mod apply;
mod check;
mod event;
mod index;
mod ladder;
mod mark;
mod moves;
mod pool;
mod slot;
mod storage;

pub use apply::Apply;
pub use check::Inconsistency;
pub use event::{
    BboChange, NoSink, QUOTE_CSV_HEADER, Quote, Sink, Status, StatusKind, Trade, TradeKind,
};
pub use mark::BookMark;
pub use slot::{BookSlot, IndexSlot, LevelSlot, OrderSlot, PageSlot};
pub use storage::{BookStorage, Capacity, StorageError};

use crate::field::{Side, Symbol, TradingState};
use index::Index;
use ladder::Ladder;
use pool::Pool;
use slot::{KEPT, NONE, Top};

/// How much of one kind of slot is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In use now.
    pub live: usize,
    /// Most in use at once so far.
    pub high_water: usize,
    /// There are.
    pub capacity: usize,
}

/// How much of the books' memory is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BookUsage {
    /// Orders ([`Capacity::orders`]).
    pub orders: Usage,
    /// Levels ([`Capacity::levels`]).
    pub levels: Usage,
    /// Pages of levels (follow from the levels).
    pub pages: Usage,
    /// Stocks whose books are kept; capacity counts locate codes.
    pub books: Usage,
}

/// What the books counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BookStats {
    /// Best bids or offers that changed.
    pub bbo_changes: u64,
    /// Of them, within the trading session.
    pub session_bbo_changes: u64,
    /// Trades told.
    pub trades: u64,
    /// Shares of printable trades.
    pub shares_traded: u64,
    /// Messages of stocks that were not asked for.
    pub passed_over: u64,
}

/// One level of a book, for those who look at depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelView {
    /// Price.
    pub price: u32,
    /// Shares over all orders.
    pub shares: u64,
    /// Orders.
    pub orders: u32,
}

/// One order of a queue, for those who look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderView {
    /// Reference.
    pub order_ref: u64,
    /// Open shares.
    pub shares: u32,
    /// Limit price.
    pub price: u32,
}

/// The state of one stock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BookView {
    /// The stock.
    pub symbol: Symbol,
    /// Best bid and offer.
    pub quote: Quote,
    /// Trading state, `None` until one was told.
    pub trading: Option<TradingState>,
    /// Whether any market halts it for operational reasons.
    pub halted: bool,
    /// Orders on the bid side.
    pub bid_orders: u32,
    /// Orders on the offer side.
    pub ask_orders: u32,
}

/// The books of all stocks.
#[derive(Debug)]
pub struct Books<'m> {
    books: &'m mut [BookSlot],
    orders: Pool<'m, OrderSlot>,
    ladder: Ladder<'m>,
    index: Index<'m>,
    /// Symbols whose books are kept; empty for all.
    wanted: &'m [Symbol],
    /// Whether system event `Q` was seen.
    in_session: bool,
    kept: usize,
    stats: BookStats,
}

impl<'m> Books<'m> {
    /// Empty books of all stocks (`wanted` empty), or of those wanted. Clears the tables of
    /// `storage`; the rest of its memory is written when it is first used.
    #[must_use]
    pub fn new(storage: BookStorage<'m>, wanted: &'m [Symbol]) -> Self {
        let BookStorage { books, pages, levels, orders, index } = storage;
        books.fill(BookSlot::EMPTY);
        Self {
            books,
            orders: Pool::new(orders),
            ladder: Ladder { levels: Pool::new(levels), pages: Pool::new(pages) },
            index: Index::new(index),
            wanted,
            in_session: false,
            kept: 0,
            stats: BookStats::default(),
        }
    }

    /// What was counted.
    #[must_use]
    pub const fn stats(&self) -> &BookStats {
        &self.stats
    }

    /// How much memory is used.
    #[must_use]
    pub fn usage(&self) -> BookUsage {
        BookUsage {
            orders: self.orders.usage(),
            levels: self.ladder.levels.usage(),
            pages: self.ladder.pages.usage(),
            books: Usage { live: self.kept, high_water: self.kept, capacity: self.books.len() },
        }
    }

    /// Whether the trading session has begun.
    #[must_use]
    pub const fn in_session(&self) -> bool {
        self.in_session
    }

    /// The state of the stock with this locate code, if its book is kept.
    #[must_use]
    pub fn book(&self, locate: u16) -> Option<BookView> {
        let book = self.books.get(usize::from(locate)).filter(|book| book.known == KEPT)?;
        Some(BookView {
            symbol: Symbol(book.symbol),
            quote: quote_of(&book.tops),
            trading: (book.trading != 0).then_some(TradingState(book.trading)),
            halted: book.halted != 0,
            bid_orders: book.tops[0].orders,
            ask_orders: book.tops[1].orders,
        })
    }

    /// Locate codes of all books that are kept, rising.
    pub fn locates(&self) -> impl Iterator<Item = u16> + '_ {
        (0..=u16::MAX).zip(self.books.iter()).filter(|(_, book)| book.known == KEPT).map(|(l, _)| l)
    }

    /// The levels of a side, best first.
    pub fn levels(&self, locate: u16, side: Side) -> impl Iterator<Item = LevelView> + '_ {
        self.level_slots(locate, side).map(|level| {
            let LevelSlot { price, shares, orders, .. } = self.ladder.levels[level];
            LevelView { price, shares, orders }
        })
    }

    /// The orders of a side, best level first, each level's queue from its front.
    pub fn queue(&self, locate: u16, side: Side) -> impl Iterator<Item = OrderView> + '_ {
        self.level_slots(locate, side).flat_map(move |level| {
            let LevelSlot { head: mut order, price, .. } = self.ladder.levels[level];
            core::iter::from_fn(move || {
                let slot = (order != NONE).then(|| &self.orders[order])?;
                order = slot.next;
                let OrderSlot { order_ref, shares, .. } = *slot;
                Some(OrderView { order_ref, shares, price })
            })
        })
    }

    fn level_slots(&self, locate: u16, side: Side) -> impl Iterator<Item = u32> + '_ {
        let book = self.books.get(usize::from(locate));
        let mut page = book.map_or(NONE, |book| book.tops[usize::from(side == Side::SELL)].page);
        let mut left = if page == NONE { 0 } else { self.ladder.pages[page].len as usize };
        core::iter::from_fn(move || {
            if left == 0 {
                page = (page != NONE).then(|| self.ladder.pages[page].worse)?;
                left = (page != NONE).then(|| self.ladder.pages[page].len as usize)?;
            }
            left -= 1;
            Some(self.ladder.pages[page].levels[left])
        })
    }
}

/// The quote that two tops show.
#[inline(always)]
fn quote_of(tops: &[Top; 2]) -> Quote {
    Quote {
        bid_price: tops[0].price,
        bid_shares: tops[0].shares,
        ask_price: tops[1].price,
        ask_shares: tops[1].shares,
    }
}
