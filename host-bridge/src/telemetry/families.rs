//! From metrics of regions to families as Prometheus has them: names, help, units.
//!
//! A region's metric `read_latency_ns` is the family `hybrid_read_latency_seconds`; a counter ends
//! in `_total`; times are seconds, sizes are bytes. What an application adds to its partition is
//! exported by the same rule. All samples of a family stand together, one set a partition.

use std::collections::BTreeMap;

use hybrid_abi::metrics::{MetricKind, MetricUnit};
use hybrid_abi::view::{HistogramView, MetricView};

use core_runtime::partition::PartitionState;

use super::Telemetry;
use super::look::Look;

/// What a family is, in the words of the text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    /// Only grows.
    Counter,
    /// Any value.
    Gauge,
    /// A distribution.
    Histogram,
}

impl FamilyKind {
    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Labels, in the order in which they are written.
pub type Labels = Vec<(&'static str, String)>;

/// A value of a sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// Nanoseconds, written as seconds.
    Nanoseconds(u64),
    /// Cumulative counts by upper bound, both as in the region; then their sum, and the count.
    Buckets {
        /// Upper bound and count of all up to it.
        buckets: Vec<(u64, u64)>,
        /// Sum of all values.
        sum: u64,
        /// Number of values.
        count: u64,
        /// Whether bounds and sum are nanoseconds.
        nanoseconds: bool,
    },
}

/// One family.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// What it says, in a line.
    pub help: String,
    /// What it is.
    pub kind: FamilyKind,
    /// Its samples.
    pub samples: Vec<(Labels, Value)>,
}

/// All families, by name.
pub type Families = BTreeMap<String, Family>;

/// Upper bounds of exported buckets: four for each power of two where latencies of this runtime
/// lie, one beyond, up to 17 s. The bounds are the regions' own, so that no count is guessed.
const FINE: std::ops::Range<u32> = 6..23;
const COARSE: std::ops::Range<u32> = 23..35;

/// Every bound, ascending.
#[must_use]
pub fn bounds() -> Vec<u64> {
    let fine = FINE.flat_map(|power| (4..8).map(move |quarter| (quarter << power) / 4 - 1));
    let coarse = COARSE.map(|power| (1 << power) - 1);
    fine.chain(coarse).collect()
}

/// Help of what the runtime itself publishes; the rest is an application's.
const HELP: &[(&str, &str)] = &[
    ("heartbeat", "Passes of the loop, as of the last publication"),
    ("polls", "Passes of the loop"),
    ("polls_empty", "Passes of the loop that found nothing to do"),
    ("task_polls", "Polls of tasks"),
    ("timers_fired", "Timers that came due"),
    ("budget_overruns", "Polls of tasks that took longer than their budget"),
    ("io_submitted", "Commands given to the device"),
    ("io_completed", "Commands that the device answered with success"),
    ("io_failed", "Commands that ended with an error"),
    ("io_retried", "Commands that were given to the device again"),
    ("io_repeated", "Reads that were lost in a reset or aborted, and read again"),
    ("io_bytes", "Bytes of the commands given to the device, once each"),
    ("controller_resets", "Resets of the controller"),
    ("ring_dropped", "Records that found the ring to the host full"),
    ("stolen_ns", "Time in which the core did something else"),
    ("useful_ns", "Time of passes that found something to do"),
    ("empty_ns", "Time in which the loop looked and found nothing to do"),
    ("max_latency_ns", "Greatest latency of a command"),
    ("queue_depth", "Commands in flight"),
    ("queue_depth_high_water", "Most commands in flight"),
    ("ready_tasks", "Tasks that wait to be polled"),
    ("ready_tasks_high_water", "Most tasks that waited to be polled"),
    ("event_ring_depth", "Bytes in use of the ring to the host"),
    ("event_ring_high_water", "Most bytes in use of the ring to the host"),
    ("poll_to_poll_ns", "From one pass of the loop to the next"),
    ("stolen_gap_ns", "Gaps in which the core did something else"),
    ("read_latency_ns", "Sampled latency of reads"),
    ("write_latency_ns", "Sampled latency of writes"),
    ("budget_exceeded_ns", "By how much budgets were exceeded"),
    ("commands_taken", "Commands of the host that the partition took"),
    ("commands_skipped", "Commands of the host that nobody knew"),
    ("dma_free_bytes", "Free DMA memory"),
    ("dma_high_water_bytes", "Most DMA memory in use"),
    ("dma_quarantined_bytes", "DMA memory that a device may still write to"),
    ("private_used_bytes", "Private memory given out"),
    ("live_tasks", "Tasks that have not ended"),
    ("live_tasks_high_water", "Most tasks at once"),
    ("live_timers", "Timers in use"),
    ("live_timers_high_water", "Most timers in use at once"),
    ("timers_full", "Sleeps that found every timer in use"),
    ("command_ring_depth", "Bytes in use of the ring from the host"),
    ("command_ring_high_water", "Most bytes in use of the ring from the host"),
    ("alerts", "Errors that the partition survived and told of"),
    ("alerts_lost", "Alerts that found no room"),
    ("mesh_records_sent", "Records sent to other partitions"),
    ("mesh_records_received", "Records received from other partitions"),
    ("mesh_full", "Records that found a peer's ring full"),
    ("mesh_violations", "Rules of a ring that a peer broke"),
    ("mesh_links_up", "Peers that can be talked to"),
];

