//! The crashes that the notes tell of.
//!
//! A power failure keeps what a flush that ended had covered, and of the writes behind it any,
//! whole or in blocks. The notes say when a flush was submitted and not when it ended: the batches
//! before it stay loose until something that was written later says that their records are
//! acknowledged, or until the next flush, since one is in flight at a time. What else lies before a
//! flush, and a batch that was on its way when two flushes were submitted, is taken for kept, which
//! a device may do; the simulation in the journal's crate knows better, and drops it as well.

use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use hybrid_abi::crc::crc32c;
use hybrid_conformance::Rng;
use journal::layout::{BatchHeader, Geometry, JournalSuperblock};
use journal::{Cursor, From, IoError, JournalError, Medium, Promise, Seek, recover};
use zerocopy::FromBytes as _;

use crate::load::{ACK_MAGIC, AckMark, KIND, payload, room};
use crate::notes::{Note, parse};

/// An image that is only looked at.
struct Image<'a> {
    bytes: &'a [u8],
    lba: usize,
    unit_blocks: u32,
}

impl Medium for Image<'_> {
    fn lba_bytes(&self) -> u32 {
        u32::try_from(self.lba).unwrap_or(0)
    }

    fn blocks(&self) -> u64 {
        (self.bytes.len() / self.lba) as u64
    }

    /// A cache, and the units that the journal was told of.
    fn promise(&self) -> Promise {
        Promise { unit_blocks: self.unit_blocks, ..Promise::default() }
    }

    fn chunk_bytes(&self) -> usize {
        16 << 10
    }

    async fn read(&mut self, lba: u64, bytes: usize) -> Result<&[u8], IoError> {
        let at = usize::try_from(lba).ok().and_then(|lba| lba.checked_mul(self.lba));
        let found = at.and_then(|at| self.bytes.get(at..at.checked_add(bytes)?));
        ready(found.ok_or(IoError::Gone)).await
    }

    async fn write(&mut self, _: u64, _: usize, _: impl FnOnce(&mut [u8])) -> Result<(), IoError> {
        ready(Err(IoError::Gone)).await
    }

    async fn write_back(&mut self, _: u64, _: usize) -> Result<(), IoError> {
        ready(Err(IoError::Gone)).await
    }

    async fn flush(&mut self) -> Result<(), IoError> {
        ready(Err(IoError::Gone)).await
    }
}

/// Runs a future that never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("memory does not wait"),
    }
}

/// What was seen, all of which has to be seen.
#[derive(Debug, Default)]
struct Seen {
    points: u64,
    /// Crashes before the first mark that left no journal.
    no_journal: u64,
    /// Crashes before the first mark that left an empty journal.
    empty: u64,
    /// Crashes that lost records that were not acknowledged.
    lost_unacknowledged: u64,
    /// Crashes after which more was there than was acknowledged.
    more: u64,
    /// Crashes with batches behind a hole.
    dropped: u64,
    /// Points at which a flush was in flight beside writes that came after it.
    in_flight: u64,
    torn: u64,
    records: u64,
    epochs: u64,
    laps: u64,
}

struct Replay {
    seed: u64,
    g: Geometry,
    lba: usize,
    unit_blocks: u32,
    /// What a power failure leaves at least.
    durable: Vec<u8>,
    mark: AckMark,
    /// Records below were acknowledged, as anything says that was submitted so far.
    known: u64,
    /// Behind the last record of any batch that was submitted.
    submitted: u64,
    seen: Seen,
}

/// Blocks are torn at this, where the device promises nothing of them.
const SECTOR: usize = 512;

/// A write that a power failure may undo.
#[derive(Clone, Copy)]
struct Loose<'a> {
    at: usize,
    bytes: &'a [u8],
    /// Behind its last record, if it is a batch.
    end: Option<u64>,
    /// A flush was submitted after it.
    covered: bool,
}

