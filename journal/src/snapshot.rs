//! State beside the log: two slots, the older one is overwritten, the header goes last.

use core_runtime::crc::{Crc32c, crc32c};
use hybrid_abi::journal::{
    Geometry, JOURNAL_VERSION, SNAPSHOT_HEADER_BYTES, SNAPSHOT_MAGIC, SnapshotHeader,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::error::JournalError;
use crate::medium::Medium;
use crate::recover::Recovered;

/// A snapshot on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The first record that is not in it.
    pub sequence: u64,
    /// Bytes of the state.
    pub length: u64,
    /// What the state is.
    pub kind: u32,
    /// Time that its writer gave it.
    pub time_ns: u64,
    /// One more for each snapshot.
    pub generation: u64,
}

/// Bytes between a slot's start and its state.
const fn state_offset(g: &Geometry) -> u64 {
    if g.lba_bytes > 4096 { g.lba_bytes as u64 } else { 4096 }
}

/// Bytes of state that a slot holds.
#[must_use]
pub(crate) const fn room(g: &Geometry) -> u64 {
    g.snapshot_bytes.saturating_sub(state_offset(g))
}

/// The header in `slot`, if there is a good one.
async fn header<M: Medium>(
    medium: &mut M,
    g: &Geometry,
    id: u64,
    slot: u64,
) -> Result<Option<SnapshotHeader>, JournalError> {
    if room(g) == 0 {
        return Ok(None);
    }
    let lba = g.lba_bytes as usize;
    let bytes = medium.read(g.snapshot_byte(slot) / lba as u64, lba).await?;
    Ok(SnapshotHeader::parse(bytes, id, room(g), crc32c).ok().filter(|h| h.generation & 1 == slot))
}

/// Writes the state that `fill` puts into each piece of it, in order, as the snapshot of all
/// records below `info.sequence`. `info.generation` is not looked at.
///
/// The slot of the older snapshot is taken: until the new header is durable, the newer one counts.
///
/// # Errors
/// [`JournalError::SnapshotSize`], [`JournalError::SnapshotAhead`], [`JournalError::Io`].
pub async fn save_snapshot<M: Medium>(
    medium: &mut M,
    log: &Recovered,
    acknowledged: u64,
    info: SnapshotInfo,
    mut fill: impl FnMut(u64, &mut [u8]),
) -> Result<SnapshotInfo, JournalError> {
    let g = log.geometry();
    let (id, sequence, length) = (log.superblock.id, info.sequence, info.length);
    if length > room(&g) || room(&g) == 0 {
        return Err(JournalError::SnapshotSize { length, room: room(&g) });
    }
    if sequence > acknowledged {
        return Err(JournalError::SnapshotAhead { sequence, acknowledged });
    }
    let mut newest = 0;
    for slot in 0..2 {
        let found = header(medium, &g, id, slot).await?;
        newest = newest.max(found.map_or(0, |header| header.generation));
    }
    let generation = newest + 1;
    let slot = generation & 1;
    let start = g.snapshot_byte(slot) + state_offset(&g);
    let mut crc = Crc32c::new();
    let mut done = 0;
    while done < length {
        let piece = usize::try_from(length - done).unwrap_or(usize::MAX).min(medium.chunk_bytes());
        let bytes = piece.next_multiple_of(g.lba_bytes as usize);
        let lba = (start + done) / u64::from(g.lba_bytes);
        let into = |buf: &mut [u8]| {
            let (state, rest) = buf.split_at_mut(piece);
            fill(done, state);
            crc.update(state);
            rest.fill(0);
        };
        medium.write(lba, bytes, into).await?;
        done += piece as u64;
    }
    medium.flush().await?;
    let mut head = SnapshotHeader::new_zeroed();
    head.magic = SNAPSHOT_MAGIC;
    head.version = JOURNAL_VERSION;
    head.kind = info.kind;
    head.id = id;
    head.epoch = log.superblock.epoch;
    head.generation = generation;
    head.sequence = sequence;
    head.length = length;
    head.time_ns = info.time_ns;
    head.state_crc32c = crc.value();
    let head = head.sealed(crc32c);
    let lba = g.lba_bytes as usize;
    let into = |buf: &mut [u8]| {
        let (first, rest) = buf.split_at_mut(SNAPSHOT_HEADER_BYTES);
        first.copy_from_slice(head.as_bytes());
        rest.fill(0);
    };
    medium.write(g.snapshot_byte(slot) / lba as u64, lba, into).await?;
    medium.flush().await?;
    Ok(SnapshotInfo { generation, ..info })
}

/// Reads the newest snapshot that is whole and not ahead of the log, and gives its state to `take`
/// piece by piece, each with its snapshot and offset. What it was given counts only once this
/// returns the same snapshot: a state that turns out damaged was given too, and the older one comes
/// after it. `None` where there is none.
///
/// # Errors
/// [`JournalError::Io`].
pub async fn load_snapshot<M: Medium>(
    medium: &mut M,
    log: &Recovered,
    mut take: impl FnMut(&SnapshotInfo, u64, &[u8]),
) -> Result<Option<SnapshotInfo>, JournalError> {
    let g = log.geometry();
    let first = header(medium, &g, log.superblock.id, 0).await?;
    let second = header(medium, &g, log.superblock.id, 1).await?;
    let newer_first = match (first, second) {
        (Some(a), Some(b)) if a.generation > b.generation => [first, second],
        _ => [second, first],
    };
    for head in newer_first.into_iter().flatten() {
        let in_log = (log.superblock.front_sequence..=log.tail.sequence).contains(&head.sequence);
        let info = SnapshotInfo {
            sequence: head.sequence,
            length: head.length,
            kind: head.kind,
            time_ns: head.time_ns,
            generation: head.generation,
        };
        if in_log && read_state(medium, &g, &head, |at, state| take(&info, at, state)).await? {
            return Ok(Some(info));
        }
    }
    Ok(None)
}

/// Reads a state; says whether it is whole.
async fn read_state<M: Medium>(
    medium: &mut M,
    g: &Geometry,
    head: &SnapshotHeader,
    mut take: impl FnMut(u64, &[u8]),
) -> Result<bool, JournalError> {
    let start = g.snapshot_byte(head.generation & 1) + state_offset(g);
    let mut crc = Crc32c::new();
    let mut done = 0;
    while done < head.length {
        let left = usize::try_from(head.length - done).unwrap_or(usize::MAX);
        let piece = left.min(medium.chunk_bytes());
        let bytes = piece.next_multiple_of(g.lba_bytes as usize);
        let lba = (start + done) / u64::from(g.lba_bytes);
        let state = medium.read(lba, bytes).await?.split_at(piece).0;
        crc.update(state);
        take(done, state);
        done += piece as u64;
    }
    Ok(crc.value() == head.state_crc32c)
}
