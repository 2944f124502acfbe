//! One measurement: spinners on their CPUs, pictures of the kernel's counters around them.
//!
//! Called by `jitter` and by `verify`. It starts a pinned thread for each CPU, waits until all
//! spin, takes a picture, lets them record, takes another, and lets them go. Its own thread stays
//! off the measured CPUs where it may.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use hybrid_conventions::CpuSet;
use rustix::thread::{CpuSet as KernelSet, gettid, sched_getaffinity, sched_setaffinity};

use super::clock::{Frequency, Reading, distrust};
use super::report::{Bucket, CpuReport, Report, Worst};
use super::spinner::{Limits, Live, Seen, Shared, spin};
use super::tasks::switches;
use super::trace::{Trace, TraceLine};
use super::witness::Picture;
use crate::root::Root;
use crate::sys::thread::be_fifo;
use crate::sys::tsc::rdtsc;

/// Gaps above this are counted where no threshold is asked for.
const DEFAULT_OVER_NS: u64 = 1_000;

/// Longest that all spinners take to be on their CPUs.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two looks of the watching thread.
const LOOK: Duration = Duration::from_millis(50);

/// The same when the end is due.
const SHORT_LOOK: Duration = Duration::from_millis(1);

/// How much later than asked a spinner may be done.
const GRACE: Duration = Duration::from_secs(5);

/// Pace difference of the counter between start and whole run that is worth a warning.
const PACE_PPM: u64 = 1_000;

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) cpus: CpuSet,
    pub(crate) duration_ns: u64,
    pub(crate) threshold_ns: Option<u64>,
    pub(crate) stop_on_threshold: bool,
    pub(crate) rt_priority: Option<u8>,
    pub(crate) trace: bool,
    /// The counter is believed although processor or kernel do not promise that it is constant.
    pub(crate) trust_tsc: bool,
}

/// How far it is, for a progress line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) done_ns: u64,
    pub(crate) max_ns: u64,
    pub(crate) over: u64,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The counter stands still.
    #[error("the time-stamp counter does not advance against CLOCK_MONOTONIC_RAW")]
    Clock,
    /// The counter went back under a spinner.
    #[error(
        "the time-stamp counter of CPU {cpu} went back {times} times: this machine's counter \
         measures nothing"
    )]
    Backwards { cpu: u32, times: u64 },
    /// A spinner could not be where it should.
    #[error("CPU {cpu}: the spinner's thread cannot {what}: {error}")]
    Thread { cpu: u32, what: &'static str, error: std::io::Error },
    /// A spinner did not get its CPU.
    #[error(
        "CPU {cpu}: the spinner did not get the CPU within {} s: a thread of higher priority \
         keeps it",
        START_TIMEOUT.as_secs()
    )]
    Starved { cpu: u32 },
    /// A spinner's thread ended early.
    #[error("CPU {cpu}: the spinner's thread panicked")]
    Panicked { cpu: u32 },
    /// The kernel's trace.
    #[error(transparent)]
    Trace(#[from] super::trace::TraceError),
}

/// A spinner that was started.
struct Spinner {
    cpu: u32,
    live: Arc<Live>,
    thread: JoinHandle<Result<Spun, RunError>>,
}

/// What a spinner's thread brings back.
struct Spun {
    seen: Seen,
    tid: u32,
    switches: Option<(u64, u64)>,
}

/// Measures. `stopped` is asked at each look, `show` is told how far it is.
///
/// # Errors
/// [`RunError`]; a threshold that was exceeded is none.
pub(crate) fn run(
    root: &Root,
    plan: &Plan,
    stopped: &dyn Fn() -> bool,
    show: &mut dyn FnMut(Progress),
) -> Result<Report, RunError> {
    keep_off(plan.cpus);
    let start_pace = Frequency::measure().ok_or(RunError::Clock)?;
    let trace = if plan.trace { Some(Trace::start(root, plan.cpus)?) } else { None };
    let over_ns = plan.threshold_ns.unwrap_or(DEFAULT_OVER_NS);
    let limits = Limits {
        duration: start_pace.ticks(plan.duration_ns),
        grace: start_pace.ticks(2 * GRACE.as_secs() * 1_000_000_000),
        threshold: start_pace.ticks(over_ns),
        stop_on_threshold: plan.stop_on_threshold,
    };
    let shared = Arc::new(Shared::default());
    let result = measure(root, plan, limits, &shared, start_pace, stopped, show);
    // Whatever happened, nobody spins on.
    shared.stop.store(true, Ordering::Relaxed);
    shared.leave.store(true, Ordering::Release);
    let measured = result?;
    let lines = trace.map(Trace::finish).transpose()?.unwrap_or_default();
    let mut report = measured.report(root, plan, over_ns, &lines)?;
    report.warnings.extend(pace_warning(root, plan, start_pace, measured.pace));
    Ok(report)
}

