//! What can go wrong: an append, a read, opening the log.

use core::fmt;

use hybrid_abi::AbiError;
use hybrid_abi::journal::BatchFault;
use nvme_driver::IoError;
use thiserror::Error;

use crate::limits::Priority;

/// A place in the log, as errors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Where {
    /// Position in the log.
    pub position: u64,
    /// Byte of the device.
    pub byte: u64,
    /// The record that is missed there.
    pub sequence: u64,
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, byte, sequence } = self;
        write!(f, "record {sequence} at position {position} (byte {byte} of the device)")
    }
}

/// What ended a log that was open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Ended {
    /// A write of records failed.
    #[error("a write at position {position} failed: {error}")]
    Write {
        /// Position of the batch.
        position: u64,
        /// What the device said.
        error: IoError,
    },
    /// A flush failed; it is not repeated.
    #[error("a flush failed: {0}")]
    Flush(IoError),
    /// A superblock could not be written.
    #[error("a superblock could not be written: {0}")]
    Superblock(IoError),
    /// It was closed.
    #[error("the log was closed")]
    Closed,
}

/// Why an append was not taken. Nothing of it is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The log is behind, and appends of this priority are turned away.
    #[error("{pending} records wait already, the bound of {priority:?} priority is {bound}")]
    Shed {
        /// Its priority.
        priority: Priority,
        /// Records that wait.
        pending: u64,
        /// How many may.
        bound: u64,
    },
    /// All buffers are on their way to the device.
    #[error("all {slots} batches are on their way to the device")]
    Busy {
        /// Batches.
        slots: u8,
    },
    /// The log may not run further ahead of its last checkpoint, which is being written.
    #[error("the log is {ahead} bytes ahead of its checkpoint, allowed are {reach}")]
    Ahead {
        /// Bytes.
        ahead: u64,
        /// Bytes that are allowed.
        reach: u64,
    },
    /// Every segment holds records that were not truncated.
    #[error(
        "the log is full at position {position}: {segments} segments from record {front} on; \
         truncate it from the front"
    )]
    Full {
        /// Where the next batch would begin.
        position: u64,
        /// Segments.
        segments: u64,
        /// First record that is kept.
        front: u64,
    },
    /// The payload is larger than a batch, which is never larger than a segment.
    #[error("record {sequence}: a payload of {length} bytes, one of this log has at most {most}")]
    TooLarge {
        /// Number that the record would have had.
        sequence: u64,
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        most: usize,
    },
    /// The log has ended; what was not acknowledged is unknown.
    #[error("the log has ended: {0}")]
    Ended(Ended),
}

/// Why records could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The device.
    #[error("cannot read the journal: {0}")]
    Io(#[from] IoError),
    /// A record that was acknowledged is not there.
    #[error("the journal is damaged: {at} is lost, though it was acknowledged: {fault}")]
    Lost {
        /// Where.
        at: Where,
        /// What is there.
        fault: BatchFault,
    },
    /// The record asked for is not in the log.
    #[error("record {sequence} is not in the journal, which holds {front} to {end} (exclusive)")]
    OutOfRange {
        /// Record asked for.
        sequence: u64,
        /// First record.
        front: u64,
        /// Behind the last record.
        end: u64,
    },
}

