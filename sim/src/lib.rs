//! Deterministic simulation: scheduler, rings, driver and a software controller in one process, on
//! a virtual clock, from one seed.
//!
//! [`run`] carries out a [`Plan`]: the host sends operations over a real ring to a partition with
//! the real scheduler and the real driver, the model answers late, out of order, wrongly or not at
//! all, partitions die, the power is cut; an oracle knows for each block what a read may return.
//! The same plan gives the same run, bit for bit: [`Outcome::trace_hash`], [`Outcome::state_hash`].
//! `docs/simulation.md` is the user's side, `docs/faults.md` the catalogue.
//!
//! What it is not: a test of memory orderings (loom's), of the processor, or of a drive. Device and
//! partition take turns; a completion never appears in the middle of a reap.
//!
//! Invariants:
//! 1. Nothing depends on the machine: no real time, no addresses, no hash maps with random seeds.
//! 2. Operation `i` and fault `j` depend on the plan alone, so that any of them can be left out.
//! 3. The oracle learns of faults that spoil data when they have spoilt them, and of nothing else
//!    that the device does.
#![forbid(unsafe_code)]

mod campaign;
mod catalogue;
mod content;
mod cost;
mod device;
mod host;
mod kernel;
#[cfg(test)]
mod ladder;
mod op;
mod oracle;
mod partition;
mod plan;
mod planted;
mod shared;
mod shrink;
mod tape;
#[cfg(test)]
mod tests;
mod world;

pub use campaign::{Limit, Shape, Total, campaign};
pub use catalogue::{CATALOGUE, Fault, Kind, Trigger, find};
pub use oracle::Seen;
pub use plan::{Plan, Workload};
pub use shared::Reached;
pub use shrink::{Shrunk, shrink};
pub use tape::{Event, HEADING, What, Who};
pub use world::{Outcome, Watch, run};
