//! Bursts without futures: submit, ring, reap, by hand.
//!
//! For benchmarks and for code that keeps its own window of reads. A [`RawQueue`] is one of the
//! controller's I/O queues, taken out of the common use; the controller no longer reaps it, but
//! still watches its deadlines and resets it with the others. Buffers are the caller's: a
//! [`DeviceBuf`] that must not be turned back to the CPU before its token was reaped.

use core_runtime::mem::{DeviceBuf, Iova};
use nvme_spec::{Cid, Lba, Nsid, NvmOpcode, Sqe, Status, StatusCode};

use crate::error::IoError;
use crate::hub::{Gate, Hub};
use crate::queue::{Mode, PostError, QueuePair, Sink, Verdict};
use crate::shape::Shape;
use crate::stats::QueueStats;

/// A namespace, as submissions need it. A copy of its numbers when it was made.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    head: u64,
    blocks: u64,
    max_blocks: u32,
    lba_shift: u32,
}

impl Target {
    pub(crate) const fn new(nsid: Nsid, shape: Shape) -> Self {
        Self {
            head: Sqe::new(0, Cid(0), nsid).0[0],
            blocks: shape.blocks,
            max_blocks: shape.max_blocks,
            lba_shift: shape.lba_shift,
        }
    }

    /// Most blocks of one submission.
    #[must_use]
    pub const fn max_blocks(&self) -> u32 {
        self.max_blocks
    }
}

/// An I/O queue for one user. Tokens are the caller's numbers.
#[derive(Debug)]
pub struct RawQueue {
    qp: &'static QueuePair,
    hub: &'static Hub,
}

impl RawQueue {
    pub(crate) const fn new(qp: &'static QueuePair, hub: &'static Hub) -> Self {
        Self { qp, hub }
    }

    /// Submits a read of `nlb` blocks from `slba` into the start of `buf`.
    ///
    /// # Errors
    /// [`IoError::QueueFull`], [`IoError::NotReady`] during a reset, or why it is refused.
    #[inline(always)]
    pub fn submit_read(
        &self,
        target: &Target,
        slba: Lba,
        nlb: u32,
        buf: &DeviceBuf,
        token: u64,
    ) -> Result<(), IoError> {
        self.submit(NvmOpcode::READ, target, slba, nlb, buf, token)
    }

    /// Submits a write of `nlb` blocks from the start of `buf` to `slba`.
    ///
    /// # Errors
    /// As for [`RawQueue::submit_read`].
    #[inline(always)]
    pub fn submit_write(
        &self,
        target: &Target,
        slba: Lba,
        nlb: u32,
        buf: &DeviceBuf,
        token: u64,
    ) -> Result<(), IoError> {
        self.submit(NvmOpcode::WRITE, target, slba, nlb, buf, token)
    }

    #[inline(always)]
    fn submit(
        &self,
        opcode: NvmOpcode,
        target: &Target,
        slba: Lba,
        nlb: u32,
        buf: &DeviceBuf,
        token: u64,
    ) -> Result<(), IoError> {
        let nlb_z = nlb.wrapping_sub(1);
        // A start beyond the end wraps to a huge rest, which the second comparison is not asked
        // for.
        let rest = target.blocks.wrapping_sub(slba.0);
        let beyond = slba.0 >= target.blocks || u64::from(nlb) > rest;
        let len = u64::from(nlb).wrapping_shl(target.lba_shift);
        if nlb_z >= target.max_blocks || beyond || len > buf.len() as u64 {
            return Err(refused(target, slba, nlb, buf.len()));
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "nlb <= max_blocks, whose bytes have 32 bits"
        )]
        let data = (buf.iova(), len as u32);
        let head = target.head | u64::from(opcode.0);
        match self.qp.post_data(token, head, data, slba.0, u64::from(nlb_z)) {
            Ok(()) => Ok(()),
            Err(why) => Err(self.not_posted(why, buf.iova())),
        }
    }

    #[cold]
    fn not_posted(&self, why: PostError, iova: Iova) -> IoError {
        match why {
            PostError::Full => IoError::QueueFull,
            PostError::BadBuffer => IoError::Unaligned(iova.0),
            PostError::Closed if self.hub.gate.get() == Gate::Gone => IoError::Gone,
            PostError::Closed => IoError::NotReady,
        }
    }

    /// Rings the submission doorbell if anything was submitted since the last time.
    #[inline(always)]
    pub fn ring(&self) {
        self.qp.ring();
    }

    /// Takes up to `limit` completions and calls `f(token, result)` for each; `f` may submit. One
    /// completion doorbell is written at the end. Returns how many entries were taken.
    ///
    /// After a reset each lost submission is told here, once.
    #[inline(always)]
    pub fn reap(&self, limit: u16, f: impl FnMut(u64, Result<(), IoError>)) -> u16 {
        if !self.qp.is_open() {
            return self.reap_lost(f);
        }
        self.qp.reap(limit, &mut Caller(f))
    }

    #[cold]
    fn reap_lost(&self, mut f: impl FnMut(u64, Result<(), IoError>)) -> u16 {
        let error = match self.qp.mode() {
            Mode::Fenced(reason) => IoError::Reset(reason),
            Mode::Lost => IoError::Gone,
            Mode::Open | Mode::Closed => return 0,
        };
        let mut told = 0;
        self.qp.drain(|token| {
            told += 1;
            f(token, Err(error));
        });
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

#[cold]
fn refused(target: &Target, slba: Lba, nlb: u32, len: usize) -> IoError {
    let beyond = slba.0 >= target.blocks || u64::from(nlb) > target.blocks - slba.0;
    if nlb == 0 || beyond {
        return IoError::OutOfRange { slba, nlb: u64::from(nlb), blocks: target.blocks };
    }
    IoError::BadLength { len_bytes: len, lba_bytes: 1 << target.lba_shift }
}

struct Caller<F>(F);

impl<F: FnMut(u64, Result<(), IoError>)> Sink for Caller<F> {
    #[inline(always)]
    fn success(&mut self, token: u64, _: u16) {
        (self.0)(token, Ok(()));
    }

    fn failure(&mut self, _: u16, token: u64, status: Status, _: u16) -> Verdict {
        let error = match status.code() {
            StatusCode::ABORT_REQUESTED => IoError::TimedOut,
            _ => IoError::Status { status, slba: Lba(0) },
        };
        (self.0)(token, Err(error));
        Verdict::Release
    }
}
