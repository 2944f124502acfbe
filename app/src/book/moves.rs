//! The moves that messages are made of: an order joins, shrinks, leaves, is replaced.
//!
//! Called by [`super::apply`], once or twice a message, and nowhere else: this is the hot path.
//! Its rules: tables are borrowed into locals, so that their addresses stay in registers between
//! stores; what cannot be predicted is selected and not branched on; an entry is looked up once.
//!
//! A move changes nothing when it fails.

use core::hint::select_unpredictable;

use super::Books;
use super::ladder::key;
use super::slot::{KEPT, NONE, OrderSlot, Top, UNKNOWN};
use crate::error::BookError;

/// An order as a message describes it.
#[derive(Clone, Copy)]
pub(super) struct NewOrder {
    pub(super) order_ref: u64,
    pub(super) price: u32,
    pub(super) shares: u32,
    pub(super) locate: u16,
    /// 0 bid, 1 offer.
    pub(super) side: u16,
}

/// An order that was found: its slot, and its bucket in the index.
#[derive(Clone, Copy)]
pub(super) struct Found {
    bucket: u32,
    pub(super) order: u32,
}

impl Books<'_> {
    /// Whether messages of this stock are for its book; an error if it was never named.
    #[inline(always)]
    pub(super) fn is_kept(&mut self, locate: u16) -> Result<bool, BookError> {
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
    pub(super) fn find(&self, order_ref: u64, locate: u16) -> Result<Found, BookError> {
        let orders = &*self.orders.slots;
        let bucket = self.index.bucket(order_ref);
        let Some(order) = self.index.find(bucket, order_ref, orders) else {
            return Err(BookError::UnknownOrder { order_ref });
        };
        let resting = orders[order as usize].locate;
        if resting != locate {
            return Err(BookError::WrongLocate { order_ref, resting, locate });
        }
        Ok(Found { bucket, order })
    }

    /// The bucket of a reference that no order may have yet.
    #[inline(always)]
    fn vacant(&self, order_ref: u64) -> Result<u32, BookError> {
        let bucket = self.index.bucket(order_ref);
        match self.index.find(bucket, order_ref, self.orders.slots) {
            None => Ok(bucket),
            Some(_) => Err(BookError::DoubledOrder { order_ref }),
        }
    }

    /// Puts a new order at the end of its queue; says whether the best level was touched.
    #[inline(always)]
    pub(super) fn insert(&mut self, new: NewOrder) -> Result<bool, BookError> {
        let bucket = self.vacant(new.order_ref)?;
        if self.orders.is_full() {
            return Err(self.orders_full());
        }
        let level = self.level_for(&new)?;
        let order = self.orders.take().expect("a free slot, as was just seen");
        let chain = self.index.enter(bucket, order);
        Ok(self.join(order, level, chain, new))
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
    fn join(&mut self, order: u32, level: u32, chain: u32, new: NewOrder) -> bool {
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
        let orders = &mut *self.orders.slots;
        orders[select_unpredictable(prev == NONE, order, prev) as usize].next = order;
        orders[order as usize] =
            OrderSlot { order_ref, shares, level, prev, next: NONE, locate, side, chain };
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
    pub(super) fn reduce(&mut self, found: Found, shares: u32) -> bool {
        let slot = &mut self.orders[found.order];
        if shares == slot.shares {
            return self.take_out(found);
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

    /// Takes an order out of its book; says whether the best level was touched.
    #[inline(always)]
    pub(super) fn take_out(&mut self, found: Found) -> bool {
        self.index.remove(found.bucket, found.order, self.orders.slots);
        let touched = self.leave(found.order);
        self.orders.give(found.order);
        touched
    }

    /// Unlinks an order from its queue, and its level if it was the last one; says whether the
    /// best level was touched. The slot stays as it is.
    #[inline(always)]
    fn leave(&mut self, order: u32) -> bool {
        let orders = &mut *self.orders.slots;
        let OrderSlot { shares, level, prev, next, locate, side, .. } = orders[order as usize];
        let side = usize::from(side & 1);
        let top = &mut self.books[usize::from(locate)].tops[side];
        top.orders -= 1;
        let at = &mut self.ladder.levels[level];
        at.shares -= u64::from(shares);
        at.orders -= 1;
        // No branch, as in `join`; the order's own slot is free after this.
        at.head = select_unpredictable(prev == NONE, next, at.head);
        at.tail = select_unpredictable(next == NONE, prev, at.tail);
        orders[select_unpredictable(prev == NONE, order, prev) as usize].next = next;
        orders[select_unpredictable(next == NONE, order, next) as usize].prev = prev;
        if at.orders > 0 {
            let touched = top.level == level;
            top.shares = select_unpredictable(touched, at.shares, top.shares);
            return touched;
        }
        let price = at.price;
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
    pub(super) fn replace(&mut self, found: Found, new: NewOrder) -> Result<bool, BookError> {
        let bucket = self.vacant(new.order_ref)?;
        // Before anything changes: the new level, which the leaving order may still hold.
        let level = self.level_for(&new)?;
        let side = usize::from(new.side & 1);
        let before = self.books[usize::from(new.locate)].tops[side];
        self.index.remove(found.bucket, found.order, self.orders.slots);
        let chain = self.index.enter(bucket, found.order);
        let touched = if self.orders[found.order].level == level {
            self.requeue(found.order, chain, new)
        } else {
            let left = self.leave(found.order);
            self.join(found.order, level, chain, new) | left
        };
        let after = &self.books[usize::from(new.locate)].tops[side];
        Ok(touched && (before.price, before.shares) != (after.price, after.shares))
    }

    /// Moves an order to the end of the queue that it is in, under a new reference and with other
    /// shares; says whether that is the best level.
    fn requeue(&mut self, order: u32, chain: u32, new: NewOrder) -> bool {
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
        slot.chain = chain;
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
