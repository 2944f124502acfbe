//! The log's writer as a pure machine: appends go in, actions come out, endings are told.
//!
//! It touches no device. Its owner holds a buffer for each slot, asks [`Engine::next`] what to do,
//! does it, and says how it ended; so that the simulation of the tests runs the machine that ships.
//!
//! ```text
//!   a batch:  open ─append…─▶ ready ─Write─▶ writing ─written─▶ written ─Flush─▶ covered
//!                                              │ (no cache, or FUA)                 │ flushed
//!                                              └──────────────▶ durable ◀──────────┘
//!             the oldest batches that are durable are acknowledged, in order
//!   a superblock or an index block: one at a time, the same way
//! ```
//! A flush covers what had been written when it was submitted, and one is in flight at a time: the
//! writes that end meanwhile share the next one. That is the group commit; while few writes are in
//! flight, a batch leaves at once, with the record that opened it.

mod build;
mod meta;
mod stats;

use core::ops::DerefMut;

use core_runtime::crc::crc32c;
use hybrid_abi::journal::{Chain, Geometry, JournalSuperblock, Mark};
use nvme_driver::IoError;

use crate::chain;
use crate::error::{AppendError, Ended, JournalError};
use crate::limits::{Limits, Priority};
use crate::promise::Promise;
use build::Open;
use meta::Meta;
pub use stats::EngineStats;

/// Most batches at once.
pub const SLOTS_MAX: usize = 16;

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the first `bytes` of the buffer of `slot` at block `lba`.
    Write {
        /// The slot.
        slot: usize,
        /// First block.
        lba: u64,
        /// Bytes, whole blocks.
        bytes: usize,
        /// With force unit access.
        fua: bool,
    },
    /// Write `bytes` that [`Engine::encode_meta`] gives at block `lba`.
    WriteMeta {
        /// First block.
        lba: u64,
        /// Bytes, whole blocks.
        bytes: usize,
    },
    /// Flush.
    Flush,
}

/// How far a batch, or a superblock, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Ready,
    Writing,
    Written,
    Covered,
    Durable,
}

/// A batch on its way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    slot: usize,
    stage: Stage,
    open: Open,
    /// Behind its last record.
    end: Mark,
    /// Chain behind it, once it is written.
    chain: Chain,
}

/// The writer.
#[derive(Debug)]
pub struct Engine {
    g: Geometry,
    superblock: JournalSuperblock,
    limits: Limits,
    promise: Promise,
    soft_bytes: u32,
    open: Option<Open>,
    open_slot: usize,
    flights: [Option<Flight>; SLOTS_MAX],
    /// The oldest flight, and how many there are: a ring.
    first: usize,
    count: usize,
    free: u32,
    writing: usize,
    flushing: bool,
    /// Where the next batch begins, and what its first record follows.
    head: Mark,
    acked: Mark,
    /// Chain in front of the next batch that is written, and behind the last one that is
    /// acknowledged.
    sealed_chain: Chain,
    acked_chain: Chain,
    meta: Meta,
    ended: Option<Ended>,
    stats: EngineStats,
}

impl Engine {
    /// A writer behind the checkpoint of `superblock`, which [`crate::take_over`] returned.
    ///
    /// # Errors
    /// [`JournalError::Limits`].
    pub fn new(
        superblock: JournalSuperblock,
        limits: Limits,
        promise: Promise,
    ) -> Result<Self, JournalError> {
        let Limits { slots, in_flight, .. } = limits;
        let allowed = (2..=SLOTS_MAX).contains(&slots.into()) && (1..=slots).contains(&in_flight);
        if !allowed || limits.pending_records == 0 {
            return Err(JournalError::Limits { slots, in_flight });
        }
        let g = superblock.geometry();
        let head = superblock.checkpoint;
        Ok(Self {
            g,
            superblock,
            limits,
            promise,
            soft_bytes: promise.soft_bytes(g.lba_bytes, g.batch_bytes),
            open: None,
            open_slot: 0,
            flights: [None; SLOTS_MAX],
            first: 0,
            count: 0,
            free: (1 << slots) - 1,
            writing: 0,
            flushing: false,
            head,
            acked: head,
            sealed_chain: superblock.chain,
            acked_chain: superblock.chain,
            meta: Meta::new(&superblock),
            ended: None,
            stats: EngineStats::default(),
        })
    }

    // ---- what is known -----------------------------------------------------------------------

