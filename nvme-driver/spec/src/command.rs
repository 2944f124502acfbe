//! The submission queue entry and the commands that both sides need
//! (NVMe Base 2.0, section 3.3.3.1; NVM CS 1.0, section 3).
//!
//! An [`Sqe`] is eight words in memory order, built in registers and stored once. Constructors
//! give every field that the command defines; everything else is zero.

use crate::feature::{FeatureId, FeatureSelect};
use crate::ids::{Cid, Lba, Nsid, QueueId};
use crate::log::GetLogPage;
use crate::opcode::{AdminOpcode, NvmOpcode};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A submission queue entry as eight words.
///
/// | word | dwords | content |
/// |---|---|---|
/// | 0 | 0, 1 | opcode, FUSE, PSDT, CID; NSID |
/// | 1 | 2, 3 | command specific |
/// | 2 | 4, 5 | MPTR |
/// | 3 | 6, 7 | PRP1 |
/// | 4 | 8, 9 | PRP2 |
/// | 5 to 7 | 10 to 15 | command specific |
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Sqe(pub [u64; 8]);

const _: () = assert!(size_of::<Sqe>() == crate::SQE_BYTES);

bitflags::bitflags! {
    /// FUSE and PSDT: the bits of DW0 between opcode and CID.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SqeFlags: u8 {
        /// First command of a fused pair.
        const FUSED_FIRST = 1;
        /// Second command of a fused pair.
        const FUSED_SECOND = 1 << 1;
        /// SGLs for the data, MPTR an address.
        const SGL = 1 << 6;
        /// SGLs for data and metadata (with [`SqeFlags::SGL`] clear).
        const SGL_METADATA = 1 << 7;
    }
}

bitflags::bitflags! {
    /// Upper half of CDW12 of the reading and writing commands of the NVM command set.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Cdw12Io: u32 {
        /// Storage tag check.
        const STC = 1 << 24;
        /// Write Zeroes: deallocate the blocks.
        const DEAC = 1 << 25;
        /// Check the reference tag.
        const PRCHK_REF = 1 << 26;
        /// Check the application tag.
        const PRCHK_APP = 1 << 27;
        /// Check the guard.
        const PRCHK_GUARD = 1 << 28;
        /// The controller inserts or strips protection information.
        const PRACT = 1 << 29;
        /// Force unit access: durable before the completion.
        const FUA = 1 << 30;
        /// Limited retry.
        const LR = 1 << 31;
    }
}

bitflags::bitflags! {
    /// CDW11 of Dataset Management.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DsmAttributes: u32 {
        /// Will be read as a whole.
        const INTEGRAL_READ = 1;
        /// Will be written as a whole.
        const INTEGRAL_WRITE = 1 << 1;
        /// Deallocate.
        const DEALLOCATE = 1 << 2;
    }
}

/// What an Identify asks for (CNS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Cns(pub u8);

impl Cns {
    /// A namespace.
    pub const NAMESPACE: Self = Self(0x00);
    /// The controller.
    pub const CONTROLLER: Self = Self(0x01);
    /// Active namespace identifiers above the one given.
    pub const ACTIVE_NSIDS: Self = Self(0x02);
    /// Identification descriptors of a namespace.
    pub const NS_DESCRIPTORS: Self = Self(0x03);
    /// A namespace, by command set.
    pub const COMMAND_SET_NAMESPACE: Self = Self(0x05);
    /// The controller, by command set.
    pub const COMMAND_SET_CONTROLLER: Self = Self(0x06);
    /// Allocated namespace identifiers above the one given.
    pub const ALLOCATED_NSIDS: Self = Self(0x10);
}

/// Ranges that one Dataset Management carries at most (NR is 0-based, 8 bits).
pub const MAX_DSM_RANGES: usize = 256;

/// A range of Dataset Management (NVM CS 1.0, section 3.2.3).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct DsmRange {
    /// Context attributes.
    pub attributes: u32,
    /// Length in blocks; not 0-based.
    pub blocks: u32,
    /// First block.
    pub slba: u64,
}

