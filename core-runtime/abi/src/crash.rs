//! The crash record: two slots of 64 KiB in the partition's region.
//!
//! Written by the panic handler and by the fault-signal handler into whichever slot is not the last
//! good one. A slot is a [`CrashHeader`] and then sections, most valuable first, each a
//! [`SectionHeader`] and its payload, padded to 8 bytes. The committed length grows section by
//! section, stored with Release, so that a record cut short is good up to there.
//!
//! ```text
//!            begin              each section             end
//!   Empty ----------> Writing ----------------> Writing -----> Complete
//!                        |   the handler itself fails
//!                        `---------------------------------> HandlerFailed
//! ```
//! In the first line's state the slot is not believed; in every other one what is committed is.
//! The sections' payloads are in [`program`], [`device`] and [`metric`]; what a dump adds to them
//! when it becomes a file is in [`mod@file`].

pub mod device;
pub mod file;
pub mod metric;
pub mod program;
pub mod rings;
#[cfg(test)]
mod tests;

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::crc::crc32c;
use crate::{AbiError, LINE_BYTES, check_version, prefix};

/// Slots of a crash part: one that is good and one that is being written.
pub const CRASH_SLOTS: usize = 2;
/// Bytes of a slot, its header included: 128 tasks, all metrics of a runtime, and the 1,100 oldest
/// of the outstanding commands fit. What does not is counted by its section.
pub const CRASH_SLOT_BYTES: usize = 64 * 1024;
/// Bytes of a crash part.
pub const CRASH_PART_BYTES: usize = CRASH_SLOTS * CRASH_SLOT_BYTES;

/// Magic of a slot: `HYCRASH0`.
pub const CRASH_MAGIC: u64 = u64::from_le_bytes(*b"HYCRASH0");

const WHAT: &str = "crash record";

/// Nothing was written since the region was made.
pub const CRASH_EMPTY: u32 = 0;
/// Being written: believe what is committed.
pub const CRASH_WRITING: u32 = 1;
/// Complete.
pub const CRASH_COMPLETE: u32 = 2;
/// The handler itself failed: only what was committed before.
pub const CRASH_HANDLER_FAILED: u32 = 3;

/// The first bytes of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CrashHeader {
    /// [`CRASH_MAGIC`].
    pub magic: u64,
    /// Version of the writer.
    pub version: u32,
    /// One of the `CRASH_` states; stored last, with Release.
    pub state: u32,
    /// Bytes of sections that are valid, from the header's end; stored with Release.
    pub committed: u32,
    /// One of the `REASON_` constants.
    pub reason: u32,
    /// Counts the records of this region, from 1: the greater is the newer.
    pub sequence: u64,
    /// TSC at which the handler began.
    pub tsc: u64,
    /// Incarnation of the partition.
    pub incarnation: u64,
    /// CRC32C of all the fields above but `state` and `committed`.
    pub crc32c: u32,
    /// Zero.
    pub reserved: [u8; 76],
}

const _: () = assert!(size_of::<CrashHeader>() == LINE_BYTES && align_of::<CrashHeader>() == 8);
const _: () = assert!(offset_of!(CrashHeader, state) == 12);
const _: () = assert!(offset_of!(CrashHeader, committed) == 16);
const _: () = assert!(offset_of!(CrashHeader, sequence) == 24);
const _: () = assert!(offset_of!(CrashHeader, crc32c) == 48);

/// A panic.
pub const REASON_PANIC: u32 = 1;
/// A fault signal of the processor.
pub const REASON_FAULT: u32 = 2;
/// A system call that is not allowed.
pub const REASON_SYSCALL: u32 = 3;
/// The host asked for a dump.
pub const REASON_ASKED: u32 = 4;
/// An allocation in a partition that is running.
pub const REASON_ALLOCATION: u32 = 5;
/// A poll that went on for far longer than its budget.
pub const REASON_BUDGET: u32 = 6;
/// Killed without a word: the host composed the record from shared memory.
pub const REASON_KILLED: u32 = 7;
/// The host is gone.
pub const REASON_HOST_GONE: u32 = 8;
/// The device is gone.
pub const REASON_DEVICE_GONE: u32 = 9;

