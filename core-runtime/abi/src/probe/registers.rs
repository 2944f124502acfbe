//! Registers: a bank of last values, each a word that its writer stores whenever it changes.
//!
//! The bank says itself what each one is called, so that a reader needs no dictionary.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::metrics::MetricUnit;
use crate::{ABI_VERSION, AbiError, Name, check_version, prefix};

/// Magic of a bank: `HYPREGS0`.
pub const REGISTERS_MAGIC: u64 = u64::from_le_bytes(*b"HYPREGS0");

/// Registers that a bank has room for.
pub const REGISTERS_MAX: u32 = 63;

/// The first bytes of a bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RegistersHeader {
    /// [`REGISTERS_MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`] of the writer.
    pub version: u32,
    /// Entries that are valid; stored with Release after each addition.
    pub count: u32,
    /// Bytes of an entry.
    pub entry_bytes: u32,
    /// Zero.
    pub reserved: [u8; 44],
}

const _: () = assert!(size_of::<RegistersHeader>() == 64 && align_of::<RegistersHeader>() == 8);
const _: () = assert!(offset_of!(RegistersHeader, entry_bytes) == 16);

/// Offset of [`RegistersHeader::count`], which a reader loads by itself.
pub const COUNT_OFFSET: usize = offset_of!(RegistersHeader, count);

/// One register: a cache line of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RegisterEntry {
    /// Its name.
    pub name: Name<40>,
    /// [`super::probe_id`] of its name.
    pub id: u32,
    /// Its unit.
    pub unit: MetricUnit,
    /// Zero.
    pub reserved: [u8; 10],
    /// The last value.
    pub value: u64,
}

/// Bytes of an entry.
pub const REGISTER_BYTES: usize = size_of::<RegisterEntry>();
/// Offset of the value in an entry.
pub const VALUE_OFFSET: usize = offset_of!(RegisterEntry, value);
/// Bytes of a bank.
pub const BANK_BYTES: usize = 64 + REGISTERS_MAX as usize * REGISTER_BYTES;

const _: () = assert!(REGISTER_BYTES == 64 && VALUE_OFFSET == 56);
const _: () = assert!(offset_of!(RegisterEntry, unit) == 44);

/// Offset of register `index`.
#[must_use]
pub const fn register_offset(index: u32) -> usize {
    size_of::<RegistersHeader>() + index as usize * REGISTER_BYTES
}

impl RegistersHeader {
    /// A header of this version without entries.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            magic: REGISTERS_MAGIC,
            version: ABI_VERSION,
            count: 0,
            entry_bytes: 64,
            reserved: [0; 44],
        }
    }

    /// The header at the start of `bytes`, checked against a part of `part_bytes`.
    ///
    /// # Errors
    /// [`AbiError`] naming the field that is not allowed.
    pub fn parse(bytes: &[u8], part_bytes: u64) -> Result<Self, AbiError> {
        const WHAT: &str = "probe registers";
        let header: Self = prefix(WHAT, bytes)?;
        if header.magic != REGISTERS_MAGIC {
            let found = header.magic;
            return Err(AbiError::Magic { what: WHAT, found, expected: REGISTERS_MAGIC });
        }
        check_version(WHAT, header.version)?;
        let room = part_bytes.saturating_sub(size_of::<Self>() as u64) / REGISTER_BYTES as u64;
        let most = room.min(REGISTERS_MAX.into());
        let (count, bytes) = (u64::from(header.count), u64::from(header.entry_bytes));
        for (field, found, allowed, good) in [
            ("count", count, most, count <= most),
            ("entry length", bytes, REGISTER_BYTES as u64, bytes == REGISTER_BYTES as u64),
        ] {
            if !good {
                return Err(AbiError::Field { what: WHAT, field, found, allowed });
            }
        }
        Ok(header)
    }
}

impl Default for RegistersHeader {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_entry_have_their_golden_bytes() {
        let mut golden = b"HYPREGS0".to_vec();
        golden.extend([1, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0]);
        golden.extend([0; 44]);
        assert_eq!(RegistersHeader::new().as_bytes(), golden);
        let entry = RegisterEntry {
            name: Name::lossy("driver.in_flight"),
            id: 0x0403_0201,
            unit: MetricUnit::COUNT,
            reserved: [0; 10],
            value: 9,
        };
        let mut golden = b"driver.in_flight".to_vec();
        golden.extend([0; 24]);
        golden.extend([1, 2, 3, 4, 0, 0]);
        golden.extend([0; 10]);
        golden.extend([9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(entry.as_bytes(), golden);
    }

    #[test]
    fn banks_that_lie_are_refused() {
        let said = |change: fn(&mut RegistersHeader)| {
            let mut header = RegistersHeader::new();
            change(&mut header);
            RegistersHeader::parse(header.as_bytes(), 64 + 2 * 64).unwrap_err().to_string()
        };
        assert!(said(|h| h.magic = 0).starts_with("no probe registers here"));
        assert!(said(|h| h.count = 3).contains("count 3, allowed is 2"));
        assert!(said(|h| h.entry_bytes = 32).contains("entry length 32"));
        let good = RegistersHeader { count: 2, ..RegistersHeader::new() };
        assert_eq!(RegistersHeader::parse(good.as_bytes(), 192), Ok(good));
        assert!(RegistersHeader::parse(good.as_bytes(), 10).is_err());
    }
}
