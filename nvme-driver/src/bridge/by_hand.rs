//! What a bridge knows of the queue that is used by hand: who holds it, and what it has not heard
//! of yet. The queue itself, with its buffers, is [`super::queue`].
//!
//! ```text
//!          take             give_back, all told
//!   Free --------> Taken -------------------------> Free
//!                    |                                ^
//!                    | give_back                      |
//!                    v            the last request    |
//!                 Dropped ----------------------------+
//! ```
//!
//! Invariants:
//! 1. There is one holder at a time, and each request in state `Raw` was begun by the last one: the
//!    place that it names is the holder's, or nobody's.
//! 2. A request that ends is told to the holder once, in order; if it was dropped, to nobody. It
//!    ends once, since what has ended and was not told is `RawDone`, which is not in flight.

use core::cell::Cell;

use super::QueueRefused;
use super::slot::{NONE, Slot};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Free,
    Taken,
    Dropped,
}

/// The queue that is used by hand, as the bridge sees it.
#[derive(Debug)]
pub(super) struct ByHand {
    holder: Cell<Holder>,
    /// Requests in flight, and those that the holder has not heard of.
    unfinished: Cell<u32>,
    /// Slots that ended and that the holder has not heard of, first and last.
    ended: Cell<(u16, u16)>,
}

impl ByHand {
    pub(super) const fn new() -> Self {
        Self {
            holder: Cell::new(Holder::Free),
            unfinished: Cell::new(0),
            ended: Cell::new((NONE, NONE)),
        }
    }

    // ---- the holder's side -----------------------------------------------------------------

    /// Whether it may be taken.
    pub(super) fn check_free(&self) -> Result<(), QueueRefused> {
        match self.holder.get() {
            Holder::Free => Ok(()),
            Holder::Taken => Err(QueueRefused::Taken),
            Holder::Dropped => Err(QueueRefused::InFlight(self.unfinished.get())),
        }
    }

    /// It has a holder from now on; it was free.
    pub(super) fn take(&self) {
        self.holder.set(Holder::Taken);
    }

    /// The holder is dropped, and has heard of all that ended.
    pub(super) fn give_back(&self) {
        let idle = self.unfinished.get() == 0;
        self.holder.set(if idle { Holder::Free } else { Holder::Dropped });
    }

    pub(super) fn unfinished(&self) -> u32 {
        self.unfinished.get()
    }

    /// A request of the holder was sent.
    #[inline]
    pub(super) fn begun(&self) {
        self.unfinished.set(self.unfinished.get() + 1);
    }

    // ---- the bridge's side -----------------------------------------------------------------

    /// Slot `index`, which the queue began, has ended. Returns whether it waits for the holder to
    /// hear of it; else nobody will.
    pub(super) fn ended(&self, slots: &[Slot], index: u16, slot: &Slot) -> bool {
        if self.holder.get() == Holder::Dropped {
            self.told();
            if self.unfinished.get() == 0 {
                self.holder.set(Holder::Free);
            }
            return false;
        }
        slot.next.set(NONE);
        let (first, last) = self.ended.get();
        match slots.get(usize::from(last)) {
            Some(tail) => {
                tail.next.set(index);
                self.ended.set((first, index));
            }
            None => self.ended.set((index, index)),
        }
        true
    }

    /// The first slot that the holder has not heard of: it does now.
    pub(super) fn pop<'a>(&self, slots: &'a [Slot]) -> Option<(u16, &'a Slot)> {
        let (first, last) = self.ended.get();
        let slot = slots.get(usize::from(first))?;
        let next = slot.next.get();
        self.ended.set((next, if next == NONE { NONE } else { last }));
        self.told();
        Some((first, slot))
    }

    /// One that was begun is over.
    fn told(&self) {
        self.unfinished.set(self.unfinished.get() - 1);
    }
}
