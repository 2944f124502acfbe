//! What a record in a variable-length ring looks like: one header word, then its payload.
//!
//! A reader that does not know a kind skips the record by its length.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The first 8 bytes of each record of a variable-length ring.
///
/// As the little-endian word in which it is stored: kind in bits 15:0, len in bits 31:16, tag in
/// bits 63:32. The payload follows and is padded to a multiple of 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RecordHeader {
    /// What the payload is; see [`crate::command`] and [`crate::event`].
    pub kind: u16,
    /// Payload length in bytes, the padding not counted.
    pub len: u16,
    /// Free for the writer: a sequence number in commands and their answers, else 0.
    pub tag: u32,
}

const _: () = assert!(size_of::<RecordHeader>() == 8);
const _: () = assert!(align_of::<RecordHeader>() == 4);
const _: () = assert!(core::mem::offset_of!(RecordHeader, len) == 2);
const _: () = assert!(core::mem::offset_of!(RecordHeader, tag) == 4);

impl RecordHeader {
    /// The header as the 64-bit word in which it lies in the ring.
    #[inline]
    #[must_use]
    pub const fn to_word(self) -> u64 {
        self.kind as u64 | (self.len as u64) << 16 | (self.tag as u64) << 32
    }

    /// The header from that word; every word is one.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the fields are parts of the word")]
    pub const fn from_word(word: u64) -> Self {
        Self { kind: word as u16, len: (word >> 16) as u16, tag: (word >> 32) as u32 }
    }

    /// 64-bit words that the record takes in the ring, the header included: 1 to 8193.
    #[inline]
    #[must_use]
    pub const fn words(self) -> u32 {
        1 + (self.len as u32).div_ceil(8)
    }
}

/// A payload of a fixed size with a kind of its own.
pub trait Record: FromBytes + IntoBytes + KnownLayout + Immutable + Copy {
    /// The kind that the record's header carries.
    const KIND: u16;

    /// The payload as this record; longer payloads, from newer writers, are read by their start.
    ///
    /// # Errors
    /// [`crate::AbiError::Short`] if there are fewer bytes than this version writes.
    fn parse(payload: &[u8]) -> Result<Self, crate::AbiError> {
        crate::prefix("record", payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_one_little_endian_word() {
        let header = RecordHeader { kind: 0x0102, len: 0x0304, tag: 0x0506_0708 };
        assert_eq!(header.as_bytes(), [2, 1, 4, 3, 8, 7, 6, 5]);
        assert_eq!(header.to_word().to_le_bytes(), header.as_bytes());
        assert_eq!(RecordHeader::from_word(header.to_word()), header);
    }

    #[test]
    fn a_record_takes_its_header_and_whole_words() {
        let words = |len| RecordHeader { kind: 1, len, tag: 0 }.words();
        assert_eq!((words(0), words(1), words(8), words(9)), (1, 2, 2, 3));
        assert_eq!(words(u16::MAX), 8193);
    }
}
