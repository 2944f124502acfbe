//! A shared region: header, directory, then its parts.
//!
//! ```text
//!   0                  RegionHeader (128 bytes); its magic is stored last, with Release
//!   directory_offset   DirectoryEntry x directory_entries
//!   ...                the parts, each at a multiple of 128 bytes, none overlapping another
//! ```

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{ABI_VERSION, AbiError, LINE_BYTES, Name, check_version, prefix};

/// Magic of a region: `HYREGION`.
pub const REGION_MAGIC: u64 = u64::from_le_bytes(*b"HYREGION");

/// Most parts of a region: a partition has about ten, and a reader keeps them all on its stack.
pub const DIRECTORY_MAX: u32 = 64;

/// The partition is the region's writer; the host may only read it.
pub const WRITER_PARTITION: u32 = 1;
/// The host is the region's writer; the partition may only read it.
pub const WRITER_HOST: u32 = 2;

/// Bytes of a build id that are kept: a GNU build id is a SHA-1.
pub const BUILD_ID_BYTES: usize = 20;

/// The first bytes of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RegionHeader {
    /// [`REGION_MAGIC`]; stored last.
    pub magic: u64,
    /// [`ABI_VERSION`] of the writer.
    pub version: u32,
    /// [`WRITER_PARTITION`] or [`WRITER_HOST`].
    pub writer: u32,
    /// Length of the region in bytes, this header included.
    pub region_bytes: u64,
    /// The kernel's boot id: a region of another boot is stale.
    pub boot_id: [u8; 16],
    /// Counts the starts of the partition, from 1.
    pub incarnation: u64,
    /// TSC ticks a second.
    pub tsc_hz: u64,
    /// TSC at the moment of `anchor_unix_ns`.
    pub anchor_tsc: u64,
    /// Wall clock at the moment of `anchor_tsc`, nanoseconds since 1970-01-01.
    pub anchor_unix_ns: u64,
    /// Build id of the writer's program, padded with zero bytes.
    pub build_id: [u8; BUILD_ID_BYTES],
    /// Number of the partition: its CPU, since a core has one partition.
    pub partition: u32,
    /// Offset of the first [`DirectoryEntry`].
    pub directory_offset: u32,
    /// Number of entries, at most [`DIRECTORY_MAX`].
    pub directory_entries: u32,
    /// Zero.
    pub reserved: [u8; 24],
}

const _: () = assert!(size_of::<RegionHeader>() == LINE_BYTES && align_of::<RegionHeader>() == 8);
const _: () = assert!(offset_of!(RegionHeader, region_bytes) == 16);
const _: () = assert!(offset_of!(RegionHeader, boot_id) == 24);
const _: () = assert!(offset_of!(RegionHeader, incarnation) == 40);
const _: () = assert!(offset_of!(RegionHeader, anchor_tsc) == 56);
const _: () = assert!(offset_of!(RegionHeader, build_id) == 72);
const _: () = assert!(offset_of!(RegionHeader, directory_offset) == 96);
const _: () = assert!(offset_of!(RegionHeader, reserved) == 104);

/// What a part of a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct PartKind(pub u32);

impl PartKind {
    /// A [`crate::metrics`] part.
    pub const METRICS: Self = Self(1);
    /// The producer's part of a ring, [`crate::ring`].
    pub const RING_PRODUCER: Self = Self(2);
    /// The consumer's part of a ring, [`crate::ring`].
    pub const RING_CONSUMER: Self = Self(3);
    /// Two crash slots, [`crate::crash`].
    pub const CRASH: Self = Self(4);
    /// A ring of probe events, [`crate::probe`].
    pub const PROBE: Self = Self(5);
    /// The partition's state words: state, heartbeat, current task.
    pub const STATE: Self = Self(6);
    /// Register accesses by mailbox.
    pub const MAILBOX: Self = Self(7);
    /// Where the queue pairs lie, [`crate::crash::device::QueuePlace`].
    pub const QUEUES: Self = Self(8);
    /// Counters that wake peers, one line of 256 bytes a partition of a mesh.
    pub const WAKES: Self = Self(9);
    /// The names of tasks, by number from 1: [`crate::crash::program::TASK_NAME_BYTES`] each, as
    /// [`Name`]s; what a host calls the task that does not give way.
    pub const TASK_NAMES: Self = Self(10);
    /// A bank of last values, [`crate::probe::registers`].
    pub const PROBE_REGISTERS: Self = Self(11);
    /// What the host wishes of the probes, [`crate::probe::ProbeControl`].
    pub const PROBE_CONTROL: Self = Self(12);
    /// What each task has done, by its place: [`crate::tasks`].
    pub const TASKS: Self = Self(13);
    /// Bytes whose meaning the application defines; kinds from here on are its own.
    pub const APPLICATION: Self = Self(0x1_0000);
}

