//! Command identifiers: the slot in the low bits, a generation in the high bits.
//!
//! Called by [`crate::queue`] for each post and each completion. A generation is what makes a late
//! or doubled completion harmless: the slot has moved on, so its expected CID differs. The value
//! `FFFFh` is never issued (NVMe Base 2.0, section 3.3.3.1: the error log uses it for "no
//! command"), so it doubles as the mark of a slot that expects nothing.

/// What a slot expects while nothing of it is in flight; no command ever carries it.
pub(crate) const NO_CID: u16 = u16::MAX;

/// Fewest generation bits that are still worth having: a late completion must not survive 16
/// reuses.
const MIN_GENERATION_BITS: u32 = 4;

/// Most commands in flight on one queue: 16 bits less the generation, less one for `FFFFh`.
pub const MAX_SLOTS: u16 = (1 << (16 - MIN_GENERATION_BITS)) - 1;

/// How a queue of a given number of slots cuts its CIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CidLayout {
    slot_mask: u16,
    step: u16,
}

impl CidLayout {
    /// The layout for `slots` slots; `None` if there are none or more than [`MAX_SLOTS`].
    pub(crate) const fn new(slots: u16) -> Option<Self> {
        if slots == 0 || slots > MAX_SLOTS {
            return None;
        }
        let step = slots.next_power_of_two();
        Some(Self { slot_mask: step - 1, step })
    }

    /// The slot that a CID names; it may lie beyond the last slot.
    #[inline(always)]
    pub(crate) const fn slot(self, cid: u16) -> u16 {
        cid & self.slot_mask
    }

    /// The bits of a CID that name its slot.
    pub(crate) const fn mask(self) -> u16 {
        self.slot_mask
    }

    /// The CID that follows `last` in the same slot: the next generation, never `FFFFh`.
    #[inline(always)]
    pub(crate) const fn next(self, last: u16) -> u16 {
        let next = last.wrapping_add(self.step);
        if next == NO_CID { next.wrapping_add(self.step) } else { next }
    }

    /// What a fresh slot remembers as its last CID, so that its first one has generation 0.
    pub(crate) const fn before_first(self, slot: u16) -> u16 {
        slot.wrapping_sub(self.step)
    }

    /// How many CIDs one slot goes through before one repeats.
    #[cfg(test)]
    const fn generations(self) -> u32 {
        0x1_0000 / self.step as u32
    }
}

/// For those who have Kani (`cargo kani -p nvme-driver`): for every depth and every CID.
#[cfg(any(kani, test))]
mod proofs {
    use super::*;
    #[cfg(not(kani))]
    use hybrid_conventions::testing::kani;

    #[cfg_attr(kani, kani::proof)]
    pub(super) fn the_next_cid_names_the_same_slot_and_is_another_one() {
        let (slots, last) = (kani::any(), kani::any());
        let Some(layout) = CidLayout::new(slots) else {
            assert!(slots == 0 || slots > MAX_SLOTS);
            return;
        };
        let next = layout.next(last);
        assert!(layout.slot(next) == layout.slot(last));
        assert!(next != last && next != NO_CID);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hybrid_conventions::testing::kani;

    #[test]
    fn the_proof_holds_for_random_values() {
        kani::sample(proofs::the_next_cid_names_the_same_slot_and_is_another_one);
    }

    #[test]
    fn every_generation_of_every_slot_names_its_slot_and_never_ffff() {
        let all = [1, 2, 3, 7, 31, 32, 255, 256, 1023, MAX_SLOTS];
        // The fewer slots, the more generations: up to 65,535.
        for slots in all.into_iter().skip(if cfg!(miri) { 6 } else { 0 }) {
            let layout = CidLayout::new(slots).expect("legal");
            for slot in [0, slots / 2, slots - 1] {
                let mut cid = layout.before_first(slot);
                for _ in 0..layout.generations() * 2 {
                    cid = layout.next(cid);
                    assert_eq!(layout.slot(cid), slot);
                    assert_ne!(cid, NO_CID);
                }
            }
        }
    }

    #[test]
    fn a_cid_returns_only_after_all_other_generations() {
        let layout = CidLayout::new(1023).expect("legal");
        let first = layout.next(layout.before_first(5));
        let mut cid = first;
        let mut seen = 0;
        loop {
            cid = layout.next(cid);
            seen += 1;
            if cid == first {
                break;
            }
        }
        assert_eq!(first, 5, "the first generation is 0");
        assert_eq!(seen, layout.generations());
    }

    #[test]
    fn the_all_ones_generation_of_the_last_slot_is_skipped() {
        let layout = CidLayout::new(4).expect("legal");
        let before = NO_CID.wrapping_sub(4);
        assert_eq!(layout.next(before), 3);
    }

    #[test]
    fn zero_slots_and_too_many_are_refused() {
        assert_eq!(CidLayout::new(0), None);
        assert_eq!(CidLayout::new(MAX_SLOTS + 1), None);
        let most = CidLayout::new(MAX_SLOTS).expect("legal");
        assert!(most.generations() >= 1 << MIN_GENERATION_BITS);
    }

    #[test]
    fn no_slot_of_the_largest_queue_lacks_a_generation() {
        let layout = CidLayout::new(MAX_SLOTS).expect("legal");
        for slot in [0, 1, MAX_SLOTS - 1] {
            let first = layout.next(layout.before_first(slot));
            let mut cid = first;
            for _ in 0..1 << MIN_GENERATION_BITS {
                assert_eq!(cid & layout.mask(), slot);
                cid = layout.next(cid);
            }
            assert_eq!(cid, first, "16 others, slot {slot}");
        }
    }
}
