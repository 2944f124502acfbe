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
use super::memfd::{Memfd, MemoryRefused, PageSize};
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
    host_region: SharedMemory,
    own: Own,
}

/// What the partition writes alone, by who has it mapped.
#[derive(Debug)]
enum Own {
    /// A thread: this process has all of it.
    Here { private: Mapped, bump_taken: bool, region: OneWriter, host_reader: Mapped },
    /// A process: it makes its private memory, and maps and seals its region itself.
    Apart { region: Memfd, reader: Option<Mapped>, private: (usize, PageSize) },
}

impl PartitionMemory {
    /// Reserves, maps, touches and seals everything, for a partition that is a thread.
    ///
    /// # Errors
    /// [`MemoryError`]; nothing is left behind then.
    pub fn new(source: &MemorySource, sizes: &MemorySizes) -> Result<Self, MemoryError> {
        // What was made is dropped where a later piece cannot be had: unmapped, as nobody saw it.
        let dma = source.shared("hybrid-dma", sizes.dma)?;
        let region = source.one_writer("hybrid-partition", sizes.region)?;
        // The host writes it, from wherever it runs.
        let host_source = source.clone().near(None);
        let OneWriter { writer: host_region, reader: host_reader } =
            host_source.one_writer("hybrid-host", sizes.host_region)?;
        let private = source.private(sizes.private)?;
        let own = Own::Here { private, bump_taken: false, region, host_reader };
        Ok(Self { dma, host_region, own })
    }

    /// Reserves the files of a partition that is a process; maps and seals the host's side.
    ///
    /// # Errors
    /// [`MemoryError`]; nothing is left behind then.
    pub fn apart(source: &MemorySource, sizes: &MemorySizes) -> Result<Self, MemoryError> {
        let dma = source.shared("hybrid-dma", sizes.dma)?;
        let host_region = source.writer_only("hybrid-host", sizes.host_region)?;
        let region = source.unmapped("hybrid-partition", sizes.region)?;
        let own = Own::Apart { region, reader: None, private: (0, PageSize::Small4K) };
        Ok(Self { dma, host_region, own })
    }

    /// The DMA memory, for a backend.
    #[must_use]
    pub const fn dma(&self) -> &SharedMemory {
        &self.dma
    }

    /// The private memory of a thread; `None` the second time, and for a process.
    pub fn take_bump(&mut self) -> Option<Bump> {
        let Own::Here { private, bump_taken, .. } = &mut self.own else { return None };
        if std::mem::replace(bump_taken, true) {
            return None;
        }
        // SAFETY: invariants 1 and 2: nobody else knows the range, and it stays mapped until
        // `release`, which wants the promise that nothing made from it is used any more.
        Some(unsafe { Bump::from_raw(private.base(), private.len()) })
    }

