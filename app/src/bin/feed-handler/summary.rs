//! From a run's outcome to its report, its printing and its exit code.

use core_runtime::metrics::MetricsReader;
use feed_handler::message::KINDS;
use host_bridge::{PartitionHandle, PartitionReport};
use hybrid_abi::feed_job::{BLOB_IDENTIFY_CONTROLLER, FeedFigures, FeedStarted};
use hybrid_conventions::Exit;
use nvme_driver::spec::{IdentifyController, fixed_text};
use zerocopy::FromBytes;

use crate::cli::MachineArgs;
use crate::events::Events;
use crate::failure::Failure;
use crate::output;
use crate::page;
use crate::report::{
    Core, Device, Driver, Feed, Latency, Machine, Phase, Report, Ring, SCHEMA, Silence, Starts,
};
use crate::run::Outcome;

/// Bytes of one chunk of ingest and replay.
const CHUNK_BYTES: u64 = feed_handler::handler::CHUNK_BYTES as u64;

/// What the metrics said when the partition had ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measured {
    reads: Option<Latency>,
    writes: Option<Latency>,
    singles: Option<Latency>,
    gap_p99_ns: u64,
    gap_max_ns: u64,
    stolen_gaps: u64,
    stolen_ns: u64,
    task_polls: u64,
    budget_overruns: u64,
    ring_dropped: u64,
    ring_high_water: u64,
    private_used_bytes: u64,
    dma_bytes: u64,
    page_bytes: u64,
}

impl Measured {
    /// Reads them.
    pub(crate) fn read(partition: &PartitionHandle) -> Self {
        let metrics = partition.metrics();
        let number = |name| metrics.number(name).unwrap_or(0);
        let gaps = metrics.histogram("poll_to_poll_ns");
        let stolen = metrics.histogram("stolen_gap_ns");
        let (dma_bytes, page_bytes) = partition.dma_bytes();
        Self {
            reads: latency(metrics, "read_latency_ns", CHUNK_BYTES),
            writes: latency(metrics, "write_latency_ns", CHUNK_BYTES),
            singles: latency(metrics, "single_read_ns", 4096),
            gap_p99_ns: gaps.as_ref().map_or(0, |gaps| gaps.quantile(990_000)),
            gap_max_ns: gaps.as_ref().map_or(0, |gaps| gaps.max()),
            stolen_gaps: stolen.map_or(0, |stolen| stolen.count()),
            stolen_ns: number("stolen_ns"),
            task_polls: number("task_polls"),
            budget_overruns: number("budget_overruns"),
            ring_dropped: number("ring_dropped"),
            ring_high_water: number("event_ring_high_water"),
            private_used_bytes: number("private_used_bytes"),
            dma_bytes: dma_bytes as u64,
            page_bytes: page_bytes as u64,
        }
    }
}

fn latency(metrics: &MetricsReader, name: &str, request_bytes: u64) -> Option<Latency> {
    let seen = metrics.histogram(name).filter(|seen| seen.count() != 0)?;
    Some(Latency {
        request_bytes,
        samples: seen.count(),
        p50_ns: seen.quantile(500_000),
        p99_ns: seen.quantile(990_000),
        p999_ns: seen.quantile(999_000),
        max_ns: seen.max(),
    })
}

/// Fails with the partition's own line if it did not end in order, or with what broke a promise.
pub(crate) fn check(outcome: &Outcome) -> Result<(), Failure> {
    let exit = &outcome.report.exit;
    if !exit.is_done() {
        let device = outcome.report.device.as_ref();
        return Err(match device.and_then(|device| device.problem.as_ref()) {
            Some(problem) => Failure::error(format_args!("{}; {problem}", exit.text)),
            None => Failure::error(&exit.text),
        });
    }
    let mistakes = outcome.report.device.as_ref().map_or(&[][..], |device| &device.mistakes);
    if let Some(mistake) = mistakes.first() {
        return Err(Failure::error(format_args!(
            "the controller model noticed {} mistakes of the driver, first: {mistake}",
            mistakes.len()
        )));
    }
    match outcome.report.device.as_ref().and_then(|device| device.problem.as_ref()) {
        Some(problem) => Err(Failure::error(format_args!("the device at its end: {problem}"))),
        None => Ok(()),
    }
}

/// Fails if the partition allocated or called the kernel while it ran; its results are right all
/// the same.
pub(crate) fn check_silence(
    machine: &MachineArgs,
    report: &PartitionReport,
) -> Result<(), Failure> {
    if machine.check_silence && report.syscalls.is_none() {
        return Err(Failure::missing(
            "--check-silence: the kernel does not report system calls here (seccomp user \
             notifications, Linux 5.8 or later, allowed in this container)",
        ));
    }
    let resident = if machine.check_silence { report.check_resident() } else { Ok(()) };
    let checked = report.check_silence().and(resident);
    checked.map_err(|line| Failure { exit: Exit::Threshold, ..Failure::error(line) })
}

