//! Our side of a rung: a closed loop on a ring, or `pread` on threads ([`super::psync`]).
//!
//! On a thread of its own, pinned; each operation's time is taken from its submission to when its
//! completion is seen. Buffers come from one pool, which was made and registered before: each
//! operation acquires one and gives it back. A pool that is empty is back-pressure: the operation
//! waits for a completion.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use host_bridge::affinity::pin_to;
use host_bridge::sys::syscall_guard::SyscallGuard;
use host_bridge::sys::uring::{Features, File, NvmeIo, Op, Ring, RingOptions, SqPoll};
use host_bridge::sys::usage::{ThreadUsage, process_cpu_time};
use host_bridge::uring::features::{Settled, settle};
use host_bridge::uring::pool::{BufferPool, PoolBuf, PoolOptions};
use host_bridge::uring::target::{Target, Way};
use hybrid_benches::hist::Hist;
use hybrid_shm::Span;
use nvme_driver::spec::{Cdw12Io, Cid, Lba, Nsid, NvmOpcode, Sqe};

use super::places::{Places, digest};
use super::rung::{Load, Measured, Rung, ns};
use super::{kernel, psync};

/// Memory of the buffers, made once for all runs, and how it is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffers {
    memory: Span<'static>,
    shape: PoolOptions,
}

impl Buffers {
    /// The default pool, with more or larger buffers where the load wants them.
    pub(super) fn for_load(load: Load) -> Result<Self, String> {
        let usual = PoolOptions::default();
        let count = u16::try_from(load.depth).map_err(|_| "-q is too deep".to_owned())?;
        let bytes = load.bytes.next_multiple_of(4096).max(usual.bytes);
        let shape = PoolOptions { count: count.max(usual.count), bytes };
        Ok(Self { memory: hybrid_shm::leak_aligned(shape.total_bytes(), 4096), shape })
    }

    /// As few as the load can do with, at the start of the same memory.
    fn fewest(self, load: Load) -> Self {
        let count = u16::try_from(load.depth).unwrap_or(u16::MAX);
        let shape = PoolOptions { count, bytes: load.bytes.next_multiple_of(4096) };
        let memory = self.memory.sub(0, shape.total_bytes()).unwrap_or(self.memory);
        Self { memory, shape }
    }

    fn words(self) -> String {
        format!("{} x {} KiB", self.shape.count, self.shape.bytes >> 10)
    }
}

/// One run of a rung, on a thread of its own.
pub(super) fn run(
    rung: Rung,
    target: &Target,
    load: Load,
    buffers: Buffers,
) -> Result<Measured, String> {
    if rung == Rung::Psync {
        return psync::run(target, load);
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            pin_to(load.cpu).map_err(|error| error.to_string())?;
            Loop::new(rung, target, load, buffers)?.run(load.time)
        });
        thread.join().unwrap_or_else(|_| Err("the loop panicked".to_owned()))
    })
}

