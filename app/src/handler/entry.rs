//! The partition's entry: controller, tasks, loop.
//!
//! Called by the host's runtime on the partition's core (see `host_bridge`), with the job in the
//! partition's arguments. One task does the job; the standard loop drives controller and scheduler.

use core_runtime::clock::Instant;
use core_runtime::mem::DmaBuf;
use core_runtime::metrics::RuntimeMetrics;
use core_runtime::partition::{Devices, Partition, PartitionExit, run_until_stopped};
use core_runtime::task::TaskOptions;
use hybrid_abi::alert::Severity;
use hybrid_abi::feed_job::{
    BLOB_ERROR_LOG, BLOB_FIRMWARE_LOG, BLOB_IDENTIFY_CONTROLLER, BLOB_IDENTIFY_NAMESPACE,
    BLOB_SMART_LOG, BlobHeader, FeedJob, JOB_IDENTIFY, JOB_INGEST, JOB_REPLAY, KIND_BLOB,
    KIND_FEED_ABORT, KIND_FEED_DATA, KIND_FEED_END,
};
use hybrid_abi::feed_journal::{JOB_JOURNAL, JOB_RECORD, JournalJob};
use nvme_driver::spec::{CriticalWarning, LogPageId, Nsid};
use nvme_driver::{
    BlockDevice, Controller, ControllerConfig, Device, DeviceParts, HealthWatch, IoError,
    LatencyHistograms,
};
use zerocopy::IntoBytes;

use super::WINDOW_MAX;
use super::error::HandlerError;
use super::ingest::{Filled, Source};
use super::job::{self, Desk, JobMetrics};
use super::keep::{BeginsAnew, Kept};
use super::progress::Progress;

/// The entry's name, by which a re-executed process will find it.
pub const ENTRY_NAME: &str = "feed-handler";

/// I/O queues: one for the feed, one for the probe.
const IO_QUEUES: u16 = 2;

/// Budget of the job's task: one chunk's framing and checksum, the longest stretch without a yield.
const JOB_BUDGET_NS: u64 = 100_000;

/// Runs the job in the partition's arguments.
pub fn run(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    match start(partition, device) {
        Ok(devices) => run_until_stopped(partition, devices),
        Err(error) if error.blames_device() => PartitionExit::device_fault(format_args!("{error}")),
        Err(error) => PartitionExit::failed(1, format_args!("{error}")),
    }
}

/// Makes the controller and spawns the job.
fn start(
    partition: &'static Partition,
    device: Option<DeviceParts>,
) -> Result<Driven, HandlerError> {
    let job = FeedJob::parse(partition.args()).map_err(HandlerError::Arguments)?;
    let parts = device.ok_or(HandlerError::NoDevice)?;
    let depth = u16::try_from(job.queue_depth).unwrap_or(u16::MAX);
    // Before the loop, where a walk through large books keeps nobody waiting.
    let kept = match job.has(JOB_REPLAY) {
        true => Kept::open(partition, &job)?.map(|(kept, why)| {
            if let Some(why) = why.filter(|_| job.sent_events != 0) {
                say_anew(partition, &job, why);
            }
            kept
        }),
        false => None,
    };
    let config = deadlines(
        &job,
        ControllerConfig {
            io_queues: IO_QUEUES,
            queue_depth: depth,
            // Every chunk of the window at once, however few commands the queue holds.
            requests: depth.saturating_mul(2).max(u16::try_from(WINDOW_MAX).unwrap_or(u16::MAX)),
            max_transfer_bytes: job.max_transfer_bytes,
            latency_sampling: 1,
            ..ControllerConfig::default()
        },
    );
    let device = Device::open(parts, partition.bump(), config)?;
    device.record_latencies_into(LatencyHistograms::of(partition.metrics()));
    let bump = partition.bump();
    let progress = bump.alloc(Progress::default()).map_err(HandlerError::NoMemory)?;
    progress.writes.set(job.has(JOB_INGEST) || job.has(JOB_RECORD));
    let metrics = partition.add_metrics(|writer| JobMetrics::register(writer, &job))?;
    let metrics = bump.alloc(metrics).map_err(HandlerError::NoMemory)?;
    let desk = Desk { partition, device, metrics, progress };
    let options = TaskOptions::normal("job").budget_ns(JOB_BUDGET_NS);
    let handle = partition.spawner().spawn(options, async move {
        let exit = work(desk, job, kept).await;
        partition.finish(exit);
    })?;
    handle.detach();
    Ok(Driven { desk, health: HealthWatch::default() })
}

