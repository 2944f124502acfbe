//! What a replay leaves to the next incarnation: books, resume point, output sequence.
//!
//! Books and stock names lie in the partition's state memory, in place; the record beside them says
//! where the replay stands. The state is sealed whenever the task lets go of the core, which is
//! when a device can fail; it is open while a slice is decoded. So a partition that ends because of
//! its device goes on where it was, and one that dies in the middle of a slice begins anew and
//! leaves out what the host has had.
//!
//! ```text
//!  body:    0         stock names, 8 bytes for each locate code
//!           512 KiB   books (`BookStorage`)
//! ```
//! The host knows how many changes, trades and states it has taken: a state that is of another
//! place in that sequence is not used, whatever it says of itself.

use core::cell::Cell;

use core_runtime::clock::Instant;
use core_runtime::crc::crc32c;
use core_runtime::partition::{Partition, Seal, StateError};
use hybrid_abi::feed::Superblock;
use hybrid_abi::feed_job::{FeedJob, JOB_LENIENT};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::error::HandlerError;
use super::progress::Progress;
use super::sink::{EventSink, LOCATES};
use crate::book::{BookStorage, Capacity, Inconsistency};
use crate::pipeline::{Pipeline, PipelineConfig, PipelineMark};

/// Bytes of the stock names.
pub const NAMES_BYTES: usize = LOCATES * 8;

/// Kind of the record.
const RECORD_KIND: u32 = u32::from_le_bytes(*b"RPLY");

/// Where a replay stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The chunk to be decoded next.
    pub chunk: u64,
    /// Bytes of its payload that were decoded already.
    pub offset: u64,
}

/// The record, as it lies beside the books.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Record {
    chunk: u64,
    offset: u64,
    bytes_read: u64,
    /// Output sequence: changes, trades and states so far.
    sent: u64,
    dropped: u64,
    states: u64,
    ring_waits: u64,
    /// Time that all incarnations together have spent, in TSC ticks.
    ticks: u64,
    /// CRC32C of what the job says of books and output.
    job: u32,
    symbols: u32,
    orders: u32,
    levels: u32,
    pipeline: PipelineMark,
}

const _: () = assert!(size_of::<Record>() <= hybrid_abi::state_memory::STATE_RECORD_BYTES);

