//! One bounded turn over three rings and the sources that use them.
//!
//! Run by [`super::thread`] or stepped by a test. A turn looks at the latency ring first, lets each
//! source do what it has to, gives the kernel what was queued, and takes completions of the other
//! two rings. [`Reactor::wait`] blocks on the main ring, where the latency ring's descriptor is
//! polled, so that an urgent completion ends the wait.
//!
//! A completion finds its source by the top byte of its number; the other 56 bits are the source's.

use std::time::Duration;

use rustix::io::Errno;

use super::rings::{Rings, Which};
use crate::sys::uring::{Cqe, File, Full, Op};

/// Completions of one ring taken in a turn.
const REAP: u32 = 64;

/// Bits of a number that are the source's.
const TOKEN_BITS: u32 = 56;

/// The reactor's own.
const OWN: u64 = 0;

/// Where a source queues operations, under its own number.
pub struct Desk<'a> {
    /// The rings.
    pub rings: &'a mut Rings,
    source: u64,
}

#[cfg(test)]
impl<'a> Desk<'a> {
    /// The desk of the first source.
    pub(crate) const fn first(rings: &'a mut Rings) -> Self {
        Self { rings, source: 1 }
    }
}

impl Desk<'_> {
    const fn number(&self, token: u64) -> u64 {
        self.source << TOKEN_BITS | token & ((1 << TOKEN_BITS) - 1)
    }

    /// Queues an operation; its completions carry the lowest 56 bits of `token`.
    ///
    /// # Errors
    /// [`Full`]: try again in the next turn.
    pub fn push(&mut self, which: Which, op: &Op, token: u64) -> Result<(), Full> {
        let number = self.number(token);
        self.rings.get(which).push(op, number)
    }

    /// Operations that a ring has room for.
    pub fn room(&mut self, which: Which) -> usize {
        self.rings.get(which).room()
    }

    /// Whether [`Desk::push_linked`] may be used on the main ring.
    #[must_use]
    pub const fn links(&self) -> bool {
        self.rings.main.links()
    }

    /// Queues two operations, the second only if the first succeeds in full.
    ///
    /// # Errors
    /// [`Full`].
    ///
    /// # Panics
    /// Where the ring does not [link](Desk::links).
    pub fn push_linked(
        &mut self,
        which: Which,
        first: (&Op, u64),
        second: (&Op, u64),
    ) -> Result<(), Full> {
        let (one, two) = (self.number(first.1), self.number(second.1));
        self.rings.get(which).push_linked((first.0, one), (second.0, two))
    }

    /// Asks to end an operation of this source; the answer to that comes under `own`.
    ///
    /// # Errors
    /// [`Full`].
    pub fn cancel(&mut self, which: Which, token: u64, own: u64) -> Result<(), Full> {
        let user_data = self.number(token);
        self.push(which, &Op::Cancel { user_data }, own)
    }
}

/// Something that uses the rings. Bounded, and never blocks.
pub trait Source {
    /// A turn begins: the latency ring is looked at next.
    fn looking(&mut self) {}

