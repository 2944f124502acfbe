//! The sub-allocator of a DMA region.
//!
//! Used by the driver and by tasks, on the partition's core. Blocks come in powers of two from
//! 512 B to 1 GiB and are aligned to their size (up to the alignment of the region itself), so that
//! a buffer of up to 4 KiB never crosses a page and any buffer is contiguous for the device.
//!
//! Two layers. In front, a stack of free blocks for each size up to 2 MiB: the hot path is one pop
//! or push and touches no metadata. Behind it, the buddy system of `buddy`. A block that lies on a
//! stack is not joined with its neighbours; when a request can't be served, the stacks are emptied
//! and it is tried again, so they never stand in the way of a large block. All bookkeeping is in
//! bump memory, none in memory that a device can write.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::ptr::NonNull;

use hybrid_shm::Span;

use super::buddy::{Buddy, MAX_UNITS, TOP_ORDER, UNIT};
use super::buf::{Block, DmaBuf, SharedDma};
use super::bump::Bump;
use super::claim;
use super::error::DmaError;
use super::iova::Iova;
use super::region::{DmaRegion, PAGE_1G, PAGE_2M, PAGE_4K, SMALL_PAGE};

/// Orders with a stack: up to 2 MiB, beyond any usual MDTS.
const CACHED_ORDERS: usize = 13;

/// Depth of an order's stack. Small blocks: 1024, the deepest queue we run; up to 64 KiB a quarter
/// of it; larger ones 32, as a window of 2 MiB reads is no deeper.
const fn cache_depth(order: usize) -> usize {
    match order {
        0..=3 => 1024,
        4..=7 => 256,
        _ => 32,
    }
}

/// A stack of free blocks of one size.
#[derive(Debug)]
struct Cache {
    len: Cell<usize>,
    units: &'static [Cell<u32>],
}

impl Cache {
    #[inline(always)]
    fn pop(&self) -> Option<u32> {
        let top = self.len.get().checked_sub(1)?;
        let unit = self.units.get(top)?.get();
        self.len.set(top);
        Some(unit)
    }

    /// Whether there was room.
    #[inline(always)]
    fn push(&self, unit: u32) -> bool {
        let top = self.len.get();
        match self.units.get(top) {
            Some(slot) => {
                slot.set(unit);
                self.len.set(top + 1);
                true
            }
            None => false,
        }
    }
}

/// How an arena is used. Block sizes count, not the lengths that were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DmaStats {
    /// Bytes in all.
    pub total_bytes: usize,
    /// Bytes that can be handed out, those in the caches included.
    pub free_bytes: usize,
    /// Bytes that lie in the caches; [`DmaArena::trim`] joins them with their neighbours.
    pub cached_bytes: usize,
    /// Bytes of live blocks.
    pub live_bytes: usize,
    /// Live blocks.
    pub live: usize,
    /// Bytes that the device may still write and that are never handed out again.
    pub quarantined_bytes: usize,
    /// Blocks of that kind.
    pub quarantined: usize,
    /// Largest free block behind the caches.
    pub largest_free: usize,
    /// The most bytes that were live or quarantined at one time.
    pub high_water_bytes: usize,
}

/// Owns a [`DmaRegion`] and hands out its memory. One core's.
pub struct DmaArena {
    base: NonNull<u8>,
    iova: Iova,
    region: DmaRegion,
    total: usize,
    max_align: usize,
    caches: [Cache; CACHED_ORDERS],
    buddy: RefCell<Buddy>,
    /// Blocks that are live or quarantined, and their bytes.
    used: Cell<usize>,
    used_bytes: Cell<usize>,
    quarantined: Cell<usize>,
    quarantined_bytes: Cell<usize>,
    high_water: Cell<usize>,
}

impl fmt::Debug for DmaArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaArena").field("region", &self.region).finish_non_exhaustive()
    }
}

