//! The crash record: two slots of 64 KiB in the partition's region.
//!
//! Written by the panic handler and by the fault-signal handler into whichever slot is not the last
//! good one. A slot is a [`CrashHeader`] and then sections, most valuable first, each a
//! [`SectionHeader`] and its payload, padded to 8 bytes. The committed length grows section by
//! section, stored with Release, so that a record cut short is good up to there.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::crc::crc32c;
use crate::{AbiError, LINE_BYTES, check_version, prefix};

/// Slots of a crash part: one that is good and one that is being written.
pub const CRASH_SLOTS: usize = 2;
/// Bytes of a slot, its header included: every outstanding command of the deepest queue and all
/// tasks' states fit.
pub const CRASH_SLOT_BYTES: usize = 64 * 1024;
/// Bytes of a crash part.
pub const CRASH_PART_BYTES: usize = CRASH_SLOTS * CRASH_SLOT_BYTES;

/// Magic of a slot: `HYCRASH0`.
pub const CRASH_MAGIC: u64 = u64::from_le_bytes(*b"HYCRASH0");

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
    /// Zero.
    pub reserved: [u8; 80],
}

const _: () = assert!(size_of::<CrashHeader>() == LINE_BYTES && align_of::<CrashHeader>() == 8);
const _: () = assert!(offset_of!(CrashHeader, state) == 12);
const _: () = assert!(offset_of!(CrashHeader, committed) == 16);
const _: () = assert!(offset_of!(CrashHeader, sequence) == 24);
const _: () = assert!(offset_of!(CrashHeader, reserved) == 48);

/// A panic.
pub const REASON_PANIC: u32 = 1;
/// A fault signal of the processor.
pub const REASON_FAULT: u32 = 2;
/// A system call that is not allowed.
pub const REASON_SYSCALL: u32 = 3;
/// The host asked for a dump.
pub const REASON_ASKED: u32 = 4;

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
    /// File, line and column, UTF-8.
    pub const LOCATION: Self = Self(2);
    /// General registers and the faulting address.
    pub const REGISTERS: Self = Self(3);
    /// Return addresses, `u64` each.
    pub const BACKTRACE: Self = Self(4);
    /// Current task and its age.
    pub const CURRENT_TASK: Self = Self(5);
    /// All tasks' states.
    pub const TASKS: Self = Self(6);
    /// The last probe events.
    pub const PROBE: Self = Self(7);
    /// The last known controller registers.
    pub const CONTROLLER: Self = Self(8);
    /// Queue indices.
    pub const QUEUES: Self = Self(9);
    /// Every outstanding command with its age.
    pub const COMMANDS: Self = Self(10);
    /// The metrics part, as it stood.
    pub const METRICS: Self = Self(11);
    /// The program's build id.
    pub const BUILD_ID: Self = Self(12);
}

impl CrashHeader {
    /// The header of a slot.
    ///
    /// # Errors
    /// [`AbiError`] naming the field that is not allowed.
    pub fn parse(slot: &[u8]) -> Result<Self, AbiError> {
        const WHAT: &str = "crash record";
        let header: Self = prefix(WHAT, slot)?;
        if header.magic != CRASH_MAGIC {
            return Err(AbiError::Magic { what: WHAT, found: header.magic, expected: CRASH_MAGIC });
        }
        check_version(WHAT, header.version)?;
        let room = slot.len().min(CRASH_SLOT_BYTES) - LINE_BYTES;
        if header.committed as usize > room {
            return Err(AbiError::Field {
                what: WHAT,
                field: "committed length",
                found: header.committed.into(),
                allowed: room as u64,
            });
        }
        Ok(header)
    }

    /// The sections of a slot whose header this is, up to the committed length.
    #[must_use]
    pub fn sections<'a>(&self, slot: &'a [u8]) -> Sections<'a> {
        let end = LINE_BYTES.saturating_add(self.committed as usize);
        Sections { rest: slot.get(LINE_BYTES..end).unwrap_or_default() }
    }
}

/// Walks the sections of a slot; ends at the first one that does not fit.
#[derive(Clone, Debug)]
pub struct Sections<'a> {
    rest: &'a [u8],
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
}

impl<'a> Iterator for Sections<'a> {
    type Item = Section<'a>;

    fn next(&mut self) -> Option<Section<'a>> {
        let (header, rest) = SectionHeader::read_from_prefix(self.rest).ok()?;
        let payload = rest.get(..header.len as usize)?;
        let padded = (header.len as usize).next_multiple_of(8);
        self.rest = rest.get(padded..).unwrap_or_default();
        Some(Section { header, payload, intact: crc32c(payload) == header.crc32c })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ABI_VERSION;

    fn slot() -> Vec<u8> {
        let header = CrashHeader {
            magic: CRASH_MAGIC,
            version: ABI_VERSION,
            state: CRASH_COMPLETE,
            committed: 24 + 16,
            reason: REASON_PANIC,
            sequence: 2,
            tsc: 3,
            incarnation: 4,
            reserved: [0; 80],
        };
        let mut slot = header.as_bytes().to_vec();
        for (kind, payload) in [(SectionKind::MESSAGE, &b"oh no"[..]), (SectionKind(999), b"")] {
            let section = SectionHeader {
                kind,
                version: 1,
                len: u32::try_from(payload.len()).unwrap(),
                crc32c: crc32c(payload),
                count: 0,
            };
            slot.extend(section.as_bytes());
            slot.extend(payload);
            slot.resize(slot.len().next_multiple_of(8), 0);
        }
        slot.resize(CRASH_SLOT_BYTES, 0);
        slot
    }

    #[test]
    fn headers_have_their_golden_bytes() {
        let slot = slot();
        let mut golden = b"HYCRASH0".to_vec();
        golden.extend([1, 0, 0, 0, 2, 0, 0, 0, 40, 0, 0, 0, 1, 0, 0, 0]);
        golden.extend([2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(slot[..48], golden);
        assert_eq!(slot[128..136], [1, 0, 1, 0, 5, 0, 0, 0]);
    }

    #[test]
    fn sections_are_walked_and_unknown_kinds_are_data() {
        let slot = slot();
        let header = CrashHeader::parse(&slot).unwrap();
        let sections: Vec<_> = header.sections(&slot).collect();
        assert_eq!(sections.len(), 2);
        assert_eq!(sections[0].payload, b"oh no");
        assert!(sections[0].intact);
        assert_eq!(sections[1].header.kind, SectionKind(999));
    }

    #[test]
    fn a_torn_section_is_not_believed_and_a_cut_one_ends_the_walk() {
        let mut slot = slot();
        slot[128 + 16] ^= 1;
        let header = CrashHeader::parse(&slot).unwrap();
        assert!(!header.sections(&slot).next().unwrap().intact);
        let cut = CrashHeader { committed: 20, ..header };
        assert_eq!(cut.sections(&slot).count(), 0);
    }

    #[test]
    fn a_committed_length_beyond_the_slot_is_refused() {
        let mut slot = slot();
        slot[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            CrashHeader::parse(&slot).unwrap_err().to_string(),
            "crash record has committed length 4294967295, allowed is 65408"
        );
    }
}
