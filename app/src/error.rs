//! What can be wrong with a feed, and where.
//!
//! One [`FeedError`] ends a feed: a [`Position`] and a [`Fault`] from one of three layers. All
//! texts are one line, lower case, and say what was seen and what was allowed. Nothing here is
//! about our own mistakes: those are assertions.

use crate::field::Symbol;
use thiserror::Error;

/// Where in the feed a message begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Bytes of the feed before the message's length prefix (or before its packet's header).
    pub offset: u64,
    /// Number of the message, counted from 1; in MoldUDP64 its sequence number.
    pub number: u64,
}

impl core::fmt::Display for Position {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "message {} at byte offset {}", self.number, self.offset)
    }
}

/// A feed ended here, for this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{at}: {fault}")]
pub struct FeedError {
    /// The message at fault.
    pub at: Position,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong, by the layer that saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// The bytes do not divide into messages.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A message is not what its type says.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A message contradicts the books, or they are full.
    #[error(transparent)]
    Book(#[from] BookError),
}

/// Bytes that do not divide into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The feed has no message at all.
    #[error("the feed is empty: it holds no message")]
    Empty,
    /// The feed ends inside a message or packet.
    #[error("the feed ends inside a message: {have} of {need} bytes are there")]
    Truncated {
        /// Bytes there, the length prefix included.
        have: u64,
        /// Bytes needed; 2 when not even the prefix is whole.
        need: u64,
    },
    /// Bytes follow the mark that ends the session.
    #[error("{bytes} bytes or more follow the end of the session")]
    AfterEnd {
        /// How many were seen.
        bytes: u64,
    },
    /// The first message is none that a feed could begin with.
    #[error(
        "this is not an ITCH 5.0 feed: it begins with a message of type 0x{kind:02x} and \
         {length} bytes, which no known type has"
    )]
    NotItch {
        /// The byte where the type would be.
        kind: u8,
        /// What the prefix says.
        length: u16,
    },
    /// A packet is shorter than its header says.
    #[error("a packet of {have} bytes is too short: {need} are needed")]
    ShortPacket {
        /// Bytes there.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// A packet is longer than its messages.
    #[error("a packet has {bytes} bytes after its last message")]
    LongPacket {
        /// Bytes left over.
        bytes: u64,
    },
    /// A packet has a message of length zero, or a sequence number beyond 64 bits.
    #[error("a packet is malformed: {what}")]
    BadPacket {
        /// What is malformed.
        what: &'static str,
    },
    /// A packet belongs to another session than the ones before it.
    #[error("the session changes from {from} to {to}")]
    SessionChanged {
        /// The session so far.
        from: SessionName,
        /// The session of this packet.
        to: SessionName,
    },
    /// A SoupBinTCP packet type that a server never sends.
    #[error("packet type 0x{kind:02x} is not one that a soupbintcp server sends")]
    PacketType {
        /// The type byte.
        kind: u8,
    },
    /// The server refused the login.
    #[error("the server rejects the login with code {}", code.escape_ascii())]
    LoginRejected {
        /// `A` not authorised, `S` session not available.
        code: u8,
    },
}

/// The ten bytes that name a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionName(pub [u8; 10]);

impl core::fmt::Display for SessionName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.trim_ascii().escape_ascii().fmt(f)
    }
}

/// A framing fault and its place; what framers fail with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{at}: {error}")]
pub struct FrameFault {
    /// The message at fault.
    pub at: Position,
    /// What is wrong with it.
    pub error: FrameError,
}

impl From<FrameFault> for FeedError {
    fn from(fault: FrameFault) -> Self {
        Self { at: fault.at, fault: fault.error.into() }
    }
}

/// A message that is not what its type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// No byte at all.
    #[error("the message has no bytes")]
    Empty,
    /// A known type with another length.
    #[error("type {} has {length} bytes, the specification says {expected}", kind.escape_ascii())]
    Length {
        /// The type byte.
        kind: u8,
        /// Bytes there.
        length: usize,
        /// Bytes that the specification says.
        expected: usize,
    },
    /// A type byte that is neither letter nor digit.
    #[error("0x{kind:02x} is not a message type")]
    NotAType {
        /// The byte.
        kind: u8,
    },
    /// An unknown type too short for the common fields.
    #[error("type {} has {length} bytes, every message has at least 11", kind.escape_ascii())]
    NoHead {
        /// The type byte.
        kind: u8,
        /// Bytes there.
        length: usize,
    },
}

impl MessageError {
    /// The error of a known type whose length is another than `expected`.
    #[cold]
    #[inline(never)]
    pub(crate) fn wrong_length(bytes: &[u8], expected: usize) -> Self {
        let kind = bytes.first().copied().unwrap_or(0);
        Self::Length { kind, length: bytes.len(), expected }
    }

    /// The same error with the length that the prefix says, where the bytes were cut.
    #[must_use]
    pub const fn with_length(self, length: usize) -> Self {
        match self {
            Self::Length { kind, expected, .. } => Self::Length { kind, length, expected },
            other => other,
        }
    }
}

/// A message that contradicts the books, or that they have no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BookError {
    /// No order has this reference.
    #[error("order reference {order_ref} is not known")]
    UnknownOrder {
        /// The reference.
        order_ref: u64,
    },
    /// An order with this reference is in the book already.
    #[error("order reference {order_ref} is in the book already")]
    DoubledOrder {
        /// The reference.
        order_ref: u64,
    },
    /// More shares are taken off than the order has.
    #[error("order reference {order_ref} has {open} open shares, {taken} are to be taken off")]
    BeyondOpen {
        /// The reference.
        order_ref: u64,
        /// Shares open.
        open: u32,
        /// Shares to be taken off.
        taken: u32,
    },
    /// A message takes off, adds or replaces with no shares.
    #[error("order reference {order_ref}: the message is about no shares")]
    NoShares {
        /// The reference.
        order_ref: u64,
    },
    /// No stock directory message has given this locate code a stock.
    #[error("stock locate {locate} was given to no stock")]
    UnknownLocate {
        /// The code.
        locate: u16,
    },
    /// The order rests in another stock's book than the message says.
    #[error("order reference {order_ref} rests under locate {resting}, the message says {locate}")]
    WrongLocate {
        /// The reference.
        order_ref: u64,
        /// Where it rests.
        resting: u16,
        /// What the message says.
        locate: u16,
    },
    /// The message names another stock than its locate code stands for.
    #[error("stock locate {locate} stands for {known}, the message names {named}")]
    WrongStock {
        /// The code.
        locate: u16,
        /// What it stands for.
        known: Symbol,
        /// What the message names.
        named: Symbol,
    },
    /// Neither `B` nor `S`.
    #[error("order reference {order_ref} has side 0x{side:02x}, neither B nor S")]
    BadSide {
        /// The reference.
        order_ref: u64,
        /// The byte.
        side: u8,
    },
    /// The memory given at start is too small for this feed.
    #[error("no room for more {what}: all {capacity} are in use; raise Capacity::{knob}")]
    Full {
        /// What there is no more of.
        what: &'static str,
        /// How many there are.
        capacity: usize,
        /// The field of [`crate::book::Capacity`] that raises it.
        knob: &'static str,
    },
}

impl BookError {
    /// Whether going on makes no sense even for a lenient reader: the memory is too small, and
    /// every later message of the lost order would be an error of ours.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}
