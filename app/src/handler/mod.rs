//! The feed handler's work inside a partition: put a feed on a namespace, read it back, keep books.
//!
//! ```text
//!  Source ──► ingest ──► Namespace::write      one superblock, then chunks with CRC32C
//!                              │
//!  Namespace::read ──► replay ──► Pipeline ──► EventSink ──► event ring ──► host
//!   (a window of reads in flight, taken in order)
//! ```
//! Called by the binary's partition entry, as tasks of the scheduler. Nothing here allocates, makes
//! a system call or knows which backend the namespace belongs to. It does not print: errors travel
//! to the host as one line, figures as metrics.
//!
//! What lies on the device is `hybrid_abi::feed`; nothing else reads or writes it. [`journal`] is
//! the other way: packets recorded as they come into a log (crate `journal`), and replayed.

pub mod entry;
pub mod error;
pub mod ingest;
pub mod job;
pub mod journal;
pub mod keep;
pub mod probe;
mod probes;
pub mod progress;
pub mod replay;
pub mod sink;
pub mod steps;
pub mod store;

pub use error::HandlerError;
pub use ingest::{Filled, IngestJob, Source, ingest};
pub use progress::Progress;
pub use replay::{ReplayJob, Replayed, replay};
pub use sink::EventSink;
pub use store::Store;

/// Bytes of a chunk on the device. 64 KiB keeps the header's share at 0.1 %, is a multiple of every
/// legal block size, and a window of 32 of them is 2 MiB: it stays in a second-level cache.
pub const CHUNK_BYTES: u32 = 64 << 10;

/// Most chunks in flight: 256 of 64 KiB are 16 MiB, and no device needs more to be busy.
pub const WINDOW_MAX: usize = 256;
