//! The start of a partition that is a process: its word, its sealed region, the host's ends, go.

use super::body::Body;
use super::start::{ASSEMBLY_LIMIT, Plan, Prepared, Running};
use crate::error::RuntimeError;
use crate::memory::MemoryError;
use crate::process::{Launching, NotLaunched, launch};
use crate::sys::partition_memory::PartitionMemory;

impl Plan<'_> {
    /// From the prepared device to a running process; on an error there is no process any more.
    pub(super) fn run_apart(
        &self,
        memory: &mut PartitionMemory,
        prepared: &Prepared,
    ) -> Result<Running, RuntimeError> {
        let spec = &self.spec;
        let launching = Launching {
            name: &spec.name,
            entry: spec.entry.name,
            executable: spec.executable.as_deref(),
            args: &spec.args,
            facts: self.facts,
            rings: self.rings,
            config: &spec.config,
            memory,
            private: (spec.private_bytes, spec.page),
            locked_bytes: self.source.locked_in_all(),
            node: self.source.node(),
            heap_bytes: spec.heap_bytes,
            rt_priority: spec.rt_priority,
            place: spec.place.as_ref(),
            tables: &spec.tables,
            state: spec.state.as_ref(),
            device: prepared.ingredients.as_ref().map(|device| (device, &prepared.files[..])),
            warnings: self.source.warnings(),
            limit: ASSEMBLY_LIMIT,
        };
        let apart = launch(&launching).map_err(|error| self.not_launched(error))?;
        let (bytes, page) = apart.private();
        let private = (usize::try_from(bytes).unwrap_or(usize::MAX), page);
        memory.open_region(private).map_err(MemoryError::Refused)?;
        let ends = self
            .open_ends(memory, prepared.host_parts)
            .map_err(|source| self.not_assembled(source))?;
        let guarded = apart.is_guarded();
        let process = apart.go().map_err(|error| self.not_launched(error))?;
        Ok((Body::Process { process, guarded }, ends))
    }

    fn not_launched(&self, error: NotLaunched) -> RuntimeError {
        match error {
            NotLaunched::Refused { exit, line } => RuntimeError::Refused { exit, line },
            NotLaunched::NoDevice { exit, line } => RuntimeError::NoDevice { exit, line },
            error => RuntimeError::NotLaunched {
                name: self.spec.name.clone(),
                reason: error.to_string(),
            },
        }
    }
}
