//! Days that no market has: prices anywhere (so that pages of levels split and merge), crossed
//! books, references of any size, queues of every length, replaces to the same price. Valid for a
//! book all the same.

use crate::support::{Rng, directory};
use feed_handler::encode::{self, Head};
use feed_handler::field::{EventCode, Price4, Side, Symbol};

/// Stocks of the day.
const STOCKS: u16 = 3;

/// An order at rest.
#[derive(Clone, Copy)]
struct Order {
    order_ref: u64,
    locate: u16,
    open: u32,
    price: u32,
}

/// A day in the making.
pub(crate) struct Wild {
    rng: Rng,
    live: Vec<Order>,
    /// Number of the message being made; also its time and match number.
    step: u64,
    /// Prices are below this.
    prices: u32,
    out: [u8; 64],
}

fn stock(locate: u16) -> Symbol {
    Symbol::new(&format!("W{locate}")).unwrap()
}

impl Wild {
    /// A feed of `steps` order messages; it grows to 2,500 orders and shrinks to 20, in turns.
    pub(crate) fn day(seed: u64, steps: u64, prices: u32) -> Vec<u8> {
        let mut wild =
            Self { rng: Rng::new(seed), live: Vec::new(), step: 0, prices, out: [0; 64] };
        let mut feed: Vec<u8> =
            (1..=STOCKS).flat_map(|locate| directory(locate, stock(locate))).collect();
        let event = EventCode::START_OF_MARKET_HOURS;
        let opening = encode::SystemEvent { head: Head::default(), event };
        let bytes = opening.write(&mut wild.out).unwrap();
        feed.extend_from_slice(&wild.out[..bytes]);
        let mut growing = true;
        for step in 0..steps {
            wild.step = step;
            growing = match wild.live.len() {
                0..20 => true,
                2500.. => false,
                _ => growing,
            };
            let adds = if growing { 60 } else { 25 };
            let bytes = if wild.live.is_empty() || wild.rng.below(100) < adds {
                wild.add()
            } else if wild.rng.below(5) == 0 {
                wild.replace()
            } else {
                wild.take()
            };
            feed.extend_from_slice(&wild.out[..bytes]);
        }
        feed
    }

    fn head(&self, locate: u16) -> Head {
        Head { locate, tracking: 0, timestamp: self.step }
    }

    /// Dense, or with a stride in the high half, or anywhere above 2^63.
    fn new_ref(&mut self) -> u64 {
        match self.rng.below(3) {
            0 => self.step + 1,
            1 => self.step << 32 | 7,
            _ => self.rng.next() | 1 << 63,
        }
    }

    fn price(&mut self) -> u32 {
        let scale = if self.rng.below(50) == 0 { 1 << 20 } else { 100 };
        self.rng.below(self.prices) * scale
    }

    fn add(&mut self) -> usize {
        let locate = 1 + self.rng.below(u32::from(STOCKS)) as u16;
        let (head, order_ref, stock) = (self.head(locate), self.new_ref(), stock(locate));
        let (price, shares) = (self.price(), 1 + self.rng.below(1000));
        self.live.push(Order { order_ref, locate, open: shares, price });
        let side = if self.rng.below(2) == 0 { Side::BUY } else { Side::SELL };
        let price = Price4(price);
        if self.rng.below(4) == 0 {
            let attribution = *b"WILD";
            encode::AddOrderMpid { head, order_ref, side, shares, stock, price, attribution }
                .write(&mut self.out)
                .unwrap()
        } else {
            encode::AddOrder { head, order_ref, side, shares, stock, price }
                .write(&mut self.out)
                .unwrap()
        }
    }

    /// Often to the same price, often with the same shares.
    fn replace(&mut self) -> usize {
        let at = self.rng.below(self.live.len() as u32) as usize;
        let old = self.live[at];
        let (head, new_ref) = (self.head(old.locate), self.new_ref());
        let price = if self.rng.below(3) == 0 { old.price } else { self.price() };
        let shares = if self.rng.below(3) == 0 { old.open } else { 1 + self.rng.below(1000) };
        self.live[at] = Order { order_ref: new_ref, open: shares, price, ..old };
        let (original_ref, price) = (old.order_ref, Price4(price));
        encode::OrderReplace { head, original_ref, new_ref, shares, price }
            .write(&mut self.out)
            .unwrap()
    }

    /// Takes a part or all of an order off, in one of four ways.
    fn take(&mut self) -> usize {
        let at = self.rng.below(self.live.len() as u32) as usize;
        let Order { order_ref, locate, open, .. } = self.live[at];
        let kind = self.rng.below(4);
        let all = kind == 0 || self.rng.below(2) == 0;
        let shares = if all { open } else { 1 + self.rng.below(open) };
        if shares == open {
            self.live.swap_remove(at);
        } else {
            self.live[at].open -= shares;
        }
        let (head, match_number, executed_shares) = (self.head(locate), self.step, shares);
        let execution_price = Price4(self.price());
        let printable = if self.rng.below(2) == 0 { b'Y' } else { b'N' };
        let out = &mut self.out;
        match kind {
            0 => encode::OrderDelete { head, order_ref }.write(out),
            1 => encode::OrderCancel { head, order_ref, cancelled_shares: shares }.write(out),
            2 => {
                encode::OrderExecuted { head, order_ref, executed_shares, match_number }.write(out)
            }
            _ => encode::OrderExecutedWithPrice {
                head,
                order_ref,
                executed_shares,
                match_number,
                printable,
                execution_price,
            }
            .write(out),
        }
        .unwrap()
    }
}
