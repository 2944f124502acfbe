//! The pure cost of the software: driver and model in turn on one core, nothing shared with
//! another.
//!
//! A batch is submitted and rung, the model is stepped until it has posted all completions, and the
//! batch is reaped. Only submit, ring and reap are timed; what reading the counter costs is
//! measured and taken off. The slowest twentieth of each repetition's batches is left out
//! (interrupts, a core that was taken away), the rest is averaged: the counter of some machines
//! moves in steps of ten nanoseconds, and a median would be one of them.

use anyhow::{Context as _, Result, bail};
use core_runtime::clock::{Clock, rdtsc, rdtsc_ordered};
use core_runtime::mem::Bump;
use host_bridge::sys::alloc_guard;
use hybrid_benches::one_core::{BLOCKS, OneCore};
use hybrid_benches::rng::Rng;
use nvme_driver::{Lba, RawQueue, Target};

/// Bytes of a read.
const READ_BYTES: usize = 4096;

/// Sizes of batches.
pub(crate) const SIZES: [u16; 5] = [1, 4, 32, 128, 255];

/// Pauses before a begin, at most: some hundred ticks each on some machines, a few on others.
const DITHER: u64 = 8;

/// Empty polls that are timed together.
const POLLS: u32 = 1000;

/// One repetition at one size, in ticks a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) submit: f64,
    pub(crate) reap: f64,
    /// What the model took to fetch, carry out and complete.
    pub(crate) model: f64,
    /// What two readings of the counter cost with nothing between them, in turn with the batches.
    pub(crate) stamp: f64,
}

/// Driver and model.
pub(crate) struct Stepped {
    core: OneCore,
    queue: RawQueue,
    target: Target,
    rng: Rng,
    pub(crate) done: u64,
}

impl Stepped {
    /// A null namespace; `hz` is the frequency of the counter, `seed` chooses the blocks.
    pub(crate) fn new(hz: u64, seed: u64) -> Result<Self> {
        let core = OneCore::new(Clock::tsc(hz), rdtsc)?;
        let depth = core.controller.queue_depth();
        let queue = core.controller.take_raw_queue(0, depth, &Bump::leak(64 << 10));
        let queue = queue.context("a queue")?;
        let target = core.namespace()?.target()?;
        for _ in 0..depth {
            queue.adopt(core.arena.alloc(READ_BYTES)?).ok().context("room for buffers")?;
        }
        alloc_guard::mark_hot_thread();
        Ok(Self { core, queue, target, rng: Rng::new(seed), done: 0 })
    }

    /// The mean of `batches` batches, the slowest twentieth left out.
    pub(crate) fn batches(&mut self, size: u16, batches: u64) -> Result<Cost> {
        let mut parts = [const { Vec::new() }; 4];
        for _ in 0..batches {
            let ticks = self.batch(size)?;
            for (part, ticks) in parts.iter_mut().zip(ticks) {
                part.push(ticks);
            }
            // Keeps the watch of the commands' age; not timed.
            self.core.controller.poll(self.core.clock.now());
        }
        let [submit, model, reap, stamp] = parts.map(trimmed_mean);
        // Not cut off at zero: a figure that cannot be right should look like it.
        let each = |part: f64| (part - stamp) / f64::from(size);
        Ok(Cost { submit: each(submit), reap: each(reap), model: each(model), stamp })
    }

    /// Submit and ring, model, reap, nothing; in ticks.
    fn batch(&mut self, size: u16) -> Result<[u64; 4]> {
        let Self { queue, target, rng, core, .. } = self;
        alloc_guard::arm_hot();
        // Where the counter moves in steps, each begin shall lie anywhere in one.
        for _ in 0..rng.below(DITHER) {
            std::hint::spin_loop();
        }
        let idle = rdtsc_ordered();
        let stamped = rdtsc_ordered();
        for _ in 0..rng.below(DITHER) {
            std::hint::spin_loop();
        }
        let begin = rdtsc_ordered();
        for buf in 0..size {
            queue.submit_read(target, Lba(rng.below(BLOCKS)), 1, buf, buf.into())?;
        }
        queue.ring();
        let rung = rdtsc_ordered();
        let mut posted = 0;
        while posted < u32::from(size) {
            posted += core.model.borrow_mut().step(0).completions;
        }
        let stepped = rdtsc_ordered();
        let mut failed = None;
        let before = rdtsc_ordered();
        let taken = queue.reap(size, |_, result| failed = failed.or(result.err()));
        let after = rdtsc_ordered();
        alloc_guard::disarm_hot();
        self.done += u64::from(taken);
        match failed {
            Some(error) => Err(error.into()),
            None if taken != size => bail!("{taken} of {size} completions"),
            None => Ok([rung - begin, stepped - rung, after - before, stamped - idle]),
        }
    }

    /// Ticks of a poll that finds nothing: as the batches, the mean without the slowest twentieth.
    pub(crate) fn empty_poll(&self, rounds: u64) -> f64 {
        let round = |_| {
            let begin = rdtsc();
            for _ in 0..POLLS {
                std::hint::black_box(self.queue.reap(64, |_, _| {}));
            }
            rdtsc() - begin
        };
        trimmed_mean((0..rounds).map(round).collect()) / f64::from(POLLS)
    }
}

/// Without the greatest twentieth; 0 of none.
fn trimmed_mean(mut values: Vec<u64>) -> f64 {
    values.sort_unstable();
    let kept = &values[..values.len() - values.len() / 20];
    kept.iter().sum::<u64>() as f64 / kept.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_twentieth_is_left_out() {
        let mut values = vec![10; 38];
        values.extend([1_000_000, 2_000_000]);
        assert_eq!(trimmed_mean(values), 10.0);
        assert_eq!(trimmed_mean(Vec::new()), 0.0);
    }
}
