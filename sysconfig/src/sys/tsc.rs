//! The time-stamp counter.
//!
//! Invariants, named in the SAFETY lines:
//! 1. Every x86-64 processor has `rdtsc`, and Linux leaves it enabled in user mode.

/// The counter of the CPU that this thread runs on.
#[inline]
#[must_use]
pub(crate) fn rdtsc() -> u64 {
    // SAFETY: invariant 1.
    unsafe { core::arch::x86_64::_rdtsc() }
}
