//! Closed loops and bursts on a raw queue: what the driver can do without futures.

use core::cell::{Cell, RefCell};

use core_runtime::clock::{Clock, Instant};
use core_runtime::mem::{Bump, DmaArena};
use core_runtime::metrics::Histogram;
use hybrid_benches::rng::Rng;
use nvme_driver::{IoError, Lba, RawQueue, Target};
use nvme_model::ModelGauges;

use crate::window::Windows;
use crate::wire::{BURST, RAW, READ_BYTES, Sample};

/// Buffers: the deepest queue's.
pub(crate) const SLOTS: u16 = 255;

/// Empty passes between two looks at the clock: some 2 us.
const UNSTAMPED: u64 = 128;

/// Latencies of one window: a window of 250 us at 8 M reads/s.
const SCRATCH: usize = 2048;

/// Bursts of which the median is taken.
const BURSTS_MAX: usize = 512;

/// Time between submit and reap of a burst: many times what 64 reads of 4 KiB take.
const PAUSE_NS: u64 = 100_000;

/// A queue, buffers, and the way through the blocks.
pub(crate) struct Flow {
    pub(crate) queue: RawQueue,
    target: Target,
    places: u64,
    clock: Clock,
    stamps: &'static [Cell<Instant>],
    rng: Cell<Rng>,
    failed: Cell<Option<IoError>>,
    scratch: RefCell<heapless::Vec<u64, SCRATCH>>,
}

