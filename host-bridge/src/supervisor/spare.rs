//! Memory for the next incarnation, made while this one runs.
//!
//! DMA memory is never used by two incarnations, and filling it takes 110 ms for 512 MiB in
//! huge pages, more than twice as long in small ones. So a thread on the housekeeping CPUs
//! makes the next set as soon as a partition has started; the next start finds it touched and
//! sealed. A machine that is short of memory gets it back, and its starts take longer.
//!
//! ```text
//!            prepare                 made, or refused
//!   Empty ------------> Making -----------------------> Ready, Empty
//!     ^                                                   |
//!     `------------- take, release, memory is tight ------'
//! ```

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use hybrid_conventions::CpuSet;

use super::counters::Counters;
use crate::affinity::confine_to;
use crate::memory::MemorySource;
use crate::runtime::Isolation;
use crate::sync::{Builder, Condvar, Mutex, MutexGuard};
use crate::sys::memfd::PageSize;
use crate::sys::partition_memory::{MemorySizes, PartitionMemory};
use crate::sys::signals::with_signals_blocked;
use crate::topology::{free_huge_pages, meminfo_bytes};

/// Of all memory, what stays available to others, in percent: a spare is never worth a swap.
const LEFT_TO_OTHERS: u64 = 10;

/// How often the machine's memory is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a set is for: another start needs another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) sizes: MemorySizes,
    pub(crate) page: PageSize,
    pub(crate) isolation: Isolation,
    /// Of which NUMA node.
    pub(crate) node: Option<u32>,
}

impl Need {
    /// Makes it now.
    pub(crate) fn make(
        &self,
        source: &MemorySource,
    ) -> Result<PartitionMemory, crate::memory::MemoryError> {
        match self.isolation {
            Isolation::Process => PartitionMemory::apart(source, &self.sizes),
            Isolation::Thread => PartitionMemory::new(source, &self.sizes),
        }
    }
}

#[derive(Debug, Default)]
enum Slot {
    #[default]
    Empty,
    Making(Need),
    Ready(Need, PartitionMemory),
}

#[derive(Debug)]
struct Shared {
    slot: Mutex<Slot>,
    changed: Condvar,
    last_look: Mutex<Option<Instant>>,
    counters: Counters,
    root: PathBuf,
}

/// One spare set for one partition. Clones are the same; it goes into
/// [`PartitionSpec::spares`](crate::PartitionSpec::spares) of each incarnation.
#[derive(Clone, Debug)]
pub struct Spares(Arc<Shared>);

impl Spares {
    /// None yet; uses are counted.
    #[must_use]
    pub fn new(counters: Counters) -> Self {
        Self::below(Path::new("/"), counters)
    }

    fn below(root: &Path, counters: Counters) -> Self {
        Self(Arc::new(Shared {
            slot: Mutex::default(),
            changed: Condvar::new(),
            last_look: Mutex::default(),
            counters,
            root: root.to_owned(),
        }))
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.0.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a set is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(*self.slot(), Slot::Ready(..))
    }

    /// Gives the set's memory back.
    pub fn release(&self) {
        let mut slot = self.slot();
        if let Slot::Ready(..) = *slot {
            // Nobody has seen it: it is unmapped.
            *slot = Slot::Empty;
        }
    }

    /// Gives it back if others need it: asked at any rate, it looks once a second.
    pub fn release_if_tight(&self) {
        let mut last = self.0.last_look.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if last.is_none_or(|last| now.duration_since(last) >= LOOK_EVERY) {
            *last = Some(now);
            // Pages of the pool are nobody else's: given back, they would help no one.
            let small = match &*self.slot() {
                Slot::Ready(_, memory) => !memory.dma().mapped.page().is_huge(),
                _ => false,
            };
            if small && is_tight(&self.0.root, 0) {
                self.release();
            }
        }
    }