    /// Does what there is to do; whether there was anything.
    fn turn(&mut self, desk: &mut Desk<'_>) -> bool;

    /// Takes a completion.
    fn complete(&mut self, which: Which, token: u64, cqe: Cqe, desk: &mut Desk<'_>);
}

/// The reactor. Belongs to one thread.
pub struct Reactor<S> {
    rings: Rings,
    sources: Vec<S>,
    /// The latency ring is polled on the main ring.
    armed: bool,
    taken: Vec<(Which, Cqe)>,
    turns: u64,
    /// The first error of a ring, which no source can be told.
    broken: Option<Errno>,
}

impl<S: Source> Reactor<S> {
    /// A reactor over `rings` for at most 255 `sources`.
    #[must_use]
    pub fn new(rings: Rings, sources: Vec<S>) -> Self {
        let taken = Vec::with_capacity(3 * REAP as usize);
        Self { rings, sources, armed: false, taken, turns: 0, broken: None }
    }

    /// The rings.
    #[must_use]
    pub const fn rings(&self) -> &Rings {
        &self.rings
    }

    /// The sources.
    pub fn sources(&mut self) -> &mut [S] {
        &mut self.sources
    }

    /// Calls `f` with each source and its desk.
    pub fn each_source(&mut self, mut f: impl FnMut(&mut S, &mut Desk<'_>)) {
        for (source, each) in (1..).zip(&mut self.sources) {
            f(each, &mut Desk { rings: &mut self.rings, source });
        }
    }

    /// Closes the rings and returns the first source.
    ///
    /// # Panics
    /// If there is none: a reactor is made with one.
    #[must_use]
    pub fn into_source(self) -> S {
        self.sources.into_iter().next().expect("a reactor has a source")
    }

    /// Turns so far.
    #[must_use]
    pub const fn turns(&self) -> u64 {
        self.turns
    }

    /// What broke a ring, if anything did: `EOWNERDEAD` where the kernel's thread died, `EBADR`
    /// where completions were lost, `EEXIST` from a thread that is not the rings'.
    #[must_use]
    pub const fn broken(&self) -> Option<Errno> {
        self.broken
    }

    /// One turn; whether anything was done.
    pub fn turn(&mut self) -> bool {
        self.turns += 1;
        self.sources.iter_mut().for_each(Source::looking);
        let mut worked = self.take(Which::Latency);
        for (source, each) in (1..).zip(&mut self.sources) {
            worked |= each.turn(&mut Desk { rings: &mut self.rings, source });
        }
        self.submit();
        worked |= self.take(Which::Main);
        if self.rings.poll.is_some() {
            worked |= self.take(Which::Poll);
        }
        worked
    }

    /// Blocks on the main ring until something completes on it or on the latency ring, or
    /// `timeout` is over. With operations on the poll ring it only submits: nobody but a turn sees
    /// those end.
    pub fn wait(&mut self, timeout: Duration) {
        if self.rings.poll.as_ref().is_some_and(|poll| poll.in_flight() != 0) {
            self.submit();
            return;
        }
        self.arm();
        self.submit();
        let waited = self.rings.main.wait(timeout);
        self.note(waited);
    }

    /// Has the main ring wake when the latency ring has a completion.
    fn arm(&mut self) {
        if self.armed {
            return;
        }
        let file = File::Fd(self.rings.latency.fd());
        self.armed = self.rings.main.push(&Op::PollReadable { file }, OWN).is_ok();
    }

    fn submit(&mut self) {
        let mut outcome = self.rings.latency.submit().and(self.rings.main.submit());
        if let Some(poll) = &mut self.rings.poll {
            outcome = outcome.and(poll.submit());
        }
        self.note(outcome);
    }

    fn note(&mut self, outcome: Result<(), Errno>) {
        match outcome {
            // Tried again at the next turn: the queue is not lost. `EBUSY` is a full completion
            // queue, which the turn empties.
            Ok(()) | Err(Errno::AGAIN | Errno::BUSY | Errno::INTR) => {}
            Err(errno) => self.broken = self.broken.or(Some(errno)),
        }
    }

    /// Takes completions of a ring and hands them to their sources.
    fn take(&mut self, which: Which) -> bool {
        let ring = self.rings.get(which);
        let asked = ring.ask();
        let taken = &mut self.taken;
        ring.reap(REAP, |cqe| taken.push((which, cqe)));
        self.note(asked);
        let any = !self.taken.is_empty();
        for at in 0..self.taken.len() {
            let (which, cqe) = self.taken[at];
            self.hand_over(which, cqe);
        }
        self.taken.clear();
        any
    }

    fn hand_over(&mut self, which: Which, cqe: Cqe) {
        let source = cqe.user_data >> TOKEN_BITS;
        if source == OWN {
            // A poll that ended is armed again at the next wait.
            self.armed &= cqe.more();
            return;
        }
        let index = usize::try_from(source).unwrap_or(0).wrapping_sub(1);
        if let Some(each) = self.sources.get_mut(index) {
            let token = cqe.user_data & ((1 << TOKEN_BITS) - 1);
            each.complete(which, token, cqe, &mut Desk { rings: &mut self.rings, source });
        }
    }
}
