//! Registered buffers of one size, handed out without an allocation.
//!
//! Owned by a reactor's source. The memory is one piece, registered once when the rings are made;
//! [`BufferPool::acquire`] takes a number off a list and [`BufferPool::release`] puts it back. A
//! pool that is empty says so, counts it, and whoever asked tries again later: back-pressure.

use hybrid_shm::Span;

use crate::sys::uring::Buf;

/// Shape of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// Buffers.
    pub count: u16,
    /// Bytes of each.
    pub bytes: u32,
}

impl Default for PoolOptions {
    /// 256 buffers of 64 KiB: 16 MiB.
    fn default() -> Self {
        Self { count: 256, bytes: 64 << 10 }
    }
}

impl PoolOptions {
    /// Bytes of the memory behind it.
    #[must_use]
    pub const fn total_bytes(&self) -> usize {
        self.count as usize * self.bytes as usize
    }
}

/// A buffer that was handed out. Not copied: whoever has it gives it back.
#[derive(Debug, PartialEq, Eq)]
pub struct PoolBuf(u16);

impl PoolBuf {
    /// Its number, for whoever keeps it in a word.
    #[must_use]
    pub const fn index(&self) -> u16 {
        self.0
    }
}

/// A pool of registered buffers.
#[derive(Debug)]
pub struct BufferPool {
    memory: Span<'static>,
    bytes: u32,
    fixed: Option<u16>,
    free: Vec<u16>,
    exhausted: u64,
}

impl BufferPool {
    /// A pool over `memory`, which is the registered buffer `fixed`, if it is registered. There are
    /// as many buffers as fit.
    #[must_use]
    pub fn new(memory: Span<'static>, options: PoolOptions, fixed: Option<u16>) -> Self {
        let bytes = options.bytes.max(1);
        let fits = memory.len() / bytes as usize;
        let count = u16::try_from(fits).unwrap_or(u16::MAX).min(options.count);
        Self { memory, bytes, fixed, free: (0..count).rev().collect(), exhausted: 0 }
    }

    /// A buffer, the one that was given back last: its lines are still near.
    pub fn acquire(&mut self) -> Option<PoolBuf> {
        let index = self.free.pop();
        if index.is_none() {
            self.exhausted += 1;
        }
        index.map(PoolBuf)
    }

    /// Gives a buffer back. Nothing may be in flight on it.
    pub fn release(&mut self, buf: PoolBuf) {
        // As many as there are fit: the list was made with all of them.
        self.free.push(buf.0);
    }

    /// The first `len` bytes of a buffer, for an operation.
    #[must_use]
    pub fn buf(&self, buf: &PoolBuf, len: u32) -> Option<Buf> {
        let span = self.span(buf)?.sub(0, len as usize).ok()?;
        Some(Buf { span, fixed: self.fixed })
    }

    /// The bytes of a buffer.
    #[must_use]
    pub fn span(&self, buf: &PoolBuf) -> Option<Span<'static>> {
        let at = usize::from(buf.0) * self.bytes as usize;
        self.memory.sub(at, self.bytes as usize).ok()
    }

    /// Bytes of a buffer.
    #[must_use]
    pub const fn buf_bytes(&self) -> u32 {
        self.bytes
    }

    /// Buffers that can be had now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// How often somebody asked in vain.
    #[must_use]
    pub const fn exhausted(&self) -> u64 {
        self.exhausted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_pool_says_so_and_serves_again_when_one_comes_back() {
        let options = PoolOptions { count: 4, bytes: 4096 };
        let memory = hybrid_shm::leak_aligned(options.total_bytes(), 4096);
        let mut pool = BufferPool::new(memory, options, Some(3));
        let mut held: Vec<_> = std::iter::from_fn(|| pool.acquire()).collect();
        assert_eq!((held.len(), pool.available(), pool.exhausted()), (4, 0, 1));
        let mut starts: Vec<_> =
            held.iter().map(|buf| pool.span(buf).expect("its bytes").as_ptr() as usize).collect();
        starts.sort_unstable();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == 4096), "apart: {starts:?}");
        let last = held.pop().expect("four");
        let index = last.index();
        pool.release(last);
        let again = pool.acquire().expect("one came back");
        assert_eq!(again.index(), index);
        let buf = pool.buf(&again, 512).expect("inside");
        assert_eq!((buf.len(), buf.fixed), (512, Some(3)));
        assert!(pool.buf(&again, 4097).is_none(), "beyond the buffer");
    }

    #[test]
    fn the_default_is_sixteen_mebibytes() {
        assert_eq!(PoolOptions::default().total_bytes(), 16 << 20);
    }

    #[test]
    fn acquire_and_release_do_not_allocate() {
        let options = PoolOptions { count: 64, bytes: 512 };
        let memory = hybrid_shm::leak_aligned(options.total_bytes(), 4096);
        let mut pool = BufferPool::new(memory, options, None);
        let before = pool.free.capacity();
        for _ in 0..1000 {
            let held: [_; 64] = std::array::from_fn(|_| pool.acquire());
            held.into_iter().flatten().for_each(|buf| pool.release(buf));
        }
        assert_eq!(pool.free.capacity(), before, "the list never grew");
    }
}