    /// The sizes.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.g
    }

    /// The last durable superblock.
    #[must_use]
    pub const fn superblock(&self) -> &JournalSuperblock {
        &self.superblock
    }

    /// Behind the last acknowledged record.
    #[must_use]
    pub const fn acknowledged(&self) -> Mark {
        self.acked
    }

    /// Sequence number that the next record gets.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.open.map_or(self.head.sequence, |open| open.end.sequence)
    }

    /// Records without an acknowledgement.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.next_sequence() - self.acked.sequence
    }

    /// What ended the log. Everything from [`Engine::acknowledged`] on is unknown then.
    #[must_use]
    pub const fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// Counters.
    #[must_use]
    pub const fn stats(&self) -> &EngineStats {
        &self.stats
    }

    /// Whether nothing is in flight: the owner may let go of the buffers.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.writing == 0 && !self.flushing && !self.meta.is_in_flight()
    }

    // ---- appends -----------------------------------------------------------------------------

    /// Puts a record into the open batch; returns its sequence number. `bufs` has a buffer of
    /// [`Geometry::batch_bytes`] for each slot.
    ///
    /// # Errors
    /// [`AppendError`]; nothing of the record is in the log then.
    ///
    /// # Panics
    /// If a buffer is shorter than a batch: a mistake of the owner's.
    #[inline]
    pub fn append<B: DerefMut<Target = [u8]>>(
        &mut self,
        bufs: &mut [Option<B>],
        priority: Priority,
        (kind, time_ns): (u32, u64),
        payload: &[u8],
    ) -> Result<u64, AppendError> {
        if let Some(ended) = self.ended {
            return Err(AppendError::Ended(ended));
        }
        self.admit(priority, payload.len())?;
        if self.open.as_ref().is_some_and(|open| !open.has_room(payload.len(), self.soft_bytes)) {
            self.close();
        }
        if self.open.is_none() {
            self.open_batch()?;
        }
        let open = self.open.as_mut().expect("a batch was opened above");
        let buf = bufs[self.open_slot].as_mut().expect("the buffer of a slot that is free");
        let epoch = self.superblock.epoch;
        let sequence = open.put(buf, epoch, (kind, time_ns), payload);
        self.stats.appends += 1;
        self.stats.payload_bytes += payload.len() as u64;
        Ok(sequence)
    }

    #[inline]
    fn admit(&mut self, priority: Priority, length: usize) -> Result<(), AppendError> {
        let most = Open::most_payload(self.g.batch_bytes);
        if length > most {
            let sequence = self.next_sequence();
            return Err(AppendError::TooLarge { sequence, length, most });
        }
        let (pending, bound) = (self.pending(), self.limits.bound(priority));
        if pending >= bound {
            self.stats.shed[priority as usize] += 1;
            return Err(AppendError::Shed { priority, pending, bound });
        }
        self.stats.pending_max = self.stats.pending_max.max(pending + 1);
        Ok(())
    }

    /// Begins a batch at the head, if there is a slot, room in the ring, and a checkpoint near
    /// enough.
    fn open_batch(&mut self) -> Result<(), AppendError> {
        if self.free == 0 {
            self.stats.busy += 1;
            return Err(AppendError::Busy { slots: self.limits.slots });
        }
        let (g, position) = (&self.g, self.head.position);
        let front = g.segment_of(self.superblock.front_position);
        if g.segment_of(position) - front >= g.segments {
            self.stats.full += 1;
            let front = self.superblock.front_sequence;
            return Err(AppendError::Full { position, segments: g.segments, front });
        }
        let (end, reach) = (position + u64::from(g.batch_bytes), g.reach_bytes);
        let ahead = end - self.superblock.checkpoint.position;
        if ahead > reach {
            self.stats.ahead += 1;
            return Err(AppendError::Ahead { ahead, reach });
        }
        self.open_slot = self.free.trailing_zeros() as usize;
        self.free &= !(1 << self.open_slot);
        self.open = Some(Open::new(self.head));
        Ok(())
    }

    /// Closes the open batch: it waits for its turn to be written.
    fn close(&mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        let end = open.end_mark(&self.g);
        let given_up = self.meta.note_batch(&self.g, &open, &end);
        self.stats.indexes_lost += u64::from(given_up);
        self.head = end;
        let at = (self.first + self.count) % SLOTS_MAX;
        let slot = self.open_slot;
        self.flights[at] = Some(Flight { slot, stage: Stage::Ready, open, end, chain: [0; 24] });
        self.count += 1;
    }

    // ---- actions -----------------------------------------------------------------------------

    /// What is to be done next, if anything; to be asked until it says nothing.
    pub fn next<B: DerefMut<Target = [u8]>>(&mut self, bufs: &mut [Option<B>]) -> Option<Action> {
        if self.ended.is_some() {
            return None;
        }
        if let Some(action) = self.next_flush() {
            return Some(action);
        }
        if self.writing < usize::from(self.limits.in_flight)
            && let Some(action) = self.next_write(bufs)
        {
            return Some(action);
        }
        let due = self.limits.checkpoint_records;
        let at = (self.acked, self.acked_chain);
        self.meta.next(&self.g, &mut self.superblock, at, due, &mut self.stats)
    }

    fn next_flush(&mut self) -> Option<Action> {
        if self.flushing || !self.promise.cached {
            return None;
        }
        let mut any = self.meta.cover();
        for flight in self.flights.iter_mut().flatten() {
            if flight.stage == Stage::Written {
                flight.stage = Stage::Covered;
                any = true;
            }
        }
        self.flushing = any;
        any.then_some(Action::Flush)
    }

    fn next_write<B: DerefMut<Target = [u8]>>(&mut self, bufs: &mut [Option<B>]) -> Option<Action> {
        let at = match self.find(|flight| flight.stage == Stage::Ready) {
            Some(at) => at,
            None => {
                self.open?;
                self.close();
                self.find(|flight| flight.stage == Stage::Ready)?
            }
        };
        let (id, epoch, acked) = (self.superblock.id, self.superblock.epoch, self.acked.sequence);
        let flight = self.flights[at].as_mut()?;
        let buf = bufs[flight.slot].as_mut().expect("the buffer of a batch that is not in flight");
        let names = (id, epoch, acked);
        let bytes = flight.open.seal(buf, self.g.lba_bytes, names, self.sealed_chain, crc32c);
        if self.superblock.is_chained() {
            self.sealed_chain = chain::behind(&buf[..flight.open.used()]);
            flight.chain = self.sealed_chain;
        }
        flight.stage = Stage::Writing;
        self.writing += 1;
        self.stats.batches += 1;
        self.stats.batch_bytes += bytes as u64;
        let lba = self.g.lba_of(flight.open.position());
        let fua = self.promise.fua && self.promise.cached;
        Some(Action::Write { slot: flight.slot, lba, bytes, fua })
    }

    /// The oldest flight for which `is` holds.
    fn find(&self, is: impl Fn(&Flight) -> bool) -> Option<usize> {
        (0..self.count)
            .map(|nth| (self.first + nth) % SLOTS_MAX)
            .find(|at| self.flights[*at].as_ref().is_some_and(&is))
    }

    /// The block of the last [`Action::WriteMeta`].
    pub fn encode_meta(&self, room: &mut [u8]) {
        self.meta.encode(room);
    }

    // ---- endings -----------------------------------------------------------------------------

    /// The write of `slot` ended.
    pub fn written(&mut self, slot: usize, result: Result<(), IoError>) {
        let writing = |flight: &Flight| flight.slot == slot && flight.stage == Stage::Writing;
        let Some(at) = self.find(writing) else {
            return;
        };
        let Some(flight) = self.flights[at].as_mut() else {
            return;
        };
        self.writing -= 1;
        match result {
            Ok(()) if self.promise.cached && !self.promise.fua => flight.stage = Stage::Written,
            Ok(()) => flight.stage = Stage::Durable,
            Err(error) => {
                let position = flight.open.position();
                self.end(Ended::Write { position, error });
            }
        }
        self.acknowledge();
    }

    /// The write of a superblock or an index block ended.
    pub fn meta_written(&mut self, result: Result<(), IoError>) {
        let ended = self.meta.written(result, self.promise.cached, &mut self.stats);
        match ended {
            Ok(Some(superblock)) => self.superblock = superblock,
            Ok(None) => {}
            Err(error) => self.end(Ended::Superblock(error)),
        }
    }

    /// The flush ended.
    pub fn flushed(&mut self, result: Result<(), IoError>) {
        self.flushing = false;
        if let Err(error) = result {
            self.end(Ended::Flush(error));
            return;
        }
        // A flush that ends after something else ended the log proves nothing that is asked for.
        if self.ended.is_some() {
            return;
        }
        self.stats.flushes += 1;
        for flight in self.flights.iter_mut().flatten() {
            if flight.stage == Stage::Covered {
                flight.stage = Stage::Durable;
            }
        }
        if let Some(superblock) = self.meta.flushed(&mut self.stats) {
            self.superblock = superblock;
        }
        self.acknowledge();
    }

    /// Takes the oldest batches that are durable.
    fn acknowledge(&mut self) {
        if self.ended.is_some() {
            return;
        }
        while let Some(flight) = self.flights[self.first]
            && flight.stage == Stage::Durable
        {
            self.acked = flight.end;
            self.acked_chain = flight.chain;
            self.free |= 1 << flight.slot;
            self.flights[self.first] = None;
            self.first = (self.first + 1) % SLOTS_MAX;
            self.count -= 1;
        }
    }

    /// The first thing that ended the log counts.
    fn end(&mut self, why: Ended) {
        self.ended.get_or_insert(why);
    }

    /// Ends the log in order: nothing more is taken.
    pub fn close_log(&mut self) {
        self.end(Ended::Closed);
    }

    // ---- checkpoints and truncation ----------------------------------------------------------

    /// Asks for a checkpoint at what is acknowledged.
    pub const fn ask_checkpoint(&mut self) {
        self.meta.ask();
    }

    /// Whether the last durable superblock says all that there is to say.
    #[must_use]
    pub fn is_checkpointed(&self) -> bool {
        let durable = &self.superblock;
        durable.checkpoint == self.acked && self.meta.front() == durable_front(durable)
    }

    /// Lets the log begin at `sequence`, which lies in the segment at `position`; the segments
    /// before it are free once a superblock that says so is durable. Backwards is no truncation,
    /// and nothing that is not acknowledged is truncated.
    pub fn truncate(&mut self, position: u64, sequence: u64) {
        let start = self.g.segment_start(self.g.segment_of(position));
        if sequence <= self.acked.sequence && start <= self.acked.position {
            self.meta.truncate(start, sequence);
        }
    }
}

const fn durable_front(superblock: &JournalSuperblock) -> (u64, u64) {
    (superblock.front_position, superblock.front_sequence)
}
