//! A software NVMe controller that a stock driver could drive.
//!
//! It is the embedded default device, the double in tests and the maker of faults; there is one of
//! it. It shares `nvme-spec` with drivers and knows none of them. What it sees of a host are
//! registers ([`Model::read_reg`], [`Model::write_reg`]), doorbells in memory and DMA memory that
//! was mapped for it ([`Model::map_dma`]) at addresses that are no pointers.
//!
//! [`Model::step`] does a bounded amount of work and never waits, so a test can look between any
//! two steps; [`ModelThread`] steps it on a thread of its own and serves the registers through a
//! mailbox. Everything that looks like chance comes from [`ModelConfig::seed`].
//!
//! What it checks: [`HostMistake`]. What it breaks: [`FaultPlan`], [`ControllerFault`].
//! What it is not: fast storage's timing (unless a [`LatencyModel`] says so), SGLs, fused commands,
//! protection information, namespace management, zones.
//!
//! Invariants:
//! - What comes from the host is an allegation: no index, no arithmetic on it before a check.
//! - A completion's CID is free again before the completion is visible.
//! - Queue memory is translated once, when the queue is made, and forgotten with the queue.
//! - Nothing is allocated on the short way of an I/O command.
#![forbid(unsafe_code)]

mod admin;
mod admin_queues;
mod cache;
mod checker;
mod config;
mod direct;
mod engine;
mod error;
mod events;
mod fault;
mod flight;
mod io;
mod latency;
mod logs;
mod mistake;
mod model;
mod namespace;
mod queues;
mod registers;
mod rng;
mod shadow;
mod stats;
mod store;
mod thread;
mod transfer;

pub use config::{Backing, ModelConfig, NamespaceConfig, Patch};
pub use error::ModelError;
pub use fault::{
    AbortPolicy, ControllerFault, CqeFault, DataFault, FaultAction, FaultNote, FaultPlan,
    FaultRule, OnQueue, When,
};
pub use latency::LatencyModel;
pub use mistake::{DoorbellKind, HostMistake};
pub use model::Model;
pub use rng::Rng;
pub use stats::{ModelStats, StepReport};
pub use store::null_header;
pub use thread::{Idle, ModelGauges, ModelThread, ThreadError, ThreadOptions};
