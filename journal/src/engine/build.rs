//! A batch while it is filled.

use core_runtime::crc::crc32c;
use hybrid_abi::journal::{
    BATCH_HEADER_BYTES, BATCH_MAGIC, BatchHeader, Chain, Crc, Geometry, JOURNAL_RECORD_BYTES,
    JOURNAL_RECORD_MAGIC, JournalRecord, Mark,
};
use zerocopy::IntoBytes;

/// [`BATCH_HEADER_BYTES`] as batches count.
const HEADER_BYTES: u32 = 96;
const _: () = assert!(HEADER_BYTES as usize == BATCH_HEADER_BYTES);

/// A batch that takes records, or waits to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    /// In front of its first record; its position is the batch's.
    start: Mark,
    /// Behind its last record so far; its position is not kept up.
    pub end: Mark,
    used: u32,
    records: u32,
}

impl Open {
    pub(super) const fn new(start: Mark) -> Self {
        Self { start, end: start, used: HEADER_BYTES, records: 0 }
    }

    /// The longest payload of a batch of `batch_bytes`.
    pub(super) const fn most_payload(batch_bytes: u32) -> usize {
        (batch_bytes as usize - BATCH_HEADER_BYTES - JOURNAL_RECORD_BYTES) / 8 * 8
    }

    /// Whether one more payload fits below `soft_bytes`.
    pub(super) const fn has_room(&self, payload: usize, soft_bytes: u32) -> bool {
        self.used as usize + JournalRecord::stride(payload) <= soft_bytes as usize
    }

    /// Bytes of header and records.
    pub(super) const fn used(&self) -> usize {
        self.used as usize
    }

    pub(super) const fn position(&self) -> u64 {
        self.start.position
    }

    pub(super) const fn start(&self) -> &Mark {
        &self.start
    }

    /// Adds a record, which has to fit.
    #[inline]
    pub(super) fn put(
        &mut self,
        buf: &mut [u8],
        epoch: u64,
        (kind, time_ns): (u32, u64),
        payload: &[u8],
    ) -> u64 {
        let sequence = self.end.sequence;
        let record = JournalRecord {
            crc32c: 0,
            magic: JOURNAL_RECORD_MAGIC,
            epoch,
            sequence,
            time_ns,
            length: 0,
            previous: self.end.check,
            kind,
            reserved: 0,
        };
        let room = &mut buf[self.used as usize..];
        let check = record.put(payload, room, crc32c).expect("room was asked for before");
        #[expect(clippy::cast_possible_truncation, reason = "a batch is at most 16 MiB")]
        let stride = JournalRecord::stride(payload.len()) as u32;
        self.used += stride;
        self.records += 1;
        self.end.sequence += 1;
        self.end.check = check;
        self.end.time_ns = self.end.time_ns.max(time_ns);
        sequence
    }

    /// In front of the batch behind this one.
    pub(super) const fn end_mark(&self, g: &Geometry) -> Mark {
        let mut end = self.end;
        end.position = g.next_batch(self.start.position + self.used as u64);
        end
    }

    /// Writes the header and clears the rest of the last block; returns the bytes to be written.
    pub(super) fn seal(
        &self,
        buf: &mut [u8],
        lba_bytes: u32,
        (id, epoch, acknowledged): (u64, u64, u64),
        chain: Chain,
        crc: Crc,
    ) -> usize {
        let header = BatchHeader {
            magic: BATCH_MAGIC,
            id,
            epoch,
            position: self.start.position,
            first_sequence: self.start.sequence,
            acknowledged,
            time_ns: self.end.time_ns,
            bytes: self.used,
            records: self.records,
            previous: self.start.check,
            chain,
            crc32c: 0,
        };
        buf[..BATCH_HEADER_BYTES].copy_from_slice(header.sealed(crc).as_bytes());
        let bytes = self.used.next_multiple_of(lba_bytes) as usize;
        buf[self.used as usize..bytes].fill(0);
        bytes
    }
}
