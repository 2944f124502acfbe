//! The completion queue entry (NVMe Base 2.0, section 3.3.3).

use crate::ids::{Cid, QueueId};
use crate::status::Status;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A completion queue entry as two words.
///
/// The high word holds the phase bit and is the one to look at first; the low word holds the
/// command's result.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Cqe {
    /// DW0 (low half) and DW1.
    pub low: u64,
    /// DW2 (low half: SQHD, SQID) and DW3 (CID, phase, status).
    pub high: u64,
}

const _: () = {
    assert!(size_of::<Cqe>() == crate::CQE_BYTES);
    assert!(core::mem::offset_of!(Cqe, high) == 8);
};

impl Cqe {
    /// The phase bit within [`Cqe::high`].
    pub const PHASE: u64 = 1 << 48;

    /// From its words.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(low: u64, high: u64) -> Self {
        Self { low, high }
    }

    /// From its fields; `result` is DW0.
    #[inline(always)]
    #[must_use]
    pub const fn new(
        result: u32,
        sqhd: u16,
        sqid: QueueId,
        cid: Cid,
        phase: bool,
        status: Status,
    ) -> Self {
        let dw3 = cid.0 as u64 | (phase as u64) << 16 | (status.bits() as u64) << 17;
        Self { low: result as u64, high: sqhd as u64 | (sqid.0 as u64) << 16 | dw3 << 32 }
    }

    /// DW0: the command's result.
    #[inline(always)]
    #[must_use]
    pub const fn result(&self) -> u32 {
        (self.low & 0xffff_ffff) as u32
    }

    /// DW1: the upper half of the result, where a command has one.
    #[inline(always)]
    #[must_use]
    pub const fn dw1(&self) -> u32 {
        (self.low >> 32) as u32
    }

    /// Submission queue head: entries before it may be written again.
    #[inline(always)]
    #[must_use]
    pub const fn sqhd(&self) -> u16 {
        (self.high & 0xffff) as u16
    }

    /// Submission queue that the command came from.
    #[inline(always)]
    #[must_use]
    pub const fn sqid(&self) -> QueueId {
        QueueId(((self.high >> 16) & 0xffff) as u16)
    }

    /// Command identifier.
    #[inline(always)]
    #[must_use]
    pub const fn cid(&self) -> Cid {
        Cid(((self.high >> 32) & 0xffff) as u16)
    }

    /// Phase bit; flips each time the queue wraps.
    #[inline(always)]
    #[must_use]
    pub const fn phase(&self) -> bool {
        self.high & Self::PHASE != 0
    }

    /// Status field.
    #[inline(always)]
    #[must_use]
    pub const fn status(&self) -> Status {
        Status::from_bits((self.high >> 49) as u16)
    }
}

/// Queues granted by Set Features, Number of Queues: DW0 of its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueGrant(pub u32);

impl QueueGrant {
    /// From counts, 1 to 65,535 each (0 counts as 1: the field cannot say zero).
    #[must_use]
    pub const fn new(sqs: u16, cqs: u16) -> Self {
        Self(sqs.saturating_sub(1) as u32 | (cqs.saturating_sub(1) as u32) << 16)
    }

    /// I/O submission queues granted.
    #[must_use]
    pub const fn sqs(self) -> u32 {
        (self.0 & 0xffff) + 1
    }

    /// I/O completion queues granted.
    #[must_use]
    pub const fn cqs(self) -> u32 {
        (self.0 >> 16) + 1
    }

    /// Pairs that can be made of them.
    #[must_use]
    pub const fn pairs(self) -> u32 {
        if self.sqs() < self.cqs() { self.sqs() } else { self.cqs() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::StatusCode;

    #[test]
    fn golden_bytes_of_a_failed_read() {
        let cqe = Cqe::new(
            0x1122_3344,
            0x0005,
            QueueId(3),
            Cid(0x0412),
            true,
            StatusCode::UNRECOVERED_READ_ERROR.do_not_retry(),
        );
        let golden = [
            0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0, // DW0, DW1
            0x05, 0x00, 0x03, 0x00, // SQHD, SQID
            0x12, 0x04, // CID
            0x03, 0x85, // phase 1, SC 81h << 1, SCT 2 << 9, DNR << 15
        ];
        assert_eq!(cqe.as_bytes(), golden);
        let back = Cqe::read_from_bytes(&golden).expect("sixteen bytes");
        assert_eq!(back.cid(), Cid(0x0412));
        assert_eq!(back.sqid(), QueueId(3));
        assert_eq!(back.sqhd(), 5);
        assert!(back.phase());
        assert_eq!(back.status().code(), StatusCode::UNRECOVERED_READ_ERROR);
        assert!(back.status().dnr());
        assert_eq!(back.result(), 0x1122_3344);
    }

    #[test]
    fn grant_counts_from_zero_and_does_not_overflow() {
        assert_eq!(QueueGrant(0x0003_0007).sqs(), 8);
        assert_eq!(QueueGrant(0x0003_0007).cqs(), 4);
        assert_eq!(QueueGrant(0x0003_0007).pairs(), 4);
        assert_eq!(QueueGrant(u32::MAX).sqs(), 65_536);
        assert_eq!(QueueGrant::new(4, 2).0, 0x0001_0003);
    }
}
