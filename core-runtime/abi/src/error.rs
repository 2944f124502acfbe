//! Why bytes were refused; the variants carry the numbers that were seen and allowed.

use core::fmt;

/// Bytes from outside that are not what they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbiError {
    /// Fewer bytes than the layout has.
    Short {
        /// The layout.
        what: &'static str,
        /// Bytes given.
        found: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// The magic number is another one: these bytes are something else, or nothing yet.
    Magic {
        /// The layout.
        what: &'static str,
        /// The magic seen.
        found: u64,
        /// The magic expected.
        expected: u64,
    },
    /// Written by a newer version than this program knows.
    NewerVersion {
        /// The layout.
        what: &'static str,
        /// The version seen.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The checksum does not match the bytes.
    Checksum {
        /// The layout.
        what: &'static str,
        /// CRC32C that was stored.
        stored: u32,
        /// CRC32C of the bytes.
        computed: u32,
    },
    /// A field is outside what is allowed.
    Field {
        /// The layout.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// The value seen.
        found: u64,
        /// The bound, or the value expected.
        allowed: u64,
    },
    /// A name is empty, or is not printable ASCII padded with zero bytes.
    Name {
        /// The layout.
        what: &'static str,
        /// Position of the first byte that is not allowed.
        at: usize,
    },
}

impl fmt::Display for AbiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Short { what, found, needed } => {
                write!(f, "{what} needs {needed} bytes, {found} are there")
            }
            Self::Magic { what, found, expected } => {
                write!(f, "no {what} here: magic is {found:#018x}, expected {expected:#018x}")
            }
            Self::NewerVersion { what, found, known } => write!(
                f,
                "{what} has version {found}, this program knows up to {known}: use a newer program"
            ),
            Self::Checksum { what, stored, computed } => write!(
                f,
                "{what} is damaged: stored crc32c {stored:#010x}, computed {computed:#010x}"
            ),
            Self::Field { what, field, found, allowed } => {
                write!(f, "{what} has {field} {found}, allowed is {allowed}")
            }
            Self::Name { what, at } => {
                write!(f, "{what} has a name that is not printable ascii at byte {at}")
            }
        }
    }
}

impl core::error::Error for AbiError {}
