//! What the host and a feed-handler partition say to each other about a journal of packets.
//!
//! [`JournalJob`] stands behind [`crate::feed_job::FeedJob`] in the partition's arguments where the
//! job has [`JOB_RECORD`] or [`JOB_JOURNAL`]. The host sends what is to be recorded as
//! [`KIND_PACKET`] records: the wall clock of its arrival in nanoseconds (8 bytes, little-endian),
//! then the MoldUDP64 packet as it came; [`crate::feed_job::KIND_FEED_END`] ends them. Before the
//! first one it is told where the journal ends ([`JournalMark`]), which is told again whenever more
//! of them are durable: what was not acknowledged when a partition ends is sent to the next one,
//! unless the journal has it. The partition answers with [`JournalFigures`] at the end.
//!
//! A record of the journal is one packet, its kind [`RECORD_PACKET`], its time that of its arrival.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::journal::Chain;
use crate::record::Record;
use crate::{ABI_VERSION, AbiError, check_version, prefix};

/// Record packets that come through the command ring (a bit of a feed job's flags).
pub const JOB_RECORD: u32 = 1 << 16;
/// Replay from the journal on the device instead of from a feed store.
pub const JOB_JOURNAL: u32 = 1 << 17;

/// Host to partition: a packet.
pub const KIND_PACKET: u16 = 0x0108;
/// Partition to host: [`JournalFigures`].
pub const KIND_JOURNAL_FIGURES: u16 = 0x0304;
/// Partition to host: [`JournalMark`].
pub const KIND_JOURNAL_MARK: u16 = 0x0305;

/// A journal's record that is a MoldUDP64 packet.
pub const RECORD_PACKET: u32 = 1;
/// A journal's snapshot that is a feed of messages which make the books.
pub const SNAPSHOT_BOOKS: u32 = 1;

/// Longest packet that is recorded.
pub const PACKET_BYTES: usize = 9216;

/// Magic of [`JournalJob`]: `HYJRNLJB`.
pub const JOURNAL_JOB_MAGIC: u64 = u64::from_le_bytes(*b"HYJRNLJB");

/// At the speed at which the packets came.
pub const JOURNAL_ORIGINAL_SPEED: u32 = 1;
/// Begin at the message [`JournalJob::from`].
pub const JOURNAL_FROM_MESSAGE: u32 = 1 << 1;
/// Begin at the first packet that came at [`JournalJob::from`] or later.
pub const JOURNAL_FROM_TIME: u32 = 1 << 2;
/// Begin at the snapshot.
pub const JOURNAL_FROM_SNAPSHOT: u32 = 1 << 3;
/// Write a snapshot of the books at the end.
pub const JOURNAL_SAVE_SNAPSHOT: u32 = 1 << 4;
/// Give up the oldest packets where the journal is full.
pub const JOURNAL_WRAP: u32 = 1 << 5;

/// Chain the batches of a journal that has to be made; refuse one that has no chain.
pub const JOURNAL_CHAIN: u32 = 1 << 6;

/// How a journal is recorded or replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct JournalJob {
    /// [`JOURNAL_JOB_MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`] of the writer.
    pub version: u32,
    /// `JOURNAL_` bits.
    pub flags: u32,
    /// A message's sequence number, or nanoseconds since 1970-01-01.
    pub from: u64,
    /// Id of a journal that has to be made first.
    pub id: u64,
    /// Bytes of each of its snapshot slots.
    pub snapshot_bytes: u64,
}

const _: () = assert!(size_of::<JournalJob>() == 40 && offset_of!(JournalJob, from) == 16);

impl JournalJob {
    /// A job of this version.
    #[must_use]
    pub const fn new(flags: u32) -> Self {
        let (magic, version) = (JOURNAL_JOB_MAGIC, ABI_VERSION);
        Self { magic, version, flags, from: 0, id: 1, snapshot_bytes: 0 }
    }

    /// The job at the start of `bytes`.
    ///
    /// # Errors
    /// [`AbiError`] with what was seen and what is allowed.
    pub fn parse(bytes: &[u8]) -> Result<Self, AbiError> {
        const WHAT: &str = "journal job";
        let job: Self = prefix(WHAT, bytes)?;
        if job.magic != JOURNAL_JOB_MAGIC {
            let (found, expected) = (job.magic, JOURNAL_JOB_MAGIC);
            return Err(AbiError::Magic { what: WHAT, found, expected });
        }
        check_version(WHAT, job.version)?;
        Ok(job)
    }

    /// Whether a `JOURNAL_` bit is set.
    #[must_use]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// How far a journal goes that is recorded into: at first what was found, then what is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct JournalMark {
    /// Behind the last record that is there for good.
    pub end: u64,
    /// 1 if the journal was made by this job.
    pub made: u32,
    /// 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<JournalMark>() == 16 && offset_of!(JournalMark, made) == 8);

impl Record for JournalMark {
    const KIND: u16 = KIND_JOURNAL_MARK;
}

/// What became of a journal, sent when its job ended, well or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct JournalFigures {
    /// [`JOB_RECORD`] or [`JOB_JOURNAL`].
    pub phase: u32,
    /// 1 if the journal was made by this job.
    pub made: u32,
    /// Packets recorded, or read.
    pub packets: u64,
    /// Messages in them, where they were looked at.
    pub messages: u64,
    /// The journal's first record.
    pub front: u64,
    /// Behind its last record.
    pub end: u64,
    /// Gaps in the messages' numbers.
    pub gaps: u64,
    /// Messages missing in them.
    pub missing: u64,
    /// The first message that is missing; 0 for none.
    pub first_missing: u64,
    /// Times that recording waited for the device.
    pub waits: u64,
    /// The first record that is not in the snapshot that was written or read; 0 for none.
    pub snapshot: u64,
    /// Bytes of that snapshot.
    pub snapshot_bytes: u64,
    /// Flushes of the device.
    pub flushes: u64,
    /// Times that the packets' clock jumped, as far as a replay at original speed minds.
    pub clock_jumps: u64,
    /// The record before which it did so first.
    pub first_jump: u64,
    /// Chain behind the last record of a recording that was closed; zeros where there is none.
    pub chain: Chain,
}

const _: () = assert!(size_of::<JournalFigures>() == 136);
const _: () = assert!(offset_of!(JournalFigures, chain) == 112);

impl Record for JournalFigures {
    const KIND: u16 = KIND_JOURNAL_FIGURES;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_read_as_it_was_written_and_lies_are_refused() {
        let job = JournalJob { from: 7, ..JournalJob::new(JOURNAL_FROM_MESSAGE) };
        assert_eq!(JournalJob::parse(job.as_bytes()), Ok(job));
        assert!(job.has(JOURNAL_FROM_MESSAGE) && !job.has(JOURNAL_WRAP));
        assert_eq!(&job.as_bytes()[..12], b"HYJRNLJB\x01\0\0\0");
        assert!(JournalJob::parse(JournalJob { magic: 1, ..job }.as_bytes()).is_err());
        assert!(JournalJob::parse(JournalJob { version: 9, ..job }.as_bytes()).is_err());
        assert!(JournalJob::parse(&job.as_bytes()[..39]).is_err());
    }
}
