//! Locks and threads of what several threads of the host share: the standard library's.
//!
//! Under `--cfg shuttle` the unit tests have shuttle's instead, which tries one order of threads
//! after the other: `supervisor::interleavings`.

#[cfg(not(all(test, shuttle)))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard},
    thread::Builder,
};

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::{
    sync::{Condvar, Mutex, MutexGuard},
    thread::Builder,
};
