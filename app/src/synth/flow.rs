//! The messages of the synthetic day, one after another.

use super::stock::{Resting, TICK, lot};
use super::{DRAWS, MAX_WRITE, Step, Synth};
use crate::encode::{self, Head};
use crate::field::{Price4, Side, Symbol};

/// Nanoseconds.
pub(super) const HOUR: u64 = 3_600_000_000_000;
pub(super) const MINUTE: u64 = HOUR / 60;

/// The mix of order flow, in 4096ths (shares of a public day; what is below 0.1 % is rounded up).
const MIX: [(u8, usize); 18] = [
    (b'A', 1748),
    (b'D', 1706),
    (b'U', 328),
    (b'E', 102),
    (b'F', 61),
    (b'I', 61),
    (b'X', 49),
    (b'P', 25),
    (b'C', 4),
    (b'H', 2),
    (b'Y', 2),
    (b'N', 2),
    (b'J', 1),
    (b'K', 1),
    (b'h', 1),
    (b'B', 1),
    (b'O', 1),
    (b'W', 1),
];

/// The mix as a table to draw from.
static KINDS: [u8; DRAWS as usize] = {
    let mut kinds = [0; DRAWS as usize];
    let (mut row, mut at) = (0, 0);
    while row < MIX.len() {
        let mut left = MIX[row].1;
        while left > 0 {
            kinds[at] = MIX[row].0;
            at += 1;
            left -= 1;
        }
        row += 1;
    }
    assert!(at == DRAWS as usize, "the mix adds up");
    kinds
};

/// Types shown at the start of the session, so that a short day has them all: halts with their
/// end, and what needs an order to rest.
const SHOWN: [u8; 20] = *b"hhHHHWKJNOYPBIFUXECD";

/// Orders rest on a side before any is taken away.
const FEW: u32 = 3;

/// The buffer of one message.
pub(super) type Out = [u8; MAX_WRITE];

