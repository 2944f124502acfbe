//! What a submission costs alone, and what a durable write takes.

use std::path::Path;
use std::time::{Duration, Instant};

use host_bridge::affinity::pin_to;
use host_bridge::sys::uring::{Buf, Features, File, Op, Ring, RingOptions, SqPoll};
use host_bridge::uring::target::{Target, TargetWish};
use hybrid_benches::hist::Hist;
use hybrid_benches::report::{Cell, Report, Sheet};

use super::engine::Load;

/// NOPs of a batch, and batches.
const BATCH: u32 = 32;
const BATCHES: u32 = 4_000;

/// More for a NOP's submission is a failure, in nanoseconds.
const LIMIT_NS: f64 = 500.0;

/// Durable writes.
const WRITES: u32 = 200;

/// Adds both to the report.
pub(super) fn add(report: &mut Report, sheet: &mut Sheet, load: Load, path: &Path) {
    match on_cpu(load, nop) {
        Ok(ns) => {
            row(sheet, "NOP with SQPOLL, to submit", ns, "ns", "below 100, failure above 500");
            report.goal_most("NOP submit with SQPOLL, ns", Some(ns), LIMIT_NS);
        }
        Err(why) => sheet.note(format!("NOP with SQPOLL: not here: {why}")),
    }
    match on_cpu(load, |_| durable(path)) {
        Ok(hist) => {
            let us = |ppm| hist.quantile(ppm) as f64 / 1000.0;
            let what = "registered write of 4 KiB + fdatasync, linked, p50";
            row(sheet, what, us(500_000), "us", "");
            let what = "registered write of 4 KiB + fdatasync, linked, p99";
            row(sheet, what, us(990_000), "us", "below 10 where the disk can");
        }
        Err(why) => sheet.note(format!("write + fdatasync: not here: {why}")),
    }
}

/// A figure and its goal.
pub(super) fn row(sheet: &mut Sheet, what: &str, value: f64, unit: &str, goal: &str) {
    sheet.row(vec![what.into(), Cell::Float(value, 1), unit.into(), goal.into()]);
}

fn on_cpu<T: Send>(
    load: Load,
    measure: impl FnOnce(Load) -> Result<T, String> + Send,
) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            pin_to(load.cpu).map_err(|error| error.to_string())?;
            measure(load)
        });
        thread.join().unwrap_or_else(|_| Err("it panicked".to_owned()))
    })
}

fn ring(features: Features, cpu: Option<u32>) -> Result<Ring, String> {
    let sqpoll = SqPoll { cpu, idle: Duration::from_secs(2), attach: None };
    let options = RingOptions { entries: 64, completions: 256, features, sqpoll };
    Ring::new(&options).map_err(|errno| errno.to_string())
}

/// The median of batches: nanoseconds to push and submit one.
fn nop(load: Load) -> Result<f64, String> {
    let mut ring = ring(Features::SQPOLL | Features::SQPOLL_CPU, Some(load.sq_cpu))?;
    let mut hist = Hist::new();
    for batch in 0..BATCHES {
        let begun = Instant::now();
        for number in 0..BATCH {
            ring.push(&Op::Nop, number.into()).map_err(|_| "the ring is full".to_owned())?;
        }
        ring.submit().map_err(|errno| errno.to_string())?;
        let took = begun.elapsed();
        if batch >= BATCHES / 10 {
            // In picoseconds, so that the histogram's steps are no part of the figure.
            let ps = took.as_nanos() * 1000 / u128::from(BATCH);
            hist.record(u64::try_from(ps).unwrap_or(u64::MAX));
        }
        await_all(&mut ring)?;
    }
    Ok(hist.quantile(500_000) as f64 / 1000.0)
}

/// Waits until nothing is in flight.
fn await_all(ring: &mut Ring) -> Result<(), String> {
    let begun = Instant::now();
    while ring.in_flight() != 0 {
        if ring.reap(64, |_| {}) == 0 {
            ring.submit().map_err(|errno| errno.to_string())?;
            std::hint::spin_loop();
            if begun.elapsed() > Duration::from_secs(20) {
                return Err("completions did not come within 20 s".to_owned());
            }
        }
    }
    Ok(())
}

/// A write and its `fdatasync`, linked, into a file of its own beside `path`.
fn durable(path: &Path) -> Result<Hist, String> {
    let beside = path.with_extension("durable.tmp");
    let mut wish = TargetWish::new(&beside);
    wish.create_bytes = Some(1 << 20);
    let outcome = Target::open(&wish)
        .map_err(|error| error.to_string())
        .and_then(|target| durable_on(&target));
    // Nothing is left to do about one that cannot be removed.
    let _ = std::fs::remove_file(&beside);
    outcome
}

fn durable_on(target: &Target) -> Result<Hist, String> {
    let mut ring = ring(Features::empty(), None)?;
    let memory = hybrid_shm::leak_aligned(4096, 4096);
    ring.register_buffers(&[memory]).map_err(|errno| errno.to_string())?;
    ring.register_files(&[target.fd()]).map_err(|errno| errno.to_string())?;
    let file = File::Fixed(0);
    let buf = Buf { span: memory, fixed: Some(0) };
    let mut hist = Hist::new();
    for number in 0..WRITES {
        let at = u64::from(number % 256) * 4096;
        let (write, sync) = (Op::Write { file, at, buf }, Op::Sync { file, data_only: true });
        let begun = Instant::now();
        ring.push_linked((&write, 1), (&sync, 2)).map_err(|_| "the ring is full".to_owned())?;
        let mut bad = None;
        while ring.in_flight() != 0 {
            ring.wait(Duration::from_secs(1)).map_err(|errno| errno.to_string())?;
            ring.reap(2, |cqe| {
                if cqe.result < 0 {
                    bad = Some(std::io::Error::from_raw_os_error(-cqe.result).to_string());
                }
            });
        }
        if let Some(why) = bad {
            return Err(why);
        }
        hist.record(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(hist)
}