/// The raw results of one measurement.
struct Measured {
    spinners: Vec<(u32, Spun)>,
    before: Picture,
    after: Picture,
    pace: Frequency,
    counted: Duration,
    interrupted: bool,
}

fn measure(
    root: &Root,
    plan: &Plan,
    limits: Limits,
    shared: &Arc<Shared>,
    pace: Frequency,
    stopped: &dyn Fn() -> bool,
    show: &mut dyn FnMut(Progress),
) -> Result<Measured, RunError> {
    let mut spinners = Vec::new();
    for cpu in plan.cpus.iter() {
        spinners.push(start(cpu, plan.rt_priority, limits, shared)?);
    }
    wait_until_ready(&mut spinners)?;
    let before = Picture::take(root);
    let counted = Instant::now();
    let first = Reading::now();
    shared.go.store(true, Ordering::Release); // SYNC spinner-go
    let interrupted = watch(plan, pace, &spinners, shared, stopped, show);
    shared.stop.store(true, Ordering::Relaxed);
    let second = Reading::now();
    let after = Picture::take(root);
    let counted = counted.elapsed();
    shared.leave.store(true, Ordering::Release); // SYNC spinner-leave
    let mut done = Vec::new();
    for spinner in spinners {
        let cpu = spinner.cpu;
        done.push((cpu, spinner.thread.join().map_err(|_| RunError::Panicked { cpu })??));
    }
    let pace = Frequency::between(first, second).unwrap_or(pace);
    Ok(Measured { spinners: done, before, after, pace, counted, interrupted })
}

/// Moves the calling thread off the measured CPUs, if another is left to it.
fn keep_off(cpus: CpuSet) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let mut rest = KernelSet::new();
    for cpu in 0..KernelSet::MAX_CPU {
        let measured = u32::try_from(cpu).is_ok_and(|cpu| cpus.contains(cpu));
        if allowed.is_set(cpu) && !measured {
            rest.set(cpu);
        }
    }
    // Where no CPU is left the watcher shares one, and the report shows it.
    if rest.count() > 0 {
        let _ = sched_setaffinity(None, &rest);
    }
}

fn start(
    cpu: u32,
    priority: Option<u8>,
    limits: Limits,
    shared: &Arc<Shared>,
) -> Result<Spinner, RunError> {
    let live = Arc::new(Live::default());
    let (of_thread, shared) = (Arc::clone(&live), Arc::clone(shared));
    let body = move || on_cpu(cpu, priority, limits, &shared, &of_thread);
    let thread = Builder::new()
        .name(format!("jitter/{cpu}"))
        .spawn(body)
        .map_err(|error| RunError::Thread { cpu, what: "start", error })?;
    Ok(Spinner { cpu, live, thread })
}

/// The spinner's thread.
fn on_cpu(
    cpu: u32,
    priority: Option<u8>,
    limits: Limits,
    shared: &Shared,
    live: &Live,
) -> Result<Spun, RunError> {
    let fails = |what| move |error| RunError::Thread { cpu, what, error };
    let mut only = KernelSet::new();
    only.set(cpu as usize);
    sched_setaffinity(None, &only).map_err(|error| fails("be pinned")(error.into()))?;
    if let Some(priority) = priority {
        be_fifo(priority).map_err(fails("have a real-time priority"))?;
    }
    let tid = u32::try_from(gettid().as_raw_nonzero().get()).unwrap_or(0);
    let mut seen = Seen::new();
    let before = own_switches();
    spin(rdtsc, shared, live, limits, &mut seen);
    let after = own_switches();
    let times = seen.backwards;
    if times > 0 {
        return Err(RunError::Backwards { cpu, times });
    }
    let since = |((v1, n1), (v0, n0)): ((u64, u64), (u64, u64))| {
        (v1.saturating_sub(v0), n1.saturating_sub(n0))
    };
    Ok(Spun { seen, tid, switches: after.zip(before).map(since) })
}

/// The calling thread's context switches.
fn own_switches() -> Option<(u64, u64)> {
    switches(&std::fs::read_to_string("/proc/thread-self/status").ok()?)
}

