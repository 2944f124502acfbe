//! Bad input: each has its name, with the position, and nothing is overwritten.

use journal::{
    AppendError, Cursor, Engine, FormatOptions, From, JournalError, Limits, Priority, Promise,
    ReadError, Seek, SnapshotInfo, format, load_snapshot, recover, save_snapshot, take_over,
};

use crate::disk::{Disk, now};
use crate::world::{SNAPSHOT_BYTES, options};

fn disk() -> Disk {
    let bytes = options().geometry(512, 1 << 20).expect("sizes").total_bytes();
    Disk::new(bytes, Promise::default())
}

fn journal() -> Disk {
    let mut disk = disk();
    now(format(&mut disk, &options())).expect("a journal");
    disk
}

pub(crate) fn engine(disk: &mut Disk, limits: Limits) -> (Engine, Vec<Option<Vec<u8>>>) {
    let found = now(recover(disk, From::Checkpoint)).expect("a journal");
    let superblock = now(take_over(disk, &found)).expect("an epoch");
    let bufs = (0..limits.slots).map(|_| Some(vec![0; 2048])).collect();
    (Engine::new(superblock, limits, disk.promise).expect("an engine"), bufs)
}

/// Does all that is to be done, at once.
pub(crate) fn settle(engine: &mut Engine, bufs: &mut [Option<Vec<u8>>], disk: &mut Disk) {
    use journal::Action;
    while let Some(action) = engine.next(bufs) {
        match action {
            Action::Write { slot, lba, bytes, .. } => {
                let buf = bufs[slot].as_ref().expect("a buffer");
                let id = disk.submit(lba, &buf[..bytes]);
                disk.complete(id);
                engine.written(slot, Ok(()));
            }
            Action::WriteMeta { lba, bytes } => {
                let mut buf = vec![0; bytes];
                engine.encode_meta(&mut buf);
                let id = disk.submit(lba, &buf);
                disk.complete(id);
                engine.meta_written(Ok(()));
            }
            Action::Flush => {
                let ids = disk.flushable();
                disk.flushed(&ids);
                engine.flushed(Ok(()));
            }
        }
    }
}

#[test]
fn a_device_without_a_journal_or_with_something_else_is_named() {
    let mut empty = disk();
    assert_eq!(now(recover(&mut empty, From::Checkpoint)), Err(JournalError::Empty));
    let mut foreign = disk();
    foreign.seen[..8].copy_from_slice(b"LABELONE");
    let found = u64::from_le_bytes(*b"LABELONE");
    assert_eq!(
        now(recover(&mut foreign, From::Checkpoint)),
        Err(JournalError::Foreign { byte: 0, found })
    );
    assert_eq!(
        now(format(&mut foreign, &options())),
        Err(JournalError::Foreign { byte: 0, found })
    );
    assert_eq!(&foreign.seen[..8], b"LABELONE", "nothing was written");
    now(format(&mut foreign, &FormatOptions { overwrite: true, ..options() })).expect("asked for");
    let mut twice = journal();
    let again = now(format(&mut twice, &options()));
    assert!(matches!(again, Err(JournalError::Foreign { .. })), "a journal is not overwritten");
}

#[test]
fn a_device_that_is_too_small_is_refused_with_both_sizes() {
    let mut small = Disk::new(300 * 512, Promise::default());
    let error = now(format(&mut small, &options())).expect_err("too small");
    let JournalError::TooSmall { needed, found } = error else { panic!("{error}") };
    assert!(needed > found && found == 300 * 512);
    let mut tiny = Disk::new(512, Promise::default());
    let error = now(recover(&mut tiny, From::Checkpoint)).expect_err("no second slot");
    assert!(matches!(error, JournalError::TooSmall { .. }), "{error}");
    let mut shrunk = journal();
    shrunk.seen.truncate(200 * 1024);
    let error = now(recover(&mut shrunk, From::Checkpoint)).expect_err("shrunk");
    assert!(matches!(error, JournalError::TooSmall { .. }), "{error}");
}

