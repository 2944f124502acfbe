//! Splitting a request at the largest transfer that one command may carry.
//!
//! Pure arithmetic in blocks. A request of `nlb` blocks is cut into equal parts of `max` blocks and
//! a shorter last one; part `i` starts at block `i * max`. Because a part is named by its number
//! alone, a slot needs no record of its own to be retried.

/// A request and how it is cut. Blocks are logical blocks of the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// Blocks of the whole request, at least 1.
    pub nlb: u32,
    /// Most blocks of one command, at least 1.
    pub max: u32,
}

/// One command's share of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// First block, from the request's start.
    pub first: u32,
    /// Number of blocks.
    pub nlb: u32,
}

impl Split {
    /// Number of commands.
    pub(crate) const fn parts(self) -> u32 {
        self.nlb.div_ceil(self.max)
    }

    /// The `i`th part; empty beyond the last.
    #[inline(always)]
    pub(crate) fn part(self, i: u32) -> Part {
        let first = match i.checked_mul(self.max) {
            Some(first) => first.min(self.nlb),
            None => self.nlb,
        };
        let left = self.nlb.wrapping_sub(first);
        Part { first, nlb: left.min(self.max) }
    }
}

/// Largest transfer of one command in bytes.
///
/// `mdts` is the exponent of Identify Controller in units of `unit_bytes` (CAP.MPSMIN), 0 means no
/// limit; `own_bytes` is what our PRP lists hold. The result is a multiple of `lba_bytes`, `None`
/// if not even one block fits.
pub(crate) fn max_transfer(
    mdts: u8,
    unit_bytes: u64,
    own_bytes: u32,
    lba_bytes: u32,
    metadata_bytes: u32,
) -> Option<u32> {
    let own = u64::from(own_bytes);
    let device = match mdts {
        0 => own,
        // 2^31 units is beyond any length that we have: the same as no limit.
        31.. => own,
        exponent => match unit_bytes.checked_mul(1 << exponent) {
            Some(bytes) => bytes,
            None => own,
        },
    };
    // NLB is a 16-bit field counted from 0.
    let most = device.min(own) / (u64::from(lba_bytes) + u64::from(metadata_bytes));
    let blocks = most.min(1 << 16);
    if blocks == 0 {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "blocks * lba_bytes <= own_bytes, which has 32 bits"
    )]
    let bytes = (blocks * u64::from(lba_bytes)) as u32;
    Some(bytes)
}

/// For those who have Kani (`cargo kani -p nvme-driver`): for every request and every limit.
#[cfg(any(kani, test))]
mod proofs {
    use super::*;
    #[cfg(not(kani))]
    use hybrid_conventions::testing::kani;

    #[cfg_attr(kani, kani::proof)]
    pub(super) fn a_part_lies_in_its_request_and_the_next_one_begins_behind_it() {
        let some = || kani::any_where(|blocks| *blocks != 0);
        let split = Split { nlb: some(), max: some() };
        let i: u32 = kani::any();
        let part = split.part(i);
        assert!(part.first <= split.nlb && part.nlb <= split.nlb - part.first);
        assert!(part.nlb <= split.max && (part.nlb == 0) == (i >= split.parts()));
        if i < u32::MAX {
            assert!(split.part(i + 1).first == part.first + part.nlb);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hybrid_conventions::testing::kani;

    #[test]
    fn the_proof_holds_for_random_values() {
        kani::sample(proofs::a_part_lies_in_its_request_and_the_next_one_begins_behind_it);
    }

    #[test]
    fn parts_cover_a_request_exactly_once() {
        for max in [1, 2, 7, 8, 255, 256] {
            for nlb in (1..1030).step_by(if cfg!(miri) { 97 } else { 1 }) {
                let split = Split { nlb, max };
                let mut at = 0;
                for i in 0..split.parts() {
                    let part = split.part(i);
                    assert_eq!(part.first, at);
                    assert!(part.nlb >= 1 && part.nlb <= max);
                    at += part.nlb;
                }
                assert_eq!(at, nlb);
                assert_eq!(split.part(split.parts()).nlb, 0, "nothing beyond the last part");
            }
        }
    }

    #[test]
    fn a_part_number_that_overflows_is_empty() {
        let split = Split { nlb: u32::MAX, max: 1 << 16 };
        assert_eq!(split.part(u32::MAX).nlb, 0);
        assert_eq!(split.part(split.parts() - 1).nlb, 0xFFFF);
    }

    #[test]
    fn mdts_is_in_units_of_mpsmin_and_zero_means_no_limit() {
        let own = 2 << 20;
        assert_eq!(max_transfer(0, 4096, own, 512, 0), Some(own));
        assert_eq!(max_transfer(1, 4096, own, 512, 0), Some(8192));
        assert_eq!(max_transfer(5, 4096, own, 4096, 0), Some(131_072));
        assert_eq!(max_transfer(5, 65536, own, 4096, 0), Some(own));
        assert_eq!(max_transfer(1, 16384, own, 4096, 0), Some(32768));
    }

    #[test]
    fn absurd_mdts_is_no_limit_and_too_small_a_one_is_refused() {
        for mdts in [31, 63, 64, 255] {
            assert_eq!(max_transfer(mdts, 4096, 1 << 20, 512, 0), Some(1 << 20));
        }
        assert_eq!(max_transfer(1, 4096, 1 << 20, 65536, 0), None);
    }

    #[test]
    fn metadata_counts_against_mdts_where_the_controller_says_so() {
        assert_eq!(max_transfer(1, 4096, 1 << 20, 512, 8), Some(15 * 512));
    }

    #[test]
    fn a_transfer_never_exceeds_the_nlb_field() {
        assert_eq!(max_transfer(0, 4096, 1 << 30, 512, 0), Some(65536 * 512));
    }
}
