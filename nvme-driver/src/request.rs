//! What a request asks for, and the words of each command that it is cut into.
//!
//! A value, made by [`crate::namespace`] and by the admin side, kept by [`crate::requests`] while
//! it runs. A command of it is named by its part number alone, so that a retry needs no other
//! record.

use core_runtime::mem::Iova;
use nvme_spec::{Lba, Nsid, Sqe};

use crate::split::Split;

/// What becomes of an answer that is an error without DNR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Repeating it gives the same result: reads, writes.
    Allowed,
    /// Repeating it could turn a failure into an acknowledgement (flush), or is not ours to decide.
    Never,
}

/// A request. `head` is an entry's first word without its CID.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub head: u64,
    /// First block; of a single command dwords 10 and 11.
    pub slba: u64,
    /// Device address of the data; 0 where there are none.
    pub iova: Iova,
    /// Bytes of one block, or of all the data where the request is not in blocks; 0: no data.
    pub unit_bytes: u32,
    /// Dword 12, for blocks without NLB. Of a single command all of it.
    pub cdw12: u32,
    /// Blocks, and how they are cut; `nlb` 0 marks a single command that is not in blocks.
    pub split: Split,
    pub retry: Retry,
}

/// One command of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub iova: Iova,
    pub len: u32,
    /// Dwords 10 and 11, and 12.
    pub tail: [u64; 2],
}

// It is copied when a request starts and when a future moves.
const _: () = assert!(size_of::<Request>() <= 48);

impl Request {
    /// A single command without blocks, of which the first dword and dwords 10 and 11 count; `len`
    /// bytes at `iova`, or none.
    pub(crate) const fn single(sqe: Sqe, iova: Iova, len: u32, retry: Retry) -> Self {
        Self {
            head: sqe.0[0],
            slba: sqe.0[5],
            iova,
            unit_bytes: len,
            cdw12: 0,
            split: Split { nlb: 0, max: 1 },
            retry,
        }
    }

    /// The namespace.
    pub(crate) const fn nsid(&self) -> Nsid {
        Nsid((self.head >> 32) as u32)
    }

    /// A single command with this in dword 12: the offset into a log page.
    pub(crate) const fn at_offset(mut self, cdw12: u32) -> Self {
        self.cdw12 = cdw12;
        self
    }

    /// Number of commands.
    #[inline(always)]
    pub(crate) const fn parts(&self) -> u32 {
        // One part is by far the most common: no division for it.
        if self.split.nlb <= self.split.max { 1 } else { self.split.parts() }
    }

    /// The `i`th command.
    #[inline(always)]
    pub(crate) fn command(&self, i: u32) -> Command {
        if self.split.nlb == 0 {
            let tail = [self.slba, self.cdw12 as u64];
            return Command { iova: self.iova, len: self.unit_bytes, tail };
        }
        let part = self.split.part(i);
        let unit = self.unit_bytes as u64;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a part's bytes are at most the largest transfer, which has 32 bits"
        )]
        let len = (part.nlb as u64).wrapping_mul(unit) as u32;
        // The range was checked against the namespace and the buffer: nothing here wraps.
        let nlb_z = part.nlb.wrapping_sub(1) & 0xFFFF;
        Command {
            iova: Iova(self.iova.0.wrapping_add((part.first as u64).wrapping_mul(unit))),
            len,
            tail: [self.slba.wrapping_add(part.first as u64), (self.cdw12 | nlb_z) as u64],
        }
    }

    /// First block of the `i`th command.
    pub(crate) fn slba_of(&self, i: u32) -> Lba {
        if self.split.nlb == 0 {
            return Lba(0);
        }
        Lba(self.slba.wrapping_add(self.split.part(i).first as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvme_spec::{Cid, NvmOpcode};

    fn read(slba: u64, nlb: u32, max: u32) -> Request {
        Request {
            head: Sqe::new(NvmOpcode::READ.0, Cid(0), Nsid(7)).0[0],
            cdw12: 1 << 30,
            iova: Iova(0x10_0000),
            unit_bytes: 512,
            slba,
            split: Split { nlb, max },
            retry: Retry::Allowed,
        }
    }

    #[test]
    fn commands_of_a_request_follow_each_other_in_blocks_and_in_memory() {
        let request = read(100, 20, 8);
        assert_eq!(request.parts(), 3);
        let first = request.command(0);
        assert_eq!((first.iova, first.len), (Iova(0x10_0000), 4096));
        assert_eq!(first.tail, [100, 1 << 30 | 7]);
        let last = request.command(2);
        assert_eq!((last.iova, last.len), (Iova(0x10_2000), 2048));
        assert_eq!(last.tail, [116, 1 << 30 | 3]);
        assert_eq!(request.slba_of(2), Lba(116));
    }

    #[test]
    fn a_single_command_is_passed_on_as_it_is() {
        let sqe = Sqe::flush(Cid(0), Nsid(3));
        let request = Request::single(sqe, Iova(0), 0, Retry::Never);
        assert_eq!(request.parts(), 1);
        assert_eq!(request.command(0).len, 0);
        assert_eq!(request.head, sqe.0[0]);
    }

    #[test]
    fn the_largest_command_has_all_ones_in_nlb() {
        assert_eq!(read(0, 1 << 16, 1 << 16).command(0).tail[1], 1 << 30 | 0xFFFF);
    }
}
