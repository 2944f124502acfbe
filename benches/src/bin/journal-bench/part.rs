//! What runs on the partition's core: a fresh journal, the log's task, and the task that appends.

use core_runtime::clock::{Clock, Instant, rdtsc};
use core_runtime::partition::{Devices, Partition, PartitionExit, run_until_stopped};
use core_runtime::task::TaskOptions;
use hybrid_benches::hist::Hist;
use hybrid_benches::rng::Rng;
use journal::{
    AppendError, DeviceMedium, FormatOptions, From, Journal, JournalParts, Limits, Medium,
    Priority, format, recover, take_over,
};
use nvme_driver::spec::Nsid;
use nvme_driver::{BlockDevice, ControllerConfig, Device, DeviceParts};
use zerocopy::{FromBytes, IntoBytes};

use crate::rounds::Rounds;
use crate::wire::{BATCH, FILL, KIND_OUTCOME, OPEN, OPENING, Outcome, Phase};

/// Buffer for opening and verifying.
const CHUNK: usize = 1 << 20;

/// Most bytes of a record: a batch of 64 KiB less its headers.
pub(crate) const PAYLOAD_MAX: u64 = (64 << 10) - 96 - 48;

/// Most records that wait: a power of two, since their times are found by number.
pub(crate) const PENDING: u64 = 1 << 15;

/// Segments of the ring where records are given up as they become old: 64 MiB.
pub(crate) const RING_SEGMENTS: u64 = 16;

/// A poll of the appending task: one burst.
const BUDGET_NS: u64 = 1_000_000;

/// Longest gap of the loop that is not somebody else's.
pub(crate) const GAP_NS: u64 = 30_000;

/// A whole machine may stand still meanwhile.
const DEADLINE_NS: u64 = 20_000_000_000;

type Failed = heapless::String<160>;

pub(crate) fn run(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    match start(partition, device) {
        Ok(device) => run_until_stopped(partition, Driven(device)),
        Err(line) => PartitionExit::failed(1, format_args!("{line}")),
    }
}

struct Driven(Device);

impl Devices for Driven {
    fn poll(&mut self, now: Instant) -> bool {
        Devices::poll(&mut self.0, now)
    }

    fn ring(&mut self) {
        Devices::ring(&mut self.0);
    }
}

fn start(
    partition: &'static Partition,
    device: Option<DeviceParts>,
) -> Result<Device, &'static str> {
    let config = ControllerConfig {
        io_queues: 1,
        queue_depth: 127,
        latency_sampling: 0,
        deadline_ns: DEADLINE_NS,
        ..ControllerConfig::default()
    };
    let device = device.ok_or("no device")?;
    let device =
        Device::open(device, partition.bump(), config).map_err(|_| "the device cannot be used")?;
    let bench = Bench { partition, device };
    let work = async move {
        let outcome = bench.work().await;
        let off = device.shutdown().await;
        partition.finish(match (outcome, off) {
            (Err(line), _) => PartitionExit::failed(1, format_args!("{line}")),
            (Ok(()), Err(error)) => PartitionExit::failed(1, format_args!("{error}")),
            (Ok(()), Ok(())) => PartitionExit::done(),
        });
    };
    let options = TaskOptions::normal("bench").budget_ns(BUDGET_NS);
    partition.spawner().spawn(options, work).map_err(|_| "no task")?.detach();
    Ok(device)
}

fn failed(what: impl core::fmt::Display) -> Failed {
    let mut line = Failed::new();
    // A line that is too long is cut.
    let _ = core::fmt::Write::write_fmt(&mut line, format_args!("{what}"));
    line
}

#[derive(Clone, Copy)]
struct Bench {
    partition: &'static Partition,
    device: Device,
}

/// What one phase works with.
struct Course {
    log: &'static Journal,
    clock: Clock,
    payload: [u8; 65_536],
    rng: Rng,
    out: Outcome,
}

impl Bench {
    async fn work(self) -> Result<(), Failed> {
        self.device.ready().await.map_err(failed)?;
        let block = self.device.block_device(Nsid(1)).ok_or_else(|| failed("no namespace 1"))?;
        let partition = self.partition;
        let promise = DeviceMedium::promise_of(block, self.device.controller());
        let mut medium =
            DeviceMedium::new(block, promise, partition.arena(), CHUNK).map_err(failed)?;
        let due = partition.bump().slice_with(index(PENDING), |_| Instant::from_ticks(0));
        let due = due.map_err(failed)?;
        for (number, bytes) in (0..).zip(partition.args().chunks_exact(size_of::<Phase>())) {
            let phase =
                Phase::read_from_bytes(bytes).map_err(|_| failed("a phase is cut short"))?;
            if partition.stop_requested().is_some() {
                return Ok(());
            }
            let outcome = if phase.kind == OPENING {
                self.opening(&mut medium).await?
            } else {
                self.appending(block, &mut medium, &phase, due).await?
            };
            let outcome = Outcome {
                phase: number,
                cached: promise.cached.into(),
                lba_bytes: block.lba_bytes().into(),
                ..outcome
            };
            while !partition.events().has_room(size_of::<Outcome>()).unwrap_or(true) {
                partition.spawner().yield_now().await;
            }
            // A ring that was closed has nobody who waits for it.
            let _ = partition.events().write(KIND_OUTCOME, 0, outcome.as_bytes());
        }
        Ok(())
    }

