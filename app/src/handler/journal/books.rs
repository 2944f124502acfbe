//! The books as a feed: the messages that make them out of nothing.
//!
//! System event, then for each stock its directory entry, its trading state, and its orders, best
//! level first and each level's queue from its front. Fed to a fresh pipeline they give the same
//! books. What the books counted before is not in them, nor which market halted a stock for
//! operational reasons.

use crate::book::Books;
use crate::encode::{AddOrder, Head, StockDirectory, StockTradingAction, SystemEvent};
use crate::field::{EventCode, Price4, Side, Symbol};

/// Longest message with its length.
const LONGEST: usize = 2 + StockDirectory::LENGTH;

/// A message with its length in front, and how long both are.
type Encoded = ([u8; LONGEST], usize);

/// Encodes one message.
macro_rules! encoded {
    ($message:expr) => {{
        let mut bytes = [0; LONGEST];
        // The room is that of the longest.
        let len = $message.write(&mut bytes).unwrap_or(0);
        (bytes, len)
    }};
}

/// All messages, in order.
pub(super) fn messages(books: &Books<'_>) -> impl Iterator<Item = Encoded> {
    let session = books.in_session().then(|| {
        encoded!(SystemEvent { head: Head::default(), event: EventCode::START_OF_MARKET_HOURS })
    });
    session.into_iter().chain(books.locates().flat_map(move |locate| stock(books, locate)))
}

/// A stock's directory entry; what the books do not keep is left blank.
const fn directory(head: Head, stock: Symbol) -> StockDirectory {
    StockDirectory {
        head,
        stock,
        market_category: b' ',
        financial_status: b' ',
        round_lot_size: 0,
        round_lots_only: b' ',
        issue_classification: b' ',
        issue_sub_type: [b' '; 2],
        authenticity: b' ',
        short_sale_threshold: b' ',
        ipo_flag: b' ',
        luld_tier: b' ',
        etp_flag: b' ',
        etp_leverage: 0,
        inverse: b' ',
    }
}

/// One stock's messages.
fn stock(books: &Books<'_>, locate: u16) -> impl Iterator<Item = Encoded> {
    let head = Head { locate, ..Head::default() };
    let view = books.book(locate);
    let directory = view.map(|view| encoded!(directory(head, view.symbol)));
    let trading = view.and_then(|view| {
        let (stock, state) = (view.symbol, view.trading?);
        Some(encoded!(StockTradingAction { head, stock, state, reserved: b' ', reason: [b' '; 4] }))
    });
    let orders = [Side::BUY, Side::SELL].into_iter().flat_map(move |side| {
        books.queue(locate, side).map(move |order| {
            encoded!(AddOrder {
                head,
                order_ref: order.order_ref,
                side,
                shares: order.shares,
                stock: view.map_or(Symbol([b' '; 8]), |view| view.symbol),
                price: Price4(order.price),
            })
        })
    });
    directory.into_iter().chain(trading).chain(orders)
}

/// A feed in pieces of any size.
#[derive(Debug)]
pub(super) struct Pieces<I> {
    messages: I,
    kept: Encoded,
    used: usize,
}

impl<I: Iterator<Item = Encoded>> Pieces<I> {
    pub(super) const fn new(messages: I) -> Self {
        Self { messages, kept: ([0; LONGEST], 0), used: 0 }
    }

    /// Fills `room`, as far as there are messages.
    pub(super) fn fill(&mut self, room: &mut [u8]) {
        let mut filled = 0;
        while let Some(rest) = room.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let left = self.kept.0.get(self.used..self.kept.1).unwrap_or_default();
            if left.is_empty() {
                let Some(next) = self.messages.next() else { return };
                (self.kept, self.used) = (next, 0);
                continue;
            }
            let len = left.len().min(rest.len());
            rest[..len].copy_from_slice(&left[..len]);
            self.used += len;
            filled += len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::{BookStorage, Capacity, NoSink};
    use crate::pipeline::{Pipeline, PipelineConfig};
    use crate::synth::{StockSlot, Synth, SynthConfig};
    use std::vec::Vec;

    /// Messages of the day, and room for its books: the interpreter's time goes by both.
    const MESSAGES: u32 = if cfg!(miri) { 5_000 } else { 20_000 };
    const ROOM: u32 = if cfg!(miri) { 1_500 } else { 20_000 };

    fn pipeline() -> Pipeline<'static> {
        let capacity = Capacity { symbols: 256, orders: ROOM, levels: ROOM };
        let memory = std::vec![0_u64; capacity.bytes() / 8 + 32].leak();
        let memory = zerocopy::IntoBytes::as_mut_bytes(memory);
        let skew = memory.as_ptr().align_offset(128);
        let storage = BookStorage::carve(&mut memory[skew..], capacity).expect("room");
        Pipeline::new(storage, PipelineConfig::default())
    }

    fn all(pipeline: &Pipeline<'_>) -> Vec<u8> {
        messages(pipeline.books()).flat_map(|(bytes, len)| bytes[..len].to_vec()).collect()
    }

    #[test]
    fn the_feed_of_the_books_makes_the_same_books_and_what_follows_tells_the_same() {
        let config = SynthConfig { seed: 3, stocks: 20, messages: MESSAGES.into() };
        let mut slots = std::vec![StockSlot::default(); 20];
        let mut synth = Synth::new(config, &mut slots).expect("a day");
        let mut day = std::vec![0; 2 << 20];
        let len = synth.fill(&mut day);
        day.truncate(len);
        let mut at = 0;
        let mut cuts = Vec::new();
        while let Some(prefix) = day.get(at..at + 2) {
            at += 2 + usize::from(u16::from_be_bytes([prefix[0], prefix[1]]));
            cuts.push(at);
        }
        for part in [2, 3] {
            let cut = cuts[cuts.len() / part];
            let (before, after) = day.split_at(cut);
            let mut whole = pipeline();
            whole.feed(before, &mut NoSink).expect("a day");
            let state = all(&whole);
            let mut pieces = Pieces::new(messages(whole.books()));
            let mut odd = std::vec![0; state.len()];
            odd.chunks_mut(777).for_each(|piece| pieces.fill(piece));
            drop(pieces);
            assert_eq!(odd, state, "pieces of any size");
            let mut again = pipeline();
            again.feed(&state, &mut NoSink).expect("our own");
            assert_eq!(all(&again), state);
            assert!(whole.books().usage().orders.live > 100);
            let mut heard = (Vec::new(), Vec::new());
            whole.feed(after, &mut Heard(&mut heard.0)).expect("a day");
            again.feed(after, &mut Heard(&mut heard.1)).expect("a day");
            assert!(heard.0.len() > 1000 && heard.0 == heard.1, "the same changes");
        }
    }

    struct Heard<'a>(&'a mut Vec<crate::book::BboChange>);

    impl crate::book::Sink for Heard<'_> {
        fn bbo(&mut self, change: &crate::book::BboChange) {
            self.0.push(*change);
        }
    }
}
