//! From bytes to events in one call: file framing, decoding, books, counts and policy.
//!
//! Called by the partition's feed task with the payload of each chunk, in order. [`Pipeline::feed`]
//! never blocks and allocates nothing; one call does the work of one slice. Callers with their own
//! framing (MoldUDP64, SoupBinTCP) give each [`Frame`] to [`Pipeline::frame`] instead.

mod steps;

pub use steps::{StepClock, Steps};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::book::{Apply, BookMark, BookStorage, Books, Inconsistency, Sink};
use crate::error::{BookError, Fault, FeedError, Position};
use crate::field::Symbol;
use crate::framing::{FileFramer, Frame, FramerMark, OnFrame};
use crate::message::{self, dispatch};

/// What to do with a message that is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Stop with a [`FeedError`] that says where.
    #[default]
    Strict,
    /// Count it, leave the books as they are and go on. Faults of framing, and memory that is too
    /// small, stop the feed all the same.
    Lenient,
}

/// Counts of one run.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Counts {
    /// Messages by their type byte, unknown and refused ones included.
    pub by_kind: [u64; 256],
    /// Messages that were refused (lenient policy), by reason.
    pub refused: Refused,
}

impl Default for Counts {
    fn default() -> Self {
        Self { by_kind: [0; 256], refused: Refused::default() }
    }
}

impl Counts {
    /// All messages.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.by_kind.iter().sum()
    }

    /// Messages of types that the specification lacks.
    #[must_use]
    pub fn unknown(&self) -> u64 {
        let known: u64 = message::KINDS.iter().map(|&kind| self.by_kind[usize::from(kind)]).sum();
        self.messages() - known
    }
}

/// Messages refused, by reason.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Refused {
    /// Length or type are not of a message.
    pub malformed: u64,
    /// Unknown order reference.
    pub unknown_order: u64,
    /// Doubled order reference.
    pub doubled_order: u64,
    /// More shares than are open.
    pub beyond_open: u64,
    /// A locate code that no stock was given.
    pub unknown_locate: u64,
    /// Another stock than the locate code's or the order's, no shares, no side.
    pub contradictory: u64,
}

impl Refused {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.malformed
            + self.unknown_order
            + self.doubled_order
            + self.beyond_open
            + self.unknown_locate
            + self.contradictory
    }

    /// Counts a fault.
    fn note(&mut self, fault: &Fault) {
        let counter = match fault {
            Fault::Frame(_) | Fault::Message(_) => &mut self.malformed,
            Fault::Book(error) => match error {
                BookError::UnknownOrder { .. } => &mut self.unknown_order,
                BookError::DoubledOrder { .. } => &mut self.doubled_order,
                BookError::BeyondOpen { .. } => &mut self.beyond_open,
                BookError::UnknownLocate { .. } => &mut self.unknown_locate,
                BookError::NoShares { .. }
                | BookError::WrongLocate { .. }
                | BookError::WrongStock { .. }
                | BookError::BadSide { .. }
                | BookError::Full { .. } => &mut self.contradictory,
            },
        };
        *counter += 1;
    }
}

/// How a pipeline is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct PipelineConfig<'m> {
    /// What to do with a message that is wrong.
    pub policy: Policy,
    /// Symbols whose books are kept; empty for all.
    pub symbols: &'m [Symbol],
}

/// Where a pipeline stands, beside its books' memory: plain bytes, for a next start.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PipelineMark {
    framer: FramerMark,
    books: BookMark,
    counts: Counts,
}

/// Framing, decoding and books of one feed.
#[derive(Debug)]
pub struct Pipeline<'m> {
    framer: FileFramer,
    handler: Handler<'m>,
}

/// All but the framing, apart so that both can be borrowed.
#[derive(Debug)]
struct Handler<'m> {
    policy: Policy,
    books: Books<'m>,
    counts: Counts,
}

