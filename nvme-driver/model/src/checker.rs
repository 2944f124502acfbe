//! Looks for what a host does where no command tells of it: doorbells at the wrong time, and memory
//! that it gave to the controller and uses for something else.
//!
//! Called by the loop, the registers and the commands that make and delete queues. Everybody is
//! watched for doorbells of queues that do not exist and doorbells while not ready: once a step,
//! and always before the values are forgotten (EN = 0, RDY = 0, a queue that is made). Doorbells
//! are words in memory, so that of two writes between two looks only the last is seen, and a write
//! of the value that stands there is none.
//!
//! A paranoid model also keeps
//! - what it wrote to completion queues: compared entry by entry when an entry is written again,
//!   and whole when the queue ends (deleted, RDY = 0, [`Model::assert_no_mistakes`]);
//! - what submission queues held when their doorbell was rung: an entry that changes before it is
//!   fetched, and, once a lap and at the queue's end, entries that changed although they were not
//!   the next ones to be sent;
//! - which memory each I/O command in flight names, PRP lists included: shared with another
//!   command of which one writes, shared with a queue, or named otherwise when the command ends.
//!
//! What is not seen: reuse of queue memory that writes only entries that follow the tail without a
//! gap, which looks like commands that are about to be sent; entries that were never used and
//! still hold what they held; queue memory that is only read, or written and restored; the content
//! of data buffers, which a host may change at the price of its data; memory that admin commands
//! name; buffers after an abort (the controller has let go then). A queue that was freed with
//! CC.EN = 0 but before RDY = 0 is seen only if `not_ready_delay_ns` leaves time for it.

use crate::fault::CqeFault;
use crate::flight::Flight;
use crate::mistake::{DoorbellKind, HostMistake};
use crate::model::{Model, NO_QUEUE};
use crate::registers::Life;
use crate::transfer::{Prps, Ranges};
use core_runtime::mem::Iova;
use nvme_spec::registers::Shst;
use nvme_spec::{AsyncEvent, CQE_BYTES, Cid, NvmOpcode, QueueId, SQE_BYTES, Sqe};

const KINDS: [(bool, DoorbellKind); 2] =
    [(false, DoorbellKind::SqTail), (true, DoorbellKind::CqHead)];

/// Memory that a command in flight names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The controller writes the data there: a read.
    writes: bool,
    ranges: Ranges,
}

impl Claim {
    fn shares(&self, other: &Self) -> Option<u64> {
        let (ours, theirs) = (&self.ranges, &other.ranges);
        let data = ours.data.overlap(&theirs.data).filter(|_| self.writes || other.writes);
        data.or_else(|| ours.data.overlap(&theirs.tables).filter(|_| self.writes))
            .or_else(|| theirs.data.overlap(&ours.tables).filter(|_| other.writes))
    }
}

fn qid_of(index: usize) -> QueueId {
    QueueId(u16::try_from(index).unwrap_or(u16::MAX))
}

// Doorbells.
impl Model {
    /// Looks at the doorbells of one queue identifier that has no queue.
    #[inline]
    pub(crate) fn scan_doorbells(&mut self) {
        self.scan = if self.scan + 1 >= self.sqs.len() { 0 } else { self.scan + 1 };
        self.scan_doorbell(self.scan);
    }

    pub(crate) fn scan_doorbell(&mut self, index: usize) {
        for (cq, kind) in KINDS {
            let missing = if cq { self.cqs[index].is_none() } else { self.sqs[index].is_none() };
            if !missing {
                continue;
            }
            let Some(word) = self.doorbell(index, cq) else { continue };
            let value = word.load();
            if value != NO_QUEUE {
                word.store(NO_QUEUE);
                let qid = qid_of(index);
                self.mistakes.add(HostMistake::DoorbellMissingQueue { kind, qid, value });
                self.raise(AsyncEvent::INVALID_DOORBELL_REGISTER);
            }
        }
    }

    /// Looks at everything that may be seen at this point.
    pub(crate) fn look_at_all(&mut self) {
        self.check_doorbells_while_down();
        if self.regs.serving() {
            for index in 0..self.sqs.len() {
                self.scan_doorbell(index);
            }
        }
        self.check_memory();
    }

