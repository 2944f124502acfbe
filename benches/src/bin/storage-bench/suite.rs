//! `storage-bench suite`: everything at once, for `cargo xtask bench`.
//!
//! A partition for each place goes through all phases in turn, repetition by repetition: over a
//! namespace without memory, over memory of which every byte is copied, over vfio-user to our own
//! server, and over what `--race-device` names. Then driver and model on one core; between them a
//! bare cache line there and back, the floor of anything that crosses cores.

use host_bridge::probes::ProbeArgs;
use host_bridge::sys::signals::StopSignal;
use host_bridge::topology::Topology;
use hybrid_benches::report::{Cell, Report};
use serde_json::{Value, json};

use hybrid_conventions::Exit;

use crate::cli::{Cli, MachineArgs, SuiteArgs, SuitePart};
use crate::device;
use crate::echo;
use crate::failure::{Failure, write_file};
use crate::fio::Target;
use crate::in_turn;
use crate::job;
use crate::json;
use crate::launch::{self, Ran, Setup};
use crate::own_server::OwnServer;
use crate::proposal::Proposal;
use crate::stepped_run::{self, Work};
use crate::suite_sheets::{self, Part};
use crate::summary::{Cost, Figure, Load, cost_figures, counted, load_figures};
use crate::values::{Dist, Workload};
use crate::wire::{BATCH, BURST, CLOSED, FUTURES, NOISE, OPEN, Phase, Plan};

/// Depths of the raw queue; 255 is the default queue's.
pub(crate) const DEPTHS: [u32; 5] = [1, 4, 32, 128, 255];
/// Depths of the futures.
const TASK_DEPTHS: [u32; 2] = [32, 128];
const BURSTS: [u32; 6] = [1, 4, 8, 32, 64, 128];
/// One doorbell a submit, at this size.
const BELLS: u32 = 32;
/// I/O queue pairs beside a single one, each with so many in flight: a single pair with as many
/// is among the depths.
const QUEUES: [u32; 3] = [2, 4, 8];
const QUEUE_DEPTHS: [u32; 2] = [1, 32];
const BATCHES: [u32; 5] = [1, 64, 512, 4096, 8000];
/// Arrivals as a share of the capacity, in millionths.
const RATES: [u64; 2] = [500_000, 2_000_000];
const READ_BYTES: u32 = 4096;

/// Reads a second that the suite wants from the two namespaces, in millions.
const NULL_GOAL: f64 = 2.0;
const MEMORY_GOAL: f64 = 1.3;

/// Time of a phase in each repetition, and what shows that it works.
const PHASE_NS: u64 = 60_000_000;
const QUICK_NS: u64 = 300_000;
const QUICK_WINDOW_NS: u32 = 20_000;

/// Round trips of a cache line, before and after.
const ECHOES: u64 = 200_000;
pub(crate) const ECHOES_QUICK: u64 = 200;

/// Of everything that looks like chance.
pub(crate) const SEED: u64 = 2;

/// Seconds of fio at each depth.
const FIO_S: f64 = 2.0;

/// What a part runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// The model without memory, on a thread of this process.
    Null,
    /// The same with memory, and everything that only one place needs to show.
    Memory,
    /// The model without memory behind our own vfio-user server.
    VfioUser,
    /// A controller of somebody else's.
    Theirs(&'a str),
}

impl Place<'_> {
    const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Memory => "memory",
            Self::VfioUser => "vfio-user",
            Self::Theirs(_) => "race device",
        }
    }

    const fn part(self) -> SuitePart {
        match self {
            Self::Null => SuitePart::Null,
            Self::Memory => SuitePart::Memory,
            Self::VfioUser => SuitePart::VfioUser,
            Self::Theirs(_) => SuitePart::Race,
        }
    }

    /// What the suite wants of it, in millions of reads a second.
    const fn goal(self) -> Option<f64> {
        match self {
            Self::Null => Some(NULL_GOAL),
            Self::Memory => Some(MEMORY_GOAL),
            Self::VfioUser | Self::Theirs(_) => None,
        }
    }
}