/// Why a replay begins anew although there was one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeginsAnew {
    /// No state of an earlier one.
    #[error(transparent)]
    State(#[from] StateError),
    /// Of another job.
    #[error("the state is of another job")]
    OtherJob,
    /// The host has had another number of changes, trades and states.
    #[error("the state is at output {kept}, the host has had {sent}")]
    OtherPlace {
        /// Of the state.
        kept: u64,
        /// Of the host.
        sent: u64,
    },
    /// The books are not whole.
    #[error(transparent)]
    Books(#[from] Inconsistency),
}

/// The state memory of a replay. Made before the loop runs, because books are walked.
#[derive(Debug)]
pub struct Kept {
    seal: Seal,
    body: &'static mut [u8],
    /// What an earlier incarnation left, if all of it was whole.
    left: Option<Record>,
}

/// What [`Kept::begin`] makes: where the replay stands, and with what.
#[derive(Debug)]
pub struct Begun {
    /// Framing, books, counts.
    pub pipeline: Pipeline<'static>,
    /// Where its events go.
    pub sink: EventSink,
    /// Where it goes on.
    pub keeper: Keeper,
    /// From here.
    pub place: Place,
    /// Ticks that earlier incarnations have spent.
    pub ticks_before: u64,
}

impl Kept {
    /// Looks at what the partition was given; `None` without state memory.
    ///
    /// # Errors
    /// [`HandlerError::State`] for memory that cannot be used at all. That a state cannot be gone
    /// on from is none: the second value says why then.
    pub fn open(
        partition: &'static Partition,
        job: &FeedJob,
    ) -> Result<Option<(Self, Option<BeginsAnew>)>, HandlerError> {
        let Some(memory) = partition.take_state_memory() else { return Ok(None) };
        let (seal, body) = memory.split().map_err(HandlerError::State)?;
        let (left, why) = match look(&seal, body, job) {
            Ok(record) => (Some(record), None),
            Err(why) => (None, Some(why)),
        };
        Ok(Some((Self { seal, body, left }, why)))
    }

    /// Goes on where an earlier incarnation was, or begins anew behind what the host has had.
    ///
    /// # Errors
    /// [`HandlerError::OtherFeed`] if the device carries another feed than the one whose changes
    /// the host has had; what the books say of their memory.
    pub fn begin(
        self,
        make: Making<'_>,
        progress: &Progress,
        job: &FeedJob,
    ) -> Result<Begun, HandlerError> {
        let Self { seal, body, left } = self;
        let identity = identity_of(make.superblock);
        let other = seal.identity() != identity;
        if other && job.sent_events != 0 {
            return Err(HandlerError::OtherFeed { sent: job.sent_events });
        }
        let (names, books) = body.split_at_mut_checked(NAMES_BYTES).ok_or(HandlerError::NoState)?;
        let names = <[[u8; 8]]>::mut_from_bytes(names).map_err(|_| HandlerError::NoState)?;
        let ring = make.partition.events();
        match left {
            Some(record) if !other => {
                let storage = BookStorage::carve(books, record.capacity())?;
                let pipeline = Pipeline::resume(storage, make.config, &record.pipeline)
                    .map_err(|error| HandlerError::BadState(error.into()))?;
                let mut sink = EventSink::new(ring, names);
                (sink.events, sink.dropped, sink.states) =
                    (record.sent, record.dropped, record.states);
                progress.bytes_read.set(record.bytes_read);
                progress.ring_waits.set(record.ring_waits);
                let place = Place { chunk: record.chunk, offset: record.offset };
                let ticks_before = record.ticks;
                let keeper = Keeper::new(seal, record, make.begin);
                Ok(Begun { pipeline, sink, keeper, place, ticks_before })
            }
            _ => {
                seal.begin(identity);
                names.fill([b' '; 8]);
                let storage = BookStorage::carve(books, make.capacity)?;
                let pipeline = Pipeline::new(storage, make.config);
                let sink = EventSink::new(ring, names).leaving_out(job.sent_events);
                let Capacity { symbols, orders, levels } = make.capacity;
                let base =
                    Record { job: job_crc(job), symbols, orders, levels, ..Record::new_zeroed() };
                let keeper = Keeper::new(seal, base, make.begin);
                let place = Place::default();
                Ok(Begun { pipeline, sink, keeper, place, ticks_before: 0 })
            }
        }
    }
}

/// What a replay is made of.
#[derive(Clone, Copy, Debug)]
pub struct Making<'a> {
    /// The partition.
    pub partition: &'static Partition,
    /// The feed.
    pub superblock: &'a Superblock,
    /// Room in new books.
    pub capacity: Capacity,
    /// Policy and symbols.
    pub config: PipelineConfig<'static>,
    /// Now.
    pub begin: Instant,
}

/// The record that was sealed, if everything about it and about the books is as it should be.
fn look(seal: &Seal, body: &mut [u8], job: &FeedJob) -> Result<Record, BeginsAnew> {
    let mut record = Record::new_zeroed();
    seal.read(RECORD_KIND, record.as_mut_bytes())?;
    if record.job != job_crc(job) {
        return Err(BeginsAnew::OtherJob);
    }
    if record.sent != job.sent_events {
        let (kept, sent) = (record.sent, job.sent_events);
        return Err(BeginsAnew::OtherPlace { kept, sent });
    }
    let nowhere = Inconsistency { rule: "books fit their memory", locate: 0 };
    let books = body.get_mut(NAMES_BYTES..).ok_or(nowhere)?;
    let storage = BookStorage::carve(books, record.capacity()).map_err(|_| nowhere)?;
    // Symbols decide what is booked next, and nothing of what lies there.
    let pipeline = Pipeline::resume(storage, PipelineConfig::default(), &record.pipeline)?;
    pipeline.books().check_consistency()?;
    Ok(record)
}

impl Record {
    const fn capacity(&self) -> Capacity {
        Capacity { symbols: self.symbols, orders: self.orders, levels: self.levels }
    }
}

