//! What namespaces and futures share with the controller: the I/O queues and whether they may be
//! used, what the controller can do, and the line of those who wait.
//!
//! The controller opens and closes it; nobody else changes it.

use core::cell::Cell;
use core::task::Waker;

use core_runtime::mem::DmaArena;
use nvme_spec::OptionalNvmCommands;

use crate::config::MAX_IO_QUEUES;
use crate::error::IoError;
use crate::probes;
use crate::requests::{NoInternal, Requests};
use crate::stats::Count;
use crate::waiters::{Ticket, Waiters};

/// Whether new I/O is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Before the first bring-up has ended.
    NotReady,
    /// I/O is taken.
    Open,
    /// A reset is under way: newcomers wait for its end.
    Paused,
    /// Shutting down, or shut down.
    ShutDown,
    /// Failed for good.
    Gone,
}

/// What the controller offers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offers {
    pub commands: OptionalNvmCommands,
    pub write_cache: bool,
}

/// The I/O queues, made at the start.
pub(crate) type Queues = heapless::Vec<&'static Requests, { MAX_IO_QUEUES as usize }>;

/// Shared by the controller, its namespaces and their futures.
#[derive(Debug)]
pub(crate) struct Hub {
    pub queues: Queues,
    /// Who waits for room in any of them.
    line: &'static Waiters,
    /// Queues that were granted and made.
    pub live: Cell<u16>,
    /// Bit `i` is set if queue `i` was taken for raw use.
    pub raw: Cell<u32>,
    /// Bit `i` is set if raw queue `i` was dropped with commands in flight.
    abandoned: Cell<u32>,
    /// Counts resets in which a namespace changed or was lost, from 1; 0 once I/O has ended for
    /// good. What was checked against another generation is not posted.
    pub generation: Cell<u32>,
    next: Cell<u16>,
    pub gate: Cell<Gate>,
    pub offers: Cell<Offers>,
    pub arena: &'static DmaArena,
    /// Reads that were lost and posted once more.
    pub reads_repeated: Count,
}

impl Hub {
    pub(crate) fn new(queues: Queues, line: &'static Waiters, arena: &'static DmaArena) -> Self {
        Self {
            queues,
            line,
            live: Cell::new(0),
            raw: Cell::new(0),
            abandoned: Cell::new(0),
            generation: Cell::new(1),
            next: Cell::new(0),
            gate: Cell::new(Gate::NotReady),
            offers: Cell::new(Offers { commands: OptionalNvmCommands::empty(), write_cache: true }),
            arena,
            reads_repeated: Count::new(),
        }
    }

    /// The queues that were granted.
    #[inline(always)]
    pub(crate) fn live(&self) -> impl Iterator<Item = &'static Requests> + '_ {
        self.queues.iter().take(usize::from(self.live.get())).copied()
    }

    /// A queue with room. `first` passes those who wait.
    #[inline]
    pub(crate) fn pick(&self, first: bool) -> Result<&'static Requests, IoError> {
        if self.gate.get() != Gate::Open {
            return Err(self.closed_error());
        }
        if let (1, Some(&only)) = (self.live.get(), self.queues.first())
            && self.raw.get() == 0
        {
            if first || only.is_free() {
                return Ok(only);
            }
            return Err(IoError::QueueFull);
        }
        self.pick_of_many(first)
    }

    /// The next queue, in turn, that has room.
    #[inline(never)]
    fn pick_of_many(&self, first: bool) -> Result<&'static Requests, IoError> {
        let live = self.live.get();
        let mut any = false;
        let waiting = !first && !self.line.is_empty();
        for _ in 0..live {
            let at = self.next.get();
            self.next.set(if at + 1 >= live { 0 } else { at + 1 });
            if self.raw.get() >> at & 1 != 0 {
                continue;
            }
            if let Some(&queue) = self.queues.get(usize::from(at)) {
                any = true;
                if !waiting && queue.has_room() {
                    return Ok(queue);
                }
            }
        }
        Err(if any { IoError::QueueFull } else { IoError::NotReady })
    }

    /// Why nothing is taken now; a pause counts as a full queue, since it ends.
    #[cold]
    pub(crate) fn closed_error(&self) -> IoError {
        match self.gate.get() {
            Gate::Open | Gate::Paused => IoError::QueueFull,
            Gate::NotReady | Gate::ShutDown => IoError::NotReady,
            Gate::Gone => IoError::Gone,
        }
    }

    /// Whether the holder of `ticket` was called and may pass those who still wait.
    pub(crate) fn may_pass(&self, ticket: Ticket) -> bool {
        ticket != Ticket::NONE && !self.line.holds(ticket)
    }

    pub(crate) fn wait(&self, ticket: Ticket, waker: &Waker) -> Result<Ticket, IoError> {
        self.line.wait(ticket, waker)
    }

    pub(crate) fn leave(&self, ticket: Ticket) {
        self.line.leave(ticket);
    }

    /// Counts and tells a read that is repeated, and may be so often more.
    pub(crate) fn count_repeat(&self, slba: u64, left: u8) {
        self.reads_repeated.add(1);
        if let Some(queue) = self.queues.first() {
            probes::AGAIN.emit(queue.qp().probes(), left.into(), slba, 0);
        }
    }

    /// Wakes everybody who waits: what may be had changed.
    pub(crate) fn wake_all(&self) {
        self.line.wake(u16::MAX);
    }

    // ---- states ----------------------------------------------------------------------------

    /// No I/O from now on, for good.
    pub(crate) fn end(&self, gate: Gate) {
        self.gate.set(gate);
        self.generation.set(0);
    }

    /// A namespace changed or was lost.
    pub(crate) fn namespace_changed(&self) {
        match self.generation.get() {
            0 => {}
            u32::MAX => self.generation.set(1),
            generation => self.generation.set(generation + 1),
        }
    }

    /// Whether queue `i` is in raw use.
    pub(crate) fn is_raw(&self, i: u16) -> bool {
        self.raw.get() >> i & 1 != 0
    }

    /// The holder of the raw queue at `bit` is gone.
    pub(crate) fn give_back(&self, bit: u32, idle: bool) {
        if idle {
            self.raw.set(self.raw.get() & !bit);
            self.wake_all();
        } else {
            self.abandoned.set(self.abandoned.get() | bit);
        }
    }

    /// Queue `i` was fenced: ends what was in flight. The holder of a raw queue hears of it from
    /// its own reap; if it is gone, nobody wants to know, and the queue is common again.
    pub(crate) fn drain(&self, i: u16, queue: &Requests) {
        let bit = 1 << i;
        if self.abandoned.get() & bit != 0 {
            queue.qp().drain(|_| {});
            self.abandoned.set(self.abandoned.get() & !bit);
            self.raw.set(self.raw.get() & !bit);
        } else if !self.is_raw(i) {
            queue.drain(&mut NoInternal);
        }
    }
}
