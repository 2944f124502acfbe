//! What can go wrong with DMA memory.

use thiserror::Error;

use super::bump::OutOfMemory;

/// A request that the arena, or a view over its memory, can't serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DmaError {
    /// No block of that size is free, even after the caches were emptied.
    #[error("no {wanted} bytes of DMA memory left: {free} bytes free, largest block {largest}")]
    Exhausted {
        /// Length asked for.
        wanted: usize,
        /// Bytes free in all.
        free: usize,
        /// Largest block that could be had.
        largest: usize,
    },
    /// A length of zero, or one above the largest block class.
    #[error("a DMA buffer of {len} bytes is not in 1..={max}")]
    Length {
        /// Length asked for.
        len: usize,
        /// Largest length.
        max: usize,
    },
    /// An alignment that is no power of two, or that the region's own addresses don't have.
    #[error("alignment {align} is not a power of two up to {max}")]
    Alignment {
        /// Alignment asked for.
        align: usize,
        /// Largest alignment of this region, in both address spaces.
        max: usize,
    },
    /// A region that no arena can own: its pages, addresses or length make no sense.
    #[error(
        "a DMA region of {len} bytes at IOVA {iova:#x} with {page_bytes}-byte pages is unusable"
    )]
    Region {
        /// Length of the region.
        len: usize,
        /// Its first IOVA.
        iova: u64,
        /// Its page size.
        page_bytes: usize,
    },
    /// Another arena owns a part of this memory.
    #[error("another arena owns a part of the {len} bytes at {addr:#x}")]
    Claimed {
        /// First address.
        addr: usize,
        /// Length.
        len: usize,
    },
    /// No room to remember one more arena.
    #[error("no more than {max} arenas in a process")]
    TooManyArenas {
        /// How many are remembered.
        max: usize,
    },
    /// Queue memory that does not fit the number of entries.
    #[error("{entries} entries of {entry_bytes} bytes do not fit {len} bytes of queue memory")]
    Entries {
        /// Entries asked for.
        entries: u32,
        /// Bytes an entry.
        entry_bytes: usize,
        /// Bytes given.
        len: usize,
    },
    /// A doorbell beyond the mapped doorbell region.
    #[error("doorbell of queue {qid} at offset {offset} is beyond {len} mapped bytes")]
    Doorbell {
        /// The queue.
        qid: u16,
        /// Its byte offset in the region.
        offset: usize,
        /// Bytes mapped.
        len: usize,
    },
    /// No bump memory left for the arena's bookkeeping.
    #[error(transparent)]
    Metadata(#[from] OutOfMemory),
}
