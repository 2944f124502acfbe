//! One stock of the synthetic day: the orders that rest, and how they come and go.
//!
//! Not a book: two short arrays, since a generator only needs orders to choose from. The price
//! that is best is kept, so that the sides never cross and executions take the best order first.

use super::random::Random;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Orders that rest on one side of one stock at most. 500 stocks then hold up to 96,000 orders,
/// as many as a public day has for so few; and the arrays of a stock fit 3 KiB.
pub(super) const SIDE_ORDERS: u32 = 96;

/// A cent, in units of a price(4).
pub(super) const TICK: u32 = 100;

/// The resting orders of one side.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct SideOrders {
    refs: [u64; SIDE_ORDERS as usize],
    /// Price for bids, its complement for offers: more is better.
    keys: [u32; SIDE_ORDERS as usize],
    shares: [u32; SIDE_ORDERS as usize],
    len: u32,
    /// Best key, 0 when there is no order.
    best: u32,
}

/// A stock's state; the caller gives one for each.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct StockSlot {
    pub(super) sides: [SideOrders; 2],
    pub(super) symbol: [u8; 8],
    /// Price that the stock stays near.
    pub(super) base: u32,
    /// Steps of its halts so far.
    pub(super) halts: u16,
    pub(super) pauses: u16,
}

impl Default for StockSlot {
    fn default() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }
}

/// An order of a side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resting {
    pub(super) order_ref: u64,
    pub(super) price: u32,
    pub(super) shares: u32,
}

#[inline(always)]
fn key(side: usize, price: u32) -> u32 {
    if side == 0 { price } else { !price }
}

impl SideOrders {
    pub(super) fn is_full(&self) -> bool {
        self.len == SIDE_ORDERS
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    #[inline(always)]
    pub(super) fn push(&mut self, side: usize, order: Resting) {
        let at = self.len as usize;
        if self.len < SIDE_ORDERS {
            self.refs[at] = order.order_ref;
            self.keys[at] = key(side, order.price);
            self.shares[at] = order.shares;
            self.len += 1;
            self.best = self.best.max(self.keys[at]);
        }
    }

    #[inline(always)]
    pub(super) fn get(&self, side: usize, at: usize) -> Resting {
        Resting {
            order_ref: self.refs[at],
            price: key(side, self.keys[at]),
            shares: self.shares[at],
        }
    }

    pub(super) fn take_shares(&mut self, at: usize, shares: u32) {
        if shares >= self.shares[at] {
            self.remove(at);
        } else {
            self.shares[at] -= shares;
        }
    }

    #[inline(always)]
    pub(super) fn remove(&mut self, at: usize) {
        let last = self.len as usize - 1;
        let gone = self.keys[at];
        self.refs[at] = self.refs[last];
        self.keys[at] = self.keys[last];
        self.shares[at] = self.shares[last];
        self.len -= 1;
        if gone == self.best {
            self.best = self.keys[..last].iter().copied().max().unwrap_or(0);
        }
    }

    /// The oldest order at the best price.
    pub(super) fn front(&self) -> Option<usize> {
        let len = self.len as usize;
        let at_best = (0..len).filter(|&at| self.keys[at] == self.best);
        at_best.min_by_key(|&at| self.refs[at])
    }

    /// An order to be changed by who placed it: mostly one of the last few placed, sometimes any.
    #[inline(always)]
    pub(super) fn choose(&self, random: &mut Random) -> Option<usize> {
        if self.len == 0 {
            return None;
        }
        let any = self.is_full() || random.chance(12);
        let back = random.below(if any { self.len } else { self.len.min(4) });
        Some((self.len - 1 - back) as usize)
    }
}

impl StockSlot {
    pub(super) fn new(symbol: [u8; 8], base: u32) -> Self {
        Self { symbol, base, ..Self::default() }
    }

    /// Best price of a side, `None` when it is empty.
    #[inline(always)]
    pub(super) fn best(&self, side: usize) -> Option<u32> {
        let orders = &self.sides[side];
        (orders.len > 0).then(|| key(side, orders.best))
    }

    /// A price for a new order: most join the best price or stand a few ticks behind it, some
    /// improve it, and none crosses. The stock stays within a twentieth of its base.
    #[inline(always)]
    pub(super) fn price(&self, side: usize, random: &mut Random) -> u32 {
        let (low, high) = (self.base - self.base / 20, self.base + self.base / 20);
        let roll = random.next();
        let behind = TICK * (1 + (roll >> 8).trailing_zeros().min(24) + u32::from(roll & 1 == 1));
        let roll = roll >> 40 & 0xFF;
        if side == 0 {
            let wall = self.best(1).unwrap_or(self.base + TICK);
            let own = self.best(0).unwrap_or(wall.saturating_sub(2 * TICK));
            match roll {
                0..=25 if own + TICK < wall.min(high) => own + TICK,
                0..=110 => own,
                _ => own.saturating_sub(behind),
            }
            .max(TICK)
        } else {
            let wall = self.best(0).unwrap_or(self.base - TICK);
            let own = self.best(1).unwrap_or(wall + 2 * TICK);
            match roll {
                0..=25 if own - TICK > wall.max(low) => own - TICK,
                0..=110 => own,
                _ => own + behind,
            }
        }
    }
}

/// Shares of a new order: round lots mostly.
#[inline(always)]
pub(super) fn lot(random: &mut Random) -> u32 {
    let roll = random.below(1024);
    match roll {
        0..=511 => 100,
        512..=895 => 100 * (1 + (roll & 7)),
        _ => 1 + roll % 99,
    }
}