/// Goes through the notes; returns a line of what was seen.
pub(crate) fn replay(bytes: &[u8], seed: u64, wanted: u64) -> Result<String, String> {
    let begun = Instant::now();
    let notes = parse(bytes)?;
    let journal = notes.iter().find_map(superblock).ok_or("the notes have no journal")?;
    let (g, lba) = (journal.geometry(), journal.lba_bytes as usize);
    let image = usize::try_from(g.total_bytes()).map_err(|error| error.to_string())?;
    let mut replay = Replay {
        seed,
        g,
        lba,
        unit_blocks: journal.unit_blocks,
        durable: vec![0; image],
        mark: AckMark { magic: 0, acknowledged: 0, front: 0 },
        known: 0,
        submitted: 0,
        seen: Seen::default(),
    };
    let all = crashes(&notes, replay.tear());
    let one_in = if wanted == 0 { 1 } else { all.div_ceil(wanted).max(1) };
    let mut rng = Rng::new(seed);
    let mut loose: Vec<Loose<'_>> = Vec::new();
    replay.points(&loose, one_in, &mut rng).map_err(|error| format!("at first: {error}"))?;
    for (number, note) in notes.iter().enumerate() {
        let named = |error| format!("after note {number} of {}: {error}", notes.len());
        match *note {
            Note::Flush => {
                replay.keep(&mut loose, |write| write.covered || write.end.is_none());
                loose.iter_mut().for_each(|write| write.covered = true);
            }
            Note::Write { at, bytes } if at + bytes.len() <= image => {
                let end = replay.learn(at, bytes);
                loose.push(Loose { at, bytes, end, covered: false });
            }
            Note::Write { bytes, .. } => replay.note_mark(bytes),
        }
        let known = replay.known;
        replay.keep(&mut loose, |write| write.covered && write.end.is_some_and(|end| end <= known));
        replay.points(&loose, one_in, &mut rng).map_err(named)?;
    }
    replay.end(notes.len(), begun)
}

/// The superblock that a note writes.
fn superblock(note: &Note<'_>) -> Option<JournalSuperblock> {
    match note {
        Note::Write { at: 0, bytes } => JournalSuperblock::parse(bytes, crc32c).ok(),
        _ => None,
    }
}

