//! Queues made, made wrongly, and deleted: the rows build upon each other.

use nvme_spec::{Cid, CreateCq, CreateSq, FeatureId, Nsid, QueueId, Sqe, Status, StatusCode};

use super::bare::plus;
use super::{Answer, DNR_SECTION, FIELD, Known, OK, PRP_OFFSET, QEMU, Row, Stage, any, row};

const QUEUE_ID: Status = StatusCode::INVALID_QUEUE_ID.do_not_retry();
const QUEUE_SIZE: Status = StatusCode::INVALID_QUEUE_SIZE.do_not_retry();
const VECTOR: Status = StatusCode::INVALID_INTERRUPT_VECTOR.do_not_retry();
const NO_CQ: Status = StatusCode::CQ_INVALID.do_not_retry();
const SEQUENCE: Status = StatusCode::SEQUENCE_ERROR.do_not_retry();

/// A second try may succeed, once the submission queue is gone.
const STILL_USED: Answer = Answer::AnyOf(
    &[
        StatusCode::INVALID_QUEUE_DELETION.do_not_retry(),
        StatusCode::INVALID_QUEUE_DELETION.status(),
    ],
    DNR_SECTION,
);

const QEMUS_DELETE: Known = Known {
    model: QEMU,
    status: NO_CQ,
    why: "a code of Create I/O Submission Queue alone (NVMe Base 2.0, section 5.6)",
};

const CQ: CreateCq =
    CreateCq { qid: QueueId(1), size_z: 1, contiguous: true, interrupts: false, vector: 0 };
const SQ: CreateSq =
    CreateSq { qid: QueueId(1), size_z: 1, contiguous: true, priority: 0, cqid: QueueId(1) };

impl Stage {
    fn cq(&self, cq: CreateCq) -> Sqe {
        Sqe::create_cq(Cid(0), self.cq_at(0), cq)
    }

    fn sq(&self, sq: CreateSq) -> Sqe {
        Sqe::create_sq(Cid(0), self.sq_at(0), sq)
    }

    fn cq_at(&self, offset: u64) -> u64 {
        plus(self.queues.iova(), offset)
    }

    fn sq_at(&self, offset: u64) -> u64 {
        plus(self.queues.iova(), self.page + offset)
    }

    /// The lowest identifier that was not granted.
    fn beyond_granted(&self) -> Result<QueueId, &'static str> {
        let most = self.grant.sqs().max(self.grant.cqs());
        u16::try_from(most + 1).map(QueueId).map_err(|_| "every identifier is granted")
    }

    /// A size beyond CAP.MQES.
    fn beyond_mqes(&self) -> Result<u16, &'static str> {
        self.mqes_z.checked_add(1).ok_or("CAP.MQES is no limit")
    }
}

pub(super) const ROWS: &[Row] = &[
    row("create an SQ before its CQ", NO_CQ, |s| Ok(s.sq(SQ))),
    row("create CQ 0", QUEUE_ID, |s| Ok(s.cq(CreateCq { qid: QueueId(0), ..CQ }))),
    row("create a CQ beyond those granted", QUEUE_ID, |s| {
        Ok(s.cq(CreateCq { qid: s.beyond_granted()?, ..CQ }))
    }),
    row("create a CQ of one entry", QUEUE_SIZE, |s| Ok(s.cq(CreateCq { size_z: 0, ..CQ }))),
    row("create a CQ beyond MQES", QUEUE_SIZE, |s| {
        Ok(s.cq(CreateCq { size_z: s.beyond_mqes()?, ..CQ }))
    }),
    row("create a CQ with vector FFFFh", VECTOR, |s| {
        Ok(s.cq(CreateCq { interrupts: true, vector: 0xffff, ..CQ }))
    }),
    row("create a CQ in pieces", FIELD, |s| match s.cqr {
        true => Ok(s.cq(CreateCq { contiguous: false, ..CQ })),
        false => Err("CAP.CQR is clear"),
    }),
    row("create a CQ off its page", PRP_OFFSET, |s| Ok(Sqe::create_cq(Cid(0), s.cq_at(8), CQ))),
    row("create a CQ", OK, |s| Ok(s.cq(CQ))),
    row("create a CQ that is there", QUEUE_ID, |s| Ok(s.cq(CQ))),
    row("create SQ 0", QUEUE_ID, |s| Ok(s.sq(CreateSq { qid: QueueId(0), ..SQ }))),
    row("create an SQ beyond those granted", QUEUE_ID, |s| {
        Ok(s.sq(CreateSq { qid: s.beyond_granted()?, ..SQ }))
    }),
    row("create an SQ on a CQ that is not there", NO_CQ, |s| match s.pairs {
        1 => Err("there is one pair of queues"),
        _ => Ok(s.sq(CreateSq { cqid: QueueId(2), ..SQ })),
    }),
    row("create an SQ of one entry", QUEUE_SIZE, |s| Ok(s.sq(CreateSq { size_z: 0, ..SQ }))),
    row("create an SQ beyond MQES", QUEUE_SIZE, |s| {
        Ok(s.sq(CreateSq { size_z: s.beyond_mqes()?, ..SQ }))
    }),
    row("create an SQ in pieces", FIELD, |s| match s.cqr {
        true => Ok(s.sq(CreateSq { contiguous: false, ..SQ })),
        false => Err("CAP.CQR is clear"),
    }),
    row("create an SQ off its page", PRP_OFFSET, |s| Ok(Sqe::create_sq(Cid(0), s.sq_at(8), SQ))),
    row("create an SQ", OK, |s| Ok(s.sq(SQ))),
    row("create an SQ that is there", QUEUE_ID, |s| Ok(s.sq(SQ))),
    row("set number of queues while there are some", SEQUENCE, |_| {
        Ok(Sqe::set_feature(Cid(0), Nsid::NONE, FeatureId::NUMBER_OF_QUEUES, 0))
    }),
    any("delete a CQ that an SQ posts to", STILL_USED, |_| Ok(Sqe::delete_cq(Cid(0), QueueId(1)))),
    row("delete SQ 0", QUEUE_ID, |_| Ok(Sqe::delete_sq(Cid(0), QueueId(0)))),
    row("delete an SQ beyond those granted", QUEUE_ID, |s| {
        Ok(Sqe::delete_sq(Cid(0), s.beyond_granted()?))
    }),
    row("delete an SQ", OK, |_| Ok(Sqe::delete_sq(Cid(0), QueueId(1)))),
    row("delete an SQ that is gone", QUEUE_ID, |_| Ok(Sqe::delete_sq(Cid(0), QueueId(1)))),
    row("delete CQ 0", QUEUE_ID, |_| Ok(Sqe::delete_cq(Cid(0), QueueId(0)))).known(QEMUS_DELETE),
    row("delete a CQ beyond those granted", QUEUE_ID, |s| {
        Ok(Sqe::delete_cq(Cid(0), s.beyond_granted()?))
    })
    .known(QEMUS_DELETE),
    row("delete a CQ", OK, |_| Ok(Sqe::delete_cq(Cid(0), QueueId(1)))),
    row("delete a CQ that is gone", QUEUE_ID, |_| Ok(Sqe::delete_cq(Cid(0), QueueId(1))))
        .known(QEMUS_DELETE),
];
