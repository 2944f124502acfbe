//! Walks the books and proves that they are whole. For tests, for reviews of a run, and for books
//! that an earlier start left: whatever their memory holds, it ends with an answer. Slow.

use super::Books;
use super::ladder::key;
use super::slot::{KEPT, NONE};
use thiserror::Error;

/// An invariant that does not hold: a bug of ours, or memory that somebody else wrote into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the books are inconsistent: {rule} (locate {locate})")]
pub struct Inconsistency {
    /// The rule that is broken.
    pub rule: &'static str,
    /// Where, or 0.
    pub locate: u16,
}

impl Books<'_> {
    /// Walks every book, level, queue and table.
    ///
    /// # Errors
    /// The first [`Inconsistency`] found.
    pub fn check_consistency(&self) -> Result<(), Inconsistency> {
        let mut seen = Seen::default();
        let usage = self.usage();
        // First, since every search ends once this holds: a chain that is a circle counts too many.
        let entries = self.index.count(self.orders.slots);
        rule_holds("orders in the index are those in use", 0, entries == usage.orders.live)?;
        for locate in 0..self.books.len() {
            let locate = u16::try_from(locate).unwrap_or(u16::MAX);
            for side in 0..2 {
                self.check_side(locate, side, &mut seen)?;
            }
        }
        let whole = |rule, holds| rule_holds(rule, 0, holds);
        whole("an order is in the index or in no book", entries == seen.orders)?;
        whole("orders in books are those in use", usage.orders.live == seen.orders)?;
        whole("levels in books are those in use", usage.levels.live == seen.levels)?;
        whole("pages in books are those in use", usage.pages.live == seen.pages)?;
        let free = |live: usize, capacity: usize, free: usize| live + free == capacity;
        whole(
            "a slot is in use or free",
            free(seen.orders, usage.orders.capacity, self.orders.count_free())
                && free(seen.levels, usage.levels.capacity, self.ladder.levels.count_free())
                && free(seen.pages, usage.pages.capacity, self.ladder.pages.count_free()),
        )
    }

    fn check_side(&self, locate: u16, side: u16, seen: &mut Seen) -> Result<(), Inconsistency> {
        let rule = |rule, holds| rule_holds(rule, locate, holds);
        let book = &self.books[usize::from(locate)];
        let top = &book.tops[usize::from(side)];
        let mut orders = 0;
        let (mut page, mut better) = (top.page, NONE);
        let mut last_key = u64::MAX;
        let mut last_len = u32::MAX / 2;
        let mut best = NONE;
        while page != NONE {
            let slot = self.ladder.pages.get(page).ok_or_else(|| nowhere(locate))?;
            rule("a page is not empty", slot.len > 0 && slot.len <= 14)?;
            rule("pages are linked both ways", slot.better == better)?;
            rule("neighbours have eight levels", slot.len + last_len >= 8)?;
            for position in (0..slot.len as usize).rev() {
                let level = slot.levels[position];
                let at = self.ladder.levels.get(level).ok_or_else(|| nowhere(locate))?;
                best = if best == NONE { level } else { best };
                rule("keys fall", u64::from(slot.keys[position]) < last_key)?;
                last_key = u64::from(slot.keys[position]);
                let fits = key(usize::from(side), at.price) == slot.keys[position];
                rule("a level's price gives its key", fits)?;
                rule("a level knows its page", at.page == page)?;
                orders += self.check_queue(locate, side, level)?;
                seen.levels += 1;
            }
            rule("unused keys are the highest", {
                slot.keys[slot.len as usize..].iter().all(|&key| key == u32::MAX)
            })?;
            seen.pages += 1;
            (last_len, better, page) = (slot.len, page, slot.worse);
        }
        rule("only a kept book has orders", orders == 0 || book.known == KEPT)?;
        rule("a side's count of orders is right", top.orders as usize == orders)?;
        seen.orders += orders;
        rule("the best level is the top", top.level == best)?;
        let (price, shares) = match best {
            NONE => (0, 0),
            best => (self.ladder.levels[best].price, self.ladder.levels[best].shares),
        };
        rule("the top shows its level", (top.price, top.shares) == (price, shares))
    }

    fn check_queue(&self, locate: u16, side: u16, level: u32) -> Result<usize, Inconsistency> {
        let rule = |rule, holds| rule_holds(rule, locate, holds);
        let at = self.ladder.levels.get(level).ok_or_else(|| nowhere(locate))?;
        let (mut order, mut prev) = (at.head, NONE);
        let (mut shares, mut count) = (0, 0_usize);
        while order != NONE {
            let slot = self.orders.get(order).ok_or_else(|| nowhere(locate))?;
            rule("an order knows its level", slot.level == level)?;
            rule("an order knows its side", slot.locate == locate && slot.side == side)?;
            rule("an order has shares", slot.shares > 0)?;
            rule("a queue is linked both ways", slot.prev == prev)?;
            let bucket = self.index.bucket(slot.order_ref);
            let found = self.index.find(bucket, slot.order_ref, self.orders.slots);
            rule("an order is found by its reference", found == Some(order))?;
            shares += u64::from(slot.shares);
            count += 1;
            rule("a queue ends", count <= self.orders.slots.len())?;
            (prev, order) = (order, slot.next);
        }
        rule("a queue's last order is its tail", at.tail == prev)?;
        rule("a level is not empty", count > 0)?;
        rule("a level counts its orders", count == at.orders as usize)?;
        rule("a level sums its shares", shares == at.shares)?;
        Ok(count)
    }
}

/// What a walk has come by.
#[derive(Default)]
struct Seen {
    orders: usize,
    levels: usize,
    pages: usize,
}

/// A link or a list names a slot that there is not.
const fn nowhere(locate: u16) -> Inconsistency {
    Inconsistency { rule: "a link leads to a slot", locate }
}

fn rule_holds(rule: &'static str, locate: u16, holds: bool) -> Result<(), Inconsistency> {
    if holds { Ok(()) } else { Err(Inconsistency { rule, locate }) }
}
