//! Where operations go, and the proof that they did something.

use host_bridge::uring::target::Target;
use hybrid_benches::rng::Rng;

use super::rung::Load;

/// Byte offsets, one after the other or at random.
pub(super) struct Places {
    rng: Rng,
    next: u64,
    count: u64,
    load: Load,
}

impl Places {
    pub(super) fn new(target: &Target, load: Load) -> Result<Self, String> {
        let limits = target.limits();
        let size = limits.blocks * u64::from(limits.lba_bytes);
        let count = size / u64::from(load.bytes);
        if !load.bytes.is_multiple_of(limits.lba_bytes) || count == 0 {
            return Err(format!("-o {} is no multiple of its blocks, or larger", load.bytes));
        }
        if load.bytes > limits.max_transfer_bytes {
            return Err(format!("-o is more than it takes at once, {}", limits.max_transfer_bytes));
        }
        Ok(Self { rng: Rng::new(load.seed), next: 0, count, load })
    }

    /// Of one of several that share the load: it begins where the others do not.
    pub(super) fn of(target: &Target, load: Load, one: u32) -> Result<(u64, Self), String> {
        let mut places = Self::new(target, load)?;
        let mut first = places.next();
        for _ in 0..one {
            first = places.next();
        }
        let seed = load.seed ^ u64::from(one) << 32;
        let rest = places.count / u64::from(load.depth.max(1)) * u64::from(one);
        Ok((first, Self { rng: Rng::new(seed), next: rest, ..places }))
    }

    /// The next byte offset.
    pub(super) fn next(&mut self) -> u64 {
        let place = if self.load.random {
            self.rng.below(self.count)
        } else {
            self.next = (self.next + 1) % self.count;
            self.next
        };
        place * u64::from(self.load.bytes)
    }
}

/// Of one operation: where it was, and what lay there. Sums of these don't depend on the order.
pub(super) fn digest(at: u64, bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01B3;
    let mut hash = 0xCBF2_9CE4_8422_2325 ^ at;
    for word in bytes.chunks(8) {
        let mut eight = [0; 8];
        eight[..word.len()].copy_from_slice(word);
        hash = (hash ^ u64::from_le_bytes(eight)).wrapping_mul(PRIME);
        hash ^= hash >> 29;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::digest;

    #[test]
    fn a_digest_changes_with_the_place_and_with_each_byte() {
        let bytes = [7_u8; 100];
        let whole = digest(4096, &bytes);
        assert_ne!(digest(8192, &bytes), whole);
        for at in 0..bytes.len() {
            let mut other = bytes;
            other[at] ^= 1;
            assert_ne!(digest(4096, &other), whole, "byte {at}");
        }
    }
}
