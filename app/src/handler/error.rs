//! Why an ingest or a replay ended early, in one line that says where.

use core_runtime::mem::{DmaError, OutOfMemory};
use core_runtime::metrics::MetricsError;
use core_runtime::partition::StateError;
use core_runtime::task::SpawnError;
use hybrid_abi::AbiError;
use journal::{Ended, JournalError, ReadError};
use nvme_driver::spec::{Nsid, StatusCode};
use nvme_driver::{ControllerError, IoError, ReadAgain, Refusal};
use thiserror::Error;

use super::keep::BeginsAnew;
use crate::book::StorageError;
use crate::error::{BookError, Fault, FeedError};

/// What ended the work.
#[derive(Debug, Error)]
pub enum HandlerError {
    /// The partition's arguments are no job.
    #[error("arguments: {0}")]
    Arguments(AbiError),
    /// The partition was started without a device.
    #[error("the partition has no device")]
    NoDevice,
    /// The controller cannot be used.
    #[error("controller: {0}")]
    Controller(#[from] ControllerError),
    /// The controller's namespaces cannot be used; this is why not the first of them.
    #[error("namespace {nsid} cannot be used: {why}")]
    NamespaceRefused {
        /// The namespace.
        nsid: Nsid,
        /// Why.
        why: Refusal,
    },
    /// There is no namespace.
    #[error("the controller has no active namespace")]
    NoNamespace,
    /// No room for the job's metrics.
    #[error("metrics: {0}")]
    Metrics(#[from] MetricsError),
    /// The job's task cannot be started.
    #[error("task: {0}")]
    Task(#[from] SpawnError),
    /// The device refused or lost a command.
    #[error("{what} of chunk {chunk} failed: {error}{doubt}", doubt = doubt(what, error))]
    Chunk {
        /// `read` or `write`.
        what: &'static str,
        /// Number of the chunk.
        chunk: u64,
        /// Why.
        error: IoError,
    },
    /// The device refused or lost a command on the superblock, or a flush.
    #[error("{what} failed: {error}{doubt}", doubt = doubt(what, error))]
    Device {
        /// Which command.
        what: &'static str,
        /// Why.
        error: IoError,
    },
    /// No DMA memory for the window.
    #[error("no DMA memory for {chunks} chunks in flight: {error}; lower --queue-depth")]
    NoDma {
        /// Chunks wanted.
        chunks: usize,
        /// Why.
        error: DmaError,
    },
    /// No private memory for the books.
    #[error("no memory for the books: {0}; raise --max-orders only as far as memory goes")]
    NoMemory(OutOfMemory),
    /// The books' memory is laid out wrongly.
    #[error("memory for the books: {0}")]
    Books(#[from] StorageError),
    /// The device carries no feed.
    #[error(
        "the device carries no feed ({0}); write one with `feed-handler ingest FILE` on the same \
         --device"
    )]
    NoFeed(AbiError),
    /// The ingest that wrote it did not come to its end.
    #[error("the feed on the device is incomplete: its ingest was cut short; ingest it again")]
    Incomplete,
    /// The feed on the device does not fit its namespace.
    #[error(
        "the feed on the device does not fit its namespace: {0}; an image wants the --model-lba \
         and the whole length that it was written with"
    )]
    Misfit(AbiError),
    /// The device carries something that is not ours.
    #[error(
        "the device carries data that is no feed of ours (first at byte {at}); --allow-writes \
         overwrites it"
    )]
    Foreign {
        /// Offset of the first byte that is not zero.
        at: u64,
    },
    /// The namespace is too small.
    #[error(
        "the feed needs {need_bytes} bytes on the device, the namespace has {have_bytes}; use a \
         larger device or image (--model-size)"
    )]
    TooSmall {
        /// Bytes that the store takes so far.
        need_bytes: u64,
        /// Bytes of the namespace.
        have_bytes: u64,
    },
    /// A chunk is not what was written.
    #[error("chunk {chunk} on the device is damaged: {error}")]
    Damaged {
        /// Number of the chunk.
        chunk: u64,
        /// What is wrong with its header.
        error: AbiError,
    },
    /// A chunk's payload is not what was written.
    #[error(
        "chunk {chunk} on the device is damaged: payload crc32c {computed:#010x}, its header says \
         {stored:#010x}"
    )]
    DamagedPayload {
        /// Number of the chunk.
        chunk: u64,
        /// What the header says.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// The feed itself is wrong.
    #[error("{0}{hint}", hint = hint(.0))]
    Feed(#[from] FeedError),
    /// The journal cannot be opened or made.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// The journal cannot be read.
    #[error("{0}")]
    JournalRead(#[from] ReadError),
    /// The journal ended while it was written.
    #[error("the journal ended: {0}; what was not acknowledged is unknown")]
    JournalEnded(#[from] Ended),
    /// A chain was asked for, and the journal was made without one.
    #[error(
        "the journal on the device was made without a chain, and --chain wants one; leave --chain \
         out, or record on another --device"
    )]
    NoChain,
    /// A packet is not taken.
    #[error("a packet cannot be recorded: {0}")]
    Append(journal::AppendError),
    /// There is no snapshot of books.
    #[error("the journal has no whole snapshot of books; replay it with --save-snapshot first")]
    NoSnapshot,
    /// Messages are missing.
    #[error(
        "messages {first} to {last} are missing in the journal; --lenient goes on without them"
    )]
    Gap {
        /// The first.
        first: u64,
        /// The last.
        last: u64,
    },
    /// The host gave the feed up.
    #[error("the host ended the feed before its end")]
    SourceFailed,
    /// The state memory cannot be used.
    #[error("state memory: {0}")]
    State(StateError),
    /// It is too small: the host's mistake.
    #[error("the state memory is too small for the books")]
    NoState,
    /// What was found whole when the partition started is not any more.
    #[error("the state memory has changed: {0}")]
    BadState(BeginsAnew),
    /// Another feed than before.
    #[error(
        "the device carries another feed than the one of which {sent} changes, trades and states \
         were told already; --fallback must name the same blocks"
    )]
    OtherFeed {
        /// So many.
        sent: u64,
    },
    /// The drive writes no more.
    #[error("the drive has made its media read only; replace it")]
    ReadOnly,
    /// The host asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The host no longer reads the event ring.
    #[error("the event ring is closed")]
    RingClosed,
}

