//! A batch: records that were written together, checked as a whole.
//!
//! A batch counts or does not count: where one byte of it is wrong, none of its records is there.

use core::fmt;
use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::record::{JOURNAL_RECORD_BYTES, JOURNAL_RECORD_MAGIC, JournalRecord, RecordView};
use super::{Chain, Crc, Geometry};

/// Magic of a batch: `HYJBATCH`.
pub const BATCH_MAGIC: u64 = u64::from_le_bytes(*b"HYJBATCH");
/// Bytes of [`BatchHeader`].
pub const BATCH_HEADER_BYTES: usize = 96;

/// The first bytes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BatchHeader {
    /// [`BATCH_MAGIC`].
    pub magic: u64,
    /// The journal's id.
    pub id: u64,
    /// Epoch in which it was written: one more for each opening of the log.
    pub epoch: u64,
    /// Position in the log at which it was written.
    pub position: u64,
    /// Sequence number of its first record.
    pub first_sequence: u64,
    /// All records below this number were acknowledged when the batch was written. A record below
    /// it that is missing was not torn off: it was lost.
    pub acknowledged: u64,
    /// The latest time of any record up to the end of this batch.
    pub time_ns: u64,
    /// Bytes of header and records.
    pub bytes: u32,
    /// Records.
    pub records: u32,
    /// Checksum of the record before the first.
    pub previous: u32,
    /// Chain in front of the batch ([`Chain`]); zeros in a journal without one.
    pub chain: Chain,
    /// CRC32C of the 92 bytes before it.
    pub crc32c: u32,
}

const _: () = assert!(size_of::<BatchHeader>() == BATCH_HEADER_BYTES);
const _: () = assert!(align_of::<BatchHeader>() == 8);
const _: () = assert!(offset_of!(BatchHeader, first_sequence) == 32);
const _: () = assert!(offset_of!(BatchHeader, bytes) == 56);
const _: () = assert!(offset_of!(BatchHeader, chain) == 68);
const _: () = assert!(offset_of!(BatchHeader, crc32c) == 92);

/// What a batch has to be at the place where it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The journal's id.
    pub id: u64,
    /// Position that was read.
    pub position: u64,
    /// Sequence number of its first record, where it is known.
    pub sequence: Option<u64>,
    /// Checksum of the record before, where it is known.
    pub previous: Option<u32>,
    /// Chain in front of it, where there is one and it is known.
    pub chain: Option<Chain>,
    /// Lowest epoch that it may have.
    pub epoch_min: u64,
    /// Highest one.
    pub epoch_max: u64,
}

/// Why bytes are not the batch that belongs there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchFault {
    /// No batch begins here.
    Magic,
    /// A header whose checksum is wrong.
    Header,
    /// A batch of another journal.
    Id(u64),
    /// A batch that belongs at this position: of an earlier lap, or written to the wrong place.
    Position(u64),
    /// A batch of this epoch.
    Epoch(u64),
    /// A batch that begins with this sequence number.
    Sequence(u64),
    /// A batch that follows another record.
    Previous(u32),
    /// A batch behind another history: the chain in front of it is not the one that leads here.
    Chain,
    /// Lengths that contradict each other.
    Length(u32),
    /// This record of it, counted from 0, is damaged: the header is good, so that the batch was
    /// written here and is torn or has decayed.
    Record(u32),
}

impl fmt::Display for BatchFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("no batch begins here"),
            Self::Header => f.write_str("the batch header's checksum is wrong"),
            Self::Id(id) => write!(f, "a batch of another journal, id {id:#018x}"),
            Self::Position(at) => write!(f, "a batch that belongs at position {at}"),
            Self::Epoch(epoch) => write!(f, "a batch of epoch {epoch}"),
            Self::Sequence(first) => write!(f, "a batch that begins with record {first}"),
            Self::Previous(check) => write!(f, "a batch that follows checksum {check:#010x}"),
            Self::Chain => f.write_str("a batch behind another history: its chain is another one"),
            Self::Length(bytes) => write!(f, "a batch whose length of {bytes} bytes is wrong"),
            Self::Record(index) => write!(f, "record {index} of the batch is damaged"),
        }
    }
}

impl core::error::Error for BatchFault {}

impl BatchHeader {
    /// With its checksum.
    #[must_use]
    pub fn sealed(mut self, crc: Crc) -> Self {
        self.crc32c = crc(self.as_bytes().split_at(BATCH_HEADER_BYTES - 4).0);
        self
    }

