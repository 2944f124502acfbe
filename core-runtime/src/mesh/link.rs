//! The two rings between this partition and one peer, and how they come up and go down.
//!
//! ```text
//!            Mesh::poll: both sides made their parts for the same epoch
//!   down ------------------------------------------------------------> up
//!    ^                                                                  |
//!    | the peer's incarnation changed; a ring's rules were broken       |
//!    +------------------------------------------------------------------+
//! ```
//! A link's epoch holds both sides' incarnations. Whoever sees a new incarnation of the other drops
//! its ends, makes its own parts again for the new epoch, and opens them once the other has done
//! the same: so nothing of an earlier incarnation is ever read. A peer that breaks a ring's rules
//! is not talked to again until it was restarted.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::Future;

use hybrid_abi::RecordHeader;
use hybrid_abi::region::{PartKind, RegionHeader};
use hybrid_shm::{ReadSpan, Span};
use thiserror::Error;

use super::layout::{MeshShape, WAKE_BYTES, WAKES, ring_name};
use crate::region::RegionReader;
use crate::ring::{Closed, PopError, PushError, RecordConsumer, RecordProducer, RingError};
use crate::task::{OutgoingWakes, RemoteLines, WaitQueue};

/// Line of a peer's wakes: records were published.
const LINE_RECORDS: usize = 0;
/// Line of a peer's wakes: records were taken, there is room.
const LINE_ROOM: usize = 1;
/// The first line that is the application's.
const LINE_FIRST_FREE: usize = 2;

/// Where a region's header tells the incarnation.
const INCARNATION_AT: usize = core::mem::offset_of!(RegionHeader, incarnation);

/// Why a record was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// No room now, or others wait for it already.
    #[error("the ring to partition {peer} is full")]
    Full {
        /// The peer's number.
        peer: u32,
    },
    /// It can never be sent.
    #[error("a record of {len} bytes does not fit the ring, which takes up to {allowed}")]
    TooLong {
        /// Bytes of the payload.
        len: usize,
        /// Bytes allowed.
        allowed: usize,
    },
    /// The peer is not there, or is not to be talked to.
    #[error("the link to partition {peer} is down")]
    Down {
        /// The peer's number.
        peer: u32,
    },
}

/// Why nothing was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReceiveError {
    /// Nothing is there.
    #[error("the ring from partition {peer} is empty")]
    Empty {
        /// The peer's number.
        peer: u32,
    },
    /// A record longer than the buffer was skipped.
    #[error("a record of {len} bytes was skipped, the buffer has {buffer}")]
    TooLong {
        /// Bytes of the payload.
        len: usize,
        /// Bytes of the buffer.
        buffer: usize,
    },
    /// The peer is not there, or is not to be talked to.
    #[error("the link to partition {peer} is down")]
    Down {
        /// The peer's number.
        peer: u32,
    },
}

/// What a link has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Records sent.
    pub sent: u64,
    /// Records received.
    pub received: u64,
    /// Times that no room was found.
    pub full: u64,
    /// Times the link came up.
    pub ups: u64,
    /// Times the peer broke the rules.
    pub violations: u64,
}

/// Both open ends.
struct Ends {
    to: RecordProducer,
    from: RecordConsumer,
}

/// One peer. Core-local.
pub struct Link {
    own: u32,
    peer: u32,
    shape: MeshShape,
    region: ReadSpan<'static>,
    parts: (Span<'static>, Span<'static>),
    ends: RefCell<Option<Ends>>,
    /// The epoch for which our parts were made; 0 before.
    made_for: Cell<u64>,
    /// The peer's incarnation when we last looked closely.
    seen: Cell<u64>,
    broken: Cell<Option<Closed>>,
    wakes: OutgoingWakes,
    lines: RemoteLines,
    to_publish: Cell<bool>,
    was_read: Cell<bool>,
    senders: WaitQueue,
    receivers: WaitQueue,
    waiting_for_link: WaitQueue,
    stats: Cell<LinkStats>,
}

impl Link {
    pub(super) fn new(
        (own, peer): (u32, u32),
        shape: MeshShape,
        region: ReadSpan<'static>,
        parts: (Span<'static>, Span<'static>),
        wakes: OutgoingWakes,
    ) -> Self {
        Self {
            own,
            peer,
            shape,
            region,
            parts,
            ends: RefCell::new(None),
            made_for: Cell::new(0),
            seen: Cell::new(0),
            broken: Cell::new(None),
            wakes,
            lines: RemoteLines::unbound(),
            to_publish: Cell::new(false),
            was_read: Cell::new(false),
            senders: WaitQueue::new(),
            receivers: WaitQueue::new(),
            waiting_for_link: WaitQueue::new(),
            stats: Cell::new(LinkStats::default()),
        }
    }

