//! Where everything lies: arithmetic over the sizes of a superblock, checked once.

use crate::AbiError;

/// Distance of the two superblocks, so that no write and no block touches both: the largest block
/// that there is.
pub const SLOT_SPACING: u64 = 65_536;
/// Where the snapshot slots begin.
pub const SNAPSHOTS_OFFSET: u64 = 2 * SLOT_SPACING;
/// Bytes of an index block; a larger logical block holds it in its first bytes.
pub const INDEX_BYTES: u32 = 4096;

const WHAT: &str = "journal superblock";

/// Sizes of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a logical block.
    pub lba_bytes: u32,
    /// Most bytes of a batch, a multiple of `lba_bytes`.
    pub batch_bytes: u32,
    /// Bytes of a segment, a multiple of `lba_bytes`.
    pub segment_bytes: u64,
    /// Segments of the ring.
    pub segments: u64,
    /// Bytes of each of the two snapshot slots, a multiple of `lba_bytes`; 0 for none.
    pub snapshot_bytes: u64,
    /// How far the log may run ahead of the last durable checkpoint, in bytes of position.
    pub reach_bytes: u64,
}

impl Geometry {
    /// Whether the sizes are allowed, each against what it depends on.
    ///
    /// # Errors
    /// [`AbiError::Field`] with the size and its bound.
    pub fn check(&self) -> Result<(), AbiError> {
        let bad =
            |field, found, allowed| Err(AbiError::Field { what: WHAT, field, found, allowed });
        let lba = u64::from(self.lba_bytes);
        if !self.lba_bytes.is_power_of_two() || !(512..=65_536).contains(&lba) {
            return bad("block size", lba, 65_536);
        }
        let batch = u64::from(self.batch_bytes);
        if !(1024..=16 << 20).contains(&batch) || !batch.is_multiple_of(lba) {
            return bad("batch size", batch, lba);
        }
        let least = batch + self.index_bytes();
        if self.segment_bytes < least || self.segment_bytes > 1 << 30 {
            return bad("segment size", self.segment_bytes, least);
        }
        if !self.segment_bytes.is_multiple_of(lba) {
            return bad("segment size", self.segment_bytes, lba);
        }
        if self.reach_bytes < 4 * batch || self.reach_bytes > 1 << 40 {
            return bad("reach", self.reach_bytes, 4 * batch);
        }
        let least = (4 * self.reach_bytes).div_ceil(self.segment_bytes).max(4);
        if self.segments < least || self.segments > 1 << 32 {
            return bad("segment count", self.segments, least);
        }
        if !self.snapshot_bytes.is_multiple_of(lba) || self.snapshot_bytes > 1 << 40 {
            return bad("snapshot size", self.snapshot_bytes, lba);
        }
        Ok(())
    }

    /// Bytes that the index block takes at the end of a segment.
    #[must_use]
    pub const fn index_bytes(&self) -> u64 {
        if self.lba_bytes > INDEX_BYTES { self.lba_bytes as u64 } else { INDEX_BYTES as u64 }
    }

    /// Bytes of a segment that batches may use.
    #[must_use]
    pub const fn room_bytes(&self) -> u64 {
        self.segment_bytes - self.index_bytes()
    }

    /// Byte of the device at which segment 0 begins.
    #[must_use]
    pub const fn data_offset(&self) -> u64 {
        (SNAPSHOTS_OFFSET + 2 * self.snapshot_bytes).next_multiple_of(SLOT_SPACING)
    }

    /// Bytes of the ring.
    #[must_use]
    pub const fn ring_bytes(&self) -> u64 {
        self.segments * self.segment_bytes
    }