fn wait_until_ready(spinners: &mut Vec<Spinner>) -> Result<(), RunError> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        // SYNC spinner-ready
        let late = spinners.iter().position(|spinner| !spinner.live.ready.load(Ordering::Acquire));
        let Some(late) = late else { return Ok(()) };
        if spinners[late].thread.is_finished() {
            let Spinner { cpu, thread, .. } = spinners.swap_remove(late);
            return match thread.join() {
                Ok(Err(error)) => Err(error),
                _ => Err(RunError::Panicked { cpu }),
            };
        }
        if Instant::now() > deadline {
            return Err(RunError::Starved { cpu: spinners[late].cpu });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Looks until the time is over; whether a signal ended it.
fn watch(
    plan: &Plan,
    pace: Frequency,
    spinners: &[Spinner],
    shared: &Shared,
    stopped: &dyn Fn() -> bool,
    show: &mut dyn FnMut(Progress),
) -> bool {
    let began = Instant::now();
    let duration = Duration::from_nanos(plan.duration_ns);
    loop {
        let done = began.elapsed();
        if stopped() {
            return true;
        }
        // A spinner that got its CPU late ends late.
        let ended = spinners.iter().all(|spinner| spinner.live.done.load(Ordering::Relaxed));
        if ended || done >= duration + GRACE || shared.stop.load(Ordering::Relaxed) {
            return false;
        }
        let each = |pick: fn(&Live) -> u64| spinners.iter().map(move |s| pick(&s.live));
        let max = each(|live| live.max.load(Ordering::Relaxed)).max().unwrap_or(0);
        show(Progress {
            done_ns: u64::try_from(done.as_nanos()).unwrap_or(u64::MAX),
            max_ns: pace.ns(max),
            over: each(|live| live.over.load(Ordering::Relaxed)).sum(),
        });
        std::thread::sleep(duration.saturating_sub(done).clamp(SHORT_LOOK, LOOK));
    }
}

impl Measured {
    fn report(
        &self,
        root: &Root,
        plan: &Plan,
        over_ns: u64,
        lines: &[TraceLine],
    ) -> Result<Report, RunError> {
        let set = |file: &str| -> CpuSet {
            let text = root.read(format!("/sys/devices/system/cpu/{file}")).unwrap_or_default();
            text.trim().parse().unwrap_or(CpuSet::EMPTY)
        };
        let (isolated, nohz_full) = (set("isolated"), set("nohz_full"));
        let ours: Vec<u32> = self.spinners.iter().map(|(_, spun)| spun.tid).collect();
        let clock_ticks = rustix::param::clock_ticks_per_second();
        let cpus: Vec<CpuReport> = self
            .spinners
            .iter()
            .map(|(cpu, spun)| {
                let mut report = self.cpu(*cpu, spun, lines);
                report.isolated = isolated.contains(*cpu);
                report.nohz_full = nohz_full.contains(*cpu);
                report.disturbers = self.after.since(&self.before, *cpu, &ours, clock_ticks);
                report
            })
            .collect();
        Ok(Report {
            schema: Report::SCHEMA,
            asked_ns: plan.duration_ns,
            measured_ns: cpus.iter().map(|cpu| cpu.spun_ns).max().unwrap_or(0),
            counted_ns: u64::try_from(self.counted.as_nanos()).unwrap_or(u64::MAX),
            threshold_ns: plan.threshold_ns,
            counted_over_ns: over_ns,
            rt_priority: plan.rt_priority,
            tsc_hz: self.pace.0,
            passed: plan.threshold_ns.is_none() || cpus.iter().all(|cpu| cpu.over == 0),
            interrupted: self.interrupted,
            warnings: Vec::new(),
            cpus,
        })
    }

    fn cpu(&self, cpu: u32, spun: &Spun, lines: &[TraceLine]) -> CpuReport {
        let (seen, ns) = (&spun.seen, |ticks| self.pace.ns(ticks));
        let histogram = &seen.histogram;
        let worst: Vec<Worst> = seen
            .worst()
            .map(|gap| Worst {
                ns: ns(gap.ticks),
                at_ns: ns(gap.at),
                events: super::trace::within(lines, cpu, seen.began + gap.at, gap.ticks),
            })
            .collect();
        CpuReport {
            cpu,
            isolated: false,
            nohz_full: false,
            samples: histogram.samples(),
            spun_ns: ns(seen.spun),
            min_ns: ns(histogram.min()),
            avg_ns: ns(histogram.mean()),
            p50_ns: ns(histogram.permille(500)),
            p99_ns: ns(histogram.permille(990)),
            p999_ns: ns(histogram.permille(999)),
            max_ns: ns(histogram.max()),
            max_at_ns: worst.first().map_or(0, |worst| worst.at_ns),
            over: seen.over,
            over_ns: ns(seen.over_ticks),
            voluntary_switches: spun.switches.map(|(voluntary, _)| voluntary),
            involuntary_switches: spun.switches.map(|(_, involuntary)| involuntary),
            disturbers: super::witness::Disturbers::default(),
            worst,
            histogram: histogram
                .filled()
                .map(|(ticks, count)| Bucket { up_to_ns: ns(ticks), count })
                .collect(),
        }
    }
}

/// What makes the figures doubtful.
fn pace_warning(root: &Root, plan: &Plan, start: Frequency, whole: Frequency) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(why) = distrust(root).filter(|_| !plan.trust_tsc) {
        warnings.push(format!("{why}: times may be wrong (--trust-tsc leaves this line out)"));
    }
    let apart = start.apart_ppm(whole);
    // A short run's own uncertainty is larger than that.
    if apart > PACE_PPM && plan.duration_ns >= 1_000_000_000 {
        warnings.push(format!(
            "the time-stamp counter changed its pace by {apart} ppm while it was measured"
        ));
    }
    warnings
}
