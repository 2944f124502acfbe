//! The journal and its device on one core, in turn: what our software takes for an append, and what
//! it adds to a device that takes exactly as long as it says.
//!
//! The clock of driver, journal, arrivals and device is not the machine's. It moves by what each
//! pass of our loop took, in ticks of the counter, and stands still while the model works (a drive
//! has a processor of its own: its work is the latency that it is given) and in passes that took
//! longer than [`GAP_NS`], which somebody else did; those are counted and told. So a figure does
//! not depend on who else is on the machine, and all of our own software is in it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use anyhow::{Result, bail};
use core_runtime::clock::{Clock, Instant, ManualClock, Ticks, rdtsc};
use core_runtime::mem::Bump;
use core_runtime::task::{Scheduler, SchedulerConfig, Spawner, TaskOptions};
use host_bridge::backend::model::{LatencyModel, ModelConfig, NamespaceConfig};
use hybrid_benches::hist::Hist;
use hybrid_benches::one_core::OneCore;
use hybrid_benches::rng::Rng;
use journal::{
    AppendError, DeviceMedium, FormatOptions, From, Journal, JournalError, JournalParts, Limits,
    Medium, Priority, format, recover, take_over,
};
use nvme_driver::BlockDevice;

use crate::cli::Cli;
use crate::part::{
    GAP_NS, PENDING, RING_SEGMENTS, exponential, fill_latencies, index, recycle, whole,
};
use crate::run::Failure;
use crate::sheet::{Goal, Row};
use crate::wire::{BATCH, OPEN, Outcome, Phase};

/// Buffers of a journal, the one for reads, and the driver's own.
const DMA_BYTES: usize = 16 << 20;
/// Bytes of the model.
const BYTES: u64 = 128 << 20;
/// Appends a second of the goal.
const RATE: u64 = 100_000;
/// Passes in a row that are not ours: more, and ours take that long on this machine.
const GAPS: u64 = 10_000;
/// Appends of a pass.
const A_TURN: u64 = 50;
/// Batches of which the cost is told: each record its own, and many together.
const BATCHES: [u64; 2] = [1, 1000];

/// Measures; returns the rows, and what they promise.
pub(crate) fn measure(cli: &Cli) -> Result<(Vec<Row>, Vec<Goal>), Failure> {
    run(cli).map_err(|error| Failure::error(format_args!("on one core: {error:#}")))
}

fn run(cli: &Cli) -> Result<(Vec<Row>, Vec<Goal>)> {
    let hz = host_bridge::calibration::measure()?.hz;
    let duration_ns = if cli.quick { cli.time.min(20_000_000) } else { cli.time };
    let base = Phase {
        kind: OPEN,
        record_bytes: 128,
        rate: RATE,
        duration_ns,
        in_flight: cli.in_flight.into(),
        seed: cli.seed,
        ..Phase::default()
    };
    let (mut rows, mut goals) = (Vec::new(), Vec::new());
    let latency = match cli.model_latency {
        0 => LatencyModel::None,
        ns => LatencyModel::FixedNs(ns),
    };
    let outcome = phase(cli, hz, latency, base)?;
    rows.push(row(&base, &outcome, hz));
    let what = "append p99 at 100,000/s of 128 bytes, open loop, on one core, us";
    let got = Some(outcome.p99 as f64 / 1000.0);
    goals.push(Goal { what, got, bound: 10.0, at_most: true });
    for batch in BATCHES {
        let phase_of = Phase { kind: BATCH, batch, duration_ns: duration_ns / 10, ..base };
        let outcome = phase(cli, hz, LatencyModel::None, phase_of)?;
        rows.push(row(&phase_of, &outcome, hz));
    }
    Ok((rows, goals))
}

fn row(phase: &Phase, outcome: &Outcome, hz: u64) -> Row {
    Row { who: "journal, one core".to_owned(), ..Row::ours(phase, outcome, hz) }
}

