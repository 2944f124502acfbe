//! The blocks without the queues: for whoever drives the device instead of a host's own driver.
//!
//! A simulation's stand-in for the host's kernel, which has a driver of its own and serves a
//! partition's requests with it. No queue, no fault and no latency is part of this; the volatile
//! write cache is, so that a flush means the same and a power cut loses the same whoever wrote.

use crate::model::Model;
use crate::namespace::Namespace;
use hybrid_shm::Span;

impl Model {
    fn direct(&mut self, nsid: u32, slba: u64, blocks: u64) -> Option<&mut Namespace> {
        let ns = self.namespaces.iter_mut().find(|ns| ns.nsid.0 == nsid)?;
        let fits = slba < ns.blocks && blocks <= ns.blocks - slba && !ns.separate();
        fits.then_some(ns)
    }

    /// Reads `blocks` blocks into the start of `host`. False if there are none such, or no room.
    pub fn direct_read(&mut self, nsid: u32, slba: u64, blocks: u64, host: Span<'static>) -> bool {
        let Some(ns) = self.direct(nsid, slba, blocks) else { return false };
        let (at, len) = (slba * ns.stride(), blocks * ns.stride());
        ns.store.begin(at, host.len());
        usize::try_from(len).is_ok_and(|len| ns.store.read(at, host, len).is_ok())
    }

    /// Writes them; `through` makes them durable too.
    pub fn direct_write(
        &mut self,
        nsid: u32,
        slba: u64,
        blocks: u64,
        host: Span<'static>,
        through: bool,
    ) -> bool {
        let Some(ns) = self.direct(nsid, slba, blocks) else { return false };
        let (at, len) = (slba * ns.stride(), blocks * ns.stride());
        ns.store.begin(at, host.len());
        let written = usize::try_from(len).is_ok_and(|len| ns.store.write(at, host, len).is_ok());
        written && ns.wrote(slba, blocks, through).is_ok()
    }

    /// Turns them into zeros.
    pub fn direct_zero(&mut self, nsid: u32, slba: u64, blocks: u64, through: bool) -> bool {
        let Some(ns) = self.direct(nsid, slba, blocks) else { return false };
        let stride = ns.stride();
        let zeroed = ns.store.zero(slba * stride, blocks * stride).is_ok();
        zeroed && ns.wrote(slba, blocks, through).is_ok()
    }

    /// What Identify says of the size of a namespace from now on, in blocks; `None` is the truth.
    /// What it takes and holds stays as it was.
    pub fn claim_blocks(&mut self, nsid: u32, blocks: Option<u64>) {
        if let Some(ns) = self.namespaces.iter_mut().find(|ns| ns.nsid.0 == nsid) {
            ns.claimed_blocks = blocks;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ModelConfig, NamespaceConfig};
    use hybrid_shm::leak_zeroed;

    fn model() -> Model {
        let namespaces = vec![NamespaceConfig::memory(1, 8).lba_bytes(512)];
        Model::new(ModelConfig { namespaces, power_cuts: true, ..ModelConfig::default() }).unwrap()
    }

    #[test]
    fn what_was_written_is_read_and_what_was_written_through_survives_a_power_cut() {
        let mut model = model();
        let host = leak_zeroed(1024);
        host.fill(0, 1024, 7).unwrap();
        assert!(model.direct_write(1, 2, 2, host, true));
        host.fill(0, 1024, 9).unwrap();
        assert!(model.direct_write(1, 4, 2, host, false));
        host.fill(0, 1024, 0).unwrap();
        assert!(model.direct_read(1, 3, 2, host));
        let mut seen = [0; 1024];
        host.read(0, &mut seen).unwrap();
        assert_eq!((seen[0], seen[512]), (7, 9));
        model.power_cut();
        assert!(model.direct_read(1, 3, 1, host));
        host.read(0, &mut seen).unwrap();
        assert_eq!(seen[0], 7);
        assert!(model.direct_zero(1, 3, 1, true) && model.direct_read(1, 3, 1, host));
        host.read(0, &mut seen).unwrap();
        assert_eq!(seen[0], 0);
    }

    #[test]
    fn blocks_that_are_not_there_are_refused() {
        let mut model = model();
        let host = leak_zeroed(1024);
        assert!(!model.direct_read(1, 7, 2, host) && !model.direct_read(2, 0, 1, host));
        assert!(!model.direct_write(1, 8, 1, host, false) && !model.direct_zero(1, 0, 9, false));
        assert!(!model.direct_read(1, 0, 3, host), "three blocks into the room of two");
    }
}
