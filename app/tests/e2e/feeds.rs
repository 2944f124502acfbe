//! Feeds for the tests: the project's small one, the shared one, synthetic days, and feeds with one
//! fault each.

use std::path::{Path, PathBuf};

use feed_handler::encode::{
    AddOrder, Head, OrderCancel, OrderDelete, OrderExecuted, StockDirectory, SystemEvent,
};
use feed_handler::field::{EventCode, Side, Symbol};
use feed_handler::synth::{StockSlot, Synth, SynthConfig};
use hybrid_conventions::testing::{Random, skipped};

/// The project's own small feed: one stock, all message types, 5,000 messages.
pub(crate) fn small() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/one-stock.itch")
}

/// The quotes of [`small`].
pub(crate) fn small_quotes() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/one-stock.bbo.csv");
    std::fs::read_to_string(path).expect("the project's own data")
}

/// Real order flow and the quotes that were published for it; `None`, reported, where the data is
/// not beside the checkout.
pub(crate) fn real(test: &str) -> Option<(PathBuf, String)> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let feed = data.join("aapl-2012-06-21-open.itch");
    let quotes = std::fs::read_to_string(data.join("aapl-2012-06-21-open.bbo.csv"));
    match quotes {
        Ok(quotes) if feed.is_file() => Some((feed, quotes)),
        _ => {
            skipped(test, "shared/data/aapl-2012-06-21-open.itch is not there");
            None
        }
    }
}

/// A synthetic day.
pub(crate) fn day(seed: u64, stocks: u16, messages: u64) -> Vec<u8> {
    let config = SynthConfig { seed, stocks, messages };
    let mut slots = vec![StockSlot::default(); usize::from(stocks)];
    let mut feed = vec![0; config.most_bytes() as usize];
    let bytes = Synth::new(config, &mut slots).expect("a possible day").fill(&mut feed);
    feed.truncate(bytes);
    feed
}

/// The stock of [`Feed`].
const STOCK: Symbol = Symbol(*b"TEST    ");

/// A feed in the making: one stock, in its trading session.
pub(crate) struct Feed {
    pub(crate) bytes: Vec<u8>,
    messages: u64,
}

impl Feed {
    /// Begins with three messages: start of messages, the directory, start of the session.
    pub(crate) fn in_session() -> Self {
        let mut feed = Self { bytes: Vec::new(), messages: 0 };
        let event = |code| SystemEvent { head: feed_head(0), event: EventCode(code) };
        feed.raw(&event(b'O').to_bytes());
        let directory = StockDirectory {
            head: feed_head(1),
            stock: STOCK,
            market_category: b'Q',
            financial_status: b'N',
            round_lot_size: 100,
            round_lots_only: b'N',
            issue_classification: b'C',
            issue_sub_type: *b"Z ",
            authenticity: b'P',
            short_sale_threshold: b'N',
            ipo_flag: b'N',
            luld_tier: b'1',
            etp_flag: b'N',
            etp_leverage: 0,
            inverse: b'N',
        };
        feed.raw(&directory.to_bytes());
        feed.raw(&event(b'Q').to_bytes());
        feed
    }

    /// Any bytes as the next message, behind their length.
    pub(crate) fn raw(&mut self, message: &[u8]) {
        let length = u16::try_from(message.len()).expect("a message of at most 64 KiB");
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(message);
        self.messages += 1;
    }

    /// An order to buy 100 shares.
    pub(crate) fn add(&mut self, order_ref: u64) {
        self.raw(&add_order(order_ref));
    }

    /// An execution of an order.
    pub(crate) fn execute(&mut self, order_ref: u64, shares: u32) {
        let head = feed_head(1);
        let executed = OrderExecuted { head, order_ref, executed_shares: shares, match_number: 1 };
        self.raw(&executed.to_bytes());
    }

    /// A cancellation of a part of an order.
    pub(crate) fn cancel(&mut self, order_ref: u64, shares: u32) {
        let cancel = OrderCancel { head: feed_head(1), order_ref, cancelled_shares: shares };
        self.raw(&cancel.to_bytes());
    }

    /// The end of an order.
    pub(crate) fn delete(&mut self, order_ref: u64) {
        self.raw(&OrderDelete { head: feed_head(1), order_ref }.to_bytes());
    }

    /// Where the next message will be, in the words of an error.
    pub(crate) fn position(&self) -> String {
        format!("message {} at byte offset {}: ", self.messages + 1, self.bytes.len())
    }
}

/// An order to buy 100 shares.
pub(crate) fn add_order(order_ref: u64) -> [u8; AddOrder::LENGTH] {
    let add = AddOrder {
        head: feed_head(1),
        order_ref,
        side: Side::BUY,
        shares: 100,
        stock: STOCK,
        price: feed_handler::field::Price4(1_000_000),
    };
    add.to_bytes()
}

fn feed_head(locate: u16) -> Head {
    Head { locate, tracking: 0, timestamp: 34_200_000_000_000 }
}

/// Bytes that look like nothing.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut random = Random::new(1);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
