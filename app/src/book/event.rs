//! What the books tell: best bid and offer, trades, states. And the sink that hears it.
//!
//! A sink is called from inside [`super::Books`] on the hot path: it must be short (a push to a
//! ring). Prices have four implied decimals, timestamps are nanoseconds since midnight.

use crate::field::{EventCode, HaltAction, Symbol, TradingState};
use core::fmt;

/// Best bid and offer of one stock. An empty side has price 0 and no shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Quote {
    /// Highest bid.
    pub bid_price: u32,
    /// Shares at it, over all its orders.
    pub bid_shares: u64,
    /// Lowest offer.
    pub ask_price: u32,
    /// Shares at it, over all its orders.
    pub ask_shares: u64,
}

/// First line of a file of quotes.
pub const QUOTE_CSV_HEADER: &str = "bid_price,bid_shares,ask_price,ask_shares";

impl fmt::Display for Quote {
    /// One row of a file of quotes: `bid_price,bid_shares,ask_price,ask_shares`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bid_price, bid_shares, ask_price, ask_shares } = self;
        write!(f, "{bid_price},{bid_shares},{ask_price},{ask_shares}")
    }
}

/// The best bid or offer of a stock changed.
///
/// Told once after each message that changed it, and never for one that did not; a replace is one
/// message. The rows of a `--bbo` file are the quotes of the changes with `in_session`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BboChange {
    /// The stock.
    pub locate: u16,
    /// Whether the trading session has begun (system event `Q`).
    pub in_session: bool,
    /// When.
    pub timestamp: u64,
    /// The quote from now on.
    pub quote: Quote,
}

/// How a trade came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TradeKind {
    /// E: a displayed order at its price.
    Execution,
    /// C: a displayed order at another price.
    ExecutionAtPrice,
    /// P: an order that was not displayed.
    Hidden,
    /// Q: an auction.
    Cross,
}

/// Shares changed hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trade {
    /// The stock.
    pub locate: u16,
    /// How.
    pub kind: TradeKind,
    /// Whether it counts for volume; what is not printable is told again by a cross.
    pub printable: bool,
    /// When.
    pub timestamp: u64,
    /// Price.
    pub price: u32,
    /// Shares.
    pub shares: u64,
    /// Match number, unique within the day.
    pub match_number: u64,
}

/// What happened to a stock, the market or a trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusKind {
    /// S: a mark of the market's day.
    System(EventCode),
    /// H: trading state of the stock.
    Trading {
        /// The state.
        state: TradingState,
        /// Its reason, four letters.
        reason: [u8; 4],
    },
    /// h: one market halts or resumes the stock.
    Operational {
        /// The market's letter.
        market: u8,
        /// Halted or resumed.
        action: HaltAction,
    },
    /// Y: short-sale restriction.
    RegSho {
        /// `0`, `1` or `2`.
        action: u8,
    },
    /// W: a level of the market-wide circuit breaker was breached.
    CircuitBreaker {
        /// `1`, `2` or `3`.
        level: u8,
    },
    /// B: a trade told earlier is broken.
    BrokenTrade {
        /// Its match number.
        match_number: u64,
    },
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The stock, or 0 for the market.
    pub locate: u16,
    /// When.
    pub timestamp: u64,
    /// What.
    pub kind: StatusKind,
}

/// Hears what the books tell. What is not overridden is dropped.
pub trait Sink {
    /// A stock whose book is kept got its locate code; told once, before anything else of it.
    fn stock(&mut self, locate: u16, symbol: Symbol) {
        let _ = (locate, symbol);
    }

    /// The best bid or offer changed.
    #[inline(always)]
    fn bbo(&mut self, change: &BboChange) {
        let _ = change;
    }

    /// Shares changed hands.
    #[inline(always)]
    fn trade(&mut self, trade: &Trade) {
        let _ = trade;
    }

    /// A state changed.
    #[inline(always)]
    fn status(&mut self, status: &Status) {
        let _ = status;
    }
}

/// Drops everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSink;

impl Sink for NoSink {}

impl<S: Sink> Sink for &mut S {
    fn stock(&mut self, locate: u16, symbol: Symbol) {
        (**self).stock(locate, symbol);
    }

    #[inline(always)]
    fn bbo(&mut self, change: &BboChange) {
        (**self).bbo(change);
    }

    #[inline(always)]
    fn trade(&mut self, trade: &Trade) {
        (**self).trade(trade);
    }

    #[inline(always)]
    fn status(&mut self, status: &Status) {
        (**self).status(status);
    }
}
