//! Replaying: packets off the journal, through framer, decoder and books.

use core::cell::Cell;

use hybrid_abi::feed_job::{FeedJob, JOB_LENIENT};
use hybrid_abi::feed_journal::{
    JOB_JOURNAL, JOURNAL_FROM_MESSAGE, JOURNAL_FROM_SNAPSHOT, JOURNAL_FROM_TIME,
    JOURNAL_ORIGINAL_SPEED, JOURNAL_SAVE_SNAPSHOT, JournalFigures, RECORD_PACKET, SNAPSHOT_BOOKS,
};
use journal::layout::RecordView;
use journal::{Cursor, DeviceMedium, Recovered, Seek, SnapshotInfo, load_snapshot, save_snapshot};

use super::JournalDesk;
use super::books::{Pieces, messages};
use super::pace::Pace;
use crate::book::Sink;
use crate::error::FeedError;
use crate::field::Symbol;
use crate::framing::{MoldEvent, MoldFramer};
use crate::handler::error::HandlerError;
use crate::handler::progress::Progress;
use crate::handler::sink::EventSink;
use crate::pipeline::Pipeline;

/// Packets decoded before others get their turn.
const A_TURN: u32 = 16;

/// Replays the journal into `pipeline` and `sink`.
///
/// # Errors
/// [`HandlerError`]; a gap is one unless the job is lenient, and is named.
pub async fn replay(
    here: JournalDesk,
    job: &FeedJob,
    (pipeline, sink): (&mut Pipeline<'static>, &mut EventSink),
    figures: &mut JournalFigures,
) -> Result<(), HandlerError> {
    figures.phase = JOB_JOURNAL;
    let mut medium = here.medium(super::BATCH_BYTES)?;
    let found = here.open(&mut medium).await?;
    (figures.front, figures.end) = (found.superblock.front_sequence, found.tail.sequence);
    let seek = begin(here, &mut medium, &found, (pipeline, sink), figures).await?;
    let mut cursor = Cursor::open(&mut medium, &found, seek).await?;
    let mut reader = Reader {
        framer: MoldFramer::new(),
        wanted: if here.how.has(JOURNAL_FROM_MESSAGE) { here.how.from } else { 0 },
        pace: Pace::default(),
        fault: None,
        gap: Cell::new(None),
        strict: !job.has(JOB_LENIENT),
        packets: 0,
    };
    let outcome = turns(here, &mut medium, &mut cursor, (pipeline, sink, &mut reader)).await;
    let stats = reader.framer.stats();
    (figures.packets, figures.messages) = (reader.packets, stats.messages);
    (figures.gaps, figures.missing) = (stats.gaps, stats.missing);
    (figures.clock_jumps, figures.first_jump) = (reader.pace.jumps, reader.pace.first_jump);
    figures.first_missing = reader.gap.get().map_or(0, |(expected, _)| expected);
    outcome?;
    if here.how.has(JOURNAL_SAVE_SNAPSHOT) {
        save(&mut medium, &found, pipeline, figures).await?;
    }
    Ok(())
}

/// What turns packets into events.
struct Reader {
    framer: MoldFramer,
    /// Messages below are passed over.
    wanted: u64,
    pace: Pace,
    fault: Option<FeedError>,
    /// The first gap: what was expected, what came.
    gap: Cell<Option<(u64, u64)>>,
    /// Nothing behind a gap is decoded.
    strict: bool,
    packets: u64,
}

impl Reader {
    /// Takes a packet's messages; says whether all is well.
    fn take(&mut self, packet: &[u8], pipeline: &mut Pipeline<'_>, sink: &mut EventSink) -> bool {
        let Self { framer, wanted, gap, strict, .. } = self;
        let visit = |frame: crate::framing::Frame<'_>| {
            let passed_over = frame.at.number < *wanted || *strict && gap.get().is_some();
            if passed_over { Ok(()) } else { pipeline.frame(&frame, sink) }
        };
        let taken = framer.push(packet, visit, |event| {
            if let MoldEvent::Gap { expected, received } = event {
                gap.set(gap.get().or(Some((expected, received))));
            }
        });
        self.packets += 1;
        self.fault = taken.err();
        self.fault.is_none() && !(self.strict && self.gap.get().is_some())
    }
}

