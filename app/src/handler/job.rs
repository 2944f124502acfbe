//! The phases of a job and what is told of them: ingest, replay, probe.
//!
//! Called by the entry's task. Memory for the books is taken once the feed's size is known, from
//! the partition's private memory; nothing is given back before the partition ends.

use core_runtime::metrics::{Gauge, Histogram, MetricsError, MetricsWriter};
use core_runtime::partition::Partition;
use hybrid_abi::Record;
use hybrid_abi::alert::Severity;
use hybrid_abi::feed::Superblock;
use hybrid_abi::feed_job::{
    FeedFigures, FeedJob, FeedStarted, JOB_INGEST, JOB_LENIENT, JOB_NO_PROBE, JOB_OVERWRITE,
    JOB_REPLAY, JOB_STEPS, JOB_SYNTHETIC,
};
use hybrid_abi::feed_journal::{JOB_RECORD, JournalFigures, JournalJob};
use hybrid_abi::metrics::MetricUnit;
use nvme_driver::{BlockDevice, Device, LatencyHistograms, ReadAgain};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::error::HandlerError;
use super::ingest::{IngestJob, Source, ingest};
use super::journal::{self, JournalDesk};
use super::keep::{Begun, Keeper, Kept, Making, NAMES_BYTES, Place};
use super::probe::{BUFFERS, Probed, probe};
use super::progress::Progress;
use super::replay::{ReplayJob, replay};
use super::sink::{EventSink, LOCATES};
use super::steps::{StepHistograms, StepWatch};
use super::store::{ALERT_READ_AGAIN, Store};
use crate::book::{BookStorage, Capacity};
use crate::field::Symbol;
use crate::pipeline::{Pipeline, PipelineConfig, Policy};

/// Gauges that the host reads while the job runs, and the latencies of single reads.
#[derive(Debug)]
pub struct JobMetrics {
    bytes_total: Gauge,
    bytes_written: Gauge,
    bytes_read: Gauge,
    messages: Gauge,
    /// Latencies of single reads of the probe.
    pub single_read_ns: Histogram,
    /// All commands of the probe as the driver sees them, the pauses of its bursts included: apart,
    /// so that the latencies of the work stay those of the work.
    pub probe_command_ns: Histogram,
    /// What the steps of a replay take, for a report.
    pub steps: Option<StepHistograms>,
}

impl JobMetrics {
    /// Adds those of `job` to the partition's metrics.
    ///
    /// # Errors
    /// [`MetricsError`] if there is no room.
    pub fn register(writer: &mut MetricsWriter, job: &FeedJob) -> Result<Self, MetricsError> {
        Ok(Self {
            bytes_total: writer.gauge("feed_bytes_total", MetricUnit::BYTES)?,
            bytes_written: writer.gauge("feed_bytes_written", MetricUnit::BYTES)?,
            bytes_read: writer.gauge("feed_bytes_read", MetricUnit::BYTES)?,
            messages: writer.gauge("feed_messages", MetricUnit::COUNT)?,
            single_read_ns: writer.histogram("single_read_ns", MetricUnit::NANOSECONDS)?,
            probe_command_ns: writer.histogram("probe_command_ns", MetricUnit::NANOSECONDS)?,
            steps: match job.has(JOB_STEPS) {
                true => Some(StepHistograms::register(writer)?),
                false => None,
            },
        })
    }

    /// Copies the progress.
    pub fn publish(&self, progress: &Progress) {
        self.bytes_total.set(progress.bytes_total.get());
        self.bytes_written.set(progress.bytes_written.get());
        self.bytes_read.set(progress.bytes_read.get());
        self.messages.set(progress.messages.get());
    }
}

/// What a job works with.
#[derive(Clone, Copy, Debug)]
pub struct Desk {
    /// The partition.
    pub partition: &'static Partition,
    /// The device.
    pub device: Device,
    /// The metrics of the job.
    pub metrics: &'static JobMetrics,
    /// How far it is.
    pub progress: &'static Progress,
}

