//! Views of queue memory: the host's and the device's.
//!
//! An entry is reached by one compare and then atomic words; no reference to queue memory is ever
//! made. The host's views own their memory, so it can't return to the arena while they exist.
//! Indices are the caller's own and never come from a device; one beyond the queue is a bug and
//! panics.
//!
//! Orders: the host stores an SQE relaxed, the doorbell's Release fence publishes it. The device's
//! side stores the low half of a CQE, then the high half (with the phase tag) with Release; the
//! host loads the high half with Acquire before it looks at anything else (`// SYNC cqe`).

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use hybrid_shm::{OutOfBounds, Span};

use super::buf::SharedDma;
use super::error::DmaError;
use super::iova::Iova;
use super::prefetch::{prefetch_read, prefetch_write};

/// Bytes of a submission queue entry (CC.IOSQES = 6).
const SQE_BYTES: usize = 64;
/// Bytes of a completion queue entry (CC.IOCQES = 4).
const CQE_BYTES: usize = 16;
/// Bytes of a PRP entry.
const PRP_BYTES: usize = 8;
/// A queue holds at most 65,536 entries. NVMe Base 2.0, section 3.3.3.1.
const MAX_ENTRIES: u32 = 1 << 16;

/// Owned memory seen as `entries` entries of `WORDS` 64-bit words.
#[derive(Debug)]
struct Table<const WORDS: usize> {
    base: NonNull<AtomicU64>,
    entries: u32,
    memory: SharedDma,
}

impl<const WORDS: usize> Table<WORDS> {
    fn new(memory: SharedDma, entries: u32) -> Result<Self, DmaError> {
        let entry_bytes = WORDS * size_of::<u64>();
        let len = memory.len();
        if entries == 0
            || (entries as usize)
                .checked_mul(entry_bytes)
                .is_none_or(|n| n > len)
        {
            return Err(DmaError::Entries {
                entries,
                entry_bytes,
                len,
            });
        }
        // Blocks of an arena are aligned to 512 bytes, so words and entries are too.
        Ok(Self {
            base: memory.base().cast(),
            entries,
            memory,
        })
    }

    /// Word `word` of entry `index`; `word` is a constant below `WORDS` at every call.
    #[inline(always)]
    fn word(&self, index: u32, word: usize) -> &AtomicU64 {
        assert!(
            index < self.entries && word < WORDS,
            "entry {index} of {}",
            self.entries
        );
        // SAFETY: invariants 1 and 4: inside the block that `memory` keeps, and aligned; atomics
        // may alias each other.
        unsafe { self.base.add(index as usize * WORDS + word).as_ref() }
    }
}

/// A submission queue as the host sees it.
#[derive(Debug)]
pub struct SqMem(Table<{ SQE_BYTES / 8 }>);

impl SqMem {
    /// A queue of `entries` entries in `memory`.
    ///
    /// # Errors
    /// [`DmaError::Entries`] if they don't fit, or are none or more than 65,536.
    pub fn new(memory: SharedDma, entries: u32) -> Result<Self, DmaError> {
        checked(entries, SQE_BYTES, memory.len())?;
        Table::new(memory, entries).map(Self)
    }

    /// Writes an entry in place. The doorbell publishes it.
    ///
    /// # Panics
    /// If `index` is not below the number of entries: a bug of the caller.
    #[inline(always)]
    pub fn write(&self, index: u16, sqe: &[u64; 8]) {
        let index = u32::from(index);
        for (word, &value) in sqe.iter().enumerate() {
            self.0.word(index, word).store(value, Ordering::Relaxed);
        }
    }

    /// Asks the processor for the entry's line, to be written soon.
    #[inline(always)]
    pub fn prefetch(&self, index: u16) {
        let at = self
            .0
            .base
            .as_ptr()
            .wrapping_add(usize::from(index) * (SQE_BYTES / 8));
        prefetch_write(at.cast_const());
    }

    /// An entry as it stands, for dumps and tests.
    ///
    /// # Panics
    /// As for [`write`](Self::write).
    #[must_use]
    pub fn read(&self, index: u16) -> [u64; 8] {
        let index = u32::from(index);
        core::array::from_fn(|word| self.0.word(index, word).load(Ordering::Relaxed))
    }

    /// Number of entries.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.0.entries
    }

    /// The device's address of the queue.
    #[must_use]
    pub fn iova(&self) -> Iova {
        self.0.memory.iova()
    }

    /// Zeroes all entries.
    pub fn clear(&self) {
        self.0.memory.clear();
    }

    /// Gives the memory back, to be freed or quarantined.
    #[must_use]
    pub fn into_memory(self) -> SharedDma {
        self.0.memory
    }
}

/// A completion queue as the host sees it.
#[derive(Debug)]
pub struct CqMem(Table<{ CQE_BYTES / 8 }>);

impl CqMem {
    /// A queue of `entries` entries in `memory`.
    ///
    /// # Errors
    /// [`DmaError::Entries`] if they don't fit, or are none or more than 65,536.
    pub fn new(memory: SharedDma, entries: u32) -> Result<Self, DmaError> {
        checked(entries, CQE_BYTES, memory.len())?;
        Table::new(memory, entries).map(Self)
    }

