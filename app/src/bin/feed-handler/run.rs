//! The runs: the synthetic day, `ingest`, `replay`, and the questions to the controller.
//!
//! Each prepares a job and a device, starts one partition, and serves it until it ends: sends the
//! feed, takes the events, shows progress, hears signals. Then the report is put together.

use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use core_runtime::partition::StopReason;
use feed_handler::handler::entry::{self, ENTRY_NAME};
use feed_handler::handler::job::books_bytes;
use feed_handler::synth::SynthConfig;
use host_bridge::backend::{Backend, ModelBackend};
use host_bridge::page::Beside;
use host_bridge::supervisor::counters::Counters;
use host_bridge::supervisor::{Next, Status, Supervisor};
use host_bridge::sys::signals::{StopSignal, StopSignals};
use host_bridge::topology::Topology;
use host_bridge::warnings::Warnings;
use host_bridge::{
    Entry, Isolation, PartitionHandle, PartitionReport, PartitionSpec, Runtime, RuntimeError,
    StateFile,
};
use hybrid_abi::Name;
use hybrid_abi::feed_job::{
    FeedJob, JOB_IDENTIFY, JOB_INGEST, JOB_LENIENT, JOB_NO_PROBE, JOB_OVERWRITE, JOB_REPLAY,
    JOB_STEPS, JOB_SYMBOLS_MAX, JOB_SYNTHETIC,
};
use hybrid_abi::feed_journal::{JOB_JOURNAL, JOB_RECORD, JournalJob};
use hybrid_conventions::{Count, CpuSet, Exit};
use zerocopy::IntoBytes;

use crate::cli::{DayArgs, IngestArgs, MachineArgs, ReplayArgs};
use crate::course::{Course, distribution};
use crate::device::Need;
use crate::events::Events;
use crate::failure::Failure;
use crate::feed::{Feed, refuse_same_file};
use crate::output;
use crate::page::{self, STEPS, Shown};
use crate::progress::Progress;
use crate::storage::{Choice, Storage, image_of, not_started};
use crate::summary;
use crate::supervise::Supervision;

/// How often the host looks at its partition. The event ring holds 60,000 BBO changes, which is
/// 10 ms and more of the fastest replay; the command ring as much.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Events taken at one look before the feed gets its turn.
const EVENTS_A_LOOK: u32 = 1 << 20;

/// The ring of commands carries the feed: 4 MiB last for 10 ms at 400 MB/s.
const COMMAND_RING_BYTES: usize = 4 << 20;

/// Private memory beside the books: driver, scheduler, tables.
const PRIVATE_BYTES: usize = 24 << 20;

/// DMA memory beside the window of 64 KiB chunks: queues, PRP lists, identify data, the probe.
const DMA_BYTES: usize = 16 << 20;

/// Task memory: the job's future holds two windows of requests.
const TASK_BYTES: usize = 2 << 20;

/// What a partition of this program runs.
pub(crate) const ENTRY: Entry = Entry::new(ENTRY_NAME, entry::run);

/// What one run did.
pub(crate) struct Outcome {
    pub(crate) runtime: Runtime,
    pub(crate) figures: summary::Measured,
    pub(crate) report: PartitionReport,
    pub(crate) events: Events,
    pub(crate) signal: Option<StopSignal>,
    pub(crate) isolation: Isolation,
    /// For `--report`.
    pub(crate) shown: Option<Shown>,
    pub(crate) starts: Starts,
}

/// What became of the partition's starts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Starts {
    /// The device in use at the end.
    pub(crate) device: String,
    /// Starts after an end.
    pub(crate) restarts: u64,
    /// Changes of storage.
    pub(crate) fallbacks: u64,
    /// Memory that is kept for a next start.
    pub(crate) state_bytes: u64,
}

impl Starts {
    fn of(storage: &Storage<'_>, counters: &Counters, state: Option<&StateFile>) -> Self {
        Self {
            device: storage.current().to_owned(),
            restarts: counters.restarts(),
            fallbacks: counters.fallbacks(),
            state_bytes: state.map_or(0, StateFile::bytes) as u64,
        }
    }
}

