//! Timers: a heap of fixed capacity, ordered by deadline and then by the order of insertion.
//!
//! Called by [`Sleep`](super::Sleep) and by the scheduler's tick, on the owning core only. Insert,
//! cancel and fire cost O(log4 n); nothing is lost and nothing fires early. A timer that is dropped
//! leaves the heap at once.
//!
//! Each timer in use has a slot, which knows its place in the heap; the heap's entries carry the
//! keys, so that a comparison touches no slot.

use core::cell::Cell;

use super::wake_slot::WakeSlot;
use crate::clock::Instant;
use crate::mem::{Bump, OutOfMemory};

/// Children of a heap node: four, because two entries of 24 bytes and their siblings share lines.
const ARITY: usize = 4;

/// No slot, or not in the heap.
const NONE: u32 = u32::MAX;

/// A timer in use: the key of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimerKey(u32);

#[derive(Clone, Copy)]
struct Entry {
    deadline: Instant,
    sequence: u64,
    slot: u32,
}

impl Entry {
    #[inline(always)]
    fn before(&self, other: &Self) -> bool {
        (self.deadline, self.sequence) < (other.deadline, other.sequence)
    }
}

struct Slot {
    /// Index of its entry; [`NONE`] once it has fired.
    place: Cell<u32>,
    next_free: Cell<u32>,
    wake: WakeSlot,
}

/// All timers of a scheduler.
pub(super) struct TimerHeap {
    heap: &'static [Cell<Entry>],
    slots: &'static [Slot],
    len: Cell<u32>,
    free: Cell<u32>,
    in_use: Cell<u32>,
    high_water: Cell<u32>,
    sequence: Cell<u64>,
}

impl TimerHeap {
    /// Room for `capacity` timers: 56 bytes of `bump` each.
    pub(super) fn new(capacity: u32, bump: &Bump) -> Result<Self, OutOfMemory> {
        let nothing = Entry { deadline: Instant::MAX, sequence: 0, slot: NONE };
        let mut next = 0_u32;
        let slots = bump.slice_with(capacity as usize, |_| {
            next += 1;
            Slot {
                place: Cell::new(NONE),
                next_free: Cell::new(if next < capacity { next } else { NONE }),
                wake: WakeSlot::new(),
            }
        })?;
        Ok(Self {
            heap: bump.slice_with(capacity as usize, |_| Cell::new(nothing))?,
            slots,
            len: Cell::new(0),
            free: Cell::new(if capacity == 0 { NONE } else { 0 }),
            in_use: Cell::new(0),
            high_water: Cell::new(0),
            sequence: Cell::new(0),
        })
    }

    pub(super) fn in_use(&self) -> u32 {
        self.in_use.get()
    }

    pub(super) fn high_water(&self) -> u32 {
        self.high_water.get()
    }

    /// The earliest deadline that has not fired.
    #[inline]
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        (self.len.get() > 0).then(|| self.heap[0].get().deadline)
    }

    /// Starts a timer, or `None` when all are in use.
    pub(super) fn insert(&self, deadline: Instant) -> Option<TimerKey> {
        let slot = self.free.get();
        if slot == NONE {
            return None;
        }
        self.free.set(self.slots[slot as usize].next_free.get());
        self.in_use.set(self.in_use.get() + 1);
        self.high_water.set(self.high_water.get().max(self.in_use.get()));
        let sequence = self.sequence.get();
        self.sequence.set(sequence + 1);
        let place = self.len.get();
        self.len.set(place + 1);
        self.sift_up(place as usize, Entry { deadline, sequence, slot });
        Some(TimerKey(slot))
    }

    /// Whether the deadline of `key` has come.
    #[inline]
    pub(super) fn has_fired(&self, key: TimerKey) -> bool {
        self.slots[key.0 as usize].place.get() == NONE
    }

    /// Who is woken when the timer fires.
    #[inline]
    pub(super) fn wake_slot(&self, key: TimerKey) -> &WakeSlot {
        &self.slots[key.0 as usize].wake
    }

    /// Ends the use of a timer, whether it has fired or not.
    pub(super) fn remove(&self, key: TimerKey) {
        let slot = &self.slots[key.0 as usize];
        if slot.place.get() != NONE {
            self.take_entry(slot.place.get() as usize);
        }
        slot.wake.clear();
        slot.next_free.set(self.free.get());
        self.free.set(key.0);
        self.in_use.set(self.in_use.get() - 1);
    }

    /// Wakes the owners of up to `most` timers whose deadline is not after `now`, in order.
    #[inline]
    pub(super) fn fire(&self, now: Instant, most: u32) -> u32 {
        let mut fired = 0;
        while fired < most && self.next_deadline().is_some_and(|first| first <= now) {
            let entry = self.heap[0].get();
            self.take_entry(0);
            self.slots[entry.slot as usize].wake.wake();
            fired += 1;
        }
        fired
    }

    /// Takes the entry at `place` out; its slot counts as fired.
    fn take_entry(&self, place: usize) {
        self.slots[self.heap[place].get().slot as usize].place.set(NONE);
        let last = self.len.get() as usize - 1;
        self.len.set(self.len.get() - 1);
        if place == last {
            return;
        }
        let moved = self.heap[last].get();
        if place > 0 && moved.before(&self.heap[(place - 1) / ARITY].get()) {
            self.sift_up(place, moved);
        } else {
            self.sift_down(place, moved);
        }
    }

    fn put(&self, place: usize, entry: Entry) {
        self.heap[place].set(entry);
        let place = u32::try_from(place).expect("a heap has at most 2^32 - 1 entries");
        self.slots[entry.slot as usize].place.set(place);
    }

    fn sift_up(&self, mut place: usize, entry: Entry) {
        while place > 0 {
            let parent = (place - 1) / ARITY;
            let above = self.heap[parent].get();
            if !entry.before(&above) {
                break;
            }
            self.put(place, above);
            place = parent;
        }
        self.put(place, entry);
    }

    fn sift_down(&self, mut place: usize, entry: Entry) {
        let len = self.len.get() as usize;
        loop {
            let first = place * ARITY + 1;
            let children = first..(first + ARITY).min(len);
            let least = children.reduce(|best, child| {
                if self.heap[child].get().before(&self.heap[best].get()) { child } else { best }
            });
            match least {
                Some(child) if self.heap[child].get().before(&entry) => {
                    self.put(place, self.heap[child].get());
                    place = child;
                }
                _ => break,
            }
        }
        self.put(place, entry);
    }
}
