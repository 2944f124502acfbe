//! Controller registers (NVMe Base 2.0, section 3.1.3) and doorbell offsets (NVMe over PCIe 1.0,
//! section 3.1.2).
//!
//! One newtype a register. What may be done with it is in its traits: [`Readable`], [`Writable`].
//! A read of all ones means that the device is gone; [`Csts::checked`] and [`Cap::checked`] say so
//! before any bit is looked at.

use bitfield_struct::bitfield;
use core::fmt;

/// Offset of the first doorbell.
pub const DOORBELL_BASE: u32 = 0x1000;

/// Offset of the submission queue tail doorbell of queue `qid`.
#[must_use]
pub const fn sq_tail_offset(qid: u16, dstrd: u8) -> u32 {
    DOORBELL_BASE + 2 * qid as u32 * doorbell_stride(dstrd)
}

/// Offset of the completion queue head doorbell of queue `qid`.
#[must_use]
pub const fn cq_head_offset(qid: u16, dstrd: u8) -> u32 {
    DOORBELL_BASE + (2 * qid as u32 + 1) * doorbell_stride(dstrd)
}

/// Bytes from one doorbell to the next; `dstrd` above 12 counts as 12.
///
/// The field has 4 bits; beyond 12 (16 KiB) the doorbells of 65,536 queues leave 32-bit offsets.
#[must_use]
pub const fn doorbell_stride(dstrd: u8) -> u32 {
    4 << if dstrd > 12 { 12 } else { dstrd }
}

/// A register: its place and its raw form (`u32` or `u64`).
pub trait Register: Copy {
    /// Offset from the start of the register space.
    const OFFSET: u32;
    /// Its name in the specification.
    const NAME: &'static str;
    /// `u32` or `u64`.
    type Raw: Copy;
    /// From the raw form; any value is possible.
    fn from_raw(raw: Self::Raw) -> Self;
    /// The raw form.
    fn into_raw(self) -> Self::Raw;
}

/// A register that may be read.
pub trait Readable: Register {}
/// A register that may be written.
pub trait Writable: Register {}

/// The device answers all ones: it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("registers read all ones: the device is gone")
    }
}

impl core::error::Error for Gone {}

macro_rules! register {
    ($name:ident, $raw:ty, $offset:literal, $text:literal, [$($access:ident),*]) => {
        impl Register for $name {
            const OFFSET: u32 = $offset;
            const NAME: &'static str = $text;
            type Raw = $raw;
            fn from_raw(raw: $raw) -> Self {
                Self::from(raw)
            }
            fn into_raw(self) -> $raw {
                <$raw>::from(self)
            }
        }
        $(impl $access for $name {})*
    };
}

/// Controller capabilities.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Cap {
    /// Maximum queue entries supported, counted from zero.
    pub mqes_z: u16,
    /// Contiguous queues required.
    pub cqr: bool,
    /// Arbitration mechanisms supported beyond round robin.
    #[bits(2)]
    pub ams: u8,
    #[bits(5)]
    __: u8,
    /// Timeout, in units of 500 ms.
    pub to: u8,
    /// Doorbell stride: 4 << DSTRD bytes.
    #[bits(4)]
    pub dstrd: u8,
    /// NVM subsystem reset supported.
    pub nssrs: bool,
    /// Command sets supported: bit 0 NVM, bit 6 more by CC.CSS = 6, bit 7 admin only.
    pub css: u8,
    /// Boot partition support.
    pub bps: bool,
    /// Controller power scope.
    #[bits(2)]
    pub cps: u8,
    /// Smallest memory page: 4096 << MPSMIN bytes.
    #[bits(4)]
    pub mpsmin: u8,
    /// Largest memory page: 4096 << MPSMAX bytes.
    #[bits(4)]
    pub mpsmax: u8,
    /// Persistent memory region supported.
    pub pmrs: bool,
    /// Controller memory buffer supported.
    pub cmbs: bool,
    /// NVM subsystem shutdown supported.
    pub nsss: bool,
    /// Ready with media supported; CRTO.CRWMT then replaces TO.
    pub crwms: bool,
    /// Ready independent of media supported.
    pub crims: bool,
    #[bits(3)]
    __: u8,
}
register!(Cap, u64, 0x00, "CAP", [Readable]);

