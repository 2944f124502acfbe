//! What the host and a feed-handler partition say to each other beyond the common records.
//!
//! [`FeedJob`] are the partition's arguments. The host sends the feed to be ingested as
//! [`KIND_FEED_DATA`] records of [`FEED_DATA_BYTES`] and ends it with [`KIND_FEED_END`] or
//! [`KIND_FEED_ABORT`] (both without payload). The partition answers with [`FeedStarted`] when a
//! phase begins, raw structures of the controller as [`KIND_BLOB`] records, and [`FeedFigures`] at
//! the end of each phase.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::record::Record;
use crate::{AbiError, Name, check_version, prefix};

/// Host to partition: the next bytes of the feed.
pub const KIND_FEED_DATA: u16 = 0x0104;
/// Host to partition: the feed is over.
pub const KIND_FEED_END: u16 = 0x0105;
/// Host to partition: the feed will not come to its end.
pub const KIND_FEED_ABORT: u16 = 0x0106;
/// Partition to host: a [`BlobHeader`], then the bytes.
pub const KIND_BLOB: u16 = 0x0301;
/// Partition to host: [`FeedStarted`].
pub const KIND_FEED_STARTED: u16 = 0x0302;
/// Partition to host: [`FeedFigures`].
pub const KIND_FEED_FIGURES: u16 = 0x0303;

/// Bytes of each data record but the last: a quarter of the payload of a 64 KiB chunk, so that a
/// chunk's buffer is filled by whole records without a copy in between.
pub const FEED_DATA_BYTES: usize = (65536 - 64) / 4;

/// Magic of [`FeedJob`]: `HYFEEDJB`.
pub const FEED_JOB_MAGIC: u64 = u64::from_le_bytes(*b"HYFEEDJB");

/// Ingest a feed that comes through the command ring.
pub const JOB_INGEST: u32 = 1;
/// Replay the feed on the device.
pub const JOB_REPLAY: u32 = 1 << 1;
/// Send what the controller says of itself.
pub const JOB_IDENTIFY: u32 = 1 << 2;
/// Overwrite whatever the device carries.
pub const JOB_OVERWRITE: u32 = 1 << 3;
/// Count contradicting messages and go on.
pub const JOB_LENIENT: u32 = 1 << 4;
/// The feed was generated.
pub const JOB_SYNTHETIC: u32 = 1 << 5;
/// Send no BBO changes, trades and states, only count them.
pub const JOB_QUIET: u32 = 1 << 6;
/// Leave out the measurement of single reads after a replay.
pub const JOB_NO_PROBE: u32 = 1 << 7;
/// Measure the steps of a replay: what a report's table shows.
pub const JOB_STEPS: u32 = 1 << 8;

/// Symbols of a filter; more than people type, few enough to be compared one by one.
pub const JOB_SYMBOLS_MAX: usize = 64;

/// Arguments of a feed-handler partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct FeedJob {
    /// [`FEED_JOB_MAGIC`].
    pub magic: u64,
    /// [`crate::ABI_VERSION`] of the writer.
    pub version: u32,
    /// `JOB_` bits.
    pub flags: u32,
    /// Wall clock, nanoseconds since 1970-01-01.
    pub created_unix_ns: u64,
    /// Chunks in flight, and commands that the I/O queue holds.
    pub queue_depth: u32,
    /// Orders that may rest at once, over all books.
    pub orders_max: u32,
    /// Namespace; 0 for the first that can be used.
    pub nsid: u32,
    /// Entries of `symbols` that count; 0 for all symbols.
    pub symbol_count: u32,
    /// Largest transfer of one command in bytes; the controller's MDTS may make it less.
    pub max_transfer_bytes: u32,
    /// A command older than so many milliseconds is aborted; 0 for the driver's own deadline.
    pub io_timeout_ms: u32,
    /// Name of the feed to be ingested.
    pub feed_name: Name<64>,
    /// Symbols whose books are kept.
    pub symbols: [[u8; 8]; JOB_SYMBOLS_MAX],
    /// Bytes of the feed to be ingested, where that is known before; else 0.
    pub feed_bytes: u64,
    /// Changes, trades and states that the host has had of earlier incarnations: the replay goes on
    /// behind them.
    pub sent_events: u64,
}

