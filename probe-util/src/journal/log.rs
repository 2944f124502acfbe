//! A journal in a file, read by the layouts alone.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use hybrid_abi::crc::crc32c;
use hybrid_abi::journal::{
    BatchFault, BatchHeader, CHAIN_CONTEXT, Chain, Expected, Geometry, IndexBlock, JOURNAL_MAGIC,
    JournalSuperblock, Mark, RecordView, Records,
};

/// A segment that is part of the log.
pub(super) struct Segment {
    /// Counted from the log's genesis.
    pub(super) number: u64,
    /// Where it lies.
    pub(super) byte: u64,
    /// Its first batch; `None` where none is there.
    pub(super) first: Option<BatchHeader>,
    /// Entries of its index; `None` where there is none.
    pub(super) index_entries: Option<u32>,
}

/// How the log ends.
pub(super) enum End {
    /// Nothing on the device contradicts that it ends here.
    Tail { mark: Mark, chain: Option<Chain>, proved: Option<u64>, dropped: u64, by: String },
    /// It went on once.
    Lost { mark: Mark, why: String },
}

impl End {
    pub(super) const fn mark(&self) -> &Mark {
        match self {
            Self::Tail { mark, .. } | Self::Lost { mark, .. } => mark,
        }
    }
}

/// What a verification found.
pub(super) struct Verified {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) lost: Option<String>,
    /// Whether the chain was followed from genesis, and not from the log's first batch.
    pub(super) from_genesis: bool,
    /// The record in front of which the chain is the one that was asked for.
    pub(super) proved: Option<u64>,
}

/// The chain behind `bytes`: a whole batch, or what stands for genesis.
fn chain_of(bytes: &[u8]) -> Chain {
    let mut chain = Chain::default();
    blake3::Hasher::new_derive_key(CHAIN_CONTEXT).update(bytes).finalize_xof().fill(&mut chain);
    chain
}

/// The file and its superblock.
pub(super) struct Log {
    file: File,
    pub(super) superblock: JournalSuperblock,
    /// Slot of a superblock that is unusable, and why.
    pub(super) damaged_slot: Option<(usize, String)>,
    g: Geometry,
}

/// A place between two batches.
struct At {
    mark: Mark,
    sequence: Option<u64>,
    previous: Option<u32>,
    chain: Option<Chain>,
    epoch_min: u64,
}

