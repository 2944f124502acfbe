//! The atomics of [`super::eventidx`], in one place: the loom test puts its own here.

pub(super) use core::sync::atomic::{AtomicU32, Ordering, fence};
