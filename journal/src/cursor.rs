//! Reading in order, from a sequence number or a time on.

use core_runtime::crc::crc32c;
use hybrid_abi::journal::{
    BatchFault, BatchHeader, Chain, Geometry, INDEX_BYTES, IndexBlock, IndexEntry,
    JournalSuperblock, Mark, RecordView, Records,
};

use crate::error::{ReadError, Where};
use crate::medium::Medium;
use crate::recover::{Recovered, first_chain, rest_of};
use crate::walk::{Walk, read_at};

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// At the log's first record.
    Front,
    /// At this record.
    Sequence(u64),
    /// At the first record that is not earlier than this, nanoseconds. Where clocks have jumped
    /// back, at the first of them.
    Time(u64),
}

/// What is known of a log that is read: its sizes, where it begins and where it ends.
#[derive(Clone, Copy, Debug)]
struct Span {
    g: Geometry,
    id: u64,
    epoch: u64,
    front_position: u64,
    front_sequence: u64,
    end: Mark,
    /// Whether batches are chained, the chain at genesis, and the one at the end, where it is
    /// known.
    chained: bool,
    genesis: Option<Chain>,
    end_chain: Option<Chain>,
}

/// A place in the log that moves forward. Every batch is verified before a record of it is seen.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    walk: Walk,
    span: Span,
    seek: Seek,
}

impl Cursor {
    /// Opens a cursor on what a recovery found; `end` moves it on later ([`Cursor::extend`]).
    ///
    /// # Errors
    /// [`ReadError`]; a sequence number that is not in the log is one.
    pub async fn open<M: Medium>(
        medium: &mut M,
        log: &Recovered,
        seek: Seek,
    ) -> Result<Self, ReadError> {
        let superblock = log.superblock;
        let span = Span {
            // A log that is written while it is read has one epoch more than it was found with.
            epoch: superblock.epoch + 1,
            end_chain: superblock.is_chained().then_some(log.chain),
            ..Span::of(&superblock, log.tail)
        };
        let (sequence, front, end) = match seek {
            Seek::Front | Seek::Time(_) => (span.front_sequence, 0, u64::MAX),
            Seek::Sequence(sequence) => (sequence, span.front_sequence, span.end.sequence),
        };
        if !(front..=end).contains(&sequence) {
            return Err(ReadError::OutOfRange { sequence, front, end });
        }
        let position = match seek {
            Seek::Front => span.front_position,
            Seek::Sequence(sequence) => {
                let is_before = |seen: u64, _| seen <= sequence;
                span.find(medium, is_before).await?
            }
            Seek::Time(time) => span.find(medium, |_, seen| seen < time).await?,
        };
        let seek = match seek {
            Seek::Front => Seek::Sequence(span.front_sequence),
            other => other,
        };
        Ok(Self { walk: span.walk_from(position), span, seek })
    }

    /// Sequence number of the record that comes next, once it is known.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.walk.sequence.unwrap_or(self.span.front_sequence)
    }

    /// Position of the batch that is read next: what [`crate::Journal::truncate`] wants to know of
    /// a record that was looked for.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.walk.position
    }

    /// Moves the end on, to what has been acknowledged since.
    pub fn extend(&mut self, end: Mark) {
        if end.sequence >= self.span.end.sequence {
            if end != self.span.end {
                self.span.end_chain = None;
            }
            self.span.end = end;
        }
    }

    /// Whether all records were read.
    #[must_use]
    pub const fn is_at_end(&self) -> bool {
        self.walk.position >= self.span.end.position
    }

    /// Reads on and calls `visit` for each record of one read of the device; returns whether there
    /// is more.
    ///
    /// # Errors
    /// [`ReadError::Lost`] with the place.
    pub async fn advance<M: Medium>(
        &mut self,
        medium: &mut M,
        mut visit: impl FnMut(&RecordView<'_>),
    ) -> Result<bool, ReadError> {
        let each = |record: &RecordView<'_>| {
            visit(record);
            true
        };
        self.advance_while(medium, each).await
    }

    /// Like [`Cursor::advance`], until `visit` says no: the record that it says no to comes first
    /// next time.
    ///
    /// # Errors
    /// As [`Cursor::advance`].
    pub async fn advance_while<M: Medium>(
        &mut self,
        medium: &mut M,
        mut visit: impl FnMut(&RecordView<'_>) -> bool,
    ) -> Result<bool, ReadError> {
        if self.is_at_end() {
            return Ok(false);
        }
        let (base, len) = (self.walk.position, self.walk.run_bytes(medium));
        let bytes = read_at(medium, &self.span.g, base, len).await?;
        while !self.is_at_end()
            && let Some(rest) = rest_of(bytes, base, self.walk.position)
        {
            let before = self.walk;
            let at = Where { sequence: self.next_sequence(), ..before.place() };
            let step = match self.walk.step(rest) {
                Ok(Some(step)) => step,
                Ok(None) if self.walk.position == base => {
                    return Err(ReadError::Lost { at, fault: BatchFault::Length(0) });
                }
                Ok(None) => break,
                Err(fault) => return Err(ReadError::Lost { at, fault }),
            };
            for record in Records::new(step.bytes) {
                let wanted = match self.seek {
                    Seek::Front => true,
                    Seek::Sequence(sequence) => record.header.sequence >= sequence,
                    Seek::Time(time) => record.header.time_ns >= time,
                };
                if !wanted {
                    continue;
                }
                if !visit(&record) {
                    self.walk = before;
                    self.seek = Seek::Sequence(record.header.sequence);
                    return Ok(true);
                }
                self.seek = Seek::Front;
            }
            debug_assert!(step.header.records > 0);
        }
        self.check_end()?;
        Ok(!self.is_at_end())
    }

    /// At the end of what is known, the last record has to be the one that is known.
    fn check_end(&self) -> Result<(), ReadError> {
        let (end, walk) = (self.span.end, &self.walk);
        let same = walk.sequence == Some(end.sequence) && walk.previous == Some(end.check);
        if self.is_at_end() && (walk.position != end.position || !same) {
            let fault = BatchFault::Previous(walk.previous.unwrap_or(0));
            return Err(ReadError::Lost { at: walk.place(), fault });
        }
        if let (true, Some(known), Some(found)) =
            (self.is_at_end(), self.span.end_chain, walk.chain)
            && known != found
        {
            return Err(ReadError::Lost { at: walk.place(), fault: BatchFault::Chain });
        }
        Ok(())
    }
}

