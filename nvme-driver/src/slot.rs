//! A command slot: what its next completion must say, who gets the answer, and how old it is.
//!
//! Used by [`crate::queue`] alone. A slot knows nothing of buffers or futures; its token leads to
//! them. The machine is a pure table (`transition`); the hot path takes its two common edges
//! (post, complete) by writing the slot's word, and a test holds both to the same answers.
//!
//! ```text
//!            post                    deadline
//!   Free ------------> InFlight ------------------> Expired
//!    ^                 |   |  ^                     |   |
//!    |    complete     |   |  | repost              |   |
//!    +-----------------+   |  |                     |   |
//!    |                     |  |     hold            |   |
//!    |                     +--+--> Held <-----------+   |
//!    |                      hold    |                   |
//!    +------------------------------+-------------------+
//!                 release, fence, complete
//! ```
//!
//! Units: `epoch` counts eighths of the deadline, wrapping at 256.

use core::cell::Cell;

use crate::cid::NO_CID;

/// End of the free list.
pub(crate) const NO_SLOT: u16 = u16::MAX;

/// The command's posting was stamped: its latency is to be recorded.
pub(crate) const STAMPED: u16 = 1 << 8;
/// The command passed its deadline and an abort was asked for.
pub(crate) const EXPIRED: u16 = 1 << 9;
/// Nothing is in flight, but the slot is kept for a retry.
pub(crate) const HELD: u16 = 1 << 10;
/// The part of the tag that is the epoch of posting.
const EPOCH: u16 = 0xFF;

/// One slot: 16 bytes, four in a cache line. The bookkeeping is one word, so that the hot path
/// loads and stores it once: bits 0-15 the CID that a completion must carry ([`NO_CID`] while
/// nothing is in flight), 16-31 the CID used last, 32-47 the next slot of the free list, 48-63 the
/// tag (epoch of posting and flags).
#[derive(Debug)]
#[repr(C, align(16))]
pub(crate) struct Slot {
    word: Cell<u64>,
    token: Cell<u64>,
}

const _: () = assert!(size_of::<Slot>() == 16);

/// The bookkeeping word of a slot, taken apart.
#[derive(Clone, Copy)]
pub(crate) struct Word(u64);

impl Word {
    #[inline(always)]
    const fn field(self, shift: u32) -> u16 {
        #[expect(clippy::cast_possible_truncation, reason = "16 of the bits are wanted")]
        let field = (self.0 >> shift) as u16;
        field
    }

    /// The CID that a completion must carry.
    #[inline(always)]
    pub(crate) const fn live(self) -> u16 {
        self.field(0)
    }

    /// The CID used last.
    #[inline(always)]
    pub(crate) const fn last(self) -> u16 {
        self.field(16)
    }

    /// Next slot of the free list.
    #[inline(always)]
    pub(crate) const fn next(self) -> u16 {
        self.field(32)
    }

    /// Epoch and flags.
    #[inline(always)]
    pub(crate) const fn tag(self) -> u16 {
        self.field(48)
    }
}

impl Slot {
    pub(crate) const fn new(last: u16, next: u16) -> Self {
        Self {
            word: Cell::new(NO_CID as u64 | (last as u64) << 16 | (next as u64) << 32),
            token: Cell::new(0),
        }
    }

    #[inline(always)]
    pub(crate) fn word(&self) -> Word {
        Word(self.word.get())
    }

    /// What the owner of the command gave; meaningless while the slot is free.
    #[inline(always)]
    pub(crate) fn token(&self) -> u64 {
        self.token.get()
    }

    /// Edge `post` (and `repost`): `cid` is in flight from now.
    #[inline(always)]
    pub(crate) fn post(&self, cid: u16, tag: u16, token: u64) {
        let cid = u64::from(cid);
        self.word.set(cid | cid << 16 | u64::from(tag) << 48);
        self.token.set(token);
    }

    /// Edge `complete`, `release` and `fence`: free, with `next` after it on the free list.
    #[inline(always)]
    pub(crate) fn release(&self, next: u16) {
        let last = self.word.get() & 0xFFFF_0000;
        self.word.set(u64::from(NO_CID) | last | u64::from(next) << 32);
    }

    /// Edge `hold`: nothing in flight, but not free.
    pub(crate) fn hold(&self) {
        let last = self.word.get() & 0xFFFF_0000;
        self.word.set(u64::from(NO_CID) | last | u64::from(HELD) << 48);
    }

