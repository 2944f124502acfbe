//! Against the `itch5` crate, where it can follow: it knows all 23 types but stops at an unknown
//! one and at an end mark, and it takes a whole buffer only.

use crate::support::synthetic_day;
use feed_handler::error::{FeedError, MessageError};
use feed_handler::framing::{FileFramer, Frame};
use feed_handler::message::{Message, Visitor, dispatch};
use itch5::messages as peer;
use itch5::{MessageHandler, Parser};
use std::ops::ControlFlow;

/// One message as numbers: type, locate, tracking, timestamp, then its fields.
type Row = Vec<u64>;

#[derive(Default)]
struct Theirs(Vec<Row>);

impl Theirs {
    fn push(&mut self, row: &[u64]) -> ControlFlow<()> {
        self.0.push(row.to_vec());
        ControlFlow::Continue(())
    }
}

/// The common fields of a message of the peer.
macro_rules! head {
    ($kind:literal, $m:expr) => {
        [
            u64::from($kind),
            u64::from($m.stock_locate()),
            u64::from($m.tracking_number()),
            $m.timestamp().to_u64(),
        ]
    };
}

/// A handler method that notes the common fields and those named.
macro_rules! note {
    ($method:ident, $type:ident, $kind:literal $(, |$m:ident| $field:expr)*) => {
        fn $method(&mut self, m: &peer::$type) -> ControlFlow<()> {
            let fields: &[u64] = &[$({ let $m = m; u64::from($field) }),*];
            self.push(&[&head!($kind, m), fields].concat())
        }
    };
}

fn bid(side: peer::BuySellIndicator) -> u8 {
    match side {
        peer::BuySellIndicator::Buy => b'B',
        peer::BuySellIndicator::Sell => b'S',
        peer::BuySellIndicator::Unknown(byte) => byte,
    }
}

impl MessageHandler for Theirs {
    note!(on_system_event, SystemEvent, b'S');
    note!(on_stock_directory, StockDirectory, b'R', |m| m.stock().to_u64());
    note!(on_stock_trading_action, StockTradingAction, b'H', |m| m.stock().to_u64());
    // Its names differ for this one type.
    fn on_reg_sho_restriction(&mut self, m: &peer::RegSHORestriction) -> ControlFlow<()> {
        let head = [u64::from(b'Y'), u64::from(m.locate_code()), u64::from(m.tracking_number())];
        let rest = [m.timestamp().to_u64(), m.stock().to_u64()];
        self.push(&[&head[..], &rest].concat())
    }
    note!(on_market_participant_position, MarketParticipantPosition, b'L');
    note!(
        on_mwcb_decline_level,
        MWCBDeclineLevel,
        b'V',
        |m| m.level_1().into_u64(),
        |m| m.level_2().into_u64(),
        |m| m.level_3().into_u64()
    );
    note!(on_mwcb_status, MWCBStatus, b'W');
    note!(
        on_quoting_period_update,
        QuotingPeriodUpdate,
        b'K',
        |m| m.ipo_quotation_release_time(),
        |m| m.ipo_price().into_u32()
    );
    note!(
        on_luld_auction_collar,
        LULDAuctionCollar,
        b'J',
        |m| m.auction_collar_reference_price().into_u32(),
        |m| m.upper_auction_collar_price().into_u32(),
        |m| m.lower_auction_collar_price().into_u32()
    );
    note!(on_operational_halt, OperationalHalt, b'h', |m| m.stock().to_u64());
    note!(
        on_add_order_no_mpid_attribution,
        AddOrderNoMPIDAttribution,
        b'A',
        |m| m.order_reference_number(),
        |m| bid(m.buy_sell_indicator()),
        |m| m.shares(),
        |m| m.stock().to_u64(),
        |m| m.price().into_u32()
    );
    note!(
        on_add_order_with_mpid_attribution,
        AddOrderWithMPIDAttribution,
        b'F',
        |m| m.order_reference_number(),
        |m| bid(m.buy_sell_indicator()),
        |m| m.shares(),
        |m| m.stock().to_u64(),
        |m| m.price().into_u32()
    );
    note!(
        on_order_executed,
        OrderExecuted,
        b'E',
        |m| m.order_reference_number(),
        |m| m.executed_shares(),
        |m| m.match_number()
    );
    note!(
        on_order_executed_with_price,
        OrderExecutedWithPrice,
        b'C',
        |m| m.order_reference_number(),
        |m| m.executed_shares(),
        |m| m.match_number(),
        |m| matches!(m.printable(), peer::Printable::Printable),
        |m| m.execution_price().into_u32()
    );
    note!(on_order_cancel, OrderCancel, b'X', |m| m.order_reference_number(), |m| m
        .cancelled_shares());
    note!(on_order_delete, OrderDelete, b'D', |m| m.order_reference_number());
    note!(
        on_order_replace,
        OrderReplace,
        b'U',
        |m| m.original_order_reference_number(),
        |m| m.new_order_reference_number(),
        |m| m.shares(),
        |m| m.price().into_u32()
    );
    note!(
        on_trade,
        Trade,
        b'P',
        |m| bid(m.buy_sell_indicator()),
        |m| m.shares(),
        |m| m.stock().to_u64(),
        |m| m.price().into_u32(),
        |m| m.match_number()
    );
    note!(
        on_cross_trade,
        CrossTrade,
        b'Q',
        |m| m.shares(),
        |m| m.stock().to_u64(),
        |m| m.cross_price().into_u32(),
        |m| m.match_number()
    );
    note!(on_broken_trade, BrokenTrade, b'B', |m| m.match_number());
    note!(
        on_net_order_imbalance_indicator,
        NetOrderImbalanceIndicator,
        b'I',
        |m| m.paired_shares(),
        |m| m.imbalance_shares(),
        |m| m.stock().to_u64(),
        |m| m.far_price().into_u32(),
        |m| m.near_price().into_u32(),
        |m| m.current_reference_price().into_u32()
    );
    note!(on_retail_price_improvement_indicator, RetailPriceImprovementIndicator, b'N');
    note!(
        on_direct_listing_with_capital_raise_price_discovery,
        DirectListingwithCapitalRaisePriceDiscovery,
        b'O'
    );
}

