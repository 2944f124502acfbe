//! Rings between partitions: every one to every other, each with one producer and one consumer.
//!
//! A partition takes its place by [`Partition::join_mesh`](crate::partition::Partition::join_mesh)
//! with a [`MeshSeat`] that the host made, before its loop runs. From then on its standard loop
//! looks at the peers' wakes when a pass begins and publishes what was sent when it ends. Tasks use
//! [`Mesh::link`] to send and receive, and [`Mesh::router`] to find out who owns a key.
//!
//! Nothing else is shared: memory, device, tasks and state of a partition are its own, and what one
//! wants of another is a record in a ring.
//!
//! **Order.** Records from one partition to another arrive in the order in which their sends
//! completed. A key that is always routed by [`Router`] has one owner, hence each sender's records
//! of that key reach it in that order. Between senders there is none.
//!
//! **Back-pressure.** A full ring refuses ([`Link::try_send`]) or makes the task wait
//! ([`Link::send`]); nothing is dropped. What was in a ring when one of its ends died is lost, and
//! the survivor learns it: its calls say *down*, and [`Link::up`] gives the new incarnation.
//!
//! **Trust.** A peer's region is hostile input: its directory is checked at each link-up, its
//! indices on each read ([`crate::ring`]), its wakes cause spurious wakes at worst.
//!
//! It makes no memory and starts nothing; the host does.

mod layout;
mod link;
pub mod route;

use core::cell::Cell;
use core::fmt;

use hybrid_abi::metrics::MetricUnit;
use hybrid_shm::OutOfBounds;
use thiserror::Error;

use self::layout::OwnParts;
use crate::clock::{Clock, Instant, Ticks};
use crate::mem::{Bump, OutOfMemory};
use crate::metrics::{Counter, Gauge, MetricsError, MetricsWriter};
use crate::region::{RegionError, RegionFacts};
use crate::ring::RingError;
use crate::task::OutgoingWakes;

pub use layout::{MESH_MAX, MeshSeat, MeshShape};
pub use link::{Link, LinkStats, ReceiveError, SendError};
pub use route::Router;

/// How often peers are looked at for being another incarnation: a restart takes milliseconds, and a
/// look at 31 regions some tens of microseconds.
const LOOK_EVERY_NS: u64 = 1_000_000;

/// Metrics of a mesh.
pub(crate) const MESH_METRICS: u32 = 5;

