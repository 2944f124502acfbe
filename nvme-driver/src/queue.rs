//! A queue pair: posts entries, rings doorbells, reaps completions. The heart of the hot path.
//!
//! Used by [`crate::requests`] (futures), [`crate::raw`] (bursts without futures) and the admin
//! side of [`crate::controller`]. It knows slots and tokens, not buffers, futures or namespaces. It
//! has no type parameter and makes no indirect call: queues and doorbells are plain mapped memory
//! on every backend.
//!
//! Invariants:
//! 1. A ring of N entries has at most N - 1 slots, so the submission queue cannot overflow: a
//!    command that was completed was fetched, so what is not yet fetched is never more than what is
//!    in flight. SQHD is therefore not needed for flow control, and not trusted.
//! 2. A completion is believed only if its SQID is ours and its CID is the very one that its slot
//!    expects; everything else is counted and dropped ([`Ignored`]).
//! 3. Nothing is posted and no doorbell is written while the queue is not [`Mode::Open`].
//! 4. One submission doorbell write a pass, if the tail moved.
//! 5. The completion doorbell is written together with the submission doorbell, next to which it
//!    lies, and only where it matters: whenever a quarter of the ring was taken since, and before
//!    commands in flight could find less room for their completions than the device knows of. Else
//!    both sides would pass that cache line to and fro once more for each batch. Housekeeping tells
//!    the rest ([`QueuePair::acknowledge_all`]).
//!
//! Units: indices count entries; epochs are eighths of the deadline.

mod crash;
mod rare;

use core::cell::Cell;

use core_runtime::clock::Clock;
use core_runtime::mem::{
    Bump, CqMem, DmaArena, Doorbell, DoorbellRegion, Iova, OutOfMemory, PrpList, ShadowDoorbell,
    SqMem,
};
use core_runtime::probe::{Probes, Register};
use nvme_spec::{Cqe, QueueId, Status};

pub(crate) use crash::Outstanding;

use crate::cid::{CidLayout, NO_CID};
use crate::error::{ControllerError, ResetReason};
use crate::latency::{LatencyHistograms, Stamp};
use crate::probes;
use crate::prp::{self, Rest};
use crate::slot::{NO_SLOT, STAMPED, Slot};
use crate::stats::{Count, Ignored, LatencySummary};

/// Epochs that make up a deadline; the tag's 8 bits hold many times that.
pub(crate) const EPOCHS_PER_DEADLINE: u8 = 8;

/// Share of the ring that one poll reaps: the rest waits, so that tasks get their turn.
const REAP_SHARE: u16 = 4;

/// Share of the ring that may be taken before the device is told of it.
const ACKNOWLEDGE_SHARE: u16 = 4;

/// Completions in a cache line.
const CQES_PER_LINE: u16 = 4;

/// Whether the queue may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Commands may be posted.
    Open,
    /// Not yet made, or a reset is under way: hands off queue memory and doorbells.
    Closed,
    /// The device has let go of everything; what was in flight is to be ended with this reason.
    Fenced(ResetReason),
    /// As [`Mode::Fenced`], but the device never confirmed: buffers stay quarantined.
    Lost,
}

/// Why a command was not posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PostError {
    /// All slots are taken.
    Full,
    /// The queue is not open.
    Closed,
    /// The buffer is not dword aligned, or empty.
    BadBuffer,
}

/// What the owner of a failed command decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Done with it.
    Release,
    /// Keep the slot; it will be posted again.
    Hold,
}

/// What one reap did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reaped {
    /// Entries consumed.
    pub taken: u16,
    /// Those of them that answered a command.
    pub delivered: u16,
}

/// Where completions go. `entry` is the completion's index, good until the reap ends.
pub(crate) trait Sink {
    /// A command succeeded; its slot is free already.
    fn success(&mut self, token: u64, entry: u16);
    /// A command failed; its slot is free after the verdict.
    fn failure(&mut self, slot: u16, token: u64, status: Status, entry: u16) -> Verdict;
}

