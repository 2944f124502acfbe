//! Wakes from another process: counters in memory that it writes and we read.
//!
//! The peer holds a [`RemoteWaker`] on its own region; the partition holds the [`RemoteLines`] that
//! look at it and attaches them to its scheduler, which polls them once a tick: one load while
//! nothing happened. A wake is never lost, because it is a count and not an event; several wakes of
//! one line between two ticks arrive as one, with their number.
//!
//! ```text
//! offset 0    u32  wakes of all lines together, wrapping; stored last, with Release
//! offset 64   u32  wakes of line 0, wrapping
//! offset 68   u32  wakes of line 1 ...
//! ```
//! What the peer stores is an allegation: any value whatever causes spurious wakes at worst, at
//! most one a line and tick.

use core::cell::Cell;
use core::fmt;
use core::future::{Future, poll_fn};
use core::task::Poll;

use hybrid_shm::{OutOfBounds, ReadSpan, Span};

use super::wake_slot::WakeSlot;

/// Lines of a peer: reasons to wake, such as one for each ring between the two and some to spare.
/// They fill one pair of cache lines.
pub const REMOTE_LINES: usize = 32;

/// The first line's offset: the sum has a cache line of its own.
const LINES_AT: usize = 64;

/// Bytes that both sides' spans need.
pub const REMOTE_WORDS_BYTES: usize = LINES_AT + 4 * REMOTE_LINES;

const fn line_at(line: usize) -> usize {
    LINES_AT + 4 * line
}

/// The peer's side: the single writer of the counters. It may move between threads.
#[derive(Debug)]
pub struct RemoteWaker {
    span: Span<'static>,
    total: u32,
    lines: [u32; REMOTE_LINES],
}

impl RemoteWaker {
    /// Wakes through the first [`REMOTE_WORDS_BYTES`] of `span`, which were zero.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the span is too short or not aligned.
    pub fn new(span: Span<'static>) -> Result<Self, OutOfBounds> {
        let span = span.sub(0, REMOTE_WORDS_BYTES)?;
        span.word32(0)?;
        Ok(Self { span, total: 0, lines: [0; REMOTE_LINES] })
    }

    /// Wakes who waits for `line`. What was stored before is visible to it.
    ///
    /// # Errors
    /// [`OutOfBounds`] if there is no such line.
    pub fn wake(&mut self, line: usize) -> Result<(), OutOfBounds> {
        let word = self.span.word32(line_at(line.min(REMOTE_LINES)))?;
        let count = &mut self.lines[line];
        *count = count.wrapping_add(1);
        word.store(*count);
        self.total = self.total.wrapping_add(1);
        // SYNC remote-words
        self.span.word32(0)?.store_release(self.total);
        Ok(())
    }
}

/// A peer's side for the mesh: several wakes of a pass are counted first and published at once, and
/// a new incarnation goes on where the one before ended, so that no count is taken for a seen one.
#[derive(Debug)]
pub(crate) struct OutgoingWakes {
    span: Span<'static>,
    total: Cell<u32>,
    lines: [Cell<u32>; REMOTE_LINES],
    to_publish: Cell<bool>,
}

impl OutgoingWakes {
    /// Goes on from what lies in `span`, whatever it is.
    pub(crate) fn resume(span: Span<'static>) -> Result<Self, OutOfBounds> {
        let span = span.sub(0, REMOTE_WORDS_BYTES)?;
        let total = Cell::new(span.word32(0)?.load());
        let lines = [const { Cell::new(0) }; REMOTE_LINES];
        for (index, line) in lines.iter().enumerate() {
            line.set(span.word32(line_at(index))?.load());
        }
        Ok(Self { span, total, lines, to_publish: Cell::new(false) })
    }

    /// One more wake of `line`; false if there is no such line.
    #[inline]
    pub(crate) fn count(&self, line: usize) -> bool {
        let Some(count) = self.lines.get(line) else { return false };
        count.set(count.get().wrapping_add(1));
        if let Ok(word) = self.span.word32(line_at(line)) {
            word.store(count.get());
        }
        self.to_publish.set(true);
        true
    }

