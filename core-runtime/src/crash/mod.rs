//! The crash record: what a dying partition says of itself.
//!
//! [`record`] is called by the panic hook and by the handlers of fault signals, on the partition's
//! own thread, at any instruction. It writes a whole record ([`hybrid_abi::crash`]) into whichever
//! slot of the region's crash part does not hold the last one. It allocates nothing, takes no lock,
//! makes no system call and touches no device. What the partition was doing when it was interrupted
//! may be half done: what is read here is read as it stands, word by word, and what cannot be read
//! safely (a borrowed cell) is named as missing.
//!
//! Each section is committed by itself, so that a record which is cut short is good up to there.
//! Sections come in the order of their value, but what runs code of the user's (a message's
//! `Display`) comes behind what does not. A fault in here leads the handler here again: that ends
//! the record where it stands, marked as such.
//!
//! After a record other than one that was asked for nothing more is written: the first cause
//! counts.
//!
//! Drivers add their own sections through [`CrashSource`]; see [`CrashSources`].
//!
//! Invariants, named in the SAFETY lines:
//! 1. A [`StackRange`]'s bytes are mapped and readable while it is used (its maker's promise).

mod backtrace;
mod recorder;
mod sections;
mod sources;
#[cfg(test)]
mod tests;

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering, compiler_fence};

use hybrid_abi::LINE_BYTES;
use hybrid_abi::crash::program::{Program, Registers};
use hybrid_abi::crash::{
    CRASH_HANDLER_FAILED, CRASH_SLOT_BYTES, CRASH_SLOTS, CrashHeader, REASON_ASKED,
};
use hybrid_shm::{OutOfBounds, ReadSpan, Span};

pub use backtrace::{Frame, StackRange, here, load_base, walk};
pub use recorder::{RecordHead, Recorder, SectionWriter, Store};
pub use sections::{metrics_section, probes_section};
pub use sources::{CrashSource, CrashSources, MAX_SOURCES};

use crate::partition::Partition;
use crate::region::RegionFacts;

/// Why the partition dies, as the caller knows it.
#[derive(Clone, Copy, Debug)]
pub struct Cause<'a> {
    /// One of the `REASON_` constants of [`hybrid_abi::crash`].
    pub reason: u32,
    /// In words: `format_args!("…")`. What does not fit 4 KiB is cut.
    pub message: Option<fmt::Arguments<'a>>,
    /// File, line and column.
    pub location: Option<(&'a str, u32, u32)>,
    /// What a signal's context says.
    pub registers: Option<&'a Registers>,
    /// Where the backtrace begins: [`here`], or the interrupted code's instruction and frame
    /// pointer.
    pub frame: Option<Frame>,
    /// The stacks that it may walk: the partition's, and the alternate one.
    pub stacks: &'a [StackRange],
}

impl Cause<'_> {
    /// A cause of which nothing but the reason is known.
    #[must_use]
    pub const fn of(reason: u32) -> Self {
        Self { reason, message: None, location: None, registers: None, frame: None, stacks: &[] }
    }
}

/// What [`record`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The record is complete.
    Complete,
    /// A record was being written: it was ended where it stood, and marked.
    HandlerFailed,
    /// There is a record of why this partition dies already; it was left alone.
    Already,
}

/// Writes a record of `cause`. See [the module](self) for from where it may be called.
pub fn record(partition: &'static Partition, cause: &Cause<'_>) -> Recorded {
    let part = partition.crash_part();
    match part.enter() {
        Entered::Began(slot) => {
            part.write(slot, partition, cause);
            part.leave(cause.reason)
        }
        Entered::Again => Recorded::HandlerFailed,
        Entered::Done => Recorded::Already,
    }
}

/// Nobody writes.
const IDLE: u32 = 0;
/// A record of a death was written, or was given up.
const DONE: u32 = 1;
/// Slot `stage - WRITING` is being written.
const WRITING: u32 = 2;

enum Entered {
    /// This slot may be written.
    Began(usize),
    /// The handler failed.
    Again,
    /// The partition has died before.
    Done,
}

/// The partition's end of its crash part.
#[derive(Debug)]
pub(crate) struct CrashPart {
    part: Span<'static>,
    metrics: ReadSpan<'static>,
    program: Program,
    incarnation: u64,
    /// Only this thread changes it, but a signal of its own may come between any two instructions.
    stage: AtomicU32,
    sources: CrashSources,
}