/// Prints the report; an outcome that was no success is told after it.
pub(crate) fn print(title: &str, machine: &MachineArgs, outcome: Outcome) -> Result<Exit, Failure> {
    let checked = check(&outcome);
    // Without a phase there is nothing to report but the error.
    let worked = outcome.events.ingested.is_some() || outcome.events.replayed.is_some();
    if worked && (checked.is_ok() || outcome.signal.is_some()) {
        let report = report(title, &outcome);
        if let (Some(path), Some(shown)) = (&machine.report, &outcome.shown) {
            page::write(path, &report, shown)?;
        }
        if machine.json {
            output::result(format_args!("{}\n", report.to_json().map_err(Failure::error)?))?;
        } else {
            output::result(report.to_text())?;
        }
    }
    match outcome.signal {
        Some(signal) => Ok(signal.exit()),
        None => checked.and_then(|()| check_silence(machine, &outcome.report)).map(|()| Exit::Ok),
    }
}

fn report(title: &str, outcome: &Outcome) -> Report {
    let Outcome { runtime, figures, report, events, signal, .. } = outcome;
    let clock = runtime.clock();
    let ns = |ticks: u64| clock.ticks_to_ns(core_runtime::clock::Ticks::new(ticks));
    let phase =
        |figures: &FeedFigures| Phase::new(figures.messages, figures.bytes, ns(figures.ticks));
    let last = events.replayed.as_ref().or(events.ingested.as_ref());
    Report {
        schema: SCHEMA,
        title: title.to_owned(),
        device: device(outcome),
        machine: facts(outcome),
        ingest: events.ingested.as_ref().map(phase),
        replay: events.replayed.as_ref().map(phase),
        feed: events.replayed.as_ref().map(feed),
        writes: figures.writes.map(|seen| within(seen, events)),
        reads: figures.reads.map(|seen| within(seen, events)),
        single_reads: figures.singles,
        driver: last.map_or_else(Driver::default, driver),
        ring: Ring {
            events: events.heard,
            dropped: figures.ring_dropped + last.map_or(0, |last| last.events_dropped),
            waits: last.map_or(0, |last| last.ring_waits),
            high_water_bytes: figures.ring_high_water,
            capacity_bytes: EVENT_RING_BYTES,
        },
        core: Core {
            ran_ns: u64::try_from(report.ran.as_nanos()).unwrap_or(u64::MAX),
            passes: report.passes,
            task_polls: figures.task_polls,
            budget_overruns: figures.budget_overruns,
            gap_p99_ns: figures.gap_p99_ns,
            gap_max_ns: figures.gap_max_ns,
            stolen_ns: figures.stolen_ns,
            stolen_gaps: figures.stolen_gaps,
        },
        silence: Silence {
            heap_allocations: report.allocations.as_ref().map(|seen| seen.calls),
            system_calls: report.syscalls.as_ref().map(|seen| seen.calls),
            page_faults: report.usage.minor_faults + report.usage.major_faults,
            involuntary_switches: report.usage.involuntary_switches,
        },
        starts: Starts {
            restarts: outcome.starts.restarts,
            fallbacks: outcome.starts.fallbacks,
            resumed_bytes: events.started.map_or(0, |started| started.resumed_bytes),
        },
        journal: events.journal.as_ref().map(crate::journal::replay_json),
        interrupted: signal.is_some(),
    }
}

/// The driver divides chunks into commands of at most what one transfer may have.
fn within(seen: Latency, events: &Events) -> Latency {
    let most = events.started.map_or(u64::MAX, |started| started.max_transfer_bytes.into());
    Latency { request_bytes: seen.request_bytes.min(most), ..seen }
}

/// Bytes of the event ring that `PartitionSpec` gives by default.
const EVENT_RING_BYTES: u64 = 4 << 20;

fn device(outcome: &Outcome) -> Device {
    let events = &outcome.events;
    let identify = events.blobs.iter().find(|blob| blob.what == BLOB_IDENTIFY_CONTROLLER);
    let identify = identify
        .and_then(|blob| IdentifyController::read_from_prefix(&blob.bytes).ok())
        .map(|(identify, _)| identify);
    let text =
        |field: fn(&IdentifyController) -> &str| identify.as_ref().map_or("", field).to_owned();
    let number = |field: fn(&FeedStarted) -> u64| events.started.as_ref().map_or(0, field);
    Device {
        name: outcome.starts.device.clone(),
        is_model: outcome.starts.device.starts_with("model"),
        backend: outcome.report.device.as_ref().map_or_else(String::new, |d| d.description.clone()),
        model_number: text(|identify| fixed_text(&identify.mn)),
        firmware: text(|identify| fixed_text(&identify.fr)),
        namespace_bytes: number(|started| started.blocks.saturating_mul(started.lba_bytes.into())),
        lba_bytes: number(|started| started.lba_bytes.into()),
        max_transfer_bytes: number(|started| started.max_transfer_bytes.into()),
        queue_depth: number(|started| started.queue_depth.into()),
    }
}