    /// Dwords 2 (low half) and 3 (high half) of an entry: SQHD, SQID, CID, phase tag, status.
    ///
    /// # Panics
    /// If `index` is not below the number of entries: a bug of the caller.
    // SYNC cqe: what the device stored before the phase tag is visible after this.
    #[inline(always)]
    #[must_use]
    pub fn high(&self, index: u16) -> u64 {
        self.0.word(u32::from(index), 1).load(Ordering::Acquire)
    }

    /// Dwords 0 (low half) and 1 of an entry; only after [`high`](Self::high) showed its phase.
    ///
    /// # Panics
    /// As for [`high`](Self::high).
    #[inline(always)]
    #[must_use]
    pub fn low(&self, index: u16) -> u64 {
        self.0.word(u32::from(index), 0).load(Ordering::Relaxed)
    }

    /// Asks the processor for the entry's line.
    #[inline(always)]
    pub fn prefetch(&self, index: u16) {
        let at = self
            .0
            .base
            .as_ptr()
            .wrapping_add(usize::from(index) * (CQE_BYTES / 8));
        prefetch_read(at.cast_const());
    }

    /// Number of entries.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.0.entries
    }

    /// The device's address of the queue.
    #[must_use]
    pub fn iova(&self) -> Iova {
        self.0.memory.iova()
    }

    /// Zeroes all entries, phase tags included: before the queue is created (again).
    pub fn clear(&self) {
        self.0.memory.clear();
    }

    /// Gives the memory back, to be freed or quarantined.
    #[must_use]
    pub fn into_memory(self) -> SharedDma {
        self.0.memory
    }
}

/// PRP entries in DMA memory: one list page or many in a row.
#[derive(Debug)]
pub struct PrpList(Table<1>);

impl PrpList {
    /// As many entries as `memory` holds, 512 a page.
    ///
    /// # Errors
    /// [`DmaError::Entries`] if it holds none.
    pub fn new(memory: SharedDma) -> Result<Self, DmaError> {
        let len = memory.len();
        let entries = u32::try_from(len / PRP_BYTES).unwrap_or(u32::MAX);
        Table::new(memory, entries).map(Self)
    }

    /// Sets an entry. The doorbell publishes it.
    ///
    /// # Panics
    /// If `index` is not below [`entries`](Self::entries): a bug of the caller.
    #[inline(always)]
    pub fn set(&self, index: usize, iova: Iova) {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        self.0.word(index, 0).store(iova.0, Ordering::Relaxed);
    }

    /// An entry as it stands, for dumps and tests.
    ///
    /// # Panics
    /// As for [`set`](Self::set).
    #[must_use]
    pub fn get(&self, index: usize) -> Iova {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        Iova(self.0.word(index, 0).load(Ordering::Relaxed))
    }

    /// Number of entries.
    #[must_use]
    pub const fn entries(&self) -> usize {
        self.0.entries as usize
    }

    /// The device's address of the first entry.
    #[inline(always)]
    #[must_use]
    pub fn iova(&self) -> Iova {
        self.0.memory.iova()
    }

    /// The device's address of entry `index`.
    ///
    /// # Panics
    /// As for [`set`](Self::set).
    #[inline(always)]
    #[must_use]
    pub fn iova_of(&self, index: usize) -> Iova {
        assert!(
            index < self.entries(),
            "PRP entry {index} of {}",
            self.entries()
        );
        Iova(self.iova().0 + (index * PRP_BYTES) as u64)
    }
}

fn checked(entries: u32, entry_bytes: usize, len: usize) -> Result<(), DmaError> {
    if entries > MAX_ENTRIES {
        return Err(DmaError::Entries {
            entries,
            entry_bytes,
            len,
        });
    }
    Ok(())
}

/// A submission queue as the device sees it; the model's. Its indices come from the host, so a bad
/// one is an error.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSq(Span<'static>);

impl DeviceSq {
    /// A queue in `span`, which the device translated from the queue's address.
    #[must_use]
    pub const fn new(span: Span<'static>) -> Self {
        Self(span)
    }

    /// Copies an entry out: once, before it is looked at.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the entry is beyond the span or the span is not 8-byte aligned.
    #[inline]
    pub fn read(&self, index: u32) -> Result<[u64; 8], OutOfBounds> {
        let at = index as usize * SQE_BYTES;
        let entry = self.0.sub(at, SQE_BYTES)?;
        let mut sqe = [0; 8];
        for (word, value) in sqe.iter_mut().enumerate() {
            *value = entry.word64(word * 8)?.load();
        }
        Ok(sqe)
    }
}

/// A completion queue as the device sees it; the model's.
#[derive(Clone, Copy, Debug)]
pub struct DeviceCq(Span<'static>);

impl DeviceCq {
    /// A queue in `span`, which the device translated from the queue's address.
    #[must_use]
    pub const fn new(span: Span<'static>) -> Self {
        Self(span)
    }

    /// Posts an entry: dwords 0 and 1, then 2 and 3 with the phase tag.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the entry is beyond the span or the span is not 8-byte aligned.
    // SYNC cqe: pairs with `CqMem::high`.
    #[inline]
    pub fn post(&self, index: u32, low: u64, high: u64) -> Result<(), OutOfBounds> {
        let at = index as usize * CQE_BYTES;
        let (low_word, high_word) = (self.0.word64(at)?, self.0.word64(at + 8)?);
        low_word.store(low);
        high_word.store_release(high);
        Ok(())
    }
}
