//! A request that the kernel has: how far it is, and what its next operation is.

use crate::sys::uring::{Buf, File, NvmeIo, Op};
use crate::uring::rings::Which;
use crate::uring::target::{Limits, Way};

use super::check::{Job, Kind};

/// How a request ended: a kind of `hybrid_abi::bridge` and its detail.
pub(super) type Outcome = (u16, u64);

/// Bytes of one registered buffer: the kernel takes no longer ones.
pub(super) const FIXED_BYTES: usize = 1 << 30;

/// Blocks that one Write Zeroes covers at most.
const MOST_ZEROES: u64 = 1 << 16;

/// Blocks of one range of Dataset Management.
const MOST_RANGE: u64 = u32::MAX as u64;

/// Bytes of a range of Dataset Management.
pub(super) const RANGE_BYTES: u32 = 16;

/// NVMe opcodes that are used, and the bit of dword 12 that asks for durability.
const NVME_FLUSH: u8 = 0;
const NVME_WRITE: u8 = 1;
const NVME_READ: u8 = 2;
const NVME_ZEROES: u8 = 8;
const NVME_DSM: u8 = 9;
const NVME_FUA: u32 = 1 << 30;

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
    /// Its next operation found no room.
    pub(super) parked: bool,
    pub(super) which: Which,
    pub(super) retries: u8,
    /// A sync is part of the operation in flight.
    pub(super) synced: bool,
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
            parked: false,
            which: Which::Main,
            retries: 0,
            synced: false,
            fixed: false,
        }
    }

    /// Whether everything was done.
    pub(super) const fn is_whole(&self) -> bool {
        match self.job.kind {
            Kind::Flush => self.synced,
            _ => self.done >= self.job.len,
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
}

/// The next operation of a flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Next {
    pub(super) op: Op,
    /// Bytes that it covers.
    pub(super) chunk: u64,
    /// A sync is linked behind it.
    pub(super) sync: Option<Op>,
}

impl Next {
    /// Whether it names registered memory.
    pub(super) const fn is_fixed(&self) -> bool {
        match &self.op {
            Op::Read { buf, .. } | Op::Write { buf, .. } | Op::Nvme { buf: Some(buf), .. } => {
                buf.fixed.is_some()
            }
            _ => false,
        }
    }
}

impl Road {
    /// The next operation; `ranges` holds a range for Dataset Management.
    pub(super) fn next(&self, flight: &Flight, ranges: Option<Buf>) -> Option<Next> {
        match self.way {
            Way::Passthrough { nsid } => self.command(flight, nsid, ranges),
            Way::Block | Way::Direct | Way::Buffered => self.plain(flight),
        }
    }

    /// On a file or a block device.
    fn plain(&self, flight: &Flight) -> Option<Next> {
        let Job { kind, at, len, fua, .. } = flight.job;
        let file = self.file;
        let sync = Op::Sync { file, data_only: true };
        let (at, left) = (at + flight.done, len - flight.done);
        let mode = match kind {
            Kind::Flush => return Some(Next { op: sync, chunk: 0, sync: None }),
            // All there, and its sync was not.
            _ if fua && left == 0 => return Some(Next { op: sync, chunk: 0, sync: None }),
            Kind::Zeroes => self.limits.zeroes?,
            Kind::Discard => self.limits.discard?,
            Kind::Read | Kind::Write => {
                let (chunk, buf) = self.chunk(flight, left)?;
                let op = match kind {
                    Kind::Read => Op::Read { file, at, buf },
                    _ => Op::Write { file, at, buf },
                };
                let last = fua && chunk == left;
                return Some(Next { op, chunk, sync: last.then_some(sync) });
            }
        };
        let op = Op::Zero { file, at, len: left, mode };
        Some(Next { op, chunk: left, sync: fua.then_some(sync) })
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
    fn command(&self, flight: &Flight, nsid: u32, ranges: Option<Buf>) -> Option<Next> {
        let Job { kind, at, len, fua, .. } = flight.job;
        let file = self.file;
        let lba_bytes = u64::from(self.limits.lba_bytes);
        let (slba, left) = ((at + flight.done) / lba_bytes, len - flight.done);
        let blocks = left / lba_bytes;
        let (opcode, nlb, buf) = match kind {
            Kind::Flush => (NVME_FLUSH, 0, None),
            Kind::Read | Kind::Write => {
                let (chunk, buf) = self.chunk(flight, left)?;
                let opcode = if kind == Kind::Read { NVME_READ } else { NVME_WRITE };
                (opcode, chunk / lba_bytes, Some(buf))
            }
            Kind::Zeroes => (NVME_ZEROES, blocks.min(MOST_ZEROES), None),
            Kind::Discard => (NVME_DSM, blocks.min(MOST_RANGE), Some(ranges?)),
        };
        let mut command = NvmeIo { opcode, nsid, ..NvmeIo::default() };
        match kind {
            Kind::Flush => {}
            Kind::Discard => {
                write_range(&ranges?, slba, nlb)?;
                // One range, counted from 0; attribute deallocate.
                command.cdw[1] = 1 << 2;
            }
            Kind::Read | Kind::Write | Kind::Zeroes => {
                command.cdw[0] = u32::try_from(slba & 0xFFFF_FFFF).ok()?;
                command.cdw[1] = u32::try_from(slba >> 32).ok()?;
                command.cdw[2] = u32::try_from(nlb.checked_sub(1)?).ok()?;
                if fua {
                    command.cdw[2] |= NVME_FUA;
                }
            }
        }
        Some(Next { op: Op::Nvme { file, command, buf }, chunk: nlb * lba_bytes, sync: None })
    }
}

/// Attributes, blocks, first block.
fn write_range(ranges: &Buf, slba: u64, nlb: u64) -> Option<()> {
    let nlb = u32::try_from(nlb).ok()?;
    ranges.span.write(0, &0_u32.to_le_bytes()).ok()?;
    ranges.span.write(4, &nlb.to_le_bytes()).ok()?;
    ranges.span.write(8, &slba.to_le_bytes()).ok()
}
