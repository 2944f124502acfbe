//! Bad feeds: each ends in one error with its place, or is counted; books stay whole.

use crate::oracle::messages;
use crate::support::{Events, Memory, Rng, directory, synthetic_day};
use feed_handler::book::{Capacity, NoSink};
use feed_handler::encode::{self, Head};
use feed_handler::error::{BookError, Fault, FeedError, FrameError, MessageError, Position};
use feed_handler::field::{Price4, Side, Symbol};
use feed_handler::pipeline::{Pipeline, PipelineConfig, Policy, Refused};

const HEAD: Head = Head { locate: 1, tracking: 0, timestamp: 5 };
const STOCK: Symbol = Symbol(*b"ZVZZT   ");
const SMALL: Capacity = Capacity { symbols: 8, orders: 64, levels: 64 };

fn add(order_ref: u64, side: Side, shares: u32, price: u32) -> encode::AddOrder {
    encode::AddOrder { head: HEAD, order_ref, side, shares, stock: STOCK, price: Price4(price) }
}

/// One message with its length.
macro_rules! framed {
    ($message:expr) => {{
        let mut out = [0; 64];
        let bytes = $message.write(&mut out).unwrap();
        out[..bytes].to_vec()
    }};
}

/// Runs a feed in slices of `step` bytes to its end or its error.
fn run(feed: &[u8], step: usize, policy: Policy) -> (Result<(), FeedError>, Refused) {
    let mut memory = Memory::new(SMALL);
    let config = PipelineConfig { policy, ..PipelineConfig::default() };
    let mut pipeline = Pipeline::new(memory.storage(), config);
    let fed = feed.chunks(step).try_for_each(|slice| pipeline.feed(slice, &mut NoSink));
    let result = fed.and_then(|()| pipeline.finish());
    pipeline.books().check_consistency().unwrap();
    (result, pipeline.counts().refused)
}

/// The error of a feed, the same however it is cut.
fn error(feed: &[u8]) -> FeedError {
    let whole = run(feed, usize::MAX, Policy::Strict).0.unwrap_err();
    for step in [1, 2, 5, 33] {
        let cut = run(feed, step, Policy::Strict).0.unwrap_err();
        let after_end =
            |e: &FeedError| matches!(e.fault, Fault::Frame(FrameError::AfterEnd { .. }));
        // Only the count of bytes after the end depends on how many were seen.
        assert!(cut == whole || cut.at == whole.at && after_end(&cut) && after_end(&whole));
    }
    whole
}

#[test]
fn what_is_no_feed_is_refused_at_its_start() {
    let start = Position { offset: 0, number: 1 };
    let empty = error(b"");
    assert_eq!(empty, FeedError { at: start, fault: FrameError::Empty.into() });
    let mark_only = error(b"\0\0");
    assert_eq!(mark_only.fault, FrameError::Empty.into());
    let zeros = error(&[0; 5000]);
    assert!(matches!(zeros.fault, Fault::Frame(FrameError::AfterEnd { .. })), "{zeros}");
    let text = error(&b"The quick brown fox jumps over the lazy dog. ".repeat(1000));
    let not_itch = FrameError::NotItch { kind: b'e', length: 0x5468 };
    assert_eq!(text, FeedError { at: start, fault: not_itch.into() });
    assert_eq!(
        text.to_string(),
        "message 1 at byte offset 0: this is not an ITCH 5.0 feed: it begins with a message of \
         type 0x65 and 21608 bytes, which no known type has"
    );
    let gzip = error(b"\x1f\x8b\x08\x00\x00\x00\x00\x00");
    let truncated = FrameError::Truncated { have: 8, need: 2 + 0x1F8B };
    assert_eq!(gzip, FeedError { at: start, fault: truncated.into() });
}

#[test]
fn random_garbage_ends_in_an_error_after_little_reading() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let garbage: Vec<u8> = (0..100_000).map(|_| rng.next() as u8).collect();
        for policy in [Policy::Strict, Policy::Lenient] {
            let error = run(&garbage, 4096, policy).0.unwrap_err();
            assert_eq!(error.at, Position { offset: 0, number: 1 }, "{error}");
        }
    }
}

