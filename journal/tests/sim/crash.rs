//! Power failures.

use hybrid_conventions::testing;
use journal::{From, Promise, Seek, take_over};

use crate::disk::{Disk, LBA, now};
use crate::world::{World, examine, read_all};

/// Crash points in all: those of a run of the tests, and those of a soak.
const ORDINARY: u64 = 40_000;
const SOAK: u64 = 1_000_000;

/// Crash points of one kind of device that were examined, and what was seen among them.
#[derive(Default, Debug)]
struct Seen {
    points: u64,
    /// Crashes that lost records that were appended but not acknowledged.
    lost_unacknowledged: u64,
    /// Crashes that left batches behind a hole.
    dropped_batches: u64,
    /// Crashes after which more was there than was acknowledged.
    more_than_acknowledged: u64,
    laps: u64,
    openings: u64,
    /// Openings with a superblock that had decayed.
    decayed: u64,
    /// Openings that lost power before they were done.
    half_opened: u64,
    /// Batches that an opening cut off and that were written again as they were.
    again: u64,
}

/// Byte of the device at which a superblock lies.
const fn slot_byte(slot: usize) -> usize {
    slot * 65_536
}

/// Examines the crash that keeps of each loose write the blocks that `keep` says, after which the
/// superblock in the slot `decayed` is damaged.
fn point(
    world: &World,
    image: &mut Vec<u8>,
    seen: &mut Seen,
    decayed: Option<usize>,
    keep: impl Fn(usize, usize) -> bool,
) {
    let disk = &world.disk;
    let mut undo = Vec::new();
    for (index, loose) in disk.loose.iter().enumerate() {
        for (block, bytes) in loose.bytes.chunks(LBA).enumerate() {
            if keep(index, block) {
                let at = loose.at + block * LBA;
                undo.push((at, image[at..at + LBA].to_vec()));
                image[at..at + LBA].copy_from_slice(bytes);
            }
        }
    }
    if let Some(slot) = decayed {
        image[slot_byte(slot) + 77] ^= 0x10;
    }
    let acked = world.engine.acknowledged().sequence;
    let history = &world.history;
    let found = examine(image, world, acked, From::Checkpoint)
        .unwrap_or_else(|error| panic!("a legal state is called damaged: {error}"));
    assert_eq!(found.superblock.epoch, world.engine.superblock().epoch, "both slots have it");
    assert_eq!(found.damaged_slot.map(usize::from), decayed);
    let behind = world.headers_behind(image, found.tail.position);
    assert_eq!(found.dropped_batches, behind, "batches of this opening behind the tail");
    read_all(image, disk.promise, history, &found, Seek::Front)
        .unwrap_or_else(|error| panic!("a legal state cannot be read: {error}"));
    seen.points += 1;
    seen.lost_unacknowledged += u64::from(found.tail.sequence < history.len());
    seen.dropped_batches += u64::from(found.dropped_batches > 0);
    seen.more_than_acknowledged += u64::from(found.tail.sequence > acked);
    if let Some(slot) = decayed {
        image[slot_byte(slot) + 77] ^= 0x10;
    }
    while let Some((at, bytes)) = undo.pop() {
        image[at..at + LBA].copy_from_slice(&bytes);
    }
}

/// All crash points after one event: nothing kept, everything, each write alone and each one
/// missing, each write torn at each block, some random ones; and each superblock decayed.
fn points(world: &mut World, image: &mut Vec<u8>, seen: &mut Seen) {
    let count = world.disk.loose.len();
    point(world, image, seen, None, |_, _| false);
    for slot in 0..2 {
        let mask = world.rng.next();
        point(world, image, seen, Some(slot), |index, _| mask >> (index & 63) & 1 == 1);
    }
    if count == 0 {
        return;
    }
    point(world, image, seen, None, |_, _| true);
    for one in 0..count {
        if count > 1 {
            point(world, image, seen, None, |index, _| index == one);
            point(world, image, seen, None, |index, _| index != one);
        }
        for block in 1..world.disk.loose[one].bytes.len().div_ceil(LBA) {
            point(world, image, seen, None, |index, b| index != one || b < block);
            point(world, image, seen, None, |index, b| index != one || b >= block);
        }
    }
    for _ in 0..4 {
        let mask = world.rng.next();
        point(world, image, seen, None, |index, block| mask >> ((index * 5 + block) & 63) & 1 == 1);
    }
}