/// Runs the phases of `job` on `block`.
///
/// # Errors
/// [`HandlerError`]; the figures of the phase that failed were sent all the same.
pub async fn run<S: Source>(
    desk: Desk,
    block: BlockDevice,
    (job, kept): (&FeedJob, Option<Kept>),
    source: &mut S,
) -> Result<(), HandlerError> {
    let store = Store { block, arena: desk.partition.arena() };
    let mut superblock = None;
    if job.has(JOB_INGEST) {
        superblock = Some(run_ingest(desk, store, job, source).await?);
        desk.progress.writes.set(false);
    }
    if job.has(JOB_REPLAY) {
        let superblock = match superblock {
            Some(superblock) => superblock,
            None => store.open().await?,
        };
        run_replay(desk, store, (job, kept), &superblock).await?;
    }
    Ok(())
}

/// Tells the host of reads that were lost and read again, once a job.
fn tell_repeated(desk: Desk, repeated: u64) {
    if repeated != 0 {
        let line = format_args!("{repeated} reads of the journal were lost, and read again");
        desk.partition.alert(Severity::WARNING, ALERT_READ_AGAIN, line);
    }
}

/// Runs a job on a journal.
///
/// # Errors
/// [`HandlerError`]; the figures were sent all the same.
pub async fn run_journal(
    desk: Desk,
    block: BlockDevice,
    job: &FeedJob,
    how: JournalJob,
) -> Result<(), HandlerError> {
    let here = JournalDesk { desk, block, how };
    let mut figures = JournalFigures::new_zeroed();
    if job.has(JOB_RECORD) {
        let outcome = journal::record(here, job, &mut figures).await;
        tell(desk, &figures).await;
        return outcome;
    }
    let store = Store { block, arena: desk.partition.arena() };
    tell(desk, &started(desk, store, JOB_REPLAY)).await;
    let Begun { mut pipeline, mut sink, .. } = new_books(desk, job, u64::MAX)?;
    let begin = desk.partition.clock().now();
    let outcome = journal::replay(here, job, (&mut pipeline, &mut sink), &mut figures).await;
    sink.publish();
    let mut feed_figures = self::figures(desk, JOB_REPLAY, begin);
    tell_repeated(desk, feed_figures.io_repeated);
    fill_figures(&mut feed_figures, desk, &pipeline, &sink);
    feed_figures.messages = figures.messages;
    tell(desk, &feed_figures).await;
    tell(desk, &figures).await;
    outcome
}

async fn run_ingest<S: Source>(
    desk: Desk,
    store: Store,
    job: &FeedJob,
    source: &mut S,
) -> Result<Superblock, HandlerError> {
    tell(desk, &started(desk, store, JOB_INGEST)).await;
    let begin = desk.partition.clock().now();
    let ingest_job = IngestJob {
        name: job.feed_name.as_str(),
        synthetic: job.has(JOB_SYNTHETIC),
        created_unix_ns: job.created_unix_ns,
        overwrite: job.has(JOB_OVERWRITE),
        window: job.queue_depth as usize,
        feed_bytes: job.feed_bytes,
    };
    let spawner = desk.partition.spawner();
    let outcome = ingest(store, source, ingest_job, spawner, desk.progress).await;
    let mut figures = figures(desk, JOB_INGEST, begin);
    figures.bytes = desk.progress.bytes_written.get();
    figures.messages = desk.progress.messages.get();
    desk.progress.messages.set(0);
    tell(desk, &figures).await;
    outcome
}

