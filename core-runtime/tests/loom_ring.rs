//! The ring's engine under every interleaving that `loom` finds within its bounds.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p core-runtime --release --test 'loom_*'`
//!
//! The slots are `loom` cells, which fail a test if a slot is read while it is written: so a lost
//! Acquire or Release is seen, and not only a wrong number.
#![cfg(loom)]

use core_runtime::ring::cell::{OwnEnd, PeerEnd, Put, Take};
use core_runtime::ring::records::{RecordReceiver, RecordSender};
use core_runtime::ring::{Closed, PopError, PushError, Receiver, Sender};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering};

/// Indices begin here, so that they wrap in every test.
const FIRST: u32 = u32::MAX - 1;

struct Words {
    tail: AtomicU32,
    head: AtomicU32,
    tail_state: AtomicU32,
    head_state: AtomicU32,
    slots: Vec<UnsafeCell<u64>>,
}

#[derive(Clone, Copy)]
struct TailSide(&'static Words);
#[derive(Clone, Copy)]
struct HeadSide(&'static Words);

impl Words {
    fn slot(&self, index: u32) -> &UnsafeCell<u64> {
        &self.slots[index as usize % self.slots.len()]
    }
}

impl OwnEnd for TailSide {
    type Index = u32;
    fn publish(&self, index: u32) {
        self.0.tail.store(index, Ordering::Release);
    }
    fn tell_state(&self, state: u32, _: u32) {
        self.0.tail_state.store(state, Ordering::Release);
    }
    fn tell_counters(&self, _: u64, _: u64, _: u32) {}
    fn tell_records(&self, _: u64) {}
}

impl Put for TailSide {
    type Item = u64;
    fn put(&self, index: u32, item: &u64) {
        // SAFETY: loom fails the test if another access is possible at the same time.
        self.0.slot(index).with_mut(|slot| unsafe { *slot = *item });
    }
}

impl PeerEnd for TailSide {
    type Index = u32;
    fn index(&self) -> u32 {
        self.0.tail.load(Ordering::Acquire)
    }
    fn state(&self) -> u32 {
        self.0.tail_state.load(Ordering::Acquire)
    }
}

impl Take for TailSide {
    type Item = u64;
    fn take(&self, index: u32) -> u64 {
        // SAFETY: loom fails the test if a write is possible at the same time.
        self.0.slot(index).with(|slot| unsafe { *slot })
    }
}

impl OwnEnd for HeadSide {
    type Index = u32;
    fn publish(&self, index: u32) {
        self.0.head.store(index, Ordering::Release);
    }
    fn tell_state(&self, state: u32, _: u32) {
        self.0.head_state.store(state, Ordering::Release);
    }
    fn tell_counters(&self, _: u64, _: u64, _: u32) {}
    fn tell_records(&self, _: u64) {}
}

impl PeerEnd for HeadSide {
    type Index = u32;
    fn index(&self) -> u32 {
        self.0.head.load(Ordering::Acquire)
    }
    fn state(&self) -> u32 {
        self.0.head_state.load(Ordering::Acquire)
    }
}

type Tx = Sender<TailSide, HeadSide>;
type Rx = Receiver<HeadSide, TailSide>;

fn ends(capacity: u32) -> (Tx, Rx) {
    let words: &'static Words = Box::leak(Box::new(Words {
        tail: AtomicU32::new(FIRST),
        head: AtomicU32::new(FIRST),
        tail_state: AtomicU32::new(0),
        head_state: AtomicU32::new(0),
        slots: (0..capacity).map(|_| UnsafeCell::new(0)).collect(),
    }));
    (
        Sender::over(TailSide(words), HeadSide(words), capacity, FIRST),
        Receiver::over(HeadSide(words), TailSide(words), capacity, FIRST),
    )
}

/// All interleavings with at most three preemptions: each pair of racing accesses is among them,
/// and the waiting loops of two threads stay finite.
fn model(test: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

/// Pops until `count` items came, in order from `first`.
fn pop_in_order(receiver: &Rx, first: u64, count: u64) {
    let mut next = first;
    while next < first + count {
        match receiver.pop() {
            Ok(item) => {
                assert_eq!(item, next);
                next += 1;
            }
            Err(PopError::Empty) => loom::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn single_items_are_seen_whole_and_in_order() {
    model(|| {
        let (sender, receiver) = ends(2);
        let producer = loom::thread::spawn(move || {
            for item in 1..=3 {
                while sender.try_push(&item) == Err(PushError::Full) {
                    loom::thread::yield_now();
                }
            }
        });
        pop_in_order(&receiver, 1, 3);
        producer.join().unwrap();
        assert_eq!(receiver.pop(), Err(PopError::Empty));
    });
}

#[test]
fn batches_are_seen_whole_and_in_order() {
    model(|| {
        let (sender, receiver) = ends(2);
        let producer = loom::thread::spawn(move || {
            let items = [1, 2, 3];
            let mut done = 0;
            while done < items.len() {
                match sender.push_batch(&items[done..]).unwrap() {
                    0 => loom::thread::yield_now(),
                    taken => done += taken,
                }
            }
        });
        let mut got = Vec::new();
        while got.len() < 3 {
            let taken = receiver.pop_batch(3, |item| got.push(item)).unwrap();
            if taken == 0 {
                loom::thread::yield_now();
            }
        }
        producer.join().unwrap();
        assert_eq!(got, [1, 2, 3]);
    });
}

#[test]
fn staged_records_are_seen_together_and_over_the_end() {
    model(|| {
        let (sender, receiver) = ends(4);
        let (sender, receiver) = (RecordSender::over(sender), RecordReceiver::over(receiver));
        let producer = loom::thread::spawn(move || {
            for tag in 0..2u32 {
                // One word and two words: three of four, so that the second pair goes over the end.
                while sender.stage(1, tag, b"").is_err() {
                    loom::thread::yield_now();
                }
                while sender.stage(2, tag, &tag.to_le_bytes()).is_err() {
                    loom::thread::yield_now();
                }
                sender.publish();
            }
        });
        let mut got = Vec::new();
        let mut buffer = [0; 8];
        while got.len() < 4 {
            let taken = receiver
                .drain(2, &mut buffer, |header, payload| {
                    got.push((header.kind, header.tag, payload.to_vec()));
                })
                .unwrap();
            if taken == 0 {
                loom::thread::yield_now();
            }
        }
        producer.join().unwrap();
        for (tag, pair) in (0..).zip(got.chunks(2)) {
            assert_eq!(pair[0], (1, tag, vec![]));
            assert_eq!(pair[1], (2, tag, tag.to_le_bytes().to_vec()));
        }
    });
}

#[test]
fn a_consumer_that_sees_the_end_has_seen_everything_before_it() {
    model(|| {
        let (sender, receiver) = ends(2);
        let producer = loom::thread::spawn(move || {
            sender.try_push(&7).unwrap();
            sender.close();
        });
        let mut got = Vec::new();
        loop {
            match receiver.pop() {
                Ok(item) => got.push(item),
                Err(PopError::Closed(closed)) => {
                    assert_eq!(closed, Closed::ByPeer);
                    break;
                }
                Err(_) => loom::thread::yield_now(),
            }
        }
        producer.join().unwrap();
        assert_eq!(got, [7]);
    });
}
