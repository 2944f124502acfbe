//! Shared by the tests: memory for books, a sink that writes quotes.

use feed_handler::book::{BboChange, BookStorage, Capacity, QUOTE_CSV_HEADER, Sink, Status, Trade};
use feed_handler::encode::{self, Head};
use feed_handler::field::Symbol;
use feed_handler::synth::{StockSlot, Synth, SynthConfig};
use hybrid_conventions::testing::Random;

/// Memory for books, aligned as they want it.
pub(crate) struct Memory {
    words: Vec<u64>,
    capacity: Capacity,
}

impl Memory {
    pub(crate) fn new(capacity: Capacity) -> Self {
        // Dirty on purpose: what memory held before must not matter.
        Self { words: vec![0xA5A5_A5A5_A5A5_A5A5; capacity.bytes() / 8 + 17], capacity }
    }

    pub(crate) fn for_feed(feed: &[u8]) -> Self {
        Self::new(Capacity::for_feed(feed.len() as u64))
    }

    /// What it holds now, for [`Memory::spoil`].
    pub(crate) fn copy(&self) -> Vec<u64> {
        self.words.clone()
    }

    /// Changes one word of those that are not as they were `before`: one that is in use. `number`
    /// picks and changes it.
    pub(crate) fn spoil(&mut self, before: &[u64], number: u64) {
        let changed = |at: &usize| self.words[*at] != before[*at];
        let used: Vec<_> = (0..self.words.len()).filter(changed).collect();
        let at = used[usize::try_from(number >> 20).expect("64 bits") % used.len()];
        self.words[at] ^= number << 44 | number >> 60 | 1;
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
        Self { csv: format!("{QUOTE_CSV_HEADER}\n"), count: 0 }
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

/// A synthetic day in memory.
pub(crate) fn synthetic_day(seed: u64, stocks: u16, messages: u64) -> (SynthConfig, Vec<u8>) {
    let config = SynthConfig { seed, stocks, messages };
    let mut slots = vec![StockSlot::default(); usize::from(stocks)];
    let mut feed = vec![0; usize::try_from(config.most_bytes()).unwrap()];
    let bytes = Synth::new(config, &mut slots).unwrap().fill(&mut feed);
    feed.truncate(bytes);
    (config, feed)
}

/// Random numbers of the tests.
pub(crate) struct Rng(Random);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Random::new(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.next()
    }

    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

/// A framed stock directory message.
pub(crate) fn directory(locate: u16, stock: Symbol) -> Vec<u8> {
    let message = encode::StockDirectory {
        head: Head { locate, ..Head::default() },
        stock,
        market_category: b'Q',
        financial_status: b'N',
        round_lot_size: 100,
        round_lots_only: b'N',
        issue_classification: b'C',
        issue_sub_type: *b"Z ",
        authenticity: b'T',
        short_sale_threshold: b'N',
        ipo_flag: b'N',
        luld_tier: b'1',
        etp_flag: b'N',
        etp_leverage: 0,
        inverse: b'N',
    };
    let mut out = vec![0; 64];
    let bytes = message.write(&mut out).unwrap();
    out.truncate(bytes);
    out
}
