//! Making a journal: sizes for a device, and the first superblocks.

use core_runtime::crc::crc32c;
use hybrid_abi::journal::{
    Geometry, JOURNAL_CHAINED, JOURNAL_MAGIC, JournalSuperblock, SUPERBLOCK_USED_BYTES,
};
use hybrid_abi::{AbiError, Name};
use nvme_driver::IoError;
use zerocopy::IntoBytes;

use crate::chain;
use crate::error::JournalError;
use crate::medium::Medium;

/// How a journal is to be.
#[derive(Clone, Copy, Debug)]
pub struct FormatOptions {
    /// Random; every batch repeats it. Whoever writes payloads that a stranger chose should not
    /// let the stranger know it.
    pub id: u64,
    /// Wall clock, nanoseconds since 1970-01-01.
    pub created_unix_ns: u64,
    /// Name, for people.
    pub name: Name<64>,
    /// Most bytes of a batch.
    pub batch_bytes: u32,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Segments; 0 for as many as fit.
    pub segments: u64,
    /// Bytes of a snapshot slot; 0 for none.
    pub snapshot_bytes: u64,
    /// How far the log may run ahead of its last checkpoint; 0 for a quarter of the ring, at most
    /// 16 MiB.
    pub reach_bytes: u64,
    /// Ties each batch to all before it by BLAKE3, so that another history in this one's place is
    /// found, which checksums do not.
    pub chain: bool,
    /// Overwrite what is there.
    pub overwrite: bool,
}

/// Most that the log runs ahead of a checkpoint unless more is asked for.
const REACH_USUAL: u64 = 16 << 20;

impl FormatOptions {
    /// The usual sizes: batches of 64 KiB, segments of 4 MiB, all of the device, no snapshots.
    #[must_use]
    pub fn new(id: u64, name: &str) -> Self {
        Self {
            id,
            created_unix_ns: 0,
            name: Name::lossy(name),
            batch_bytes: 64 << 10,
            segment_bytes: 4 << 20,
            segments: 0,
            snapshot_bytes: 0,
            reach_bytes: 0,
            chain: false,
            overwrite: false,
        }
    }

    /// The sizes on a device of `blocks` blocks of `lba_bytes`.
    ///
    /// # Errors
    /// [`JournalError::TooSmall`] or [`JournalError::Sizes`].
    pub fn geometry(&self, lba_bytes: u32, blocks: u64) -> Result<Geometry, JournalError> {
        let found = u64::from(lba_bytes).saturating_mul(blocks);
        let bad = |field, found, allowed| {
            let what = "journal superblock";
            Err(JournalError::Sizes(AbiError::Field { what, field, found, allowed }))
        };
        // Before anything is rounded up.
        for (field, found, most) in [
            ("batch size", self.batch_bytes.into(), 16 << 20),
            ("segment size", self.segment_bytes, 1 << 30),
            ("segment count", self.segments, 1 << 32),
            ("snapshot size", self.snapshot_bytes, 1 << 40),
        ] {
            if found > most {
                return bad(field, found, most);
            }
        }
        let lba = u64::from(lba_bytes.max(1));
        let mut g = Geometry {
            lba_bytes,
            batch_bytes: self.batch_bytes.next_multiple_of(lba_bytes.max(1)),
            segment_bytes: self.segment_bytes.next_multiple_of(lba),
            segments: self.segments,
            snapshot_bytes: self.snapshot_bytes.next_multiple_of(lba),
            reach_bytes: self.reach_bytes,
        };
        if g.segment_bytes == 0 {
            g.check().map_err(JournalError::Sizes)?;
        }
        if g.segments == 0 {
            g.segments = found.saturating_sub(g.data_offset()) / g.segment_bytes.max(1);
        }
        let least = Geometry { segments: g.segments.max(4), ..g }.total_bytes();
        if found < least {
            return Err(JournalError::TooSmall { needed: least, found });
        }
        if g.reach_bytes == 0 {
            g.reach_bytes = (g.ring_bytes() / 4).min(REACH_USUAL);
        }
        g.check().map_err(JournalError::Sizes)?;
        Ok(g)
    }
}

/// Makes an empty journal. The second slot is cleared first, so that a format that is cut short
/// leaves the journal that was there, or an empty one, and never a mixture.
///
/// # Errors
/// [`JournalError`]; [`JournalError::Foreign`] where the device carries something.
pub async fn format<M: Medium>(
    medium: &mut M,
    options: &FormatOptions,
) -> Result<JournalSuperblock, JournalError> {
    let g = options.geometry(medium.lba_bytes(), medium.blocks())?;
    let lba = g.lba_bytes as usize;
    if !options.overwrite {
        refuse_what_is_there(medium, lba).await?;
    }
    let promise = medium.promise();
    let mut first = JournalSuperblock::new(options.id, &g, options.name);
    first.created_unix_ns = options.created_unix_ns;
    first.unit_blocks = promise.unit_blocks;
    first.boundary_blocks = promise.boundary_blocks;
    if options.chain {
        first.flags |= JOURNAL_CHAINED;
        first.chain = chain::genesis(options.id);
    }
    medium.write(slot_lba(1, lba), lba, |room| room.fill(0)).await?;
    medium.flush().await?;
    put_superblock(medium, &first).await?;
    first.generation = 1;
    put_superblock(medium, &first).await?;
    Ok(first)
}

/// Anything in the superblocks' place but zeros.
async fn refuse_what_is_there<M: Medium>(medium: &mut M, lba: usize) -> Result<(), JournalError> {
    for slot in 0..2 {
        let bytes = medium.read(slot_lba(slot, lba), lba).await?;
        if bytes.iter().any(|byte| *byte != 0) {
            let byte = Geometry::superblock_byte(slot);
            return Err(JournalError::Foreign { byte, found: first_word(bytes) });
        }
    }
    Ok(())
}

pub(crate) fn first_word(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |word| u64::from_le_bytes(*word))
}

pub(crate) const fn slot_lba(slot: u64, lba: usize) -> u64 {
    Geometry::superblock_byte(slot) / lba as u64
}

/// Writes a superblock to its slot and flushes.
pub(crate) async fn put_superblock<M: Medium>(
    medium: &mut M,
    superblock: &JournalSuperblock,
) -> Result<(), IoError> {
    let lba = medium.lba_bytes() as usize;
    let slot = superblock.generation & 1;
    medium.write(slot_lba(slot, lba), lba, |room| encode(superblock, room)).await?;
    medium.flush().await
}

/// The block of a superblock.
pub(crate) fn encode(superblock: &JournalSuperblock, room: &mut [u8]) {
    debug_assert_eq!(superblock.magic, JOURNAL_MAGIC);
    let (head, rest) = room.split_at_mut(SUPERBLOCK_USED_BYTES);
    head.copy_from_slice(superblock.sealed(crc32c).as_bytes());
    rest.fill(0);
}
