//! How fast the feed library is: makes a day in memory, decodes it, and builds its books.
//!
//! `cargo run --release -p feed-handler --example itch_speed [MESSAGES [STOCKS [ROUNDS]]]`

use feed_handler::book::{BboChange, BookStorage, Sink, Trade};
use feed_handler::error::{Fault, FeedError};
use feed_handler::framing::{FileFramer, Frame, OnFrame};
use feed_handler::message::{self, Visitor, dispatch};
use feed_handler::pipeline::{Pipeline, PipelineConfig};
use feed_handler::synth::{StockSlot, Synth, SynthConfig};
use std::time::Instant;

/// Decodes all that an order book would need, and adds it up.
#[derive(Default)]
struct Decode {
    sum: u64,
}

impl Visitor for Decode {
    type Error = Fault;

    #[inline(always)]
    fn add_order(&mut self, m: message::AddOrder<'_>) -> Result<(), Fault> {
        let shares = u64::from(m.shares() ^ m.price().0) ^ u64::from(m.side().0);
        self.sum = self.sum.wrapping_add(m.order_ref() ^ m.timestamp() ^ shares);
        Ok(())
    }

    #[inline(always)]
    fn order_delete(&mut self, m: message::OrderDelete<'_>) -> Result<(), Fault> {
        self.sum = self.sum.wrapping_add(m.order_ref() ^ m.timestamp());
        Ok(())
    }

    #[inline(always)]
    fn order_replace(&mut self, m: message::OrderReplace<'_>) -> Result<(), Fault> {
        let shares = u64::from(m.shares() ^ m.price().0);
        let refs = m.original_ref() ^ m.new_ref();
        self.sum = self.sum.wrapping_add(refs ^ m.timestamp() ^ shares);
        Ok(())
    }

    #[inline(always)]
    fn order_executed(&mut self, m: message::OrderExecuted<'_>) -> Result<(), Fault> {
        let shares = u64::from(m.executed_shares());
        self.sum = self.sum.wrapping_add(m.order_ref() ^ m.match_number() ^ shares);
        Ok(())
    }

    #[inline(always)]
    fn order_cancel(&mut self, m: message::OrderCancel<'_>) -> Result<(), Fault> {
        self.sum = self.sum.wrapping_add(m.order_ref() ^ u64::from(m.cancelled_shares()));
        Ok(())
    }
}

/// Dispatches each message of a framer.
struct Dispatch<'a>(&'a mut Decode);

impl OnFrame<FeedError> for Dispatch<'_> {
    #[inline(always)]
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), FeedError> {
        dispatch(frame.bytes, self.0).map_err(|fault| FeedError { at: frame.at, fault })
    }
}

/// Adds up what the books tell.
#[derive(Default)]
struct Sum {
    sum: u64,
    bbos: u64,
    trades: u64,
}

impl Sink for Sum {
    #[inline(always)]
    fn bbo(&mut self, change: &BboChange) {
        let quote = &change.quote;
        let prices = u64::from(quote.bid_price) ^ u64::from(quote.ask_price) << 32;
        self.sum = self.sum.wrapping_add(prices ^ quote.bid_shares ^ quote.ask_shares << 20);
        self.bbos += 1;
    }

    #[inline(always)]
    fn trade(&mut self, trade: &Trade) {
        self.sum = self.sum.wrapping_add(u64::from(trade.price) * trade.shares);
        self.trades += 1;
    }
}

/// Slices as a device would give them.
const CHUNK: usize = 128 * 1024;

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number"));
    let mut config = SynthConfig::default();
    config.messages = args.next().unwrap_or(config.messages);
    config.stocks = args.next().map_or(config.stocks, |n| u16::try_from(n).expect("stocks"));
    let rounds = args.next().unwrap_or(3);

    let mut slots = vec![StockSlot::default(); usize::from(config.stocks)];
    let mut feed = vec![0; usize::try_from(config.most_bytes()).expect("a size")];
    feed.fill(1); // touches the pages
    let start = Instant::now();
    let mut synth = Synth::new(config, &mut slots).expect("a day");
    let bytes = synth.fill(&mut feed);
    report("generate", config.messages, bytes, start, 0);
    feed.truncate(bytes);

    for _ in 0..rounds {
        let start = Instant::now();
        let (messages, checksum) = decode(&feed);
        report("decode", messages, bytes, start, checksum);
    }

    let capacity = config.capacity();
    let mut memory = vec![0_u64; capacity.bytes() / 8 + 17];
    let memory = zerocopy::IntoBytes::as_mut_bytes(memory.as_mut_slice());
    let skew = memory.as_ptr().align_offset(128);
    for round in 0..rounds {
        let storage = BookStorage::carve(&mut memory[skew..], capacity).expect("memory");
        let mut pipeline = Pipeline::new(storage, PipelineConfig::default());
        let mut sum = Sum::default();
        let start = Instant::now();
        book(&mut pipeline, &feed, &mut sum);
        report("decode + book", pipeline.messages(), bytes, start, sum.sum);
        if round + 1 == rounds {
            println!("{} changes of quotes, {} trades", sum.bbos, sum.trades);
            println!("{:?}", pipeline.books().usage());
        }
    }
}

/// Framing, lengths, types and fields; gives the count of messages and a checksum.
#[inline(never)]
fn decode(feed: &[u8]) -> (u64, u64) {
    let mut decode = Decode::default();
    let mut framer = FileFramer::new();
    for chunk in feed.chunks(CHUNK) {
        framer.push_to(chunk, &mut Dispatch(&mut decode)).expect("a valid day");
    }
    (framer.messages(), decode.sum)
}

/// Everything, books included.
#[inline(never)]
fn book(pipeline: &mut Pipeline<'_>, feed: &[u8], sum: &mut Sum) {
    for chunk in feed.chunks(CHUNK) {
        pipeline.feed(chunk, sum).expect("a valid day");
    }
    pipeline.finish().expect("a whole day");
}

fn report(what: &str, messages: u64, bytes: usize, start: Instant, checksum: u64) {
    let seconds = start.elapsed().as_secs_f64();
    let rate = messages as f64 / seconds / 1e6;
    let ns = seconds * 1e9 / messages as f64;
    println!(
        "{what:<14} {messages} messages, {bytes} bytes, {seconds:.3} s, {rate:.1} M/s, \
         {ns:.2} ns each, checksum {checksum:016x}"
    );
}
