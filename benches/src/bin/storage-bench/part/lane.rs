//! Queues by hand: what the raw loops share.
//!
//! A lane is a raw queue with its buffers; a slot is a buffer's number and, as the token, that of
//! the operation on it. The engine draws operations and submits them.

use core::cell::Cell;

use core_runtime::clock::{Clock, Instant};
use core_runtime::mem::{Bump, DmaArena};
use core_runtime::task::Spawner;
use hybrid_benches::pick::Pick;
use nvme_driver::{BlockQueue, Device, IoError, Lba, Target};

use crate::wire::{Phase, Plan};

/// Completions of one turn: a cache line of them. More wait for the next one, after the doorbell
/// for what they made room for, so that the device is never without work because we follow it. On
/// a vfio-user target at depth 32 it was 25 % more reads than to take all that there are.
pub(crate) const REAP: u16 = 4;

/// When an operation on a slot began, and what it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    /// When it was submitted.
    pub(crate) at: Instant,
    /// When it should have been: an arrival's time.
    pub(crate) due: Instant,
    pub(crate) write: bool,
}

impl Stamp {
    const ZERO: Self =
        Self { at: Instant::from_ticks(0), due: Instant::from_ticks(0), write: false };
}

/// A queue and its slots.
pub(crate) struct Lane {
    pub(crate) queue: BlockQueue,
    pub(crate) stamps: &'static [Cell<Stamp>],
}

impl Lane {
    /// All the plan's lanes, with their buffers.
    pub(crate) fn all(
        device: Device,
        plan: &Plan,
        (arena, bump): (&'static DmaArena, &'static Bump),
    ) -> Result<&'static [Self], IoError> {
        let slots = u16::try_from(plan.slots).map_err(|_| IoError::NoMemory)?;
        let bytes = usize::try_from(plan.buffer_bytes).map_err(|_| IoError::NoMemory)?;
        let mut lanes = heapless::Vec::<Self, { nvme_driver::MAX_IO_QUEUES as usize }>::new();
        for index in 0..u16::try_from(plan.queues).unwrap_or(0) {
            let queue = device.take_queue(index, slots, bump).ok_or(IoError::NotReady)?;
            for _ in 0..slots {
                let buf = arena.alloc(bytes).map_err(|_| IoError::NoMemory)?;
                // Numbered from 0, as there is room for.
                queue.adopt(buf).map_err(|_| IoError::NoMemory)?;
            }
            let stamps = bump
                .slice_with(usize::from(slots), |_| Cell::new(Stamp::ZERO))
                .map_err(|_| IoError::NoMemory)?;
            lanes.push(Self { queue, stamps }).map_err(|_| IoError::NoMemory)?;
        }
        let mut lanes = lanes.into_iter();
        let count = lanes.len();
        let cells = bump.slice_with(count, |_| lanes.next().expect("as many as were counted"));
        cells.map(|lanes| &*lanes).map_err(|_| IoError::NoMemory)
    }

    /// Slots of this lane, if so many are in flight over `lanes` of them.
    pub(crate) fn share(index: usize, lanes: usize, depth: u32) -> u16 {
        let (depth, lanes) = (usize::try_from(depth).unwrap_or(0), lanes.max(1));
        u16::try_from(depth / lanes + usize::from(index < depth % lanes)).unwrap_or(0)
    }

    #[inline(always)]
    pub(crate) fn stamp(&self, slot: u16) -> Stamp {
        self.stamps[self.index(slot)].get()
    }

    #[inline(always)]
    pub(crate) fn set_stamp(&self, slot: u16, stamp: Stamp) {
        self.stamps[self.index(slot)].set(stamp);
    }

    /// A slot is below their number; the remainder costs less than a check's failure path.
    #[inline(always)]
    fn index(&self, slot: u16) -> usize {
        usize::from(slot).min(self.stamps.len() - 1)
    }
}

