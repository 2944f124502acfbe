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
use crate::requests::Requests;
use crate::waiters::Ticket;

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
    /// Queues that were granted and made.
    pub live: Cell<u16>,
    /// Bit `i` is set if queue `i` was taken for raw use.
    pub raw: Cell<u32>,
    next: Cell<u16>,
    pub gate: Cell<Gate>,
    pub offers: Cell<Offers>,
    pub arena: &'static DmaArena,
}

impl Hub {
    pub(crate) fn new(queues: Queues, arena: &'static DmaArena) -> Self {
        Self {
            queues,
            live: Cell::new(0),
            raw: Cell::new(0),
            next: Cell::new(0),
            gate: Cell::new(Gate::NotReady),
            offers: Cell::new(Offers { commands: OptionalNvmCommands::empty(), write_cache: true }),
            arena,
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
        let waiting = !first && self.line().is_some_and(|q| !q.waiters().is_empty());
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

    /// The queue that keeps the line: the first that is not raw.
    fn line(&self) -> Option<&'static Requests> {
        let raw = self.raw.get();
        self.queues.iter().enumerate().find(|(i, _)| raw >> i & 1 == 0).map(|(_, queue)| *queue)
    }

    /// Whether the holder of `ticket` was called and may pass those who still wait.
    pub(crate) fn may_pass(&self, ticket: Ticket) -> bool {
        ticket != Ticket::NONE && self.line().is_some_and(|q| !q.waiters().holds(ticket))
    }

    pub(crate) fn wait(&self, ticket: Ticket, waker: &Waker) -> Ticket {
        match self.line() {
            Some(queue) => queue.waiters().wait(ticket, waker),
            None => {
                waker.wake_by_ref();
                ticket
            }
        }
    }

    pub(crate) fn leave(&self, ticket: Ticket) {
        if let Some(queue) = self.line() {
            queue.waiters().leave(ticket);
        }
    }

    /// Calls one who waits if another queue than the line's has room.
    pub(crate) fn serve_line(&self) {
        if self.live.get() > 1
            && let Some(line) = self.line()
            && !line.waiters().is_empty()
            && self.pick_of_many(true).is_ok()
        {
            line.waiters().wake(1);
        }
    }

    /// Wakes everybody who waits: the gate changed.
    pub(crate) fn wake_all(&self) {
        if let Some(queue) = self.line() {
            queue.waiters().wake(u16::MAX);
        }
    }
}
