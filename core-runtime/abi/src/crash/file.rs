//! A dump as a file: `*.hycrash`.
//!
//! A [`FileHeader`], then sections as in a record, to the end of the file. One of them,
//! [`SectionKind::RECORD`], holds the slot that the partition wrote or the host composed; the
//! others are the host's. A file that was cut or damaged is read up to there, and around it.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{SectionHeader, SectionKind, Sections};
use crate::crc::crc32c;
use crate::region::BUILD_ID_BYTES;
use crate::{ABI_VERSION, AbiError, LINE_BYTES, check_version, prefix};

/// Magic of a file: `HYCRASHF`.
pub const FILE_MAGIC: u64 = u64::from_le_bytes(*b"HYCRASHF");
/// What its name ends in.
pub const FILE_SUFFIX: &str = ".hycrash";
/// Largest file that is read: a record and the rings of sixty queues of 4,096 entries.
pub const FILE_MAX_BYTES: u64 = 64 << 20;

const WHAT: &str = "crash dump";

/// The first bytes of a file. What it says of clock and program is from the region's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct FileHeader {
    /// [`FILE_MAGIC`].
    pub magic: u64,
    /// Version of the writer.
    pub version: u32,
    /// CRC32C of this header, these four bytes taken as zero.
    pub crc32c: u32,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// When it was saved, nanoseconds since 1970-01-01.
    pub saved_unix_ns: u64,
    /// Number of the partition: its CPU.
    pub partition: u32,
    /// Zero.
    pub reserved: u32,
    /// Counts the starts of the partition, from 1.
    pub incarnation: u64,
    /// The kernel's boot id.
    pub boot_id: [u8; 16],
    /// TSC ticks a second; 0 where it is not known.
    pub tsc_hz: u64,
    /// TSC at the moment of `anchor_unix_ns`.
    pub anchor_tsc: u64,
    /// Wall clock at the moment of `anchor_tsc`, nanoseconds since 1970-01-01.
    pub anchor_unix_ns: u64,
    /// Build id of the program, padded with zero bytes.
    pub build_id: [u8; BUILD_ID_BYTES],
    /// Zero.
    pub reserved_end: [u8; 20],
}

const _: () = assert!(size_of::<FileHeader>() == LINE_BYTES && align_of::<FileHeader>() == 8);
const _: () = assert!(offset_of!(FileHeader, file_bytes) == 16);
const _: () = assert!(offset_of!(FileHeader, incarnation) == 40);
const _: () = assert!(offset_of!(FileHeader, tsc_hz) == 64);
const _: () = assert!(offset_of!(FileHeader, build_id) == 88);
const _: () = assert!(offset_of!(FileHeader, reserved_end) == 108);

impl FileHeader {
    /// A header without facts.
    #[must_use]
    pub const fn blank() -> Self {
        Self {
            magic: FILE_MAGIC,
            version: ABI_VERSION,
            crc32c: 0,
            file_bytes: 0,
            saved_unix_ns: 0,
            partition: 0,
            reserved: 0,
            incarnation: 0,
            boot_id: [0; 16],
            tsc_hz: 0,
            anchor_tsc: 0,
            anchor_unix_ns: 0,
            build_id: [0; BUILD_ID_BYTES],
            reserved_end: [0; 20],
        }
    }

