//! Requests in progress on one queue pair: they own buffers, are cut into commands, are retried,
//! orphaned and answered.
//!
//! Used by the futures ([`crate::future`]) and polled by the controller. Knows nothing of
//! namespaces. A request outlives its future: dropped, it becomes an orphan whose buffer returns to
//! the arena when the device has answered, or after a reset that was confirmed.
//!
//! ```text
//!          start                 last command ended              taken
//!   Free ---------> Pending ------------------------> Done -------------> Free
//!                      | future dropped                | future dropped     ^
//!                      v                               +--------------------+
//!                    Orphan ------ last command ended ----------------------+
//! ```
//!
//! Invariants:
//! 1. A request that is Pending or Orphan has at least one command in flight or held.
//! 2. Its buffer is a [`DeviceBuf`] until the last command ended; it becomes the CPU's only if each
//!    command was answered, or the device was fenced. Else it is dropped as what it is:
//!    quarantined.

use core::cell::Cell;
use core::fmt;
use core::task::{Poll, Waker};

use core_runtime::clock::{Instant, Ticks};
use core_runtime::mem::{Bump, DeviceBuf, DmaBuf};
use core_runtime::task::WakeSlot;
use nvme_spec::{Status, StatusCode};

use crate::error::{ControllerError, IoError, ResetReason};
use crate::queue::{Mode, PostError, QueuePair, Sink, Verdict};
use crate::request::{Request, Retry};
use crate::split::Split;
use crate::stats::Count;
use crate::waiters::Waiters;

/// End of the free list.
const NONE: u16 = u16::MAX;

/// Marks a token that is not a request's; the admin side's own commands carry it.
pub(crate) const INTERNAL: u64 = 1 << 63;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Pending,
    Orphan,
    Done,
}

/// Why a request did not start.
#[derive(Debug)]
pub(crate) struct NotStarted {
    pub why: PostError,
    pub buf: Option<DmaBuf>,
}

/// How a request ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub result: Result<(), IoError>,
    /// The buffer, unless it is quarantined (or there was none).
    pub buf: Option<DmaBuf>,
}

/// One request in progress.
struct Op {
    state: Cell<State>,
    /// A command was lost without the device's confirmation: the buffer stays the device's.
    unconfirmed: Cell<bool>,
    next: Cell<u16>,
    /// Commands in flight or held.
    outstanding: Cell<u32>,
    next_part: Cell<u32>,
    parts: Cell<u32>,
    request: Cell<Request>,
    buf: Cell<Option<DeviceBuf>>,
    result: Cell<Result<(), IoError>>,
    wake: WakeSlot,
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Op({:?}, {} outstanding, part {} of {})",
            self.state.get(),
            self.outstanding.get(),
            self.next_part.get(),
            self.parts.get()
        )
    }
}

impl Op {
    fn new(next: u16) -> Self {
        let nothing = Request {
            head: 0,
            slba: 0,
            iova: core_runtime::mem::Iova(0),
            unit_bytes: 0,
            cdw12: 0,
            split: Split { nlb: 0, max: 1 },
            retry: Retry::Never,
        };
        Self {
            state: Cell::new(State::Free),
            unconfirmed: Cell::new(false),
            next: Cell::new(next),
            outstanding: Cell::new(0),
            next_part: Cell::new(0),
            parts: Cell::new(0),
            request: Cell::new(nothing),
            buf: Cell::new(None),
            result: Cell::new(Ok(())),
            wake: WakeSlot::new(),
        }
    }

    /// Whether commands that were not posted yet are still wanted.
    #[inline(always)]
    fn wants_more(&self) -> bool {
        self.next_part.get() < self.parts.get()
            && self.state.get() == State::Pending
            && self.result.get().is_ok()
    }
}

/// How errors without DNR are retried. Delays are indexed by CRD.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RetryPolicy {
    pub retries: u8,
    pub delays: [Ticks; 4],
}

/// Requests on one queue pair.
#[derive(Debug)]
pub(crate) struct Requests {
    qp: QueuePair,
    ops: &'static [Op],
    free: Cell<u16>,
    /// Shared by the queues that serve the same line.
    waiters: &'static Waiters,
    policy: Cell<RetryPolicy>,
    /// When a held slot is due, by slot.
    due: &'static [Cell<Instant>],
    now: Cell<Instant>,
    orphans: Count,
}

/// A token names a request (bits 0-15), a part of it (16-47) and the tries before (48-55).
const fn token(op: u16, part: u32, tries: u8) -> u64 {
    op as u64 | (part as u64) << 16 | (tries as u64) << 48
}

