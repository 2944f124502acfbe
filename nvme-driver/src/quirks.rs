//! Known deviations of controllers, by PCI vendor and device.
//!
//! A table, nothing else; [`crate::bringup`] and [`crate::controller`] ask it once. Sources: the
//! quirk tables of Linux's `drivers/nvme/host/pci.c` and of SPDK's `lib/nvme/nvme_quirks.c`.

use bitflags::bitflags;

bitflags! {
    /// What to do differently.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Quirks: u32 {
        /// Wait [`CHECK_DELAY_NS`] before CSTS is looked at after CC.EN changed.
        const DELAY_BEFORE_RDY = 1 << 0;
        /// Needs a ring of at least [`MIN_FAST_ENTRIES`] entries to be fast.
        const WIDE_QUEUE = 1 << 1;
        /// MDTS does not include metadata.
        const MDTS_EXCLUDES_METADATA = 1 << 2;
        /// Shadow doorbells do not cover the admin queue.
        const NO_ADMIN_DBBUF = 1 << 3;
        /// Never sets CSTS.SHST: do not wait for it longer than the floor.
        const NO_SHST = 1 << 4;
    }
}

/// Wait before RDY checks, from the same tables: 2.3 s.
pub(crate) const CHECK_DELAY_NS: u64 = 2_300_000_000;

/// Entries that the drives under [`Quirks::WIDE_QUEUE`] want, from SPDK's table.
pub(crate) const MIN_FAST_ENTRIES: u32 = 1024;

/// PCI vendor and device id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciId {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
}

struct Row {
    vendor: u16,
    device: u16,
    quirks: Quirks,
}

const fn row(vendor: u16, device: u16, quirks: Quirks) -> Row {
    Row { vendor, device, quirks }
}

const TABLE: &[Row] = &[
    // Samsung PM1725 and PM1725a: registers are not to be touched right after CC.EN changed.
    row(0x144d, 0xa821, Quirks::DELAY_BEFORE_RDY),
    row(0x144d, 0xa822, Quirks::DELAY_BEFORE_RDY),
    // Memblaze Pblaze4: likewise.
    row(0x1c5f, 0x0540, Quirks::DELAY_BEFORE_RDY),
    // Intel P3x00 and P4x00 families: slow on short rings.
    row(0x8086, 0x0953, Quirks::WIDE_QUEUE),
    row(0x8086, 0x0a53, Quirks::WIDE_QUEUE),
    row(0x8086, 0x0a54, Quirks::WIDE_QUEUE),
    row(0x8086, 0x0a55, Quirks::WIDE_QUEUE),
    row(0x8086, 0x0b60, Quirks::WIDE_QUEUE),
    // Intel's 4140 series: MDTS does not count metadata.
    row(0x8086, 0x4140, Quirks::MDTS_EXCLUDES_METADATA),
    // QEMU: its shadow doorbells left out the admin queue for some releases.
    row(0x1b36, 0x0010, Quirks::NO_ADMIN_DBBUF),
    // VMware's virtual controller never reports the end of a shutdown.
    row(0x15ad, 0x07f0, Quirks::NO_SHST),
];

/// Everything known about `id`.
#[must_use]
pub fn quirks_of(id: Option<PciId>) -> Quirks {
    let mut all = Quirks::empty();
    if let Some(id) = id {
        for row in TABLE {
            if row.vendor == id.vendor && row.device == id.device {
                all |= row.quirks;
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_drives_have_their_quirks_and_unknown_ones_have_none() {
        let of = |vendor, device| quirks_of(Some(PciId { vendor, device }));
        assert_eq!(of(0x144d, 0xa821), Quirks::DELAY_BEFORE_RDY);
        assert_eq!(of(0x8086, 0x0a54), Quirks::WIDE_QUEUE);
        assert_eq!(of(0x15ad, 0x07f0), Quirks::NO_SHST);
        assert_eq!(of(0x144d, 0xa808), Quirks::empty());
        assert_eq!(quirks_of(None), Quirks::empty());
    }
}