    /// Edge `deadline`: the command has expired.
    pub(crate) fn expire(&self) {
        self.word.set(self.word.get() | u64::from(EXPIRED) << 48);
    }

    /// The state that the word spells.
    pub(crate) fn state(&self) -> SlotState {
        let word = self.word();
        if word.live() == NO_CID {
            if word.tag() & HELD == 0 { SlotState::Free } else { SlotState::Held }
        } else if word.tag() & EXPIRED == 0 {
            SlotState::InFlight
        } else {
            SlotState::Expired
        }
    }

    /// Epochs since posting.
    pub(crate) fn age(&self, epoch: u8) -> u8 {
        let posted = (self.word().tag() & EPOCH) as u8;
        epoch.wrapping_sub(posted)
    }
}

/// State of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    /// On the free list.
    Free,
    /// Posted, and its time is not up.
    InFlight,
    /// Posted, its deadline has passed; the device may still be using its buffer.
    Expired,
    /// Answered with an error that is worth another try; waits for its time.
    Held,
}

/// What can happen to a slot.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotEvent {
    /// The owner posts a command in it.
    Post,
    /// A completion carries the expected CID and its owner is done with it.
    Complete,
    /// A completion carries the expected CID and its owner wants to try again later.
    Hold,
    /// A completion names the slot with a CID that it does not expect.
    Stray,
    /// The deadline passes.
    Deadline,
    /// The owner tries again.
    Repost,
    /// The device is known not to touch memory any more (RDY = 0, or the queue's deletion
    /// acknowledged).
    Fence,
}

/// What the queue does about it.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotAction {
    /// Nothing.
    Nothing,
    /// Write the entry.
    Write,
    /// Tell the owner, who frees or keeps the slot.
    Deliver,
    /// Ignore the completion and count it.
    Drop,
    /// Ask the controller to abort it.
    Abort,
    /// Tell the owner that the command is lost, and free the slot.
    Fail,
    /// A bug of ours: refused.
    Refuse,
}

/// The machine: state and event to next state and action. The queue takes these edges in place
/// (`post`, `release`, `hold`, `expire`); the tests hold both to the same answers.
#[cfg(test)]
pub(crate) const fn transition(state: SlotState, event: SlotEvent) -> (SlotState, SlotAction) {
    use {SlotAction as A, SlotEvent as E, SlotState as S};
    match (state, event) {
        (S::Free, E::Post) | (S::Held, E::Repost) => (S::InFlight, A::Write),
        (S::InFlight | S::Expired, E::Complete) => (S::Free, A::Deliver),
        (S::InFlight | S::Expired, E::Hold) => (S::Held, A::Deliver),
        // Nothing is expected: any completion for it is stray.
        (S::Free | S::Held, E::Complete | E::Hold) => (state, A::Drop),
        (_, E::Stray) => (state, A::Drop),
        (S::InFlight, E::Deadline) => (S::Expired, A::Abort),
        (S::Free | S::Held | S::Expired, E::Deadline) => (state, A::Nothing),
        (S::Free, E::Fence) => (S::Free, A::Nothing),
        (S::InFlight | S::Expired | S::Held, E::Fence) => (S::Free, A::Fail),
        (S::InFlight | S::Expired | S::Held, E::Post) => (state, A::Refuse),
        (S::Free | S::InFlight | S::Expired, E::Repost) => (state, A::Refuse),
    }
}

#[cfg(test)]
pub(crate) const STATES: [SlotState; 4] =
    [SlotState::Free, SlotState::InFlight, SlotState::Expired, SlotState::Held];

#[cfg(test)]
mod tests {
    use super::*;
    use {SlotAction as A, SlotEvent as E, SlotState as S};

    const EVENTS: [SlotEvent; 7] =
        [E::Post, E::Complete, E::Hold, E::Stray, E::Deadline, E::Repost, E::Fence];