    /// The set, if it is what is needed. One that is being made is waited for: that is the quicker
    /// way.
    pub(crate) fn take(&self, need: &Need) -> Option<PartitionMemory> {
        let mut slot = self.slot();
        while matches!(&*slot, Slot::Making(made) if made == need) {
            slot = self.0.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
        let memory = match std::mem::take(&mut *slot) {
            Slot::Ready(made, memory) if made == *need => Some(memory),
            // For a partition of another size: not made twice for nothing.
            Slot::Ready(..) | Slot::Empty => None,
            making @ Slot::Making(_) => {
                *slot = making;
                None
            }
        };
        self.0.counters.spare_used(memory.is_some());
        memory
    }

    /// Has a set made in the background, unless there is one or memory is tight.
    pub(crate) fn prepare(&self, need: Need, source: MemorySource, housekeeping: CpuSet) {
        let mut slot = self.slot();
        if !matches!(*slot, Slot::Empty) || !has_room(&self.0.root, &need) {
            return;
        }
        *slot = Slot::Making(need);
        drop(slot);
        let this = self.clone();
        let builder = Builder::new().name("spare-memory".to_owned());
        let spawned = with_signals_blocked(|| {
            builder.spawn(move || {
                // It was checked with the runtime's set; elsewhere it would only disturb.
                let _ = confine_to(housekeeping);
                this.put(need, need.make(&source).ok());
            })
        });
        if spawned.is_err() {
            self.put(need, None);
        }
    }

    fn put(&self, need: Need, memory: Option<PartitionMemory>) {
        let next = memory.map_or(Slot::Empty, |memory| Slot::Ready(need, memory));
        *self.slot() = next;
        self.0.changed.notify_all();
    }
}

/// Whether there is memory for another set: pages of the pool, or memory that others do not need.
fn has_room(root: &Path, need: &Need) -> bool {
    let bytes = need.sizes.rounded(need.page) as u64;
    if need.page.is_huge() {
        let page = need.page.bytes();
        let free = free_huge_pages(root, page, need.node).unwrap_or(0);
        if free.saturating_mul(page as u64) >= bytes {
            return true;
        }
        // The set will be of small pages, as the partition's own is.
    }
    !is_tight(root, bytes)
}

/// Whether taking so many bytes leaves too little to others.
fn is_tight(root: &Path, bytes: u64) -> bool {
    let of = |field| meminfo_bytes(root, field);
    match (of("MemAvailable"), of("MemTotal")) {
        (Some(available), Some(total)) => {
            available.saturating_sub(bytes) < total / 100 * LEFT_TO_OTHERS
        }
        // A machine that does not tell is no reason to start slowly.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use crate::warnings::Warnings;

    fn need(dma: usize) -> Need {
        let sizes = MemorySizes { dma, private: 0, region: 4096, host_region: 4096 };
        Need { sizes, page: PageSize::Small4K, isolation: Isolation::Process, node: None }
    }

    fn source() -> MemorySource {
        MemorySource::new(PageSize::Small4K, 1 << 20, Warnings::to(|_| {}))
    }

    fn housekeeping() -> CpuSet {
        crate::affinity::allowed()
    }

    fn figure(counters: &Counters, name: &str) -> u64 {
        counters.figures().iter().find(|figure| figure.name == name).expect("a figure").value
    }

    #[test]
    fn a_set_is_made_in_the_background_and_taken_once() {
        let counters = Counters::default();
        let spares = Spares::new(counters.clone());
        assert!(spares.take(&need(1 << 20)).is_none());
        spares.prepare(need(1 << 20), source(), housekeeping());
        // It may be in the making: that is waited for.
        let memory = spares.take(&need(1 << 20)).expect("a set");
        assert!(memory.dma().mapped.len() >= 1 << 20);
        assert!(spares.take(&need(1 << 20)).is_none());
        assert_eq!(figure(&counters, "hybrid_spare_memory_used_total"), 1);
        assert_eq!(figure(&counters, "hybrid_spare_memory_missed_total"), 2);
    }

    #[test]
    fn a_set_for_another_size_is_not_taken() {
        let spares = Spares::new(Counters::default());
        spares.prepare(need(1 << 20), source(), housekeeping());
        while !spares.is_ready() {
            std::thread::yield_now();
        }
        assert!(spares.take(&need(2 << 20)).is_none());
        assert!(!spares.is_ready());
    }

    #[test]
    fn a_pool_with_free_pages_has_room_however_little_else_there_is() {
        let root = TempDir::new("spare-pool");
        root.write("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 50 kB\n");
        let need = Need { page: PageSize::Huge2M, ..need(3 << 20) };
        let pages = need.sizes.rounded(need.page) / PageSize::Huge2M.bytes();
        let pool = "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
        for (free, room) in [(pages - 1, false), (pages, true)] {
            root.write(pool, &free.to_string());
            assert_eq!(has_room(root.path(), &need), room, "{free} of {pages}");
        }
    }

    #[test]
    fn a_machine_that_is_short_of_memory_makes_none_and_takes_it_back() {
        let root = TempDir::new("spare");
        root.write("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 500 kB\n");
        let spares = Spares::below(root.path(), Counters::default());
        spares.prepare(need(300 << 10), source(), housekeeping());
        while !spares.is_ready() {
            std::thread::yield_now();
        }
        spares.release_if_tight();
        assert!(spares.is_ready());
        root.write("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 90 kB\n");
        spares.release_if_tight();
        assert!(spares.is_ready(), "it looks once a second");
        *spares.0.last_look.lock().expect("lock") = None;
        spares.release_if_tight();
        assert!(!spares.is_ready());
        spares.prepare(need(1 << 10), source(), housekeeping());
        assert!(!spares.is_ready() && matches!(*spares.slot(), Slot::Empty));
    }
}
