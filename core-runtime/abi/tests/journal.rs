//! The journal's layout: bytes written by hand from `docs/journal.md`, and bytes that lie.

use hybrid_abi::Name;
use hybrid_abi::crc::crc32c;
use hybrid_abi::journal::{
    BatchFault, BatchHeader, Expected, Geometry, IndexBlock, JOURNAL_RECORD_MAGIC, JournalRecord,
    JournalSuperblock, Records, SnapshotHeader,
};
use zerocopy::{FromZeros, IntoBytes};

const G: Geometry = Geometry {
    lba_bytes: 512,
    batch_bytes: 2048,
    segment_bytes: 16_384,
    segments: 8,
    snapshot_bytes: 4096,
    reach_bytes: 16_384,
};

const ID: u64 = 0x0102_0304_0506_0708;

fn record(sequence: u64, previous: u32, payload: &[u8], room: &mut [u8]) -> u32 {
    let record = JournalRecord {
        crc32c: 0,
        magic: JOURNAL_RECORD_MAGIC,
        epoch: 2,
        sequence,
        time_ns: 9,
        length: 0,
        previous,
        kind: 7,
        reserved: 0,
    };
    record.put(payload, room, crc32c).expect("room")
}

/// A batch of two records at position 512.
fn batch() -> (Vec<u8>, u32) {
    let mut bytes = vec![0; 512];
    let first = record(5, 0xAABB_CCDD, b"abc", &mut bytes[96..]);
    let second = record(6, first, b"", &mut bytes[96 + 56..]);
    let mut header = BatchHeader::new_zeroed();
    header.magic = u64::from_le_bytes(*b"HYJBATCH");
    (header.id, header.epoch, header.position) = (ID, 2, 512);
    (header.first_sequence, header.acknowledged, header.time_ns) = (5, 4, 9);
    (header.bytes, header.records, header.previous) = (96 + 56 + 48, 2, 0xAABB_CCDD);
    bytes[..96].copy_from_slice(header.sealed(crc32c).as_bytes());
    (bytes, second)
}

const EXPECTED: Expected = Expected {
    id: ID,
    position: 512,
    sequence: Some(5),
    previous: Some(0xAABB_CCDD),
    chain: Some([0; 24]),
    epoch_min: 2,
    epoch_max: 2,
};

#[test]
fn a_batchs_bytes_are_golden() {
    let (bytes, _) = batch();
    let hand: [u8; 92] = {
        let mut hand = [0; 92];
        hand[0..8].copy_from_slice(b"HYJBATCH");
        hand[8..16].copy_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
        hand[16] = 2;
        hand[24..26].copy_from_slice(&[0, 2]);
        hand[32] = 5;
        hand[40] = 4;
        hand[48] = 9;
        hand[56] = 200;
        hand[60] = 2;
        hand[64..68].copy_from_slice(&[0xDD, 0xCC, 0xBB, 0xAA]);
        hand
    };
    assert_eq!(bytes[..92], hand);
    assert_eq!(bytes[92..96], crc32c(&hand).to_le_bytes());
    let record = [
        b'H', b'Y', b'J', b'R', 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0,
        0, 0, 3, 0, 0, 0, 0xDD, 0xCC, 0xBB, 0xAA, 7, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', b'c', 0, 0,
        0, 0, 0,
    ];
    assert_eq!(bytes[100..152], record);
    assert_eq!(bytes[96..100], crc32c(&record).to_le_bytes());
}

#[test]
fn a_whole_batch_is_believed_and_every_other_byte_is_not() {
    let (bytes, second) = batch();
    let (header, check) = BatchHeader::check(&bytes, &EXPECTED, &G, crc32c).expect("whole");
    assert_eq!((header.end_sequence(), header.end(), check), (7, 712, second));
    let payloads: Vec<&[u8]> = Records::new(&bytes[..200]).map(|r| r.payload).collect();
    assert_eq!(payloads, [&b"abc"[..], b""]);
    for at in 0..200 {
        for bit in 0..8 {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1 << bit;
            let fault = BatchHeader::check(&wrong, &EXPECTED, &G, crc32c);
            assert!(fault.is_err(), "bit {bit} of byte {at}");
        }
    }
    let whole = |expected: &Expected| BatchHeader::check(&bytes, expected, &G, crc32c).map(|_| ());
    for (expected, fault) in [
        (Expected { id: 1, ..EXPECTED }, BatchFault::Id(ID)),
        (Expected { position: 1024, ..EXPECTED }, BatchFault::Position(512)),
        (Expected { epoch_min: 3, epoch_max: 9, ..EXPECTED }, BatchFault::Epoch(2)),
        (Expected { epoch_min: 0, epoch_max: 1, ..EXPECTED }, BatchFault::Epoch(2)),
        (Expected { sequence: Some(6), ..EXPECTED }, BatchFault::Sequence(5)),
        (Expected { chain: Some([1; 24]), ..EXPECTED }, BatchFault::Chain),
        (Expected { previous: Some(1), ..EXPECTED }, BatchFault::Previous(0xAABB_CCDD)),
    ] {
        assert_eq!(whole(&expected), Err(fault));
    }
    assert_eq!(whole(&Expected { sequence: None, previous: None, ..EXPECTED }), Ok(()));
}