impl DmaArena {
    /// Takes over `region`, whose copies from here on are the device's side's; the bookkeeping is
    /// made in `bump`, [`metadata_bytes`] of it.
    ///
    /// [`metadata_bytes`]: Self::metadata_bytes
    ///
    /// # Errors
    /// [`DmaError::Region`] if the region is shorter than a page, longer than 256 GiB, runs past
    /// the last IOVA, isn't aligned to 4 KiB in both address spaces, or has pages of no known size;
    /// [`DmaError::Claimed`] if another arena owns a part of it; [`DmaError::Metadata`] if `bump`
    /// is too small.
    pub fn new(region: DmaRegion, bump: &Bump) -> Result<&'static Self, DmaError> {
        let unusable = DmaError::Region {
            len: region.len(),
            iova: region.iova.0,
            page_bytes: region.page_bytes,
        };
        let base = NonNull::new(region.span.as_ptr()).ok_or(unusable)?;
        let total = region.len() / SMALL_PAGE * SMALL_PAGE;
        let bits = base.addr().get() as u64 | region.iova.0;
        let last = region.iova.checked_add((total as u64).saturating_sub(1));
        if total == 0
            || total / UNIT > MAX_UNITS
            || last.is_none()
            || ![PAGE_4K, PAGE_2M, PAGE_1G].contains(&(region.page_bytes as u64))
            || bits & (PAGE_4K - 1) != 0
        {
            return Err(unusable);
        }
        claim::claim(&region)?;
        Self::build(region, base, total, 1 << bits.trailing_zeros(), bump).inspect_err(|_| {
            claim::unclaim(&region);
        })
    }

    fn build(
        region: DmaRegion,
        base: NonNull<u8>,
        total: usize,
        max_align: usize,
        bump: &Bump,
    ) -> Result<&'static Self, DmaError> {
        let mut failed = Ok(());
        let caches = core::array::from_fn(|order| {
            let depth = cache_depth(order).min((total / UNIT) >> order);
            let units = bump.slice_with(depth, |_| Cell::new(0)).unwrap_or_else(|error| {
                failed = Err(error);
                &mut []
            });
            Cache { len: Cell::new(0), units }
        });
        failed?;
        let buddy = RefCell::new(Buddy::new(total / UNIT, bump)?);
        Ok(bump.alloc(Self {
            base,
            iova: region.iova,
            region,
            total,
            max_align,
            caches,
            buddy,
            used: Cell::new(0),
            used_bytes: Cell::new(0),
            quarantined: Cell::new(0),
            quarantined_bytes: Cell::new(0),
            high_water: Cell::new(0),
        })?)
    }

    /// An arena over `len` bytes of heap at `iova`, never freed: for tests and tools.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    #[cfg(any(test, feature = "std"))]
    pub fn leak(len: usize, iova: Iova) -> Result<&'static Self, DmaError> {
        Self::new(DmaRegion::leak(len, iova), &Bump::leak(Self::metadata_bytes(len)))
    }

    /// Bump bytes that an arena over `len` bytes takes at most.
    #[must_use]
    pub const fn metadata_bytes(len: usize) -> usize {
        let mut total = size_of::<Self>() + align_of::<Self>() + 64;
        let mut order = 0;
        while order < CACHED_ORDERS {
            total += cache_depth(order) * size_of::<u32>();
            order += 1;
        }
        total + Buddy::bytes(len / UNIT)
    }

    /// A buffer of `len` bytes with whatever was in it, aligned to its size class.
    ///
    /// # Errors
    /// [`DmaError::Length`] or [`DmaError::Exhausted`].
    #[inline]
    pub fn alloc(&'static self, len: usize) -> Result<DmaBuf, DmaError> {
        let order = self.order(len)?;
        Ok(DmaBuf::new(self.take(len, order)?))
    }

    /// A buffer of `len` bytes whose pointer and IOVA are multiples of `align`.
    ///
    /// # Errors
    /// [`DmaError::Alignment`], [`DmaError::Length`] or [`DmaError::Exhausted`].
    pub fn alloc_aligned(&'static self, len: usize, align: usize) -> Result<DmaBuf, DmaError> {
        Ok(DmaBuf::new(self.take_aligned(len, align)?))
    }

    /// A buffer of `len` zero bytes.
    ///
    /// # Errors
    /// As for [`alloc`](Self::alloc).
    pub fn alloc_zeroed(&'static self, len: usize) -> Result<DmaBuf, DmaError> {
        let mut buf = self.alloc(len)?;
        buf.as_mut_slice().fill(0);
        Ok(buf)
    }

    /// Zeroed memory that CPU and device see together: queues, PRP lists.
    ///
    /// # Errors
    /// As for [`alloc_aligned`](Self::alloc_aligned).
    pub fn alloc_shared(&'static self, len: usize, align: usize) -> Result<SharedDma, DmaError> {
        let block = self.take_aligned(len, align)?;
        let shared = SharedDma::new(block);
        shared.clear();
        Ok(shared)
    }

    /// Joins the cached blocks with their neighbours. At most a few thousand steps: not for the
    /// hot path.
    pub fn trim(&self) {
        let mut buddy = self.buddy.borrow_mut();
        for (order, cache) in (0..).zip(&self.caches) {
            while let Some(unit) = cache.pop() {
                buddy.give(order, unit);
            }
        }
    }

    /// How the arena is used.
    #[must_use]
    pub fn stats(&self) -> DmaStats {
        let cached = |(order, cache): (usize, &Cache)| cache.len.get() * (UNIT << order);
        let largest = self.buddy.borrow().largest();
        DmaStats {
            total_bytes: self.total,
            free_bytes: self.total - self.used_bytes.get(),
            cached_bytes: self.caches.iter().enumerate().map(cached).sum(),
            live_bytes: self.used_bytes.get() - self.quarantined_bytes.get(),
            live: self.used.get() - self.quarantined.get(),
            quarantined_bytes: self.quarantined_bytes.get(),
            quarantined: self.quarantined.get(),
            largest_free: largest.map_or(0, |order| UNIT << order),
            high_water_bytes: self.high_water.get(),
        }
    }

    /// The region that this arena owns, for the device's side: its map, or the model. Blocks that
    /// the CPU owns are not to be touched through it (invariants 2 and 3 of [`super`]).
    #[must_use]
    pub const fn region(&self) -> DmaRegion {
        self.region
    }

    /// The order whose blocks hold `len` bytes.
    #[inline(always)]
    fn order(&self, len: usize) -> Result<u32, DmaError> {
        const MAX: usize = UNIT << TOP_ORDER;
        if len == 0 || len > MAX {
            return Err(DmaError::Length { len, max: MAX });
        }
        Ok(usize::BITS - ((len - 1) / UNIT).leading_zeros())
    }

    fn take_aligned(&'static self, len: usize, align: usize) -> Result<Block, DmaError> {
        if !align.is_power_of_two() || align > self.max_align {
            return Err(DmaError::Alignment { align, max: self.max_align });
        }
        self.order(len)?;
        let order = self.order(len.max(align))?;
        self.take(len, order)
    }

    #[inline(always)]
    fn take(&'static self, len: usize, order: u32) -> Result<Block, DmaError> {
        let cached = self.caches.get(order as usize).and_then(Cache::pop);
        let unit = match cached {
            Some(unit) => unit,
            None => self.take_slow(len, order)?,
        };
        let used_bytes = self.used_bytes.get() + (UNIT << order);
        self.used.set(self.used.get() + 1);
        self.used_bytes.set(used_bytes);
        if used_bytes > self.high_water.get() {
            self.high_water.set(used_bytes);
        }
        // SAFETY: the buddy system hands out units below `total / UNIT`, so the address is inside
        // the region (invariant 1).
        let at = unsafe { self.base.add(unit as usize * UNIT) };
        #[expect(clippy::cast_possible_truncation, reason = "`order` bounds len by 1 GiB")]
        Ok(Block::new(at, self, len as u32, order))
    }

    #[cold]
    #[inline(never)]
    fn take_slow(&self, len: usize, order: u32) -> Result<u32, DmaError> {
        if let Some(unit) = self.buddy.borrow_mut().take(order) {
            return Ok(unit);
        }
        self.trim();
        let unit = self.buddy.borrow_mut().take(order);
        unit.ok_or_else(|| {
            let stats = self.stats();
            DmaError::Exhausted { wanted: len, free: stats.free_bytes, largest: stats.largest_free }
        })
    }

    /// Takes a block back; its owner ends with this.
    #[inline(always)]
    pub(super) fn give(&self, at: NonNull<u8>, order: u32) {
        self.used.set(self.used.get() - 1);
        self.used_bytes.set(self.used_bytes.get() - (UNIT << order));
        #[expect(clippy::cast_possible_truncation, reason = "units are at most 2^29")]
        let unit = (self.offset(at) / UNIT) as u32;
        let cached = self.caches.get(order as usize).is_some_and(|cache| cache.push(unit));
        if !cached {
            self.give_slow(unit, order);
        }
    }

    #[cold]
    #[inline(never)]
    fn give_slow(&self, unit: u32, order: u32) {
        self.buddy.borrow_mut().give(order, unit);
    }

    /// A block that the device may still write: never handed out again.
    #[cold]
    pub(super) fn quarantine(&self, order: u32) {
        self.quarantined.set(self.quarantined.get() + 1);
        self.quarantined_bytes.set(self.quarantined_bytes.get() + (UNIT << order));
    }

    /// The device's address of a byte of this arena.
    #[inline(always)]
    pub(super) fn iova_of(&self, at: NonNull<u8>) -> Iova {
        Iova(self.iova.0 + self.offset(at) as u64)
    }

    /// The span of a block.
    pub(super) fn span_of(&self, at: NonNull<u8>, len: usize) -> Span<'static> {
        // A block lies inside the region by construction; an empty span would be the wrong answer
        // to a bug, so it is loud.
        self.region.span.sub(self.offset(at), len).expect("a block lies in its region")
    }

    #[inline(always)]
    fn offset(&self, at: NonNull<u8>) -> usize {
        at.addr().get() - self.base.addr().get()
    }
}