const _: () = assert!(size_of::<DsmRange>() == 16);

/// Parameters of Create I/O Completion Queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateCq {
    /// Queue to create.
    pub qid: QueueId,
    /// Entries, counted from zero.
    pub size_z: u16,
    /// Memory is physically contiguous.
    pub contiguous: bool,
    /// Interrupts enabled.
    pub interrupts: bool,
    /// Interrupt vector.
    pub vector: u16,
}

/// Parameters of Create I/O Submission Queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateSq {
    /// Queue to create.
    pub qid: QueueId,
    /// Entries, counted from zero.
    pub size_z: u16,
    /// Memory is physically contiguous.
    pub contiguous: bool,
    /// Priority, for weighted round robin: 0 urgent to 3 low.
    pub priority: u8,
    /// Completion queue to post to.
    pub cqid: QueueId,
}

impl CreateCq {
    /// Entries.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.size_z as u32 + 1
    }
}

impl CreateSq {
    /// Entries.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.size_z as u32 + 1
    }
}

impl Sqe {
    /// An entry with nothing but opcode, CID and NSID.
    #[inline(always)]
    #[must_use]
    pub const fn new(opcode: u8, cid: Cid, nsid: Nsid) -> Self {
        Self([opcode as u64 | (cid.0 as u64) << 16 | (nsid.0 as u64) << 32, 0, 0, 0, 0, 0, 0, 0])
    }

    /// An admin command.
    #[must_use]
    pub const fn admin(opcode: AdminOpcode, cid: Cid, nsid: Nsid) -> Self {
        Self::new(opcode.0, cid, nsid)
    }

    /// With PRP1 and PRP2.
    #[inline(always)]
    #[must_use]
    pub const fn with_prps(mut self, prp1: u64, prp2: u64) -> Self {
        self.0[3] = prp1;
        self.0[4] = prp2;
        self
    }

    /// With the metadata pointer.
    #[must_use]
    pub const fn with_mptr(mut self, mptr: u64) -> Self {
        self.0[2] = mptr;
        self
    }

    /// With another CID.
    #[inline(always)]
    #[must_use]
    pub const fn with_cid(mut self, cid: Cid) -> Self {
        self.0[0] = self.0[0] & !0xffff_0000 | (cid.0 as u64) << 16;
        self
    }

    /// With FUSE and PSDT set to `flags`.
    #[must_use]
    pub const fn with_flags(mut self, flags: SqeFlags) -> Self {
        self.0[0] = self.0[0] & !0xff00 | (flags.bits() as u64) << 8;
        self
    }

    /// With a command dword, 10 to 15; others are ignored.
    #[inline(always)]
    #[must_use]
    pub const fn with_cdw(mut self, dword: usize, value: u32) -> Self {
        if dword >= 10 && dword <= 15 {
            let shift = (dword & 1) * 32;
            let word = dword / 2;
            self.0[word] = self.0[word] & !(0xffff_ffff << shift) | (value as u64) << shift;
        }
        self
    }

    /// A reading, writing, comparing or zeroing command; `nlb_z` counts from zero.
    #[inline(always)]
    #[must_use]
    pub const fn io(
        opcode: NvmOpcode,
        cid: Cid,
        nsid: Nsid,
        slba: Lba,
        nlb_z: u16,
        flags: Cdw12Io,
    ) -> Self {
        let mut sqe = Self::new(opcode.0, cid, nsid);
        sqe.0[5] = slba.0;
        sqe.0[6] = nlb_z as u64 | flags.bits() as u64;
        sqe
    }

    /// Flush.
    #[must_use]
    pub const fn flush(cid: Cid, nsid: Nsid) -> Self {
        Self::new(NvmOpcode::FLUSH.0, cid, nsid)
    }

    /// Dataset Management of `ranges_z + 1` ranges, which PRP1 and PRP2 point to.
    #[must_use]
    pub const fn dsm(cid: Cid, nsid: Nsid, ranges_z: u8, attributes: DsmAttributes) -> Self {
        Self::new(NvmOpcode::DATASET_MANAGEMENT.0, cid, nsid)
            .with_cdw(10, ranges_z as u32)
            .with_cdw(11, attributes.bits())
    }

