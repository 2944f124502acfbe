//! System calls that Rust's types do not cover: the only unsafe code of this crate.

pub(crate) mod affinity;
pub(crate) mod huge;
pub(crate) mod inherited;
pub(crate) mod signals;
pub(crate) mod thread;
pub(crate) mod tsc;
