//! The bridge: a partition's block I/O through the host, over two rings.
//!
//! Used by `nvme-driver`'s bridge client on the partition's side and by the host's io_uring reactor
//! on the other. Each side has a memory file of its own, which the other maps read-only:
//! ```text
//! host's file                              partition's file
//!    0  BridgeInfo (written once)            0  requests, the producer's part
//!  128  completions, the producer's part     …  completions, the consumer's part
//!    …  requests, the consumer's part
//! ```
//! Both rings are fixed rings ([`crate::ring`]) with [`BridgeInfo::ring_slots`] slots. Data never
//! go through them: a request names DMA memory by the address at which a device would see it.
//!
//! Neither side believes the other: a request is checked field by field and refused with a
//! `REFUSED_` code of its own, a completion for what is not in flight is counted and dropped.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ring::SLOTS_OFFSET;
use crate::{ABI_VERSION, AbiError, check_version, prefix};

/// Magic of the host's file: `HYBRIDGE`.
pub const BRIDGE_MAGIC: u64 = u64::from_le_bytes(*b"HYBRIDGE");

/// Most requests in flight.
pub const BRIDGE_DEPTH_MAX: u32 = 4096;

/// Reads into DMA memory.
pub const BRIDGE_READ: u16 = 1;
/// Writes from DMA memory.
pub const BRIDGE_WRITE: u16 = 2;
/// Makes durable what was written and completed before.
pub const BRIDGE_FLUSH: u16 = 3;
/// Turns blocks into zeros.
pub const BRIDGE_ZEROES: u16 = 4;
/// Gives blocks back.
pub const BRIDGE_DISCARD: u16 = 5;
/// Asks to end the request whose [`BridgeRequest::cid`] is in `slba`; has no completion of its own.
pub const BRIDGE_CANCEL: u16 = 6;

/// Flag of a write: durable when it completes.
pub const BRIDGE_FUA: u16 = 1;

/// The device can turn blocks into zeros without a transfer.
pub const BRIDGE_CAN_ZERO: u32 = 1;
/// The device can take blocks back.
pub const BRIDGE_CAN_DISCARD: u32 = 2;
/// The device may be written.
pub const BRIDGE_CAN_WRITE: u32 = 4;
/// What is written is durable only after a flush.
pub const BRIDGE_WRITE_CACHE: u32 = 8;

/// What the device behind the bridge is like; at the start of the host's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BridgeInfo {
    /// [`BRIDGE_MAGIC`]; stored last.
    pub magic: u64,
    /// [`ABI_VERSION`] of the host.
    pub version: u32,
    /// Bytes of a block: a power of two, 512 to 65,536.
    pub lba_bytes: u32,
    /// Blocks of the device.
    pub blocks: u64,
    /// Epoch of the rings.
    pub epoch: u64,
    /// Largest transfer that the device takes at once; longer requests are cut by the host.
    pub max_transfer_bytes: u32,
    /// Alignment of a buffer's address, a power of two.
    pub buffer_align: u32,
    /// Most requests in flight, at most [`BRIDGE_DEPTH_MAX`].
    pub depth: u32,
    /// Slots of either ring: a power of two, at least twice `depth`.
    pub ring_slots: u32,
    /// `BRIDGE_CAN_` bits and [`BRIDGE_WRITE_CACHE`].
    pub capabilities: u32,
    /// Zero.
    pub reserved: [u8; 76],
}

const _: () = assert!(size_of::<BridgeInfo>() == BRIDGE_INFO_BYTES);
const _: () = assert!(offset_of!(BridgeInfo, epoch) == 24 && offset_of!(BridgeInfo, depth) == 40);

/// Bytes of [`BridgeInfo`].
pub const BRIDGE_INFO_BYTES: usize = 128;

impl BridgeInfo {
    /// A device of `blocks` blocks, for rings that carry `depth` requests.
    #[must_use]
    pub const fn new(lba_bytes: u32, blocks: u64, depth: u32, epoch: u64) -> Self {
        let most = if depth > BRIDGE_DEPTH_MAX { BRIDGE_DEPTH_MAX } else { depth };
        let depth = if most == 0 { 1 } else { most };
        Self {
            magic: BRIDGE_MAGIC,
            version: ABI_VERSION,
            lba_bytes,
            blocks,
            epoch,
            max_transfer_bytes: lba_bytes,
            buffer_align: 4,
            depth,
            ring_slots: (2 * depth).next_power_of_two(),
            capabilities: BRIDGE_CAN_WRITE,
            reserved: [0; 76],
        }
    }

