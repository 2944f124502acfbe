//! The ring's arithmetic, through every state with 8-bit indices, and against an oracle.

use std::collections::VecDeque;

use core_runtime::ring::index::{ConsumerIndex, ProducerIndex, Refused};
use core_runtime::ring::{Closed, PopError, PushError, Receiver, Sender};

use crate::ring_support::{HeadSide, TailSide, Words, rounds, seeded};
use hybrid_conventions::testing::Random;

/// Capacities that 8-bit indices allow.
const CAPACITIES: [u8; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

/// Starting points: all of them, but few where an interpreter runs this.
fn starts() -> impl Iterator<Item = u8> {
    (0..=255u8).step_by(if cfg!(miri) { 64 } else { 1 })
}

/// What a peer can claim: everything, but some of it where an interpreter runs this.
fn claims() -> impl Iterator<Item = u8> {
    (0..=255u8).step_by(if cfg!(miri) { 15 } else { 1 })
}

/// A producer that has published `used` slots since `seen`.
fn producer(capacity: u8, seen: u8, used: u8) -> ProducerIndex<u8> {
    let index = ProducerIndex::new(capacity, seen);
    if used > 0 {
        index.refresh(seen, seen, used).unwrap();
        index.advance(seen.wrapping_add(used));
    }
    index
}

#[test]
fn a_producer_believes_exactly_the_heads_between_what_it_saw_and_its_tail() {
    for capacity in CAPACITIES {
        for seen in starts() {
            for used in (0..=capacity).step_by(usize::from(capacity / 8).max(1)) {
                let tail = seen.wrapping_add(used);
                for claimed in claims() {
                    let index = producer(capacity, seen, used);
                    let honest = claimed.wrapping_sub(seen) <= used;
                    let depth = tail.wrapping_sub(claimed);
                    match index.refresh(claimed, tail, 1) {
                        Ok(()) => {
                            assert!(honest && depth < capacity);
                            let room = index.room(tail);
                            assert!(room >= 1 && room <= capacity - depth);
                        }
                        Err(Refused::Full) => assert!(honest && depth == capacity),
                        Err(Refused::Violation(violation)) => {
                            assert!(!honest);
                            assert_eq!(violation.seen, u32::from(claimed));
                            assert_eq!(index.room(tail), 0);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_producer_gives_any_number_of_slots_exactly_when_they_are_free() {
    for capacity in CAPACITIES {
        for used in (0..=capacity).step_by(if cfg!(miri) { 16 } else { 1 }) {
            for slots in claims() {
                let index = producer(capacity, 250, used);
                let tail = 250u8.wrapping_add(used);
                let fits = u16::from(used) + u16::from(slots) <= u16::from(capacity);
                assert_eq!(index.refresh(250, tail, slots).is_ok(), fits);
                if fits {
                    assert!(index.has_room(tail, slots));
                    assert!(index.room(tail) <= capacity - used);
                }
            }
        }
    }
}

#[test]
fn a_consumer_believes_exactly_the_tails_between_what_it_saw_and_a_full_ring() {
    for capacity in CAPACITIES {
        for head in starts() {
            for ready in (0..=capacity).step_by(usize::from(capacity / 8).max(1)) {
                for claimed in claims() {
                    let index = ConsumerIndex::new(capacity, head);
                    index.refresh(head.wrapping_add(ready)).unwrap();
                    let depth = claimed.wrapping_sub(head);
                    let honest = depth >= ready && depth <= capacity;
                    match index.refresh(claimed) {
                        Ok(()) => {
                            assert!(honest);
                            assert_eq!(index.ready(), depth);
                        }
                        Err(violation) => {
                            assert!(!honest);
                            assert_eq!(violation.seen, u32::from(claimed));
                            assert_eq!(index.ready(), 0);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_short_way_takes_a_tail_only_where_the_long_one_would_and_nothing_is_new() {
    for capacity in CAPACITIES {
        for usual in (0..=capacity).step_by(if cfg!(miri) { 16 } else { 1 }) {
            for claimed in claims() {
                let index = ConsumerIndex::new(capacity, 200);
                index.refresh(200u8.wrapping_add(usual)).unwrap();
                let head = 200u8.wrapping_add(usual);
                index.advance(head);
                let waiting = claimed.wrapping_sub(head);
                let taken = index.refresh_usual(head, claimed);
                assert_eq!(taken, waiting >= 1 && waiting <= usual);
                assert_eq!(index.ready(), if taken { waiting } else { 0 });
            }
        }
    }
}

#[test]
fn nothing_is_usual_for_a_consumer_that_was_shut() {
    let index = ConsumerIndex::<u8>::new(8, 0);
    index.refresh(8).unwrap();
    index.shut();
    for claimed in 0..=255 {
        assert!(!index.refresh_usual(0, claimed));
    }
}

type Ends<I> =
    (&'static Words<I>, Sender<TailSide<I>, HeadSide<I>>, Receiver<HeadSide<I>, TailSide<I>>);

fn ends<I: core_runtime::ring::index::Index>(capacity: I, first: I) -> Ends<I> {
    let words = Words::leak(capacity.to_u32() as usize, first);
    let sender = Sender::over(TailSide(words), HeadSide(words), capacity, first);
    let receiver = Receiver::over(HeadSide(words), TailSide(words), capacity, first);
    (words, sender, receiver)
}

#[test]
fn random_pushes_and_pops_are_those_of_a_queue_with_any_start_and_8_bits() {
    let mut random = seeded(0x51_C0DE);
    for capacity in CAPACITIES {
        for first in starts().step_by(17) {
            let (_, sender, receiver) = ends::<u8>(capacity, first);
            let mut oracle = VecDeque::new();
            for _ in 0..rounds(3000) {
                step(&mut random, &sender, &receiver, &mut oracle, capacity.into());
            }
        }
    }
}

#[test]
fn random_pushes_and_pops_are_those_of_a_queue_over_the_wrap_of_32_bits() {
    let mut random = seeded(0xBEEF);
    for capacity in [1, 2, 32, 256] {
        let first = u32::MAX - random.next32() % 600;
        let (_, sender, receiver) = ends::<u32>(capacity, first);
        let mut oracle = VecDeque::new();
        for _ in 0..rounds(20_000) {
            step(&mut random, &sender, &receiver, &mut oracle, capacity);
        }
    }
}

/// One random operation on the ring and on the oracle.
fn step<I: core_runtime::ring::index::Index>(
    random: &mut Random,
    sender: &Sender<TailSide<I>, HeadSide<I>>,
    receiver: &Receiver<HeadSide<I>, TailSide<I>>,
    oracle: &mut VecDeque<u64>,
    capacity: u32,
) {
    let many = usize::try_from(random.below(u64::from(capacity) + 3)).unwrap();
    match random.below(6) {
        0 | 1 => {
            let item = random.next();
            let full = oracle.len() == capacity as usize;
            let expected = if full { Err(PushError::Full) } else { Ok(()) };
            assert_eq!(sender.try_push(&item), expected);
            if !full {
                oracle.push_back(item);
            }
        }
        2 => {
            let items: Vec<u64> = (0..many).map(|_| random.next()).collect();
            let free = capacity as usize - oracle.len();
            assert_eq!(sender.push_batch(&items), Ok(many.min(free)));
            oracle.extend(&items[..many.min(free)]);
        }
        3 | 4 => {
            let expected = oracle.pop_front().ok_or(PopError::Empty);
            assert_eq!(receiver.pop(), expected);
        }
        _ => {
            let mut got = Vec::new();
            let most = u32::try_from(many).unwrap();
            let count = receiver.pop_batch(most, |item| got.push(item)).unwrap();
            let expected: Vec<u64> = oracle.drain(..many.min(oracle.len())).collect();
            assert_eq!(got, expected);
            assert_eq!(count as usize, got.len());
        }
    }
    assert!(sender.depth() as usize >= oracle.len());
    assert!(sender.depth() <= capacity && sender.high_water() <= capacity);
}

#[test]
fn every_8_bit_head_that_a_consumer_can_claim_closes_the_ring_or_is_possible() {
    for first in starts() {
        for pushed in 0..=8u8 {
            for claimed in claims() {
                let (words, sender, _) = ends::<u8>(8, first);
                for item in 0..u64::from(pushed) {
                    sender.try_push(&item).unwrap();
                }
                words.head.set(claimed);
                // As many as fit, and a few more: the ring has to look at the head.
                let mut closed = false;
                for item in 0..20 {
                    closed |= matches!(sender.try_push(&item), Err(PushError::Closed(_)));
                }
                let possible = claimed.wrapping_sub(first) <= 8;
                assert!(possible || closed, "first {first} pushed {pushed} head {claimed}");
            }
        }
    }
}

#[test]
fn every_8_bit_tail_that_a_producer_can_claim_closes_the_ring_or_is_possible() {
    for first in starts() {
        for claimed in claims() {
            let (words, _, receiver) = ends::<u8>(8, first);
            words.tail.set(claimed);
            let waiting = claimed.wrapping_sub(first);
            match receiver.pop() {
                Ok(_) => assert!((1..=8).contains(&waiting)),
                Err(PopError::Empty) => assert_eq!(waiting, 0),
                Err(PopError::Closed(Closed::Index(violation))) => {
                    assert!(waiting > 8);
                    assert_eq!(violation.seen, u32::from(claimed));
                    assert!(receiver.closed().is_some());
                    // It stays closed when the peer comes back to its senses.
                    words.tail.set(first.wrapping_add(1));
                    assert!(matches!(receiver.pop(), Err(PopError::Closed(_))));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
