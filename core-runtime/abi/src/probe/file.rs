//! A trace file, `*.hytrace`: a header, then chunks.
//!
//! ```text
//!   0     TraceHeader (256 bytes)
//!   256   ChunkHeader (32 bytes) and its payload, padded to 8 bytes; and so on
//! ```
//! Each chunk says how long it is, carries a CRC32C of its own header and one of its payload, and
//! begins with a magic: a damaged chunk costs itself, and behind a damaged length the next one is
//! found by its magic. A file whose writer died is good up to there.
//!
//! Chunks: the dictionary first, task names whenever they changed, then records; [`ChunkKind::END`]
//! last, so that a reader knows whether the file is all.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::RECORD_BYTES;
use crate::crc::crc32c;
use crate::region::{BUILD_ID_BYTES, RegionHeader};
use crate::{ABI_VERSION, AbiError, Name, check_version, prefix};

/// Magic of a trace file: `HYTRACE0`.
pub const TRACE_MAGIC: u64 = u64::from_le_bytes(*b"HYTRACE0");
/// Magic of a chunk: `HYCHUNK0`.
pub const CHUNK_MAGIC: u64 = u64::from_le_bytes(*b"HYCHUNK0");
/// Extension of a trace file.
pub const TRACE_EXTENSION: &str = "hytrace";

/// Longest payload of a chunk: 64 Ki records and their head.
pub const CHUNK_MAX_BYTES: u32 = (1 << 21) + 64;
/// Records that a writer puts into one chunk at most.
pub const CHUNK_RECORDS: usize = 4096;

/// The first bytes of a trace file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TraceHeader {
    /// [`TRACE_MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`] of the writer.
    pub version: u32,
    /// Bytes of this header.
    pub header_bytes: u32,
    /// The kernel's boot id.
    pub boot_id: [u8; 16],
    /// Build id of the program whose probes these are.
    pub build_id: [u8; BUILD_ID_BYTES],
    /// Number of the partition: its CPU.
    pub partition: u32,
    /// Counts the starts of the partition, from 1.
    pub incarnation: u64,
    /// TSC ticks a second.
    pub tsc_hz: u64,
    /// TSC at the moment of `anchor_unix_ns`.
    pub anchor_tsc: u64,
    /// Wall clock at the moment of `anchor_tsc`, nanoseconds since 1970-01-01.
    pub anchor_unix_ns: u64,
    /// Mask of the probes that were on when the file was begun.
    pub mask: u64,
    /// Why the ring was frozen, a `FREEZE_` constant; 0 for a trace that was recorded.
    pub freeze_reason: u32,
    /// The task that ran then, from 1.
    pub freeze_task: u32,
    /// What exceeded the threshold, in ticks.
    pub freeze_value: u64,
    /// When, TSC.
    pub freeze_tsc: u64,
    /// The partition's name.
    pub name: Name<32>,
    /// Zero.
    pub reserved: [u8; 100],
    /// CRC32C of all the bytes above.
    pub crc32c: u32,
}

/// Bytes of the header.
pub const HEADER_BYTES: usize = size_of::<TraceHeader>();

const _: () = assert!(HEADER_BYTES == 256 && align_of::<TraceHeader>() == 8);
const _: () = assert!(offset_of!(TraceHeader, incarnation) == 56);
const _: () = assert!(offset_of!(TraceHeader, freeze_reason) == 96);
const _: () = assert!(offset_of!(TraceHeader, name) == 128 - 8);
const _: () = assert!(offset_of!(TraceHeader, crc32c) == 252);

/// What a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct ChunkKind(pub u16);

impl ChunkKind {
    /// [`super::ProbeEntry`]s.
    pub const DICTIONARY: Self = Self(1);
    /// Names of tasks by place, [`crate::crash::program::TASK_NAME_BYTES`] each.
    pub const TASK_NAMES: Self = Self(2);
    /// [`RecordsHead`], then [`super::ProbeRecord`]s.
    pub const RECORDS: Self = Self(3);
    /// [`TraceEnd`].
    pub const END: Self = Self(4);
    /// The path of the program, UTF-8.
    pub const PROGRAM_PATH: Self = Self(5);
    /// [`super::RegisterEntry`]s as they stood when the file was ended.
    pub const REGISTERS: Self = Self(6);

