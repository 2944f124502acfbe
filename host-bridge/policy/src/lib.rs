//! What a supervisor of partitions decides, without a system call and without a clock.
//!
//! `host_bridge::supervisor` carries the decisions out and has these modules under its own name;
//! the simulation (`sim`) drives the same code on a virtual clock, which is why it is a package of
//! its own: a simulation links no system's library.
//!
//! | module | what |
//! |---|---|
//! | [`policy`] | the state machine, drawn there: what was seen in, what to do out |
//! | [`restart`] | which ends are answered with a restart, when, and how often |
//! | [`fallback`] | other storage for when the device is at fault: taken once |
#![forbid(unsafe_code)]

pub mod fallback;
pub mod policy;
pub mod restart;
