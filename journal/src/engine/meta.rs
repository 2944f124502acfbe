//! Superblocks and index blocks: one on its way at a time.

use core_runtime::crc::crc32c;
use hybrid_abi::journal::{
    Chain, Geometry, INDEX_BYTES, INDEX_ENTRIES, IndexBlock, IndexEntry, JournalSuperblock, Mark,
};
use nvme_driver::IoError;
use zerocopy::IntoBytes;

use super::build::Open;
use super::{Action, EngineStats, Stage};
use crate::format::{encode, slot_lba};

/// What is on its way.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
enum Job {
    Superblock(JournalSuperblock),
    Index,
}

/// Superblocks and the index.
#[derive(Debug)]
pub(super) struct Meta {
    job: Option<(Job, Stage)>,
    asked: bool,
    /// Position and first record that the log is to begin with.
    front: (u64, u64),
    /// Index of the segment that is filled.
    building: IndexBlock,
    /// Index of a full segment, to be written.
    full: Option<IndexBlock>,
    /// Index that is on its way.
    writing: IndexBlock,
}

impl Meta {
    pub(super) fn new(superblock: &JournalSuperblock) -> Self {
        Self {
            job: None,
            asked: false,
            front: (superblock.front_position, superblock.front_sequence),
            building: begin(
                superblock,
                superblock.geometry().segment_of(superblock.checkpoint.position),
            ),
            full: None,
            writing: IndexBlock::empty(),
        }
    }

    pub(super) const fn is_in_flight(&self) -> bool {
        matches!(self.job, Some((_, Stage::Writing)))
    }

    pub(super) const fn ask(&mut self) {
        self.asked = true;
    }

    pub(super) const fn front(&self) -> (u64, u64) {
        self.front
    }

    pub(super) fn truncate(&mut self, position: u64, sequence: u64) {
        if position >= self.front.0 && sequence > self.front.1 {
            self.front = (position, sequence);
        }
    }

    /// A batch was closed; `end` is in front of the next one. Returns whether an index block was
    /// given up: two segments were full before the first one's was written.
    pub(super) fn note_batch(&mut self, g: &Geometry, open: &Open, end: &Mark) -> bool {
        let start = open.start();
        let offset = start.position % g.segment_bytes;
        let every = g.room_bytes() / INDEX_ENTRIES as u64;
        let last = self.building.entries().last().map_or(0, |entry| entry.offset.into());
        if self.building.count == 0 || offset - last >= every {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            let time_ns = end.time_ns;
            let (sequence, reserved) = (start.sequence, 0);
            // Where it is full, the segment is looked at from its last entry on.
            let _ = self.building.push(IndexEntry { sequence, time_ns, offset, reserved });
        }
        self.building.end_sequence = end.sequence;
        self.building.end_time_ns = end.time_ns;
        let next = g.segment_of(end.position);
        let is_full = next != self.building.segment;
        let given_up = is_full && self.full.is_some();
        if is_full {
            let mut fresh = IndexBlock::empty();
            fresh.id = self.building.id;
            fresh.epoch = self.building.epoch;
            fresh.segment = next;
            self.full = Some(core::mem::replace(&mut self.building, fresh));
        }
        given_up
    }

    /// The next superblock or index block to be written.
    pub(super) fn next(
        &mut self,
        g: &Geometry,
        durable: &mut JournalSuperblock,
        (acked, chain): (Mark, Chain),
        every_records: u64,
        stats: &mut EngineStats,
    ) -> Option<Action> {
        if self.job.is_some() {
            return None;
        }
        let checkpoint = durable.checkpoint;
        let moved = acked.position > checkpoint.position;
        let far = acked.sequence - checkpoint.sequence >= every_records
            || acked.position - checkpoint.position >= g.reach_bytes / 4;
        let truncated = self.front != (durable.front_position, durable.front_sequence);
        if truncated || moved && (far || self.asked) {
            self.asked = false;
            let mut next = *durable;
            next.generation += 1;
            next.checkpoint = acked;
            next.chain = chain;
            (next.front_position, next.front_sequence) = self.front;
            self.job = Some((Job::Superblock(next), Stage::Writing));
            let lba = slot_lba(next.generation & 1, g.lba_bytes as usize);
            return Some(Action::WriteMeta { lba, bytes: g.lba_bytes as usize });
        }
        self.asked = false;
        self.writing = self.full.take()?;
        // Its segment may have been given up and written over since, if it waited for long.
        if self.writing.segment + g.segments <= g.segment_of(acked.position) + 1 {
            stats.indexes_lost += 1;
            return None;
        }
        self.job = Some((Job::Index, Stage::Writing));
        let position = g.index_of(self.writing.segment);
        let bytes = INDEX_BYTES.max(g.lba_bytes) as usize;
        Some(Action::WriteMeta { lba: g.lba_of(position), bytes })
    }

    pub(super) fn encode(&self, room: &mut [u8]) {
        match &self.job {
            Some((Job::Superblock(superblock), _)) => encode(superblock, room),
            Some((Job::Index, _)) => {
                let (head, rest) = room.split_at_mut(INDEX_BYTES as usize);
                head.copy_from_slice(self.writing.sealed(crc32c).as_bytes());
                rest.fill(0);
            }
            None => {}
        }
    }

    /// Its write ended; returns the superblock if that is durable now.
    pub(super) fn written(
        &mut self,
        result: Result<(), IoError>,
        cached: bool,
        stats: &mut EngineStats,
    ) -> Result<Option<JournalSuperblock>, IoError> {
        match (self.job.take(), result) {
            (Some((Job::Index, _)), Ok(())) => stats.indexes += 1,
            (Some((Job::Index, _)), Err(_)) => stats.indexes_lost += 1,
            (Some((Job::Superblock(_), _)), Err(error)) => return Err(error),
            (Some((job @ Job::Superblock(_), _)), Ok(())) if cached => {
                self.job = Some((job, Stage::Written));
            }
            (Some((Job::Superblock(superblock), _)), Ok(())) => {
                stats.checkpoints += 1;
                return Ok(Some(superblock));
            }
            (None, _) => {}
        }
        Ok(None)
    }

    /// A flush begins; says whether something waits for it.
    pub(super) const fn cover(&mut self) -> bool {
        match &mut self.job {
            Some((_, stage @ Stage::Written)) => {
                *stage = Stage::Covered;
                true
            }
            _ => false,
        }
    }

    /// A flush ended; returns the superblock if that is durable now.
    pub(super) fn flushed(&mut self, stats: &mut EngineStats) -> Option<JournalSuperblock> {
        let Some((Job::Superblock(superblock), Stage::Covered)) = self.job else {
            return None;
        };
        self.job = None;
        stats.checkpoints += 1;
        Some(superblock)
    }
}

fn begin(superblock: &JournalSuperblock, segment: u64) -> IndexBlock {
    let mut block = IndexBlock::empty();
    block.id = superblock.id;
    block.epoch = superblock.epoch;
    block.segment = segment;
    block
}
