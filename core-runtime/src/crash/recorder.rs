//! Writes one record, section by section, so that it is good up to wherever it was stopped.
//!
//! Order of the stores: the slot is marked empty before anything of it changes; its header is whole
//! before it is marked as being written; a section is whole, its checksum included, before the
//! committed length covers it. Each mark is a Release store (`// SYNC crash-record`), which a
//! reader acquires; most readers come when the writer is dead anyway.

use core::fmt;
use core::mem::offset_of;

use hybrid_abi::crash::metric::MetricRecord;
use hybrid_abi::crash::{
    CRASH_COMPLETE, CRASH_EMPTY, CRASH_MAGIC, CRASH_SLOT_BYTES, CRASH_WRITING, CrashHeader,
    SectionHeader, SectionKind,
};
use hybrid_abi::{ABI_VERSION, LINE_BYTES};
use hybrid_shm::Span;
use zerocopy::{Immutable, IntoBytes};

use crate::crc::Crc32c;

pub(super) const STATE_AT: usize = offset_of!(CrashHeader, state);
const COMMITTED_AT: usize = offset_of!(CrashHeader, committed);
const REASON_AT: usize = offset_of!(CrashHeader, reason);
const HEADER_BYTES: usize = size_of::<SectionHeader>();
/// What is kept for the metrics: 80 of them, twice what a runtime and a driver have.
const METRICS_BYTES: usize = HEADER_BYTES + 80 * size_of::<MetricRecord>();

/// The memory of a slot, as its writer uses it. A trait, so that a test can stop the writer at each
/// of its stores, and the host can compose a record in its own memory.
pub trait Store {
    /// Stores bytes; what lies outside of the slot is dropped.
    fn bytes(&self, offset: usize, bytes: &[u8]);

    /// Stores an aligned word with Release: what was stored before is visible to who acquires it.
    fn word(&self, offset: usize, value: u32);
}

impl Store for Span<'_> {
    fn bytes(&self, offset: usize, bytes: &[u8]) {
        // The recorder stays inside of a slot, whose length was checked when the part was made.
        let _ = self.write(offset, bytes);
    }

    // SYNC crash-record
    fn word(&self, offset: usize, value: u32) {
        if let Ok(word) = self.word32(offset) {
            word.store_release(value);
        }
    }
}

/// Private memory, in which nobody else looks.
impl Store for &[core::cell::Cell<u8>] {
    fn bytes(&self, offset: usize, bytes: &[u8]) {
        for (to, from) in self.iter().skip(offset).zip(bytes) {
            to.set(*from);
        }
    }

    fn word(&self, offset: usize, value: u32) {
        self.bytes(offset, &value.to_le_bytes());
    }
}

/// What a record's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// One of the `REASON_` constants of [`hybrid_abi::crash`].
    pub reason: u32,
    /// Greater than that of the record before.
    pub sequence: u64,
    /// When the handler began.
    pub tsc: u64,
    /// Incarnation of the partition.
    pub incarnation: u64,
}

/// A record that is being written.
pub struct Recorder<'a> {
    store: &'a dyn Store,
    /// Where the next section's header goes.
    at: usize,
}

impl<'a> Recorder<'a> {
    /// Begins a record in a slot of [`CRASH_SLOT_BYTES`] bytes.
    #[must_use]
    pub fn begin(store: &'a dyn Store, head: RecordHead) -> Self {
        let mut header = CrashHeader {
            magic: CRASH_MAGIC,
            version: ABI_VERSION,
            state: CRASH_EMPTY,
            committed: 0,
            reason: head.reason,
            sequence: head.sequence,
            tsc: head.tsc,
            incarnation: head.incarnation,
            crc32c: 0,
            reserved: [0; 76],
        };
        header.crc32c = header.checksum();
        store.word(STATE_AT, CRASH_EMPTY);
        store.word(COMMITTED_AT, 0);
        let bytes = header.as_bytes();
        let (before, _) = bytes.split_at(STATE_AT);
        let (_, after) = bytes.split_at(REASON_AT);
        store.bytes(0, before);
        store.bytes(REASON_AT, after);
        store.word(STATE_AT, CRASH_WRITING);
        Self { store, at: LINE_BYTES }
    }

    /// Bytes that the payload of one more section may have.
    #[must_use]
    pub const fn room(&self) -> usize {
        // Slots and sections are multiples of 8 bytes, so that the padding fits too.
        CRASH_SLOT_BYTES.saturating_sub(self.at).saturating_sub(HEADER_BYTES)
    }

    /// The same for commands, which may be many: they leave room for the metrics behind them.
    #[must_use]
    pub const fn room_for_commands(&self) -> usize {
        self.room().saturating_sub(METRICS_BYTES)
    }

    /// Writes a section of at most `most` bytes by calling `write`, and commits it. One without a
    /// byte is left out.
    pub fn section(
        &mut self,
        kind: SectionKind,
        most: usize,
        write: impl FnOnce(&mut SectionWriter<'_>),
    ) {
        let mut section = SectionWriter {
            store: self.store,
            start: self.at + HEADER_BYTES,
            len: 0,
            most: most.min(self.room()),
            count: 0,
            crc: Crc32c::new(),
        };
        write(&mut section);
        let (len, count, crc32c) = (section.len, section.count, section.crc.value());
        // A slot's bytes have 32 bits.
        let Ok(bytes) = u32::try_from(len) else { return };
        if bytes == 0 {
            return;
        }
        let header = SectionHeader { kind, version: 1, len: bytes, crc32c, count };
        let padded = len.next_multiple_of(8);
        let start = self.at + HEADER_BYTES;
        let (padding, _) = [0; 8].split_at(padded - len);
        self.store.bytes(start + len, padding);
        self.store.bytes(self.at, header.as_bytes());
        self.at = start + padded;
        if let Ok(committed) = u32::try_from(self.at - LINE_BYTES) {
            self.store.word(COMMITTED_AT, committed);
        }
    }

    /// The record is complete.
    pub fn finish(self) {
        self.store.word(STATE_AT, CRASH_COMPLETE);
    }
}

impl fmt::Debug for Recorder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("at", &self.at).finish_non_exhaustive()
    }
}

/// A section that is being written. Text goes in by `write!`, which fails once it was cut.
pub struct SectionWriter<'a> {
    store: &'a dyn Store,
    start: usize,
    len: usize,
    most: usize,
    count: u32,
    crc: Crc32c,
}

impl SectionWriter<'_> {
    /// Bytes that are left.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.most - self.len
    }

    /// Adds all of `bytes`, or nothing; returns whether they fit.
    pub fn put(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.room() {
            return false;
        }
        self.store.bytes(self.start + self.len, bytes);
        self.crc.update(bytes);
        self.len += bytes.len();
        true
    }

    /// Adds a structure that stands before the elements.
    pub fn head(&mut self, head: &(impl IntoBytes + Immutable)) -> bool {
        self.put(head.as_bytes())
    }

    /// Adds an element, and counts it; returns whether it fit.
    pub fn element(&mut self, element: &(impl IntoBytes + Immutable)) -> bool {
        let fits = self.put(element.as_bytes());
        if fits {
            self.count = self.count.saturating_add(1);
        }
        fits
    }
}

impl fmt::Write for SectionWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut len = text.len().min(self.room());
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        let (kept, rest) = text.split_at(len);
        self.put(kept.as_bytes());
        if rest.is_empty() { Ok(()) } else { Err(fmt::Error) }
    }
}

impl fmt::Debug for SectionWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SectionWriter").field("len", &self.len).finish_non_exhaustive()
    }
}
