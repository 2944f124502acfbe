//! A record: the header in front of each payload.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Crc;

/// Magic of a record: `HYJR`.
pub const JOURNAL_RECORD_MAGIC: u32 = u32::from_le_bytes(*b"HYJR");
/// Bytes of [`JournalRecord`].
pub const JOURNAL_RECORD_BYTES: usize = 48;

/// What stands before each payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct JournalRecord {
    /// CRC32C of all that follows: the other 44 bytes, the payload, and the zeros behind it.
    pub crc32c: u32,
    /// [`JOURNAL_RECORD_MAGIC`].
    pub magic: u32,
    /// Epoch in which it was appended.
    pub epoch: u64,
    /// Its number: 0 at the log's genesis, one more for each record, never reused.
    pub sequence: u64,
    /// Time that its writer gave it, nanoseconds; it may jump.
    pub time_ns: u64,
    /// Bytes of the payload.
    pub length: u32,
    /// `crc32c` of the record before; of the first record, the low half of the journal's id.
    pub previous: u32,
    /// What the payload is: the writer's affair.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<JournalRecord>() == JOURNAL_RECORD_BYTES);
const _: () = assert!(align_of::<JournalRecord>() == 8);
const _: () = assert!(offset_of!(JournalRecord, epoch) == 8);
const _: () = assert!(offset_of!(JournalRecord, time_ns) == 24);
const _: () = assert!(offset_of!(JournalRecord, length) == 32);
const _: () = assert!(offset_of!(JournalRecord, kind) == 40);

impl JournalRecord {
    /// Bytes that a record with this payload takes in a batch.
    #[must_use]
    pub const fn stride(payload: usize) -> usize {
        JOURNAL_RECORD_BYTES + payload.next_multiple_of(8)
    }

    /// Puts the record with its payload at the start of `room`; returns its checksum, or `None`
    /// where it does not fit.
    #[must_use]
    pub fn put(mut self, payload: &[u8], room: &mut [u8], crc: Crc) -> Option<u32> {
        let stride = Self::stride(payload.len());
        let room = room.get_mut(..stride)?;
        self.length = u32::try_from(payload.len()).ok()?;
        let (head, body) = room.split_at_mut(JOURNAL_RECORD_BYTES);
        head.copy_from_slice(self.as_bytes());
        let (text, zeros) = body.split_at_mut(payload.len());
        text.copy_from_slice(payload);
        zeros.fill(0);
        let value = crc(&room[4..]);
        room[..4].copy_from_slice(&value.to_le_bytes());
        Some(value)
    }
}

/// A record as it lies in a batch that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Its header.
    pub header: JournalRecord,
    /// Its payload.
    pub payload: &'a [u8],
}