fn facts(outcome: &Outcome) -> Machine {
    let facts = outcome.runtime.facts();
    let measured = &outcome.figures;
    Machine {
        cpu_model: facts.cpu_model.clone(),
        cpus: facts.online.len() as u64,
        kernel: facts.kernel.clone(),
        governor: facts.governor.clone(),
        virtual_machine: facts.hypervisor,
        tsc_hz: outcome.runtime.clock().hz(),
        partition_cpu: outcome.report.cpu,
        partition_cpu_isolated: facts.isolated.contains(outcome.report.cpu),
        isolation: outcome.isolation.to_string(),
        dma_bytes: measured.dma_bytes,
        page_bytes: measured.page_bytes,
        private_used_bytes: measured.private_used_bytes,
        state_bytes: outcome.starts.state_bytes,
    }
}

fn feed(figures: &FeedFigures) -> Feed {
    let count = |kind: u8| figures.by_type.get(usize::from(kind)).copied().unwrap_or(0);
    let known: u64 = KINDS.iter().map(|&kind| count(kind)).sum();
    Feed {
        messages_by_type: KINDS
            .iter()
            .filter(|&&kind| count(kind) != 0)
            .map(|&kind| (char::from(kind).to_string(), count(kind)))
            .collect(),
        unknown_types: figures.by_type.iter().sum::<u64>().saturating_sub(known),
        refused: figures.refused,
        books: figures.books,
        bbo_changes: figures.bbo_changes,
        trades: figures.trades,
        trading_states: figures.trading_states,
        orders_open: figures.orders_open,
        orders_high_water: figures.orders_high_water,
        orders_capacity: figures.orders_capacity,
    }
}

fn driver(figures: &FeedFigures) -> Driver {
    let per = |ticks: u64, commands: u64| (commands != 0).then(|| ticks as f64 / commands as f64);
    Driver {
        commands: figures.io_completed,
        failed: figures.io_failed,
        retried: figures.io_retried,
        repeated: figures.io_repeated,
        resets: figures.resets,
        submit_cycles: per(figures.submit_ticks, figures.submit_commands),
        complete_cycles: per(figures.complete_ticks, figures.complete_commands),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser as _;
    use core_runtime::partition::PartitionExit;
    use host_bridge::sys::alloc_guard::AllocReport;
    use host_bridge::sys::syscall_guard::SyscallReport;
    use host_bridge::sys::usage::ThreadUsage;
    use std::time::Duration;

    /// The exit code for what a partition was seen to do, and the error's line.
    fn judged(
        args: &[&str],
        allocations: Option<AllocReport>,
        syscalls: Option<SyscallReport>,
    ) -> Result<(), (u8, String)> {
        let machine = Cli::parse_from(args).machine;
        let report = PartitionReport {
            name: "feed-handler".to_owned(),
            cpu: 1,
            exit: PartitionExit::done(),
            death: host_bridge::process::Death::Thread,
            passes: 1,
            ran: Duration::from_secs(1),
            allocations,
            syscalls,
            usage: ThreadUsage::default(),
            device: None,
        };
        check_silence(&machine, &report).map_err(|failure| (failure.exit.code(), failure.line))
    }

    #[test]
    fn a_broken_promise_exceeds_a_threshold() {
        let args = ["feed-handler", "--check-silence"];
        let quiet = Some(SyscallReport::default());
        assert_eq!(judged(&args, Some(AllocReport::default()), quiet.clone()), Ok(()));
        let loud = Some(AllocReport { calls: 1, first_bytes: 24 });
        let (code, line) = judged(&args, loud, quiet).expect_err("an allocation");
        assert_eq!(code, 2);
        assert!(line.contains("called the allocator 1 times"), "{line}");
        let loud = Some(SyscallReport { calls: 1, first: vec![0] });
        let (code, line) = judged(&args, None, loud).expect_err("a system call");
        assert_eq!(code, 2);
        assert!(line.contains("first read (0)"), "{line}");
    }

    #[test]
    fn a_check_that_cannot_be_made_is_missing_only_where_it_was_asked_for() {
        let (code, line) = judged(&["feed-handler", "--check-silence"], None, None)
            .expect_err("nothing was checked");
        assert_eq!(code, 3);
        assert!(line.contains("seccomp"), "{line}");
        assert_eq!(judged(&["feed-handler"], None, None), Ok(()));
    }
}
