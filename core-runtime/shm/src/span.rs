//! A bounds-checked range of shared memory.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64};

use crate::word::{ReadWord32, Word32, Word64};

/// An access that would leave the span, or a word that is not aligned to its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBounds {
    /// First byte of the access, from the span's start.
    pub offset: usize,
    /// Length of the access in bytes.
    pub len: usize,
    /// Length of the span in bytes.
    pub span_len: usize,
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "access of {} bytes at offset {} does not fit a span of {} bytes",
            self.len, self.offset, self.span_len
        )
    }
}

impl core::error::Error for OutOfBounds {}

/// A range of mapped memory that someone else may read and write at any time.
#[derive(Clone, Copy)]
pub struct Span<'m> {
    base: NonNull<u8>,
    len: usize,
    mapping: PhantomData<&'m ()>,
}

// SAFETY: invariants 1 and 2; every access is atomic or a copy, so any thread may make it.
unsafe impl Send for Span<'_> {}
// SAFETY: as for Send.
unsafe impl Sync for Span<'_> {}

impl fmt::Debug for Span<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Span({:p}, {} bytes)", self.base, self.len)
    }
}

impl<'m> Span<'m> {
    /// Makes a span of `len` bytes from `base`.
    ///
    /// # Safety
    /// The bytes stay mapped, readable and writable for `'m`, and no Rust reference to them is used
    /// meanwhile (invariants 1 and 2).
    #[must_use]
    pub const unsafe fn from_raw(base: NonNull<u8>, len: usize) -> Self {
        Self {
            base,
            len,
            mapping: PhantomData,
        }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the span has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first byte's address, for system calls and for owner types; never dereferenced here.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The range `offset .. offset + len` as a span of its own.
    ///
    /// # Errors
    /// [`OutOfBounds`] if it leaves this span.
    pub fn sub(&self, offset: usize, len: usize) -> Result<Span<'m>, OutOfBounds> {
        let base = self.at(offset, len)?;
        Ok(Span {
            base,
            len,
            mapping: PhantomData,
        })
    }