impl Cap {
    /// Supports the NVM command set (bit of [`Cap::css`]).
    pub const CSS_NVM: u8 = 1;
    /// Supports one or more I/O command sets (bit of [`Cap::css`]).
    pub const CSS_IOCSS: u8 = 1 << 6;
    /// Supports no I/O command set (bit of [`Cap::css`]).
    pub const CSS_ADMIN_ONLY: u8 = 1 << 7;

    /// The capabilities that a raw read holds.
    ///
    /// # Errors
    /// [`Gone`] on all ones.
    pub const fn checked(raw: u64) -> Result<Self, Gone> {
        if raw == u64::MAX { Err(Gone) } else { Ok(Self::from_bits(raw)) }
    }

    /// Largest queue, in entries: 1 to 65,536 (1 is a controller's mistake).
    #[must_use]
    pub const fn max_queue_entries(self) -> u32 {
        self.mqes_z() as u32 + 1
    }

    /// Ready timeout in milliseconds by TO alone.
    #[must_use]
    pub const fn timeout_ms(self) -> u32 {
        self.to() as u32 * 500
    }

    /// Smallest memory page in bytes.
    #[must_use]
    pub const fn min_page_bytes(self) -> u32 {
        4096 << self.mpsmin()
    }

    /// Largest memory page in bytes.
    #[must_use]
    pub const fn max_page_bytes(self) -> u32 {
        4096 << self.mpsmax()
    }
}

/// Version.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Version {
    /// Tertiary version.
    pub tertiary: u8,
    /// Minor version.
    pub minor: u8,
    /// Major version.
    pub major: u16,
}
register!(Version, u32, 0x08, "VS", [Readable]);

impl Version {
    /// From its three numbers.
    #[must_use]
    pub const fn of(major: u16, minor: u8, tertiary: u8) -> Self {
        Self::new().with_major(major).with_minor(minor).with_tertiary(tertiary)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())?;
        if self.tertiary() != 0 {
            write!(f, ".{}", self.tertiary())?;
        }
        Ok(())
    }
}

/// Interrupt mask set.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Intms {
    /// Vectors to mask.
    pub vectors: u32,
}
register!(Intms, u32, 0x0c, "INTMS", [Readable, Writable]);

/// Interrupt mask clear.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Intmc {
    /// Vectors to unmask.
    pub vectors: u32,
}
register!(Intmc, u32, 0x10, "INTMC", [Readable, Writable]);

/// Shutdown notification: CC.SHN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Shn {
    /// None.
    None = 0,
    /// Normal shutdown.
    Normal = 1,
    /// Abrupt shutdown.
    Abrupt = 2,
    /// Reserved value.
    Reserved = 3,
}

impl Shn {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::None,
            1 => Self::Normal,
            2 => Self::Abrupt,
            _ => Self::Reserved,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// Controller configuration; built from zero.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cc {
    /// Enable.
    pub en: bool,
    #[bits(3)]
    __: u8,
    /// Command set: 0 NVM, 6 all supported, 7 admin only. Changed with EN = 0 only.
    #[bits(3)]
    pub css: u8,
    /// Memory page size: 4096 << MPS bytes. Changed with EN = 0 only.
    #[bits(4)]
    pub mps: u8,
    /// Arbitration mechanism. Changed with EN = 0 only.
    #[bits(3)]
    pub ams: u8,
    /// Shutdown notification.
    #[bits(2)]
    pub shn: Shn,
    /// Submission queue entry size, as a power of two: 6.
    #[bits(4)]
    pub iosqes: u8,
    /// Completion queue entry size, as a power of two: 4.
    #[bits(4)]
    pub iocqes: u8,
    /// Ready independent of media. Changed with EN = 0 only.
    pub crime: bool,
    #[bits(7)]
    __: u8,
}
register!(Cc, u32, 0x14, "CC", [Readable, Writable]);

impl Cc {
    /// Bits that the specification reserves.
    pub const RESERVED: u32 = 0xfe00_000e;
    /// IOSQES for 64-byte entries.
    pub const IOSQES: u8 = 6;
    /// IOCQES for 16-byte entries.
    pub const IOCQES: u8 = 4;

    /// Memory page in bytes.
    #[must_use]
    pub const fn page_bytes(self) -> u32 {
        4096 << self.mps()
    }
}

/// Shutdown status: CSTS.SHST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Shst {
    /// Normal operation.
    Normal = 0,
    /// Shutdown is going on.
    Occurring = 1,
    /// Shutdown is complete.
    Complete = 2,
    /// Reserved value.
    Reserved = 3,
}

