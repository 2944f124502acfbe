//! Our side of a rung: a closed loop on a ring, or `pread` one after the other.
//!
//! On a thread of its own, pinned; each operation's time is taken from its submission to when its
//! completion is seen.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use host_bridge::affinity::pin_to;
use host_bridge::sys::syscall_guard::SyscallGuard;
use host_bridge::sys::uring::{Buf, Features, File, NvmeIo, Op, Ring, RingOptions, SqPoll};
use host_bridge::sys::usage::{ThreadUsage, process_cpu_time};
use host_bridge::uring::features::{Settled, settle};
use host_bridge::uring::pool::{BufferPool, PoolOptions};
use host_bridge::uring::target::{Target, Way};
use hybrid_benches::hist::Hist;
use hybrid_benches::rng::Rng;

use super::kernel;

/// A rung of the kernel's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rung {
    Psync,
    Interrupts,
    Fixed,
    SqPoll,
    IoPoll,
    Passthrough,
}

impl Rung {
    pub(super) const ALL: [Self; 6] =
        [Self::Psync, Self::Interrupts, Self::Fixed, Self::SqPoll, Self::IoPoll, Self::Passthrough];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Psync => "psync, one at a time",
            Self::Interrupts => "io_uring, interrupts",
            Self::Fixed => "+ fixed buffers, files",
            Self::SqPoll => "+ SQPOLL",
            Self::IoPoll => "+ IOPOLL",
            Self::Passthrough => "+ passthrough",
        }
    }

    /// What the documents expect of the step, on drives.
    pub(super) const fn expected(self) -> &'static str {
        match self {
            Self::Psync | Self::Fixed => "",
            Self::Interrupts => "1.06 to 1.10",
            Self::SqPoll => "1.32",
            Self::IoPoll => "1.21",
            Self::Passthrough => "1.20",
        }
    }

    /// fio's job file.
    pub(super) const fn job(self) -> &'static str {
        match self {
            Self::Psync => include_str!("../../../../fio/psync.fio"),
            Self::Interrupts => include_str!("../../../../fio/interrupts.fio"),
            Self::Fixed => include_str!("../../../../fio/fixed.fio"),
            Self::SqPoll => include_str!("../../../../fio/sqpoll.fio"),
            Self::IoPoll => include_str!("../../../../fio/iopoll.fio"),
            Self::Passthrough => include_str!("../../../../fio/passthrough.fio"),
        }
    }

    pub(super) const fn polls_submissions(self) -> bool {
        matches!(self, Self::SqPoll | Self::IoPoll | Self::Passthrough)
    }

    const fn fixed(self) -> bool {
        !matches!(self, Self::Psync | Self::Interrupts)
    }

    /// What its ring is like; `needed` is what the rung is about.
    fn features(self, polled: bool) -> (Features, Features) {
        let pinned = Features::SQPOLL_CPU;
        let iopoll = if polled { Features::IOPOLL } else { Features::empty() };
        match self {
            Self::Psync | Self::Interrupts | Self::Fixed => {
                (Features::SINGLE_ISSUER | Features::DEFER_TASKRUN, Features::empty())
            }
            Self::SqPoll => (pinned, Features::SQPOLL),
            Self::IoPoll => (pinned, Features::SQPOLL | iopoll),
            Self::Passthrough => (pinned, Features::SQPOLL | Features::BIG | iopoll),
        }
    }
}

/// What every rung does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(super) depth: u32,
    pub(super) bytes: u32,
    pub(super) write: bool,
    pub(super) random: bool,
    pub(super) time: Duration,
    pub(super) seed: u64,
    /// Where it runs, and where the kernel's thread does.
    pub(super) cpu: u32,
    pub(super) sq_cpu: u32,
}

/// What one run gave.
pub(super) struct Measured {
    done: u64,
    time: Duration,
    cpu: Duration,
    calls: u64,
    switches: u64,
    latency: Hist,
}

impl Measured {
    fn per_s(&self, count: u64) -> f64 {
        count as f64 / self.time.as_secs_f64().max(1e-9)
    }

