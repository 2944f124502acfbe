//! The rules of a register that several use at once, one by one.

use super::*;

const LEN: usize = 512;

fn bytes(first: u32, versions: &[u64]) -> Vec<u8> {
    let mut bytes = vec![0; versions.len() * LEN];
    for ((block, lba), version) in bytes.chunks_mut(LEN).zip(u64::from(first)..).zip(versions) {
        if *version != 0 {
            content::stamp(block, lba, *version);
        }
    }
    bytes
}

fn write(oracle: &mut Oracle, at: (u32, u32), version: u64, end: End) {
    let token = oracle.write_begin(at, version, false, true);
    oracle.write_end(token, end);
}

fn read(oracle: &mut Oracle, first: u32, versions: &[u64]) -> Result<(), String> {
    let count = u32::try_from(versions.len()).unwrap();
    let token = oracle.read_begin(first, count);
    let checked = oracle.check(token, &bytes(first, versions), true);
    oracle.read_end(token);
    checked
}

fn flush(oracle: &mut Oracle, good: bool) {
    let token = oracle.flush_begin();
    oracle.flush_end(token, good);
}

#[test]
fn an_acknowledged_write_is_what_is_read() {
    let mut oracle = Oracle::new(8, 1, 1);
    read(&mut oracle, 0, &[0, 0]).unwrap();
    write(&mut oracle, (0, 1), 1, End::Acked);
    read(&mut oracle, 0, &[1, 0]).unwrap();
    read(&mut oracle, 0, &[0]).expect_err("a lost write");
    read(&mut oracle, 0, &[9]).expect_err("never written");
    read(&mut oracle, 1, &[1]).expect_err("not written there");
}

#[test]
fn an_unknown_write_is_there_or_not_and_does_not_change_its_mind() {
    let mut oracle = Oracle::new(8, 1, 1);
    write(&mut oracle, (0, 2), 1, End::Unknown);
    read(&mut oracle, 0, &[1]).unwrap();
    read(&mut oracle, 1, &[0]).unwrap();
    read(&mut oracle, 0, &[0]).expect_err("it was there");
    read(&mut oracle, 1, &[1]).expect_err("it was not there");
}

#[test]
fn a_write_in_flight_may_be_seen_and_may_be_overwritten_by_one_beside_it() {
    let mut oracle = Oracle::new(8, 1, 1);
    let slow = oracle.write_begin((0, 1), 1, false, true);
    read(&mut oracle, 0, &[0]).unwrap();
    read(&mut oracle, 0, &[1]).unwrap();
    read(&mut oracle, 0, &[0]).expect_err("seen is seen");
    write(&mut oracle, (0, 1), 2, End::Acked);
    oracle.write_end(slow, End::Acked);
    read(&mut oracle, 0, &[1]).unwrap();
    read(&mut oracle, 0, &[2]).expect_err("the other one was last");
}

#[test]
fn a_slow_read_may_see_what_was_there_when_it_began() {
    let mut oracle = Oracle::new(8, 1, 1);
    let slow = oracle.read_begin(0, 1);
    write(&mut oracle, (0, 1), 1, End::Acked);
    oracle.check(slow, &bytes(0, &[0]), true).unwrap();
    oracle.read_end(slow);
    read(&mut oracle, 0, &[0]).expect_err("a new one may not");
}

#[test]
fn a_power_cut_leaves_what_was_flushed_or_anything_later() {
    for (after, legal) in [(1, true), (2, true), (3, true), (0, false)] {
        let mut oracle = Oracle::new(8, 1, 1);
        write(&mut oracle, (0, 1), 1, End::Acked);
        flush(&mut oracle, true);
        write(&mut oracle, (0, 1), 2, End::Acked);
        write(&mut oracle, (0, 1), 3, End::Unknown);
        oracle.fence();
        oracle.power_cut();
        assert_eq!(read(&mut oracle, 0, &[after]).is_ok(), legal, "version {after}");
    }
}

#[test]
fn a_flush_that_failed_leaves_doubt_until_the_blocks_are_written_again() {
    let mut oracle = Oracle::new(8, 1, 1);
    write(&mut oracle, (0, 2), 1, End::Acked);
    flush(&mut oracle, false);
    write(&mut oracle, (1, 1), 2, End::Acked);
    flush(&mut oracle, true);
    oracle.fence();
    oracle.power_cut();
    read(&mut oracle, 1, &[1]).expect_err("written again and flushed");
    read(&mut oracle, 0, &[0]).expect("the second flush says nothing of it");
}