/// A run under SQPOLL whose system calls the kernel reports: how many, and in how many seconds.
pub(super) fn counted(target: &Target, load: Load, buffers: Buffers) -> Result<(u64, f64), String> {
    let word = hybrid_shm::leak_aligned(64, 64).word32(0).map_err(|error| error.to_string())?;
    let (guard, arming) = SyscallGuard::listen(word, 1).map_err(|error| error.to_string())?;
    let over = AtomicBool::new(false);
    let measured = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            pin_to(load.cpu).map_err(|error| error.to_string())?;
            let mut ring = Loop::new(Rung::SqPoll, target, load, buffers)?;
            arming.arm().map_err(|error| error.to_string())?;
            ring.fill(Instant::now())?;
            while ring.done == 0 {
                ring.turn(true)?;
            }
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

/// An operation in flight, at the place of its buffer.
struct Flight {
    buf: PoolBuf,
    begun: Instant,
    at: u64,
    /// One of the first, whose data are looked at.
    first: bool,
}

/// A closed loop on a ring.
pub(super) struct Loop {
    ring: Ring,
    file: File,
    way: Way,
    lba_bytes: u32,
    pool: BufferPool,
    /// By buffer.
    flights: Vec<Option<Flight>>,
    places: Places,
    load: Load,
    latency: Hist,
    done: u64,
    pushed: u64,
    in_flight: u32,
    /// Each operation's time is taken.
    timed: bool,
    failed: Option<String>,
    completed: Vec<(u64, i32)>,
    scratch: Vec<u8>,
    digest: u64,
    steps: Vec<String>,
}

/// Completions of one turn: more wait for the next one, behind the submission of what they made
/// room for, so that the device is never without work because we follow it.
const REAP: u32 = 4;

impl Loop {
    fn new(rung: Rung, target: &Target, load: Load, buffers: Buffers) -> Result<Self, String> {
        let places = Places::new(target, load)?;
        let mut steps = Vec::new();
        let ring = ring(rung, target, load, &mut steps)?;
        let (mut buffers, mut fixed, mut file) = (buffers, None, File::Fd(target.fd()));
        if rung.fixed() {
            buffers = register(&ring, buffers, load, &mut steps)?;
            ring.register_files(&[target.fd()]).map_err(|errno| format!("files: {errno}"))?;
            (fixed, file) = (Some(0), File::Fixed(0));
        }
        let pool = BufferPool::new(buffers.memory, buffers.shape, fixed);
        Ok(Self {
            ring,
            file,
            way: target.way(),
            lba_bytes: target.limits().lba_bytes,
            flights: (0..pool.available()).map(|_| None).collect(),
            pool,
            completed: Vec::with_capacity(load.depth as usize),
            scratch: vec![0; load.bytes as usize],
            places,
            load,
            latency: Hist::new(),
            done: 0,
            pushed: 0,
            in_flight: 0,
            timed: true,
            failed: None,
            digest: 0,
            steps,
        })
    }

    /// The whole run.
    fn run(mut self, time: Duration) -> Result<Measured, String> {
        let waits = !self.ring.features().contains(Features::SQPOLL);
        let (cpu, usage) = (process_cpu_time(), ThreadUsage::now());
        let begun = Instant::now();
        self.fill(begun)?;
        // A thread of the kernel that sleeps is woken by a call; a completion shows it awake.
        while self.done == 0 {
            self.turn(!waits)?;
        }
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
            digest: self.digest,
            steps: self.steps,
        })
    }

    /// Everything in flight that may be and has a buffer.
    fn fill(&mut self, now: Instant) -> Result<(), String> {
        while self.in_flight < self.load.depth {
            let Some(buf) = self.pool.acquire() else { break };
            self.push(buf, now)?;
        }
        Ok(())
    }

    fn push(&mut self, buf: PoolBuf, now: Instant) -> Result<(), String> {
        let (at, file, write) = (self.places.next(), self.file, self.load.write);
        let memory = self.pool.buf(&buf, self.load.bytes).ok_or("a buffer that is too small")?;
        let op = match self.way {
            Way::Passthrough { nsid } => {
                Op::Nvme { file, command: self.command(nsid, at, write), buf: Some(memory) }
            }
            _ if write => Op::Write { file, at, buf: memory },
            _ => Op::Read { file, at, buf: memory },
        };
        let index = buf.index();
        self.ring.push(&op, index.into()).map_err(|_| "the ring is full".to_owned())?;
        let first = self.pushed < u64::from(self.load.depth);
        self.flights[usize::from(index)] = Some(Flight { buf, begun: now, at, first });
        self.in_flight += 1;
        self.pushed += 1;
        Ok(())
    }

    fn command(&self, nsid: u32, at: u64, write: bool) -> NvmeIo {
        let opcode = if write { NvmOpcode::WRITE } else { NvmOpcode::READ };
        let slba = Lba(at / u64::from(self.lba_bytes));
        let nlb_z = u16::try_from(self.load.bytes / self.lba_bytes - 1).unwrap_or(u16::MAX);
        NvmeIo::from(&Sqe::io(opcode, Cid(0), Nsid(nsid), slba, nlb_z, Cdw12Io::empty()))
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
        let now = self.timed.then(Instant::now);
        self.land(now);
        if let Some(why) = self.failed.take() {
            return Err(why);
        }
        self.fill(now.unwrap_or_else(|| self.fallback()))
    }

    /// A time for operations whose time is not taken.
    fn fallback(&self) -> Instant {
        let begun = self.flights.iter().flatten().map(|flight| flight.begun).next();
        begun.unwrap_or_else(Instant::now)
    }

    fn take(&mut self) -> u32 {
        self.completed.clear();
        let completed = &mut self.completed;
        let taken = self.ring.reap(REAP, |cqe| completed.push((cqe.user_data, cqe.result)));
        self.in_flight -= taken;
        taken
    }

    /// Ends what was taken and gives its buffers back.
    fn land(&mut self, now: Option<Instant>) {
        for taken in 0..self.completed.len() {
            let (number, result) = self.completed[taken];
            let place = usize::try_from(number).ok().and_then(|at| self.flights.get_mut(at));
            let Some(flight) = place.and_then(Option::take) else {
                self.failed = Some(format!("a completion names buffer {number}"));
                continue;
            };
            self.check(result);
            if let Some(now) = now {
                self.latency.record(ns(now - flight.begun));
            }
            if flight.first {
                let span = self.pool.span(&flight.buf);
                let read = span.is_some_and(|span| span.read(0, &mut self.scratch).is_ok());
                let bytes = if read { &self.scratch[..] } else { &[] };
                self.digest = self.digest.wrapping_add(digest(flight.at, bytes));
            }
            self.pool.release(flight.buf);
            self.done += 1;
        }
    }

    fn check(&mut self, result: i32) {
        let good = match self.way {
            Way::Passthrough { .. } => result == 0,
            _ => u32::try_from(result) == Ok(self.load.bytes),
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
            self.land(None);
        }
        self.failed.take().map_or(Ok(()), Err)
    }
}

