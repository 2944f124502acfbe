//! Rings between two cores: one way, there and back, and a stream.
//!
//! A round trip that takes longer than [`GAP_NS`] met a core that was taken away; it is dropped and
//! counted. Of streams the median slice counts.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use core_runtime::clock::rdtsc;
use core_runtime::ring::{Consumer, Producer, RingSpec, pair};
use crossbeam_queue::ArrayQueue;
use host_bridge::affinity::pin_to;
use hybrid_benches::cli::Args;
use hybrid_benches::figures::Series;
use hybrid_benches::report::{Cell, Sheet};
use hybrid_shm::leak_aligned;

/// Slots of each ring.
const CAPACITY: usize = 1024;

/// Longest round trip that is taken for the rings' own: fifty times the usual.
const GAP_NS: u64 = 30_000;

/// Messages of a stream's slice.
const STREAM_SLICE: u64 = 16 * CAPACITY as u64;

/// A ring's two ends as closures.
struct Ends {
    push: Box<dyn FnMut(u64) -> bool + Send>,
    pop: Box<dyn FnMut() -> Option<u64> + Send>,
}

fn ours() -> Result<Ends> {
    let spec = RingSpec::fixed::<u64>(u32::try_from(CAPACITY)?)?;
    let part = |bytes| leak_aligned(bytes, 128);
    let (producer, consumer): (Producer<u64>, Consumer<u64>) =
        pair(part(spec.producer_bytes()), part(spec.consumer_bytes()), spec)?;
    Ok(Ends {
        push: Box::new(move |n| producer.try_push(&n).is_ok()),
        pop: Box::new(move || consumer.pop().ok()),
    })
}

fn heapless() -> Ends {
    let queue: &'static mut heapless::spsc::Queue<u64, CAPACITY> = Box::leak(Box::default());
    let (mut put, mut take) = queue.split();
    Ends { push: Box::new(move |n| put.enqueue(n).is_ok()), pop: Box::new(move || take.dequeue()) }
}

fn crossbeam() -> Ends {
    let queue: &'static ArrayQueue<u64> = Box::leak(Box::new(ArrayQueue::new(CAPACITY)));
    Ends { push: Box::new(|n| queue.push(n).is_ok()), pop: Box::new(|| queue.pop()) }
}

/// What one repetition gave, in ticks.
#[derive(Default)]
struct Trips {
    one_way: Vec<u64>,
    there_and_back: Vec<u64>,
    dropped: u64,
}

/// One message at a time, there and back.
fn trips(mut there: Ends, mut back: Ends, count: u64, (cpu, other): (u32, u32), gap: u64) -> Trips {
    let begin = Barrier::new(2);
    let mut trips = Trips::default();
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            // A cpu that was allowed a moment ago; elsewhere it would only be slower.
            let _ = pin_to(other);
            begin.wait();
            let mut one_way = Vec::new();
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
    let all = trips.there_and_back.len() + trips.one_way.len();
    trips.one_way.retain(|ticks| *ticks < gap);
    trips.there_and_back.retain(|ticks| *ticks < gap);
    trips.dropped = (all - trips.there_and_back.len() - trips.one_way.len()) as u64;
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
    Ok(hybrid_benches::figures::median(&costs))
}

/// All rings, in turn in each repetition.
pub(crate) fn cross_core(args: &Args, cpu: u32, other: u32, hz: u64) -> Result<Sheet> {
    let names = ["ours", "heapless spsc", "crossbeam ArrayQueue"];
    let make = |name| match name {
        0 => ours(),
        1 => Ok(heapless()),
        _ => Ok(crossbeam()),
    };
    let gap = hz / 1_000_000_000 * GAP_NS;
    let mut streams = [(); 3].map(|()| Series::default());
    let mut all = [(); 3].map(|()| Trips::default());
    for _ in 0..args.repetitions() {
        for ring in 0..names.len() {
            let count = args.size(20_000, 50);
            let got = trips(make(ring)?, make(ring)?, count, (cpu, other), gap);
            all[ring].one_way.extend(got.one_way);
            all[ring].there_and_back.extend(got.there_and_back);
            all[ring].dropped += got.dropped;
            streams[ring].push(stream(make(ring)?, args.size(60, 2), (cpu, other))?);
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
    for (ring, name) in names.iter().enumerate() {
        let dropped = all[ring].dropped;
        let ways = [("one way", &mut all[ring].one_way), ("back", &mut all[ring].there_and_back)];
        for (way, samples) in ways {
            samples.sort_unstable();
            let at = |per_mille: usize| {
                let index = (samples.len() * per_mille).div_ceil(1000).max(1) - 1;
                Cell::maybe(samples.get(index).map(|ticks| ns(*ticks as f64)), 0)
            };
            let stream = streams[ring].median().filter(|_| way == "one way");
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