    /// Its name, for errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DICTIONARY => "dictionary",
            Self::TASK_NAMES => "task names",
            Self::RECORDS => "records",
            Self::END => "end",
            Self::PROGRAM_PATH => "program's path",
            Self::REGISTERS => "registers",
            _ => "unknown",
        }
    }
}

/// What stands before each chunk's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ChunkHeader {
    /// [`CHUNK_MAGIC`].
    pub magic: u64,
    /// What it is; unknown kinds are skipped.
    pub kind: ChunkKind,
    /// Version of that kind's layout.
    pub version: u16,
    /// Bytes of the payload, the padding not counted.
    pub len: u32,
    /// CRC32C of the payload.
    pub crc32c: u32,
    /// CRC32C of the fields above.
    pub header_crc32c: u32,
    /// Zero.
    pub reserved: u64,
}

/// Bytes of a chunk's header.
pub const CHUNK_HEADER_BYTES: usize = size_of::<ChunkHeader>();

const _: () = assert!(CHUNK_HEADER_BYTES == 32 && align_of::<ChunkHeader>() == 8);
const _: () = assert!(offset_of!(ChunkHeader, header_crc32c) == 20);

/// What stands before the records of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RecordsHead {
    /// Number of the first record, as the ring counts them.
    pub first: u64,
    /// Records that were lost between the chunk before and this one.
    pub lost: u64,
}

const _: () = assert!(size_of::<RecordsHead>() == 16);

/// The last chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TraceEnd {
    /// Records in the file.
    pub records: u64,
    /// Records that were overwritten before they were read.
    pub lost: u64,
    /// Records that the partition dropped because the ring was full.
    pub dropped: u64,
    /// TSC when the file was ended.
    pub tsc: u64,
}

const _: () = assert!(size_of::<TraceEnd>() == 32);

impl TraceHeader {
    /// A header whose facts are all zero.
    #[must_use]
    pub const fn blank() -> Self {
        Self {
            magic: TRACE_MAGIC,
            version: ABI_VERSION,
            header_bytes: 256,
            boot_id: [0; 16],
            build_id: [0; BUILD_ID_BYTES],
            partition: 0,
            incarnation: 0,
            tsc_hz: 0,
            anchor_tsc: 0,
            anchor_unix_ns: 0,
            mask: 0,
            freeze_reason: 0,
            freeze_task: 0,
            freeze_value: 0,
            freeze_tsc: 0,
            name: Name::EMPTY,
            reserved: [0; 100],
            crc32c: 0,
        }
    }

    /// With the facts of the partition that this region is of.
    #[must_use]
    pub fn of(self, region: &RegionHeader, name: &str) -> Self {
        Self {
            boot_id: region.boot_id,
            build_id: region.build_id,
            partition: region.partition,
            incarnation: region.incarnation,
            tsc_hz: region.tsc_hz,
            anchor_tsc: region.anchor_tsc,
            anchor_unix_ns: region.anchor_unix_ns,
            name: Name::lossy(name),
            ..self
        }
    }

    /// With its checksum.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.crc32c = self.checksum();
        self
    }

    fn checksum(&self) -> u32 {
        let (covered, _) = self.as_bytes().split_at(offset_of!(Self, crc32c));
        crc32c(covered)
    }

    /// The header at the start of `bytes`.
    ///
    /// # Errors
    /// [`AbiError`]; a newer version is an error of its own, before the checksum.
    pub fn parse(bytes: &[u8]) -> Result<Self, AbiError> {
        const WHAT: &str = "trace";
        let header: Self = prefix(WHAT, bytes)?;
        if header.magic != TRACE_MAGIC {
            return Err(AbiError::Magic { what: WHAT, found: header.magic, expected: TRACE_MAGIC });
        }
        check_version(WHAT, header.version)?;
        let computed = header.checksum();
        if header.crc32c != computed {
            return Err(AbiError::Checksum { what: WHAT, stored: header.crc32c, computed });
        }
        Ok(header)
    }

    /// Ticks as nanoseconds; `None` where the frequency is not known.
    #[must_use]
    pub const fn ticks_to_ns(&self, ticks: u64) -> Option<u64> {
        if self.tsc_hz == 0 {
            return None;
        }
        let ns = ticks as u128 * 1_000_000_000 / self.tsc_hz as u128;
        #[expect(clippy::cast_possible_truncation, reason = "as long as it fits")]
        Some(if ns > u64::MAX as u128 { u64::MAX } else { ns as u64 })
    }
}