    /// A fresh journal, opened.
    async fn fresh(
        &self,
        block: BlockDevice,
        medium: &mut DeviceMedium,
        phase: &Phase,
    ) -> Result<&'static Journal, Failed> {
        // A ring that is gone round, so that its memory is warm; a log that is filled gets all.
        let segments = if phase.kind == FILL { 0 } else { RING_SEGMENTS };
        // Another one each time: what an earlier journal left here is not to be taken for its own.
        let id = self.partition.clock().now().ticks() ^ phase.seed;
        let base = FormatOptions::new(id, "bench");
        let options = FormatOptions { overwrite: true, segments, ..base };
        format(medium, &options).await.map_err(failed)?;
        let found = recover(medium, From::Checkpoint).await.map_err(failed)?;
        let superblock = take_over(medium, &found).await.map_err(failed)?;
        let in_flight = u8::try_from(phase.in_flight).unwrap_or(16).clamp(1, 16);
        let limits = Limits { pending_records: PENDING, slots: 16, in_flight, ..Limits::default() };
        let (promise, arena) = (medium.promise(), self.partition.arena());
        let parts = JournalParts { device: block, promise, arena, superblock, limits };
        let log = Journal::new(parts, self.partition.bump()).map_err(failed)?;
        let run = async move {
            let _ = log.run().await;
        };
        let options = TaskOptions::latency("journal").budget_ns(BUDGET_NS);
        self.partition.spawner().spawn(options, run).map_err(failed)?.detach();
        Ok(log)
    }

    async fn appending(
        &self,
        block: BlockDevice,
        medium: &mut DeviceMedium,
        phase: &Phase,
        due: &mut [Instant],
    ) -> Result<Outcome, Failed> {
        let log = self.fresh(block, medium, phase).await?;
        let mut rng = Rng::new(phase.seed);
        let mut payload = [0; 65_536];
        payload.fill_with(|| rng.next().to_le_bytes()[0]);
        let clock = self.partition.clock();
        let mut course = Course { log, clock, payload, rng, out: Outcome::default() };
        let begin = clock.now();
        match phase.kind {
            OPEN => self.open(&mut course, phase, due).await?,
            BATCH => self.batches(&mut course, phase).await?,
            FILL => self.fill(&mut course, phase).await?,
            other => return Err(failed(format_args!("phase {other} is unknown"))),
        }
        let mut out = course.out;
        out.ns = clock.ticks_to_ns(clock.now().since(begin));
        log.close().await.map_err(failed)?;
        let stats = log.stats();
        out.batches = stats.batches;
        out.device_bytes = stats.batch_bytes;
        out.flushes = stats.flushes;
        out.checkpoints = stats.checkpoints;
        out.checksum = log.acknowledged().check.into();
        Ok(out)
    }

    /// Arrivals on a schedule; an arrival that finds the log behind is turned away and counted.
    async fn open(
        &self,
        course: &mut Course,
        phase: &Phase,
        due: &mut [Instant],
    ) -> Result<(), Failed> {
        let Course { log, clock, payload, rng, out } = course;
        let payload = &payload[..index(phase.record_bytes.into())];
        let gap = clock.hz() as f64 / phase.rate.max(1) as f64;
        let duration = clock.ns_to_ticks(phase.duration_ns).get() as f64;
        let (mut hist, mut costs) = (Hist::new(), Hist::new());
        let begin = clock.now();
        let (mut next, mut acked, mut last) = (0.0, log.acknowledged().sequence, begin);
        let (first, mut turns) = (acked, 0_u32);
        let rounds = Rounds::new(*clock, begin, phase.silent_ns);
        let rounds = self.partition.bump().alloc_mut(rounds).map_err(failed)?;
        loop {
            let now = clock.now();
            if now.since(last) > clock.ns_to_ticks(GAP_NS) {
                out.gaps += 1;
                out.gaps_ns += clock.ticks_to_ns(now.since(last));
                rounds.disturb();
            }
            last = now;
            let done = log.acknowledged().sequence;
            rounds.turn(now, (done < log.next_sequence(), acked < done));
            while acked < done {
                let was_due = due[index(acked % PENDING)];
                if was_due.since(begin).get() as f64 > duration / 10.0 {
                    let ns = clock.ticks_to_ns(now.since(was_due));
                    hist.record(ns);
                    rounds.sample(was_due, ns);
                }
                acked += 1;
            }
            let since = now.since(begin).get() as f64;
            if since >= duration && next >= duration && acked == log.next_sequence() {
                break;
            }
            while next <= since && next < duration {
                let at = begin + core_runtime::clock::Ticks::new(whole(next));
                let timed = rdtsc();
                match log.append(Priority::High, 1, at.ticks(), payload) {
                    Ok(sequence) => {
                        costs.record(rdtsc().wrapping_sub(timed));
                        due[index(sequence % PENDING)] = at;
                    }
                    Err(AppendError::Ended(ended)) => return Err(failed(ended)),
                    Err(_) => out.rejected += 1,
                }
                next += exponential(rng) * gap;
            }
            if let Some(ended) = log.ended() {
                return Err(failed(ended));
            }
            if turns % 64 == 0 {
                recycle(log);
            }
            turns = turns.wrapping_add(1);
            if self.partition.stop_requested().is_some() {
                break;
            }
            self.partition.spawner().yield_now().await;
        }
        out.appends = acked - first;
        out.append_ticks = costs.quantile(500_000);
        fill_latencies(out, &hist);
        rounds.fill(out);
        Ok(())
    }

    /// So many appends, all of them durable, and again.
    async fn batches(&self, course: &mut Course, phase: &Phase) -> Result<(), Failed> {
        let Course { log, clock, payload, out, .. } = course;
        let payload = &payload[..index(phase.record_bytes.into())];
        let begin = clock.now();
        let duration = clock.ns_to_ticks(phase.duration_ns);
        let mut hist = Hist::new();
        let mut costs = Hist::new();
        while clock.now().since(begin) < duration && self.partition.stop_requested().is_none() {
            let started = clock.now();
            let mut left = phase.batch;
            while left > 0 {
                let timed = rdtsc();
                match log.append(Priority::High, 1, started.ticks(), payload) {
                    Ok(_) => {
                        left -= 1;
                        costs.record(rdtsc().wrapping_sub(timed));
                    }
                    Err(AppendError::Ended(ended)) => return Err(failed(ended)),
                    Err(_) => log.room().await.map_err(failed)?,
                }
            }
            log.sync().await.map_err(failed)?;
            recycle(log);
            out.appends += phase.batch;
            hist.record(clock.ticks_to_ns(clock.now().since(started)));
        }
        out.append_ticks = costs.quantile(500_000);
        fill_latencies(out, &hist);
        Ok(())
    }

    /// Appends until the log has so many bytes.
    async fn fill(&self, course: &mut Course, phase: &Phase) -> Result<(), Failed> {
        let Course { log, payload, out, .. } = course;
        let payload = &payload[..index(phase.record_bytes.into())];
        let mut burst = 0;
        while log.acknowledged().position < phase.bytes && self.partition.stop_requested().is_none()
        {
            match log.append(Priority::High, 1, out.appends, payload) {
                Ok(_) => out.appends += 1,
                Err(AppendError::Ended(ended)) => return Err(failed(ended)),
                Err(error @ AppendError::Full { .. }) => return Err(failed(error)),
                Err(_) => log.room().await.map_err(failed)?,
            }
            burst += 1;
            if burst % 256 == 0 {
                self.partition.spawner().yield_now().await;
            }
        }
        log.sync().await.map_err(failed)
    }

    /// What opening costs with a checkpoint, and what it would cost without one.
    async fn opening(&self, medium: &mut DeviceMedium) -> Result<Outcome, Failed> {
        let clock = self.partition.clock();
        let begin = clock.now();
        let found = recover(medium, From::Checkpoint).await.map_err(failed)?;
        let open_ns = clock.ticks_to_ns(clock.now().since(begin));
        let begin = clock.now();
        let whole = recover(medium, From::Front).await.map_err(failed)?;
        let verify_ns = clock.ticks_to_ns(clock.now().since(begin));
        if whole.tail != found.tail {
            return Err(failed("two openings found two tails"));
        }
        Ok(Outcome {
            open_ns,
            verify_ns,
            log_bytes: found.tail.position - found.superblock.front_position,
            records: found.tail.sequence - found.superblock.front_sequence,
            checksum: found.tail.check.into(),
            ..Outcome::default()
        })
    }
}

/// The time between two arrivals that come by themselves, one on average.
pub(crate) fn exponential(rng: &mut Rng) -> f64 {
    let unit = ((rng.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    -unit.ln()
}

/// Gives up what is acknowledged once it fills half of the ring.
pub(crate) fn recycle(log: &Journal) {
    let (at, g) = (log.acknowledged(), log.geometry());
    if at.position - log.superblock().front_position > g.ring_bytes() / 2 {
        log.release(at.position, at.sequence);
    }
}

pub(crate) fn fill_latencies(out: &mut Outcome, hist: &Hist) {
    out.samples = hist.count();
    out.p50 = hist.quantile(500_000);
    out.p99 = hist.quantile(990_000);
    out.p999 = hist.quantile(999_000);
    out.max = hist.max();
}

pub(crate) fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "ticks of a run: far below 2^53")]
#[expect(clippy::cast_sign_loss, reason = "never negative")]
pub(crate) const fn whole(value: f64) -> u64 {
    value as u64
}