/// A queue pair. Belongs to one core.
#[derive(Debug)]
#[repr(C)]
pub struct QueuePair {
    // What submit and reap touch comes first, in three cache lines.
    slots: &'static [Slot],
    free: Cell<u16>,
    sq_tail: Cell<u16>,
    cq_head: Cell<u16>,
    entries: u16,
    qid: u16,
    layout: CidLayout,
    in_flight: Cell<u16>,
    sqhd: Cell<u16>,
    sq_rung: Cell<u16>,
    /// Completion queue head that the device knows.
    cq_rung: Cell<u16>,
    /// What the last reap that found something took.
    last_taken: Cell<u16>,
    epoch: Cell<u8>,
    open: Cell<bool>,
    /// Entries are written past the caches.
    stream: Cell<bool>,
    sample_in: Cell<u32>,
    /// Phase bit that a new completion carries, at its place in the high word.
    phase: Cell<u64>,
    page_shift: u32,
    submitted: Count,
    completed: Count,
    /// Bytes of the data commands posted; retries are not counted again.
    bytes: Count,
    sq: SqMem,
    cq: CqMem,
    sq_doorbell: Doorbell,
    cq_doorbell: Doorbell,
    /// Shadows of both, where the controller has been told of them.
    shadows: Cell<Option<(ShadowDoorbell, ShadowDoorbell)>>,
    lists: Option<PrpList>,
    list_stride: usize,
    probes: &'static Probes,
    in_flight_now: Register,
    // The rest is for rare events.
    max_len: u32,
    /// After a batch of so many entries the next ones are written past the caches.
    stream_from: u16,
    mode: Cell<Mode>,
    reopen: Cell<bool>,
    parked_free: Cell<u16>,
    held: Cell<u16>,
    sample_every: u32,
    stamps: &'static [Cell<Stamp>],
    clock: Clock,
    histograms: Cell<Option<LatencyHistograms>>,
    cold: Cold,
}

/// Counters of rare events.
#[derive(Debug, Default)]
struct Cold {
    ignored: Cell<Ignored>,
    bad_sqhd: Count,
    failed: Count,
    lost: Count,
    retries: Count,
    full: Cell<u64>,
    high_water: Cell<u16>,
    sq_doorbells: Count,
    cq_doorbells: Count,
    latency: Cell<LatencySummary>,
}

/// How to make a queue pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueSpec {
    pub qid: u16,
    /// Ring size, 2 to 4,096.
    pub entries: u16,
    pub page_bytes: u64,
    /// Largest transfer; 0 for a queue whose commands bring no PRP lists.
    pub max_len: u32,
    /// One command in so many is stamped; 0 is none.
    pub sample_every: u32,
    /// After a batch of so many entries the next ones are written past the caches; 0 is never.
    pub stream_from: u16,
}

