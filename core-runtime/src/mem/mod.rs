//! Memory of a partition: bump memory, DMA arena, queue views, doorbells, IOVAs.
//!
//! Called by the driver (buffers, queues, doorbells), by the controller model ([`DmaMap`] and the
//! device-side views of queues), by the host (regions, IOVA layout) and by everything that needs
//! storage for the life of a partition ([`Bump`]). It maps nothing and makes no system call: who
//! mapped the memory hands it over as a [`DmaRegion`] or as the bytes of a [`Bump`].
//!
//! Who owns what:
//! * [`Bump`] memory is private to the partition and never visible to a device. All bookkeeping
//!   lies there, so that no device can corrupt an allocator.
//! * A [`DmaBuf`] is owned by the CPU and is a slice. A [`DeviceBuf`] may be written by the device
//!   at any moment and is not. A [`SharedDma`] is seen by both sides for as long as it lives
//!   (queues, PRP lists), and is reached by atomics and copies only.
//!
//! Invariants, named in the SAFETY lines of this module:
//! 1. The bytes of a [`DmaRegion`]'s span and of a [`Bump`] stay mapped for the process's life
//!    (their maker's promise, `Span::from_raw` and `Bump::from_raw`).
//! 2. A byte of a DMA region belongs to at most one live block: one arena owns a region
//!    (`claim`), and the arena hands a block out once until it is given back. [`DmaRegion`] is
//!    `Copy` with its span open, because the device's side needs it as well: that nobody else
//!    reads or writes through a copy is the promise of the span's maker (`hybrid-shm`,
//!    invariant 2), not of the compiler.
//! 3. Only a [`DmaBuf`] lends slices of its block, and it exists only while the CPU owns the
//!    block. The device-side views (the model's) touch a block only while the device owns it, as a
//!    real device would: so promises who hands a region's copy to them. One that doesn't is the
//!    broken device of `FAULTS.md`, whose stray writes no host software can exclude. What it writes
//!    is bytes, and every bit pattern is a valid byte.
//! 4. An entry pointer is formed only from an index below the entry count that was checked against
//!    the block's length when the view was made; blocks are aligned to their entries.
//!
//! Units: lengths and offsets are bytes, IOVAs are the addresses a device uses. All types but
//! [`DmaRegion`], [`DmaMap`], [`IovaAllocator`] and [`Bump`] belong to one core and are not `Send`.
//!
//! ```
//! use core_runtime::mem::{DmaArena, Iova};
//!
//! let arena = DmaArena::leak(1 << 20, Iova(0x1_0000_0000))?;
//! let mut buf = arena.alloc(4096)?;
//! buf[..5].copy_from_slice(b"hello");
//! let lent = buf.into_device(); // an IOVA for a command, and no slice
//! assert_eq!(lent.iova().0 % 4096, 0);
//! let buf = lent.into_cpu(); // after its completion
//! assert_eq!(&buf[..5], b"hello");
//! drop(buf);
//! assert_eq!(arena.stats().live, 0);
//! # Ok::<(), core_runtime::mem::DmaError>(())
//! ```

mod arena;
mod buddy;
mod buf;
mod bump;
mod claim;
mod doorbell;
mod error;
mod eventidx;
mod iova;
mod map;
mod mmio;
mod prefetch;
mod queue;
mod region;
mod shadow;
mod sync;

pub use arena::{DmaArena, DmaStats};
pub use buf::{DeviceBuf, DmaBuf, SharedDma};
pub use bump::{Bump, OutOfMemory};
pub use claim::release_region;
pub use doorbell::{Doorbell, DoorbellRegion};
pub use error::DmaError;
pub use iova::{Iova, IovaAllocator, IovaError, IovaRange, MSI_WINDOW};
pub use map::{DmaMap, NotMapped};
pub use mmio::Mmio;
pub use prefetch::{prefetch_read, prefetch_write};
pub use queue::{CqMem, DeviceCq, DeviceSq, PrpList, SqMem};
pub use region::{DmaRegion, PAGE_1G, PAGE_2M, PAGE_4K};
pub use shadow::{ShadowDoorbell, ShadowDoorbells};
