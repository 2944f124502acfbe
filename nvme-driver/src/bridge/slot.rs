//! A request in flight over the bridge.

use core::cell::Cell;
use core::fmt;

use core_runtime::clock::Instant;
use core_runtime::mem::DeviceBuf;
use core_runtime::task::WakeSlot;

use crate::error::IoError;
use crate::latency::Kind;

/// End of a list of slots.
pub(super) const NONE: u16 = u16::MAX;

/// Where a slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// A future waits for it.
    Pending,
    /// Its future was dropped.
    Orphan,
    /// It belongs to a queue that is reaped by hand: the buffer's place and the caller's number.
    Raw(u16, u32),
    /// The same, ended, and the queue has not heard of it.
    RawDone(u16, u32),
    /// Answered.
    Done,
}

/// A slot.
pub(super) struct Slot {
    pub(super) state: Cell<State>,
    pub(super) generation: Cell<u16>,
    /// The next of the free list, or of those that a queue has not reaped yet.
    pub(super) next: Cell<u16>,
    pub(super) buf: Cell<Option<DeviceBuf>>,
    pub(super) result: Cell<Result<(), IoError>>,
    pub(super) wake: WakeSlot,
    /// When it was started, and when the host was asked to cancel it: what had been waited then
    /// towards the deadline, and towards the grace time.
    pub(super) begun: Cell<u64>,
    pub(super) cancelled: Cell<Option<u64>>,
    /// When it was started, if its latency is told.
    pub(super) stamp: Cell<Option<Instant>>,
    pub(super) kind: Cell<Kind>,
    pub(super) slba: Cell<u64>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({:?}, generation {})", self.state.get(), self.generation.get())
    }
}

impl Slot {
    pub(super) fn new(next: u16) -> Self {
        Self {
            state: Cell::new(State::Free),
            generation: Cell::new(0),
            next: Cell::new(next),
            buf: Cell::new(None),
            result: Cell::new(Ok(())),
            wake: WakeSlot::new(),
            begun: Cell::new(0),
            cancelled: Cell::new(None),
            stamp: Cell::new(None),
            kind: Cell::new(Kind::Other),
            slba: Cell::new(0),
        }
    }

    /// Whether the host has it.
    #[inline(always)]
    pub(super) fn in_flight(&self) -> bool {
        matches!(self.state.get(), State::Pending | State::Orphan | State::Raw(..))
    }
}

/// The name of slot `index` in its present use.
#[inline(always)]
pub(super) const fn cid(index: u16, generation: u16) -> u32 {
    index as u32 | (generation as u32) << 16
}

/// Slot and generation of a name.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the halves of the word")]
pub(super) const fn uncid(cid: u32) -> (u16, u16) {
    (cid as u16, (cid >> 16) as u16)
}
