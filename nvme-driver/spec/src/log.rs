//! Log pages: error information, SMART / health, firmware slots (NVMe Base 2.0, section 5.16.1).

use crate::ids::{Cid, Lba, Nsid, QueueId};
use crate::status::Status;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Log page identifier (LID).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct LogPageId(pub u8);

impl LogPageId {
    /// Supported log pages.
    pub const SUPPORTED: Self = Self(0x00);
    /// Error information.
    pub const ERROR: Self = Self(0x01);
    /// SMART / health information.
    pub const SMART: Self = Self(0x02);
    /// Firmware slot information.
    pub const FIRMWARE: Self = Self(0x03);
    /// Changed namespace list.
    pub const CHANGED_NAMESPACES: Self = Self(0x04);
    /// Commands supported and effects.
    pub const EFFECTS: Self = Self(0x05);
}

/// What a Get Log Page asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetLogPage {
    /// Which page.
    pub lid: LogPageId,
    /// Log specific parameter, 7 bits.
    pub lsp: u8,
    /// Retain the asynchronous event that led here.
    pub retain_event: bool,
    /// Dwords to return, counted from zero.
    pub dwords_z: u32,
    /// Log specific identifier.
    pub lsi: u16,
    /// Offset in bytes, a multiple of 4.
    pub offset: u64,
}

impl GetLogPage {
    /// The first `len_bytes` of a page; rounded up to whole dwords, 0 counts as one.
    #[must_use]
    pub const fn first(lid: LogPageId, len_bytes: u32) -> Self {
        Self {
            lid,
            lsp: 0,
            retain_event: false,
            dwords_z: len_bytes.div_ceil(4).saturating_sub(1),
            lsi: 0,
            offset: 0,
        }
    }

    /// From the command's dwords.
    #[must_use]
    pub const fn from_dwords(cdw10: u32, cdw11: u32, cdw12: u32, cdw13: u32) -> Self {
        Self {
            lid: LogPageId((cdw10 & 0xff) as u8),
            lsp: ((cdw10 >> 8) & 0x7f) as u8,
            retain_event: cdw10 & (1 << 15) != 0,
            dwords_z: cdw10 >> 16 | (cdw11 & 0xffff) << 16,
            lsi: (cdw11 >> 16) as u16,
            offset: cdw12 as u64 | (cdw13 as u64) << 32,
        }
    }

    /// CDW10.
    #[must_use]
    pub const fn cdw10(&self) -> u32 {
        self.lid.0 as u32
            | (self.lsp as u32 & 0x7f) << 8
            | (self.retain_event as u32) << 15
            | (self.dwords_z & 0xffff) << 16
    }

    /// CDW11.
    #[must_use]
    pub const fn cdw11(&self) -> u32 {
        self.dwords_z >> 16 | (self.lsi as u32) << 16
    }

    /// Bytes asked for.
    #[must_use]
    pub const fn len_bytes(&self) -> u64 {
        (self.dwords_z as u64 + 1) * 4
    }
}

/// An entry of the error information log; the newest comes first.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct ErrorLogEntry {
    /// Running number of the error; 0 marks an entry that was never used.
    pub error_count: U64,
    /// Submission queue.
    pub sqid: U16,
    /// Command identifier.
    pub cid: U16,
    /// Status field in the upper 15 bits, phase in the lowest.
    pub status_phase: U16,
    /// Byte (7:0) and bit (10:8) of the command that is at fault; 0xffff if none is.
    pub parameter_location: U16,
    /// First block in error.
    pub lba: U64,
    /// Namespace.
    pub nsid: U32,
    /// Vendor specific log page, if any.
    pub vendor_page: u8,
    /// Transport type.
    pub transport: u8,
    /// Reserved.
    pub reserved_30: [u8; 2],
    /// Command specific information.
    pub command_specific: U64,
    /// Transport specific information.
    pub transport_specific: U16,
    /// Reserved.
    pub reserved_42: [u8; 22],
}

const _: () = {
    assert!(size_of::<ErrorLogEntry>() == 64);
    assert!(core::mem::offset_of!(ErrorLogEntry, lba) == 16);
    assert!(core::mem::offset_of!(ErrorLogEntry, command_specific) == 32);
};

impl ErrorLogEntry {
    /// Whether the entry was ever written.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.error_count.get() != 0
    }

    /// Queue that the command came from.
    #[must_use]
    pub fn queue(&self) -> QueueId {
        QueueId(self.sqid.get())
    }

    /// Command identifier.
    #[must_use]
    pub fn command(&self) -> Cid {
        Cid(self.cid.get())
    }

    /// Status of the command.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::from_bits(self.status_phase.get() >> 1)
    }

    /// First block in error.
    #[must_use]
    pub fn first_lba(&self) -> Lba {
        Lba(self.lba.get())
    }

    /// Namespace.
    #[must_use]
    pub fn namespace(&self) -> Nsid {
        Nsid(self.nsid.get())
    }
}

bitflags::bitflags! {
    /// Critical warnings of the SMART log.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CriticalWarning: u8 {
        /// Spare is below its threshold.
        const SPARE = 1;
        /// A temperature is beyond its threshold.
        const TEMPERATURE = 1 << 1;
        /// Reliability is degraded.
        const RELIABILITY = 1 << 2;
        /// All media are read only.
        const READ_ONLY = 1 << 3;
        /// The backup of volatile memory failed.
        const BACKUP_FAILED = 1 << 4;
        /// The persistent memory region is read only or unreliable.
        const PMR_UNRELIABLE = 1 << 5;
    }
}