/// What is to be run.
pub(crate) struct Plan<'a> {
    pub(crate) machine: &'a MachineArgs,
    pub(crate) job: FeedJob,
    pub(crate) feed: Option<Feed>,
    pub(crate) need: Need,
    pub(crate) events: Events,
    /// With `JOB_RECORD` or `JOB_JOURNAL`.
    pub(crate) journal: Option<JournalJob>,
}

/// The synthetic day.
pub(crate) fn day(args: &DayArgs, machine: &MachineArgs) -> Result<Exit, Failure> {
    let config = SynthConfig { seed: args.seed, stocks: args.stocks, messages: args.messages };
    let feed = Feed::synthetic(config)?;
    let mut job = new_job(machine, JOB_INGEST | JOB_REPLAY | JOB_SYNTHETIC, Some(&feed));
    job.orders_max = job.orders_max.min(config.capacity().orders);
    let title = format!(
        "feed-handler: a synthetic day of {} messages, {} stocks, seed {}",
        Count(args.messages),
        args.stocks,
        args.seed
    );
    let need = Need::Write(feed.bytes());
    let plan =
        Plan { machine, job, feed: Some(feed), need, events: Events::default(), journal: None };
    summary::print(&title, machine, carry_out(plan)?)
}

/// `ingest FILE`.
pub(crate) fn ingest(args: &IngestArgs) -> Result<Exit, Failure> {
    let machine = &args.machine;
    let feed = Feed::open(&args.file)?;
    let job = new_job(machine, JOB_INGEST, Some(&feed));
    refuse_image_of(&args.file, machine)?;
    let need = Need::Write(feed.bytes());
    let title = format!("feed-handler ingest: {}", feed.name());
    let plan =
        Plan { machine, job, feed: Some(feed), need, events: Events::default(), journal: None };
    summary::print(&title, machine, carry_out(plan)?)
}

/// `replay [FILE]`.
pub(crate) fn replay(args: &ReplayArgs) -> Result<Exit, Failure> {
    let machine = &args.machine;
    let feed = args.file.as_deref().map(Feed::open).transpose()?;
    match &args.file {
        Some(file) => {
            refuse_image_of(file, machine)?;
            if let Some(bbo) = &args.bbo {
                refuse_same_file(file, "--bbo", bbo)?;
            }
        }
        None if machine.device == "model" => {
            return Err(Failure::error(
                "nothing to replay: a model in memory begins empty; name a FILE, or an image that \
                 `ingest` or `record` wrote (--device model:IMAGE)",
            ));
        }
        None => {}
    }
    let phases = if feed.is_some() { JOB_INGEST | JOB_REPLAY } else { JOB_REPLAY };
    let mut job = new_job(machine, phases, feed.as_ref());
    if args.lenient {
        job.flags |= JOB_LENIENT;
    }
    job.orders_max = args.max_orders;
    let symbols = args.symbols.as_ref().map_or(&[][..], |symbols| &symbols.0);
    if symbols.len() > JOB_SYMBOLS_MAX {
        return Err(Failure::error(format_args!(
            "--symbols names {} symbols; at most {JOB_SYMBOLS_MAX} are allowed, none means all",
            symbols.len()
        )));
    }
    for (place, symbol) in job.symbols.iter_mut().zip(symbols) {
        *place = *symbol;
        job.symbol_count += 1;
    }
    let snapshot = if args.journal.save_snapshot { Need::Write(0) } else { Need::Read };
    let need = feed.as_ref().map_or(snapshot, |feed| Need::Write(feed.bytes()));
    let title = match &feed {
        Some(feed) => format!("feed-handler replay: {}", feed.name()),
        None if args.journal.journal => {
            format!("feed-handler replay: the journal on {}", machine.device)
        }
        None => format!("feed-handler replay: the feed on {}", machine.device),
    };
    let events = Events::with_bbo(args.bbo.as_deref())?;
    let journal = crate::journal::replay_job(args, &mut job)?;
    let mut outcome = carry_out(Plan { machine, job, feed, need, events, journal })?;
    let written = outcome.events.finish(args.bbo.as_deref());
    let journal = outcome.events.journal;
    let exit = summary::print(&title, machine, outcome)?;
    if let Some(figures) = journal.filter(|_| !machine.json) {
        output::result(format_args!("{}", crate::journal::replay_lines(&figures)))?;
    }
    written.map(|()| exit)
}