const _: () = assert!(size_of::<FeedJob>() == 640 && align_of::<FeedJob>() == 8);
const _: () = assert!(offset_of!(FeedJob, queue_depth) == 24);
const _: () = assert!(offset_of!(FeedJob, feed_name) == 48 && offset_of!(FeedJob, symbols) == 112);

impl FeedJob {
    /// A job of this version that does nothing yet.
    #[must_use]
    pub fn new(flags: u32) -> Self {
        Self {
            magic: FEED_JOB_MAGIC,
            version: crate::ABI_VERSION,
            flags,
            created_unix_ns: 0,
            queue_depth: 32,
            orders_max: 1 << 20,
            nsid: 0,
            symbol_count: 0,
            max_transfer_bytes: 512 << 10,
            io_timeout_ms: 0,
            feed_name: Name::EMPTY,
            symbols: [[b' '; 8]; JOB_SYMBOLS_MAX],
            feed_bytes: 0,
            sent_events: 0,
        }
    }

    /// The job in a partition's arguments.
    ///
    /// # Errors
    /// [`AbiError`] with what was seen and what is allowed.
    pub fn parse(bytes: &[u8]) -> Result<Self, AbiError> {
        const WHAT: &str = "feed job";
        let job: Self = prefix(WHAT, bytes)?;
        if job.magic != FEED_JOB_MAGIC {
            let (found, expected) = (job.magic, FEED_JOB_MAGIC);
            return Err(AbiError::Magic { what: WHAT, found, expected });
        }
        check_version(WHAT, job.version)?;
        let bad = |field, found: u32, allowed: u64| AbiError::Field {
            what: WHAT,
            field,
            found: found.into(),
            allowed,
        };
        if job.symbol_count as usize > JOB_SYMBOLS_MAX {
            return Err(bad("symbol count", job.symbol_count, JOB_SYMBOLS_MAX as u64));
        }
        if !(1..=4095).contains(&job.queue_depth) {
            return Err(bad("queue depth", job.queue_depth, 4095));
        }
        if job.has(JOB_INGEST) {
            job.feed_name.check(WHAT)?;
        }
        Ok(job)
    }

    /// Whether a `JOB_` bit is set.
    #[must_use]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// The symbols that count.
    #[must_use]
    pub fn symbols(&self) -> &[[u8; 8]] {
        self.symbols.get(..self.symbol_count as usize).unwrap_or_default()
    }
}

/// What a blob is.
pub const BLOB_IDENTIFY_CONTROLLER: u32 = 1;
/// Identify Namespace of `nsid`.
pub const BLOB_IDENTIFY_NAMESPACE: u32 = 2;
/// SMART / health information log.
pub const BLOB_SMART_LOG: u32 = 3;
/// Error information log.
pub const BLOB_ERROR_LOG: u32 = 4;
/// Firmware slot information log.
pub const BLOB_FIRMWARE_LOG: u32 = 5;

/// What stands before the bytes of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BlobHeader {
    /// One of the `BLOB_` constants.
    pub what: u32,
    /// Namespace, or 0.
    pub nsid: u32,
}

const _: () = assert!(size_of::<BlobHeader>() == 8 && offset_of!(BlobHeader, nsid) == 4);

/// A phase begins; the controller is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct FeedStarted {
    /// [`JOB_INGEST`] or [`JOB_REPLAY`].
    pub phase: u32,
    /// Bytes a logical block.
    pub lba_bytes: u32,
    /// Blocks of the namespace.
    pub blocks: u64,
    /// Largest transfer of one command in bytes.
    pub max_transfer_bytes: u32,
    /// Commands that the I/O queue holds.
    pub queue_depth: u32,
    /// Bytes of the feed; 0 where not known yet.
    pub feed_bytes: u64,
    /// Messages of the feed; 0 where not known yet.
    pub feed_messages: u64,
    /// Name of the feed.
    pub feed_name: Name<64>,
    /// Bytes of the feed that earlier incarnations have decoded, and that are not read again.
    pub resumed_bytes: u64,
}

const _: () = assert!(size_of::<FeedStarted>() == 112 && align_of::<FeedStarted>() == 8);
const _: () = assert!(offset_of!(FeedStarted, feed_name) == 40);

