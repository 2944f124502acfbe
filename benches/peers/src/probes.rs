//! Probes beside `tracing`, which is what a Rust program would take instead: off, on, and on with a
//! time stamp. Its events go to the least subscriber that keeps what ours keep: three numbers, and
//! the time where one is asked for, in a ring of as many records. The level of an event chooses.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use core_runtime::clock::{Clock, rdtsc};
use core_runtime::probe::Probes;
use hybrid_abi::probe::MASK_ALL;
use hybrid_benches::probed::{STEP, probes};
use hybrid_benches::race::{Bench, Group, SLICE};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Records of the ring, and words of a record: as ours has them.
const RECORDS: usize = 1024;
const WORDS: usize = 4;

/// Keeps numbers and times, on one thread.
struct Least {
    head: AtomicU64,
    records: Box<[[AtomicU64; WORDS]]>,
}

impl Least {
    fn new() -> Self {
        let record = |_| [const { AtomicU64::new(0) }; WORDS];
        Self { head: AtomicU64::new(0), records: (0..RECORDS).map(record).collect() }
    }
}

/// The fields of one event, in the order in which they come.
struct Numbers<'a> {
    record: &'a [AtomicU64; WORDS],
    next: usize,
}

impl Visit for Numbers<'_> {
    fn record_u64(&mut self, _: &Field, value: u64) {
        if let Some(word) = self.record.get(self.next) {
            word.store(value, Ordering::Relaxed);
            self.next += 1;
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl Subscriber for Least {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    /// What is below is off by the level alone: one load and one comparison.
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        // One thread writes: no read-modify-write is needed, as ours has none.
        let head = self.head.load(Ordering::Relaxed);
        self.head.store(head.wrapping_add(1), Ordering::Relaxed);
        let record = &self.records[usize::try_from(head).unwrap_or(0) % RECORDS];
        if *event.metadata().level() == Level::DEBUG {
            record[WORDS - 1].store(rdtsc(), Ordering::Relaxed);
        }
        event.record(&mut Numbers { record, next: 0 });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Ours, on and off. The peer's are wherever `tracing` finds its subscriber.
pub(crate) struct Events {
    on: &'static Probes,
    off: &'static Probes,
}

impl Events {
    pub(crate) fn new(hz: u64) -> Result<Self> {
        tracing::subscriber::set_global_default(Least::new())?;
        Ok(Self { on: probes(Clock::tsc(hz), MASK_ALL)?, off: probes(Clock::tsc(hz), 0)? })
    }
}

/// A slice of events; how many were written is the checksum.
fn ours(probes: &'static Probes, emit: impl Fn(&Probes, u32, u64)) -> (u64, u64) {
    let before = probes.written();
    for n in 0..u32::try_from(SLICE).unwrap_or(0) {
        emit(black_box(probes), n, n.into());
    }
    (SLICE, probes.written() - before)
}

fn theirs(emit: impl Fn(u64)) -> (u64, u64) {
    (0..SLICE).for_each(|n| emit(black_box(n)));
    (SLICE, SLICE)
}

impl Group for Events {
    fn measure(&mut self, slices: u64, bench: &mut Bench<'_>) -> Result<()> {
        let (on, off) = (self.on, self.off);
        let emit = |probes: &Probes, a, b| STEP.emit(probes, a, b, b);
        let stamped = |probes: &Probes, a, b| STEP.emit_stamped(probes, a, b, b);
        let mut none = || theirs(|n| tracing::trace!(number = n, same = n, again = n));
        bench.race("probe: off", "tracing", slices, &mut || ours(off, emit), &mut none);
        let mut plain = || theirs(|n| tracing::info!(number = n, same = n, again = n));
        let what = "probe: on, with the pass's stamp";
        bench.race(what, "tracing, no stamp", slices, &mut || ours(on, stamped), &mut plain);
        let mut timed = || theirs(|n| tracing::debug!(number = n, same = n, again = n));
        let what = "probe: on, with its own stamp";
        bench.race(what, "tracing, a stamp", slices, &mut || ours(on, emit), &mut timed);
        Ok(())
    }
}
