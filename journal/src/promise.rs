//! What a device promises about its writes; where it says nothing, nothing is assumed.

use nvme_driver::spec::{
    IdentifyController, IdentifyNamespace, NamespaceFeatures, VolatileWriteCache,
};
use nvme_driver::{BlockDevice, Controller};
use zerocopy::FromBytes;

/// What a device promises. The default promises nothing: a cache, and no block that is atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Writes are durable only after a flush.
    pub cached: bool,
    /// Writes with FUA are durable when they complete. Never read off a device, since there are
    /// devices that say so and do not (`docs/journal.md`): it is set by who has tested it.
    pub fua: bool,
    /// Blocks that are written whole or not at all when the power fails; 0 if that is not known
    /// of even one, which is how each block is treated then.
    pub unit_blocks: u32,
    /// Such a write must not cross a multiple of so many blocks; 0 if it may.
    pub boundary_blocks: u32,
}

/// A unit below this would cut batches so short that a burst finds all buffers taken.
const USEFUL_BYTES: u32 = 16 << 10;

impl Default for Promise {
    fn default() -> Self {
        Self { cached: true, fua: false, unit_blocks: 0, boundary_blocks: 0 }
    }
}

impl Promise {
    /// Of a namespace: the smaller of the units for normal operation and for power failure, the
    /// namespace's own where it has some (NVM CS 1.0, section 2.1.4), and not more than one command
    /// carries. Of a bridge: nothing, since files and page caches lie behind it.
    #[must_use]
    pub fn of(device: BlockDevice, controller: Option<&Controller>) -> Self {
        let (BlockDevice::Nvme(namespace), Some(controller)) = (device, controller) else {
            return Self::default();
        };
        let controller = controller.identify_bytes();
        let namespace_bytes = namespace.identify_bytes();
        let lba = namespace.lba_bytes().max(1);
        let max_blocks = namespace.max_transfer_bytes() / lba;
        let (Ok((id, _)), Ok((ns, _))) = (
            IdentifyController::read_from_prefix(&controller),
            IdentifyNamespace::read_from_prefix(&namespace_bytes),
        ) else {
            return Self::default();
        };
        Self::read(&id, &ns, max_blocks)
    }

    /// From identify data.
    #[must_use]
    pub fn read(id: &IdentifyController, ns: &IdentifyNamespace, max_blocks: u32) -> Self {
        let cached = id.write_cache().contains(VolatileWriteCache::PRESENT);
        let own = NamespaceFeatures::from_bits_retain(ns.nsfeat);
        let common = id.atomic_write_blocks().min(id.atomic_write_blocks_power_fail());
        let (unit, boundary) = if own.contains(NamespaceFeatures::ATOMICITY) {
            let normal = u32::from(ns.nawun_z.get()) + 1;
            let power_fail = u32::from(ns.nawupf_z.get()) + 1;
            // NABSPF of 0 says that there is no boundary; NABO shifts it, which is not followed:
            // with an offset the unit is one block.
            let boundary = match u32::from(ns.nabspf_z.get()) {
                0 => 0,
                blocks_z => blocks_z + 1,
            };
            let unit = if ns.nabo.get() != 0 { 1 } else { normal.min(power_fail) };
            (unit, boundary)
        } else {
            (common, 0)
        };
        Self {
            cached,
            fua: false,
            unit_blocks: unit.clamp(1, max_blocks.max(1)),
            boundary_blocks: boundary,
        }
    }

    /// Whether a write of `blocks` from `lba` is whole or absent after a power failure.
    #[must_use]
    pub const fn is_atomic(&self, lba: u64, blocks: u64) -> bool {
        if blocks == 0 || blocks > self.unit_blocks as u64 {
            return false;
        }
        match self.boundary_blocks {
            0 => true,
            boundary => lba / boundary as u64 == (lba + blocks - 1) / boundary as u64,
        }
    }

    /// Size at which a batch is closed: the atomic unit where it holds something, so that a batch
    /// is not torn; else all that a batch may have.
    #[must_use]
    pub const fn soft_bytes(&self, lba_bytes: u32, batch_bytes: u32) -> u32 {
        let unit = self.unit_blocks.saturating_mul(lba_bytes);
        if unit >= USEFUL_BYTES && unit < batch_bytes { unit } else { batch_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    fn identify() -> (IdentifyController, IdentifyNamespace) {
        (IdentifyController::new_zeroed(), IdentifyNamespace::new_zeroed())
    }

    #[test]
    fn a_device_that_says_nothing_has_units_of_a_block() {
        let (id, ns) = identify();
        let promise = Promise::read(&id, &ns, 256);
        assert_eq!(promise.unit_blocks, 1);
        assert!(!promise.cached && !promise.fua);
        assert!(promise.is_atomic(7, 1) && !promise.is_atomic(7, 2));
        let none = Promise::default();
        assert!(none.cached && !none.is_atomic(0, 1));
    }

    #[test]
    fn the_namespaces_own_units_and_the_boundary_count() {
        let (mut id, mut ns) = identify();
        id.vwc = 1;
        id.awun_z.set(63);
        id.awupf_z.set(7);
        assert_eq!(Promise::read(&id, &ns, 256).unit_blocks, 8, "the smaller");
        assert_eq!(Promise::read(&id, &ns, 4).unit_blocks, 4, "one command carries no more");
        ns.nsfeat = NamespaceFeatures::ATOMICITY.bits();
        ns.nawun_z.set(31);
        ns.nawupf_z.set(15);
        ns.nabspf_z.set(15);
        let promise = Promise::read(&id, &ns, 256);
        assert_eq!((promise.unit_blocks, promise.boundary_blocks), (16, 16));
        assert!(promise.cached);
        assert!(
            promise.is_atomic(16, 16) && !promise.is_atomic(17, 16) && promise.is_atomic(30, 2)
        );
        ns.nabo.set(3);
        assert_eq!(Promise::read(&id, &ns, 256).unit_blocks, 1, "an offset is not followed");
    }

    #[test]
    fn batches_are_closed_at_the_unit() {
        let of =
            |unit_blocks| Promise { unit_blocks, ..Promise::default() }.soft_bytes(4096, 65_536);
        assert_eq!((of(0), of(1), of(4), of(64)), (65_536, 65_536, 16_384, 65_536));
    }
}
