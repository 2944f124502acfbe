//! A bounds-checked range of shared memory.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

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
        Self { base, len, mapping: PhantomData }
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
    #[inline]
    pub fn sub(&self, offset: usize, len: usize) -> Result<Span<'m>, OutOfBounds> {
        let base = self.at(offset, len)?;
        Ok(Span { base, len, mapping: PhantomData })
    }

    /// The aligned 32-bit word at `offset`.
    ///
    /// # Errors
    /// [`OutOfBounds`] if it leaves the span or is not 4-byte aligned.
    #[inline]
    pub fn word32(&self, offset: usize) -> Result<Word32<'m>, OutOfBounds> {
        let at = self.aligned(offset, size_of::<u32>())?.cast::<AtomicU32>();
        // SAFETY: invariants 1, 3 and 4; atomics may alias each other.
        Ok(Word32::new(unsafe { at.as_ref() }))
    }

    /// The aligned 64-bit word at `offset`.
    ///
    /// # Errors
    /// [`OutOfBounds`] if it leaves the span or is not 8-byte aligned.
    #[inline]
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
    #[inline]
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
    #[inline]
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
    #[inline]
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
    #[inline]
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
            return Err(OutOfBounds { offset, len, span_len: self.len });
        }
        // SAFETY: `offset <= self.len`, so the result is inside or one past the mapping.
        Ok(unsafe { self.base.add(offset) })
    }

    /// Invariants 3 and 4.
    #[inline]
    fn aligned(&self, offset: usize, size: usize) -> Result<NonNull<u8>, OutOfBounds> {
        let at = self.at(offset, size)?;
        if at.addr().get() % size != 0 {
            return Err(OutOfBounds { offset, len: size, span_len: self.len });
        }
        Ok(at)
    }
}

/// A span that its holder may only read, such as the peer's side of a ring.
///
/// It may be mapped read-only, so its words are loaded Relaxed with a fence behind: the only atomic
/// access that the language allows there.
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
    #[inline]
    pub fn sub(&self, offset: usize, len: usize) -> Result<ReadSpan<'m>, OutOfBounds> {
        self.0.sub(offset, len).map(ReadSpan)
    }

    /// Copies `dst.len()` bytes from `offset` out of the span.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the range leaves the span.
    #[inline]
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
    #[inline]
    pub fn word32(&self, offset: usize) -> Result<ReadWord32<'m>, OutOfBounds> {
        self.0.word32(offset).map(ReadWord32::new)
    }

    /// The 32-bit word at `offset`, loaded with Acquire.
    ///
    /// # Errors
    /// [`OutOfBounds`] if it leaves the span or is not aligned.
    pub fn load32(&self, offset: usize) -> Result<u32, OutOfBounds> {
        let word = self.0.word32(offset)?.load();
        fence(Ordering::Acquire);
        Ok(word)
    }

    /// The 64-bit word at `offset`, loaded with Acquire.
    ///
    /// # Errors
    /// [`OutOfBounds`] if it leaves the span or is not aligned.
    pub fn load64(&self, offset: usize) -> Result<u64, OutOfBounds> {
        let word = self.0.word64(offset)?.load();
        fence(Ordering::Acquire);
        Ok(word)
    }
}

