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
//! shares than are open, another stock) is a [`BookError`] and has changed nothing. So it is the
//! caller's choice to stop or to go on.

mod apply;
mod check;
mod event;
mod index;
mod ladder;
mod pool;
mod slot;
mod storage;

pub use apply::Apply;
pub use check::Inconsistency;
pub use event::{
    BboChange, NoSink, QUOTE_CSV_HEADER, Quote, Sink, Status, StatusKind, Trade, TradeKind,
};
pub use slot::{BookSlot, IndexSlot, LevelSlot, OrderSlot, PageSlot};
pub use storage::{BookStorage, Capacity, StorageError};

use crate::error::BookError;
use crate::field::{Side, Symbol, TradingState};
use core::hint::select_unpredictable;
use index::{Index, Probe};
use ladder::{Ladder, key};
use pool::Pool;
use slot::{KEPT, NONE, Top, UNKNOWN};

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
            let mut order = self.ladder.levels[level].head;
            core::iter::from_fn(move || {
                let slot = (order != NONE).then(|| &self.orders[order])?;
                order = slot.next;
                let OrderSlot { order_ref, shares, price, .. } = *slot;
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

/// An order as a message describes it.
#[derive(Clone, Copy)]
struct NewOrder {
    order_ref: u64,
    price: u32,
    shares: u32,
    locate: u16,
    /// 0 bid, 1 offer.
    side: u16,
}

/// An order that was found: its slot and its entry in the index.
#[derive(Clone, Copy)]
struct Found {
    entry: u32,
    order: u32,
}

/// The moves that messages are made of.
impl Books<'_> {
    /// Whether messages of this stock are for its book; an error if it was never named.
    #[inline(always)]
    fn is_kept(&mut self, locate: u16) -> Result<bool, BookError> {
        match self.books.get(usize::from(locate)).map(|book| book.known) {
            Some(KEPT) => Ok(true),
            None | Some(UNKNOWN) => Err(BookError::UnknownLocate { locate }),
            Some(_) => {
                self.stats.passed_over += 1;
                Ok(false)
            }
        }
    }

    /// The order that a message is about.
    #[inline(always)]
    fn find(&self, order_ref: u64, locate: u16) -> Result<Found, BookError> {
        let Probe::Found { entry, order } = self.index.probe(order_ref, self.orders.slots) else {
            return Err(BookError::UnknownOrder { order_ref });
        };
        let resting = self.orders[order].locate;
        if resting != locate {
            return Err(BookError::WrongLocate { order_ref, resting, locate });
        }
        Ok(Found { entry, order })
    }

    /// Puts a new order at the end of its queue; says whether the best level was touched.
    #[inline(always)]
    fn insert(&mut self, new: NewOrder) -> Result<bool, BookError> {
        let Probe::Vacant { entry } = self.index.probe(new.order_ref, self.orders.slots) else {
            return Err(BookError::DoubledOrder { order_ref: new.order_ref });
        };
        if self.orders.is_full() {
            return Err(self.orders_full());
        }
        let level = self.level_for(&new)?;
        let order = self.orders.take().expect("a free slot, as was just seen");
        self.index.insert(entry, new.order_ref, order);
        Ok(self.join(order, level, new))
    }

    /// The level of an order that is about to join it. Changes nothing when it fails.
    #[inline(always)]
    fn level_for(&mut self, new: &NewOrder) -> Result<u32, BookError> {
        let side = usize::from(new.side & 1);
        let top = &mut self.books[usize::from(new.locate)].tops[side];
        if top.price == new.price && top.level != NONE {
            return Ok(top.level);
        }
        let found = self.ladder.find_or_insert(&mut top.page, key(side, new.price), new.price);
        found.ok_or_else(|| self.levels_full())
    }

    /// Links an order to the end of a level's queue; says whether that is the best level.
    #[inline(always)]
    fn join(&mut self, order: u32, level: u32, new: NewOrder) -> bool {
        let NewOrder { order_ref, price, shares, locate, side } = new;
        let at = &mut self.ladder.levels[level];
        let prev = at.tail;
        at.tail = order;
        at.orders += 1;
        at.shares += u64::from(shares);
        let at_shares = at.shares;
        // No branch: whether a queue is empty cannot be predicted. The slot that stands in for a
        // missing neighbour is the order's own, which is written next.
        at.head = select_unpredictable(prev == NONE, order, at.head);
        self.orders[select_unpredictable(prev == NONE, order, prev)].next = order;
        self.orders[order] =
            OrderSlot { order_ref, shares, level, prev, next: NONE, locate, side, price };
        let side = usize::from(side & 1);
        let top = &mut self.books[usize::from(locate)].tops[side];
        top.orders += 1;
        let better = key(side, price) > key(side, top.price);
        if (top.level == level) | (top.level == NONE) | better {
            top.level = level;
            top.price = price;
            top.shares = at_shares;
            return true;
        }
        false
    }

    /// Takes `shares` (at most what is open) off an order, and the order out if none is left;
    /// says whether the best level was touched.
    #[inline(always)]
    fn reduce(&mut self, found: Found, shares: u32) -> bool {
        let slot = &mut self.orders[found.order];
        if shares == slot.shares {
            let touched = self.leave(found.order);
            self.index.remove(found.entry);
            self.orders.give(found.order);
            return touched;
        }
        slot.shares -= shares;
        let OrderSlot { level, locate, side, .. } = *slot;
        let at = &mut self.ladder.levels[level];
        at.shares -= u64::from(shares);
        let top = &mut self.books[usize::from(locate)].tops[usize::from(side & 1)];
        if top.level == level {
            top.shares = at.shares;
        }
        top.level == level
    }

    /// Unlinks an order from its queue, and its level if it was the last one; says whether the
    /// best level was touched. The slot and its index entry stay.
    #[inline(always)]
    fn leave(&mut self, order: u32) -> bool {
        let OrderSlot { shares, level, prev, next, locate, side, price, .. } = self.orders[order];
        let side = usize::from(side & 1);
        let top = &mut self.books[usize::from(locate)].tops[side];
        top.orders -= 1;
        let at = &mut self.ladder.levels[level];
        at.shares -= u64::from(shares);
        at.orders -= 1;
        // No branch, as in `join`; the order's own slot is free after this.
        at.head = select_unpredictable(prev == NONE, next, at.head);
        at.tail = select_unpredictable(next == NONE, prev, at.tail);
        self.orders[select_unpredictable(prev == NONE, order, prev)].next = next;
        self.orders[select_unpredictable(next == NONE, order, next)].prev = prev;
        if at.orders > 0 {
            let touched = top.level == level;
            top.shares = select_unpredictable(touched, at.shares, top.shares);
            return touched;
        }
        self.ladder.remove(&mut top.page, key(side, price), level);
        if top.level != level {
            return false;
        }
        match self.ladder.best(top.page) {
            None => *top = Top::EMPTY,
            Some(best) => {
                let at = &self.ladder.levels[best];
                (top.level, top.price, top.shares) = (best, at.price, at.shares);
            }
        }
        true
    }

    /// Takes an order out and puts its successor at the end of a queue of the same side.
    #[inline(always)]
    fn replace(&mut self, found: Found, new: NewOrder) -> Result<bool, BookError> {
        let probe = self.index.probe(new.order_ref, self.orders.slots);
        if matches!(probe, Probe::Found { .. }) {
            return Err(BookError::DoubledOrder { order_ref: new.order_ref });
        }
        // Before anything changes: the new level, which the leaving order may still hold.
        let level = self.level_for(&new)?;
        let side = usize::from(new.side & 1);
        let before = self.books[usize::from(new.locate)].tops[side];
        self.index.remove(found.entry);
        let touched = if self.orders[found.order].level == level {
            self.requeue(found.order, new)
        } else {
            let left = self.leave(found.order);
            self.join(found.order, level, new) | left
        };
        let Probe::Vacant { entry } = self.index.probe(new.order_ref, self.orders.slots) else {
            unreachable!("the reference was not there a moment ago");
        };
        self.index.insert(entry, new.order_ref, found.order);
        let after = &self.books[usize::from(new.locate)].tops[side];
        Ok(touched && (before.price, before.shares) != (after.price, after.shares))
    }

    /// Moves an order to the end of the queue that it is in, under a new reference and with other
    /// shares; says whether that is the best level.
    fn requeue(&mut self, order: u32, new: NewOrder) -> bool {
        let OrderSlot { shares, level, prev, next, .. } = self.orders[order];
        let at = &mut self.ladder.levels[level];
        at.shares = at.shares - u64::from(shares) + u64::from(new.shares);
        let at_shares = at.shares;
        if next != NONE {
            let tail = at.tail;
            at.tail = order;
            if prev == NONE {
                at.head = next;
            } else {
                self.orders[prev].next = next;
            }
            self.orders[next].prev = prev;
            self.orders[tail].next = order;
            self.orders[order].prev = tail;
            self.orders[order].next = NONE;
        }
        let slot = &mut self.orders[order];
        slot.order_ref = new.order_ref;
        slot.shares = new.shares;
        let top = &mut self.books[usize::from(new.locate)].tops[usize::from(new.side & 1)];
        if top.level == level {
            top.shares = at_shares;
        }
        top.level == level
    }

    #[cold]
    fn orders_full(&self) -> BookError {
        let capacity = self.orders.slots.len();
        BookError::Full { what: "resting orders", capacity, knob: "orders" }
    }

    #[cold]
    fn levels_full(&self) -> BookError {
        let capacity = self.ladder.levels.slots.len();
        BookError::Full { what: "price levels", capacity, knob: "levels" }
    }
}