    /// This header with its checksum.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.crc32c = 0;
        self.crc32c = crc32c(self.as_bytes());
        self
    }

    /// The header at the start of a file, whatever the file's length.
    ///
    /// # Errors
    /// [`AbiError`] naming the field that is not allowed.
    pub fn parse(file: &[u8]) -> Result<Self, AbiError> {
        let header: Self = prefix(WHAT, file)?;
        if header.magic != FILE_MAGIC {
            return Err(AbiError::Magic { what: WHAT, found: header.magic, expected: FILE_MAGIC });
        }
        check_version(WHAT, header.version)?;
        let computed = header.sealed().crc32c;
        if computed != header.crc32c {
            return Err(AbiError::Checksum { what: WHAT, stored: header.crc32c, computed });
        }
        Ok(header)
    }

    /// The sections of `file`, which begins with this header.
    #[must_use]
    pub fn sections<'a>(&self, file: &'a [u8]) -> Sections<'a> {
        let end = usize::try_from(self.file_bytes).unwrap_or(usize::MAX).min(file.len());
        Sections::new(file.get(LINE_BYTES..end).unwrap_or_default(), LINE_BYTES as u64)
    }

    /// TSC ticks as nanoseconds, rounded down; `None` where the frequency is not known.
    #[must_use]
    pub fn ticks_to_ns(&self, ticks: u64) -> Option<u64> {
        let ns = u128::from(ticks) * 1_000_000_000;
        let ns = ns.checked_div(u128::from(self.tsc_hz))?;
        Some(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    /// A moment of the TSC as wall clock, nanoseconds since 1970-01-01; `None` where the frequency
    /// is not known.
    #[must_use]
    pub fn unix_ns(&self, tsc: u64) -> Option<u64> {
        match tsc.checked_sub(self.anchor_tsc) {
            Some(after) => self.anchor_unix_ns.checked_add(self.ticks_to_ns(after)?),
            None => self.anchor_unix_ns.checked_sub(self.ticks_to_ns(self.anchor_tsc - tsc)?),
        }
    }
}

/// The header of a section that holds `payload`.
///
/// # Errors
/// [`AbiError::Field`] for a payload that no file holds.
pub fn section(kind: SectionKind, count: u32, payload: &[u8]) -> Result<SectionHeader, AbiError> {
    match u32::try_from(payload.len()) {
        Ok(len) if u64::from(len) <= FILE_MAX_BYTES => {
            Ok(SectionHeader { kind, version: 1, len, crc32c: crc32c(payload), count })
        }
        _ => Err(AbiError::Field {
            what: WHAT,
            field: "section length",
            found: payload.len() as u64,
            allowed: FILE_MAX_BYTES,
        }),
    }
}

/// How it ended is not known.
pub const END_UNKNOWN: u32 = 0;
/// It ended with the exit code in [`HostWords::code`].
pub const END_EXITED: u32 = 1;
/// The signal in [`HostWords::code`] ended it.
pub const END_SIGNALLED: u32 = 2;
/// It goes on: the dump was asked for.
pub const END_RUNNING: u32 = 3;

/// The record was read after the device had let go of everything.
pub const HOST_FENCED: u32 = 1 << 0;
/// The partition had written no record: the host composed this one.
pub const HOST_COMPOSED: u32 = 1 << 1;
/// The host itself had sent the signal.
pub const HOST_SENT_IT: u32 = 1 << 2;

/// What the host saw. A line of its own words follows.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct HostWords {
    /// One of the `END_` constants.
    pub end: u32,
    /// Exit code or number of the signal.
    pub code: u32,
    /// `HOST_` flags.
    pub flags: u32,
    /// Process that the partition was; 0 where it was a thread of the host.
    pub pid: u32,
    /// When the host noticed, nanoseconds since 1970-01-01.
    pub noticed_unix_ns: u64,
    /// TSC at that moment.
    pub noticed_tsc: u64,
}

const _: () = assert!(size_of::<HostWords>() == 32 && align_of::<HostWords>() == 8);
const _: () = assert!(offset_of!(HostWords, noticed_unix_ns) == 16);

/// What stands before the bytes of a queue pair's rings: all of the submission queue, then all of
/// the completion queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct QueueImageHead {
    /// The controller's number.
    pub controller: u16,
    /// Queue identifier; 0 is the admin queue.
    pub qid: u16,
    /// Entries of each ring.
    pub entries: u32,
    /// Low bits of a command identifier that name its slot.
    pub slot_mask: u32,
    /// Where the next command would have gone, from the shadow doorbell; all ones if there is none.
    pub tail: u32,
    /// [`super::device::Indices`], a millisecond old; 0 for none.
    pub indices: u64,
}

const _: () = assert!(size_of::<QueueImageHead>() == 24 && align_of::<QueueImageHead>() == 8);

/// [`QueueImageHead::tail`] is not known.
pub const TAIL_UNKNOWN: u32 = u32::MAX;
