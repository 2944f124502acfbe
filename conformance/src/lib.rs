//! One suite for every backend of the NVMe driver.
//!
//! A [`Backend`] is what a device looks like from the partition: registers, doorbells, DMA memory
//! and a way to let time pass. [`Rig`] puts a controller on it and runs futures by the loop that a
//! partition has: poll, tasks, ring. [`Stepped`] is the model on this thread, in virtual time;
//! [`Threaded`] is the model on a thread of its own behind the register mailbox. The tests are in
//! `tests/`; those that need no faults run on every backend.
//!
//! Environment: `HYBRID_SOAK=1` makes the oracle run 10^7 operations, `HYBRID_SOAK_OPS` any number,
//! `HYBRID_SEED` chooses the seed, which is always printed.
#![forbid(unsafe_code)]

mod backend;
mod oracle;
mod rig;
mod rng;

pub use backend::{Backend, Stepped, Threaded};
pub use oracle::{Oracle, OracleReport, operations, seed};
pub use rig::{Flag, Rig, quick};
pub use rng::Rng;
