//! Media that decay, writes that went elsewhere, writes that were lost: no power failure leaves
//! these. What is missing is either said, or is a tail that nothing on the device contradicts.

use hybrid_conventions::testing;
use journal::layout::{BatchHeader, JournalSuperblock};
use journal::{From, JournalError, Promise, ReadError, Recovered, Seek, recover};

use crate::disk::{Disk, LBA, now};
use crate::rng::Rng;
use crate::world::{Sent, World, examine, read_all};

const ORDINARY: u64 = 6_000;
const SOAK: u64 = 200_000;

/// What became of the damages.
#[derive(Default, Debug)]
struct Seen {
    /// Nothing of the log was hit.
    harmless: u64,
    /// Opening said so.
    loud_at_open: u64,
    /// Reading said so.
    loud_at_read: u64,
    /// A superblock was hit, and the other one stood in.
    stood_in: u64,
    /// The end of the log was hit, and nothing on the device knew that it had been acknowledged.
    no_proof: u64,
}

/// Damages blocks from `at` on; returns what was there.
fn damage(image: &mut [u8], old: &[u8], at: usize, len: usize, rng: &mut Rng) -> Vec<u8> {
    let kept = image[at..at + len].to_vec();
    match rng.below(5) {
        0 => image[at + rng.index(len)] ^= 1 << rng.below(8),
        1 => image[at..at + len].fill(0),
        // A write that went here instead of there.
        2 => {
            let from = rng.index((image.len() - len) / LBA) * LBA;
            image.copy_within(from..from + len, at);
        }
        // A write that never happened, though it was acknowledged.
        3 => image[at..at + len].copy_from_slice(&old[at..at + len]),
        _ => {
            for byte in &mut image[at..at + len] {
                *byte = rng.next().to_le_bytes()[3];
            }
        }
    }
    kept
}

fn overlaps(sent: &Sent, changed: &[usize]) -> bool {
    let end = sent.at + sent.header.bytes as usize;
    changed.iter().any(|at| (sent.at..end).contains(at))
}

/// A superblock was hit. One that is unreadable is stood in for; one that is readable all the same
/// (an old one, or the other one again) is not told from a good one: everything is there, or
/// somebody says what is missing.
fn judge_superblock(
    world: &World,
    image: &mut Vec<u8>,
    open: Result<Recovered, JournalError>,
    seen: &mut Seen,
) {
    let is_whole = |slot: &&usize| {
        let slot = **slot * 65_536;
        JournalSuperblock::parse(&image[slot..slot + 512], hybrid_abi::crc::crc32c).is_ok()
    };
    let both_readable = [0, 1].iter().filter(is_whole).count() == 2;
    match open {
        Ok(found) => {
            let acked = world.engine.acknowledged().sequence;
            assert!(found.tail.sequence >= acked, "{} of {acked}", found.tail.sequence);
            assert_eq!(found.damaged_slot.is_some(), !both_readable);
            match read_all(image, world.disk.promise, &world.history, &found, Seek::Front) {
                Ok(_) => seen.stood_in += 1,
                Err(error) => {
                    assert!(
                        both_readable,
                        "a superblock that is unreadable is stood in for: {error}"
                    );
                    seen.loud_at_read += 1;
                }
            }
        }
        Err(error) => {
            assert!(both_readable, "a superblock that is unreadable is stood in for: {error}");
            seen.loud_at_open += 1;
        }
    }
}