    /// Before the doorbells lose their meaning, by EN = 0 or a shutdown: all that was wrong with
    /// them until now is told, and what they hold is remembered.
    pub(crate) fn freeze_doorbells(&mut self) {
        self.check_doorbells_while_down();
        if self.regs.life == Life::Ready {
            for index in 0..self.sqs.len() {
                self.scan_doorbell(index);
            }
        }
        self.frozen.clear();
        for index in 0..self.sqs.len() {
            for (cq, _) in KINDS {
                let value = self.doorbell(index, cq).map_or(NO_QUEUE, |word| word.load());
                self.frozen.push(value);
            }
        }
    }

    /// While the controller is not ready, no doorbell may be written; after CC.SHN, none that sends
    /// a command.
    pub(crate) fn check_doorbells_while_down(&mut self) {
        if self.regs.gone() || self.regs.behind_the_back {
            return;
        }
        let tails_only = match self.regs.life {
            Life::Disabled | Life::Enabling { .. } | Life::Disabling { .. } => false,
            Life::Ready if self.regs.shst() != Shst::Normal => true,
            Life::Ready => return,
        };
        let frozen = tails_only || matches!(self.regs.life, Life::Disabling { .. });
        for index in 0..self.sqs.len() {
            for (cq, kind) in KINDS {
                let has_queue =
                    if cq { self.cqs[index].is_some() } else { self.sqs[index].is_some() };
                let place = 2 * index + usize::from(cq);
                let rest = match self.frozen.get(place) {
                    Some(value) if frozen => *value,
                    _ if has_queue => 0,
                    _ => NO_QUEUE,
                };
                let Some(word) = self.doorbell(index, cq) else { continue };
                let value = word.load();
                if value == rest || (tails_only && cq) {
                    continue;
                }
                word.store(rest);
                let qid = qid_of(index);
                self.mistakes.add(HostMistake::DoorbellWhileNotReady { kind, qid, value });
            }
        }
    }
}

// Memory.
impl Model {
    /// Compares all queue memory, and what commands in flight name, with what is remembered.
    pub(crate) fn check_memory(&mut self) {
        if !self.config.paranoid || self.regs.gone() {
            return;
        }
        for index in 0..self.sqs.len() {
            self.check_sq(index);
            self.check_cq(index);
        }
        let flights = &self.flights;
        let changed: Vec<_> = flights
            .claims()
            .filter(|(_, sqe, claim)| self.claim(sqe).as_ref() != Some(*claim))
            .map(|(sqid, sqe, _)| (sqid, sqe.cid()))
            .collect();
        for (sqid, cid) in changed {
            self.mistakes.add(HostMistake::PrpsChanged { sqid, cid });
            self.flights.excuse(sqid, cid);
        }
    }

    pub(crate) fn check_sq(&mut self, index: usize) {
        if let Some(sq) = &mut self.sqs[index]
            && let Some(entry) = sq.overwritten()
        {
            sq.forget_copies();
            self.mistakes.add(HostMistake::SqOverwritten { qid: sq.id, index: entry });
        }
    }

    pub(crate) fn check_cq(&mut self, index: usize) {
        let qid = qid_of(index);
        // Entries that become visible word by word are remembered whole.
        let torn = self.flights.torn.iter().any(|torn| torn.cqid == qid);
        if let Some(cq) = &mut self.cqs[index]
            && !torn
            && let Some(entry) = cq.overwritten()
        {
            cq.forget_written();
            self.mistakes.add(HostMistake::CqOverwritten { qid, index: entry });
        }
    }

    /// Remembers the entries that were rung for and not looked at yet.
    pub(crate) fn copy_rung(&mut self, qid: QueueId) {
        let Some(sq) = &mut self.sqs[usize::from(qid.0)] else { return };
        if sq.copy_rung() {
            self.check_sq(usize::from(qid.0));
        }
    }

    /// An entry that was fetched just now: is it what was rung for?
    pub(crate) fn check_fetched(&mut self, qid: QueueId, sqe: &Sqe) {
        let Some(sq) = &mut self.sqs[usize::from(qid.0)] else { return };
        let index = if sq.head == 0 { sq.entries - 1 } else { sq.head - 1 };
        if !sq.is_as_copied(index, sqe) {
            sq.forget_copies();
            self.mistakes.add(HostMistake::SqOverwritten { qid, index });
        }
    }