#[test]
fn a_feed_cut_anywhere_says_where_its_last_message_began() {
    let (_, feed) = synthetic_day(3, 2, 450);
    let feed = &feed[..1000];
    let mut starts = vec![0];
    for message in messages(feed) {
        starts.push(starts.last().unwrap() + 2 + message.len());
    }
    for cut in 1..feed.len() {
        let at = starts.iter().rposition(|&start| start <= cut).unwrap();
        let (result, _) = run(&feed[..cut], 7, Policy::Strict);
        if starts[at] == cut {
            result.unwrap();
            continue;
        }
        let error = result.unwrap_err();
        let place = Position { offset: starts[at] as u64, number: at as u64 + 1 };
        let have = (cut - starts[at]) as u64;
        let next = starts.get(at + 1).map_or(u64::MAX, |&next| (next - starts[at]) as u64);
        let need = if have == 1 { 2 } else { next };
        assert_eq!(error.at, place);
        let Fault::Frame(FrameError::Truncated { have: seen, need: wanted }) = error.fault else {
            panic!("{error}");
        };
        assert_eq!(seen, have);
        assert!(wanted == need || next == u64::MAX);
    }
}

#[test]
fn bytes_after_the_end_mark_are_an_error() {
    let (_, mut feed) = synthetic_day(3, 2, 450);
    let end = feed.len() as u64;
    feed.extend_from_slice(b"xyz");
    let error = error(&feed);
    assert_eq!(error.at, Position { offset: end, number: 451 });
    assert_eq!(error.fault, FrameError::AfterEnd { bytes: 3 }.into());
}

/// A feed of a directory entry and an order, then `bad` and a good message behind it.
fn feed_with(bad: &[u8]) -> Vec<u8> {
    let mut feed = directory(1, STOCK);
    feed.extend(framed!(add(7, Side::BUY, 100, 10_000)));
    feed.extend_from_slice(bad);
    feed.extend(framed!(encode::OrderDelete { head: HEAD, order_ref: 7 }));
    feed
}

/// The bad message stands third, after 41 + 38 bytes; strict stops there, lenient counts it and
/// takes the good one behind it.
fn refused(bad: &[u8]) -> (Fault, Refused) {
    let feed = feed_with(bad);
    let error = error(&feed);
    assert_eq!(error.at, Position { offset: 79, number: 3 });
    assert!(error.to_string().starts_with("message 3 at byte offset 79: "), "{error}");
    let (result, refused) = run(&feed, 9, Policy::Lenient);
    result.unwrap();
    assert_eq!(refused.total(), 1);
    (error.fault, refused)
}

#[test]
fn messages_that_are_not_what_their_type_says_are_refused() {
    let length =
        |kind, length, expected| Fault::from(MessageError::Length { kind, length, expected });
    let (fault, counts) = refused(b"\x00\x0cD\0\x01\0\0\0\0\0\0\0\0\0");
    assert_eq!(fault, length(b'D', 12, 19));
    assert_eq!(fault.to_string(), "type D has 12 bytes, the specification says 19");
    assert_eq!(counts.malformed, 1);
    // Longer than a frame shows: the error names the true length.
    let mut long = vec![0; 2 + 300];
    long[..3].copy_from_slice(&[1, 44, b'A']);
    assert_eq!(refused(&long).0, length(b'A', 300, 36));
    assert_eq!(refused(b"\x00\x01S").0, length(b'S', 1, 12));
    assert_eq!(refused(b"\x00\x02\x07a").0, MessageError::NotAType { kind: 7 }.into());
    assert_eq!(refused(b"\x00\x03zaa").0, MessageError::NoHead { kind: b'z', length: 3 }.into());
}

#[test]
fn messages_that_contradict_the_books_are_refused() {
    let wrong = |bad: &[u8]| {
        let (Fault::Book(error), counts) = refused(bad) else { panic!("another layer") };
        (error, counts)
    };
    let (head, order_ref) = (HEAD, 8);
    let (error, counts) = wrong(&framed!(encode::OrderDelete { head, order_ref }));
    assert_eq!(error, BookError::UnknownOrder { order_ref: 8 });
    assert_eq!(counts.unknown_order, 1);
    let (error, counts) = wrong(&framed!(add(7, Side::SELL, 100, 10_100)));
    assert_eq!(error, BookError::DoubledOrder { order_ref: 7 });
    assert_eq!(counts.doubled_order, 1);
    let order_ref = 7;
    let executed = encode::OrderExecuted { head, order_ref, executed_shares: 101, match_number: 1 };
    let (error, counts) = wrong(&framed!(executed));
    assert_eq!(error, BookError::BeyondOpen { order_ref: 7, open: 100, taken: 101 });
    assert_eq!(error.to_string(), "order reference 7 has 100 open shares, 101 are to be taken off");
    assert_eq!(counts.beyond_open, 1);
    let cancel = encode::OrderCancel { head, order_ref, cancelled_shares: u32::MAX };
    assert!(matches!(wrong(&framed!(cancel)).0, BookError::BeyondOpen { .. }));
    let none = encode::OrderCancel { head, order_ref, cancelled_shares: 0 };
    assert_eq!(wrong(&framed!(none)).0, BookError::NoShares { order_ref: 7 });
    assert_eq!(wrong(&framed!(add(8, Side::BUY, 0, 1))).0, BookError::NoShares { order_ref: 8 });
    let side = wrong(&framed!(add(8, Side(b'b'), 1, 1))).0;
    assert_eq!(side, BookError::BadSide { order_ref: 8, side: b'b' });
    let mut other = add(8, Side::BUY, 1, 1);
    other.stock = Symbol(*b"OTHER   ");
    let stock = wrong(&framed!(other)).0;
    let named = other.stock;
    assert_eq!(stock, BookError::WrongStock { locate: 1, known: STOCK, named });
}