impl Shst {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Normal,
            1 => Self::Occurring,
            2 => Self::Complete,
            _ => Self::Reserved,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// Controller status.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Csts {
    /// Ready.
    pub rdy: bool,
    /// Controller fatal status.
    pub cfs: bool,
    /// Shutdown status.
    #[bits(2)]
    pub shst: Shst,
    /// NVM subsystem reset occurred; written 1 to clear.
    pub nssro: bool,
    /// Processing paused.
    pub pp: bool,
    /// Shutdown type: the subsystem's.
    pub st: bool,
    #[bits(25)]
    __: u32,
}
register!(Csts, u32, 0x1c, "CSTS", [Readable, Writable]);

impl Csts {
    /// The status that a raw read holds.
    ///
    /// # Errors
    /// [`Gone`] on all ones, which would also look like RDY = 1.
    pub const fn checked(raw: u32) -> Result<Self, Gone> {
        if raw == u32::MAX { Err(Gone) } else { Ok(Self::from_bits(raw)) }
    }
}

/// NVM subsystem reset.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Nssr {
    /// [`Nssr::MAGIC`] resets the subsystem.
    pub nssrc: u32,
}
register!(Nssr, u32, 0x20, "NSSR", [Readable, Writable]);

impl Nssr {
    /// "NVMe" in ASCII: the only value that resets.
    pub const MAGIC: u32 = 0x4e56_4d65;
}

/// Admin queue attributes.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Aqa {
    /// Admin submission queue size, counted from zero.
    #[bits(12)]
    pub asqs_z: u16,
    #[bits(4)]
    __: u8,
    /// Admin completion queue size, counted from zero.
    #[bits(12)]
    pub acqs_z: u16,
    #[bits(4)]
    __: u8,
}
register!(Aqa, u32, 0x24, "AQA", [Readable, Writable]);

impl Aqa {
    /// Largest admin queue.
    pub const MAX_ENTRIES: u32 = 4096;
    /// Bits that the specification reserves.
    pub const RESERVED: u32 = 0xf000_f000;

    /// Both queues of `entries`, 2 to 4,096; clamped to that.
    #[must_use]
    pub const fn of(entries: u16) -> Self {
        let entries = if entries < 2 {
            2
        } else if entries > 4096 {
            4096
        } else {
            entries
        };
        Self::new().with_asqs_z(entries - 1).with_acqs_z(entries - 1)
    }

    /// Admin submission queue entries.
    #[must_use]
    pub const fn sq_entries(self) -> u32 {
        self.asqs_z() as u32 + 1
    }

    /// Admin completion queue entries.
    #[must_use]
    pub const fn cq_entries(self) -> u32 {
        self.acqs_z() as u32 + 1
    }
}

/// Admin submission queue base address; page aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asq(pub u64);

/// Admin completion queue base address; page aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acq(pub u64);

macro_rules! address {
    ($($name:ident),*) => {$(
        impl From<u64> for $name {
            fn from(raw: u64) -> Self {
                Self(raw)
            }
        }
        impl From<$name> for u64 {
            fn from(register: $name) -> Self {
                register.0
            }
        }
    )*};
}
address!(Asq, Acq);
register!(Asq, u64, 0x28, "ASQ", [Readable, Writable]);
register!(Acq, u64, 0x30, "ACQ", [Readable, Writable]);