#[test]
fn a_write_through_the_cache_is_durable_by_itself() {
    let mut oracle = Oracle::new(8, 1, 1);
    write(&mut oracle, (0, 1), 1, End::Durable);
    write(&mut oracle, (1, 1), 2, End::Acked);
    oracle.fence();
    oracle.power_cut();
    read(&mut oracle, 1, &[0]).unwrap();
    read(&mut oracle, 0, &[0]).expect_err("it was written through");
}

#[test]
fn an_atomic_write_is_seen_whole() {
    let mut oracle = Oracle::new(8, 2, 1);
    write(&mut oracle, (0, 2), 1, End::Unknown);
    read(&mut oracle, 0, &[1, 0]).expect_err("torn");
    let mut oracle = Oracle::new(8, 2, 1);
    write(&mut oracle, (0, 3), 1, End::Unknown);
    read(&mut oracle, 0, &[1, 0, 1]).expect("beyond the unit");
    let mut oracle = Oracle::new(8, 2, 1);
    write(&mut oracle, (0, 2), 1, End::Acked);
    oracle.fence();
    oracle.power_cut();
    read(&mut oracle, 0, &[1, 0]).expect("the unit of a power cut is smaller");
}

#[test]
fn zeros_may_be_those_of_any_write_of_zeros() {
    let mut oracle = Oracle::new(8, 2, 1);
    let zero = |oracle: &mut Oracle, version| oracle.write_begin((0, 1), version, true, true);
    let first = zero(&mut oracle, 1);
    oracle.write_end(first, End::Acked);
    let _in_flight = oracle.write_begin((0, 2), 2, false, true);
    read(&mut oracle, 0, &[0, 2]).expect_err("torn: no zeros are newer");
    let mut again = Oracle::new(8, 2, 1);
    let _in_flight = again.write_begin((0, 2), 2, false, true);
    let late = zero(&mut again, 3);
    read(&mut again, 0, &[0, 2]).expect("the zeros of the one in flight");
    again.write_end(late, End::Acked);
    read(&mut again, 0, &[0, 2]).expect("and still so once it has ended");
}

#[test]
fn damage_excuses_until_a_write_after_it() {
    let mut oracle = Oracle::new(8, 1, 1);
    write(&mut oracle, (0, 1), 1, End::Acked);
    oracle.damage(0, 1);
    read(&mut oracle, 0, &[0]).unwrap();
    assert_eq!(oracle.seen.caught, 1);
    write(&mut oracle, (0, 1), 2, End::Acked);
    read(&mut oracle, 0, &[1]).expect_err("mended");
}

#[test]
fn a_write_that_a_fault_kept_from_some_blocks_is_not_torn() {
    let half_written = |damaged: bool| {
        let mut oracle = Oracle::new(8, 2, 1);
        write(&mut oracle, (0, 2), 1, End::Acked);
        // A read that began before what it shows was overwritten.
        let slow = oracle.read_begin(0, 2);
        let half = oracle.write_begin((0, 2), 2, false, true);
        if damaged {
            oracle.damage(0, 2);
        }
        oracle.write_end(half, End::Acked);
        oracle.check(slow, &bytes(0, &[2, 1]), true)
    };
    half_written(true).expect("half of the data was lost");
    half_written(false).expect_err("torn");
}

#[test]
fn what_was_begun_before_a_fence_is_told_to_nobody_after_it() {
    let mut oracle = Oracle::new(8, 1, 1);
    let old = oracle.write_begin((0, 1), 1, false, true);
    oracle.fence();
    write(&mut oracle, (0, 1), 2, End::Acked);
    oracle.write_end(old, End::Acked);
    read(&mut oracle, 0, &[1]).expect_err("the old owner is gone");
}

/// Two that were told the same know more or less by what a read showed, or a fault spoilt.
#[test]
fn the_digest_is_of_what_is_known_and_not_only_of_what_was_told() {
    let digest = |seen: u64, spoilt: bool| {
        let mut oracle = Oracle::new(8, 1, 1);
        write(&mut oracle, (0, 1), 1, End::Unknown);
        let slow = oracle.read_begin(0, 1);
        oracle.excuse_reads(if spoilt { 0 } else { 4 }, 1);
        oracle.check(slow, &bytes(0, &[seen]), true).unwrap();
        oracle.read_end(slow);
        oracle.digest
    };
    assert_eq!(digest(1, false), digest(1, false));
    assert_ne!(digest(1, false), digest(0, false));
    assert_ne!(digest(1, false), digest(1, true));
    let damaged = |count| {
        let mut oracle = Oracle::new(8, 1, 1);
        oracle.damage(2, count);
        oracle.digest
    };
    assert_ne!(damaged(1), damaged(2));
}