/// A reason in a word or two.
#[must_use]
pub const fn reason_name(reason: u32) -> &'static str {
    match reason {
        REASON_PANIC => "panic",
        REASON_FAULT => "fault",
        REASON_SYSCALL => "system call",
        REASON_ASKED => "dump asked for",
        REASON_ALLOCATION => "allocation",
        REASON_BUDGET => "budget exceeded",
        REASON_KILLED => "killed",
        REASON_HOST_GONE => "host gone",
        REASON_DEVICE_GONE => "device gone",
        _ => "unknown reason",
    }
}

/// What stands before each section's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SectionHeader {
    /// What it is; unknown kinds are skipped.
    pub kind: SectionKind,
    /// Version of that kind's layout.
    pub version: u16,
    /// Bytes of the payload, the padding not counted.
    pub len: u32,
    /// CRC32C of the payload.
    pub crc32c: u32,
    /// Elements in the payload, for kinds that are arrays.
    pub count: u32,
}

const _: () = assert!(size_of::<SectionHeader>() == 16 && align_of::<SectionHeader>() == 4);
const _: () = assert!(offset_of!(SectionHeader, len) == 4);
const _: () = assert!(offset_of!(SectionHeader, count) == 12);

/// What a section holds, in the order in which sections are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct SectionKind(pub u16);

impl SectionKind {
    /// Reason in words, UTF-8.
    pub const MESSAGE: Self = Self(1);
    /// [`program::Location`], then the file's name, UTF-8.
    pub const LOCATION: Self = Self(2);
    /// [`program::Registers`].
    pub const REGISTERS: Self = Self(3);
    /// [`program::BacktraceHead`], then addresses, `u64` each.
    pub const BACKTRACE: Self = Self(4);
    /// [`program::CurrentTask`].
    pub const CURRENT_TASK: Self = Self(5);
    /// [`program::TasksHead`], then [`program::TaskRecord`]s.
    pub const TASKS: Self = Self(6);
    /// The last probe events.
    pub const PROBE: Self = Self(7);
    /// [`device::ControllerRecord`].
    pub const CONTROLLER: Self = Self(8);
    /// [`device::QueueRecord`]s.
    pub const QUEUES: Self = Self(9);
    /// [`device::CommandsHead`], then [`device::CommandRecord`]s, the oldest first.
    pub const COMMANDS: Self = Self(10);
    /// [`metric::MetricRecord`]s, as they were last published.
    pub const METRICS: Self = Self(11);
    /// [`program::Program`].
    pub const PROGRAM: Self = Self(12);
    /// A reason why something is not in the record, UTF-8.
    pub const MISSING: Self = Self(13);

    /// Of a file only: a slot, its header included.
    pub const RECORD: Self = Self(0x0101);
    /// Of a file only: [`file::HostWords`], then a line, UTF-8.
    pub const HOST: Self = Self(0x0102);
    /// Of a file only: the partition's state part, [`crate::state::PartitionState`].
    pub const STATE: Self = Self(0x0103);
    /// Of a file only: [`file::QueueImageHead`], then both rings.
    pub const QUEUE_IMAGE: Self = Self(0x0104);
    /// Of a file only: the path of the program, UTF-8.
    pub const PROGRAM_PATH: Self = Self(0x0105);
    /// Of a file only: [`crate::probe::ProbeEntry`]s, what the probe events are called.
    pub const PROBE_NAMES: Self = Self(0x0106);