    /// The aligned 32-bit word at `offset`.
    ///
    /// # Errors
    /// [`OutOfBounds`] if it leaves the span or is not 4-byte aligned.
    pub fn word32(&self, offset: usize) -> Result<Word32<'m>, OutOfBounds> {
        let at = self.aligned(offset, size_of::<u32>())?.cast::<AtomicU32>();
        // SAFETY: invariants 1, 3 and 4; atomics may alias each other.
        Ok(Word32::new(unsafe { at.as_ref() }))
    }

    /// The aligned 64-bit word at `offset`.
    ///
    /// # Errors
    /// [`OutOfBounds`] if it leaves the span or is not 8-byte aligned.
    pub fn word64(&self, offset: usize) -> Result<Word64<'m>, OutOfBounds> {
        let at = self.aligned(offset, size_of::<u64>())?.cast::<AtomicU64>();
        // SAFETY: invariants 1, 3 and 4; atomics may alias each other.
        Ok(Word64::new(unsafe { at.as_ref() }))
    }

    /// Copies `dst.len()` bytes from `offset` out of the span.
    ///
    /// What arrives may be torn where the other side writes at the same time: validate it after.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the range leaves the span.
    pub fn read(&self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfBounds> {
        let src = self.at(offset, dst.len())?;
        // SAFETY: invariants 1 to 3; `dst` is a reference, so it cannot overlap the span.
        unsafe { core::ptr::copy_nonoverlapping(src.as_ptr(), dst.as_mut_ptr(), dst.len()) };
        Ok(())
    }

    /// Copies `src` to `offset` of the span.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the range leaves the span.
    pub fn write(&self, offset: usize, src: &[u8]) -> Result<(), OutOfBounds> {
        let dst = self.at(offset, src.len())?;
        // SAFETY: invariants 1 to 3; `src` is a reference, so it cannot overlap the span.
        unsafe { core::ptr::copy_nonoverlapping(src.as_ptr(), dst.as_ptr(), src.len()) };
        Ok(())
    }

    /// Sets `len` bytes from `offset` to `byte`.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the range leaves the span.
    pub fn fill(&self, offset: usize, len: usize, byte: u8) -> Result<(), OutOfBounds> {
        let dst = self.at(offset, len)?;
        // SAFETY: invariants 1 to 3.
        unsafe { core::ptr::write_bytes(dst.as_ptr(), byte, len) };
        Ok(())
    }

    /// Copies `len` bytes from `src_offset` of `src` to `offset` of this span; they may overlap.
    ///
    /// # Errors
    /// [`OutOfBounds`] if either range leaves its span.
    pub fn copy_from(
        &self,
        offset: usize,
        src: Span<'_>,
        src_offset: usize,
        len: usize,
    ) -> Result<(), OutOfBounds> {
        let from = src.at(src_offset, len)?;
        let to = self.at(offset, len)?;
        // SAFETY: invariants 1 to 3; `copy` allows overlap.
        unsafe { core::ptr::copy(from.as_ptr(), to.as_ptr(), len) };
        Ok(())
    }

    /// This span, for a side that must not write it.
    #[must_use]
    pub const fn read_only(self) -> ReadSpan<'m> {
        ReadSpan(self)
    }

    /// Invariant 3: the address of `offset .. offset + len`, or the error.
    #[inline]
    fn at(&self, offset: usize, len: usize) -> Result<NonNull<u8>, OutOfBounds> {
        if offset > self.len || len > self.len - offset {
            return Err(OutOfBounds {
                offset,
                len,
                span_len: self.len,
            });
        }
        // SAFETY: `offset <= self.len`, so the result is inside or one past the mapping.
        Ok(unsafe { self.base.add(offset) })
    }

    /// Invariants 3 and 4.
    #[inline]
    fn aligned(&self, offset: usize, size: usize) -> Result<NonNull<u8>, OutOfBounds> {
        let at = self.at(offset, size)?;
        if at.addr().get() % size != 0 {
            return Err(OutOfBounds {
                offset,
                len: size,
                span_len: self.len,
            });
        }
        Ok(at)
    }
}

/// A span that its holder may only read, such as the peer's side of a ring.
#[derive(Clone, Copy, Debug)]
pub struct ReadSpan<'m>(Span<'m>);

impl<'m> ReadSpan<'m> {
    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the span has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The range `offset .. offset + len` as a span of its own.
    ///
    /// # Errors
    /// [`OutOfBounds`] if it leaves this span.
    pub fn sub(&self, offset: usize, len: usize) -> Result<ReadSpan<'m>, OutOfBounds> {
        self.0.sub(offset, len).map(ReadSpan)
    }

    /// Copies `dst.len()` bytes from `offset` out of the span.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the range leaves the span.
    pub fn read(&self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfBounds> {
        self.0.read(offset, dst)
    }

    /// The first byte's address, for owner types that only load from it; never dereferenced here.
    #[must_use]
    pub const fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }

    /// The aligned 32-bit word at `offset`.
    ///
    /// # Errors
    /// [`OutOfBounds`] if it leaves the span or is not 4-byte aligned.
    pub fn word32(&self, offset: usize) -> Result<ReadWord32<'m>, OutOfBounds> {
        self.0.word32(offset).map(ReadWord32::new)
    }

    /// The 32-bit word at `offset`, loaded with Acquire.
    ///
    /// # Errors
    /// [`OutOfBounds`] if it leaves the span or is not aligned.
    pub fn load32(&self, offset: usize) -> Result<u32, OutOfBounds> {
        Ok(self.0.word32(offset)?.load_acquire())
    }

    /// The 64-bit word at `offset`, loaded with Acquire.
    ///
    /// # Errors
    /// [`OutOfBounds`] if it leaves the span or is not aligned.
    pub fn load64(&self, offset: usize) -> Result<u64, OutOfBounds> {
        Ok(self.0.word64(offset)?.load_acquire())
    }
}
