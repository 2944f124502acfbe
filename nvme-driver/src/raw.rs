//! Bursts without futures: submit, ring, reap, by hand.
//!
//! For benchmarks and for code that keeps its own window of reads. A [`RawQueue`] is one of the
//! controller's I/O queues, taken out of the common use; the controller no longer reaps it, but
//! still watches its deadlines and resets it with the others.
//!
//! Invariants:
//! 1. The buffers are the queue's: adopted once, named by their place, and counted while commands
//!    use them. The CPU sees one only while nothing is in flight on it ([`RawQueue::with_buf`]),
//!    and during that time no command can be submitted on it ([`crate::places`]).
//! 2. A command that was lost without the device's confirmation leaves its buffer counted for ever:
//!    it is never seen again, and quarantined when the queue is dropped.

use core::cell::Cell;
use core::fmt;

use core_runtime::mem::{Bump, DmaBuf, Iova, OutOfMemory};
use nvme_spec::{Cid, Lba, Nsid, NvmOpcode, Sqe, Status, StatusCode};

use crate::error::IoError;
use crate::hub::{Gate, Hub};
use crate::places::{Place, Places};
use crate::queue::{Mode, PostError, QueuePair, Sink, Verdict};
use crate::shape::Shape;
use crate::stats::QueueStats;

/// A namespace, as submissions need it. A copy of its numbers when it was made; refused once a
/// namespace has changed in a reset.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    head: u64,
    blocks: u64,
    max_blocks: u32,
    lba_shift: u32,
    generation: u32,
}

impl Target {
    pub(crate) const fn new(nsid: Nsid, shape: Shape, generation: u32) -> Self {
        Self {
            head: Sqe::new(0, Cid(0), nsid).0[0],
            blocks: shape.blocks,
            max_blocks: shape.max_blocks,
            lba_shift: shape.lba_shift,
            generation,
        }
    }

    /// Most blocks of one submission.
    #[must_use]
    pub const fn max_blocks(&self) -> u32 {
        self.max_blocks
    }

    const fn nsid(&self) -> Nsid {
        Nsid((self.head >> 32) as u32)
    }
}

/// An I/O queue for one user, and its buffers. Tokens are the caller's numbers.
///
/// Dropped, it gives its buffers back to the arena, but for those that the device may still write,
/// which are quarantined. A queue that was idle returns to the common use at once, another one
/// after its next reset.
pub struct RawQueue {
    qp: &'static QueuePair,
    hub: &'static Hub,
    /// Its bit in the hub's masks.
    bit: u32,
    places: Places,
    /// Losses are being told: a reap from inside the callback finds nothing.
    telling: Cell<bool>,
}

impl RawQueue {
    /// A queue with room for `capacity` buffers.
    pub(crate) fn new(
        (qp, index): (&'static QueuePair, u16),
        hub: &'static Hub,
        capacity: u16,
        bump: &Bump,
    ) -> Result<Self, OutOfMemory> {
        let places = Places::new(capacity, bump)?;
        Ok(Self { qp, hub, bit: 1 << index, places, telling: Cell::new(false) })
    }

    // ---- buffers ---------------------------------------------------------------------------

    /// Takes a buffer and returns the number that submissions name it by: the lowest that is free,
    /// from 0.
    ///
    /// # Errors
    /// The buffer, if there are as many as the queue was taken with room for.
    pub fn adopt(&self, buf: DmaBuf) -> Result<u16, DmaBuf> {
        self.places.adopt(buf)
    }

    /// Gives buffer `index` back; `None` if there is none, or something is in flight on it.
    pub fn release(&self, index: u16) -> Option<DmaBuf> {
        self.places.release(index)
    }

    /// Calls `f` with the bytes of buffer `index`; `None` if there is none, or something is in
    /// flight on it. Inside of `f` the buffer cannot be submitted.
    pub fn with_buf<R>(&self, index: u16, f: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        self.places.with_buf(index, f)
    }

    // ---- submission ------------------------------------------------------------------------

    /// Submits a read of `nlb` blocks from `slba` into the start of buffer `buf`.
    ///
    /// # Errors
    /// [`IoError::QueueFull`], [`IoError::NotReady`] during a reset and after a shutdown was asked
    /// for, [`IoError::NamespaceChanged`] if any namespace did since the target was made, or why it
    /// is refused.
    #[inline(always)]
    pub fn submit_read(
        &self,
        target: &Target,
        slba: Lba,
        nlb: u32,
        buf: u16,
        token: u32,
    ) -> Result<(), IoError> {
        self.submit(NvmOpcode::READ, (target, slba, nlb), buf, token)
    }

    /// Submits a write of `nlb` blocks from the start of buffer `buf` to `slba`.
    ///
    /// # Errors
    /// As for [`RawQueue::submit_read`].
    #[inline(always)]
    pub fn submit_write(
        &self,
        target: &Target,
        slba: Lba,
        nlb: u32,
        buf: u16,
        token: u32,
    ) -> Result<(), IoError> {
        self.submit(NvmOpcode::WRITE, (target, slba, nlb), buf, token)
    }

    #[inline(always)]
    fn submit(
        &self,
        opcode: NvmOpcode,
        (target, slba, nlb): (&Target, Lba, u32),
        index: u16,
        token: u32,
    ) -> Result<(), IoError> {
        let Some(place) = self.places.get(index) else {
            return Err(self.refused(target, slba, nlb, 0));
        };
        let nlb_z = nlb.wrapping_sub(1);
        // A start beyond the end wraps to a huge rest, which the second comparison is not asked
        // for.
        let rest = target.blocks.wrapping_sub(slba.0);
        let beyond = slba.0 >= target.blocks || u64::from(nlb) > rest;
        let len = u64::from(nlb).wrapping_shl(target.lba_shift);
        let stale = target.generation != self.hub.generation.get();
        if nlb_z >= target.max_blocks || beyond || len > u64::from(place.len()) || stale {
            return Err(self.refused(target, slba, nlb, place.len()));
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "nlb <= max_blocks, whose bytes have 32 bits"
        )]
        let data = (place.iova(), len as u32);
        let head = target.head | u64::from(opcode.0);
        // Counted first, so that nothing has to be loaded again after the stores to the ring.
        let busy = place.post();
        match self.qp.post_data(pack(index, token), head, data, slba.0, u64::from(nlb_z)) {
            Ok(()) => Ok(()),
            Err(why) => {
                place.not_posted(busy);
                Err(self.not_posted(why, data.0))
            }
        }
    }

