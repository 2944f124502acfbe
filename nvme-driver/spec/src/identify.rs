//! Identify controller (NVMe Base 2.0, section 5.17.2.1).
//!
//! What a device says here is an allegation: accessors give it in a wider type without judging;
//! the driver validates.

use zerocopy::little_endian::{U16, U32, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

bitflags::bitflags! {
    /// OACS: optional admin commands.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OptionalAdminCommands: u16 {
        /// Security send and receive.
        const SECURITY = 1;
        /// Format NVM.
        const FORMAT = 1 << 1;
        /// Firmware commit and download.
        const FIRMWARE = 1 << 2;
        /// Namespace management.
        const NAMESPACE_MANAGEMENT = 1 << 3;
        /// Device self-test.
        const SELF_TEST = 1 << 4;
        /// Doorbell buffer config.
        const DOORBELL_BUFFER = 1 << 8;
    }
}

bitflags::bitflags! {
    /// ONCS: optional commands of the NVM command set.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OptionalNvmCommands: u16 {
        /// Compare.
        const COMPARE = 1;
        /// Write uncorrectable.
        const WRITE_UNCORRECTABLE = 1 << 1;
        /// Dataset management.
        const DATASET_MANAGEMENT = 1 << 2;
        /// Write zeroes.
        const WRITE_ZEROES = 1 << 3;
        /// Save field of set features.
        const SAVE_FEATURES = 1 << 4;
        /// Reservations.
        const RESERVATIONS = 1 << 5;
        /// Timestamp feature.
        const TIMESTAMP = 1 << 6;
        /// Verify.
        const VERIFY = 1 << 7;
        /// Copy.
        const COPY = 1 << 8;
    }
}

bitflags::bitflags! {
    /// OAES: optional asynchronous events.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OptionalAsyncEvents: u32 {
        /// Namespace attribute notices.
        const NAMESPACE_ATTRIBUTE = 1 << 8;
        /// Firmware activation notices.
        const FIRMWARE_ACTIVATION = 1 << 9;
    }
}

bitflags::bitflags! {
    /// VWC: volatile write cache.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct VolatileWriteCache: u8 {
        /// A volatile write cache is present.
        const PRESENT = 1;
        /// Flush: bits 2:1 = 3, the broadcast namespace is supported.
        const FLUSH_ALL = 3 << 1;
    }
}

/// Power state descriptor.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct PowerStateDescriptor {
    /// Maximum power, in centiwatts unless a flag says 0.1 mW.
    pub max_power: U16,
    /// Reserved.
    pub reserved_2: u8,
    /// Scale and non-operational flags.
    pub flags: u8,
    /// Entry latency, in microseconds.
    pub entry_latency_us: U32,
    /// Exit latency, in microseconds.
    pub exit_latency_us: U32,
    /// Relative throughput and latency, idle and active power.
    pub rest: [u8; 20],
}

const _: () = assert!(size_of::<PowerStateDescriptor>() == 32);