    /// Reads and checks it.
    ///
    /// # Errors
    /// [`AbiError`] naming the field that is not allowed.
    pub fn parse(bytes: &[u8]) -> Result<Self, AbiError> {
        const WHAT: &str = "bridge";
        let info: Self = prefix(WHAT, bytes)?;
        if info.magic != BRIDGE_MAGIC {
            let (found, expected) = (info.magic, BRIDGE_MAGIC);
            return Err(AbiError::Magic { what: WHAT, found, expected });
        }
        check_version(WHAT, info.version)?;
        let bad = |field, found: u64, allowed: u64| {
            Err(AbiError::Field { what: WHAT, field, found, allowed })
        };
        if !info.lba_bytes.is_power_of_two() || !(512..=65_536).contains(&info.lba_bytes) {
            return bad("lba bytes", info.lba_bytes.into(), 65_536);
        }
        if info.blocks == 0 || info.blocks > u64::MAX / u64::from(info.lba_bytes) {
            return bad("blocks", info.blocks, u64::MAX / u64::from(info.lba_bytes));
        }
        if info.max_transfer_bytes < info.lba_bytes {
            return bad("transfer", info.max_transfer_bytes.into(), info.lba_bytes.into());
        }
        if !info.buffer_align.is_power_of_two() || info.buffer_align > 65_536 {
            return bad("buffer alignment", info.buffer_align.into(), 65_536);
        }
        if info.depth == 0 || info.depth > BRIDGE_DEPTH_MAX {
            return bad("depth", info.depth.into(), BRIDGE_DEPTH_MAX.into());
        }
        let slots = (2 * info.depth).next_power_of_two();
        if info.ring_slots != slots {
            return bad("ring slots", info.ring_slots.into(), slots.into());
        }
        Ok(info)
    }

    /// Bytes of a producer's part whose slots have `slot_bytes`.
    const fn producer_bytes(&self, slot_bytes: usize) -> usize {
        SLOTS_OFFSET + self.ring_slots as usize * slot_bytes
    }

    /// Where the completions' producer part lies in the host's file, and its length.
    #[must_use]
    pub const fn completions_producer(&self) -> (usize, usize) {
        (BRIDGE_INFO_BYTES, self.producer_bytes(size_of::<BridgeCompletion>()))
    }

    /// Where the requests' consumer part lies in the host's file, and its length.
    #[must_use]
    pub const fn requests_consumer(&self) -> (usize, usize) {
        let (at, len) = self.completions_producer();
        (aligned(at + len), SLOTS_OFFSET)
    }

    /// Bytes of the host's file.
    #[must_use]
    pub const fn host_bytes(&self) -> usize {
        let (at, len) = self.requests_consumer();
        at + len
    }

    /// Where the requests' producer part lies in the partition's file, and its length.
    #[must_use]
    pub const fn requests_producer(&self) -> (usize, usize) {
        (0, self.producer_bytes(size_of::<BridgeRequest>()))
    }

    /// Where the completions' consumer part lies in the partition's file, and its length.
    #[must_use]
    pub const fn completions_consumer(&self) -> (usize, usize) {
        let (at, len) = self.requests_producer();
        (aligned(at + len), SLOTS_OFFSET)
    }

    /// Bytes of the partition's file.
    #[must_use]
    pub const fn partition_bytes(&self) -> usize {
        let (at, len) = self.completions_consumer();
        at + len
    }
}

const fn aligned(at: usize) -> usize {
    at.next_multiple_of(crate::LINE_BYTES)
}

/// What a partition asks for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct BridgeRequest {
    /// One of the operations.
    pub op: u16,
    /// [`BRIDGE_FUA`].
    pub flags: u16,
    /// The partition's name for it: a slot below [`BridgeInfo::depth`] in bits 15:0, a generation
    /// above.
    pub cid: u32,
    /// First block.
    pub slba: u64,
    /// Address of the data, as a device sees it; 0 where there is none.
    pub addr: u64,
    /// Number of blocks.
    pub nlb: u64,
}

const _: () = assert!(size_of::<BridgeRequest>() == 32 && offset_of!(BridgeRequest, nlb) == 24);

/// What became of it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct BridgeCompletion {
    /// The request's.
    pub cid: u32,
    /// One of the `BRIDGE_DONE` … constants.
    pub kind: u16,
    /// Zero.
    pub reserved: u16,
    /// What belongs to the kind: an error number, an NVMe status, a `REFUSED_` code.
    pub detail: u64,
}

const _: () = assert!(size_of::<BridgeCompletion>() == 16);

