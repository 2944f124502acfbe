//! The dictionary: what each probe of a program is called and what its fields mean.
//!
//! Each probe puts one [`ProbeEntry`] into the section [`SECTION_NAME`] of the program's file. The
//! section is found by [`section_of`], without a library; it belongs to the build id of the same
//! file and explains no other program's records.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::groups::{Group, Level};
use crate::Name;
use crate::metrics::MetricUnit;

/// Name of the section of an ELF file in which the entries stand.
pub const SECTION_NAME: &str = ".hybrid_probes";

/// Magic of an entry; its last byte is the layout's version.
pub const ENTRY_MAGIC: u64 = u64::from_le_bytes(*b"HYPROBE\x01");

/// An event.
pub const KIND_EVENT: u8 = 1;
/// A last-value register.
pub const KIND_REGISTER: u8 = 2;

/// What a field is beyond a number of its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct FieldKind(pub u16);

impl FieldKind {
    /// A number.
    pub const NUMBER: Self = Self(0);
    /// A number that is read in hexadecimal.
    pub const HEX: Self = Self(1);
    /// A task's place in the table plus 1; its name stands among the task names.
    pub const TASK: Self = Self(2);
    /// A command: queue identifier in bits 31:16, command identifier in 15:0.
    pub const COMMAND: Self = Self(3);
    /// A time in ticks of the partition's clock.
    pub const TICKS: Self = Self(4);
    /// An NVMe status: type in bits 10:8, code in 7:0.
    pub const STATUS: Self = Self(5);
    /// A queue identifier.
    pub const QUEUE: Self = Self(6);
    /// Why a ring was frozen, a `FREEZE_` constant of [`super`].
    pub const FREEZE: Self = Self(7);
    /// What a command does: opcode in bits 7:0, blocks counted from 0 in 31:16.
    pub const OPERATION: Self = Self(8);
    /// Yes or no.
    pub const FLAG: Self = Self(9);
}

/// A field of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ProbeField {
    /// Its name; empty where the probe has no such field.
    pub name: Name<20>,
    /// Its unit.
    pub unit: MetricUnit,
    /// What it is.
    pub kind: FieldKind,
}

const _: () = assert!(size_of::<ProbeField>() == 24 && align_of::<ProbeField>() == 2);

impl ProbeField {
    /// No field.
    pub const NONE: Self =
        Self { name: Name::EMPTY, unit: MetricUnit::COUNT, kind: FieldKind::NUMBER };

    /// A field.
    #[must_use]
    pub const fn new(name: &str, unit: MetricUnit, kind: FieldKind) -> Self {
        Self { name: Name::lossy(name), unit, kind }
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_some(&self) -> bool {
        !self.name.as_str().is_empty()
    }
}

/// One probe of the dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ProbeEntry {
    /// [`ENTRY_MAGIC`].
    pub magic: u64,
    /// [`probe_id`] of the name.
    pub id: u32,
    /// Line of the definition.
    pub line: u32,
    /// A [`Group`].
    pub group: u8,
    /// A [`Level`].
    pub level: u8,
    /// [`KIND_EVENT`] or [`KIND_REGISTER`].
    pub kind: u8,
    /// Zero.
    pub reserved: [u8; 5],
    /// `group.what`, unique.
    pub name: Name<40>,
    /// The three fields; a register has one, its value.
    pub fields: [ProbeField; 3],
    /// Source file of the definition, its end where it is too long.
    pub file: Name<64>,
    /// What it says, in a few words.
    pub about: Name<56>,
}

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = size_of::<ProbeEntry>();

const _: () = assert!(ENTRY_BYTES == 256 && align_of::<ProbeEntry>() == 8);
const _: () = assert!(offset_of!(ProbeEntry, name) == 24);
const _: () = assert!(offset_of!(ProbeEntry, fields) == 64);
const _: () = assert!(offset_of!(ProbeEntry, file) == 136);

/// The identifier of a probe: FNV-1a of its name, 32 bits.
#[must_use]
pub const fn probe_id(name: &str) -> u32 {
    let bytes = name.as_bytes();
    let mut hash = 0x811C_9DC5_u32;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    hash
}

/// Up to three fields, as an entry has them.
#[must_use]
pub const fn fields(given: &[ProbeField]) -> [ProbeField; 3] {
    assert!(given.len() <= 3, "an event has three fields");
    let mut fields = [ProbeField::NONE; 3];
    let mut i = 0;
    while i < given.len() {
        fields[i] = given[i];
        i += 1;
    }
    fields
}

/// The last 64 bytes of a path, which tell more than the first.
const fn tail(path: &str) -> Name<64> {
    let bytes = path.as_bytes();
    let from = bytes.len().saturating_sub(64);
    let (_, end) = bytes.split_at(from);
    match core::str::from_utf8(end) {
        Ok(end) => Name::lossy(end),
        Err(_) => Name::EMPTY,
    }
}

impl ProbeEntry {
    /// An entry of our own program's.
    #[must_use]
    pub const fn new(
        kind: u8,
        (name, about): (&str, &str),
        (group, level): (Group, Level),
        fields: [ProbeField; 3],
        (file, line): (&str, u32),
    ) -> Self {
        Self {
            magic: ENTRY_MAGIC,
            id: probe_id(name),
            line,
            group: group.0,
            level: level.0,
            kind,
            reserved: [0; 5],
            name: Name::lossy(name),
            fields,
            file: tail(file),
            about: Name::lossy(about),
        }
    }
}

