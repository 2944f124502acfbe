//! Rings: push and pop on one core, and the ends of the peers for two cores.

use std::hint::black_box;

use anyhow::Result;
use core_runtime::ring::{Consumer, Producer, RingSpec, pair};
use crossbeam_queue::ArrayQueue;
use hybrid_benches::cross::{CAPACITY, Ends};
use hybrid_benches::race::{Bench, Group, SLICE};
use hybrid_shm::leak_aligned;

type Heapless = heapless::spsc::Queue<u64, CAPACITY>;

/// Numbers pushed before they are popped, where a batch is asked for.
const BATCH: u64 = 64;

pub(crate) fn rtrb() -> Ends {
    let (mut put, mut take) = rtrb::RingBuffer::new(CAPACITY);
    Ends { push: Box::new(move |n| put.push(n).is_ok()), pop: Box::new(move || take.pop().ok()) }
}

pub(crate) fn heapless() -> Ends {
    let queue: &'static mut Heapless = Box::leak(Box::default());
    let (mut put, mut take) = queue.split();
    Ends { push: Box::new(move |n| put.enqueue(n).is_ok()), pop: Box::new(move || take.dequeue()) }
}

pub(crate) fn crossbeam() -> Ends {
    let queue: &'static ArrayQueue<u64> = Box::leak(Box::new(ArrayQueue::new(CAPACITY)));
    Ends { push: Box::new(|n| queue.push(n).is_ok()), pop: Box::new(|| queue.pop()) }
}

pub(crate) struct Rings {
    ours: (Producer<u64>, Consumer<u64>),
    rtrb: (rtrb::Producer<u64>, rtrb::Consumer<u64>),
    heapless: Box<Heapless>,
    crossbeam: ArrayQueue<u64>,
}

impl Rings {
    pub(crate) fn new() -> Result<Self> {
        let spec = RingSpec::fixed::<u64>(u32::try_from(CAPACITY)?)?;
        let part = |bytes| leak_aligned(bytes, 128);
        Ok(Self {
            ours: pair(part(spec.producer_bytes()), part(spec.consumer_bytes()), spec)?,
            rtrb: rtrb::RingBuffer::new(CAPACITY),
            heapless: Box::default(),
            crossbeam: ArrayQueue::new(CAPACITY),
        })
    }
}

/// Pushes `batch` numbers and pops them, until a slice is done; a checksum of what was popped.
#[inline(always)]
fn slice(batch: u64, mut push: impl FnMut(u64), mut pop: impl FnMut() -> u64) -> (u64, u64) {
    let mut sum = 0_u64;
    for first in (0..SLICE).step_by(usize::try_from(batch).unwrap_or(1)) {
        for n in first..first + batch {
            push(black_box(n));
        }
        for _ in 0..batch {
            sum = sum.rotate_left(1).wrapping_add(pop());
        }
    }
    (SLICE, black_box(sum))
}

impl Group for Rings {
    fn measure(&mut self, slices: u64, bench: &mut Bench<'_>) -> Result<()> {
        for (what, batch) in
            [("ring: push + pop of a u64", 1), ("ring: 64 pushes, then 64 pops of a u64", BATCH)]
        {
            let (put, take) = &self.ours;
            let mut mine = || {
                let push = |n| {
                    let _ = put.try_push(&n);
                };
                slice(batch, push, || take.pop().unwrap_or(0))
            };
            let (put, take) = &mut self.rtrb;
            let mut rtrb = || {
                let push = |n| {
                    let _ = put.push(n);
                };
                slice(batch, push, || take.pop().unwrap_or(0))
            };
            bench.race(what, "rtrb", slices, &mut mine, &mut rtrb);
            let (mut put, mut take) = self.heapless.split();
            let mut heapless = || {
                let push = |n| {
                    let _ = put.enqueue(n);
                };
                slice(batch, push, || take.dequeue().unwrap_or(0))
            };
            bench.race(what, "heapless spsc", slices, &mut mine, &mut heapless);
            let queue = &self.crossbeam;
            let mut crossbeam = || {
                let push = |n| {
                    let _ = queue.push(n);
                };
                slice(batch, push, || queue.pop().unwrap_or(0))
            };
            bench.race(what, "crossbeam ArrayQueue", slices, &mut mine, &mut crossbeam);
        }
        Ok(())
    }
}
