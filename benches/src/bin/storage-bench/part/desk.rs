//! The desk of the measuring task: what it works with, and how it tells the host what it saw.

use core::cell::{Cell, RefCell};

use core_runtime::clock::{Clock, Instant};
use core_runtime::partition::Partition;
use hybrid_benches::hist::Hist;
use nvme_driver::{BlockDevice, Device};
use nvme_model::ModelGauges;
use zerocopy::IntoBytes;

use super::lane::Lane;
use super::window::Windows;
use crate::wire::{
    ALL_READS, ALL_WRITES, CLEAN_READS, CLEAN_WRITES, EXTRA, HISTS, HistPart, Interval, KIND_HIST,
    KIND_INTERVAL, KIND_SAMPLE, Phase, Plan, Sample,
};

/// Buckets of one record: it stays below the longest that the host takes.
const BUCKETS_A_RECORD: usize = 500;

/// What the measuring task and its workers share.
#[derive(Clone, Copy)]
pub(crate) struct Desk {
    pub(crate) partition: &'static Partition,
    pub(crate) device: Device,
    pub(crate) plan: &'static Plan,
    pub(crate) phases: &'static [Phase],
    pub(crate) gauges: &'static ModelGauges,
    pub(crate) shared: &'static Shared,
    /// Latencies of the running window, of reads and of writes: undisturbed if it ends clean.
    pub(crate) window: &'static RefCell<[Hist; 2]>,
    pub(crate) hists: &'static RefCell<[Hist; HISTS]>,
    pub(crate) interval: &'static RefCell<Hist>,
    /// Room for arrivals that wait.
    pub(crate) backlog: &'static [Cell<Instant>],
}

/// Between the loop, the measuring task and its workers.
#[derive(Default)]
pub(crate) struct Shared {
    /// Where the loop counts completions while futures are measured.
    pub(crate) windows: Cell<Option<&'static Windows>>,
    pub(crate) stop: Cell<bool>,
    /// Latencies go into the course over time, too.
    pub(crate) course: Cell<bool>,
    /// Completions of futures.
    pub(crate) done: Cell<u64>,
}

/// What the measuring task found: the namespace and its queues.
#[derive(Clone, Copy)]
pub(crate) struct Bench {
    pub(crate) block: BlockDevice,
    pub(crate) lanes: &'static [Lane],
    /// Zipf draws of the phase that runs.
    pub(crate) draws: &'static [Cell<u32>],
    /// Of a verification: each place's version.
    pub(crate) versions: &'static [Cell<u32>],
}

impl Desk {
    /// Sends a record, waiting for room; the loop goes on meanwhile.
    pub(crate) async fn send(&self, kind: u16, tag: u32, payload: &[u8]) {
        let ring = self.partition.events();
        while matches!(ring.has_room(payload.len()), Ok(false)) {
            self.partition.spawner().yield_now().await;
        }
        // A ring that was closed has nobody who waits for it.
        let _ = ring.write(kind, tag, payload);
    }

    pub(crate) async fn send_interval(&self, course: &mut Course) {
        if let Some(interval) = course.ready.take() {
            self.send(KIND_INTERVAL, 0, interval.as_bytes()).await;
        }
    }

    /// Sends a repetition's sample and its histograms, with the quantiles in the sample.
    pub(crate) async fn send_result(&self, mut sample: Sample, course: &mut Course) {
        self.send_interval(course).await;
        let mut clean = Hist::new();
        {
            let hists = self.hists.borrow();
            for which in [CLEAN_READS, CLEAN_WRITES] {
                clean.merge(&hists[which as usize]);
            }
            if clean.count() == 0 {
                // An open loop has no windows: every arrival counts.
                for which in [ALL_READS, ALL_WRITES] {
                    clean.merge(&hists[which as usize]);
                }
            }
            if clean.count() == 0 {
                clean.merge(&hists[EXTRA as usize]);
            }
        }
        if sample.latencies == 0 {
            let at = |ppm| clean.quantile(ppm);
            let (p50, p99, p999) = (at(500_000), at(990_000), at(999_000));
            sample.latency = [clean.sum(), clean.min(), p50, p99, p999, clean.max()];
            sample.latencies = clean.count();
        }
        for which in 0..HISTS {
            self.send_hist(sample.phase, which).await;
        }
        self.send(KIND_SAMPLE, 0, sample.as_bytes()).await;
    }

    /// Takes a latency: whether it was a write's, and its ticks.
    #[inline]
    pub(super) fn record(&self, (write, ticks): (bool, u64), clean: bool) {
        let mut hists = self.hists.borrow_mut();
        let (all, kept) = if write { (ALL_WRITES, CLEAN_WRITES) } else { (ALL_READS, CLEAN_READS) };
        hists[all as usize].record(ticks);
        if clean {
            hists[kept as usize].record(ticks);
        }
        if self.shared.course.get() {
            self.interval.borrow_mut().record(ticks);
        }
    }

