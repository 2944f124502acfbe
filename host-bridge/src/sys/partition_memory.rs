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
use super::memfd::PageSize;
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
    /// All of it, each piece in whole pages.
    #[must_use]
    pub fn rounded(&self, page: PageSize) -> usize {
        [self.dma, self.private, self.region, self.host_region]
            .into_iter()
            .map(|len| page.fitting(len).round_up(len).unwrap_or(usize::MAX))
            .fold(0, usize::saturating_add)
    }
}

/// What a partition got, whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFacts {
    /// Memory that the device reaches, in bytes.
    pub dma_bytes: usize,
    /// The pages it is made of: the ones asked for, or smaller ones.
    pub dma_page: PageSize,
    /// Private memory, in bytes.
    pub private_bytes: usize,
    /// The pages it is made of.
    pub private_page: PageSize,
    /// Both regions between partition and host, in bytes.
    pub shared_bytes: usize,
}

impl MemoryFacts {
    /// All of it, in bytes.
    #[must_use]
    pub const fn total_bytes(&self) -> usize {
        self.dma_bytes + self.private_bytes + self.shared_bytes
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
    /// [`MemoryError`]; nothing is left behind then.
    pub fn new(source: &MemorySource, sizes: &MemorySizes) -> Result<Self, MemoryError> {
        // What was made is dropped where a later piece cannot be had: unmapped, as nobody saw it.
        let dma = source.shared("hybrid-dma", sizes.dma)?;
        let region = source.one_writer("hybrid-partition", sizes.region)?;
        // The host writes it, from wherever it runs.
        let host_source = source.clone().near(None);
        let host_region = host_source.one_writer("hybrid-host", sizes.host_region)?;
        let private = source.private(sizes.private)?;
        Ok(Self { dma, private, bump_taken: false, region, host_region })
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
    pub fn region_seen_by_host(&self) -> ReadSpan<'static> {
        self.region.reader.read_span()
    }

    /// The host's region: its own view.
    #[must_use]
    pub fn host_region(&self) -> Span<'static> {
        self.host_region.writer.mapped.span()
    }

    /// The host's region: the partition's view.
    #[must_use]
    pub fn host_region_seen_by_partition(&self) -> ReadSpan<'static> {
        self.host_region.reader.read_span()
    }

    /// Sizes and pages, for reports.
    #[must_use]
    pub const fn facts(&self) -> MemoryFacts {
        let shared = self.region.writer.mapped.len() + self.host_region.writer.mapped.len();
        MemoryFacts {
            dma_bytes: self.dma.mapped.len(),
            dma_page: self.dma.mapped.page(),
            private_bytes: self.private.len(),
            private_page: self.private.page(),
            shared_bytes: shared,
        }
    }

    /// Ends it, when the partition's and the device's threads have ended (or never were). `dma` is
    /// the region that was made from it, `more` what the device's backend made. With the promise
    /// everything is unmapped; without it the DMA pages are given back and every address stays
    /// mapped, which is safe whatever the entry has kept.
    pub(crate) fn end(
        self,
        promise: Option<KeepsNothing>,
        dma: Option<&DmaRegion>,
        more: Vec<SharedMemory>,
    ) {
        match promise {
            Some(promise) => self.release(promise, dma, more),
            None => {
                self.dma.retire();
                more.into_iter().for_each(SharedMemory::retire);
            }
        }
    }

    fn release(self, promise: KeepsNothing, dma: Option<&DmaRegion>, more: Vec<SharedMemory>) {
        let KeepsNothing(()) = promise;
        if let Some(dma) = dma {
            // SAFETY: invariant 2, and the promise.
            unsafe { core_runtime::mem::release_region(dma) };
        }
        let OneWriter { writer: region, reader: region_reader } = self.region;
        let OneWriter { writer: host, reader: host_reader } = self.host_region;
        let all =
            [self.dma.mapped, self.private, region.mapped, region_reader, host.mapped, host_reader];
        let more = more.into_iter().map(|shared| shared.mapped);
        for mapped in all.into_iter().chain(more) {
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
    /// no static, no thread that the entry started, no value that was taken out of the host's
    /// handle and outlives it.
    #[must_use]
    pub const unsafe fn promise() -> Self {
        Self(())
    }
}
