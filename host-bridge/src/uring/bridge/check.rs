//! A partition's request, believed only after every field was checked.
//!
//! Pure: a request in, a [`Job`] or a `REFUSED_` code out. Whatever a partition writes into its
//! ring can at worst get its request refused: none of it is an index or an address before it went
//! through here.

use core_runtime::mem::DmaRegion;
use hybrid_abi::bridge::{
    BRIDGE_DISCARD, BRIDGE_FLUSH, BRIDGE_FUA, BRIDGE_READ, BRIDGE_WRITE, BRIDGE_ZEROES,
    BridgeRequest, REFUSED_ALIGNMENT, REFUSED_BUFFER, REFUSED_CID, REFUSED_FLAGS, REFUSED_OP,
    REFUSED_RANGE, REFUSED_READ_ONLY, REFUSED_UNSUPPORTED,
};
use hybrid_shm::Span;

use crate::uring::target::Limits;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    Zeroes,
    Discard,
}

/// A request that makes sense.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) cid: u32,
    /// Below the depth.
    pub(super) slot: u16,
    pub(super) kind: Kind,
    pub(super) fua: bool,
    /// Byte offset on the device, and bytes.
    pub(super) at: u64,
    pub(super) len: u64,
    /// The data, and where they lie in DMA memory; for transfers.
    pub(super) data: Option<(Span<'static>, usize)>,
}

/// What a request is checked against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) limits: Limits,
    pub(super) write: bool,
    pub(super) depth: u32,
    pub(super) dma: DmaRegion,
}

impl Rules {
    /// Checks a request; its slot being free is the caller's to see.
    pub(super) fn check(&self, request: &BridgeRequest) -> Result<Job, u64> {
        let slot = request.cid & 0xFFFF;
        if slot >= self.depth {
            return Err(REFUSED_CID);
        }
        let slot = u16::try_from(slot).map_err(|_| REFUSED_CID)?;
        let kind = match request.op {
            BRIDGE_READ => Kind::Read,
            BRIDGE_WRITE => Kind::Write,
            BRIDGE_FLUSH => Kind::Flush,
            BRIDGE_ZEROES => Kind::Zeroes,
            BRIDGE_DISCARD => Kind::Discard,
            _ => return Err(REFUSED_OP),
        };
        let may = match kind {
            Kind::Write | Kind::Zeroes => BRIDGE_FUA,
            Kind::Read | Kind::Flush | Kind::Discard => 0,
        };
        if request.flags & !may != 0 {
            return Err(REFUSED_FLAGS);
        }
        if !self.write && matches!(kind, Kind::Write | Kind::Zeroes | Kind::Discard) {
            return Err(REFUSED_READ_ONLY);
        }
        let able = match kind {
            Kind::Zeroes => self.limits.zeroes.is_some(),
            Kind::Discard => self.limits.discard.is_some(),
            Kind::Read | Kind::Write | Kind::Flush => true,
        };
        if !able {
            return Err(REFUSED_UNSUPPORTED);
        }
        let fua = request.flags & BRIDGE_FUA != 0;
        let mut job = Job { cid: request.cid, slot, kind, fua, at: 0, len: 0, data: None };
        if kind != Kind::Flush {
            (job.at, job.len) = self.range(request)?;
        }
        if matches!(kind, Kind::Read | Kind::Write) {
            job.data = Some(self.data(request.addr, job.len)?);
        }
        Ok(job)
    }

    /// Byte offset and bytes of blocks that are all there.
    fn range(&self, request: &BridgeRequest) -> Result<(u64, u64), u64> {
        let Limits { blocks, lba_bytes, .. } = self.limits;
        let (slba, nlb) = (request.slba, request.nlb);
        if nlb == 0 || slba >= blocks || nlb > blocks - slba {
            return Err(REFUSED_RANGE);
        }
        // Blocks were counted from bytes: neither product can be more than there are.
        Ok((slba * u64::from(lba_bytes), nlb * u64::from(lba_bytes)))
    }

