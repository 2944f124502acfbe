//! Opening: from the last checkpoint to the tail, and whether that is a tail.
//!
//! ```text
//!   superblocks ─ none ─▶ Empty, Foreign, Superblocks (both damaged)
//!        │ the newer one
//!        ▼
//!   batch at the position ◀─────┐
//!        │ whole, in order ─────┘
//!        │ anything else: a hole
//!        ▼
//!   every later place of a batch within the reach ─ nothing ─▶ the tail
//!        │ a batch of a later epoch ─▶ SuperblockLost
//!        └ a batch that says that the missing record was acknowledged ─▶ Lost
//! ```
//! A torn tail leaves batches that were in flight together with the missing one: none of them can
//! say that the missing one was acknowledged. Later batches can, and then it was there once. They
//! all lie within the reach, which the writer never leaves (`hybrid_abi::journal`), so that the
//! look ahead is bounded and misses none.

use core_runtime::crc::crc32c;
use hybrid_abi::AbiError;
use hybrid_abi::journal::{BatchFault, BatchHeader, Chain, Geometry, JournalSuperblock, Mark};
use nvme_driver::IoError;

use crate::chain;
use crate::error::{JournalError, Proof};
use crate::format::{first_word, put_superblock, slot_lba};
use crate::medium::Medium;
use crate::walk::{Walk, read_at};

/// Where the examination of an opening begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the last checkpoint.
    Checkpoint,
    /// At the log's first record: every record is verified.
    Front,
}

/// What an opening found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The superblock that counts.
    pub superblock: JournalSuperblock,
    /// Behind the last record.
    pub tail: Mark,
    /// Chain at the tail; zeros in a journal without one. Kept elsewhere, it proves later that
    /// nobody put another history in this one's place.
    pub chain: Chain,
    /// Why the tail is where it is.
    pub stopped_by: BatchFault,
    /// Batches behind the tail that were in flight when the log was cut off.
    pub dropped_batches: u64,
    /// Batches that were examined.
    pub batches: u64,
    /// Slot of a superblock that was unusable.
    pub damaged_slot: Option<u8>,
}

impl Recovered {
    /// The sizes.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.superblock.geometry()
    }
}

/// Finds the tail. Writes nothing.
///
/// # Errors
/// [`JournalError`]; an acknowledged record that is missing is one, a torn tail is none.
pub async fn recover<M: Medium>(medium: &mut M, from: From) -> Result<Recovered, JournalError> {
    let (superblock, damaged_slot) = superblock(medium).await?;
    let g = superblock.geometry();
    check_device(medium, &g)?;
    let superblock = check_front(medium, superblock, damaged_slot.is_some()).await?;
    let checkpoint = superblock.checkpoint;
    let mut batches = 0;
    if from == From::Front {
        batches += verify(medium, &superblock).await?;
    }
    let mut walk = start(&superblock, From::Checkpoint);
    let stopped_by = loop {
        let (count, fault) = walk_chunk(medium, &mut walk, u64::MAX).await?;
        batches += count;
        if let Some(fault) = fault {
            break fault;
        }
    };
    check_unit(medium, &walk, stopped_by).await?;
    // With one superblock damaged the newer one may be lost, and its reach with it.
    let reach = g.reach_bytes << u32::from(damaged_slot.is_some());
    let limit = checkpoint.position + reach;
    let dropped_batches = look_ahead(medium, &walk, stopped_by, limit).await?;
    let (tail, chain) = (walk.mark(), walk.chain.unwrap_or_default());
    Ok(Recovered { superblock, tail, chain, stopped_by, dropped_batches, batches, damaged_slot })
}