impl Synth<'_> {
    /// Writes the next message with its length; 0 when the day is over.
    #[inline]
    pub(super) fn next(&mut self, out: &mut Out) -> usize {
        match self.step {
            Step::Session(left) if left > 0 => {
                self.step = Step::Session(left - 1);
                self.made += 1;
                self.flow(left, 16 * HOUR, out)
            }
            Step::Done => 0,
            Step::Mark => {
                self.step = Step::Done;
                out[..2].fill(0);
                2
            }
            _ => {
                self.made += 1;
                self.rare_step(out)
            }
        }
    }

    /// One message of order flow; `left` of them are to come before `end`.
    #[inline(always)]
    pub(super) fn flow(&mut self, left: u64, end: u64, out: &mut Out) -> usize {
        if self.burst == 0 {
            self.next_burst(left, end);
        }
        self.burst -= 1;
        // Within a burst: a fifth of a microsecond to sixteen.
        let pace = 200 + (self.random.next() & 0x3FFF);
        self.now = (self.now + pace).min(end.max(self.now));
        if self.shown < SHOWN.len() && matches!(self.step, Step::Session(_)) {
            let kind = SHOWN[self.shown];
            let bytes = self.make(kind, out);
            self.shown += usize::from(out[2] == kind);
            return bytes;
        }
        let kind = KINDS[self.random.below(DRAWS) as usize];
        self.make(kind, out)
    }

    /// Chooses a stock and lets time pass: mostly microseconds, now and then a lull, so long that
    /// the day's messages fill the day. A few stocks are awake at a time and take turns.
    fn next_burst(&mut self, left: u64, end: u64) {
        const LONGEST: u32 = 12;
        // One burst in this many comes after a lull, or wakes another stock.
        const LULL: u32 = 32;
        const WAKE: u32 = 8;
        self.burst = 1 + self.random.below(LONGEST);
        let turn = (self.random.next() >> 32) as usize % self.awake.len();
        if self.random.below(WAKE) == 0 {
            self.awake[turn] = self.draws[self.random.below(DRAWS) as usize];
        }
        self.stock = self.awake[turn];
        let mean = if self.random.below(LULL) == 0 {
            let lulls = left / u64::from(LONGEST / 2 * LULL) + 1;
            end.saturating_sub(self.now) / lulls
        } else {
            50_000
        };
        self.now = (self.now + self.random.exponential(mean)).min(end.max(self.now));
    }

    /// A message of this type, or of the nearest one that is possible now.
    #[inline(always)]
    fn make(&mut self, kind: u8, out: &mut Out) -> usize {
        let side = (self.random.next() >> 63) as usize;
        match kind {
            b'A' => self.add(side, false, out),
            b'D' => self.delete(side, out),
            b'U' => self.replace(side, out),
            b'F' => self.add(side, true, out),
            b'X' => self.cancel(side, out),
            b'E' => self.execute(side, false, out),
            b'C' => self.execute(side, true, out),
            b'P' => self.hidden(side, out),
            b'I' => self.imbalance(out),
            _ => self.rare(kind, out),
        }
    }

    #[cold]
    fn rare(&mut self, kind: u8, out: &mut Out) -> usize {
        match kind {
            b'H' => self.trading(out),
            b'Y' => self.reg_sho(out),
            b'h' => self.halt(out),
            b'K' => self.ipo(out),
            b'J' => self.collar(out),
            b'N' => self.retail(out),
            b'O' => self.listing(out),
            b'W' => self.breach(out),
            _ => self.broken(out),
        }
    }

    /// The fields that every message of a burst's stock begins with.
    #[inline(always)]
    pub(super) fn head(&mut self) -> Head {
        self.tracking = self.tracking.wrapping_add(2);
        Head { locate: self.stock + 1, tracking: self.tracking, timestamp: self.now }
    }

    pub(super) fn market_head(&mut self) -> Head {
        Head { locate: 0, ..self.head() }
    }

    #[inline(always)]
    pub(super) fn symbol(&self) -> Symbol {
        Symbol(self.stocks[usize::from(self.stock)].symbol)
    }

    /// References are dense but for those of orders that never show.
    #[inline(always)]
    fn new_ref(&mut self) -> u64 {
        let skipped = u64::from(self.random.next() & 7 == 0);
        self.next_ref += 1 + skipped;
        self.next_ref
    }

    #[inline(always)]
    pub(super) fn new_match(&mut self) -> u64 {
        self.next_match += 1;
        self.next_match
    }

    #[inline(always)]
    fn add(&mut self, side: usize, attributed: bool, out: &mut Out) -> usize {
        let index = usize::from(self.stock);
        if self.stocks[index].sides[side].is_full() {
            return self.delete(side, out);
        }
        let head = self.head();
        let order_ref = self.new_ref();
        let price = self.stocks[index].price(side, &mut self.random);
        let shares = lot(&mut self.random);
        self.stocks[index].sides[side].push(side, Resting { order_ref, price, shares });
        let (side, stock, price) = (letter(side), self.symbol(), Price4(price));
        if attributed {
            let attribution = *b"NITE";
            encode::AddOrderMpid { head, order_ref, side, shares, stock, price, attribution }
                .write(out)
        } else {
            encode::AddOrder { head, order_ref, side, shares, stock, price }.write(out)
        }
        .unwrap_or(0)
    }

    /// An order that may be taken away, its side having enough of them.
    #[inline(always)]
    fn choose(&mut self, side: usize) -> Option<(usize, Resting)> {
        let orders = &self.stocks[usize::from(self.stock)].sides[side];
        if orders.len() < FEW {
            return None;
        }
        let at = orders.choose(&mut self.random)?;
        Some((at, orders.get(side, at)))
    }

    #[inline(always)]
    fn side_orders(&mut self, side: usize) -> &mut super::stock::SideOrders {
        &mut self.stocks[usize::from(self.stock)].sides[side]
    }

    #[inline(always)]
    fn delete(&mut self, side: usize, out: &mut Out) -> usize {
        let Some((at, Resting { order_ref, .. })) = self.choose(side) else {
            return self.add(side, false, out);
        };
        self.side_orders(side).remove(at);
        encode::OrderDelete { head: self.head(), order_ref }.write(out).unwrap_or(0)
    }

    #[inline(always)]
    fn replace(&mut self, side: usize, out: &mut Out) -> usize {
        let Some((at, old)) = self.choose(side) else {
            return self.add(side, false, out);
        };
        let head = self.head();
        self.side_orders(side).remove(at);
        let new_ref = self.new_ref();
        let price = self.stocks[usize::from(self.stock)].price(side, &mut self.random);
        let shares = if self.random.chance(64) { lot(&mut self.random) } else { old.shares };
        self.side_orders(side).push(side, Resting { order_ref: new_ref, price, shares });
        let (original_ref, price) = (old.order_ref, Price4(price));
        encode::OrderReplace { head, original_ref, new_ref, shares, price }.write(out).unwrap_or(0)
    }

    fn cancel(&mut self, side: usize, out: &mut Out) -> usize {
        let Some((at, Resting { order_ref, shares, .. })) = self.choose(side) else {
            return self.add(side, false, out);
        };
        if shares < 2 {
            return self.delete(side, out);
        }
        let cancelled_shares = 1 + self.random.below(shares - 1);
        self.side_orders(side).take_shares(at, cancelled_shares);
        encode::OrderCancel { head: self.head(), order_ref, cancelled_shares }
            .write(out)
            .unwrap_or(0)
    }

    fn execute(&mut self, side: usize, priced: bool, out: &mut Out) -> usize {
        let orders = self.side_orders(side);
        let front = if orders.len() < FEW { None } else { orders.front() };
        let Some(at) = front else {
            return self.add(side, false, out);
        };
        let Resting { order_ref, shares, price } = orders.get(side, at);
        let all = self.random.chance(150);
        let executed_shares = if all { shares } else { 1 + self.random.below(shares) };
        self.side_orders(side).take_shares(at, executed_shares);
        let (head, match_number) = (self.head(), self.new_match());
        if !priced {
            return encode::OrderExecuted { head, order_ref, executed_shares, match_number }
                .write(out)
                .unwrap_or(0);
        }
        let printable = if self.random.chance(128) { b'Y' } else { b'N' };
        let execution_price = Price4(price.saturating_add(TICK / 2));
        let message = encode::OrderExecutedWithPrice {
            head,
            order_ref,
            executed_shares,
            match_number,
            printable,
            execution_price,
        };
        message.write(out).unwrap_or(0)
    }

    fn hidden(&mut self, side: usize, out: &mut Out) -> usize {
        let price = Price4(self.fair_price());
        let message = encode::NonCrossTrade {
            head: self.head(),
            order_ref: 0,
            side: letter(side),
            shares: lot(&mut self.random),
            stock: self.symbol(),
            price,
            match_number: self.new_match(),
        };
        message.write(out).unwrap_or(0)
    }

    /// Between the best bid and the best offer.
    pub(super) fn fair_price(&self) -> u32 {
        let stock = &self.stocks[usize::from(self.stock)];
        let bid = stock.best(0).unwrap_or(stock.base - TICK);
        let ask = stock.best(1).unwrap_or(stock.base + TICK);
        bid / 2 + ask / 2
    }

    fn imbalance(&mut self, out: &mut Out) -> usize {
        let fair = self.fair_price();
        let paired = u64::from(self.random.below(100_000));
        let imbalance = u64::from(self.random.below(10_000));
        let message = encode::NetOrderImbalance {
            head: self.head(),
            paired_shares: paired,
            imbalance_shares: imbalance,
            direction: if imbalance == 0 { b'N' } else { letter((imbalance & 1) as usize).0 },
            stock: self.symbol(),
            far_price: Price4(fair + TICK),
            near_price: Price4(fair),
            reference_price: Price4(fair),
            cross_type: if self.now < 12 * HOUR { b'O' } else { b'C' },
            price_variation: b'1',
        };
        message.write(out).unwrap_or(0)
    }
}

#[inline(always)]
fn letter(side: usize) -> Side {
    if side == 0 { Side::BUY } else { Side::SELL }
}