    /// Memory of a queue that is made: that of another one?
    pub(crate) fn check_queue_memory(&mut self, qid: QueueId, iova: Iova, len: usize) {
        if let Some(other) = self.queue_at(iova.0, iova.0.saturating_add(len as u64)) {
            self.mistakes.add(HostMistake::QueueMemoryShared { qid: other, with: qid, cid: None });
        }
    }

    /// A live queue that has memory in a range.
    fn queue_at(&self, start: u64, end: u64) -> Option<QueueId> {
        let sqs = self.sqs.iter().flatten().map(|sq| (sq.id, sq.iova, sq.entries, SQE_BYTES));
        let cqs = self.cqs.iter().flatten().map(|cq| (cq.id, cq.iova, cq.entries, CQE_BYTES));
        sqs.chain(cqs)
            .find(|(_, iova, entries, bytes)| {
                iova.0 < end && start < iova.0 + u64::from(*entries) * *bytes as u64
            })
            .map(|(qid, ..)| qid)
    }

    /// The memory that an I/O command names; `None` if it has none or cannot be followed.
    fn claim(&self, sqe: &Sqe) -> Option<Claim> {
        let op = NvmOpcode(sqe.opcode());
        let ns = self.namespaces.iter().find(|ns| ns.nsid == sqe.nsid())?;
        let len = match op {
            NvmOpcode::READ | NvmOpcode::WRITE | NvmOpcode::COMPARE => {
                u64::from(sqe.nlb()) * ns.transfer_bytes()
            }
            NvmOpcode::DATASET_MANAGEMENT => (u64::from(sqe.dword(10) & 0xff) + 1) * 16,
            _ => return None,
        };
        if len > self.max_transfer() {
            return None;
        }
        let prps: Prps = self.prps(sqe, len);
        let ranges = prps.ranges(&self.dma)?;
        Some(Claim { writes: op == NvmOpcode::READ, ranges })
    }

    /// A paranoid model notes what a command names, and what is wrong with that.
    pub(crate) fn note_claim(&mut self, new: &mut Flight) {
        let Some(claim) = self.claim(&new.sqe) else { return };
        let (sqid, cid) = (new.sqid, new.sqe.cid());
        let others = self.flights.claims();
        let clash = others.filter_map(|(_, sqe, other)| Some((sqe.cid(), other.shares(&claim)?)));
        if let Some((first, iova)) = { clash }.next() {
            self.mistakes.add(HostMistake::BufferShared { sqid, first, second: cid, iova });
        }
        let ranges = claim.ranges.data.iter().chain(claim.ranges.tables.iter());
        if let Some(qid) = { ranges }.find_map(|(start, end)| self.queue_at(start, end)) {
            let cid = Some(cid);
            self.mistakes.add(HostMistake::QueueMemoryShared { qid, with: sqid, cid });
        }
        new.claim = Some(Box::new(claim));
    }

    /// When a command ends: does it name what it named at first?
    pub(crate) fn check_claim(&mut self, flight: &Flight) {
        if let Some(claim) = &flight.claim
            && self.claim(&flight.sqe).as_ref() != Some(&**claim)
        {
            let (sqid, cid) = (flight.sqid, flight.sqe.cid());
            self.mistakes.add(HostMistake::PrpsChanged { sqid, cid });
        }
    }

    /// A host that was told by a fault that a command is done may use its memory and its
    /// identifier again, and is not to blame.
    pub(crate) fn excuse_for(&mut self, sqid: QueueId, cid: Cid, fault: CqeFault) {
        let (sqid, cid) = match fault {
            CqeFault::WrongCid(bits) | CqeFault::Extra(bits) => (sqid, Cid(cid.0 ^ bits)),
            CqeFault::WrongSqid(other) => (QueueId(other), cid),
            _ => return,
        };
        self.excuse(sqid, cid);
    }

    pub(crate) fn excuse(&mut self, sqid: QueueId, cid: Cid) {
        self.flights.excuse(sqid, cid);
        if let Some(Some(sq)) = self.sqs.get_mut(usize::from(sqid.0)) {
            sq.in_flight.remove(cid);
        }
    }
}
