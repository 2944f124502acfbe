//! Building and reading a shared region.
//!
//! [`RegionWriter`] is called by whoever owns the region, before the other side looks at it: it
//! gives parts out one after the other and then publishes, the magic last. [`RegionReader`] checks
//! header and directory once and hands out the parts as spans that were proven to lie inside; what
//! is in a part is checked by the module that knows it. The layout is [`hybrid_abi::region`].
//!
//! Neither maps memory, and neither trusts what lies in it: the reader copies the header and each
//! entry before it looks at them.

use hybrid_abi::region::{
    DIRECTORY_MAX, DirectoryEntry, PartKind, REGION_MAGIC, RegionHeader, WRITER_HOST,
    WRITER_PARTITION,
};
use hybrid_abi::{AbiError, LINE_BYTES, Name};
use hybrid_shm::{OutOfBounds, ReadSpan, Span};
use thiserror::Error;
use zerocopy::IntoBytes;

/// Why a region can't be made or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RegionError {
    /// Header, directory or a name is not what it should be.
    #[error(transparent)]
    Abi(#[from] AbiError),
    /// The span is too short, or not aligned.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    /// The region has no room for another part.
    #[error("a part of {needed} bytes does not fit a region with {left} bytes left")]
    Full {
        /// Bytes that the part needs.
        needed: u64,
        /// Bytes that are left.
        left: u64,
    },
    /// The directory has no room for another part.
    #[error("a region has at most {DIRECTORY_MAX} parts")]
    DirectoryFull,
    /// Two parts have the same kind and name.
    #[error("parts {first} and {second} of the region have one name")]
    Duplicate {
        /// Number of one entry.
        first: u32,
        /// Number of the other.
        second: u32,
    },
    /// Two parts share bytes.
    #[error("parts {first} and {second} of the region overlap")]
    Overlap {
        /// Number of one entry.
        first: u32,
        /// Number of the other.
        second: u32,
    },
    /// No part of that kind and name.
    #[error("the region has no part of kind {} with that name", .kind.0)]
    Missing {
        /// The kind that was asked for.
        kind: PartKind,
    },
}

/// Who writes a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The partition; the host only reads.
    Partition,
    /// The host; the partition only reads.
    Host,
}

/// The machine's and the program's facts that a region's header carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionFacts {
    /// The kernel's boot id.
    pub boot_id: [u8; 16],
    /// Build id of this program.
    pub build_id: [u8; 20],
    /// Number of the partition: its CPU, since a core has one partition.
    pub partition: u32,
    /// Counts the starts of the partition, from 1.
    pub incarnation: u64,
    /// TSC ticks a second.
    pub tsc_hz: u64,
    /// TSC at the moment of `anchor_unix_ns`.
    pub anchor_tsc: u64,
    /// Wall clock at the moment of `anchor_tsc`, nanoseconds since 1970-01-01.
    pub anchor_unix_ns: u64,
}

type Entries = heapless::Vec<DirectoryEntry, { DIRECTORY_MAX as usize }>;

/// Lays parts out in a region that this program writes.
#[derive(Debug)]
pub struct RegionWriter {
    region: Span<'static>,
    header: RegionHeader,
    entries: Entries,
    next: u64,
}

impl RegionWriter {
    /// Begins a region in zeroed memory that nobody reads yet, with room for `parts` parts.
    ///
    /// # Errors
    /// [`RegionError`] if the directory does not fit.
    pub fn new(
        region: Span<'static>,
        writer: Writer,
        facts: RegionFacts,
        parts: u32,
    ) -> Result<Self, RegionError> {
        if parts > DIRECTORY_MAX {
            return Err(RegionError::DirectoryFull);
        }
        let header = RegionHeader {
            region_bytes: region.len() as u64,
            boot_id: facts.boot_id,
            incarnation: facts.incarnation,
            tsc_hz: facts.tsc_hz,
            anchor_tsc: facts.anchor_tsc,
            anchor_unix_ns: facts.anchor_unix_ns,
            build_id: facts.build_id,
            partition: facts.partition,
            directory_entries: parts,
            ..RegionHeader::blank(match writer {
                Writer::Partition => WRITER_PARTITION,
                Writer::Host => WRITER_HOST,
            })
        };
        header.check(header.region_bytes)?;
        region.word64(0)?.store(0);
        Ok(Self { region, header, entries: Entries::new(), next: align(header.directory_end()) })
    }

