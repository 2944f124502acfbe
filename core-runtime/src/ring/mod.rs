//! The shared-memory ring: one producer, one consumer, two regions.
//!
//! Called by partitions (events to the host, commands from it), by `host-bridge` on the other side,
//! and by anything that passes records between two cores. The producer's index and the slots lie in
//! the producer's region, the consumer's index in the consumer's, so that each region has one
//! writer; the layout is [`hybrid_abi::ring`].
//!
//! - [`Producer`] and [`Consumer`]: items of one size, singly or in batches.
//! - [`RecordProducer`] and [`RecordConsumer`]: records of any length up to 64 KiB, with a kind.
//!
//! Neither end blocks, spins or allocates; each call does bounded work. A full ring refuses, and
//! counts what it refused: whether to drop, wait or stop is the caller's decision. The peer is not
//! trusted: an index outside what it can be, or a record longer than what was published, closes the
//! end with a typed error, and nothing outside the ring was read or written.
//!
//! Both sides make their part first ([`RingSpec::make_producer_part`] and
//! [`RingSpec::make_consumer_part`]), then open their end; [`pair`] does all of it where one
//! program has both.
//!
//! Units: slots, and bytes where a name says so.

use hybrid_abi::ring::{
    CAPACITY_MAX, CONSUMER_MAGIC, COUNTERS_OFFSET, END_OFFSET, PRODUCER_MAGIC, RING_FIXED,
    RING_VARIABLE, RingHeader, SLOTS_OFFSET,
};
use hybrid_shm::{ReadSpan, Span};
use zerocopy::IntoBytes;

pub mod cell;
pub mod engine;
mod error;
pub mod index;
pub mod records;
mod stats;

use cell::{Item, Own, Peer};
pub use engine::{Receiver, Sender};
pub use error::{Closed, PopError, PushError, RingError};
pub use index::Violation;
pub use records::{RecordReceiver, RecordSender};
pub use stats::RingStats;

/// The producer's end of a ring of `T`s in shared memory.
pub type Producer<T> = Sender<Own<T>, Peer>;
/// The consumer's end of a ring of `T`s in shared memory.
pub type Consumer<T> = Receiver<Own, Peer<T>>;
/// The producer's end of a variable-length ring in shared memory.
pub type RecordProducer = RecordSender<Own<u64>, Peer>;
/// The consumer's end of a variable-length ring in shared memory.
pub type RecordConsumer = RecordReceiver<Own, Peer<u64>>;

/// The shape of a ring, on which both sides agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSpec {
    kind: u32,
    capacity: u32,
    slot_bytes: u32,
    epoch: u64,
    first_index: u32,
}

impl RingSpec {
    /// A ring of `capacity` items; a power of two.
    ///
    /// # Errors
    /// [`RingError::Abi`] if the capacity is not one, or is above 2^31.
    pub fn fixed<T: Item>(capacity: u32) -> Result<Self, RingError> {
        let slot_bytes = u32::try_from(T::WORDS * 8).unwrap_or(u32::MAX);
        Self::new(RING_FIXED, capacity, slot_bytes)
    }

    /// A variable-length ring of `bytes` bytes; a power of two, at least 8.
    ///
    /// A record takes its length and 8 bytes, rounded up to 8.
    ///
    /// # Errors
    /// [`RingError::Abi`] if the number of 64-bit words is not a power of two, or is above 2^31.
    pub fn variable(bytes: usize) -> Result<Self, RingError> {
        let words = if bytes.is_multiple_of(8) { bytes / 8 } else { 0 };
        Self::new(RING_VARIABLE, u32::try_from(words).unwrap_or(u32::MAX), 8)
    }

    fn new(kind: u32, capacity: u32, slot_bytes: u32) -> Result<Self, RingError> {
        let spec = Self { kind, capacity, slot_bytes, epoch: 0, first_index: 0 };
        spec.header(PRODUCER_MAGIC).check(PRODUCER_MAGIC)?;
        Ok(spec)
    }

    /// For this incarnation: a peer of another one is refused.
    #[must_use]
    pub const fn with_epoch(self, epoch: u64) -> Self {
        Self { epoch, ..self }
    }