/// The ring of a rung, with as much of it as the kernel takes.
fn ring(rung: Rung, target: &Target, load: Load, steps: &mut Vec<String>) -> Result<Ring, String> {
    let (wish, needed) = rung.features(target.limits().iopoll);
    let sqpoll = SqPoll { cpu: Some(load.sq_cpu), idle: Duration::from_secs(1), attach: None };
    let options = |features| RingOptions {
        entries: load.depth.next_power_of_two().max(8),
        completions: 4 * load.depth.next_power_of_two().max(8),
        features,
        sqpoll,
    };
    let make = |features| Ring::new(&options(features));
    let Settled { made, steps: lost, .. } =
        settle(wish, needed, &kernel(), make).map_err(|error| error.to_string())?;
    steps.extend(lost.iter().map(ToString::to_string));
    Ok(made)
}

/// Registers the pool's memory; a smaller one where the limit of locked memory is too low.
fn register(
    ring: &Ring,
    buffers: Buffers,
    load: Load,
    steps: &mut Vec<String>,
) -> Result<Buffers, String> {
    let Err(errno) = ring.register_buffers(&[buffers.memory]) else { return Ok(buffers) };
    let fewest = buffers.fewest(load);
    ring.register_buffers(&[fewest.memory])
        .map_err(|errno| format!("buffers of {}: {errno} (ulimit -l)", fewest.words()))?;
    steps.push(format!(
        "a pool of {} instead of {}: {errno}; raise RLIMIT_MEMLOCK (ulimit -l unlimited)",
        fewest.words(),
        buffers.words()
    ));
    Ok(fewest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use host_bridge::uring::target::TargetWish;

    fn load() -> Load {
        Load {
            depth: 16,
            bytes: 4096,
            write: false,
            random: true,
            time: Duration::from_millis(20),
            seed: 1,
            cpu: 0,
            sq_cpu: 0,
        }
    }

    /// A file of 1 MiB in which each block says where it is.
    fn target(name: &str) -> Target {
        let path = std::env::temp_dir().join(format!("ladder-{name}-{}.img", std::process::id()));
        let bytes: Vec<u8> = (0..256_u32).flat_map(|at| at.to_le_bytes().repeat(1024)).collect();
        std::fs::write(&path, bytes).expect("a file");
        let target = Target::open(&TargetWish::new(&path)).expect("a target");
        std::fs::remove_file(&path).expect("removed");
        target
    }

    #[test]
    fn an_empty_pool_is_back_pressure_and_the_work_goes_on() {
        let target = target("few");
        let few = PoolOptions { count: 3, bytes: 4096 };
        let memory = hybrid_shm::leak_aligned(few.total_bytes(), 4096);
        let buffers = Buffers { memory, shape: few };
        let mut ring = Loop::new(Rung::Fixed, &target, load(), buffers).expect("a loop");
        ring.fill(Instant::now()).expect("as many as there are buffers");
        assert_eq!((ring.in_flight, ring.pool.exhausted()), (3, 1));
        while ring.done < 100 {
            ring.turn(false).expect("goes on");
            assert!(ring.in_flight <= 3);
        }
        ring.drain().expect("ends");
        assert_eq!(ring.pool.available(), 3, "all of them came back");
        assert!(ring.pool.exhausted() > 1);
    }

    #[test]
    fn every_rung_reads_the_same_data_and_says_so() {
        let target = target("same");
        let buffers = Buffers::for_load(load()).expect("memory");
        let digest = |rung| run(rung, &target, load(), buffers).expect("runs").digest;
        let psync = digest(Rung::Psync);
        assert_eq!(digest(Rung::Interrupts), psync);
        assert_eq!(digest(Rung::Fixed), psync);
        let other = Load { seed: 2, ..load() };
        assert_ne!(run(Rung::Psync, &target, other, buffers).expect("runs").digest, psync);
    }
}