/// Why a partition has no place in a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MeshError {
    /// Too few or too many.
    #[error("a mesh of {partitions} partitions; allowed are 2 to {MESH_MAX}")]
    Partitions {
        /// How many were asked for.
        partitions: u32,
    },
    /// A ring that holds no record of use.
    #[error("a ring of {bytes} bytes between partitions; allowed is a power of two from 128")]
    SmallRing {
        /// Bytes asked for.
        bytes: usize,
    },
    /// A seat that the mesh does not have, or one whose peers are not all there.
    #[error("seat {index} is not one of a mesh of {partitions}, or a peer's region is missing")]
    Seat {
        /// The seat.
        index: u32,
        /// Partitions of the mesh.
        partitions: u32,
    },
    /// The partition sits in a mesh already.
    #[error("the partition has joined a mesh already")]
    Joined,
    /// A region is not what it should be.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// A ring is not what it should be.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A part is too short.
    #[error(transparent)]
    Layout(#[from] OutOfBounds),
    /// The private memory is used up.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// The metrics part is too small.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// A partition's place in a mesh. Core-local:
/// ```compile_fail,E0277
/// fn needs_sync<T: Sync>() {}
/// needs_sync::<core_runtime::mesh::Mesh>();
/// ```
pub struct Mesh {
    index: u32,
    incarnation: u64,
    router: Router,
    links: &'static [Option<Link>],
    look_every: Ticks,
    next_look: Cell<Instant>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Metrics {
    sent: Counter,
    received: Counter,
    full: Counter,
    violations: Counter,
    links_up: Gauge,
}

impl Metrics {
    fn register(writer: &mut MetricsWriter) -> Result<Self, MetricsError> {
        Ok(Self {
            sent: writer.counter("mesh_records_sent", MetricUnit::COUNT)?,
            received: writer.counter("mesh_records_received", MetricUnit::COUNT)?,
            full: writer.counter("mesh_full", MetricUnit::COUNT)?,
            violations: writer.counter("mesh_violations", MetricUnit::COUNT)?,
            links_up: writer.gauge("mesh_links_up", MetricUnit::COUNT)?,
        })
    }
}

impl Mesh {
    /// Lays the partition's own region out and gets ready to link; no peer need be there.
    pub(crate) fn new(
        seat: &MeshSeat,
        facts: RegionFacts,
        clock: &Clock,
        bump: &'static Bump,
        writer: &mut MetricsWriter,
    ) -> Result<&'static Self, MeshError> {
        let (shape, own) = (seat.shape, seat.index);
        let partitions = shape.partitions();
        let no_seat = MeshError::Seat { index: own, partitions };
        if own >= partitions {
            return Err(no_seat);
        }
        let parts = OwnParts::lay_out(seat, facts)?;
        let mut links: heapless::Vec<Option<Link>, MESH_MAX> = heapless::Vec::new();
        for peer in 0..partitions {
            let at = peer as usize;
            let rings = parts.rings.get(at).copied().flatten();
            let region = seat.peers.get(at).copied().flatten();
            let link = match (rings, region) {
                (Some(rings), Some(region)) => {
                    let wakes = OutgoingWakes::resume(parts.wakes_of(peer)?)?;
                    Some(Link::new((own, peer), shape, region, rings, wakes))
                }
                (None, _) => None,
                (Some(_), None) => return Err(no_seat),
            };
            // There is room: a mesh has at most so many.
            let _ = links.push(link);
        }
        let mut links = links.into_iter();
        let links = bump.slice_with(partitions as usize, |_| links.next().flatten())?;
        Ok(bump.alloc(Self {
            index: own,
            incarnation: facts.incarnation,
            router: Router::new(partitions),
            links,
            look_every: clock.ns_to_ticks(LOOK_EVERY_NS),
            next_look: Cell::new(Instant::MIN),
            metrics: Metrics::register(writer)?,
        })?)
    }

    /// This partition's number, from 0.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// How many partitions there are.
    #[must_use]
    pub const fn partitions(&self) -> u32 {
        self.router.partitions()
    }

    /// Who owns which key: the same in every partition of the mesh.
    #[must_use]
    pub const fn router(&self) -> Router {
        self.router
    }

    /// The link to a peer; `None` for this partition itself and beyond the mesh.
    #[inline]
    #[must_use]
    pub fn link(&self, peer: u32) -> Option<&'static Link> {
        self.links.get(peer as usize)?.as_ref()
    }

    /// All links, by the peers' numbers.
    pub fn links(&self) -> impl Iterator<Item = &'static Link> + use<> {
        self.links.iter().flatten()
    }

    /// Waits until every link is up.
    pub async fn all_up(&self) {
        for link in self.links() {
            link.up().await;
        }
    }

    /// A pass begins: takes the peers' wakes, and now and then looks whether one was restarted.
    /// Returns whether anything happened.
    #[inline]
    pub(crate) fn poll(&self, now: Instant) -> bool {
        let mut any = false;
        for link in self.links.iter().flatten() {
            any |= link.poll();
        }
        if now >= self.next_look.get() {
            any |= self.look(now);
        }
        any
    }

    #[cold]
    fn look(&self, now: Instant) -> bool {
        self.next_look.set(now.checked_add(self.look_every).unwrap_or(Instant::MAX));
        let mut any = false;
        for link in self.links.iter().flatten() {
            any |= link.look(self.incarnation);
        }
        any
    }

    /// A pass ends: publishes what was sent, one wake a peer.
    #[inline]
    pub(crate) fn ring(&self) {
        for link in self.links.iter().flatten() {
            link.ring();
        }
    }

    /// Copies the links' counters into the metrics.
    pub(crate) fn publish(&self) {
        let mut sum = LinkStats::default();
        let mut up = 0;
        for link in self.links.iter().flatten() {
            let stats = link.stats();
            sum.sent += stats.sent;
            sum.received += stats.received;
            sum.full += stats.full;
            sum.violations += stats.violations;
            up += u64::from(link.is_up());
        }
        self.metrics.sent.set(sum.sent);
        self.metrics.received.set(sum.received);
        self.metrics.full.set(sum.full);
        self.metrics.violations.set(sum.violations);
        self.metrics.links_up.set(up);
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh")
            .field("index", &self.index)
            .field("links", &self.links)
            .finish_non_exhaustive()
    }
}
