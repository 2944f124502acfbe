//! The sections that every partition has.

use core::fmt::Write;

use hybrid_abi::Name;
use hybrid_abi::crash::SectionKind;
use hybrid_abi::crash::metric::MetricRecord;
use hybrid_abi::crash::program::{
    BACKTRACE_MAX, BacktraceHead, CurrentTask, Location, Program, TaskRecord, TasksHead,
};
use hybrid_abi::probe::ProbeRecord;
use hybrid_abi::probe::view::RingView;
use hybrid_shm::ReadSpan;

use super::{Cause, Recorder, walk};
use crate::metrics::{Metric, MetricValue, MetricsReader};
use crate::partition::Partition;
use crate::task::Scheduler;

/// Longest message that is kept: what a person reads.
const MESSAGE_BYTES: usize = 4096;
/// Longest path of a source file.
const LOCATION_BYTES: usize = 1024;
/// Probe events: some 25 commands from submission to poll.
const PROBES_MOST: usize = 128;
/// How many of them are copied at once: the handler's stack is small.
const PROBES_BATCH: usize = 16;
/// Tasks get at most 128 records, so that commands and metrics have theirs.
const TASKS_BYTES: usize = size_of::<TasksHead>() + 128 * size_of::<TaskRecord>();

/// Everything about the cause that can be written without calling anybody: location, registers,
/// backtrace, and the program that gives the addresses their meaning.
pub(super) fn cause(recorder: &mut Recorder<'_>, cause: &Cause<'_>, program: &Program) {
    if let Some((file, line, column)) = cause.location {
        recorder.section(SectionKind::LOCATION, LOCATION_BYTES, |section| {
            section.head(&Location { line, column });
            let _ = section.write_str(file);
        });
    }
    if let Some(registers) = cause.registers {
        recorder.section(SectionKind::REGISTERS, usize::MAX, |section| {
            section.head(registers);
        });
    }
    recorder.section(SectionKind::PROGRAM, usize::MAX, |section| {
        section.head(program);
    });
    if let Some(frame) = cause.frame {
        recorder.section(SectionKind::BACKTRACE, usize::MAX, |section| {
            let mut addresses = [0; BACKTRACE_MAX];
            let (count, end) = walk(frame, cause.stacks, &mut addresses);
            section.head(&BacktraceHead { end, reserved: 0 });
            for address in addresses.iter().take(count) {
                section.element(address);
            }
        });
    }
}

/// The message: formatting it may call code of the user's.
pub(super) fn message(recorder: &mut Recorder<'_>, cause: &Cause<'_>) {
    if let Some(message) = cause.message {
        recorder.section(SectionKind::MESSAGE, MESSAGE_BYTES, |section| {
            // Cut where it is too long.
            let _ = section.write_fmt(message);
        });
    }
}

/// Which task ran, and for how long.
pub(super) fn current_task(recorder: &mut Recorder<'_>, partition: &'static Partition) {
    let now = partition.clock().now();
    let (heartbeat, heartbeat_at) = partition.last_beat();
    let current = partition.scheduler().current();
    let since = current.map_or(heartbeat_at, |task| task.since);
    let current = CurrentTask {
        task: current.map_or(0, |task| task.id.0.saturating_add(1)),
        reserved: 0,
        since_tsc: since.ticks(),
        age_ticks: now.since(since).get(),
        heartbeat,
        heartbeat_tsc: heartbeat_at.ticks(),
        name: current.map_or(Name::EMPTY, |task| Name::lossy(task.name)),
    };
    recorder.section(SectionKind::CURRENT_TASK, usize::MAX, |section| {
        section.head(&current);
    });
}

/// All tasks that there is room for.
pub(super) fn tasks(recorder: &mut Recorder<'_>, scheduler: &Scheduler) {
    let total = u32::try_from(scheduler.tasks().count()).unwrap_or(u32::MAX);
    recorder.section(SectionKind::TASKS, TASKS_BYTES, |section| {
        section.head(&TasksHead { total, reserved: 0 });
        for task in scheduler.tasks() {
            let figures = scheduler.task_figures(task.id.0 as usize).unwrap_or_default();
            if !section.element(&TaskRecord { figures, name: Name::lossy(task.name) }) {
                break;
            }
        }
    });
}

/// The metrics part as it was last published, histograms as their figures. What is no metrics part
/// leaves the section out.
pub fn metrics_section(recorder: &mut Recorder<'_>, part: ReadSpan<'static>) {
    let Ok(reader) = MetricsReader::new(part) else { return };
    recorder.section(SectionKind::METRICS, usize::MAX, |section| {
        for metric in reader.iter().flatten() {
            if metric_record(&metric).is_some_and(|record| !section.element(&record)) {
                break;
            }
        }
    });
}

/// The newest events of a probe ring, the oldest of them first. What is no ring, or one to which
/// nothing was ever written, leaves the section out.
pub fn probes_section(recorder: &mut Recorder<'_>, ring: ReadSpan<'static>) {
    let Ok(view) = RingView::new(&ring, ring.len() as u64) else { return };
    if view.head(&ring) == 0 {
        return;
    }
    let bytes = PROBES_MOST * size_of::<ProbeRecord>();
    recorder.section(SectionKind::PROBE, bytes, |section| {
        let mut cursor = view.last(&ring, PROBES_MOST as u64);
        let mut records = [ProbeRecord::default(); PROBES_BATCH];
        for _ in 0..PROBES_MOST / PROBES_BATCH {
            let seen = view.read(&ring, &mut cursor, &mut records);
            for record in records.iter().take(seen.count) {
                section.element(record);
            }
        }
    });
}

/// `None` for a kind of a newer writer.
fn metric_record(metric: &Metric) -> Option<MetricRecord> {
    let mut record = MetricRecord {
        name: Name::lossy(metric.name()),
        kind: metric.kind(),
        unit: metric.unit(),
        reserved: 0,
        value: 0,
        sum: 0,
        min: 0,
        p50: 0,
        p99: 0,
        max: 0,
    };
    match &metric.value {
        MetricValue::Counter(value) | MetricValue::Gauge(value) => record.value = *value,
        MetricValue::Histogram(histogram) => {
            // An empty one is known by its head: no need to look at two thousand buckets.
            if (histogram.min(), histogram.max()) != (u64::MAX, 0) {
                record.value = histogram.count();
                record.sum = histogram.sum();
                record.min = histogram.min();
                record.p50 = histogram.quantile(500_000);
                record.p99 = histogram.quantile(990_000);
                record.max = histogram.max();
            }
        }
        MetricValue::Unknown(_) => return None,
    }
    Some(record)
}
