//! Everything that makes a system call: memory, devices, partition launch.
//!
//! The host is an ordinary std process beside the partitions. It prepares memory and device, pins
//! and starts partitions ([`Runtime`]), watches them through shared memory ([`PartitionHandle`])
//! and reports how they ended. It calls no driver code and runs nothing on a partition's core.
//!
//! | module | what |
//! |---|---|
//! | [`runtime`] | cores, launch, handle, report: the documented way in |
//! | [`alert`] | errors that a partition survived, and who hears of them |
//! | [`process`] | partitions that are processes: [`partition_main!`], how they start and end |
//! | [`backend`] | devices: the model now; each backend returns the same ingredients |
//! | [`vfio_user`], [`vfio_user_server`] | the vfio-user protocol; the model behind it |
//! | [`supervisor`] | hangs and deaths: alarm, dump, fence, restart |
//! | [`telemetry`] | figures for Prometheus, the control socket |
//! | [`page`] | reports as pages with charts, for programs |
//! | [`memory`] | page sizes, the fall-back with its one warning, locking |
//! | [`calibration`] | the clock's frequency |
//! | [`crash`] | what a dead partition left: its record, or one composed for it |
//! | [`topology`], [`numa`], [`facts`], [`affinity`] | the machine |
//! | [`sys`] | memory files, mappings, signals, guards, the sandbox: all unsafe code |
//!
//! Deliberately absent: async code (std threads only), locks on any path that a partition sees,
//! changes to the system's settings (it prints the command instead).

pub mod affinity;
pub mod alert;
pub mod backend;
pub mod calibration;
pub mod crash;
pub mod error;
pub mod facts;
pub mod memory;
pub mod numa;
pub mod page;
pub mod probes;
pub mod process;
pub mod runtime;
pub mod supervisor;
mod sync;
pub mod sys;
pub mod telemetry;
pub mod topology;
pub mod uring;
pub mod vfio_user;
pub mod vfio_user_server;
pub mod warnings;

#[cfg(test)]
mod testing;

pub use error::RuntimeError;
pub use runtime::{
    CoreChoice, Entry, EntryFn, Event, EventQueue, Isolation, MeshPlace, PartitionHandle,
    PartitionMesh, PartitionReport, PartitionSpec, Runtime, Spread, Table,
};
pub use sys::state_memory::StateFile;