/// The image must not be the feed: it would be overwritten while it is read.
fn refuse_image_of(feed: &Path, machine: &MachineArgs) -> Result<(), Failure> {
    let fallback = machine.storage.fallback.as_deref();
    let mut names = [Some(machine.device.as_str()), fallback].into_iter().flatten();
    names.try_for_each(|name| match image_of(name) {
        Some(image) => refuse_same_file(feed, "image", image),
        None => Ok(()),
    })
}

/// A job with what every run has.
pub(crate) fn new_job(machine: &MachineArgs, flags: u32, feed: Option<&Feed>) -> FeedJob {
    let mut job = FeedJob::new(flags | JOB_IDENTIFY);
    job.queue_depth = machine.queue_depth.into();
    job.max_transfer_bytes = machine.max_transfer;
    job.io_timeout_ms = u32::try_from(machine.storage.io_timeout.as_millis()).unwrap_or(u32::MAX);
    if machine.allow_writes {
        job.flags |= JOB_OVERWRITE;
    }
    if machine.no_probe {
        job.flags |= JOB_NO_PROBE;
    }
    if machine.report.is_some() {
        job.flags |= JOB_STEPS;
    }
    if let Some(feed) = feed {
        job.feed_name = Name::lossy(feed.name());
        job.feed_bytes = feed.bytes();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    job.created_unix_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    job
}

/// Starts the partition, serves and supervises it to its end.
pub(crate) fn carry_out(plan: Plan<'_>) -> Result<Outcome, Failure> {
    let Plan { machine, job, feed, need, events, journal } = plan;
    let (course, beside) = page::prepare(machine)?;
    let mut storage = Storage::new(machine, need)?;
    let signals = install_signals()?;
    let runtime = runtime_of(machine)?;
    let Supervision { options, alerts, counters, spares } =
        machine.supervision.supervision(storage.fallback())?;
    runtime.telemetry().add_counters(&counters);
    runtime.telemetry().add_requests(ENTRY_NAME, &options.requests);
    let exports = machine.telemetry.start(&runtime, machine.quiet)?;
    storage.tell(alerts.clone(), counters.clone());
    let mut backend = Some(storage.backend()?);
    let progress = Progress::new(machine.quiet, feed.as_ref().map_or(0, Feed::expected));
    let state = state(&job, feed.as_ref());
    let work = Work { feed, events, progress, course, job, storage, signal: None, error: None };
    let work = RefCell::new(work);
    let criticals = options.criticals.clone();
    let starter = |next: Option<Next<PartitionHandle>>| {
        let mut work = work.borrow_mut();
        let backend = match (next, backend.take()) {
            (Some(next), _) => again(next, &mut work)?,
            (None, Some(backend)) => backend,
            // The one before could not be started; what it had of the device is gone with it.
            (None, None) => work.storage.backend().map_err(|error| not_started(&error))?,
        };
        let spawn = |work: &Work<'_>, backend| {
            let mut spec = spec(machine, &work.job, journal).with_device(backend);
            machine.probes.apply(&mut spec);
            spec.spares.clone_from(&spares);
            spec.state.clone_from(&state);
            spec.on_alert = Some(criticals.sink(runtime.warnings()));
            runtime.spawn(spec)
        };
        spawn(&work, backend).or_else(|error| {
            let backend = work.storage.instead(error)?;
            spawn(&work, backend)
        })
    };
    let mut supervisor = Supervisor::start(options, alerts, counters.clone(), Box::new(starter))?;
    while let Status::Alive | Status::Between = supervisor.poll() {
        let mut work = work.borrow_mut();
        if let Some(partition) = supervisor.current() {
            work.serve(partition, &signals);
        }
        if work.signal.is_some() {
            supervisor.stop();
        }
        drop(work);
        supervisor.wait(LOOK_EVERY);
    }
    let partition = supervisor.into_current();
    let mut work = work.into_inner();
    work.progress.clear();
    let mut partition = partition.ok_or_else(not_again)?;
    work.hear(&mut partition);
    let Work { events, course, storage, signal, error, .. } = work;
    let figures = summary::Measured::read(&partition);
    let shown = course.map(|course| shown(course, &partition, beside));
    let mut report = partition.join();
    drop(exports);
    tell_notes(machine, need, &mut report);
    if let Some(error) = error {
        return Err(Failure::error(format_args!("the feed could not be read to its end: {error}")));
    }
    let starts = Starts::of(&storage, &counters, state.as_ref());
    let isolation = machine.isolation;
    Ok(Outcome { runtime, figures, report, events, signal, isolation, shown, starts })
}

