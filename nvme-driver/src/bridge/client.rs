//! The partition's end of the bridge: requests are sent, and end. See [`super`].

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};

use core_runtime::clock::{Clock, Instant};
use core_runtime::mem::{Bump, DeviceBuf, DmaBuf};
use core_runtime::probe::{Probes, Register};
use core_runtime::ring::{Consumer, Producer};
use core_runtime::task::WakeSlot;
use hybrid_abi::bridge::{BRIDGE_CANCEL, BridgeCompletion, BridgeInfo, BridgeRequest};
use nvme_spec::{Lba, Nsid};

use super::BridgeParts;
use super::by_hand::ByHand;
use super::slot::{NONE, Slot, State, cid, uncid};
use super::wire::{kind_of, open, result_of, shape_of};
use crate::config::ControllerConfig;
use crate::error::{ControllerError, IoError};
use crate::latency::LatencyHistograms;
use crate::probes;
use crate::raw::Target;
use crate::shape::Shape;
use crate::stats::ControllerStats;
use crate::waiters::{Ticket, Waiters};

/// How often the deadlines are looked at.
const LOOK_NS: u64 = 1_000_000;

/// A device behind the bridge. Belongs to one core.
#[derive(Debug)]
pub struct Bridge {
    pub(super) shape: Shape,
    pub(super) info: BridgeInfo,
    requests: Producer<BridgeRequest>,
    completions: Consumer<BridgeCompletion>,
    pub(super) slots: &'static [Slot],
    free: Cell<u16>,
    pub(super) line: Waiters,
    clock: Clock,
    probes: &'static Probes,
    in_flight_now: Register,
    gate: Cell<Gate>,
    in_flight: Cell<u32>,
    sample_every: u32,
    until_sample: Cell<u32>,
    histograms: Cell<Option<LatencyHistograms>>,
    deadline: Patience,
    grace: Patience,
    looked: Cell<Instant>,
    stats: RefCell<ControllerStats>,
    drained: WakeSlot,
    pub(super) by_hand: ByHand,
}

/// What is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    ShutDown,
    Gone,
}

/// A limit, and how long the host has been waited for: the time that passes, but between two looks
/// at most an eighth of the limit. Whoever took this core away for longer took the time in which an
/// answer would have been seen, and as a rule the host's time too. In ticks.
#[derive(Debug)]
struct Patience {
    limit: u64,
    most: u64,
    waited: Cell<u64>,
}

impl Patience {
    fn new(limit: u64) -> Self {
        Self { limit, most: (limit / 8).max(1), waited: Cell::new(0) }
    }

    /// What will have been waited, `since` after the last look.
    fn after(&self, since: u64) -> u64 {
        self.waited.get().saturating_add(since.min(self.most))
    }

    fn pass(&self, since: u64) {
        self.waited.set(self.after(since));
    }

    fn is_over(&self, begun: u64) -> bool {
        self.waited.get().saturating_sub(begun) >= self.limit
    }
}

