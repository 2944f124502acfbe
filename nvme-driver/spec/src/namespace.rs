//! Identify namespace, its LBA formats, identification descriptors and the namespace list
//! (NVM CS 1.0, section 4.1.5.1; NVMe Base 2.0, sections 5.17.2.2 and 5.17.2.3).

use crate::ids::Nsid;
use bitfield_struct::bitfield;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

bitflags::bitflags! {
    /// NSFEAT: features of a namespace.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct NamespaceFeatures: u8 {
        /// Thin provisioning.
        const THIN = 1;
        /// NAWUN, NAWUPF and NACWU are this namespace's own.
        const ATOMICITY = 1 << 1;
        /// Deallocated or unwritten block errors.
        const DEALLOCATED_ERROR = 1 << 2;
        /// NPWG, NPWA, NPDG, NPDA and NOWS are defined.
        const OPTIMAL_IO = 1 << 4;
    }
}

/// An LBA format.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct LbaFormat {
    /// Metadata bytes a block.
    pub ms: u16,
    /// Block size, as a power of two; below 9 the format is not available.
    pub lbads: u8,
    /// Relative performance, 0 the best.
    #[bits(2)]
    pub rp: u8,
    #[bits(6)]
    __: u8,
}

impl LbaFormat {
    /// Block size in bytes, or `None` where LBADS is below 9 or above 31.
    #[must_use]
    pub const fn lba_bytes(self) -> Option<u32> {
        if self.lbads() < 9 || self.lbads() > 31 {
            return None;
        }
        Some(1 << self.lbads())
    }
}

/// FLBAS: which format, and where metadata lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormattedLbaSize(pub u8);

impl FormattedLbaSize {
    /// Index of the format, 0 to 63.
    #[must_use]
    pub const fn index(self) -> usize {
        (self.0 & 0xf | (self.0 >> 5 & 3) << 4) as usize
    }

    /// Metadata is transferred at the end of each block, not by MPTR.
    #[must_use]
    pub const fn extended(self) -> bool {
        self.0 & (1 << 4) != 0
    }
}

/// Identify namespace: 4,096 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// Size, in blocks.
    pub nsze: U64,
    /// Capacity, in blocks.
    pub ncap: U64,
    /// Blocks in use.
    pub nuse: U64,
    /// [`NamespaceFeatures`].
    pub nsfeat: u8,
    /// LBA formats, counted from zero.
    pub nlbaf_z: u8,
    /// Format in use: see [`IdentifyNamespace::formatted`].
    pub flbas: u8,
    /// Metadata capabilities: bit 0 extended, bit 1 separate.
    pub mc: u8,
    /// Protection capabilities.
    pub dpc: u8,
    /// Protection settings: type in bits 2:0.
    pub dps: u8,
    /// Multi-path and sharing.
    pub nmic: u8,
    /// Reservation capabilities.
    pub rescap: u8,
    /// Format progress.
    pub fpi: u8,
    /// Deallocated blocks: what reads return (2:0), write zeroes may deallocate (3).
    pub dlfeat: u8,
    /// Atomic write unit, in blocks counted from zero.
    pub nawun_z: U16,
    /// Atomic write unit on power failure, in blocks counted from zero.
    pub nawupf_z: U16,
    /// Atomic compare and write unit, in blocks counted from zero.
    pub nacwu_z: U16,
    /// Atomic boundary size, in blocks counted from zero; 0 for no boundary.
    pub nabsn_z: U16,
    /// Atomic boundary offset, in blocks.
    pub nabo: U16,
    /// Atomic boundary size on power failure, in blocks counted from zero; 0 for no boundary.
    pub nabspf_z: U16,
    /// Optimal I/O boundary, in blocks; 0 for none.
    pub noiob: U16,
    /// Capacity, in bytes.
    pub nvmcap: U128,
    /// Preferred write granularity, in blocks counted from zero.
    pub npwg_z: U16,
    /// Preferred write alignment, in blocks counted from zero.
    pub npwa_z: U16,
    /// Preferred deallocate granularity, in blocks counted from zero.
    pub npdg_z: U16,
    /// Preferred deallocate alignment, in blocks counted from zero.
    pub npda_z: U16,
    /// Optimal write size, in blocks counted from zero.
    pub nows_z: U16,
    /// Copy limits: MSSRL, MCL, MSRC.
    pub copy_limits: [u8; 7],
    /// Reserved.
    pub reserved_81: [u8; 11],
    /// ANA group.
    pub anagrpid: U32,
    /// Reserved.
    pub reserved_96: [u8; 3],
    /// Attributes: bit 0 write protected.
    pub nsattr: u8,
    /// NVM set.
    pub nvmsetid: U16,
    /// Endurance group.
    pub endgid: U16,
    /// Globally unique identifier; zero if not used.
    pub nguid: [u8; 16],
    /// IEEE extended unique identifier; zero if not used.
    pub eui64: [u8; 8],
    /// LBA formats.
    pub lbaf: [U32; 64],
    /// Vendor specific.
    pub vendor: [u8; 3712],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<IdentifyNamespace>() == crate::IDENTIFY_BYTES);
    assert!(offset_of!(IdentifyNamespace, flbas) == 26);
    assert!(offset_of!(IdentifyNamespace, dlfeat) == 33);
    assert!(offset_of!(IdentifyNamespace, nabspf_z) == 44);
    assert!(offset_of!(IdentifyNamespace, nvmcap) == 48);
    assert!(offset_of!(IdentifyNamespace, copy_limits) == 74);
    assert!(offset_of!(IdentifyNamespace, anagrpid) == 92);
    assert!(offset_of!(IdentifyNamespace, nguid) == 104);
    assert!(offset_of!(IdentifyNamespace, lbaf) == 128);
    assert!(offset_of!(IdentifyNamespace, vendor) == 384);
};