impl ChunkHeader {
    /// The header of `payload`.
    #[must_use]
    pub fn of(kind: ChunkKind, payload: &[u8]) -> Self {
        let mut header = Self {
            magic: CHUNK_MAGIC,
            kind,
            version: 1,
            len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            crc32c: crc32c(payload),
            header_crc32c: 0,
            reserved: 0,
        };
        header.header_crc32c = header.checksum();
        header
    }

    fn checksum(&self) -> u32 {
        let (covered, _) = self.as_bytes().split_at(offset_of!(Self, header_crc32c));
        crc32c(covered)
    }

    /// The header at the start of `bytes`; `None` if it is none, or damaged.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, _) = Self::read_from_prefix(bytes).ok()?;
        let good = header.magic == CHUNK_MAGIC
            && header.header_crc32c == header.checksum()
            && header.len <= CHUNK_MAX_BYTES;
        good.then_some(header)
    }

    /// Bytes from the payload's start to the next chunk.
    #[must_use]
    pub const fn padded(&self) -> usize {
        (self.len as usize).next_multiple_of(8)
    }
}

/// A chunk of a file, or a place where none could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A chunk that is what it was when it was written.
    Chunk {
        /// Where its header stands.
        offset: u64,
        /// What it holds.
        kind: ChunkKind,
        /// Its bytes.
        payload: &'a [u8],
    },
    /// A chunk whose payload is not what its checksum says; its bytes as they are.
    Damaged {
        /// Where its header stands.
        offset: u64,
        /// What it held.
        kind: ChunkKind,
        /// What is left of it.
        payload: &'a [u8],
    },
    /// Bytes that are no chunk, up to the next one or the file's end.
    Gap {
        /// The first of them.
        offset: u64,
        /// How many.
        len: u64,
    },
}

/// The pieces of a file, from its header's end.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Pieces<'a> {
    /// Of a whole file.
    #[must_use]
    pub const fn of(file: &'a [u8]) -> Self {
        Self { file, at: HEADER_BYTES }
    }

    fn rest(&self) -> &'a [u8] {
        self.file.get(self.at..).unwrap_or_default()
    }

    /// Where the next chunk's header that can be believed stands.
    fn next_good(&self) -> usize {
        let rest = self.rest();
        let magic = CHUNK_MAGIC.to_le_bytes();
        let mut from = 1;
        while let Some(tail) = rest.get(from..) {
            let Some(found) = tail.windows(8).position(|window| window == magic) else { break };
            let at = from.saturating_add(found);
            if rest.get(at..).and_then(ChunkHeader::parse).is_some() {
                return self.at.saturating_add(at);
            }
            from = at.saturating_add(1);
        }
        self.file.len()
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let rest = self.rest();
        if rest.is_empty() {
            return None;
        }
        let offset = self.at as u64;
        let Some(header) = ChunkHeader::parse(rest) else {
            let next = self.next_good();
            let len = (next as u64).saturating_sub(offset);
            self.at = next;
            return Some(Piece::Gap { offset, len });
        };
        let body = rest.get(CHUNK_HEADER_BYTES..).unwrap_or_default();
        let kind = header.kind;
        let whole = body.get(..header.len as usize);
        match whole {
            Some(payload) if crc32c(payload) == header.crc32c => {
                self.at = self.at.saturating_add(CHUNK_HEADER_BYTES + header.padded());
                Some(Piece::Chunk { offset, kind, payload })
            }
            Some(payload) => {
                self.at = self.at.saturating_add(CHUNK_HEADER_BYTES + header.padded());
                Some(Piece::Damaged { offset, kind, payload })
            }
            None => {
                self.at = self.file.len();
                Some(Piece::Damaged { offset, kind, payload: body })
            }
        }
    }
}