/// Tells the host that work is done twice.
fn say_anew(partition: &'static Partition, job: &FeedJob, why: BeginsAnew) {
    partition.alert(
        Severity::WARNING,
        1,
        format_args!("begins anew, and leaves out {} that were told: {why}", job.sent_events),
    );
}

/// Deadlines as the job wants them: none of the controller's is longer than a command's. A bridge's
/// grace time stays as it is, since there is no storage behind it.
fn deadlines(job: &FeedJob, config: ControllerConfig) -> ControllerConfig {
    if job.io_timeout_ms == 0 {
        return config;
    }
    let deadline_ns = u64::from(job.io_timeout_ms) * 1_000_000;
    ControllerConfig {
        deadline_ns,
        abort_grace_ns: config.abort_grace_ns.min(deadline_ns),
        admin_deadline_ns: config.admin_deadline_ns.min(deadline_ns),
        drain_ns: config.drain_ns.min(deadline_ns),
        ..config
    }
}

/// The job, from bring-up to shutdown.
async fn work(desk: Desk, job: FeedJob, kept: Option<Kept>) -> PartitionExit {
    let outcome = match phases(desk, (&job, kept)).await {
        // Whatever it looked like to the job.
        _ if desk.progress.read_only.get() => Err(HandlerError::ReadOnly),
        Err(error) if error.is_protected() && is_read_only(desk.device).await => {
            Err(HandlerError::ReadOnly)
        }
        outcome => outcome,
    };
    // What failed for good fails every command; and some fail one in ways of their own.
    let failed = desk.device.failure().is_some();
    let off = desk.device.shutdown().await;
    match (outcome, off) {
        (Err(error), _) if failed || error.blames_device() => {
            PartitionExit::device_fault(format_args!("{error}"))
        }
        (Err(error), _) => PartitionExit::failed(1, format_args!("{error}")),
        (Ok(()), Err(error)) => {
            PartitionExit::device_fault(format_args!("shutdown of the controller: {error}"))
        }
        (Ok(()), Ok(())) => PartitionExit::done(),
    }
}

/// Whether the drive itself says that its media are read only; its event may come later than the
/// first write that it refuses.
async fn is_read_only(device: Device) -> bool {
    match device.controller() {
        None => false,
        Some(controller) => controller
            .smart_log()
            .await
            .is_ok_and(|log| log.warnings().contains(CriticalWarning::READ_ONLY)),
    }
}

async fn phases(desk: Desk, (job, kept): (&FeedJob, Option<Kept>)) -> Result<(), HandlerError> {
    desk.device.ready().await?;
    // What the host drives has nothing of the kind.
    if let Some(controller) = desk.device.controller()
        && job.has(JOB_IDENTIFY)
    {
        let what = "identify or a log page";
        identify(desk, controller).await.map_err(|error| HandlerError::Device { what, error })?;
    }
    if job.has(JOB_RECORD) || job.has(JOB_JOURNAL) {
        let how = desk.partition.args().get(size_of::<FeedJob>()..).unwrap_or_default();
        let how = JournalJob::parse(how).map_err(HandlerError::Arguments)?;
        let block = pick(desk.device, job.nsid)?;
        return job::run_journal(desk, block, job, how).await;
    }
    if !job.has(JOB_INGEST) && !job.has(JOB_REPLAY) {
        return Ok(());
    }
    let block = pick(desk.device, job.nsid)?;
    let mut source = RingSource { partition: desk.partition };
    job::run(desk, block, (job, kept), &mut source).await
}

/// The namespace asked for, or the first that can be used; of a bridge, what is behind it.
fn pick(device: Device, nsid: u32) -> Result<BlockDevice, HandlerError> {
    let controller = match device {
        Device::Nvme(controller) => controller,
        Device::Bridge(bridge) => return Ok(BlockDevice::Bridge(bridge)),
    };
    let found = match nsid {
        0 => controller.namespaces().next(),
        nsid => controller.namespace(Nsid(nsid)),
    };
    found.map(BlockDevice::Nvme).ok_or_else(|| {
        let refused = controller.all_namespaces().find_map(|n| Some((n.nsid(), n.refusal()?)));
        match refused {
            Some((nsid, why)) => HandlerError::NamespaceRefused { nsid, why },
            None => HandlerError::NoNamespace,
        }
    })
}

