//! What the benchmarks share: command line, chance, clean slices of time, figures, the report.
//!
//! Each binary of this package is one benchmark: it runs with a fixed seed, prints a checksum of
//! the work and the machine's facts, and takes `--quick` (a size for tests) and `--json`. Times are
//! TSC ticks until they are printed. Of the driver only [`one_core`] knows.

#![forbid(unsafe_code)]

pub mod cli;
pub mod cross;
pub mod figures;
pub mod hist;
pub mod one_core;
pub mod pick;
pub mod probed;
pub mod race;
pub mod report;
pub mod rng;
pub mod slices;
