//! NVMe as the specification writes it: what a driver and a controller must agree on.
//!
//! Registers, submission and completion entries, opcodes, status codes, identify structures,
//! features, log pages, asynchronous events and the rules of PRPs. Used by `nvme-driver` and by
//! `nvme-model`, which share nothing else; tools decode queue images with it.
//!
//! It touches no device, no memory and no clock, and prints nothing beyond names of codes.
//! References are to NVMe Base 2.0 and to the NVM Command Set specification 1.0 (`NVM CS 1.0`).
//!
//! Invariants:
//! - Structures that lie in memory are `repr(C)`, unaligned little-endian, without padding.
//! - Codes that may grow are newtypes with constants; any value can be held and printed.
//! - A field that counts from zero ends in `_z`; its accessor gives the real count, wider.
//! - Words ([`Sqe`], [`Cqe`]) are little-endian, which on every supported machine is native.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod command;
mod completion;
mod event;
mod feature;
mod identify;
mod ids;
mod log;
mod namespace;
mod opcode;
pub mod prp;
pub mod registers;
mod status;

pub use command::{
    Cdw12Io, Cns, CreateCq, CreateSq, DsmAttributes, DsmRange, MAX_DSM_RANGES, Sqe, SqeFlags,
};
pub use completion::{Cqe, QueueGrant};
pub use event::{AsyncEvent, AsyncEventType};
pub use feature::{
    Arbitration, AsyncEventConfig, FeatureId, FeatureSelect, NumberOfQueues,
    VolatileWriteCacheFeature,
};
pub use identify::{
    IdentifyController, OptionalAdminCommands, OptionalAsyncEvents, OptionalNvmCommands,
    PowerStateDescriptor, VolatileWriteCache, fixed_text,
};
pub use ids::{Cid, Lba, Nsid, QueueId};
pub use log::{CriticalWarning, ErrorLogEntry, FirmwareSlotLog, GetLogPage, LogPageId, SmartLog};
pub use namespace::{
    FormattedLbaSize, IdentifyNamespace, LbaFormat, NamespaceDescriptor, NamespaceFeatures,
    NsidList, descriptors,
};
pub use opcode::{AdminOpcode, NvmOpcode};
pub use status::{Status, StatusCode, StatusType};

/// Bytes of a submission queue entry (IOSQES = 6).
pub const SQE_BYTES: usize = 64;
/// Bytes of a completion queue entry (IOCQES = 4).
pub const CQE_BYTES: usize = 16;
/// Bytes of every identify structure.
pub const IDENTIFY_BYTES: usize = 4096;

const _: () = assert!(cfg!(target_endian = "little"), "queue entries are handled as native words");
