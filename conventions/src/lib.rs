//! CPU sets, BDFs, sizes, times, devices and exit codes, parsed and printed one way everywhere.
//!
//! Every binary of the project calls this at its edges: command lines, sysfs files, reports. It
//! does no I/O (but for the features `command-line` and `config`), allocates nothing and knows no
//! other crate of ours; it only turns text into types that cannot be wrong, and types into text.
//!
//! Invariants:
//! 1. What [`core::fmt::Display`] prints, [`core::str::FromStr`] (or `parse`) reads back.
//! 2. No input panics: text comes from outside, and every refusal says what was seen and what
//!    is allowed.
//! 3. Units: bytes are powers of 1024, times are nanoseconds, CPUs are Linux CPU numbers.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(all(any(feature = "std", feature = "command-line"), not(test)))]
extern crate std;

mod bdf;
mod bytes;
#[cfg(feature = "command-line")]
mod command_line;
#[cfg(feature = "config")]
pub mod config;
mod cpu_set;
mod device;
mod exit;
mod human;
mod nanos;
mod number;
mod seen;
mod table;
#[cfg(any(feature = "std", test))]
pub mod testing;

pub use bdf::{Bdf, BdfError, BdfPattern};
pub use bytes::{Bytes, BytesError};
#[cfg(feature = "command-line")]
pub use command_line::not_started;
pub use cpu_set::{CpuSet, CpuSetError, Cpus, KernelMask};
pub use device::{DeviceSpec, DeviceSpecError};
pub use exit::{Exit, UnknownExit};
pub use human::{Count, HumanBytes, HumanNanos, Si};
pub use nanos::{Nanos, NanosError, TimeUnit};
pub use seen::Seen;
pub use table::{Align, Column, Table};
