//! What a queue pair's two rings say by themselves, when nobody can be asked any more.
//!
//! A pure reading of bytes that a device and a dead partition wrote: nothing is believed that could
//! make it leave the rings, and the work is bounded by the square of their length.
//!
//! The phase tags show where the device would write its next completion, and so which is the newest
//! one. Its SQHD says how far the device had fetched. From there both rings are walked backwards:
//! each completion's SQHD, unwrapped, says which entries had been fetched when it was written. So
//! an entry was answered exactly if a completion with its CID was written after it was fetched; one
//! that was written before answers an earlier command with the same CID. An entry is also over if a
//! later one uses its slot. What lies at or behind the newest SQHD may be a lap old or not fetched
//! yet: only the tail tells, which the driver left in a shadow doorbell, or with its indices in the
//! region, a millisecond ago. (NVMe Base 2.0, sections 3.3.1 and 3.3.3.)

use zerocopy::FromBytes;

use super::device::{COMMAND_DOUBTFUL, Indices};
use super::file::QueueImageHead;

const SQE_BYTES: usize = 64;
const CQE_BYTES: usize = 16;

/// Entries of a ring, most; what our driver makes.
pub const MAX_RING_ENTRIES: u32 = 4096;

/// A queue pair's rings.
#[derive(Clone, Copy, Debug)]
pub struct Rings<'a> {
    sq: &'a [u8],
    cq: &'a [u8],
    entries: u32,
    qid: u16,
    slot_mask: u16,
    tail: Tail,
}

/// Where the next entry would go.
#[derive(Clone, Copy, Debug)]
enum Tail {
    Unknown,
    /// As the device knew it.
    Exact(u32),
    /// As it was a while ago.
    Old(Indices),
}

/// An entry without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// The entry's words.
    pub sqe: [u64; 8],
    /// Its command identifier.
    pub cid: u16,
    /// [`COMMAND_DOUBTFUL`] where its answer may have been written over, else 0.
    pub flags: u8,
}

/// A completion.
#[derive(Clone, Copy)]
struct Cqe {
    sqhd: u16,
    sqid: u16,
    cid: u16,
    phase: bool,
    status: u16,
    blank: bool,
}

impl<'a> Rings<'a> {
    /// The rings that stand behind `head`, the submission queue first. `None` if there are not so
    /// many bytes, or the numbers make no sense.
    #[must_use]
    pub fn new(head: &QueueImageHead, bytes: &'a [u8]) -> Option<Self> {
        let entries = head.entries;
        if !(2..=MAX_RING_ENTRIES).contains(&entries) {
            return None;
        }
        let sq_bytes = entries as usize * SQE_BYTES;
        let sq = bytes.get(..sq_bytes)?;
        let cq = bytes.get(sq_bytes..sq_bytes + entries as usize * CQE_BYTES)?;
        let slot_mask = u16::try_from(head.slot_mask).ok()?;
        let tail = match (head.tail, Indices::from_word(head.indices)) {
            (tail, _) if tail < entries => Tail::Exact(tail),
            (_, Some(old)) if u32::from(old.sqhd.max(old.sq_tail)) < entries => Tail::Old(old),
            _ => Tail::Unknown,
        };
        Some(Self { sq, cq, entries, qid: head.qid, slot_mask, tail })
    }

    /// Calls `f` for each entry that has no answer, oldest first.
    pub fn each_unanswered(&self, mut f: impl FnMut(Unanswered)) {
        let head = self.newest().map_or(0, |(_, cqe)| u32::from(cqe.sqhd));
        for (at, order) in self.in_order(head) {
            let Some(sqe) = self.sqe(at) else { continue };
            let cid = cid_of(&sqe);
            if sqe == [0; 8] || self.is_over(head, cid, order) {
                continue;
            }
            let doubtful = match self.answer(cid, order) {
                Answer::Found(_) => continue,
                Answer::None => self.may_be_old(cid, order),
                Answer::WrittenOver => true,
            };
            let flags = if doubtful { COMMAND_DOUBTFUL } else { 0 };
            f(Unanswered { sqe, cid, flags });
        }
    }

    /// Whether an entry that the indices of a while ago show as not fetched could as well be one of
    /// a lap ago, which was answered: a fast device may have gone round the ring since.
    fn may_be_old(&self, cid: u16, order: i64) -> bool {
        let before = order - i64::from(self.entries);
        order >= 0
            && matches!(self.tail, Tail::Old(_))
            && matches!(self.answer(cid, before), Answer::Found(_))
    }

    /// Whether the tail is known well enough to tell commands that were posted after the newest
    /// completion was written.
    #[must_use]
    pub fn knows_tail(&self) -> bool {
        let head = self.newest().map_or(0, |(_, cqe)| u32::from(cqe.sqhd));
        match self.tail {
            Tail::Unknown => false,
            Tail::Exact(_) => true,
            Tail::Old(_) => self.ahead(head).is_some(),
        }
    }

