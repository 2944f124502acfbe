//! The host's end of the bridge: a source of the reactor that serves one partition.
//!
//! It takes requests off the partition's ring, checks each ([`check`]), keeps it in the slot that
//! the partition named, carries it out in as many operations as its storage wants ([`flight`]), and
//! answers once. Transfers go to and from DMA memory where it lies.
//!
//! Invariants:
//! 1. Nothing that a partition wrote is an index or an address before [`check`] has seen it; each
//!    word of a request is loaded once.
//! 2. A slot is taken from the acceptance of its request to its completion; a second request in it
//!    is refused.
//! 3. A request is taken off the ring only if its completion is sure to find room: a partition that
//!    does not take completions gets no more requests served, and nothing is lost.
//! 4. After a flush that failed, every later flush and FUA write fails too: what was written since
//!    the last good one is unknown, and no retry makes it known.

mod check;
mod flight;
#[cfg(test)]
mod tests;

use core_runtime::mem::DmaRegion;
use core_runtime::ring::{Consumer, PopError, Producer, RingError, RingSpec};
use hybrid_abi::bridge::{
    BRIDGE_CAN_DISCARD, BRIDGE_CAN_WRITE, BRIDGE_CAN_ZERO, BRIDGE_CANCEL, BRIDGE_CANCELLED,
    BRIDGE_DONE, BRIDGE_ERRNO, BRIDGE_NVME, BRIDGE_REFUSED, BRIDGE_SHORT, BRIDGE_UNFLUSHED,
    BRIDGE_WRITE_CACHE, BridgeCompletion, BridgeInfo, BridgeRequest, REFUSED_BUSY,
};
use hybrid_shm::{OutOfBounds, ReadSpan, Span};
use zerocopy::IntoBytes;

use super::pool::{BufferPool, PoolBuf};
use super::reactor::{Desk, Source};
use super::rings::Which;
use super::target::{Target, Way};
use super::thread::Served;
use crate::sys::uring::{Cqe, File, Op};
use check::{Job, Kind, Rules};
use flight::{FIXED_BYTES, Flight, Next, Outcome, RANGE_BYTES, Road};

/// Requests taken in one turn.
const ACCEPT: u32 = 64;

/// Times that an operation is tried again which the kernel put off (`EAGAIN`, `EINTR`).
const RETRIES: u8 = 64;

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

/// The memory of a bridge, laid out by the host.
#[derive(Clone, Copy, Debug)]
pub struct BridgeMemory {
    /// The host's file.
    pub own: Span<'static>,
    /// The partition's file.
    pub peer: ReadSpan<'static>,
    /// DMA memory.
    pub dma: DmaRegion,
}

/// Both rings' ends.
enum Ends {
    /// The partition has not made its parts yet.
    Waiting,
    Open(Consumer<BridgeRequest>, Producer<BridgeCompletion>),
    /// For this reason.
    Closed(String),
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
    pool: Option<BufferPool>,
    range: Option<PoolBuf>,
    /// IOPOLL is used for transfers.
    polled: bool,
    flush_failed: bool,
    stopping: bool,
    parked: u32,
    tell: Box<dyn Fn(String) + Send>,
    stats: BridgeStats,
}

/// What the partition is told of its device.
#[must_use]
pub fn info_of(target: &Target, depth: u32, epoch: u64) -> BridgeInfo {
    let limits = target.limits();
    let mut info = BridgeInfo::new(limits.lba_bytes, limits.blocks, depth, epoch);
    info.max_transfer_bytes = limits.max_transfer_bytes;
    info.buffer_align = limits.buffer_align;
    let bit = |has: bool, bit: u32| if has { bit } else { 0 };
    info.capabilities = bit(target.writable(), BRIDGE_CAN_WRITE)
        | bit(limits.zeroes.is_some(), BRIDGE_CAN_ZERO)
        | bit(limits.discard.is_some(), BRIDGE_CAN_DISCARD)
        | bit(limits.write_cache, BRIDGE_WRITE_CACHE);
    info
}

/// Lays out the host's file: what the partition is told, and the host's parts of both rings.
///
/// # Errors
/// [`RingError`] if it is too short.
pub fn lay_out(own: Span<'static>, info: &BridgeInfo) -> Result<(), RingError> {
    let (requests, completions) = specs(info)?;
    let part = |(at, len)| own.sub(at, len);
    completions.make_producer_part(part(info.completions_producer())?)?;
    requests.make_consumer_part(part(info.requests_consumer())?)?;
    own.write(8, info.as_bytes().split_at(8).1)?;
    own.word64(0)?.store_release(info.magic);
    Ok(())
}

