//! Mailboxes, and records of crashes that lie in a file.

use std::sync::atomic::{AtomicBool, Ordering};

use core_runtime::clock::Clock;
use core_runtime::mailbox::{MailboxClient, MailboxError, MailboxLayout, MailboxServer, RegOp};
use hybrid_abi::crash;
use hybrid_conventions::testing;

use crate::memory::{Random, guarded};

/// A clock whose frequency does not matter: only that waits end.
fn clock() -> Clock {
    Clock::tsc(1_000_000_000)
}

#[test]
fn a_register_server_stands_whatever_its_client_posts() {
    let mut random = Random::new(testing::seed(56));
    let span = guarded(MailboxLayout::BYTES);
    let mut server = MailboxServer::new(span).expect("it fits");
    let mut served = 0_u64;
    let cases = testing::ops(200_000, 10_000_000);
    for case in 0..cases {
        for word in 0..3 {
            let value = random.wild();
            span.word64(8 * word).expect("inside").store(value);
        }
        // Often enough a request that could be one.
        if case % 2 == 0 {
            span.word64(0).expect("inside").store(2 * case + 1);
            let access = random.wild() & 0xffff_ffff | 4 << 32 | (1 + random.next() % 2) << 40;
            span.word64(8).expect("inside").store(access);
        }
        let _ = server.serve_or_refuse(|access| {
            assert!(matches!(access.size, 4 | 8));
            assert!(access.offset.is_multiple_of(access.size.into()), "{access:?}");
            if let (4, RegOp::Write(value)) = (access.size, access.op) {
                assert!(value <= u64::from(u32::MAX));
            }
            served += 1;
            (access.offset % 3 != 0).then_some(value_of(access.offset))
        });
    }
    assert!(served > cases / 20, "{served} of {cases}");
}

fn value_of(offset: u32) -> u64 {
    u64::from(offset) << 1
}

#[test]
fn a_register_client_stands_whatever_its_server_answers() {
    let seed = testing::seed(57);
    let span = guarded(MailboxLayout::BYTES);
    let ended = AtomicBool::new(false);
    let (mut answered, mut refused, mut late, mut gone) = (0_u64, 0_u64, 0_u64, 0_u64);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(seed);
            let word = |at: usize| span.word64(at).expect("inside");
            while !ended.load(Ordering::Relaxed) {
                // Value, status, state, and an answer that is the ticket, near it, or anything.
                word(128 + 8).store(random.wild());
                word(128 + 16).store(random.next() % 3);
                // Mostly one and the same generation of it.
                let generation = if random.below(256) == 0 { random.wild() } else { 2 };
                word(128 + 24).store(generation);
                let ticket = word(0).load();
                let answer = match random.below(4) {
                    0 => random.wild(),
                    1 => ticket.wrapping_sub(2),
                    _ => ticket,
                };
                word(128).store_release(answer);
            }
        });
        for case in 0..testing::ops(50_000, 2_000_000) {
            // One that was told that its server is gone is made again, as a partition would be.
            let client = MailboxClient::new(span, clock(), 20_000).expect("it fits");
            for _ in 0..2 {
                let result = if case % 2 == 0 {
                    client.read32(0x1c)
                } else {
                    client.write32(0x14, 1).map(|()| 0)
                };
                match result {
                    Ok(_) => answered += 1,
                    Err(MailboxError::Refused { .. }) => refused += 1,
                    Err(MailboxError::TimedOut { .. }) => late += 1,
                    Err(MailboxError::Gone) => gone += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        ended.store(true, Ordering::Relaxed);
    });
    assert!(answered > 0 && refused > 0, "{answered} {refused} {late} {gone}");
}

#[test]
fn crash_files_of_any_bytes_are_read_to_their_end_or_refused() {
    let mut random = Random::new(testing::seed(58));
    let mut bytes = vec![0_u8; 2048];
    let mut sections = 0_u64;
    for case in 0..testing::ops(50_000, 2_000_000) {
        for word in bytes.chunks_exact_mut(8) {
            word.copy_from_slice(&random.wild().to_le_bytes());
        }
        let mut header = crash::CrashHeader {
            magic: crash::CRASH_MAGIC,
            version: 1,
            state: crash::CRASH_COMPLETE,
            sequence: case,
            committed: u32::try_from(random.below(4096)).expect("small"),
            reason: 1,
            ..zerocopy::FromZeros::new_zeroed()
        };
        header.crc32c = header.checksum();
        let head = zerocopy::IntoBytes::as_bytes(&header);
        bytes[..head.len()].copy_from_slice(head);
        if let Ok(header) = crash::CrashHeader::parse_record(&bytes) {
            let walked = header.sections(&bytes).count() as u64;
            assert!(walked <= 2048 / 8);
            sections += walked;
        }
        let _ = (crash::newest(&bytes), crash::file::FileHeader::parse(&bytes));
    }
    let _ = sections;
}

#[test]
fn handoffs_of_any_bytes_are_refused_or_stay_inside() {
    use hybrid_abi::Name;
    use hybrid_abi::handoff::{Handoff, HandoffFile};
    let mut random = Random::new(testing::seed(59));
    let mut head = Handoff::blank();
    (head.files, head.args_bytes) = (3, 20);
    (head.name, head.entry) = (Name::lossy("books"), Name::lossy("run"));
    let mut good = zerocopy::IntoBytes::as_bytes(&head).to_vec();
    good.resize(good.len() + 3 * size_of::<HandoffFile>() + 20, 7);
    let (mut sound, mut refused) = (0_u64, 0_u64);
    let cases = testing::ops(100_000, 5_000_000);
    for _ in 0..cases {
        let mut bytes = good.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len() - 8);
            // Lengths and counts in one of two.
            let at = if random.below(2) == 0 { at } else { 288 + 4 * random.below(4) };
            bytes[at..at + 4].copy_from_slice(&random.wild().to_le_bytes()[..4]);
        }
        bytes.truncate(bytes.len() - random.below(2) * random.below(bytes.len()));
        match Handoff::parse(&bytes) {
            Ok(head) => {
                sound += 1;
                assert_eq!(head.files(&bytes).count(), head.files as usize);
                assert_eq!(head.args(&bytes).len(), head.args_bytes as usize);
                let _ = (head.name.as_str(), head.entry.as_str());
            }
            Err(_) => refused += 1,
        }
    }
    assert!(sound > cases / 100 && refused > cases / 100, "{sound} {refused}");
}
