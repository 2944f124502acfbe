//! Probes: events and last-value registers that a partition writes, and what makes sense of them.
//!
//! ```text
//!  program file      section `.hybrid_probes`: [`ProbeEntry`]s, the dictionary of this build
//!  partition writes  part PROBE: [`ProbeHeader`], a line of words, then a ring of [`ProbeRecord`]s
//!                    part PROBE_REGISTERS: [`RegistersHeader`], then [`RegisterEntry`]s
//!  host writes       part PROBE_CONTROL: [`ProbeControl`]: which groups, policy, freeze and thaw
//!  a file            [`mod@file`]: header, dictionary, names of tasks, chunks of records
//! ```
//! A record carries the identifier of its probe, a hash of the probe's name; everything else that
//! there is to say about it stands in the dictionary, which is bound to the program's build id.
//!
//! The ring is free running: `head` counts the records ever written, record `n` lies at place
//! `n % capacity`. The writer stores a record's words, then `head` with Release. A reader copies,
//! then looks at `head` again, and believes only what cannot have been overwritten meanwhile
//! ([`view`]); what it misses it counts.

pub mod dictionary;
pub mod file;
pub mod groups;
pub mod registers;
pub mod view;

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use dictionary::{FieldKind, ProbeEntry, ProbeField, SECTION_NAME, entries, probe_id};
pub use groups::{Group, Level, MASK_ALL, bit_of, parse_groups};
pub use registers::{RegisterEntry, RegistersHeader};

use crate::{ABI_VERSION, AbiError, LINE_BYTES, check_version, prefix};

/// Magic of a probe part: `HYPROBES`.
pub const PROBES_MAGIC: u64 = u64::from_le_bytes(*b"HYPROBES");

/// Bytes of a record.
pub const RECORD_BYTES: usize = 32;

/// Offset of the first record of a probe part.
pub const RECORDS_OFFSET: usize = 2 * LINE_BYTES;

/// Most records of a ring: 512 MiB of them.
pub const CAPACITY_MAX: u32 = 1 << 24;

/// The ring overwrites its oldest records.
pub const POLICY_OVERWRITE: u32 = 0;
/// The ring drops, and counts, what finds it full.
pub const POLICY_DROP: u32 = 1;

/// Why a ring was frozen: the host asked.
pub const FREEZE_ASKED: u32 = 1;
/// An I/O took longer than the threshold.
pub const FREEZE_LATENCY: u32 = 2;
/// A task's poll exceeded its budget by more than the threshold.
pub const FREEZE_BUDGET: u32 = 3;
/// The core was taken away for longer than the threshold.
pub const FREEZE_STOLEN: u32 = 4;

/// A freeze's reason in a word.
#[must_use]
pub const fn freeze_name(reason: u32) -> &'static str {
    match reason {
        FREEZE_ASKED => "asked",
        FREEZE_LATENCY => "latency",
        FREEZE_BUDGET => "budget",
        FREEZE_STOLEN => "stolen",
        _ => "unknown",
    }
}

/// The first bytes of a probe part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ProbeHeader {
    /// [`PROBES_MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`] of the writer.
    pub version: u32,
    /// [`RECORD_BYTES`].
    pub record_bytes: u32,
    /// Records of the ring, a power of two, at most [`CAPACITY_MAX`].
    pub capacity: u32,
    /// Offset of the first record.
    pub records_offset: u32,
    /// Zero.
    pub reserved: [u8; 104],
}

const _: () = assert!(size_of::<ProbeHeader>() == LINE_BYTES && align_of::<ProbeHeader>() == 8);
const _: () = assert!(offset_of!(ProbeHeader, capacity) == 16);
const _: () = assert!(offset_of!(ProbeHeader, reserved) == 24);

/// The words behind the header, which the writer changes. Offsets count from the part's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ProbeWords {
    /// Records ever written; stored with Release after each.
    pub head: u64,
    /// Records that found the ring full under [`POLICY_DROP`].
    pub dropped: u64,
    /// The mask in force; zero while frozen.
    pub mask: u64,
    /// Counts the freezes; frozen now if it is greater than the control's `thawed`. Stored last.
    pub frozen: u64,
    /// One of the `FREEZE_` constants.
    pub freeze_reason: u32,
    /// The task that was running, from 1; 0 for none.
    pub freeze_task: u32,
    /// What exceeded the threshold, in ticks.
    pub freeze_value: u64,
    /// When.
    pub freeze_tsc: u64,
    /// Zero.
    pub reserved: [u8; 72],
}

/// Offset of the words of a probe part.
pub const WORDS_OFFSET: usize = LINE_BYTES;

const _: () = assert!(size_of::<ProbeWords>() == LINE_BYTES && align_of::<ProbeWords>() == 8);
const _: () = assert!(offset_of!(ProbeWords, frozen) == 24);
const _: () = assert!(offset_of!(ProbeWords, freeze_value) == 40);
const _: () = assert!(WORDS_OFFSET + size_of::<ProbeWords>() == RECORDS_OFFSET);

/// One event.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct ProbeRecord {
    /// When, in ticks of the partition's clock.
    pub tsc: u64,
    /// Which probe, [`probe_id`] of its name.
    pub id: u32,
    /// First field.
    pub a: u32,
    /// Second field.
    pub b: u64,
    /// Third field.
    pub c: u64,
}

