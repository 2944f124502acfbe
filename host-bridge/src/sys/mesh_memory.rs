//! The memory between partitions: a region a partition, which it writes and all others read.
//!
//! Called by [`crate::runtime`]. It is made before the first of the partitions starts and stays
//! while one of them runs, whatever happens to the others: each incarnation lays its region out
//! anew. A partition that is a process maps its own region anew as well, so that no seal can keep
//! writers out: the others get a descriptor that cannot write instead.
//!
//! Invariants, named in the SAFETY lines:
//! 1. Whoever got a view holds a clone of the `Arc` of this value until it has ended, or the value
//!    was told to keep its mappings ([`MeshMemory::keep`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use core_runtime::mesh::{MESH_MAX, MeshSeat, MeshShape};
use hybrid_abi::region::RegionHeader;

use super::mapping::Mapped;
use super::memfd::Memfd;
use crate::memory::{MemoryError, MemorySource, SharedMemory};

/// One partition's region.
#[derive(Debug)]
pub struct MeshRegion {
    /// The file and a writable mapping, for a partition that is a thread.
    pub writer: SharedMemory,
    /// A descriptor that cannot write.
    pub end: Memfd,
    /// A read-only mapping, for peers that are threads.
    pub reader: Mapped,
}

impl MeshRegion {
    fn new(source: &MemorySource, len: usize) -> Result<Self, MemoryError> {
        let writer = source.shared("hybrid-mesh", len)?;
        let end = writer.memfd.read_only_end()?;
        let reader = Mapped::read_only_end(&end)?;
        Ok(Self { writer, end, reader })
    }
}

/// The regions of a mesh.
#[derive(Debug)]
pub struct MeshMemory {
    shape: MeshShape,
    regions: Vec<MeshRegion>,
    /// The host's own count of each place's incarnations: headers are the partitions' words.
    taken: Vec<AtomicU64>,
    keep: AtomicBool,
}

impl MeshMemory {
    /// Reserves, maps and seals a region for each place; `source` says where a place's memory comes
    /// from.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn new(
        shape: MeshShape,
        source: impl Fn(u32) -> MemorySource,
    ) -> Result<Arc<Self>, MemoryError> {
        let region = |index| MeshRegion::new(&source(index), shape.region_bytes());
        let regions = (0..shape.partitions()).map(region).collect::<Result<_, _>>()?;
        let taken = (0..shape.partitions()).map(|_| AtomicU64::new(0)).collect();
        Ok(Arc::new(Self { shape, regions, taken, keep: AtomicBool::new(false) }))
    }

    /// Its shape.
    #[must_use]
    pub const fn shape(&self) -> MeshShape {
        self.shape
    }

    /// All regions together, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.regions.iter().map(|region| region.writer.mapped.len()).sum()
    }

    /// The regions, by number.
    #[must_use]
    pub fn regions(&self) -> &[MeshRegion] {
        &self.regions
    }

    /// What the partition with this number is given; `None` beyond the mesh. The caller keeps its
    /// `Arc` until that partition has ended (invariant 1).
    #[must_use]
    pub fn seat(&self, index: u32) -> Option<MeshSeat> {
        let own = self.regions.get(index as usize)?.writer.mapped.span();
        let mut peers = [None; MESH_MAX];
        for ((number, region), place) in (0_u32..).zip(&self.regions).zip(&mut peers) {
            *place = (number != index).then(|| region.reader.read_span());
        }
        Some(MeshSeat { shape: self.shape, index, own, peers })
    }

    /// Leaves everything mapped for ever: somebody may still hold a view.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// Takes a place for its next incarnation, whose number is at least `least` and greater than
    /// any before, whatever the partition is called: peers know a restart by it.
    pub(crate) fn take_place(&self, index: u32, least: u64) -> u64 {
        let Some(taken) = self.taken.get(index as usize) else { return least };
        let before = taken.load(Ordering::Relaxed);
        let next = least.max(before + 1);
        taken.store(next, Ordering::Relaxed);
        next
    }

    /// How often each place was taken so far, as its header says.
    #[must_use]
    pub fn incarnation(&self, index: u32) -> Option<u64> {
        let region = self.regions.get(index as usize)?.reader.read_span();
        region.load64(std::mem::offset_of!(RegionHeader, incarnation)).ok()
    }
}

impl Drop for MeshMemory {
    fn drop(&mut self) {
        if *self.keep.get_mut() {
            return;
        }
        for MeshRegion { writer, reader, .. } in self.regions.drain(..) {
            // SAFETY: invariant 1: nobody who got a view is left, and nobody has kept one.
            unsafe { (writer.mapped.unmap(), reader.unmap()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memfd::PageSize;
    use crate::warnings::Warnings;

    fn memory(partitions: u32) -> Arc<MeshMemory> {
        let shape = MeshShape::new(partitions, 4096).expect("a shape");
        let source = |_| MemorySource::new(PageSize::Small4K, 1 << 20, Warnings::to(|_| {}));
        MeshMemory::new(shape, source).expect("memory")
    }

    #[test]
    fn each_place_has_a_writer_of_its_own_and_peers_get_what_cannot_write() {
        let memory = memory(3);
        let seat = memory.seat(1).expect("a place");
        assert!(seat.peers[1].is_none() && seat.peers[3].is_none());
        seat.own.word64(40).expect("inside").store(7);
        assert_eq!(memory.incarnation(1), Some(7));
        let seen = memory.seat(2).expect("a place").peers[1].expect("a peer");
        assert_eq!(seen.load64(40), Ok(7));
        assert!(memory.seat(3).is_none() && memory.incarnation(3).is_none());
        for region in memory.regions() {
            assert_eq!(region.end.check_read_only_end(), Ok(()));
            assert!(Mapped::writable(&region.end).is_err());
        }
    }

    #[test]
    fn a_place_has_a_greater_number_each_time_whoever_takes_it() {
        let memory = memory(2);
        assert_eq!([1, 1, 7, 2].map(|least| memory.take_place(0, least)), [1, 2, 7, 8]);
        assert_eq!(memory.take_place(1, 1), 1);
    }

    #[test]
    fn what_was_kept_stays_mapped_and_the_rest_goes_with_the_last_holder() {
        let mappings = || {
            let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
            maps.lines().filter(|line| line.contains("hybrid-mesh")).count()
        };
        // Both tests of this module make such files, at the same time. A mapping that nobody has
        // seen goes in any case: here the seat's own and its four peers were seen.
        let kept = memory(5);
        kept.keep();
        let span = kept.seat(0).expect("a place").own;
        drop(kept);
        assert!(mappings() >= 5);
        span.word64(0).expect("inside").store(1);
    }
}