impl Log {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        let mut found = Vec::new();
        for slot in 0..2 {
            let mut bytes = [0; 512];
            file.read_exact_at(&mut bytes, Geometry::superblock_byte(slot))
                .context("there is no room for a superblock")?;
            found.push(JournalSuperblock::parse(&bytes, crc32c));
        }
        let (superblock, damaged_slot) = match (&found[0], &found[1]) {
            (Ok(first), Ok(second)) if first.id != second.id => {
                bail!(
                    "the superblocks belong to two journals, ids {:#018x} and {:#018x}",
                    first.id,
                    second.id
                )
            }
            (Ok(first), Ok(second)) => {
                (if first.generation > second.generation { first } else { second }, None)
            }
            (Ok(first), Err(error)) => (first, Some((1, error.to_string()))),
            (Err(error), Ok(second)) => (second, Some((0, error.to_string()))),
            (Err(first), Err(second)) => {
                bail!("there is no journal: slot 0: {first}; slot 1: {second}")
            }
        };
        let (superblock, g) = (*superblock, superblock.geometry());
        Ok(Self { file, superblock, damaged_slot, g })
    }

    fn read(&self, bytes: &mut [u8], position: u64) -> Result<()> {
        self.file
            .read_exact_at(bytes, self.g.byte_of(position))
            .with_context(|| format!("the device ends before position {position} of the log"))
    }

    /// The bytes of the batch at `position`, if one begins there; else of its first block.
    fn batch_bytes(&self, position: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.g.lba_bytes as usize];
        self.read(&mut bytes, position)?;
        let id = self.superblock.id;
        if let Ok(header) = BatchHeader::parse(&bytes, id, position, &self.g, crc32c)
            && header.bytes > self.g.lba_bytes
        {
            bytes.resize(header.bytes as usize, 0);
            self.read(&mut bytes, position)?;
        }
        Ok(bytes)
    }

    fn header(&self, position: u64) -> Result<Result<BatchHeader, BatchFault>> {
        let mut bytes = [0; 512];
        self.read(&mut bytes, position)?;
        Ok(BatchHeader::parse(&bytes, self.superblock.id, position, &self.g, crc32c))
    }

    /// The segments from the front to the last checkpoint.
    pub(super) fn segments(&self) -> Result<Vec<Segment>> {
        let first = self.g.segment_of(self.superblock.front_position);
        let last = self.g.segment_of(self.superblock.checkpoint.position);
        (first..=last).map(|number| self.segment(number)).collect()
    }

    fn segment(&self, number: u64) -> Result<Segment> {
        let start = self.g.segment_start(number);
        let mut bytes = [0; 4096];
        self.read(&mut bytes, self.g.index_of(number))?;
        let index = IndexBlock::parse(&bytes, self.superblock.id, number, crc32c);
        Ok(Segment {
            number,
            byte: self.g.byte_of(start),
            first: self.header(start)?.ok(),
            index_entries: index.map(|index| index.count),
        })
    }

    /// Goes over the batch at `at`.
    fn step(
        &self,
        at: &mut At,
        epoch_max: u64,
    ) -> Result<Result<(BatchHeader, Vec<u8>), BatchFault>> {
        let bytes = self.batch_bytes(at.mark.position)?;
        let expected = Expected {
            id: self.superblock.id,
            position: at.mark.position,
            sequence: at.sequence,
            previous: at.previous,
            chain: at.chain,
            epoch_min: at.epoch_min,
            epoch_max,
        };
        let (header, check) = match BatchHeader::check(&bytes, &expected, &self.g, crc32c) {
            Ok(found) => found,
            Err(fault) => return Ok(Err(fault)),
        };
        at.mark.position = self.g.next_batch(header.end());
        at.mark.sequence = header.end_sequence();
        at.mark.time_ns = at.mark.time_ns.max(header.time_ns);
        at.mark.check = check;
        at.sequence = Some(header.end_sequence());
        at.previous = Some(check);
        at.epoch_min = header.epoch;
        let batch = bytes.split_at(header.bytes as usize).0;
        at.chain = self.superblock.is_chained().then(|| chain_of(batch));
        Ok(Ok((header, bytes)))
    }

    /// Where the log ends, from the checkpoint on, by the rules of `docs/journal.md`; and in front
    /// of which record there its chain was `wanted`.
    pub(super) fn end(&self, wanted: Option<Chain>) -> Result<End> {
        let (mark, epoch) = (self.superblock.checkpoint, self.superblock.epoch);
        let (sequence, previous) = (Some(mark.sequence), Some(mark.check));
        let chain = self.superblock.is_chained().then_some(self.superblock.chain);
        let mut at = At { mark, sequence, previous, chain, epoch_min: epoch };
        let mut proved = None;
        let fault = loop {
            if at.chain.is_some() && at.chain == wanted {
                proved = Some(at.mark.sequence);
            }
            if let Err(fault) = self.step(&mut at, epoch)? {
                break fault;
            }
        };
        let reach = self.g.reach_bytes << u32::from(self.damaged_slot.is_some());
        let limit = mark.position + reach;
        let mut dropped = 0;
        let mut position = at.mark.position;
        while position < limit {
            if !self.g.is_batch_place(position) {
                position = (position + 1).next_multiple_of(self.g.segment_bytes);
                continue;
            }
            if let Ok(header) = self.header(position)? {
                if header.epoch > epoch {
                    let why = format!(
                        "records of epoch {} at position {position}, the superblocks know {epoch}",
                        header.epoch
                    );
                    return Ok(End::Lost { mark: at.mark, why });
                }
                if header.epoch == epoch && header.acknowledged > at.mark.sequence {
                    let why = format!(
                        "record {} at position {} (byte {} of the device) is lost ({fault}): the \
                         batch at position {position} says that records below {} were acknowledged",
                        at.mark.sequence,
                        at.mark.position,
                        self.g.byte_of(at.mark.position),
                        header.acknowledged
                    );
                    return Ok(End::Lost { mark: at.mark, why });
                }
                dropped += u64::from(header.epoch == epoch);
            }
            position += u64::from(self.g.lba_bytes);
        }
        Ok(End::Tail { mark: at.mark, chain: at.chain, proved, dropped, by: fault.to_string() })
    }

    /// Calls `visit` for each record from `from` on until it says no; says what is lost on the way.
    pub(super) fn each(
        &self,
        end: &End,
        from: u64,
        mut visit: impl FnMut(&RecordView<'_>) -> bool,
        mut passed: impl FnMut(u64, Option<Chain>),
    ) -> Result<Option<String>> {
        let mark = Mark { position: self.superblock.front_position, ..self.superblock.checkpoint };
        let mut at = At { mark, sequence: None, previous: None, chain: None, epoch_min: 0 };
        at.mark.sequence = self.superblock.front_sequence;
        let last = self.g.segment_of(end.mark().position);
        // The last segment that begins at or before the record.
        for number in self.g.segment_of(at.mark.position)..=last {
            let start = self.g.segment_start(number);
            match self.header(start)? {
                Ok(header) if header.first_sequence <= from && start < end.mark().position => {
                    at.mark.position = start;
                    at.mark.sequence = header.first_sequence;
                }
                _ => break,
            }
        }
        if at.mark.position == 0 && self.superblock.is_chained() {
            at.chain = Some(self.genesis());
        }
        let checkpoint = self.superblock.checkpoint.position;
        while at.mark.position < end.mark().position {
            passed(at.mark.sequence, at.chain);
            if at.mark.position == checkpoint
                && at.chain.is_some_and(|c| c != self.superblock.chain)
            {
                return Ok(Some(format!(
                    "the records below {} are not those that the checkpoint knew: {}",
                    at.mark.sequence,
                    BatchFault::Chain
                )));
            }
            let place = at.mark;
            match self.step(&mut at, self.superblock.epoch)? {
                Ok((header, bytes)) => {
                    let batch = bytes.split_at(header.bytes as usize).0;
                    for record in Records::new(batch) {
                        if record.header.sequence >= from && !visit(&record) {
                            return Ok(None);
                        }
                    }
                }
                Err(fault) => {
                    return Ok(Some(format!(
                        "record {} at position {} (byte {} of the device) is lost: {fault}",
                        place.sequence,
                        place.position,
                        self.g.byte_of(place.position)
                    )));
                }
            }
        }
        Ok(None)
    }

    /// The chain in front of record 0.
    fn genesis(&self) -> Chain {
        let words = [JOURNAL_MAGIC.to_le_bytes(), self.superblock.id.to_le_bytes()];
        chain_of(&words.concat())
    }

    /// Verifies every record; says whether the log was `wanted` at some place.
    pub(super) fn verify(&self, end: &End, wanted: Option<Chain>) -> Result<Verified> {
        let (mut records, mut bytes, mut proved) = (0, 0, None);
        let note = |sequence, chain: Option<Chain>| {
            if chain.is_some() && chain == wanted {
                proved = Some(sequence);
            }
        };
        let count = |record: &RecordView<'_>| {
            records += 1;
            bytes += u64::from(record.header.length);
            true
        };
        let mut lost = self.each(end, 0, count, note)?;
        if let (None, End::Tail { mark, chain, .. }) = (&lost, end)
            && chain.is_some()
            && *chain == wanted
        {
            proved = Some(mark.sequence);
        }
        let from_genesis = self.superblock.front_position == 0 && self.superblock.is_chained();
        Ok(Verified { records, bytes, lost: lost.take(), from_genesis, proved })
    }
}