/// Draws operations and submits them on the lanes of a phase.
pub(crate) struct Engine<'a> {
    pub(crate) lanes: &'a [Lane],
    pub(crate) pick: Pick,
    pub(crate) clock: Clock,
    target: Target,
    nlb: u32,
    writes: Cell<u64>,
    failed: Cell<Option<IoError>>,
}

impl<'a> Engine<'a> {
    pub(crate) fn new(
        (lanes, phase): (&'a [Lane], &Phase),
        (target, lba_bytes): (Target, u32),
        pick: Pick,
        clock: Clock,
    ) -> Self {
        let used = usize::try_from(phase.queues).unwrap_or(1).clamp(1, lanes.len());
        Self {
            lanes: &lanes[..used],
            pick,
            clock,
            target,
            nlb: phase.bytes / lba_bytes.max(1),
            writes: Cell::new(0),
            failed: Cell::new(None),
        }
    }

    /// Submits the next operation on a slot; returns whether it writes.
    #[inline(always)]
    pub(crate) fn submit(&self, lane: &Lane, slot: u16) -> bool {
        let (write, lba) = self.pick.next();
        self.submit_at(lane, slot, write, lba);
        write
    }

    /// Submits an operation that the caller chose.
    #[inline(always)]
    pub(crate) fn submit_at(&self, lane: &Lane, slot: u16, write: bool, lba: u64) {
        let (queue, target) = (&lane.queue, &self.target);
        let submitted = if write {
            self.writes.set(self.writes.get() + 1);
            queue.submit_write(target, Lba(lba), self.nlb, slot, slot.into())
        } else {
            queue.submit_read(target, Lba(lba), self.nlb, slot, slot.into())
        };
        if let Err(error) = submitted {
            self.fail(error);
        }
    }

    #[cold]
    pub(crate) fn fail(&self, error: IoError) {
        self.failed.set(self.failed.get().or(Some(error)));
    }

    /// Notes a failure, if it is one.
    #[inline(always)]
    pub(crate) fn note(&self, result: Result<(), IoError>) {
        if let Err(error) = result {
            self.fail(error);
        }
    }

    pub(crate) fn check(&self) -> Result<(), IoError> {
        self.failed.get().map_or(Ok(()), Err)
    }

    /// Operations submitted so far that write.
    pub(crate) fn writes(&self) -> u64 {
        self.writes.get()
    }

    /// Fills the lanes: `depth` operations in flight.
    pub(crate) fn fill(&self, depth: u32) {
        for (index, lane) in self.lanes.iter().enumerate() {
            let now = self.clock.now();
            for slot in 0..Lane::share(index, self.lanes.len(), depth) {
                let write = self.submit(lane, slot);
                lane.set_stamp(slot, Stamp { at: now, due: now, write });
            }
            lane.queue.ring();
        }
    }

    /// Reaps what is there, puts as much back, rings: one turn over all lanes.
    #[inline(always)]
    pub(crate) fn pass(&self) -> u64 {
        let mut reaped = 0;
        for lane in self.lanes {
            reaped += u64::from(lane.queue.reap(REAP, |token, result| match result {
                Ok(()) => {
                    self.submit(lane, slot_of(token));
                }
                Err(error) => self.fail(error),
            }));
            lane.queue.ring();
        }
        reaped
    }

    /// Lets what is in flight end, and says how many these were; the partition's loop keeps its
    /// watch meanwhile.
    pub(crate) async fn drain(&self, spawner: &Spawner) -> Result<u64, IoError> {
        let mut late = 0;
        for lane in self.lanes {
            while !lane.queue.is_idle() {
                late += u64::from(lane.queue.reap(u16::MAX, |_, result| self.note(result)));
                spawner.yield_now().await;
            }
        }
        self.check().map(|()| late)
    }
}

/// The slot that a token names: tokens are slots.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "made from a u16")]
pub(crate) const fn slot_of(token: u32) -> u16 {
    token as u16
}
