//! State memory: what a partition leaves to its next incarnation.
//!
//! The host gives it (`PartitionSpec::state`), the entry takes it once and keeps its books in the
//! body, in place. A record beside them holds what is small and changes with them: a resume point,
//! counts. [`Seal`] says whether body and record belong together:
//!
//! ```text
//!           open()                       seal(record)
//! sealed n ────────► open: body changes ─────────────► sealed n + 1
//!                      │ death
//!                      ▼
//!                    the next incarnation finds it open, and begins anew
//! ```
//! Not here: what is in the body. Whoever finds it sealed checks it all the same: a seal says that
//! its writer came to an end, not that the writer was right.
//!
//! Invariants:
//! 1. One incarnation at a time maps the memory; the host only holds the file.
//! 2. The seal's word is stored before the first change behind it, and after the last one before
//!    it: the stores of a process that dies are visible up to some point of its program order.

use core::cell::Cell;
use core::sync::atomic::{Ordering, fence};

use hybrid_abi::AbiError;
use hybrid_abi::state_memory::{
    STATE_BODY_AT, STATE_IDENTITY_AT, STATE_OPEN, STATE_RECORD_AT, STATE_RECORD_BYTES,
    STATE_RECORD_WORDS_AT, STATE_SEAL_AT, StateHead,
};
use hybrid_shm::{OutOfBounds, Span, Word32, Word64};
use thiserror::Error;
use zerocopy::IntoBytes;

use super::Partition;
use crate::crc::crc32c;

/// Why a state is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    /// The memory is laid out wrongly: the host's mistake.
    #[error(transparent)]
    Layout(#[from] OutOfBounds),
    /// Its head is none.
    #[error(transparent)]
    Head(#[from] AbiError),
    /// Nothing was sealed: a first start, or a death in the middle of a change.
    #[error("the state is not sealed")]
    Open,
    /// The record is not what was sealed.
    #[error(
        "the record of the state is damaged: crc32c {computed:#010x}, sealed was {sealed:#010x}"
    )]
    Damaged {
        /// What its bytes give.
        computed: u32,
        /// What was sealed.
        sealed: u32,
    },
    /// A record of another kind, or of another length.
    #[error("the state's record is of kind {kind} and {len} bytes, which is another one")]
    Other {
        /// The kind.
        kind: u32,
        /// Its bytes.
        len: u32,
    },
}

/// State memory as it was mapped for this incarnation.
#[derive(Debug)]
pub struct StateMemory {
    head: Span<'static>,
    body: &'static mut [u8],
}

impl StateMemory {
    /// Over a mapping: `head` are its first [`STATE_BODY_AT`] bytes, `body` the rest.
    #[must_use]
    pub const fn new(head: Span<'static>, body: &'static mut [u8]) -> Self {
        Self { head, body }
    }

    /// Bytes of the body.
    #[must_use]
    pub const fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// The seal, and the body: whatever was there last, zeros at first. Writes the head where there
    /// is none.
    ///
    /// # Errors
    /// [`StateError`] for memory of another layout.
    pub fn split(self) -> Result<(Seal, &'static mut [u8]), StateError> {
        let Self { head, body } = self;
        let mut first = [0; size_of::<StateHead>()];
        head.read(0, &mut first)?;
        if first == [0; size_of::<StateHead>()] {
            head.write(0, StateHead::new(body.len() as u64).as_bytes())?;
        } else {
            StateHead::parse(&first, body.len() as u64)?;
        }
        let seal = Seal::new(head)?;
        Ok((seal, body))
    }
}

impl Partition {
    /// Gives it the state memory; called before the entry runs.
    pub fn give_state_memory(&self, memory: StateMemory) {
        self.kept.set(Some(memory));
    }

    /// What earlier incarnations left, if the host gave memory for it: once.
    pub fn take_state_memory(&self) -> Option<StateMemory> {
        self.kept.take()
    }
}

/// Says whether record and body of a state memory belong together. Belongs to one core.
#[derive(Debug)]
pub struct Seal {
    word: Word64<'static>,
    identity: Word64<'static>,
    words: [Word32<'static>; 3],
    record: Span<'static>,
    /// The last number that was sealed with.
    sealed: Cell<u64>,
    is_open: Cell<bool>,
}

impl Seal {
    fn new(head: Span<'static>) -> Result<Self, StateError> {
        head.sub(0, STATE_BODY_AT)?;
        let word = head.word64(STATE_SEAL_AT)?;
        let record_word = |index: usize| head.word32(STATE_RECORD_WORDS_AT + 4 * index);
        Ok(Self {
            identity: head.word64(STATE_IDENTITY_AT)?,
            words: [record_word(0)?, record_word(1)?, record_word(2)?],
            record: head.sub(STATE_RECORD_AT, STATE_RECORD_BYTES)?,
            sealed: Cell::new(word.load()),
            is_open: Cell::new(word.load() == STATE_OPEN),
            word,
        })
    }

    /// What the state is of, in a number of the entry's own; 0 before it was said.
    #[must_use]
    pub fn identity(&self) -> u64 {
        self.identity.load()
    }

