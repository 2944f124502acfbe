//! A single-producer single-consumer ring: what lies in the producer's region and what in the
//! consumer's.
//!
//! ```text
//! producer's part                         consumer's part
//!    0  RingHeader (written once)            0  RingHeader (written once)
//!  128  RingEnd, its index is the tail     128  RingEnd, its index is the head
//!  256  RingCounters                       256  RingCounters
//!  384  slots: capacity x slot_bytes       384  end
//! ```
//! Indices are free-running: they count slots for ever and wrap at 2^32; the slot of an index is
//! `index % capacity`, and the capacity is a power of two. Of a fixed ring a slot is one record; of
//! a variable-length ring it is one 64-bit word, and a record is a
//! [`RecordHeader`](crate::RecordHeader) word and its payload, padded to whole words. A record may
//! go over the end of the slots and continue at their start: nothing is ever a contiguous slice,
//! so there are no wrap markers to be believed.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{ABI_VERSION, AbiError, LINE_BYTES, check_version, prefix};

/// Magic of a producer's part: `HYRINGPR`.
pub const PRODUCER_MAGIC: u64 = u64::from_le_bytes(*b"HYRINGPR");
/// Magic of a consumer's part: `HYRINGCO`.
pub const CONSUMER_MAGIC: u64 = u64::from_le_bytes(*b"HYRINGCO");

/// Offset of the owner's [`RingEnd`] in its part.
pub const END_OFFSET: usize = LINE_BYTES;
/// Offset of the owner's [`RingCounters`] in its part.
pub const COUNTERS_OFFSET: usize = 2 * LINE_BYTES;
/// Offset of the slots in the producer's part, and the length of the consumer's part.
pub const SLOTS_OFFSET: usize = 3 * LINE_BYTES;

/// Most slots that a ring can have: indices differ by at most half of their range.
pub const CAPACITY_MAX: u32 = 1 << 31;
/// Largest record of a fixed ring, in bytes: a page. Larger things go by reference, not by ring.
pub const RECORD_BYTES_MAX: u32 = 4096;

/// Every slot is one record of `slot_bytes` bytes.
pub const RING_FIXED: u32 = 1;
/// Every slot is one 64-bit word; records have a header.
pub const RING_VARIABLE: u32 = 2;

/// The owner's state: in use.
pub const STATE_OPEN: u32 = 0;
/// The owner's state: it will not use its end again.
pub const STATE_CLOSED: u32 = 1;
/// The owner's state: the peer broke the rules, and the owner closed its end.
pub const STATE_VIOLATION: u32 = 2;

/// The first bytes of either part: the shape, on which both sides must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RingHeader {
    /// [`PRODUCER_MAGIC`] or [`CONSUMER_MAGIC`]; stored last.
    pub magic: u64,
    /// [`ABI_VERSION`] of the writer.
    pub version: u32,
    /// [`RING_FIXED`] or [`RING_VARIABLE`].
    pub kind: u32,
    /// Slots, a power of two, at most [`CAPACITY_MAX`].
    pub capacity: u32,
    /// Bytes a slot, a multiple of 8, at most [`RECORD_BYTES_MAX`]; 8 in a variable-length ring.
    pub slot_bytes: u32,
    /// Incarnation for which the ring was made; both sides must name the same.
    pub epoch: u64,
    /// Index at which both sides began; 0 but in tests of the wrap.
    pub first_index: u32,
    /// Zero.
    pub reserved: [u8; 92],
}

const _: () = assert!(size_of::<RingHeader>() == LINE_BYTES && align_of::<RingHeader>() == 8);
const _: () = assert!(offset_of!(RingHeader, capacity) == 16);
const _: () = assert!(offset_of!(RingHeader, epoch) == 24);
const _: () = assert!(offset_of!(RingHeader, reserved) == 36);

/// The owner's end, alone on its line: what the peer must see to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RingEnd {
    /// The free-running index: the producer's tail or the consumer's head.
    pub index: u32,
    /// One of the `STATE_` constants.
    pub state: u32,
    /// Index of the peer that broke the rules, where the state is [`STATE_VIOLATION`].
    pub violation: u32,
    /// Zero.
    pub reserved: [u8; 116],
}

const _: () = assert!(size_of::<RingEnd>() == LINE_BYTES && align_of::<RingEnd>() == 4);
const _: () = assert!(offset_of!(RingEnd, state) == 4);
const _: () = assert!(offset_of!(RingEnd, violation) == 8);

/// What the owner of a part tells of its end. One writer; read by the host at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RingCounters {
    /// Producer: the free-running index in 64 bits, when the peer was last looked at; the 32-bit
    /// index completes it. Consumer: 0, since the producer's tail and its own head tell it.
    pub slots: u64,
    /// Producer: records refused because the ring was full. Consumer: records longer than the
    /// buffer that was given, which were skipped.
    pub dropped: u64,
    /// Most slots that were seen in use.
    pub high_water: u32,
    /// Zero.
    pub reserved0: u32,
    /// Variable-length ring: records published, or consumed. Fixed ring: 0.
    pub records: u64,
    /// Zero.
    pub reserved1: [u8; 96],
}

