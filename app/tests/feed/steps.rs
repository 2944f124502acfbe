//! A feed with a clock between its steps: the same result, and each tick in its step.

use std::cell::Cell;

use crate::support::{Events, Memory, synthetic_day};
use feed_handler::book::{BboChange, Sink, Status, Trade};
use feed_handler::field::Symbol;
use feed_handler::pipeline::{Pipeline, PipelineConfig, Policy, StepClock, Steps};

/// A clock on which each look takes [`LOOK`], and a sink in which each event takes [`EVENT`].
#[derive(Default)]
struct Hands(Cell<u64>);

const LOOK: u64 = 10;
const EVENT: u64 = 7;

struct Clock<'a> {
    hands: &'a Hands,
    seen: Vec<Steps>,
}

impl StepClock for Clock<'_> {
    fn now(&self) -> u64 {
        self.hands.0.set(self.hands.0.get() + LOOK);
        self.hands.0.get()
    }

    fn message(&mut self, steps: &Steps) {
        self.seen.push(*steps);
        // What is done with it may take any time.
        self.hands.0.set(self.hands.0.get() + 1000);
    }
}

struct Slow<'a> {
    hands: &'a Hands,
    events: Events,
    stocks: u64,
}

impl Slow<'_> {
    fn takes_time(&self) {
        self.hands.0.set(self.hands.0.get() + EVENT);
    }
}

impl Sink for Slow<'_> {
    fn stock(&mut self, _: u16, _: Symbol) {
        self.takes_time();
        self.stocks += 1;
    }

    fn bbo(&mut self, change: &BboChange) {
        self.takes_time();
        self.events.bbo(change);
    }

    fn trade(&mut self, trade: &Trade) {
        self.takes_time();
        self.events.trade(trade);
    }

    fn status(&mut self, status: &Status) {
        self.takes_time();
        self.events.status(status);
    }
}

#[test]
fn steps_change_nothing_and_each_tick_is_in_its_step() {
    let (_, mut feed) = synthetic_day(7, 9, 4000);
    // One that has to be refused: an execution whose order nobody knows.
    let at = feed.windows(3).position(|w| w[..2] == [0, 31] && w[2] == b'E').expect("one");
    feed[at + 2 + 11..at + 2 + 19].fill(0xEE);
    let config = || PipelineConfig { policy: Policy::Lenient, symbols: &[] };
    let mut memory = Memory::for_feed(&feed);
    let mut plain = Pipeline::new(memory.storage(), config());
    let mut expected = Events::default();
    plain.feed(&feed, &mut expected).expect("a lenient one");

    let hands = Hands::default();
    let mut clock = Clock { hands: &hands, seen: Vec::new() };
    let cost = clock.cost();
    assert_eq!(cost, LOOK);
    let mut sink = Slow { hands: &hands, events: Events::default(), stocks: 0 };
    let mut other = Memory::for_feed(&feed);
    let mut stepped = Pipeline::new(other.storage(), config());
    // Slices end anywhere, and some are fed without a clock.
    for (number, slice) in feed.chunks(301).enumerate() {
        let fed = match number % 3 {
            0 => stepped.feed(slice, &mut sink),
            _ => stepped.feed_in_steps(slice, &mut sink, (&mut clock, cost)),
        };
        fed.expect("a lenient one");
    }
    assert_eq!(sink.events, expected);
    assert_eq!((stepped.counts(), stepped.messages()), (plain.counts(), plain.messages()));
    assert_ne!(stepped.counts().refused.unknown_order, 0, "the one that was made");
    stepped.books().check_consistency().expect("books");

    let told: u64 = clock.seen.iter().map(|steps| u64::from(steps.events)).sum();
    assert!(clock.seen.len() > 2000 && told > 500, "{} messages, {told}", clock.seen.len());
    for steps in &clock.seen {
        let output = u64::from(steps.events) * EVENT;
        assert_eq!(*steps, Steps { decode: 0, book: 0, output, events: steps.events });
    }
}
