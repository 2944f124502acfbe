//! Submission and completion queues as the controller holds them.
//!
//! Heads and tails that a host writes are taken from doorbells once, checked, and kept here. Each
//! queue knows its memory as a span that was translated when it was made.

use crate::mistake::{DoorbellKind, HostMistake};
use crate::shadow::Shadow;
use core_runtime::mem::{DeviceCq, DeviceSq, Iova, prefetch_read};
use hybrid_shm::{Span, Word32};
use nvme_spec::{CQE_BYTES, Cid, Cqe, QueueId, SQE_BYTES, Sqe, Status};

/// A set of command identifiers.
#[derive(Debug)]
pub(crate) struct CidSet(Box<[u64]>);

impl CidSet {
    fn new() -> Self {
        Self(vec![0; 1 << 10].into_boxed_slice())
    }

    /// Adds one; false if it was there.
    #[inline]
    pub(crate) fn insert(&mut self, cid: Cid) -> bool {
        let (word, bit) = (usize::from(cid.0 >> 6), 1 << (cid.0 & 63));
        let fresh = self.0[word] & bit == 0;
        self.0[word] |= bit;
        fresh
    }

    #[inline]
    pub(crate) fn remove(&mut self, cid: Cid) {
        self.0[usize::from(cid.0 >> 6)] &= !(1 << (cid.0 & 63));
    }
}

/// A submission queue.
#[derive(Debug)]
pub(crate) struct Sq {
    pub(crate) id: QueueId,
    pub(crate) cqid: QueueId,
    pub(crate) iova: Iova,
    pub(crate) entries: u32,
    pub(crate) head: u32,
    pub(crate) tail: u32,
    pub(crate) in_flight: CidSet,
    memory: DeviceSq,
    span: Span<'static>,
    doorbell: Word32<'static>,
    shadow: Option<Shadow>,
    /// A bad doorbell stops a queue: it is not served until it is deleted.
    stopped: bool,
    /// What each entry held when it was rung for, or at creation; empty unless paranoid.
    copies: Vec<Sqe>,
    /// The first entry that was rung for and is not among the copies yet.
    copied: u32,
}

/// Where a queue's memory and doorbell are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueuePlace {
    pub(crate) span: Span<'static>,
    pub(crate) iova: Iova,
    pub(crate) doorbell: Word32<'static>,
}

impl Sq {
    pub(crate) fn new(
        id: QueueId,
        cqid: QueueId,
        entries: u32,
        place: QueuePlace,
        paranoid: bool,
    ) -> Self {
        let mut sq = Self {
            id,
            cqid,
            iova: place.iova,
            entries,
            head: 0,
            tail: 0,
            in_flight: CidSet::new(),
            memory: DeviceSq::new(place.span),
            span: place.span,
            doorbell: place.doorbell,
            shadow: None,
            stopped: false,
            copies: Vec::new(),
            copied: 0,
        };
        if paranoid {
            sq.copies = (0..entries).map(|index| sq.entry(index)).collect();
        }
        sq
    }

    /// An entry as it stands.
    fn entry(&self, index: u32) -> Sqe {
        Sqe(self.memory.read(index).unwrap_or_default())
    }

    const fn after(&self, index: u32, count: u32) -> u32 {
        (index + count) % self.entries
    }

    /// Copies what was rung for; true once a lap.
    pub(crate) fn copy_rung(&mut self) -> bool {
        let before = self.copied;
        while self.copied != self.tail && !self.copies.is_empty() {
            self.copies[self.copied as usize] = self.entry(self.copied);
            self.copied = self.after(self.copied, 1);
        }
        self.copied < before
    }

    /// Whether an entry is what it was when it was rung for; true if nobody remembers.
    pub(crate) fn is_as_copied(&self, index: u32, sqe: &Sqe) -> bool {
        self.copies.get(index as usize).is_none_or(|copy| copy == sqe)
    }

