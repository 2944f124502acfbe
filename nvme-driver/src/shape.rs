//! What identify data say about a namespace, believed only after every number was checked.
//!
//! Pure: bytes in, a [`Shape`] or a named [`Refusal`] out. Whatever a controller says here can at
//! worst get its namespace refused.

use core::fmt;

use nvme_spec::{IdentifyNamespace, Status};

use crate::split;

/// A namespace's geometry, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Block size in bytes: a power of two, 512 to 64 KiB.
    pub lba_bytes: u32,
    /// Its exponent.
    pub lba_shift: u32,
    /// Size in blocks; not 0.
    pub blocks: u64,
    /// Most blocks of one command that transfers data.
    pub max_blocks: u32,
}

/// Largest block size that we take; the largest that drives have.
const MAX_LBA_SHIFT: u8 = 16;

/// Why a namespace is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// NSZE is 0.
    Empty,
    /// FLBAS names a format that is not listed.
    NoSuchFormat(u8),
    /// LBADS is not 9 to 16.
    BlockSize(u8),
    /// NSZE blocks are more bytes than 64 bits can count.
    TooLarge(u64),
    /// Its format carries metadata at the end of each block.
    MetadataInBlock(u16),
    /// Its format carries metadata in a buffer of their own.
    MetadataApart(u16),
    /// It is formatted with protection information of this type.
    Protection(u8),
    /// MDTS does not even allow one block.
    TransferTooSmall,
    /// Its identifier is 0, doubled, or out of order.
    BadNsid(u32),
    /// Its command set is this one, and not NVM: zones, keys and values.
    CommandSet(u8),
    /// Identify Namespace failed with this status.
    Unidentified(Status),
    /// It was there before and has another shape now.
    Changed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("size of 0 blocks"),
            Self::NoSuchFormat(flbas) => write!(f, "FLBAS {flbas:#04x} names no listed format"),
            Self::BlockSize(lbads) => {
                write!(f, "block size of 2^{lbads} bytes, allowed is 2^9 to 2^16")
            }
            Self::TooLarge(blocks) => {
                write!(f, "{blocks} blocks are more than 64 bits can address")
            }
            Self::MetadataInBlock(ms) => write!(f, "{ms} bytes of metadata in each block"),
            Self::MetadataApart(ms) => {
                write!(f, "{ms} bytes of metadata a block in a separate buffer")
            }
            Self::Protection(kind) => write!(f, "protection information of type {kind}"),
            Self::TransferTooSmall => f.write_str("MDTS allows less than one block"),
            Self::BadNsid(nsid) => {
                write!(f, "namespace identifier {nsid} is 0, doubled or out of order")
            }
            Self::CommandSet(1) => f.write_str("key value command set"),
            Self::CommandSet(2) => f.write_str("zoned namespace command set"),
            Self::CommandSet(csi) => write!(f, "command set {csi:#04x}, only NVM is supported"),
            Self::Unidentified(status) => write!(f, "identify namespace failed: {status}"),
            Self::Changed => f.write_str("its shape changed since it was first seen"),
        }
    }
}

/// Limits of the controller that bound a transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TransferLimits {
    pub mdts: u8,
    /// CAP.MPSMIN in bytes, the unit of MDTS.
    pub unit_bytes: u64,
    /// What our PRP lists hold.
    pub own_bytes: u32,
}

/// Checks identify data of a namespace.
pub(crate) fn check(id: &IdentifyNamespace, limits: TransferLimits) -> Result<Shape, Refusal> {
    let blocks = id.nsze.get();
    if blocks == 0 {
        return Err(Refusal::Empty);
    }
    let format = id.current_format().ok_or(Refusal::NoSuchFormat(id.flbas))?;
    let lbads = format.lbads();
    if !(9..=MAX_LBA_SHIFT).contains(&lbads) {
        return Err(Refusal::BlockSize(lbads));
    }
    let lba_shift = u32::from(lbads);
    if blocks > u64::MAX >> lba_shift {
        return Err(Refusal::TooLarge(blocks));
    }
    if id.dps & 7 != 0 {
        return Err(Refusal::Protection(id.dps & 7));
    }
    match format.ms() {
        0 => {}
        ms if id.formatted().extended() => return Err(Refusal::MetadataInBlock(ms)),
        ms => return Err(Refusal::MetadataApart(ms)),
    }
    let lba_bytes = 1 << lba_shift;
    let max = split::max_transfer(limits.mdts, limits.unit_bytes, limits.own_bytes, lba_bytes, 0);
    Ok(Shape {
        lba_bytes,
        lba_shift,
        blocks,
        max_blocks: max.ok_or(Refusal::TransferTooSmall)? >> lba_shift,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvme_spec::LbaFormat;
    use zerocopy::FromZeros;

    const LIMITS: TransferLimits =
        TransferLimits { mdts: 5, unit_bytes: 4096, own_bytes: 512 << 10 };

    fn namespace(lbads: u8, ms: u16) -> IdentifyNamespace {
        let mut id = IdentifyNamespace::new_zeroed();
        id.nsze.set(1000);
        id.lbaf[0].set(LbaFormat::new().with_lbads(lbads).with_ms(ms).into());
        id
    }

    #[test]
    fn every_legal_block_size_is_taken() {
        for lbads in 9..=16 {
            let shape = check(&namespace(lbads, 0), LIMITS).expect("legal");
            assert_eq!(shape.lba_bytes, 1 << lbads);
            assert_eq!(shape.max_blocks, (128 << 10) >> lbads);
        }
    }

    #[test]
    fn each_lie_is_refused_by_its_name() {
        let refused = |id: &IdentifyNamespace| check(id, LIMITS).expect_err("a lie");
        for lbads in [0, 8, 17, 31, 32, 63, 64, 255] {
            assert_eq!(refused(&namespace(lbads, 0)), Refusal::BlockSize(lbads));
        }
        let mut id = namespace(12, 0);
        id.nsze.set(0);
        assert_eq!(refused(&id), Refusal::Empty);
        id.nsze.set(u64::MAX);
        assert_eq!(refused(&id), Refusal::TooLarge(u64::MAX));
        let mut id = namespace(12, 0);
        id.flbas = 0x0f;
        assert_eq!(refused(&id), Refusal::NoSuchFormat(0x0f));
        id.nlbaf_z = 255;
        id.flbas = 0x6f;
        assert_eq!(refused(&id), Refusal::BlockSize(0), "format 63 is not filled in");
        let mut id = namespace(12, 8);
        assert_eq!(refused(&id), Refusal::MetadataApart(8));
        id.flbas = 0x10;
        assert_eq!(refused(&id), Refusal::MetadataInBlock(8));
        id.dps = 1;
        assert_eq!(refused(&id), Refusal::Protection(1));
    }

    #[test]
    fn an_mdts_below_one_block_is_refused() {
        let limits = TransferLimits { mdts: 1, ..LIMITS };
        assert_eq!(check(&namespace(16, 0), limits), Err(Refusal::TransferTooSmall));
    }
}