#[test]
fn headers_that_lie_with_a_right_checksum_are_refused_and_nothing_panics() {
    let (bytes, _) = batch();
    let mut header = BatchHeader::new_zeroed();
    header.as_mut_bytes().copy_from_slice(&bytes[..96]);
    for lie in [
        BatchHeader { bytes: 0, ..header },
        BatchHeader { bytes: 144 - 1, ..header },
        BatchHeader { bytes: u32::MAX, ..header },
        BatchHeader { bytes: 2048, ..header },
        BatchHeader { bytes: 512, ..header },
        BatchHeader { records: 0, ..header },
        BatchHeader { records: 1, ..header },
        BatchHeader { records: u32::MAX, ..header },
        BatchHeader { first_sequence: u64::MAX, ..header },
        BatchHeader { epoch: 3, ..header },
    ] {
        let mut wrong = bytes.clone();
        wrong[..96].copy_from_slice(lie.sealed(crc32c).as_bytes());
        let free = Expected { sequence: None, previous: None, epoch_max: 9, ..EXPECTED };
        assert!(BatchHeader::check(&wrong, &free, &G, crc32c).is_err(), "{lie:?}");
    }
    // Every length of a record, its checksum made right.
    for length in (0..=64).filter(|length| *length != 3).chain([u32::MAX - 7, u32::MAX]) {
        let mut wrong = bytes.clone();
        wrong[128..132].copy_from_slice(&length.to_le_bytes());
        let end = (96 + JournalRecord::stride(length as usize)).min(200);
        let crc = crc32c(&wrong[100..end.max(100)]);
        wrong[96..100].copy_from_slice(&crc.to_le_bytes());
        let found = BatchHeader::check(&wrong, &EXPECTED, &G, crc32c);
        // Lengths of the same stride hide nothing: the bytes are the same, and what they mean is
        // the writer's.
        assert!(found.is_err(), "length {length}: the record behind follows another checksum");
    }
    for cut in 0..200 {
        assert!(BatchHeader::check(&bytes[..cut], &EXPECTED, &G, crc32c).is_err(), "{cut}");
    }
}

#[test]
fn superblocks_are_golden_and_lies_are_refused() {
    let mut block = JournalSuperblock::new(ID, &G, Name::lossy("wal"));
    (block.epoch, block.generation) = (3, 4);
    let bytes = block.sealed(crc32c);
    let bytes = bytes.as_bytes();
    let parse = |bytes: &[u8]| JournalSuperblock::parse(bytes, crc32c);
    assert_eq!(parse(bytes).expect("our own").geometry(), G);
    assert_eq!(&bytes[..8], b"HYJOURNL");
    assert_eq!(bytes[8..12], 1_u32.to_le_bytes());
    for (at, value) in [(16, ID), (24, 3), (32, 4), (48, 16_384), (56, 8), (64, 4096), (72, 16_384)]
    {
        assert_eq!(bytes[at..at + 8], value.to_le_bytes(), "offset {at}");
    }
    assert_eq!(bytes[104..108], 0x0506_0708_u32.to_le_bytes(), "the first record's predecessor");
    assert_eq!(&bytes[144..148], b"wal\0");
    let lie = |change: &dyn Fn(&mut JournalSuperblock)| {
        let mut block = block;
        change(&mut block);
        parse(block.sealed(crc32c).as_bytes())
    };
    for change in [
        &(|b: &mut JournalSuperblock| b.version = 2) as &dyn Fn(&mut JournalSuperblock),
        &|b| b.version = 0,
        &|b| b.magic = 1,
        &|b| b.lba_bytes = 0,
        &|b| b.batch_bytes = u32::MAX,
        &|b| b.segment_bytes = u64::MAX,
        &|b| b.segments = u64::MAX,
        &|b| b.reach_bytes = u64::MAX,
        &|b| b.snapshot_bytes = u64::MAX,
        &|b| b.checkpoint.position = u64::MAX,
        &|b| b.checkpoint.position = 100,
        &|b| b.checkpoint.position = 16_384 - 512,
        &|b| b.front_position = 512,
        &|b| b.front_sequence = 1,
        &|b| b.checkpoint.sequence = u64::MAX,
        &|b| b.checkpoint.position = 9 * 16_384,
    ] {
        assert!(lie(change).is_err());
    }
    for at in 0..512 {
        let mut wrong = bytes.to_vec();
        wrong[at] ^= 0x10;
        assert!(parse(&wrong).is_err(), "byte {at}");
    }
}

#[test]
fn an_index_or_a_snapshot_that_lies_is_passed_over() {
    let mut index = IndexBlock::empty();
    (index.id, index.segment) = (ID, 7);
    let bytes = index.sealed(crc32c);
    assert!(IndexBlock::parse(bytes.as_bytes(), ID, 7, crc32c).is_some());
    assert!(IndexBlock::parse(bytes.as_bytes(), ID, 8, crc32c).is_none());
    assert!(IndexBlock::parse(bytes.as_bytes(), 1, 7, crc32c).is_none());
    index.count = 2;
    assert!(IndexBlock::parse(index.sealed(crc32c).as_bytes(), ID, 7, crc32c).is_none(), "order");
    index.count = u32::MAX;
    assert!(IndexBlock::parse(index.sealed(crc32c).as_bytes(), ID, 7, crc32c).is_none());
    let mut head = SnapshotHeader::new_zeroed();
    (head.magic, head.version) = (u64::from_le_bytes(*b"HYJSNAPS"), 1);
    (head.id, head.length) = (ID, 100);
    let sealed = head.sealed(crc32c);
    assert!(SnapshotHeader::parse(sealed.as_bytes(), ID, 100, crc32c).is_ok());
    assert!(SnapshotHeader::parse(sealed.as_bytes(), ID, 99, crc32c).is_err());
    assert!(SnapshotHeader::parse(sealed.as_bytes(), 1, 100, crc32c).is_err());
}