    /// Identify into the 4,096 bytes at PRP1.
    #[must_use]
    pub const fn identify(cid: Cid, cns: Cns, nsid: Nsid, prp1: u64, prp2: u64) -> Self {
        Self::admin(AdminOpcode::IDENTIFY, cid, nsid)
            .with_prps(prp1, prp2)
            .with_cdw(10, cns.0 as u32)
    }

    /// Create I/O Completion Queue.
    #[must_use]
    pub const fn create_cq(cid: Cid, prp1: u64, queue: CreateCq) -> Self {
        let flags = queue.contiguous as u32 | (queue.interrupts as u32) << 1;
        Self::admin(AdminOpcode::CREATE_CQ, cid, Nsid::NONE)
            .with_prps(prp1, 0)
            .with_cdw(10, queue.qid.0 as u32 | (queue.size_z as u32) << 16)
            .with_cdw(11, flags | (queue.vector as u32) << 16)
    }

    /// Create I/O Submission Queue.
    #[must_use]
    pub const fn create_sq(cid: Cid, prp1: u64, queue: CreateSq) -> Self {
        let flags = queue.contiguous as u32 | (queue.priority as u32 & 3) << 1;
        Self::admin(AdminOpcode::CREATE_SQ, cid, Nsid::NONE)
            .with_prps(prp1, 0)
            .with_cdw(10, queue.qid.0 as u32 | (queue.size_z as u32) << 16)
            .with_cdw(11, flags | (queue.cqid.0 as u32) << 16)
    }

    /// Delete I/O Completion Queue.
    #[must_use]
    pub const fn delete_cq(cid: Cid, qid: QueueId) -> Self {
        Self::admin(AdminOpcode::DELETE_CQ, cid, Nsid::NONE).with_cdw(10, qid.0 as u32)
    }

    /// Delete I/O Submission Queue.
    #[must_use]
    pub const fn delete_sq(cid: Cid, qid: QueueId) -> Self {
        Self::admin(AdminOpcode::DELETE_SQ, cid, Nsid::NONE).with_cdw(10, qid.0 as u32)
    }

    /// Abort the command `victim` of queue `sqid`.
    #[must_use]
    pub const fn abort(cid: Cid, sqid: QueueId, victim: Cid) -> Self {
        Self::admin(AdminOpcode::ABORT, cid, Nsid::NONE)
            .with_cdw(10, sqid.0 as u32 | (victim.0 as u32) << 16)
    }

    /// Asynchronous Event Request.
    #[must_use]
    pub const fn async_event_request(cid: Cid) -> Self {
        Self::admin(AdminOpcode::ASYNC_EVENT_REQUEST, cid, Nsid::NONE)
    }

    /// Set Features without a data buffer; the value is `cdw11`. Not saved.
    #[must_use]
    pub const fn set_feature(cid: Cid, nsid: Nsid, feature: FeatureId, cdw11: u32) -> Self {
        Self::admin(AdminOpcode::SET_FEATURES, cid, nsid)
            .with_cdw(10, feature.0 as u32)
            .with_cdw(11, cdw11)
    }

    /// Get Features without a data buffer; the value comes in DW0.
    #[must_use]
    pub const fn get_feature(
        cid: Cid,
        nsid: Nsid,
        feature: FeatureId,
        select: FeatureSelect,
    ) -> Self {
        Self::admin(AdminOpcode::GET_FEATURES, cid, nsid)
            .with_cdw(10, feature.0 as u32 | (select as u32) << 8)
    }