/// One part of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DirectoryEntry {
    /// Offset of the part, a multiple of 128.
    pub offset: u64,
    /// Length of the part in bytes.
    pub len: u64,
    /// What it is.
    pub kind: PartKind,
    /// Zero.
    pub reserved: u32,
    /// Its name, unique among the parts of its kind.
    pub name: Name<40>,
}

const _: () = assert!(size_of::<DirectoryEntry>() == 64 && align_of::<DirectoryEntry>() == 8);
const _: () = assert!(offset_of!(DirectoryEntry, kind) == 16);
const _: () = assert!(offset_of!(DirectoryEntry, name) == 24);

impl RegionHeader {
    /// The header at the start of `bytes`, checked against a region of `region_bytes`.
    ///
    /// # Errors
    /// [`AbiError`] naming the field that is not allowed.
    pub fn parse(bytes: &[u8], region_bytes: u64) -> Result<Self, AbiError> {
        let header: Self = prefix("region", bytes)?;
        header.check(region_bytes)?;
        Ok(header)
    }

    /// Whether the fields are within their bounds, for a mapping of `region_bytes`.
    ///
    /// # Errors
    /// [`AbiError`] naming the field that is not allowed.
    pub fn check(&self, region_bytes: u64) -> Result<(), AbiError> {
        const WHAT: &str = "region";
        let bad =
            |field, found, allowed| Err(AbiError::Field { what: WHAT, field, found, allowed });
        if self.magic != REGION_MAGIC {
            return Err(AbiError::Magic { what: WHAT, found: self.magic, expected: REGION_MAGIC });
        }
        check_version(WHAT, self.version)?;
        if self.region_bytes > region_bytes {
            return bad("length", self.region_bytes, region_bytes);
        }
        if self.directory_entries > DIRECTORY_MAX {
            return bad("directory entries", self.directory_entries.into(), DIRECTORY_MAX.into());
        }
        let offset = u64::from(self.directory_offset);
        if !offset.is_multiple_of(8) || offset < size_of::<Self>() as u64 {
            return bad("directory offset", offset, size_of::<Self>() as u64);
        }
        let end = self.directory_end();
        if end > self.region_bytes {
            return bad("directory end", end, self.region_bytes);
        }
        Ok(())
    }

    /// Offset of the first byte after the directory.
    #[must_use]
    pub fn directory_end(&self) -> u64 {
        let bytes = u64::from(self.directory_entries) * size_of::<DirectoryEntry>() as u64;
        u64::from(self.directory_offset) + bytes
    }

    /// A header of this version whose machine facts are all zero.
    #[must_use]
    pub const fn blank(writer: u32) -> Self {
        Self {
            magic: REGION_MAGIC,
            version: ABI_VERSION,
            writer,
            region_bytes: 0,
            boot_id: [0; 16],
            incarnation: 0,
            tsc_hz: 0,
            anchor_tsc: 0,
            anchor_unix_ns: 0,
            build_id: [0; BUILD_ID_BYTES],
            partition: 0,
            directory_offset: 128,
            directory_entries: 0,
            reserved: [0; 24],
        }
    }
}

impl DirectoryEntry {
    /// Whether the part lies behind the directory and inside the region of a checked header.
    ///
    /// # Errors
    /// [`AbiError`] naming the field that is not allowed.
    pub fn check(&self, header: &RegionHeader) -> Result<(), AbiError> {
        const WHAT: &str = "directory entry";
        let bad =
            |field, found, allowed| Err(AbiError::Field { what: WHAT, field, found, allowed });
        if !self.offset.is_multiple_of(LINE_BYTES as u64) {
            return bad("offset", self.offset, LINE_BYTES as u64);
        }
        if self.offset < header.directory_end() {
            return bad("offset", self.offset, header.directory_end());
        }
        match self.offset.checked_add(self.len) {
            Some(end) if end <= header.region_bytes => self.name.check(WHAT),
            end => bad("end", end.unwrap_or(u64::MAX), header.region_bytes),
        }
    }

