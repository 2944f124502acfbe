//! Rings of fixed items in shared memory: shapes, two threads, counters, hostile peers.

use std::sync::atomic::{AtomicBool, Ordering};

use core_runtime::ring::{
    Closed, Consumer, PopError, Producer, PushError, RingError, RingSpec, RingStats, capacity_for,
    pair,
};
use hybrid_abi::AbiError;
use hybrid_abi::event::Bbo;
use hybrid_abi::ring::{
    CONSUMER_MAGIC, END_OFFSET, PRODUCER_MAGIC, RingHeader, STATE_CLOSED, STATE_OPEN,
    STATE_VIOLATION,
};
use hybrid_shm::{Span, leak_aligned};
use zerocopy::FromBytes;

use crate::ring_support::{parts, rounds, seeded};

fn ring(capacity: u32) -> (Span<'static>, Span<'static>, Producer<u64>, Consumer<u64>) {
    let spec = RingSpec::fixed::<u64>(capacity).unwrap();
    let (tail_part, head_part) = parts(spec);
    let (producer, consumer) = pair(tail_part, head_part, spec).unwrap();
    (tail_part, head_part, producer, consumer)
}

#[test]
fn items_come_out_as_they_went_in() {
    let spec = RingSpec::fixed::<Bbo>(4).unwrap();
    let (tail_part, head_part) = parts(spec);
    let (producer, consumer) = pair::<Bbo>(tail_part, head_part, spec).unwrap();
    let mut bytes = [0u8; 56];
    for (at, byte) in (1..).zip(bytes.iter_mut()) {
        *byte = at;
    }
    let sent = Bbo::read_from_bytes(&bytes).unwrap();
    for _ in 0..10 {
        producer.try_push(&sent).unwrap();
        assert_eq!(consumer.pop(), Ok(sent));
        assert_eq!(consumer.pop(), Err(PopError::Empty));
    }
    // Items of several words lie beside each other, in whichever slot the first one is.
    let items = [1, 2, 3, 4].map(|fill| Bbo::read_from_bytes(&[fill; 56]).unwrap());
    for _ in 0..10 {
        assert_eq!(producer.push_batch(&items), Ok(4));
        items.iter().for_each(|item| assert_eq!(consumer.pop(), Ok(*item)));
        producer.try_push(&sent).unwrap();
        assert_eq!(consumer.pop(), Ok(sent));
    }
}

