//! What comes into a ring between two looks at it: every record, or that it is not to be had.

use hybrid_abi::probe::ProbeRecord;
use hybrid_abi::probe::view::{Cursor, Memory, RingView, Seen};

/// What came between two looks. All that the partition had to say is in one of the three counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// What was copied, and before it what was overwritten.
    pub(super) seen: Seen,
    /// Records that the partition did not write, as the ring was full.
    pub(super) dropped: u64,
}

/// A reader's place in a ring.
pub(super) struct Following {
    view: RingView,
    cursor: Cursor,
    dropped: u64,
}

impl Following {
    /// From now on.
    pub(super) fn begin(view: RingView, part: &impl Memory) -> Self {
        let dropped = view.words(part).map_or(0, |words| words.dropped);
        Self { view, cursor: view.newest(part), dropped }
    }

    /// What came since the last look, as much as there is room for.
    ///
    /// A region that was blanked at its partition's end reads as an empty ring: nothing is new.
    pub(super) fn look(&mut self, part: &impl Memory, into: &mut [ProbeRecord]) -> Look {
        if self.view.head(part) < self.cursor.next {
            return Look::default();
        }
        let seen = self.view.read(part, &mut self.cursor, into);
        // Behind the records: what is dropped meanwhile belongs to the next look.
        let now = self.view.words(part).map_or(0, |words| words.dropped);
        let dropped = now.saturating_sub(self.dropped);
        self.dropped = now.max(self.dropped);
        Look { seen, dropped }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use hybrid_abi::probe::{ProbeHeader, RECORD_BYTES, RECORDS_OFFSET, WORDS_OFFSET};
    use hybrid_conventions::testing::Random;
    use zerocopy::IntoBytes as _;

    use super::*;

    const CAPACITY: u64 = 16;

    /// A ring whose writer overwrites, or drops what nobody says was read.
    struct Ring(RefCell<Vec<u8>>);

    impl Ring {
        fn new() -> Self {
            let capacity = u32::try_from(CAPACITY).expect("small");
            let mut bytes = vec![0; ProbeHeader::part_bytes(capacity)];
            bytes[..128].copy_from_slice(ProbeHeader::new(capacity).as_bytes());
            Self(RefCell::new(bytes))
        }

        fn word(&self, at: usize) -> u64 {
            self.load64(WORDS_OFFSET + at).expect("inside")
        }

        fn add(&self, at: usize) {
            let value = self.word(at) + 1;
            let at = WORDS_OFFSET + at;
            self.0.borrow_mut()[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }

        fn write(&self, taken: Option<u64>) {
            let head = self.word(0);
            if taken.is_some_and(|taken| head >= taken + CAPACITY - 1) {
                return self.add(8);
            }
            let record = ProbeRecord { b: head, ..ProbeRecord::default() };
            let slot = usize::try_from(head % CAPACITY).expect("small");
            let at = RECORDS_OFFSET + slot * RECORD_BYTES;
            self.0.borrow_mut()[at..at + RECORD_BYTES].copy_from_slice(record.as_bytes());
            self.add(0);
        }
    }

    impl Memory for Ring {
        fn load64(&self, offset: usize) -> Option<u64> {
            let bytes = self.0.borrow();
            Some(u64::from_le_bytes(bytes.get(offset..offset + 8)?.try_into().ok()?))
        }

        fn read(&self, offset: usize, into: &mut [u8]) -> bool {
            let bytes = self.0.borrow();
            let from = bytes.get(offset..offset + into.len());
            from.map(|from| into.copy_from_slice(from)).is_some()
        }
    }

    #[test]
    fn whatever_the_partition_had_to_say_is_seen_lost_or_dropped_and_counted_once() {
        let mut random = Random::new(3);
        let mut below = |bound: u64| (random.next() >> 33) % bound;
        for drops in [false, true] {
            let ring = Ring::new();
            // What came before it begins is nobody's loss.
            (0..40).for_each(|_| ring.write(drops.then_some(0)));
            let view = RingView::new(&ring, ring.0.borrow().len() as u64).expect("a ring");
            let mut following = Following::begin(view, &ring);
            let mut into = [ProbeRecord::default(); 12];
            let (mut said, mut told, mut lost, mut dropped) = (0, 0, 0, 0);
            for _ in 0..2000 {
                let more = below(24);
                // The host reads at its own pace, and behind.
                let taken = ring.word(0).saturating_sub(below(CAPACITY));
                (0..more).for_each(|_| ring.write(drops.then_some(taken)));
                said += more;
                loop {
                    let look = following.look(&ring, &mut into);
                    told += look.seen.count as u64;
                    lost += look.seen.lost;
                    dropped += look.dropped;
                    if look.seen.count == 0 {
                        break;
                    }
                }
                assert_eq!(told + lost + dropped, said);
            }
            assert_eq!(
                (lost != 0, dropped != 0),
                (!drops, drops),
                "{lost} lost, {dropped} dropped"
            );
            // The partition ends, and its region is blanked.
            ring.0.borrow_mut()[WORDS_OFFSET..].fill(0);
            assert_eq!(following.look(&ring, &mut into), Look::default());
        }
    }
}