    /// DMA memory of `len` bytes at the device's address `addr`, all of it inside.
    fn data(&self, addr: u64, len: u64) -> Result<(Span<'static>, usize), u64> {
        if !addr.is_multiple_of(self.limits.buffer_align.max(1).into()) {
            return Err(REFUSED_ALIGNMENT);
        }
        let at = addr.checked_sub(self.dma.iova.0).ok_or(REFUSED_BUFFER)?;
        let at = usize::try_from(at).map_err(|_| REFUSED_BUFFER)?;
        let len = usize::try_from(len).map_err(|_| REFUSED_BUFFER)?;
        let span = self.dma.span.sub(at, len).map_err(|_| REFUSED_BUFFER)?;
        Ok((span, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_runtime::mem::Iova;
    use proptest::prelude::*;

    use crate::sys::uring::ZeroMode;

    const IOVA: u64 = 1 << 38;
    const BLOCKS: u64 = 1000;

    fn rules(write: bool) -> Rules {
        let limits = Limits {
            lba_bytes: 4096,
            blocks: BLOCKS,
            max_transfer_bytes: 1 << 20,
            buffer_align: 512,
            zeroes: Some(ZeroMode::PUNCH_HOLE),
            discard: None,
            write_cache: true,
            iopoll: false,
        };
        Rules { limits, write, depth: 32, dma: DmaRegion::leak(1 << 20, Iova(IOVA)) }
    }

    fn read() -> BridgeRequest {
        BridgeRequest { op: BRIDGE_READ, flags: 0, cid: 0x0001_0003, slba: 5, addr: IOVA, nlb: 2 }
    }

    #[test]
    fn a_good_request_becomes_bytes_and_memory() {
        let rules = rules(true);
        let job = rules.check(&read()).expect("good");
        assert_eq!((job.slot, job.kind, job.at, job.len), (3, Kind::Read, 5 * 4096, 8192));
        let (span, at) = job.data.expect("memory");
        assert_eq!((span.as_ptr(), span.len(), at), (rules.dma.span.as_ptr(), 8192, 0));
    }

    #[test]
    fn each_kind_of_nonsense_has_its_own_refusal() {
        let refused = |write: bool, change: fn(&mut BridgeRequest)| {
            let mut request = read();
            change(&mut request);
            rules(write).check(&request).expect_err("nonsense")
        };
        assert_eq!(refused(true, |r| r.op = 0), REFUSED_OP);
        assert_eq!(refused(true, |r| r.op = u16::MAX), REFUSED_OP);
        assert_eq!(refused(true, |r| r.flags = BRIDGE_FUA), REFUSED_FLAGS);
        assert_eq!(refused(true, |r| r.cid = 32), REFUSED_CID);
        assert_eq!(refused(true, |r| r.cid = u32::MAX), REFUSED_CID);
        assert_eq!(refused(true, |r| r.nlb = 0), REFUSED_RANGE);
        assert_eq!(refused(true, |r| r.slba = BLOCKS), REFUSED_RANGE);
        assert_eq!(refused(true, |r| r.slba = BLOCKS - 1), REFUSED_RANGE);
        assert_eq!(refused(true, |r| r.slba = u64::MAX), REFUSED_RANGE);
        assert_eq!(refused(true, |r| r.nlb = u64::MAX), REFUSED_RANGE);
        assert_eq!(refused(true, |r| r.addr = IOVA + 4), REFUSED_ALIGNMENT);
        assert_eq!(refused(true, |r| r.addr = 0), REFUSED_BUFFER);
        assert_eq!(refused(true, |r| r.addr = IOVA - 512), REFUSED_BUFFER);
        assert_eq!(refused(true, |r| r.addr = IOVA + (1 << 20) - 4096), REFUSED_BUFFER);
        assert_eq!(refused(true, |r| r.nlb = 300), REFUSED_BUFFER);
        assert_eq!(refused(true, |r| r.op = BRIDGE_DISCARD), REFUSED_UNSUPPORTED);
        for op in [BRIDGE_WRITE, BRIDGE_ZEROES, BRIDGE_DISCARD] {
            let request = BridgeRequest { op, ..read() };
            assert_eq!(rules(false).check(&request).expect_err("read only"), REFUSED_READ_ONLY);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_only_dma_memory_and_the_device_are_touched(
            op in 0_u16..8, flags in 0_u16..3, cid: u32, slba in 0..=BLOCKS + 2,
            offset in 0_u64..(1 << 21), low: bool, nlb in 0_u64..600, wild: u64,
        ) {
            let rules = rules(true);
            let addr = if low { wild } else { IOVA - (1 << 19) + (offset & !511) };
            let request = BridgeRequest { op, flags, cid, slba, addr, nlb };
            if let Ok(job) = rules.check(&request) {
                prop_assert!(u32::from(job.slot) < rules.depth);
                prop_assert!(job.at + job.len <= BLOCKS * 4096);
                if let Some((span, at)) = job.data {
                    prop_assert!(at + span.len() <= rules.dma.len());
                    prop_assert_eq!(span.len() as u64, job.len);
                }
            }
        }
    }
}
