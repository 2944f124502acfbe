//! A partition: one core, its memory, its scheduler, and its words with the host.
//!
//! The host makes [`PartitionParts`] (plain values that may cross threads and, later, an `execve`).
//! The partition's own core turns them into a [`Partition`] by [`PartitionParts::assemble`] and hands
//! it to the entry, which spawns its tasks and owns the loop. Nobody else owns a loop: device, rings
//! and scheduler offer bounded polls, and [`run_until_stopped`] is the order in which they are called.
//!
//! ```text
//!  host                                   partition's core
//!  PartitionParts ----------------------> assemble()            Starting
//!                                         entry: spawn tasks
//!                                         run_until_stopped()   Running
//!  stop word, command ring -------------> seen at a pass's end
//!                                         a task calls finish() Stopping
//!  state part <-------------------------- entry returns         Stopped or Failed
//! ```
//! Between *Running* and *Stopping* nothing here allocates, makes a system call or blocks.
//!
//! It does not make memory, threads or processes, and knows no device: the driver's parts reach the
//! entry beside the partition.
//!
//! Invariants:
//! 1. A [`Partition`] and all that it hands out stay on the core that assembled it (`!Send`, `!Sync`);
//!    what is shared with the host goes through the two regions only.
//! 2. Each shared word has one writer; what the host writes is checked where it is read.

mod exit;
pub mod state;

pub use exit::{PartitionError, PartitionExit};
pub use state::{PartitionState, StopReason};
