//! A seeded, realistic trading day, as a feed in file framing.
//!
//! Called by the demo and by tests: [`Synth::fill`] writes the next bytes of the day into any
//! buffer, cutting messages where the buffer ends. The same configuration gives the same bytes on
//! every machine, whatever the buffers' sizes.
//!
//! The day has the message mix of a public one (42 % adds, 41 % deletes, 8 % replaces, …; all 23
//! types appear), activity that falls as 1/rank over the stocks, bursts of microseconds on one
//! stock, orders that mostly die young near the touch, and nearly dense references. System events
//! come in their order, each stock's directory entry before its orders, sides never cross, and
//! executions take the oldest order at the best price: every message is valid for a book.
//!
//! ```text
//! O, V ► directory ► participants ► S ► premarket ► Q ► session ► M ► late ► E ► C ► end mark
//! ```

mod calendar;
mod flow;
mod random;
mod stock;

pub use stock::StockSlot;

use crate::book::Capacity;
use crate::message::MAX_KNOWN_BYTES;
use random::Random;
use thiserror::Error;

/// Most bytes that one message takes, with its length prefix.
const MAX_WRITE: usize = MAX_KNOWN_BYTES + 2;

/// Entries of the table that draws a stock: 1/rank over 500 stocks gives the last one 1.2 of them.
const DRAWS: u32 = 4096;

/// Stocks that are busy at a time: news moves a few, and the others rest.
const AWAKE: usize = 8;

/// Most stocks: each needs an entry of its own, and half of them stay for the weights.
pub const MAX_STOCKS: u16 = 2048;

/// A day to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynthConfig {
    /// Seed of all chance.
    pub seed: u64,
    /// Stocks, 1 to [`MAX_STOCKS`].
    pub stocks: u16,
    /// Messages of the whole day; at least [`SynthConfig::least_messages`].
    pub messages: u64,
}

impl Default for SynthConfig {
    fn default() -> Self {
        Self { seed: 1, stocks: 500, messages: 5_000_000 }
    }
}

impl SynthConfig {
    /// Messages that are not orders or trades: seven marks, five for each stock, and the market
    /// participants, 0.6 % of the day.
    const fn fixed_messages(&self) -> u64 {
        7 + 5 * self.stocks as u64 + self.participants()
    }

    const fn participants(&self) -> u64 {
        let share = self.messages / 1000 * 6;
        if share == 0 { 1 } else { share }
    }

    /// The shortest day with these stocks that has all types of messages.
    #[must_use]
    pub const fn least_messages(&self) -> u64 {
        // 400 leave room for all types, each of which may have to wait for an order to rest.
        7 + 6 * self.stocks as u64 + 400
    }

    /// No day is longer than this, in bytes.
    #[must_use]
    pub const fn most_bytes(&self) -> u64 {
        // 30.8 bytes on average, as measured over seeds; the longest types are rare.
        self.messages * 36 + 64 * 1024
    }

    /// What books of this day need at most.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        let orders = u32::from(self.stocks) * 2 * stock::SIDE_ORDERS;
        Capacity { symbols: u32::from(self.stocks) + 1, orders, levels: orders }
    }
}

/// A day that cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SynthError {
    /// Stocks out of range.
    #[error("a synthetic day has 1 to 2048 stocks, not {stocks}")]
    Stocks {
        /// What was asked for.
        stocks: u16,
    },
    /// Too few messages.
    #[error("a synthetic day of {stocks} stocks has at least {least} messages, not {messages}")]
    Messages {
        /// Stocks.
        stocks: u16,
        /// What was asked for.
        messages: u64,
        /// The least.
        least: u64,
    },
    /// Too little memory.
    #[error("a synthetic day of {stocks} stocks needs as many slots, {slots} were given")]
    Slots {
        /// Stocks.
        stocks: u16,
        /// Slots given.
        slots: usize,
    },
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Start,
    Decline,
    Directory(u16),
    Trading(u16),
    RegSho(u16),
    Participants(u64),
    SystemHours,
    Premarket(u64),
    OpeningCross(u16),
    Session(u64),
    ClosingCross(u16),
    Late(u64),
    End,
    Mark,
    Done,
}

/// A day in the making.
#[derive(Debug)]
pub struct Synth<'m> {
    config: SynthConfig,
    stocks: &'m mut [StockSlot],
    random: Random,
    step: Step,
    /// Messages made.
    made: u64,
    /// Nanoseconds since midnight.
    now: u64,
    /// The stock of the burst, from 0, and how many of its messages are to come.
    stock: u16,
    burst: u32,
    /// The stocks that are busy now.
    awake: [u16; AWAKE],
    next_ref: u64,
    next_match: u64,
    tracking: u16,
    /// Types of which one was made on purpose.
    shown: usize,
    /// Draws of a stock, by activity.
    draws: [u16; DRAWS as usize],
    /// What did not fit into the last buffer.
    pending: [u8; MAX_WRITE],
    pending_from: usize,
    pending_to: usize,
}

