//! Private partition memory that is handed out once and never taken back.
//!
//! Everything that lives as long as its partition is made here, before the partition runs: task
//! storage, slots, tables, the bookkeeping of the DMA arena. Nothing is ever dropped. The memory is
//! not mapped for any device.

use core::cell::Cell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use thiserror::Error;

/// The bump memory is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{wanted} bytes of partition memory wanted, {left} of {capacity} left")]
pub struct OutOfMemory {
    /// Bytes asked for, alignment not counted.
    pub wanted: usize,
    /// Bytes left.
    pub left: usize,
    /// Bytes in all.
    pub capacity: usize,
}

/// Memory for the life of a partition. It may move to the partition's thread, but is not shared.
#[derive(Debug)]
pub struct Bump {
    base: NonNull<u8>,
    len: usize,
    used: Cell<usize>,
}

// SAFETY: a `Bump` owns its unused bytes alone (`from_raw`); what it handed out it never touches.
unsafe impl Send for Bump {}

impl Bump {
    /// Takes over `len` bytes at `base`.
    ///
    /// # Safety
    /// The bytes are mapped, readable and writable for the rest of the process's life, and nobody
    /// else uses them from now on.
    #[must_use]
    pub const unsafe fn from_raw(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len, used: Cell::new(0) }
    }

    /// `len` bytes from the heap, never freed, from a cache line's start on: for tests, the model
    /// and tools.
    #[cfg(any(test, feature = "std"))]
    #[must_use]
    pub fn leak(len: usize) -> Self {
        let span = hybrid_shm::leak_aligned(len, 64);
        let base = NonNull::new(span.as_ptr()).unwrap_or(NonNull::dangling());
        // SAFETY: leaked, and the only span of it ends here.
        unsafe { Self::from_raw(base, len) }
    }

    /// Moves `value` into bump memory; it is never dropped.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the memory is used up; the value is dropped then.
    pub fn alloc<T: 'static>(&self, value: T) -> Result<&'static T, OutOfMemory> {
        self.alloc_mut(value).map(|at| &*at)
    }

    /// Moves `value` into bump memory; it is never dropped.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the memory is used up; the value is dropped then.
    pub fn alloc_mut<T: 'static>(&self, value: T) -> Result<&'static mut T, OutOfMemory> {
        let at = self.carve(size_of::<T>(), align_of::<T>())?.cast::<MaybeUninit<T>>();
        // SAFETY: `carve` gave bytes of the right size and alignment that nobody else has.
        Ok(unsafe { &mut *at.as_ptr() }.write(value))
    }

    /// A slice of `count` values, each made by `make` from its index.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the memory is used up; `make` was not called then.
    pub fn slice_with<T: 'static>(
        &self,
        count: usize,
        mut make: impl FnMut(usize) -> T,
    ) -> Result<&'static mut [T], OutOfMemory> {
        let size = size_of::<T>().checked_mul(count).ok_or(self.error(usize::MAX))?;
        let at = self.carve(size, align_of::<T>())?.cast::<T>();
        for index in 0..count {
            // SAFETY: inside the `count` values that `carve` gave, and nobody else has them.
            unsafe { at.add(index).write(make(index)) };
        }
        // SAFETY: all `count` values were written above, and the reference is the only one.
        Ok(unsafe { &mut *NonNull::slice_from_raw_parts(at, count).as_ptr() })
    }

    /// Bytes handed out, alignment gaps included.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.get()
    }

    /// Bytes in all.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.len
    }

    /// `size` fresh bytes aligned to `align`; never the same byte twice.
    fn carve(&self, size: usize, align: usize) -> Result<NonNull<u8>, OutOfMemory> {
        let used = self.used.get();
        let gap = (self.base.addr().get() + used).wrapping_neg() & (align - 1);
        let left = self.len - used;
        if gap > left || size > left - gap {
            return Err(self.error(size));
        }
        self.used.set(used + gap + size);
        // SAFETY: `used + gap + size <= len`, so the address is inside the bytes of `from_raw`.
        Ok(unsafe { self.base.add(used + gap) })
    }

    fn error(&self, wanted: usize) -> OutOfMemory {
        OutOfMemory { wanted, left: self.len - self.used.get(), capacity: self.len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_aligned_and_apart() {
        let bump = Bump::leak(256);
        let a = bump.alloc_mut(1_u8).unwrap();
        let b = bump.alloc_mut(2_u64).unwrap();
        let c = bump.slice_with(3, |i| i * 10).unwrap();
        *a = 7;
        *b = 8;
        c[1] = 9;
        assert_eq!((*a, *b, &*c), (7, 8, &[0, 9, 20][..]));
        assert_eq!((&raw const *b).addr() % 8, 0);
        assert!(bump.used() >= 1 + 8 + 24 && bump.used() <= 48);
    }

    #[test]
    fn a_full_bump_says_how_much_is_left() {
        let bump = Bump::leak(64);
        let _ = bump.slice_with(60, |_| 0_u8).unwrap();
        let error = bump.slice_with(5, |_| 0_u8).unwrap_err();
        assert_eq!((error.wanted, error.left, error.capacity), (5, 4, 64));
        assert!(bump.slice_with(4, |_| 0_u8).is_ok());
        assert!(bump.alloc(0_u8).is_err());
        assert!(bump.slice_with(usize::MAX, |_| 0_u64).is_err());
    }

    #[test]
    fn zero_sized_values_take_nothing() {
        let bump = Bump::leak(0);
        assert!(bump.alloc(()).is_ok());
        assert_eq!(bump.slice_with(5, |_| ()).unwrap().len(), 5);
    }
}
