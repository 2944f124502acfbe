//! A request that the kernel has: how far it is, and what its next operation is.

use hybrid_shm::{OutOfBounds, Span};
use nvme_spec::{Cdw12Io, Cid, DsmAttributes, DsmRange, Lba, Nsid, NvmOpcode, Sqe};
use zerocopy::IntoBytes;

use crate::sys::uring::{Buf, File, NvmeIo, Op};
use crate::uring::rings::Which;
use crate::uring::target::{Limits, Way};

use super::check::{Job, Kind};

/// How a request ended: a kind of `hybrid_abi::bridge` and its detail.
pub(super) type Outcome = (u16, u64);

/// Bytes of one registered buffer: the kernel takes no longer ones.
pub(super) const FIXED_BYTES: usize = 1 << 30;

/// Blocks that one Write Zeroes covers at most: its count has 16 bits, from zero.
const MOST_ZEROES: u64 = 1 << 16;

/// Blocks of one range of Dataset Management.
const MOST_RANGE: u64 = u32::MAX as u64;

/// Bytes of a page of the kernel's cache.
const PAGE_BYTES: u32 = 4096;

/// Memory for the ranges of Dataset Management: one for each slot, because a drive reads it at
/// whatever time until the slot's command is over.
#[derive(Clone, Copy, Debug)]
pub struct Ranges {
    memory: Span<'static>,
    fixed: Option<u16>,
}

impl Ranges {
    /// In `memory`, which is the registered buffer `fixed`, if it is registered.
    #[must_use]
    pub const fn new(memory: Span<'static>, fixed: Option<u16>) -> Self {
        Self { memory, fixed }
    }

    /// Bytes that so many slots want.
    #[must_use]
    pub const fn bytes(depth: u32) -> usize {
        depth as usize * size_of::<DsmRange>()
    }

    fn of(&self, slot: u16) -> Option<Buf> {
        let len = size_of::<DsmRange>();
        let span = self.memory.sub(usize::from(slot) * len, len).ok()?;
        Some(Buf { span, fixed: self.fixed })
    }
}

/// How a flight stands to making durable what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// No sync was begun, or none that got to its turn.
    Open,
    /// A sync was given to the kernel and has not succeeded: in flight, put off, or failed.
    Begun,
    /// Its sync succeeded after everything was written.
    Done,
}

/// A slot's request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) job: Job,
    /// Bytes done.
    pub(super) done: u64,
    /// Bytes of the operation in flight.
    pub(super) chunk: u64,
    /// Completions that will still come.
    pub(super) outstanding: u8,
    pub(super) outcome: Option<Outcome>,
    pub(super) cancelled: bool,
    /// The kernel is still to be asked to cancel it: there was no room.
    pub(super) cancel_waits: bool,
    /// Its next operation found no room.
    pub(super) parked: bool,
    pub(super) which: Which,
    /// Times in a row that nothing was done.
    pub(super) retries: u8,
    pub(super) durability: Durability,
    /// The operation in flight is a sync by itself.
    pub(super) syncing: bool,
    /// The operation in flight names registered memory.
    pub(super) fixed: bool,
}

impl Flight {
    pub(super) const fn new(job: Job) -> Self {
        Self {
            job,
            done: 0,
            chunk: 0,
            outstanding: 0,
            outcome: None,
            cancelled: false,
            cancel_waits: false,
            parked: false,
            which: Which::Main,
            retries: 0,
            durability: Durability::Open,
            syncing: false,
            fixed: false,
        }
    }

    /// Whether it asks for durability.
    pub(super) const fn durable(&self) -> bool {
        self.job.fua || matches!(self.job.kind, Kind::Flush)
    }

    /// Whether everything was done; `fua_by_command` where a write carries its durability itself.
    pub(super) const fn is_whole(&self, fua_by_command: bool) -> bool {
        let synced = matches!(self.durability, Durability::Done);
        match self.job.kind {
            Kind::Flush => synced,
            _ => self.done >= self.job.len && (!self.job.fua || fua_by_command || synced),
        }
    }

    /// Ends it so, unless it has an end already.
    pub(super) const fn end(&mut self, outcome: Outcome) {
        if self.outcome.is_none() {
            self.outcome = Some(outcome);
        }
    }
}

/// Where operations go, as the server has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Road {
    pub(super) way: Way,
    pub(super) file: File,
    pub(super) limits: Limits,
    /// Number of the registered buffer that DMA memory begins with.
    pub(super) fixed: Option<u16>,
    pub(super) ranges: Option<Ranges>,
}

/// The next operation of a flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Next {
    pub(super) op: Op,
    /// Bytes that it covers.
    pub(super) chunk: u64,
    /// A sync is linked behind it.
    pub(super) sync: Option<Op>,
    /// It is a sync.
    pub(super) syncs: bool,
    /// What its buffer has to say first, where that is a range.
    range: Option<DsmRange>,
}

impl Next {
    const fn new(op: Op, chunk: u64) -> Self {
        Self { op, chunk, sync: None, syncs: false, range: None }
    }

    const fn sync(op: Op) -> Self {
        Self { syncs: true, ..Self::new(op, 0) }
    }

    /// Whether it names registered memory.
    pub(super) const fn is_fixed(&self) -> bool {
        match &self.op {
            Op::Read { buf, .. } | Op::Write { buf, .. } | Op::Nvme { buf: Some(buf), .. } => {
                buf.fixed.is_some()
            }
            _ => false,
        }
    }

