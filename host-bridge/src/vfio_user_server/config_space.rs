//! The PCI configuration space of the served controller.
//!
//! A type 0 header with the capabilities that drivers of NVMe controllers look for: power
//! management, PCI Express, MSI-X. Plain bytes and a mask of those that a client may write. Nothing
//! behind it acts: there is no interrupt to raise and no power to save.

/// Bytes: PCI Express's extended space.
pub(super) const CONFIG_BYTES: usize = 4096;

/// MSI-X vectors: one a queue pair of the largest model that anyone drives over vfio-user.
pub(super) const MSIX_VECTORS: u16 = 64;

/// Vendor and device as the model's Identify Controller has them.
const VENDOR: u16 = 0x1b36;
/// A device number that no driver has quirks for.
const DEVICE: u16 = 0x00fe;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const CLASS: usize = 0x09;
const BAR0: usize = 0x10;
const BAR4: usize = 0x20;
const BAR5: usize = 0x24;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const POWER: u8 = 0x40;
const EXPRESS: u8 = 0x50;
const MSIX: u8 = 0x90;

/// Memory space, bus master, INTx off.
const COMMAND_BITS: u16 = 1 << 1 | 1 << 2 | 1 << 10;
/// Status: a capability list.
const HAS_CAPABILITIES: u16 = 1 << 4;
/// A 64-bit memory BAR.
const BAR_64: u32 = 0b100;

/// Bytes of the BARs that hold MSI-X table and pending bits.
pub(super) const MSIX_BAR_BYTES: u64 = 4096;

/// The space, and what of it may be written.
#[derive(Debug)]
pub(super) struct ConfigSpace {
    bytes: Box<[u8; CONFIG_BYTES]>,
    writable: Box<[u8; CONFIG_BYTES]>,
    bar0_bytes: u64,
}

impl ConfigSpace {
    /// Of a controller whose BAR0 has `bar0_bytes`, a power of two.
    pub(super) fn new(bar0_bytes: u64) -> Self {
        let mut space = Self {
            bytes: Box::new([0; CONFIG_BYTES]),
            writable: Box::new([0; CONFIG_BYTES]),
            bar0_bytes,
        };
        space.reset();
        space
    }

    /// As after a reset of the function.
    pub(super) fn reset(&mut self) {
        self.bytes.fill(0);
        self.writable.fill(0);
        self.put(0, &VENDOR.to_le_bytes(), 0);
        self.put(2, &DEVICE.to_le_bytes(), 0);
        self.put(COMMAND, &[0, 0], COMMAND_BITS.into());
        self.put(STATUS, &HAS_CAPABILITIES.to_le_bytes(), 0);
        // NVM Express interface, non-volatile memory controller, mass storage.
        self.put(CLASS, &[0x02, 0x08, 0x01], 0);
        let low = u32::try_from(!(self.bar0_bytes - 1) & 0xffff_fff0).unwrap_or(0);
        self.put(BAR0, &BAR_64.to_le_bytes(), low.into());
        self.put(BAR0 + 4, &[0; 4], u32::MAX.into());
        for bar in [BAR4, BAR5] {
            self.put(bar, &[0; 4], 0xffff_f000);
        }
        self.put(SUBSYSTEM, &VENDOR.to_le_bytes(), 0);
        self.put(SUBSYSTEM + 2, &DEVICE.to_le_bytes(), 0);
        self.put(CAPABILITIES, &[POWER], 0);
        self.put(INTERRUPT_LINE, &[0], 0xff);
        // Power management: version 3, no soft reset; the power state may be written.
        self.put(POWER.into(), &[0x01, EXPRESS, 0x03, 0x00, 0x08, 0x00], 0x3_0000_0000);
        // PCI Express: version 2, an endpoint; the device control may be written.
        self.put(EXPRESS.into(), &[0x10, MSIX, 0x02, 0x00], 0);
        self.put(usize::from(EXPRESS) + 8, &[0x10, 0x28], 0x7fff);
        // MSI-X: the table in BAR4, the pending bits in BAR5.
        let control = (MSIX_VECTORS - 1).to_le_bytes();
        self.put(MSIX.into(), &[0x11, 0, control[0], control[1]], 0xc000_0000);
        self.put(usize::from(MSIX) + 4, &[4, 0, 0, 0, 5, 0, 0, 0], 0);
    }

    /// Bytes at an offset, and which of their bits may be written.
    fn put(&mut self, at: usize, bytes: &[u8], writable: u64) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.writable[at..at + bytes.len()].copy_from_slice(&writable.to_le_bytes()[..bytes.len()]);
    }

    /// Reads; `None` outside.
    pub(super) fn read(&self, at: u64, count: usize) -> Option<&[u8]> {
        let at = usize::try_from(at).ok()?;
        self.bytes.get(at..at.checked_add(count)?)
    }

    /// Writes what may be written; `None` outside.
    pub(super) fn write(&mut self, at: u64, data: &[u8]) -> Option<()> {
        let at = usize::try_from(at).ok()?;
        let range = at..at.checked_add(data.len())?;
        let old = self.bytes.get_mut(range.clone())?;
        let writable = self.writable.get(range)?;
        for ((old, new), mask) in old.iter_mut().zip(data).zip(writable) {
            *old = *old & !mask | new & mask;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(space: &ConfigSpace, at: u64) -> u32 {
        let bytes = space.read(at, 4).expect("inside");
        u32::from_le_bytes(bytes.try_into().expect("four bytes"))
    }

    #[test]
    fn bars_tell_their_size_and_the_command_register_keeps_its_bits() {
        let mut space = ConfigSpace::new(0x4000);
        for (bar, size) in
            [(0x10, 0xffff_c004), (0x14, 0xffff_ffff), (0x18, 0), (0x20, 0xffff_f000)]
        {
            space.write(bar, &[0xff; 4]).expect("inside");
            assert_eq!(word(&space, bar), size, "{bar:#x}");
        }
        space.write(4, &[0xff; 4]).expect("inside");
        assert_eq!(word(&space, 4), 0x0010_0406);
        space.reset();
        assert_eq!((word(&space, 4), word(&space, 0x10)), (0x0010_0000, 4));
        assert_eq!(word(&space, 8) >> 8, 0x01_08_02, "class code");
    }

    #[test]
    fn the_capability_chain_names_power_express_and_msix() {
        let space = ConfigSpace::new(0x4000);
        let byte = |at: u64| space.read(at, 1).expect("inside")[0];
        let mut seen = Vec::new();
        let mut at = byte(0x34);
        while at != 0 && seen.len() < 8 {
            seen.push(byte(at.into()));
            at = byte(u64::from(at) + 1);
        }
        assert_eq!(seen, [0x01, 0x10, 0x11]);
        assert_eq!(word(&space, 0x90) >> 16 & 0x7ff, u32::from(MSIX_VECTORS) - 1);
        assert_eq!((word(&space, 0x94), word(&space, 0x98)), (4, 5));
    }

    #[test]
    fn accesses_outside_are_refused() {
        let mut space = ConfigSpace::new(0x4000);
        assert!(space.read(4092, 4).is_some() && space.read(4093, 4).is_none());
        assert!(space.read(u64::MAX, 4).is_none() && space.read(0, usize::MAX).is_none());
        assert!(space.write(4095, &[0; 2]).is_none() && space.write(u64::MAX, &[0]).is_none());
    }
}
