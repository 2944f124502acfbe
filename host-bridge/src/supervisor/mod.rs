//! Supervision.

pub mod policy;
pub mod restart;
