//! The books against the naive book, message by message.

use crate::oracle::{Naive, messages};
use crate::support::{Events, Memory, QuoteRows, synthetic_day};
use crate::wild::Wild;
use feed_handler::book::{Capacity, Quote};
use feed_handler::error::Position;
use feed_handler::field::Side;
use feed_handler::framing::Frame;
use feed_handler::message::KINDS;
use feed_handler::pipeline::{Pipeline, PipelineConfig};

/// Runs both over a feed; compares the quote after every message, all queues every `stride`.
fn compare(feed: &[u8], capacity: Capacity, stride: usize) {
    let mut memory = Memory::new(capacity);
    let mut pipeline = Pipeline::new(memory.storage(), PipelineConfig::default());
    let mut naive = Naive::default();
    let mut told = 0;
    let mut events = Events::default();
    for (number, message) in messages(feed).enumerate() {
        let locate = usize::from(message[1]) << 8 | usize::from(message[2]);
        let before = naive.quote(locate as u16);
        let locate = naive.apply(message);
        let length = message.len() as u16;
        let at = Position { offset: 0, number: number as u64 + 1 };
        pipeline.frame(&Frame { bytes: message, length, at }, &mut events).unwrap();
        let want = naive.quote(locate);
        let ours = pipeline.books().book(locate).map_or(Quote::default(), |book| book.quote);
        assert_eq!(ours, want, "message {number}");
        let changed = usize::from(before != want);
        assert_eq!(events.bbos.len() - told, changed, "message {number}");
        if changed == 1 {
            let event = events.bbos[told];
            assert_eq!((event.locate, event.quote), (locate, want), "message {number}");
            assert_eq!(event.in_session, naive.in_session);
        }
        told = events.bbos.len();
        if number % stride == 0 {
            compare_queues(&pipeline, &naive);
        }
    }
    compare_queues(&pipeline, &naive);
    let trades = events.trades.iter();
    let trades = trades.map(|t| (t.locate, t.price, t.shares, t.match_number, t.printable));
    assert_eq!(trades.collect::<Vec<_>>(), naive.trades);
    let rows = events.bbos.iter().filter(|change| change.in_session);
    let rows = rows.map(|change| (change.locate, change.quote)).collect::<Vec<_>>();
    assert_eq!(rows, naive.rows);
    let stats = pipeline.books().stats();
    assert_eq!(stats.bbo_changes, events.bbos.len() as u64);
    assert_eq!(stats.session_bbo_changes, rows.len() as u64);
    assert_eq!(stats.trades, naive.trades.len() as u64);
}

fn compare_queues(pipeline: &Pipeline<'_>, naive: &Naive) {
    let books = pipeline.books();
    books.check_consistency().unwrap();
    for (&locate, book) in &naive.books {
        for (side, bid) in [(Side::BUY, true), (Side::SELL, false)] {
            let ours = books.queue(locate, side);
            let ours = ours.map(|o| (o.price, o.order_ref, o.shares)).collect::<Vec<_>>();
            let theirs = book.queue(bid);
            assert_eq!(ours, theirs);
            let levels = books.levels(locate, side).map(|level| u64::from(level.orders));
            assert_eq!(levels.sum::<u64>(), theirs.len() as u64);
        }
    }
}

#[test]
fn synthetic_days_agree_with_the_naive_book() {
    for (seed, stocks, count) in [(1, 1, 60_000), (2, 7, 60_000), (3, 120, 100_000), (4, 3, 500)] {
        let (config, feed) = synthetic_day(seed, stocks, count);
        for kind in KINDS {
            assert!(messages(&feed).any(|m| m[0] == kind), "seed {seed}: no {}", kind as char);
        }
        assert_eq!(messages(&feed).count() as u64, count);
        compare(&feed, config.capacity(), 5000);
    }
}

#[test]
fn wild_days_agree_with_the_naive_book() {
    for (seed, steps, prices) in [(11, 60_000, 5), (12, 60_000, 60), (13, 60_000, 4000)] {
        let capacity = Capacity { symbols: 4, orders: 2600, levels: 2600 };
        compare(&Wild::day(seed, steps, prices), capacity, 997);
    }
}

#[test]
fn the_small_feed_of_the_tests_gives_its_quotes() {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let feed = std::fs::read(data.join("one-stock.itch")).unwrap();
    let truth = std::fs::read_to_string(data.join("one-stock.bbo.csv")).unwrap();
    // The file is what the generator makes, and its quotes are the naive book's.
    let (_, made) = synthetic_day(2026, 1, 5000);
    assert!(made == feed, "the generator makes another day than it did");
    let mut naive = Naive::default();
    for message in messages(&feed) {
        naive.apply(message);
    }
    let mut csv = String::from("bid_price,bid_shares,ask_price,ask_shares\n");
    for (_, q) in &naive.rows {
        csv += &format!("{},{},{},{}\n", q.bid_price, q.bid_shares, q.ask_price, q.ask_shares);
    }
    assert_eq!(csv, truth);
    let mut memory = Memory::for_feed(&feed);
    let mut pipeline = Pipeline::new(memory.storage(), PipelineConfig::default());
    let mut rows = QuoteRows::default();
    pipeline.feed(&feed, &mut rows).unwrap();
    pipeline.finish().unwrap();
    assert_eq!(rows.csv, truth);
}