    /// Its name, for reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MESSAGE => "message",
            Self::LOCATION => "location",
            Self::REGISTERS => "registers",
            Self::BACKTRACE => "backtrace",
            Self::CURRENT_TASK => "current task",
            Self::TASKS => "tasks",
            Self::PROBE => "probe events",
            Self::CONTROLLER => "controller",
            Self::QUEUES => "queues",
            Self::COMMANDS => "commands",
            Self::METRICS => "metrics",
            Self::PROGRAM => "program",
            Self::MISSING => "what is missing",
            Self::RECORD => "record",
            Self::HOST => "host's words",
            Self::STATE => "state words",
            Self::QUEUE_IMAGE => "queue image",
            Self::PROGRAM_PATH => "program's path",
            Self::PROBE_NAMES => "names of probe events",
            _ => "unknown section",
        }
    }
}

impl CrashHeader {
    /// The header of a slot, whatever its state.
    ///
    /// # Errors
    /// [`AbiError`] naming the field that is not allowed.
    pub fn parse(slot: &[u8]) -> Result<Self, AbiError> {
        let header = Self::parse_head(slot)?;
        header.check_room(slot.len().min(CRASH_SLOT_BYTES) - LINE_BYTES)?;
        Ok(header)
    }

    /// The header of a whole slot of which `bytes` are the start.
    ///
    /// # Errors
    /// As for [`CrashHeader::parse`].
    pub fn parse_head(bytes: &[u8]) -> Result<Self, AbiError> {
        let header: Self = prefix(WHAT, bytes)?;
        if header.magic != CRASH_MAGIC {
            return Err(AbiError::Magic { what: WHAT, found: header.magic, expected: CRASH_MAGIC });
        }
        check_version(WHAT, header.version)?;
        let computed = header.checksum();
        if header.crc32c != computed {
            return Err(AbiError::Checksum { what: WHAT, stored: header.crc32c, computed });
        }
        header.check_room(CRASH_SLOT_BYTES - LINE_BYTES)?;
        Ok(header)
    }

    /// As [`CrashHeader::parse`], for a slot that holds a record, finished or not.
    ///
    /// # Errors
    /// [`AbiError::Field`] for an empty slot, and for a state that this version does not know.
    pub fn parse_record(slot: &[u8]) -> Result<Self, AbiError> {
        let header = Self::parse(slot)?;
        if header.holds_record() {
            return Ok(header);
        }
        Err(AbiError::Field {
            what: WHAT,
            field: "state",
            found: header.state.into(),
            allowed: CRASH_HANDLER_FAILED.into(),
        })
    }

    /// Whether the slot holds a record, finished or not.
    #[must_use]
    pub const fn holds_record(&self) -> bool {
        matches!(self.state, CRASH_WRITING | CRASH_COMPLETE | CRASH_HANDLER_FAILED)
    }

    fn check_room(&self, room: usize) -> Result<(), AbiError> {
        if self.committed as usize <= room {
            return Ok(());
        }
        Err(AbiError::Field {
            what: WHAT,
            field: "committed length",
            found: self.committed.into(),
            allowed: room as u64,
        })
    }

    /// What [`CrashHeader::crc32c`] is to be: state and committed length change while the record
    /// grows, and are not in it.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        let bytes = self.as_bytes();
        let mut covered = [0; 40];
        // Both are constants inside of both.
        let (before, after) = covered.split_at_mut(offset_of!(Self, state));
        for (to, from) in before.iter_mut().zip(bytes) {
            *to = *from;
        }
        let rest = bytes.iter().skip(offset_of!(Self, reason));
        for (to, from) in after.iter_mut().zip(rest) {
            *to = *from;
        }
        crc32c(&covered)
    }

    /// The sections of a slot whose header this is, up to the committed length.
    #[must_use]
    pub fn sections<'a>(&self, slot: &'a [u8]) -> Sections<'a> {
        let end = LINE_BYTES.saturating_add(self.committed as usize);
        Sections::new(slot.get(LINE_BYTES..end).unwrap_or_default(), LINE_BYTES as u64)
    }
}

