//! The function's configuration registers that are ours to set, each write read back.
//!
//! PCI Local Bus 3.0, sections 6.2.2 (command), 6.7 (capabilities), 6.8.2 (MSI-X).

use hybrid_conventions::Bdf;
use rustix::io::Errno;

use super::bar::Area;
use super::error::VfioError;

const COMMAND: u64 = 0x04;
const STATUS: u64 = 0x06;
const CAPABILITIES: u64 = 0x34;
const CAP_ID_MSIX: u8 = 0x11;

bitflags::bitflags! {
    /// The command register's bits that this backend knows.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Command: u16 {
        /// It answers to memory accesses.
        const MEMORY = 1 << 1;
        /// It may read and write memory.
        const BUS_MASTER = 1 << 2;
        /// It does not raise its INTx line.
        const NO_INTX = 1 << 10;
        const _ = !0;
    }
}

/// Reads and writes of configuration space.
pub trait ConfigAccess {
    /// Reads so many bytes.
    ///
    /// # Errors
    /// What the kernel said; a short read is `EIO`.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Errno>;
    /// Writes them.
    ///
    /// # Errors
    /// What the kernel said; a short write is `EIO`.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno>;
}

fn read16(config: &impl ConfigAccess, offset: u64) -> Result<u16, Errno> {
    let mut bytes = [0; 2];
    config.read(offset, &mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}

/// The command register.
///
/// # Errors
/// What the kernel said.
pub fn command(config: &impl ConfigAccess) -> Result<Command, Errno> {
    read16(config, COMMAND).map(Command::from_bits_retain)
}

/// Writes the command register and reads it back.
///
/// # Errors
/// [`VfioError::Step`], or [`VfioError::Command`] where a bit that we know did not stick.
pub fn set_command(bdf: Bdf, config: &impl ConfigAccess, wanted: Command) -> Result<(), VfioError> {
    let step = VfioError::step(bdf, "writing the command register");
    config.write(COMMAND, &wanted.bits().to_le_bytes()).map_err(step)?;
    let seen = command(config).map_err(VfioError::step(bdf, "reading the command register"))?;
    let ours = Command::MEMORY | Command::BUS_MASTER | Command::NO_INTX;
    if seen.bits() == u16::MAX {
        return Err(VfioError::Gone { bdf, seen: "all ones" });
    }
    if seen.intersection(ours) != wanted.intersection(ours) {
        return Err(VfioError::Command { bdf, wrote: wanted.bits(), seen: seen.bits() });
    }
    Ok(())
}

/// Where the MSI-X table lies, if it lies in BAR 0.
///
/// # Errors
/// What the kernel said. A chain of capabilities that does not end is one without MSI-X.
pub fn msix_table_in_bar0(config: &impl ConfigAccess) -> Result<Option<Area>, Errno> {
    const HAS_CAPABILITIES: u16 = 1 << 4;
    /// As many as fit into 256 bytes.
    const MOST: usize = 48;
    if read16(config, STATUS)? & HAS_CAPABILITIES == 0 {
        return Ok(None);
    }
    let mut at = [0; 1];
    config.read(CAPABILITIES, &mut at)?;
    for _ in 0..MOST {
        let place = u64::from(at[0] & 0xfc);
        if place < 0x40 {
            return Ok(None);
        }
        let mut head = [0; 8];
        config.read(place, &mut head)?;
        if head[0] == CAP_ID_MSIX {
            let entries = u64::from(u16::from_le_bytes([head[2], head[3]]) & 0x7ff) + 1;
            let table = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
            let area = Area { offset: u64::from(table & !7), len: 16 * entries };
            return Ok((table & 7 == 0).then_some(area));
        }
        at[0] = head[1];
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// 256 bytes; bits of `stuck` in the command register do not change.
    struct Fake {
        bytes: RefCell<[u8; 256]>,
        stuck: u16,
    }

    impl Fake {
        fn new() -> Self {
            let mut bytes = [0; 256];
            bytes[0x06] = 1 << 4;
            bytes[0x34] = 0x40;
            // Power management, then MSI-X with 65 vectors at 2000h of BAR 0.
            bytes[0x40..0x42].copy_from_slice(&[0x01, 0x80]);
            bytes[0x80..0x88].copy_from_slice(&[0x11, 0, 0x40, 0, 0x00, 0x20, 0, 0]);
            Self { bytes: RefCell::new(bytes), stuck: 0 }
        }
    }

    impl ConfigAccess for Fake {
        fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Errno> {
            let offset = usize::try_from(offset).map_err(|_| Errno::IO)?;
            let all = self.bytes.borrow();
            bytes.copy_from_slice(all.get(offset..offset + bytes.len()).ok_or(Errno::IO)?);
            Ok(())
        }

        fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
            assert_eq!((offset, bytes.len()), (COMMAND, 2), "nothing else is written");
            let new = u16::from_le_bytes([bytes[0], bytes[1]]);
            let old = command(self).expect("readable").bits();
            let kept = (new & !self.stuck) | (old & self.stuck);
            self.bytes.borrow_mut()[4..6].copy_from_slice(&kept.to_le_bytes());
            Ok(())
        }
    }

    fn bdf() -> Bdf {
        "03:00.0".parse().expect("an address")
    }

    #[test]
    fn the_msix_table_is_found_behind_other_capabilities() {
        let fake = Fake::new();
        let table = msix_table_in_bar0(&fake).expect("readable");
        assert_eq!(table, Some(Area { offset: 0x2000, len: 65 * 16 }));
        fake.bytes.borrow_mut()[0x84] = 4; // in BAR 4
        assert_eq!(msix_table_in_bar0(&fake), Ok(None));
    }

    #[test]
    fn a_chain_that_runs_in_a_circle_ends() {
        let fake = Fake::new();
        fake.bytes.borrow_mut()[0x41] = 0x40;
        assert_eq!(msix_table_in_bar0(&fake), Ok(None));
        fake.bytes.borrow_mut()[0x06] = 0;
        assert_eq!(msix_table_in_bar0(&fake), Ok(None));
    }

    #[test]
    fn a_bit_that_does_not_stick_is_an_error_with_both_values() {
        let mut fake = Fake::new();
        let wanted = Command::MEMORY | Command::BUS_MASTER | Command::NO_INTX;
        set_command(bdf(), &fake, wanted).expect("sticks");
        assert_eq!(command(&fake), Ok(wanted));
        fake.stuck = Command::BUS_MASTER.bits();
        let line = set_command(bdf(), &fake, Command::MEMORY).expect_err("stuck").to_string();
        assert_eq!(line, "0000:03:00.0: command register reads 0x0006 after 0x0002 was written");
    }

    #[test]
    fn all_ones_is_a_device_that_is_gone() {
        let mut fake = Fake::new();
        fake.bytes.borrow_mut()[4..6].copy_from_slice(&[0xff, 0xff]);
        fake.stuck = 0xffff;
        let error = set_command(bdf(), &fake, Command::MEMORY).expect_err("gone");
        assert!(matches!(error, VfioError::Gone { .. }), "{error}");
    }
}