    pub(super) fn iops(&self) -> f64 {
        self.per_s(self.done)
    }

    pub(super) fn calls_per_s(&self) -> f64 {
        self.per_s(self.calls)
    }

    pub(super) fn switches_per_s(&self) -> f64 {
        self.per_s(self.switches)
    }

    pub(super) fn cpu_percent(&self) -> f64 {
        100.0 * self.cpu.as_secs_f64() / self.time.as_secs_f64().max(1e-9)
    }

    pub(super) fn latency_ns(&self, parts_per_million: u32) -> f64 {
        self.latency.quantile(parts_per_million) as f64
    }

    /// Operations, or whether there were any: for a checksum that is the same each time.
    pub(super) const fn done(&self) -> u64 {
        (self.done != 0) as u64
    }
}

/// Where operations go.
struct Places {
    rng: Rng,
    next: u64,
    count: u64,
    load: Load,
}

impl Places {
    fn new(target: &Target, load: Load) -> Result<Self, String> {
        let limits = target.limits();
        let size = limits.blocks * u64::from(limits.lba_bytes);
        let count = size / u64::from(load.bytes);
        if !load.bytes.is_multiple_of(limits.lba_bytes) || count == 0 {
            return Err(format!("-o {} is no multiple of its blocks, or larger", load.bytes));
        }
        if load.bytes > limits.max_transfer_bytes {
            return Err(format!("-o is more than it takes at once, {}", limits.max_transfer_bytes));
        }
        Ok(Self { rng: Rng::new(load.seed), next: 0, count, load })
    }

    /// The next byte offset.
    fn next(&mut self) -> u64 {
        let place = if self.load.random {
            self.rng.below(self.count)
        } else {
            self.next = (self.next + 1) % self.count;
            self.next
        };
        place * u64::from(self.load.bytes)
    }
}

/// One run of a rung, on a thread of its own.
pub(super) fn run(rung: Rung, target: &Target, load: Load) -> Result<Measured, String> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            pin_to(load.cpu).map_err(|error| error.to_string())?;
            match rung {
                Rung::Psync => psync(target, load),
                _ => Loop::new(rung, target, load)?.run(load.time),
            }
        });
        thread.join().unwrap_or_else(|_| Err("the loop panicked".to_owned()))
    })
}

/// A run under SQPOLL whose system calls the kernel reports: how many, and in how many seconds.
pub(super) fn counted(target: &Target, load: Load) -> Result<(u64, f64), String> {
    let word = hybrid_shm::leak_aligned(64, 64).word32(0).map_err(|error| error.to_string())?;
    let (guard, arming) = SyscallGuard::listen(word, 1).map_err(|error| error.to_string())?;
    let over = AtomicBool::new(false);
    let measured = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            pin_to(load.cpu).map_err(|error| error.to_string())?;
            let mut ring = Loop::new(Rung::SqPoll, target, load)?;
            arming.arm().map_err(|error| error.to_string())?;
            ring.fill()?;
            // The clock may be a system call where the counter is not stable: another thread looks.
            ring.timed = false;
            let begun = Instant::now();
            word.store_release(1);
            while !over.load(Ordering::Relaxed) {
                ring.turn(true)?;
            }
            word.store_release(0);
            let seconds = begun.elapsed().as_secs_f64();
            ring.drain()?;
            Ok(seconds)
        });
        std::thread::sleep(load.time);
        over.store(true, Ordering::Relaxed);
        thread.join().unwrap_or_else(|_| Err("the loop panicked".to_owned()))
    });
    let report = guard.finish();
    measured.map(|seconds| (report.calls, seconds))
}