/// The slot of a crash part that holds the newest record, and its header; `None` where neither
/// does. Whoever writes the next record takes the other one.
#[must_use]
pub fn newest(part: &[u8]) -> Option<(usize, CrashHeader)> {
    let mut newest: Option<(usize, CrashHeader)> = None;
    for index in 0..CRASH_SLOTS {
        let Ok(header) = CrashHeader::parse_record(slot(part, index)) else { continue };
        if newest.is_none_or(|(_, other)| header.sequence > other.sequence) {
            newest = Some((index, header));
        }
    }
    newest
}

/// The bytes of slot `index`; empty where the part has no such slot.
#[must_use]
pub fn slot(part: &[u8], index: usize) -> &[u8] {
    let at = index.saturating_mul(CRASH_SLOT_BYTES);
    part.get(at..at.saturating_add(CRASH_SLOT_BYTES)).unwrap_or_default()
}

/// Walks sections; ends at the first one that does not fit.
#[derive(Clone, Debug)]
pub struct Sections<'a> {
    rest: &'a [u8],
    offset: u64,
    damaged: bool,
}

/// One section: its header, its payload, and whether the checksum holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section<'a> {
    /// Its header.
    pub header: SectionHeader,
    /// Its payload.
    pub payload: &'a [u8],
    /// Whether CRC32C of the payload is the one in the header.
    pub intact: bool,
    /// Where its header lies: from the start of the slot or of the file.
    pub offset: u64,
}

impl<'a> Sections<'a> {
    /// Walks `bytes`, which begin `offset` bytes behind the start of what they lie in.
    #[must_use]
    pub const fn new(bytes: &'a [u8], offset: u64) -> Self {
        Self { rest: bytes, offset, damaged: false }
    }

    /// Once the walk has ended: where it did so early, at a section that does not fit.
    #[must_use]
    pub const fn damaged_at(&self) -> Option<u64> {
        if self.damaged { Some(self.offset) } else { None }
    }
}

impl<'a> Iterator for Sections<'a> {
    type Item = Section<'a>;

    fn next(&mut self) -> Option<Section<'a>> {
        if self.rest.is_empty() || self.damaged {
            return None;
        }
        let found = SectionHeader::read_from_prefix(self.rest).ok().and_then(|(header, rest)| {
            let payload = rest.get(..header.len as usize)?;
            Some((header, payload, rest))
        });
        let Some((header, payload, rest)) = found else {
            self.damaged = true;
            return None;
        };
        let padded = (header.len as usize).next_multiple_of(8);
        let offset = self.offset;
        self.rest = rest.get(padded..).unwrap_or_default();
        self.offset = offset + (size_of::<SectionHeader>() + padded) as u64;
        let intact = crc32c(payload) == header.crc32c;
        Some(Section { header, payload, intact, offset })
    }
}

impl<'a> Section<'a> {
    /// The payload's head and what follows it.
    ///
    /// # Errors
    /// [`AbiError::Short`].
    pub fn head<T: FromBytes>(&self) -> Result<(T, &'a [u8]), AbiError> {
        let what = self.header.kind.name();
        let head = prefix(what, self.payload)?;
        Ok((head, self.payload.get(size_of::<T>()..).unwrap_or_default()))
    }
}

/// The whole elements in `bytes`, at most as many as there are.
pub fn elements<T: FromBytes>(bytes: &[u8]) -> impl Iterator<Item = T> + '_ {
    bytes.chunks_exact(size_of::<T>().max(1)).filter_map(|chunk| T::read_from_bytes(chunk).ok())
}

/// Text that may have been cut: its valid UTF-8 start.
#[must_use]
pub fn text(bytes: &[u8]) -> &str {
    match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => bytes
            .get(..error.valid_up_to())
            .and_then(|valid| core::str::from_utf8(valid).ok())
            .unwrap_or_default(),
    }
}