#[expect(clippy::cast_possible_truncation, reason = "fields of a token")]
const fn untoken(token: u64) -> (u16, u32, u8) {
    (token as u16, (token >> 16) as u32, (token >> 48) as u8)
}

impl Requests {
    /// Room for `count` requests on `qp`; who finds it taken waits in `waiters`.
    pub(crate) fn new(
        qp: QueuePair,
        count: u16,
        waiters: &'static Waiters,
        bump: &Bump,
    ) -> Result<Self, ControllerError> {
        let no_memory = ControllerError::NoMemory("requests");
        let count = count.min(NONE - 1);
        let ops = bump.slice_with(usize::from(count), |i| {
            let next = u16::try_from(i + 1).unwrap_or(NONE);
            Op::new(if next >= count { NONE } else { next })
        });
        let zero = Instant::from_ticks(0);
        let due = bump.slice_with(usize::from(qp.depth()), |_| Cell::new(zero));
        Ok(Self {
            qp,
            ops: ops.map_err(|_| no_memory)?,
            free: Cell::new(0),
            waiters,
            policy: Cell::new(RetryPolicy::default()),
            due: due.map_err(|_| no_memory)?,
            now: Cell::new(zero),
            orphans: Count::default(),
        })
    }

    pub(crate) const fn qp(&self) -> &QueuePair {
        &self.qp
    }

