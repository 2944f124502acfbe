//! However a feed is cut, the result is the same.

use crate::oracle::messages;
use crate::support::{Events, Memory, Rng, synthetic_day};
use feed_handler::book::NoSink;
use feed_handler::field::Symbol;
use feed_handler::pipeline::{Counts, Pipeline, PipelineConfig};
use feed_handler::synth::{StockSlot, Synth, SynthConfig};

fn run(feed: &[u8], mut cut: impl FnMut() -> usize) -> (Events, Counts) {
    let mut memory = Memory::for_feed(feed);
    let mut pipeline = Pipeline::new(memory.storage(), PipelineConfig::default());
    let mut events = Events::default();
    let mut rest = feed;
    while !rest.is_empty() {
        let (slice, after) = rest.split_at(cut().clamp(1, rest.len()));
        pipeline.feed(slice, &mut events).unwrap();
        rest = after;
        assert_eq!(pipeline.position().number, pipeline.messages() + 1);
    }
    pipeline.finish().unwrap();
    assert!(pipeline.ended());
    (events, pipeline.counts().clone())
}

#[test]
fn any_cut_of_a_feed_gives_the_same_events() {
    let (_, mut feed) = synthetic_day(5, 4, 20_000);
    // Unknown types, short and far longer than a frame, must survive the cuts too.
    let mark = feed.split_off(feed.len() - 2);
    for length in [11_u16, 64, 65, 500, 65_535] {
        feed.extend_from_slice(&length.to_be_bytes());
        feed.push(b'z');
        feed.resize(feed.len() + usize::from(length) - 1, 0xEE);
    }
    feed.extend_from_slice(b"\x00\x0cS\x00\x00\x00\x00\xff\xff\xff\xff\xff\xffC");
    feed.extend_from_slice(&mark);
    let whole = run(&feed, || usize::MAX);
    assert_eq!(whole.1.messages(), 20_006);
    assert_eq!(whole.1.unknown(), 5);
    for step in [1, 2, 3, 7, 37, 38, 39, 512, 4096, 65_536] {
        assert!(run(&feed, || step) == whole, "cut every {step} bytes");
    }
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let most = [2, 40, 300, 70_000][seed as usize % 4];
        assert!(run(&feed, || 1 + rng.below(most) as usize) == whole, "seed {seed}");
    }
}

#[test]
fn the_generator_makes_the_same_day_into_any_buffers() {
    let config = SynthConfig { seed: 9, stocks: 20, messages: 3000 };
    let (_, whole) = synthetic_day(9, 20, 3000);
    for most in [1, 5, 60, 5000] {
        let mut rng = Rng::new(u64::from(most));
        let mut slots = vec![StockSlot::default(); 20];
        let mut synth = Synth::new(config, &mut slots).unwrap();
        let mut made = Vec::new();
        loop {
            let mut buffer = vec![0xAA; 1 + rng.below(most) as usize];
            let bytes = synth.fill(&mut buffer);
            made.extend_from_slice(&buffer[..bytes]);
            if bytes < buffer.len() {
                assert_eq!(synth.fill(&mut buffer), 0);
                break;
            }
        }
        assert!(made == whole, "buffers of up to {most} bytes");
        assert_eq!(synth.messages(), 3000);
        assert!(whole.len() as u64 <= config.most_bytes());
    }
}

