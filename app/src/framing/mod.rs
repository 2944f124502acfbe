//! Framing: where one message ends and the next begins.
//!
//! Three framers, one for each way in which ITCH 5.0 travels:
//! - [`FileFramer`]: 2-byte big-endian length, message, …; length 0 ends the session. Fed with
//!   consecutive slices of the file, cut anywhere.
//! - [`SoupFramer`]: a SoupBinTCP byte stream, fed the same way.
//! - [`MoldFramer`]: MoldUDP64 packets, fed whole; gaps show by their sequence numbers.
//!
//! Each calls a visitor with a [`Frame`] for each whole message, in order, and copies nothing but
//! a message that straddles two slices. They do not look into messages, with one exception: the
//! type byte tells garbage from a feed in the first message of a file.
//!
//! **The length prefix is authoritative.** What follows a message is found by its prefix, never by
//! its type; whether the two agree is checked by [`crate::message`]. A message longer than
//! [`MAX_FRAME_BYTES`] can only be of an unknown type or wrong: its frame holds the first
//! `MAX_FRAME_BYTES` bytes and its true length, and the rest is passed over without being kept.
//! So the carry of a framer is small although a prefix can say 65,535.
//!
//! Results do not depend on where the slices are cut.

mod file;
mod mark;
mod mold;
mod soup;

pub use file::FileFramer;
pub use mark::FramerMark;
pub use mold::{MoldEvent, MoldFramer, MoldStats};
pub use soup::{SoupEvent, SoupFramer};

use crate::error::{FrameError, FrameFault, Position};

/// Most bytes of a message that a frame shows: the longest known message has 50, and 64 (one
/// cache line) leaves room for what a later version may add to it.
pub const MAX_FRAME_BYTES: usize = 64;

/// Bytes of a length prefix.
const PREFIX_BYTES: usize = 2;

/// One message and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The message, at most [`MAX_FRAME_BYTES`] of it.
    pub bytes: &'a [u8],
    /// The message's length as its prefix says.
    pub length: u16,
    /// Where it begins.
    pub at: Position,
}

/// What is called for each message, as a type: its method can be inlined into the framer's loop
/// for certain (`#[inline(always)]`), which a closure cannot.
pub trait OnFrame<E> {
    /// Handles one message.
    ///
    /// # Errors
    /// What the implementor fails with; it ends the feed.
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), E>;
}

/// A closure as [`OnFrame`].
struct Call<F>(F);

impl<E, F: FnMut(Frame<'_>) -> Result<(), E>> OnFrame<E> for Call<F> {
    #[inline(always)]
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), E> {
        (self.0)(frame)
    }
}

/// What is called for each [`Piece`]; it says whether to go on.
trait OnPiece<E> {
    fn piece(&mut self, piece: Piece<'_>) -> Result<bool, E>;
}

/// What [`PrefixStream`] finds.
enum Piece<'a> {
    /// A message of at least one byte.
    Message(Frame<'a>),
    /// A length of zero. The position is that of the prefix, with the number of the message that
    /// would have been there.
    Zero(Position),
}

/// Splits a byte stream at its 2-byte length prefixes. The shared half of the file's and
/// SoupBinTCP's framing.
#[derive(Clone, Debug)]
struct PrefixStream {
    /// Start of a message that a slice ended in: prefix and at most `MAX_FRAME_BYTES`.
    carry: [u8; PREFIX_BYTES + MAX_FRAME_BYTES],
    /// Bytes in `carry`.
    carried: usize,
    /// Bytes of the carried message seen so far, those past the carry's end included.
    seen: usize,
    /// Bytes of the stream before the first byte of `carry` (or of the next slice).
    offset: u64,
    /// Messages found so far.
    number: u64,
}

impl PrefixStream {
    const fn new() -> Self {
        Self {
            carry: [0; PREFIX_BYTES + MAX_FRAME_BYTES],
            carried: 0,
            seen: 0,
            offset: 0,
            number: 0,
        }
    }

