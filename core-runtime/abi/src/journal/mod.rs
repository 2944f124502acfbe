//! The journal: what an append-only log puts on a block device. `docs/journal.md` has the tables.
//!
//! ```text
//!   byte 0         Superblock, slot 0          data_offset     segment 0
//!   byte 65,536    Superblock, slot 1            + segment_bytes   segment 1, and so on, a ring
//!   byte 131,072   snapshot slot 0
//!     + snapshot_bytes   snapshot slot 1
//!
//!   a segment:  batch │ batch │ … │ room that no batch fits │ IndexBlock (the last 4 KiB)
//!   a batch:    BatchHeader (96 bytes), records; begins on a block, its last block is zero-filled
//!   a record:   RecordHeader (48 bytes), payload, zeros up to a multiple of 8
//! ```
//! Places in the log are *positions*: bytes since the log's genesis, which grow for ever. Position
//! `p` lies in segment `p / segment_bytes` of the log, which is segment `… % segments` of the ring.
//! A batch names its position, so that a block of an earlier lap, or one that was written to the
//! wrong place, is never taken for what belongs there.
//!
//! Written by the crate `journal`, read by it and by `probe-util`. Nothing here does I/O.

mod batch;
mod geometry;
mod index;
mod record;
mod snapshot;
mod superblock;

pub use batch::{BATCH_HEADER_BYTES, BATCH_MAGIC, BatchFault, BatchHeader, Expected, Records};
pub use geometry::{Geometry, INDEX_BYTES, SLOT_SPACING, SNAPSHOTS_OFFSET};
pub use index::{INDEX_ENTRIES, INDEX_MAGIC, IndexBlock, IndexEntry};
pub use record::{JOURNAL_RECORD_BYTES, JOURNAL_RECORD_MAGIC, JournalRecord, RecordView};
pub use snapshot::{SNAPSHOT_HEADER_BYTES, SNAPSHOT_MAGIC, SnapshotHeader};
pub use superblock::{
    JOURNAL_CHAINED, JOURNAL_MAGIC, JournalSuperblock, Mark, SUPERBLOCK_USED_BYTES,
};

/// CRC32C as the caller has it: `hybrid_abi::crc::crc32c`, or the runtime's, which is faster.
pub type Crc = fn(&[u8]) -> u32;

/// What all batches up to a place hash to: the first 24 bytes of BLAKE3 in its mode for deriving
/// keys, with [`CHAIN_CONTEXT`], over [`JOURNAL_MAGIC`] and the journal's id at genesis, and over a
/// whole batch, header and records, behind it. A batch's header has the chain in front of it, so
/// that each one holds all before it in place.
pub type Chain = [u8; 24];

/// Context of a [`Chain`].
pub const CHAIN_CONTEXT: &str = "hybrid-runtime journal 2026 chain of batches";

/// Version of this format; raised when a reader of the old one would misread.
pub const JOURNAL_VERSION: u32 = 1;
