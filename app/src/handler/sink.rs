//! What the books tell, put into the event ring.
//!
//! Called on the hot path, once an event: fills a record and stages it. The replay task makes sure
//! beforehand that there is room ([`EventSink::has_room`]) and publishes once a slice, so that
//! nothing is ever dropped and the host sees a batch with one store.

use core_runtime::ring::RecordProducer;
use hybrid_abi::Record;
use hybrid_abi::event;
use zerocopy::IntoBytes;

use crate::book::{BboChange, Sink, Status, StatusKind, Trade, TradeKind};
use crate::field::{HaltAction, Symbol};

/// Ring bytes that one byte of feed can cost at most: a delete (21 bytes with its length) changes a
/// BBO (64 bytes with its header), an execution (33 bytes) adds a trade (56): below 4.
pub const RING_BYTES_PER_FEED_BYTE: usize = 4;

/// Locate codes have 16 bits.
pub const LOCATES: usize = 1 << 16;

/// Puts events into a ring.
#[derive(Debug)]
pub struct EventSink {
    ring: &'static RecordProducer,
    /// Symbol of each locate code, as the feed's directory says.
    symbols: &'static mut [[u8; 8]],
    /// Events staged.
    pub events: u64,
    /// Events that found no room in spite of [`EventSink::has_room`]: a bug of ours, if not zero.
    pub dropped: u64,
    /// Trading states told.
    pub states: u64,
    /// Events, the first ones, that the host has had of an earlier incarnation.
    left_out: u64,
}

impl EventSink {
    /// A sink into `ring`; `symbols` has [`LOCATES`] entries.
    #[must_use]
    pub fn new(ring: &'static RecordProducer, symbols: &'static mut [[u8; 8]]) -> Self {
        Self { ring, symbols, events: 0, dropped: 0, states: 0, left_out: 0 }
    }

    /// Counts the first `events` and sends none of them.
    #[must_use]
    pub const fn leaving_out(mut self, events: u64) -> Self {
        self.left_out = events;
        self
    }

    /// Whether the host has had more than was counted so far.
    #[must_use]
    pub const fn is_behind(&self) -> bool {
        self.events < self.left_out
    }

    /// Whether the events of `feed_bytes` bytes of feed surely fit; `None` if the ring is closed.
    #[must_use]
    pub fn has_room(&self, feed_bytes: usize) -> Option<bool> {
        self.ring.has_room(feed_bytes * RING_BYTES_PER_FEED_BYTE).ok()
    }

    /// Shows the host what was staged.
    pub fn publish(&self) {
        self.ring.publish();
    }

    #[inline(always)]
    fn stage<R: Record + IntoBytes>(&mut self, record: &R) {
        if self.is_behind() {
            self.events += 1;
            return;
        }
        match self.ring.stage(R::KIND, 0, record.as_bytes()) {
            Ok(()) => self.events += 1,
            Err(_) => self.dropped += 1,
        }
    }

    #[inline(always)]
    fn symbol(&self, locate: u16) -> [u8; 8] {
        self.symbols.get(usize::from(locate)).copied().unwrap_or([b' '; 8])
    }
}

impl Sink for EventSink {
    fn stock(&mut self, locate: u16, symbol: Symbol) {
        if let Some(entry) = self.symbols.get_mut(usize::from(locate)) {
            *entry = symbol.0;
        }
    }

    #[inline(always)]
    fn bbo(&mut self, change: &BboChange) {
        let record = event::Bbo {
            timestamp_ns: change.timestamp,
            message: 0,
            bid_shares: change.quote.bid_shares,
            ask_shares: change.quote.ask_shares,
            bid_price: change.quote.bid_price,
            ask_price: change.quote.ask_price,
            symbol: self.symbol(change.locate),
            locate: change.locate,
            flags: if change.in_session { 0 } else { event::BBO_BEFORE_SESSION },
            reserved: 0,
        };
        self.stage(&record);
    }

    #[inline(always)]
    fn trade(&mut self, trade: &Trade) {
        let record = event::Trade {
            timestamp_ns: trade.timestamp,
            message: 0,
            match_number: trade.match_number,
            shares: trade.shares,
            price: trade.price,
            locate: trade.locate,
            message_type: match trade.kind {
                TradeKind::Execution => b'E',
                TradeKind::ExecutionAtPrice => b'C',
                TradeKind::Hidden => b'P',
                TradeKind::Cross => b'Q',
            },
            side: b' ',
            symbol: self.symbol(trade.locate),
        };
        self.stage(&record);
    }

    fn status(&mut self, status: &Status) {
        let (state, reason) = match status.kind {
            StatusKind::Trading { state, reason } => (state.0, reason),
            StatusKind::Operational { market, action } => {
                let state = if action == HaltAction::HALTED { b'H' } else { b'T' };
                (state, [market, b' ', b' ', b' '])
            }
            StatusKind::System(_)
            | StatusKind::RegSho { .. }
            | StatusKind::CircuitBreaker { .. }
            | StatusKind::BrokenTrade { .. } => return,
        };
        self.states += 1;
        let record = event::TradingState {
            timestamp_ns: status.timestamp,
            message: 0,
            symbol: self.symbol(status.locate),
            reason,
            locate: status.locate,
            state,
            reserved: 0,
        };
        self.stage(&record);
    }
}