const _: () = assert!(size_of::<ProbeRecord>() == RECORD_BYTES && align_of::<ProbeRecord>() == 8);
const _: () = assert!(offset_of!(ProbeRecord, id) == 8);
const _: () = assert!(offset_of!(ProbeRecord, b) == 16);

/// The host's part: what it wishes of the partition's probes. The partition looks at `generation`
/// once a pass, and at the rest when that has changed.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct ProbeControl {
    /// Changes after anything else here has; stored with Release.
    pub generation: u64,
    /// Probes that are on: bit [`bit_of`] of group and level.
    pub mask: u64,
    /// [`POLICY_OVERWRITE`] or [`POLICY_DROP`].
    pub policy: u32,
    /// Zero.
    pub reserved: u32,
    /// Records that the host has read, for [`POLICY_DROP`]; changes without `generation`.
    pub taken: u64,
    /// Freezes that the host has seen and wants to end.
    pub thawed: u64,
    /// Freezes that the host has asked for.
    pub freezes: u64,
    /// An I/O that takes longer freezes; ticks, 0 is off.
    pub latency_over: u64,
    /// A poll that exceeds its budget by more freezes; ticks, 0 is off.
    pub budget_over: u64,
    /// A gap that nothing explains and that is longer freezes; ticks, 0 is off.
    pub stolen_over: u64,
    /// Zero.
    pub reserved_too: [u64; 7],
}

/// Bytes of a control part.
pub const CONTROL_BYTES: usize = size_of::<ProbeControl>();

const _: () = assert!(CONTROL_BYTES == LINE_BYTES);
const _: () = assert!(offset_of!(ProbeControl, taken) == 24);
const _: () = assert!(offset_of!(ProbeControl, latency_over) == 48);

impl ProbeHeader {
    /// A header of this version.
    #[must_use]
    pub const fn new(capacity: u32) -> Self {
        Self {
            magic: PROBES_MAGIC,
            version: ABI_VERSION,
            record_bytes: 32,
            capacity,
            records_offset: 256,
            reserved: [0; 104],
        }
    }

    /// The header at the start of `bytes`, checked against a part of `part_bytes`.
    ///
    /// # Errors
    /// [`AbiError`] naming the field that is not allowed.
    pub fn parse(bytes: &[u8], part_bytes: u64) -> Result<Self, AbiError> {
        const WHAT: &str = "probe ring";
        let header: Self = prefix(WHAT, bytes)?;
        if header.magic != PROBES_MAGIC {
            let found = header.magic;
            return Err(AbiError::Magic { what: WHAT, found, expected: PROBES_MAGIC });
        }
        check_version(WHAT, header.version)?;
        let bad =
            |field, found, allowed| Err(AbiError::Field { what: WHAT, field, found, allowed });
        if header.record_bytes as usize != RECORD_BYTES {
            return bad("record length", header.record_bytes.into(), RECORD_BYTES as u64);
        }
        if !header.capacity.is_power_of_two() || header.capacity > CAPACITY_MAX {
            return bad("capacity", header.capacity.into(), CAPACITY_MAX.into());
        }
        let offset = u64::from(header.records_offset);
        if !offset.is_multiple_of(8) || offset < RECORDS_OFFSET as u64 {
            return bad("records offset", offset, RECORDS_OFFSET as u64);
        }
        let end = offset + u64::from(header.capacity) * RECORD_BYTES as u64;
        if end > part_bytes {
            return bad("end", end, part_bytes);
        }
        Ok(header)
    }

    /// Bytes of a part with `capacity` records.
    #[must_use]
    pub const fn part_bytes(capacity: u32) -> usize {
        RECORDS_OFFSET + capacity as usize * RECORD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_its_golden_bytes() {
        let record = ProbeRecord { tsc: 0x0807_0605_0403_0201, id: 0x0C0B_0A09, a: 1, b: 2, c: 3 };
        #[rustfmt::skip]
        let golden = [
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1, 0, 0, 0,
            2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(record.as_bytes(), golden);
    }

    #[test]
    fn the_header_has_its_golden_bytes() {
        let mut golden = b"HYPROBES".to_vec();
        golden.extend([1, 0, 0, 0, 32, 0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0]);
        golden.extend([0; 104]);
        let header = ProbeHeader::new(1024);
        assert_eq!(header.as_bytes(), golden);
        let part = ProbeHeader::part_bytes(1024) as u64;
        assert_eq!(ProbeHeader::parse(&golden, part), Ok(header));
        assert!(ProbeHeader::parse(&golden, part - 1).is_err());
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let said = |change: fn(&mut ProbeHeader)| {
            let mut header = ProbeHeader::new(64);
            change(&mut header);
            ProbeHeader::parse(header.as_bytes(), 1 << 20).unwrap_err().to_string()
        };
        assert!(said(|h| h.magic = 0).starts_with("no probe ring here"));
        assert!(said(|h| h.version = 9).contains("version 9"));
        assert!(said(|h| h.record_bytes = 16).contains("record length 16, allowed is 32"));
        assert!(said(|h| h.capacity = 63).contains("capacity 63"));
        assert!(said(|h| h.capacity = 0).contains("capacity 0"));
        assert!(said(|h| h.capacity = 1 << 31).contains("capacity"));
        assert!(said(|h| h.records_offset = 128).contains("records offset 128"));
        assert!(said(|h| h.records_offset = u32::MAX - 7).contains("end"));
    }
}
