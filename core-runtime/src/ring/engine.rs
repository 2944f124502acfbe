//! The two ends of a ring of slots, over any cells.
//!
//! Called by users through the aliases [`super::Producer`] and [`super::Consumer`], and by
//! [`super::records`], which lays records of any length over slots of one word. Nothing here
//! blocks, and every call does bounded work.
//!
//! Each end keeps a private copy of its own index and never reads it back. It looks at the peer
//! only when it has no room, or nothing ready, by what it saw before; then each of the peer's words
//! is loaded once and checked by [`super::index`]. A violation closes the end.

use core::cell::Cell;

use hybrid_abi::ring::{STATE_CLOSED, STATE_OPEN, STATE_VIOLATION};

use super::cell::{OwnEnd, PeerEnd, Put, Take};
use super::error::{Closed, PopError, PushError};
use super::index::{ConsumerIndex, Index, ProducerIndex, Refused};

/// The producer's end. One owner: it may move to another thread, and not be shared.
#[derive(Debug)]
pub struct Sender<O: OwnEnd, P> {
    pub(super) index: ProducerIndex<O::Index>,
    pub(super) own: O,
    peer: P,
    /// The index in 64 bits when the peer was last looked at.
    base: Cell<u64>,
    dropped: Cell<u64>,
    closed: Cell<Option<Closed>>,
}