impl IdentifyNamespace {
    /// LBA formats that are listed, 1 to 256; at most 64 have a place.
    #[must_use]
    pub const fn formats(&self) -> usize {
        self.nlbaf_z as usize + 1
    }

    /// Format in use.
    #[must_use]
    pub const fn formatted(&self) -> FormattedLbaSize {
        FormattedLbaSize(self.flbas)
    }

    /// A format, or `None` if it is not listed.
    #[must_use]
    pub fn format(&self, index: usize) -> Option<LbaFormat> {
        if index >= self.formats() {
            return None;
        }
        self.lbaf.get(index).map(|raw| LbaFormat::from(raw.get()))
    }

    /// The format in use, or `None` if FLBAS names one that is not listed.
    #[must_use]
    pub fn current_format(&self) -> Option<LbaFormat> {
        self.format(self.formatted().index())
    }
}

/// Namespace identifiers in ascending order, ended by 0: 4,096 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NsidList {
    /// The identifiers.
    pub nsids: [U32; 1024],
}

const _: () = assert!(size_of::<NsidList>() == crate::IDENTIFY_BYTES);

impl NsidList {
    /// Identifiers up to the first 0.
    pub fn iter(&self) -> impl Iterator<Item = Nsid> + '_ {
        self.nsids.iter().map(|nsid| Nsid(nsid.get())).take_while(|nsid| nsid.0 != 0)
    }
}

/// A namespace identification descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceDescriptor<'a> {
    /// IEEE extended unique identifier.
    Eui64([u8; 8]),
    /// Globally unique identifier.
    Nguid([u8; 16]),
    /// UUID.
    Uuid([u8; 16]),
    /// Command set; 0 is NVM.
    CommandSet(u8),
    /// Something else, or a known type with another length.
    Other {
        /// Type.
        nidt: u8,
        /// Its bytes.
        nid: &'a [u8],
    },
}

impl NamespaceDescriptor<'_> {
    /// Type code of an EUI64.
    pub const NIDT_EUI64: u8 = 1;
    /// Type code of an NGUID.
    pub const NIDT_NGUID: u8 = 2;
    /// Type code of a UUID.
    pub const NIDT_UUID: u8 = 3;
    /// Type code of a command set identifier.
    pub const NIDT_CSI: u8 = 4;
}