    /// The partition's region as a thread sees it.
    ///
    /// # Panics
    /// For a process, whose region nobody else maps writable: our own bug.
    #[must_use]
    pub fn region(&self) -> Span<'static> {
        match &self.own {
            Own::Here { region, .. } => region.writer.mapped.span(),
            Own::Apart { .. } => unreachable!("a process's region is written by that process"),
        }
    }

    /// The partition's region: the host's view; `None` before [`PartitionMemory::open_region`].
    #[must_use]
    pub fn region_seen_by_host(&self) -> Option<ReadSpan<'static>> {
        match &self.own {
            Own::Here { region, .. } => Some(region.reader.read_span()),
            Own::Apart { reader, .. } => reader.as_ref().map(Mapped::read_span),
        }
    }

    /// Maps the region of a process that has sealed it, after a look at its size and its seals;
    /// `private` is what it says of its own memory.
    ///
    /// # Errors
    /// [`MemoryRefused`] where the partition did not seal it.
    pub fn open_region(&mut self, private: (usize, PageSize)) -> Result<(), MemoryRefused> {
        if let Own::Apart { region, reader, private: told } = &mut self.own {
            *reader = Some(Mapped::read_only(region)?);
            *told = private;
        }
        Ok(())
    }

    /// The file of the partition's region.
    #[must_use]
    pub const fn region_file(&self) -> &Memfd {
        match &self.own {
            Own::Here { region, .. } => &region.writer.memfd,
            Own::Apart { region, .. } => region,
        }
    }

    /// The file of the host's region.
    #[must_use]
    pub const fn host_region_file(&self) -> &Memfd {
        &self.host_region.memfd
    }

    /// The host's region: its own view.
    #[must_use]
    pub fn host_region(&self) -> Span<'static> {
        self.host_region.mapped.span()
    }

    /// The host's region as a thread sees it; a process maps it itself.
    #[must_use]
    pub fn host_region_seen_by_partition(&self) -> ReadSpan<'static> {
        match &self.own {
            Own::Here { host_reader, .. } => host_reader.read_span(),
            Own::Apart { .. } => self.host_region.mapped.read_span(),
        }
    }

    /// Sizes and pages, for reports.
    #[must_use]
    pub const fn facts(&self) -> MemoryFacts {
        let (private, private_page) = match &self.own {
            Own::Here { private, .. } => (private.len(), private.page()),
            Own::Apart { private, .. } => *private,
        };
        MemoryFacts {
            dma_bytes: self.dma.mapped.len(),
            dma_page: self.dma.mapped.page(),
            private_bytes: private,
            private_page,
            shared_bytes: self.region_file().len() + self.host_region.mapped.len(),
        }
    }

    /// Ends it, when the partition's and the device's threads have ended (or never were). `dma` is
    /// the region that was made from it, `more` what the device's backend made.
    ///
    /// Of a thread: with the promise everything is unmapped; without it the DMA pages are given
    /// back and every address stays mapped, which is safe whatever the entry has kept. Of a
    /// process: all pages are given back, and the host's addresses stay, blank.
    pub(crate) fn end(
        self,
        promise: Option<KeepsNothing>,
        dma: Option<&DmaRegion>,
        more: Vec<SharedMemory>,
    ) {
        match (self.own, promise) {
            (own @ Own::Here { .. }, Some(promise)) => {
                Self { own, ..self }.release(promise, dma, more);
            }
            (Own::Here { .. }, None) => {
                self.dma.retire();
                more.into_iter().for_each(SharedMemory::retire);
            }
            (Own::Apart { reader, .. }, _) => {
                let ours = [self.dma.mapped, self.host_region.mapped];
                let more = more.into_iter().map(|shared| shared.mapped);
                // What the kernel refuses to take stays until the process ends.
                for mapped in ours.into_iter().chain(reader).chain(more) {
                    let _ = mapped.blank();
                }
            }
        }
    }

    fn release(self, promise: KeepsNothing, dma: Option<&DmaRegion>, more: Vec<SharedMemory>) {
        let KeepsNothing(()) = promise;
        if let Some(dma) = dma {
            // SAFETY: invariant 2, and the promise.
            unsafe { core_runtime::mem::release_region(dma) };
        }
        let Own::Here { private, region, host_reader, .. } = self.own else { return };
        let OneWriter { writer: region, reader } = region;
        let host = self.host_region.mapped;
        let all = [self.dma.mapped, private, region.mapped, reader, host, host_reader];
        let more = more.into_iter().map(|shared| shared.mapped);
        for mapped in all.into_iter().chain(more) {
            // SAFETY: invariant 2, and the promise.
            unsafe { mapped.unmap() };
        }
    }
}

/// Private memory of a process that is a partition: mapped until the process ends.
#[derive(Debug)]
pub struct PrivateMemory(Mapped);

impl PrivateMemory {
    /// Over a fresh mapping.
    #[must_use]
    pub const fn new(private: Mapped) -> Self {
        Self(private)
    }

    /// All of it, for good.
    #[must_use]
    pub fn into_bump(self) -> Bump {
        // SAFETY: the mapping was seen by nobody else and goes with this value, which never unmaps
        // what was seen.
        unsafe { Bump::from_raw(self.0.base(), self.0.len()) }
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