const _: () = assert!(size_of::<RingCounters>() == LINE_BYTES && align_of::<RingCounters>() == 8);
const _: () = assert!(offset_of!(RingCounters, dropped) == 8);
const _: () = assert!(offset_of!(RingCounters, high_water) == 16);
const _: () = assert!(offset_of!(RingCounters, records) == 24);

impl RingHeader {
    /// A header of this version.
    #[must_use]
    pub const fn new(magic: u64, kind: u32, capacity: u32, slot_bytes: u32, epoch: u64) -> Self {
        Self {
            magic,
            version: ABI_VERSION,
            kind,
            capacity,
            slot_bytes,
            epoch,
            first_index: 0,
            reserved: [0; 92],
        }
    }

    /// Bytes of the producer's part.
    #[must_use]
    pub const fn producer_bytes(&self) -> u64 {
        SLOTS_OFFSET as u64 + self.capacity as u64 * self.slot_bytes as u64
    }

    /// The header at the start of `bytes`, as the part with `magic` should have it.
    ///
    /// # Errors
    /// [`AbiError`] naming the field that is not allowed.
    pub fn parse(bytes: &[u8], magic: u64) -> Result<Self, AbiError> {
        let header: Self = prefix("ring", bytes)?;
        header.check(magic)?;
        Ok(header)
    }

    /// Whether the fields are within their bounds.
    ///
    /// # Errors
    /// [`AbiError`] naming the field that is not allowed.
    pub const fn check(&self, magic: u64) -> Result<(), AbiError> {
        const WHAT: &str = "ring";
        if self.magic != magic {
            return Err(AbiError::Magic { what: WHAT, found: self.magic, expected: magic });
        }
        if let Err(error) = check_version(WHAT, self.version) {
            return Err(error);
        }
        if self.kind != RING_FIXED && self.kind != RING_VARIABLE {
            return field_error("kind", self.kind, RING_VARIABLE);
        }
        if !self.capacity.is_power_of_two() || self.capacity > CAPACITY_MAX {
            return field_error("capacity", self.capacity, CAPACITY_MAX);
        }
        let odd = !self.slot_bytes.is_multiple_of(8) || self.slot_bytes == 0;
        if odd || self.slot_bytes > RECORD_BYTES_MAX {
            return field_error("slot bytes", self.slot_bytes, RECORD_BYTES_MAX);
        }
        if self.kind == RING_VARIABLE && self.slot_bytes != 8 {
            return field_error("slot bytes", self.slot_bytes, 8);
        }
        Ok(())
    }
}

const fn field_error(field: &'static str, found: u32, allowed: u32) -> Result<(), AbiError> {
    Err(AbiError::Field { what: "ring", field, found: found as u64, allowed: allowed as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_its_golden_bytes() {
        let header = RingHeader::new(PRODUCER_MAGIC, RING_FIXED, 0x1000, 64, 0x0102_0304_0506_0708);
        #[rustfmt::skip]
        let start: [u8; 36] = [
            b'H', b'Y', b'R', b'I', b'N', b'G', b'P', b'R',
            1, 0, 0, 0, 1, 0, 0, 0,
            0, 0x10, 0, 0, 64, 0, 0, 0,
            8, 7, 6, 5, 4, 3, 2, 1,
            0, 0, 0, 0,
        ];
        assert_eq!(header.as_bytes()[..36], start);
        assert!(header.as_bytes()[36..].iter().all(|&b| b == 0));
        assert_eq!(RingHeader::parse(header.as_bytes(), PRODUCER_MAGIC), Ok(header));
        assert_eq!(header.producer_bytes(), 384 + 4096 * 64);
    }

    #[test]
    fn shapes_out_of_bounds_are_refused_with_their_numbers() {
        let good = RingHeader::new(CONSUMER_MAGIC, RING_VARIABLE, 8, 8, 1);
        let said = |change: fn(&mut RingHeader)| {
            let mut header = good;
            change(&mut header);
            header.check(CONSUMER_MAGIC).unwrap_err().to_string()
        };
        assert_eq!(said(|h| h.capacity = 0), "ring has capacity 0, allowed is 2147483648");
        assert_eq!(said(|h| h.capacity = 12), "ring has capacity 12, allowed is 2147483648");
        assert_eq!(said(|h| h.slot_bytes = 16), "ring has slot bytes 16, allowed is 8");
        assert_eq!(said(|h| h.kind = 3), "ring has kind 3, allowed is 2");
        assert_eq!(
            said(|h| h.version = 2),
            "ring has version 2, this program knows up to 1: use a newer program"
        );
        assert!(said(|h| h.magic = PRODUCER_MAGIC).starts_with("no ring here: magic is 0x"));
        let mut fixed = RingHeader::new(CONSUMER_MAGIC, RING_FIXED, 8, 12, 1);
        assert!(fixed.check(CONSUMER_MAGIC).is_err());
        fixed.slot_bytes = 8192;
        assert!(fixed.check(CONSUMER_MAGIC).is_err());
    }
}
