//! The host's end of the bridge: a source of the reactor that serves one partition.
//!
//! It takes requests off the partition's ring ([`ends`]), checks each ([`check`]), keeps it in the
//! slot that the partition named, carries it out in as many operations as its storage wants
//! ([`flight`]), hears how they went ([`landing`]), and answers once. Transfers go to and from DMA
//! memory where it lies.
//!
//! Invariants:
//! 1. Nothing that a partition wrote is an index or an address before [`check`] has seen it; each
//!    word of a request is loaded once.
//! 2. A slot is taken from the acceptance of its request to its completion; a second request in it
//!    is refused.
//! 3. A request is taken off the ring only if its completion is sure to find room: a partition that
//!    does not take completions gets no more requests served, and nothing is lost.
//! 4. After a sync that was begun and has no good answer, whatever the reason, every later flush
//!    and FUA write fails too, and so do those that were under way: what was written since the last
//!    good one is unknown, and no retry makes it known.
//! 5. On storage behind the page cache one sync is in flight at a time: Linux tells an error of its
//!    write-back to one of the syncs that wait for it, and another could be answered well before.
//! 6. Memory that the kernel was given for a slot's operation is not written before that operation
//!    is over: a range of Dataset Management is the slot's own.

mod check;
mod ends;
mod flight;
#[cfg(test)]
mod forged;
mod landing;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;

use hybrid_abi::bridge::{
    BRIDGE_CANCEL, BRIDGE_CANCELLED, BRIDGE_DONE, BRIDGE_REFUSED, BRIDGE_SHORT, BRIDGE_UNFLUSHED,
    BridgeInfo, BridgeRequest, REFUSED_BUSY,
};
use hybrid_shm::{OutOfBounds, Span};
use rustix::io::Errno;

use super::reactor::{Desk, Source};
use super::rings::Which;
use super::target::Target;
use super::thread::Served;
use crate::sys::uring::{Cqe, File};
use check::{Job, Kind, Rules};
use ends::Ends;
pub use ends::{BridgeMemory, info_of, lay_out};
pub use flight::Ranges;
use flight::{Durability, FIXED_BYTES, Flight, Road};

/// Requests taken in one turn.
const ACCEPT: u32 = 64;

/// Entries that an operation and the sync behind it want.
const ENTRIES: usize = 2;

/// Which completion of a flight it is, above the slot's 16 bits.
const DATA: u64 = 0;
const SYNC: u64 = 1;
const CANCEL: u64 = 2;

/// What a bridge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgeStats {
    /// Requests accepted.
    pub accepted: u64,
    /// Requests refused, and the first code.
    pub refused: u64,
    /// The first refusal's code.
    pub first_refusal: u64,
    /// Requests that ended with an error.
    pub failed: u64,
    /// Bytes read and written.
    pub bytes: u64,
    /// Operations given to the kernel.
    pub operations: u64,
    /// Times that an operation found no room in a ring.
    pub parked: u64,
    /// Requests to cancel.
    pub cancels: u64,
}

/// The server.
pub struct BridgeServer {
    info: BridgeInfo,
    memory: BridgeMemory,
    rules: Rules,
    target: Target,
    ends: Ends,
    flights: Vec<Option<Flight>>,
    in_flight: u32,
    road: Road,
    /// IOPOLL is used for transfers.
    polled: bool,
    flush_failed: bool,
    stopping: bool,
    parked: u32,
    /// Syncs that the kernel has.
    syncs: u32,
    /// Slots that wait for their turn to sync: invariant 5.
    sync_queue: VecDeque<u16>,
    /// Cancellations that found no room.
    cancels_waiting: u32,
    tell: Box<dyn Fn(String) + Send>,
    stats: BridgeStats,
}

impl BridgeServer {
    /// A server for `target`. `fixed` is the number of the registered buffer that DMA memory begins
    /// with, `file` how operations name the target; `ranges` serves Dataset Management, a
    /// range a slot; `tell` gets what should be read by somebody.
    #[must_use]
    pub fn new(
        (info, memory): (BridgeInfo, BridgeMemory),
        (target, file): (Target, File),
        (fixed, ranges): (Option<u16>, Option<Ranges>),
        polled: bool,
        tell: Box<dyn Fn(String) + Send>,
    ) -> Self {
        let limits = target.limits();
        let write = target.writable();
        Self {
            rules: Rules { limits, write, depth: info.depth, dma: memory.dma },
            road: Road { way: target.way(), file, limits, fixed, ranges },
            info,
            memory,
            target,
            ends: Ends::Waiting,
            flights: (0..info.depth).map(|_| None).collect(),
            in_flight: 0,
            polled,
            flush_failed: false,
            stopping: false,
            parked: 0,
            syncs: 0,
            sync_queue: VecDeque::with_capacity(info.depth as usize),
            cancels_waiting: 0,
            tell,
            stats: BridgeStats::default(),
        }
    }

    /// What it did.
    #[must_use]
    pub const fn stats(&self) -> BridgeStats {
        self.stats
    }

    /// Why the rings were closed, if they were.
    #[must_use]
    pub fn closed(&self) -> Option<&str> {
        self.ends.closed()
    }