/// The same numbers from our views.
fn ours(message: Message<'_>) -> Row {
    macro_rules! row {
        ($m:expr $(, $field:expr)*) => {
            vec![
                u64::from($m.bytes()[0]),
                u64::from($m.locate()),
                u64::from($m.tracking()),
                $m.timestamp(),
                $(u64::from($field)),*
            ]
        };
    }
    let symbol = |symbol: feed_handler::field::Symbol| u64::from_be_bytes(symbol.0);
    match message {
        Message::SystemEvent(m) => row!(m),
        Message::StockDirectory(m) => row!(m, symbol(m.stock())),
        Message::StockTradingAction(m) => row!(m, symbol(m.stock())),
        Message::RegShoRestriction(m) => row!(m, symbol(m.stock())),
        Message::MarketParticipantPosition(m) => row!(m),
        Message::MwcbDeclineLevel(m) => row!(m, m.level_1().0, m.level_2().0, m.level_3().0),
        Message::MwcbStatus(m) => row!(m),
        Message::IpoQuotingPeriod(m) => row!(m, m.release_time_s(), m.price().0),
        Message::LuldAuctionCollar(m) => {
            row!(m, m.reference_price().0, m.upper_price().0, m.lower_price().0)
        }
        Message::OperationalHalt(m) => row!(m, symbol(m.stock())),
        Message::AddOrder(m) => {
            row!(m, m.order_ref(), m.side().0, m.shares(), symbol(m.stock()), m.price().0)
        }
        Message::AddOrderMpid(m) => {
            row!(m, m.order_ref(), m.side().0, m.shares(), symbol(m.stock()), m.price().0)
        }
        Message::OrderExecuted(m) => row!(m, m.order_ref(), m.executed_shares(), m.match_number()),
        Message::OrderExecutedWithPrice(m) => row!(
            m,
            m.order_ref(),
            m.executed_shares(),
            m.match_number(),
            m.printable() == b'Y',
            m.execution_price().0
        ),
        Message::OrderCancel(m) => row!(m, m.order_ref(), m.cancelled_shares()),
        Message::OrderDelete(m) => row!(m, m.order_ref()),
        Message::OrderReplace(m) => {
            row!(m, m.original_ref(), m.new_ref(), m.shares(), m.price().0)
        }
        Message::NonCrossTrade(m) => {
            row!(m, m.side().0, m.shares(), symbol(m.stock()), m.price().0, m.match_number())
        }
        Message::CrossTrade(m) => {
            row!(m, m.shares(), symbol(m.stock()), m.cross_price().0, m.match_number())
        }
        Message::BrokenTrade(m) => row!(m, m.match_number()),
        Message::NetOrderImbalance(m) => row!(
            m,
            m.paired_shares(),
            m.imbalance_shares(),
            symbol(m.stock()),
            m.far_price().0,
            m.near_price().0,
            m.reference_price().0
        ),
        Message::RetailInterest(m) => row!(m),
        Message::DirectListing(m) => row!(m),
        Message::Unknown(m) => panic!("an unknown type {}", m.kind()),
    }
}

#[test]
fn a_day_reads_the_same_as_with_the_itch5_crate() {
    let (_, feed) = synthetic_day(31, 50, 50_000);
    let mut rows = Vec::new();
    let mut framer = FileFramer::new();
    let visit = |frame: Frame<'_>| {
        rows.push(ours(Message::parse(frame.bytes).unwrap()));
        Ok::<(), FeedError>(())
    };
    framer.push(&feed, visit).unwrap();
    let mut theirs = Theirs::default();
    // It does not know the mark at the end.
    Parser::new(&feed[..feed.len() - 2]).parse_stream(&mut theirs).unwrap();
    assert_eq!(rows.len(), 50_000);
    assert!(rows == theirs.0);
}

#[test]
fn the_visitor_and_the_enum_see_the_same_messages() {
    /// Counts calls of the visitor's methods for orders.
    #[derive(Default)]
    struct Orders(Vec<u64>);
    impl Visitor for Orders {
        type Error = MessageError;
        fn add_order(
            &mut self,
            m: feed_handler::message::AddOrder<'_>,
        ) -> Result<(), MessageError> {
            self.0.push(m.order_ref());
            Ok(())
        }
        fn order_delete(
            &mut self,
            m: feed_handler::message::OrderDelete<'_>,
        ) -> Result<(), MessageError> {
            self.0.push(m.order_ref());
            Ok(())
        }
    }
    let (_, feed) = synthetic_day(32, 5, 5000);
    let mut visited = Orders::default();
    let mut matched = Vec::new();
    for bytes in crate::oracle::messages(&feed) {
        dispatch(bytes, &mut visited).unwrap();
        match Message::parse(bytes).unwrap() {
            Message::AddOrder(m) => matched.push(m.order_ref()),
            Message::OrderDelete(m) => matched.push(m.order_ref()),
            _ => {}
        }
    }
    assert_eq!(visited.0, matched);
    assert!(matched.len() > 3000);
}