#[test]
fn superblocks_that_are_damaged_or_of_two_journals_are_refused() {
    let mut both = journal();
    both.seen[40] ^= 1;
    both.seen[65_536 + 40] ^= 1;
    let error = now(recover(&mut both, From::Checkpoint)).expect_err("damaged");
    assert!(matches!(error, JournalError::Superblocks { .. }), "{error}");
    assert!(error.to_string().contains("slot 1"), "{error}");
    let (mut one, mut other) = (journal(), disk());
    now(format(&mut other, &FormatOptions { id: 9, ..options() })).expect("another");
    one.seen[..512].copy_from_slice(&other.seen[..512]);
    let error = now(recover(&mut one, From::Checkpoint)).expect_err("two journals");
    assert!(matches!(error, JournalError::Mixed { first: 9, .. }), "{error}");
}

#[test]
fn a_record_that_is_too_large_and_a_log_that_is_full_are_refused_and_can_be_helped() {
    let mut disk = journal();
    let limits = Limits { slots: 4, in_flight: 2, ..Limits::default() };
    let (mut engine, mut bufs) = engine(&mut disk, limits);
    let most = match engine.append(&mut bufs, Priority::High, (0, 0), &[0; 4096]) {
        Err(AppendError::TooLarge { sequence: 0, length: 4096, most }) => most,
        other => panic!("{other:?}"),
    };
    let mut count = 0;
    let payload = vec![0xAB; most];
    let full = loop {
        match engine.append(&mut bufs, Priority::High, (0, count), &payload) {
            Ok(sequence) => count = sequence + 1,
            Err(error @ AppendError::Full { .. }) => break error,
            Err(error) => panic!("{error}"),
        }
        settle(&mut engine, &mut bufs, &mut disk);
    };
    let position = 12 * engine.geometry().segment_bytes;
    assert_eq!(full, AppendError::Full { position, segments: 12, front: 0 });
    assert!(full.to_string().contains("truncate"), "{full}");
    assert_eq!(engine.acknowledged().sequence, count, "all that was taken is acknowledged");
    // Three segments are given up, from the record that begins the fourth.
    let per_segment = count / 12;
    engine.truncate(3 * engine.geometry().segment_bytes, 3 * per_segment);
    settle(&mut engine, &mut bufs, &mut disk);
    assert_eq!(engine.superblock().front_sequence, 3 * per_segment);
    engine.append(&mut bufs, Priority::High, (0, 0), &payload).expect("room again");
    settle(&mut engine, &mut bufs, &mut disk);
    let found = now(recover(&mut disk, From::Front)).expect("whole");
    assert_eq!(found.tail.sequence, count + 1);
    let early = now(Cursor::open(&mut disk, &found, Seek::Sequence(0)));
    let range = ReadError::OutOfRange { sequence: 0, front: 3 * per_segment, end: count + 1 };
    assert_eq!(early.map(|_| ()), Err(range));
}

#[test]
fn low_priority_is_shed_first_and_every_rejection_is_counted() {
    let mut disk = journal();
    let limits = Limits { pending_records: 10, slots: 4, in_flight: 2, ..Limits::default() };
    let (mut engine, mut bufs) = engine(&mut disk, limits);
    for _ in 0..5 {
        engine.append(&mut bufs, Priority::Low, (0, 0), b"x").expect("below the half");
    }
    let low = engine.append(&mut bufs, Priority::Low, (0, 0), b"x");
    assert_eq!(low, Err(AppendError::Shed { priority: Priority::Low, pending: 5, bound: 5 }));
    for _ in 5..9 {
        engine.append(&mut bufs, Priority::Normal, (0, 0), b"x").expect("below nine tenths");
    }
    assert!(engine.append(&mut bufs, Priority::Normal, (0, 0), b"x").is_err());
    engine.append(&mut bufs, Priority::High, (0, 0), b"x").expect("the last place");
    assert!(engine.append(&mut bufs, Priority::High, (0, 0), b"x").is_err());
    assert_eq!(engine.stats().shed, [1, 1, 1]);
    assert_eq!((engine.stats().appends, engine.stats().pending_max), (10, 10));
    settle(&mut engine, &mut bufs, &mut disk);
    assert_eq!(engine.pending(), 0);
    engine.append(&mut bufs, Priority::Low, (0, 0), b"x").expect("room again");
}