/// Identify controller: 4,096 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyController {
    /// PCI vendor.
    pub vid: U16,
    /// PCI subsystem vendor.
    pub ssvid: U16,
    /// Serial number, ASCII, padded with spaces.
    pub sn: [u8; 20],
    /// Model number, ASCII, padded with spaces.
    pub mn: [u8; 40],
    /// Firmware revision, ASCII, padded with spaces.
    pub fr: [u8; 8],
    /// Recommended arbitration burst, as a power of two.
    pub rab: u8,
    /// IEEE OUI.
    pub ieee: [u8; 3],
    /// Multi-path and sharing.
    pub cmic: u8,
    /// Maximum data transfer, as a power of two of CAP.MPSMIN pages; 0 for no limit.
    pub mdts: u8,
    /// Controller identifier.
    pub cntlid: U16,
    /// Version, as in VS.
    pub ver: U32,
    /// Resume latency from RTD3, in microseconds.
    pub rtd3r_us: U32,
    /// Entry latency to RTD3, in microseconds: the limit of a normal shutdown.
    pub rtd3e_us: U32,
    /// [`OptionalAsyncEvents`].
    pub oaes: U32,
    /// Controller attributes.
    pub ctratt: U32,
    /// Read recovery levels.
    pub rrls: U16,
    /// Reserved.
    pub reserved_102: [u8; 9],
    /// Controller type: 1 is I/O.
    pub cntrltype: u8,
    /// FRU globally unique identifier.
    pub fguid: [u8; 16],
    /// Command retry delays 1 to 3, in units of 100 ms.
    pub crdt: [U16; 3],
    /// Reserved.
    pub reserved_134: [u8; 119],
    /// NVM subsystem report.
    pub nvmsr: u8,
    /// Vital product data write cycles.
    pub vwci: u8,
    /// Management endpoint capabilities.
    pub mec: u8,
    /// [`OptionalAdminCommands`].
    pub oacs: U16,
    /// Abort command limit, counted from zero.
    pub acl_z: u8,
    /// Asynchronous event request limit, counted from zero.
    pub aerl_z: u8,
    /// Firmware updates: read-only slot 1, number of slots.
    pub frmw: u8,
    /// Log page attributes.
    pub lpa: u8,
    /// Error log entries, counted from zero.
    pub elpe_z: u8,
    /// Power states, counted from zero.
    pub npss_z: u8,
    /// Admin vendor specific command configuration.
    pub avscc: u8,
    /// Autonomous power state transitions.
    pub apsta: u8,
    /// Warning temperature, in kelvin.
    pub wctemp_kelvin: U16,
    /// Critical temperature, in kelvin.
    pub cctemp_kelvin: U16,
    /// Maximum time for firmware activation, in units of 100 ms.
    pub mtfa: U16,
    /// Host memory buffer preferred size, in 4 KiB units.
    pub hmpre: U32,
    /// Host memory buffer minimum size, in 4 KiB units.
    pub hmmin: U32,
    /// Total capacity, in bytes.
    pub tnvmcap: U128,
    /// Unallocated capacity, in bytes.
    pub unvmcap: U128,
    /// Replay protected memory block.
    pub rpmbs: U32,
    /// Extended self-test time, in minutes.
    pub edstt: U16,
    /// Device self-test options.
    pub dsto: u8,
    /// Firmware update granularity.
    pub fwug: u8,
    /// Keep alive granularity, in units of 100 ms; 0 for none.
    pub kas: U16,
    /// Host controlled thermal management.
    pub hctma: U16,
    /// Minimum thermal management temperature, in kelvin.
    pub mntmt_kelvin: U16,
    /// Maximum thermal management temperature, in kelvin.
    pub mxtmt_kelvin: U16,
    /// Sanitize capabilities.
    pub sanicap: U32,
    /// Fields from HMMINDS to MEGCAP that nothing here uses.
    pub reserved_332: [u8; 180],
    /// Submission queue entry size: required (3:0), maximum (7:4), as powers of two.
    pub sqes: u8,
    /// Completion queue entry size: required (3:0), maximum (7:4), as powers of two.
    pub cqes: u8,
    /// Maximum outstanding commands a queue; 0 for no limit.
    pub maxcmd: U16,
    /// Number of namespaces: the largest valid NSID.
    pub nn: U32,
    /// [`OptionalNvmCommands`].
    pub oncs: U16,
    /// Fused operations: bit 0 is compare and write.
    pub fuses: U16,
    /// Format attributes.
    pub fna: u8,
    /// [`VolatileWriteCache`].
    pub vwc: u8,
    /// Atomic write unit, in blocks counted from zero.
    pub awun_z: U16,
    /// Atomic write unit on power failure, in blocks counted from zero.
    pub awupf_z: U16,
    /// I/O command set vendor specific command configuration.
    pub icsvscc: u8,
    /// Namespace write protection.
    pub nwpc: u8,
    /// Atomic compare and write unit, in blocks counted from zero.
    pub acwu_z: U16,
    /// Copy descriptor formats.
    pub cdfs: U16,
    /// SGL support.
    pub sgls: U32,
    /// Maximum number of allowed namespaces.
    pub mnan: U32,
    /// Reserved and domain fields.
    pub reserved_544: [u8; 224],
    /// NVM subsystem qualified name, UTF-8, null terminated.
    pub subnqn: [u8; 256],
    /// Reserved and fabrics fields.
    pub reserved_1024: [u8; 1024],
    /// Power states.
    pub psd: [PowerStateDescriptor; 32],
    /// Vendor specific.
    pub vendor: [u8; 1024],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<IdentifyController>() == crate::IDENTIFY_BYTES);
    assert!(offset_of!(IdentifyController, mdts) == 77);
    assert!(offset_of!(IdentifyController, ver) == 80);
    assert!(offset_of!(IdentifyController, rtd3e_us) == 88);
    assert!(offset_of!(IdentifyController, cntrltype) == 111);
    assert!(offset_of!(IdentifyController, crdt) == 128);
    assert!(offset_of!(IdentifyController, oacs) == 256);
    assert!(offset_of!(IdentifyController, tnvmcap) == 280);
    assert!(offset_of!(IdentifyController, kas) == 320);
    assert!(offset_of!(IdentifyController, sanicap) == 328);
    assert!(offset_of!(IdentifyController, sqes) == 512);
    assert!(offset_of!(IdentifyController, nn) == 516);
    assert!(offset_of!(IdentifyController, vwc) == 525);
    assert!(offset_of!(IdentifyController, sgls) == 536);
    assert!(offset_of!(IdentifyController, subnqn) == 768);
    assert!(offset_of!(IdentifyController, psd) == 2048);
};

impl IdentifyController {
    /// Bit of LPA: Get Log Page takes offsets, and lengths beyond 12 bits of dwords.
    pub const LPA_OFFSETS: u8 = 1 << 2;

    /// Whether Get Log Page takes offsets, and lengths beyond 12 bits of dwords.
    #[must_use]
    pub const fn log_offsets(&self) -> bool {
        self.lpa & Self::LPA_OFFSETS != 0
    }

    /// Largest transfer in bytes, or `None` for no limit (also where the shift would overflow).
    #[must_use]
    pub const fn max_transfer_bytes(&self, min_page_bytes: u32) -> Option<u64> {
        if self.mdts == 0 || self.mdts > 40 {
            return None;
        }
        Some((min_page_bytes as u64) << self.mdts)
    }