impl hybrid_abi::probe::view::Memory for ReadSpan<'_> {
    fn load64(&self, offset: usize) -> Option<u64> {
        ReadSpan::load64(self, offset).ok()
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        ReadSpan::read(self, offset, into).is_ok()
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::heap::{leak_aligned, leak_zeroed};
    use std::vec;

    /// Offsets and lengths around every border, and the ones whose sum overflows.
    const EDGES: [usize; 12] = [0, 1, 3, 4, 7, 8, 15, 16, 17, 64, usize::MAX - 7, usize::MAX];

    #[test]
    fn every_access_is_inside_or_refused() {
        let span = leak_zeroed(16);
        for offset in EDGES {
            for len in EDGES {
                let inside = offset.checked_add(len).is_some_and(|end| end <= 16);
                assert_eq!(span.sub(offset, len).is_ok(), inside, "sub {offset} + {len}");
                assert_eq!(span.fill(offset, len, 1).is_ok(), inside, "fill {offset} + {len}");
                let moved = span.copy_from(offset, span, 0, len);
                assert_eq!(moved.is_ok(), inside && len <= 16, "copy to {offset} + {len}");
                let moved = span.copy_from(0, span, offset, len);
                assert_eq!(moved.is_ok(), inside && len <= 16, "copy from {offset} + {len}");
                if len <= 64 {
                    let mut bytes = vec![0; len];
                    assert_eq!(span.read(offset, &mut bytes).is_ok(), inside);
                    assert_eq!(span.read_only().read(offset, &mut bytes).is_ok(), inside);
                    assert_eq!(span.write(offset, &bytes).is_ok(), inside);
                }
            }
        }
    }

    #[test]
    fn a_word_is_inside_and_aligned_or_refused() {
        let span = leak_zeroed(16);
        for offset in EDGES {
            let fits = |size: usize| {
                let inside = offset.checked_add(size).is_some_and(|end| end <= 16);
                inside && offset.is_multiple_of(size)
            };
            assert_eq!(span.word32(offset).is_ok(), fits(4), "u32 at {offset}");
            assert_eq!(span.word64(offset).is_ok(), fits(8), "u64 at {offset}");
            assert_eq!(span.read_only().load32(offset).is_ok(), fits(4), "u32 at {offset}");
            assert_eq!(span.read_only().load64(offset).is_ok(), fits(8), "u64 at {offset}");
        }
        let crooked = leak_zeroed(32).sub(2, 20).expect("inside");
        assert!(crooked.word32(0).is_err(), "the address counts, not the offset");
        assert!(crooked.word32(2).is_ok());
        assert!(crooked.word64(6).is_ok());
    }

    #[test]
    fn an_error_says_what_was_wanted() {
        let error = leak_zeroed(16).sub(9, 8).expect_err("beyond");
        assert_eq!(error, OutOfBounds { offset: 9, len: 8, span_len: 16 });
        let text = "access of 8 bytes at offset 9 does not fit a span of 16 bytes";
        assert_eq!(std::format!("{error}"), text);
    }

    #[test]
    fn a_sub_span_starts_at_its_offset_and_ends_at_its_length() {
        let span = leak_zeroed(32);
        let sub = span.sub(8, 8).expect("inside");
        sub.write(0, &[1, 2, 3, 4, 5, 6, 7, 8]).expect("inside");
        assert!(sub.write(1, &[0; 8]).is_err());
        assert!(sub.word64(8).is_err());
        assert_eq!(span.word64(8).map(|w| w.load()), Ok(0x0807_0605_0403_0201));
        assert_eq!(span.read_only().sub(8, 8).and_then(|s| s.load32(4)), Ok(0x0807_0605));
        assert!(span.sub(32, 0).expect("the end is inside").is_empty());
    }

    #[test]
    fn copies_may_overlap() {
        let span = leak_zeroed(8);
        span.write(0, &[1, 2, 3, 4, 5, 6, 7, 8]).expect("inside");
        span.copy_from(2, span, 0, 6).expect("inside");
        let mut bytes = [0; 8];
        span.read(0, &mut bytes).expect("inside");
        assert_eq!(bytes, [1, 2, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn what_was_stored_before_a_release_is_seen_after_the_acquire() {
        let span = leak_zeroed(64);
        let (ready, reader) = (span.word32(0).expect("aligned"), span.read_only());
        let other = std::thread::spawn(move || {
            while reader.load32(0) != Ok(1) {
                std::thread::yield_now();
            }
            let mut bytes = [0; 8];
            reader.read(8, &mut bytes).map(|()| bytes)
        });
        span.write(8, b"complete").expect("inside");
        ready.store_release(1);
        assert_eq!(other.join().expect("no panic"), Ok(*b"complete"));
    }

    #[test]
    fn heap_spans_are_zeroed_and_aligned() {
        for align in [1, 64, 4096, 1 << 21] {
            let span = leak_aligned(100, align);
            assert!(span.as_ptr().addr().is_multiple_of(align));
            let mut bytes = [1; 100];
            span.read(0, &mut bytes).expect("inside");
            assert_eq!(bytes, [0; 100]);
        }
        assert!(leak_zeroed(0).is_empty());
    }
}