/// One measurement on a controller and a journal of its own.
fn phase(cli: &Cli, hz: u64, latency: LatencyModel, phase: Phase) -> Result<Outcome> {
    let mut core = Core::new(cli, hz, latency)?;
    let (log, cached) = core.journal(&phase)?;
    let clock = core.core.clock;
    let spawner = core.scheduler.spawner();
    (core.ours, core.gaps, core.gap_ticks) = (0, 0, 0);
    let begin = clock.now();
    let mut out = match phase.kind {
        OPEN => core.wait(open_loop(log, clock, spawner, phase))??,
        _ => core.wait(batches(log, clock, spawner, phase))??,
    };
    out.ns = clock.ticks_to_ns(clock.now().since(begin));
    if phase.kind == BATCH {
        out.added_ticks = core.ours / out.appends.max(1);
    }
    (out.gaps, out.gaps_ns) = (core.gaps, core.tsc.ticks_to_ns(Ticks::new(core.gap_ticks)));
    core.wait(log.close())??;
    let stats = log.stats();
    (out.batches, out.device_bytes) = (stats.batches, stats.batch_bytes);
    (out.flushes, out.checkpoints) = (stats.flushes, stats.checkpoints);
    out.checksum = log.acknowledged().check.into();
    (out.cached, out.lba_bytes) = (cached.into(), log.geometry().lba_bytes.into());
    Ok(out)
}

/// Driver, scheduler, model, and the clock of all three.
struct Core {
    core: OneCore,
    scheduler: &'static Scheduler,
    manual: &'static ManualClock,
    /// The counter that passes are timed by.
    tsc: Clock,
    /// Ticks that have not made a nanosecond yet.
    carry: f64,
    /// Ticks of our passes; passes that were not ours alone, and their ticks.
    ours: u64,
    gaps: u64,
    gap_ticks: u64,
}

impl Core {
    fn new(cli: &Cli, hz: u64, latency: LatencyModel) -> Result<Self> {
        let manual: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1_000_000_000)));
        let clock = Clock::manual(manual);
        let blocks = BYTES / u64::from(cli.model_lba.max(512));
        let model = ModelConfig {
            namespaces: vec![NamespaceConfig::memory(1, blocks).lba_bytes(cli.model_lba)],
            latency,
            volatile_write_cache: cli.model_cache,
            ..ModelConfig::default()
        };
        let core = OneCore::over(model, DMA_BYTES, clock, || {
            manual.advance(1_000);
            manual.now().ticks()
        })?;
        let scheduler = Scheduler::new(SchedulerConfig::default(), clock, &Bump::leak(4 << 20))?;
        let tsc = Clock::tsc(hz);
        Ok(Self { core, scheduler, manual, tsc, carry: 0.0, ours: 0, gaps: 0, gap_ticks: 0 })
    }

    /// One pass of a partition's loop, and the device's turn.
    fn pass(&mut self) {
        let now = self.core.clock.now();
        let begin = rdtsc();
        self.core.controller.poll(now);
        self.scheduler.tick(now);
        self.core.controller.ring();
        let ticks = rdtsc().wrapping_sub(begin);
        if ticks > self.tsc.ns_to_ticks(GAP_NS).get() {
            self.gaps += 1;
            self.gap_ticks += ticks;
        } else {
            self.ours += ticks;
            self.carry += ticks as f64 * 1e9 / self.tsc.hz() as f64;
            let ns = whole(self.carry);
            self.carry -= ns as f64;
            self.manual.advance(ns);
        }
        // The doorbells are rung at the end of a pass: a command's latency begins there.
        self.core.model.borrow_mut().step(self.core.clock.now().ticks());
    }

    /// Runs a task to its end.
    fn wait<T: 'static>(&mut self, work: impl Future<Output = T> + 'static) -> Result<T> {
        let task = TaskOptions::normal("bench").budget_ns(1_000_000);
        let mut handle = self.scheduler.spawner().spawn(task, work)?;
        let mut in_a_row = 0;
        while !handle.is_finished() {
            let gaps = self.gaps;
            self.pass();
            in_a_row = if self.gaps == gaps { 0 } else { in_a_row + 1 };
            if in_a_row > GAPS {
                bail!("each pass takes longer than {GAP_NS} ns on this machine");
            }
        }
        match Pin::new(&mut handle).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => Ok(outcome?),
            Poll::Pending => bail!("a task that has ended has no outcome"),
        }
    }

    /// A fresh journal, opened; and whether its device has a volatile cache.
    fn journal(&mut self, phase: &Phase) -> Result<(&'static Journal, bool)> {
        let device = BlockDevice::Nvme(self.core.namespace()?);
        let (controller, arena) = (self.core.controller, self.core.arena);
        let in_flight = u8::try_from(phase.in_flight).unwrap_or(16).clamp(1, 16);
        let limits = Limits { pending_records: PENDING, slots: 16, in_flight, ..Limits::default() };
        let open = async move {
            let promise = DeviceMedium::promise_of(device, Some(controller));
            let mut medium = DeviceMedium::new(device, promise, arena, 1 << 20)?;
            let options =
                FormatOptions { segments: RING_SEGMENTS, ..FormatOptions::new(1, "bench") };
            format(&mut medium, &options).await?;
            let found = recover(&mut medium, From::Checkpoint).await?;
            let superblock = take_over(&mut medium, &found).await?;
            let promise = medium.promise();
            let parts = JournalParts { device, promise, arena, superblock, limits };
            Ok::<_, JournalError>((Journal::new(parts, &Bump::leak(64 << 10))?, promise.cached))
        };
        let (log, cached) = self.wait(open)??;
        let task = TaskOptions::latency("journal").budget_ns(1_000_000);
        let run = async move {
            let _ = log.run().await;
        };
        self.scheduler.spawner().spawn(task, run)?.detach();
        Ok((log, cached))
    }
}