    /// An entry that is not what it must be. What was rung for must be as it was then. Of the
    /// others only those that directly follow the tail may have changed: they are about to be
    /// sent. Looked at from the far end, so that a host that is writing them does not matter.
    pub(crate) fn overwritten(&self) -> Option<u32> {
        if self.copies.is_empty() {
            return None;
        }
        let same = |index: u32| self.is_as_copied(index, &self.entry(index));
        let (waiting, uncopied) =
            (self.waiting(), (self.copied + self.entries - self.head) % self.entries);
        let rung = (0..uncopied.min(waiting)).map(|n| self.after(self.head, n));
        if let Some(index) = { rung }.find(|index| !same(*index)) {
            return Some(index);
        }
        let mut changed = None;
        for n in (waiting..self.entries).rev() {
            let index = self.after(self.head, n);
            match (same(index), changed) {
                (true, Some(_)) => return changed,
                // One entry always stays free.
                (false, None) if n == self.entries - 1 => return Some(index),
                (false, None) => changed = Some(index),
                _ => {}
            }
        }
        None
    }

    /// Stops looking: one mistake is enough.
    pub(crate) fn forget_copies(&mut self) {
        self.copies.clear();
    }

    /// Entries that wait to be fetched.
    #[inline]
    pub(crate) const fn waiting(&self) -> u32 {
        if self.tail >= self.head {
            self.tail - self.head
        } else {
            self.tail + self.entries - self.head
        }
    }

    /// From now on the doorbell is read from its shadow.
    pub(crate) fn set_shadow(&mut self, shadow: Option<Shadow>) {
        self.shadow = shadow;
    }

    /// Takes a new tail from the doorbell.
    // SYNC doorbell: entries stored before the doorbell was rung are visible after this.
    #[inline]
    pub(crate) fn poll(&mut self) -> Result<(), HostMistake> {
        let value = match &mut self.shadow {
            None => self.doorbell.load_acquire(),
            Some(shadow) => shadow.look(self.doorbell, self.tail),
        };
        if value == self.tail || self.stopped {
            return Ok(());
        }
        self.advance(value)
    }

    fn advance(&mut self, value: u32) -> Result<(), HostMistake> {
        let (qid, old, entries) = (self.id, self.tail, self.entries);
        if value >= entries {
            self.stopped = true;
            let kind = DoorbellKind::SqTail;
            return Err(HostMistake::DoorbellRange { kind, qid, value, entries });
        }
        let moved = if value > old { value - old } else { value + entries - old };
        if self.waiting() + moved >= entries {
            self.stopped = true;
            let head = self.head;
            return Err(HostMistake::SqOverrun { qid, old, value, head });
        }
        self.tail = value;
        Ok(())
    }

    /// Asks for the lines of the next `count` entries.
    #[inline]
    pub(crate) fn prefetch(&self, count: u32) {
        let mut index = self.head;
        for _ in 0..count {
            prefetch_read(self.span.as_ptr().wrapping_add(index as usize * SQE_BYTES));
            index += 1;
            if index == self.entries {
                index = 0;
            }
        }
    }

    /// Takes the entry at the head; `None` if its memory cannot be read.
    #[inline]
    pub(crate) fn fetch(&mut self) -> Option<Sqe> {
        let words = self.memory.read(self.head).ok()?;
        self.head = if self.head + 1 == self.entries { 0 } else { self.head + 1 };
        Some(Sqe(words))
    }
}

/// A completion queue.
#[derive(Debug)]
pub(crate) struct Cq {
    pub(crate) id: QueueId,
    pub(crate) iova: Iova,
    pub(crate) entries: u32,
    pub(crate) head: u32,
    pub(crate) tail: u32,
    pub(crate) phase: bool,
    /// Submission queues that post here.
    pub(crate) sqs: u32,
    memory: DeviceCq,
    span: Span<'static>,
    doorbell: Word32<'static>,
    shadow: Option<Shadow>,
    /// What was last written, per entry; empty unless the model is paranoid.
    written: Vec<Cqe>,
    stopped: bool,
    /// A fault posted more than fitted: heads that the host writes cannot be judged any more.
    overrun: bool,
    /// Completions of the entries from the tail on that are not written yet.
    staged: Vec<Cqe>,
}