impl QueuePair {
    /// Makes a queue pair and all its memory; it starts [`Mode::Closed`].
    pub(crate) fn new(
        spec: QueueSpec,
        doorbells: DoorbellRegion,
        arena: &'static DmaArena,
        (clock, probes): (Clock, &'static Probes),
        bump: &Bump,
    ) -> Result<Self, ControllerError> {
        let no_memory = ControllerError::NoMemory("queues");
        let (qid, depth) = (spec.qid, spec.entries.saturating_sub(1));
        let layout = CidLayout::new(depth).ok_or(ControllerError::Config("queue depth"))?;
        // First, so that nothing was taken if there are none.
        let no_doorbell = ControllerError::NoDoorbell(QueueId(spec.qid));
        let sq_doorbell = doorbells.sq_tail(qid).map_err(|_| no_doorbell)?;
        let cq_doorbell = doorbells.cq_head(qid).map_err(|_| no_doorbell)?;
        let align = usize::try_from(spec.page_bytes).map_err(|_| no_memory)?;
        let shared = |len: usize| arena.alloc_shared(len, align).map_err(|_| no_memory);
        let entries = u32::from(spec.entries);
        let sq = SqMem::new(shared(usize::from(spec.entries) * 64)?, entries);
        let cq = CqMem::new(shared(usize::from(spec.entries) * 16)?, entries);
        let list_stride = stride(prp::list_entries(spec.max_len, spec.page_bytes), align);
        let lists = match list_stride * usize::from(depth) * prp::ENTRY_BYTES {
            0 => None,
            bytes => Some(PrpList::new(shared(bytes)?).map_err(|_| no_memory)?),
        };
        let slots = make_slots(depth, layout, bump);
        let stamps = bump.slice_with(usize::from(depth), |_| Cell::new(Stamp::default()));
        Ok(Self {
            slots: slots.map_err(|_| no_memory)?,
            free: Cell::new(NO_SLOT),
            sq_tail: Cell::new(0),
            cq_head: Cell::new(0),
            entries: spec.entries,
            qid,
            layout,
            in_flight: Cell::new(0),
            sqhd: Cell::new(0),
            sq_rung: Cell::new(0),
            cq_rung: Cell::new(0),
            last_taken: Cell::new(0),
            epoch: Cell::new(0),
            open: Cell::new(false),
            stream: Cell::new(false),
            sample_in: Cell::new(spec.sample_every.wrapping_sub(1)),
            phase: Cell::new(Cqe::PHASE),
            page_shift: spec.page_bytes.trailing_zeros(),
            submitted: Count::default(),
            completed: Count::default(),
            bytes: Count::default(),
            sq: sq.map_err(|_| no_memory)?,
            cq: cq.map_err(|_| no_memory)?,
            sq_doorbell,
            cq_doorbell,
            shadows: Cell::new(None),
            lists,
            list_stride,
            probes,
            in_flight_now: probes.registers().add(probes::IN_FLIGHT),
            max_len: spec.max_len,
            stream_from: if spec.stream_from == 0 { u16::MAX } else { spec.stream_from },
            mode: Cell::new(Mode::Closed),
            reopen: Cell::new(false),
            parked_free: Cell::new(0),
            held: Cell::new(0),
            sample_every: spec.sample_every,
            stamps: stamps.map_err(|_| no_memory)?,
            clock,
            histograms: Cell::new(None),
            cold: Cold::default(),
        })
    }

    // ---- submission ------------------------------------------------------------------------

    /// Posts the entry that `words` makes for the slot it is given; the CID is filled in here.
    #[inline(always)]
    pub(crate) fn post(
        &self,
        token: u64,
        words: impl FnOnce(u16) -> [u64; 8],
    ) -> Result<(), PostError> {
        let index = self.free.get();
        let Some(slot) = self.slots.get(usize::from(index)) else {
            return Err(self.refuse());
        };
        let words = words(index);
        self.free.set(slot.word().next());
        self.write(index, slot, token, words);
        Ok(())
    }

    /// Posts a command that transfers `len` bytes at `iova`. `head` is the first word without its
    /// CID; `cdw10` and `cdw12` are the words at those dwords.
    #[inline(always)]
    pub(crate) fn post_data(
        &self,
        token: u64,
        head: u64,
        (iova, len): (Iova, u32),
        cdw10: u64,
        cdw12: u64,
    ) -> Result<(), PostError> {
        let Ok(rest) = prp::rest(iova, len, self.page_shift) else {
            return Err(PostError::BadBuffer);
        };
        self.post(token, |slot| {
            let prp2 = match rest {
                Rest::Nothing => 0,
                Rest::Page(second) => second.0,
                Rest::List { first, pages } => self.write_list(slot, first, pages),
            };
            [head, 0, 0, iova.0, prp2, cdw10, cdw12, 0]
        })?;
        self.bytes.add(len.into());
        Ok(())
    }

    #[inline(always)]
    fn write(&self, index: u16, slot: &Slot, token: u64, mut sqe: [u64; 8]) {
        let cid = self.layout.next(slot.word().last());
        let mut tag = u16::from(self.epoch.get());
        let left = self.sample_in.get();
        if left == 0 {
            tag |= self.stamp(index, sqe[0]);
        } else {
            self.sample_in.set(left.wrapping_sub(1));
        }
        slot.post(cid, tag, token);
        sqe[0] |= u64::from(cid) << 16;
        let tail = self.sq_tail.get();
        self.sq_tail.set(self.after(tail));
        // At most as many as there are slots.
        self.in_flight.set(self.in_flight.get().wrapping_add(1));
        self.submitted.add(1);
        let blocks = sqe[6] & 0xFFFF;
        let what = sqe[0] & 0xFF | blocks << 16;
        probes::SUBMIT.emit(self.probes, self.command(cid), sqe[5], what);
        // Last, so that nothing has to be loaded again after the stores to the ring.
        if self.stream.get() {
            self.sq.stream(tail, &sqe);
        } else {
            self.sq.write(tail, &sqe);
        }
    }

    /// Writes a list for `pages` pages from `first` into the slot's list memory; its address.
    #[inline(never)]
    fn write_list(&self, slot: u16, first: Iova, pages: u32) -> u64 {
        let Some(lists) = &self.lists else {
            // `max_len` keeps such a command away; an address that faults is the safe answer.
            return 0;
        };
        let base = usize::from(slot) * self.list_stride;
        let at = lists.iova_of(base);
        prp::list(first, pages, at, 1 << self.page_shift, |i, page| {
            lists.set(base + i, page);
        });
        at.0
    }

    /// Stamps a sampled command whose first two dwords are `head`; returns the flag for its tag.
    #[cold]
    fn stamp(&self, index: u16, head: u64) -> u16 {
        if self.sample_every == 0 {
            // Off: the countdown starts from its top again.
            self.sample_in.set(u32::MAX);
            return 0;
        }
        self.sample_in.set(self.sample_every - 1);
        if let Some(stamp) = self.stamps.get(usize::from(index)) {
            stamp.set(Stamp::now(self.clock, head));
        }
        STAMPED
    }

    /// A command as probes name it.
    #[inline(always)]
    const fn command(&self, cid: u16) -> u32 {
        (self.qid as u32) << 16 | cid as u32
    }

    #[cold]
    fn refuse(&self) -> PostError {
        if self.open.get() {
            let in_flight = u64::from(self.in_flight.get());
            probes::FULL.emit(self.probes, self.qid.into(), in_flight, 0);
            self.cold.full.set(self.cold.full.get() + 1);
            PostError::Full
        } else {
            PostError::Closed
        }
    }

    #[inline(always)]
    const fn after(&self, index: u16) -> u16 {
        let next = index.wrapping_add(1);
        if next == self.entries { 0 } else { next }
    }

    /// Writes the submission doorbell if the tail moved since the last time.
    #[inline(always)]
    pub fn ring(&self) {
        let tail = self.sq_tail.get();
        if tail != self.sq_rung.get() {
            if self.stream.get() {
                self.sq.settle();
            }
            let rung = self.sq_rung.replace(tail);
            self.stream.set(self.distance(rung, tail) >= self.stream_from);
            let unknown = self.unacknowledged();
            // Both are less than the ring, so the sum has 16 bits.
            let most = unknown.wrapping_add(self.in_flight.get());
            if unknown > self.entries / ACKNOWLEDGE_SHARE || most >= self.entries {
                self.acknowledge();
            }
            match self.shadows.get() {
                Some((shadow, _)) if !shadow.store(rung, tail) && self.qid != 0 => {}
                _ => {
                    self.sq_doorbell.ring(u32::from(tail));
                    self.cold.sq_doorbells.add(1);
                }
            }
            self.tell_depth();
            if probes::DOORBELL.is_on(self.probes) {
                self.rung();
            }
        }
    }

    /// Commands in flight only get more between two reaps: when a doorbell rings they are the most.
    #[inline(always)]
    fn tell_depth(&self) {
        let depth = self.in_flight.get();
        self.in_flight_now.set(depth.into());
        if depth > self.cold.high_water.get() {
            self.cold.high_water.set(depth);
        }
    }

    /// Whether commands can be posted and completions come.
    #[inline(always)]
    pub(crate) fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Whether a command can be posted now.
    #[inline(always)]
    pub(crate) fn has_room(&self) -> bool {
        self.free.get() != NO_SLOT
    }

    // ---- completion ------------------------------------------------------------------------

    /// Takes up to `limit` completions.
    #[inline(always)]
    pub(crate) fn reap(&self, limit: u16, sink: &mut impl Sink) -> Reaped {
        if !self.open.get() {
            return Reaped::default();
        }
        let entry = self.cq_head.get();
        let high = self.cq.high(entry);
        if !self.is_new(high) || limit == 0 {
            return Reaped::default();
        }
        self.look_ahead(entry, limit, |at| self.cq.prefetch(at));
        // Looked at once: within a reap probes may be frozen, but never come on.
        if probes::COMPLETE.is_on(self.probes) {
            self.reap_traced(high, limit, sink)
        } else {
            self.reap_from::<false>(high, limit, sink)
        }
    }

    #[cold]
    #[inline(never)]
    fn reap_traced(&self, high: u64, limit: u16, sink: &mut impl Sink) -> Reaped {
        self.reap_from::<true>(high, limit, sink)
    }

    /// Takes completions up to the limit, of which the next one is there: `high` is its upper half.
    #[inline(always)]
    fn reap_from<const TRACED: bool>(
        &self,
        mut high: u64,
        limit: u16,
        sink: &mut impl Sink,
    ) -> Reaped {
        let mut taken = 0_u16;
        let mut delivered = 0_u16;
        loop {
            let entry = self.cq_head.get();
            // Both are at most `limit`.
            taken = taken.wrapping_add(1);
            self.advance(entry);
            delivered = delivered.wrapping_add(self.take::<TRACED>(entry, high, sink));
            if taken >= limit {
                break;
            }
            high = self.cq.high(self.cq_head.get());
            if !self.is_new(high) {
                break;
            }
        }
        self.last_taken.set(taken);
        self.completed.add(u64::from(delivered));
        self.in_flight.set(self.in_flight.get().wrapping_sub(delivered));
        Reaped { taken, delivered }
    }

    /// Whether an entry with this upper half was posted since the ring's last round.
    #[inline(always)]
    fn is_new(&self, high: u64) -> bool {
        (high ^ self.phase.get()) & Cqe::PHASE == 0
    }

    /// Asks for the lines of the completions that are likely to be there: as many as last time.
    #[inline(always)]
    fn look_ahead(&self, entry: u16, limit: u16, ask: impl Fn(u16)) {
        let likely = self.last_taken.get().min(self.in_flight.get()).min(limit);
        let mut ahead = CQES_PER_LINE;
        while ahead < likely {
            let at = entry.wrapping_add(ahead);
            let at = if at >= self.entries { at.wrapping_sub(self.entries) } else { at };
            ask(at);
            ahead = ahead.wrapping_add(CQES_PER_LINE);
        }
    }

    /// Completions taken that the device was not told of.
    #[inline(always)]
    fn unacknowledged(&self) -> u16 {
        self.distance(self.cq_rung.get(), self.cq_head.get())
    }

    /// Tells the device what was taken.
    #[inline(always)]
    fn acknowledge(&self) {
        let head = self.cq_head.get();
        let rung = self.cq_rung.replace(head);
        match self.shadows.get() {
            Some((_, shadow)) if !shadow.store(rung, head) && self.qid != 0 => {}
            _ => {
                self.cq_doorbell.ring(u32::from(head));
                self.cold.cq_doorbells.add(1);
            }
        }
    }

    #[inline(always)]
    fn advance(&self, entry: u16) {
        let next = self.after(entry);
        self.cq_head.set(next);
        if next == 0 {
            self.phase.set(self.phase.get() ^ Cqe::PHASE);
        }
    }

    /// Believes or drops one completion; 1 if it was delivered.
    #[inline(always)]
    fn take<const TRACED: bool>(&self, entry: u16, high: u64, sink: &mut impl Sink) -> u16 {
        let cqe = Cqe::from_words(0, high);
        let cid = cqe.cid().0;
        let index = self.layout.slot(cid);
        let slot = match self.slots.get(usize::from(index)) {
            Some(slot) if slot.word().live() == cid && cqe.sqid().0 == self.qid => slot,
            _ => {
                self.ignore(&cqe);
                return 0;
            }
        };
        self.check_sqhd(cqe.sqhd());
        if TRACED {
            let status = u64::from(cqe.status().code().0);
            probes::COMPLETE.emit(self.probes, self.command(cid), status, entry.into());
        }
        if slot.word().tag() & STAMPED != 0 {
            self.sample(index);
        }
        let token = slot.token();
        let status = cqe.status();
        if status.is_success() {
            slot.release(self.free.get());
            self.free.set(index);
            sink.success(token, entry);
        } else {
            self.fail(entry, index, status, sink);
        }
        1
    }

    #[cold]
    #[inline(never)]
    fn fail(&self, entry: u16, index: u16, status: Status, sink: &mut impl Sink) {
        let Some(slot) = self.slots.get(usize::from(index)) else {
            return;
        };
        self.cold.failed.add(1);
        match sink.failure(index, slot.token(), status, entry) {
            Verdict::Release => self.release(index, slot),
            Verdict::Hold => {
                slot.hold();
                self.held.set(self.held.get() + 1);
            }
        }
    }

    /// Puts a slot back on the free list, wherever that is now.
    fn release(&self, index: u16, slot: &Slot) {
        let list = if self.open.get() { &self.free } else { &self.parked_free };
        slot.release(list.get());
        list.set(index);
    }

    /// SQHD may only move forward, and not past the tail. Counted, and otherwise ignored.
    #[inline(always)]
    fn check_sqhd(&self, sqhd: u16) {
        let last = self.sqhd.get();
        let moved = self.distance(last, sqhd);
        if sqhd >= self.entries || moved > self.distance(last, self.sq_tail.get()) {
            self.cold.bad_sqhd.add(1);
        } else {
            self.sqhd.set(sqhd);
        }
    }

    #[inline(always)]
    const fn distance(&self, from: u16, to: u16) -> u16 {
        let wrapped = to.wrapping_sub(from);
        if to < from { wrapped.wrapping_add(self.entries) } else { wrapped }
    }

    /// Counts a completion that belongs to no command.
    #[cold]
    #[inline(never)]
    fn ignore(&self, cqe: &Cqe) {
        let mut ignored = self.cold.ignored.get();
        let cid = cqe.cid().0;
        let status = u64::from(cqe.status().code().0);
        probes::IGNORED.emit(
            self.probes,
            u32::from(cqe.sqid().0) << 16 | u32::from(cid),
            status,
            0,
        );
        match self.slots.get(usize::from(self.layout.slot(cid))) {
            _ if cqe.sqid().0 != self.qid => ignored.sqid += 1,
            None => ignored.cid_beyond += 1,
            Some(slot) if slot.word().live() != NO_CID => ignored.old_generation += 1,
            Some(slot) if slot.word().last() == cid => ignored.duplicate += 1,
            Some(_) => ignored.free_slot += 1,
        }
        self.cold.ignored.set(ignored);
    }

    /// The result (dword 0) of the completion at `entry`, while it is being delivered.
    pub(crate) fn result(&self, entry: u16) -> u32 {
        Cqe::from_words(self.cq.low(entry), 0).result()
    }

    /// Most entries that one poll takes.
    #[inline(always)]
    pub(crate) const fn reap_limit(&self) -> u16 {
        let share = self.entries / REAP_SHARE;
        if share == 0 { 1 } else { share }
    }
}

/// Slots that are all on the free list.
fn make_slots(depth: u16, layout: CidLayout, bump: &Bump) -> Result<&'static [Slot], OutOfMemory> {
    let slots = bump.slice_with(usize::from(depth), |i| {
        let slot = u16::try_from(i).unwrap_or(NO_SLOT);
        let next = if slot + 1 == depth { NO_SLOT } else { slot + 1 };
        Slot::new(layout.before_first(slot), next)
    })?;
    Ok(slots)
}

/// List entries a slot: a power of two up to a page, whole pages beyond, so that a list never
/// crosses a page without a link.
const fn stride(entries: usize, page_bytes: usize) -> usize {
    let per_page = page_bytes / prp::ENTRY_BYTES;
    if entries == 0 {
        0
    } else if entries <= per_page {
        entries.next_power_of_two()
    } else {
        entries.div_ceil(per_page) * per_page
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