#[test]
fn a_clock_that_jumps_back_is_kept_and_seeking_finds_the_first_that_is_late_enough() {
    let mut disk = journal();
    let (mut engine, mut bufs) =
        engine(&mut disk, Limits { slots: 4, in_flight: 1, ..Limits::default() });
    for time in [10, 20, 30, 5, 6, 40, 7, 50] {
        engine.append(&mut bufs, Priority::High, (0, time), &time.to_le_bytes()).expect("room");
        settle(&mut engine, &mut bufs, &mut disk);
    }
    let found = now(recover(&mut disk, From::Front)).expect("whole");
    let first = |disk: &mut Disk, time| {
        let mut cursor = now(Cursor::open(disk, &found, Seek::Time(time))).expect("a cursor");
        let mut seen = Vec::new();
        while now(cursor.advance(disk, |r| seen.push(r.header.time_ns))).expect("whole") {}
        seen
    };
    assert_eq!(first(&mut disk, 0).len(), 8);
    assert_eq!(first(&mut disk, 25), [30, 5, 6, 40, 7, 50], "all that came after");
    assert_eq!(first(&mut disk, 31), [40, 7, 50]);
    assert_eq!(first(&mut disk, 51), [] as [u64; 0]);
}

#[test]
fn a_failed_write_ends_the_log_and_the_rest_is_unknown() {
    let mut disk = journal();
    let (mut engine, mut bufs) =
        engine(&mut disk, Limits { slots: 4, in_flight: 2, ..Limits::default() });
    engine.append(&mut bufs, Priority::High, (0, 0), b"one").expect("room");
    settle(&mut engine, &mut bufs, &mut disk);
    engine.append(&mut bufs, Priority::High, (0, 0), b"two").expect("room");
    let Some(journal::Action::Write { slot, .. }) = engine.next(&mut bufs) else { panic!() };
    engine.written(slot, Err(nvme_driver::IoError::TimedOut));
    assert!(matches!(engine.ended(), Some(journal::Ended::Write { .. })));
    assert_eq!(engine.next(&mut bufs), None, "nothing is tried again");
    let refused = engine.append(&mut bufs, Priority::High, (0, 0), b"three");
    assert!(matches!(refused, Err(AppendError::Ended(_))), "{refused:?}");
    assert_eq!((engine.acknowledged().sequence, engine.pending()), (1, 1));
    assert_eq!(now(recover(&mut disk, From::Front)).expect("whole").tail.sequence, 1);
}

#[test]
fn the_last_whole_snapshot_is_found_whatever_the_other_one_is() {
    let mut disk = journal();
    let found = now(recover(&mut disk, From::Checkpoint)).expect("a journal");
    let info =
        |length, sequence| SnapshotInfo { sequence, length, kind: 3, time_ns: 8, generation: 0 };
    let room = SNAPSHOT_BYTES - 4096;
    let error = now(save_snapshot(&mut disk, &found, 0, info(room + 1, 0), |_, _| {}));
    assert_eq!(error, Err(JournalError::SnapshotSize { length: room + 1, room }));
    let error = now(save_snapshot(&mut disk, &found, 5, info(1, 6), |_, _| {}));
    assert!(matches!(error, Err(JournalError::SnapshotAhead { .. })));
    assert_eq!(now(load_snapshot(&mut disk, &found, |_, _, _| {})), Ok(None));
    for value in 1..=3_u8 {
        now(save_snapshot(&mut disk, &found, 0, info(1000, 0), |_, room| room.fill(value)))
            .expect("a snapshot");
    }
    let load = |disk: &mut Disk| {
        let mut state = Vec::new();
        let found = now(load_snapshot(disk, &found, |_, offset, bytes| {
            state.truncate(usize::try_from(offset).expect("small"));
            state.extend_from_slice(bytes);
        }));
        (found.expect("readable"), state)
    };
    let (newest, state) = load(&mut disk);
    assert_eq!(newest.map(|info| info.generation), Some(3));
    assert_eq!(state, [3; 1000]);
    // Slot 1 has generations 1 and 3; its state decays, and the one before counts.
    disk.seen[131_072 + 8192 + 4096 + 77] ^= 4;
    let (older, state) = load(&mut disk);
    assert_eq!(older.map(|info| info.generation), Some(2));
    assert_eq!(state, [2; 1000]);
    disk.seen[131_072 + 9] ^= 4;
    assert_eq!(load(&mut disk).0, None);
}