/// It was done.
pub const BRIDGE_DONE: u16 = 0;
/// The kernel said an error; `detail` is its number.
pub const BRIDGE_ERRNO: u16 = 1;
/// The controller said a status; `detail` is its 15 bits: SC, SCT, CRD, M, DNR.
pub const BRIDGE_NVME: u16 = 2;
/// The request was refused; `detail` is a `REFUSED_` code. Nothing was done.
pub const BRIDGE_REFUSED: u16 = 3;
/// The file ended before the request did: it shrank.
pub const BRIDGE_SHORT: u16 = 4;
/// It was cancelled, as asked.
pub const BRIDGE_CANCELLED: u16 = 5;
/// A flush failed before: what was written since the last good one is unknown, and stays so.
pub const BRIDGE_UNFLUSHED: u16 = 6;

/// No such operation.
pub const REFUSED_OP: u64 = 1;
/// A flag that the operation does not have.
pub const REFUSED_FLAGS: u64 = 2;
/// Blocks that the device does not have, or none.
pub const REFUSED_RANGE: u64 = 3;
/// Memory that is not all DMA memory.
pub const REFUSED_BUFFER: u64 = 4;
/// An address that is not aligned as the device wants it.
pub const REFUSED_ALIGNMENT: u64 = 5;
/// A slot beyond the depth.
pub const REFUSED_CID: u64 = 6;
/// A slot that is in use.
pub const REFUSED_BUSY: u64 = 7;
/// What the device cannot do.
pub const REFUSED_UNSUPPORTED: u64 = 8;
/// A write to what may only be read.
pub const REFUSED_READ_ONLY: u64 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_golden_bytes() {
        let request = BridgeRequest {
            op: BRIDGE_WRITE,
            flags: BRIDGE_FUA,
            cid: 0x0007_0003,
            slba: 0x0102_0304_0506_0708,
            addr: 0x40_0000_1000,
            nlb: 16,
        };
        #[rustfmt::skip]
        let golden = [
            2, 0, 1, 0, 3, 0, 7, 0, 8, 7, 6, 5, 4, 3, 2, 1,
            0, 0x10, 0, 0, 0x40, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(request.as_bytes(), golden);
    }

    #[test]
    fn a_completion_has_its_golden_bytes() {
        let completion =
            BridgeCompletion { cid: 0x0007_0003, kind: BRIDGE_ERRNO, reserved: 0, detail: 28 };
        let golden = [3, 0, 7, 0, 1, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(completion.as_bytes(), golden);
    }

    #[test]
    fn the_parts_follow_each_other_on_lines_of_their_own() {
        for depth in [1, 2, 3, 255, 256, 1023, BRIDGE_DEPTH_MAX] {
            let info = BridgeInfo::new(4096, 100, depth, 7);
            assert_eq!(BridgeInfo::parse(info.as_bytes()), Ok(info));
            assert!(info.ring_slots >= 2 * depth);
            for ((first, len), (second, _)) in [
                (info.completions_producer(), info.requests_consumer()),
                (info.requests_producer(), info.completions_consumer()),
            ] {
                assert!(first + len <= second && second % crate::LINE_BYTES == 0);
            }
        }
    }

    #[test]
    fn a_host_that_lies_is_refused_by_the_field() {
        let said = |change: fn(&mut BridgeInfo)| {
            let mut info = BridgeInfo::new(4096, 100, 32, 1);
            change(&mut info);
            let refused = BridgeInfo::parse(info.as_bytes()).unwrap_err();
            std::string::ToString::to_string(&refused)
        };
        assert!(said(|info| info.magic = 1).starts_with("no bridge here"));
        assert!(said(|info| info.version = 9).contains("version 9"));
        for lba_bytes in [0, 256, 513, 1 << 17] {
            let mut info = BridgeInfo::new(4096, 100, 32, 1);
            info.lba_bytes = lba_bytes;
            assert!(BridgeInfo::parse(info.as_bytes()).is_err(), "{lba_bytes}");
        }
        assert!(said(|info| info.blocks = 0).contains("blocks 0"));
        assert!(said(|info| info.blocks = u64::MAX).contains("blocks"));
        assert!(said(|info| info.depth = 5000).contains("depth 5000"));
        assert!(said(|info| info.ring_slots = 3).contains("ring slots 3, allowed is 64"));
        assert!(said(|info| info.buffer_align = 3).contains("alignment 3"));
        assert!(said(|info| info.max_transfer_bytes = 1).contains("transfer 1"));
        assert!(BridgeInfo::parse(&[0; 100]).is_err());
    }
}
