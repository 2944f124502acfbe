//! The parts: each a fixed number of operations.

use std::cell::Cell;
use std::future::poll_fn;
use std::hint::black_box;
use std::rc::Rc;
use std::task::{Poll, Waker};

use anyhow::{Context as _, Result, bail};
use core_runtime::clock::{Clock, ManualClock};
use core_runtime::mem::{Bump, DmaArena, Iova};
use core_runtime::metrics::{MetricsWriter, part_bytes};
use core_runtime::ring::{RingSpec, pair};
use core_runtime::task::{Scheduler, SchedulerConfig, TaskOptions};
use hybrid_abi::metrics::MetricUnit;
use hybrid_abi::probe::MASK_ALL;
use hybrid_benches::probed::{STEP, probes};
use hybrid_shm::{leak_aligned, leak_zeroed};

use crate::counted;
use crate::rig::Rig;

/// In the order of a read's way.
pub(crate) const NAMES: [&str; 15] = [
    "raw-submit-1",
    "raw-submit-32",
    "raw-reap-1",
    "raw-reap-32",
    "raw-empty-reap",
    "controller-empty-poll",
    "future-read-32",
    "task-wake",
    "task-poll",
    "probe-off",
    "probe-stamped",
    "ring-push-pop",
    "histogram-record",
    "dma-alloc-free",
    "crc32c-4kib",
];

/// Operations that are counted.
const OPS: u32 = 3200;

/// Tasks of one tick.
const TASKS: u32 = 32;

/// Carries a part out; how many operations it was.
pub(crate) fn run(part: &str) -> Result<u32> {
    match part {
        "raw-submit-1" => Rig::new()?.raw(1, OPS, true),
        "raw-submit-32" => Rig::new()?.raw(32, OPS, true),
        "raw-reap-1" => Rig::new()?.raw(1, OPS, false),
        "raw-reap-32" => Rig::new()?.raw(32, OPS, false),
        "raw-empty-reap" => Rig::new()?.raw_empty(OPS),
        "controller-empty-poll" => Rig::new()?.empty_polls(OPS),
        "future-read-32" => Rig::new()?.futures(TASKS, OPS),
        "task-wake" => tasks(true),
        "task-poll" => tasks(false),
        "probe-off" => events(0),
        "probe-stamped" => events(MASK_ALL),
        "ring-push-pop" => ring(),
        "histogram-record" => histogram(),
        "dma-alloc-free" => arena(),
        "crc32c-4kib" => Ok(checksum()),
        _ => bail!("no part {part:?}; there are: {}", NAMES.join(", ")),
    }
}

/// A clock that stands still unless it is moved: one tick is a nanosecond.
pub(crate) fn clock() -> (Clock, &'static ManualClock) {
    let manual: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1)));
    (Clock::manual(manual), manual)
}

/// Tasks that wait: all are woken, then one tick polls them.
fn tasks(wake: bool) -> Result<u32> {
    let config = SchedulerConfig { time_polls: false, ..SchedulerConfig::default() };
    let scheduler = Scheduler::new(config, clock().0, &Bump::leak(4 << 20))?;
    let wakers: Rc<[Cell<Option<Waker>>]> = (0..TASKS).map(|_| Cell::new(None)).collect();
    for index in 0..wakers.len() {
        let wakers = Rc::clone(&wakers);
        let mut known = false;
        let task = poll_fn(move |cx| {
            if !known {
                wakers[index].set(Some(cx.waker().clone()));
                known = true;
            }
            Poll::<()>::Pending
        });
        scheduler.spawner().spawn(TaskOptions::normal("waits"), task)?.detach();
    }
    scheduler.tick(scheduler.clock().now());
    let wakers: Vec<Waker> = wakers.iter().filter_map(Cell::take).collect();
    let mut wake_all = || wakers.iter().for_each(Waker::wake_by_ref);
    let mut tick = || {
        black_box(scheduler.tick(scheduler.clock().now()));
    };
    for _ in 0..OPS / TASKS {
        match wake {
            true => (counted(&mut wake_all), tick()),
            false => (wake_all(), counted(&mut tick)),
        };
    }
    Ok(OPS)
}

/// Events of a probe, all of which are written or none; the loop around them is counted too.
fn events(mask: u64) -> Result<u32> {
    let probes = probes(clock().0, mask)?;
    counted(&mut || {
        for n in 0..OPS {
            STEP.emit_stamped(black_box(probes), n, n.into(), n.into());
        }
    });
    let expected = if mask == 0 { 0 } else { OPS };
    (probes.written() == u64::from(expected)).then_some(OPS).context("other events were written")
}

fn ring() -> Result<u32> {
    let spec = RingSpec::fixed::<u64>(1024)?;
    let part = |bytes| leak_zeroed(bytes);
    let (producer, consumer) =
        pair(part(spec.producer_bytes()), part(spec.consumer_bytes()), spec)?;
    let mut sum = 0_u64;
    counted(&mut || {
        for n in 0..u64::from(OPS) {
            let _ = producer.try_push(black_box(&n));
            sum = sum.wrapping_add(consumer.pop().unwrap_or(0));
        }
    });
    let all = u64::from(OPS) * u64::from(OPS - 1) / 2;
    (sum == all).then_some(OPS).context("the ring lost numbers")
}

fn histogram() -> Result<u32> {
    let mut writer = MetricsWriter::new(leak_aligned(part_bytes(4, 1), 128), 4)?;
    let histogram = writer.histogram("values", MetricUnit::COUNT)?;
    counted(&mut || {
        for n in 0..u64::from(OPS) {
            histogram.record(black_box(n * n));
        }
    });
    let most = u64::from(OPS - 1);
    (histogram.max() == most * most).then_some(OPS).context("the histogram lost values")
}

fn arena() -> Result<u32> {
    let arena = DmaArena::leak(16 << 20, Iova(1 << 38))?;
    let mut sum = 0_u64;
    counted(&mut || {
        for _ in 0..OPS {
            if let Ok(buf) = arena.alloc(black_box(4096)) {
                sum = sum.wrapping_add(buf.iova().0);
            }
        }
    });
    (sum != 0).then_some(OPS).context("no memory")
}

fn checksum() -> u32 {
    let bytes: Vec<u8> = (0..4096_u32).map(|n| n.to_le_bytes()[0]).collect();
    counted(&mut || {
        for _ in 0..OPS / 100 {
            black_box(core_runtime::crc::crc32c(black_box(&bytes)));
        }
    });
    OPS / 100
}