/// Why a journal could not be made or opened; and what else may go wrong with one, for whoever
/// wants one error for all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum JournalError {
    /// The device.
    #[error("cannot read or write the journal: {0}")]
    Io(#[from] IoError),
    /// There is no journal, and nothing else in its superblocks' place.
    #[error("there is no journal on the device; format it first")]
    Empty,
    /// There is something else in its place.
    #[error(
        "the device carries something else at byte {byte}: {found:#018x}; it is not overwritten \
         unless that is asked for"
    )]
    Foreign {
        /// Where it begins.
        byte: u64,
        /// Its first eight bytes.
        found: u64,
    },
    /// Both superblocks are unusable.
    #[error("both superblocks of the journal are damaged: slot 0: {first}; slot 1: {second}")]
    Superblocks {
        /// Why the first.
        first: AbiError,
        /// Why the second.
        second: AbiError,
    },
    /// The two superblocks belong to two journals.
    #[error("the superblocks belong to two journals, ids {first:#018x} and {second:#018x}")]
    Mixed {
        /// Id in slot 0.
        first: u64,
        /// Id in slot 1.
        second: u64,
    },
    /// The sizes are not allowed.
    #[error("{0}")]
    Sizes(AbiError),
    /// The device is smaller than the journal.
    #[error("the journal takes {needed} bytes, the device has {found}")]
    TooSmall {
        /// Bytes needed.
        needed: u64,
        /// Bytes there.
        found: u64,
    },
    /// The device has another block size than the journal.
    #[error("the journal was made for blocks of {journal} bytes, the device has {device}")]
    BlockSize {
        /// The journal's.
        journal: u32,
        /// The device's.
        device: u32,
    },
    /// A buffer is smaller than a batch.
    #[error("a batch has {batch} bytes, the buffer for reads {buffer}")]
    Buffer {
        /// Bytes of a batch.
        batch: u32,
        /// Bytes of the buffer.
        buffer: usize,
    },
    /// Limits that are not allowed.
    #[error("{slots} batches with {in_flight} in flight, allowed are 2 to 16, and 1 to as many")]
    Limits {
        /// Batches.
        slots: u8,
        /// In flight.
        in_flight: u8,
    },
    /// An acknowledged record is missing: not a tail that was torn off.
    #[error("the journal is damaged: {at} is lost ({fault}), though {proof}")]
    Lost {
        /// Where.
        at: Where,
        /// What is there.
        fault: BatchFault,
        /// How it is known.
        proof: Proof,
    },
    /// A later opening's records are there, its superblock is not.
    #[error(
        "the journal is damaged: records of epoch {epoch} at position {position}, \
             the superblocks know {known}: the superblock of that epoch is lost"
    )]
    SuperblockLost {
        /// Epoch of the records.
        epoch: u64,
        /// Their position.
        position: u64,
        /// Epoch of the superblock.
        known: u64,
    },
    /// No memory for its buffers.
    #[error("no memory for the journal: {0}")]
    Memory(&'static str),
    /// A snapshot is larger than its slot.
    #[error("a snapshot of {length} bytes, a slot holds {room}")]
    SnapshotSize {
        /// Bytes.
        length: u64,
        /// Bytes that fit.
        room: u64,
    },
    /// The device has no such namespace.
    #[error("the device has no namespace {0}")]
    NoNamespace(u32),
    /// Records could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record was not taken.
    #[error("a record was not taken: {0}")]
    Append(#[from] AppendError),
    /// The log ended; what was not acknowledged is unknown.
    #[error("the log has ended: {0}")]
    Ended(#[from] Ended),
    /// A snapshot of records that are not acknowledged.
    #[error("a snapshot up to record {sequence}, acknowledged are those below {acknowledged}")]
    SnapshotAhead {
        /// Its first record.
        sequence: u64,
        /// Records below are acknowledged.
        acknowledged: u64,
    },
}

/// How it is known that a missing record was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A later batch says so.
    Batch {
        /// Its position.
        position: u64,
        /// Records below were acknowledged when it was written.
        acknowledged: u64,
    },
    /// It lies before the checkpoint.
    Checkpoint {
        /// Its sequence number.
        sequence: u64,
    },
    /// The batch's header is there, and the device writes as many blocks whole or not at all.
    Unit {
        /// Blocks that it writes atomically.
        blocks: u32,
    },
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch { position, acknowledged } => write!(
                f,
                "the batch at position {position} says that records below {acknowledged} were \
                 acknowledged"
            ),
            Self::Checkpoint { sequence } => {
                write!(f, "the checkpoint says that records below {sequence} were durable")
            }
            Self::Unit { blocks } => write!(
                f,
                "its header is whole and the device writes {blocks} blocks whole or not at all"
            ),
        }
    }
}
