//! Create and delete I/O queues (NVMe Base 2.0, sections 5.4 to 5.7).

use crate::mistake::HostMistake;
use crate::model::{Model, NO_QUEUE};
use crate::queues::{Cq, QueuePlace, Sq};
use core_runtime::mem::Iova;
use nvme_spec::{CQE_BYTES, QueueId, SQE_BYTES, Sqe, Status, StatusCode};

impl Model {
    #[cold]
    fn refuse_create(
        &mut self,
        sqe: &Sqe,
        qid: QueueId,
        code: StatusCode,
        reason: &'static str,
    ) -> Status {
        self.mistakes.add(HostMistake::QueueCreate { qid, reason });
        self.refuse(sqe, code)
    }

    #[cold]
    fn refuse_delete(
        &mut self,
        sqe: &Sqe,
        qid: QueueId,
        code: StatusCode,
        reason: &'static str,
    ) -> Status {
        self.mistakes.add(HostMistake::QueueDelete { qid, reason });
        self.refuse(sqe, code)
    }

    /// What both kinds of queue have to satisfy; where it goes if they do.
    fn queue_place(
        &self,
        prp1: u64,
        size_z: u16,
        entry_bytes: usize,
        contiguous: bool,
    ) -> Result<QueuePlace, (StatusCode, &'static str)> {
        let entries = u32::from(size_z) + 1;
        if !self.regs.entry_sizes_set() {
            return Err((StatusCode::INVALID_FIELD, "CC.IOSQES or CC.IOCQES is not set"));
        }
        if entries < 2 || entries > self.config.max_queue_entries {
            return Err((StatusCode::INVALID_QUEUE_SIZE, "size is 1 or beyond CAP.MQES"));
        }
        if !contiguous {
            return Err((StatusCode::INVALID_FIELD, "not contiguous, and CAP.CQR is set"));
        }
        if prp1 & (self.regs.page_bytes() as u64 - 1) != 0 {
            return Err((StatusCode::PRP_OFFSET_INVALID, "memory is not page aligned"));
        }
        let len = entries as usize * entry_bytes;
        let Ok(span) = self.dma.translate(Iova(prp1), len) else {
            return Err((StatusCode::INVALID_FIELD, "memory is not mapped"));
        };
        let (iova, doorbell) = (Iova(prp1), self.doorbell(0, false));
        let doorbell = doorbell.ok_or((StatusCode::INTERNAL_ERROR, "no doorbell"))?;
        Ok(QueuePlace { span, iova, doorbell })
    }

    pub(crate) fn create_cq(&mut self, sqe: &Sqe) -> Status {
        let new = sqe.as_create_cq();
        let (qid, index) = (new.qid, usize::from(new.qid.0));
        if index == 0 || !self.cqs.get(index).is_some_and(Option::is_none) {
            let reason = "identifier is 0, in use or beyond those granted";
            return self.refuse_create(sqe, qid, StatusCode::INVALID_QUEUE_ID, reason);
        }
        if new.interrupts && new.vector > self.config.max_io_queues {
            let reason = "interrupt vector does not exist";
            return self.refuse_create(sqe, qid, StatusCode::INVALID_INTERRUPT_VECTOR, reason);
        }
        if sqe.dword(11) & 0xfffc != 0 {
            self.reserved(QueueId::ADMIN, sqe, 11);
        }
        match self.queue_place(sqe.prp1(), new.size_z, CQE_BYTES, new.contiguous) {
            Err((code, reason)) => self.refuse_create(sqe, qid, code, reason),
            Ok(mut place) => {
                if let Some(doorbell) = self.doorbell(index, true) {
                    place.doorbell = doorbell;
                }
                self.check_queue_memory(qid, place.iova, place.span.len());
                self.scan_doorbell(index);
                let mut cq = Cq::new(qid, new.entries(), place, self.config.paranoid);
                if let Some(index) = cq.stale_phase() {
                    self.mistakes.add(HostMistake::CqNotZeroed { qid, index });
                }
                place.doorbell.store(0);
                cq.set_shadow(self.new_shadow(index, true));
                self.cqs[index] = Some(cq);
                Status::SUCCESS
            }
        }
    }

