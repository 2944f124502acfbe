//! Probes: what happened, when, written to a ring in shared memory; and registers of last values.
//!
//! A probe is an [`Event`], made by [`probe!`](crate::probe!) in three lines wherever it is needed;
//! its name, fields and source line go into the program's dictionary ([`hybrid_abi::probe`]) and
//! cost nothing at run time. [`Probes`] is a core's end of the ring. The host says which groups are
//! on; a pass looks at that once ([`Probes::begin_pass`]), and a probe that is off is one predicted
//! branch on a word of the core's own. A probe that is on is one call and five stores: no lock, no
//! allocation, no system call, no atomic read-modify-write.
//!
//! ```text
//!            mask != 0                  threshold exceeded, or the host asks
//!   Off ----------------> Writing --------------------------------------> Frozen
//!    ^ <----------------- ^  `--> overwrites the oldest, or drops           |
//!        mask == 0        |                                                 |
//!                         `---------- the host has saved it: thaw ----------'
//! ```
//! What is in the ring outlives the partition: the memory is the host's to read.
//!
//! Called by the scheduler, the driver and the tasks of one core. It reads nothing back that is in
//! shared memory, but for the host's control part.
//!
//! Invariants, named in the SAFETY lines:
//! 1. `records` points to `index_mask + 1` records of four words each, which stay mapped for ever;
//!    both are set together, once.

mod registers;
#[cfg(test)]
mod tests;

use core::cell::{Cell, OnceCell};
use core::fmt;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering, fence};

#[doc(hidden)]
pub use hybrid_abi::metrics::MetricUnit;
use hybrid_abi::probe::{
    CONTROL_BYTES, FREEZE_ASKED, FREEZE_BUDGET, FREEZE_LATENCY, FREEZE_STOLEN, POLICY_DROP,
    ProbeControl, ProbeHeader, ProbeWords, RECORD_BYTES, RECORDS_OFFSET, WORDS_OFFSET,
};
#[doc(hidden)]
pub use hybrid_abi::probe::{FieldKind, Group, Level, ProbeEntry, ProbeField, bit_of, dictionary};
use hybrid_shm::{OutOfBounds, ReadSpan, ReadWord32, Span, Word64};
use zerocopy::{FromBytes, IntoBytes};

pub use registers::{Register, RegisterSpec, Registers};

use crate::clock::{Clock, Instant, Ticks};

