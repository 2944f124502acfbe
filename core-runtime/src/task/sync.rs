//! The atomics of this module, in one place: the loom test puts its own here.

pub(super) use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