/// `pread` or `pwrite`, one after the other.
fn psync(target: &Target, load: Load) -> Result<Measured, String> {
    let file = target.file().map_err(|error| error.to_string())?;
    let mut places = Places::new(target, load)?;
    let len = load.bytes as usize;
    let mut memory = vec![0_u8; len + 4096];
    let start = memory.as_ptr().align_offset(4096);
    let buf = &mut memory[start..start + len];
    let mut latency = Hist::new();
    let (cpu, usage, begun) = (process_cpu_time(), ThreadUsage::now(), Instant::now());
    let mut now = begun;
    let mut done = 0;
    while now - begun < load.time {
        let at = places.next();
        let moved = if load.write { file.write_at(buf, at) } else { file.read_at(buf, at) };
        match moved {
            Ok(moved) if moved == len => {}
            Ok(moved) => return Err(format!("{moved} bytes of {len} at {at}")),
            Err(error) => return Err(error.to_string()),
        }
        let after = Instant::now();
        latency.record(ns(after - now));
        now = after;
        done += 1;
    }
    let used = ThreadUsage::now().since(usage);
    Ok(Measured {
        done,
        time: now - begun,
        cpu: process_cpu_time().saturating_sub(cpu),
        calls: done,
        switches: used.voluntary_switches + used.involuntary_switches,
        latency,
    })
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A closed loop on a ring.
pub(super) struct Loop {
    ring: Ring,
    file: File,
    way: Way,
    lba_bytes: u32,
    bufs: Vec<Buf>,
    begun: Vec<Instant>,
    places: Places,
    latency: Hist,
    done: u64,
    in_flight: u32,
    /// Each operation's time is taken.
    timed: bool,
    failed: Option<String>,
    completed: Vec<(u64, i32)>,
}

/// Completions of one turn: more wait for the next one, behind the submission of what they made
/// room for, so that the device is never without work because we follow it.
const REAP: u32 = 4;

/// A pool of one buffer an operation, registered once.
const PAGE: usize = 4096;

impl Loop {
    pub(super) fn new(rung: Rung, target: &Target, load: Load) -> Result<Self, String> {
        let places = Places::new(target, load)?;
        let (wish, needed) = rung.features(target.limits().iopoll);
        let sqpoll = SqPoll { cpu: Some(load.sq_cpu), idle: Duration::from_secs(1), attach: None };
        let options = |features| RingOptions {
            entries: load.depth.next_power_of_two().max(8),
            completions: 4 * load.depth.next_power_of_two().max(8),
            features,
            sqpoll,
        };
        let attempt = |features| Ring::new(&options(features)).map(drop);
        let Settled { features, .. } =
            settle(wish, needed, &kernel(), attempt).map_err(|error| error.to_string())?;
        let ring = Ring::new(&options(features)).map_err(|errno| errno.to_string())?;
        let count = u16::try_from(load.depth).map_err(|_| "too deep".to_owned())?;
        let bytes = load.bytes.next_multiple_of(4096);
        let shape = PoolOptions { count, bytes };
        let memory = hybrid_shm::leak_aligned(shape.total_bytes(), PAGE);
        let (mut fixed, mut file) = (None, File::Fd(target.fd()));
        if rung.fixed() {
            ring.register_buffers(&[memory]).map_err(|errno| format!("buffers: {errno}"))?;
            ring.register_files(&[target.fd()]).map_err(|errno| format!("files: {errno}"))?;
            (fixed, file) = (Some(0), File::Fixed(0));
        }
        let mut pool = BufferPool::new(memory, shape, fixed);
        let bufs: Option<Vec<_>> = (0..load.depth)
            .map(|_| {
                let buf = pool.acquire()?;
                pool.buf(&buf, load.bytes)
            })
            .collect();
        let bufs = bufs.ok_or_else(|| "a pool that is too small".to_owned())?;
        Ok(Self {
            ring,
            file,
            way: target.way(),
            lba_bytes: target.limits().lba_bytes,
            begun: vec![Instant::now(); bufs.len()],
            completed: Vec::with_capacity(bufs.len()),
            bufs,
            places,
            latency: Hist::new(),
            done: 0,
            in_flight: 0,
            timed: true,
            failed: None,
        })
    }

    /// The whole run.
    fn run(mut self, time: Duration) -> Result<Measured, String> {
        let waits = !self.ring.features().contains(Features::SQPOLL);
        let (cpu, usage) = (process_cpu_time(), ThreadUsage::now());
        let begun = Instant::now();
        self.fill()?;
        let enters = self.ring.enters();
        while begun.elapsed() < time {
            self.turn(!waits)?;
        }
        let elapsed = begun.elapsed();
        let (done, calls) = (self.done, self.ring.enters() - enters);
        let used = ThreadUsage::now().since(usage);
        let cpu = process_cpu_time().saturating_sub(cpu);
        self.drain()?;
        Ok(Measured {
            done,
            time: elapsed,
            cpu,
            calls,
            switches: used.voluntary_switches + used.involuntary_switches,
            latency: self.latency,
        })
    }

    /// Everything in flight that may be.
    fn fill(&mut self) -> Result<(), String> {
        let now = Instant::now();
        for slot in 0..self.bufs.len() {
            self.push(slot, now)?;
        }
        self.ring.submit().map_err(|errno| errno.to_string())
    }

    fn push(&mut self, slot: usize, now: Instant) -> Result<(), String> {
        let (at, buf, file) = (self.places.next(), self.bufs[slot], self.file);
        let write = self.places.load.write;
        let op = match self.way {
            Way::Passthrough { nsid } => {
                Op::Nvme { file, command: self.command(nsid, at, write), buf: Some(buf) }
            }
            _ if write => Op::Write { file, at, buf },
            _ => Op::Read { file, at, buf },
        };
        self.begun[slot] = now;
        self.in_flight += 1;
        self.ring.push(&op, slot as u64).map_err(|_| "the ring is full".to_owned())
    }

    fn command(&self, nsid: u32, at: u64, write: bool) -> NvmeIo {
        let slba = at / u64::from(self.lba_bytes);
        let low = u32::try_from(slba & 0xFFFF_FFFF).unwrap_or(0);
        let high = u32::try_from(slba >> 32).unwrap_or(0);
        let nlb_z = self.places.load.bytes / self.lba_bytes - 1;
        let cdw = [low, high, nlb_z, 0, 0, 0];
        NvmeIo { opcode: if write { 1 } else { 2 }, nsid, cdw, timeout_ms: 0 }
    }

    /// Submits, takes what has completed, and puts as much back.
    fn turn(&mut self, spin: bool) -> Result<(), String> {
        let entered = if spin {
            self.ring.submit()
        } else {
            // One call that submits and waits.
            self.ring.submit_and_wait()
        };
        entered.map_err(|errno| errno.to_string())?;
        if self.take() == 0 {
            std::hint::spin_loop();
            return Ok(());
        }
        let now = if self.timed { Instant::now() } else { self.begun[0] };
        for at in 0..self.completed.len() {
            let (number, result) = self.completed[at];
            let slot = usize::try_from(number).unwrap_or(0).min(self.bufs.len() - 1);
            self.check(result);
            self.latency.record(ns(now - self.begun[slot]));
            self.done += 1;
            self.push(slot, now)?;
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    fn take(&mut self) -> u32 {
        self.completed.clear();
        let completed = &mut self.completed;
        let taken = self.ring.reap(REAP, |cqe| completed.push((cqe.user_data, cqe.result)));
        self.in_flight -= taken;
        taken
    }

    fn check(&mut self, result: i32) {
        let good = match self.way {
            Way::Passthrough { .. } => result == 0,
            _ => u32::try_from(result) == Ok(self.places.load.bytes),
        };
        if !good && self.failed.is_none() {
            let error = std::io::Error::from_raw_os_error(-result.min(0));
            self.failed = Some(format!("an operation returned {result} ({error})"));
        }
    }

    /// Lets what is in flight end.
    fn drain(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while self.in_flight != 0 {
            if begun.elapsed() > Duration::from_secs(20) {
                return Err("operations did not end within 20 s".to_owned());
            }
            self.ring.wait(Duration::from_millis(10)).map_err(|errno| errno.to_string())?;
            self.take();
        }
        Ok(())
    }
}
