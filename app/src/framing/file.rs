//! File framing: each message after its length, a length of zero at the end of the session.
//!
//! Called by [`crate::pipeline::Pipeline`] with the payloads of consecutive chunks. A feed without
//! the end mark is whole too (captures often lack it); bytes after the mark are not.

use super::{Call, Frame, OnFrame, OnPiece, Piece, PrefixStream};
use crate::error::{FrameError, FrameFault, Position};
use crate::message;

/// Splits a file, cut into slices anywhere, into messages.
///
/// An error ends the feed: what is fed after one is undefined, though harmless.
#[derive(Clone, Debug)]
pub struct FileFramer {
    pub(super) stream: PrefixStream,
    /// Where the mark stands, once seen.
    pub(super) end: Option<Position>,
}

impl Default for FileFramer {
    fn default() -> Self {
        Self::new()
    }
}

impl FileFramer {
    /// A framer at the start of a feed.
    #[must_use]
    pub const fn new() -> Self {
        Self { stream: PrefixStream::new(), end: None }
    }

    /// Feeds the next bytes of the feed and calls `visit` for each message that is now whole.
    ///
    /// # Errors
    /// [`FrameError::NotItch`] when the first message is of no known type and length,
    /// [`FrameError::AfterEnd`], and what `visit` fails with.
    #[inline]
    pub fn push<E: From<FrameFault>>(
        &mut self,
        slice: &[u8],
        visit: impl FnMut(Frame<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.push_to(slice, &mut Call(visit))
    }

    /// As [`Self::push`], with a type instead of a closure, for the hot path.
    ///
    /// # Errors
    /// As [`Self::push`].
    #[inline(always)]
    pub fn push_to<E: From<FrameFault>>(
        &mut self,
        slice: &[u8],
        visit: &mut impl OnFrame<E>,
    ) -> Result<(), E> {
        let mut rest = slice;
        if self.stream.number == 0 && self.end.is_none() {
            let used = self.push_first(slice, visit)?;
            rest = rest.get(used..).unwrap_or(&[]);
        }
        if self.end.is_some() {
            return Ok(self.check_after_end(rest)?);
        }
        let mut later = Later { visit, end: &mut self.end };
        let used = self.stream.push(rest, &mut later)?;
        Ok(self.check_after_end(rest.get(used..).unwrap_or(&[]))?)
    }

    /// Feeds up to the first message, which has to be one that a feed could begin with. Gives the
    /// bytes used. Apart, so that the other messages are not asked whether they are the first.
    #[cold]
    #[inline(never)]
    fn push_first<E: From<FrameFault>>(
        &mut self,
        slice: &[u8],
        visit: &mut impl OnFrame<E>,
    ) -> Result<usize, E> {
        self.stream.push(slice, &mut First { visit, end: &mut self.end })
    }

    /// Feeds up to the end of the next message; gives the bytes used.
    #[inline(never)]
    pub(crate) fn push_one<E: From<FrameFault>>(
        &mut self,
        slice: &[u8],
        visit: &mut impl OnFrame<E>,
    ) -> Result<usize, E> {
        if self.end.is_some() {
            self.check_after_end(slice)?;
            return Ok(slice.len());
        }
        if self.stream.number == 0 {
            return self.push_first(slice, visit);
        }
        self.stream.push(slice, &mut Next { visit, end: &mut self.end })
    }

    /// Whether a message begins with the next byte, and a feed was recognised in one before it.
    #[inline(always)]
    pub(crate) const fn is_between(&self) -> bool {
        self.stream.seen == 0 && self.stream.number != 0 && self.end.is_none()
    }

    /// Whole messages were taken from the next slice by other means.
    #[inline(always)]
    pub(crate) const fn pass_over(&mut self, bytes: usize, messages: u64) {
        self.stream.offset = self.stream.offset.wrapping_add(bytes as u64);
        self.stream.number = self.stream.number.wrapping_add(messages);
    }

    /// Nothing may follow the end mark.
    fn check_after_end(&self, rest: &[u8]) -> Result<(), FrameFault> {
        if rest.is_empty() {
            return Ok(());
        }
        let error = FrameError::AfterEnd { bytes: rest.len() as u64 };
        Err(FrameFault { at: self.position(), error })
    }

    /// The feed is over.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] when it ends inside a message, [`FrameError::Empty`] when it
    /// holds none.
    pub fn finish(&self) -> Result<(), FrameFault> {
        self.stream.finish()?;
        if self.stream.number == 0 {
            return Err(FrameFault { at: self.position(), error: FrameError::Empty });
        }
        Ok(())
    }

    /// Where the next message begins (or has begun, when it straddles).
    #[must_use]
    pub const fn position(&self) -> Position {
        self.stream.next_position()
    }

    /// Messages found so far.
    #[must_use]
    pub const fn messages(&self) -> u64 {
        self.stream.number
    }

    /// Whether the mark that ends the session was seen.
    #[must_use]
    pub const fn ended(&self) -> bool {
        self.end.is_some()
    }
}

/// Any message but the first.
struct Later<'a, V> {
    visit: &'a mut V,
    end: &'a mut Option<Position>,
}

impl<E, V: OnFrame<E>> OnPiece<E> for Later<'_, V> {
    #[inline(always)]
    fn piece(&mut self, piece: Piece<'_>) -> Result<bool, E> {
        match piece {
            Piece::Message(frame) => self.visit.frame(frame).map(|()| true),
            Piece::Zero(at) => {
                *self.end = Some(at);
                Ok(false)
            }
        }
    }
}

/// The next message only.
struct Next<'a, V> {
    visit: &'a mut V,
    end: &'a mut Option<Position>,
}

impl<E, V: OnFrame<E>> OnPiece<E> for Next<'_, V> {
    #[inline(never)]
    fn piece(&mut self, piece: Piece<'_>) -> Result<bool, E> {
        match piece {
            Piece::Message(frame) => self.visit.frame(frame)?,
            Piece::Zero(at) => *self.end = Some(at),
        }
        Ok(false)
    }
}

/// The first message only.
struct First<'a, V> {
    visit: &'a mut V,
    end: &'a mut Option<Position>,
}

impl<E: From<FrameFault>, V: OnFrame<E>> OnPiece<E> for First<'_, V> {
    #[inline(never)]
    fn piece(&mut self, piece: Piece<'_>) -> Result<bool, E> {
        match piece {
            Piece::Message(frame) => {
                check_first(&frame)?;
                self.visit.frame(frame)?;
            }
            Piece::Zero(at) => *self.end = Some(at),
        }
        Ok(false)
    }
}

/// A feed begins with a message that the specification knows; garbage practically never does.
fn check_first(frame: &Frame<'_>) -> Result<(), FrameFault> {
    let kind = frame.bytes.first().copied().unwrap_or(0);
    if message::length_of(kind) == Some(usize::from(frame.length)) {
        return Ok(());
    }
    let error = FrameError::NotItch { kind, length: frame.length };
    Err(FrameFault { at: frame.at, error })
}
