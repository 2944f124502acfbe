//! A queue pair as a crash record sees it: read as it stands, whatever was going on.
//!
//! No index is believed: the handler may come when something else has already written over them.

use core_runtime::clock::Instant;
use hybrid_abi::crash::device::{
    Indices, QUEUE_CLOSED, QUEUE_FENCED, QUEUE_LOST, QUEUE_OPEN, QueueRecord,
};
use nvme_spec::{Cqe, Status};

use super::{Mode, QueuePair};
use crate::slot::{STAMPED, SlotState};

/// A command that is not over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outstanding {
    pub cid: u16,
    pub token: u64,
    pub state: SlotState,
    /// Epochs since it was posted.
    pub epochs: u8,
    /// When it was posted, if it was sampled.
    pub stamped: Option<Instant>,
}

impl QueuePair {
    /// Low bits of a CID that name its slot.
    pub(crate) const fn slot_mask(&self) -> u16 {
        self.layout.mask()
    }

    /// Calls `f` for each command that is in flight or held.
    pub(crate) fn each_outstanding(&self, mut f: impl FnMut(Outstanding)) {
        let epoch = self.epoch.get();
        for (slot, stamp) in self.slots.iter().zip(self.stamps) {
            let (state, word) = (slot.state(), slot.word());
            if state == SlotState::Free {
                continue;
            }
            let sampled = state != SlotState::Held && word.tag() & STAMPED != 0;
            f(Outstanding {
                cid: if state == SlotState::Held { word.last() } else { word.live() },
                token: slot.token(),
                state,
                epochs: if state == SlotState::Held { 0 } else { slot.age(epoch) },
                stamped: sampled.then(|| stamp.get().at()),
            });
        }
    }

    /// The entry posted last with this CID, unless it was written over.
    pub(crate) fn entry_of(&self, cid: u16) -> Option<[u64; 8]> {
        let mut index = self.sq_tail.get();
        for _ in 0..self.entries {
            index = self.before(index)?;
            let words = self.sq.read(index);
            if (words[0] >> 16) & 0xFFFF == u64::from(cid) {
                return Some(words);
            }
        }
        None
    }

    /// Whether the device was told of this command.
    pub(crate) fn is_rung(&self, cid: u16) -> bool {
        let mut index = self.sq_tail.get();
        for _ in 0..self.entries {
            if index == self.sq_rung.get() {
                break;
            }
            let Some(before) = self.before(index) else { break };
            index = before;
            if (self.sq.read(index)[0] >> 16) & 0xFFFF == u64::from(cid) {
                return false;
            }
        }
        true
    }

    /// The status of a completion for this CID that lies in the ring and was not taken.
    pub(crate) fn answer_to(&self, cid: u16) -> Option<Status> {
        let mut found = None;
        self.each_unreaped(|cqe| {
            if cqe.cid().0 == cid && cqe.sqid().0 == self.qid && found.is_none() {
                found = Some(cqe.status());
            }
        });
        found
    }

    fn each_unreaped(&self, mut f: impl FnMut(Cqe)) {
        if !self.open.get() {
            return;
        }
        let (mut entry, mut phase) = (self.cq_head.get(), self.phase.get());
        for _ in 0..self.entries {
            if u32::from(entry) >= self.cq.entries() {
                return;
            }
            let high = self.cq.high(entry);
            if (high ^ phase) & Cqe::PHASE != 0 {
                return;
            }
            f(Cqe::from_words(self.cq.low(entry), high));
            entry = self.after(entry);
            if entry == 0 {
                phase ^= Cqe::PHASE;
            }
        }
    }

    /// The index before this one; `None` if it is none of the ring's.
    fn before(&self, index: u16) -> Option<u16> {
        let before = if index == 0 { self.entries.checked_sub(1)? } else { index - 1 };
        (u32::from(before) < self.sq.entries()).then_some(before)
    }

    /// Where both rings stand.
    pub(crate) fn indices(&self) -> Indices {
        Indices { sq_tail: self.sq_tail.get(), sqhd: self.sqhd.get(), cq_head: self.cq_head.get() }
    }

    /// Indices and counters.
    pub(crate) fn crash_record(&self, controller: u32) -> QueueRecord {
        let mut unreaped = 0_u32;
        self.each_unreaped(|_| unreaped = unreaped.saturating_add(1));
        let (sq_iova, cq_iova) = self.iovas();
        QueueRecord {
            controller: u16::try_from(controller).unwrap_or(u16::MAX),
            qid: self.qid,
            entries: self.entries,
            mode: match self.mode.get() {
                Mode::Closed => QUEUE_CLOSED,
                Mode::Open => QUEUE_OPEN,
                Mode::Fenced(_) => QUEUE_FENCED,
                Mode::Lost => QUEUE_LOST,
            },
            sq_tail: self.sq_tail.get(),
            sq_rung: self.sq_rung.get(),
            sqhd: self.sqhd.get(),
            cq_head: self.cq_head.get(),
            cq_rung: self.cq_rung.get(),
            phase: u16::from(self.phase.get() & Cqe::PHASE != 0),
            in_flight: self.in_flight.get(),
            held: self.held.get(),
            sq_iova: sq_iova.0,
            cq_iova: cq_iova.0,
            submitted: self.submitted.get(),
            completed: self.completed.get(),
            failed: self.cold.failed.get(),
            lost: self.cold.lost.get(),
            unreaped,
            reserved: 0,
        }
    }
}