#[test]
fn a_synthetic_day_is_as_realistic_as_it_says() {
    let (config, feed) = synthetic_day(1, 500, 400_000);
    assert_eq!(config.messages, 400_000);
    let mut born = std::collections::HashMap::new();
    let mut counts = [0_u64; 256];
    let (mut young, mut died, mut last, mut busiest) = (0_u64, 0_u64, 0, 0_u64);
    for m in messages(&feed) {
        counts[usize::from(m[0])] += 1;
        let time = u64::from_be_bytes(m[3..11].try_into().unwrap()) & 0xFFFF_FFFF_FFFF;
        assert!(time >= last, "time goes forward");
        last = time;
        busiest += u64::from(m[1..3] == [0, 1]);
        let order_ref = |at: usize| u64::from_be_bytes(m[at..at + 8].try_into().unwrap());
        match m[0] {
            b'A' | b'F' => assert!(born.insert(order_ref(11), time).is_none()),
            b'D' => {
                died += 1;
                young += u64::from(time - born[&order_ref(11)] < 1_000_000_000);
            }
            b'U' => assert!(born.insert(order_ref(19), time).is_none()),
            _ => {}
        }
    }
    let percent = |kind: u8| counts[usize::from(kind)] as f64 * 100.0 / 400_000.0;
    for (kind, want, margin) in [
        (b'A', 42.0, 2.0),
        (b'D', 41.0, 2.0),
        (b'U', 8.0, 0.6),
        (b'E', 2.5, 0.4),
        (b'F', 1.5, 0.3),
        (b'I', 1.5, 0.3),
        (b'X', 1.2, 0.3),
        (b'P', 0.6, 0.2),
        (b'L', 0.6, 0.1),
        (b'C', 0.1, 0.05),
    ] {
        let is = percent(kind);
        assert!((is - want).abs() <= margin, "{} is {is} %, not {want}", kind as char);
    }
    assert!(busiest > 400_000 / 10, "the busiest stock has {busiest} messages");
    let densest = *born.keys().max().unwrap();
    assert!(densest < born.len() as u64 * 5 / 4, "references are nearly dense");
    // Two in five with twelve times fewer messages in a day than the default has; three in five
    // with the default.
    println!("{young} of {died} deleted orders lived for less than a second");
    assert!(young * 5 > died * 2, "{young} of {died}");
}

#[test]
fn a_filter_gives_what_its_symbols_would_give_alone() {
    let (_, feed) = synthetic_day(6, 9, 30_000);
    let all = run(&feed, || 4096).0;
    let mut memory = Memory::for_feed(&feed);
    let wanted = {
        let mut names = Pipeline::new(memory.storage(), PipelineConfig::default());
        names.feed(&feed, &mut NoSink).unwrap();
        let books = names.books();
        let name = |locate| books.book(locate).unwrap().symbol;
        [name(2), name(7), Symbol::new("ABSENT").unwrap()]
    };
    let config = PipelineConfig { symbols: &wanted, ..PipelineConfig::default() };
    let mut memory = Memory::for_feed(&feed);
    let mut pipeline = Pipeline::new(memory.storage(), config);
    let mut events = Events::default();
    pipeline.feed(&feed, &mut events).unwrap();
    let keep = |locate: u16| locate == 2 || locate == 7;
    let bbos = all.bbos.iter().filter(|e| keep(e.locate)).copied().collect::<Vec<_>>();
    assert!(bbos.len() > 100);
    assert_eq!(events.bbos, bbos);
    let trades = all.trades.iter().filter(|e| keep(e.locate)).copied().collect::<Vec<_>>();
    assert_eq!(events.trades, trades);
    assert_eq!(pipeline.books().locates().collect::<Vec<_>>(), [2, 7]);
    assert!(pipeline.books().stats().passed_over > 10_000);
    pipeline.books().check_consistency().unwrap();
}

#[test]
fn the_shortest_and_the_widest_days_are_valid_and_within_their_bounds() {
    for stocks in [1, 2, 100, feed_handler::synth::MAX_STOCKS] {
        let least = SynthConfig { seed: 1, stocks, messages: 0 }.least_messages();
        for seed in 0..4 {
            let (config, feed) = synthetic_day(seed, stocks, least);
            assert!((feed.len() as u64) < config.most_bytes());
            for kind in feed_handler::message::KINDS {
                assert!(messages(&feed).any(|m| m[0] == kind), "no {} in {stocks}", kind as char);
            }
            let mut memory = Memory::new(config.capacity());
            let mut pipeline = Pipeline::new(memory.storage(), PipelineConfig::default());
            pipeline.feed(&feed, &mut NoSink).unwrap();
            pipeline.finish().unwrap();
            assert_eq!(pipeline.messages(), least);
        }
    }
    let mut slots = [StockSlot::default(); 2];
    let mut refused = |stocks, messages| {
        Synth::new(SynthConfig { seed: 1, stocks, messages }, &mut slots).unwrap_err().to_string()
    };
    assert_eq!(refused(0, 5000), "a synthetic day has 1 to 2048 stocks, not 0");
    assert_eq!(refused(2, 100), "a synthetic day of 2 stocks has at least 419 messages, not 100");
    assert_eq!(refused(3, 5000), "a synthetic day of 3 stocks needs as many slots, 2 were given");
}