/// Phases, each of them like a plain closed loop that it is given, but for what it says.
type Phases = Box<dyn Fn(&Phase) -> Vec<Phase>>;

/// What a place is asked for.
pub(crate) struct Asked {
    pub(crate) repetitions: u32,
    pub(crate) queues: u32,
    /// Buffers of each pair.
    pub(crate) slots: u32,
    /// Round trips of a cache line, before and after.
    pub(crate) echoes: u64,
    pub(crate) phases: Phases,
}

/// The device of others is named where it is measured, and only there.
fn check(args: &SuiteArgs) -> Result<(), Failure> {
    let raced = wants(args, SuitePart::Race) || wants(args, SuitePart::Cost);
    let only_raced = args.only.contains(&SuitePart::Race);
    match &args.race_device {
        None if only_raced => {
            Err(Failure::error("--only race needs --race-device, which names the controller"))
        }
        Some(_) if !raced => {
            Err(Failure::error("--race-device has no effect without race or cost in --only"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn run(args: &SuiteArgs) -> Result<Exit, Failure> {
    check(args)?;
    let title = "storage-bench suite: random 4 KiB I/O";
    let on = "model; tables of vfio-user: vfio-user target";
    let mut report = Report::new(json::SCHEMA, title, on);
    let mut figures: Vec<Figure> = Vec::new();
    let mut extra: Vec<(&str, Value)> = Vec::new();
    let theirs = args.race_device.as_deref().map(Place::Theirs);
    let mut signal = None;
    let places = [Place::Null, Place::Memory, Place::VfioUser].into_iter().chain(theirs);
    for place in places.filter(|place| wants(args, place.part())) {
        let (ran, echoes) = on_two_cores(args, place, &all_phases(args, place))?;
        ran.check_allocations()?;
        report.tsc(ran.clock.hz());
        report.checksum(ran.found.checksum);
        let all = place == Place::Memory;
        let adds_goal = matches!(place, Place::Null | Place::VfioUser);
        let part = Part { name: place.name(), all, ran: &ran, echoes: &echoes, adds_goal };
        let best = suite_sheets::add(&mut report, &part);
        if let Some(goal) = place.goal() {
            let what = format!("M reads/s, {} namespace, model on its own core", place.name());
            report.goal(what, best, goal);
        }
        figures.extend(figures_of(place.name(), &ran));
        extra.push(("machine", json::machine(&ran)));
        if all {
            let proposal = proposal(args, &ran);
            for line in proposal.text().lines() {
                report.line(line);
            }
            extra.push(("proposal", proposal.json()));
        }
        if let Place::Theirs(device) = place {
            report.line(format!("race device: {device}, {}", ran.found.model_name()));
        }
        signal = ran.signal;
        if signal.is_some() {
            break;
        }
    }
    if signal.is_none() && wants(args, SuitePart::Cost) {
        let run = in_turn::measure(args)?;
        signal = run.signal;
        run.report(&mut report);
        figures.extend(run.figures());
        extra.push(("cost", run.json()));
    }
    // Last: it takes this thread's core.
    if signal.is_none() && wants(args, SuitePart::Stepped) {
        let operations = if args.quick { 256 } else { 200_000 };
        let work = Work { core: args.core, repetitions: repetitions(args), operations, seed: SEED };
        let run = stepped_run::measure(work)?;
        stepped_run::SteppedRun::check_allocations()?;
        // In turn with the others it is measured too; one of them has the goals.
        suite_sheets::stepped(&mut report, &run, !wants(args, SuitePart::Cost));
        report.checksum(run.done);
        figures.extend(run.figures());
        extra.push(("stepped", run.rows_json()));
    }
    figures.extend(counted());
    let exit = print(args, &report, &figures, extra)?;
    Ok(signal.map_or(exit, StopSignal::exit))
}

fn print(
    args: &SuiteArgs,
    report: &Report,
    figures: &[Figure],
    extra: Vec<(&str, Value)>,
) -> Result<Exit, Failure> {
    let mut value = report.to_value();
    if let Some(object) = value.as_object_mut() {
        object.insert("on".into(), json!("model"));
        object.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
        object.insert("job".into(), json!({ "mode": "suite", "quick": args.quick }));
        object.insert("figures".into(), json::figures(figures));
        extra.into_iter().for_each(|(key, value)| {
            object.insert(key.to_owned(), value);
        });
    }
    if args.json {
        println!("{value:#}");
    } else {
        print!("{}", report.to_text());
    }
    if let Some(path) = &args.out {
        write_file(path, &format!("{value:#}\n"))?;
    }
    Ok(if args.quick { Exit::Ok } else { report.exit() })
}

pub(crate) fn repetitions(args: &SuiteArgs) -> u32 {
    args.repetitions.unwrap_or(if args.quick { 1 } else { 5 })
}

fn wants(args: &SuiteArgs, part: SuitePart) -> bool {
    args.only.is_empty() || args.only.contains(&part)
}

/// The partition, and a cache line's way before and after it.
pub(crate) fn on_two_cores(
    args: &SuiteArgs,
    place: Place<'_>,
    asked: &Asked,
) -> Result<(Ran, Vec<hybrid_benches::hist::Hist>), Failure> {
    let topology = Topology::read();
    let cpu = args.core.or(topology.suggested_core());
    let other = topology.allowed.iter().find(|other| Some(*other) != cpu);
    let echo = || cpu.zip(other).map(|(cpu, other)| echo::round_trips(cpu, other, asked.echoes));
    let before = echo();
    // It ends with this value, after the partition.
    let own = match place {
        Place::VfioUser => Some(OwnServer::start(other)?),
        _ => None,
    };
    let ran = launch::run(setup(args, place, own.as_ref(), asked)?)?;
    drop(own);
    Ok((ran, before.into_iter().chain(echo()).collect()))
}

/// `--device` of a place, everything else by default.
fn machine_args(args: &SuiteArgs, place: Place<'_>, own: Option<&OwnServer>) -> MachineArgs {
    use clap::Parser as _;
    let mut machine = Cli::parse_from(["storage-bench"]).run.machine;
    machine.core = args.core;
    machine.model_null = place == Place::Null;
    if args.quick && place == Place::Memory {
        machine.model_size = Some(2 << 20);
    }
    if let Place::Theirs(device) = place {
        device.clone_into(&mut machine.device);
    } else if let Some(own) = own {
        machine.device = own.device();
    }
    machine
}

fn setup(
    args: &SuiteArgs,
    place: Place<'_>,
    own: Option<&OwnServer>,
    asked: &Asked,
) -> Result<Setup, Failure> {
    let machine = machine_args(args, place, own);
    let writes = place == Place::Memory;
    let mut device = device::device(&machine, READ_BYTES, writes)?;
    if let Some(own) = own {
        own.known(&mut device);
    }
    let base = Phase {
        kind: CLOSED,
        queues: 1,
        bytes: READ_BYTES,
        reads: job::reads(Workload::RandRead, None),
        window_ns: if args.quick { QUICK_WINDOW_NS } else { job::window_ns(&machine) },
        gap_ns: device.gap_ns,
        duration_ns: if args.quick { QUICK_NS } else { PHASE_NS },
        patience_ns: if args.quick { 0 } else { job::PATIENCE_NS },
        seed: SEED,
        ..Phase::default()
    };
    let phases = (asked.phases)(&base);
    Ok(Setup {
        core: args.core,
        isolation: machine.isolation,
        check_syscalls: false,
        plan: Plan {
            repetitions: asked.repetitions,
            nsid: 1,
            queues: asked.queues,
            slots: asked.slots,
            buffer_bytes: READ_BYTES,
            fill: device.fill.into(),
            watch_allocations: cfg!(feature = "allocation-tracking").into(),
            null_pattern: device.null_pattern,
            ..Plan::default()
        },
        device,
        phases,
        probes: ProbeArgs::default(),
        quiet: false,
    })
}

/// Everything that the suite wants of a place.
fn all_phases(args: &SuiteArgs, place: Place<'_>) -> Asked {
    let null = place != Place::Memory;
    Asked {
        repetitions: repetitions(args),
        queues: QUEUES[QUEUES.len() - 1],
        slots: DEPTHS[DEPTHS.len() - 1],
        echoes: if args.quick { ECHOES_QUICK } else { ECHOES },
        phases: Box::new(move |base| phases(base, null)),
    }
}

fn phases(base: &Phase, null: bool) -> Vec<Phase> {
    let burst = |batch| Phase { kind: BURST, depth: 1, batch, count: 100, ..*base };
    let mut phases = vec![Phase { depth: 32, warm_up: 1, ..*base }];
    phases.push(Phase { kind: NOISE, duration_ns: base.duration_ns, ..Phase::default() });
    for depth in DEPTHS {
        phases.push(Phase { depth, ..*base });
        phases.push(Phase { depth, stamped: 1, ..*base });
    }
    phases.extend(TASK_DEPTHS.map(|depth| Phase { kind: FUTURES, depth, ..*base }));
    phases.extend(BURSTS.map(burst));
    phases.push(Phase { doorbell_each: 1, ..burst(BELLS) });
    for each in QUEUE_DEPTHS {
        phases.extend(QUEUES.map(|queues| Phase { queues, depth: each * queues, ..*base }));
    }
    if null {
        return phases;
    }
    let deep = Phase { depth: 32, ..*base };
    phases.push(Phase { reads: job::reads(Workload::RandRw, Some(70)), stamped: 1, ..deep });
    for dist in [Dist::Zipf(990), Dist::Hot(20, 80)] {
        let mut phase = Phase { stamped: 1, ..deep };
        dist.put(true, &mut phase);
        phases.push(phase);
    }
    phases.extend(BATCHES.map(|batch| Phase { kind: BATCH, batch, stamped: 1, ..deep }));
    // The rates are shares of what the closed loop before them did.
    phases.push(deep);
    phases.extend(RATES.map(|rate| Phase {
        kind: OPEN,
        stamped: 1,
        poisson: 1,
        group: 1,
        backlog: 128,
        rate_of_capacity_ppm: rate,
        ..deep
    }));
    phases
}

/// The table from the phases that were measured anyway.
fn proposal(args: &SuiteArgs, ran: &Ran) -> Proposal {
    let find = |depth: u32, stamped: u32| {
        let wanted = |run: &&launch::PhaseRun| {
            let phase = &run.phase;
            (phase.kind, phase.depth, phase.stamped, phase.queues, phase.warm_up)
                == (CLOSED, depth, stamped, 1, 0)
        };
        ran.phases.iter().find(wanted).expect("phases() has it")
    };
    let fio = (!args.quick).then(|| (Target::new(None), FIO_S));
    Proposal::new(ran, (find(1, 1), find(128, 0)), fio)
}

fn figures_of(name: &str, ran: &Ran) -> Vec<Figure> {
    let mut figures = Vec::new();
    for run in ran.phases.iter().filter(|run| !run.samples.is_empty()) {
        let what = format!("{name} {} ", suite_sheets::phase_name(&run.phase));
        match run.phase.kind {
            BURST => {
                let bell = if run.phase.doorbell_each == 0 { "" } else { "doorbell each, " };
                let prefix = format!("{name} {bell}");
                figures.extend(Cost::of(run).iter().flat_map(|cost| cost_figures(&prefix, cost)));
            }
            NOISE => {}
            _ => {
                let load = Load::of(ran, run);
                figures.extend(load.iter().flat_map(|load| load_figures(&what, load)));
            }
        }
    }
    // A phase that serves two tables comes twice; the first counts.
    let mut seen = std::collections::BTreeSet::new();
    figures.retain(|figure| seen.insert(figure.name.clone()));
    figures
}

/// A cell of microseconds.
pub(crate) fn us(ns: Option<f64>) -> Cell {
    Cell::maybe(ns.map(|ns| ns / 1e3), 2)
}