    /// Abort commands that may be outstanding.
    #[must_use]
    pub const fn abort_limit(&self) -> u32 {
        self.acl_z as u32 + 1
    }

    /// Asynchronous event requests that may be outstanding.
    #[must_use]
    pub const fn async_event_limit(&self) -> u32 {
        self.aerl_z as u32 + 1
    }

    /// Entries of the error log.
    #[must_use]
    pub const fn error_log_entries(&self) -> u32 {
        self.elpe_z as u32 + 1
    }

    /// Atomic write unit, in blocks.
    #[must_use]
    pub fn atomic_write_blocks(&self) -> u32 {
        u32::from(self.awun_z.get()) + 1
    }

    /// Atomic write unit on power failure, in blocks.
    #[must_use]
    pub fn atomic_write_blocks_power_fail(&self) -> u32 {
        u32::from(self.awupf_z.get()) + 1
    }

    /// Retry delay in milliseconds for a completion's CRD, 1 to 3; 0 for others.
    #[must_use]
    pub fn retry_delay_ms(&self, crd: u8) -> u32 {
        let index = usize::from(crd).wrapping_sub(1);
        self.crdt.get(index).map_or(0, |units| u32::from(units.get()) * 100)
    }

    /// Optional commands of the NVM command set, unknown bits kept.
    #[must_use]
    pub fn nvm_commands(&self) -> OptionalNvmCommands {
        OptionalNvmCommands::from_bits_retain(self.oncs.get())
    }

    /// Optional admin commands, unknown bits kept.
    #[must_use]
    pub fn admin_commands(&self) -> OptionalAdminCommands {
        OptionalAdminCommands::from_bits_retain(self.oacs.get())
    }

    /// Volatile write cache, unknown bits kept.
    #[must_use]
    pub const fn write_cache(&self) -> VolatileWriteCache {
        VolatileWriteCache::from_bits_retain(self.vwc)
    }
}

/// A field of printable ASCII without its padding; "" where it is not ASCII.
#[must_use]
pub fn fixed_text(field: &[u8]) -> &str {
    let end = field.iter().rposition(|byte| *byte != b' ' && *byte != 0);
    let text = end.map_or(&[][..], |end| &field[..=end]);
    if !text.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return "";
    }
    core::str::from_utf8(text).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeroed() -> IdentifyController {
        IdentifyController::read_from_bytes(&[0; 4096]).expect("4096 bytes")
    }

    #[test]
    fn fields_are_read_from_the_bytes_of_the_specification() {
        let mut bytes = [0_u8; 4096];
        bytes[0..2].copy_from_slice(&[0x36, 0x1b]);
        bytes[4..24].copy_from_slice(b"SERIAL 1            ");
        bytes[24..64].copy_from_slice(b"MODEL 2                                 ");
        bytes[77] = 5;
        bytes[88..92].copy_from_slice(&[0x40, 0x42, 0x0f, 0]);
        bytes[130] = 10;
        bytes[258..260].copy_from_slice(&[3, 7]);
        bytes[516] = 16;
        bytes[520] = 0x0d;
        bytes[525] = 0x07;
        bytes[526] = 0xff;
        let id = IdentifyController::read_from_bytes(&bytes).expect("4096 bytes");
        assert_eq!(id.vid.get(), 0x1b36);
        assert_eq!(fixed_text(&id.sn), "SERIAL 1");
        assert_eq!(fixed_text(&id.mn), "MODEL 2");
        assert_eq!(id.max_transfer_bytes(4096), Some(128 * 1024));
        assert_eq!(id.rtd3e_us.get(), 1_000_000);
        assert_eq!(id.retry_delay_ms(2), 1_000);
        assert_eq!(id.retry_delay_ms(0), 0);
        assert_eq!(id.retry_delay_ms(4), 0);
        assert_eq!((id.abort_limit(), id.async_event_limit()), (4, 8));
        assert_eq!(id.nn.get(), 16);
        assert_eq!(
            id.nvm_commands(),
            OptionalNvmCommands::COMPARE
                | OptionalNvmCommands::DATASET_MANAGEMENT
                | OptionalNvmCommands::WRITE_ZEROES
        );
        assert!(id.write_cache().contains(VolatileWriteCache::PRESENT));
        assert_eq!(id.atomic_write_blocks(), 256);
    }

    #[test]
    fn an_mdts_that_would_overflow_is_no_limit() {
        let mut id = zeroed();
        assert_eq!(id.max_transfer_bytes(4096), None);
        id.mdts = 31;
        assert_eq!(id.max_transfer_bytes(4096), Some(4096 << 31));
        id.mdts = 255;
        assert_eq!(id.max_transfer_bytes(u32::MAX), None);
    }

    #[test]
    fn text_that_is_not_ascii_is_not_believed() {
        assert_eq!(fixed_text(b"ok  \0\0"), "ok");
        assert_eq!(fixed_text(b"\xff\xfe  "), "");
        assert_eq!(fixed_text(b"    "), "");
    }
}
