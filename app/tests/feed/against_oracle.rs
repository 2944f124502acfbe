//! The books against the naive book, message by message.

use crate::oracle::{Naive, messages};
use crate::support::{Events, Memory, QuoteRows, Rng, directory, synthetic_day};
use feed_handler::book::{Capacity, Quote};
use feed_handler::encode::{self, Head};
use feed_handler::error::Position;
use feed_handler::field::{EventCode, Price4, Side, Symbol};
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

/// A day that no market has: prices anywhere (so that pages of levels split and merge), crossed
/// books, references of any size, queues of every length, replaces to the same price.
fn wild_day(seed: u64, steps: usize, prices: u32) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut feed = Vec::new();
    let mut out = [0; 64];
    let stock = |locate: u16| Symbol::new(&format!("W{locate}")).unwrap();
    for locate in 1..=3 {
        feed.extend_from_slice(&directory(locate, stock(locate)));
    }
    let event = EventCode::START_OF_MARKET_HOURS;
    let bytes = encode::SystemEvent { head: Head::default(), event }.write(&mut out).unwrap();
    feed.extend_from_slice(&out[..bytes]);
    // Reference, locate, open shares, price.
    let mut live: Vec<(u64, u16, u32, u32)> = Vec::new();
    let mut growing = true;
    for step in 0..steps {
        if live.len() > 2500 {
            growing = false;
        } else if live.len() < 20 {
            growing = true;
        }
        let order_ref = match rng.below(3) {
            0 => step as u64 + 1,
            1 => (step as u64) << 32 | 7,
            _ => rng.next() | 1 << 63,
        };
        let price = Price4(rng.below(prices) * if rng.below(50) == 0 { 1 << 20 } else { 100 });
        let shares = 1 + rng.below(1000);
        let bytes = if live.is_empty() || rng.below(100) < if growing { 60 } else { 25 } {
            let locate = 1 + rng.below(3) as u16;
            let head = Head { locate, tracking: 0, timestamp: step as u64 };
            let side = if rng.below(2) == 0 { Side::BUY } else { Side::SELL };
            live.push((order_ref, locate, shares, price.0));
            let stock = stock(locate);
            if rng.below(4) == 0 {
                let attribution = *b"WILD";
                encode::AddOrderMpid { head, order_ref, side, shares, stock, price, attribution }
                    .write(&mut out)
            } else {
                encode::AddOrder { head, order_ref, side, shares, stock, price }.write(&mut out)
            }
        } else {
            let at = rng.below(live.len() as u32) as usize;
            let (old, locate, open, old_price) = live[at];
            let head = Head { locate, tracking: 0, timestamp: step as u64 };
            let part = if rng.below(2) == 0 { open } else { 1 + rng.below(open) };
            let match_number = step as u64;
            let kind = rng.below(5);
            let left = match kind {
                0 | 1 => 0,
                _ => open - part,
            };
            if kind == 1 {
                let price = if rng.below(3) == 0 { Price4(old_price) } else { price };
                let shares = if rng.below(3) == 0 { open } else { shares };
                live[at] = (order_ref, locate, shares, price.0);
                let (original_ref, new_ref) = (old, order_ref);
                encode::OrderReplace { head, original_ref, new_ref, shares, price }.write(&mut out)
            } else {
                if left == 0 {
                    live.swap_remove(at);
                } else {
                    live[at].2 = left;
                }
                let order_ref = old;
                match kind {
                    0 => encode::OrderDelete { head, order_ref }.write(&mut out),
                    2 => encode::OrderCancel { head, order_ref, cancelled_shares: part }
                        .write(&mut out),
                    3 => encode::OrderExecuted {
                        head,
                        order_ref,
                        executed_shares: part,
                        match_number,
                    }
                    .write(&mut out),
                    _ => encode::OrderExecutedWithPrice {
                        head,
                        order_ref,
                        executed_shares: part,
                        match_number,
                        printable: if rng.below(2) == 0 { b'Y' } else { b'N' },
                        execution_price: price,
                    }
                    .write(&mut out),
                }
            }
        };
        feed.extend_from_slice(&out[..bytes.unwrap()]);
    }
    feed
}

#[test]
fn wild_days_agree_with_the_naive_book() {
    for (seed, steps, prices) in [(11, 60_000, 5), (12, 60_000, 60), (13, 60_000, 4000)] {
        let capacity = Capacity { symbols: 4, orders: 2600, levels: 2600 };
        compare(&wild_day(seed, steps, prices), capacity, 997);
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