    #[test]
    fn the_whole_table_is_as_written_down() {
        // Rows: Free, InFlight, Expired, Held; columns as EVENTS.
        let expected = [
            [
                (S::InFlight, A::Write),
                (S::Free, A::Drop),
                (S::Free, A::Drop),
                (S::Free, A::Drop),
                (S::Free, A::Nothing),
                (S::Free, A::Refuse),
                (S::Free, A::Nothing),
            ],
            [
                (S::InFlight, A::Refuse),
                (S::Free, A::Deliver),
                (S::Held, A::Deliver),
                (S::InFlight, A::Drop),
                (S::Expired, A::Abort),
                (S::InFlight, A::Refuse),
                (S::Free, A::Fail),
            ],
            [
                (S::Expired, A::Refuse),
                (S::Free, A::Deliver),
                (S::Held, A::Deliver),
                (S::Expired, A::Drop),
                (S::Expired, A::Nothing),
                (S::Expired, A::Refuse),
                (S::Free, A::Fail),
            ],
            [
                (S::Held, A::Refuse),
                (S::Held, A::Drop),
                (S::Held, A::Drop),
                (S::Held, A::Drop),
                (S::Held, A::Nothing),
                (S::InFlight, A::Write),
                (S::Free, A::Fail),
            ],
        ];
        for (state, row) in STATES.into_iter().zip(expected) {
            for (event, want) in EVENTS.into_iter().zip(row) {
                assert_eq!(transition(state, event), want, "{state:?} on {event:?}");
            }
        }
    }

    #[test]
    fn an_owner_hears_of_each_command_exactly_once() {
        // Any word of five events from Free: deliveries and failures never outnumber writes.
        fn walk(state: SlotState, open: bool, depth: u32) {
            if depth == 0 {
                return;
            }
            for event in EVENTS {
                let (next, action) = transition(state, event);
                let open = match action {
                    A::Write => {
                        assert!(!open, "a second command in {state:?}");
                        true
                    }
                    // A held slot still owes its owner an end.
                    A::Deliver => {
                        assert!(open);
                        false
                    }
                    A::Fail => {
                        assert!(open || state == S::Held);
                        false
                    }
                    _ => open,
                };
                walk(next, open, depth - 1);
            }
        }
        walk(S::Free, false, 6);
    }

    /// Takes an edge on the words, as the queue does.
    fn take(slot: &Slot, event: SlotEvent) {
        match transition(slot.state(), event) {
            (_, A::Write) => slot.post(7, 1, 0),
            (S::Held, A::Deliver) => slot.hold(),
            (S::Free, A::Deliver | A::Fail) => slot.release(NO_SLOT),
            (S::Expired, A::Abort) => slot.expire(),
            (same, A::Nothing | A::Drop | A::Refuse) => assert_eq!(same, slot.state()),
            other => panic!("{other:?}"),
        }
    }

    /// Brings a fresh slot to `state`.
    fn at(state: SlotState) -> Slot {
        let slot = Slot::new(3, NO_SLOT);
        let way: &[SlotEvent] = match state {
            S::Free => &[],
            S::InFlight => &[E::Post],
            S::Expired => &[E::Post, E::Deadline],
            S::Held => &[E::Post, E::Hold],
        };
        way.iter().for_each(|event| take(&slot, *event));
        slot
    }

    #[test]
    fn the_words_follow_the_table_from_every_state() {
        for state in STATES {
            for event in EVENTS {
                let slot = at(state);
                assert_eq!(slot.state(), state);
                take(&slot, event);
                assert_eq!(slot.state(), transition(state, event).0, "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn the_word_keeps_its_fields_apart() {
        let slot = Slot::new(0x1234, 0x5678);
        assert_eq!(slot.word().last(), 0x1234);
        assert_eq!(slot.word().next(), 0x5678);
        assert_eq!(slot.word().live(), NO_CID);
        slot.post(0x0ABC, 7 | STAMPED, 99);
        assert_eq!((slot.word().live(), slot.word().last()), (0x0ABC, 0x0ABC));
        assert_eq!(slot.age(9), 2);
        assert_eq!(slot.age(6), 255);
        slot.expire();
        assert_eq!(slot.age(9), 2, "flags do not disturb the epoch");
        slot.expire();
        assert_eq!(slot.state(), S::Expired, "a second time is once");
        slot.hold();
        assert_eq!((slot.word().live(), slot.word().last()), (NO_CID, 0x0ABC));
        assert_eq!((slot.word().next(), slot.word().tag()), (0, HELD));
        slot.release(5);
        assert_eq!((slot.word().last(), slot.word().next()), (0x0ABC, 5));
        assert_eq!(slot.word().tag(), 0);
        assert_eq!(slot.token(), 99);
    }
}
