//! A range of memory that a device can reach, as a backend hands it over.

use hybrid_shm::Span;
use x86_64::structures::paging::{PageSize, Size1GiB, Size2MiB, Size4KiB};

use super::iova::Iova;

/// Bytes of a small page.
pub const PAGE_4K: u64 = Size4KiB::SIZE;
/// The same, for lengths.
pub(super) const SMALL_PAGE: usize = 4096;
const _: () = assert!(SMALL_PAGE as u64 == PAGE_4K);
/// Bytes of a huge page of the default size.
pub const PAGE_2M: u64 = Size2MiB::SIZE;
/// Bytes of the largest huge page.
pub const PAGE_1G: u64 = Size1GiB::SIZE;

/// Mapped memory and the address at which the device sees it: one mapping on both sides, so every
/// part of it is contiguous for the device. What a backend hands over, to the arena and, when the
/// device is the model, to the model's [`DmaMap`](super::DmaMap).
#[derive(Clone, Copy, Debug)]
pub struct DmaRegion {
    /// The memory as the CPU sees it.
    pub span: Span<'static>,
    /// The device's address of its first byte.
    pub iova: Iova,
    /// Size of the pages that back it: 4 KiB, 2 MiB or 1 GiB.
    pub page_bytes: usize,
}

impl DmaRegion {
    /// `len` zeroed bytes from the heap, never freed, that a device shall see at `iova`: for
    /// tests and the stepped model. Aligned to 2 MiB where it is that long, else to 4 KiB.
    #[cfg(any(test, feature = "std"))]
    #[must_use]
    pub fn leak(len: usize, iova: Iova) -> Self {
        const HUGE: usize = 2 << 20;
        let align = if len >= HUGE { HUGE } else { SMALL_PAGE };
        Self { span: hybrid_shm::leak_aligned(len, align), iova, page_bytes: SMALL_PAGE }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.span.len()
    }

    /// Whether the region has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.span.is_empty()
    }
}