async fn run_replay(
    desk: Desk,
    store: Store,
    (job, kept): (&FeedJob, Option<Kept>),
    superblock: &Superblock,
) -> Result<(), HandlerError> {
    let partition = desk.partition;
    let clock = partition.clock();
    let Begun { mut pipeline, mut sink, keeper, place: from, ticks_before } =
        make_books(desk, (job, kept), superblock)?;
    let started = FeedStarted {
        feed_bytes: superblock.feed_bytes,
        feed_messages: superblock.message_count,
        feed_name: superblock.feed_name,
        resumed_bytes: desk.progress.bytes_read.get(),
        ..started(desk, store, JOB_REPLAY)
    };
    tell(desk, &started).await;
    let begin = clock.now();
    let steps = StepWatch::new(clock, desk.metrics.steps);
    let window = job.queue_depth as usize;
    let replay_job = ReplayJob { window, from, keeper: &keeper, partition, steps };
    let outcome =
        replay(store, superblock, replay_job, &mut pipeline, &mut sink, desk.progress).await;
    sink.publish();
    let mut figures = figures(desk, JOB_REPLAY, begin);
    figures.ticks = figures.ticks.saturating_add(ticks_before);
    let probed = match outcome {
        Ok(_) if !job.has(JOB_NO_PROBE) => run_probe(desk, store).await,
        Ok(_) => Ok(Probed::default()),
        Err(_) => Ok(Probed::default()),
    };
    fill_figures(&mut figures, desk, &pipeline, &sink);
    if let Ok(probed) = probed {
        figures.submit_commands = probed.reads;
        figures.submit_ticks = probed.submit_ticks;
        figures.complete_commands = probed.reads;
        figures.complete_ticks = probed.complete_ticks;
    }
    tell(desk, &figures).await;
    outcome?;
    probed.map(|_| ())
}

/// Measures the driver on the queue that was kept for it; nothing where only one was granted.
async fn run_probe(desk: Desk, store: Store) -> Result<Probed, HandlerError> {
    // The bridge has one queue, which is enough: nothing else is in flight any more.
    let index = if desk.device.controller().is_some() { 1 } else { 0 };
    let Some(queue) = desk.device.take_queue(index, BUFFERS, desk.partition.bump()) else {
        return Ok(Probed::default());
    };
    let latency_ns = &desk.metrics.single_read_ns;
    let apart = desk.metrics.probe_command_ns;
    desk.device.record_latencies_into(LatencyHistograms { reads: apart, writes: apart });
    match probe(desk.partition, store.block, queue, latency_ns, desk.progress).await {
        // The day is told already: a figure less is no reason to end otherwise than well.
        Err(error) if ReadAgain::is_lost(&error) => {
            let line = format_args!("single reads were not measured: {error}");
            desk.partition.alert(Severity::WARNING, ALERT_READ_AGAIN, line);
            Ok(Probed::default())
        }
        probed => probed
            .map_err(|error| HandlerError::Device { what: "measurement of single reads", error }),
    }
}

/// 128 bytes, aligned as the books want their memory.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(128))]
struct Line([u8; 128]);

/// Bytes of the shortest message that adds an order, with its length prefix.
const LEAST_ADD_BYTES: u32 = 38;

/// Room in the books for this feed, within what the job allows.
#[must_use]
pub fn capacity(feed_bytes: u64, orders_max: u32) -> Capacity {
    let feed = Capacity::for_feed(feed_bytes);
    // Each order costs its feed a message: more room than that would never be used.
    let most = u32::try_from(feed_bytes / u64::from(LEAST_ADD_BYTES)).unwrap_or(u32::MAX);
    let orders = orders_max.min(most.max(feed.orders));
    // As `for_feed` has it: in a large feed at most every second order has a price of its own.
    let levels = orders.min((orders / 2).max(64 * 1024));
    Capacity { orders, levels, ..feed }
}

/// Memory that books of [`capacity`] and the sink take, in bytes: state memory, or private memory
/// where there is none.
#[must_use]
pub fn books_bytes(feed_bytes: u64, orders_max: u32) -> usize {
    capacity(feed_bytes, orders_max).bytes() + NAMES_BYTES + 4096
}

/// Books, where an earlier incarnation left them, or new ones.
fn make_books(
    desk: Desk,
    (job, kept): (&FeedJob, Option<Kept>),
    superblock: &Superblock,
) -> Result<Begun, HandlerError> {
    let Some(kept) = kept else { return new_books(desk, job, superblock.feed_bytes) };
    let Desk { partition, progress, .. } = desk;
    let capacity = capacity(superblock.feed_bytes, job.orders_max);
    let (begin, config) = (partition.clock().now(), books_config(desk, job)?);
    let making = Making { partition, superblock, capacity, config, begin };
    kept.begin(making, progress, job)
}

