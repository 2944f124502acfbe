//! What a partition keeps for its next incarnation: the head of its state memory.
//!
//! ```text
//!   0      StateHead: magic, version, lengths            written once
//!   128    seal words: the seal, the record's kind, length and CRC32C, the identity
//!   256    the record, at most STATE_RECORD_BYTES
//!   4096   the body: whatever the entry keeps in place
//! ```
//! The memory is a file of the host's that no device reaches and that outlives each process. One
//! incarnation at a time maps it. The seal word says whether record and body belong together:
//! [`STATE_OPEN`] while they are being changed, else a number that grows with each seal. A death
//! in the middle leaves it open, and what is there is not used.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{ABI_VERSION, AbiError, LINE_BYTES, check_version, prefix};

/// Magic of a state memory: `HYSTATEM`.
pub const STATE_MEMORY_MAGIC: u64 = u64::from_le_bytes(*b"HYSTATEM");

/// Where the body begins: a page, so that it is aligned for whatever lies in it.
pub const STATE_BODY_AT: usize = 4096;

/// Where the record begins.
pub const STATE_RECORD_AT: usize = 2 * LINE_BYTES;

/// Longest record.
pub const STATE_RECORD_BYTES: usize = STATE_BODY_AT - STATE_RECORD_AT;

/// The seal's word: record and body are being changed, or never were sealed.
pub const STATE_OPEN: u64 = 0;

/// Offset of the seal's 64-bit word.
pub const STATE_SEAL_AT: usize = LINE_BYTES;
/// Offset of the 64-bit word that says what the state is of; 0 for nothing yet.
pub const STATE_IDENTITY_AT: usize = LINE_BYTES + 8;
/// Offset of the record's kind, its length and its CRC32C, 32 bits each.
pub const STATE_RECORD_WORDS_AT: usize = LINE_BYTES + 16;

/// The head's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct StateHead {
    /// [`STATE_MEMORY_MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`] of the writer.
    pub version: u32,
    /// Zero.
    pub reserved: u32,
    /// Bytes of the body.
    pub body_bytes: u64,
}

const _: () = assert!(size_of::<StateHead>() == 24 && offset_of!(StateHead, body_bytes) == 16);
const _: () = assert!(STATE_SEAL_AT == 128 && STATE_RECORD_AT == 256);

impl StateHead {
    /// Of a memory with a body of so many bytes.
    #[must_use]
    pub const fn new(body_bytes: u64) -> Self {
        Self { magic: STATE_MEMORY_MAGIC, version: ABI_VERSION, reserved: 0, body_bytes }
    }

    /// The head in `bytes`, which belongs to a memory with a body of `body_bytes`.
    ///
    /// # Errors
    /// [`AbiError`] with what was seen and what is allowed.
    pub fn parse(bytes: &[u8], body_bytes: u64) -> Result<Self, AbiError> {
        const WHAT: &str = "state memory";
        let head: Self = prefix(WHAT, bytes)?;
        if head.magic != STATE_MEMORY_MAGIC {
            let (found, expected) = (head.magic, STATE_MEMORY_MAGIC);
            return Err(AbiError::Magic { what: WHAT, found, expected });
        }
        check_version(WHAT, head.version)?;
        if head.body_bytes != body_bytes {
            let (field, found, allowed) = ("length of the body", head.body_bytes, body_bytes);
            return Err(AbiError::Field { what: WHAT, field, found, allowed });
        }
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written_and_another_one_is_refused() {
        let head = StateHead::new(0x1234_5000);
        #[rustfmt::skip]
        let golden = [
            b'H', b'Y', b'S', b'T', b'A', b'T', b'E', b'M', 1, 0, 0, 0, 0, 0, 0, 0,
            0, 0x50, 0x34, 0x12, 0, 0, 0, 0,
        ];
        assert_eq!(head.as_bytes(), golden);
        assert_eq!(StateHead::parse(&golden, 0x1234_5000), Ok(head));
        assert!(StateHead::parse(&golden, 0x1234_6000).is_err());
        assert!(StateHead::parse(&[0; 24], 0).is_err());
        assert!(StateHead::parse(&golden[..23], 0x1234_5000).is_err());
        let mut newer = golden;
        newer[8] = 9;
        assert!(matches!(
            StateHead::parse(&newer, 0x1234_5000),
            Err(AbiError::NewerVersion { .. })
        ));
    }
}
