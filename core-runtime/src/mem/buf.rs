//! Blocks of DMA memory, by who may touch them.
//!
//! ```text
//!   DmaArena::alloc ──▶ DmaBuf ──into_device──▶ DeviceBuf ──drop──▶ quarantined, for ever
//!          ▲             │  ▲                       │
//!          └────drop─────┘  └───────into_cpu────────┘
//! ```
//! `into_cpu` is for whoever knows that the device is done: its completion was seen, or a reset was
//! confirmed. Handles are 24 bytes, since they move through futures and slots.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use hybrid_shm::Span;

use super::arena::DmaArena;
use super::buddy::UNIT;
use super::iova::Iova;

/// A block of an arena. Private: the three owner types say who may touch it and when it returns.
#[derive(Clone, Copy)]
pub(super) struct Block {
    at: NonNull<u8>,
    arena: &'static DmaArena,
    len: u32,
    /// As wide as `len`, so that a handle has no padding and moves in whole words.
    order: u32,
}

const _: () = assert!(size_of::<Block>() == 24);
const _: () = assert!(size_of::<Option<DmaBuf>>() == 24);

impl Block {
    #[inline(always)]
    pub(super) const fn new(
        at: NonNull<u8>,
        arena: &'static DmaArena,
        len: u32,
        order: u32,
    ) -> Self {
        Self { at, arena, len, order }
    }

    #[inline(always)]
    fn iova(&self) -> Iova {
        self.arena.iova_of(self.at)
    }

    #[inline(always)]
    fn give(self) {
        self.arena.give(self.at, self.order);
    }

    const fn capacity(&self) -> usize {
        UNIT << self.order
    }
}

/// A buffer that the CPU owns. Not `Send`: its arena belongs to one core.
pub struct DmaBuf(Block);

impl DmaBuf {
    #[inline(always)]
    pub(super) const fn new(block: Block) -> Self {
        Self(block)
    }

    /// The device's address of the first byte.
    #[inline(always)]
    #[must_use]
    pub fn iova(&self) -> Iova {
        self.0.iova()
    }

    /// Length in bytes, as asked for.
    #[inline(always)]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len as usize
    }

    /// Whether [`truncate`](Self::truncate) left nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Length of the block behind the buffer: the most that [`set_len`](Self::set_len) takes.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Shortens the buffer to `len` bytes; longer ones are left as they are.
    pub fn truncate(&mut self, len: usize) {
        let len = len.min(self.len());
        #[expect(clippy::cast_possible_truncation, reason = "not above the length, a u32")]
        let len = len as u32;
        self.0.len = len;
    }

    /// Sets the length anywhere up to the capacity; says whether it fit. Bytes that join hold
    /// whatever was in the block.
    #[must_use]
    pub fn set_len(&mut self, len: usize) -> bool {
        let fits = len <= self.capacity();
        if fits {
            #[expect(clippy::cast_possible_truncation, reason = "capacities are at most 1 GiB")]
            let len = len as u32;
            self.0.len = len;
        }
        fits
    }

    /// The bytes.
    #[inline(always)]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: invariants 1 to 3: the block is `capacity` bytes, mapped, and this owner's alone.
        unsafe { core::slice::from_raw_parts(self.0.at.as_ptr(), self.len()) }
    }

    /// The bytes, to write.
    #[inline(always)]
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: invariants 1 to 3, as in `as_slice`; the borrow is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.0.at.as_ptr(), self.len()) }
    }

    /// Hands the buffer to the device: no slice of it exists until [`DeviceBuf::into_cpu`].
    #[inline(always)]
    #[must_use = "dropping a device's buffer quarantines it"]
    pub fn into_device(self) -> DeviceBuf {
        DeviceBuf(ManuallyDrop::new(self).0)
    }
}

impl Drop for DmaBuf {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.give();
    }
}

impl Deref for DmaBuf {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl DerefMut for DmaBuf {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}

impl fmt::Debug for DmaBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaBuf({} bytes at {})", self.len(), self.iova())
    }
}