#[test]
fn replaces_that_contradict_the_books_change_nothing() {
    let wrong = |original_ref, new_ref, shares| {
        let price = Price4(1);
        let head = HEAD;
        refused(&framed!(encode::OrderReplace { head, original_ref, new_ref, shares, price })).0
    };
    assert_eq!(wrong(9, 10, 5), BookError::UnknownOrder { order_ref: 9 }.into());
    assert_eq!(wrong(7, 7, 5), BookError::DoubledOrder { order_ref: 7 }.into());
    assert_eq!(wrong(7, 10, 0), BookError::NoShares { order_ref: 10 }.into());
}

#[test]
fn locate_codes_that_nobody_named_are_refused() {
    for locate in [0, 2, 7, 8, 9999, u16::MAX] {
        let head = Head { locate, ..HEAD };
        let (fault, counts) =
            refused(&framed!(encode::AddOrder { head, ..add(8, Side::BUY, 1, 1) }));
        assert_eq!(fault, BookError::UnknownLocate { locate }.into());
        assert_eq!(counts.unknown_locate, 1);
    }
    // An order of one stock, taken away in the name of another that exists.
    let mut feed = directory(2, Symbol(*b"OTHER   "));
    feed.extend(feed_with(&framed!(encode::OrderDelete {
        head: Head { locate: 2, ..HEAD },
        order_ref: 7,
    })));
    let wrong = BookError::WrongLocate { order_ref: 7, resting: 1, locate: 2 };
    assert_eq!(error(&feed).fault, wrong.into());
    // A locate code that was given to another stock already.
    let mut feed = directory(1, STOCK);
    feed.extend(directory(1, STOCK));
    feed.extend(directory(1, Symbol(*b"OTHER   ")));
    let error = error(&feed);
    assert_eq!(error.at.number, 3);
    assert!(matches!(error.fault, Fault::Book(BookError::WrongStock { .. })));
}

#[test]
fn books_that_are_full_say_what_how_many_and_the_remedy() {
    let mut feed = directory(1, STOCK);
    for n in 0..65 {
        feed.extend(framed!(add(n, Side::BUY, 1, 100)));
    }
    for policy in [Policy::Strict, Policy::Lenient] {
        let error = run(&feed, 100, policy).0.unwrap_err();
        assert_eq!(error.at, Position { offset: 41 + 64 * 38, number: 66 });
        assert_eq!(
            error.fault.to_string(),
            "no room for more resting orders: all 64 are in use; raise Capacity::orders"
        );
    }
    let capacity = Capacity { symbols: 2, orders: 64, levels: 5 };
    let mut memory = Memory::new(capacity);
    let mut pipeline = Pipeline::new(memory.storage(), PipelineConfig::default());
    let mut feed = directory(1, STOCK);
    for n in 0..6 {
        feed.extend(framed!(add(u64::from(n), Side::SELL, 1, 100 + n)));
    }
    let error = pipeline.feed(&feed, &mut NoSink).unwrap_err();
    let full = BookError::Full { what: "price levels", capacity: 5, knob: "levels" };
    assert_eq!(error.fault, full.into());
    pipeline.books().check_consistency().unwrap();
    let error = Pipeline::new(Memory::new(capacity).storage(), PipelineConfig::default())
        .feed(&directory(2, STOCK), &mut NoSink)
        .unwrap_err();
    let full = BookError::Full { what: "locate codes", capacity: 2, knob: "symbols" };
    assert_eq!(error.fault, full.into());
}

