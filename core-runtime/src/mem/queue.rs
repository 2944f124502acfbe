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
use super::prefetch::prefetch_read;

/// Bytes of a submission queue entry (CC.IOSQES = 6).
const SQE_BYTES: usize = 64;
/// Bytes of a completion queue entry (CC.IOCQES = 4).
const CQE_BYTES: usize = 16;
/// Bytes of a PRP entry.
const PRP_BYTES: usize = 8;
/// A queue holds at most 65,536 entries. NVMe Base 2.0, section 3.3.3.1.
const MAX_ENTRIES: u32 = 1 << 16;

/// Stores eight words as four aligned pairs with the instruction named.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(miri)))]
macro_rules! store_pairs {
    ($store:literal, $entry:expr, $sqe:expr) => {{
        use core::arch::x86_64::_mm_set_epi64x;
        let sqe: &[u64; 8] = $sqe;
        let pair = |low: usize| {
            // SAFETY: built for processors with SSE2.
            unsafe { _mm_set_epi64x(sqe[low + 1].cast_signed(), sqe[low].cast_signed()) }
        };
        // SAFETY: invariants 1 and 4: 64 bytes, aligned to 16 (entries are aligned to their size).
        // The stores are opaque to the compiler, and to the processor each is two aligned words,
        // either of them written at once, as relaxed atomic stores are.
        unsafe {
            core::arch::asm!(
                concat!($store, " [{at}], {a}"),
                concat!($store, " [{at} + 16], {b}"),
                concat!($store, " [{at} + 32], {c}"),
                concat!($store, " [{at} + 48], {d}"),
                at = in(reg) $entry.as_ptr(),
                a = in(xmm_reg) pair(0),
                b = in(xmm_reg) pair(2),
                c = in(xmm_reg) pair(4),
                d = in(xmm_reg) pair(6),
                options(nostack, preserves_flags)
            );
        }
    }};
}

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
        if entries == 0 || (entries as usize).checked_mul(entry_bytes).is_none_or(|n| n > len) {
            return Err(DmaError::Entries { entries, entry_bytes, len });
        }
        // Blocks of an arena are aligned to 512 bytes, so words and entries are too.
        Ok(Self { base: memory.base().cast(), entries, memory })
    }

    /// The words of entry `index`.
    #[inline(always)]
    fn entry(&self, index: u32) -> &[AtomicU64; WORDS] {
        assert!(index < self.entries, "entry {index} of {}", self.entries);
        // SAFETY: invariants 1 and 4: inside the block that `memory` keeps, and aligned; atomics
        // may alias each other.
        unsafe { self.base.add(index as usize * WORDS).cast().as_ref() }
    }

    /// Word `word` of entry `index`; `word` is a constant below `WORDS` at every call.
    #[inline(always)]
    fn word(&self, index: u32, word: usize) -> &AtomicU64 {
        assert!(index < self.entries && word < WORDS, "entry {index} of {}", self.entries);
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
        // One check and one address for all words: after a store the compiler would have to load
        // both again.
        store_entry(self.0.entry(u32::from(index)), sqe);
    }

    /// Writes an entry past the caches. Before the doorbell that publishes it comes
    /// [`settle`](Self::settle).
    ///
    /// An ordinary store to a line that the device's core has read waits until the line has come
    /// back from there, and so do all stores behind it. This one sends the whole line away. What
    /// it costs is the way to memory, which the device then goes for the entry: for one entry that
    /// is longer, for several together it is shorter.
    ///
    /// # Panics
    /// As for [`write`](Self::write).
    #[inline(always)]
    pub fn stream(&self, index: u16, sqe: &[u64; 8]) {
        stream_entry(self.0.entry(u32::from(index)), sqe);
    }

    /// All entries streamed before are visible to a device that sees what is stored after.
    #[inline(always)]
    pub fn settle(&self) {
        #[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(miri)))]
        // SAFETY: orders stores, and touches nothing.
        unsafe {
            core::arch::asm!("sfence", options(nostack, preserves_flags));
        }
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
        let at = self.0.base.as_ptr().wrapping_add(usize::from(index) * (CQE_BYTES / 8));
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
        assert!(index < self.entries(), "PRP entry {index} of {}", self.entries());
        Iova(self.iova().0 + (index * PRP_BYTES) as u64)
    }
}