/// SMART / health information log.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SmartLog {
    /// [`CriticalWarning`] bits.
    pub critical_warning: u8,
    /// Composite temperature, in kelvin.
    pub temperature_kelvin: U16,
    /// Available spare, in percent.
    pub spare_percent: u8,
    /// Threshold of the available spare, in percent.
    pub spare_threshold_percent: u8,
    /// Life used, in percent; may exceed 100.
    pub used_percent: u8,
    /// Summary of the endurance groups' critical warnings.
    pub endurance_group_warning: u8,
    /// Reserved.
    pub reserved_7: [u8; 25],
    /// Data read, in thousands of 512-byte units, rounded up.
    pub data_units_read: U128,
    /// Data written, in thousands of 512-byte units, rounded up.
    pub data_units_written: U128,
    /// Read (and compare, verify) commands.
    pub host_reads: U128,
    /// Write commands.
    pub host_writes: U128,
    /// Time busy with I/O, in minutes.
    pub busy_minutes: U128,
    /// Power cycles.
    pub power_cycles: U128,
    /// Power-on hours.
    pub power_on_hours: U128,
    /// Shutdowns without CC.SHN.
    pub unsafe_shutdowns: U128,
    /// Media and data integrity errors.
    pub media_errors: U128,
    /// Entries ever made in the error log.
    pub error_log_entries: U128,
    /// Time above the warning temperature, in minutes.
    pub warning_temperature_minutes: U32,
    /// Time above the critical temperature, in minutes.
    pub critical_temperature_minutes: U32,
    /// Temperature sensors, in kelvin; 0 where there is none.
    pub sensors_kelvin: [U16; 8],
    /// Transitions of thermal management 1 and 2, then the seconds spent in each.
    pub thermal_management: [U32; 4],
    /// Reserved.
    pub reserved_232: [u8; 280],
}

const _: () = {
    assert!(size_of::<SmartLog>() == 512);
    assert!(core::mem::offset_of!(SmartLog, data_units_read) == 32);
    assert!(core::mem::offset_of!(SmartLog, error_log_entries) == 176);
    assert!(core::mem::offset_of!(SmartLog, sensors_kelvin) == 200);
};

impl SmartLog {
    /// Critical warnings, unknown bits kept.
    #[must_use]
    pub fn warnings(&self) -> CriticalWarning {
        CriticalWarning::from_bits_retain(self.critical_warning)
    }
}

/// Firmware slot information log.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FirmwareSlotLog {
    /// Active slot (2:0), slot after the next reset (6:4).
    pub active: u8,
    /// Reserved.
    pub reserved_1: [u8; 7],
    /// Revisions of slots 1 to 7, ASCII; all zeros where a slot is empty.
    pub revisions: [[u8; 8]; 7],
    /// Reserved.
    pub reserved_64: [u8; 448],
}

const _: () = {
    assert!(size_of::<FirmwareSlotLog>() == 512);
    assert!(core::mem::offset_of!(FirmwareSlotLog, revisions) == 8);
};

impl FirmwareSlotLog {
    /// The slot that the running firmware came from, 1 to 7.
    #[must_use]
    pub const fn active_slot(&self) -> u8 {
        self.active & 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::StatusCode;

    #[test]
    fn golden_bytes_of_an_error_log_entry() {
        let mut golden = [0_u8; 64];
        golden[0] = 5;
        golden[8] = 1;
        golden[10..12].copy_from_slice(&[0x34, 0x12]);
        golden[12..14].copy_from_slice(&[0x02, 0x05]); // 0x281 << 1
        golden[16..18].copy_from_slice(&[0xee, 0xff]);
        golden[24] = 2;
        let entry = ErrorLogEntry::read_from_bytes(&golden).expect("64 bytes");
        assert!(entry.is_used());
        assert_eq!(entry.queue(), QueueId(1));
        assert_eq!(entry.command(), Cid(0x1234));
        assert_eq!(entry.status().code(), StatusCode::UNRECOVERED_READ_ERROR);
        assert_eq!(entry.first_lba(), Lba(0xffee));
        assert_eq!(entry.namespace(), Nsid(2));
    }

    #[test]
    fn smart_temperature_lies_unaligned_behind_the_warning() {
        let mut bytes = [0_u8; 512];
        bytes[0] = 0x05;
        bytes[1..3].copy_from_slice(&[0x2c, 0x01]);
        bytes[160] = 7;
        let log = SmartLog::read_from_bytes(&bytes).expect("512 bytes");
        assert_eq!(log.temperature_kelvin.get(), 300);
        assert_eq!(log.media_errors.get(), 7);
        assert_eq!(log.warnings(), CriticalWarning::SPARE | CriticalWarning::RELIABILITY);
    }

    #[test]
    fn get_log_page_splits_its_length_over_two_dwords() {
        let page = GetLogPage {
            lid: LogPageId::SMART,
            lsp: 0x55,
            retain_event: true,
            dwords_z: 0x0001_007f,
            lsi: 0x9876,
            offset: 0x1_0000_0004,
        };
        assert_eq!(page.cdw10(), 0x007f_d502);
        assert_eq!(page.cdw11(), 0x9876_0001);
        assert_eq!(GetLogPage::from_dwords(page.cdw10(), page.cdw11(), 4, 1), page);
        assert_eq!(GetLogPage::first(LogPageId::SMART, 512).dwords_z, 127);
        assert_eq!(GetLogPage::first(LogPageId::SMART, 512).len_bytes(), 512);
    }
}
