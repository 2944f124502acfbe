//! One partition, from its device to what it sent: the host's side of a measurement.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use core_runtime::clock::Clock;
use core_runtime::partition::StopReason;
use host_bridge::facts::MachineFacts;
use host_bridge::probes::ProbeArgs;
use host_bridge::sys::alloc_guard::{self, AllocReport};
use host_bridge::sys::perf::{Counter, Readings, ThreadCounters};
use host_bridge::sys::signals::{StopSignal, StopSignals};
use host_bridge::sys::usage::ThreadUsage;
use host_bridge::topology::Topology;
use host_bridge::warnings::Warnings;
use host_bridge::{Entry, Isolation, PartitionHandle, PartitionSpec, Runtime};
use hybrid_benches::hist::Hist;
use hybrid_benches::report::steal_ms;
use hybrid_conventions::CpuSet;
use zerocopy::FromBytes;

use crate::device::{Device, On};
use crate::failure::Failure;
use crate::part;
use crate::stepped_run::allocations;
use crate::wire::{
    Found, HISTS, HistPart, Interval, KIND_BEGIN, KIND_FOUND, KIND_HIST, KIND_INTERVAL,
    KIND_SAMPLE, Phase, Plan, Sample,
};

/// How often the host looks at its partition: rarely, for each look takes some 20 us from a model
/// or a target that shares its CPU.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Private memory: driver, scheduler, histograms, zipf draws or versions, room for arrivals.
const PRIVATE_BYTES: usize = 48 << 20;

/// DMA memory beside the buffers: queues, PRP lists, identify data.
const DMA_BYTES: usize = 16 << 20;

/// What a partition of this program runs.
pub(crate) const ENTRY: Entry = Entry::new("bench", part::run);

/// What to start.
pub(crate) struct Setup {
    pub(crate) device: Device,
    pub(crate) core: Option<u32>,
    pub(crate) isolation: Isolation,
    pub(crate) plan: Plan,
    pub(crate) phases: Vec<Phase>,
    pub(crate) probes: ProbeArgs,
    pub(crate) quiet: bool,
    /// The kernel reports each system call of the partition.
    pub(crate) check_syscalls: bool,
}

/// What one phase gave, over all repetitions.
pub(crate) struct PhaseRun {
    pub(crate) phase: Phase,
    pub(crate) samples: Vec<Sample>,
    pub(crate) hists: Vec<Hist>,
    pub(crate) intervals: Vec<Interval>,
}

/// What a partition did.
pub(crate) struct Ran {
    pub(crate) on: On,
    pub(crate) device: String,
    pub(crate) found: Found,
    pub(crate) phases: Vec<PhaseRun>,
    pub(crate) clock: Clock,
    pub(crate) cpu: u32,
    pub(crate) isolated: bool,
    pub(crate) facts: MachineFacts,
    pub(crate) dma_page: usize,
    pub(crate) steal_ms: Option<u64>,
    pub(crate) usage: ThreadUsage,
    /// System calls while it ran, where they were counted, and how long that was at least.
    pub(crate) syscalls: Option<(u64, Duration)>,
    pub(crate) counters: Result<Readings, String>,
    pub(crate) partition_allocations: Option<AllocReport>,
    pub(crate) hot_allocations: Option<AllocReport>,
    pub(crate) signal: Option<StopSignal>,
}

impl Ran {
    pub(crate) fn ns(&self, ticks: f64) -> f64 {
        ticks * 1e9 / self.clock.hz() as f64
    }

    /// What the hot loops allocated, if that was watched.
    pub(crate) fn check_allocations(&self) -> Result<(), Failure> {
        allocations(self.partition_allocations, "the partition")?;
        allocations(self.hot_allocations, "the model's thread")
    }

    /// A phase of this kind, the first that is measured.
    pub(crate) fn first(&self, kind: u32) -> Option<&PhaseRun> {
        self.phases.iter().find(|run| run.phase.kind == kind && !run.samples.is_empty())
    }
}

/// Starts the partition, hears it, and joins it.
pub(crate) fn run(setup: Setup) -> Result<Ran, Failure> {
    let topology = Topology::read();
    let cpu = match setup.core {
        Some(cpu) => cpu,
        None => topology.suggested_core().ok_or_else(|| {
            Failure::error("one cpu stays for linux, and this process may use only one")
        })?,
    };
    let cores = CpuSet::single(cpu).map_err(Failure::error)?;
    let warnings = if setup.quiet { Warnings::to(|_| {}) } else { Warnings::default() };
    let runtime = Runtime::with_warnings(cores, warnings)?;
    part::set_gauges(setup.device.gauges.clone());
    let mut spec = PartitionSpec::new("bench", ENTRY).isolated_by(setup.isolation);
    spec.args = part::arguments(&setup.plan, &setup.phases);
    spec.dma_bytes = dma_bytes(&setup.plan, &setup.phases);
    spec.private_bytes = PRIVATE_BYTES;
    spec.check_syscalls = setup.check_syscalls;
    setup.probes.apply(&mut spec);
    let on = setup.device.on;
    let device = setup.device.backend.describe();
    let signals = StopSignals::install().map_err(Failure::error)?;
    let steal = steal_ms();
    let partition = runtime.spawn(spec.with_device(setup.device.backend))?;
    let mut heard = Heard::new(&setup.phases);
    let begun = Instant::now();
    let ended = hear(partition, &mut heard, signals)?;
    let ran_for = begun.elapsed();
    if let Some(mistake) = ended.device.iter().flat_map(|device| &device.mistakes).next()
        && setup.device.null_pattern == 0
    {
        return Err(Failure::error(format_args!("the model noticed our mistake: {mistake}")));
    }
    let found = heard.found.ok_or_else(|| Failure::error("the partition found no device"))?;
    Ok(Ran {
        on,
        device,
        found,
        phases: heard.phases,
        clock: runtime.clock(),
        cpu,
        isolated: topology.isolated.contains(cpu),
        facts: runtime.facts().clone(),
        dma_page: heard.dma_page,
        steal_ms: steal.zip(steal_ms()).map(|(before, after)| after.saturating_sub(before)),
        usage: ended.usage,
        syscalls: ended.syscalls.map(|report| (report.calls, ran_for)),
        counters: heard.counters,
        partition_allocations: ended.allocations,
        hot_allocations: alloc_guard::hot_report(),
        signal: heard.signal,
    })
}

