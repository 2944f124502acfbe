//! A polled NVMe driver in user space: no allocation, no lock, no system call, no unsafe code.
//!
//! A partition makes a [`Controller`] from what a backend hands over ([`DeviceParts`]), calls
//! [`Controller::poll`] and [`Controller::ring`] once a pass, and its tasks read and write
//! [`Namespace`]s. Nothing here blocks: bring-up, resets and shutdown are one state machine that
//! `poll` moves. It does not map memory, find devices, set up interrupts or keep threads.
//!
//! The way of a read: `namespace` checks it against the namespace's shape, `requests` keeps it and
//! its buffer, `queue` writes the entry once, in place, and later believes a completion only if its
//! CID is the very one that its slot expects. `watchdog` ends what the device never answers.
//!
//! Invariants:
//! 1. Every command ends exactly once: with the device's answer, or with a typed error.
//! 2. A buffer that the device may write is never a slice, never reused, and never freed, until the
//!    command was answered, its queue's deletion acknowledged, or CSTS.RDY = 0 seen.
//! 3. What a device says is never an index, and never waited for without a limit.
//! 4. Everything belongs to one core; nothing is `Send`.
//!
//! The faults that other drivers had, and what prevents each here, are in `docs/bug-classes.md`.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod admin;
mod again;
mod block;
mod bridge;
mod bringup;
mod cid;
mod config;
mod controller;
mod crash;
mod devices;
mod entry;
mod error;
mod events;
mod future;
mod health;
mod hub;
mod latency;
mod lifecycle;
mod namespace;
mod places;
mod probes;
mod prp;
mod queue;
mod quirks;
mod raw;
mod regs;
mod request;
mod requests;
mod shape;
mod slot;
mod split;
mod stats;
mod waiters;
mod watchdog;

pub use again::ReadAgain;
pub use block::{BlockCommand, BlockDevice, BlockIo, BlockQueue, Device};
pub use bridge::{
    Bridge, BridgeCommand, BridgeError, BridgeIo, BridgeParts, BridgeQueue, BridgeRefused,
    QueueRefused,
};
pub use cid::MAX_SLOTS;
pub use config::{ControllerConfig, MAX_IO_QUEUES, MAX_NAMESPACES, MAX_PAGE_BYTES};
pub use controller::{Controller, ControllerParts, ControllerState, DeviceParts, PollReport};
pub use entry::run_with_device;
pub use error::{ControllerError, Failed, IoError, ResetReason, Step};
pub use future::{CommandFuture, IoFuture};
pub use health::HealthWatch;
pub use latency::LatencyHistograms;
pub use namespace::{Namespace, WriteFlags};
pub use nvme_spec::{self as spec, Lba};
pub use queue::QueuePair;
pub use quirks::{PciId, Quirks, quirks_of};
pub use raw::{RawQueue, Target};
pub use regs::{ControlRegs, LOOK_NS, RegsError};
pub use shape::Refusal;
pub use stats::{ControllerStats, Ignored, LatencySummary, QueueStats};