    /// Writes what its buffer has to say; nothing may be in flight on it.
    pub(super) fn prepare(&self) -> Result<(), OutOfBounds> {
        match (&self.op, &self.range) {
            (Op::Nvme { buf: Some(buf), .. }, Some(range)) => buf.span.write(0, range.as_bytes()),
            _ => Ok(()),
        }
    }
}

impl Road {
    /// Whether a write carries its durability itself.
    pub(super) const fn fua_by_command(&self) -> bool {
        matches!(self.way, Way::Passthrough { .. })
    }

    /// Whether what is written may lie in the page cache. Of a file past it, so do zeros that cover
    /// a part of a page.
    pub(super) const fn is_cached(&self) -> bool {
        let limits = &self.limits;
        match self.way {
            Way::Buffered => true,
            Way::Direct => {
                let zeroes = limits.zeroes.is_some() || limits.discard.is_some();
                zeroes && limits.lba_bytes < PAGE_BYTES
            }
            Way::Block | Way::Passthrough { .. } => false,
        }
    }

    /// The next operation; a sync behind it only where the ring `links`.
    pub(super) fn next(&self, flight: &Flight, links: bool) -> Option<Next> {
        match self.way {
            Way::Passthrough { nsid } => self.command(flight, Nsid(nsid)),
            Way::Block | Way::Direct | Way::Buffered => self.plain(flight, links),
        }
    }

    /// On a file or a block device.
    fn plain(&self, flight: &Flight, links: bool) -> Option<Next> {
        let Job { kind, at, len, fua, .. } = flight.job;
        let file = self.file;
        let sync = Op::Sync { file, data_only: true };
        let (at, left) = (at + flight.done, len - flight.done);
        let mode = match kind {
            Kind::Flush => return Some(Next::sync(sync)),
            // All there, and its sync was not.
            _ if fua && left == 0 => return Some(Next::sync(sync)),
            Kind::Zeroes => self.limits.zeroes?,
            Kind::Discard => self.limits.discard?,
            Kind::Read | Kind::Write => {
                let (chunk, buf) = self.chunk(flight, left)?;
                let op = match kind {
                    Kind::Read => Op::Read { file, at, buf },
                    _ => Op::Write { file, at, buf },
                };
                let last = fua && chunk == left && links;
                return Some(Next { sync: last.then_some(sync), ..Next::new(op, chunk) });
            }
        };
        let op = Op::Zero { file, at, len: left, mode };
        let sync = (fua && links).then_some(sync);
        Some(Next { sync, ..Next::new(op, left) })
    }

    /// The next part of a transfer.
    fn chunk(&self, flight: &Flight, left: u64) -> Option<(u64, Buf)> {
        let (span, at) = flight.job.data?;
        let chunk = left.min(self.limits.max_transfer_bytes.into());
        let (done, len) = (usize::try_from(flight.done).ok()?, usize::try_from(chunk).ok()?);
        let at = at + done;
        let (first, last) = (at / FIXED_BYTES, (at + len - 1) / FIXED_BYTES);
        let fixed = self.fixed.filter(|_| first == last);
        let fixed = fixed.and_then(|base| base.checked_add(u16::try_from(first).ok()?));
        Some((chunk, Buf { span: span.sub(done, len).ok()?, fixed }))
    }

    /// As NVMe commands.
    fn command(&self, flight: &Flight, nsid: Nsid) -> Option<Next> {
        let Job { kind, at, len, fua, slot, .. } = flight.job;
        let lba_bytes = u64::from(self.limits.lba_bytes);
        let (slba, left) = ((at + flight.done) / lba_bytes, len - flight.done);
        let blocks = left / lba_bytes;
        // The kernel's driver gives the command its name.
        let cid = Cid(0);
        let flags = if fua { Cdw12Io::FUA } else { Cdw12Io::empty() };
        let io = |opcode, nlb: u64| {
            let nlb_z = u16::try_from(nlb.checked_sub(1)?).ok()?;
            Some(Sqe::io(opcode, cid, nsid, Lba(slba), nlb_z, flags))
        };
        let (sqe, nlb, buf, range) = match kind {
            Kind::Flush => (Sqe::flush(cid, nsid), 0, None, None),
            Kind::Read | Kind::Write => {
                let (chunk, buf) = self.chunk(flight, left)?;
                let read = kind == Kind::Read;
                let opcode = if read { NvmOpcode::READ } else { NvmOpcode::WRITE };
                let nlb = chunk / lba_bytes;
                (io(opcode, nlb)?, nlb, Some(buf), None)
            }
            Kind::Zeroes => {
                let nlb = blocks.min(MOST_ZEROES);
                (io(NvmOpcode::WRITE_ZEROES, nlb)?, nlb, None, None)
            }
            Kind::Discard => {
                let nlb = blocks.min(MOST_RANGE);
                let blocks = u32::try_from(nlb).ok()?;
                let range = DsmRange { attributes: 0, blocks, slba };
                let sqe = Sqe::dsm(cid, nsid, 0, DsmAttributes::DEALLOCATE);
                (sqe, nlb, Some(self.ranges?.of(slot)?), Some(range))
            }
        };
        let op = Op::Nvme { file: self.file, command: NvmeIo::from(&sqe), buf };
        Some(Next { range, syncs: kind == Kind::Flush, ..Next::new(op, nlb * lba_bytes) })
    }
}
