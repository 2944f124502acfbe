//! An append-only log on a block device: no allocation, no system call, no unsafe code.
//!
//! ```text
//!   append ─▶ Engine: records into the open batch ─▶ write ─▶ flush ─▶ acknowledged
//!                │ (pure: it is told what ended, it says what to do next)
//!   Journal ─────┘ holds buffers and I/O on a `nvme_driver::BlockDevice`; one task runs it
//!   recover ─▶ the tail, from the last checkpoint on, or a loud error
//!   Cursor  ─▶ records in order, from a sequence number or a time on
//! ```
//! **Durability.** A record is acknowledged once its batch and all before it are on the medium:
//! after the flush that followed their writes, or after the write itself where the device has no
//! volatile cache (or honours FUA, where that was tested and is said). A write or a flush that
//! fails ends the log: everything behind the last acknowledgement is *unknown*, and nothing is
//! retried. Opening it again decides. What is acknowledged is recovered; what was never appended is
//! never found; a hole in front of an acknowledged record is an error and not a tail.
//!
//! The layout is `hybrid_abi::journal`; `docs/journal.md` has its tables, the rules of recovery and
//! what they cannot see. Memory, tasks and devices are `core-runtime`'s and `nvme-driver`'s. It
//! keeps no clock: times are the caller's.
//!
//! Invariants:
//! 1. Nothing is acknowledged out of order.
//! 2. Nothing is written beyond a durable checkpoint's position plus the reach, nor over a segment
//!    that a durable superblock still counts as part of the log.
//! 3. Every opening for writing makes a new epoch durable in both superblocks before it appends.
//! 4. What the device returns is checked before it is believed, and is never an index.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod chain;
mod cursor;
mod engine;
mod error;
mod format;
mod limits;
mod log;
mod medium;
mod open;
mod promise;
mod recover;
mod snapshot;
mod walk;

pub use cursor::{Cursor, Seek, second_segment};
pub use engine::{Action, Engine, EngineStats, SLOTS_MAX};
pub use error::{AppendError, Ended, JournalError, ReadError, Where};
pub use format::{FormatOptions, format};
pub use hybrid_abi::journal as layout;
pub use limits::{Limits, Priority};
pub use log::{Journal, JournalParts};
pub use medium::{DeviceMedium, Medium};
pub use nvme_driver::IoError;
pub use open::{OpenOptions, open};
pub use promise::Promise;
pub use recover::{From, Recovered, recover, take_over};
pub use snapshot::{SnapshotInfo, load_snapshot, save_snapshot};