impl Record for FeedStarted {
    const KIND: u16 = KIND_FEED_STARTED;
}

/// Figures of a phase, sent when it ended, well or not. Times are TSC ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct FeedFigures {
    /// [`JOB_INGEST`] or [`JOB_REPLAY`].
    pub phase: u32,
    /// Zero.
    pub reserved: u32,
    /// How long it took.
    pub ticks: u64,
    /// Bytes of the feed.
    pub bytes: u64,
    /// Messages of the feed.
    pub messages: u64,
    /// Messages refused (lenient).
    pub refused: u64,
    /// Books kept.
    pub books: u64,
    /// Best bids or offers that changed.
    pub bbo_changes: u64,
    /// Trades.
    pub trades: u64,
    /// Trading states told.
    pub trading_states: u64,
    /// Orders resting at the end.
    pub orders_open: u64,
    /// Most orders that rested at once.
    pub orders_high_water: u64,
    /// Room for orders.
    pub orders_capacity: u64,
    /// Events that found no room in the ring.
    pub events_dropped: u64,
    /// Times that the replay waited for room in the ring.
    pub ring_waits: u64,
    /// Commands completed so far by the I/O queues.
    pub io_completed: u64,
    /// Commands that failed so far.
    pub io_failed: u64,
    /// Commands retried so far.
    pub io_retried: u64,
    /// Reads that were lost and read again so far.
    pub io_repeated: u64,
    /// Controller resets so far.
    pub resets: u64,
    /// Commands whose completion was timed with `complete_ticks`.
    pub complete_commands: u64,
    /// Ticks spent in passes of the driver that found completions.
    pub complete_ticks: u64,
    /// Commands whose submission was timed with `submit_ticks`.
    pub submit_commands: u64,
    /// Ticks spent in submitting.
    pub submit_ticks: u64,
    /// Messages by their type byte.
    pub by_type: [u64; 256],
}

const _: () = assert!(size_of::<FeedFigures>() == 8 + 22 * 8 + 2048);
const _: () = assert!(align_of::<FeedFigures>() == 8);
const _: () = assert!(offset_of!(FeedFigures, by_type) == 184);

impl Record for FeedFigures {
    const KIND: u16 = KIND_FEED_FIGURES;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_read_as_it_was_written() {
        let mut job = FeedJob::new(JOB_INGEST | JOB_REPLAY);
        job.feed_name = Name::lossy("day.itch");
        job.symbols[0] = *b"AAPL    ";
        job.symbol_count = 1;
        let read = FeedJob::parse(job.as_bytes()).expect("our own job");
        assert_eq!(read, job);
        assert!(read.has(JOB_REPLAY) && !read.has(JOB_LENIENT));
        assert_eq!(read.symbols(), [*b"AAPL    "]);
    }

    #[test]
    fn a_jobs_first_bytes_are_golden() {
        let job = FeedJob::new(JOB_REPLAY);
        let golden = [
            b'H', b'Y', b'F', b'E', b'E', b'D', b'J', b'B', 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 32, 0, 0, 0, 0, 0, 16, 0,
        ];
        assert_eq!(job.as_bytes()[..32], golden);
    }

    #[test]
    fn jobs_that_lie_are_refused() {
        let good = FeedJob::new(JOB_REPLAY);
        for (job, words) in [
            (FeedJob { magic: 1, ..good }, "magic"),
            (FeedJob { version: 99, ..good }, "99"),
            (FeedJob { symbol_count: 65, ..good }, "symbol count"),
            (FeedJob { queue_depth: 0, ..good }, "queue depth"),
            (FeedJob { queue_depth: 4096, ..good }, "queue depth"),
            (FeedJob { flags: JOB_INGEST, ..good }, "name"),
        ] {
            let error = FeedJob::parse(job.as_bytes()).expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(FeedJob::parse(&good.as_bytes()[..639]).is_err());
    }

    #[test]
    fn a_data_record_fits_a_ring_record_and_four_fill_a_chunk() {
        assert!(FEED_DATA_BYTES <= usize::from(u16::MAX));
        assert_eq!(4 * FEED_DATA_BYTES + crate::feed::CHUNK_HEADER_BYTES, 65536);
    }
}
