//! Memory for spawned tasks: blocks of powers of two, carved once and used again.
//!
//! Called by [`Spawner::spawn`](super::Spawner::spawn), on the owning core only. A block keeps its
//! header for ever (stale wakers may look at it); after a task has ended, its block serves the next
//! task of its size or smaller. Blocks are never split nor joined.

use core::cell::Cell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::SpawnError;
use super::header::{TaskHeader, TaskRef};
use crate::mem::{Bump, OutOfMemory};

/// A line of task memory; its alignment is the header's.
#[repr(align(64))]
struct Line {
    _bytes: [u8; 64],
}

/// Size classes: bytes by their binary logarithm.
const CLASSES: usize = usize::BITS as usize;

/// Bump memory with free lists.
pub(super) struct TaskMemory {
    base: NonNull<u8>,
    len: usize,
    used: Cell<usize>,
    free: [Cell<Option<TaskRef>>; CLASSES],
}

impl TaskMemory {
    /// At least `bytes` bytes from `bump`, as whole lines.
    pub(super) fn new(bytes: usize, bump: &Bump) -> Result<Self, OutOfMemory> {
        let lines: &'static mut [MaybeUninit<Line>] =
            bump.slice_with(bytes.div_ceil(size_of::<Line>()), |_| MaybeUninit::uninit())?;
        Ok(Self {
            len: size_of_val(lines),
            base: NonNull::from(lines).cast(),
            used: Cell::new(0),
            free: [const { Cell::new(None) }; CLASSES],
        })
    }

    pub(super) const fn capacity(&self) -> usize {
        self.len
    }

    pub(super) fn used(&self) -> usize {
        self.used.get()
    }

    /// A free task in a block of at least `size` bytes.
    pub(super) fn take(&self, size: usize, align: usize) -> Result<TaskRef, SpawnError> {
        if align > align_of::<Line>() {
            return Err(SpawnError::Alignment { wanted: align, allowed: align_of::<Line>() });
        }
        let class = size.next_power_of_two().trailing_zeros() as usize;
        for list in &self.free[class..] {
            if let Some(task) = list.get() {
                list.set(task.header().next_free.take());
                return Ok(task);
            }
        }
        self.carve(class)
    }

    /// Takes back a free task; one in a caller's storage is left alone.
    pub(super) fn give_back(&self, task: TaskRef) {
        let header = task.header();
        let Some(class) = header.block.get() else {
            return;
        };
        let list = &self.free[usize::from(class)];
        header.next_free.set(list.replace(Some(task)));
    }

    fn carve(&self, class: usize) -> Result<TaskRef, SpawnError> {
        let size = 1 << class;
        let left = self.len - self.used.get();
        if size > left {
            return Err(SpawnError::TaskMemory { wanted: size, left, capacity: self.len });
        }
        // SAFETY: `used + size <= len`, and `base` starts `len` bytes that are ours for ever.
        let block = unsafe { self.base.add(self.used.get()) };
        self.used.set(self.used.get() + size);
        let header = block.cast::<TaskHeader>();
        // SAFETY: fresh bytes, aligned as a line (every block is a multiple of lines), and a block
        // is larger than a header because `size` is that of a whole storage.
        unsafe { header.write(TaskHeader::new()) };
        // SAFETY: invariant 1: the block lives for ever, and the pointer reaches all of it.
        let task = unsafe { TaskRef::new(header) };
        task.header().block.set(u8::try_from(class).ok());
        Ok(task)
    }
}