/// A buffer that the device may be writing. Dropped, it is quarantined: counted, never reused.
pub struct DeviceBuf(Block);

impl DeviceBuf {
    /// The device's address of the first byte.
    #[inline(always)]
    #[must_use]
    pub fn iova(&self) -> Iova {
        self.0.iova()
    }

    /// Length in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len as usize
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Takes the buffer back: the device has completed the command, or its reset was confirmed.
    #[inline(always)]
    #[must_use]
    pub fn into_cpu(self) -> DmaBuf {
        DmaBuf(ManuallyDrop::new(self).0)
    }

    /// Asks the processor to bring the first line near, before the CPU gets the buffer.
    #[inline(always)]
    pub fn prefetch(&self) {
        super::prefetch::prefetch_read(self.0.at.as_ptr());
    }
}

impl Drop for DeviceBuf {
    fn drop(&mut self) {
        self.0.arena.quarantine(self.0.order);
    }
}

impl fmt::Debug for DeviceBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceBuf({} bytes at {})", self.len(), self.iova())
    }
}

/// Memory that CPU and device see at the same time. Never a slice. Dropped, it returns to the
/// arena, so drop it only after the device let go of it: the queue's deletion was acknowledged or
/// CSTS.RDY was seen 0. Where that is not known, [`quarantine`](Self::quarantine) it.
pub struct SharedDma(Block);

impl SharedDma {
    pub(super) const fn new(block: Block) -> Self {
        Self(block)
    }

    /// The device's address of the first byte.
    #[must_use]
    pub fn iova(&self) -> Iova {
        self.0.iova()
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len as usize
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The memory, for atomics and copies. Not to be kept longer than `self`.
    #[must_use]
    pub fn span(&self) -> Span<'static> {
        self.0.arena.span_of(self.0.at, self.len())
    }

    /// Sets all bytes to zero.
    pub fn clear(&self) {
        self.span().fill(0, self.len(), 0).expect("a span holds its own length");
    }

    /// Gives the memory up for good: the device may still write it.
    pub fn quarantine(self) {
        let block = ManuallyDrop::new(self).0;
        block.arena.quarantine(block.order);
    }

    /// The first byte; the blocks behind the views of `queue` are mapped and aligned.
    pub(super) const fn base(&self) -> NonNull<u8> {
        self.0.at
    }
}

impl Drop for SharedDma {
    fn drop(&mut self) {
        self.0.give();
    }
}

impl fmt::Debug for SharedDma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedDma({} bytes at {})", self.len(), self.iova())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Doorbell, PrpList, SqMem};

    struct Probe<T>(core::marker::PhantomData<T>);
    trait Fallback {
        const SEND: bool = false;
        const SYNC: bool = false;
    }
    impl<T> Fallback for Probe<T> {}
    impl<T: Send> Probe<T> {
        const SEND: bool = true;
    }
    impl<T: Sync> Probe<T> {
        const SYNC: bool = true;
    }

    #[test]
    fn what_belongs_to_a_core_stays_there() {
        const {
            assert!(!Probe::<DmaBuf>::SEND && !Probe::<DmaBuf>::SYNC);
            assert!(!Probe::<DeviceBuf>::SEND && !Probe::<DeviceBuf>::SYNC);
            assert!(!Probe::<SharedDma>::SEND && !Probe::<SharedDma>::SYNC);
            assert!(!Probe::<SqMem>::SEND && !Probe::<PrpList>::SEND && !Probe::<Doorbell>::SEND);
            assert!(!Probe::<&DmaArena>::SEND && !Probe::<DmaArena>::SYNC);
            assert!(!Probe::<&crate::mem::Bump>::SEND);
            // And the probe can say yes.
            assert!(Probe::<crate::mem::DmaRegion>::SEND && Probe::<crate::mem::Bump>::SEND);
            assert!(Probe::<crate::mem::DmaRegion>::SYNC);
        }
    }
}