    /// Says what the state is of. What was sealed before is not any more.
    pub fn begin(&self, identity: u64) {
        self.open();
        self.identity.store(identity);
    }

    /// Copies the sealed record of this kind and length into `into`.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn read(&self, kind: u32, into: &mut [u8]) -> Result<(), StateError> {
        if self.word.load_acquire() == STATE_OPEN {
            return Err(StateError::Open);
        }
        let [its_kind, len, crc] = self.words.map(|word| word.load());
        if its_kind != kind || len as usize != into.len() {
            return Err(StateError::Other { kind: its_kind, len });
        }
        self.record.read(0, into)?;
        let computed = crc32c(into);
        if computed != crc {
            return Err(StateError::Damaged { computed, sealed: crc });
        }
        Ok(())
    }

    /// From here on body and record may be changed; nothing to do where they may already.
    #[inline]
    pub fn open(&self) {
        if !self.is_open.replace(true) {
            self.word.store(STATE_OPEN);
            // Invariant 2: no later store is seen before this one, nor moved there by the compiler.
            fence(Ordering::SeqCst);
        }
    }

    /// Whether they may be changed.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.is_open.get()
    }

    /// Puts the record beside the body, and seals both.
    ///
    /// # Errors
    /// [`OutOfBounds`] for a record that is longer than there is room; the state stays open then.
    pub fn seal(&self, kind: u32, record: &[u8]) -> Result<(), OutOfBounds> {
        self.open();
        self.record.write(0, record)?;
        let len = u32::try_from(record.len()).unwrap_or(u32::MAX);
        for (word, value) in self.words.iter().zip([kind, len, crc32c(record)]) {
            word.store(value);
        }
        // Invariant 2: everything before is seen before it.
        fence(Ordering::SeqCst);
        let next = self.sealed.get().wrapping_add(1).max(1);
        self.sealed.set(next);
        self.word.store_release(next);
        self.is_open.set(false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hybrid_shm::leak_zeroed;

    /// The state as one more incarnation maps it.
    fn mapped(head: Span<'static>, body_bytes: usize) -> Seal {
        let body = Box::leak(vec![0_u8; body_bytes].into_boxed_slice());
        StateMemory::new(head, body).split().expect("a state").0
    }

    fn state() -> (Span<'static>, Seal) {
        let head = leak_zeroed(STATE_BODY_AT);
        (head, mapped(head, 8192))
    }

    #[test]
    fn what_was_sealed_is_read_by_the_next_one() {
        let (head, seal) = state();
        assert_eq!(seal.read(7, &mut [0; 3]), Err(StateError::Open));
        seal.begin(42);
        seal.seal(7, b"abc").expect("room");
        let next = mapped(head, 8192);
        let mut record = [0; 3];
        assert_eq!((next.read(7, &mut record), next.identity()), (Ok(()), 42));
        assert_eq!(&record, b"abc");
        assert_eq!(next.read(8, &mut record), Err(StateError::Other { kind: 7, len: 3 }));
        assert_eq!(next.read(7, &mut [0; 4]), Err(StateError::Other { kind: 7, len: 3 }));
        next.begin(43);
        assert_eq!(mapped(head, 8192).read(7, &mut record), Err(StateError::Open));
    }

    /// A death at every store of a change, and at every store of the seal that follows.
    #[test]
    fn a_death_in_the_middle_leaves_it_open() {
        let (head, seal) = state();
        seal.begin(1);
        seal.seal(7, b"old").expect("room");
        seal.open();
        assert!(seal.is_open());
        let mut record = [0; 3];
        assert_eq!(mapped(head, 8192).read(7, &mut record), Err(StateError::Open));
        // In the middle of `seal`: the record is new, its words are old.
        seal.record.write(0, b"new").expect("room");
        assert_eq!(mapped(head, 8192).read(7, &mut record), Err(StateError::Open));
        seal.seal(7, b"new").expect("room");
        assert_eq!(mapped(head, 8192).read(7, &mut record), Ok(()));
        assert_eq!(&record, b"new");
    }

    #[test]
    fn numbers_grow_and_a_record_that_is_too_long_stays_open() {
        let (head, seal) = state();
        for number in 1..=3 {
            seal.seal(1, &[0; 8]).expect("room");
            assert_eq!(head.word64(STATE_SEAL_AT).expect("inside").load(), number);
        }
        assert!(seal.seal(1, &[0; STATE_RECORD_BYTES + 1]).is_err());
        assert_eq!(mapped(head, 8192).read(1, &mut [0; 8]), Err(StateError::Open));
    }

    #[test]
    fn damage_and_other_layouts_are_refused() {
        let (head, seal) = state();
        seal.seal(7, b"abc").expect("room");
        head.write(STATE_RECORD_AT, b"x").expect("inside");
        let read = mapped(head, 8192).read(7, &mut [0; 3]);
        assert!(matches!(read, Err(StateError::Damaged { .. })), "{read:?}");
        let body = Box::leak(vec![0_u8; 4096].into_boxed_slice());
        let other = StateMemory::new(head, body).split();
        assert!(matches!(other, Err(StateError::Head(_))), "a body of another length");
    }
}