    /// With indices that begin at `first_index` and so wrap sooner; for tests.
    #[must_use]
    pub const fn with_first_index(self, first_index: u32) -> Self {
        Self { first_index, ..self }
    }

    /// Slots of the ring.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Bytes of the producer's part.
    #[must_use]
    pub const fn producer_bytes(&self) -> usize {
        SLOTS_OFFSET + self.capacity as usize * self.slot_bytes as usize
    }

    /// Bytes of the consumer's part.
    #[must_use]
    pub const fn consumer_bytes(&self) -> usize {
        SLOTS_OFFSET
    }

    /// Makes an empty producer's part in `own`.
    ///
    /// # Errors
    /// [`RingError::OutOfBounds`] if it does not fit.
    pub fn make_producer_part(&self, own: Span<'static>) -> Result<(), RingError> {
        own.sub(0, self.producer_bytes())?;
        self.make_part(own, PRODUCER_MAGIC)
    }

    /// Makes an empty consumer's part in `own`.
    ///
    /// # Errors
    /// [`RingError::OutOfBounds`] if it does not fit.
    pub fn make_consumer_part(&self, own: Span<'static>) -> Result<(), RingError> {
        self.make_part(own, CONSUMER_MAGIC)
    }

    fn make_part(&self, own: Span<'static>, magic: u64) -> Result<(), RingError> {
        let header = self.header(magic);
        let magic_word = own.word64(0)?;
        magic_word.store(0);
        own.fill(END_OFFSET, SLOTS_OFFSET - END_OFFSET, 0)?;
        own.word32(END_OFFSET)?.store(self.first_index);
        own.word64(COUNTERS_OFFSET)?.store(self.first_index.into());
        own.write(8, header.as_bytes().split_at(8).1)?;
        // SYNC ring-made: who sees the magic sees the part.
        magic_word.store_release(magic);
        Ok(())
    }

    fn header(&self, magic: u64) -> RingHeader {
        let mut header =
            RingHeader::new(magic, self.kind, self.capacity, self.slot_bytes, self.epoch);
        header.first_index = self.first_index;
        header
    }

    /// Whether `part` is what this shape and `magic` say.
    fn check_part(&self, part: ReadSpan<'static>, magic: u64) -> Result<(), RingError> {
        let peer = read_header(part, magic)?;
        let own = self.header(magic);
        for (field, own, peer) in [
            ("kind", u64::from(own.kind), u64::from(peer.kind)),
            ("capacity", own.capacity.into(), peer.capacity.into()),
            ("slot bytes", own.slot_bytes.into(), peer.slot_bytes.into()),
            ("epoch", own.epoch, peer.epoch),
            ("first index", own.first_index.into(), peer.first_index.into()),
        ] {
            if own != peer {
                return Err(RingError::Mismatch { field, own, peer });
            }
        }
        Ok(())
    }

    /// As [`RingSpec::check_part`] for an end that carries items of `slot_bytes`.
    fn check_end(&self, kind: u32, slot_bytes: usize) -> Result<(), RingError> {
        let wrong = |field, own: u64, peer: u64| Err(RingError::Mismatch { field, own, peer });
        if self.kind != kind {
            return wrong("kind", kind.into(), self.kind.into());
        }
        if self.slot_bytes as usize != slot_bytes {
            return wrong("slot bytes", slot_bytes as u64, self.slot_bytes.into());
        }
        Ok(())
    }
}

/// The checked header of a part that someone else made.
fn read_header(part: ReadSpan<'static>, magic: u64) -> Result<RingHeader, RingError> {
    // SYNC ring-made
    if part.load64(0)? == 0 {
        return Err(RingError::PeerNotReady);
    }
    let mut bytes = [0; size_of::<RingHeader>()];
    part.read(0, &mut bytes)?;
    Ok(RingHeader::parse(&bytes, magic)?)
}

