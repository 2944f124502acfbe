//! All memory of one partition, from its reservation until it may be given back.
//!
//! Called by [`crate::runtime`]. It makes the pieces by policy ([`crate::memory`]), hands out the
//! `'static` views that cross to the partition's thread, and ends the mappings when nobody can look
//! any more: only where the program has promised that ([`KeepsNothing`]). Otherwise the DMA
//! pages go back to the kernel and the addresses stay mapped for the process's life.
//!
//! Invariants, named in the SAFETY lines:
//! 1. `bump` is taken from `private` once: [`PartitionMemory::take_bump`] leaves nothing to take.
//! 2. Each mapping is owned by this value until `release` consumes it; the partition's and the
//!    device's threads have ended before (`PartitionHandle` joins them).

use core_runtime::mem::{Bump, DmaRegion};
use hybrid_shm::{ReadSpan, Span};

use super::mapping::Mapped;
use crate::memory::{MemoryError, MemorySource, OneWriter, SharedMemory};

/// How much of each kind, in bytes; rounded up to whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySizes {
    /// Memory that the device reaches.
    pub dma: usize,
    /// Private memory.
    pub private: usize,
    /// The partition's region: state, metrics, event ring.
    pub region: usize,
    /// The host's region: stop word, command ring.
    pub host_region: usize,
}

impl MemorySizes {
    /// All of it.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.dma
            .saturating_add(self.private)
            .saturating_add(self.region)
            .saturating_add(self.host_region)
    }
}

/// The memory of one incarnation.
#[derive(Debug)]
pub struct PartitionMemory {
    dma: SharedMemory,
    private: Mapped,
    bump_taken: bool,
    region: OneWriter,
    host_region: OneWriter,
}

impl PartitionMemory {
    /// Reserves, maps, touches and seals everything.
    ///
    /// # Errors
    /// [`MemoryError`]; what was made so far stays mapped until the process ends.
    pub fn new(source: &MemorySource, sizes: &MemorySizes) -> Result<Self, MemoryError> {
        Ok(Self {
            dma: source.shared("hybrid-dma", sizes.dma)?,
            region: source.one_writer("hybrid-partition", sizes.region)?,
            host_region: source.one_writer("hybrid-host", sizes.host_region)?,
            private: source.private(sizes.private)?,
            bump_taken: false,
        })
    }

    /// The DMA memory, for a backend.
    #[must_use]
    pub const fn dma(&self) -> &SharedMemory {
        &self.dma
    }

    /// The private memory; `None` the second time.
    pub fn take_bump(&mut self) -> Option<Bump> {
        if std::mem::replace(&mut self.bump_taken, true) {
            return None;
        }
        // SAFETY: invariants 1 and 2: nobody else knows the range, and it stays mapped until
        // `release`, which wants the promise that nothing made from it is used any more.
        Some(unsafe { Bump::from_raw(self.private.base(), self.private.len()) })
    }

    /// The partition's region: its own view.
    #[must_use]
    pub fn region(&self) -> Span<'static> {
        self.region.writer.mapped.span()
    }

    /// The partition's region: the host's view.
    #[must_use]
    pub const fn region_seen_by_host(&self) -> ReadSpan<'static> {
        self.region.reader.read_span()
    }

    /// The host's region: its own view.
    #[must_use]
    pub fn host_region(&self) -> Span<'static> {
        self.host_region.writer.mapped.span()
    }

    /// The host's region: the partition's view.
    #[must_use]
    pub const fn host_region_seen_by_partition(&self) -> ReadSpan<'static> {
        self.host_region.reader.read_span()
    }

    /// The page size that the DMA memory got.
    #[must_use]
    pub const fn dma_page_bytes(&self) -> usize {
        self.dma.mapped.page().bytes()
    }

    /// Bytes mapped for it, page rounding included; the read-only views are not counted twice.
    #[must_use]
    pub const fn total_bytes(&self) -> usize {
        self.dma.mapped.len()
            + self.private.len()
            + self.region.writer.mapped.len()
            + self.host_region.writer.mapped.len()
    }

    /// Gives the DMA pages back and keeps every address mapped: safe whatever the entry has kept.
    pub fn retire(self) {
        // A refused hole only means that the pages stay until the process ends.
        let _ = self.dma.memfd.punch();
    }

    /// Unmaps everything. The partition's and the device's threads have ended before.
    pub(crate) fn release(self, promise: KeepsNothing, dma: Option<&DmaRegion>) {
        let KeepsNothing(()) = promise;
        if let Some(region) = dma {
            // SAFETY: invariant 2, and the promise.
            unsafe { core_runtime::mem::release_region(region) };
        }
        let OneWriter { writer: region, reader: region_reader } = self.region;
        let OneWriter { writer: host, reader: host_reader } = self.host_region;
        let all =
            [self.dma.mapped, self.private, region.mapped, region_reader, host.mapped, host_reader];
        for mapped in all {
            // SAFETY: invariant 2, and the promise.
            unsafe { mapped.unmap() };
        }
    }
}

/// Somebody's word that a partition's memory may be unmapped when the partition has ended.
#[derive(Clone, Copy, Debug)]
pub struct KeepsNothing(());

impl KeepsNothing {
    /// Gives the word.
    ///
    /// # Safety
    /// When the entry has returned or panicked, nothing outside the partition refers to its memory:
    /// no static, no thread that the entry started, no value that was taken out of the host's handle
    /// and outlives it.
    #[must_use]
    pub const unsafe fn promise() -> Self {
        Self(())
    }
}