impl Bridge {
    /// Opens the partition's end; the host has laid out both files. Of `config` it takes depth,
    /// requests, deadlines and the sampling of latencies.
    ///
    /// # Errors
    /// [`ControllerError`] naming what is not as it should be.
    pub fn new(
        parts: BridgeParts,
        bump: &Bump,
        config: &ControllerConfig,
    ) -> Result<&'static Self, ControllerError> {
        let no_memory = |what| move |_| ControllerError::NoMemory(what);
        let (info, requests, completions) = open(parts).map_err(ControllerError::Bridge)?;
        // As many as the config would let be alive: the host takes what it can.
        let wanted = config.requests.max(config.queue_depth);
        let depth = u16::try_from(info.depth).unwrap_or(u16::MAX).min(wanted.max(1)).min(NONE - 1);
        let slots = bump
            .slice_with(usize::from(depth), |i| {
                let next = u16::try_from(i + 1).unwrap_or(NONE);
                Slot::new(if next >= depth { NONE } else { next })
            })
            .map_err(no_memory("requests"))?;
        let ticks = |ns| parts.clock.ns_to_ticks(ns).get();
        let probes = probes::or_off(parts.probes, parts.clock, bump);
        let probes = probes.map_err(no_memory("probes"))?;
        probes::BRIDGE_OPEN.emit(probes, depth.into(), 0, 0);
        bump.alloc(Self {
            shape: shape_of(&info),
            info,
            requests,
            completions,
            slots,
            free: Cell::new(0),
            line: Waiters::new(config.waiters, bump).map_err(no_memory("waiting tasks"))?,
            clock: parts.clock,
            probes,
            in_flight_now: probes.registers().add(probes::BRIDGE_IN_FLIGHT),
            gate: Cell::new(Gate::Open),
            in_flight: Cell::new(0),
            sample_every: config.latency_sampling,
            until_sample: Cell::new(1),
            histograms: Cell::new(None),
            deadline: Patience::new(ticks(config.deadline_ns)),
            grace: Patience::new(ticks(config.bridge_grace_ns)),
            looked: Cell::new(parts.clock.now()),
            stats: RefCell::new(ControllerStats::default()),
            drained: WakeSlot::new(),
            by_hand: ByHand::new(),
        })
        .map_err(no_memory("the bridge"))
    }

    // ---- what it is ------------------------------------------------------------------------

    /// Block size in bytes.
    #[must_use]
    pub const fn lba_bytes(&self) -> u32 {
        self.shape.lba_bytes
    }

    /// Size in blocks.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.shape.blocks
    }

    /// Largest transfer that the device behind it takes at once; longer requests are cut there.
    #[must_use]
    pub const fn max_transfer_bytes(&self) -> u32 {
        self.info.max_transfer_bytes
    }

    /// Most requests in flight.
    #[must_use]
    pub fn depth(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap_or(NONE)
    }

    /// What raw submissions need; the shape never changes.
    #[must_use]
    pub const fn target(&self) -> Target {
        Target::new(Nsid(1), self.shape, 0)
    }

    /// Whether the device offers all of these `BRIDGE_CAN_` bits.
    #[must_use]
    pub const fn can(&self, bits: u32) -> bool {
        self.info.capabilities & bits == bits
    }

    /// Snapshot of the counters; `orphans`, `deadlines`, `aborts`, `reads_repeated` and `io`
    /// are used.
    #[must_use]
    pub fn stats(&self) -> ControllerStats {
        let mut stats = *self.stats.borrow();
        stats.io.in_flight = self.in_flight.get();
        stats
    }

    /// Counts a read that is repeated, and may be so often more.
    pub(crate) fn count_repeat(&self, slba: Lba, left: u8) {
        self.stats.borrow_mut().reads_repeated += 1;
        probes::AGAIN.emit(self.probes, left.into(), slba.0, 0);
    }

    /// Where sampled latencies go.
    pub fn record_latencies_into(&self, histograms: LatencyHistograms) {
        self.histograms.set(Some(histograms));
    }

    // ---- starting --------------------------------------------------------------------------

    /// Sends a request; `first` passes those who wait. The buffer comes back with an error.
    #[inline]
    pub(super) fn begin(
        &self,
        request: BridgeRequest,
        buf: Option<DmaBuf>,
        (state, first): (State, bool),
    ) -> Result<u16, (IoError, Option<DmaBuf>)> {
        match self.gate.get() {
            Gate::Open => {}
            Gate::ShutDown => return Err((IoError::NotReady, buf)),
            Gate::Gone => return Err((IoError::Gone, buf)),
        }
        let index = self.free.get();
        let Some(slot) = self.slots.get(usize::from(index)) else {
            self.stats.borrow_mut().io.full += 1;
            return Err((IoError::QueueFull, buf));
        };
        if !first && !self.line.is_empty() {
            return Err((IoError::QueueFull, buf));
        }
        let generation = slot.generation.get().wrapping_add(1);
        let request = BridgeRequest { cid: cid(index, generation), ..request };
        let now = self.clock.now();
        let bytes = if request.addr == 0 { 0 } else { request.nlb << self.shape.lba_shift };
        // Before it is sent: the host may write at once.
        slot.buf.set(buf.map(DmaBuf::into_device));
        if self.requests.try_push(&request).is_err() {
            let buf = slot.buf.take().map(DeviceBuf::into_cpu);
            return Err((self.push_refused(), buf));
        }
        self.free.set(slot.next.get());
        slot.generation.set(generation);
        slot.state.set(state);
        slot.begun.set(self.deadline.after(now.since(self.looked.get()).get()));
        slot.stamp.set(self.sample().then_some(now));
        slot.kind.set(kind_of(request.op));
        slot.cancelled.set(None);
        slot.slba.set(request.slba);
        let in_flight = self.in_flight.get() + 1;
        self.in_flight.set(in_flight);
        self.in_flight_now.set(in_flight.into());
        let what = u64::from(request.op) & 0xFF | (request.nlb.wrapping_sub(1) & 0xFFFF) << 16;
        probes::BRIDGE_SUBMIT.emit_at(self.probes, now, request.cid, request.slba, what);
        let mut stats = self.stats.borrow_mut();
        stats.io.submitted += 1;
        stats.io.bytes = stats.io.bytes.wrapping_add(bytes);
        stats.io.high_water = stats.io.high_water.max(in_flight);
        Ok(index)
    }

    #[cold]
    fn push_refused(&self) -> IoError {
        if self.requests.closed().is_some() {
            self.lose();
            return IoError::Gone;
        }
        IoError::QueueFull
    }

    fn sample(&self) -> bool {
        let left = self.until_sample.get();
        if self.sample_every == 0 || left > 1 {
            self.until_sample.set(left.saturating_sub(1).max(1));
            return false;
        }
        self.until_sample.set(self.sample_every);
        true
    }

    // ---- ending ----------------------------------------------------------------------------

    /// One pass: takes completions, bounded; looks at deadlines. Returns how many were taken.
    #[inline]
    pub fn poll(&'static self, now: Instant) -> u32 {
        let most = (self.depth() / 4).max(8);
        let taken = self.take(most.into());
        // Modulo 2^64: a clock that goes back is looked at too, and counts as a pause.
        let since = now.ticks().wrapping_sub(self.looked.get().ticks());
        if since >= self.clock.ns_to_ticks(LOOK_NS).get() {
            self.look(now, since);
        }
        if self.free.get() != NONE && !self.line.is_empty() {
            self.line.wake(1);
        }
        taken
    }

    /// Takes at most `most` completions.
    pub(super) fn take(&self, most: u32) -> u32 {
        match self.completions.pop_batch(most, |completion| self.complete(completion)) {
            Ok(taken) => taken,
            Err(_) => {
                self.lose();
                0
            }
        }
    }

    fn complete(&self, completion: BridgeCompletion) {
        let (index, generation) = uncid(completion.cid);
        let slot = self.slots.get(usize::from(index));
        let Some(slot) = slot.filter(|slot| slot.in_flight()) else {
            self.stats.borrow_mut().io.ignored.free_slot += 1;
            return;
        };
        if slot.generation.get() != generation {
            self.stats.borrow_mut().io.ignored.old_generation += 1;
            return;
        }
        let result = result_of(&completion, Lba(slot.slba.get()));
        let failed = u64::from(result.is_err());
        probes::BRIDGE_COMPLETE.emit(self.probes, completion.cid, failed, 0);
        self.count(slot, result);
        self.end(index, slot, result);
    }

    fn count(&self, slot: &Slot, result: Result<(), IoError>) {
        let mut stats = self.stats.borrow_mut();
        stats.io.completed += 1;
        stats.io.failed += u64::from(result.is_err());
        if let Some(stamp) = slot.stamp.take() {
            let took = self.clock.now().since(stamp);
            stats.io.latency = stats.io.latency.record(took.get());
            self.probes.check_latency(took);
            if let Some(histograms) = self.histograms.get() {
                histograms.record(slot.kind.get(), self.clock.ticks_to_ns(took));
            }
        }
    }

    /// A request is over, by its completion or because the bridge is gone.
    fn end(&self, index: u16, slot: &Slot, result: Result<(), IoError>) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        self.in_flight_now.set(self.in_flight.get().into());
        slot.result.set(result);
        match slot.state.get() {
            State::Pending => {
                slot.state.set(State::Done);
                slot.wake.wake();
            }
            State::Orphan => {
                // Invariant 2: answered, so that it returns to the arena.
                drop(slot.buf.take().map(DeviceBuf::into_cpu));
                self.recycle(index, slot);
            }
            State::Raw(place, token) => {
                if self.by_hand.ended(self.slots, index, slot) {
                    slot.state.set(State::RawDone(place, token));
                } else {
                    self.recycle(index, slot);
                }
            }
            State::Free | State::Done | State::RawDone(..) => {}
        }
        if self.in_flight.get() == 0 {
            self.drained.wake();
        }
    }

    fn recycle(&self, index: u16, slot: &Slot) {
        slot.state.set(State::Free);
        slot.next.set(self.free.get());
        self.free.set(index);
        if !self.line.is_empty() {
            self.line.wake(1);
        }
    }

    // ---- queues that are reaped by hand ----------------------------------------------------

    /// The oldest end of a queue's request: the buffer's place, the caller's number, the result.
    pub(super) fn pop_reaped(&self) -> Option<(u16, u32, Result<(), IoError>)> {
        let (index, slot) = self.by_hand.pop(self.slots)?;
        let State::RawDone(place, token) = slot.state.get() else { return None };
        self.recycle(index, slot);
        Some((place, token, slot.result.get()))
    }

    // ---- the futures' side -----------------------------------------------------------------

    pub(super) fn poll_slot(&self, index: u16, waker: &Waker) -> Poll<Ended> {
        let Some(slot) = self.slots.get(usize::from(index)) else {
            return Poll::Ready((Err(IoError::NotReady), None));
        };
        if slot.state.get() != State::Done {
            slot.wake.register(waker);
            return Poll::Pending;
        }
        let result = slot.result.get();
        let buf = slot.buf.take();
        // Gone: the host may still write, so it is dropped as what it is.
        let buf = buf.filter(|_| result != Err(IoError::Gone));
        let ended = (result, buf.map(DeviceBuf::into_cpu));
        self.recycle(index, slot);
        Poll::Ready(ended)
    }

    pub(super) fn abandon(&self, index: u16) {
        let Some(slot) = self.slots.get(usize::from(index)) else { return };
        slot.wake.clear();
        match slot.state.get() {
            State::Pending => {
                slot.state.set(State::Orphan);
                self.stats.borrow_mut().orphans += 1;
            }
            State::Done => {
                let gone = slot.result.get() == Err(IoError::Gone);
                match slot.buf.take() {
                    Some(buf) if !gone => drop(buf.into_cpu()),
                    // Quarantined, or none.
                    Some(_) | None => {}
                }
                self.recycle(index, slot);
            }
            State::Free | State::Orphan | State::Raw(..) | State::RawDone(..) => {}
        }
    }

    pub(super) fn wait(&self, ticket: Ticket, waker: &Waker) -> Result<Ticket, IoError> {
        self.line.wait(ticket, waker)
    }

    // ---- deadlines and the end -------------------------------------------------------------

    #[cold]
    fn look(&self, now: Instant, since: u64) {
        self.deadline.pass(since);
        self.grace.pass(since);
        self.looked.set(now);
        if self.in_flight.get() == 0 {
            return;
        }
        for (index, slot) in (0_u16..).zip(self.slots) {
            if !slot.in_flight() {
                continue;
            }
            if let Some(asked) = slot.cancelled.get() {
                if self.grace.is_over(asked) {
                    self.lose();
                    return;
                }
            } else if self.deadline.is_over(slot.begun.get()) {
                let target = cid(index, slot.generation.get());
                let cancel =
                    BridgeRequest { op: BRIDGE_CANCEL, slba: target.into(), ..Default::default() };
                // Without room it is tried again at the next look.
                if self.requests.try_push(&cancel).is_ok() {
                    slot.cancelled.set(Some(self.grace.after(0)));
                    let mut stats = self.stats.borrow_mut();
                    stats.deadlines += 1;
                    stats.aborts += 1;
                }
            }
        }
    }

    /// The host broke the rules or does not answer: everything in flight is lost, its buffers too.
    #[cold]
    fn lose(&self) {
        if self.gate.get() == Gate::Gone {
            return;
        }
        self.gate.set(Gate::Gone);
        probes::BRIDGE_LOST.emit(self.probes, self.in_flight.get(), 0, 0);
        self.requests.close();
        self.completions.close();
        for (index, slot) in (0_u16..).zip(self.slots) {
            if slot.in_flight() {
                self.stats.borrow_mut().io.lost += 1;
                // An orphan's buffer is dropped as the device's: quarantined.
                if slot.state.get() == State::Orphan {
                    drop(slot.buf.take());
                }
                self.end(index, slot, Err(IoError::Gone));
            }
        }
        self.line.wake(u16::MAX);
    }

    /// Whether the host is not to be had any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gate.get() == Gate::Gone
    }

    /// Takes nothing more, and waits for what is in flight; deadlines bound it.
    ///
    /// # Errors
    /// [`ControllerError::BridgeGone`].
    pub async fn shutdown(&'static self) -> Result<(), ControllerError> {
        if self.gate.get() == Gate::Open {
            self.gate.set(Gate::ShutDown);
            self.line.wake(u16::MAX);
        }
        poll_fn(|cx| {
            if self.in_flight.get() == 0 {
                return Poll::Ready(());
            }
            self.drained.register(cx.waker());
            Poll::Pending
        })
        .await;
        if self.is_gone() { Err(ControllerError::BridgeGone) } else { Ok(()) }
    }
}

/// How a request ended, and its buffer if there was one that the host no longer has.
pub(super) type Ended = (Result<(), IoError>, Option<DmaBuf>);