    /// Whether it takes requests: not stopping, and the rings not closed.
    #[must_use]
    pub fn serves(&self) -> bool {
        !self.stopping && self.closed().is_none()
    }

    /// Spans of DMA memory as the kernel can register them.
    ///
    /// # Errors
    /// [`OutOfBounds`] never: the parts are inside.
    pub fn registrable(dma: Span<'static>) -> Result<Vec<Span<'static>>, OutOfBounds> {
        (0..dma.len())
            .step_by(FIXED_BYTES)
            .map(|at| dma.sub(at, FIXED_BYTES.min(dma.len() - at)))
            .collect()
    }

    // ---- requests --------------------------------------------------------------------------

    fn accept(&mut self, request: &BridgeRequest, desk: &mut Desk<'_>) {
        if request.op == BRIDGE_CANCEL {
            self.cancel(request.slba, desk);
            return;
        }
        let job = self.rules.check(request).and_then(|job| self.claim(job));
        match job {
            Ok(slot) => self.issue(slot, desk),
            Err(code) => {
                if self.stats.refused == 0 {
                    self.stats.first_refusal = code;
                }
                self.stats.refused += 1;
                self.ends.answer(request.cid, (BRIDGE_REFUSED, code));
            }
        }
    }

    /// Puts a job into its slot.
    fn claim(&mut self, job: Job) -> Result<u16, u64> {
        match self.flights.get_mut(usize::from(job.slot)) {
            Some(place @ None) => {
                *place = Some(Flight::new(job));
                self.in_flight += 1;
                self.stats.accepted += 1;
                Ok(job.slot)
            }
            Some(Some(_)) | None => Err(REFUSED_BUSY),
        }
    }

    // ---- operations ------------------------------------------------------------------------

    fn flight(&mut self, slot: u16) -> Option<&mut Flight> {
        self.flights.get_mut(usize::from(slot))?.as_mut()
    }

    /// Gives the kernel the next operation of a request, or ends it.
    fn issue(&mut self, slot: u16, desk: &mut Desk<'_>) {
        let (road, polled, failed) = (self.road, self.polled, self.flush_failed);
        // Invariant 5.
        let sync_waits = self.syncs != 0 && road.is_cached();
        let Some(flight) = self.flight(slot) else { return };
        if failed && flight.durable() {
            flight.end((BRIDGE_UNFLUSHED, 0));
            return self.finish(slot);
        }
        let Some(next) = road.next(flight, desk.links() && !sync_waits) else {
            flight.end(landing::errno(-libc::EINVAL));
            return self.finish(slot);
        };
        if sync_waits && next.syncs {
            return self.queue_sync(slot);
        }
        let which = match next.sync {
            None if polled && next.op.is_transfer() => Which::Poll,
            _ => Which::Main,
        };
        // Nothing is written before it is sure that the operation goes: invariant 6.
        if desk.room(which) < ENTRIES {
            return self.park(slot);
        }
        if next.prepare().is_err() {
            flight.end(landing::errno(-libc::EFAULT));
            return self.finish(slot);
        }
        let number = u64::from(slot);
        let (data, synced) = (number | DATA << 16, number | SYNC << 16);
        let pushed = match &next.sync {
            Some(sync) => desk.push_linked(which, (&next.op, data), (sync, synced)),
            None => desk.push(which, &next.op, data),
        };
        if pushed.is_err() {
            return self.park(slot);
        }
        flight.which = which;
        flight.chunk = next.chunk;
        flight.fixed = next.is_fixed();
        flight.syncing = next.syncs;
        flight.outstanding = 1 + u8::from(next.sync.is_some());
        let begins_sync = next.syncs || next.sync.is_some();
        if begins_sync {
            flight.durability = Durability::Begun;
        }
        let was_parked = std::mem::replace(&mut flight.parked, false);
        self.parked -= u32::from(was_parked);
        self.syncs += u32::from(begins_sync);
        self.stats.operations += 1;
    }

    /// It waits until the sync in flight is over.
    fn queue_sync(&mut self, slot: u16) {
        let Some(flight) = self.flight(slot) else { return };
        let was_parked = std::mem::replace(&mut flight.parked, false);
        self.parked -= u32::from(was_parked);
        self.sync_queue.push_back(slot);
    }

    /// A sync is over: the next one's turn, or, if it failed, the end of all that wait.
    fn sync_over(&mut self, desk: &mut Desk<'_>) {
        while self.syncs == 0
            && let Some(slot) = self.sync_queue.pop_front()
        {
            self.issue(slot, desk);
        }
    }

    /// Its operation found no room: tried again in the next turn.
    fn park(&mut self, slot: u16) {
        let Some(flight) = self.flight(slot) else { return };
        if !std::mem::replace(&mut flight.parked, true) {
            self.parked += 1;
            self.stats.parked += 1;
        }
    }

    /// What found no room tries again: cancellations first, which make some.
    fn unpark(&mut self, desk: &mut Desk<'_>) {
        for slot in 0..u16::try_from(self.flights.len()).unwrap_or(u16::MAX) {
            if self.parked == 0 && self.cancels_waiting == 0 {
                return;
            }
            let Some(flight) = self.flight(slot) else { continue };
            let (parked, cancel_waits) = (flight.parked, flight.cancel_waits);
            if cancel_waits {
                self.push_cancel(slot, desk);
            }
            if parked {
                self.issue(slot, desk);
            }
        }
    }

    /// A line for somebody to read.
    fn say(&self, what: fmt::Arguments<'_>) {
        (self.tell)(format!("{}: {what}", self.target.path().display()));
    }

    /// Answers a request and frees its slot.
    fn finish(&mut self, slot: u16) {
        let shrank = self.flight(slot).is_some_and(|flight| flight.job.kind == Kind::Flush)
            && self.target.shrank();
        let place = self.flights.get_mut(usize::from(slot)).and_then(Option::take);
        let Some(flight) = place else { return };
        self.in_flight -= 1;
        self.parked -= u32::from(flight.parked);
        self.cancels_waiting -= u32::from(flight.cancel_waits);
        // Invariant 4.
        self.flush_failed |= flight.durability == Durability::Begun;
        let outcome = match flight.outcome {
            Some(outcome) => outcome,
            None if shrank => {
                self.flush_failed = true;
                (BRIDGE_SHORT, 0)
            }
            // Another's sync failed meanwhile: the kernel tells that once, to either of them.
            None if self.flush_failed && flight.durability == Durability::Done => {
                (BRIDGE_UNFLUSHED, 0)
            }
            None => (BRIDGE_DONE, 0),
        };
        self.stats.failed += u64::from(outcome.0 != BRIDGE_DONE);
        if matches!(flight.job.kind, Kind::Read | Kind::Write) {
            self.stats.bytes += flight.done;
        }
        self.ends.answer(flight.job.cid, outcome);
    }

    /// The partition wants a request to end. A name that is in no slot is too late, or nonsense.
    fn cancel(&mut self, cid: u64, desk: &mut Desk<'_>) {
        self.stats.cancels += 1;
        let slot = u16::try_from(cid & 0xFFFF).unwrap_or(u16::MAX);
        let Some(flight) = self.flight(slot) else { return };
        if u64::from(flight.job.cid) == cid {
            self.cancel_slot(slot, desk);
        }
    }

    fn cancel_slot(&mut self, slot: u16, desk: &mut Desk<'_>) {
        let Some(flight) = self.flight(slot) else { return };
        if std::mem::replace(&mut flight.cancelled, true) {
            return;
        }
        // Nothing of it is with the kernel: parked, or waiting for its turn to sync.
        if flight.outstanding == 0 {
            flight.end((BRIDGE_CANCELLED, 0));
            self.sync_queue.retain(|waits| *waits != slot);
            return self.finish(slot);
        }
        self.push_cancel(slot, desk);
    }

    /// Asks the kernel, once for each request. A polled ring takes no cancellation: a transfer
    /// there is with the drive, and ends by the drive's answer.
    fn push_cancel(&mut self, slot: u16, desk: &mut Desk<'_>) {
        let Some(flight) = self.flight(slot) else { return };
        let number = u64::from(slot);
        let pushed = match flight.which {
            Which::Poll => Ok(()),
            which => desk.cancel(which, number | DATA << 16, number | CANCEL << 16),
        };
        let waited = std::mem::replace(&mut flight.cancel_waits, pushed.is_err());
        self.cancels_waiting -= u32::from(waited);
        self.cancels_waiting += u32::from(pushed.is_err());
    }
}

impl Source for BridgeServer {
    fn turn(&mut self, desk: &mut Desk<'_>) -> bool {
        self.ends.open(&self.memory, &self.info);
        let mut worked = self.parked != 0 || self.cancels_waiting != 0;
        if worked {
            self.unpark(desk);
        }
        if self.stopping {
            return worked;
        }
        for _ in 0..ACCEPT {
            if self.parked != 0 {
                break;
            }
            // Invariant 3.
            let Some(request) = self.ends.take(self.in_flight) else { break };
            worked = true;
            self.accept(&request, desk);
        }
        worked
    }

    fn complete(&mut self, _which: Which, token: u64, cqe: Cqe, desk: &mut Desk<'_>) {
        let slot = u16::try_from(token & 0xFFFF).unwrap_or(u16::MAX);
        // How a cancelling went does not matter: what it cancelled tells for itself.
        if let step @ (DATA | SYNC) = token >> 16 {
            self.landed(slot, step, cqe, desk);
        }
    }
}

impl Served for BridgeServer {
    fn stop(&mut self, desk: &mut Desk<'_>) {
        self.stopping = true;
        for slot in 0..u16::try_from(self.flights.len()).unwrap_or(u16::MAX) {
            self.cancel_slot(slot, desk);
        }
    }

    fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    /// Nobody knows any more what becomes of operations: the partition sees closed rings at its
    /// next look, gives up what it waits for, and keeps its buffers in quarantine.
    fn broken(&mut self, errno: Errno) {
        let why = format!("a ring of the reactor broke ({errno}); the device is gone");
        self.say(format_args!("{why}"));
        self.ends.close(why);
    }
}