/// Runs a log through events, examining every prefix, and through crashes after which it goes on.
fn run(seed: u64, promise: Promise, budget: u64, flush_fails_one_in: u64) -> Seen {
    let chain = flush_fails_one_in != u64::MAX;
    let mut world = World::new(seed, promise, chain);
    world.flush_fails_one_in = flush_fails_one_in;
    let mut seen = Seen::default();
    let mut image = world.disk.durable.clone();
    let ring = world.engine.geometry().ring_bytes();
    while seen.points < budget {
        // Each prefix in a soak; otherwise some, so that the log goes round more often.
        for _ in 0..if testing::soak() { 1 } else { 1 + world.rng.below(12) } {
            world.event();
            if world.engine.ended().is_some() {
                break;
            }
        }
        image.copy_from_slice(&world.disk.durable);
        points(&mut world, &mut image, &mut seen);
        seen.laps = seen.laps.max(world.engine.acknowledged().position / ring);
        let disk = if world.engine.ended().is_some() {
            // Nobody lost power: the log is opened again on what the cache shows.
            let mut disk = world.disk.clone();
            disk.settle();
            disk
        } else if world.rng.one_in(100) {
            // Whole writes, or blocks of them.
            let (mask, per_block) = (world.rng.next(), world.rng.index(2));
            world
                .disk
                .crashed(|index, block| mask >> ((index * 5 + block * per_block) & 63) & 1 == 1)
        } else {
            continue;
        };
        go_on(&mut world, disk, &mut seen);
        image.copy_from_slice(&world.disk.durable);
        points(&mut world, &mut image, &mut seen);
    }
    seen
}

/// Opens the log again on `disk` and goes on. Whatever it recovers counts as acknowledged.
fn go_on(world: &mut World, mut disk: Disk, seen: &mut Seen) {
    if world.rng.one_in(3) {
        disk = half_opened(world, disk, seen);
    }
    let decayed = world.rng.one_in(3).then(|| world.rng.index(2));
    if let Some(slot) = decayed {
        disk.flip(slot_byte(slot) + world.rng.index(LBA));
        seen.decayed += 1;
    }
    let acked = world.engine.acknowledged().sequence;
    let (promise, history) = (disk.promise, &world.history);
    let from = if seen.openings.is_multiple_of(2) { From::Front } else { From::Checkpoint };
    let found = examine(&mut disk.seen, world, acked, from);
    let found = found.unwrap_or_else(|error| panic!("a legal state is called damaged: {error}"));
    assert_eq!(found.damaged_slot.map(usize::from), decayed);
    let (front, tail) = (found.superblock.front_sequence, found.tail.sequence);
    for seek in [
        Seek::Sequence(front + (tail - front) / 3),
        Seek::Sequence(tail),
        Seek::Time((front + (tail - front) / 2) * 1000 + 1),
    ] {
        read_all(&mut disk.seen, promise, history, &found, seek)
            .unwrap_or_else(|error| panic!("{seek:?}: {error}"));
    }
    seen.again += world.reopen(disk, &found);
    seen.openings += 1;
}

/// Openings of `disk` that lose power after each of their writes and flushes; returns what one of
/// them leaves.
fn half_opened(world: &mut World, mut disk: Disk, seen: &mut Seen) -> Disk {
    let acked = world.engine.acknowledged().sequence;
    let open = |disk: &mut Disk| {
        examine(&mut disk.seen, world, acked, From::Checkpoint)
            .unwrap_or_else(|error| panic!("a legal state is called damaged: {error}"))
    };
    let found = open(&mut disk);
    let mut left = Vec::new();
    for power in 0.. {
        let mut part = disk.clone();
        part.power = power;
        if now(take_over(&mut part, &found)).is_ok() {
            break;
        }
        for keep in [false, true] {
            let mut crashed = part.crashed(|_, _| keep);
            let found = open(&mut crashed);
            read_all(&mut crashed.seen, disk.promise, &world.history, &found, Seek::Front)
                .unwrap_or_else(|error| panic!("a legal state cannot be read: {error}"));
            seen.points += 1;
            left.push(crashed);
        }
    }
    seen.half_opened += 1;
    left.swap_remove(world.rng.index(left.len()))
}

fn both(name: &str, promise: Promise, share: u64, flush_fails_one_in: u64) {
    let seed = testing::seed(1);
    let budget = testing::ops(ORDINARY, SOAK) / share;
    let begun = std::time::Instant::now();
    let seen = run(seed, promise, budget, flush_fails_one_in);
    let rate = seen.points as f64 / begun.elapsed().as_secs_f64();
    println!("{name}: seed {seed}, {rate:.0} crash points a second, {seen:?}");
    assert!(seen.lost_unacknowledged > 0 && seen.more_than_acknowledged > 0, "{seen:?}");
    assert!(seen.dropped_batches > 0 && seen.laps > 2 && seen.openings > 2, "{seen:?}");
    assert!(seen.decayed > 0 && seen.half_opened > 0, "{seen:?}");
    // After a flush that fails the cache shows everything, and nothing is cut off.
    assert!(seen.again > 0 || flush_fails_one_in != u64::MAX, "{seen:?}");
}

#[test]
fn with_a_cache_what_is_acknowledged_survives_and_nothing_is_invented() {
    both("cache", Promise::default(), 2, u64::MAX);
}

#[test]
fn without_a_cache_what_is_acknowledged_survives_and_nothing_is_invented() {
    let promise = Promise { cached: false, unit_blocks: 1, ..Promise::default() };
    both("no cache", promise, 4, u64::MAX);
}

#[test]
fn flushes_that_fail_end_the_log_and_lose_nothing_that_was_acknowledged() {
    both("failing flushes", Promise::default(), 4, 20);
}