    /// Whether two parts share a byte.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        let apart = self.offset.saturating_add(self.len) <= other.offset
            || other.offset.saturating_add(other.len) <= self.offset;
        !apart
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> RegionHeader {
        RegionHeader {
            region_bytes: 0x10_0000,
            boot_id: [0xB0; 16],
            incarnation: 3,
            tsc_hz: 2_445_000_000,
            anchor_tsc: 0x0102_0304,
            anchor_unix_ns: 0x1112_1314_1516_1718,
            build_id: [0xB1; 20],
            partition: 5,
            directory_entries: 2,
            ..RegionHeader::blank(WRITER_PARTITION)
        }
    }

    #[test]
    fn the_header_has_its_golden_bytes() {
        #[rustfmt::skip]
        let mut golden = [
            b'H', b'Y', b'R', b'E', b'G', b'I', b'O', b'N',
            1, 0, 0, 0, 1, 0, 0, 0,
            0, 0, 0x10, 0, 0, 0, 0, 0,
        ].to_vec();
        golden.extend([0xB0; 16]);
        golden.extend([3, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([0x40, 0xBD, 0xBB, 0x91, 0, 0, 0, 0]);
        golden.extend([4, 3, 2, 1, 0, 0, 0, 0]);
        golden.extend([0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11]);
        golden.extend([0xB1; 20]);
        golden.extend([5, 0, 0, 0, 128, 0, 0, 0, 2, 0, 0, 0]);
        golden.extend([0; 24]);
        assert_eq!(header().as_bytes(), golden);
        assert_eq!(RegionHeader::parse(&golden, 0x10_0000), Ok(header()));
    }

    #[test]
    fn a_directory_entry_has_its_golden_bytes() {
        let entry = DirectoryEntry {
            offset: 0x1000,
            len: 0x2000,
            kind: PartKind::METRICS,
            reserved: 0,
            name: Name::lossy("runtime"),
        };
        let mut golden = vec![0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0];
        golden.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend(b"runtime");
        golden.extend([0; 33]);
        assert_eq!(entry.as_bytes(), golden);
        assert_eq!(entry.check(&header()), Ok(()));
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let said = |change: fn(&mut RegionHeader)| {
            let mut header = header();
            change(&mut header);
            header.check(0x10_0000).unwrap_err().to_string()
        };
        assert!(said(|h| h.magic = 0).starts_with("no region here"));
        assert!(said(|h| h.version = 9).contains("version 9, this program knows up to 1"));
        assert_eq!(said(|h| h.region_bytes += 1), "region has length 1048577, allowed is 1048576");
        assert_eq!(
            said(|h| h.directory_entries = 65),
            "region has directory entries 65, allowed is 64"
        );
        assert!(said(|h| h.directory_offset = 64).contains("directory offset 64"));
        assert!(said(|h| h.directory_offset = 0xFFFF_FFF8).contains("directory end"));
    }

    #[test]
    fn entries_outside_the_region_or_over_the_directory_are_refused() {
        let good = DirectoryEntry {
            offset: 0x1000,
            len: 0x1000,
            kind: PartKind::CRASH,
            reserved: 0,
            name: Name::lossy("crash"),
        };
        for (offset, len) in [
            (0, 16),
            (128, 16),
            (0x1001, 16),
            (0x10_0000, 1),
            (0xF_FF80, 129),
            (u64::MAX - 127, 256),
            (0x1000, u64::MAX),
        ] {
            let entry = DirectoryEntry { offset, len, ..good };
            assert!(entry.check(&header()).is_err(), "{offset:#x} + {len:#x}");
        }
        let last = DirectoryEntry { offset: 0xF_FF80, len: 128, ..good };
        assert_eq!(last.check(&header()), Ok(()));
        assert!(good.overlaps(&good));
        assert!(!good.overlaps(&last));
    }
}
