//! Control registers of a mapped BAR, as the driver wants them.

use core_runtime::mem::Mmio;
use hybrid_shm::{OutOfBounds, Span, Word32};
use nvme_driver::{ControlRegs, RegsError};

/// Registers behind a word that says whether the device is still ours: the host's keeper sets it
/// when the kernel asks for the function back, and from then on nobody touches the BAR.
#[derive(Debug)]
pub struct BarRegs {
    mmio: Mmio,
    gone: Word32<'static>,
}

impl BarRegs {
    /// Registers in `bar`, and the word at the start of `gone`.
    ///
    /// # Errors
    /// [`OutOfBounds`] if there is no room for the word.
    pub fn new(bar: Span<'static>, gone: Span<'static>) -> Result<Self, OutOfBounds> {
        Ok(Self { mmio: Mmio::new(bar), gone: gone.word32(0)? })
    }

    fn access<T>(
        &self,
        offset: u32,
        access: impl FnOnce(usize) -> Result<T, OutOfBounds>,
    ) -> Result<T, RegsError> {
        if self.gone.load() != 0 {
            return Err(RegsError::Gone);
        }
        access(offset as usize).map_err(|_| RegsError::Refused(offset))
    }
}

impl ControlRegs for BarRegs {
    fn read32(&self, offset: u32) -> Result<u32, RegsError> {
        self.access(offset, |at| self.mmio.read32(at))
    }

    fn read64(&self, offset: u32) -> Result<u64, RegsError> {
        self.access(offset, |at| self.mmio.read64(at))
    }

    fn write32(&self, offset: u32, value: u32) -> Result<(), RegsError> {
        self.access(offset, |at| self.mmio.write32(at, value))
    }

    fn write64(&self, offset: u32, value: u64) -> Result<(), RegsError> {
        self.access(offset, |at| self.mmio.write64(at, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hybrid_shm::leak_zeroed;

    #[test]
    fn a_device_that_was_asked_back_is_not_touched_any_more() {
        let (bar, gone) = (leak_zeroed(4096), leak_zeroed(64));
        let regs = BarRegs::new(bar, gone).expect("room");
        regs.write32(0x14, 1).expect("ours");
        assert_eq!(regs.read32(0x14), Ok(1));
        assert_eq!(regs.read64(4096), Err(RegsError::Refused(4096)));
        gone.word32(0).expect("room").store(1);
        assert_eq!(regs.read32(0x1c), Err(RegsError::Gone));
        assert_eq!(regs.write32(0x14, 0), Err(RegsError::Gone));
        assert_eq!(bar.word32(0x14).expect("room").load(), 1);
    }
}
