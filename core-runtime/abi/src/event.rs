//! Records that a partition sends to the host.
//!
//! Prices have four implied decimals, as in ITCH 5.0; times of a feed are nanoseconds since its
//! midnight; times of the machine are TSC ticks.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::record::Record;

/// Kind of [`Bbo`].
pub const KIND_BBO: u16 = 0x0201;
/// Kind of [`Trade`].
pub const KIND_TRADE: u16 = 0x0202;
/// Kind of [`TradingState`].
pub const KIND_TRADING_STATE: u16 = 0x0203;
/// Kind of [`Status`].
pub const KIND_STATUS: u16 = 0x0204;
/// Kind of [`Text`].
pub const KIND_TEXT: u16 = 0x0205;
/// Kind of [`Pong`].
pub const KIND_PONG: u16 = 0x0206;

/// The best bid and offer of a symbol after a message that changed them.
///
/// A side without orders has price 0 and shares 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Bbo {
    /// Feed time of the message, nanoseconds since midnight.
    pub timestamp_ns: u64,
    /// Number of the message in the feed, from 0.
    pub message: u64,
    /// Shares at the best bid.
    pub bid_shares: u64,
    /// Shares at the best offer.
    pub ask_shares: u64,
    /// Best bid, four implied decimals.
    pub bid_price: u32,
    /// Best offer, four implied decimals.
    pub ask_price: u32,
    /// Symbol, padded with spaces.
    pub symbol: [u8; 8],
    /// Stock locate code of the feed.
    pub locate: u16,
    /// `BBO_` flags.
    pub flags: u16,
    /// Zero.
    pub reserved: u32,
}

/// The message came before the trading session's start (system event `Q`).
pub const BBO_BEFORE_SESSION: u16 = 1;

const _: () = assert!(size_of::<Bbo>() == 56 && align_of::<Bbo>() == 8);
const _: () = assert!(offset_of!(Bbo, bid_price) == 32 && offset_of!(Bbo, symbol) == 40);
const _: () = assert!(offset_of!(Bbo, locate) == 48 && offset_of!(Bbo, reserved) == 52);

impl Record for Bbo {
    const KIND: u16 = KIND_BBO;
}

/// A trade, or the breaking of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Trade {
    /// Feed time of the message, nanoseconds since midnight.
    pub timestamp_ns: u64,
    /// Number of the message in the feed, from 0.
    pub message: u64,
    /// Match number of the feed.
    pub match_number: u64,
    /// Shares traded.
    pub shares: u64,
    /// Price, four implied decimals.
    pub price: u32,
    /// Stock locate code of the feed.
    pub locate: u16,
    /// Type of the message that told of it: `E`, `C`, `P`, `Q` or `B`.
    pub message_type: u8,
    /// Side of the resting order: `B`, `S`, or a space where there is none.
    pub side: u8,
    /// Symbol, padded with spaces.
    pub symbol: [u8; 8],
}

const _: () = assert!(size_of::<Trade>() == 48 && align_of::<Trade>() == 8);
const _: () = assert!(offset_of!(Trade, price) == 32 && offset_of!(Trade, locate) == 36);
const _: () = assert!(offset_of!(Trade, side) == 39 && offset_of!(Trade, symbol) == 40);

impl Record for Trade {
    const KIND: u16 = KIND_TRADE;
}

/// A symbol's trading was halted, paused or resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TradingState {
    /// Feed time of the message, nanoseconds since midnight.
    pub timestamp_ns: u64,
    /// Number of the message in the feed, from 0.
    pub message: u64,
    /// Symbol, padded with spaces.
    pub symbol: [u8; 8],
    /// Reason code of the feed, padded with spaces.
    pub reason: [u8; 4],
    /// Stock locate code of the feed.
    pub locate: u16,
    /// New state: `H`, `P`, `Q` or `T`.
    pub state: u8,
    /// Zero.
    pub reserved: u8,
}

const _: () = assert!(size_of::<TradingState>() == 32 && align_of::<TradingState>() == 8);
const _: () = assert!(offset_of!(TradingState, reason) == 24);
const _: () = assert!(offset_of!(TradingState, state) == 30);

impl Record for TradingState {
    const KIND: u16 = KIND_TRADING_STATE;
}

/// Where the partition is in its life and its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Status {
    /// TSC at which it was sent.
    pub tsc: u64,
    /// One of the `STATE_` constants.
    pub state: u32,
    /// An error or phase code that the entry defines; 0 for none.
    pub code: u32,
    /// Bytes of the work done.
    pub bytes_done: u64,
    /// Bytes of the work in all; 0 where unknown.
    pub bytes_total: u64,
    /// Messages or operations done.
    pub messages_done: u64,
    /// Position to which `code` belongs: a byte offset, an LBA.
    pub position: u64,
}

/// Built, not yet running.
pub const STATE_STARTING: u32 = 1;
/// Running: from here on no system call, no page fault, no allocation.
pub const STATE_RUNNING: u32 = 2;
/// Draining.
pub const STATE_STOPPING: u32 = 3;
/// Ended in order.
pub const STATE_STOPPED: u32 = 4;
/// Ended because of `code`.
pub const STATE_FAILED: u32 = 5;
/// The device needs a function reset, which only the next incarnation can give it.
pub const STATE_NEEDS_RESET: u32 = 6;