/// Help for a region's metric.
#[must_use]
pub fn help_of(metric: &str) -> &'static str {
    let known = HELP.iter().find(|(name, _)| *name == metric);
    known.map_or("A metric of the application's own", |(_, help)| help)
}

/// The family's name for a region's metric.
#[must_use]
pub fn name_of(metric: &str, kind: MetricKind, unit: MetricUnit) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    let mut name: String = metric.chars().map(clean).collect();
    for suffix in ["_total", "_ns", "_ticks"] {
        if let Some(stem) = name.strip_suffix(suffix) {
            name.truncate(stem.len());
        }
    }
    name.insert_str(0, "hybrid_");
    let unit = match unit {
        MetricUnit::NANOSECONDS | MetricUnit::TICKS => "_seconds",
        MetricUnit::BYTES => "_bytes",
        _ => "",
    };
    // `feed_bytes_read` says its unit already.
    if !name.contains(unit) {
        name.push_str(unit);
    }
    if kind == MetricKind::COUNTER {
        name.push_str("_total");
    }
    name
}

/// Everything that can be told now.
#[must_use]
pub fn collect(telemetry: &Telemetry) -> Families {
    let mut families = Families::new();
    host(&mut families, telemetry);
    for (name, cpu, up) in telemetry.names() {
        let labels = vec![("partition", name), ("cpu", cpu.to_string())];
        let help = "Whether the partition runs";
        put(&mut families, "hybrid_partition_up", help, FamilyKind::Gauge, labels, whole(up));
    }
    for seen in telemetry.partitions() {
        let identity = seen.identity();
        let mut labels = vec![
            ("partition", identity.name.clone()),
            ("cpu", identity.cpu.to_string()),
            ("incarnation", identity.incarnation.to_string()),
            ("pid", identity.pid.map_or_else(String::new, |pid| pid.to_string())),
            ("device", identity.device.clone().unwrap_or_default()),
        ];
        let help = "Who the partition is";
        let kind = FamilyKind::Gauge;
        put(&mut families, "hybrid_partition_info", help, kind, labels.clone(), whole(true));
        labels.truncate(2);
        // One that ends at this moment is up once more without figures.
        let Ok(look) = seen.look() else { continue };
        partition(&mut families, telemetry, &labels, &look);
    }
    for counters in telemetry.counters() {
        for figure in counters.figures() {
            let labels = figure.label.iter().map(|(name, value)| (*name, (*value).to_owned()));
            let (labels, value) = (labels.collect(), Value::Whole(figure.value));
            put(&mut families, figure.name, figure.help, FamilyKind::Counter, labels, value);
        }
    }
    families
}

const fn whole(yes: bool) -> Value {
    Value::Whole(if yes { 1 } else { 0 })
}

fn put(
    families: &mut Families,
    name: &str,
    help: &str,
    kind: FamilyKind,
    labels: Labels,
    value: Value,
) {
    if let Some(family) = families.get_mut(name) {
        // The first one's kind holds: a family cannot be two things.
        if family.kind == kind {
            family.add(labels, value);
        }
        return;
    }
    let mut family = Family { help: help.to_owned(), kind, samples: Vec::new() };
    family.add(labels, value);
    families.insert(name.to_owned(), family);
}

impl Family {
    /// Two supervisors count one series together.
    fn add(&mut self, labels: Labels, value: Value) {
        let same = self.samples.iter_mut().find(|(there, _)| *there == labels);
        match (same, &value) {
            (Some((_, Value::Whole(there))), Value::Whole(more)) => {
                *there = there.wrapping_add(*more);
            }
            (Some((_, Value::Nanoseconds(there))), Value::Nanoseconds(more)) => {
                *there = there.wrapping_add(*more);
            }
            (Some(_), _) => {}
            (None, _) => self.samples.push((labels, value)),
        }
    }
}

fn host(families: &mut Families, telemetry: &Telemetry) {
    let labels = vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("pid", std::process::id().to_string()),
    ];
    let help = "The host process of the partitions";
    put(families, "hybrid_host_info", help, FamilyKind::Gauge, labels, whole(true));
    let since = telemetry.begun().elapsed();
    let since = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
    let (help, value) = ("How long the host has been there", Value::Nanoseconds(since));
    put(families, "hybrid_host_uptime_seconds", help, FamilyKind::Gauge, Labels::new(), value);
}