/// Crashes that the notes have, about.
fn crashes(notes: &[Note<'_>], tear: usize) -> u64 {
    let (mut loose, mut all) = (0, 0);
    for note in notes {
        match note {
            Note::Flush => loose = 0,
            Note::Write { bytes, .. } => loose += 2 + 2 * (bytes.len() / tear) as u64,
        }
        all += loose + 6;
    }
    all
}

impl Replay {
    /// What is written whole or not at all.
    const fn tear(&self) -> usize {
        if self.unit_blocks == 0 { SECTOR } else { self.lba }
    }

    /// These are durable.
    fn keep(&mut self, loose: &mut Vec<Loose<'_>>, which: impl Fn(&Loose<'_>) -> bool) {
        loose.retain(|write| {
            if which(write) {
                let place = &mut self.durable[write.at..write.at + write.bytes.len()];
                place.copy_from_slice(write.bytes);
            }
            !which(write)
        });
    }

    /// A batch that was submitted, and what it says is acknowledged; returns its end. A superblock
    /// says that too.
    fn learn(&mut self, at: usize, bytes: &[u8]) -> Option<u64> {
        if let Ok(superblock) = JournalSuperblock::parse(bytes, crc32c) {
            self.known = self.known.max(superblock.checkpoint.sequence);
        }
        if let Ok((header, _)) = BatchHeader::read_from_prefix(bytes)
            && BatchHeader::parse(bytes, header.id, header.position, &self.g, crc32c) == Ok(header)
        {
            debug_assert_eq!(self.g.byte_of(header.position), at as u64);
            self.submitted = self.submitted.max(header.end_sequence());
            self.seen.epochs = self.seen.epochs.max(header.epoch);
            self.seen.laps = self.seen.laps.max(header.position / self.g.ring_bytes());
            self.known = self.known.max(header.acknowledged);
            return Some(header.end_sequence());
        }
        None
    }

    fn note_mark(&mut self, bytes: &[u8]) {
        if let Ok((mark, _)) = AckMark::read_from_prefix(bytes)
            && mark.magic == ACK_MAGIC
        {
            self.mark = mark;
            self.known = self.known.max(mark.acknowledged);
        }
    }

    /// The crashes after one note.
    fn points(&mut self, loose: &[Loose<'_>], one_in: u64, rng: &mut Rng) -> Result<(), String> {
        self.point(loose, |_, _| false)?;
        if loose.is_empty() {
            return Ok(());
        }
        self.point(loose, |_, _| true)?;
        let in_flight = loose.iter().filter(|write| write.covered).count() as u64;
        self.seen.in_flight += u64::from(in_flight > 0 && loose.iter().any(|w| !w.covered));
        for (one, write) in loose.iter().enumerate() {
            if loose.len() > 1 && rng.one_in(one_in) {
                self.point(loose, |index, _| index == one)?;
                self.point(loose, |index, _| index != one)?;
            }
            for block in 1..write.bytes.len() / self.tear() {
                if rng.one_in(one_in) {
                    self.seen.torn += 2;
                    self.point(loose, |index, at| index != one || at < block)?;
                    self.point(loose, |index, at| index != one || at >= block)?;
                }
            }
        }
        for _ in 0..4 {
            if rng.one_in(one_in) {
                let mask = rng.next_u64();
                let bit = |index: usize, at: usize| mask >> ((index * 5 + at) & 63) & 1 == 1;
                self.point(loose, bit)?;
            }
        }
        Ok(())
    }

    /// One crash: of each loose write the blocks that `keep` says.
    fn point(
        &mut self,
        loose: &[Loose<'_>],
        keep: impl Fn(usize, usize) -> bool,
    ) -> Result<(), String> {
        let mut undo: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        let tear = self.tear();
        for (index, write) in loose.iter().enumerate() {
            for (block, bytes) in write.bytes.chunks(tear).enumerate() {
                let at = write.at + block * tear;
                if keep(index, block) {
                    let place = &mut self.durable[at..at + bytes.len()];
                    undo.entry(at).or_insert_with(|| place.to_vec());
                    place.copy_from_slice(bytes);
                }
            }
        }
        let outcome = match self.mark.magic {
            ACK_MAGIC => self.examine(),
            _ => self.examine_format(),
        };
        for (at, bytes) in undo {
            self.durable[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        outcome
    }

    /// Before the first mark, which comes behind the format, there is no journal, or an empty one.
    fn examine_format(&mut self) -> Result<(), String> {
        let (lba, unit_blocks) = (self.lba, self.unit_blocks);
        let mut image = Image { bytes: &self.durable, lba, unit_blocks };
        match now(recover(&mut image, From::Front)) {
            Err(JournalError::Empty) => self.seen.no_journal += 1,
            Err(error) => return Err(format!("a format that was cut off: {error}")),
            Ok(found) if found.tail.sequence == 0 && found.superblock.front_sequence == 0 => {
                self.seen.empty += 1;
            }
            Ok(found) => {
                return Err(format!("{} records, and none was appended", found.tail.sequence));
            }
        }
        self.seen.points += 1;
        Ok(())
    }

    /// What opening and reading find has to be all that was acknowledged, and nothing that was
    /// never submitted.
    fn examine(&mut self) -> Result<(), String> {
        let (lba, unit_blocks) = (self.lba, self.unit_blocks);
        let mut image = Image { bytes: &self.durable, lba, unit_blocks };
        // What lies before the checkpoint is the same at many crashes: it is verified and read now
        // and then.
        let whole = self.seen.points.is_multiple_of(16);
        let from = if whole { From::Front } else { From::Checkpoint };
        let found = now(recover(&mut image, from)).map_err(|error| error.to_string())?;
        let (front, tail) = (found.superblock.front_sequence, found.tail.sequence);
        let begin = if whole { front } else { found.superblock.checkpoint.sequence };
        let AckMark { acknowledged, front: given_up, .. } = self.mark;
        if tail < acknowledged {
            return Err(format!("{tail} records of {acknowledged} that were acknowledged"));
        }
        if tail > self.submitted {
            return Err(format!("{tail} records, and {} were ever written", self.submitted));
        }
        if front > given_up {
            return Err(format!("it begins with record {front}, given up were {given_up}"));
        }
        let mut cursor = now(Cursor::open(&mut image, &found, Seek::Sequence(begin)))
            .map_err(|error| error.to_string())?;
        let (mut next, mut wrong, mut room) = (begin, None, room());
        while now(cursor.advance(&mut image, |record| {
            let good = record.header.sequence == next
                && record.header.kind == KIND
                && record.payload == payload(self.seed, next, &mut room);
            if !good {
                wrong.get_or_insert(next);
            }
            next += 1;
        }))
        .map_err(|error| error.to_string())?
        {}
        if let Some(sequence) = wrong {
            return Err(format!("record {sequence} is another one than was appended"));
        }
        if next != tail {
            return Err(format!("the records end at {next}, the log at {tail}"));
        }
        self.seen.points += 1;
        self.seen.records += next - begin;
        self.seen.lost_unacknowledged += u64::from(tail < self.submitted);
        self.seen.more += u64::from(tail > acknowledged);
        self.seen.dropped += u64::from(found.dropped_batches > 0);
        Ok(())
    }

    fn end(self, notes: usize, begun: Instant) -> Result<String, String> {
        let seen = &self.seen;
        let Seen { no_journal, empty, .. } = *seen;
        let all = [seen.lost_unacknowledged, seen.more, seen.torn, seen.laps, no_journal, empty];
        if all.contains(&0) || seen.epochs < 2 || self.mark.acknowledged != self.submitted {
            return Err(format!("the notes show too little: {seen:?}, {:?}", self.mark));
        }
        Ok(format!(
            "{} crashes after {notes} notes, {no_journal} before there was a log and {empty} \
             before it had a record, {} torn writes, {} with a flush in flight behind what \
             was lost, {} with batches behind a hole, {} records read, \
             {} openings, {} laps: all \
             acknowledged records are there and nothing else ({:.1} s)",
            seen.points,
            seen.torn,
            seen.in_flight,
            seen.dropped,
            seen.records,
            seen.epochs,
            seen.laps,
            begun.elapsed().as_secs_f64()
        ))
    }
}
