//! What host and partition say to each other.

use hybrid_abi::Record;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a block that the load writes.
pub(crate) const BLOCK: usize = 4096;
/// Blocks of the load.
pub(crate) const BLOCKS: u64 = 256;

/// What an incarnation is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Orders {
    /// Seed of its choices.
    pub(crate) seed: u64,
    /// The first version that it may write: greater than all before.
    pub(crate) first_version: u64,
    /// Writes to acknowledge before it dies, or ends.
    pub(crate) after: u64,
    /// [`crate::kind::Kind::number`].
    pub(crate) kind: u32,
    /// Writers, each with blocks of its own and one write in flight.
    pub(crate) writers: u32,
    /// 1: make every block zeros first, whatever is there.
    pub(crate) wipe: u64,
}

macro_rules! record {
    ($name:ident, $kind:expr, $text:expr, { $($field:ident),+ }) => {
        #[doc = $text]
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
        )]
        #[repr(C)]
        pub(crate) struct $name {
            $(pub(crate) $field: u64),+
        }

        impl Record for $name {
            const KIND: u16 = $kind;
        }
    };
}

record!(FirstIo, 0x7F10, "The first read has completed, at this tick.", { tsc });
record!(Found, 0x7F11, "A block as it was at the start; `version` 0: never written.", {
    block, version, intact
});
record!(Verified, 0x7F12, "Every block was told of.", { blocks });
record!(Issued, 0x7F13, "A write is about to be posted.", { block, version });
record!(Acked, 0x7F14, "It was acknowledged.", { block, version });
record!(Wrong, 0x7F15, "A read gave something else than what was acknowledged before.", {
    block, version, found
});