#[test]
fn the_parts_have_their_golden_bytes() {
    let spec = RingSpec::fixed::<u64>(2).unwrap().with_epoch(7);
    let (tail_part, head_part) = parts(spec);
    let (producer, consumer) = pair::<u64>(tail_part, head_part, spec).unwrap();
    producer.try_push(&0x1111).unwrap();
    producer.try_push(&0x2222).unwrap();
    producer.try_push(&0x3333).unwrap_err();
    consumer.pop().unwrap();
    let mut tail = vec![0; tail_part.len()];
    tail_part.read(0, &mut tail).unwrap();
    let mut golden = b"HYRINGPR".to_vec();
    golden.extend([1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 8, 0, 0, 0, 7]);
    golden.resize(128, 0);
    golden.extend([2]);
    golden.resize(256, 0);
    golden.extend([2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
    golden.resize(384, 0);
    golden.extend([0x11, 0x11, 0, 0, 0, 0, 0, 0, 0x22, 0x22, 0, 0, 0, 0, 0, 0]);
    assert_eq!(tail, golden);
    let mut head = vec![0; head_part.len()];
    head_part.read(0, &mut head).unwrap();
    assert_eq!(&head[..8], b"HYRINGCO");
    assert_eq!(head[128..132], [1, 0, 0, 0]);
}

#[test]
fn a_full_ring_refuses_and_counts_and_goes_on_when_there_is_room() {
    let (tail_part, head_part, producer, consumer) = ring(4);
    for item in 0..4 {
        producer.try_push(&item).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(producer.try_push(&9), Err(PushError::Full));
    }
    assert_eq!(producer.has_room(1), Ok(false));
    assert_eq!(consumer.pop(), Ok(0));
    assert_eq!(producer.has_room(1), Ok(true));
    assert_eq!(producer.has_room(5), Ok(false));
    producer.try_push(&4).unwrap();
    let stats = RingStats::read(tail_part.read_only(), head_part.read_only()).unwrap();
    assert_eq!(stats.pushed, 5);
    assert_eq!(stats.dropped, 3);
    assert_eq!(stats.depth, 4);
    assert_eq!((stats.high_water, stats.backlog), (4, 4));
    let mut rest = Vec::new();
    consumer.pop_batch(9, |item| rest.push(item)).unwrap();
    assert_eq!(rest, [1, 2, 3, 4]);
}

#[test]
fn both_ends_say_how_large_and_how_full_they_are() {
    let (_, _, producer, consumer) = ring(4);
    assert_eq!((producer.capacity(), consumer.capacity()), (4, 4));
    for item in 0..4 {
        producer.try_push(&item).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(producer.try_push(&9), Err(PushError::Full));
    }
    assert_eq!((producer.depth(), producer.high_water(), producer.dropped()), (4, 4, 2));
    assert_eq!((consumer.ready(), consumer.high_water()), (0, 0), "it has not looked yet");
    assert_eq!(consumer.pop(), Ok(0));
    assert_eq!((consumer.ready(), consumer.high_water()), (3, 4));
    let (_, _, empty, _) = ring(4);
    assert_eq!((empty.has_room(4), empty.has_room(5)), (Ok(true), Ok(false)));
}

#[test]
fn what_was_found_waiting_is_taken_before_the_producer_is_looked_at_again() {
    for batch in [false, true] {
        let (tail_part, head_part, producer, consumer) = ring(4);
        producer.push_batch(&[1, 2, 3]).unwrap();
        assert_eq!(consumer.pop(), Ok(1));
        // No tail that can be: whoever looks at it closes the ring.
        tail_part.word32(END_OFFSET).unwrap().store(77);
        let mut taken = Vec::new();
        if batch {
            assert_eq!(consumer.pop_batch(2, |item| taken.push(item)), Ok(2));
        } else {
            taken.extend([consumer.pop().unwrap(), consumer.pop().unwrap()]);
        }
        assert_eq!((taken.as_slice(), consumer.closed()), (&[2, 3][..], None));
        let closed = consumer.pop_batch(1, |_| ()).unwrap_err();
        assert!(matches!(closed, Closed::Index(violation) if violation.seen == 77));
        let said = [4, 8].map(|at| head_part.word32(END_OFFSET + at).unwrap().load());
        assert_eq!(said, [STATE_VIOLATION, 77]);
        let stats = RingStats::read(tail_part.read_only(), head_part.read_only()).unwrap();
        assert_eq!((stats.producer_state, stats.consumer_state), (STATE_OPEN, STATE_VIOLATION));
    }
}

#[test]
fn the_number_pushed_is_exact_over_the_wrap_of_the_index() {
    let first = u32::MAX - 5;
    let spec = RingSpec::fixed::<u64>(256).unwrap().with_first_index(first);
    let (tail_part, head_part) = parts(spec);
    let (producer, consumer) = pair::<u64>(tail_part, head_part, spec).unwrap();
    let indices = [tail_part, head_part].map(|part| part.word32(END_OFFSET).unwrap().load());
    assert_eq!((indices, spec.capacity()), ([first; 2], 256));
    for pushed in 1..u64::from(rounds(2000)).max(20) {
        producer.try_push(&pushed).unwrap();
        assert_eq!(consumer.pop(), Ok(pushed));
        let stats = RingStats::read(tail_part.read_only(), head_part.read_only()).unwrap();
        assert_eq!((stats.pushed, stats.depth), (pushed, 0));
    }
}

#[test]
fn a_closed_ring_is_drained_before_its_consumer_sees_the_end() {
    let (tail_part, head_part, producer, consumer) = ring(4);
    producer.try_push(&1).unwrap();
    producer.close();
    assert_eq!(producer.try_push(&2), Err(PushError::Closed(Closed::Here)));
    assert_eq!(consumer.pop(), Ok(1));
    assert_eq!(consumer.pop(), Err(PopError::Closed(Closed::ByPeer)));
    let stats = RingStats::read(tail_part.read_only(), head_part.read_only()).unwrap();
    assert_eq!(stats.producer_state, STATE_CLOSED);
    assert_eq!(stats.dropped, 0);
}

#[test]
fn a_producer_sees_that_its_consumer_has_gone_when_it_looks() {
    let (_, _, producer, consumer) = ring(2);
    consumer.close();
    let errors: Vec<_> = (0..3).map(|item| producer.try_push(&item)).collect();
    assert_eq!(errors[0], Err(PushError::Closed(Closed::ByPeer)));
    assert_eq!(errors[2], Err(PushError::Closed(Closed::ByPeer)));
}

#[test]
fn an_end_says_that_its_peer_is_not_ready_or_is_another_ring() {
    let spec = RingSpec::fixed::<u64>(4).unwrap();
    let (tail_part, head_part) = parts(spec);
    spec.make_producer_part(tail_part).unwrap();
    let open = |spec| Producer::<u64>::new(tail_part, head_part.read_only(), spec).map(|_| ());
    assert_eq!(open(spec), Err(RingError::PeerNotReady));
    RingSpec::fixed::<u64>(8).unwrap().make_consumer_part(head_part).unwrap();
    assert_eq!(open(spec).unwrap_err().to_string(), "ring has capacity 8 at the peer, 4 here");
    spec.with_epoch(2).make_consumer_part(head_part).unwrap();
    assert_eq!(open(spec).unwrap_err().to_string(), "ring has epoch 2 at the peer, 0 here");
    spec.make_consumer_part(head_part).unwrap();
    assert_eq!(open(spec), Ok(()));
    let wrong = Producer::<[u64; 2]>::new(tail_part, head_part.read_only(), spec).map(|_| ());
    assert_eq!(wrong.unwrap_err().to_string(), "ring has slot bytes 8 at the peer, 16 here");
}

#[test]
fn parts_that_are_too_short_or_crooked_are_refused() {
    let spec = RingSpec::fixed::<u64>(4).unwrap();
    let (tail_part, head_part) = parts(spec);
    let short = tail_part.sub(0, spec.producer_bytes() - 1).unwrap();
    assert!(matches!(spec.make_producer_part(short), Err(RingError::OutOfBounds(_))));
    assert!(spec.make_consumer_part(head_part.sub(0, 383).unwrap()).is_err());
    let wide = leak_aligned(4096, 128);
    assert!(spec.make_producer_part(wide.sub(4, 2048).unwrap()).is_err());
    for capacity in [0, 3, 12, u32::MAX] {
        assert!(matches!(
            RingSpec::fixed::<u64>(capacity),
            Err(RingError::Abi(AbiError::Field { field: "capacity", .. }))
        ));
    }
    // A header that promises more slots than the consumer can see.
    pair::<u64>(tail_part, head_part, spec).unwrap();
    let seen = tail_part.sub(0, spec.producer_bytes() - 8).unwrap().read_only();
    assert!(matches!(
        Consumer::<u64>::new(head_part, seen, spec).map(|_| ()),
        Err(RingError::OutOfBounds(_))
    ));
}

#[test]
fn two_threads_lose_and_invent_nothing() {
    for (capacity, count) in [(1, 20_000), (2, 20_000), (64, 500_000), (4096, 2_000_000)] {
        let count: u64 = if cfg!(miri) { 300 } else { count };
        let (tail_part, head_part, producer, consumer) = ring(capacity);
        let sum = std::thread::spawn(move || {
            let (mut next, mut sum) = (0u64, 0u64);
            while next < count {
                let waiting = consumer.pop_batch(64, |item| {
                    assert_eq!(item, next.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                    next += 1;
                    sum = sum.wrapping_add(item);
                });
                if waiting == Ok(0) {
                    std::thread::yield_now();
                }
            }
            sum
        });
        let mut expected = 0u64;
        let mut refused = 0;
        for number in 0..count {
            let item = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            expected = expected.wrapping_add(item);
            while producer.try_push(&item) == Err(PushError::Full) {
                refused += 1;
                std::thread::yield_now();
            }
        }
        assert_eq!(sum.join().unwrap(), expected);
        let stats = RingStats::read(tail_part.read_only(), head_part.read_only()).unwrap();
        assert_eq!((stats.pushed, stats.depth), (count, 0));
        assert_eq!(stats.dropped, refused);
        assert!(stats.high_water <= capacity && stats.backlog <= capacity);
    }
}

#[test]
fn a_peer_that_writes_its_words_at_random_meanwhile_only_closes_the_ring() {
    let mut random = seeded(0xBAD_5EED);
    for _ in 0..rounds(40) {
        let (tail_part, head_part, producer, consumer) = ring(8);
        let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let seed = random.next();
        let rogue = std::thread::spawn(move || {
            let mut random = seeded(seed);
            while !stop.load(Ordering::Relaxed) {
                tail_part.word32(END_OFFSET).unwrap().store(random.next32());
                head_part.word32(END_OFFSET).unwrap().store(random.next32());
                tail_part.word64(384).unwrap().store(random.next());
            }
        });
        // Random words are possible ones by a chance of one in 2^27, so both ends close soon.
        while producer.closed().is_none() || consumer.closed().is_none() {
            let _ = producer.try_push(&1);
            let _ = consumer.pop();
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        rogue.join().unwrap();
        assert!(matches!(producer.closed(), Some(Closed::Index(_))));
        let state = head_part.word32(END_OFFSET + 4).unwrap().load();
        assert_eq!(state, STATE_VIOLATION);
    }
}

#[test]
fn a_batch_may_close_or_pop_and_neither_gives_room_back_twice_or_too_late() {
    let (_, head_part, producer, consumer) = ring(8);
    let published = || head_part.word32(END_OFFSET).unwrap().load();
    producer.push_batch(&[1, 2, 3, 4, 5, 6, 7]).unwrap();
    let mut seen = Vec::new();
    let taken = consumer.pop_batch(4, |item| {
        seen.push(item);
        seen.extend(consumer.pop());
    });
    assert_eq!((seen.as_slice(), taken), (&[1, 2, 3, 4, 5, 6, 7][..], Ok(4)));
    assert_eq!(published(), 7);
    producer.push_batch(&[8, 9]).unwrap();
    let taken = consumer.pop_batch(2, |_| consumer.close());
    assert_eq!((taken, published()), (Ok(1), 7), "what it said when it closed stands");
    assert!(consumer.pop_batch(2, |_| ()).is_err());
}

#[test]
fn a_violation_names_what_was_claimed_and_what_was_possible() {
    let (_, head_part, producer, _consumer) = ring(2);
    producer.try_push(&1).unwrap();
    producer.try_push(&2).unwrap();
    head_part.word32(END_OFFSET).unwrap().store(77);
    assert_eq!(
        producer.try_push(&3).unwrap_err().to_string(),
        "the ring's peer claims index 77, possible are 0 to 2"
    );
}

#[test]
fn every_flipped_bit_of_a_peers_header_is_refused_or_without_meaning() {
    let spec = RingSpec::fixed::<u64>(8).unwrap().with_epoch(5);
    for magic in [PRODUCER_MAGIC, CONSUMER_MAGIC] {
        for bit in (0..size_of::<RingHeader>() * 8).step_by(if cfg!(miri) { 41 } else { 1 }) {
            let (tail_part, head_part) = parts(spec);
            spec.make_producer_part(tail_part).unwrap();
            spec.make_consumer_part(head_part).unwrap();
            let own = magic == CONSUMER_MAGIC;
            let target = if own { head_part } else { tail_part };
            let mut byte = [0];
            target.read(bit / 8, &mut byte).unwrap();
            byte[0] ^= 1 << (bit % 8);
            target.write(bit / 8, &byte).unwrap();
            let refused = Producer::<u64>::new(tail_part, head_part.read_only(), spec).is_err();
            let reserved = bit / 8 >= 36;
            assert_eq!(refused, !reserved, "bit {bit}");
            assert_eq!(
                Consumer::<u64>::new(head_part, tail_part.read_only(), spec).is_err(),
                !reserved
            );
        }
    }
}

#[test]
fn random_bytes_are_no_ring() {
    let mut random = seeded(0x0DD);
    let spec = RingSpec::fixed::<u64>(8).unwrap();
    let (tail_part, head_part) = parts(spec);
    spec.make_producer_part(tail_part).unwrap();
    for _ in 0..rounds(20_000) {
        for word in 0..16 {
            head_part.word64(word * 8).unwrap().store(random.next());
        }
        assert!(Producer::<u64>::new(tail_part, head_part.read_only(), spec).is_err());
        assert!(RingStats::read(tail_part.read_only(), head_part.read_only()).is_err());
    }
}

#[test]
fn a_ring_holds_what_arrives_while_its_consumer_is_away_and_a_fifth_more() {
    assert_eq!(capacity_for(0, 0), 2);
    assert_eq!(capacity_for(1_000_000, 1_000_000), 2048);
    // 10^7 a second for 20 us: 200, and a fifth more: 240.
    assert_eq!(capacity_for(10_000_000, 20_000), 256);
    // 213.333 with the fifth is 256 exactly; one more arrival is over it.
    assert_eq!(capacity_for(213_333_333, 1000), 256);
    assert_eq!(capacity_for(213_333_334, 1000), 512);
    assert_eq!(capacity_for(u64::MAX, u64::MAX), 1 << 31);
    // Six times 2^32 slots, of which 32 bits would be none.
    assert_eq!(capacity_for(5 << 32, 1_000_000_000), 1 << 31);
}
