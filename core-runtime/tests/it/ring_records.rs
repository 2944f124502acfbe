//! Rings of records of any length: an oracle, staging, hostile headers.

use std::collections::VecDeque;

use core_runtime::ring::{
    Closed, PopError, PushError, RecordConsumer, RecordProducer, RingSpec, RingStats, record_pair,
};
use hybrid_abi::command::Stop;
use hybrid_abi::event::Pong;
use hybrid_abi::ring::{END_OFFSET, SLOTS_OFFSET};
use hybrid_abi::{Record, RecordHeader};
use hybrid_shm::Span;

use crate::ring_support::{parts, rounds, seeded};
use hybrid_conventions::testing::Random;

struct Ring {
    tail_part: Span<'static>,
    head_part: Span<'static>,
    producer: RecordProducer,
    consumer: RecordConsumer,
}

fn ring(bytes: usize, first_index: u32) -> Ring {
    let spec = RingSpec::variable(bytes).unwrap().with_first_index(first_index);
    let (tail_part, head_part) = parts(spec);
    let (producer, consumer) = record_pair(tail_part, head_part, spec).unwrap();
    Ring { tail_part, head_part, producer, consumer }
}

#[test]
fn a_record_has_its_golden_bytes() {
    let ring = ring(64, 0);
    ring.producer.write(0x0102, 0x0304_0506, b"123456789").unwrap();
    let mut bytes = [0xEE; 24];
    ring.tail_part.read(SLOTS_OFFSET, &mut bytes).unwrap();
    #[rustfmt::skip]
    let golden = [
        2, 1, 9, 0, 6, 5, 4, 3,
        b'1', b'2', b'3', b'4', b'5', b'6', b'7', b'8',
        b'9', 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(bytes, golden);
    assert_eq!(ring.tail_part.word32(END_OFFSET).unwrap().load(), 3);
}

#[test]
fn records_of_a_fixed_size_are_sent_and_parsed() {
    let ring = ring(256, 0);
    let stop = Stop { grace_ns: 5, reason: 2, reserved: 0 };
    ring.producer.send(&stop).unwrap();
    let mut buffer = [0; 64];
    let header = ring.consumer.read(&mut buffer).unwrap();
    assert_eq!(header.kind, Stop::KIND);
    assert_eq!(Stop::parse(&buffer[..header.len.into()]), Ok(stop));
}

#[test]
fn random_records_are_those_of_a_queue_with_any_start() {
    let mut random = seeded(0x05EC_04D5);
    for bytes in [64, 256, 4096] {
        let first = u32::MAX - random.next32() % 300;
        let mut ring = ring(bytes, first);
        let mut oracle: VecDeque<(RecordHeader, Vec<u8>)> = VecDeque::new();
        let mut staged = 0;
        for round in 0..rounds(20_000) {
            step(&mut random, &mut ring, &mut oracle, &mut staged, round, bytes);
        }
    }
}

/// One random operation on the ring and on the oracle, whose last `staged` are not published.
fn step(
    random: &mut Random,
    ring: &mut Ring,
    oracle: &mut VecDeque<(RecordHeader, Vec<u8>)>,
    staged: &mut usize,
    round: u32,
    bytes: usize,
) {
    let used: usize = oracle.iter().map(|(header, _)| header.words() as usize * 8).sum();
    let len = usize::try_from(random.below(bytes as u64 / 2)).unwrap();
    let payload: Vec<u8> = (0..len).map(|_| random.next().to_le_bytes()[0]).collect();
    let header = RecordHeader { kind: 7, len: u16::try_from(len).unwrap(), tag: round };
    let fits = used + header.words() as usize * 8 <= bytes;
    match random.below(5) {
        0 => {
            let result = ring.producer.write(7, round, &payload);
            assert_eq!(result.is_ok(), fits, "{result:?}");
            if fits {
                oracle.push_back((header, payload));
                *staged = 0;
            }
        }
        1 => {
            assert_eq!(ring.producer.has_room(len), Ok(fits));
            if let Ok(mut room) = ring.producer.reserve(7, round, len) {
                let (front, back) = payload.split_at(len / 3);
                room.append(front).unwrap();
                room.append(back).unwrap();
                assert!(room.append(&[0]).is_err());
                room.commit();
                oracle.push_back((header, payload));
                *staged += 1;
            }
        }
        2 => {
            ring.producer.publish();
            *staged = 0;
        }
        3 => {
            let mut buffer = vec![0; bytes];
            let mut got = VecDeque::new();
            ring.consumer
                .drain(3, &mut buffer, |header, payload| {
                    got.push_back((header, payload.to_vec()));
                })
                .unwrap();
            let visible = oracle.len() - *staged;
            let expected: VecDeque<_> = oracle.drain(..visible.min(3)).collect();
            assert_eq!(got, expected);
        }
        _ => {
            let mut buffer = vec![0; bytes];
            match ring.consumer.read(&mut buffer) {
                Ok(header) => {
                    assert!(oracle.len() > *staged);
                    buffer.truncate(header.len.into());
                    assert_eq!(oracle.pop_front(), Some((header, buffer)));
                }
                Err(error) => {
                    assert_eq!(error, PopError::Empty);
                    assert_eq!(oracle.len(), *staged);
                }
            }
        }
    }
}

#[test]
fn nothing_staged_is_seen_before_it_is_published() {
    let ring = ring(256, 0);
    let mut buffer = [0; 64];
    ring.producer.stage(1, 0, b"one").unwrap();
    ring.producer.stage(2, 0, b"two").unwrap();
    assert_eq!(ring.consumer.read(&mut buffer), Err(PopError::Empty));
    ring.producer.publish();
    let mut kinds = Vec::new();
    ring.consumer.drain(9, &mut buffer, |header, _| kinds.push(header.kind)).unwrap();
    assert_eq!(kinds, [1, 2]);
}

#[test]
fn a_drain_may_read_further_records_and_close() {
    let ring = ring(256, 0);
    for kind in 1..=5 {
        ring.producer.write(kind, 0, b"record").unwrap();
    }
    let mut kinds = Vec::new();
    let drained = ring.consumer.drain(3, &mut [0; 64], |header, _| {
        kinds.push(header.kind);
        let inner = ring.consumer.read(&mut [0; 64]);
        kinds.extend(inner.ok().map(|header| header.kind));
    });
    assert_eq!((kinds.as_slice(), drained), (&[1, 2, 3, 4, 5][..], Ok(3)));
    let freed = || ring.head_part.word32(END_OFFSET).unwrap().load();
    assert_eq!((ring.consumer.records(), freed()), (5, 10));
    ring.producer.write(6, 0, b"record").unwrap();
    let drained = ring.consumer.drain(3, &mut [0; 64], |_, _| ring.consumer.close());
    assert_eq!((drained, freed()), (Ok(1), 10), "what it said when it closed stands");
}

#[test]
fn both_ends_say_how_many_records_and_bytes_there_are() {
    let ring = ring(64, 0);
    let (producer, consumer) = (&ring.producer, &ring.consumer);
    assert_eq!((producer.capacity(), consumer.capacity()), (64, 64));
    assert_eq!((producer.has_room(56), producer.has_room(57)), (Ok(true), Ok(false)));
    for tag in 0..4 {
        producer.write(1, tag, b"8 bytes.").unwrap();
    }
    for _ in 0..2 {
        assert_eq!(producer.write(1, 9, b""), Err(PushError::Full));
    }
    assert_eq!(producer.has_room(0), Ok(false));
    assert_eq!((producer.records(), producer.dropped()), (4, 2), "asking is not counted");
    assert_eq!((producer.depth(), producer.high_water(), consumer.ready()), (64, 64, 0));
    consumer.read(&mut [0; 8]).unwrap();
    assert_eq!((consumer.ready(), consumer.high_water(), consumer.records()), (48, 64, 1));
    assert_eq!(producer.depth(), 64, "as far as it has seen");
    producer.look();
    assert_eq!(producer.depth(), 48);
    for _ in 0..2 {
        consumer.read(&mut [0; 7]).unwrap_err();
    }
    assert_eq!(consumer.skipped(), 2);
    assert_eq!((producer.closed(), consumer.closed()), (None, None));
    producer.close();
    consumer.close();
    let here = Some(Closed::Here);
    assert_eq!((producer.closed(), consumer.closed()), (here, here));
}

#[test]
fn a_drain_that_meets_the_end_gives_the_number_of_what_came_before() {
    let ring = ring(256, 0);
    for kind in 1..=3 {
        ring.producer.write(kind, 0, b"").unwrap();
    }
    ring.producer.close();
    assert_eq!(ring.consumer.drain(1, &mut [0; 8], |_, _| {}), Ok(1), "no more than asked for");
    assert_eq!(ring.consumer.drain(5, &mut [0; 8], |_, _| {}), Ok(2));
    assert_eq!(ring.consumer.drain(5, &mut [0; 8], |_, _| {}), Err(Closed::ByPeer));
}

#[test]
fn a_reservation_takes_what_is_left_of_it_and_keeps_each_byte() {
    let mut ring = ring(256, 0);
    let mut room = ring.producer.reserve(1, 9, 20).unwrap();
    assert_eq!(room.left(), 20);
    room.append(b"12345").unwrap();
    assert_eq!(room.left(), 15);
    let refused = Err(PushError::TooLong { len: 16, allowed: 15 });
    assert_eq!(room.append(&[0; 16]), refused);
    room.append(b"abcdefghijklmno").unwrap();
    assert_eq!(room.left(), 0);
    room.commit();
    ring.producer.publish();
    let mut buffer = [0; 20];
    let header = ring.consumer.read(&mut buffer).unwrap();
    assert_eq!((header.len, header.tag), (20, 9));
    assert_eq!(&buffer, b"12345abcdefghijklmno");
}

#[test]
fn a_reservation_that_is_dropped_leaves_nothing() {
    let mut ring = ring(256, 0);
    {
        let mut room = ring.producer.reserve(1, 0, 32).unwrap();
        room.append(b"never").unwrap();
    }
    ring.producer.write(2, 0, b"seen").unwrap();
    let mut buffer = [0; 64];
    assert_eq!(ring.consumer.read(&mut buffer).unwrap().kind, 2);
    assert_eq!(&buffer[..4], b"seen");
    assert_eq!(ring.producer.records(), 1);
}

#[test]
fn what_can_never_fit_is_too_long_and_what_does_not_fit_now_is_full() {
    let ring = ring(64, 0);
    let said = ring.producer.write(1, 0, &[0; 57]).unwrap_err();
    assert_eq!(
        said.to_string(),
        "a record of 57 bytes does not fit a ring for records of up to 56"
    );
    ring.producer.write(1, 0, &[0; 56]).unwrap();
    assert_eq!(ring.producer.write(1, 0, b""), Err(PushError::Full));
    let stats = RingStats::read(ring.tail_part.read_only(), ring.head_part.read_only()).unwrap();
    assert_eq!((stats.pushed, stats.dropped, stats.depth), (1, 1, 8));
    let large = self::ring(1 << 20, 0);
    assert!(matches!(
        large.producer.write(1, 0, &[0; 65536]),
        Err(PushError::TooLong { len: 65536, allowed: 65535 })
    ));
    large.producer.write(1, 0, &[7; 65535]).unwrap();
    let mut buffer = vec![0; 65535];
    assert_eq!(large.consumer.read(&mut buffer).unwrap().len, 65535);
    assert!(buffer.iter().all(|&byte| byte == 7));
}

#[test]
fn a_record_longer_than_the_buffer_is_skipped_and_counted() {
    let ring = ring(256, 0);
    ring.producer.write(1, 0, &[1; 40]).unwrap();
    ring.producer.write(2, 0, &[2; 8]).unwrap();
    let mut buffer = [0; 16];
    assert_eq!(ring.consumer.read(&mut buffer), Err(PopError::TooLong { len: 40, buffer: 16 }));
    assert_eq!(ring.consumer.read(&mut buffer).unwrap().kind, 2);
    let stats = RingStats::read(ring.tail_part.read_only(), ring.head_part.read_only()).unwrap();
    assert_eq!((stats.skipped, stats.depth), (1, 0));
}

#[test]
fn kinds_that_a_reader_does_not_know_are_skipped_by_their_length() {
    let ring = ring(512, 0);
    let pong = Pong { sent_tsc: 1, answered_tsc: 2 };
    ring.producer.write(0xFFFF, 0, &[9; 33]).unwrap();
    ring.producer.send(&pong).unwrap();
    let mut buffer = [0; 64];
    let mut known = Vec::new();
    ring.consumer
        .drain(9, &mut buffer, |header, payload| {
            if header.kind == Pong::KIND {
                known.push(Pong::parse(payload).unwrap());
            }
        })
        .unwrap();
    assert_eq!(known, [pong]);
}

#[test]
fn what_was_published_before_the_end_is_read_and_then_the_ring_is_closed() {
    let ring = ring(256, 0);
    ring.producer.stage(1, 0, b"last").unwrap();
    ring.producer.close();
    assert!(matches!(ring.producer.write(2, 0, b""), Err(PushError::Closed(Closed::Here))));
    let mut buffer = [0; 8];
    assert_eq!(ring.consumer.read(&mut buffer).unwrap().kind, 1);
    assert_eq!(ring.consumer.read(&mut buffer), Err(PopError::Closed(Closed::ByPeer)));
    assert_eq!(ring.consumer.drain(1, &mut buffer, |_, _| {}), Err(Closed::ByPeer));
}

#[test]
fn a_record_that_claims_more_than_was_published_closes_the_ring() {
    for len in [9, 16, 255, 4096, u16::MAX] {
        let ring = ring(256, 0);
        ring.producer.write(1, 0, &[0; 8]).unwrap();
        let lie = RecordHeader { kind: 1, len, tag: 0 };
        ring.tail_part.word64(SLOTS_OFFSET).unwrap().store(lie.to_word());
        let mut buffer = vec![0; 1 << 16];
        let closed = Closed::Record { words: lie.words(), ready: 2 };
        assert_eq!(ring.consumer.read(&mut buffer), Err(PopError::Closed(closed)));
        ring.producer.write(1, 0, b"too late").unwrap();
        assert_eq!(ring.consumer.read(&mut buffer), Err(PopError::Closed(closed)));
        assert!(buffer.iter().all(|&byte| byte == 0));
    }
}

#[test]
fn random_words_in_the_ring_end_in_records_or_in_a_closed_ring() {
    let mut random = seeded(0x7E57);
    let mut closed = 0;
    for _ in 0..rounds(20_000) {
        let spec = RingSpec::variable(128).unwrap();
        let (tail_part, head_part) = parts(spec);
        let (_, consumer) = record_pair(tail_part, head_part, spec).unwrap();
        for word in 0..16 {
            // Small lengths, so that some of them are possible.
            let word_at = tail_part.word64(SLOTS_OFFSET + word * 8).unwrap();
            word_at.store(random.next() & 0xFFFF_FFFF_003F_FFFF);
        }
        let tail = u32::try_from(random.below(20)).unwrap();
        tail_part.word32(END_OFFSET).unwrap().store(tail);
        let mut buffer = [0; 32];
        let mut words = 0;
        for _ in 0..40 {
            match consumer.read(&mut buffer) {
                Ok(header) => words += header.words(),
                Err(PopError::TooLong { len, .. }) => {
                    words += 1 + u32::try_from(len.div_ceil(8)).unwrap()
                }
                Err(PopError::Empty) => break,
                Err(PopError::Closed(_)) => {
                    closed += 1;
                    break;
                }
            }
        }
        assert!(words <= 16 && words <= tail);
    }
    assert!(closed > 0);
}

#[test]
fn two_threads_pass_records_of_all_lengths() {
    const COUNT: u32 = if cfg!(miri) { 100 } else { 300_000 };
    let ring = ring(1024, u32::MAX - 99);
    let (producer, consumer) = (ring.producer, ring.consumer);
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 256];
        let mut next = 0u32;
        while next < COUNT {
            let taken = consumer.drain(16, &mut buffer, |header, payload| {
                assert_eq!(header.tag, next);
                assert_eq!(payload.len(), (next % 200) as usize);
                assert!(payload.iter().all(|&byte| u32::from(byte) == next % 251));
                next += 1;
            });
            if taken == Ok(0) {
                std::thread::yield_now();
            }
        }
    });
    let mut payload = [0; 200];
    for tag in 0..COUNT {
        payload.fill(u8::try_from(tag % 251).unwrap());
        let len = (tag % 200) as usize;
        while producer.stage(3, tag, &payload[..len]) == Err(PushError::Full) {
            producer.publish();
            std::thread::yield_now();
        }
        if tag % 3 == 0 {
            producer.publish();
        }
    }
    producer.publish();
    reader.join().unwrap();
}
