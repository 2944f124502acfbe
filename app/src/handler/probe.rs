//! What the driver costs and what one read takes, measured on the run's own device.
//!
//! Called as a task after the work. Two measurements on a queue of its own ([`BlockQueue`]):
//! *bursts*, where a batch is submitted, rung once, left alone until the device has answered, and
//! reaped with one call, so that submit and completion are pure software; and *single reads*, one
//! at a time, from before the submission to after the reap.
//!
//! Times are TSC ticks, that of reading the counter twice a batch included. Of the bursts the
//! median counts: one that the machine took the core away from says nothing of the driver.

use core_runtime::metrics::Histogram;
use core_runtime::partition::Partition;
use nvme_driver::{BlockDevice, BlockQueue, IoError, Lba, Target};

use super::progress::Progress;

/// Reads of a burst: what the driver's costs per batch are spread over.
pub const BURST: usize = BUFFERS as usize;

/// Buffers that the queue is to be taken with: one a read of a burst.
pub const BUFFERS: u16 = 32;

/// Bursts: with 100 us each between submission and reap, a quarter of a second in all.
const BURSTS: usize = 1000;

/// Bursts that are not counted: caches, branch predictors, the device's first touch of its blocks.
const WARM_UP: usize = 100;

/// Reads one at a time; the 99.9th percentile then rests on 20 of them.
const SINGLES: u32 = 20_000;

/// How long a burst is left alone: many times what the model needs for 32 reads of 4 KiB.
const PAUSE_NS: u64 = 100_000;

/// Bytes of a read.
pub const READ_BYTES: u32 = 4096;

/// What was measured: the median burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// Reads of a burst; 0 if nothing was measured.
    pub reads: u64,
    /// Ticks spent in submitting and ringing them.
    pub submit_ticks: u64,
    /// Ticks spent in reaping them.
    pub complete_ticks: u64,
}

/// The ticks of each counted burst.
#[derive(Debug, Default)]
struct Samples {
    reads: u64,
    submit: heapless::Vec<u64, BURSTS>,
    complete: heapless::Vec<u64, BURSTS>,
}

impl Samples {
    fn add(&mut self, burst: Probed) {
        self.reads = burst.reads;
        // There is room for every counted burst.
        let _ = self.submit.push(burst.submit_ticks);
        let _ = self.complete.push(burst.complete_ticks);
    }

    fn median(&mut self) -> Probed {
        let median = |ticks: &mut [u64]| {
            ticks.sort_unstable();
            ticks.get(ticks.len() / 2).copied().unwrap_or(0)
        };
        Probed {
            reads: self.reads,
            submit_ticks: median(&mut self.submit),
            complete_ticks: median(&mut self.complete),
        }
    }
}

/// Measures. `latency_ns` gets the single reads.
///
/// # Errors
/// What the device says; on a queue that is taken away by a reset, [`IoError::Reset`].
pub async fn probe(
    partition: &'static Partition,
    block: BlockDevice,
    queue: BlockQueue,
    latency_ns: &Histogram,
    progress: &Progress,
) -> Result<Probed, IoError> {
    let bench = Bench::new(partition, block, queue)?;
    let mut samples = Samples::default();
    for round in 0..WARM_UP + BURSTS {
        let burst = bench.burst(round).await?;
        if round >= WARM_UP {
            samples.add(burst);
        }
        if progress.stop.get() {
            return Ok(samples.median());
        }
    }
    for round in 0..SINGLES {
        bench.single(round, latency_ns).await?;
        if progress.stop.get() {
            break;
        }
    }
    Ok(samples.median())
}

/// Queue, buffers and the way through the blocks.
struct Bench {
    partition: &'static Partition,
    queue: BlockQueue,
    target: Target,
    nlb: u32,
    /// Places of a read's size on the namespace.
    places: u64,
}

impl Bench {
    fn new(
        partition: &'static Partition,
        block: BlockDevice,
        queue: BlockQueue,
    ) -> Result<Self, IoError> {
        let target = block.target()?;
        let lba_bytes = block.lba_bytes().max(1);
        let nlb = (READ_BYTES / lba_bytes).max(1).min(target.max_blocks());
        let places = block.blocks() / u64::from(nlb);
        let buf_bytes = (nlb * lba_bytes) as usize;
        for _ in 0..BURST {
            let buf = partition.arena().alloc(buf_bytes).map_err(|_| IoError::NoMemory)?;
            // Numbered from 0, as there is room for.
            queue.adopt(buf).map_err(|_| IoError::NoMemory)?;
        }
        Ok(Self { partition, queue, target, nlb, places: places.max(1) })
    }

    /// A place that neighbours in time do not share: steps of a large odd number.
    fn slba(&self, number: u64) -> Lba {
        Lba(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % self.places * u64::from(self.nlb))
    }

    /// One burst of as many reads as the queue takes, at most [`BURST`].
    async fn burst(&self, round: usize) -> Result<Probed, IoError> {
        let clock = self.partition.clock();
        let first = (round * BURST) as u64;
        let begin = clock.now();
        let mut posted: u16 = 0;
        for buf in 0..BUFFERS {
            let slba = self.slba(first + u64::from(buf));
            match self.queue.submit_read(&self.target, slba, self.nlb, buf, buf.into()) {
                Ok(()) => posted += 1,
                Err(IoError::QueueFull) => break,
                Err(error) => return Err(error),
            }
        }
        self.queue.ring();
        let submit_ticks = clock.now().since(begin).get();
        self.partition.spawner().sleep_ns(PAUSE_NS).await;

        let mut complete_ticks = 0;
        let mut failed = None;
        let mut taken: u16 = 0;
        while taken < posted {
            let begin = clock.now();
            let reaped = self.queue.reap(posted, |_, result| {
                failed = failed.or(result.err());
            });
            if reaped == 0 {
                // Not answered yet: an empty poll is not a completion's cost.
                self.partition.spawner().yield_now().await;
                continue;
            }
            complete_ticks += clock.now().since(begin).get();
            taken = taken.saturating_add(reaped);
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(Probed { reads: posted.into(), submit_ticks, complete_ticks }),
        }
    }

    /// One read alone.
    async fn single(&self, round: u32, latency_ns: &Histogram) -> Result<(), IoError> {
        let clock = self.partition.clock();
        let slba = self.slba(u64::from(round));
        let begin = clock.now();
        self.queue.submit_read(&self.target, slba, self.nlb, 0, 0)?;
        self.queue.ring();
        // As long as a poll may take without harm, then a pass of the loop lets everything else on.
        loop {
            for _ in 0..POLLS_A_PASS {
                let mut outcome = Ok(());
                if self.queue.reap(1, |_, result| outcome = result) != 0 {
                    latency_ns.record(clock.ticks_to_ns(clock.now().since(begin)));
                    self.partition.spawner().yield_now().await;
                    return outcome;
                }
            }
            self.partition.spawner().yield_now().await;
        }
    }
}

/// Empty polls of a single read before the loop gets its turn: some 2 us.
const POLLS_A_PASS: u32 = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_that_lost_its_core_does_not_move_the_result() {
        let mut samples = Samples::default();
        for ticks in [100, 102, 1_000_000_000, 101, 99] {
            samples.add(Probed { reads: 32, submit_ticks: ticks, complete_ticks: ticks * 2 });
        }
        let median = Probed { reads: 32, submit_ticks: 101, complete_ticks: 202 };
        assert_eq!(samples.median(), median);
        assert_eq!(Samples::default().median(), Probed::default());
    }
}