/// Books in private memory, which nobody keeps.
fn new_books(desk: Desk, job: &FeedJob, feed_bytes: u64) -> Result<Begun, HandlerError> {
    let bump = desk.partition.bump();
    let capacity = capacity(feed_bytes, job.orders_max);
    let lines = capacity.bytes().div_ceil(size_of::<Line>());
    let memory = bump.slice_with(lines, |_| Line([0; 128])).map_err(HandlerError::NoMemory)?;
    let storage = BookStorage::carve(memory.as_mut_bytes(), capacity)?;
    let names = bump.slice_with(LOCATES, |_| [b' '; 8]).map_err(HandlerError::NoMemory)?;
    let sink = EventSink::new(desk.partition.events(), names).leaving_out(job.sent_events);
    let pipeline = Pipeline::new(storage, books_config(desk, job)?);
    let (keeper, place) = (Keeper::none(), Place::default());
    Ok(Begun { pipeline, sink, keeper, place, ticks_before: 0 })
}

/// Policy and symbols of a job.
fn books_config(desk: Desk, job: &FeedJob) -> Result<PipelineConfig<'static>, HandlerError> {
    let wanted = job.symbols();
    let symbols = desk
        .partition
        .bump()
        .slice_with(wanted.len(), |i| Symbol(wanted.get(i).copied().unwrap_or([b' '; 8])))
        .map_err(HandlerError::NoMemory)?;
    let policy = if job.has(JOB_LENIENT) { Policy::Lenient } else { Policy::Strict };
    Ok(PipelineConfig { policy, symbols })
}

pub(super) fn started(desk: Desk, store: Store, phase: u32) -> FeedStarted {
    FeedStarted {
        phase,
        lba_bytes: store.block.lba_bytes(),
        blocks: store.block.blocks(),
        max_transfer_bytes: store.block.max_transfer_bytes(),
        queue_depth: desk.device.queue_depth().into(),
        feed_bytes: 0,
        feed_messages: 0,
        feed_name: hybrid_abi::Name::EMPTY,
        resumed_bytes: 0,
    }
}

fn figures(desk: Desk, phase: u32, begin: core_runtime::clock::Instant) -> FeedFigures {
    let stats = desk.device.stats();
    FeedFigures {
        phase,
        ticks: desk.partition.clock().now().since(begin).get(),
        io_completed: stats.io.completed,
        io_failed: stats.io.failed + stats.io.lost,
        io_retried: stats.io.retries,
        io_repeated: stats.reads_repeated,
        resets: stats.resets,
        ..FeedFigures::new_zeroed()
    }
}

fn fill_figures(
    figures: &mut FeedFigures,
    desk: Desk,
    pipeline: &Pipeline<'static>,
    sink: &EventSink,
) {
    let (books, counts) = (pipeline.books(), pipeline.counts());
    let (stats, usage) = (books.stats(), books.usage());
    figures.bytes = desk.progress.bytes_read.get();
    figures.messages = pipeline.messages();
    figures.refused = counts.refused.total();
    figures.books = usage.books.live as u64;
    figures.bbo_changes = stats.bbo_changes;
    figures.trades = stats.trades;
    figures.trading_states = sink.states;
    figures.orders_open = usage.orders.live as u64;
    figures.orders_high_water = usage.orders.high_water as u64;
    figures.orders_capacity = usage.orders.capacity as u64;
    figures.events_dropped = sink.dropped;
    figures.ring_waits = desk.progress.ring_waits.get();
    figures.by_type = counts.by_kind;
}

/// Sends a record, waiting for room; a closed ring takes nothing.
pub(super) async fn tell<R: Record>(desk: Desk, record: &R) {
    let ring = desk.partition.events();
    while matches!(ring.has_room(size_of::<R>()), Ok(false)) && !desk.progress.stop.get() {
        desk.partition.spawner().yield_now().await;
    }
    // A ring that was closed has nobody who waits for it.
    let _ = ring.send(record);
}