/// Position and first record of the log's second segment, if there is one: where a log begins that
/// gives its oldest segment up ([`crate::Journal::truncate`]). `end` is what is acknowledged.
///
/// # Errors
/// [`ReadError`].
pub async fn second_segment<M: Medium>(
    medium: &mut M,
    superblock: &JournalSuperblock,
    end: Mark,
) -> Result<Option<(u64, u64)>, ReadError> {
    let g = superblock.geometry();
    let span = Span::of(superblock, end);
    let start = g.segment_start(g.segment_of(superblock.front_position) + 1);
    if start >= end.position {
        return Ok(None);
    }
    let header = span.header(medium, start).await?;
    Ok(Some((start, header.first_sequence)))
}

impl Span {
    fn of(superblock: &JournalSuperblock, end: Mark) -> Self {
        Self {
            g: superblock.geometry(),
            id: superblock.id,
            epoch: superblock.epoch,
            front_position: superblock.front_position,
            front_sequence: superblock.front_sequence,
            end,
            chained: superblock.is_chained(),
            genesis: first_chain(superblock, 0),
            end_chain: None,
        }
    }

    fn walk_from(&self, position: u64) -> Walk {
        Walk {
            g: self.g,
            id: self.id,
            position,
            sequence: None,
            previous: None,
            chained: self.chained,
            chain: self.genesis.filter(|_| position == 0),
            epochs: (0, self.epoch),
            time_ns: 0,
        }
    }

    /// The header of the batch at `position`.
    async fn header<M: Medium>(
        &self,
        medium: &mut M,
        position: u64,
    ) -> Result<BatchHeader, ReadError> {
        let bytes = read_at(medium, &self.g, position, self.g.lba_bytes as usize).await?;
        BatchHeader::parse(bytes, self.id, position, &self.g, crc32c)
            .map_err(|fault| ReadError::Lost { at: self.walk_from(position).place(), fault })
    }

    /// Position of a batch at or before the first for which `is_before` (first record, latest time)
    /// does not hold: by halving among segments, then through the segment's index.
    async fn find<M: Medium>(
        &self,
        medium: &mut M,
        is_before: impl Fn(u64, u64) -> bool,
    ) -> Result<u64, ReadError> {
        if self.front_position >= self.end.position {
            return Ok(self.end.position);
        }
        let mut low = self.g.segment_of(self.front_position);
        let mut high = self.g.segment_of(self.end.position - 1);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let start = self.g.segment_start(middle);
            if start >= self.end.position {
                high = middle - 1;
                continue;
            }
            let header = self.header(medium, start).await?;
            if is_before(header.first_sequence, header.time_ns) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        let start = self.g.segment_start(low);
        let bytes = INDEX_BYTES.max(self.g.lba_bytes) as usize;
        let block = read_at(medium, &self.g, self.g.index_of(low), bytes).await?;
        let Some(index) = IndexBlock::parse(block, self.id, low, crc32c) else {
            return Ok(start);
        };
        let before = |entry: &IndexEntry| is_before(entry.sequence, entry.time_ns);
        let count = index.entries().partition_point(before);
        let Some(entry) = count.checked_sub(1).and_then(|at| index.entries().get(at)) else {
            return Ok(start);
        };
        let position = start + u64::from(entry.offset);
        if u64::from(entry.offset) >= self.g.room_bytes() || !self.g.is_batch_place(position) {
            return Ok(start);
        }
        // An index of a history that was cut off points at what is not there any more.
        match self.header(medium, position).await {
            Ok(header)
                if header.first_sequence == entry.sequence && position < self.end.position =>
            {
                Ok(position)
            }
            _ => Ok(start),
        }
    }
}