/// Verifies every record from the front to the checkpoint; returns how many batches there are.
async fn verify<M: Medium>(
    medium: &mut M,
    superblock: &JournalSuperblock,
) -> Result<u64, JournalError> {
    let checkpoint = superblock.checkpoint;
    let mut walk = start(superblock, From::Front);
    let mut batches = 0;
    while walk.position < checkpoint.position {
        let (count, fault) = walk_chunk(medium, &mut walk, checkpoint.position).await?;
        batches += count;
        if let Some(fault) = fault {
            let proof = Proof::Checkpoint { sequence: checkpoint.sequence };
            return Err(JournalError::Lost { at: walk.place(), fault, proof });
        }
    }
    let found = (walk.position, walk.sequence, walk.previous);
    if walk.chain.is_some_and(|chain| chain != superblock.chain) {
        let proof = Proof::Checkpoint { sequence: checkpoint.sequence };
        return Err(JournalError::Lost { at: walk.place(), fault: BatchFault::Chain, proof });
    }
    if found != (checkpoint.position, Some(checkpoint.sequence), Some(checkpoint.check)) {
        let proof = Proof::Checkpoint { sequence: checkpoint.sequence };
        let fault = BatchFault::Previous(walk.previous.unwrap_or(0));
        return Err(JournalError::Lost { at: walk.place(), fault, proof });
    }
    Ok(batches)
}

/// The newer superblock, and the slot of an unusable one.
async fn superblock<M: Medium>(
    medium: &mut M,
) -> Result<(JournalSuperblock, Option<u8>), JournalError> {
    let lba = medium.lba_bytes() as usize;
    if lba == 0 {
        return Err(JournalError::Io(IoError::Gone));
    }
    let mut found = [Err(AbiError::Short { what: "", found: 0, needed: 0 }); 2];
    let mut words = [0; 2];
    for (slot, (found, word)) in (0..).zip(found.iter_mut().zip(&mut words)) {
        let needed = slot_lba(slot, lba).saturating_add(1).saturating_mul(lba as u64);
        let device = medium.blocks().saturating_mul(lba as u64);
        if needed > device {
            return Err(JournalError::TooSmall { needed, found: device });
        }
        let bytes = medium.read(slot_lba(slot, lba), lba).await?;
        *word = first_word(bytes);
        *found = JournalSuperblock::parse(bytes, crc32c);
    }
    match found {
        [Ok(first), Ok(second)] if first.id != second.id => {
            Err(JournalError::Mixed { first: first.id, second: second.id })
        }
        [Ok(first), Ok(second)] if first.generation > second.generation => Ok((first, None)),
        [Ok(_), Ok(second)] => Ok((second, None)),
        [Ok(first), Err(_)] => Ok((first, Some(1))),
        [Err(_), Ok(second)] => Ok((second, Some(0))),
        [Err(AbiError::Magic { .. }), Err(AbiError::Magic { .. })] if words == [0, 0] => {
            Err(JournalError::Empty)
        }
        [Err(AbiError::Magic { .. }), Err(AbiError::Magic { .. })] => {
            let slot = if words[0] == 0 { 1 } else { 0 };
            let byte = Geometry::superblock_byte(slot as u64);
            Err(JournalError::Foreign { byte, found: words[slot] })
        }
        [Err(first), Err(second)] => Err(JournalError::Superblocks { first, second }),
    }
}

fn check_device<M: Medium>(medium: &M, g: &Geometry) -> Result<(), JournalError> {
    let device = medium.lba_bytes();
    if device != g.lba_bytes {
        return Err(JournalError::BlockSize { journal: g.lba_bytes, device });
    }
    let found = medium.blocks().saturating_mul(device.into());
    if found < g.total_bytes() {
        return Err(JournalError::TooSmall { needed: g.total_bytes(), found });
    }
    let (batch, buffer) = (g.batch_bytes, medium.chunk_bytes());
    if buffer < batch as usize {
        return Err(JournalError::Buffer { batch, buffer });
    }
    Ok(())
}