/// Of everything in a job that decides what the books hold and what is sent.
fn job_crc(job: &FeedJob) -> u32 {
    let mut same = FeedJob::new(job.flags & JOB_LENIENT);
    (same.orders_max, same.symbol_count, same.symbols) =
        (job.orders_max, job.symbol_count, job.symbols);
    crc32c(same.as_bytes())
}

/// Of the feed: two that begin with the same superblock are one. Never 0. By FNV-1a, and not by
/// CRC32C: a superblock carries its own, and what carries its own has the same one whatever it
/// says.
fn identity_of(superblock: &Superblock) -> u64 {
    let bytes = superblock.as_bytes().iter();
    let hash = bytes.fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    });
    hash.max(1)
}

/// Keeps the state while a replay runs; does nothing where there is no state memory.
#[derive(Debug)]
pub struct Keeper {
    seal: Option<Seal>,
    base: Record,
    begin: Instant,
    /// What was sealed last, so that it is not sealed again.
    last: Cell<Option<Place>>,
}

impl Keeper {
    fn new(seal: Seal, base: Record, begin: Instant) -> Self {
        Self { seal: Some(seal), base, begin, last: Cell::new(None) }
    }

    /// One that keeps nothing.
    #[must_use]
    pub fn none() -> Self {
        let base = Record::new_zeroed();
        Self { seal: None, base, begin: Instant::MIN, last: Cell::new(None) }
    }

    /// Books and names are about to be changed.
    #[inline]
    pub fn open(&self) {
        if let Some(seal) = &self.seal {
            seal.open();
        }
    }

    /// The replay stands here, and lets go of the core.
    pub fn seal(
        &self,
        place: Place,
        (pipeline, sink): (&Pipeline<'static>, &EventSink),
        (progress, now): (&Progress, Instant),
    ) {
        let Some(seal) = &self.seal else { return };
        if !seal.is_open() && self.last.get() == Some(place) {
            return;
        }
        // While it leaves out what the host has had, the host is ahead of it.
        if sink.is_behind() {
            return;
        }
        let record = Record {
            chunk: place.chunk,
            offset: place.offset,
            bytes_read: progress.bytes_read.get(),
            sent: sink.events,
            dropped: sink.dropped,
            states: sink.states,
            ring_waits: progress.ring_waits.get(),
            ticks: self.base.ticks.saturating_add(now.since(self.begin).get()),
            pipeline: pipeline.mark(),
            ..self.base
        };
        // It fits: its size is checked above. One that did not would stay open.
        let _ = seal.seal(RECORD_KIND, record.as_bytes());
        self.last.set(Some(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hybrid_abi::feed::Shape;

    #[test]
    fn feeds_differ_by_any_byte_of_their_superblocks() {
        let shape = Shape::new(crate::handler::CHUNK_BYTES, 4096).expect("a shape");
        let one = Superblock::new(1, "one.itch", 0, shape).sealed();
        let renamed = Superblock::new(1, "two.itch", 0, shape).sealed();
        let later = Superblock::new(2, "one.itch", 0, shape).sealed();
        assert_eq!(identity_of(&one), identity_of(&one));
        assert_ne!(identity_of(&one), identity_of(&renamed));
        assert_ne!(identity_of(&one), identity_of(&later));
    }

    #[test]
    fn jobs_differ_by_what_decides_books_and_output_alone() {
        let job = FeedJob::new(hybrid_abi::feed_job::JOB_REPLAY);
        let with = |change: fn(&mut FeedJob)| {
            let mut other = job;
            change(&mut other);
            job_crc(&other)
        };
        let same = job_crc(&job);
        assert_eq!(with(|job| job.sent_events = 7), same);
        assert_eq!(with(|job| job.created_unix_ns = 7), same);
        assert_eq!(with(|job| job.queue_depth = 7), same);
        assert_ne!(with(|job| job.flags |= JOB_LENIENT), same);
        assert_ne!(with(|job| job.orders_max = 7), same);
        assert_ne!(with(|job| (job.symbol_count, job.symbols[0]) = (1, *b"AAPL    ")), same);
    }
}