impl HandlerError {
    /// Whether the device is at fault, and not what it carries or what was asked of it.
    #[must_use]
    pub const fn blames_device(&self) -> bool {
        match self {
            Self::Controller(error) => !matches!(
                error,
                ControllerError::Config(_)
                    | ControllerError::NoMemory(_)
                    | ControllerError::NotAController
            ),
            Self::ReadOnly => true,
            _ => match self.command() {
                Some(IoError::TimedOut | IoError::Reset(_) | IoError::Gone | IoError::NotReady) => {
                    true
                }
                // Other storage may be written.
                _ => self.is_protected(),
            },
        }
    }

    /// Whether the device refused a write because nothing may be written to it.
    #[must_use]
    pub const fn is_protected(&self) -> bool {
        match self.command() {
            Some(IoError::Status { status, .. }) => {
                status.code().0 == StatusCode::NAMESPACE_WRITE_PROTECTED.0
            }
            _ => false,
        }
    }

    /// What became of the command that failed, if it was one.
    const fn command(&self) -> Option<&IoError> {
        match self {
            Self::Chunk { error, .. }
            | Self::Device { error, .. }
            | Self::Journal(JournalError::Io(error) | JournalError::Read(ReadError::Io(error)))
            | Self::JournalRead(ReadError::Io(error))
            | Self::JournalEnded(
                Ended::Write { error, .. } | Ended::Flush(error) | Ended::Superblock(error),
            ) => Some(error),
            _ => None,
        }
    }
}

/// What is not known of a write or a flush that was lost; it is never repeated.
fn doubt(what: &str, error: &IoError) -> &'static str {
    let writes = what.starts_with("write") || what.starts_with("flush");
    match ReadAgain::is_lost(error) || *error == IoError::Gone {
        true if writes => "; whether it was carried out is unknown",
        _ => "",
    }
}

/// What to do about a feed that is wrong, where something can be done.
const fn hint(error: &FeedError) -> &'static str {
    match error.fault {
        Fault::Frame(_) => "",
        Fault::Book(BookError::Full { .. }) => " (--max-orders)",
        Fault::Message(_) | Fault::Book(_) => "; --lenient counts such messages and goes on",
    }
}