/// Looks whether the log begins where it should. A superblock that had to stand in for a newer one
/// may name a front that was truncated and overwritten since: then the log begins at the first
/// segment that is there.
async fn check_front<M: Medium>(
    medium: &mut M,
    mut superblock: JournalSuperblock,
    stands_in: bool,
) -> Result<JournalSuperblock, JournalError> {
    let g = superblock.geometry();
    let (id, checkpoint) = (superblock.id, superblock.checkpoint);
    let mut position = superblock.front_position;
    while position < checkpoint.position {
        let bytes = read_at(medium, &g, position, g.lba_bytes as usize).await?;
        let found = BatchHeader::parse(bytes, id, position, &g, crc32c);
        match found {
            Ok(header) if position == superblock.front_position => {
                if header.first_sequence <= superblock.front_sequence {
                    return Ok(superblock);
                }
            }
            Ok(header) => {
                superblock.front_position = position;
                superblock.front_sequence = header.first_sequence;
                return Ok(superblock);
            }
            Err(_) => {}
        }
        if !stands_in {
            let mut walk = start(&superblock, From::Front);
            walk.sequence = Some(superblock.front_sequence);
            let proof = Proof::Checkpoint { sequence: checkpoint.sequence };
            let fault = found.err().unwrap_or(BatchFault::Sequence(superblock.front_sequence));
            return Err(JournalError::Lost { at: walk.place(), fault, proof });
        }
        position += g.segment_bytes;
    }
    if position != superblock.front_position {
        superblock.front_position = g.segment_start(g.segment_of(checkpoint.position));
        superblock.front_sequence = checkpoint.sequence;
    }
    Ok(superblock)
}

fn start(superblock: &JournalSuperblock, from: From) -> Walk {
    let checkpoint = superblock.checkpoint;
    let (g, id, chained) = (superblock.geometry(), superblock.id, superblock.is_chained());
    match from {
        // Every opening begins its epoch with a checkpoint: behind it there is only that epoch.
        From::Checkpoint => Walk {
            g,
            id,
            position: checkpoint.position,
            sequence: Some(checkpoint.sequence),
            previous: Some(checkpoint.check),
            chained,
            chain: chained.then_some(superblock.chain),
            epochs: (superblock.epoch, superblock.epoch),
            time_ns: checkpoint.time_ns,
        },
        From::Front => {
            let empty = superblock.front_position == checkpoint.position;
            Walk {
                g,
                id,
                position: superblock.front_position,
                sequence: empty.then_some(checkpoint.sequence),
                previous: empty.then_some(checkpoint.check),
                chained,
                chain: first_chain(superblock, superblock.front_position),
                epochs: (0, superblock.epoch),
                time_ns: 0,
            }
        }
    }
}

/// The chain in front of the batch at `position`, where that is known without reading.
pub(crate) fn first_chain(superblock: &JournalSuperblock, position: u64) -> Option<Chain> {
    match position {
        _ if !superblock.is_chained() => None,
        0 => Some(chain::genesis(superblock.id)),
        at if at == superblock.checkpoint.position => Some(superblock.chain),
        _ => None,
    }
}

/// Goes over the batches of one read that begin before `limit`; returns how many, and what ended
/// it if it is not just the buffer's end.
async fn walk_chunk<M: Medium>(
    medium: &mut M,
    walk: &mut Walk,
    limit: u64,
) -> Result<(u64, Option<BatchFault>), IoError> {
    let (base, len) = (walk.position, walk.run_bytes(medium));
    let g = walk.g;
    let bytes = read_at(medium, &g, base, len).await?;
    let mut count = 0;
    while walk.position < limit
        && let Some(rest) = rest_of(bytes, base, walk.position)
    {
        match walk.step(rest) {
            Ok(Some(_)) => count += 1,
            Ok(None) if count == 0 => return Ok((0, Some(BatchFault::Length(0)))),
            Ok(None) => break,
            Err(fault) => return Ok((count, Some(fault))),
        }
    }
    Ok((count, None))
}

/// What of `bytes`, read at `base`, lies from `position` on; `None` if nothing.
pub(crate) fn rest_of(bytes: &[u8], base: u64, position: u64) -> Option<&[u8]> {
    let skip = usize::try_from(position.checked_sub(base)?).ok()?;
    bytes.get(skip..).filter(|rest| !rest.is_empty())
}