/// Controller ready timeouts.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Crto {
    /// Ready with media timeout, in units of 500 ms.
    pub crwmt: u16,
    /// Ready independent of media timeout, in units of 500 ms.
    pub crimt: u16,
}
register!(Crto, u32, 0x68, "CRTO", [Readable]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_cap_reads_as_the_specification_lays_it_out() {
        // MQES 2047, CQR, TO 15, DSTRD 0, CSS NVM, MPSMIN 0, MPSMAX 4.
        let cap = Cap::from_raw(0x0040_0020_0f01_07ff);
        assert_eq!(cap.max_queue_entries(), 2048);
        assert!(cap.cqr());
        assert_eq!(cap.timeout_ms(), 7_500);
        assert_eq!(cap.dstrd(), 0);
        assert_eq!(cap.css(), Cap::CSS_NVM);
        assert_eq!(cap.min_page_bytes(), 4096);
        assert_eq!(cap.max_page_bytes(), 65_536);
        assert_eq!(Cap::from_raw(0xffff).max_queue_entries(), 65_536);
    }

    #[test]
    fn every_cap_field_has_its_bit_range() {
        let one = |cap: Cap| cap.into_raw();
        assert_eq!(one(Cap::new().with_mqes_z(u16::MAX)), 0xffff);
        assert_eq!(one(Cap::new().with_cqr(true)), 1 << 16);
        assert_eq!(one(Cap::new().with_ams(3)), 3 << 17);
        assert_eq!(one(Cap::new().with_to(0xff)), 0xff << 24);
        assert_eq!(one(Cap::new().with_dstrd(0xf)), 0xf << 32);
        assert_eq!(one(Cap::new().with_nssrs(true)), 1 << 36);
        assert_eq!(one(Cap::new().with_css(0xff)), 0xff << 37);
        assert_eq!(one(Cap::new().with_bps(true)), 1 << 45);
        assert_eq!(one(Cap::new().with_cps(3)), 3 << 46);
        assert_eq!(one(Cap::new().with_mpsmin(0xf)), 0xf << 48);
        assert_eq!(one(Cap::new().with_mpsmax(0xf)), 0xf << 52);
        assert_eq!(one(Cap::new().with_pmrs(true)), 1 << 56);
        assert_eq!(one(Cap::new().with_cmbs(true)), 1 << 57);
        assert_eq!(one(Cap::new().with_nsss(true)), 1 << 58);
        assert_eq!(one(Cap::new().with_crwms(true)), 1 << 59);
        assert_eq!(one(Cap::new().with_crims(true)), 1 << 60);
    }

    #[test]
    fn golden_cc_aqa_and_csts() {
        let cc = Cc::new().with_en(true).with_iosqes(Cc::IOSQES).with_iocqes(Cc::IOCQES);
        assert_eq!(cc.into_raw(), 0x0046_0001);
        assert_eq!(Cc::from_raw(0x0046_4001).shn(), Shn::Normal);
        assert_eq!(Cc::new().with_mps(0xf).into_raw(), 0x780);
        assert_eq!(Cc::new().with_css(7).into_raw(), 0x70);
        assert_eq!(Cc::new().with_ams(7).into_raw(), 0x3800);
        assert_eq!(Cc::new().with_crime(true).into_raw(), 1 << 24);
        assert_eq!(Aqa::of(32).into_raw(), 0x001f_001f);
        assert_eq!(Aqa::of(0).sq_entries(), 2);
        assert_eq!(Aqa::of(u16::MAX).cq_entries(), 4096);
        assert_eq!(Csts::checked(0x9).expect("present").shst(), Shst::Complete);
        assert!(Csts::checked(0x3).expect("present").cfs());
        assert_eq!(Csts::checked(u32::MAX), Err(Gone));
        assert_eq!(Cap::checked(u64::MAX), Err(Gone));
    }

    #[test]
    fn reserved_bits_are_those_without_a_field() {
        let all = Cc::from_raw(!Cc::RESERVED);
        let rebuilt = Cc::new()
            .with_en(all.en())
            .with_css(all.css())
            .with_mps(all.mps())
            .with_ams(all.ams())
            .with_shn(all.shn())
            .with_iosqes(all.iosqes())
            .with_iocqes(all.iocqes())
            .with_crime(all.crime());
        assert_eq!(rebuilt.into_raw(), !Cc::RESERVED);
        assert_eq!(Aqa::new().with_asqs_z(0xfff).with_acqs_z(0xfff).into_raw(), !Aqa::RESERVED);
    }

    #[test]
    fn doorbells_are_spread_by_the_stride() {
        assert_eq!(sq_tail_offset(0, 0), 0x1000);
        assert_eq!(cq_head_offset(0, 0), 0x1004);
        assert_eq!(sq_tail_offset(3, 0), 0x1018);
        assert_eq!(cq_head_offset(1, 4), 0x1000 + 3 * 64);
        // The largest queue and stride stay within 32 bits.
        assert_eq!(cq_head_offset(u16::MAX, 15), 0x1000 + 131_071 * 0x4000);
    }

    #[test]
    fn versions_print_as_people_write_them() {
        assert_eq!(std::format!("{}", Version::from_raw(0x0001_0400)), "1.4");
        assert_eq!(std::format!("{}", Version::of(1, 2, 1)), "1.2.1");
        assert_eq!(Version::of(2, 0, 0).into_raw(), 0x0002_0000);
    }
}
