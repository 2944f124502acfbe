//! What a ring's two parts tell to someone who only watches.

use hybrid_abi::ring::{
    CONSUMER_MAGIC, COUNTERS_OFFSET, END_OFFSET, PRODUCER_MAGIC, RING_VARIABLE, RingHeader,
};
use hybrid_shm::ReadSpan;

use super::error::RingError;
use super::read_header;

/// A snapshot of a ring, taken while both ends may go on. Numbers come from outside: each is what
/// its writer claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingStats {
    /// Slots of the ring.
    pub capacity: u32,
    /// Bytes a slot.
    pub slot_bytes: u32,
    /// Slots in use.
    pub depth: u32,
    /// Items of a fixed ring, or records of a variable-length one, that were published.
    pub pushed: u64,
    /// Items or records that were refused because the ring was full.
    pub dropped: u64,
    /// Records that were skipped because they were longer than the consumer's buffer.
    pub skipped: u64,
    /// Most slots in use that the producer saw.
    pub high_water: u32,
    /// Most slots that the consumer found waiting at once.
    pub backlog: u32,
    /// The producer's state, one of the `STATE_` constants of [`hybrid_abi::ring`].
    pub producer_state: u32,
    /// The consumer's state.
    pub consumer_state: u32,
}

impl RingStats {
    /// Reads the two parts of a ring.
    ///
    /// # Errors
    /// [`RingError`] if one of them is not what it should be, or the two have different shapes.
    pub fn read(
        producer: ReadSpan<'static>,
        consumer: ReadSpan<'static>,
    ) -> Result<Self, RingError> {
        let shape: RingHeader = read_header(producer, PRODUCER_MAGIC)?;
        let other = read_header(consumer, CONSUMER_MAGIC)?;
        if shape.capacity != other.capacity {
            return Err(RingError::Mismatch {
                field: "capacity",
                own: shape.capacity.into(),
                peer: other.capacity.into(),
            });
        }
        let counters = COUNTERS_OFFSET;
        let slots = producer.load64(counters)?;
        let head = consumer.load32(END_OFFSET)?;
        let tail = producer.load32(END_OFFSET)?;
        #[expect(clippy::cast_possible_truncation, reason = "the index is the count's low bits")]
        let since = u64::from(tail.wrapping_sub(slots as u32));
        let pushed = if shape.kind == RING_VARIABLE {
            producer.load64(counters + 24)?
        } else {
            slots.wrapping_add(since).wrapping_sub(shape.first_index.into())
        };
        Ok(Self {
            capacity: shape.capacity,
            slot_bytes: shape.slot_bytes,
            // The head was read first, so that the ring can only look fuller than it was.
            depth: tail.wrapping_sub(head).min(shape.capacity),
            pushed,
            dropped: producer.load64(counters + 8)?,
            skipped: consumer.load64(counters + 8)?,
            high_water: producer.load32(counters + 16)?,
            backlog: consumer.load32(counters + 16)?,
            producer_state: producer.load32(END_OFFSET + 4)?,
            consumer_state: consumer.load32(END_OFFSET + 4)?,
        })
    }
}