impl<I, O, P> Sender<O, P>
where
    I: Index,
    O: Put<Index = I>,
    P: PeerEnd<Index = I>,
{
    /// The end of an empty ring of `capacity` slots whose indices begin at `first`.
    ///
    /// The capacity is a power of two of at most half the index's range, and `own` has as many.
    pub fn over(own: O, peer: P, capacity: I, first: I) -> Self {
        Self {
            index: ProducerIndex::new(capacity, first),
            own,
            peer,
            base: Cell::new(first.to_u32().into()),
            dropped: Cell::new(0),
            closed: Cell::new(None),
        }
    }

    /// Pushes one item. What does not fit is counted as dropped; the policy is the caller's.
    ///
    /// # Errors
    /// [`PushError::Full`] or [`PushError::Closed`].
    #[inline]
    pub fn try_push(&self, item: &O::Item) -> Result<(), PushError> {
        let tail = self.index.tail();
        if !self.index.has_room(tail, I::ONE) {
            self.make_room(tail, I::ONE).inspect_err(|error| self.count_refused(*error))?;
        }
        let next = tail.plus(I::ONE);
        self.index.advance(next);
        // A copy, whose address stays in a register over the stores.
        let own = self.own;
        own.put(tail, item);
        own.publish(next);
        Ok(())
    }

    /// Pushes items from the start of `items` until the ring is full, and publishes them at once.
    ///
    /// Gives the number of items that were taken; the rest is not counted as dropped.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn push_batch(&self, items: &[O::Item]) -> Result<usize, Closed> {
        let own = self.own;
        let tail = self.index.tail();
        let mut next = tail;
        let mut left = items;
        while !left.is_empty() {
            if !self.index.has_room(next, I::ONE) {
                match self.make_room(next, I::ONE) {
                    Ok(()) => {}
                    Err(PushError::Closed(closed)) => return Err(closed),
                    Err(_) => break,
                }
            }
            let room = self.index.room(next).to_u32() as usize;
            let (fitting, rest) = left.split_at(room.min(left.len()));
            for item in fitting {
                own.put(next, item);
                next = next.plus(I::ONE);
            }
            left = rest;
        }
        if next != tail {
            self.publish(next);
        }
        Ok(items.len() - left.len())
    }

    /// Whether `slots` slots are free now; asks the peer if need be, and counts nothing.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn has_room(&self, slots: u32) -> Result<bool, Closed> {
        if slots > self.capacity() {
            return Ok(false);
        }
        let (tail, slots) = (self.index.tail(), I::from_u32(slots));
        if self.index.has_room(tail, slots) {
            return Ok(true);
        }
        match self.make_room(tail, slots) {
            Ok(()) => Ok(true),
            Err(PushError::Closed(closed)) => Err(closed),
            Err(_) => Ok(false),
        }
    }

    /// Slots of the ring.
    pub fn capacity(&self) -> u32 {
        self.index.capacity().to_u32()
    }

    /// Slots in use, as far as this end has seen: never less than there are.
    pub fn depth(&self) -> u32 {
        self.index.depth().to_u32()
    }

    /// Most slots that were seen in use at once. There may have been more by an eighth of the
    /// capacity, or by 32; a ring that refused was seen full.
    pub fn high_water(&self) -> u32 {
        self.index.high_water().to_u32()
    }

    /// Items that were refused because the ring was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Why the end is closed, if it is.
    pub fn closed(&self) -> Option<Closed> {
        self.closed.get()
    }

    /// Says that nothing more will come. What was pushed can still be popped.
    pub fn close(&self) {
        if self.closed.get().is_none() {
            self.shut(Closed::Here);
        }
    }

    /// Publishes the slots before `to`.
    #[inline(always)]
    pub(super) fn publish(&self, to: I) {
        self.index.advance(to);
        self.own.publish(to);
    }

    #[cold]
    #[inline(never)]
    pub(super) fn count_refused(&self, error: PushError) {
        if error == PushError::Full {
            self.dropped.set(self.dropped.get().wrapping_add(1));
            self.tell();
        }
    }

    /// Looks at the peer: whether `slots` slots from index `from` on are free.
    #[cold]
    #[inline(never)]
    pub(super) fn make_room(&self, from: I, slots: I) -> Result<(), PushError> {
        if let Some(closed) = self.closed.get() {
            return Err(PushError::Closed(closed));
        }
        let state = self.peer.state();
        match self.index.refresh(self.peer.index(), from, slots) {
            Err(Refused::Violation(violation)) => {
                let closed = Closed::Index(violation);
                self.shut(closed);
                Err(PushError::Closed(closed))
            }
            _ if state != STATE_OPEN => {
                self.shut(Closed::ByPeer);
                Err(PushError::Closed(Closed::ByPeer))
            }
            Err(Refused::Full) => Err(PushError::Full),
            Ok(()) => {
                self.tell();
                Ok(())
            }
        }
    }

    fn shut(&self, closed: Closed) {
        self.closed.set(Some(closed));
        self.index.shut();
        self.tell();
        let (state, violation) = state_of(closed);
        self.own.tell_state(state, violation);
    }

    fn tell(&self) {
        let base = self.base.get();
        #[expect(clippy::cast_possible_truncation, reason = "the index is the count's low bits")]
        let gone = self.index.tail().since(I::from_u32(base as u32));
        self.base.set(base.wrapping_add(gone.to_u32().into()));
        self.own.tell_counters(self.base.get(), self.dropped.get(), self.high_water());
    }
}

/// The consumer's end. One owner: it may move to another thread, and not be shared.
#[derive(Debug)]
pub struct Receiver<O: OwnEnd, P> {
    pub(super) index: ConsumerIndex<O::Index>,
    pub(super) own: O,
    pub(super) peer: P,
    skipped: Cell<u64>,
    closed: Cell<Option<Closed>>,
}