/// Compares what a damage led to with what the batches that are left can prove.
fn judge(world: &World, image: &mut Vec<u8>, changed: &[usize], seen: &mut Seen) {
    let (promise, history) = (world.disk.promise, &world.history);
    let open = examine(image, world, 0, From::Checkpoint);
    if changed.iter().any(|at| *at < 131_072) {
        judge_superblock(world, image, open, seen);
        return;
    }
    // The newest superblock on the image may be one that is not durable yet.
    let slots = [&image[..512], &image[65_536..66_048]].map(|bytes| {
        JournalSuperblock::parse(bytes, hybrid_abi::crc::crc32c).expect("it was not hit")
    });
    let newest = slots.iter().max_by_key(|superblock| superblock.generation).expect("two");
    let (checkpoint, front) = (newest.checkpoint, newest.front_position);
    let hits = world.sent.iter().filter(|sent| sent.header.position >= front);
    let hits: Vec<&Sent> = hits.filter(|sent| overlaps(sent, changed)).collect();
    if hits.iter().any(|sent| sent.header.position < checkpoint.position) {
        match open {
            Err(JournalError::Lost { .. }) => seen.loud_at_open += 1,
            Err(error) => panic!("another error: {error}"),
            Ok(found) => {
                let read = read_all(image, promise, history, &found, Seek::Front);
                assert!(matches!(read, Err(ReadError::Lost { .. })), "{read:?}");
                let whole = Disk::look(image, promise, |disk| now(recover(disk, From::Front)));
                assert!(matches!(whole, Err(JournalError::Lost { .. })), "{whole:?}");
                seen.loud_at_read += 1;
            }
        }
        return;
    }
    let Some(first) = hits.iter().min_by_key(|sent| sent.header.position) else {
        let found = open.unwrap_or_else(|error| panic!("nothing was hit, and yet: {error}"));
        assert_eq!(found.tail.sequence, history_on_disk(world), "nothing was hit");
        read_all(image, promise, history, &found, Seek::Front).expect("nothing was hit");
        seen.harmless += 1;
        return;
    };
    let missing = first.header.first_sequence;
    let proves = |sent: &Sent| {
        let header: &[u8] = &image[sent.at..sent.at + 96];
        let is_there = zerocopy::IntoBytes::as_bytes(&sent.header) == header;
        is_there
            && sent.header.position > first.header.position
            && sent.header.acknowledged > missing
    };
    let proof = world.sent.iter().any(proves);
    match open {
        Err(JournalError::Lost { at, .. }) => {
            assert_eq!(at.sequence, missing, "the first that is missing is named");
            assert_eq!(at.position, first.header.position);
            assert!(proof || promise.unit_blocks > 0, "an alarm without a reason");
            seen.loud_at_open += 1;
        }
        Err(error) => panic!("another error: {error}"),
        Ok(found) => {
            assert!(!proof, "record {missing} is known to be lost, and nobody says so");
            assert_eq!(found.tail.sequence, missing);
            seen.no_proof += 1;
        }
    }
}

/// Records of the batches that were submitted: all of them are on the disk when nothing is lost.
fn history_on_disk(world: &World) -> u64 {
    world.sent.last().map_or(0, |sent: &Sent| BatchHeader::end_sequence(&sent.header))
}

fn run(seed: u64, promise: Promise, budget: u64) -> Seen {
    let mut world = World::new(seed, promise, promise.cached);
    let mut seen = Seen::default();
    let mut old = world.disk.seen.clone();
    for round in 0..budget {
        for _ in 0..3 {
            world.event();
        }
        if world.rng.one_in(300) {
            let mask = world.rng.next();
            let mut disk = world.disk.crashed(|index, _| mask >> (index & 63) & 1 == 1);
            let acked = world.engine.acknowledged().sequence;
            let found = examine(&mut disk.seen, &world, acked, From::Front).expect("a crash");
            world.reopen(disk, &found);
        }
        let mut image = world.disk.seen.clone();
        if round % 40 == 0 {
            old.copy_from_slice(&image);
        }
        let blocks = image.len() / LBA;
        let at = match world.rng.below(8) {
            0 => 65_536 * world.rng.index(2),
            // Where the log ends, which is where it matters what is torn and what is lost.
            1..=4 if !world.sent.is_empty() => {
                let back = world.rng.index(world.sent.len().min(12));
                let sent = world.sent[world.sent.len() - 1 - back];
                sent.at + world.rng.index(sent.header.bytes as usize) / LBA * LBA
            }
            _ => (256 + world.rng.index(blocks - 256)) * LBA,
        };
        let len = LBA * (1 + if world.rng.one_in(4) { world.rng.index(24) } else { 0 });
        let len = len.min(if at < 131_072 { LBA } else { image.len() - at });
        let kept = damage(&mut image, &old, at, len, &mut world.rng);
        let changed: Vec<usize> =
            (0..len).filter(|i| image[at + i] != kept[*i]).map(|i| at + i).collect();
        if !changed.is_empty() {
            judge(&world, &mut image, &changed, &mut seen);
        }
    }
    seen
}

#[test]
fn what_decays_is_said_and_never_made_up() {
    let seed = testing::seed(2);
    let budget = testing::ops(ORDINARY, SOAK) / 2;
    for promise in
        [Promise::default(), Promise { cached: false, unit_blocks: 1, ..Promise::default() }]
    {
        let seen = run(seed, promise, budget);
        println!("cache {}: seed {seed}, {seen:?}", promise.cached);
        assert!(seen.loud_at_open > 50 && seen.loud_at_read > 50, "{seen:?}");
        assert!(seen.harmless > 50 && seen.stood_in > 20 && seen.no_proof > 0, "{seen:?}");
    }
}