/// A batch whose header is whole and whose records are not, where the device promised that so many
/// blocks are written whole or not at all, has decayed and was not torn.
async fn check_unit<M: Medium>(
    medium: &mut M,
    walk: &Walk,
    fault: BatchFault,
) -> Result<(), JournalError> {
    if !matches!(fault, BatchFault::Record(_)) {
        return Ok(());
    }
    let promise = medium.promise();
    let g = walk.g;
    let bytes = read_at(medium, &g, walk.position, g.lba_bytes as usize).await?;
    let Ok(header) = BatchHeader::parse(bytes, walk.id, walk.position, &g, crc32c) else {
        return Ok(());
    };
    let blocks = u64::from(header.bytes.div_ceil(g.lba_bytes));
    if promise.is_atomic(g.lba_of(walk.position), blocks) {
        let proof = Proof::Unit { blocks: promise.unit_blocks };
        return Err(JournalError::Lost { at: walk.place(), fault, proof });
    }
    Ok(())
}

/// Looks at every place of a batch from the hole to `limit`; returns how many batches are there
/// that were in flight.
async fn look_ahead<M: Medium>(
    medium: &mut M,
    walk: &Walk,
    fault: BatchFault,
    limit: u64,
) -> Result<u64, JournalError> {
    let known = walk.epochs.1;
    let missing = walk.sequence.unwrap_or(0);
    let lba = walk.g.lba_bytes as usize;
    let mut dropped = 0;
    let mut at = *walk;
    while at.position < limit {
        let base = at.position;
        let len = at.run_bytes(medium);
        if len == 0 {
            at.position = (base + 1).next_multiple_of(at.g.segment_bytes);
            continue;
        }
        let bytes = read_at(medium, &at.g, base, len).await?;
        for (position, block) in (base..).step_by(lba).zip(bytes.chunks(lba)) {
            if position >= limit {
                return Ok(dropped);
            }
            let Ok(header) = BatchHeader::parse(block, at.id, position, &at.g, crc32c) else {
                continue;
            };
            if header.epoch > known {
                let epoch = header.epoch;
                return Err(JournalError::SuperblockLost { epoch, position, known });
            }
            if header.epoch == known && header.acknowledged > missing {
                let acknowledged = header.acknowledged;
                let proof = Proof::Batch { position, acknowledged };
                return Err(JournalError::Lost { at: walk.place(), fault, proof });
            }
            dropped += u64::from(header.epoch == known);
        }
        at.position = base + len as u64;
    }
    Ok(dropped)
}

/// Takes the log over for writing: what was recovered is made durable, and a new epoch begins in
/// both superblocks.
///
/// Batches behind the checkpoint are written again as they are: after a failed flush a cache may
/// still show what the medium has lost, and a flush alone would not bring it back.
///
/// # Errors
/// [`JournalError::Io`].
pub async fn take_over<M: Medium>(
    medium: &mut M,
    recovered: &Recovered,
) -> Result<JournalSuperblock, JournalError> {
    let promise = medium.promise();
    if promise.cached {
        write_again(medium, recovered).await?;
        medium.flush().await?;
    }
    let mut superblock = recovered.superblock;
    superblock.epoch += 1;
    superblock.checkpoint = recovered.tail;
    superblock.chain = recovered.chain;
    superblock.unit_blocks = promise.unit_blocks;
    superblock.boundary_blocks = promise.boundary_blocks;
    for _ in 0..2 {
        superblock.generation += 1;
        put_superblock(medium, &superblock).await?;
    }
    Ok(superblock)
}

async fn write_again<M: Medium>(medium: &mut M, recovered: &Recovered) -> Result<(), JournalError> {
    let mut walk = start(&recovered.superblock, From::Checkpoint);
    while walk.position < recovered.tail.position {
        let base = walk.position;
        let g = walk.g;
        let (_, fault) = walk_chunk(medium, &mut walk, recovered.tail.position).await?;
        if let Some(fault) = fault {
            let proof = Proof::Checkpoint { sequence: recovered.tail.sequence };
            return Err(JournalError::Lost { at: walk.place(), fault, proof });
        }
        let end = if g.segment_of(walk.position) == g.segment_of(base) {
            walk.position
        } else {
            g.index_of(g.segment_of(base))
        };
        let len = usize::try_from(end - base).unwrap_or(usize::MAX).min(medium.chunk_bytes());
        read_at(medium, &g, base, len).await?;
        medium.write_back(g.lba_of(base), len).await?;
    }
    Ok(())
}
