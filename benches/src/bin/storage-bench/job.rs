//! From the command line to a plan: which phases, how long, with how many buffers.

use hybrid_conventions::DeviceSpec;

use crate::cli::{MachineArgs, RunArgs};
use crate::device;
use crate::failure::Failure;
use crate::launch::Setup;
use crate::part::{IN_FLIGHT, TASKS};
use crate::values::{Arrivals, Dist, Rate, Workload};
use crate::wire::{BATCH, BURST, CLOSED, FUTURES, NOISE, OPEN, Phase, Plan, VERIFY};

/// A window of a closed loop.
pub(crate) const WINDOW_NS: u32 = 250_000;

/// The same on a drive, whose slow operations take milliseconds.
const DRIVE_WINDOW_NS: u32 = 20_000_000;

/// The longest that a model with a latency of its own gets.
const LONGEST_WINDOW_NS: u64 = 1_000_000_000;

/// Largest burst that the driver's own cost is taken from.
const COST_BURST: u32 = 64;

/// Bursts of a repetition that it is taken from.
const COST_BURSTS: u64 = 100;

/// Reads of 65,536 in a workload of reads only.
const ALL_READS: u32 = 65_536;

/// Reads of a randrw without `-M`, in per cent, as spdk's tools have it.
const DEFAULT_MIX: u32 = 70;

/// Pieces of the course over time in a page.
const INTERVALS: u64 = 240;

/// Shortest piece: below, the histogram's own cost would show.
const LEAST_INTERVAL_NS: u64 = 2_000_000;

/// Longest look at the core alone in each repetition, and its share of the time.
const NOISE_MOST_NS: u64 = 200_000_000;
const NOISE_SHARE: u64 = 10;

/// How much longer a repetition goes on that has not got its few clean windows or bursts: a crowded
/// machine gives them sooner or later.
pub(crate) const PATIENCE_NS: u64 = 3_000_000_000;

/// Slots of one queue, by the driver's limit.
const SLOTS_MOST: u32 = 1023;

/// The phases of a run and the device that they run on; and which phase the run is about.
pub(crate) fn setup(args: &RunArgs) -> Result<(Setup, usize), Failure> {
    let (mut plan, mut phases, about) = plan(args)?;
    let verifies = phases[about].kind == VERIFY;
    let writes = args.load.workload.writes() || verifies;
    let device = device::device(&args.machine, args.load.bytes, writes)?;
    phases.iter_mut().for_each(|phase| phase.gap_ns = device.gap_ns);
    plan.fill = (device.fill && !verifies).into();
    plan.null_pattern = device.null_pattern;
    plan.latency_sampling = args.probes.wants_latencies().into();
    let (core, quiet) = (args.machine.core, args.output.quiet);
    let isolation = args.machine.isolation;
    let check_syscalls = false;
    let probes = args.probes.clone();
    Ok((Setup { device, core, isolation, plan, phases, probes, quiet, check_syscalls }, about))
}

/// What is done, but for what depends on the device.
pub(crate) fn plan(args: &RunArgs) -> Result<(Plan, Vec<Phase>, usize), Failure> {
    let (load, mode) = (&args.load, &args.mode);
    check(args)?;
    let each_ns = load.time_ns / u64::from(load.repetitions);
    let main = main_phase(args, each_ns);
    let warm = Phase { kind: CLOSED, duration_ns: load.warm_up_ns, warm_up: 1, ..main };
    let mut phases = Vec::new();
    if load.warm_up_ns != 0 && main.kind != VERIFY {
        phases.push(Phase { stamped: 0, interval_ns: 0, ..warm });
    }
    let noise_ns = (each_ns / NOISE_SHARE).min(NOISE_MOST_NS);
    phases.push(Phase { kind: NOISE, duration_ns: noise_ns, ..Phase::default() });
    if matches!(mode.rate, Some(Rate::OfCapacity(_))) {
        let capacity = Phase { kind: CLOSED, stamped: 0, interval_ns: 0, ..main };
        phases.push(Phase { duration_ns: each_ns / 4, ..capacity });
    }
    let about = phases.len();
    phases.push(main);
    if !matches!(main.kind, BURST | VERIFY) {
        phases.push(cost_phase(&main));
    }
    let most = phases.iter().map(|phase| slots(phase, load.queues)).max().unwrap_or(1);
    let plan = Plan {
        repetitions: load.repetitions,
        nsid: args.machine.namespace,
        queues: load.queues,
        slots: most,
        buffer_bytes: load.bytes,
        // A verification is not a measurement.
        watch_allocations: (cfg!(feature = "allocation-tracking") && main.kind != VERIFY).into(),
        ..Plan::default()
    };
    Ok((plan, phases, about))
}

