//! What a partition runs on: scheduler, timers, clock, DMA memory, rings and metrics.
//!
//! `#![no_std]`, no allocation, no system call. See `ARCHITECTURE.md` for how the parts meet.
#![cfg_attr(not(any(test, feature = "std")), no_std)]

pub mod channel;
pub mod clock;
pub mod crash;
pub mod crc;
pub mod mailbox;
pub mod mem;
pub mod mesh;
pub mod metrics;
pub mod partition;
pub mod probe;
pub mod region;
pub mod ring;
pub mod task;