impl<T: Item> Producer<T> {
    /// Opens the producer's end: its own part was made, and so was the peer's.
    ///
    /// There must be one producer of a part: a second one would take its place in the ring, and its
    /// consumer would see an index that goes back.
    ///
    /// # Errors
    /// [`RingError::PeerNotReady`] to try again, the others for ever.
    pub fn new(
        own: Span<'static>,
        peer: ReadSpan<'static>,
        spec: RingSpec,
    ) -> Result<Self, RingError> {
        spec.check_end(RING_FIXED, T::WORDS * 8)?;
        open_sender(own, peer, spec)
    }
}

impl<T: Item> Consumer<T> {
    /// Opens the consumer's end: its own part was made, and so was the peer's.
    ///
    /// # Errors
    /// [`RingError::PeerNotReady`] to try again, the others for ever.
    pub fn new(
        own: Span<'static>,
        peer: ReadSpan<'static>,
        spec: RingSpec,
    ) -> Result<Self, RingError> {
        spec.check_end(RING_FIXED, T::WORDS * 8)?;
        open_receiver(own, peer, spec)
    }
}

impl RecordProducer {
    /// Opens the producer's end: its own part was made, and so was the peer's.
    ///
    /// # Errors
    /// [`RingError::PeerNotReady`] to try again, the others for ever.
    pub fn new(
        own: Span<'static>,
        peer: ReadSpan<'static>,
        spec: RingSpec,
    ) -> Result<Self, RingError> {
        spec.check_end(RING_VARIABLE, 8)?;
        open_sender(own, peer, spec).map(Self::over)
    }
}

impl RecordConsumer {
    /// Opens the consumer's end: its own part was made, and so was the peer's.
    ///
    /// # Errors
    /// [`RingError::PeerNotReady`] to try again, the others for ever.
    pub fn new(
        own: Span<'static>,
        peer: ReadSpan<'static>,
        spec: RingSpec,
    ) -> Result<Self, RingError> {
        spec.check_end(RING_VARIABLE, 8)?;
        open_receiver(own, peer, spec).map(Self::over)
    }
}

fn open_sender<T: Item>(
    own: Span<'static>,
    peer: ReadSpan<'static>,
    spec: RingSpec,
) -> Result<Producer<T>, RingError> {
    spec.check_part(own.read_only(), PRODUCER_MAGIC)?;
    spec.check_part(peer, CONSUMER_MAGIC)?;
    let own = Own::with_slots(own, spec.capacity)?;
    let peer = Peer::new(peer)?;
    Ok(Sender::over(own, peer, spec.capacity, spec.first_index))
}

fn open_receiver<T: Item>(
    own: Span<'static>,
    peer: ReadSpan<'static>,
    spec: RingSpec,
) -> Result<Consumer<T>, RingError> {
    spec.check_part(own.read_only(), CONSUMER_MAGIC)?;
    spec.check_part(peer, PRODUCER_MAGIC)?;
    let own = Own::new(own)?;
    let peer = Peer::with_slots(peer, spec.capacity)?;
    Ok(Receiver::over(own, peer, spec.capacity, spec.first_index))
}

/// Makes both parts and opens both ends of a ring of `T`s.
///
/// # Errors
/// [`RingError`] if a part does not fit.
pub fn pair<T: Item>(
    producer_part: Span<'static>,
    consumer_part: Span<'static>,
    spec: RingSpec,
) -> Result<(Producer<T>, Consumer<T>), RingError> {
    spec.make_producer_part(producer_part)?;
    spec.make_consumer_part(consumer_part)?;
    Ok((
        Producer::<T>::new(producer_part, consumer_part.read_only(), spec)?,
        Consumer::<T>::new(consumer_part, producer_part.read_only(), spec)?,
    ))
}

/// Makes both parts and opens both ends of a variable-length ring.
///
/// # Errors
/// [`RingError`] if a part does not fit.
pub fn record_pair(
    producer_part: Span<'static>,
    consumer_part: Span<'static>,
    spec: RingSpec,
) -> Result<(RecordProducer, RecordConsumer), RingError> {
    spec.make_producer_part(producer_part)?;
    spec.make_consumer_part(consumer_part)?;
    Ok((
        RecordProducer::new(producer_part, consumer_part.read_only(), spec)?,
        RecordConsumer::new(consumer_part, producer_part.read_only(), spec)?,
    ))
}