    pub(crate) const fn waiters(&self) -> &'static Waiters {
        self.waiters
    }

    pub(crate) fn set_policy(&self, policy: RetryPolicy) {
        self.policy.set(policy);
    }

    pub(crate) fn orphans(&self) -> u64 {
        self.orphans.get()
    }

    #[inline(always)]
    fn op(&self, index: u16) -> Option<&Op> {
        self.ops.get(usize::from(index))
    }

    // ---- for crash records -----------------------------------------------------------------

    /// The words of the entry that a request's token stands for, without addresses; `None` for our
    /// own, and for one that makes no sense.
    pub(crate) fn words_of(&self, token: u64) -> Option<[u64; 8]> {
        let (index, part, _) = untoken(token);
        if token & INTERNAL != 0 {
            return None;
        }
        let request = self.op(index)?.request.get();
        let [w5, w6] = request.command(part).tail;
        Some([request.head, 0, 0, 0, 0, w5, w6, 0])
    }

    /// Tries before the one that a token stands for.
    pub(crate) fn tries(&self, token: u64) -> u8 {
        if token & INTERNAL != 0 { 0 } else { untoken(token).2 }
    }

    // ---- starting --------------------------------------------------------------------------

    /// Whether there is a slot and a place for a request.
    #[inline(always)]
    pub(crate) fn has_room(&self) -> bool {
        self.qp.has_room() && self.free.get() != NONE
    }

    /// Whether a newcomer may start now: there is room and nobody waits for it.
    #[inline(always)]
    pub(crate) fn is_free(&self) -> bool {
        self.has_room() && self.waiters.is_empty()
    }

    /// Starts a request; as many of its commands are posted as there is room for, at least one.
    #[inline]
    pub(crate) fn start(&self, request: Request, buf: Option<DmaBuf>) -> Result<u16, NotStarted> {
        let index = self.free.get();
        let Some(op) = self.op(index) else {
            let why = PostError::Full;
            return Err(NotStarted { why, buf });
        };
        if let Err(why) = self.post(&request, index, 0) {
            return Err(NotStarted { why, buf });
        }
        self.free.set(op.next.get());
        op.state.set(State::Pending);
        op.unconfirmed.set(false);
        op.outstanding.set(1);
        op.next_part.set(1);
        op.parts.set(request.parts());
        op.result.set(Ok(()));
        op.request.set(request);
        op.buf.set(buf.map(DmaBuf::into_device));
        if request.parts() > 1 {
            self.post_more(index, op, true);
        }
        Ok(index)
    }

    #[inline(always)]
    fn post(&self, request: &Request, index: u16, part: u32) -> Result<(), PostError> {
        let command = request.command(part);
        let [w5, w6] = command.tail;
        let token = token(index, part, 0);
        if command.len == 0 || request.iova.0 == 0 {
            return self.qp.post(token, |_| [request.head, 0, 0, 0, 0, w5, w6, 0]);
        }
        let data = (command.iova, command.len);
        self.qp.post_data(token, request.head, data, w5, w6)
    }

    /// Posts further commands of a request: one, or as many as there is room for.
    #[inline(never)]
    fn post_more(&self, index: u16, op: &Op, all: bool) {
        let request = op.request.get();
        while op.wants_more() && (self.qp.has_room() || op.outstanding.get() == 0) {
            let part = op.next_part.get();
            match self.post(&request, index, part) {
                Ok(()) => {
                    op.next_part.set(part + 1);
                    op.outstanding.set(op.outstanding.get() + 1);
                }
                Err(PostError::Full) if op.outstanding.get() != 0 => return,
                Err(_) => {
                    // Nothing of it is in flight that could carry it on.
                    op.result.set(Err(IoError::NotReady));
                    return;
                }
            }
            if !all {
                return;
            }
        }
    }

    // ---- ending ----------------------------------------------------------------------------

    /// One command of the request is over.
    #[inline(always)]
    fn command_over(&self, index: u16, op: &Op) {
        // Invariant 1: it was at least one.
        op.outstanding.set(op.outstanding.get().wrapping_sub(1));
        if op.wants_more() {
            // As deep as there is room for, unless somebody waits for it.
            self.post_more(index, op, self.waiters.is_empty());
        }
        if op.outstanding.get() == 0 {
            self.finish(index, op);
        }
    }

    #[inline(always)]
    fn finish(&self, index: u16, op: &Op) {
        if op.state.get() == State::Orphan {
            self.bury(index, op);
        } else {
            op.state.set(State::Done);
            op.wake.wake();
        }
    }

    /// The end of an orphan: its buffer returns to the arena, or is quarantined.
    #[cold]
    fn bury(&self, index: u16, op: &Op) {
        drop(self.take_buf(op));
        self.recycle(index, op);
    }

    #[inline(always)]
    fn take_buf(&self, op: &Op) -> Option<DmaBuf> {
        let buf = op.buf.take()?;
        if op.unconfirmed.get() {
            // Dropped as the device's: quarantined.
            return None;
        }
        Some(buf.into_cpu())
    }

    #[inline(always)]
    fn recycle(&self, index: u16, op: &Op) {
        op.state.set(State::Free);
        op.next.set(self.free.get());
        self.free.set(index);
    }

    /// Keeps the first error of a request.
    fn note(&self, op: &Op, error: IoError) {
        if op.result.get().is_ok() {
            op.result.set(Err(error));
        }
    }

    // ---- the future's side -----------------------------------------------------------------

    /// Asks how a request is doing; the answer is given once.
    #[inline]
    pub(crate) fn poll_op(&self, index: u16, waker: &Waker) -> Poll<Ended> {
        let Some(op) = self.op(index) else {
            let result = Err(IoError::NotReady);
            return Poll::Ready(Ended { result, buf: None });
        };
        if op.state.get() != State::Done {
            op.wake.register(waker);
            return Poll::Pending;
        }
        let ended = Ended { result: op.result.get(), buf: self.take_buf(op) };
        self.recycle(index, op);
        Poll::Ready(ended)
    }

    /// The future is dropped.
    pub(crate) fn abandon(&self, index: u16) {
        let Some(op) = self.op(index) else { return };
        op.wake.clear();
        match op.state.get() {
            State::Pending => {
                op.state.set(State::Orphan);
                self.orphans.add(1);
            }
            State::Done => self.bury(index, op),
            State::Free | State::Orphan => {}
        }
    }

    // ---- the controller's side -------------------------------------------------------------

    /// Takes completions (a quarter of the ring at most), posts retries that are due, wakes those
    /// who wait for room. Returns how many entries were taken.
    #[inline]
    pub(crate) fn poll(&self, now: Instant, internal: &mut impl Internal) -> u16 {
        self.now.set(now);
        let mut router = Router { requests: self, internal };
        let taken = self.qp.reap(self.qp.reap_limit(), &mut router).taken;
        if self.qp.unfinished() != self.qp.in_flight() {
            self.repost_due(now);
        }
        if !self.waiters.is_empty() {
            self.wake_waiters();
        }
        taken
    }

    #[inline(never)]
    fn wake_waiters(&self) {
        // While the queue is closed there is nothing to be had; who waits is woken when that ends.
        if self.has_room() {
            let room = self.qp.depth() - self.qp.unfinished().min(self.qp.depth());
            self.waiters.wake(room.max(1));
        }
    }

    #[cold]
    fn repost_due(&self, now: Instant) {
        let longest = self.policy.get().delays.iter().map(|delay| delay.get()).max().unwrap_or(0);
        self.qp.each_held(|slot, held| {
            let (index, part, tries) = untoken(held);
            let Some(op) = self.op(index) else { return };
            if op.state.get() == State::Orphan || op.result.get().is_err() {
                self.qp.release_held(slot);
                self.command_over(index, op);
                return;
            }
            let Some(due) = self.due.get(usize::from(slot)) else { return };
            // More than the longest delay ahead is not ahead: the clock went back.
            let ahead = due.get().ticks().wrapping_sub(now.ticks());
            if (1..=longest).contains(&ahead) {
                return;
            }
            let request = op.request.get();
            let command = request.command(part);
            let [w5, w6] = command.tail;
            let prp2 = self.qp.prp2(slot, command.iova, command.len);
            let sqe = [request.head, 0, 0, command.iova.0, prp2, w5, w6, 0];
            let again = token(index, part, tries.saturating_add(1));
            // A closed queue keeps it held until the fence.
            let _ = self.qp.repost(slot, again, sqe);
        });
    }

    /// Ends everything that was in flight when the queue was fenced.
    pub(crate) fn drain(&self, internal: &mut impl Internal) {
        let (error, unconfirmed) = match self.qp.mode() {
            Mode::Fenced(reason) => (IoError::Reset(reason), false),
            Mode::Lost => (IoError::Gone, true),
            Mode::Open | Mode::Closed => return,
        };
        self.qp.drain(|token| {
            if token & INTERNAL != 0 {
                internal.lost(token);
                return;
            }
            let (index, _, _) = untoken(token);
            let Some(op) = self.op(index) else { return };
            if unconfirmed {
                op.unconfirmed.set(true);
            }
            self.note(op, error);
            self.command_over(index, op);
        });
        self.waiters.wake(u16::MAX);
    }

    /// What an error status leads to.
    fn judge(&self, op: &Op, part: u32, tries: u8, status: Status) -> Option<Ticks> {
        let policy = self.policy.get();
        let request = op.request.get();
        let code = status.code();
        let most = match code {
            // Somebody ended it on purpose, or the answer is the result.
            StatusCode::ABORT_REQUESTED
            | StatusCode::ABORTED_SQ_DELETION
            | StatusCode::COMPARE_FAILURE
            // The log above stops at these; silently going on is what it must not see.
            | StatusCode::WRITE_FAULT
            | StatusCode::CAPACITY_EXCEEDED => 0,
            StatusCode::DATA_TRANSFER_ERROR => policy.retries.min(1),
            _ => policy.retries,
        };
        let wanted = op.state.get() == State::Pending && op.result.get().is_ok();
        if !status.dnr() && request.retry == Retry::Allowed && wanted && tries < most {
            let delay = policy.delays.get(usize::from(status.crd()));
            return Some(delay.copied().unwrap_or_default());
        }
        let error = match code {
            StatusCode::ABORT_REQUESTED => IoError::TimedOut,
            StatusCode::ABORTED_SQ_DELETION => IoError::Reset(ResetReason::QueueReset),
            _ => IoError::Status { status, slba: request.slba_of(part) },
        };
        self.note(op, error);
        None
    }
}