impl CrashPart {
    /// Over a zeroed part; `metrics` is the region's metrics part.
    pub(crate) fn new(
        part: Span<'static>,
        metrics: ReadSpan<'static>,
        queues: Span<'static>,
        facts: &RegionFacts,
    ) -> Result<Self, OutOfBounds> {
        for slot in 0..CRASH_SLOTS {
            slot_of(part, slot)?.word64(0)?;
        }
        Ok(Self {
            part,
            metrics,
            program: Program { build_id: facts.build_id, reserved: 0, load_base: load_base() },
            incarnation: facts.incarnation,
            stage: AtomicU32::new(IDLE),
            sources: CrashSources::new(queues)?,
        })
    }

    pub(crate) const fn sources(&self) -> &CrashSources {
        &self.sources
    }

    fn enter(&self) -> Entered {
        match self.stage.load(Ordering::Relaxed) {
            IDLE => {
                let slot = match self.newest() {
                    Some((newest, _)) => 1 - newest,
                    None => 0,
                };
                // At most `CRASH_SLOTS`.
                let stage = if slot == 0 { WRITING } else { WRITING + 1 };
                self.stage.store(stage, Ordering::Relaxed);
                compiler_fence(Ordering::SeqCst);
                Entered::Began(slot)
            }
            DONE => Entered::Done,
            writing => {
                let slot = writing.saturating_sub(WRITING) as usize;
                if let Ok(slot) = slot_of(self.part, slot) {
                    slot.word(recorder::STATE_AT, CRASH_HANDLER_FAILED);
                }
                self.stage.store(DONE, Ordering::Relaxed);
                Entered::Again
            }
        }
    }

    fn leave(&self, reason: u32) -> Recorded {
        compiler_fence(Ordering::SeqCst);
        if self.stage.load(Ordering::Relaxed) == DONE {
            return Recorded::HandlerFailed;
        }
        let stage = if reason == REASON_ASKED { IDLE } else { DONE };
        self.stage.store(stage, Ordering::Relaxed);
        Recorded::Complete
    }

    /// The slot that holds the last record, and its sequence number.
    fn newest(&self) -> Option<(usize, u64)> {
        let mut newest = None;
        for slot in 0..CRASH_SLOTS {
            let mut bytes = [0; LINE_BYTES];
            let Ok(memory) = slot_of(self.part, slot) else { continue };
            if memory.read(0, &mut bytes).is_err() {
                continue;
            }
            let Ok(header) = CrashHeader::parse_head(&bytes) else { continue };
            let newer = newest.is_none_or(|(_, sequence)| header.sequence > sequence);
            if header.holds_record() && newer {
                newest = Some((slot, header.sequence));
            }
        }
        newest
    }

    fn write(&self, slot: usize, partition: &'static Partition, cause: &Cause<'_>) {
        let Ok(memory) = slot_of(self.part, slot) else { return };
        let head = RecordHead {
            reason: cause.reason,
            sequence: self.newest().map_or(1, |(_, sequence)| sequence.wrapping_add(1)),
            tsc: partition.clock().now().ticks(),
            incarnation: self.incarnation,
        };
        self.write_to(&memory, head, partition, cause);
    }

    /// The whole record, into any memory of a slot's size.
    fn write_to(
        &self,
        memory: &dyn Store,
        head: RecordHead,
        partition: &'static Partition,
        cause: &Cause<'_>,
    ) {
        let mut recorder = Recorder::begin(memory, head);
        sections::cause(&mut recorder, cause, &self.program);
        sections::message(&mut recorder, cause);
        sections::current_task(&mut recorder, partition);
        if let Some(ring) = partition.probes().ring() {
            probes_section(&mut recorder, ring);
        }
        self.sources.each(|number, source| source.record(number, &mut recorder));
        sections::tasks(&mut recorder, partition.scheduler());
        self.sources.each(|number, source| source.record_commands(number, &mut recorder));
        sections::metrics_section(&mut recorder, self.metrics);
        // A handler that failed and came back has marked the record, and stays marked.
        if self.stage.load(Ordering::Relaxed) != DONE {
            recorder.finish();
        }
    }
}

fn slot_of(part: Span<'static>, slot: usize) -> Result<Span<'static>, OutOfBounds> {
    part.sub(slot.saturating_mul(CRASH_SLOT_BYTES), CRASH_SLOT_BYTES)
}