/// Entries that are written together: those of one cache line. The host polls the line all the
/// time, so that each write to it costs a way between the cores; four entries then share one.
const STAGE: usize = 4;

impl Cq {
    pub(crate) fn new(id: QueueId, entries: u32, place: QueuePlace, paranoid: bool) -> Self {
        let written = if paranoid { entries as usize } else { 0 };
        let mut cq = Self {
            id,
            iova: place.iova,
            entries,
            head: 0,
            tail: 0,
            phase: true,
            sqs: 0,
            memory: DeviceCq::new(place.span),
            span: place.span,
            doorbell: place.doorbell,
            shadow: None,
            written: vec![Cqe::default(); written],
            stopped: false,
            overrun: false,
            staged: Vec::with_capacity(STAGE),
        };
        for index in 0..written {
            cq.written[index] = cq.entry(index);
        }
        cq
    }

    /// An entry as it stands.
    fn entry(&self, index: usize) -> Cqe {
        let word = |at: usize| self.span.word64(at).map_or(0, |word| word.load());
        Cqe::from_words(word(index * CQE_BYTES), word(index * CQE_BYTES + 8))
    }

    /// The first entry whose phase bit is set, which none should have at creation.
    pub(crate) fn stale_phase(&self) -> Option<u32> {
        (0..self.entries).find(|index| self.entry(*index as usize).phase())
    }

    /// Entries that may be posted.
    #[inline]
    pub(crate) const fn space(&self) -> u32 {
        let used = if self.tail >= self.head {
            self.tail - self.head
        } else {
            self.tail + self.entries - self.head
        };
        self.entries - 1 - used
    }

    /// From now on the doorbell is read from its shadow.
    pub(crate) fn set_shadow(&mut self, shadow: Option<Shadow>) {
        self.shadow = shadow;
    }

    /// Takes a new head from the doorbell.
    #[inline]
    pub(crate) fn poll(&mut self) -> Result<(), HostMistake> {
        let value = match &mut self.shadow {
            None => self.doorbell.load_acquire(),
            Some(shadow) => shadow.look(self.doorbell, self.head),
        };
        if value == self.head || self.stopped {
            return Ok(());
        }
        self.release(value)
    }

    fn release(&mut self, value: u32) -> Result<(), HostMistake> {
        let (qid, old, entries, tail) = (self.id, self.head, self.entries, self.tail);
        if value >= entries {
            self.stopped = true;
            let kind = DoorbellKind::CqHead;
            return Err(HostMistake::DoorbellRange { kind, qid, value, entries });
        }
        let moved = if value > old { value - old } else { value + entries - old };
        if moved > entries - 1 - self.space() && !self.overrun {
            self.stopped = true;
            return Err(HostMistake::CqHeadBeyondTail { qid, old, value, tail });
        }
        self.head = value;
        Ok(())
    }

    /// Writes the entry at the tail, with the phase set as it should be, and moves the tail.
    #[inline]
    pub(crate) fn post(&mut self, cqe: Cqe) -> Result<(), HostMistake> {
        let check = self.check_overwritten();
        let cqe = self.with_phase(cqe, self.phase);
        // The memory was translated for all entries when the queue was made.
        let _ = self.memory.post(self.tail, cqe.low, cqe.high);
        self.note(cqe);
        self.step();
        check
    }

    /// Keeps a completion for the entry after those that are kept already. All are written when
    /// they fill a cache line, the rest by [`Cq::flush`]; not for paranoid models.
    #[inline]
    pub(crate) fn stage(&mut self, cqe: Cqe) {
        self.staged.push(cqe);
        let next = self.tail as usize + self.staged.len();
        if next.is_multiple_of(STAGE) {
            self.flush();
        }
    }

