//! What lies in a partition's mesh region, and in what order.
//!
//! One region a partition, which it alone writes. For each peer it holds the producer's part of the
//! ring to it, the consumer's part of the ring from it, and the words that wake it:
//!
//! ```text
//!  header, directory
//!  "wakes"     one line of 256 bytes a partition of the mesh, its own unused
//!  "to-0"      producer's part of the ring to partition 0
//!  "from-0"    consumer's part of the ring from partition 0
//!  "to-1" ...  and so on, itself left out
//! ```
//! The region is made once, by the host, and outlives its partition's incarnations: each one lays
//! it out anew, to the same places.

use hybrid_abi::LINE_BYTES;
use hybrid_abi::region::{DirectoryEntry, PartKind, RegionHeader};
use hybrid_shm::{ReadSpan, Span};

use super::MeshError;
use crate::region::{RegionFacts, RegionWriter, Writer};
use crate::ring::RingSpec;
use crate::task::REMOTE_WORDS_BYTES;

/// Most partitions of a mesh: the directory of a region names two parts for each peer.
pub const MESH_MAX: usize = 32;

/// The part with the wakes.
pub(super) const WAKES: &str = "wakes";

/// Bytes of one peer's wakes: whole pairs of cache lines.
pub(super) const WAKE_BYTES: usize = REMOTE_WORDS_BYTES.next_multiple_of(2 * LINE_BYTES);

/// How many partitions, and how large the ring from each to each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeshShape {
    partitions: u32,
    ring: RingSpec,
}

impl MeshShape {
    /// A mesh of `partitions`, with rings of `ring_bytes` (a power of two, at least 128).
    ///
    /// # Errors
    /// [`MeshError::Partitions`] outside 2 to [`MESH_MAX`], [`MeshError::Ring`] for a size that no
    /// ring has.
    pub fn new(partitions: u32, ring_bytes: usize) -> Result<Self, MeshError> {
        if !(2..=MESH_MAX).contains(&(partitions as usize)) {
            return Err(MeshError::Partitions { partitions });
        }
        if ring_bytes < LINE_BYTES {
            return Err(MeshError::SmallRing { bytes: ring_bytes });
        }
        Ok(Self { partitions, ring: RingSpec::variable(ring_bytes)? })
    }

    /// How many partitions.
    #[must_use]
    pub const fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Bytes of each ring.
    #[must_use]
    pub const fn ring_bytes(&self) -> usize {
        8 * self.ring.capacity() as usize
    }

    /// The shape of each ring, but for its epoch.
    pub(super) const fn ring(&self) -> RingSpec {
        self.ring
    }

    /// Parts of a region: two a peer, and the wakes.
    const fn parts(&self) -> u32 {
        2 * (self.partitions - 1) + 1
    }

    /// Bytes that each partition's mesh region must have.
    #[must_use]
    pub const fn region_bytes(&self) -> usize {
        let directory = self.parts() as usize * size_of::<DirectoryEntry>();
        let peers = self.partitions as usize - 1;
        let rings = line(self.ring.producer_bytes()) + line(self.ring.consumer_bytes());
        line(size_of::<RegionHeader>() + directory)
            + self.partitions as usize * WAKE_BYTES
            + peers * rings
    }
}

const fn line(bytes: usize) -> usize {
    bytes.next_multiple_of(LINE_BYTES)
}

/// What a partition is given to take its place in a mesh. Plain values: they may cross to its
/// thread or process.
#[derive(Clone, Copy, Debug)]
pub struct MeshSeat {
    /// The mesh's shape.
    pub shape: MeshShape,
    /// Its number in the mesh, from 0.
    pub index: u32,
    /// Its own region: it is the only writer.
    pub own: Span<'static>,
    /// The others' regions by their numbers; its own place and those beyond the shape are `None`.
    pub peers: [Option<ReadSpan<'static>>; MESH_MAX],
}

/// A name of a part: `to-7`.
pub(super) type PartName = heapless::String<8>;

pub(super) fn ring_name(way: &str, peer: u32) -> PartName {
    use core::fmt::Write as _;
    let mut name = PartName::new();
    // `from-31` is the longest.
    let _ = write!(name, "{way}-{peer}");
    name
}

/// A partition's own parts.
pub(super) struct OwnParts {
    /// By peer: producer's and consumer's part.
    pub(super) rings: [Option<(Span<'static>, Span<'static>)>; MESH_MAX],
    pub(super) wakes: Span<'static>,
}

impl OwnParts {
    /// Lays the region out for a new incarnation. No ring is made yet: peers find them not ready.
    pub(super) fn lay_out(seat: &MeshSeat, facts: RegionFacts) -> Result<Self, MeshError> {
        let shape = &seat.shape;
        let mut writer = RegionWriter::new(seat.own, Writer::Partition, facts, shape.parts())?;
        let bytes = shape.partitions as usize * WAKE_BYTES;
        let wakes = writer.add_part(PartKind::WAKES, WAKES, bytes)?;
        let mut rings = [None; MESH_MAX];
        for (peer, place) in (0..shape.partitions).zip(&mut rings) {
            if peer == seat.index {
                continue;
            }
            let (to, from) = (ring_name("to", peer), ring_name("from", peer));
            let producer = shape.ring.producer_bytes();
            let producer = writer.add_part(PartKind::RING_PRODUCER, &to, producer)?;
            let consumer = shape.ring.consumer_bytes();
            let consumer = writer.add_part(PartKind::RING_CONSUMER, &from, consumer)?;
            // The magic of a part that an earlier incarnation made.
            producer.word64(0)?.store(0);
            consumer.word64(0)?.store(0);
            *place = Some((producer, consumer));
        }
        writer.publish()?;
        Ok(Self { rings, wakes })
    }

    /// The words that wake `peer`.
    pub(super) fn wakes_of(&self, peer: u32) -> Result<Span<'static>, MeshError> {
        Ok(self.wakes.sub(peer as usize * WAKE_BYTES, WAKE_BYTES)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_out_of_bounds_are_refused_with_their_numbers() {
        for partitions in [0, 1, 33, u32::MAX] {
            let error = MeshShape::new(partitions, 4096).unwrap_err();
            assert_eq!(error, MeshError::Partitions { partitions });
        }
        assert_eq!(MeshShape::new(2, 64), Err(MeshError::SmallRing { bytes: 64 }));
        assert!(matches!(MeshShape::new(2, 3000), Err(MeshError::Ring(_))));
    }

    #[test]
    fn the_largest_mesh_fits_its_regions_to_the_byte() {
        for partitions in [2, 3, 32] {
            let shape = MeshShape::new(partitions, 4096).unwrap();
            let bytes = shape.region_bytes();
            let own = hybrid_shm::leak_aligned(bytes, 128);
            let seat = MeshSeat { shape, index: 1, own, peers: [None; MESH_MAX] };
            let parts = OwnParts::lay_out(&seat, RegionFacts::default()).unwrap();
            assert_eq!(parts.rings.iter().flatten().count(), partitions as usize - 1);
            let short = MeshSeat { own: own.sub(0, bytes - 8).unwrap(), ..seat };
            assert!(OwnParts::lay_out(&short, RegionFacts::default()).is_err());
        }
    }
}
