//! What checksums do not find, and the chain does.

use journal::layout::BatchFault;
use journal::{
    Cursor, FormatOptions, From, JournalError, Limits, Priority, Promise, ReadError, Recovered,
    Seek, format, recover,
};

use crate::disk::{Disk, now};
use crate::sizes::{engine, settle};
use crate::world::options;

/// The polynomial of CRC32C with all its terms, in the order of bits in which bytes are summed:
/// what it is added to keeps its checksum.
const SAME_SUM: u64 = 1 | 0x82F6_3B78 << 1;

const RECORDS: u8 = 36;
const CHECKPOINT: u8 = 20;

/// A log of so many records, each a batch of its own, with a checkpoint in the middle.
fn log(chain: bool, salt: u8) -> Disk {
    let options = FormatOptions { chain, ..options() };
    let bytes = options.geometry(512, 1 << 20).expect("sizes").total_bytes();
    let mut disk = Disk::new(bytes, Promise::default());
    now(format(&mut disk, &options)).expect("a journal");
    let limits =
        Limits { slots: 4, in_flight: 1, checkpoint_records: 1 << 40, ..Limits::default() };
    let (mut engine, mut bufs) = engine(&mut disk, limits);
    for number in 0..RECORDS {
        let payload = [number ^ salt; 64];
        engine.append(&mut bufs, Priority::High, (1, 0), &payload).expect("room");
        if number == CHECKPOINT {
            engine.ask_checkpoint();
        }
        settle(&mut engine, &mut bufs, &mut disk);
    }
    disk
}

/// Another payload in the place of a record's, with the same checksum.
fn forge(disk: &mut Disk, number: u8) {
    let at = disk.seen.windows(64).position(|bytes| bytes == [number; 64]).expect("the record");
    for (byte, with) in disk.seen[at..].iter_mut().zip(SAME_SUM.to_le_bytes()) {
        *byte ^= with;
    }
}

fn read(disk: &mut Disk, found: &Recovered) -> Result<u64, ReadError> {
    let mut cursor = now(Cursor::open(disk, found, Seek::Front))?;
    let mut count = 0;
    while now(cursor.advance(disk, |_| count += 1))? {}
    Ok(count)
}

#[test]
fn a_forgery_that_keeps_every_checksum_is_found_by_the_chain_alone() {
    for from in [From::Front, From::Checkpoint] {
        let mut plain = log(false, 0);
        forge(&mut plain, 5);
        let found = now(recover(&mut plain, from)).expect("checksums see nothing");
        assert_eq!(read(&mut plain, &found), Ok(RECORDS.into()), "checksums see nothing");
        assert_eq!(found.chain, [0; 24]);
    }
    let mut chained = log(true, 0);
    let whole = now(recover(&mut chained, From::Front)).expect("whole");
    assert_eq!(read(&mut chained, &whole), Ok(RECORDS.into()));
    forge(&mut chained, 5);
    // The batch behind the forged one is the first that does not fit.
    let error = now(recover(&mut chained, From::Front));
    let Err(JournalError::Lost { at, fault: BatchFault::Chain, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(at.sequence, 6);
    let found = now(recover(&mut chained, From::Checkpoint)).expect("not looked at");
    let error = read(&mut chained, &found);
    let Err(ReadError::Lost { at, fault: BatchFault::Chain }) = error else { panic!("{error:?}") };
    assert_eq!(at.sequence, 6);
}

#[test]
fn a_forgery_behind_the_checkpoint_is_found_at_opening() {
    let mut disk = log(true, 0);
    forge(&mut disk, 30);
    for from in [From::Front, From::Checkpoint] {
        let error = now(recover(&mut disk, from));
        let Err(JournalError::Lost { at, fault: BatchFault::Chain, .. }) = error else {
            panic!("{error:?}")
        };
        assert_eq!(at.sequence, 31);
    }
}

#[test]
fn the_last_batch_in_front_of_the_checkpoint_is_held_by_the_superblock() {
    let mut disk = log(true, 0);
    let found = now(recover(&mut disk, From::Checkpoint)).expect("whole");
    let last = found.superblock.checkpoint.sequence - 1;
    forge(&mut disk, u8::try_from(last).expect("small"));
    let error = now(recover(&mut disk, From::Front));
    assert!(matches!(error, Err(JournalError::Lost { fault: BatchFault::Chain, .. })), "{error:?}");
}

#[test]
fn another_history_of_the_same_journal_has_another_chain() {
    let chain = |salt| now(recover(&mut log(true, salt), From::Front)).expect("whole").chain;
    assert_eq!(chain(0), chain(0));
    assert_ne!(chain(0), chain(64));
}