    /// Writes what was kept.
    #[inline]
    pub(crate) fn flush(&mut self) {
        for index in 0..self.staged.len() {
            let cqe = self.with_phase(self.staged[index], self.phase);
            // The memory was translated for all entries when the queue was made.
            let _ = self.memory.post(self.tail, cqe.low, cqe.high);
            self.step();
        }
        self.staged.clear();
    }

    #[inline]
    fn check_overwritten(&self) -> Result<(), HostMistake> {
        let index = self.tail;
        match self.written.get(index as usize) {
            Some(written) if *written != self.entry(index as usize) => {
                Err(HostMistake::CqOverwritten { qid: self.id, index })
            }
            _ => Ok(()),
        }
    }

    /// An entry that is not what was written there.
    pub(crate) fn overwritten(&self) -> Option<u32> {
        let mut entries = (0_u32..).zip(&self.written);
        entries.find(|(index, cqe)| self.entry(*index as usize) != **cqe).map(|(index, _)| index)
    }

    /// Stops looking: one mistake is enough.
    pub(crate) fn forget_written(&mut self) {
        self.written.clear();
    }

    /// Remembers what was written at the tail.
    #[inline]
    fn note(&mut self, cqe: Cqe) {
        if let Some(written) = self.written.get_mut(self.tail as usize) {
            *written = cqe;
        }
    }

    #[inline]
    fn step(&mut self) {
        self.tail += 1;
        if self.tail == self.entries {
            self.tail = 0;
            self.phase = !self.phase;
        }
    }

    #[inline]
    const fn with_phase(&self, mut cqe: Cqe, phase: bool) -> Cqe {
        cqe.high &= !Cqe::PHASE;
        if phase {
            cqe.high |= Cqe::PHASE;
        }
        cqe
    }

    /// Before a fault posts whatever the room.
    pub(crate) fn note_overrun(&mut self) {
        self.overrun |= self.space() == 0;
    }

    /// A fault: the entry is written with the phase that it already has, and the tail moves.
    pub(crate) fn post_stuck(&mut self, cqe: Cqe) {
        let cqe = self.with_phase(cqe, !self.phase);
        let _ = self.memory.post(self.tail, cqe.low, cqe.high);
        self.note(cqe);
        self.step();
    }

    /// A fault: the entry at the tail gets its phase now, over what it held.
    pub(crate) fn flip_early(&mut self) -> Cqe {
        let stale = self.with_phase(self.entry(self.tail as usize), self.phase);
        let _ = self.memory.post(self.tail, stale.low, stale.high);
        self.note(stale);
        stale
    }

    /// A fault: reserves the entry at the tail and returns its index and content, to be stored by
    /// [`Cq::store_dword`] later.
    pub(crate) fn reserve(&mut self, cqe: Cqe) -> (u32, Cqe) {
        let index = self.tail;
        let cqe = self.with_phase(cqe, self.phase);
        self.note(cqe);
        self.step();
        (index, cqe)
    }

    /// A fault: stores one dword of an entry.
    pub(crate) fn store_dword(&self, index: u32, cqe: Cqe, dword: u8) {
        let (low, high) = ([cqe.result(), cqe.dw1()], cqe.high);
        let halves = [(high & 0xffff_ffff) as u32, (high >> 32) as u32];
        let dword = usize::from(dword & 3);
        let value = if dword < 2 { low[dword] } else { halves[dword - 2] };
        if let Ok(word) = self.span.word32(index as usize * CQE_BYTES + dword * 4) {
            word.store_release(value);
        }
    }
}

/// Makes a completion for a command of `sq`.
#[inline]
pub(crate) fn completion(sq: &Sq, cid: Cid, status: Status, result: u32) -> Cqe {
    // Entries are at most 65,536, so an index fits.
    let sqhd = (sq.head & 0xffff) as u16;
    Cqe::new(result, sqhd, sq.id, cid, false, status)
}
