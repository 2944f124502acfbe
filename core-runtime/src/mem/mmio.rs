//! Control registers of a mapped device: volatile accesses of 4 and 8 bytes, and no others.
//!
//! Made by a backend that has a BAR mapped; used at bring-up, reset, shutdown, and for CSTS. The
//! compiler may neither merge, widen nor repeat these accesses. What is read is an allegation: a
//! device that is gone reads as all ones.

use core::ptr::NonNull;

use hybrid_shm::{OutOfBounds, Span};
use volatile::VolatilePtr;
use volatile::access::ReadWrite;

/// Mapped registers.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    span: Span<'static>,
}

impl Mmio {
    /// Registers in `span`, whose first byte is the one at offset 0.
    #[must_use]
    pub const fn new(span: Span<'static>) -> Self {
        Self { span }
    }

    /// Reads 4 bytes.
    ///
    /// # Errors
    /// [`OutOfBounds`] beyond the mapping or off a 4-byte boundary.
    pub fn read32(&self, offset: usize) -> Result<u32, OutOfBounds> {
        self.span.word32(offset)?;
        Ok(self.register::<u32>(offset)?.read())
    }

    /// Reads 8 bytes in one access.
    ///
    /// # Errors
    /// [`OutOfBounds`] beyond the mapping or off an 8-byte boundary.
    pub fn read64(&self, offset: usize) -> Result<u64, OutOfBounds> {
        self.span.word64(offset)?;
        Ok(self.register::<u64>(offset)?.read())
    }

    /// Writes 4 bytes.
    ///
    /// # Errors
    /// [`OutOfBounds`] beyond the mapping or off a 4-byte boundary.
    pub fn write32(&self, offset: usize, value: u32) -> Result<(), OutOfBounds> {
        self.span.word32(offset)?;
        self.register::<u32>(offset)?.write(value);
        Ok(())
    }

    /// Writes 8 bytes in one access.
    ///
    /// # Errors
    /// [`OutOfBounds`] beyond the mapping or off an 8-byte boundary.
    pub fn write64(&self, offset: usize, value: u64) -> Result<(), OutOfBounds> {
        self.span.word64(offset)?;
        self.register::<u64>(offset)?.write(value);
        Ok(())
    }

    /// The register at `offset`, of a `T` that the caller has checked the alignment for.
    fn register<T: Copy>(
        &self,
        offset: usize,
    ) -> Result<VolatilePtr<'static, T, ReadWrite>, OutOfBounds> {
        let bytes = self.span.sub(offset, size_of::<T>())?;
        let at = NonNull::new(bytes.as_ptr()).expect("nothing is mapped at address 0").cast::<T>();
        // SAFETY: invariant 1; `sub` checked the bounds, `word32` or `word64` the alignment, and
        // nobody makes a reference to a register. Every bit pattern is a valid integer.
        Ok(unsafe { VolatilePtr::new(at) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hybrid_shm::leak_zeroed;

    #[test]
    fn registers_are_read_and_written_at_their_width_and_place() {
        let span = leak_zeroed(4096);
        let regs = Mmio::new(span);
        regs.write32(0x14, 0x0046_0001).unwrap();
        regs.write64(0x28, 0x1234_5678_9abc_def0).unwrap();
        assert_eq!(regs.read32(0x14), Ok(0x0046_0001));
        assert_eq!(regs.read64(0x28), Ok(0x1234_5678_9abc_def0));
        assert_eq!(regs.read32(0x28), Ok(0x9abc_def0));
        assert_eq!(span.word32(0x18).unwrap().load(), 0, "its neighbour is untouched");
    }

    #[test]
    fn accesses_off_their_boundary_or_beyond_the_mapping_are_refused() {
        let regs = Mmio::new(leak_zeroed(4096));
        assert!(regs.read32(4096).is_err());
        assert!(regs.read64(4092).is_err());
        assert!(regs.write32(0x15, 0).is_err());
        assert!(regs.write64(0x14, 0).is_err());
        assert!(regs.read32(usize::MAX - 3).is_err());
    }
}
