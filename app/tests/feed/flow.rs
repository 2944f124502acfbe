//! The flow decoder says what framer and views say, wherever the feed is cut and whatever is wrong.

use feed_handler::error::{Fault, FeedError};
use feed_handler::flow::{Flow, FlowDecoder};
use feed_handler::framing::{FileFramer, Frame};
use feed_handler::message::{self, Unknown, Visitor, dispatch};
use feed_handler::orders::OrderMessage;

use crate::support::{Rng, synthetic_day};

/// What a decoder says, in order; an order message by its shape.
#[derive(Debug, PartialEq)]
enum Said {
    Order(OrderMessage),
    Other(Vec<u8>),
}

/// Writes it down, and fails where it is told to.
#[derive(Default)]
struct Log {
    said: Vec<Said>,
    /// Fails once so many were said, if not 0.
    most: usize,
    batches: usize,
}

impl Log {
    fn say(&mut self, said: Said) -> Result<(), Fault> {
        if self.most != 0 && self.said.len() >= self.most {
            return Err(message::Message::parse(&[]).expect_err("empty").into());
        }
        self.said.push(said);
        Ok(())
    }
}

/// By views: order messages become shapes, so that both decoders may share the visitor.
macro_rules! visitor {
    ($($order:ident $Order:ident),* ; $($other:ident $Other:ident),*) => {
        impl Visitor for Log {
            type Error = Fault;
            $(fn $order(&mut self, m: message::$Order<'_>) -> Result<(), Fault> {
                self.say(Said::Order(OrderMessage::parse(m.bytes()).expect("an order message")))
            })*
            $(fn $other(&mut self, m: message::$Other<'_>) -> Result<(), Fault> {
                self.say(Said::Other(m.bytes().to_vec()))
            })*
            fn unknown(&mut self, m: Unknown<'_>) -> Result<(), Fault> {
                self.say(Said::Other(m.bytes().to_vec()))
            }
        }
    };
}

visitor! {
    add_order AddOrder, add_order_mpid AddOrderMpid, order_executed OrderExecuted,
    order_executed_with_price OrderExecutedWithPrice, order_cancel OrderCancel,
    order_delete OrderDelete, order_replace OrderReplace;
    system_event SystemEvent, stock_directory StockDirectory,
    stock_trading_action StockTradingAction, reg_sho_restriction RegShoRestriction,
    market_participant_position MarketParticipantPosition, mwcb_decline_level MwcbDeclineLevel,
    mwcb_status MwcbStatus, ipo_quoting_period IpoQuotingPeriod,
    luld_auction_collar LuldAuctionCollar, operational_halt OperationalHalt,
    non_cross_trade NonCrossTrade, cross_trade CrossTrade, broken_trade BrokenTrade,
    net_order_imbalance NetOrderImbalance, retail_interest RetailInterest,
    direct_listing DirectListing
}

impl Flow for Log {
    fn orders(&mut self, orders: &[OrderMessage]) -> Result<(), Fault> {
        self.batches += 1;
        assert!(!orders.is_empty());
        orders.iter().try_for_each(|order| self.say(Said::Order(*order)))
    }
}

/// What framer and views make of it, and where they end.
fn by_views(feed: &[u8]) -> (Vec<Said>, Result<u64, FeedError>) {
    let (mut log, mut framer) = (Log::default(), FileFramer::new());
    let done = framer.push(feed, |frame: Frame<'_>| {
        dispatch(frame.bytes, &mut log).map_err(|fault| {
            let fault = match fault {
                Fault::Message(error) => error.with_length(usize::from(frame.length)).into(),
                other => other,
            };
            FeedError { at: frame.at, fault }
        })
    });
    let done = done.and_then(|()| Ok(framer.finish()?));
    (log.said, done.map(|()| framer.messages()))
}

/// The same by the flow decoder, of slices of the lengths that `cut` gives.
fn by_flow(feed: &[u8], mut cut: impl FnMut() -> usize) -> (Log, Result<u64, FeedError>) {
    let (mut log, mut decoder) = (Log::default(), FlowDecoder::new());
    let mut rest = feed;
    let done = loop {
        let (slice, behind) = rest.split_at(cut().min(rest.len()));
        if let Err(error) = decoder.feed(slice, &mut log) {
            break Err(error);
        }
        rest = behind;
        if rest.is_empty() {
            break decoder.framer().finish().map_err(FeedError::from);
        }
    };
    (log, done.map(|()| decoder.framer().messages()))
}

fn assert_alike(feed: &[u8], cut: impl FnMut() -> usize) {
    let ((said, done), (log, flow)) = (by_views(feed), by_flow(feed, cut));
    assert_eq!(flow, done);
    assert!(log.said == said, "{} messages, not {}", log.said.len(), said.len());
}

#[test]
fn a_day_cut_anywhere_is_what_framer_and_views_say() {
    let (_, feed) = synthetic_day(3, 40, 60_000);
    let mut rng = Rng::new(21);
    for most in [1, 3, 70, 700, 70_000] {
        assert_alike(&feed, || 1 + rng.below(most) as usize);
    }
    let (log, done) = by_flow(&feed, || usize::MAX);
    assert_eq!(done, Ok(60_000));
    // 97 of 100 are order messages, and most of them come in long rows.
    assert!(log.batches < log.said.len() / 8, "{} batches", log.batches);
    assert!(log.said == by_views(&feed).0);
}

#[test]
fn whatever_is_wrong_is_the_same_error_at_the_same_place() {
    let (_, feed) = synthetic_day(4, 3, 600);
    let mut rng = Rng::new(22);
    for round in 0..3000 {
        let mut feed = feed[..1 + rng.below(feed.len() as u32 - 1) as usize].to_vec();
        for _ in 0..round % 4 {
            let at = rng.below(feed.len() as u32) as usize;
            feed[at] = rng.below(256) as u8;
        }
        let most = [1, 50, 100_000][round % 3];
        assert_alike(&feed, || 1 + rng.below(most) as usize);
    }
}

#[test]
fn what_a_flow_fails_with_has_the_place_of_its_batch() {
    let (_, feed) = synthetic_day(5, 3, 600);
    let (all, _) = by_views(&feed);
    for most in 1..300 {
        let (mut log, mut decoder) = (Log { most, ..Log::default() }, FlowDecoder::new());
        let error = decoder.feed(&feed, &mut log).expect_err("told to");
        assert!(log.said[..] == all[..most]);
        let number = error.at.number;
        assert!(number <= most as u64 + 1 && number + 64 > most as u64, "{number} of {most}");
        let is_order = matches!(all[most], Said::Order(_));
        assert!(is_order || number == most as u64 + 1, "{number} of {most}");
    }
}
