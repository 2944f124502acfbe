//! Read-only tables for partitions: filled once by the host, sealed, and read by all.

use std::sync::Arc;

use hybrid_shm::{ReadSpan, Span};

use super::Runtime;
use crate::error::RuntimeError;
use crate::memory::{MemorySource, OneWriter};
use crate::sys::memfd::PageSize;

/// Where a table's pages come from on a machine with several NUMA nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// In turn from all nodes: for a table that cores of several nodes read.
    #[default]
    Interleaved,
    /// From the node of this CPU.
    Near(u32),
}

/// A table. Clones are the same one. Its memory stays until the process ends: whoever got a view
/// may keep it.
#[derive(Clone, Debug)]
pub struct Table {
    name: Arc<str>,
    memory: Arc<OneWriter>,
}

impl Table {
    /// Its name, by which partitions ask for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What partitions see.
    #[must_use]
    pub fn view(&self) -> ReadSpan<'static> {
        self.memory.reader.read_span()
    }

    /// Its memory.
    #[must_use]
    pub fn memory(&self) -> &OneWriter {
        &self.memory
    }
}

impl Runtime {
    /// Makes a table of at least `bytes` bytes and lets `fill` write it. Its memory is sealed:
    /// nobody but this process can have a writable mapping of it.
    ///
    /// # Errors
    /// [`RuntimeError::Memory`].
    pub fn table(
        &self,
        name: &str,
        bytes: usize,
        spread: Spread,
        fill: impl FnOnce(Span<'static>),
    ) -> Result<Table, RuntimeError> {
        let source = MemorySource::new(PageSize::Huge2M, bytes, self.warnings.clone());
        let source = match spread {
            Spread::Interleaved => source.interleaved(self.nodes.all()),
            Spread::Near(cpu) => source.near(self.node_of(cpu)),
        };
        let memory = source.one_writer("hybrid-table", bytes)?;
        fill(memory.writer.mapped.span());
        Ok(Table { name: name.into(), memory: Arc::new(memory) })
    }
}
