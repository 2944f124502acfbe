//! Shared by the tests: memory for books, a sink that writes quotes.

use feed_handler::book::{BboChange, BookStorage, Capacity, QUOTE_CSV_HEADER, Sink, Status, Trade};

/// Memory for books, aligned as they want it.
pub(crate) struct Memory {
    words: Vec<u64>,
    capacity: Capacity,
}

impl Memory {
    pub(crate) fn new(capacity: Capacity) -> Self {
        // Dirty on purpose: what memory held before must not matter.
        Self {
            words: vec![0xA5A5_A5A5_A5A5_A5A5; capacity.bytes() / 8 + 17],
            capacity,
        }
    }

    pub(crate) fn for_feed(feed: &[u8]) -> Self {
        Self::new(Capacity::for_feed(feed.len() as u64))
    }

    pub(crate) fn storage(&mut self) -> BookStorage<'_> {
        let bytes = zerocopy::IntoBytes::as_mut_bytes(self.words.as_mut_slice());
        let skew = bytes.as_ptr().align_offset(128);
        BookStorage::carve(&mut bytes[skew..], self.capacity).unwrap()
    }
}

/// Writes the quotes of the session as a `--bbo` file.
pub(crate) struct QuoteRows {
    pub(crate) csv: String,
    pub(crate) count: usize,
}

impl Default for QuoteRows {
    fn default() -> Self {
        Self {
            csv: format!("{QUOTE_CSV_HEADER}\n"),
            count: 0,
        }
    }
}

impl Sink for QuoteRows {
    fn bbo(&mut self, change: &BboChange) {
        if change.in_session {
            self.csv += &format!("{}\n", change.quote);
            self.count += 1;
        }
    }
}

/// Keeps every event.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Events {
    pub(crate) bbos: Vec<BboChange>,
    pub(crate) trades: Vec<Trade>,
    pub(crate) statuses: Vec<Status>,
}

impl Sink for Events {
    fn bbo(&mut self, change: &BboChange) {
        self.bbos.push(*change);
    }

    fn trade(&mut self, trade: &Trade) {
        self.trades.push(*trade);
    }

    fn status(&mut self, status: &Status) {
        self.statuses.push(*status);
    }
}
