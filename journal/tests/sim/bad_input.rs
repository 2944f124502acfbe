//! Logs that somebody spoilt: what is wrong is named with its place, and what lies before it is
//! there. Devices and records of the wrong size are in `sizes`.

use hybrid_abi::crc::crc32c;
use journal::layout::{BATCH_HEADER_BYTES, BatchFault, BatchHeader};
use journal::{
    Cursor, From, JournalError, Limits, Priority, Promise, ReadError, Seek, Where, format, recover,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::disk::{Disk, LBA, now};
use crate::sizes::{engine, settle};
use crate::world::options;

/// A log of records of these times, each a batch of one block; with a checkpoint behind the last
/// one, or none.
fn log(times: &[u64], checkpoint: bool) -> Disk {
    let bytes = options().geometry(512, 1 << 20).expect("sizes").total_bytes();
    let mut disk = Disk::new(bytes, Promise::default());
    now(format(&mut disk, &options())).expect("a journal");
    let limits =
        Limits { slots: 4, in_flight: 1, checkpoint_records: 1 << 40, ..Limits::default() };
    let (mut engine, mut bufs) = engine(&mut disk, limits);
    for time in times {
        engine.append(&mut bufs, Priority::High, (1, *time), &time.to_le_bytes()).expect("room");
        settle(&mut engine, &mut bufs, &mut disk);
    }
    if checkpoint {
        engine.ask_checkpoint();
        settle(&mut engine, &mut bufs, &mut disk);
    }
    disk
}

/// Byte of the device at which the log's first segment begins.
fn data() -> usize {
    let g = options().geometry(512, 1 << 20).expect("sizes");
    usize::try_from(g.byte_of(0)).expect("small")
}

/// The times of all records from a place on, and what ended the reading.
fn read(disk: &mut Disk, seek: Seek) -> (Vec<u64>, Option<ReadError>) {
    let found = now(recover(disk, From::Checkpoint)).expect("its end is whole");
    let mut seen = Vec::new();
    let mut cursor = now(Cursor::open(disk, &found, seek)).expect("a place");
    loop {
        match now(cursor.advance(disk, |record| seen.push(record.header.time_ns))) {
            Ok(true) => {}
            Ok(false) => return (seen, None),
            Err(error) => return (seen, Some(error)),
        }
    }
}

#[test]
fn a_clock_that_jumps_ahead_is_kept_and_hides_no_record() {
    let day = 86_400_000_000_000;
    // A day ahead, and set right again.
    let times = [10, 20, day, 30, 40, 50];
    let mut disk = log(&times, true);
    assert_eq!(read(&mut disk, Seek::Front), (times.to_vec(), None));
    assert_eq!(read(&mut disk, Seek::Time(15)), (times[1..].to_vec(), None));
    assert_eq!(read(&mut disk, Seek::Time(25)), (times[2..].to_vec(), None), "what came after");
    assert_eq!(read(&mut disk, Seek::Time(day + 1)), (Vec::new(), None));
    let mut last = log(&[u64::MAX, 1], false);
    assert_eq!(read(&mut last, Seek::Time(u64::MAX)), (vec![u64::MAX, 1], None));
}

/// What an error says is lost.
const fn lost(error: &JournalError) -> Option<(Where, BatchFault)> {
    match error {
        JournalError::Lost { at, fault, .. } => Some((*at, *fault)),
        _ => None,
    }
}

/// Says of the batch at `block` that it begins with another record, and makes its checksum right.
fn renumber(disk: &mut Disk, block: usize, first_sequence: u64) {
    let at = data() + block * LBA;
    let bytes = &mut disk.seen[at..at + BATCH_HEADER_BYTES];
    let header = BatchHeader::read_from_bytes(bytes).expect("its size");
    let header = BatchHeader { first_sequence, ..header }.sealed(crc32c);
    bytes.copy_from_slice(header.as_bytes());
}

#[test]
fn a_sequence_that_goes_backwards_is_named_with_its_position() {
    let g = options().geometry(512, 1 << 20).expect("sizes");
    let (sequence, position) = (5, 5 * LBA as u64);
    let at = Where { position, byte: g.byte_of(position), sequence };
    let fault = BatchFault::Sequence(3);
    // Before the checkpoint: whoever reads or verifies it is told.
    let mut disk = log(&[7; 9], true);
    renumber(&mut disk, 5, 3);
    let (seen, ended) = read(&mut disk, Seek::Front);
    assert_eq!((seen.len(), ended), (5, Some(ReadError::Lost { at, fault })));
    let whole = now(recover(&mut disk, From::Front)).expect_err("verified");
    assert_eq!(lost(&whole), Some((at, fault)));
    let words = format!("record 5 at position 2560 (byte {} of the device) is lost", at.byte);
    assert!(whole.to_string().contains(&words), "{whole}");
    assert!(whole.to_string().contains("a batch that begins with record 3"), "{whole}");
    // Behind it: opening itself is told, since a later batch knows of the record.
    let mut disk = log(&[7; 9], false);
    renumber(&mut disk, 5, 3);
    let open = now(recover(&mut disk, From::Checkpoint)).expect_err("opened");
    assert_eq!(lost(&open), Some((at, fault)));
}

#[test]
fn a_segment_half_erased_is_named_with_its_position_and_read_up_to_there() {
    let g = options().geometry(512, 1 << 20).expect("sizes");
    let half = usize::try_from(g.segment_bytes / 2).expect("small");
    let place = |position, sequence| Where { position, byte: g.byte_of(position), sequence };
    // The second half of the first segment: batches lie in the first 6,656 bytes of it.
    let mut disk = log(&[7; 40], true);
    disk.seen[data() + half..data() + 2 * half].fill(0);
    let at = place(half as u64, half as u64 / LBA as u64);
    let named = ReadError::Lost { at, fault: BatchFault::Magic };
    let (seen, ended) = read(&mut disk, Seek::Front);
    assert_eq!((seen.len() as u64, ended), (at.sequence, Some(named)));
    let whole = now(recover(&mut disk, From::Front)).expect_err("verified");
    assert!(matches!(whole, JournalError::Lost { at: seen, .. } if seen == at), "{whole}");
    let (behind, ended) = read(&mut disk, Seek::Sequence(at.sequence + 1));
    assert_eq!((behind.len() as u64, ended), (39 - at.sequence, None), "the next segment is whole");
    // Its first half: the log has lost its beginning, which every opening looks at.
    let mut disk = log(&[7; 40], true);
    disk.seen[data()..data() + half].fill(0);
    let open = now(recover(&mut disk, From::Checkpoint)).expect_err("opened");
    assert!(matches!(open, JournalError::Lost { at, .. } if at == place(0, 0)), "{open}");
    // The segment that is being filled, behind the checkpoint.
    let mut disk = log(&[7; 10], false);
    disk.seen[data() + 2 * LBA..data() + 6 * LBA].fill(0);
    let open = now(recover(&mut disk, From::Checkpoint)).expect_err("opened");
    let at = place(2 * LBA as u64, 2);
    assert!(matches!(open, JournalError::Lost { at: seen, .. } if seen == at), "{open}");
}