    /// Get Log Page into the buffer at PRP1 and PRP2.
    #[must_use]
    pub const fn get_log_page(
        cid: Cid,
        nsid: Nsid,
        page: GetLogPage,
        prp1: u64,
        prp2: u64,
    ) -> Self {
        Self::admin(AdminOpcode::GET_LOG_PAGE, cid, nsid)
            .with_prps(prp1, prp2)
            .with_cdw(10, page.cdw10())
            .with_cdw(11, page.cdw11())
            .with_cdw(12, (page.offset & 0xffff_ffff) as u32)
            .with_cdw(13, (page.offset >> 32) as u32)
    }
}

impl Sqe {
    /// Opcode.
    #[inline(always)]
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        (self.0[0] & 0xff) as u8
    }

    /// FUSE and PSDT, with the reserved bits between them kept.
    #[inline(always)]
    #[must_use]
    pub const fn flags(&self) -> SqeFlags {
        SqeFlags::from_bits_retain(((self.0[0] >> 8) & 0xff) as u8)
    }

    /// Command identifier.
    #[inline(always)]
    #[must_use]
    pub const fn cid(&self) -> Cid {
        Cid(((self.0[0] >> 16) & 0xffff) as u16)
    }

    /// Namespace.
    #[inline(always)]
    #[must_use]
    pub const fn nsid(&self) -> Nsid {
        Nsid((self.0[0] >> 32) as u32)
    }

    /// Metadata pointer.
    #[must_use]
    pub const fn mptr(&self) -> u64 {
        self.0[2]
    }

    /// First PRP entry.
    #[inline(always)]
    #[must_use]
    pub const fn prp1(&self) -> u64 {
        self.0[3]
    }

    /// Second PRP entry or list pointer.
    #[inline(always)]
    #[must_use]
    pub const fn prp2(&self) -> u64 {
        self.0[4]
    }

    /// A dword of the entry, 0 to 15; 0 beyond.
    #[inline(always)]
    #[must_use]
    pub const fn dword(&self, dword: usize) -> u32 {
        if dword > 15 {
            return 0;
        }
        ((self.0[dword / 2] >> ((dword & 1) * 32)) & 0xffff_ffff) as u32
    }

    /// First block of a reading or writing command.
    #[inline(always)]
    #[must_use]
    pub const fn slba(&self) -> Lba {
        Lba(self.0[5])
    }

    /// Blocks of a reading or writing command, 1 to 65,536.
    #[inline(always)]
    #[must_use]
    pub const fn nlb(&self) -> u32 {
        (self.0[6] & 0xffff) as u32 + 1
    }

    /// Flags of a reading or writing command.
    #[inline(always)]
    #[must_use]
    pub const fn io_flags(&self) -> Cdw12Io {
        Cdw12Io::from_bits_truncate((self.0[6] & 0xff00_0000) as u32)
    }

    /// Parameters, if this is taken as a Create I/O Completion Queue.
    #[must_use]
    pub const fn as_create_cq(&self) -> CreateCq {
        CreateCq {
            qid: QueueId((self.dword(10) & 0xffff) as u16),
            size_z: (self.dword(10) >> 16) as u16,
            contiguous: self.dword(11) & 1 != 0,
            interrupts: self.dword(11) & 2 != 0,
            vector: (self.dword(11) >> 16) as u16,
        }
    }

    /// Parameters, if this is taken as a Create I/O Submission Queue.
    #[must_use]
    pub const fn as_create_sq(&self) -> CreateSq {
        CreateSq {
            qid: QueueId((self.dword(10) & 0xffff) as u16),
            size_z: (self.dword(10) >> 16) as u16,
            contiguous: self.dword(11) & 1 != 0,
            priority: ((self.dword(11) >> 1) & 3) as u8,
            cqid: QueueId((self.dword(11) >> 16) as u16),
        }
    }

    /// Parameters, if this is taken as a Get Log Page.
    #[must_use]
    pub const fn as_get_log_page(&self) -> GetLogPage {
        GetLogPage::from_dwords(self.dword(10), self.dword(11), self.dword(12), self.dword(13))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_a_read() {
        let sqe = Sqe::io(
            NvmOpcode::READ,
            Cid(0x0412),
            Nsid(1),
            Lba(0x0102_0304_0506_0708),
            7,
            Cdw12Io::FUA,
        )
        .with_prps(0x1000_0000_2000, 0x1000_0000_3000);
        let mut golden = [0_u8; 64];
        golden[0] = 0x02;
        golden[2..4].copy_from_slice(&[0x12, 0x04]);
        golden[4] = 0x01;
        golden[24..32].copy_from_slice(&[0x00, 0x20, 0, 0, 0x00, 0x10, 0, 0]);
        golden[32..40].copy_from_slice(&[0x00, 0x30, 0, 0, 0x00, 0x10, 0, 0]);
        golden[40..48].copy_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
        golden[48..52].copy_from_slice(&[0x07, 0x00, 0x00, 0x40]);
        assert_eq!(sqe.as_bytes(), golden);
        assert_eq!(sqe.nlb(), 8);
        assert_eq!(sqe.io_flags(), Cdw12Io::FUA);
    }

    #[test]
    fn golden_bytes_of_create_queues() {
        let cq = CreateCq {
            qid: QueueId(3),
            size_z: 255,
            contiguous: true,
            interrupts: false,
            vector: 0,
        };
        let sqe = Sqe::create_cq(Cid(1), 0x5000, cq);
        let mut golden = [0_u8; 64];
        golden[0] = 0x05;
        golden[2] = 1;
        golden[25] = 0x50;
        golden[40..48].copy_from_slice(&[3, 0, 0xff, 0, 1, 0, 0, 0]);
        assert_eq!(sqe.as_bytes(), golden);
        assert_eq!(sqe.as_create_cq(), cq);

        let sq = CreateSq {
            qid: QueueId(4),
            size_z: 15,
            contiguous: true,
            priority: 2,
            cqid: QueueId(3),
        };
        let sqe = Sqe::create_sq(Cid(2), 0x6000, sq);
        assert_eq!(&sqe.as_bytes()[40..48], &[4, 0, 15, 0, 0b101, 0, 3, 0]);
        assert_eq!(sqe.as_create_sq(), sq);
        assert_eq!(sq.entries(), 16);
    }

    #[test]
    fn golden_bytes_of_abort_dsm_and_features() {
        let abort = Sqe::abort(Cid(9), QueueId(2), Cid(0x0a0b));
        assert_eq!(&abort.as_bytes()[40..44], &[2, 0, 0x0b, 0x0a]);
        let dsm = Sqe::dsm(Cid(9), Nsid(1), 3, DsmAttributes::DEALLOCATE);
        assert_eq!(&dsm.as_bytes()[40..48], &[3, 0, 0, 0, 4, 0, 0, 0]);
        let feature = Sqe::set_feature(Cid(9), Nsid::NONE, FeatureId::NUMBER_OF_QUEUES, 0x7_0007);
        assert_eq!(&feature.as_bytes()[40..48], &[7, 0, 0, 0, 7, 0, 7, 0]);
    }

    #[test]
    fn dwords_out_of_range_change_nothing() {
        let sqe = Sqe::new(1, Cid(2), Nsid(3));
        assert_eq!(sqe.with_cdw(9, 7).with_cdw(16, 7), sqe);
        assert_eq!(sqe.dword(16), 0);
    }

    #[test]
    fn every_field_is_read_back_from_where_it_was_written() {
        let sqe = Sqe::new(0xc1, Cid(0xffff), Nsid(u32::MAX))
            .with_flags(SqeFlags::FUSED_FIRST)
            .with_cid(Cid(0x1234));
        assert_eq!(sqe.opcode(), 0xc1);
        assert_eq!(sqe.cid(), Cid(0x1234));
        assert_eq!(sqe.nsid(), Nsid::ALL);
        assert_eq!(sqe.flags(), SqeFlags::FUSED_FIRST);
        for dword in 10..16 {
            let value = 0xa5a5_0000 + u32::try_from(dword).expect("small");
            let sqe = sqe.with_cdw(dword, value);
            for other in 10..16 {
                assert_eq!(sqe.dword(other), if other == dword { value } else { 0 });
            }
        }
    }
}