    /// The peer's number in the mesh.
    #[must_use]
    pub const fn peer(&self) -> u32 {
        self.peer
    }

    /// Whether records can go both ways.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.ends.borrow().is_some()
    }

    /// The peer's incarnation, while the link is up.
    #[must_use]
    pub fn peer_incarnation(&self) -> Option<u32> {
        let (high, low) = halves(self.made_for.get());
        self.is_up().then_some(if self.own < self.peer { low } else { high })
    }

    /// How the peer broke a ring's rules, if it did in this incarnation of it.
    #[must_use]
    pub const fn broken(&self) -> Option<Closed> {
        self.broken.get()
    }

    /// Counters.
    #[must_use]
    pub const fn stats(&self) -> LinkStats {
        self.stats.get()
    }

    /// Waits until the link is up; gives the peer's incarnation.
    pub fn up(&self) -> impl Future<Output = u32> + '_ {
        self.waiting_for_link.wait_until(|| {
            let up = self.peer_incarnation();
            if up.is_some() {
                // Everyone may go on: each waiter wakes the next.
                self.waiting_for_link.wake_one();
            }
            up
        })
    }

    /// Sends a record, unless there is no room or somebody waits for it already. The peer sees it
    /// at the end of this pass, together with all others of the pass.
    ///
    /// # Errors
    /// [`SendError`].
    #[inline]
    pub fn try_send(&self, kind: u16, tag: u32, payload: &[u8]) -> Result<(), SendError> {
        if !self.senders.is_empty() {
            return Err(self.full());
        }
        self.send_now(kind, tag, payload)
    }

    /// Sends a record, waiting for room; those who wait are served in their order.
    ///
    /// # Errors
    /// [`SendError::Down`] once the link is down, and [`SendError::TooLong`].
    pub fn send<'a>(
        &'a self,
        kind: u16,
        tag: u32,
        payload: &'a [u8],
    ) -> impl Future<Output = Result<(), SendError>> + 'a {
        self.senders.wait_until(move || {
            let sent = match self.send_now(kind, tag, payload) {
                Err(SendError::Full { .. }) => return None,
                sent => sent,
            };
            // Where there was room for one there may be more; who finds none waits on, as first.
            self.senders.wake_one();
            Some(sent)
        })
    }

    #[inline]
    fn send_now(&self, kind: u16, tag: u32, payload: &[u8]) -> Result<(), SendError> {
        let staged = match &*self.ends.borrow() {
            Some(ends) => ends.to.stage(kind, tag, payload),
            None => return Err(SendError::Down { peer: self.peer }),
        };
        match staged {
            Ok(()) => {
                self.to_publish.set(true);
                self.count(|stats| stats.sent += 1);
                Ok(())
            }
            Err(PushError::Full) => Err(self.full()),
            Err(PushError::TooLong { len, allowed }) => Err(SendError::TooLong { len, allowed }),
            Err(PushError::Closed(closed)) => {
                self.fail(closed);
                Err(SendError::Down { peer: self.peer })
            }
        }
    }

    fn full(&self) -> SendError {
        self.count(|stats| stats.full += 1);
        SendError::Full { peer: self.peer }
    }

    /// Takes the next record: its header, and its payload at the start of `buffer`.
    ///
    /// # Errors
    /// [`ReceiveError`].
    #[inline]
    pub fn try_receive(&self, buffer: &mut [u8]) -> Result<RecordHeader, ReceiveError> {
        let read = match &*self.ends.borrow() {
            Some(ends) => ends.from.read(buffer),
            None => return Err(ReceiveError::Down { peer: self.peer }),
        };
        match read {
            Ok(header) => {
                self.was_read.set(true);
                self.count(|stats| stats.received += 1);
                Ok(header)
            }
            Err(PopError::Empty) => Err(ReceiveError::Empty { peer: self.peer }),
            Err(PopError::TooLong { len, buffer }) => {
                self.was_read.set(true);
                Err(ReceiveError::TooLong { len, buffer })
            }
            Err(PopError::Closed(closed)) => {
                self.fail(closed);
                Err(ReceiveError::Down { peer: self.peer })
            }
        }
    }

    /// Waits for the next record.
    ///
    /// # Errors
    /// [`ReceiveError::Down`] once the link is down, and [`ReceiveError::TooLong`].
    pub fn receive<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> impl Future<Output = Result<RecordHeader, ReceiveError>> + 'a {
        self.receivers.wait_until(move || match self.try_receive(buffer) {
            Err(ReceiveError::Empty { .. }) => None,
            received => {
                self.receivers.wake_one();
                Some(received)
            }
        })
    }

    /// Wakes who waits for `signal` at the peer, at the end of this pass. Signals are the
    /// application's, 0 to 29; several of one kind in a pass arrive as one with their number.
    /// Returns false for a signal that does not exist.
    pub fn signal(&self, signal: usize) -> bool {
        self.wakes.count(signal.saturating_add(LINE_FIRST_FREE))
    }

    /// Waits until the peer sent `signal`; gives how often since the last time.
    pub fn signalled(&'static self, signal: usize) -> impl Future<Output = u32> {
        self.lines.woken(signal.saturating_add(LINE_FIRST_FREE))
    }

    // ---- called by the mesh ------------------------------------------------------------------

    /// Looks at the peer's wakes; returns whether there were some.
    #[inline]
    pub(super) fn poll(&self) -> bool {
        if self.lines.poll() == 0 {
            return false;
        }
        if self.lines.take(LINE_RECORDS) != 0 {
            self.receivers.wake_one();
        }
        if self.lines.take(LINE_ROOM) != 0 {
            self.senders.wake_one();
        }
        true
    }

    /// Publishes what was sent in this pass, and wakes the peer once.
    #[inline]
    pub(super) fn ring(&self) {
        if self.to_publish.replace(false) {
            if let Some(ends) = &*self.ends.borrow() {
                ends.to.publish();
            }
            self.wakes.count(LINE_RECORDS);
        }
        if self.was_read.replace(false) {
            self.wakes.count(LINE_ROOM);
        }
        self.wakes.publish();
    }

    /// Looks whether the peer is another one than before, or has become ready. Bounded; returns
    /// whether the link came up or went down.
    pub(super) fn look(&self, own_incarnation: u64) -> bool {
        let settled = self.is_up() || self.broken.get().is_some();
        // Mostly that is all: one word of a line that is written once an incarnation.
        if settled && self.region.load64(INCARNATION_AT) == Ok(self.seen.get()) {
            return false;
        }
        // A peer that has published nothing yet, or is at it, is not there.
        let Ok(peer) = RegionReader::new(self.region) else { return false };
        let incarnation = peer.header().incarnation;
        self.seen.set(incarnation);
        let epoch = self.epoch(own_incarnation, incarnation);
        if self.made_for.get() != epoch {
            let was_up = self.ends.take().is_some();
            self.broken.set(None);
            if self.make(epoch).is_ok() {
                self.made_for.set(epoch);
            }
            if was_up {
                self.wake_all();
                return true;
            }
        } else if settled {
            return false;
        }
        match self.open(&peer, epoch) {
            Ok(ends) => {
                *self.ends.borrow_mut() = Some(ends);
                self.count(|stats| stats.ups += 1);
                self.wake_all();
                true
            }
            // Not ready, or ready for somebody else: it will be seen. What it says wrongly it may
            // say rightly later.
            Err(_) => false,
        }
    }

    /// Both incarnations, the lower-numbered partition's in the high half: the same on both sides.
    const fn epoch(&self, own_incarnation: u64, peer_incarnation: u64) -> u64 {
        const LOW: u64 = u32::MAX as u64;
        let (own, peer) = (own_incarnation & LOW, peer_incarnation & LOW);
        if self.own < self.peer { own << 32 | peer } else { peer << 32 | own }
    }

    /// Makes our parts of both rings.
    fn make(&self, epoch: u64) -> Result<(), RingError> {
        let spec = self.shape.ring().with_epoch(epoch);
        self.to_publish.set(false);
        spec.make_producer_part(self.parts.0)?;
        spec.make_consumer_part(self.parts.1)
    }

    fn open(&self, peer: &RegionReader, epoch: u64) -> Result<Ends, super::MeshError> {
        let spec = self.shape.ring().with_epoch(epoch);
        let from = peer.part(PartKind::RING_PRODUCER, &ring_name("to", self.own))?;
        let to = peer.part(PartKind::RING_CONSUMER, &ring_name("from", self.own))?;
        let wakes = peer.part(PartKind::WAKES, WAKES)?;
        let wakes = wakes.sub(self.own as usize * WAKE_BYTES, WAKE_BYTES)?;
        let ends = Ends {
            to: RecordProducer::new(self.parts.0, to, spec)?,
            from: RecordConsumer::new(self.parts.1, from, spec)?,
        };
        self.lines.bind(wakes)?;
        Ok(ends)
    }

    /// The peer broke a ring's rules.
    #[cold]
    fn fail(&self, closed: Closed) {
        if self.ends.take().is_some() {
            self.broken.set(Some(closed));
            self.count(|stats| stats.violations += 1);
            self.wake_all();
        }
    }

    /// Each waiter looks again and passes the wake on.
    fn wake_all(&self) {
        self.senders.wake_all();
        self.receivers.wake_all();
        self.waiting_for_link.wake_all();
    }

    #[inline]
    fn count(&self, change: impl FnOnce(&mut LinkStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the halves of the word")]
const fn halves(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("peer", &self.peer)
            .field("up", &self.is_up())
            .field("stats", &self.stats.get())
            .finish_non_exhaustive()
    }
}
