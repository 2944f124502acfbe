//! A snapshot beside the log: the state that the records below a sequence number led to.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Crc, JOURNAL_VERSION};
use crate::{AbiError, prefix};

/// Magic of a snapshot: `HYJSNAPS`.
pub const SNAPSHOT_MAGIC: u64 = u64::from_le_bytes(*b"HYJSNAPS");
/// Bytes of [`SnapshotHeader`]: the smallest block.
pub const SNAPSHOT_HEADER_BYTES: usize = 512;

const WHAT: &str = "journal snapshot";

/// The first block of a snapshot slot; the state begins at the next multiple of 4 KiB or, if that
/// is more, of a block. Written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SnapshotHeader {
    /// [`SNAPSHOT_MAGIC`].
    pub magic: u64,
    /// [`JOURNAL_VERSION`] of the writer.
    pub version: u32,
    /// What the state is: the writer's affair.
    pub kind: u32,
    /// The journal's id.
    pub id: u64,
    /// Epoch in which it was written.
    pub epoch: u64,
    /// One more for each snapshot; its slot is `generation & 1`.
    pub generation: u64,
    /// The first record that is not in the state.
    pub sequence: u64,
    /// Bytes of the state.
    pub length: u64,
    /// Time that the writer gave it, nanoseconds.
    pub time_ns: u64,
    /// CRC32C of the state.
    pub state_crc32c: u32,
    /// Zero.
    pub reserved: [u8; 440],
    /// CRC32C of the 508 bytes before it.
    pub crc32c: u32,
}

const _: () = assert!(size_of::<SnapshotHeader>() == SNAPSHOT_HEADER_BYTES);
const _: () = assert!(offset_of!(SnapshotHeader, sequence) == 40);
const _: () = assert!(offset_of!(SnapshotHeader, state_crc32c) == 64);
const _: () = assert!(offset_of!(SnapshotHeader, crc32c) == 508);

impl SnapshotHeader {
    /// With its checksum.
    #[must_use]
    pub fn sealed(mut self, crc: Crc) -> Self {
        self.crc32c = crc(self.as_bytes().split_at(SNAPSHOT_HEADER_BYTES - 4).0);
        self
    }

    /// The snapshot of journal `id` whose header lies at the start of `bytes`, in a slot that
    /// holds a state of `room` bytes.
    ///
    /// # Errors
    /// [`AbiError`] with what was seen and what is allowed.
    pub fn parse(bytes: &[u8], id: u64, room: u64, crc: Crc) -> Result<Self, AbiError> {
        let header: Self = prefix(WHAT, bytes)?;
        if header.magic != SNAPSHOT_MAGIC {
            let (found, expected) = (header.magic, SNAPSHOT_MAGIC);
            return Err(AbiError::Magic { what: WHAT, found, expected });
        }
        if header.version > JOURNAL_VERSION {
            let (found, known) = (header.version, JOURNAL_VERSION);
            return Err(AbiError::NewerVersion { what: WHAT, found, known });
        }
        let computed = header.sealed(crc).crc32c;
        if computed != header.crc32c {
            return Err(AbiError::Checksum { what: WHAT, stored: header.crc32c, computed });
        }
        for (field, found, allowed, good) in [
            ("id", header.id, id, header.id == id),
            ("length", header.length, room, header.length <= room),
        ] {
            if !good {
                return Err(AbiError::Field { what: WHAT, field, found, allowed });
            }
        }
        Ok(header)
    }
}