/// Arrivals by a Poisson process; each counts from when it was due to the end of the pass in which
/// it was acknowledged.
async fn open_loop(
    log: &'static Journal,
    clock: Clock,
    spawner: Spawner,
    phase: Phase,
) -> Result<Outcome, JournalError> {
    let mut out = Outcome::default();
    let (mut hist, mut costs) = (Box::new(Hist::new()), Box::new(Hist::new()));
    let mut due = vec![Instant::from_ticks(0); index(PENDING)];
    let mut rng = Rng::new(phase.seed);
    let payload = vec![0xA7; index(phase.record_bytes.into())];
    let gap = clock.hz() as f64 / phase.rate.max(1) as f64;
    let duration = clock.ns_to_ticks(phase.duration_ns).get() as f64;
    let (begin, first) = (clock.now(), log.acknowledged().sequence);
    let (mut next, mut told, mut seen) = (0.0, first, first);
    loop {
        let now = clock.now();
        while told < seen {
            let was_due = due[index(told % PENDING)];
            if was_due.since(begin).get() as f64 > duration / 10.0 {
                hist.record(clock.ticks_to_ns(now.since(was_due)));
            }
            told += 1;
        }
        seen = log.acknowledged().sequence;
        let since = now.since(begin).get() as f64;
        if since >= duration && next >= duration && told == log.next_sequence() {
            break;
        }
        while next <= since && next < duration {
            let at = begin + Ticks::new(whole(next));
            let timed = rdtsc();
            match log.append(Priority::High, 1, at.ticks(), &payload) {
                Ok(sequence) => {
                    costs.record(rdtsc().wrapping_sub(timed));
                    due[index(sequence % PENDING)] = at;
                }
                Err(AppendError::Ended(ended)) => return Err(ended.into()),
                Err(_) => out.rejected += 1,
            }
            next += exponential(&mut rng) * gap;
        }
        recycle(log);
        spawner.yield_now().await;
    }
    out.appends = told - first;
    out.append_ticks = costs.quantile(500_000);
    fill_latencies(&mut out, &hist);
    Ok(out)
}

/// So many appends, all of them durable, and again.
async fn batches(
    log: &'static Journal,
    clock: Clock,
    spawner: Spawner,
    phase: Phase,
) -> Result<Outcome, JournalError> {
    let mut out = Outcome::default();
    let mut hist = Box::new(Hist::new());
    let payload = vec![0xA7; index(phase.record_bytes.into())];
    let (begin, duration) = (clock.now(), clock.ns_to_ticks(phase.duration_ns));
    while clock.now().since(begin) < duration {
        let started = clock.now();
        let mut left = phase.batch;
        while left > 0 {
            // A pass stays far below what would not be taken for ours.
            if left.is_multiple_of(A_TURN) && left < phase.batch {
                spawner.yield_now().await;
            }
            match log.append(Priority::High, 1, started.ticks(), &payload) {
                Ok(_) => left -= 1,
                Err(AppendError::Ended(ended)) => return Err(ended.into()),
                Err(_) => log.room().await?,
            }
        }
        log.sync().await?;
        recycle(log);
        out.appends += phase.batch;
        hist.record(clock.ticks_to_ns(clock.now().since(started)));
    }
    fill_latencies(&mut out, &hist);
    Ok(out)
}