impl<'m> Pipeline<'m> {
    /// A pipeline at the start of a feed, with empty books.
    #[must_use]
    pub fn new(storage: BookStorage<'m>, config: PipelineConfig<'m>) -> Self {
        Self {
            framer: FileFramer::new(),
            handler: Handler {
                policy: config.policy,
                books: Books::new(storage, config.symbols),
                counts: Counts::default(),
            },
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn mark(&self) -> PipelineMark {
        let Self { framer, handler } = self;
        let (framer, books) = (framer.mark(), handler.books.mark());
        PipelineMark { framer, books, counts: handler.counts.clone() }
    }

    /// A pipeline that stands at `mark`, with the books that lie in `storage`. They are not walked:
    /// see [`Books::resume`].
    ///
    /// # Errors
    /// [`Inconsistency`] for a mark that no pipeline leaves.
    pub fn resume(
        storage: BookStorage<'m>,
        config: PipelineConfig<'m>,
        mark: &PipelineMark,
    ) -> Result<Self, Inconsistency> {
        let nowhere = Inconsistency { rule: "framing stands somewhere", locate: 0 };
        let framer = FileFramer::resume(&mark.framer).ok_or(nowhere)?;
        let books = Books::resume(storage, config.symbols, &mark.books)?;
        let (policy, counts) = (config.policy, mark.counts.clone());
        Ok(Self { framer, handler: Handler { policy, books, counts } })
    }

    /// Feeds the next bytes of a file. Slices may be cut anywhere.
    ///
    /// # Errors
    /// A [`FeedError`] with its position ends the feed. The books are as they were before the
    /// message at fault.
    #[inline]
    pub fn feed<S: Sink>(&mut self, slice: &[u8], sink: &mut S) -> Result<(), FeedError> {
        let Self { framer, handler } = self;
        framer.push_to(slice, &mut Feed { handler, sink })
    }

    /// Handles one message that the caller framed.
    ///
    /// # Errors
    /// As [`Self::feed`].
    #[inline]
    pub fn frame<S: Sink>(&mut self, frame: &Frame<'_>, sink: &mut S) -> Result<(), FeedError> {
        self.handler.frame(*frame, sink)
    }

    /// The file is over.
    ///
    /// # Errors
    /// When it ends inside a message or holds none.
    pub fn finish(&self) -> Result<(), FeedError> {
        Ok(self.framer.finish()?)
    }

    /// The books.
    #[must_use]
    pub const fn books(&self) -> &Books<'m> {
        &self.handler.books
    }

    /// The counts.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.handler.counts
    }

    /// Where the next message begins.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.framer.position()
    }

    /// Messages framed so far (by [`Self::feed`]).
    #[must_use]
    pub const fn messages(&self) -> u64 {
        self.framer.messages()
    }

    /// Whether the mark that ends a session was seen.
    #[must_use]
    pub const fn ended(&self) -> bool {
        self.framer.ended()
    }
}

/// A handler and the sink of one call.
struct Feed<'a, 'm, S> {
    handler: &'a mut Handler<'m>,
    sink: &'a mut S,
}

impl<S: Sink> OnFrame<FeedError> for Feed<'_, '_, S> {
    #[inline(always)]
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), FeedError> {
        self.handler.frame(frame, self.sink)
    }
}

impl Handler<'_> {
    #[inline(always)]
    fn frame<S: Sink>(&mut self, frame: Frame<'_>, sink: &mut S) -> Result<(), FeedError> {
        self.count(&frame);
        match dispatch(frame.bytes, &mut Apply { books: &mut self.books, sink }) {
            Ok(()) => Ok(()),
            Err(fault) => self.refuse(frame.length, frame.at, fault),
        }
    }

    #[inline(always)]
    fn count(&mut self, frame: &Frame<'_>) {
        let kind = frame.bytes.first().copied().unwrap_or(0);
        let count = &mut self.counts.by_kind[usize::from(kind)];
        *count = count.wrapping_add(1);
    }

    /// A message is wrong: stop or count.
    #[cold]
    #[inline(never)]
    fn refuse(&mut self, length: u16, at: Position, fault: Fault) -> Result<(), FeedError> {
        let fault = match fault {
            Fault::Message(error) => error.with_length(usize::from(length)).into(),
            other => other,
        };
        let fatal = matches!(&fault, Fault::Book(error) if error.is_fatal());
        if self.policy == Policy::Strict || fatal {
            return Err(FeedError { at, fault });
        }
        self.counts.refused.note(&fault);
        Ok(())
    }
}