/// Where answers to the admin side's own commands go.
pub(crate) trait Internal {
    /// A command was answered.
    fn answered(&mut self, token: u64, result: Result<u32, Status>);
    /// A command was lost in a reset.
    fn lost(&mut self, token: u64);
}

/// For queues that carry requests only.
pub(crate) struct NoInternal;

impl Internal for NoInternal {
    fn answered(&mut self, _: u64, _: Result<u32, Status>) {}
    fn lost(&mut self, _: u64) {}
}

/// Sends completions to requests, or to the admin side.
struct Router<'a, I> {
    requests: &'a Requests,
    internal: &'a mut I,
}

impl<I: Internal> Sink for Router<'_, I> {
    #[inline(always)]
    fn success(&mut self, token: u64, entry: u16) {
        if token & INTERNAL != 0 {
            let result = self.requests.qp.result(entry);
            self.internal.answered(token, Ok(result));
            return;
        }
        let (index, _, _) = untoken(token);
        if let Some(op) = self.requests.op(index) {
            self.requests.command_over(index, op);
        }
    }

    fn failure(&mut self, slot: u16, token: u64, status: Status, _: u16) -> Verdict {
        if token & INTERNAL != 0 {
            self.internal.answered(token, Err(status));
            return Verdict::Release;
        }
        let (index, part, tries) = untoken(token);
        let Some(op) = self.requests.op(index) else {
            return Verdict::Release;
        };
        match self.requests.judge(op, part, tries, status) {
            Some(delay) => {
                if let Some(due) = self.requests.due.get(usize::from(slot)) {
                    let now = self.requests.now.get();
                    due.set(now.checked_add(delay).unwrap_or(now));
                }
                Verdict::Hold
            }
            None => {
                self.requests.command_over(index, op);
                Verdict::Release
            }
        }
    }
}