/// Descriptors of a descriptor list, up to the first of length 0 or one that leaves `bytes`.
pub fn descriptors(bytes: &[u8]) -> impl Iterator<Item = NamespaceDescriptor<'_>> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        let (header, body) = rest.split_at_checked(4)?;
        let (nidt, len) = (header[0], usize::from(header[1]));
        if len == 0 {
            return None;
        }
        let (nid, tail) = body.split_at_checked(len)?;
        rest = tail;
        let wide = || nid.try_into().ok();
        let known = match nidt {
            1 => nid.try_into().ok().map(NamespaceDescriptor::Eui64),
            2 => wide().map(NamespaceDescriptor::Nguid),
            3 => wide().map(NamespaceDescriptor::Uuid),
            4 if len == 1 => Some(NamespaceDescriptor::CommandSet(nid[0])),
            _ => None,
        };
        Some(known.unwrap_or(NamespaceDescriptor::Other { nidt, nid }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn formats_are_read_from_the_bytes_of_the_specification() {
        let mut bytes = [0_u8; 4096];
        bytes[0..8].copy_from_slice(&[0, 0, 1, 0, 0, 0, 0, 0]);
        bytes[25] = 1;
        bytes[26] = 0x01;
        bytes[128..132].copy_from_slice(&[0, 0, 9, 0]);
        bytes[132..136].copy_from_slice(&[8, 0, 12, 2]);
        let id = IdentifyNamespace::read_from_bytes(&bytes).expect("4096 bytes");
        assert_eq!(id.nsze.get(), 65_536);
        assert_eq!(id.formats(), 2);
        assert_eq!(id.format(0).and_then(LbaFormat::lba_bytes), Some(512));
        let current = id.current_format().expect("listed");
        assert_eq!(current.lba_bytes(), Some(4096));
        assert_eq!((current.ms(), current.rp()), (8, 2));
        assert_eq!(id.format(2), None);
    }

    #[test]
    fn a_format_index_beyond_the_list_is_none() {
        let mut id = IdentifyNamespace::read_from_bytes(&[0; 4096]).expect("4096 bytes");
        id.flbas = 0x0f;
        assert_eq!(id.current_format(), None);
        id.nlbaf_z = 255;
        id.flbas = 0x6f;
        assert_eq!(id.formatted().index(), 63);
        assert!(!id.formatted().extended());
        assert_eq!(id.current_format().expect("has a place").lba_bytes(), None);
        assert_eq!(id.format(64), None);
    }

    #[test]
    fn block_sizes_outside_the_possible_are_none() {
        for lbads in 0..=255_u8 {
            let bytes = LbaFormat::new().with_lbads(lbads).lba_bytes();
            assert_eq!(bytes.is_some(), (9..=31).contains(&lbads));
        }
    }

    #[test]
    fn nsid_lists_end_at_zero() {
        let mut bytes = [0_u8; 4096];
        bytes[0] = 1;
        bytes[4] = 7;
        bytes[12] = 9;
        let list = NsidList::read_from_bytes(&bytes).expect("4096 bytes");
        assert_eq!(list.iter().collect::<Vec<_>>(), [Nsid(1), Nsid(7)]);
    }

    #[test]
    fn descriptors_end_at_length_zero_and_never_leave_the_bytes() {
        let mut bytes = std::vec![3, 16, 0, 0];
        bytes.extend([0xab; 16]);
        bytes.extend([4, 1, 0, 0, 0]);
        bytes.extend([9, 2, 0, 0, 1, 2]);
        bytes.extend([1, 200, 0, 0, 5]);
        let found: Vec<_> = descriptors(&bytes).collect();
        assert_eq!(
            found,
            [
                NamespaceDescriptor::Uuid([0xab; 16]),
                NamespaceDescriptor::CommandSet(0),
                NamespaceDescriptor::Other { nidt: 9, nid: &[1, 2] },
            ]
        );
        assert_eq!(descriptors(&[0; 4096]).count(), 0);
    }
}