fn not_again() -> Failure {
    Failure::error("the partition could not be started again; the lines above say why")
}

/// A device that is lost behind the last read of a replay, or behind the flush that ends what was
/// written, has done its work: with other storage at hand that is worth a line, and no error.
fn forgive(machine: &MachineArgs, need: Need, report: &mut PartitionReport) {
    let auto = machine.storage.storage == Some(Choice::Auto);
    if auto && !matches!(need, Need::Ask) && report.exit.is_done() {
        let device = report.device.as_mut();
        let problem = device.and_then(|device| device.problem.take());
        if let Some(problem) = problem.filter(|_| !machine.quiet) {
            output::note(format_args!("warning: at its end, the work being done: {problem}"));
        }
    }
}

/// What the device had to say at its end.
fn tell_notes(machine: &MachineArgs, need: Need, report: &mut PartitionReport) {
    forgive(machine, need, report);
    let notes = report.device.iter().flat_map(|device| &device.notes);
    if !machine.quiet {
        notes.for_each(|note| output::note(format_args!("warning: {note}")));
    }
}

/// Signals that end the run in order.
fn install_signals() -> Result<StopSignals, Failure> {
    StopSignals::install().map_err(|error| {
        Failure::error(format_args!("signal handlers cannot be installed: {error}"))
    })
}

/// The runtime over the partition's core; its warnings are notes.
fn runtime_of(machine: &MachineArgs) -> Result<Runtime, Failure> {
    let quiet = machine.quiet;
    let warnings = Warnings::to(move |warning| {
        if !quiet {
            output::note(warning);
        }
    });
    Ok(Runtime::with_warnings(partition_cpu(machine.core)?, warnings)?)
}

/// What the host does for the partition that runs.
struct Work<'a> {
    feed: Option<Feed>,
    events: Events,
    progress: Progress,
    course: Option<Course>,
    job: FeedJob,
    storage: Storage<'a>,
    signal: Option<StopSignal>,
    error: Option<String>,
}

impl Work<'_> {
    /// Sets the job to what is left of it: an ingest begins anew, a replay goes on.
    fn begin_behind(&mut self) -> Result<(), Failure> {
        if self.events.has_feed() && !self.job.has(JOB_JOURNAL) && !self.job.has(JOB_RECORD) {
            self.job.flags &= !JOB_INGEST;
            self.job.sent_events = self.events.heard;
            self.events.go_on();
            return Ok(());
        }
        self.events.begin_anew();
        if self.feed.as_mut().map_or(Ok(false), Feed::rewind)? {
            // What is damaged now is no other's: it was whole, and is not written over.
            self.job.flags &= !JOB_OVERWRITE;
        }
        Ok(())
    }

    /// Takes what the partition told, and passes on how far its journal goes.
    fn hear(&mut self, partition: &mut PartitionHandle) {
        take_events(partition, &mut self.events);
        if let (Some(feed), Some(mark)) = (&mut self.feed, self.events.mark.take()) {
            feed.mark(mark);
        }
    }

    fn serve(&mut self, partition: &mut PartitionHandle, signals: &StopSignals) {
        // Who is asked to stop gets nothing more: a recording ends with what it has.
        let feed = self.feed.as_mut().filter(|_| self.signal.is_none());
        if let Some(Err(error)) = feed.map(|feed| feed.push(partition)) {
            self.error.get_or_insert(error.to_string());
        }
        self.hear(partition);
        if let Some(course) = &mut self.course {
            course.look(partition.metrics(), partition.incarnation());
        }
        let replaying = self.events.started.is_some_and(|started| started.phase == JOB_REPLAY);
        self.progress.show(partition.metrics(), replaying);
        if self.signal.is_none() {
            self.signal = signals.pending();
        }
        if self.signal.is_some() {
            partition.request_stop(StopReason::Signal);
        }
    }
}

