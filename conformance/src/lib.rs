//! One suite for every backend of the NVMe driver.
//!
//! A [`Backend`] is what a device looks like from the partition: registers, doorbells, DMA memory
//! and a way to let time pass. [`Rig`] puts a controller on it and runs futures by the loop that a
//! partition has: poll, tasks, ring. [`Stepped`] is the model on this thread, in virtual time;
//! [`Threaded`] is the model on a thread of its own behind the register mailbox.
//!
//! [`suite`] is the table of cases that every backend must stand. `tests/suite.rs` runs it on the
//! stepped and the threaded model; the program `conformance` runs it on a partition's core, through
//! `host_bridge`, on whatever `--device` names (`docs/conformance.md`). The other files in `tests/`
//! plant faults into the model, which no other device lets one do.
//!
//! Environment: `HYBRID_SOAK=1` makes the oracle run 10^7 operations, `HYBRID_SOAK_OPS` any number,
//! `HYBRID_SEED` chooses the seed, which is always printed.
#![forbid(unsafe_code)]

mod backend;
mod oracle;
mod rig;
mod rng;
pub mod suite;

pub use backend::{Backend, Stepped, Threaded};
pub use oracle::{Oracle, OracleReport, operations, seed};
pub use rig::{Flag, Rig, quick};
pub use rng::Rng;