impl Flow {
    pub(crate) fn new(
        queue: RawQueue,
        target: Target,
        places: u64,
        (clock, arena, bump): (Clock, &'static DmaArena, &Bump),
    ) -> Result<Self, IoError> {
        for _ in 0..SLOTS {
            let buf = arena.alloc(READ_BYTES).map_err(|_| IoError::NoMemory)?;
            // Numbered from 0, as there is room for.
            queue.adopt(buf).map_err(|_| IoError::NoMemory)?;
        }
        let zero = Instant::from_ticks(0);
        Ok(Self {
            queue,
            target,
            places,
            clock,
            stamps: bump
                .slice_with(usize::from(SLOTS), |_| Cell::new(zero))
                .map_err(|_| IoError::NoMemory)?,
            rng: Cell::new(Rng::new(2)),
            failed: Cell::new(None),
            scratch: RefCell::new(heapless::Vec::new()),
        })
    }

    #[inline(always)]
    fn submit(&self, token: u16) {
        let mut rng = self.rng.get();
        let slba = Lba(rng.below(self.places));
        self.rng.set(rng);
        let submitted = self.queue.submit_read(&self.target, slba, 1, token, token.into());
        if let Err(error) = submitted {
            self.failed.set(Some(error));
        }
    }

    /// Reaps what is there, puts as much back, rings.
    #[inline(always)]
    fn pass(&self, limit: u16) -> u16 {
        let reaped = self.queue.reap(limit, |token, result| match result {
            Ok(()) => self.submit(slot(token)),
            Err(error) => self.failed.set(Some(error)),
        });
        self.queue.ring();
        reaped
    }

    fn check(&self) -> Result<(), IoError> {
        self.failed.get().map_or(Ok(()), Err)
    }

    /// Lets what is in flight end.
    pub(crate) fn drain(&self) -> Result<(), IoError> {
        while !self.queue.is_idle() {
            self.queue.reap(u16::MAX, |_, result| {
                if let Err(error) = result {
                    self.failed.set(Some(error));
                }
            });
        }
        self.check()
    }

    pub(crate) fn fill(&self, depth: u16) {
        for token in 0..depth {
            if let Some(stamp) = self.stamps.get(usize::from(token)) {
                stamp.set(self.clock.now());
            }
            self.submit(token);
        }
        self.queue.ring();
    }

    /// A window of the closed loop; one clock reading a pass that reaped something.
    pub(crate) fn window(&self, windows: &Windows, limit: u16) -> Result<(), IoError> {
        windows.settle(self.clock.now());
        let mut empty = 0;
        loop {
            let reaped = self.pass(limit);
            if reaped == 0 {
                empty += 1;
                core::hint::spin_loop();
                if empty < UNSTAMPED {
                    continue;
                }
            }
            windows.add_empty(empty);
            empty = 0;
            if windows.pass(self.clock.now(), reaped.into()).is_some() {
                return self.check();
            }
        }
    }

    /// A window with the latency of each read: from before the pass that submits it to after the
    /// pass that reaps it. Those of a clean window go to `latency_ns`.
    pub(crate) fn latencies(
        &self,
        windows: &Windows,
        limit: u16,
        latency_ns: &Histogram,
    ) -> Result<(), IoError> {
        let mut scratch = self.scratch.borrow_mut();
        let mut now = self.clock.now();
        windows.settle(now);
        let clean = loop {
            let mut old = heapless::Vec::<Instant, { SLOTS as usize }>::new();
            let reaped = self.queue.reap(limit, |token, result| {
                let slot = slot(token);
                // At most as many as are in flight.
                let _ = old.push(self.stamps[usize::from(slot)].replace(now));
                match result {
                    Ok(()) => self.submit(slot),
                    Err(error) => self.failed.set(Some(error)),
                }
            });
            self.queue.ring();
            now = self.clock.now();
            // A read that was submitted before the window may have waited for anything.
            let window = windows.begun();
            for begun in old.iter().filter(|begun| **begun >= window) {
                // What is beyond the scratch is not sampled.
                let _ = scratch.push(now.since(*begun).get());
            }
            if let Some(clean) = windows.pass(now, reaped.into()) {
                break clean;
            }
        };
        for ticks in scratch.iter().filter(|_| clean) {
            latency_ns.record(self.clock.ticks_to_ns(core_runtime::clock::Ticks::new(*ticks)));
        }
        scratch.clear();
        self.check()
    }

    pub(crate) fn windows(&self, window_ns: u32, gauges: &ModelGauges) -> Windows {
        Windows::new(self.clock, window_ns, gauges.clone(), self.clock.now())
    }

    /// One burst: `(submit and ring, reap)` in ticks; `None` if a core was taken away.
    pub(crate) fn burst(&self, size: u16) -> Result<Option<(u64, u64)>, IoError> {
        let begin = self.clock.now();
        for token in 0..size {
            self.submit(token);
        }
        self.queue.ring();
        let rung = self.clock.now();
        let end = rung + self.clock.ns_to_ticks(PAUSE_NS);
        while self.clock.now() < end {
            core::hint::spin_loop();
        }
        let before = self.clock.now();
        let taken = self.queue.reap(size, |_, result| {
            if let Err(error) = result {
                self.failed.set(Some(error));
            }
        });
        let after = self.clock.now();
        self.drain()?;
        let (submit, reap) = (rung.since(begin).get(), after.since(before).get());
        let stolen = self.clock.ns_to_ticks(PAUSE_NS / 2).get();
        let late = before.since(end).get() > stolen;
        let clean = taken == size && submit < stolen && reap < stolen && !late;
        Ok(clean.then_some((submit, reap)))
    }
}

/// The slot that a token names: tokens are slots.
#[inline(always)]
fn slot(token: u32) -> u16 {
    u16::try_from(token).unwrap_or(0) % SLOTS
}

/// Medians of bursts.
#[derive(Default)]
pub(crate) struct Bursts {
    submit: heapless::Vec<u64, BURSTS_MAX>,
    reap: heapless::Vec<u64, BURSTS_MAX>,
    dropped: u32,
}

impl Bursts {
    pub(crate) fn add(&mut self, burst: Option<(u64, u64)>) {
        match burst {
            None => self.dropped += 1,
            Some((submit, reap)) => {
                // The first BURSTS_MAX count.
                let _ = (self.submit.push(submit), self.reap.push(reap));
            }
        }
    }

    pub(crate) fn sum(mut self, size: u16) -> Sample {
        let kept = u32::try_from(self.submit.len()).unwrap_or(0);
        self.submit.sort_unstable();
        self.reap.sort_unstable();
        let middle = |v: &[u64]| v.get(v.len() / 2).copied().unwrap_or(0);
        Sample {
            kind: BURST,
            depth: size.into(),
            kept,
            dropped: self.dropped,
            passes: middle(&self.submit),
            ticks: middle(&self.reap),
            ..Sample::default()
        }
    }
}

/// The sample of a closed loop on the raw queue.
pub(crate) fn raw_sample(windows: &Windows, depth: u16) -> Sample {
    windows.sum(RAW, depth)
}