/// Stores an entry: four stores of 16 bytes. Eight of 8 bytes fill the store buffer twice as fast,
/// and once it is full each further one waits until a line has come from the device's core.
#[inline(always)]
fn store_entry(entry: &[AtomicU64; SQE_BYTES / 8], sqe: &[u64; 8]) {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(miri)))]
    store_pairs!("movaps", entry, sqe);
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2", not(miri))))]
    store_words(entry, sqe);
}

/// Stores an entry past the caches, a whole line at once.
#[inline(always)]
fn stream_entry(entry: &[AtomicU64; SQE_BYTES / 8], sqe: &[u64; 8]) {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(miri)))]
    store_pairs!("movntps", entry, sqe);
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2", not(miri))))]
    store_words(entry, sqe);
}

#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2", not(miri))))]
#[inline(always)]
fn store_words(entry: &[AtomicU64; SQE_BYTES / 8], sqe: &[u64; 8]) {
    for (word, &value) in entry.iter().zip(sqe) {
        word.store(value, Ordering::Relaxed);
    }
}

fn checked(entries: u32, entry_bytes: usize, len: usize) -> Result<(), DmaError> {
    if entries > MAX_ENTRIES {
        return Err(DmaError::Entries { entries, entry_bytes, len });
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

#[cfg(test)]
mod tests {
    use super::super::arena::DmaArena;
    use super::super::doorbell::DoorbellRegion;
    use super::super::map::DmaMap;
    use super::*;

    fn arena() -> (&'static DmaArena, DmaMap) {
        let arena = DmaArena::leak(64 << 10, Iova(0x7_0000_0000)).unwrap();
        let mut map = DmaMap::new();
        map.map(arena.region()).unwrap();
        (arena, map)
    }

    #[test]
    fn what_the_host_writes_the_device_reads() {
        let (arena, map) = arena();
        let sq = SqMem::new(arena.alloc_shared(4096, 4096).unwrap(), 64).unwrap();
        let device = DeviceSq::new(map.translate(sq.iova(), 4096).unwrap());
        let sqe: [u64; 8] = core::array::from_fn(|i| 0x1111_1111_1111_1111 * (i as u64 + 1));
        sq.write(63, &sqe);
        assert_eq!(device.read(63), Ok(sqe));
        assert_eq!(sq.read(63), sqe);
        assert_eq!(device.read(62), Ok([0; 8]));
        assert!(device.read(64).is_err(), "a host's bad index is an error for the device");
        let mut golden = [0; 8];
        arena.region().span.read(63 * 64, &mut golden).unwrap();
        assert_eq!(golden, [0x11; 8], "the first word lies first");
        sq.clear();
        assert_eq!(device.read(63), Ok([0; 8]));
    }

    #[test]
    fn what_the_device_posts_the_host_reads() {
        let (arena, map) = arena();
        let cq = CqMem::new(arena.alloc_shared(4096, 4096).unwrap(), 256).unwrap();
        let device = DeviceCq::new(map.translate(cq.iova(), 4096).unwrap());
        device.post(255, 7, 0x0001_0412_0000_0005).unwrap();
        assert_eq!((cq.low(255), cq.high(255)), (7, 0x0001_0412_0000_0005));
        assert_eq!((cq.low(254), cq.high(254)), (0, 0));
        assert!(device.post(256, 0, 0).is_err());
        assert!(device.post(u32::MAX, 0, 0).is_err());
    }

    #[test]
    fn queue_memory_must_hold_the_entries() {
        let (arena, _) = arena();
        let memory = || arena.alloc_shared(1000, 512).unwrap();
        assert!(SqMem::new(memory(), 15).is_ok());
        let short = DmaError::Entries { entries: 16, entry_bytes: 64, len: 1000 };
        assert_eq!(SqMem::new(memory(), 16).unwrap_err(), short);
        assert!(CqMem::new(memory(), 62).is_ok());
        assert!(CqMem::new(memory(), 63).is_err());
        assert!(CqMem::new(memory(), 0).is_err());
        assert!(SqMem::new(memory(), (1 << 16) + 1).is_err());
        assert!(PrpList::new(arena.alloc_shared(7, 8).unwrap()).is_err());
        assert_eq!(arena.stats().live, 0, "refused memory went back");
    }

    #[test]
    #[should_panic(expected = "entry 15 of 15")]
    fn an_index_beyond_the_queue_is_our_bug() {
        let (arena, _) = arena();
        let sq = SqMem::new(arena.alloc_shared(1000, 512).unwrap(), 15).unwrap();
        sq.write(15, &[0; 8]);
    }

    #[test]
    #[should_panic(expected = "entry 4294967295 of 512")]
    fn a_huge_prp_index_does_not_wrap() {
        let (arena, _) = arena();
        PrpList::new(arena.alloc_shared(4096, 4096).unwrap()).unwrap().set(1 << 32, Iova(1));
    }

    #[test]
    fn prp_entries_lie_in_a_row() {
        let (arena, map) = arena();
        let list = PrpList::new(arena.alloc_shared(8192, 4096).unwrap()).unwrap();
        assert_eq!(list.entries(), 1024);
        list.set(0, Iova(0x1000));
        list.set(512, Iova(0x2000));
        assert_eq!(list.get(512), Iova(0x2000));
        assert_eq!(list.iova_of(512), Iova(list.iova().0 + 4096));
        let page = map.translate(list.iova_of(512), 4096).unwrap();
        assert_eq!(page.word64(0).unwrap().load(), 0x2000);
    }

    #[test]
    fn a_dropped_queue_gives_its_memory_back_and_a_quarantined_one_does_not() {
        let (arena, _) = arena();
        let sq = SqMem::new(arena.alloc_shared(4096, 4096).unwrap(), 64).unwrap();
        let cq = CqMem::new(arena.alloc_shared(4096, 4096).unwrap(), 64).unwrap();
        assert_eq!(arena.stats().live, 2);
        drop(sq);
        assert_eq!(arena.stats().live, 1);
        cq.into_memory().quarantine();
        let stats = arena.stats();
        assert_eq!((stats.live, stats.quarantined, stats.quarantined_bytes), (0, 1, 4096));
        assert_eq!(stats.free_bytes, (64 << 10) - 4096);
    }

    /// One command at a time through both queues and the doorbell, with a device on a thread of
    /// its own: the interpreter checks that every word is ordered.
    #[test]
    fn a_device_on_another_thread_sees_whole_entries_and_so_does_the_host() {
        const ENTRIES: u16 = 4;
        let rounds: u32 = if cfg!(miri) { 20 } else { 2_000 };
        let (arena, map) = arena();
        let sq = SqMem::new(arena.alloc_shared(256, 512).unwrap(), ENTRIES.into()).unwrap();
        let cq = CqMem::new(arena.alloc_shared(64, 512).unwrap(), ENTRIES.into()).unwrap();
        let mut buf = arena.alloc(512).unwrap();
        let doorbells = DoorbellRegion { span: hybrid_shm::leak_zeroed(4096), dstrd: 0 };
        let tail = doorbells.sq_tail(1).unwrap();
        let device_sq = DeviceSq::new(map.translate(sq.iova(), 256).unwrap());
        let device_cq = DeviceCq::new(map.translate(cq.iova(), 64).unwrap());
        let device = std::thread::spawn(move || {
            let bell = doorbells.span.word32(8).unwrap();
            for round in 1..=rounds {
                // SYNC doorbell
                while bell.load_acquire() != round {
                    std::thread::yield_now();
                }
                let sqe = device_sq.read(round % u32::from(ENTRIES)).unwrap();
                let data = map.translate(Iova(sqe[3]), 512).unwrap();
                data.fill(0, 512, sqe[0].to_le_bytes()[0]).unwrap();
                let last = sqe.iter().fold(0, |all, &word| all ^ word);
                device_cq.post(round % u32::from(ENTRIES), last, round.into()).unwrap();
            }
        });
        for round in 1..=rounds {
            let slot = u16::try_from(round % u32::from(ENTRIES)).unwrap();
            let sqe = core::array::from_fn(|i| match i {
                3 => buf.iova().0,
                _ => u64::from(round) << i,
            });
            let device_buf = buf.into_device();
            sq.write(slot, &sqe);
            tail.ring(round);
            while cq.high(slot) != u64::from(round) {
                std::thread::yield_now();
            }
            assert_eq!(cq.low(slot), sqe.iter().fold(0, |all, &word| all ^ word));
            buf = device_buf.into_cpu();
            assert!(buf.iter().all(|&byte| byte == round.to_le_bytes()[0]));
        }
        device.join().unwrap();
    }
}
