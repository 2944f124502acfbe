//! Rings between two cores: one way, there and back, and a stream.
//!
//! A round trip that takes longer than [`GAP_NS`] met a core that was taken away; it is dropped and
//! counted. Of streams the median slice counts.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use core_runtime::clock::{Clock, rdtsc};
use core_runtime::ring::{Consumer, Producer, RingSpec, pair};
use host_bridge::affinity::pin_to;
use hybrid_shm::leak_aligned;

use crate::cli::Args;
use crate::figures::Series;
use crate::report::{Cell, Sheet};

/// Slots of each ring.
pub const CAPACITY: usize = 1024;

/// Longest round trip that is taken for the rings' own: fifty times the usual.
const GAP_NS: u64 = 30_000;

/// Messages of a stream's slice.
const STREAM_SLICE: u64 = 16 * CAPACITY as u64;

/// A ring's two ends as closures.
pub struct Ends {
    /// Adds a number; false if there is no room.
    pub push: Box<dyn FnMut(u64) -> bool + Send>,
    /// Takes the oldest number.
    pub pop: Box<dyn FnMut() -> Option<u64> + Send>,
}

impl std::fmt::Debug for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ends").finish_non_exhaustive()
    }
}

/// A ring by its name, and what makes a fresh one.
pub type Maker<'a> = (&'static str, &'a mut dyn FnMut() -> Result<Ends>);

/// The runtime's own.
///
/// # Errors
/// If it cannot be laid out.
pub fn ours() -> Result<Ends> {
    let spec = RingSpec::fixed::<u64>(u32::try_from(CAPACITY)?)?;
    let part = |bytes| leak_aligned(bytes, 128);
    let (producer, consumer): (Producer<u64>, Consumer<u64>) =
        pair(part(spec.producer_bytes()), part(spec.consumer_bytes()), spec)?;
    Ok(Ends {
        push: Box::new(move |n| producer.try_push(&n).is_ok()),
        pop: Box::new(move || consumer.pop().ok()),
    })
}

/// What one repetition gave, in ticks.
#[derive(Default)]
struct Trips {
    one_way: Vec<u64>,
    there_and_back: Vec<u64>,
    /// Of each of them, trips that met a core which was taken away.
    dropped: [u64; 2],
}

/// One message at a time, there and back.
fn trips(mut there: Ends, mut back: Ends, count: u64, (cpu, other): (u32, u32), gap: u64) -> Trips {
    let begin = Barrier::new(2);
    let room = usize::try_from(count).unwrap_or(0);
    let mut trips = Trips { there_and_back: Vec::with_capacity(room), ..Trips::default() };
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            // A cpu that was allowed a moment ago; elsewhere it would only be slower.
            let _ = pin_to(other);
            begin.wait();
            let mut one_way = Vec::with_capacity(room);
            for _ in 0..count {
                let sent = loop {
                    if let Some(sent) = (there.pop)() {
                        break sent;
                    }
                };
                one_way.push(rdtsc().saturating_sub(sent));
                while !(back.push)(sent) {}
            }
            one_way
        });
        let _ = pin_to(cpu);
        begin.wait();
        for _ in 0..count {
            let sent = rdtsc();
            while !(there.push)(sent) {}
            while (back.pop)().is_none() {}
            trips.there_and_back.push(rdtsc() - sent);
        }
        trips.one_way = echo.join().unwrap_or_default();
    });
    let keep = |all: &mut Vec<u64>| {
        let before = all.len();
        all.retain(|ticks| *ticks < gap);
        (before - all.len()) as u64
    };
    trips.dropped = [keep(&mut trips.one_way), keep(&mut trips.there_and_back)];
    trips
}

/// A stream as fast as it goes: the median slice, in ticks a message.
fn stream(mut ends: Ends, slices: u64, (cpu, other): (u32, u32)) -> Result<Option<f64>> {
    let stop = AtomicBool::new(false);
    let begin = Barrier::new(2);
    let mut costs = Vec::new();
    let mut wrong = 0_u64;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = pin_to(other);
            begin.wait();
            let mut next = 0;
            while !stop.load(Ordering::Relaxed) {
                next += u64::from((ends.push)(next));
            }
        });
        let _ = pin_to(cpu);
        begin.wait();
        let mut expected = 0;
        for _ in 0..slices {
            let from = rdtsc();
            let end = expected + STREAM_SLICE;
            while expected < end {
                if let Some(n) = (ends.pop)() {
                    wrong += u64::from(n != expected);
                    expected += 1;
                }
            }
            costs.push((rdtsc() - from) as f64 / STREAM_SLICE as f64);
        }
        stop.store(true, Ordering::Relaxed);
    });
    if wrong != 0 {
        bail!("{wrong} messages came out of order");
    }
    Ok(crate::figures::median(&costs))
}

/// All rings, in turn in each repetition; the measured thread stays on the first CPU.
///
/// # Errors
/// If a ring cannot be made, or loses the order of its messages.
pub fn cross_core(
    args: &Args,
    cpus: (u32, u32),
    hz: u64,
    makers: &mut [Maker<'_>],
) -> Result<Sheet> {
    let gap = Clock::tsc(hz).ns_to_ticks(GAP_NS).get();
    let mut all: Vec<(Trips, Series)> = makers.iter().map(|_| Default::default()).collect();
    for _ in 0..args.repetitions() {
        for ((_, make), (trip, streams)) in makers.iter_mut().zip(&mut all) {
            let got = trips(make()?, make()?, args.size(20_000, 50), cpus, gap);
            trip.one_way.extend(got.one_way);
            trip.there_and_back.extend(got.there_and_back);
            trip.dropped[0] += got.dropped[0];
            trip.dropped[1] += got.dropped[1];
            streams.push(stream(make()?, args.size(60, 2), cpus)?);
        }
    }
    let mut sheet = Sheet::new(
        "cross-core rings of u64",
        &[
            "ring",
            "way",
            "p50 ns",
            "p99 ns",
            "p99.9 ns",
            "max ns",
            "samples",
            "dropped",
            "stream ns",
        ],
    );
    let ns = |ticks: f64| ticks * 1e9 / hz as f64;
    for ((name, _), (trip, streams)) in makers.iter().zip(&mut all) {
        let ways = [("one way", &mut trip.one_way), ("back", &mut trip.there_and_back)];
        for ((way, samples), dropped) in ways.into_iter().zip(trip.dropped) {
            samples.sort_unstable();
            let at = |per_mille: usize| {
                let index = (samples.len() * per_mille).div_ceil(1000).max(1) - 1;
                Cell::maybe(samples.get(index).map(|ticks| ns(*ticks as f64)), 0)
            };
            let stream = streams.median().filter(|_| way == "one way");
            sheet.row(vec![
                (*name).into(),
                way.into(),
                at(500),
                at(990),
                at(999),
                at(1000),
                (samples.len() as u64).into(),
                dropped.into(),
                Cell::maybe(stream.map(ns), 1),
            ]);
        }
    }
    sheet.note(
        "all repetitions together; trips above 30 us met a core that was taken away and are \
         dropped; stream: median slice of 16384 messages; each end behind a closure, all alike",
    );
    Ok(sheet)
}