impl<'m> Synth<'m> {
    /// A day at its start; `slots` has one for each stock, whatever they hold.
    ///
    /// # Errors
    /// [`SynthError`] says what is out of range.
    pub fn new(config: SynthConfig, slots: &'m mut [StockSlot]) -> Result<Self, SynthError> {
        let SynthConfig { seed, stocks, messages } = config;
        if stocks == 0 || stocks > MAX_STOCKS {
            return Err(SynthError::Stocks { stocks });
        }
        let least = config.least_messages();
        if messages < least {
            return Err(SynthError::Messages { stocks, messages, least });
        }
        let error = SynthError::Slots { stocks, slots: slots.len() };
        let slots = slots.get_mut(..usize::from(stocks)).ok_or(error)?;
        let mut random = Random::new(seed);
        for (rank, slot) in (0..).zip(slots.iter_mut()) {
            // 10 to 500 dollars.
            let base = stock::TICK * (1000 + random.below(49_000));
            *slot = StockSlot::new(symbol_of(rank), base);
        }
        Ok(Self {
            config,
            stocks: slots,
            random,
            step: Step::Start,
            made: 0,
            now: 3 * flow::HOUR,
            stock: 0,
            burst: 0,
            awake: [0; AWAKE],
            next_ref: 1,
            next_match: 1,
            tracking: 0,
            shown: 0,
            draws: draws_of(stocks),
            pending: [0; MAX_WRITE],
            pending_from: 0,
            pending_to: 0,
        })
    }

    /// Writes the next bytes of the day; fewer than `out` holds only at its end, then 0.
    pub fn fill(&mut self, out: &mut [u8]) -> usize {
        let mut written = self.drain(out);
        while let Some(room) = out.get_mut(written..).and_then(|rest| rest.first_chunk_mut()) {
            match self.next(room) {
                0 => return written,
                bytes => written += bytes,
            }
        }
        while let Some(rest) = out.get_mut(written..).filter(|rest| !rest.is_empty()) {
            let mut pending = self.pending;
            self.pending_to = self.next(&mut pending);
            self.pending = pending;
            self.pending_from = 0;
            match self.drain(rest) {
                0 => break,
                bytes => written += bytes,
            }
        }
        written
    }

    /// Messages made so far; all of [`SynthConfig::messages`] at the end.
    #[must_use]
    pub const fn messages(&self) -> u64 {
        self.made
    }

    /// Writes what did not fit last time.
    fn drain(&mut self, out: &mut [u8]) -> usize {
        let left = self.pending.get(self.pending_from..self.pending_to).unwrap_or(&[]);
        let bytes = left.len().min(out.len());
        out[..bytes].copy_from_slice(&left[..bytes]);
        self.pending_from += bytes;
        bytes
    }
}

/// The symbol of a rank: two to four letters.
fn symbol_of(rank: u16) -> [u8; 8] {
    let mut symbol = [b' '; 8];
    let mut rest = rank + 26;
    let mut letters = [0; 4];
    let mut len = 0;
    while rest > 0 && len < letters.len() {
        letters[len] = b'A' + u8::try_from(rest % 26).unwrap_or(0);
        rest /= 26;
        len += 1;
    }
    for (to, from) in symbol.iter_mut().zip(letters[..len].iter().rev()) {
        *to = *from;
    }
    symbol
}

/// A table whose entries name stock `i` about in proportion to `1 / (i + 1)`, each at least once.
fn draws_of(stocks: u16) -> [u16; DRAWS as usize] {
    const SCALE: u64 = 1 << 32;
    let harmonic: u64 = (1..=u64::from(stocks)).map(|rank| SCALE / rank).sum();
    let spare = u64::from(DRAWS) - u64::from(stocks);
    let mut draws = [0; DRAWS as usize];
    let mut from = usize::from(stocks);
    for stock in 0..stocks {
        draws[usize::from(stock)] = stock;
        let weight = SCALE / (u64::from(stock) + 1);
        let count = usize::try_from(u128::from(weight) * u128::from(spare) / u128::from(harmonic));
        let to = (DRAWS as usize).min(from + count.unwrap_or(0));
        draws[from..to].fill(stock);
        from = to;
    }
    // What rounding left stays with the most active stock, 0.
    draws
}
