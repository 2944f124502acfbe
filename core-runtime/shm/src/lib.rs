//! The only code that reads and writes shared memory: bounds, atomics, copies.
//!
//! Everything that two processes, two threads, or a processor and a device look at together is
//! reached through a [`Span`]: a range of mapped bytes that is never a Rust reference. Words are
//! loaded and stored atomically through [`Word32`] and [`Word64`], whose bounds and alignment were
//! checked once, when they were made; payloads are copied in and out.
//!
//! Called by `core-runtime` (memory, rings, metrics), by the controller model and by the tools.
//! It maps nothing and owns nothing: whoever made the mapping keeps it alive for `'m`.
//!
//! Invariants, named in the SAFETY lines:
//! 1. A span's bytes are mapped, readable and writable for the whole of `'m` (its maker's promise).
//! 2. No Rust reference to any byte of a span's range exists while the span is used, except the
//!    atomics made here and slices that an owner type of `core-runtime::mem` lends out.
//! 3. `offset + len <= self.len` was tested, without overflow, before a pointer was formed.
//! 4. A word's address is a multiple of its size.
#![no_std]

#[cfg(feature = "std")]
extern crate std;

#[cfg(feature = "std")]
mod heap;
mod span;
mod word;

#[cfg(feature = "std")]
pub use heap::{leak_aligned, leak_zeroed};
pub use span::{OutOfBounds, ReadSpan, Span};
pub use word::{ReadWord32, Word32, Word64};
