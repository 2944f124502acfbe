//! What drivers add to a record, and where their queues lie.
//!
//! A driver registers itself once, before the loop begins. Its queues' places are published in the
//! region once, when they are made, for a host that finds the partition killed: nothing here is
//! done for an I/O.

use core::cell::Cell;
use core::fmt;
use core::mem::offset_of;
use core::sync::atomic::{AtomicUsize, Ordering, compiler_fence};

use hybrid_abi::crash::device::{Indices, PLACE_VALID, QUEUE_PART_BYTES, QUEUE_PLACES, QueuePlace};
use hybrid_shm::{OutOfBounds, Span};
use zerocopy::IntoBytes;

use super::Recorder;

/// Most sources of one partition.
pub const MAX_SOURCES: usize = 4;

/// A driver that has something to say when its partition dies.
///
/// Both functions are called by the crash handler: at any instruction of the driver's own code, on
/// its thread. They must not allocate, borrow a `RefCell` other than by `try_borrow`, panic, or
/// access a device; plain cells and queue memory are read as they stand.
pub trait CrashSource {
    /// Writes the sections that are small: state, indices. `number` is the one that
    /// [`CrashSources::register`] returned.
    fn record(&self, number: u32, recorder: &mut Recorder<'_>);

    /// Writes the section that may be large: outstanding commands.
    fn record_commands(&self, number: u32, recorder: &mut Recorder<'_>);
}

/// The sources of a partition.
pub struct CrashSources {
    list: [Cell<Option<&'static dyn CrashSource>>; MAX_SOURCES],
    /// Sources that a handler may look at: a reference is two words, which a signal can part.
    count: AtomicUsize,
    places: Span<'static>,
    next_place: Cell<usize>,
}

impl CrashSources {
    /// Publishes queues' places in a zeroed part of [`QUEUE_PART_BYTES`].
    pub(super) fn new(places: Span<'static>) -> Result<Self, OutOfBounds> {
        let places = places.sub(0, QUEUE_PART_BYTES)?;
        places.word64(0)?;
        Ok(Self {
            list: [const { Cell::new(None) }; MAX_SOURCES],
            count: AtomicUsize::new(0),
            places,
            next_place: Cell::new(0),
        })
    }

    /// Adds a source; returns its number, or `None` if there are [`MAX_SOURCES`] already: then the
    /// record lacks it.
    pub fn register(&self, source: &'static dyn CrashSource) -> Option<u32> {
        let number = self.count.load(Ordering::Relaxed);
        self.list.get(number)?.set(Some(source));
        compiler_fence(Ordering::Release);
        self.count.store(number + 1, Ordering::Relaxed);
        u32::try_from(number).ok()
    }

    /// Publishes where a queue pair lies; its state is set here. Returns the place's number, or
    /// `None` if there is no room: then a host that finds the partition killed does not see that
    /// queue's commands.
    pub fn publish_queue(&self, place: QueuePlace) -> Option<usize> {
        const STATE: usize = offset_of!(QueuePlace, state);
        const REST: usize = STATE + size_of::<u32>();
        let index = self.next_place.get();
        let memory = self.place(index)?;
        let (_, rest) = place.as_bytes().split_at(REST);
        memory.write(REST, rest).ok()?;
        // SYNC queue-place: who sees the state sees the place.
        memory.word32(STATE).ok()?.store_release(PLACE_VALID);
        self.next_place.set(index + 1);
        Some(index)
    }

    /// Publishes where the tail of a published queue is found; [`NO_OFFSET`] for nowhere.
    ///
    /// [`NO_OFFSET`]: hybrid_abi::crash::device::NO_OFFSET
    pub fn publish_shadow(&self, place: usize, offset: u64) {
        let memory = self.place(place).filter(|_| place < self.next_place.get());
        let word = memory.and_then(|m| m.word64(offset_of!(QueuePlace, shadow_offset)).ok());
        if let Some(word) = word {
            word.store_release(offset);
        }
    }

    /// Publishes a queue's indices as they are now, about once a millisecond.
    pub fn publish_indices(&self, place: usize, indices: Indices) {
        let memory = self.place(place).filter(|_| place < self.next_place.get());
        if let Some(word) = memory.and_then(|m| m.word64(offset_of!(QueuePlace, indices)).ok()) {
            word.store(indices.to_word());
        }
    }

    fn place(&self, index: usize) -> Option<Span<'static>> {
        if index >= QUEUE_PLACES {
            return None;
        }
        self.places.sub(index * size_of::<QueuePlace>(), size_of::<QueuePlace>()).ok()
    }

    /// Calls `f(number, source)` for each.
    pub(super) fn each(&self, mut f: impl FnMut(u32, &'static dyn CrashSource)) {
        let count = self.count.load(Ordering::Relaxed);
        compiler_fence(Ordering::Acquire);
        for (source, number) in self.list.iter().take(count).zip(0_u32..) {
            if let Some(source) = source.get() {
                f(number, source);
            }
        }
    }
}

impl fmt::Debug for CrashSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrashSources").field("count", &self.count).finish_non_exhaustive()
    }
}
