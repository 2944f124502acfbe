//! Which partition owns a key.
//!
//! A key is hashed by a function that is fixed for ever (it decides where data lie), and the hash
//! is put into one of `n` buckets by jump consistent hashing (Lamping and Veach, 2014): the buckets
//! are even, no table is kept, and from `n` to `n + 1` partitions only one key in `n + 1` moves,
//! all of them to the new one. Pure functions, no state, no allocation.

/// Spreads a 64-bit key over all 64 bits: the finalizer of MurmurHash3.
#[inline]
#[must_use]
pub const fn hash_u64(key: u64) -> u64 {
    let mut hash = key;
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// Hashes a key of any bytes: FNV-1a of 64 bits, spread by [`hash_u64`].
#[inline]
#[must_use]
pub const fn hash_bytes(key: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut rest = key;
    while let [byte, more @ ..] = rest {
        hash = (hash ^ *byte as u64).wrapping_mul(0x0000_0100_0000_01b3);
        rest = more;
    }
    hash_u64(hash)
}

/// The bucket of a hash among `buckets`: jump consistent hashing, in integers. 0 for none or one.
#[inline]
#[must_use]
pub const fn jump(hash: u64, buckets: u32) -> u32 {
    let mut key = hash;
    let mut bucket = 0;
    let mut next = 0_u64;
    while next < buckets as u64 {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        // The published form divides floating-point numbers; this is the same quotient, exact.
        next = ((bucket + 1) << 31) / ((key >> 33) + 1);
    }
    #[expect(clippy::cast_possible_truncation, reason = "below `buckets`")]
    let bucket = bucket as u32;
    bucket
}

/// Puts keys to partitions 0 to `n - 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Router {
    partitions: u32,
}

impl Router {
    /// Over this many partitions; 0 is taken for 1.
    #[must_use]
    pub const fn new(partitions: u32) -> Self {
        Self { partitions: if partitions == 0 { 1 } else { partitions } }
    }

    /// How many there are.
    #[must_use]
    pub const fn partitions(&self) -> u32 {
        self.partitions
    }

    /// The partition of a number.
    #[inline]
    #[must_use]
    pub const fn of_u64(&self, key: u64) -> u32 {
        jump(hash_u64(key), self.partitions)
    }

    /// The partition of a key of bytes, such as a symbol.
    #[inline]
    #[must_use]
    pub const fn of_bytes(&self, key: &[u8]) -> u32 {
        jump(hash_bytes(key), self.partitions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jump_gives_the_buckets_of_other_implementations() {
        for (hash, buckets, bucket) in [
            (1, 1, 0),
            (42, 57, 43),
            (0xDEAD_10CC, 1, 0),
            (0xDEAD_10CC, 666, 361),
            (256, 1024, 520),
        ] {
            assert_eq!(jump(hash, buckets), bucket, "{hash} of {buckets}");
        }
        assert_eq!((jump(7, 0), jump(u64::MAX, u32::MAX) < u32::MAX), (0, true));
    }

    #[test]
    fn hashes_are_fixed_for_ever() {
        assert_eq!(hash_bytes(b""), hash_u64(0xcbf2_9ce4_8422_2325));
        // FNV-1a of "a" is published as af63dc4c8601ec8c.
        assert_eq!(hash_bytes(b"a"), hash_u64(0xaf63_dc4c_8601_ec8c));
        assert_eq!((hash_u64(0), hash_u64(1)), (0, 0xb456_bcfc_34c2_cb2c));
        let router = Router::new(7);
        let owners =
            ["AAPL    ", "MSFT    ", "ZVZZT   "].map(|symbol| router.of_bytes(symbol.as_bytes()));
        // Written down once: data on devices lie where these say.
        assert_eq!(owners, [3, 6, 3]);
    }

    #[test]
    fn keys_spread_evenly_and_a_new_partition_takes_its_share_and_nothing_else_moves() {
        const KEYS: u64 = if cfg!(miri) { 200 } else { 20_000 };
        for partitions in 1..12 {
            let (router, wider) = (Router::new(partitions), Router::new(partitions + 1));
            let mut counts = std::vec![0_u64; partitions as usize];
            let mut moved = 0;
            for key in 0..KEYS {
                let owner = router.of_u64(key);
                counts[owner as usize] += 1;
                let later = wider.of_u64(key);
                assert!(
                    later == owner || later == partitions,
                    "{key} went from {owner} to {later}"
                );
                moved += u64::from(later != owner);
            }
            let share = KEYS / u64::from(partitions);
            for count in counts {
                assert!(count.abs_diff(share) < share / 8 + 50, "{count} of {share}");
            }
            let expected = KEYS / u64::from(partitions + 1);
            assert!(moved.abs_diff(expected) < expected / 8 + 50, "{moved} of {expected}");
        }
    }
}