impl<I, O, P> Receiver<O, P>
where
    I: Index,
    O: OwnEnd<Index = I>,
    P: Take<Index = I>,
{
    /// The end of an empty ring of `capacity` slots whose indices begin at `first`.
    ///
    /// The capacity is a power of two of at most half the index's range, and `peer` has as many.
    pub fn over(own: O, peer: P, capacity: I, first: I) -> Self {
        Self {
            index: ConsumerIndex::new(capacity, first),
            own,
            peer,
            skipped: Cell::new(0),
            closed: Cell::new(None),
        }
    }

    /// Pops one item.
    ///
    /// # Errors
    /// [`PopError::Empty`] or [`PopError::Closed`].
    #[inline]
    pub fn pop(&self) -> Result<P::Item, PopError> {
        let head = self.index.head();
        // A copy, whose address stays in a register over the stores.
        let peer = self.peer;
        if !self.index.is_ready(head) && !self.index.refresh_usual(head, peer.index()) {
            self.look()?;
        }
        let item = peer.take(head);
        self.release(head.plus(I::ONE));
        Ok(item)
    }

    /// Pops at most `most` items, gives each to `each`, and frees their slots at once.
    ///
    /// Gives the number of items; looks at the peer once at most. `each` may pop and close: an item
    /// is taken before it is given, and a closed end gives no room back.
    ///
    /// # Errors
    /// [`Closed`] if nothing was left.
    pub fn pop_batch(&self, most: u32, mut each: impl FnMut(P::Item)) -> Result<u32, Closed> {
        // Nothing is ready at an end that is closed.
        if self.index.ready().to_u32() < most
            && let Err(PopError::Closed(closed)) = self.look()
        {
            return Err(closed);
        }
        let most = self.index.ready().to_u32().min(most);
        let mut count = 0;
        let peer = self.peer;
        while count < most {
            let head = self.index.head();
            if !self.index.is_ready(head) {
                break;
            }
            let item = peer.take(head);
            self.index.advance(head.plus(I::ONE));
            count += 1;
            each(item);
        }
        if count != 0 {
            self.release_taken();
        }
        Ok(count)
    }

    /// Slots of the ring.
    pub fn capacity(&self) -> u32 {
        self.index.capacity().to_u32()
    }

    /// Slots that wait, as far as this end has seen: never more than there are.
    pub fn ready(&self) -> u32 {
        self.index.ready().to_u32()
    }

    /// Most slots that were found waiting at once.
    pub fn high_water(&self) -> u32 {
        self.index.high_water().to_u32()
    }

    /// Records that were longer than the buffer for them.
    pub fn skipped(&self) -> u64 {
        self.skipped.get()
    }

    /// Why the end is closed, if it is.
    pub fn closed(&self) -> Option<Closed> {
        self.closed.get()
    }

    /// Says that nothing more will be popped.
    pub fn close(&self) {
        if self.closed.get().is_none() {
            self.shut(Closed::Here);
        }
    }

    /// Gives the slots before `to` back to the producer.
    #[inline(always)]
    pub(super) fn release(&self, to: I) {
        self.index.advance(to);
        self.own.publish(to);
    }

    /// Gives back what was taken up to the head, unless the end was closed meanwhile: then what it
    /// published stands.
    #[inline]
    pub(super) fn release_taken(&self) {
        if self.closed.get().is_none() {
            self.own.publish(self.index.head());
        }
    }

    pub(super) fn count_skipped(&self) {
        self.skipped.set(self.skipped.get().wrapping_add(1));
        self.tell();
    }

    /// Looks at the peer: whether anything is ready.
    #[cold]
    #[inline(never)]
    pub(super) fn look(&self) -> Result<(), PopError> {
        if let Some(closed) = self.closed.get() {
            return Err(PopError::Closed(closed));
        }
        // The state first: whoever closes has published its last index before.
        let state = self.peer.state();
        if let Err(violation) = self.index.refresh(self.peer.index()) {
            let closed = Closed::Index(violation);
            self.shut(closed);
            return Err(PopError::Closed(closed));
        }
        if self.index.ready() != I::ZERO {
            self.tell();
            return Ok(());
        }
        if state != STATE_OPEN {
            self.shut(Closed::ByPeer);
            return Err(PopError::Closed(Closed::ByPeer));
        }
        Err(PopError::Empty)
    }

    pub(super) fn shut(&self, closed: Closed) {
        self.closed.set(Some(closed));
        self.index.shut();
        self.tell();
        let (state, violation) = state_of(closed);
        self.own.tell_state(state, violation);
    }

    fn tell(&self) {
        self.own.tell_counters(0, self.skipped.get(), self.high_water());
    }
}

/// The state to publish for a closed end, and the index that broke the rules.
fn state_of(closed: Closed) -> (u32, u32) {
    match closed {
        Closed::Here | Closed::ByPeer => (STATE_CLOSED, 0),
        Closed::Index(violation) => (STATE_VIOLATION, violation.seen),
        Closed::Record { words, .. } => (STATE_VIOLATION, words),
    }
}
