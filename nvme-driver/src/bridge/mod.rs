//! The bridge: block I/O through the host, when no NVMe controller is at hand.
//!
//! Used through [`BlockDevice`](crate::BlockDevice) and [`Device`](crate::Device). Requests and
//! completions go over two rings in shared memory (`hybrid_abi::bridge`); data stay in DMA memory,
//! where the host reads and writes them. The host is a device like another: what it says is
//! checked, and it is never waited for without a limit.
//!
//! ```text
//!          start                completion                 taken
//!   Free ---------> Pending ------------------> Done -----------------> Free
//!                    |  | future dropped         | future dropped         ^
//!                    |  v                        +------------------------+
//!                    | Orphan ---- completion ----------------------------+
//!                    | deadline: cancelled once; no answer in the grace time: the bridge is gone,
//!                    v and the buffers of all that was in flight are quarantined
//!                   Lost
//! ```
//!
//! Invariants:
//! 1. A request ends exactly once: by a completion that names its slot and generation, or because
//!    the bridge is gone.
//! 2. A buffer in flight is a [`DeviceBuf`](core_runtime::mem::DeviceBuf); it becomes the CPU's by
//!    its completion only.
//! 3. A request in flight has a slot, and the rings have twice as many places as there are slots,
//!    so that a request that got a slot finds room, and so does a request to cancel it.

mod by_hand;
mod client;
mod future;
mod queue;
mod request;
mod slot;
#[cfg(test)]
mod tests;
mod wire;

use core::fmt;

use core_runtime::clock::Clock;
use core_runtime::mem::OutOfMemory;
use core_runtime::probe::Probes;
use core_runtime::ring::RingError;
use hybrid_abi::AbiError;
use hybrid_shm::{OutOfBounds, ReadSpan, Span};

pub use client::Bridge;
pub use future::{BridgeCommand, BridgeIo};
pub use queue::BridgeQueue;

/// Everything that a bridge is made of.
#[derive(Clone, Copy)]
pub struct BridgeParts {
    /// The partition's file.
    pub own: Span<'static>,
    /// The host's file.
    pub peer: ReadSpan<'static>,
    /// Clock of the partition.
    pub clock: Clock,
    /// Where it writes its events; none in tests.
    pub probes: Option<&'static Probes>,
}

impl fmt::Debug for BridgeParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BridgeParts").field("own", &self.own).finish_non_exhaustive()
    }
}

/// How the host ended a request other than well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BridgeError {
    /// The kernel said an error.
    #[error("{text} (error {errno} of the host's kernel)", text = errno_text(*.0), errno = .0)]
    Errno(u32),
    /// The host refused the request.
    #[error("the host refused the request: {}", refusal_text(*.0))]
    Refused(u32),
    /// The file ended before the request did.
    #[error("the host's file ends before the request does: it shrank since it was opened")]
    Short,
    /// A flush failed before.
    #[error("a flush failed before: what was written since the last good one is unknown")]
    Unflushed,
    /// The completion is of no known kind.
    #[error("the host's completion has kind {0}, which is not known here")]
    Unknown(u16),
}

/// What the errors that matter to storage mean.
const fn errno_text(errno: u32) -> &'static str {
    match errno {
        1 | 13 => "not permitted",
        5 => "input/output error",
        12 => "no memory",
        16 => "device busy",
        19 | 6 => "no such device any more",
        22 => "invalid argument",
        27 => "file too large",
        28 => "no space left on the device",
        30 => "read-only filesystem",
        95 => "not supported",
        121 => "remote input/output error",
        122 => "disk quota exceeded",
        _ => "the operation failed",
    }
}

const fn refusal_text(code: u32) -> &'static str {
    use hybrid_abi::bridge as abi;
    match code as u64 {
        abi::REFUSED_OP => "no such operation",
        abi::REFUSED_FLAGS => "a flag that the operation does not have",
        abi::REFUSED_RANGE => "blocks that the device does not have",
        abi::REFUSED_BUFFER => "memory that is not dma memory",
        abi::REFUSED_ALIGNMENT => "a buffer that is not aligned as the device wants it",
        abi::REFUSED_CID => "a slot beyond the depth",
        abi::REFUSED_BUSY => "a slot that is in use",
        abi::REFUSED_UNSUPPORTED => "the device cannot do it",
        abi::REFUSED_READ_ONLY => "the device may only be read",
        _ => "for a reason that is not known here",
    }
}

/// Why the bridge's queue by hand is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueRefused {
    /// There is one, and it has a holder.
    #[error("the bridge's queue is taken, there is one")]
    Taken,
    /// Its last holder was dropped with requests in flight, and the host has so many still.
    #[error("the queue's last holder left {0} requests in flight, 0 are allowed")]
    InFlight(u32),
    /// No room for its books.
    #[error("no room for the queue: {0}")]
    NoMemory(OutOfMemory),
}

/// Why a bridge cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BridgeRefused {
    /// What the host says of the device makes no sense.
    #[error("the host's description of the bridge: {0}")]
    Info(AbiError),
    /// A ring is not what it should be.
    #[error("a ring of the bridge: {0}")]
    Ring(RingError),
    /// A file is shorter than its parts.
    #[error("a file of the bridge: {0}")]
    Layout(OutOfBounds),
}