    pub(crate) fn create_sq(&mut self, sqe: &Sqe) -> Status {
        let new = sqe.as_create_sq();
        let (qid, index) = (new.qid, usize::from(new.qid.0));
        if index == 0 || !self.sqs.get(index).is_some_and(Option::is_none) {
            let reason = "identifier is 0, in use or beyond those granted";
            return self.refuse_create(sqe, qid, StatusCode::INVALID_QUEUE_ID, reason);
        }
        if sqe.dword(11) & 0xfff8 != 0 {
            self.reserved(QueueId::ADMIN, sqe, 11);
        }
        let cq_index = usize::from(new.cqid.0);
        if cq_index == 0 || !self.cqs.get(cq_index).is_some_and(Option::is_some) {
            let reason = "its completion queue does not exist";
            return self.refuse_create(sqe, qid, StatusCode::CQ_INVALID, reason);
        }
        match self.queue_place(sqe.prp1(), new.size_z, SQE_BYTES, new.contiguous) {
            Err((code, reason)) => self.refuse_create(sqe, qid, code, reason),
            Ok(mut place) => {
                if let Some(doorbell) = self.doorbell(index, false) {
                    place.doorbell = doorbell;
                }
                self.check_queue_memory(qid, place.iova, place.span.len());
                self.scan_doorbell(index);
                place.doorbell.store(0);
                let paranoid = self.config.paranoid;
                let mut sq = Sq::new(qid, new.cqid, new.entries(), place, paranoid);
                sq.set_shadow(self.new_shadow(index, false));
                self.sqs[index] = Some(sq);
                self.active.push(qid);
                if let Some(cq) = &mut self.cqs[cq_index] {
                    cq.sqs += 1;
                }
                Status::SUCCESS
            }
        }
    }

    pub(crate) fn delete_sq(&mut self, sqe: &Sqe) -> Status {
        let qid = QueueId((sqe.dword(10) & 0xffff) as u16);
        let index = usize::from(qid.0);
        if index == 0 || !self.sqs.get(index).is_some_and(Option::is_some) {
            let reason = "no such submission queue";
            return self.refuse_delete(sqe, qid, StatusCode::INVALID_QUEUE_ID, reason);
        }
        self.check_sq(index);
        for flight in self.flights.drain_queue(qid) {
            self.check_claim(&flight);
            if self.queue_has_space(qid) {
                let status = StatusCode::ABORTED_SQ_DELETION.status();
                let status = self.fail_with(qid, &flight.sqe, status);
                self.post(qid, flight.sqe.cid(), status.into());
            }
        }
        if let Some(sq) = self.sqs[index].take()
            && let Some(cq) = &mut self.cqs[usize::from(sq.cqid.0)]
        {
            cq.sqs -= 1;
        }
        self.active.retain(|other| *other != qid);
        if let Some(doorbell) = self.doorbell(index, false) {
            doorbell.store(NO_QUEUE);
        }
        Status::SUCCESS
    }

    fn queue_has_space(&self, sqid: QueueId) -> bool {
        let sq = self.sqs[usize::from(sqid.0)].as_ref();
        let cq = sq.and_then(|sq| self.cqs[usize::from(sq.cqid.0)].as_ref());
        cq.is_some_and(|cq| cq.space() > 0)
    }

    pub(crate) fn delete_cq(&mut self, sqe: &Sqe) -> Status {
        let qid = QueueId((sqe.dword(10) & 0xffff) as u16);
        let index = usize::from(qid.0);
        match self.cqs.get(index) {
            Some(Some(cq)) if index != 0 => {
                if cq.sqs != 0 {
                    let reason = "it still has submission queues";
                    let code = StatusCode::INVALID_QUEUE_DELETION;
                    return self.refuse_delete(sqe, qid, code, reason);
                }
            }
            _ => {
                let reason = "no such completion queue";
                return self.refuse_delete(sqe, qid, StatusCode::INVALID_QUEUE_ID, reason);
            }
        }
        self.check_cq(index);
        self.cqs[index] = None;
        if let Some(doorbell) = self.doorbell(index, true) {
            doorbell.store(NO_QUEUE);
        }
        Status::SUCCESS
    }
}
