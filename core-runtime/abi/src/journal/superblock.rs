//! The superblock: what the journal is, and its last checkpoint.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Chain, Crc, Geometry, JOURNAL_VERSION};
use crate::{AbiError, Name, prefix};

/// Magic of a superblock: `HYJOURNL`.
pub const JOURNAL_MAGIC: u64 = u64::from_le_bytes(*b"HYJOURNL");
/// Bytes of [`JournalSuperblock`]: the smallest block, so that no device tears it.
pub const SUPERBLOCK_USED_BYTES: usize = 512;

/// A flag: batches are chained.
pub const JOURNAL_CHAINED: u32 = 1;

const WHAT: &str = "journal superblock";

/// A place between two records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Mark {
    /// Position at which the next batch begins.
    pub position: u64,
    /// Sequence number of the next record.
    pub sequence: u64,
    /// Latest time of any record before.
    pub time_ns: u64,
    /// Checksum of the record before.
    pub check: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Mark>() == 32);

/// One of the two superblocks. Written to slot `generation & 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct JournalSuperblock {
    /// [`JOURNAL_MAGIC`].
    pub magic: u64,
    /// [`JOURNAL_VERSION`] of the writer.
    pub version: u32,
    /// [`JOURNAL_CHAINED`] or 0.
    pub flags: u32,
    /// The journal's id, random; every batch repeats it.
    pub id: u64,
    /// One more for each opening of the log for writing.
    pub epoch: u64,
    /// One more for each superblock that was written; the greater one counts.
    pub generation: u64,
    /// Bytes of a logical block.
    pub lba_bytes: u32,
    /// Most bytes of a batch.
    pub batch_bytes: u32,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Segments of the ring.
    pub segments: u64,
    /// Bytes of a snapshot slot.
    pub snapshot_bytes: u64,
    /// How far the log may run ahead of the last durable checkpoint.
    pub reach_bytes: u64,
    /// The checkpoint: everything before it is durable.
    pub checkpoint: Mark,
    /// Position of the segment in which the log begins.
    pub front_position: u64,
    /// Sequence number of the log's first record.
    pub front_sequence: u64,
    /// Wall clock of the format, nanoseconds since 1970-01-01.
    pub created_unix_ns: u64,
    /// Blocks that the device said it writes atomically on power failure; 0 if it said nothing.
    pub unit_blocks: u32,
    /// Multiple of blocks that such a write must not cross; 0 for none.
    pub boundary_blocks: u32,
    /// Name of the journal.
    pub name: Name<64>,
    /// Chain at the checkpoint, where batches are chained.
    pub chain: Chain,
    /// Zero.
    pub reserved: [u8; 276],
    /// CRC32C of the 508 bytes before it.
    pub crc32c: u32,
}

const _: () = assert!(size_of::<JournalSuperblock>() == SUPERBLOCK_USED_BYTES);
const _: () = assert!(align_of::<JournalSuperblock>() == 8);
const _: () = assert!(offset_of!(JournalSuperblock, id) == 16);
const _: () = assert!(offset_of!(JournalSuperblock, lba_bytes) == 40);
const _: () = assert!(offset_of!(JournalSuperblock, checkpoint) == 80);
const _: () = assert!(offset_of!(JournalSuperblock, front_position) == 112);
const _: () = assert!(offset_of!(JournalSuperblock, unit_blocks) == 136);
const _: () = assert!(offset_of!(JournalSuperblock, name) == 144);
const _: () = assert!(offset_of!(JournalSuperblock, chain) == 208);
const _: () = assert!(offset_of!(JournalSuperblock, crc32c) == 508);

impl JournalSuperblock {
    /// The first superblock of a new journal, not sealed.
    #[must_use]
    pub const fn new(id: u64, g: &Geometry, name: Name<64>) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the low half is what is meant")]
        let check = id as u32;
        Self {
            magic: JOURNAL_MAGIC,
            version: JOURNAL_VERSION,
            flags: 0,
            id,
            epoch: 0,
            generation: 0,
            lba_bytes: g.lba_bytes,
            batch_bytes: g.batch_bytes,
            segment_bytes: g.segment_bytes,
            segments: g.segments,
            snapshot_bytes: g.snapshot_bytes,
            reach_bytes: g.reach_bytes,
            checkpoint: Mark { position: 0, sequence: 0, time_ns: 0, check, reserved: 0 },
            front_position: 0,
            front_sequence: 0,
            created_unix_ns: 0,
            unit_blocks: 0,
            boundary_blocks: 0,
            name,
            chain: [0; 24],
            reserved: [0; 276],
            crc32c: 0,
        }
    }

    /// With its checksum.
    #[must_use]
    pub fn sealed(mut self, crc: Crc) -> Self {
        self.crc32c = crc(self.as_bytes().split_at(SUPERBLOCK_USED_BYTES - 4).0);
        self
    }

    /// The sizes.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        Geometry {
            lba_bytes: self.lba_bytes,
            batch_bytes: self.batch_bytes,
            segment_bytes: self.segment_bytes,
            segments: self.segments,
            snapshot_bytes: self.snapshot_bytes,
            reach_bytes: self.reach_bytes,
        }
    }

    /// The superblock at the start of `bytes`.
    ///
    /// # Errors
    /// [`AbiError`] with what was seen and what is allowed.
    pub fn parse(bytes: &[u8], crc: Crc) -> Result<Self, AbiError> {
        let block: Self = prefix(WHAT, bytes)?;
        if block.magic != JOURNAL_MAGIC {
            let (found, expected) = (block.magic, JOURNAL_MAGIC);
            return Err(AbiError::Magic { what: WHAT, found, expected });
        }
        if block.version > JOURNAL_VERSION {
            let (found, known) = (block.version, JOURNAL_VERSION);
            return Err(AbiError::NewerVersion { what: WHAT, found, known });
        }
        let computed = block.sealed(crc).crc32c;
        if computed != block.crc32c {
            return Err(AbiError::Checksum { what: WHAT, stored: block.crc32c, computed });
        }
        block.check_numbers()?;
        Ok(block)
    }

    /// Whether batches are chained.
    #[must_use]
    pub const fn is_chained(&self) -> bool {
        self.flags & JOURNAL_CHAINED != 0
    }

    fn check_numbers(&self) -> Result<(), AbiError> {
        let bad =
            |field, found, allowed| Err(AbiError::Field { what: WHAT, field, found, allowed });
        let g = self.geometry();
        g.check()?;
        if self.version == 0 {
            return bad("version", 0, JOURNAL_VERSION.into());
        }
        if self.flags & !JOURNAL_CHAINED != 0 {
            return bad("flags", self.flags.into(), JOURNAL_CHAINED.into());
        }
        let (front, tail) = (self.front_position, self.checkpoint.position);
        if tail > u64::MAX >> 2 || !g.is_batch_place(tail) {
            return bad("checkpoint position", tail, self.lba_bytes.into());
        }
        if front > tail || !front.is_multiple_of(self.segment_bytes) {
            return bad("front position", front, tail);
        }
        if tail - front > g.ring_bytes() {
            return bad("front position", front, tail - g.ring_bytes());
        }
        let (front, tail) = (self.front_sequence, self.checkpoint.sequence);
        if tail > u64::MAX >> 2 || front > tail {
            return bad("front sequence", front, tail);
        }
        Ok(())
    }
}
