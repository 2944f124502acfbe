//! The naive book: maps of prices to queues, written from the specification with its own reading
//! of the bytes, so that it shares no code with what it judges.

use feed_handler::book::Quote;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// An order at rest: reference and shares.
type Queue = VecDeque<(u64, u32)>;

/// One stock.
#[derive(Default)]
pub(crate) struct NaiveBook {
    bids: BTreeMap<u32, Queue>,
    asks: BTreeMap<u32, Queue>,
}

/// A trade: locate, price, shares, match number, printable.
pub(crate) type NaiveTrade = (u16, u32, u64, u64, bool);

/// All stocks.
#[derive(Default)]
pub(crate) struct Naive {
    pub(crate) books: HashMap<u16, NaiveBook>,
    /// Where an order rests: locate, bid, price.
    orders: HashMap<u64, (u16, bool, u32)>,
    pub(crate) trades: Vec<NaiveTrade>,
    pub(crate) in_session: bool,
    /// Rows of a `--bbo` file of all stocks.
    pub(crate) rows: Vec<(u16, Quote)>,
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::try_from(number(bytes, at, 4)).unwrap()
}

impl NaiveBook {
    fn side(&mut self, bid: bool) -> &mut BTreeMap<u32, Queue> {
        if bid { &mut self.bids } else { &mut self.asks }
    }

    pub(crate) fn quote(&self) -> Quote {
        let sum = |queue: &Queue| queue.iter().map(|&(_, shares)| u64::from(shares)).sum();
        let bid = self.bids.last_key_value().map_or((0, 0), |(&price, queue)| (price, sum(queue)));
        let ask = self.asks.first_key_value().map_or((0, 0), |(&price, queue)| (price, sum(queue)));
        Quote { bid_price: bid.0, bid_shares: bid.1, ask_price: ask.0, ask_shares: ask.1 }
    }

    /// Orders of a side, best first, each queue from its front: price, reference, shares.
    pub(crate) fn queue(&self, bid: bool) -> Vec<(u32, u64, u32)> {
        let flat = |(&price, queue): (&u32, &Queue)| {
            let orders = queue.iter().map(|&(order_ref, shares)| (price, order_ref, shares));
            orders.collect::<Vec<_>>()
        };
        if bid {
            self.bids.iter().rev().flat_map(flat).collect()
        } else {
            self.asks.iter().flat_map(flat).collect()
        }
    }
}

impl Naive {
    fn add(&mut self, locate: u16, order_ref: u64, bid: bool, shares: u32, price: u32) {
        let book = self.books.entry(locate).or_default();
        book.side(bid).entry(price).or_default().push_back((order_ref, shares));
        assert!(self.orders.insert(order_ref, (locate, bid, price)).is_none());
    }

    /// Takes shares (or all of them) off; gives the price.
    fn take(&mut self, order_ref: u64, shares: Option<u32>) -> u32 {
        let (locate, bid, price) = self.orders[&order_ref];
        let side = self.books.get_mut(&locate).unwrap().side(bid);
        let queue = side.get_mut(&price).unwrap();
        let at = queue.iter().position(|&(other, _)| other == order_ref).unwrap();
        let left = queue[at].1 - shares.unwrap_or(queue[at].1);
        queue[at].1 = left;
        if left == 0 {
            queue.remove(at);
            self.orders.remove(&order_ref);
        }
        if queue.is_empty() {
            side.remove(&price);
        }
        price
    }

    pub(crate) fn quote(&self, locate: u16) -> Quote {
        self.books.get(&locate).map(NaiveBook::quote).unwrap_or_default()
    }

    /// Applies one message (without its length); gives its locate code.
    pub(crate) fn apply(&mut self, m: &[u8]) -> u16 {
        let locate = u16::try_from(number(m, 1, 2)).unwrap();
        let before = self.quote(locate);
        match m[0] {
            b'S' => self.in_session |= m[11] == b'Q',
            b'A' | b'F' => {
                let bid = m[19] == b'B';
                self.add(locate, number(m, 11, 8), bid, word(m, 20), word(m, 32));
            }
            b'E' => {
                let price = self.take(number(m, 11, 8), Some(word(m, 19)));
                let shares = u64::from(word(m, 19));
                self.trades.push((locate, price, shares, number(m, 23, 8), true));
            }
            b'C' => {
                self.take(number(m, 11, 8), Some(word(m, 19)));
                let (price, shares) = (word(m, 32), u64::from(word(m, 19)));
                self.trades.push((locate, price, shares, number(m, 23, 8), m[31] == b'Y'));
            }
            b'X' => {
                self.take(number(m, 11, 8), Some(word(m, 19)));
            }
            b'D' => {
                self.take(number(m, 11, 8), None);
            }
            b'U' => {
                let original = number(m, 11, 8);
                let (locate, bid, _) = self.orders[&original];
                self.take(original, None);
                self.add(locate, number(m, 19, 8), bid, word(m, 27), word(m, 31));
            }
            b'P' => {
                let shares = u64::from(word(m, 20));
                self.trades.push((locate, word(m, 32), shares, number(m, 36, 8), true));
            }
            b'Q' => {
                let shares = number(m, 11, 8);
                self.trades.push((locate, word(m, 27), shares, number(m, 31, 8), true));
            }
            _ => {}
        }
        let after = self.quote(locate);
        if before != after && self.in_session {
            self.rows.push((locate, after));
        }
        locate
    }
}

/// The messages of a feed in file framing, one after another.
pub(crate) fn messages(feed: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = feed;
    std::iter::from_fn(move || {
        let length = rest.get(..2)?;
        let length = usize::from(length[0]) << 8 | usize::from(length[1]);
        let message = rest.get(2..2 + length).filter(|message| !message.is_empty())?;
        rest = &rest[2 + length..];
        Some(message)
    })
}