    /// Bytes of the device that the journal takes.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.data_offset() + self.ring_bytes()
    }

    /// Segment of the log, counted from its genesis, in which a position lies.
    #[must_use]
    pub const fn segment_of(&self, position: u64) -> u64 {
        position / self.segment_bytes
    }

    /// Position at which a segment of the log begins.
    #[must_use]
    pub const fn segment_start(&self, segment: u64) -> u64 {
        segment * self.segment_bytes
    }

    /// Byte of the device at which a position lies.
    #[must_use]
    pub const fn byte_of(&self, position: u64) -> u64 {
        let segment = self.segment_of(position) % self.segments;
        self.data_offset() + segment * self.segment_bytes + position % self.segment_bytes
    }

    /// Logical block at which a position lies.
    #[must_use]
    pub const fn lba_of(&self, position: u64) -> u64 {
        self.byte_of(position) / self.lba_bytes as u64
    }

    /// Where the batch behind one that ends at `end` begins: at the next block, or in the next
    /// segment where this one has no room for the largest batch. A rule, so that it needs no mark.
    #[must_use]
    pub const fn next_batch(&self, end: u64) -> u64 {
        let end = end.next_multiple_of(self.lba_bytes as u64);
        let inside = end % self.segment_bytes;
        if end != 0 && inside == 0 || inside + self.batch_bytes as u64 > self.room_bytes() {
            return end.next_multiple_of(self.segment_bytes);
        }
        end
    }

    /// Whether a batch may begin at `position`.
    #[must_use]
    pub const fn is_batch_place(&self, position: u64) -> bool {
        position.is_multiple_of(self.lba_bytes as u64)
            && position % self.segment_bytes + self.batch_bytes as u64 <= self.room_bytes()
    }

    /// Position of a segment's index block.
    #[must_use]
    pub const fn index_of(&self, segment: u64) -> u64 {
        self.segment_start(segment) + self.room_bytes()
    }

    /// Byte of the device at which a superblock slot lies.
    #[must_use]
    pub const fn superblock_byte(slot: u64) -> u64 {
        (slot & 1) * SLOT_SPACING
    }

    /// Byte of the device at which a snapshot slot lies.
    #[must_use]
    pub const fn snapshot_byte(&self, slot: u64) -> u64 {
        SNAPSHOTS_OFFSET + (slot & 1) * self.snapshot_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Geometry = Geometry {
        lba_bytes: 512,
        batch_bytes: 2048,
        segment_bytes: 16_384,
        segments: 8,
        snapshot_bytes: 4096,
        reach_bytes: 16_384,
    };

    #[test]
    fn a_batch_never_leaves_its_segment_and_never_touches_the_index() {
        let mut position = 0;
        for _ in 0..10_000 {
            assert!(SMALL.is_batch_place(position), "{position}");
            let inside = position % SMALL.segment_bytes;
            assert!(inside + 2048 <= SMALL.index_of(0));
            let next = SMALL.next_batch(position + 700);
            assert!(next >= position + 1024 && next - position <= SMALL.segment_bytes);
            position = next;
        }
    }

    #[test]
    fn places_are_apart() {
        assert_eq!(Geometry::superblock_byte(3), 65_536);
        assert_eq!(SMALL.snapshot_byte(0), 131_072);
        assert_eq!(SMALL.snapshot_byte(1), 131_072 + 4096);
        assert_eq!(SMALL.data_offset(), 196_608);
        assert_eq!(SMALL.byte_of(0), 196_608);
        assert_eq!(SMALL.byte_of(8 * 16_384 + 512), 196_608 + 512, "the second lap");
        assert_eq!(SMALL.lba_of(512), 385);
        assert_eq!(SMALL.total_bytes(), 196_608 + 8 * 16_384);
        assert_eq!(SMALL.next_batch(16_384), 16_384);
        assert_eq!(SMALL.next_batch(10_241), 16_384, "10,752 + 2,048 is above the room of 12,288");
        assert_eq!(SMALL.next_batch(10_240), 10_240);
    }

    #[test]
    fn each_size_that_is_wrong_is_named() {
        assert_eq!(SMALL.check(), Ok(()));
        for (geometry, words) in [
            (Geometry { lba_bytes: 0, ..SMALL }, "block size 0"),
            (Geometry { lba_bytes: 131_072, ..SMALL }, "block size 131072"),
            (Geometry { batch_bytes: 0, ..SMALL }, "batch size 0"),
            (Geometry { batch_bytes: 2000, ..SMALL }, "batch size 2000"),
            (Geometry { segment_bytes: 4096, ..SMALL }, "segment size 4096"),
            (Geometry { segment_bytes: u64::MAX, ..SMALL }, "segment size"),
            (Geometry { segments: 3, ..SMALL }, "segment count 3"),
            (Geometry { segments: u64::MAX, ..SMALL }, "segment count"),
            (Geometry { reach_bytes: 1, ..SMALL }, "reach 1"),
            (Geometry { reach_bytes: u64::MAX, ..SMALL }, "reach"),
            (Geometry { snapshot_bytes: 5, ..SMALL }, "snapshot size 5"),
        ] {
            let error = geometry.check().map_err(|error| std::format!("{error}"));
            assert!(error.as_ref().is_err_and(|text| text.contains(words)), "{error:?} {words}");
        }
    }
}