/// What the page shows beside the figures.
fn shown(mut course: Course, partition: &PartitionHandle, beside: Vec<Beside>) -> Shown {
    let metrics = partition.metrics();
    course.look(metrics, partition.incarnation());
    course.take(metrics);
    let of = |name| distribution(metrics, name);
    Shown {
        course,
        reads: of("read_latency_ns"),
        writes: of("write_latency_ns"),
        singles: of("single_read_ns"),
        passes: of("poll_to_poll_ns"),
        stolen: of("stolen_gap_ns"),
        exceeded: of("budget_exceeded_ns"),
        steps: STEPS.map(|step| (step, of(step.metric))),
        beside,
    }
}

/// The device once more, or what takes over from it; the job behind what was heard of it.
fn again(
    next: Next<PartitionHandle>,
    work: &mut Work<'_>,
) -> Result<Box<dyn Backend>, RuntimeError> {
    let Next { mut before, ending } = next;
    // What it said last: the next one goes on behind exactly that.
    work.hear(&mut before);
    let started = work.events.started;
    let device = before.join().device;
    work.begin_behind().map_err(|failure| not_started(&failure))?;
    if let Some(started) = started {
        work.storage.has_blocks_of(started.lba_bytes);
    }
    if ending.blames_device() && work.storage.fallback().is_ready() {
        // Whoever served the device has ended, with the partition: its blocks are nobody's now.
        drop(device);
        return work.storage.take_over(None).map_err(|failure| not_started(&failure));
    }
    match device.and_then(|device| device.model) {
        // With everything that it holds.
        Some(model) => Ok(Box::new(ModelBackend::again(model))),
        None => work.storage.backend().map_err(|failure| not_started(&failure)),
    }
}

/// Takes what has come.
fn take_events(partition: &mut PartitionHandle, events: &mut Events) {
    // A ring that the partition broke is closed; its exit says more.
    let _ = partition.poll_events(EVENTS_A_LOOK, |header, payload| events.take(header, payload));
}

/// What a replay keeps for its next incarnation.
fn state(job: &FeedJob, feed: Option<&Feed>) -> Option<StateFile> {
    // Without a file the feed's length is known only to the partition: room for the most.
    let feed_bytes = feed.map_or(u64::MAX, Feed::bytes);
    // What comes out of a journal is begun anew: its books stay where they were.
    let keeps = job.has(JOB_REPLAY) && !job.has(JOB_JOURNAL);
    keeps.then(|| StateFile::new(books_bytes(feed_bytes, job.orders_max)))
}

/// The partition of a job.
fn spec(machine: &MachineArgs, job: &FeedJob, journal: Option<JournalJob>) -> PartitionSpec {
    let mut spec = PartitionSpec::new(ENTRY_NAME, ENTRY);
    spec.check_syscalls = machine.check_silence;
    spec.rt_priority = machine.rt_priority;
    spec.isolation = machine.isolation;
    spec.args = job.as_bytes().to_vec();
    spec.args.extend(journal.iter().flat_map(|journal| journal.as_bytes()));
    spec.command_ring_bytes = COMMAND_RING_BYTES;
    spec.private_bytes = PRIVATE_BYTES;
    if job.has(JOB_REPLAY) && job.has(JOB_JOURNAL) {
        spec.private_bytes += books_bytes(u64::MAX, job.orders_max);
    }
    spec.dma_bytes = DMA_BYTES + (job.queue_depth as usize).min(256) * (64 << 10);
    // The feed comes through the command ring, which the job reads itself.
    spec.config.commands_per_pass = 0;
    spec.config.scheduler.task_memory_bytes = TASK_BYTES;
    spec
}

/// The CPU asked for; else the last isolated one that this process may use, else the last.
fn partition_cpu(asked: Option<u32>) -> Result<CpuSet, Failure> {
    let topology = Topology::read();
    let isolated = topology.isolated.intersection(topology.allowed);
    let candidates = if isolated.is_empty() { topology.allowed } else { isolated };
    let cpu = asked.or_else(|| candidates.iter().last());
    let cpu = cpu.ok_or_else(|| Failure::missing("this process may use no cpu"))?;
    CpuSet::single(cpu).map_err(Failure::error)
}