/// Defines events, each as a constant: name, group, level, what it says, and up to three fields (of
/// 32, 64 and 64 bits) with a [`FieldKind`] and a [`MetricUnit`].
///
/// ```
/// use core_runtime::clock::{Clock, ManualClock};
/// use core_runtime::probe::Probes;
///
/// core_runtime::probe! {
///     /// A page was written.
///     pub PAGE = "app.page", APP, DEBUG, "a page was written"
///         (page: NUMBER COUNT, took: TICKS TICKS);
/// }
/// # static CLOCK: ManualClock = ManualClock::new(1);
/// # let probes = Probes::off(Clock::manual(&CLOCK));
/// PAGE.emit(&probes, 7, 1200, 0);
/// ```
#[macro_export]
macro_rules! probe {
    ($(
        $(#[$doc:meta])*
        $vis:vis $const:ident = $name:literal, $group:ident, $level:ident, $about:literal
            ($($field:ident: $kind:ident $unit:ident),* $(,)?);
    )*) => {$(
        $(#[$doc])*
        $vis const $const: $crate::probe::Event = {
            #[used]
            #[unsafe(link_section = ".hybrid_probes")]
            static ENTRY: $crate::probe::ProbeEntry = $crate::probe::ProbeEntry::new(
                $crate::probe::dictionary::KIND_EVENT,
                ($name, $about),
                ($crate::probe::Group::$group, $crate::probe::Level::$level),
                $crate::probe::dictionary::fields(&[$($crate::probe::ProbeField::new(
                    stringify!($field),
                    $crate::probe::MetricUnit::$unit,
                    $crate::probe::FieldKind::$kind,
                )),*]),
                (file!(), line!()),
            );
            $crate::probe::Event::new(&ENTRY)
        };
    )*};
}

crate::probe! {
    /// The ring was frozen.
    FREEZE = "trace.freeze", TRACE, ERROR, "the ring was frozen"
        (reason: FREEZE COUNT, value: TICKS TICKS);
    /// The host has saved the ring.
    THAW = "trace.thaw", TRACE, ERROR, "the host has saved the ring"
        (freezes: NUMBER COUNT, frozen_for: TICKS TICKS);
}

/// Records are found by a shift.
const RECORD_SHIFT: u32 = RECORD_BYTES.trailing_zeros();
const _: () = assert!(RECORD_BYTES == 1 << RECORD_SHIFT);

registers::register! {
    /// Groups that are on.
    MASK = "trace.mask", "probes that are on, a bit each", COUNT;
}

/// A probe. A constant of two words, made by [`probe!`](crate::probe!).
#[derive(Clone, Copy)]
pub struct Event {
    bit: u64,
    entry: &'static ProbeEntry,
}

impl Event {
    /// The probe whose entry this is; [`probe!`](crate::probe!) puts the entry into its section.
    #[must_use]
    pub const fn new(entry: &'static ProbeEntry) -> Self {
        Self { bit: bit_of(Group(entry.group), Level(entry.level)), entry }
    }

    /// What the dictionary says of it.
    #[must_use]
    pub const fn entry(&self) -> &'static ProbeEntry {
        self.entry
    }

    /// Whether it is on in this pass.
    #[inline(always)]
    #[must_use]
    pub fn is_on(&self, probes: &Probes) -> bool {
        probes.mask.get() & self.bit != 0
    }

    /// Writes it, if it is on, with a look at the clock of its own.
    #[inline(always)]
    pub fn emit(&self, probes: &Probes, a: u32, b: u64, c: u64) {
        if self.is_on(probes) {
            probes.write_now(self.entry, a, b, c);
        }
    }

    /// Writes it, if it is on, with a time that the caller has.
    #[inline(always)]
    pub fn emit_at(&self, probes: &Probes, at: Instant, a: u32, b: u64, c: u64) {
        if self.is_on(probes) {
            probes.write_at(self.entry, at.ticks(), a, b, c);
        }
    }

    /// Writes it, if it is on, with the last time that anything looked at the clock: the pass's
    /// beginning, a poll's, or the last event's.
    #[inline(always)]
    pub fn emit_stamped(&self, probes: &Probes, a: u32, b: u64, c: u64) {
        if self.is_on(probes) {
            probes.write_at(self.entry, probes.stamp.get(), a, b, c);
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({})", self.entry.name)
    }
}

/// A core's end of its probe ring.
pub struct Probes {
    /// Which probes are on in this pass: all that a probe that is off looks at.
    mask: Cell<u64>,
    /// The last time that anybody looked at the clock.
    stamp: Cell<u64>,
    head: Cell<u64>,
    /// Record number that would find the ring full.
    limit: Cell<u64>,
    records: Cell<NonNull<AtomicU64>>,
    index_mask: Cell<u64>,
    clock: Clock,
    /// The control part's generation, as it was taken over last.
    generation: Cell<u32>,
    watched: Cell<Option<ReadWord32<'static>>>,
    latency_over: Cell<Ticks>,
    budget_over: Cell<Ticks>,
    stolen_over: Cell<Ticks>,
    /// Freezes so far, and those of them that the host asked for.
    frozen: Cell<u64>,
    asked: Cell<u64>,
    frozen_at: Cell<Option<u64>>,
    dropped: Cell<u64>,
    registers: Registers,
    wiring: OnceCell<Wiring>,
}

/// Where things lie in shared memory.
#[derive(Clone, Copy)]
struct Wiring {
    part: Span<'static>,
    head: Word64<'static>,
    control: ReadSpan<'static>,
    mask: Register,
}

impl Probes {
    /// Probes that are off, for whatever has no region.
    #[must_use]
    pub const fn off(clock: Clock) -> Self {
        Self {
            mask: Cell::new(0),
            stamp: Cell::new(0),
            head: Cell::new(0),
            limit: Cell::new(0),
            records: Cell::new(NonNull::dangling()),
            index_mask: Cell::new(0),
            clock,
            generation: Cell::new(0),
            watched: Cell::new(None),
            latency_over: Cell::new(Ticks::MAX),
            budget_over: Cell::new(Ticks::MAX),
            stolen_over: Cell::new(Ticks::MAX),
            frozen: Cell::new(0),
            asked: Cell::new(0),
            frozen_at: Cell::new(None),
            dropped: Cell::new(0),
            registers: Registers::none(),
            wiring: OnceCell::new(),
        }
    }

    /// Makes the ring in `part` (zeroed, of [`ProbeHeader::part_bytes`] of `capacity`), the bank of
    /// registers in `bank`, and obeys `control`, which is the host's.
    ///
    /// # Errors
    /// [`OutOfBounds`] if a part is too short or not aligned.
    pub fn attach(
        &self,
        part: Span<'static>,
        bank: Span<'static>,
        control: ReadSpan<'static>,
        capacity: u32,
    ) -> Result<(), OutOfBounds> {
        let capacity = capacity.max(1).next_power_of_two();
        let records = part.sub(RECORDS_OFFSET, capacity as usize * RECORD_BYTES)?;
        records.word64(0)?;
        part.write(0, ProbeHeader::new(capacity).as_bytes())?;
        self.registers.attach(bank)?;
        let wiring = Wiring {
            part,
            head: part.word64(WORDS_OFFSET + offset_of!(ProbeWords, head))?,
            control: control.sub(0, CONTROL_BYTES)?,
            mask: self.registers.add(MASK),
        };
        let watched = control.word32(offset_of!(ProbeControl, generation))?;
        if let (Ok(()), Some(first)) = (self.wiring.set(wiring), NonNull::new(records.as_ptr())) {
            self.records.set(first.cast());
            self.index_mask.set(u64::from(capacity) - 1);
            self.watched.set(Some(watched));
            // What is written before the first pass has a time too.
            self.stamp.set(self.clock.now().ticks());
            self.take_control();
        }
        Ok(())
    }

    /// The bank of registers.
    #[must_use]
    pub const fn registers(&self) -> &Registers {
        &self.registers
    }

    /// Records written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.head.get()
    }

    /// Records that were dropped because the ring was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Which probes are on.
    #[must_use]
    pub fn mask(&self) -> u64 {
        self.mask.get()
    }

    /// A pass begins: its time stamps what is written with [`Event::emit_stamped`]. Takes over what
    /// the host has changed; returns whether other probes are on now.
    #[inline(always)]
    pub fn begin_pass(&self, now: Instant) -> bool {
        self.stamp.set(now.ticks());
        match self.watched.get() {
            Some(word) if word.load() != self.generation.get() => self.take_control(),
            _ => false,
        }
    }

    /// A poll begins: what is written with [`Event::emit_stamped`] is not before it.
    #[inline(always)]
    pub fn stamp(&self, now: Instant) {
        self.stamp.set(now.ticks());
    }

    /// An I/O took so long: freezes if that is over the threshold.
    #[inline(always)]
    pub fn check_latency(&self, took: Ticks) {
        if took > self.latency_over.get() {
            self.freeze(FREEZE_LATENCY, 0, took.get());
        }
    }

    /// A poll exceeded its budget by so much.
    #[inline(always)]
    pub fn check_budget(&self, task: u32, by: Ticks) {
        if by > self.budget_over.get() {
            self.freeze(FREEZE_BUDGET, task, by.get());
        }
    }

    /// The core was away for so long.
    #[inline(always)]
    pub fn check_stolen(&self, gap: Ticks) {
        if gap > self.stolen_over.get() {
            self.freeze(FREEZE_STOLEN, 0, gap.get());
        }
    }

    #[cold]
    #[inline(never)]
    fn write_now(&self, entry: &'static ProbeEntry, a: u32, b: u64, c: u64) {
        let now = self.clock.now().ticks();
        self.stamp.set(now);
        self.put(entry.id, now, a, b, c);
    }

    #[cold]
    #[inline(never)]
    fn write_at(&self, entry: &'static ProbeEntry, at: u64, a: u32, b: u64, c: u64) {
        self.put(entry.id, at, a, b, c);
    }

    #[inline(always)]
    fn put(&self, id: u32, at: u64, a: u32, b: u64, c: u64) {
        let head = self.head.get();
        if head >= self.limit.get() && !self.make_room(head) {
            return;
        }
        // SAFETY: invariant 1: the mask keeps the place inside of the ring; the limit is 0 before
        // there is one.
        let record = unsafe { self.records.get().byte_add(self.place_of(head) << RECORD_SHIFT) };
        let words = [at, u64::from(id) | u64::from(a) << 32, b, c];
        // SYNC probe-ring: the head that says "this place is being overwritten" is stored before
        // the place is.
        fence(Ordering::Release);
        for (offset, word) in words.into_iter().enumerate() {
            // SAFETY: invariant 1: one of its four words.
            unsafe { record.add(offset).as_ref() }.store(word, Ordering::Relaxed);
        }
        let next = head.wrapping_add(1);
        self.head.set(next);
        if let Some(wiring) = self.wiring.get() {
            // SYNC probe-ring
            wiring.head.store_release(next);
        }
    }

    /// Where in the ring a record lies.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "at most `CAPACITY_MAX`")]
    const fn place_of(&self, number: u64) -> usize {
        (number & self.index_mask.get()) as usize
    }

    /// The ring is full, or there is none: looks at what the host has read; counts what is dropped.
    #[cold]
    #[inline(never)]
    fn make_room(&self, head: u64) -> bool {
        let Some(wiring) = self.wiring.get() else { return false };
        let taken = wiring.control.load64(offset_of!(ProbeControl, taken)).unwrap_or(0);
        // What the host says is its own affair, but not a way out of the ring: more than was
        // written counts as all of it. One place stays free: a reader takes the oldest record of a
        // full ring for one that is being overwritten.
        let limit = taken.min(head).saturating_add(self.index_mask.get());
        self.limit.set(limit);
        if head < limit {
            return true;
        }
        self.dropped.set(self.dropped.get().wrapping_add(1));
        self.tell(offset_of!(ProbeWords, dropped), self.dropped.get());
        false
    }

    /// Stores one of the words behind the header.
    fn tell(&self, offset: usize, value: u64) {
        let word = self.wiring.get().and_then(|w| w.part.word64(WORDS_OFFSET + offset).ok());
        if let Some(word) = word {
            word.store_release(value);
        }
    }

    /// Takes over what the host wishes; each word is loaded once.
    #[cold]
    #[inline(never)]
    fn take_control(&self) -> bool {
        let (Some(wiring), Some(watched)) = (self.wiring.get(), self.watched.get()) else {
            return false;
        };
        // SYNC probe-control
        self.generation.set(watched.load_acquire());
        let mut bytes = [0; CONTROL_BYTES];
        let Ok(()) = wiring.control.read(0, &mut bytes) else { return false };
        let Ok(control) = ProbeControl::read_from_bytes(&bytes) else { return false };
        let before = self.mask.get();
        let threshold = |ticks| if ticks == 0 { Ticks::MAX } else { Ticks::new(ticks) };
        self.latency_over.set(threshold(control.latency_over));
        self.budget_over.set(threshold(control.budget_over));
        self.stolen_over.set(threshold(control.stolen_over));
        // Under the other policy nothing is ever full.
        let drops = control.policy == POLICY_DROP;
        self.limit.set(if drops { 0 } else { u64::MAX });
        if control.thawed >= self.frozen.get() {
            self.thaw(control.mask);
        }
        if control.freezes != self.asked.get() {
            self.asked.set(control.freezes);
            self.freeze(FREEZE_ASKED, 0, 0);
        }
        self.publish_mask();
        self.mask.get() != before
    }

    fn thaw(&self, mask: u64) {
        self.mask.set(mask);
        if let Some(since) = self.frozen_at.take() {
            let now = self.clock.now().ticks();
            #[expect(clippy::cast_possible_truncation, reason = "a count for people")]
            let freezes = self.frozen.get() as u32;
            THAW.emit(self, freezes, now.saturating_sub(since), 0);
        }
    }

    /// Stops the writing until the host has saved what is there.
    #[cold]
    #[inline(never)]
    fn freeze(&self, reason: u32, task: u32, value: u64) {
        if self.mask.get() == 0 {
            return;
        }
        let now = self.clock.now().ticks();
        FREEZE.emit(self, reason, value, 0);
        self.mask.set(0);
        self.frozen_at.set(Some(now));
        let frozen = self.frozen.get().wrapping_add(1);
        self.frozen.set(frozen);
        let both = u64::from(reason) | u64::from(task) << 32;
        self.tell(offset_of!(ProbeWords, freeze_reason), both);
        self.tell(offset_of!(ProbeWords, freeze_value), value);
        self.tell(offset_of!(ProbeWords, freeze_tsc), now);
        self.publish_mask();
        // SYNC probe-freeze: who sees the count sees the words and the ring.
        self.tell(offset_of!(ProbeWords, frozen), frozen);
    }

    fn publish_mask(&self) {
        self.tell(offset_of!(ProbeWords, mask), self.mask.get());
        if let Some(wiring) = self.wiring.get() {
            wiring.mask.set(self.mask.get());
        }
    }

    /// The ring, to be read; `None` before there is one.
    #[must_use]
    pub fn ring(&self) -> Option<ReadSpan<'static>> {
        self.wiring.get().map(|wiring| wiring.part.read_only())
    }
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes")
            .field("mask", &self.mask.get())
            .field("written", &self.head.get())
            .field("dropped", &self.dropped.get())
            .finish_non_exhaustive()
    }
}