    /// Shows what was counted. What was stored before is visible to who is woken.
    #[inline]
    pub(crate) fn publish(&self) {
        if self.to_publish.replace(false) {
            self.total.set(self.total.get().wrapping_add(1));
            if let Ok(word) = self.span.word32(0) {
                // SYNC remote-words
                word.store_release(self.total.get());
            }
        }
    }
}

#[derive(Default)]
struct Line {
    seen: Cell<u32>,
    /// Wakes that nobody has taken yet.
    arrived: Cell<u32>,
    wake: WakeSlot,
}

/// Our side: one waiter a line. Core-local; lives for ever, attached to a scheduler by
/// [`Scheduler::attach_remote`](super::Scheduler::attach_remote).
///
/// ```compile_fail,E0277
/// fn needs_sync<T: Sync>() {}
/// needs_sync::<core_runtime::task::RemoteLines>();
/// ```
pub struct RemoteLines {
    peer: Cell<Option<ReadSpan<'static>>>,
    total: Cell<u32>,
    lines: [Line; REMOTE_LINES],
}

impl RemoteLines {
    /// Looks at the first [`REMOTE_WORDS_BYTES`] of the peer's region.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the region is too short or not aligned.
    pub fn new(peer: ReadSpan<'static>) -> Result<Self, OutOfBounds> {
        let lines = Self::unbound();
        let peer = peer.sub(0, REMOTE_WORDS_BYTES)?;
        peer.load32(0)?;
        lines.peer.set(Some(peer));
        Ok(lines)
    }

    /// Looks at nothing yet.
    pub(crate) fn unbound() -> Self {
        let lines = core::array::from_fn(|_| Line::default());
        Self { peer: Cell::new(None), total: Cell::new(0), lines }
    }

    /// Looks at these words from now on; every line that differs from what was seen is a wake.
    pub(crate) fn bind(&self, peer: ReadSpan<'static>) -> Result<(), OutOfBounds> {
        let peer = peer.sub(0, REMOTE_WORDS_BYTES)?;
        self.total.set(peer.load32(0)?);
        self.peer.set(Some(peer));
        self.scan(peer);
        Ok(())
    }

    /// Wakes of `line` since they were last taken.
    pub(crate) fn take(&self, line: usize) -> u32 {
        self.lines.get(line).map_or(0, |line| line.arrived.take())
    }

    /// Looks for wakes; returns how many lines had some.
    #[inline]
    pub(crate) fn poll(&self) -> u32 {
        let Some(peer) = self.peer.get() else { return 0 };
        // SYNC remote-words
        match peer.load32(0) {
            Ok(total) if total != self.total.get() => {
                self.total.set(total);
                self.scan(peer)
            }
            _ => 0,
        }
    }

    fn scan(&self, peer: ReadSpan<'static>) -> u32 {
        let mut woken = 0;
        for (index, line) in self.lines.iter().enumerate() {
            let Ok(count) = peer.load32(line_at(index)) else {
                break;
            };
            let new = count.wrapping_sub(line.seen.replace(count));
            if new != 0 {
                line.arrived.set(line.arrived.get().saturating_add(new));
                line.wake.wake();
                woken += 1;
            }
        }
        woken
    }

    /// Waits until `line` was woken, and returns how often since the last time. A line that does
    /// not exist is never woken.
    pub fn woken(&'static self, line: usize) -> impl Future<Output = u32> {
        poll_fn(move |cx| {
            let Some(line) = self.lines.get(line) else {
                return Poll::Pending;
            };
            match line.arrived.take() {
                0 => {
                    line.wake.register(cx.waker());
                    Poll::Pending
                }
                wakes => Poll::Ready(wakes),
            }
        })
    }
}

impl fmt::Debug for RemoteLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteLines(total {})", self.total.get())
    }
}