    /// Entries that were posted behind `head`, if that is known.
    fn ahead(&self, head: u32) -> Option<u32> {
        let from = |from: u32, to: u32| (to + self.entries - from) % self.entries;
        match self.tail {
            Tail::Unknown => None,
            Tail::Exact(tail) => Some(from(head, tail)),
            Tail::Old(old) => {
                let (sqhd, tail) = (u32::from(old.sqhd), u32::from(old.sq_tail));
                (from(sqhd, head) <= from(sqhd, tail)).then(|| from(head, tail))
            }
        }
    }

    /// The status of the completion that answers the newest entry with this CID.
    #[must_use]
    pub fn answer_to(&self, cid: u16) -> Option<u16> {
        let head = self.newest().map_or(0, |(_, cqe)| u32::from(cqe.sqhd));
        let found = |&(at, _): &(u32, i64)| self.sqe(at).is_some_and(|sqe| cid_of(&sqe) == cid);
        let (_, order) = self.in_order(head).filter(found).last()?;
        match self.answer(cid, order) {
            Answer::Found(status) => Some(status),
            Answer::None | Answer::WrittenOver => None,
        }
    }

    /// All places of the submission queue, oldest first, with their order: the entry before the
    /// newest SQHD is -1, those that were not fetched then count from 0.
    fn in_order(&self, head: u32) -> impl Iterator<Item = (u32, i64)> + use<> {
        let entries = self.entries;
        let new = self.ahead(head).unwrap_or(0);
        let old = (new..entries).map(move |i| (i, i64::from(i) - i64::from(entries)));
        old.chain((0..new).map(|i| (i, i64::from(i))))
            .map(move |(i, order)| ((head + i) % entries, order))
    }

    /// Whether an entry later than the one at `order` uses the slot of this CID.
    fn is_over(&self, head: u32, cid: u16, order: i64) -> bool {
        let slot = cid & self.slot_mask;
        self.in_order(head).any(|(at, later)| {
            later > order
                && self
                    .sqe(at)
                    .is_some_and(|sqe| sqe != [0; 8] && cid_of(&sqe) & self.slot_mask == slot)
        })
    }

    /// Looks for an answer that was written after the entry at `order` was fetched.
    fn answer(&self, cid: u16, order: i64) -> Answer {
        let Some((newest, first)) = self.newest() else { return Answer::None };
        let (mut head, mut sqhd) = (0_i64, u32::from(first.sqhd));
        for back in 0..self.entries {
            let at = (newest + self.entries - back) % self.entries;
            let cqe = self.cqe(at);
            if cqe.blank {
                return Answer::None;
            }
            if cqe.sqid != self.qid || u32::from(cqe.sqhd) >= self.entries {
                continue;
            }
            let moved = (sqhd + self.entries - u32::from(cqe.sqhd)) % self.entries;
            sqhd = u32::from(cqe.sqhd);
            head -= i64::from(moved);
            if head <= order {
                return Answer::None;
            }
            if cqe.cid == cid {
                return Answer::Found(cqe.status);
            }
        }
        Answer::WrittenOver
    }

    /// The newest completion of this queue, and where it lies.
    fn newest(&self) -> Option<(u32, Cqe)> {
        let first = self.cqe(0).phase;
        let next = (1..self.entries).find(|at| self.cqe(*at).phase != first);
        let next = next.unwrap_or(0);
        (1..=self.entries)
            .map(|back| (next + self.entries - back) % self.entries)
            .map(|at| (at, self.cqe(at)))
            .take_while(|(_, cqe)| !cqe.blank)
            .find(|(_, cqe)| cqe.sqid == self.qid && u32::from(cqe.sqhd) < self.entries)
    }

    fn sqe(&self, at: u32) -> Option<[u64; 8]> {
        let at = at as usize * SQE_BYTES;
        <[u64; 8]>::read_from_bytes(self.sq.get(at..at + SQE_BYTES)?).ok()
    }

    fn cqe(&self, at: u32) -> Cqe {
        let at = at as usize * CQE_BYTES;
        let bytes = self.cq.get(at..at + CQE_BYTES).unwrap_or_default();
        let [low, high] = <[u64; 2]>::read_from_bytes(bytes).unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, reason = "16 of the bits are wanted")]
        let half = |shift: u32| (high >> shift) as u16;
        Cqe {
            sqhd: half(0),
            sqid: half(16),
            cid: half(32),
            phase: high >> 48 & 1 != 0,
            status: half(49) & 0x7FFF,
            blank: low == 0 && high == 0,
        }
    }
}

enum Answer {
    Found(u16),
    None,
    /// There is none, but there may have been one.
    WrittenOver,
}

/// Dword 0 of an entry: bits 31:16.
const fn cid_of(sqe: &[u64; 8]) -> u16 {
    (sqe[0] >> 16 & 0xFFFF) as u16
}

#[cfg(test)]
#[path = "rings_tests.rs"]
mod tests;
