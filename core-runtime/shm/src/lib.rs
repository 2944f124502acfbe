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
//! Races. The other side is not Rust code of this process: it is a device, another process, or a
//! thread that plays one of them. It may write any byte at any time, whatever the protocol says,
//! and no type here can stop it. In the formal memory model a plain copy that meets such a write is
//! a data race; we take the stance that `rustix`, `vm-memory` and the kernel's own drivers take:
//! * Nothing is ever a reference to shared bytes, so the compiler may assume nothing about their
//!   value. A copy is one `copy_nonoverlapping` between raw pointers into memory of our own; what
//!   arrives may be torn, and is validated after the copy and never fetched again.
//! * What orders the two sides, and whatever one word decides, is an atomic: [`Word32`],
//!   [`Word64`].
//! * Every bit pattern is a valid byte, so a race gives a wrong value and never an invalid one.
//!
//! Between threads of our own, where Miri and ThreadSanitizer can see both sides, copies are plain
//! on purpose: a protocol that forgets to order them is reported.
//!
//! Invariants, named in the SAFETY lines:
//! 1. A span's bytes are mapped, readable and writable for the whole of `'m` (its maker's promise).
//! 2. No Rust reference to any byte of a span's range exists while the span is used, except the
//!    atomics made here and slices that an owner type of `core-runtime::mem` lends out of its
//!    blocks. A span is `Copy` and the compiler does not see who uses a copy: whoever made it
//!    (`from_raw`) promises it for all copies, and so decides who gets one. Of memory that an arena
//!    lends slices of, only the arena and what plays the device may have copies, and the latter
//!    touches a block only while the device owns it. Spans from the heap (`leak_*`) are safe to
//!    make, for tests and tools; who writes through one into a block that is lent as a slice at
//!    the time breaks the promise without an `unsafe` of their own.
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
