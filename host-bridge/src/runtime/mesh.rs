//! Several partitions under one host: their rings to each other, one start for all.
//!
//! [`Runtime::spawn_all`] makes the memory between them, each region on the NUMA node of the core
//! that writes it, and starts them one after the other; they find each other once they run. A
//! partition that has ended can be started again in its place with [`MeshPlace`]: its peers link up
//! with the new incarnation by themselves.

use std::sync::Arc;

use core_runtime::mesh::{MeshSeat, MeshShape};

use super::{CoreChoice, PartitionHandle, PartitionSpec, Runtime, sizes_of};
use crate::error::RuntimeError;
use crate::memory::MemorySource;
use crate::sys::memfd::PageSize;
use crate::sys::mesh_memory::MeshMemory;

/// The memory between partitions. Clones are the same mesh.
#[derive(Clone, Debug)]
pub struct PartitionMesh {
    memory: Arc<MeshMemory>,
}

/// A partition's place in a mesh: a field of its spec.
#[derive(Clone, Debug)]
pub struct MeshPlace {
    pub(crate) memory: Arc<MeshMemory>,
    index: u32,
}

impl PartitionMesh {
    /// How many partitions it is for.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.memory.shape().partitions()
    }

    /// The memory of all rings, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// The memory itself.
    #[must_use]
    pub fn memory(&self) -> &MeshMemory {
        &self.memory
    }

    /// The place of the partition with this number; `None` beyond the mesh.
    #[must_use]
    pub fn place(&self, index: u32) -> Option<MeshPlace> {
        let exists = index < self.partitions();
        exists.then(|| MeshPlace { memory: Arc::clone(&self.memory), index })
    }
}

impl MeshPlace {
    /// Its number.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    pub(super) fn seat(&self) -> Option<MeshSeat> {
        self.memory.seat(self.index)
    }
}

impl Runtime {
    /// Makes the memory of a mesh with a partition on each of `cpus` in their order, and rings of
    /// `ring_bytes` (a power of two) from each to each.
    ///
    /// # Errors
    /// [`RuntimeError::Mesh`] for a shape that there is not, [`RuntimeError::Memory`].
    pub fn mesh(&self, cpus: &[u32], ring_bytes: usize) -> Result<PartitionMesh, RuntimeError> {
        self.mesh_beside(cpus, ring_bytes, 0)
    }

    /// As [`Runtime::mesh`]; `beside` is what the partitions themselves will want, for warnings.
    fn mesh_beside(
        &self,
        cpus: &[u32],
        ring_bytes: usize,
        beside: usize,
    ) -> Result<PartitionMesh, RuntimeError> {
        let count = u32::try_from(cpus.len()).unwrap_or(u32::MAX);
        let shape = MeshShape::new(count, ring_bytes)?;
        let page = PageSize::Huge2M;
        let region = page.round_up(shape.region_bytes()).unwrap_or(usize::MAX);
        let whole = region.saturating_mul(cpus.len()).saturating_add(beside);
        let source = |index: u32| {
            let node = cpus.get(index as usize).and_then(|cpu| self.node_of(*cpu));
            MemorySource::new(page, whole, self.warnings.clone()).near(node)
        };
        Ok(PartitionMesh { memory: MeshMemory::new(shape, source)? })
    }

    /// Starts `count` partitions with rings of `ring_bytes` from each to each; `spec` says what
    /// each one is. One that leaves its core open gets the runtime's cores in turn: with
    /// `runtime.cores().len()` of them each core has one. A single partition has no peers, hence no
    /// mesh.
    ///
    /// # Errors
    /// [`RuntimeError`]; those that were started before have been stopped then.
    pub fn spawn_all(
        &self,
        count: u32,
        ring_bytes: usize,
        mut spec: impl FnMut(u32) -> PartitionSpec,
    ) -> Result<(Option<PartitionMesh>, Vec<PartitionHandle>), RuntimeError> {
        let mut specs: Vec<_> = (0..count).map(&mut spec).collect();
        let mut free = self.cores().iter();
        let mut cpus = Vec::new();
        for spec in &mut specs {
            if spec.core == CoreChoice::Any
                && let Some(cpu) = free.next()
            {
                spec.core = CoreChoice::Cpu(cpu);
            }
            cpus.push(spec.core.cpu().unwrap_or(0));
        }
        let beside = specs.iter().map(|spec| sizes_of(spec).2).fold(0, usize::saturating_add);
        let mesh =
            if count > 1 { Some(self.mesh_beside(&cpus, ring_bytes, beside)?) } else { None };
        let mut handles = Vec::new();
        for (index, mut spec) in (0..).zip(specs) {
            spec.place = mesh.as_ref().and_then(|mesh| mesh.place(index));
            // Those before are stopped by their handles' drop.
            handles.push(self.spawn(spec)?);
        }
        Ok((mesh, handles))
    }
}
