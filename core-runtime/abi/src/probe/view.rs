//! Reading a ring of probe records that its writer goes on writing, from outside.
//!
//! Who reads owns a [`Cursor`]. Nothing is written to the ring, so that any number may read, and
//! none disturbs the partition. A record is believed only if, after it was copied, the head says
//! that nobody can have begun to overwrite it; what was overwritten is counted as lost, exactly.

use zerocopy::FromBytes;

use super::{ProbeHeader, ProbeRecord, ProbeWords, RECORD_BYTES, WORDS_OFFSET};
use crate::{AbiError, LINE_BYTES};

/// Memory that somebody else writes: a mapping, or a file that is read.
pub trait Memory {
    /// The aligned word at `offset`, with Acquire; `None` outside.
    fn load64(&self, offset: usize) -> Option<u64>;
    /// Copies bytes from `offset`; false outside. What arrives may be torn.
    fn read(&self, offset: usize, into: &mut [u8]) -> bool;
    /// Keeps the copies before it from sinking below it.
    fn fence(&self) {
        core::sync::atomic::fence(core::sync::atomic::Ordering::Acquire);
    }
}

/// A checked probe part.
#[derive(Clone, Copy, Debug)]
pub struct RingView {
    header: ProbeHeader,
}

/// Where a reader stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The next record to be read.
    pub next: u64,
    /// Records that were overwritten before they were read.
    pub lost: u64,
}

/// What one look gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Number of the first record that was copied.
    pub first: u64,
    /// Records that were copied.
    pub count: usize,
    /// Records that were lost before the first of them, in this look.
    pub lost: u64,
}

impl RingView {
    /// Checks the header of a part of `part_bytes`.
    ///
    /// # Errors
    /// [`AbiError`].
    pub fn new(part: &impl Memory, part_bytes: u64) -> Result<Self, AbiError> {
        let mut bytes = [0; LINE_BYTES];
        if !part.read(0, &mut bytes) {
            let found = usize::try_from(part_bytes).unwrap_or(usize::MAX);
            return Err(AbiError::Short { what: "probe ring", found, needed: LINE_BYTES });
        }
        Ok(Self { header: ProbeHeader::parse(&bytes, part_bytes)? })
    }

    /// Records that the ring holds.
    #[must_use]
    pub const fn capacity(&self) -> u64 {
        self.header.capacity as u64
    }

    /// Records ever written.
    #[must_use]
    pub fn head(&self, part: &impl Memory) -> u64 {
        part.load64(WORDS_OFFSET).unwrap_or(0)
    }

    /// The writer's words.
    #[must_use]
    pub fn words(&self, part: &impl Memory) -> Option<ProbeWords> {
        let mut bytes = [0; size_of::<ProbeWords>()];
        part.load64(WORDS_OFFSET)?;
        if !part.read(WORDS_OFFSET, &mut bytes) {
            return None;
        }
        ProbeWords::read_from_bytes(&bytes).ok()
    }

    /// A cursor at the oldest record that is there. What was overwritten before counts as seen.
    #[must_use]
    pub fn oldest(&self, part: &impl Memory) -> Cursor {
        self.last(part, self.capacity())
    }

    /// A cursor before the newest `most` records, or the oldest that is there.
    #[must_use]
    pub fn last(&self, part: &impl Memory, most: u64) -> Cursor {
        Cursor { next: self.head(part).saturating_sub(most.min(self.capacity())), lost: 0 }
    }

    /// A cursor behind the newest record.
    #[must_use]
    pub fn newest(&self, part: &impl Memory) -> Cursor {
        Cursor { next: self.head(part), lost: 0 }
    }

