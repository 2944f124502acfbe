//! What a submission costs alone, and what a durable write takes.

use std::path::Path;
use std::time::{Duration, Instant};

use host_bridge::affinity::pin_to;
use host_bridge::sys::uring::{Features, File, Op, Ring, RingOptions, SqPoll};
use host_bridge::uring::pool::{BufferPool, PoolOptions};
use host_bridge::uring::target::{Target, TargetWish};
use hybrid_benches::hist::Hist;
use hybrid_benches::report::{Cell, Report, Sheet};

use super::rung::{Load, ns};

/// NOPs of a batch, and batches.
const BATCH: u32 = 32;
const BATCHES: u32 = 4_000;

/// More for a NOP's submission is a failure, in nanoseconds.
const LIMIT_NS: f64 = 500.0;

/// Durable writes, and bytes of the file that takes them.
const WRITES: u32 = 200;
const FILE_BYTES: u64 = 1 << 20;

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

/// A write and its `fdatasync`, linked, into a new file beside `path`.
fn durable(path: &Path) -> Result<Hist, String> {
    if !path.is_file() {
        return Err("it is measured in a new file beside FILE, and this is a device".to_owned());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".durable-{}", std::process::id()));
    let beside = path.with_file_name(name);
    // Only what was made here is written and removed.
    let made = std::fs::File::create_new(&beside).and_then(|file| file.set_len(FILE_BYTES));
    made.map_err(|error| format!("{}: {error}", beside.display()))?;
    let target = Target::open(&TargetWish::new(&beside)).map_err(|error| error.to_string());
    // Open, it needs no name any more; nothing is left behind whatever happens.
    std::fs::remove_file(&beside).map_err(|error| format!("{}: {error}", beside.display()))?;
    durable_on(&target?)
}

fn durable_on(target: &Target) -> Result<Hist, String> {
    let mut ring = ring(Features::empty(), None)?;
    let shape = PoolOptions { count: 2, bytes: 4096 };
    let memory = hybrid_shm::leak_aligned(shape.total_bytes(), 4096);
    ring.register_buffers(&[memory]).map_err(|errno| errno.to_string())?;
    ring.register_files(&[target.fd()]).map_err(|errno| errno.to_string())?;
    let mut pool = BufferPool::new(memory, shape, Some(0));
    let file = File::Fixed(0);
    let mut hist = Hist::new();
    for number in 0..WRITES {
        let at = u64::from(number) * 4096 % FILE_BYTES;
        let held = pool.acquire().ok_or("the pool is empty")?;
        let buf = pool.buf(&held, 4096).ok_or("a buffer that is too small")?;
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
        hist.record(ns(begun.elapsed()));
        pool.release(held);
    }
    Ok(hist)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("ladder-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        dir
    }

    #[test]
    fn durable_writes_leave_nothing_and_touch_nothing_that_was_there() {
        let dir = dir("durable");
        let names = ["x.img", "x.durable.tmp"];
        names.iter().for_each(|name| std::fs::write(dir.join(name), b"mine").expect("written"));
        let hist = durable(&dir.join("x.img")).expect("measured");
        assert_eq!(hist.count(), u64::from(WRITES));
        let mut left: Vec<_> = std::fs::read_dir(&dir)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["x.durable.tmp", "x.img"]);
        for name in names {
            assert_eq!(std::fs::read(dir.join(name)).expect("there"), b"mine");
        }
        // Its own name taken: refused, and left as it was.
        let own = dir.join(format!("x.img.durable-{}", std::process::id()));
        std::fs::write(&own, b"another's").expect("written");
        assert!(durable(&dir.join("x.img")).is_err_and(|why| why.contains("exists")));
        assert_eq!(std::fs::read(&own).expect("there"), b"another's");
        std::fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn a_device_is_not_written_and_its_folder_gets_no_file() {
        let why = durable(Path::new("/dev/null")).expect_err("no file");
        assert!(why.contains("this is a device"), "{why}");
    }
}
