//! State memory: a file of the host's that each incarnation of a partition maps in turn.
//!
//! Called by [`crate::runtime`] and by a partition's process. The host makes the file once, holds
//! it, and never maps it for itself. No device reaches it: it is not among what a backend is given.
//!
//! Invariants, named in the SAFETY lines:
//! 1. A mapping is fresh: nobody else in this process knows its addresses, and it stays mapped
//!    (`Mapped` never unmaps what was seen).
//! 2. The file is mapped by one incarnation at a time: it ended before the next is started
//!    (`supervisor`'s fence), and a descriptor of it goes to nobody else. What an incarnation that
//!    was a thread has left behind is not touched by anybody any more.

use std::sync::{Arc, OnceLock};

use core_runtime::partition::StateMemory;
use hybrid_abi::state_memory::STATE_BODY_AT;

use super::mapping::Mapped;
use super::memfd::{Memfd, MemoryRefused};
use crate::memory::{MemoryError, MemorySource};

/// The state memory of one partition, for all of its incarnations. Clones are the same one.
#[derive(Clone, Debug)]
pub struct StateFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    len: usize,
    file: OnceLock<Memfd>,
}

impl StateFile {
    /// With a body of at least so many bytes. Nothing is reserved before the first start.
    #[must_use]
    pub fn new(body_bytes: usize) -> Self {
        let len = body_bytes.saturating_add(STATE_BODY_AT);
        Self(Arc::new(Inner { len, file: OnceLock::new() }))
    }

    /// Its bytes, the head included, not yet in whole pages.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.len
    }

    /// Reserves it, once.
    pub(crate) fn prepare(&self, source: &MemorySource) -> Result<(), MemoryError> {
        if self.0.file.get().is_none() {
            let file = source.unmapped("hybrid-state", self.0.len)?;
            file.seal_size()?;
            // Another clone's, if it was quicker, is as good.
            let _ = self.0.file.set(file);
        }
        Ok(())
    }

    /// The file; none before the first start.
    pub(crate) fn file(&self) -> Option<&Memfd> {
        self.0.file.get()
    }
}

/// Maps it for the incarnation that is about to start.
pub(crate) fn map(file: &Memfd) -> Result<StateMemory, MemoryRefused> {
    file.check_size_sealed()?;
    let mapped = Mapped::writable(file)?;
    let (base, len) = (mapped.base(), mapped.len());
    let head = mapped.span().sub(0, STATE_BODY_AT).expect("a page at least");
    // SAFETY: invariants 1 and 2: these bytes are mapped for good, lie behind the head, and nobody
    // else reads or writes them while this incarnation lives.
    let body = unsafe {
        std::slice::from_raw_parts_mut(base.as_ptr().add(STATE_BODY_AT), len - STATE_BODY_AT)
    };
    Ok(StateMemory::new(head, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memfd::PageSize;
    use crate::warnings::Warnings;

    #[test]
    fn what_one_incarnation_leaves_the_next_one_finds() {
        let state = StateFile::new(8_000);
        assert!(state.file().is_none());
        let source = MemorySource::new(PageSize::Small4K, 1 << 20, Warnings::to(|_| {}));
        state.prepare(&source).expect("some pages");
        state.clone().prepare(&source).expect("the same");
        let (seal, body) = map(state.file().expect("made")).expect("mapped").split().expect("new");
        assert_eq!((body.len(), body[7_999]), (12_288 - 4096, 0));
        body[7_000] = 7;
        seal.begin(3);
        seal.seal(1, b"here").expect("room");
        let (seal, body) = map(state.file().expect("made")).expect("mapped").split().expect("ours");
        let mut record = [0; 4];
        assert_eq!((seal.read(1, &mut record), seal.identity()), (Ok(()), 3));
        assert_eq!((&record, body[7_000]), (b"here", 7));
    }

    #[test]
    fn a_file_whose_size_may_change_is_not_mapped() {
        let file = Memfd::create("state", 8192, PageSize::Small4K).expect("8 KiB");
        assert_eq!(map(&file).map(drop).map_err(|e| e.step), Err("checking the seals"));
    }
}