/// Takes all that it sends until it ends.
fn hear(
    mut partition: PartitionHandle,
    heard: &mut Heard,
    signals: StopSignals,
) -> Result<host_bridge::PartitionReport, Failure> {
    heard.dma_page = partition.dma_bytes().1;
    let counters = match partition.process() {
        Some(process) => ThreadCounters::of_process(process.pid(), &Counter::HARDWARE),
        None => ThreadCounters::of_thread_named("bench", &Counter::HARDWARE),
    };
    partition.wait(LOOK_EVERY, |partition| {
        if heard.signal.is_none()
            && let Some(signal) = signals.pending()
        {
            heard.signal = Some(signal);
            partition.request_stop(StopReason::Signal);
        }
        // A ring that the partition broke is closed; its exit says more.
        let _ = partition.poll_events(u32::MAX, |header, payload| {
            if header.kind == KIND_BEGIN
                && let Ok(counters) = &counters
            {
                heard.begun(counters);
            }
            heard.take(header.kind, payload);
        });
        // While it still runs: a thread that ended has no counters.
        if let Ok(counters) = &counters
            && !partition.is_finished()
        {
            heard.last = counters.read();
        }
        ControlFlow::Continue(())
    });
    heard.counters = match counters {
        Ok(_) => Ok(heard.last.since(&heard.first.unwrap_or_default())),
        Err(why) => Err(why.to_string()),
    };
    let ended = partition.join();
    if !ended.exit.is_done() && heard.signal.is_none() {
        return Err(Failure::error(ended.exit.text));
    }
    Ok(ended)
}

fn dma_bytes(plan: &Plan, phases: &[Phase]) -> usize {
    let word = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
    // The arena gives powers of two.
    let bytes = word(plan.buffer_bytes).max(4096).next_power_of_two();
    let buffers = word(plan.queues) * word(plan.slots);
    let futures = phases.iter().filter(|phase| phase.kind == crate::wire::FUTURES);
    let futures = futures.map(|phase| word(phase.depth)).max().unwrap_or(0);
    // PRP lists of each slot and request: a kilobyte.
    let lists = (word(plan.queues) + 1) * 3 * word(plan.slots).max(255) * 1024;
    (buffers + futures) * bytes + lists + DMA_BYTES
}

/// What was heard so far.
struct Heard {
    found: Option<Found>,
    phases: Vec<PhaseRun>,
    dma_page: usize,
    signal: Option<StopSignal>,
    first: Option<Readings>,
    last: Readings,
    counters: Result<Readings, String>,
}

impl Heard {
    fn new(phases: &[Phase]) -> Self {
        let run = |phase: &Phase| PhaseRun {
            phase: *phase,
            samples: Vec::new(),
            hists: vec![Hist::new(); HISTS],
            intervals: Vec::new(),
        };
        Self {
            found: None,
            phases: phases.iter().map(run).collect(),
            dma_page: 0,
            signal: None,
            first: None,
            last: Readings::default(),
            counters: Err(String::new()),
        }
    }

    /// Counters count from the first phase on.
    fn begun(&mut self, counters: &ThreadCounters) {
        if self.first.is_none() {
            self.first = Some(counters.read());
        }
    }

    fn take(&mut self, kind: u16, payload: &[u8]) {
        match kind {
            KIND_SAMPLE => {
                let Ok(sample) = Sample::read_from_bytes(payload) else { return };
                if let Some(run) = self.run(sample.phase) {
                    run.samples.push(sample);
                }
            }
            KIND_INTERVAL => {
                let Ok(interval) = Interval::read_from_bytes(payload) else { return };
                if let Some(run) = self.run(interval.phase) {
                    run.intervals.push(interval);
                }
            }
            KIND_FOUND => self.found = Found::read_from_bytes(payload).ok(),
            KIND_HIST => self.take_hist(payload),
            _ => {}
        }
    }

    fn take_hist(&mut self, payload: &[u8]) {
        let Ok((head, rest)) = HistPart::read_from_prefix(payload) else { return };
        let Some(run) = self.run(head.phase) else { return };
        let index = usize::try_from(head.which).unwrap_or(usize::MAX);
        let Some(hist) = run.hists.get_mut(index) else { return };
        for pair in rest.chunks_exact(8) {
            let Ok([bucket, count]) = <[u32; 2]>::read_from_bytes(pair) else { return };
            hist.merge_bucket(usize::try_from(bucket).unwrap_or(usize::MAX), count.into());
        }
        hist.merge_totals(head.count, head.sum, head.min, head.max);
    }

    fn run(&mut self, phase: u32) -> Option<&mut PhaseRun> {
        self.phases.get_mut(usize::try_from(phase).ok()?)
    }
}
