//! What can go wrong with a ring, with its numbers.

use hybrid_abi::AbiError;
use hybrid_shm::OutOfBounds;
use thiserror::Error;

use super::index::Violation;

/// Why an end of a ring could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RingError {
    /// A header is not what it should be.
    #[error(transparent)]
    Abi(#[from] AbiError),
    /// The part is too short or not aligned.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    /// The peer has not made its part yet: try again.
    #[error("the ring's peer has not made its part yet")]
    PeerNotReady,
    /// The two parts don't belong together.
    #[error("ring has {field} {peer} at the peer, {own} here")]
    Mismatch {
        /// The field.
        field: &'static str,
        /// Its value here.
        own: u64,
        /// Its value at the peer.
        peer: u64,
    },
}

/// Why an end is closed, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Closed {
    /// This end closed it.
    #[error("the ring was closed here")]
    Here,
    /// The peer closed its end, and nothing is left.
    #[error("the peer closed the ring")]
    ByPeer,
    /// The peer's index was outside what it could be.
    #[error(
        "the ring's peer claims index {}, possible are {} to {}",
        .0.seen, .0.least, .0.greatest
    )]
    Index(Violation),
    /// A record claims to be longer than what was published.
    #[error("a record of the ring claims {words} words, {ready} were published")]
    Record {
        /// Words that the record claims, its header included.
        words: u32,
        /// Words that are there.
        ready: u32,
    },
}

/// Why a record was not pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PushError {
    /// No slot is free; it was counted as dropped.
    #[error("the ring is full")]
    Full,
    /// It can never be pushed: it is longer than the ring, or than a record can be.
    #[error("a record of {len} bytes does not fit a ring for records of up to {allowed}")]
    TooLong {
        /// Bytes of the payload.
        len: usize,
        /// Bytes allowed.
        allowed: usize,
    },
    /// The ring is closed.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Why nothing was popped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PopError {
    /// Nothing is there.
    #[error("the ring is empty")]
    Empty,
    /// The record is longer than the buffer; it was skipped and counted.
    #[error("a record of {len} bytes was skipped, the buffer has {buffer}")]
    TooLong {
        /// Bytes of the payload.
        len: usize,
        /// Bytes of the buffer.
        buffer: usize,
    },
    /// The ring is closed.
    #[error(transparent)]
    Closed(#[from] Closed),
}