#[test]
fn shares_at_one_price_may_exceed_32_bits() {
    let mut feed = directory(1, STOCK);
    for n in 0..60 {
        feed.extend(framed!(add(n, Side::SELL, u32::MAX, u32::MAX)));
    }
    let mut memory = Memory::new(SMALL);
    let mut pipeline = Pipeline::new(memory.storage(), PipelineConfig::default());
    pipeline.feed(&feed, &mut NoSink).unwrap();
    let quote = pipeline.books().book(1).unwrap().quote;
    assert_eq!((quote.ask_price, quote.ask_shares), (u32::MAX, 60 * u64::from(u32::MAX)));
    assert_eq!((quote.bid_price, quote.bid_shares), (0, 0));
}

/// 100,000 damaged feeds: bits flipped, bytes set, stretches dropped, doubled or swapped.
#[test]
fn damaged_feeds_never_panic_and_leave_the_books_whole() {
    let (config, feed) = synthetic_day(8, 2, 430);
    let capacity = Capacity { orders: 200, ..config.capacity() };
    let mut memory = Memory::new(capacity);
    let mut strict_errors = 0;
    let mut lenient_ends = 0;
    for seed in 0..100_000_u64 {
        let mut rng = Rng::new(seed);
        let mut damaged = feed.clone();
        for _ in 0..=rng.below(3) {
            damage(&mut damaged, &mut rng);
        }
        let policy = if seed % 2 == 0 { Policy::Strict } else { Policy::Lenient };
        let config = PipelineConfig { policy, ..PipelineConfig::default() };
        let mut pipeline = Pipeline::new(memory.storage(), config);
        let step = 1 + rng.below(3000) as usize;
        let mut slices = damaged.chunks(step);
        let fed = slices.try_for_each(|slice| pipeline.feed(slice, &mut NoSink));
        let result = fed.and_then(|()| pipeline.finish());
        if let Err(error) = result {
            assert!(error.at.offset <= damaged.len() as u64, "seed {seed}: {error}");
            strict_errors += u64::from(policy == Policy::Strict);
        } else {
            lenient_ends += u64::from(policy == Policy::Lenient);
        }
        if let Err(broken) = pipeline.books().check_consistency() {
            panic!("seed {seed}: {broken}");
        }
    }
    assert!(strict_errors > 20_000 && lenient_ends > 5_000, "{strict_errors} {lenient_ends}");
}

fn damage(feed: &mut Vec<u8>, rng: &mut Rng) {
    let len = feed.len() as u32;
    let at = rng.below(len) as usize;
    let many = (1 + rng.below(80) as usize).min(feed.len() - at);
    match rng.below(6) {
        0 => feed[at] ^= 1 << rng.below(8),
        1 => feed[at] = rng.next() as u8,
        2 => drop(feed.drain(at..at + many)),
        3 => {
            let copy = feed[at..at + many].to_vec();
            feed.splice(at..at, copy);
        }
        4 => feed.truncate(at.max(1)),
        _ => feed[at..at + many].reverse(),
    }
}

/// In a lenient run over damaged fields, what is left agrees with a strict run over the messages
/// that were taken: nothing of a refused message stays.
#[test]
fn a_refused_message_leaves_no_trace() {
    let (config, feed) = synthetic_day(21, 3, 3000);
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut memory = Memory::new(config.capacity());
        let lenient = PipelineConfig { policy: Policy::Lenient, ..PipelineConfig::default() };
        let mut pipeline = Pipeline::new(memory.storage(), lenient);
        let mut events = Events::default();
        let mut taken = Vec::new();
        for message in messages(&feed) {
            let mut framed = (message.len() as u16).to_be_bytes().to_vec();
            framed.extend_from_slice(message);
            if rng.below(20) == 0 {
                let at = 3 + rng.below(message.len() as u32 - 1) as usize;
                framed[at] ^= 1 << rng.below(8);
            }
            let before = pipeline.counts().refused.total();
            pipeline.feed(&framed, &mut events).unwrap();
            if pipeline.counts().refused.total() == before {
                taken.extend_from_slice(&framed);
            }
        }
        assert!(pipeline.counts().refused.total() > 20);
        let mut memory = Memory::new(config.capacity());
        let mut strict = Pipeline::new(memory.storage(), PipelineConfig::default());
        let mut again = Events::default();
        strict.feed(&taken, &mut again).unwrap();
        assert!(events == again, "seed {seed}");
        pipeline.books().check_consistency().unwrap();
    }
}