    /// Feeds the next slice. `visit` returns whether to go on; when it says no, the count of bytes
    /// of `slice` that were used is returned, and the rest may be fed later.
    #[inline(always)]
    fn push<E>(&mut self, slice: &[u8], visit: &mut impl OnPiece<E>) -> Result<usize, E> {
        let mut rest = slice;
        if self.seen > 0 {
            let used = self.fill_carry(rest);
            rest = rest.get(used..).unwrap_or(&[]);
            match self.take_carried(visit) {
                None => return Ok(used),
                Some(go_on) => {
                    if !go_on? {
                        return Ok(used);
                    }
                }
            }
        }
        // Locals, so that the loop keeps them in registers. Positions wrap rather than check for
        // overflow: they are counts of bytes and messages fed, which no feed brings to 2^64, and
        // only so they are not computed for messages that nobody asks the place of.
        let (base, whole) = (self.offset, rest.len());
        let mut number = self.number;
        let outcome = loop {
            let Some((prefix, body)) = rest.split_first_chunk::<PREFIX_BYTES>() else {
                break Ok(true);
            };
            let length = u16::from_be_bytes(*prefix);
            let Some((bytes, after)) = body.split_at_checked(usize::from(length)) else {
                break Ok(true);
            };
            let before = whole.wrapping_sub(rest.len()) as u64;
            let at = Position { offset: base.wrapping_add(before), number: number.wrapping_add(1) };
            rest = after;
            let piece = if usize::from(length).wrapping_sub(1) < MAX_FRAME_BYTES {
                number = at.number;
                Piece::Message(Frame { bytes, length, at })
            } else {
                odd_piece(bytes, length, at, &mut number)
            };
            match visit.piece(piece) {
                Ok(true) => {}
                other => break other,
            }
        };
        self.number = number;
        self.offset = base + (whole - rest.len()) as u64;
        if outcome? {
            // Less than one message is left.
            self.fill_carry(rest);
            rest = &[];
        }
        Ok(slice.len() - rest.len())
    }

    /// Takes bytes of the message that is being carried, up to its end; returns how many.
    fn fill_carry(&mut self, slice: &[u8]) -> usize {
        let mut used = 0;
        while let Some(rest) = slice.get(used..).filter(|rest| !rest.is_empty()) {
            let wanted = self.carried_total().saturating_sub(self.seen);
            if wanted == 0 {
                break;
            }
            let taken = wanted.min(rest.len());
            if let Some(room) = self.carry.get_mut(self.carried..) {
                let kept = room.len().min(taken);
                room[..kept].copy_from_slice(&rest[..kept]);
                self.carried += kept;
            }
            self.seen += taken;
            used += taken;
        }
        used
    }

    /// Bytes of the carried message with its prefix, as far as known: first the prefix is wanted.
    fn carried_total(&self) -> usize {
        if self.carried < PREFIX_BYTES {
            PREFIX_BYTES
        } else {
            PREFIX_BYTES + usize::from(u16::from_be_bytes([self.carry[0], self.carry[1]]))
        }
    }

    /// Visits the carried message if it is whole; `None` if it is not. Never inline: one copy of
    /// what is called for each message belongs into the loop, and the other out of its way.
    #[cold]
    #[inline(never)]
    fn take_carried<E>(&mut self, visit: &mut impl OnPiece<E>) -> Option<Result<bool, E>> {
        if self.carried < PREFIX_BYTES || self.seen < self.carried_total() {
            return None;
        }
        let at = self.next_position();
        let length = u16::from_be_bytes([self.carry[0], self.carry[1]]);
        let carried = self.carried;
        self.offset += self.seen as u64;
        self.carried = 0;
        self.seen = 0;
        if length == 0 {
            return Some(visit.piece(Piece::Zero(at)));
        }
        self.number += 1;
        let bytes = self.carry.get(PREFIX_BYTES..carried).unwrap_or(&[]);
        Some(visit.piece(Piece::Message(Frame { bytes, length, at })))
    }

    /// Where the next message begins, or the one that is being carried.
    const fn next_position(&self) -> Position {
        Position { offset: self.offset, number: self.number + 1 }
    }

    /// The stream is over: fails if it ends inside a message.
    fn finish(&self) -> Result<(), FrameFault> {
        if self.seen == 0 {
            return Ok(());
        }
        let (have, need) = (self.seen as u64, self.carried_total() as u64);
        Err(FrameFault { at: self.next_position(), error: FrameError::Truncated { have, need } })
    }
}

/// A piece that is no common message: of length zero, or longer than a frame shows.
#[cold]
fn odd_piece<'a>(bytes: &'a [u8], length: u16, at: Position, number: &mut u64) -> Piece<'a> {
    if length == 0 {
        return Piece::Zero(at);
    }
    *number = at.number;
    let bytes = bytes.get(..MAX_FRAME_BYTES).unwrap_or(bytes);
    Piece::Message(Frame { bytes, length, at })
}
