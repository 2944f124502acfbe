//! The sparse index of a segment: in its last 4 KiB, written once, when the segment is full.
//!
//! It only makes looking for a record fast. Where it is missing or damaged, the segment is read
//! from its start; what it points at is checked like everything else.

use core::mem::offset_of;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::Crc;

/// Magic of an index block: `HYJINDEX`.
pub const INDEX_MAGIC: u64 = u64::from_le_bytes(*b"HYJINDEX");
/// Entries that an index block holds.
pub const INDEX_ENTRIES: usize = 167;

/// Where a batch of the segment begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IndexEntry {
    /// Sequence number of its first record.
    pub sequence: u64,
    /// [`super::BatchHeader::time_ns`] of it.
    pub time_ns: u64,
    /// Bytes from the segment's start.
    pub offset: u32,
    /// Zero.
    pub reserved: u32,
}

/// The index of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IndexBlock {
    /// [`INDEX_MAGIC`].
    pub magic: u64,
    /// The journal's id.
    pub id: u64,
    /// Epoch in which it was written.
    pub epoch: u64,
    /// Segment of the log, counted from its genesis.
    pub segment: u64,
    /// Sequence number behind the segment's last record.
    pub end_sequence: u64,
    /// Latest time of any record up to there.
    pub end_time_ns: u64,
    /// Entries that count, in ascending order.
    pub count: u32,
    /// Zero.
    pub reserved: [u8; 20],
    /// The entries.
    pub entries: [IndexEntry; INDEX_ENTRIES],
    /// Zero.
    pub reserved1: [u8; 12],
    /// CRC32C of the 4,092 bytes before it.
    pub crc32c: u32,
}

const _: () = assert!(size_of::<IndexEntry>() == 24);
const _: () = assert!(size_of::<IndexBlock>() == 4096);
const _: () = assert!(offset_of!(IndexBlock, count) == 48);
const _: () = assert!(offset_of!(IndexBlock, entries) == 72);
const _: () = assert!(offset_of!(IndexBlock, crc32c) == 4092);

impl IndexBlock {
    /// An index without entries.
    #[must_use]
    pub fn empty() -> Self {
        let mut block = Self::new_zeroed();
        block.magic = INDEX_MAGIC;
        block
    }

    /// Adds an entry; says whether there was room.
    pub fn push(&mut self, entry: IndexEntry) -> bool {
        let Some(place) = self.entries.get_mut(self.count as usize) else {
            return false;
        };
        *place = entry;
        self.count += 1;
        true
    }

    /// The entries that count.
    #[must_use]
    pub fn entries(&self) -> &[IndexEntry] {
        self.entries.get(..self.count as usize).unwrap_or_default()
    }

    /// With its checksum.
    #[must_use]
    pub fn sealed(mut self, crc: Crc) -> Self {
        self.crc32c = crc(self.as_bytes().split_at(4092).0);
        self
    }

    /// The index of this segment of this journal, if these bytes are it, whole, and in order.
    #[must_use]
    pub fn parse(bytes: &[u8], id: u64, segment: u64, crc: Crc) -> Option<Self> {
        let (block, _) = Self::read_from_prefix(bytes).ok()?;
        let whole = block.magic == INDEX_MAGIC
            && block.id == id
            && block.segment == segment
            && block.count as usize <= INDEX_ENTRIES
            && block.sealed(crc).crc32c == block.crc32c;
        let ascending = block.entries().is_sorted_by(|a, b| {
            a.sequence < b.sequence && a.offset < b.offset && a.time_ns <= b.time_ns
        });
        (whole && ascending).then_some(block)
    }
}