/// Contradictions that the grammar of the command line cannot know.
fn check(args: &RunArgs) -> Result<(), Failure> {
    let load = &args.load;
    if load.workload != Workload::RandRw && load.mix.is_some() {
        return Err(Failure::error(format_args!(
            "-M is the read share of randrw; -w is {}",
            load.workload.name()
        )));
    }
    if !load.workload.is_random() && load.dist != Dist::Uniform {
        return Err(Failure::error(format_args!(
            "--dist is for random workloads; -w is {}, allowed are randread, randwrite and randrw",
            load.workload.name()
        )));
    }
    if load.queues > load.depth {
        return Err(Failure::error(format_args!(
            "--queues {} has more pairs than operations in flight, -q {}; raise -q",
            load.queues, load.depth
        )));
    }
    if load.depth.div_ceil(load.queues) > SLOTS_MOST {
        return Err(Failure::error(format_args!(
            "-q {} over {} queue pairs is more than {SLOTS_MOST} each; raise --queues",
            load.depth, load.queues
        )));
    }
    let depth = usize::try_from(load.depth).unwrap_or(usize::MAX);
    if load.futures && depth > TASKS {
        return Err(Failure::error(format_args!(
            "--futures has a task for each operation, {TASKS} at most; -q is {}",
            load.depth
        )));
    }
    if load.time_ns < 1_000_000 * u64::from(load.repetitions) {
        return Err(Failure::error(format_args!(
            "-t leaves less than 1 ms for each of {} repetitions; lengthen it",
            load.repetitions
        )));
    }
    assert!(depth <= IN_FLIGHT, "the command line's limit is the partition's");
    Ok(())
}

/// A window that is long beside one operation: a latency counts only if it lies in one window.
pub(crate) fn window_ns(machine: &MachineArgs) -> u32 {
    let spec = DeviceSpec::parse(&machine.device);
    let slow = matches!(
        spec,
        Ok(DeviceSpec::Pci(_) | DeviceSpec::Uring { .. } | DeviceSpec::UringCmd { .. })
    );
    let least = if slow { DRIVE_WINDOW_NS } else { WINDOW_NS };
    let of_latency = machine.model_latency.saturating_mul(100).min(LONGEST_WINDOW_NS);
    least.max(u32::try_from(of_latency).unwrap_or(least))
}

/// What the run is about.
fn main_phase(args: &RunArgs, each_ns: u64) -> Phase {
    let (load, mode) = (&args.load, &args.mode);
    let mut phase = Phase {
        kind: CLOSED,
        depth: load.depth,
        queues: load.queues,
        bytes: load.bytes,
        reads: reads(load.workload, load.mix),
        window_ns: window_ns(&args.machine),
        stamped: args.stamped().into(),
        duration_ns: each_ns,
        patience_ns: PATIENCE_NS,
        seed: load.seed,
        ..Phase::default()
    };
    load.dist.put(load.workload.is_random(), &mut phase);
    if args.output.report.is_some() {
        let every = (load.time_ns / INTERVALS).max(LEAST_INTERVAL_NS);
        phase.interval_ns = every.min(each_ns.max(1));
    }
    if let Some(rate) = mode.rate {
        phase.kind = OPEN;
        phase.poisson = (mode.arrivals == Arrivals::Poisson).into();
        phase.group = mode.bursty;
        phase.backlog = mode.backlog.unwrap_or(4 * load.depth);
        (phase.rate_milli, phase.rate_of_capacity_ppm) = match rate {
            Rate::Milli(rate) => (rate, 0),
            Rate::OfCapacity(ppm) => (0, ppm),
        };
    } else if let Some(batch) = mode.batch {
        phase.kind = BATCH;
        phase.batch = batch;
    } else if let Some(burst) = mode.burst {
        phase.kind = BURST;
        phase.batch = burst;
        phase.doorbell_each = mode.doorbell_each.into();
        phase.count = u64::MAX;
    } else if mode.verify {
        phase.kind = VERIFY;
        if !load.workload.writes() {
            phase.reads = ALL_READS / 100 * DEFAULT_MIX;
        }
    } else if load.futures {
        phase.kind = FUTURES;
    }
    phase
}

/// Bursts of the same operations: what the driver itself takes.
pub(crate) fn cost_phase(main: &Phase) -> Phase {
    Phase {
        kind: BURST,
        batch: main.depth.div_ceil(main.queues).min(COST_BURST),
        count: COST_BURSTS,
        // Reads cost the driver what writes do, and disturb nobody's data.
        duration_ns: 100_000_000,
        interval_ns: 0,
        doorbell_each: 0,
        ..*main
    }
}

/// Reads of 65,536 operations.
pub(crate) fn reads(workload: Workload, mix: Option<u32>) -> u32 {
    match workload {
        Workload::RandRead | Workload::Read => ALL_READS,
        Workload::RandWrite | Workload::Write => 0,
        Workload::RandRw => mix.unwrap_or(DEFAULT_MIX) * ALL_READS / 100,
    }
}

/// Buffers of each queue that a phase needs.
pub(crate) fn slots(phase: &Phase, queues: u32) -> u32 {
    let burst = if phase.kind == BURST { phase.batch } else { 0 };
    phase.depth.div_ceil(queues.max(1)).max(burst).max(1)
}