async fn turns(
    here: JournalDesk,
    medium: &mut DeviceMedium,
    cursor: &mut Cursor,
    (pipeline, sink, reader): (&mut Pipeline<'static>, &mut EventSink, &mut Reader),
) -> Result<(), HandlerError> {
    let (partition, progress) = (here.desk.partition, here.desk.progress);
    let clock = partition.clock();
    let original = here.how.has(JOURNAL_ORIGINAL_SPEED);
    loop {
        let (mut left, mut closed) = (A_TURN, false);
        let more = cursor
            .advance_while(medium, |record: &RecordView<'_>| {
                if record.header.kind != RECORD_PACKET {
                    return true;
                }
                match sink.has_room(record.payload.len()) {
                    Some(true) if left > 0 => left -= 1,
                    Some(_) => return false,
                    None => {
                        closed = true;
                        return false;
                    }
                }
                if original {
                    let (sequence, time_ns) = (record.header.sequence, record.header.time_ns);
                    if !reader.pace.is_due(sequence, time_ns, clock.now(), clock) {
                        return false;
                    }
                }
                Progress::add(&progress.bytes_read, record.payload.len() as u64);
                reader.take(record.payload, pipeline, sink)
            })
            .await?;
        sink.publish();
        progress.messages.set(reader.framer.stats().messages);
        if let Some((expected, received)) = reader.gap.get().filter(|_| reader.strict) {
            return Err(HandlerError::Gap { first: expected, last: received.saturating_sub(1) });
        }
        if let Some(fault) = reader.fault.take() {
            return Err(fault.into());
        }
        if closed {
            return Err(HandlerError::RingClosed);
        }
        if progress.stop.get() {
            return Err(HandlerError::Interrupted);
        }
        if !more {
            return Ok(());
        }
        partition.spawner().yield_now().await;
    }
}

/// Hears the symbols of a snapshot and nothing else: what it tells happened before.
struct Names<'a>(&'a mut EventSink);

impl Sink for Names<'_> {
    fn stock(&mut self, locate: u16, symbol: Symbol) {
        self.0.stock(locate, symbol);
    }
}

/// Where to begin; with a snapshot, the books are in its state then.
async fn begin(
    here: JournalDesk,
    medium: &mut DeviceMedium,
    found: &Recovered,
    (pipeline, sink): (&mut Pipeline<'static>, &mut EventSink),
    figures: &mut JournalFigures,
) -> Result<Seek, HandlerError> {
    let how = here.how;
    if how.has(JOURNAL_FROM_TIME) {
        return Ok(Seek::Time(how.from));
    }
    if how.has(JOURNAL_FROM_MESSAGE) {
        return find_message(medium, found, how.from).await;
    }
    if !how.has(JOURNAL_FROM_SNAPSHOT) {
        return Ok(Seek::Front);
    }
    // Once to know which is whole, once to take it: the books cannot take a damaged one back.
    let whole = load_snapshot(medium, found, |_, _, _| {}).await?;
    let whole = whole.filter(|info| info.kind == SNAPSHOT_BOOKS).ok_or(HandlerError::NoSnapshot)?;
    let mut fault = None;
    load_snapshot(medium, found, |info, _, state| {
        if info.generation == whole.generation && fault.is_none() {
            fault = pipeline.feed(state, &mut Names(sink)).err();
        }
    })
    .await?;
    if let Some(fault) = fault {
        return Err(fault.into());
    }
    (figures.snapshot, figures.snapshot_bytes) = (whole.sequence, whole.length);
    Ok(Seek::Sequence(whole.sequence))
}

/// The packet that holds a message, by halving.
async fn find_message(
    medium: &mut DeviceMedium,
    found: &Recovered,
    message: u64,
) -> Result<Seek, HandlerError> {
    let (mut low, mut high) = (found.superblock.front_sequence, found.tail.sequence);
    // The last packet whose first message is not behind the one that is looked for.
    while high > low + 1 {
        let middle = low + (high - low) / 2;
        match first_message(medium, found, middle).await? {
            Some(first) if first > message => high = middle,
            _ => low = middle,
        }
    }
    Ok(Seek::Sequence(low))
}

/// Number of the first message of a packet.
async fn first_message(
    medium: &mut DeviceMedium,
    found: &Recovered,
    record: u64,
) -> Result<Option<u64>, HandlerError> {
    let mut cursor = Cursor::open(medium, found, Seek::Sequence(record)).await?;
    let mut seen = None;
    while seen.is_none() {
        let look = |record: &RecordView<'_>| {
            // Session (10 bytes), sequence number (8).
            let number = record.payload.get(10..18).and_then(|bytes| bytes.first_chunk::<8>());
            seen = number.map(|bytes| u64::from_be_bytes(*bytes));
            false
        };
        if !cursor.advance_while(medium, look).await? {
            break;
        }
        if seen.is_none() && cursor.is_at_end() {
            break;
        }
    }
    Ok(seen)
}

/// Writes the books as the feed that makes them.
async fn save(
    medium: &mut DeviceMedium,
    found: &Recovered,
    pipeline: &Pipeline<'static>,
    figures: &mut JournalFigures,
) -> Result<(), HandlerError> {
    let books = pipeline.books();
    let length = messages(books).map(|(_, len)| len as u64).sum();
    let mut feed = Pieces::new(messages(books));
    let tail = found.tail;
    let info = SnapshotInfo {
        sequence: tail.sequence,
        length,
        kind: SNAPSHOT_BOOKS,
        time_ns: tail.time_ns,
        generation: 0,
    };
    let saved =
        save_snapshot(medium, found, tail.sequence, info, |_, room| feed.fill(room)).await?;
    (figures.snapshot, figures.snapshot_bytes) = (saved.sequence, saved.length);
    Ok(())
}