    /// Gives out the next `len` bytes, at a multiple of 128, as the part of that kind and name.
    ///
    /// # Errors
    /// [`RegionError`] if there is no room, or the name is taken or not one.
    pub fn add_part(
        &mut self,
        kind: PartKind,
        name: &str,
        len: usize,
    ) -> Result<Span<'static>, RegionError> {
        let entry = DirectoryEntry {
            offset: self.next,
            len: len as u64,
            kind,
            reserved: 0,
            name: Name::new("part", name)?,
        };
        let full = self.entries.len() >= self.header.directory_entries as usize;
        if full || self.entries.is_full() {
            return Err(RegionError::DirectoryFull);
        }
        let left = self.header.region_bytes.saturating_sub(self.next);
        if entry.len > left {
            return Err(RegionError::Full { needed: entry.len, left });
        }
        for (first, other) in (0..).zip(&self.entries) {
            if other.kind == kind && other.name == entry.name {
                let second = self.count();
                return Err(RegionError::Duplicate { first, second });
            }
        }
        let offset = usize::try_from(entry.offset).unwrap_or(usize::MAX);
        let part = self.region.sub(offset, len)?;
        self.next = align(entry.offset + entry.len);
        // There is room: tested above.
        let _ = self.entries.push(entry);
        Ok(part)
    }

    /// Bytes that are left for parts.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.header.region_bytes.saturating_sub(self.next)
    }

    /// Writes header and directory, the magic last: from now on the region can be read.
    ///
    /// # Errors
    /// [`RegionError::OutOfBounds`] never, unless this module is wrong.
    pub fn publish(mut self) -> Result<(), RegionError> {
        self.header.directory_entries = self.count();
        let directory = self.header.directory_offset as usize;
        self.region.write(directory, self.entries.as_bytes())?;
        self.region.write(8, self.header.as_bytes().split_at(8).1)?;
        // SYNC region-made: who sees the magic sees header, directory and the parts as they were.
        self.region.word64(0)?.store_release(REGION_MAGIC);
        Ok(())
    }

    fn count(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(DIRECTORY_MAX)
    }
}

/// The next multiple of a line.
const fn align(offset: u64) -> u64 {
    const LINE: u64 = LINE_BYTES as u64;
    offset.saturating_add(LINE - 1) / LINE * LINE
}

/// A region of someone else, checked.
#[derive(Clone, Debug)]
pub struct RegionReader {
    region: ReadSpan<'static>,
    header: RegionHeader,
    entries: Entries,
}

impl RegionReader {
    /// Checks header and directory, once.
    ///
    /// # Errors
    /// [`RegionError`]; a magic of zero, in [`AbiError::Magic`], means: not published yet.
    pub fn new(region: ReadSpan<'static>) -> Result<Self, RegionError> {
        // SYNC region-made
        region.load64(0)?;
        let mut bytes = [0; size_of::<RegionHeader>()];
        region.read(0, &mut bytes)?;
        let header = RegionHeader::parse(&bytes, region.len() as u64)?;
        let mut entries = Entries::new();
        for index in 0..header.directory_entries {
            let entry = read_entry(region, &header, index)?;
            entry.check(&header)?;
            check_against(&entries, &entry)?;
            entries.push(entry).map_err(|_| RegionError::DirectoryFull)?;
        }
        Ok(Self { region, header, entries })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &RegionHeader {
        &self.header
    }

    /// The parts: kind, name and bytes.
    pub fn parts(&self) -> impl Iterator<Item = (PartKind, &str, ReadSpan<'static>)> {
        self.entries.iter().filter_map(|entry| {
            let span = self.span_of(entry).ok()?;
            Some((entry.kind, entry.name.as_str(), span))
        })
    }

    /// The part of that kind and name.
    ///
    /// # Errors
    /// [`RegionError::Missing`].
    pub fn part(&self, kind: PartKind, name: &str) -> Result<ReadSpan<'static>, RegionError> {
        self.entries
            .iter()
            .find(|entry| entry.kind == kind && entry.name.as_str() == name)
            .ok_or(RegionError::Missing { kind })
            .and_then(|entry| self.span_of(entry))
    }

    fn span_of(&self, entry: &DirectoryEntry) -> Result<ReadSpan<'static>, RegionError> {
        let offset = usize::try_from(entry.offset).unwrap_or(usize::MAX);
        let len = usize::try_from(entry.len).unwrap_or(usize::MAX);
        Ok(self.region.sub(offset, len)?)
    }
}

fn read_entry(
    region: ReadSpan<'static>,
    header: &RegionHeader,
    index: u32,
) -> Result<DirectoryEntry, RegionError> {
    let mut bytes = [0; size_of::<DirectoryEntry>()];
    let at = header.directory_offset as usize + index as usize * bytes.len();
    region.read(at, &mut bytes)?;
    Ok(zerocopy::transmute!(bytes))
}

/// Whether an entry goes with those before it.
fn check_against(entries: &Entries, entry: &DirectoryEntry) -> Result<(), RegionError> {
    let second = u32::try_from(entries.len()).unwrap_or(DIRECTORY_MAX);
    for (first, other) in (0..).zip(entries) {
        if entry.overlaps(other) {
            return Err(RegionError::Overlap { first, second });
        }
        if entry.kind == other.kind && entry.name == other.name {
            return Err(RegionError::Duplicate { first, second });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_laid_out_is_found() {
        let region = hybrid_shm::leak_aligned(4096, 128);
        let facts = RegionFacts::default();
        let mut writer = RegionWriter::new(region, Writer::Host, facts, 4).unwrap();
        let part = writer.add_part(PartKind::STATE, "state", 64).unwrap();
        part.word64(0).unwrap().store(5);
        writer.publish().unwrap();
        let reader = RegionReader::new(region.read_only()).unwrap();
        let found = reader.part(PartKind::STATE, "state").unwrap();
        assert_eq!((found.load64(0), found.len()), (Ok(5), 64));
        assert_eq!(reader.parts().count(), 1);
    }
}