/// The entries of a section's or a chunk's bytes. What is not one is stepped over.
pub fn entries(mut bytes: &[u8]) -> impl Iterator<Item = ProbeEntry> + '_ {
    core::iter::from_fn(move || {
        loop {
            let (entry, rest) = ProbeEntry::read_from_prefix(bytes).ok()?;
            if entry.magic == ENTRY_MAGIC && entry.id == probe_id(entry.name.as_str()) {
                bytes = rest;
                return Some(entry);
            }
            bytes = bytes.get(8..)?;
        }
    })
}

/// Reads bytes of a file at an offset; says whether there were as many.
pub type ReadAt<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> bool;

/// Bytes of an ELF header, and of a section's header.
const ELF_HEADER: usize = 64;

/// Where the section [`SECTION_NAME`] lies in a 64-bit little-endian ELF file: offset and length.
pub fn section_of(read: ReadAt<'_>) -> Option<(u64, u64)> {
    let mut head = [0; ELF_HEADER];
    if !read(0, &mut head) || head.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size) = (long(&head, 0x28)?, half(&head, 0x3A)?);
    let (count, names) = (half(&head, 0x3C)?, half(&head, 0x3E)?);
    if usize::from(size) != ELF_HEADER {
        return None;
    }
    let names = long(&section_header(read, table, names)?, 0x18)?;
    for index in 0..count {
        let header = section_header(read, table, index)?;
        let at = names.checked_add(word(&header, 0)?.into())?;
        // With the zero byte behind it.
        let mut name = [0; SECTION_NAME.len() + 1];
        let is_there = read(at, &mut name);
        if is_there && name.strip_prefix(SECTION_NAME.as_bytes()) == Some(&[0][..]) {
            return Some((long(&header, 0x18)?, long(&header, 0x20)?));
        }
    }
    None
}

fn section_header(read: ReadAt<'_>, table: u64, index: u16) -> Option<[u8; ELF_HEADER]> {
    let mut bytes = [0; ELF_HEADER];
    let at = table.checked_add(u64::from(index) * ELF_HEADER as u64)?;
    read(at, &mut bytes).then_some(bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> ProbeEntry {
        let field = ProbeField::new("task", MetricUnit::COUNT, FieldKind::TASK);
        ProbeEntry::new(
            KIND_EVENT,
            (name, "a test"),
            (Group::SCHED, Level::DEBUG),
            [field, ProbeField::NONE, ProbeField::NONE],
            ("core-runtime/src/task/scheduler.rs", 258),
        )
    }

    #[test]
    fn an_entry_has_its_golden_bytes() {
        let mut golden = b"HYPROBE\x01".to_vec();
        // FNV-1a of "a" is a published vector.
        golden.extend([0x2C, 0x29, 0x0C, 0xE4, 2, 1, 0, 0, 1, 2, 1, 0, 0, 0, 0, 0]);
        golden.extend(b"a");
        golden.extend([0; 39]);
        golden.extend(b"task");
        golden.extend([0; 16]);
        golden.extend([0, 0, 2, 0]);
        golden.extend([0; 48]);
        golden.extend(b"core-runtime/src/task/scheduler.rs");
        golden.extend([0; 30]);
        golden.extend(b"a test");
        golden.extend([0; 50]);
        assert_eq!(entry("a").as_bytes(), golden);
    }

    #[test]
    fn entries_are_found_wherever_they_stand() {
        let mut bytes = vec![0; 24];
        bytes.extend(entry("sched.one").as_bytes());
        bytes.extend([0; 8]);
        bytes.extend(entry("sched.two").as_bytes());
        bytes.extend([7; 100]);
        let found: Vec<_> = entries(&bytes).map(|entry| entry.name.as_str().to_owned()).collect();
        assert_eq!(found, ["sched.one", "sched.two"]);
        // A damaged one is stepped over.
        bytes[24 + 8] ^= 1;
        assert_eq!(entries(&bytes).count(), 1);
        assert_eq!(entries(&[]).count(), 0);
    }

    #[test]
    fn a_long_path_keeps_its_end() {
        let long = format!("{}/{}", "d".repeat(80), "probe.rs");
        assert!(tail(&long).as_str().ends_with("/probe.rs"));
        assert_eq!(tail("a.rs").as_str(), "a.rs");
    }

    #[test]
    fn what_is_no_elf_file_has_no_section() {
        let mut wild = vec![0xFF; 512];
        wild[..6].copy_from_slice(b"\x7fELF\x02\x01");
        wild[0x3A..0x3C].copy_from_slice(&64_u16.to_le_bytes());
        for file in [&b""[..], b"#!/bin/sh\n", &wild] {
            let mut read = |at: u64, into: &mut [u8]| {
                let from = usize::try_from(at).unwrap_or(usize::MAX);
                let bytes = from.checked_add(into.len()).and_then(|end| file.get(from..end));
                bytes.map(|bytes| into.copy_from_slice(bytes)).is_some()
            };
            assert_eq!(section_of(&mut read), None);
        }
    }
}
