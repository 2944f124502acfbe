//! io_uring: rings, operations, files. The only unsafe code of the io_uring side.
//!
//! Called by [`crate::uring`]. A [`Ring`] takes [`Op`]s, plain values whose memory is
//! [`Span`](hybrid_shm::Span)s that live as long as the program, so that no operation can outlive
//! what it points to, whatever becomes of the ring. Every entry into the kernel is counted.
//!
//! Invariants, named in the SAFETY lines:
//! 1. The memory of an operation is `Span<'static>`: mapped for ever, and never a Rust reference
//!    while the kernel may write it (a `DmaBuf` is handed over as a `DeviceBuf` before).
//! 2. Nothing else that an entry names is a pointer: offsets, lengths, descriptors, numbers.
//! 3. An argument of a system call is a structure of the kernel's layout that lives across it.

pub mod file;
pub mod op;
pub mod ring;

pub use file::{DioAlign, NvmeAdmin};
pub use op::{Buf, Cqe, File, NvmeIo, Op, Opcode, ZeroMode};
pub use ring::{Features, Full, Ring, RingOptions, SqPoll};