    /// Takes a latency while its window runs; `so_far` says that nothing has disturbed it yet.
    #[inline]
    pub(super) fn record_in_window(&self, (write, ticks): (bool, u64), so_far: bool) {
        self.record((write, ticks), false);
        if so_far {
            self.window.borrow_mut()[usize::from(write)].record(ticks);
        }
    }

    /// A window has ended: what it had undisturbed counts as such if it was clean.
    pub(super) fn close_window(&self, clean: bool) {
        let mut hists = self.hists.borrow_mut();
        for (window, which) in self.window.borrow_mut().iter_mut().zip([CLEAN_READS, CLEAN_WRITES])
        {
            window.drain_to(clean.then(|| &mut hists[which as usize]));
        }
    }

    /// Sends a histogram in parts and empties it.
    async fn send_hist(&self, phase: u32, which: usize) {
        let mut from = 0;
        loop {
            let mut record = heapless::Vec::<u8, { 48 + 8 * BUCKETS_A_RECORD }>::new();
            let mut left = false;
            {
                let hists = self.hists.borrow();
                let hist = &hists[which];
                if hist.count() == 0 {
                    return;
                }
                let first = from == 0;
                let of_first = |value: u64| if first { value } else { 0 };
                let head = HistPart {
                    phase,
                    which: u32::try_from(which).unwrap_or(0),
                    count: of_first(hist.count()),
                    sum: of_first(hist.sum()),
                    min: if first { hist.min() } else { u64::MAX },
                    max: of_first(hist.max()),
                };
                // As long as the vector is: the head, then at most so many buckets.
                let _ = record.extend_from_slice(head.as_bytes());
                for (index, (bucket, count)) in hist.numbered().skip(from).enumerate() {
                    if index == BUCKETS_A_RECORD {
                        left = true;
                        break;
                    }
                    let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
                    let pair = [word(bucket as u64), word(count)];
                    let _ = record.extend_from_slice(pair.as_bytes());
                }
            }
            self.send(KIND_HIST, 0, &record).await;
            from += BUCKETS_A_RECORD;
            if !left {
                break;
            }
        }
        self.hists.borrow_mut()[which].clear();
    }
}

/// The course of one repetition: histograms, and what is told of each interval.
pub(crate) struct Course {
    desk: Desk,
    clock: Clock,
    phase: u32,
    repetition: u32,
    origin: Instant,
    every: u64,
    begin: Instant,
    done: u64,
    stolen: u64,
    ready: Option<Interval>,
}

impl Course {
    pub(crate) fn new(desk: &Desk, phase: (u32, &Phase), repetition: u32) -> Self {
        let clock = desk.partition.clock();
        let now = clock.now();
        desk.interval.borrow_mut().clear();
        desk.shared.course.set(phase.1.interval_ns != 0);
        Self {
            desk: *desk,
            clock,
            phase: phase.0,
            repetition,
            origin: now,
            every: clock.ns_to_ticks(phase.1.interval_ns).get(),
            begin: now,
            done: 0,
            stolen: 0,
            ready: None,
        }
    }

    /// Takes a latency.
    #[inline]
    pub(crate) fn record(&mut self, write: bool, ticks: u64, clean: bool) {
        self.desk.record((write, ticks), clean);
    }

    /// Takes what the kind of the phase keeps beside.
    #[inline]
    pub(crate) fn record_extra(&mut self, ticks: u64) {
        self.desk.hists.borrow_mut()[EXTRA as usize].record(ticks);
    }

    /// Between two windows: ends the interval if its time is over.
    pub(crate) fn turn(&mut self, windows: &Windows, done: u64) {
        if self.every != 0 {
            self.look(self.clock.now(), done, windows.stolen());
        }
    }

    /// As [`Course::turn`], for loops without windows.
    pub(crate) fn look(&mut self, now: Instant, done: u64, stolen: u64) {
        if self.every == 0 || now.since(self.begin).get() < self.every {
            return;
        }
        let mut hist = self.desk.interval.borrow_mut();
        self.ready = Some(Interval {
            phase: self.phase,
            repetition: self.repetition,
            begin: self.begin.since(self.origin).get(),
            ticks: now.since(self.begin).get(),
            done: done.wrapping_sub(self.done),
            stolen: stolen.wrapping_sub(self.stolen),
            p50: hist.quantile(500_000),
            p99: hist.quantile(990_000),
            max: hist.max(),
        });
        hist.clear();
        self.begin = now;
        self.done = done;
        self.stolen = stolen;
    }

    /// Whether an interval waits to be sent.
    pub(crate) const fn is_ready(&self) -> bool {
        self.ready.is_some()
    }
}