fn specs(info: &BridgeInfo) -> Result<(RingSpec, RingSpec), RingError> {
    let requests = RingSpec::fixed::<BridgeRequest>(info.ring_slots)?.with_epoch(info.epoch);
    let completions = RingSpec::fixed::<BridgeCompletion>(info.ring_slots)?.with_epoch(info.epoch);
    Ok((requests, completions))
}

impl BridgeServer {
    /// A server for `target`. `fixed` is the number of the registered buffer that DMA memory begins
    /// with, `file` how operations name the target; `pool` serves Dataset Management; `tell` gets
    /// what should be read by somebody.
    #[must_use]
    pub fn new(
        (info, memory): (BridgeInfo, BridgeMemory),
        (target, file): (Target, File),
        (fixed, pool): (Option<u16>, Option<BufferPool>),
        polled: bool,
        tell: Box<dyn Fn(String) + Send>,
    ) -> Self {
        let limits = target.limits();
        let write = target.writable();
        let mut pool = pool;
        let range = pool.as_mut().and_then(BufferPool::acquire);
        Self {
            rules: Rules { limits, write, depth: info.depth, dma: memory.dma },
            road: Road { way: target.way(), file, limits, fixed },
            info,
            memory,
            target,
            ends: Ends::Waiting,
            flights: (0..info.depth).map(|_| None).collect(),
            in_flight: 0,
            pool,
            range,
            polled,
            flush_failed: false,
            stopping: false,
            parked: 0,
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
        match &self.ends {
            Ends::Closed(why) => Some(why),
            Ends::Waiting | Ends::Open(..) => None,
        }
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

    /// Opens the rings once the partition has made its parts.
    fn open(&mut self) {
        let parts = || -> Result<_, RingError> {
            let (request_spec, completion_spec) = specs(&self.info)?;
            let own = |(at, len)| self.memory.own.sub(at, len);
            let peer = |(at, len)| self.memory.peer.sub(at, len);
            let requests = Consumer::<BridgeRequest>::new(
                own(self.info.requests_consumer())?,
                peer(self.info.requests_producer())?,
                request_spec,
            )?;
            let completions = Producer::<BridgeCompletion>::new(
                own(self.info.completions_producer())?,
                peer(self.info.completions_consumer())?,
                completion_spec,
            )?;
            Ok((requests, completions))
        };
        match parts() {
            Ok((requests, completions)) => self.ends = Ends::Open(requests, completions),
            Err(RingError::PeerNotReady) => {}
            Err(error) => self.ends = Ends::Closed(error.to_string()),
        }
    }

    /// The next request, if there is one and room for its answer.
    fn take(&mut self) -> Option<BridgeRequest> {
        let Ends::Open(requests, completions) = &self.ends else { return None };
        // Invariant 3.
        match completions.has_room(self.in_flight + 1) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(closed) => {
                self.ends = Ends::Closed(closed.to_string());
                return None;
            }
        }
        match requests.pop() {
            Ok(request) => Some(request),
            Err(PopError::Empty) => None,
            Err(error) => {
                self.ends = Ends::Closed(error.to_string());
                None
            }
        }
    }

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
                self.answer(request.cid, (BRIDGE_REFUSED, code));
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

    fn answer(&mut self, cid: u32, (kind, detail): Outcome) {
        let completion = BridgeCompletion { cid, kind, reserved: 0, detail };
        if let Ends::Open(_, completions) = &self.ends {
            // There is room (invariant 3), unless the partition broke its index: closed then.
            let _ = completions.try_push(&completion);
        }
    }

    // ---- operations ------------------------------------------------------------------------

    fn flight(&mut self, slot: u16) -> Option<&mut Flight> {
        self.flights.get_mut(usize::from(slot))?.as_mut()
    }

    /// Gives the kernel the next operation of a request, or ends it.
    fn issue(&mut self, slot: u16, desk: &mut Desk<'_>) {
        let ranges = self.ranges();
        let (road, polled, failed) = (self.road, self.polled, self.flush_failed);
        let Some(flight) = self.flight(slot) else { return };
        let durable = flight.job.fua || flight.job.kind == Kind::Flush;
        if durable && failed {
            flight.outcome = Some((BRIDGE_UNFLUSHED, 0));
            return self.finish(slot);
        }
        let next = road.next(flight, ranges);
        flight.fixed = next.as_ref().is_some_and(Next::is_fixed);
        let Some(Next { op, chunk, sync }) = next else {
            flight.outcome = Some((BRIDGE_ERRNO, libc::EINVAL as u64));
            return self.finish(slot);
        };
        let transfer = matches!(flight.job.kind, Kind::Read | Kind::Write);
        flight.which = if polled && transfer && sync.is_none() { Which::Poll } else { Which::Main };
        let which = flight.which;
        let number = u64::from(slot);
        let (data, synced) = (number | DATA << 16, number | SYNC << 16);
        let pushed = match &sync {
            Some(sync) => desk.push_linked(which, (&op, data), (sync, synced)),
            None => desk.push(which, &op, data),
        };
        let was_parked = flight.parked;
        flight.parked = pushed.is_err();
        if pushed.is_ok() {
            flight.chunk = chunk;
            flight.outstanding = 1 + u8::from(sync.is_some());
            flight.synced = sync.is_some() || matches!(op, Op::Sync { .. });
            self.stats.operations += 1;
            self.parked -= u32::from(was_parked);
        } else if !was_parked {
            self.parked += 1;
            self.stats.parked += 1;
        }
    }

    fn ranges(&self) -> Option<crate::sys::uring::Buf> {
        self.pool.as_ref()?.buf(self.range.as_ref()?, RANGE_BYTES)
    }

    /// Operations that found no room try again.
    fn unpark(&mut self, desk: &mut Desk<'_>) {
        for slot in 0..u16::try_from(self.flights.len()).unwrap_or(u16::MAX) {
            if self.parked == 0 {
                return;
            }
            if self.flight(slot).is_some_and(|flight| flight.parked) {
                self.issue(slot, desk);
            }
        }
    }

    /// One completion of a flight.
    fn landed(&mut self, slot: u16, step: u64, cqe: Cqe, desk: &mut Desk<'_>) {
        let shift = self.road.limits.lba_bytes;
        let passthrough = matches!(self.road.way, Way::Passthrough { .. });
        let Some(flight) = self.flight(slot) else { return };
        flight.outstanding = flight.outstanding.saturating_sub(1);
        let flush = flight.job.kind == Kind::Flush;
        match (step, cqe.result) {
            (SYNC, 0..) => {}
            // What it was linked behind did not succeed in full; that goes on, or told why.
            (SYNC, result) if result == -libc::ECANCELED => flight.synced = false,
            (SYNC, result) => {
                flight.outcome = flight.outcome.or(Some(errno(result)));
                self.flush_failed = true;
            }
            (_, result) if result == -libc::EAGAIN || result == -libc::EINTR => {
                flight.retries += 1;
                flight.synced = false;
                if flight.retries > RETRIES {
                    flight.outcome = flight.outcome.or(Some(errno(result)));
                }
            }
            (_, result) if result < 0 => return self.failed(slot, result, desk),
            (_, status) if passthrough && status > 0 => {
                let status = u64::try_from(status).unwrap_or(0);
                flight.outcome = flight.outcome.or(Some((BRIDGE_NVME, status)));
                self.flush_failed |= flush;
            }
            // A file's sync said so when it was issued; an NVMe flush is one by its answer.
            _ if flush => flight.synced = true,
            (_, result) => moved(flight, passthrough, result, shift),
        }
        self.settle(slot, desk);
    }

    /// An operation ended with an error of the kernel.
    fn failed(&mut self, slot: u16, result: i32, desk: &mut Desk<'_>) {
        let (path, way) = (self.target.path().display().to_string(), self.road.way);
        let Some(flight) = self.flight(slot) else { return };
        let unpollable = result == -libc::EOPNOTSUPP || result == -libc::EINVAL;
        let by_command = matches!(way, Way::Passthrough { .. });
        if by_command && flight.fixed && result == -libc::EINVAL {
            // Before Linux 6.12 passthrough counts all segments of a registered buffer, not those
            // of the transfer, and refuses a large one. The same command goes without.
            if self.road.fixed.take().is_some() {
                (self.tell)(format!(
                    "{path}: without registered buffers: this kernel refuses them for passthrough \
                     (EINVAL); pages are looked up and pinned for each transfer"
                ));
            }
        } else if flight.which == Which::Poll && unpollable {
            // Not this one only: the ring cannot do it. The same operation goes to the main ring.
            if std::mem::replace(&mut self.polled, false) {
                let error = std::io::Error::from_raw_os_error(-result);
                (self.tell)(format!(
                    "{path}: without IOPOLL: the first transfer was refused ({error}); completions \
                     come by interrupt"
                ));
            }
        } else {
            let cancelled = flight.cancelled && result == -libc::ECANCELED;
            let outcome = if cancelled { (BRIDGE_CANCELLED, 0) } else { errno(result) };
            flight.outcome = flight.outcome.or(Some(outcome));
            self.flush_failed |= !cancelled && flight.job.kind == Kind::Flush;
        }
        self.settle(slot, desk);
    }

    /// Goes on with a request of which nothing is in flight, or ends it.
    fn settle(&mut self, slot: u16, desk: &mut Desk<'_>) {
        let Some(flight) = self.flight(slot) else { return };
        if flight.outstanding != 0 {
            return;
        }
        let unsynced = flight.job.fua && flight.is_whole() && !flight.synced;
        let passthrough = matches!(self.road.way, Way::Passthrough { .. });
        let Some(flight) = self.flight(slot) else { return };
        if flight.outcome.is_none() && flight.cancelled && !flight.is_whole() {
            flight.outcome = Some((BRIDGE_CANCELLED, 0));
        }
        if flight.outcome.is_some() || flight.is_whole() && (passthrough || !unsynced) {
            self.finish(slot);
        } else {
            self.issue(slot, desk);
        }
    }

    /// Answers a request and frees its slot.
    fn finish(&mut self, slot: u16) {
        let shrank = self.flight(slot).is_some_and(|flight| flight.job.kind == Kind::Flush)
            && self.target.shrank();
        let place = self.flights.get_mut(usize::from(slot)).and_then(Option::take);
        let Some(flight) = place else { return };
        self.in_flight -= 1;
        self.parked -= u32::from(flight.parked);
        let outcome = match flight.outcome {
            Some(outcome) => outcome,
            None if shrank => {
                self.flush_failed = true;
                (BRIDGE_SHORT, 0)
            }
            None => (BRIDGE_DONE, 0),
        };
        self.stats.failed += u64::from(outcome.0 != BRIDGE_DONE);
        if matches!(flight.job.kind, Kind::Read | Kind::Write) {
            self.stats.bytes += flight.done;
        }
        self.answer(flight.job.cid, outcome);
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
        flight.cancelled = true;
        let which = flight.which;
        if flight.parked {
            flight.outcome = flight.outcome.or(Some((BRIDGE_CANCELLED, 0)));
            return self.finish(slot);
        }
        let number = u64::from(slot);
        // Without room the operation ends by itself, or at the partition's next look.
        let _ = desk.cancel(which, number | DATA << 16, number | CANCEL << 16);
    }
}

/// An error of the kernel as an outcome.
fn errno(result: i32) -> Outcome {
    (BRIDGE_ERRNO, u64::from(result.unsigned_abs()))
}

/// Data moved: all of the chunk, a part of it, or nothing.
fn moved(flight: &mut Flight, passthrough: bool, result: i32, lba_bytes: u32) {
    let whole = passthrough || matches!(flight.job.kind, Kind::Zeroes | Kind::Discard);
    let bytes = if whole { flight.chunk } else { u64::try_from(result).unwrap_or(0) };
    flight.done += bytes;
    let partial = bytes < flight.chunk;
    if partial && (bytes == 0 || !bytes.is_multiple_of(lba_bytes.into())) {
        // The end of a file that shrank; a write that moved nothing has no room.
        let outcome = match flight.job.kind {
            Kind::Read => (BRIDGE_SHORT, 0),
            _ => (BRIDGE_ERRNO, libc::ENOSPC as u64),
        };
        flight.outcome = flight.outcome.or(Some(outcome));
    }
}

impl Source for BridgeServer {
    fn turn(&mut self, desk: &mut Desk<'_>) -> bool {
        if matches!(self.ends, Ends::Waiting) {
            self.open();
        }
        let mut worked = self.parked != 0;
        if self.parked != 0 {
            self.unpark(desk);
        }
        if self.stopping {
            return worked;
        }
        for _ in 0..ACCEPT {
            if self.parked != 0 {
                break;
            }
            let Some(request) = self.take() else { break };
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

    fn polls(&self) -> bool {
        !self.stopping && !matches!(self.ends, Ends::Closed(_))
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
}
