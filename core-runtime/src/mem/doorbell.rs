//! Doorbell registers.
//!
//! Plain mapped memory on every backend: a BAR's pages, or shared memory that the model polls. A
//! doorbell is written and never read. NVMe over PCIe Transport 1.0, section 3.1.2.

use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

use hybrid_shm::Span;
use volatile::VolatilePtr;
use volatile::access::WriteOnly;

use super::error::DmaError;

/// The mapped doorbells, from BAR offset 1000h on.
#[derive(Clone, Copy, Debug)]
pub struct DoorbellRegion {
    /// The memory, its first byte being the admin submission queue's doorbell.
    pub span: Span<'static>,
    /// CAP.DSTRD: doorbells are `4 << dstrd` bytes apart.
    pub dstrd: u8,
}

impl DoorbellRegion {
    /// The tail doorbell of submission queue `qid`.
    ///
    /// # Errors
    /// [`DmaError::Doorbell`] if it lies beyond the mapped bytes.
    pub fn sq_tail(&self, qid: u16) -> Result<Doorbell, DmaError> {
        self.at(qid, 2 * usize::from(qid))
    }

    /// The head doorbell of completion queue `qid`.
    ///
    /// # Errors
    /// [`DmaError::Doorbell`] if it lies beyond the mapped bytes.
    pub fn cq_head(&self, qid: u16) -> Result<Doorbell, DmaError> {
        self.at(qid, 2 * usize::from(qid) + 1)
    }

    /// Bytes that `queues` queue pairs (the admin pair counted) need at this stride.
    #[must_use]
    pub const fn bytes_for(queues: u16, dstrd: u8) -> usize {
        2 * (queues as usize) * (4 << (dstrd & 15))
    }

    fn at(&self, qid: u16, index: usize) -> Result<Doorbell, DmaError> {
        // CAP.DSTRD has four bits.
        let offset = index * (4 << (self.dstrd & 15));
        let beyond = DmaError::Doorbell { qid, offset, len: self.span.len() };
        // `word32` checks bounds and alignment.
        self.span.word32(offset).map_err(|_| beyond)?;
        let word = self.span.sub(offset, 4).map_err(|_| beyond)?;
        let at = NonNull::new(word.as_ptr()).ok_or(beyond)?.cast::<u32>();
        // SAFETY: invariant 1; bounds and alignment were checked above, and nobody makes a
        // reference to a doorbell. A volatile u32 store to it is what the register wants.
        let register = unsafe { VolatilePtr::new_restricted(WriteOnly, at) };
        Ok(Doorbell { register })
    }
}

/// One doorbell register.
#[derive(Clone, Copy, Debug)]
pub struct Doorbell {
    register: VolatilePtr<'static, u32, WriteOnly>,
}

impl Doorbell {
    /// Writes the doorbell. All queue entries stored before are visible to a device that sees it.
    // SYNC doorbell: pairs with the Acquire load of the model, or with the bus's write order.
    #[inline(always)]
    pub fn ring(&self, value: u32) {
        fence(Ordering::Release);
        #[cfg(not(miri))]
        self.register.write(value);
        // The interpreter calls a volatile store that meets another thread's atomic load a race.
        #[cfg(miri)]
        // SAFETY: invariant 1; the pointer was checked when the doorbell was made.
        unsafe { core::sync::atomic::AtomicU32::from_ptr(self.register.as_raw_ptr().as_ptr()) }
            .store(value, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hybrid_shm::leak_zeroed;

    #[test]
    fn stride_and_queue_give_the_offset() {
        let span = leak_zeroed(4096);
        for (dstrd, qid, sq, cq) in [(0, 0, 0, 4), (0, 3, 24, 28), (2, 1, 32, 48), (4, 7, 896, 960)]
        {
            let region = DoorbellRegion { span, dstrd };
            region.sq_tail(qid).unwrap().ring(0x1111);
            region.cq_head(qid).unwrap().ring(0x2222);
            assert_eq!(span.word32(sq).unwrap().load(), 0x1111, "sq {qid} at stride {dstrd}");
            assert_eq!(span.word32(cq).unwrap().load(), 0x2222, "cq {qid} at stride {dstrd}");
        }
    }

    #[test]
    fn a_doorbell_beyond_the_mapping_is_refused() {
        let region = DoorbellRegion { span: leak_zeroed(4096), dstrd: 0 };
        assert!(region.cq_head(511).is_ok());
        let error = region.sq_tail(512).unwrap_err();
        assert_eq!(error, DmaError::Doorbell { qid: 512, offset: 4096, len: 4096 });
        let far = DoorbellRegion { span: leak_zeroed(4096), dstrd: 15 };
        assert!(far.cq_head(u16::MAX).is_err());
        assert!(DoorbellRegion::bytes_for(2, 0) == 16);
    }
}