    /// Copies the records from the cursor on, as many as fit, and moves it behind them. Some of
    /// them may turn out to have been overwritten: `into`'s first `lost` ones are moved away then.
    pub fn read(&self, part: &impl Memory, cursor: &mut Cursor, into: &mut [ProbeRecord]) -> Seen {
        let head = self.head(part);
        // A head that is behind the cursor is another ring's: begin anew.
        if head < cursor.next {
            cursor.next = head.saturating_sub(self.capacity());
        }
        let oldest = head.saturating_sub(self.capacity());
        let skipped = oldest.saturating_sub(cursor.next);
        let from = cursor.next.max(oldest);
        let most = into.len() as u64;
        let wanted = head.saturating_sub(from).min(most);
        let wanted = usize::try_from(wanted).unwrap_or(0);
        let mut copied = 0_usize;
        for (number, place) in (from..).zip(into.iter_mut()).take(wanted) {
            let slot = usize::try_from(number & (self.capacity() - 1)).unwrap_or(0);
            let at = self.header.records_offset as usize + slot * RECORD_BYTES;
            let mut bytes = [0; RECORD_BYTES];
            if !part.read(at, &mut bytes) {
                break;
            }
            *place = zerocopy::transmute!(bytes);
            copied += 1;
        }
        part.fence();
        // SYNC probe-ring: the writer may be at record `now`, whose place is `now - capacity`'s.
        let now = self.head(part);
        let safe = now.saturating_add(1).saturating_sub(self.capacity());
        let torn = safe.saturating_sub(from).min(copied as u64);
        let torn_len = usize::try_from(torn).unwrap_or(copied);
        into.get_mut(..copied).unwrap_or_default().rotate_left(torn_len);
        let lost = skipped.saturating_add(torn);
        cursor.next = from.saturating_add(copied as u64);
        cursor.lost = cursor.lost.saturating_add(lost);
        Seen { first: from + torn, count: copied - torn_len, lost }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use zerocopy::IntoBytes;

    use super::*;

    /// A ring of bytes whose writer can be let in between two looks.
    struct Ring {
        bytes: RefCell<Vec<u8>>,
        /// Records to be written as soon as the copy has ended.
        meanwhile: Cell<u64>,
    }

    impl Ring {
        fn new(capacity: u32) -> Self {
            let mut bytes = vec![0; ProbeHeader::part_bytes(capacity)];
            bytes[..128].copy_from_slice(ProbeHeader::new(capacity).as_bytes());
            Self { bytes: RefCell::new(bytes), meanwhile: Cell::new(0) }
        }

        fn head(&self) -> u64 {
            u64::from_le_bytes(self.bytes.borrow()[128..136].try_into().unwrap())
        }

        fn write(&self, count: u64) {
            let capacity = (self.bytes.borrow().len() - 256) as u64 / 32;
            for _ in 0..count {
                let head = self.head();
                let record = ProbeRecord { tsc: head, id: 1, a: 0, b: head, c: 0 };
                let at = 256 + usize::try_from(head % capacity).unwrap() * 32;
                self.bytes.borrow_mut()[at..at + 32].copy_from_slice(record.as_bytes());
                self.bytes.borrow_mut()[128..136].copy_from_slice(&(head + 1).to_le_bytes());
            }
        }
    }

    impl Memory for Ring {
        fn load64(&self, offset: usize) -> Option<u64> {
            let bytes = self.bytes.borrow();
            Some(u64::from_le_bytes(bytes.get(offset..offset + 8)?.try_into().unwrap()))
        }

        fn read(&self, offset: usize, into: &mut [u8]) -> bool {
            let bytes = self.bytes.borrow();
            let from = bytes.get(offset..offset + into.len());
            from.map(|from| into.copy_from_slice(from)).is_some()
        }

        fn fence(&self) {
            self.write(self.meanwhile.take());
        }
    }

    fn view(ring: &Ring) -> RingView {
        let len = ring.bytes.borrow().len() as u64;
        RingView::new(ring, len).unwrap()
    }

    #[test]
    fn every_record_is_seen_once_or_counted_as_lost() {
        let mut rng = 7_u64;
        let mut random = |below: u64| {
            rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (rng >> 33) % below
        };
        let ring = Ring::new(16);
        let view = view(&ring);
        let (mut cursor, mut into) = (Cursor::default(), [ProbeRecord::default(); 12]);
        let (mut seen_all, mut next) = (0, 0);
        let looks = if cfg!(miri) { 100 } else { 5000 };
        for _ in 0..looks {
            ring.write(random(24));
            ring.meanwhile.set(random(30));
            let room = usize::try_from(random(13)).unwrap();
            let seen = view.read(&ring, &mut cursor, &mut into[..room]);
            assert_eq!(seen.first, next + seen.lost, "what is between two looks was lost");
            for (record, number) in into.iter().zip(seen.first..).take(seen.count) {
                assert_eq!((record.tsc, record.b), (number, number));
            }
            seen_all += seen.count as u64;
            next = seen.first + seen.count as u64;
            assert_eq!(cursor.next, next);
        }
        assert_eq!(seen_all + cursor.lost, cursor.next);
        assert!(cursor.lost > looks / 5 && seen_all > looks / 5, "both happened: {cursor:?}");
    }

    #[test]
    fn a_reader_may_begin_at_either_end() {
        let ring = Ring::new(8);
        ring.write(20);
        let view = view(&ring);
        assert_eq!(view.oldest(&ring).next, 12);
        assert_eq!(view.newest(&ring).next, 20);
        assert_eq!((view.last(&ring, 3).next, view.last(&ring, u64::MAX).next), (17, 12));
        let mut into = [ProbeRecord::default(); 8];
        let seen = view.read(&ring, &mut view.oldest(&ring), &mut into);
        // The oldest of a full ring may be being overwritten at this moment.
        assert_eq!((seen.first, seen.count, seen.lost), (13, 7, 1));
        assert_eq!(view.words(&ring).map(|words| words.head), Some(20));
    }

    #[test]
    fn a_ring_that_began_anew_is_read_from_its_beginning() {
        let ring = Ring::new(8);
        ring.write(3);
        let mut cursor = Cursor { next: 100, lost: 5 };
        let mut into = [ProbeRecord::default(); 8];
        let seen = view(&ring).read(&ring, &mut cursor, &mut into);
        assert_eq!((seen.first, seen.count, cursor), (0, 3, Cursor { next: 3, lost: 5 }));
    }
}