/// Slots that a ring needs: what arrives at `rate_per_s` while the consumer is away for
/// `latency_ns`, by Little's law (L = rate x time), and a fifth more, rounded up to a power of two.
///
/// At least 2, at most 2^31.
#[must_use]
pub const fn capacity_for(rate_per_s: u64, latency_ns: u64) -> u32 {
    const NS_PER_S: u128 = 1_000_000_000;
    let waiting = rate_per_s as u128 * latency_ns as u128;
    let slots = match waiting.checked_mul(6) {
        Some(six) => six.div_ceil(5 * NS_PER_S),
        None => return CAPACITY_MAX,
    };
    if slots > CAPACITY_MAX as u128 {
        return CAPACITY_MAX;
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most 2^31")]
    let slots = slots as u32;
    if slots < 2 { 2 } else { slots.next_power_of_two() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(spec: RingSpec) -> (Span<'static>, Span<'static>) {
        let producer = hybrid_shm::leak_aligned(spec.producer_bytes(), 128);
        (producer, hybrid_shm::leak_aligned(spec.consumer_bytes(), 128))
    }

    #[test]
    fn items_go_through_shared_memory_over_the_wrap_of_the_index() {
        let spec = RingSpec::fixed::<[u64; 3]>(4).unwrap();
        let spec = spec.with_first_index(u32::MAX - 5);
        let (own, peer) = parts(spec);
        let (producer, consumer) = pair::<[u64; 3]>(own, peer, spec).unwrap();
        for round in 0..20 {
            assert_eq!(producer.push_batch(&[[round; 3]; 5]), Ok(4));
            assert_eq!(producer.try_push(&[0; 3]), Err(PushError::Full));
            assert_eq!(consumer.pop(), Ok([round; 3]));
            let rest = consumer.pop_batch(9, |item| assert_eq!(item, [round; 3]));
            assert_eq!(rest, Ok(3));
        }
        assert_eq!(RingStats::read(own.read_only(), peer.read_only()).unwrap().dropped, 20);
    }

    #[test]
    fn records_go_through_shared_memory_over_the_end_of_the_slots() {
        let spec = RingSpec::variable(64).unwrap();
        let (own, peer) = parts(spec);
        let (producer, consumer) = record_pair(own, peer, spec).unwrap();
        let mut buffer = [0; 32];
        for tag in 0..20 {
            producer.write(1, tag, b"thirteen byte").unwrap();
            let header = consumer.read(&mut buffer).unwrap();
            assert_eq!((header.tag, header.len), (tag, 13));
            assert_eq!(buffer[..13], *b"thirteen byte");
        }
    }

    /// Slots are read and written with Relaxed, so that only the index orders them: the interpreter
    /// hands out old words where it may.
    #[test]
    fn what_another_thread_pushed_is_what_is_popped() {
        let rounds: u64 = if cfg!(miri) { 40 } else { 20_000 };
        let spec = RingSpec::fixed::<[u64; 2]>(2).unwrap();
        let (own, peer) = parts(spec);
        let (producer, consumer) = pair::<[u64; 2]>(own, peer, spec).unwrap();
        let pushing = std::thread::spawn(move || {
            for round in 1..=rounds {
                while producer.try_push(&[round; 2]).is_err() {
                    std::thread::yield_now();
                }
            }
        });
        for round in 1..=rounds {
            let item = loop {
                match consumer.pop() {
                    Ok(item) => break item,
                    Err(PopError::Empty) => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            };
            assert_eq!(item, [round; 2]);
        }
        pushing.join().unwrap();
    }

    #[test]
    fn a_rogue_index_closes_either_end() {
        let spec = RingSpec::fixed::<u64>(2).unwrap();
        let (own, peer) = parts(spec);
        let (producer, consumer) = pair::<u64>(own, peer, spec).unwrap();
        own.word32(END_OFFSET).unwrap().store(3);
        peer.word32(END_OFFSET).unwrap().store(1);
        assert!(matches!(producer.try_push(&1), Err(PushError::Closed(Closed::Index(_)))));
        assert!(matches!(consumer.pop(), Err(PopError::Closed(Closed::Index(_)))));
    }
}