/// Sends what the controller says of itself.
async fn identify(desk: Desk, controller: &'static Controller) -> Result<(), IoError> {
    send(desk, BLOB_IDENTIFY_CONTROLLER, 0, &controller.identify_bytes()).await;
    for namespace in controller.all_namespaces() {
        let nsid = namespace.nsid().0;
        send(desk, BLOB_IDENTIFY_NAMESPACE, nsid, &namespace.identify_bytes()).await;
    }
    for (what, lid, nsid) in [
        (BLOB_SMART_LOG, LogPageId::SMART, Nsid::ALL),
        (BLOB_FIRMWARE_LOG, LogPageId::FIRMWARE, Nsid::NONE),
    ] {
        let buf = buffer(desk, LOG_BYTES)?;
        let read = controller.get_log_page(lid, nsid, buf).await;
        send(desk, what, 0, read.map_err(|failed| failed.error)?.as_slice()).await;
    }
    let read = controller.error_log(buffer(desk, ERROR_LOG_BYTES)?).await;
    send(desk, BLOB_ERROR_LOG, 0, read.map_err(|failed| failed.error)?.as_slice()).await;
    Ok(())
}

/// SMART and firmware logs are 512 bytes.
const LOG_BYTES: usize = 512;
/// Error log entries asked for: 64 of 64 bytes are a page; the controller may keep fewer.
const ERROR_LOG_BYTES: usize = 4096;

fn buffer(desk: Desk, bytes: usize) -> Result<DmaBuf, IoError> {
    desk.partition.arena().alloc_zeroed(bytes).map_err(|_| IoError::NoMemory)
}

/// Sends a structure, waiting for room; a closed ring takes nothing.
async fn send(desk: Desk, what: u32, nsid: u32, bytes: &[u8]) {
    let ring = desk.partition.events();
    let mut payload = [0; size_of::<BlobHeader>() + 4096];
    let (head, body) = payload.split_at_mut(size_of::<BlobHeader>());
    let len = bytes.len().min(body.len());
    head.copy_from_slice(BlobHeader { what, nsid }.as_bytes());
    body[..len].copy_from_slice(&bytes[..len]);
    let payload = &payload[..size_of::<BlobHeader>() + len];
    while matches!(ring.has_room(payload.len()), Ok(false)) && !desk.progress.stop.get() {
        desk.partition.spawner().yield_now().await;
    }
    // A ring that was closed has nobody who waits for it.
    let _ = ring.write(KIND_BLOB, 0, payload);
}

/// The feed as the host sends it through the command ring.
struct RingSource {
    partition: &'static Partition,
}

impl Source for RingSource {
    fn fill(&mut self, room: &mut [u8]) -> Filled {
        match self.partition.take_command(room) {
            None => Filled::Pending,
            Some(header) => match header.kind {
                KIND_FEED_DATA => Filled::Bytes(header.len.into()),
                KIND_FEED_END => Filled::End,
                KIND_FEED_ABORT => Filled::Failed,
                // A newer host's; nothing was put.
                _ => Filled::Bytes(0),
            },
        }
    }
}

/// The devices of the standard loop.
struct Driven {
    desk: Desk,
    health: HealthWatch,
}

impl Devices for Driven {
    #[inline]
    fn poll(&mut self, now: Instant) -> bool {
        Devices::poll(&mut self.desk.device, now)
    }

    #[inline]
    fn ring(&mut self) {
        Devices::ring(&mut self.desk.device);
    }

    fn publish(&mut self, metrics: &RuntimeMetrics) {
        let Desk { partition, progress, device, .. } = self.desk;
        if partition.stop_requested().is_some() {
            progress.stop.set(true);
        }
        Devices::publish(&mut self.desk.device, metrics);
        self.desk.metrics.publish(progress);
        let warnings = self.health.look(partition, device);
        if warnings.contains(CriticalWarning::READ_ONLY) && progress.writes.get() {
            progress.read_only.set(true);
            progress.stop.set(true);
        }
    }
}