    #[cold]
    fn not_posted(&self, why: PostError, iova: Iova) -> IoError {
        match why {
            PostError::Full => IoError::QueueFull,
            PostError::BadBuffer => IoError::Unaligned(iova.0),
            PostError::Closed => self.closed(),
        }
    }

    fn closed(&self) -> IoError {
        if self.hub.gate.get() == Gate::Gone { IoError::Gone } else { IoError::NotReady }
    }

    #[cold]
    fn refused(&self, target: &Target, slba: Lba, nlb: u32, len: u32) -> IoError {
        if target.generation != self.hub.generation.get() {
            return match self.hub.gate.get() {
                Gate::ShutDown | Gate::Gone => self.closed(),
                _ => IoError::NamespaceChanged(target.nsid()),
            };
        }
        let beyond = slba.0 >= target.blocks || u64::from(nlb) > target.blocks - slba.0;
        if nlb == 0 || beyond {
            return IoError::OutOfRange { slba, nlb: u64::from(nlb), blocks: target.blocks };
        }
        let len_bytes = usize::try_from(len).unwrap_or(usize::MAX);
        IoError::BadLength { len_bytes, lba_bytes: 1 << target.lba_shift }
    }

    /// Rings the submission doorbell if anything was submitted since the last time.
    #[inline(always)]
    pub fn ring(&self) {
        self.qp.ring();
    }

    // ---- completion ------------------------------------------------------------------------

    /// Takes up to `limit` completions and calls `f(token, result)` for each that answers a
    /// submission; `f` may submit. One completion doorbell is written at the end. Returns how often
    /// `f` was called: entries that answer nothing are counted in [`RawQueue::stats`] alone.
    ///
    /// After a reset each lost submission is told here, once.
    #[inline(always)]
    pub fn reap(&self, limit: u16, f: impl FnMut(u32, Result<(), IoError>)) -> u16 {
        if !self.qp.is_open() {
            return self.reap_lost(f);
        }
        self.qp.reap(limit, &mut Caller { places: self.places.all(), f }).delivered
    }

    #[cold]
    fn reap_lost(&self, mut f: impl FnMut(u32, Result<(), IoError>)) -> u16 {
        let (error, confirmed) = match self.qp.mode() {
            Mode::Fenced(reason) => (IoError::Reset(reason), true),
            Mode::Lost => (IoError::Gone, false),
            Mode::Open | Mode::Closed => return 0,
        };
        if self.telling.replace(true) {
            return 0;
        }
        let mut told = 0;
        self.qp.drain(|packed| {
            told += 1;
            let (index, token) = unpack(packed);
            if confirmed && let Some(place) = self.places.get(index) {
                place.ended();
            }
            f(token, Err(error));
        });
        self.telling.set(false);
        told
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.qp.unfinished() == 0
    }

    /// Most submissions in flight.
    #[must_use]
    pub const fn depth(&self) -> u16 {
        self.qp.depth()
    }

    /// Snapshot of the counters.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        self.qp.stats()
    }
}

impl Drop for RawQueue {
    fn drop(&mut self) {
        // Losses that nobody heard of yet, but whose buffers may be free.
        self.reap_lost(|_, _| {});
        self.places.give_back();
        self.hub.give_back(self.bit, self.is_idle());
    }
}

impl fmt::Debug for RawQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawQueue").field("qp", &self.qp).finish_non_exhaustive()
    }
}

/// The queue's token: the caller's, and the buffer's number.
const fn pack(index: u16, token: u32) -> u64 {
    token as u64 | (index as u64) << 32
}

#[expect(clippy::cast_possible_truncation, reason = "fields of a token")]
const fn unpack(packed: u64) -> (u16, u32) {
    ((packed >> 32) as u16, packed as u32)
}

struct Caller<F> {
    places: &'static [Place],
    f: F,
}

impl<F: FnMut(u32, Result<(), IoError>)> Caller<F> {
    #[inline(always)]
    fn tell(&mut self, packed: u64, result: Result<(), IoError>) {
        let (index, token) = unpack(packed);
        if let Some(place) = self.places.get(usize::from(index)) {
            place.ended();
        }
        (self.f)(token, result);
    }
}

impl<F: FnMut(u32, Result<(), IoError>)> Sink for Caller<F> {
    #[inline(always)]
    fn success(&mut self, token: u64, _: u16) {
        self.tell(token, Ok(()));
    }

    fn failure(&mut self, _: u16, token: u64, status: Status, _: u16) -> Verdict {
        let error = match status.code() {
            StatusCode::ABORT_REQUESTED => IoError::TimedOut,
            _ => IoError::Status { status, slba: Lba(0) },
        };
        self.tell(token, Err(error));
        Verdict::Release
    }
}