/// The records of a chunk's payload: its head and the records behind it.
#[must_use]
pub fn records_of(payload: &[u8]) -> Option<(RecordsHead, &[u8])> {
    let (head, rest) = RecordsHead::read_from_prefix(payload).ok()?;
    let whole = rest.len() / RECORD_BYTES * RECORD_BYTES;
    Some((head, rest.get(..whole).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let mut file = TraceHeader::blank().sealed().as_bytes().to_vec();
        for (kind, payload) in [
            (ChunkKind::DICTIONARY, &[1_u8; 13][..]),
            (ChunkKind::RECORDS, &[2; 48]),
            (ChunkKind::END, &[3; 32]),
        ] {
            let header = ChunkHeader::of(kind, payload);
            file.extend(header.as_bytes());
            file.extend(payload);
            file.resize(file.len().next_multiple_of(8), 0);
        }
        file
    }

    #[test]
    fn the_header_has_its_golden_bytes() {
        let header = TraceHeader {
            partition: 5,
            tsc_hz: 1_000_000_000,
            name: Name::lossy("feed"),
            ..TraceHeader::blank()
        }
        .sealed();
        let mut golden = b"HYTRACE0".to_vec();
        golden.extend([1, 0, 0, 0, 0, 1, 0, 0]);
        golden.extend([0; 36]);
        golden.extend([5, 0, 0, 0]);
        golden.extend([0; 8]);
        golden.extend([0x00, 0xCA, 0x9A, 0x3B, 0, 0, 0, 0]);
        golden.extend([0; 48]);
        golden.extend(b"feed");
        golden.extend([0; 28 + 100]);
        golden.truncate(252);
        golden.extend(crc32c(&golden).to_le_bytes());
        assert_eq!(header.as_bytes(), golden);
        assert_eq!(TraceHeader::parse(&golden), Ok(header));
        assert_eq!(header.ticks_to_ns(7), Some(7));
        assert_eq!(TraceHeader::blank().ticks_to_ns(7), None);
        golden[100] ^= 1;
        assert!(TraceHeader::parse(&golden).unwrap_err().to_string().contains("crc32c"));
    }

    #[test]
    fn a_chunk_has_its_golden_bytes() {
        let header = ChunkHeader::of(ChunkKind::RECORDS, b"123456789");
        let mut golden = b"HYCHUNK0".to_vec();
        // The check value of CRC32C, RFC 3720.
        golden.extend([3, 0, 1, 0, 9, 0, 0, 0, 0x83, 0x92, 0x06, 0xE3]);
        golden.extend(crc32c(&golden).to_le_bytes());
        golden.extend([0; 8]);
        assert_eq!(header.as_bytes(), golden);
        assert_eq!(header.padded(), 16);
    }

    #[test]
    fn a_whole_file_is_its_chunks() {
        let file = file();
        let kinds: Vec<_> = Pieces::of(&file)
            .map(|piece| match piece {
                Piece::Chunk { kind, payload, .. } => (kind, payload.len()),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected =
            [(ChunkKind::DICTIONARY, 13), (ChunkKind::RECORDS, 48), (ChunkKind::END, 32)];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn damage_costs_its_own_chunk_and_no_other() {
        let whole = file();
        for at in HEADER_BYTES..whole.len() {
            let mut file = whole.clone();
            file[at] ^= 0x10;
            let pieces: Vec<_> = Pieces::of(&file).collect();
            let good = pieces.iter().filter(|piece| matches!(piece, Piece::Chunk { .. })).count();
            // Padding and reserved bytes are nobody's.
            assert!(good >= 2, "byte {at}: {pieces:?}");
            assert!(pieces.len() <= 4, "byte {at}: {pieces:?}");
        }
        for cut in HEADER_BYTES..whole.len() {
            let count = Pieces::of(&whole[..cut]).count();
            assert!(count <= 3);
        }
    }
}