/// What one look at a partition says.
fn partition(families: &mut Families, telemetry: &Telemetry, labels: &Labels, look: &Look) {
    let state = PartitionState::from_word(look.state.state);
    for each in PartitionState::ALL {
        let mut labels = labels.clone();
        labels.push(("state", each.to_string()));
        let (name, help) = ("hybrid_partition_state", "1 for the state that the partition is in");
        put(families, name, help, FamilyKind::Gauge, labels, whole(each == state));
    }
    if state == PartitionState::Running {
        let age = telemetry.clock().now().ticks().saturating_sub(look.state.heartbeat_tsc);
        let (name, help) = ("hybrid_heartbeat_age_seconds", "Time since the last pass began");
        let value = Value::Nanoseconds(look.ns(age));
        put(families, name, help, FamilyKind::Gauge, labels.clone(), value);
    }
    let Ok(metrics) = look.metrics() else { return };
    for metric in metrics.iter().flatten() {
        let entry = metric.entry();
        let Some((kind, value)) = value_of(&metric, look) else { continue };
        let name = name_of(metric.name(), entry.kind, entry.unit);
        put(families, &name, help_of(metric.name()), kind, labels.clone(), value);
    }
    tasks(families, labels, look);
}

/// `None` for kinds of a newer writer.
fn value_of(metric: &MetricView<'_>, look: &Look) -> Option<(FamilyKind, Value)> {
    let unit = metric.entry().unit;
    let nanoseconds = matches!(unit, MetricUnit::NANOSECONDS | MetricUnit::TICKS);
    let in_ns = |value| if unit == MetricUnit::TICKS { look.ns(value) } else { value };
    if let Some(histogram) = metric.histogram() {
        let (buckets, count) = cumulate(&histogram);
        let buckets = buckets.into_iter().map(|(bound, count)| (in_ns(bound), count)).collect();
        let sum = in_ns(histogram.sum());
        return Some((FamilyKind::Histogram, Value::Buckets { buckets, sum, count, nanoseconds }));
    }
    let value = metric.number()?;
    let kind = match metric.entry().kind {
        MetricKind::COUNTER => FamilyKind::Counter,
        _ => FamilyKind::Gauge,
    };
    let value = if nanoseconds { Value::Nanoseconds(in_ns(value)) } else { Value::Whole(value) };
    Some((kind, value))
}

/// Counts up to each bound, and of all.
fn cumulate(histogram: &HistogramView<'_>) -> (Vec<(u64, u64)>, u64) {
    let mut there = histogram.buckets().peekable();
    let mut seen = 0_u64;
    let mut cumulated = Vec::new();
    for bound in bounds() {
        while let Some((_, count)) = there.next_if(|(upper, _)| *upper <= bound) {
            seen = seen.wrapping_add(count);
        }
        cumulated.push((bound, seen));
    }
    (cumulated, there.fold(seen, |seen, (_, count)| seen.wrapping_add(count)))
}

/// Tasks of one name together: a program has few names, and may have many tasks.
fn tasks(families: &mut Families, labels: &Labels, look: &Look) {
    for (name, row) in look.tasks() {
        let mut labels = labels.clone();
        labels.push(("task", name));
        labels.push(("class", row.class_name().to_owned()));
        let mut one = |name, help, value| {
            put(families, name, help, FamilyKind::Counter, labels.clone(), value);
        };
        one("hybrid_task_time_seconds_total", "Time of the task's polls", {
            Value::Nanoseconds(look.ns(row.total_ticks))
        });
        one("hybrid_task_runs_total", "Polls of the task", Value::Whole(row.polls));
        let help = "Polls of the task that took longer than its budget";
        one("hybrid_task_overruns_total", help, Value::Whole(row.overruns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hybrid_abi::metrics::{bucket_of, bucket_upper};

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        let of = |name, kind, unit| name_of(name, kind, unit);
        let (counter, gauge) = (MetricKind::COUNTER, MetricKind::GAUGE);
        assert_eq!(of("io_submitted", counter, MetricUnit::COUNT), "hybrid_io_submitted_total");
        assert_eq!(of("io_bytes", counter, MetricUnit::BYTES), "hybrid_io_bytes_total");
        assert_eq!(
            of("stolen_ns", counter, MetricUnit::NANOSECONDS),
            "hybrid_stolen_seconds_total"
        );
        assert_eq!(of("spent", counter, MetricUnit::TICKS), "hybrid_spent_seconds_total");
        assert_eq!(of("feed_bytes_read", gauge, MetricUnit::BYTES), "hybrid_feed_bytes_read");
        assert_eq!(of("queue_depth", gauge, MetricUnit::COUNT), "hybrid_queue_depth");
        assert_eq!(of("a.b-c", gauge, MetricUnit::BYTES), "hybrid_a_b_c_bytes");
        let latency = of("read_latency_ns", MetricKind::HISTOGRAM, MetricUnit::NANOSECONDS);
        assert_eq!(latency, "hybrid_read_latency_seconds");
    }

    #[test]
    fn every_exported_bound_is_a_bucket_of_the_region() {
        let bounds = bounds();
        assert!(bounds.is_sorted() && bounds.len() < 100, "{}", bounds.len());
        for bound in bounds {
            for sub_bits in 3..8 {
                assert_eq!(bucket_upper(bucket_of(bound, sub_bits), sub_bits), bound, "{bound}");
            }
        }
    }
}
