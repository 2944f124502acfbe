//! Golden bytes of all 23 types, written by hand from the table of the specification. Each is
//! compared with what the encoder writes and with what the view reads.

use feed_handler::encode::{self, Head};
use feed_handler::field::{EventCode, HaltAction, Price4, Price8, Side, Symbol, TradingState};
use feed_handler::message::{self, KINDS, Message};

const STOCK: Symbol = Symbol(*b"ZVZZT   ");

/// Locate 0102h, tracking 0304h, timestamp 0A0B0C0D0E0Fh: after the type byte.
const HEAD_BYTES: &[u8] = b"\x01\x02\x03\x04\x0A\x0B\x0C\x0D\x0E\x0F";
const HEAD: Head = Head { locate: 0x0102, tracking: 0x0304, timestamp: 0x0A0B_0C0D_0E0F };

/// `kind`, the common head and the rest, as they lie on the wire.
fn wire(kind: u8, rest: &[&[u8]]) -> Vec<u8> {
    [&[kind], HEAD_BYTES, &rest.concat()].concat()
}

/// Compares the golden bytes with the encoder's, and what the view reads with what was encoded.
macro_rules! golden {
    ($name:ident, $kind:literal, $rest:expr, { $($field:ident: $value:expr),* $(,)? }) => {{
        let golden = wire($kind, &$rest);
        let message = encode::$name { head: HEAD, $($field: $value),* };
        assert_eq!(message.to_bytes().as_slice(), golden.as_slice(), stringify!($name));
        let Message::$name(view) = Message::parse(&golden).unwrap() else {
            panic!("{} is read as another type", stringify!($name));
        };
        assert_eq!(encode::$name::from(view), message, stringify!($name));
        $(assert_eq!(view.$field(), $value, concat!(stringify!($name), ".", stringify!($field)));)*
        assert_eq!((view.locate(), view.tracking()), (HEAD.locate, HEAD.tracking));
        assert_eq!(view.timestamp(), HEAD.timestamp);
        assert_eq!(message::$name::parse(&golden), Some(view));
        assert_eq!(message::$name::parse(&golden[..golden.len() - 1]), None);
        let mut framed = [0; 64];
        let written = message.write(&mut framed).unwrap();
        assert_eq!(&framed[..2], [0, golden.len() as u8]);
        assert_eq!(&framed[2..written], golden.as_slice());
        assert_eq!(message.write(&mut framed[..written - 1]), None);
        assert_eq!(message::length_of($kind), Some(golden.len()));
        assert_eq!(message::name_of($kind), Some(stringify!($name)));
        $kind
    }};
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of all types")]
fn every_type_has_its_bytes() {
    let shown = [
        golden!(SystemEvent, b'S', [b"Q"], { event: EventCode::START_OF_MARKET_HOURS }),
        golden!(StockDirectory, b'R', [
            b"ZVZZT   ", b"Q", b"N", b"\x00\x00\x00\x64", b"N", b"C", b"Z ", b"P", b"N", b"Y",
            b"1", b"N", b"\x00\x00\x00\x03", b"N",
        ], {
            stock: STOCK,
            market_category: b'Q',
            financial_status: b'N',
            round_lot_size: 100,
            round_lots_only: b'N',
            issue_classification: b'C',
            issue_sub_type: *b"Z ",
            authenticity: b'P',
            short_sale_threshold: b'N',
            ipo_flag: b'Y',
            luld_tier: b'1',
            etp_flag: b'N',
            etp_leverage: 3,
            inverse: b'N',
        }),
        golden!(StockTradingAction, b'H', [b"ZVZZT   ", b"P", b" ", b"LUDP"], {
            stock: STOCK,
            state: TradingState::PAUSED,
            reserved: b' ',
            reason: *b"LUDP",
        }),
        golden!(RegShoRestriction, b'Y', [b"ZVZZT   ", b"2"], { stock: STOCK, action: b'2' }),
        golden!(MarketParticipantPosition, b'L', [b"NITE", b"ZVZZT   ", b"Y", b"N", b"A"], {
            mpid: *b"NITE",
            stock: STOCK,
            primary_market_maker: b'Y',
            mode: b'N',
            state: b'A',
        }),
        golden!(MwcbDeclineLevel, b'V', [
            b"\x00\x00\x00\x74\x6A\x52\x88\x00",
            b"\x00\x00\x00\x00\x00\x00\x00\x02",
            b"\x10\x00\x00\x00\x00\x00\x00\x03",
        ], {
            level_1: Price8(500_000_000_000),
            level_2: Price8(2),
            level_3: Price8(0x1000_0000_0000_0003),
        }),
        golden!(MwcbStatus, b'W', [b"2"], { breached_level: b'2' }),
        golden!(IpoQuotingPeriod, b'K', [
            b"ZVZZT   ", b"\x00\x00\x85\x98", b"A", b"\x00\x03\x0D\x40",
        ], { stock: STOCK, release_time_s: 34_200, qualifier: b'A', price: Price4(200_000) }),
        golden!(LuldAuctionCollar, b'J', [
            b"ZVZZT   ", b"\x00\x00\x00\x02", b"\x00\x00\x00\x03", b"\x00\x00\x00\x01",
            b"\x00\x00\x00\x04",
        ], {
            stock: STOCK,
            reference_price: Price4(2),
            upper_price: Price4(3),
            lower_price: Price4(1),
            extension: 4,
        }),
        golden!(OperationalHalt, b'h', [b"ZVZZT   ", b"B", b"H"], {
            stock: STOCK,
            market: b'B',
            action: HaltAction::HALTED,
        }),
        golden!(AddOrder, b'A', [
            b"\x01\x23\x45\x67\x89\xAB\xCD\xEF", b"B", b"\x00\x00\x01\x2C", b"ZVZZT   ",
            b"\x00\x59\x50\xD4",
        ], {
            order_ref: 0x0123_4567_89AB_CDEF,
            side: Side::BUY,
            shares: 300,
            stock: STOCK,
            price: Price4(5_853_396),
        }),
        golden!(AddOrderMpid, b'F', [
            b"\x00\x00\x00\x00\x00\x00\x00\x07", b"S", b"\x00\x00\x00\x01", b"ZVZZT   ",
            b"\xFF\xFF\xFF\xFE", b"GSCO",
        ], {
            order_ref: 7,
            side: Side::SELL,
            shares: 1,
            stock: STOCK,
            price: Price4(0xFFFF_FFFE),
            attribution: *b"GSCO",
        }),
        golden!(OrderExecuted, b'E', [
            b"\x00\x00\x00\x00\x00\x00\x00\x07", b"\x00\x00\x00\x64",
            b"\x00\x00\x00\x00\x00\x01\x00\x00",
        ], { order_ref: 7, executed_shares: 100, match_number: 65_536 }),
        golden!(OrderExecutedWithPrice, b'C', [
            b"\x00\x00\x00\x00\x00\x00\x00\x07", b"\x00\x00\x00\x64",
            b"\x00\x00\x00\x00\x00\x01\x00\x00", b"N", b"\x00\x00\x27\x10",
        ], {
            order_ref: 7,
            executed_shares: 100,
            match_number: 65_536,
            printable: b'N',
            execution_price: Price4(10_000),
        }),
        golden!(OrderCancel, b'X', [
            b"\x00\x00\x00\x00\x00\x00\x00\x07", b"\x00\x00\x00\x09",
        ], { order_ref: 7, cancelled_shares: 9 }),
        golden!(OrderDelete, b'D', [b"\x80\x00\x00\x00\x00\x00\x00\x07"], {
            order_ref: 0x8000_0000_0000_0007,
        }),
        golden!(OrderReplace, b'U', [
            b"\x00\x00\x00\x00\x00\x00\x00\x07", b"\x00\x00\x00\x00\x00\x00\x00\x08",
            b"\x00\x00\x00\x0A", b"\x00\x00\x27\x10",
        ], { original_ref: 7, new_ref: 8, shares: 10, price: Price4(10_000) }),
        golden!(NonCrossTrade, b'P', [
            b"\x00\x00\x00\x00\x00\x00\x00\x00", b"B", b"\x00\x00\x00\x32", b"ZVZZT   ",
            b"\x00\x00\x27\x10", b"\x00\x00\x00\x00\x00\x00\x00\x63",
        ], {
            order_ref: 0,
            side: Side::BUY,
            shares: 50,
            stock: STOCK,
            price: Price4(10_000),
            match_number: 99,
        }),
        golden!(CrossTrade, b'Q', [
            b"\x00\x00\x00\x01\x00\x00\x00\x00", b"ZVZZT   ", b"\x00\x00\x27\x10",
            b"\x00\x00\x00\x00\x00\x00\x00\x63", b"O",
        ], {
            shares: 1 << 32,
            stock: STOCK,
            cross_price: Price4(10_000),
            match_number: 99,
            cross_type: b'O',
        }),
        golden!(BrokenTrade, b'B', [b"\x00\x00\x00\x00\x00\x00\x00\x63"], { match_number: 99 }),
        golden!(NetOrderImbalance, b'I', [
            b"\x00\x00\x00\x00\x00\x00\x00\x01", b"\x00\x00\x00\x00\x00\x00\x00\x02", b"S",
            b"ZVZZT   ", b"\x00\x00\x00\x03", b"\x00\x00\x00\x04", b"\x00\x00\x00\x05", b"C",
            b"L",
        ], {
            paired_shares: 1,
            imbalance_shares: 2,
            direction: b'S',
            stock: STOCK,
            far_price: Price4(3),
            near_price: Price4(4),
            reference_price: Price4(5),
            cross_type: b'C',
            price_variation: b'L',
        }),
        golden!(RetailInterest, b'N', [b"ZVZZT   ", b"A"], { stock: STOCK, interest: b'A' }),
        golden!(DirectListing, b'O', [
            b"ZVZZT   ", b"Y", b"\x00\x00\x00\x01", b"\x00\x00\x00\x02", b"\x00\x00\x00\x03",
            b"\x00\x00\x1F\x1A\xCE\xD9\xF0\x00", b"\x00\x00\x00\x05", b"\x00\x00\x00\x06",
        ], {
            stock: STOCK,
            open_eligibility: b'Y',
            minimum_price: Price4(1),
            maximum_price: Price4(2),
            near_execution_price: Price4(3),
            near_execution_time_ns: 34_200_000_000_000,
            lower_collar: Price4(5),
            upper_collar: Price4(6),
        }),
    ];
    assert_eq!(shown, KINDS);
}

#[test]
fn lengths_are_those_of_the_specification() {
    let lengths = KINDS.map(|kind| message::length_of(kind).unwrap());
    let table = [
        12, 39, 25, 20, 26, 35, 12, 28, 35, 21, 36, 40, 31, 36, 23, 19, 35, 44, 40, 19, 50, 20, 48,
    ];
    assert_eq!(lengths, table);
    for kind in 0..=u8::MAX {
        assert_eq!(message::length_of(kind).is_some(), KINDS.contains(&kind));
    }
}

#[test]
fn a_stock_trading_action_of_the_real_feed_is_read() {
    // The fourth message of the LOBSTER stretch, as it lies in the file.
    let bytes = b"H\x00\x0d\x00\x00\x1f\x0c\xd6\x92\x98\x03AAPL    T     ";
    let Message::StockTradingAction(view) = Message::parse(bytes).unwrap() else {
        panic!("another type");
    };
    assert_eq!((view.locate(), view.timestamp()), (13, 34_140_000_000_003));
    assert_eq!(view.stock().to_string(), "AAPL");
    assert_eq!(view.state(), TradingState::TRADING);
}