    /// Sequence number behind its last record.
    #[must_use]
    pub const fn end_sequence(&self) -> u64 {
        self.first_sequence.saturating_add(self.records as u64)
    }

    /// Position behind its last byte.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.position.saturating_add(self.bytes as u64)
    }

    /// The header at the start of `bytes`: its own checksum, its place, its lengths.
    ///
    /// # Errors
    /// [`BatchFault`].
    pub fn parse(
        bytes: &[u8],
        id: u64,
        position: u64,
        g: &Geometry,
        crc: Crc,
    ) -> Result<Self, BatchFault> {
        let (header, _) = Self::read_from_prefix(bytes).map_err(|_| BatchFault::Magic)?;
        if header.magic != BATCH_MAGIC {
            return Err(BatchFault::Magic);
        }
        if header.sealed(crc).crc32c != header.crc32c {
            return Err(BatchFault::Header);
        }
        if header.id != id {
            return Err(BatchFault::Id(header.id));
        }
        if header.position != position {
            return Err(BatchFault::Position(header.position));
        }
        let least = BATCH_HEADER_BYTES + JOURNAL_RECORD_BYTES;
        if (header.bytes as usize) < least || header.bytes > g.batch_bytes || header.records == 0 {
            return Err(BatchFault::Length(header.bytes));
        }
        Ok(header)
    }

    /// The whole batch at the start of `bytes`: header and every record, each in its order.
    /// Returns the header and the checksum of the last record.
    ///
    /// # Errors
    /// [`BatchFault`]; [`BatchFault::Length`] too where `bytes` ends before the batch does.
    pub fn check(
        bytes: &[u8],
        expected: &Expected,
        g: &Geometry,
        crc: Crc,
    ) -> Result<(Self, u32), BatchFault> {
        let header = Self::parse(bytes, expected.id, expected.position, g, crc)?;
        header.check_against(expected)?;
        let batch = bytes.get(..header.bytes as usize).ok_or(BatchFault::Length(header.bytes))?;
        let mut records = Records::new(batch);
        let mut check = header.previous;
        for index in 0..header.records {
            let bad = BatchFault::Record(index);
            let (record, raw) = records.take_raw().ok_or(bad)?;
            let sequence = header.first_sequence + u64::from(index);
            let good = record.header.magic == JOURNAL_RECORD_MAGIC
                && record.header.sequence == sequence
                && record.header.epoch == header.epoch
                && record.header.previous == check
                && crc(raw.split_at(4).1) == record.header.crc32c;
            if !good {
                return Err(bad);
            }
            check = record.header.crc32c;
        }
        if records.left() != 0 {
            return Err(BatchFault::Length(header.bytes));
        }
        Ok((header, check))
    }

    /// Epoch, sequence number, predecessor and chain, in this order.
    fn check_against(&self, expected: &Expected) -> Result<(), BatchFault> {
        if !(expected.epoch_min..=expected.epoch_max).contains(&self.epoch) {
            return Err(BatchFault::Epoch(self.epoch));
        }
        if expected.sequence.is_some_and(|sequence| sequence != self.first_sequence) {
            return Err(BatchFault::Sequence(self.first_sequence));
        }
        // Far from any number that there will ever be, so that sums of it cannot overflow.
        if self.first_sequence > u64::MAX >> 1 {
            return Err(BatchFault::Sequence(self.first_sequence));
        }
        if expected.previous.is_some_and(|previous| previous != self.previous) {
            return Err(BatchFault::Previous(self.previous));
        }
        if expected.chain.is_some_and(|chain| chain != self.chain) {
            return Err(BatchFault::Chain);
        }
        Ok(())
    }
}

/// The records of a batch, in order. Believed only after [`BatchHeader::check`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Of a batch of exactly these bytes.
    #[must_use]
    pub fn new(batch: &'a [u8]) -> Self {
        Self { rest: batch.get(BATCH_HEADER_BYTES..).unwrap_or_default() }
    }

    /// The next record, and all its bytes.
    fn take_raw(&mut self) -> Option<(RecordView<'a>, &'a [u8])> {
        let (header, body) = JournalRecord::read_from_prefix(self.rest).ok()?;
        let length = header.length as usize;
        let payload = body.get(..length)?;
        let (raw, rest) = self.rest.split_at_checked(JournalRecord::stride(length))?;
        self.rest = rest;
        Some((RecordView { header, payload }, raw))
    }

    const fn left(&self) -> usize {
        self.rest.len()
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = RecordView<'a>;

    fn next(&mut self) -> Option<RecordView<'a>> {
        self.take_raw().map(|(record, _)| record)
    }
}