const _: () = assert!(size_of::<Status>() == 48 && align_of::<Status>() == 8);
const _: () = assert!(offset_of!(Status, bytes_done) == 16 && offset_of!(Status, position) == 40);

impl Record for Status {
    const KIND: u16 = KIND_STATUS;
}

/// A line for the host's log. Written where no formatting to a heap is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Text {
    /// TSC at which it was written.
    pub tsc: u64,
    /// 1 error, 2 warning, 3 info, 4 debug, 5 trace.
    pub level: u32,
    /// Bytes of `text` that count.
    pub len: u32,
    /// The line, UTF-8 where the writer was honest.
    pub text: [u8; TEXT_BYTES],
}

/// Bytes of a [`Text`]: the record then takes two 128-byte lines with its header and `tsc`.
pub const TEXT_BYTES: usize = 232;

const _: () = assert!(size_of::<Text>() == 248 && align_of::<Text>() == 8);
const _: () = assert!(offset_of!(Text, text) == 16);

impl Record for Text {
    const KIND: u16 = KIND_TEXT;
}

impl Text {
    /// A line; what is longer than [`TEXT_BYTES`] is cut.
    #[must_use]
    pub fn new(tsc: u64, level: u32, line: &str) -> Self {
        let mut text = [0; TEXT_BYTES];
        let mut len = 0;
        for (to, from) in text.iter_mut().zip(line.bytes()) {
            *to = from;
            len += 1;
        }
        Self { tsc, level, len, text }
    }

    /// The part of the line that is valid UTF-8, from its start.
    #[must_use]
    pub fn line(&self) -> &str {
        let len = (self.len as usize).min(TEXT_BYTES);
        let bytes = self.text.get(..len).unwrap_or_default();
        match core::str::from_utf8(bytes) {
            Ok(line) => line,
            Err(error) => bytes
                .get(..error.valid_up_to())
                .and_then(|valid| core::str::from_utf8(valid).ok())
                .unwrap_or_default(),
        }
    }
}

/// The answer to a [`crate::command::Ping`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Pong {
    /// `sent_tsc` of the question.
    pub sent_tsc: u64,
    /// TSC at which it was answered.
    pub answered_tsc: u64,
}

const _: () = assert!(size_of::<Pong>() == 16 && align_of::<Pong>() == 8);

impl Record for Pong {
    const KIND: u16 = KIND_PONG;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bbo_has_its_golden_bytes() {
        let bbo = Bbo {
            timestamp_ns: 0x0102_0304_0506,
            message: 7,
            bid_shares: 100,
            ask_shares: 200,
            bid_price: 5_853_300,
            ask_price: 5_859_400,
            symbol: *b"AAPL    ",
            locate: 13,
            flags: BBO_BEFORE_SESSION,
            reserved: 0,
        };
        #[rustfmt::skip]
        let golden: [u8; 56] = [
            6, 5, 4, 3, 2, 1, 0, 0,
            7, 0, 0, 0, 0, 0, 0, 0,
            100, 0, 0, 0, 0, 0, 0, 0,
            200, 0, 0, 0, 0, 0, 0, 0,
            0x74, 0x50, 0x59, 0, 0x48, 0x68, 0x59, 0,
            b'A', b'A', b'P', b'L', b' ', b' ', b' ', b' ',
            13, 0, 1, 0, 0, 0, 0, 0,
        ];
        assert_eq!(bbo.as_bytes(), golden);
        assert_eq!(Bbo::parse(&golden), Ok(bbo));
    }

    #[test]
    fn trade_has_its_golden_bytes() {
        let trade = Trade {
            timestamp_ns: 1,
            message: 2,
            match_number: 3,
            shares: 4,
            price: 0x0506_0708,
            locate: 0x090A,
            message_type: b'E',
            side: b'B',
            symbol: *b"ZVZZT   ",
        };
        #[rustfmt::skip]
        let golden: [u8; 48] = [
            1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
            3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0,
            8, 7, 6, 5, 0x0A, 9, b'E', b'B',
            b'Z', b'V', b'Z', b'Z', b'T', b' ', b' ', b' ',
        ];
        assert_eq!(trade.as_bytes(), golden);
    }

    #[test]
    fn a_newer_writers_longer_record_is_read_by_its_start() {
        let pong = Pong { sent_tsc: 1, answered_tsc: 2 };
        let mut longer = [0xEE; 24];
        longer[..16].copy_from_slice(pong.as_bytes());
        assert_eq!(Pong::parse(&longer), Ok(pong));
    }

    #[test]
    fn text_is_cut_at_its_field_and_read_up_to_the_first_bad_byte() {
        let long = "x".repeat(TEXT_BYTES + 9);
        assert_eq!(Text::new(0, 1, &long).line().len(), TEXT_BYTES);
        let mut text = Text::new(0, 3, "abc");
        text.text[1] = 0xFF;
        text.len = u32::MAX;
        assert_eq!(text.line(), "a");
    }

    #[test]
    fn kinds_are_distinct() {
        let mut kinds = [
            Bbo::KIND,
            Trade::KIND,
            TradingState::KIND,
            Status::KIND,
            Text::KIND,
            Pong::KIND,
            crate::alert::KIND_ALERT,
            crate::command::KIND_STOP,
            crate::command::KIND_PING,
            crate::command::KIND_START,
        ];
        kinds.sort_unstable();
        assert!(kinds.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
