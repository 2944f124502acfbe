//! The rung below io_uring: `pread` or `pwrite`, on as many threads as operations in flight.

use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::time::Instant;

use host_bridge::affinity::pin_to;
use host_bridge::sys::usage::{ThreadUsage, process_cpu_time};
use host_bridge::uring::target::Target;
use hybrid_benches::hist::Hist;

use super::places::{Places, digest};
use super::rung::{Load, Measured, ns};

/// What one thread did.
struct One {
    done: u64,
    switches: u64,
    latency: Hist,
    digest: u64,
}

/// One thread for each operation in flight, all of them on the CPU of the load.
pub(super) fn run(target: &Target, load: Load) -> Result<Measured, String> {
    let ready = Barrier::new(load.depth as usize + 1);
    let (cpu, begun, ones) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..load.depth)
            .map(|one| {
                let ready = &ready;
                scope.spawn(move || {
                    let prepared = pin_to(load.cpu)
                        .map_err(|error| error.to_string())
                        .and_then(|()| Thread::new(target, load, one));
                    // All begin together, the one that cannot included: nobody waits for it.
                    ready.wait();
                    prepared?.run(load)
                })
            })
            .collect();
        ready.wait();
        let (cpu, begun) = (process_cpu_time(), Instant::now());
        let ones: Result<Vec<_>, String> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".to_owned())))
            .collect();
        (cpu, begun, ones)
    });
    let (time, cpu) = (begun.elapsed(), process_cpu_time().saturating_sub(cpu));
    let mut all = One { done: 0, switches: 0, latency: Hist::new(), digest: 0 };
    for one in ones? {
        all.done += one.done;
        all.switches += one.switches;
        all.latency.merge(&one.latency);
        all.digest = all.digest.wrapping_add(one.digest);
    }
    let One { done, switches, latency, digest } = all;
    // Each operation is one system call.
    Ok(Measured { done, time, cpu, calls: done, switches, latency, digest, steps: Vec::new() })
}

/// A thread's own.
struct Thread {
    file: std::fs::File,
    places: Places,
    first: u64,
    memory: Vec<u8>,
    start: usize,
}

impl Thread {
    fn new(target: &Target, load: Load, one: u32) -> Result<Self, String> {
        let file = target.file().map_err(|error| error.to_string())?;
        let (first, places) = Places::of(target, load, one)?;
        let memory = vec![0_u8; load.bytes as usize + 4096];
        let start = memory.as_ptr().align_offset(4096);
        Ok(Self { file, places, first, memory, start })
    }

    fn run(mut self, load: Load) -> Result<One, String> {
        let len = load.bytes as usize;
        let buf = &mut self.memory[self.start..self.start + len];
        let mut one = One { done: 0, switches: 0, latency: Hist::new(), digest: 0 };
        let (usage, begun) = (ThreadUsage::now(), Instant::now());
        let (mut now, mut at) = (begun, self.first);
        // The first one in any case: its data are the proof.
        while one.done == 0 || now - begun < load.time {
            let file = &self.file;
            let moved = if load.write { file.write_at(buf, at) } else { file.read_at(buf, at) };
            match moved {
                Ok(moved) if moved == len => {}
                Ok(moved) => return Err(format!("{moved} bytes of {len} at {at}")),
                Err(error) => return Err(error.to_string()),
            }
            let after = Instant::now();
            one.latency.record(ns(after - now));
            if one.done == 0 {
                one.digest = digest(at, buf);
            }
            (now, at) = (after, self.places.next());
            one.done += 1;
        }
        let used = ThreadUsage::now().since(usage);
        one.switches = used.voluntary_switches + used.involuntary_switches;
        Ok(one)
    }
}
