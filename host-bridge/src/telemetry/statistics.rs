//! A partition's figures as JSON, for the control socket.
//!
//! Counters and histograms may be counted from a moment that a client chose (`statistics_reset`):
//! the host keeps the look of that moment and subtracts it. Nothing in a region is written, and
//! Prometheus is not affected.

use hybrid_abi::metrics::MetricKind;
use hybrid_abi::view::{HistogramView, MetricView, MetricsView};
use serde_json::{Map, Value, json};

use core_runtime::partition::PartitionState;

use super::Identity;
use super::look::Look;

/// Who it is and how it is.
#[must_use]
pub fn partition(identity: &Identity, look: Option<&Look>) -> Value {
    let state =
        look.map_or(PartitionState::Unborn, |look| PartitionState::from_word(look.state.state));
    json!({
        "name": identity.name,
        "cpu": identity.cpu,
        "pid": identity.pid,
        "isolation": if identity.pid.is_some() { "process" } else { "thread" },
        "incarnation": identity.incarnation,
        "device": identity.device,
        "state": state.to_string(),
    })
}

/// All its figures, what came since `before` where there is such a look of the same incarnation.
#[must_use]
pub fn figures(identity: &Identity, look: &Look, before: Option<&Look>) -> Value {
    let before = before.filter(|before| before.header.incarnation == look.header.incarnation);
    let then = before.and_then(|before| before.metrics().ok());
    let metrics: Map<String, Value> = match look.metrics() {
        Ok(now) => now.iter().flatten().map(|metric| one(&metric, then.as_ref())).collect(),
        Err(_) => Map::new(),
    };
    let tasks = look.tasks().map(|(name, row)| {
        json!({
            "task": row.task,
            "name": name,
            "class": row.class_name(),
            "polls": row.polls,
            "overruns": row.overruns,
            "budget_ns": look.ns(row.budget_ticks),
            "longest_ns": look.ns(row.longest_ticks),
            "total_ns": look.ns(row.total_ticks),
        })
    });
    let tasks: Vec<Value> = tasks.collect();
    json!({
        "partition": partition(identity, Some(look)),
        "since_reset": before.is_some(),
        "metrics": metrics,
        "tasks": tasks,
    })
}

fn one(metric: &MetricView<'_>, before: Option<&MetricsView<'_>>) -> (String, Value) {
    let name = metric.name().to_owned();
    let then = before.and_then(|before| before.find(&name));
    if let Some(histogram) = metric.histogram() {
        let before = then.and_then(|then| then.histogram());
        return (name, distribution(&histogram.since(before)));
    }
    let value = metric.number().unwrap_or(0);
    let then = then.and_then(|then| then.number()).unwrap_or(0);
    match metric.entry().kind {
        MetricKind::COUNTER => (name, json!(value.wrapping_sub(then))),
        _ => (name, json!(value)),
    }
}

/// Count, mean, percentiles and the greatest.
fn distribution(histogram: &HistogramView<'_>) -> Value {
    histogram.told().map(|(name, value)| (name.to_owned(), json!(value))).collect()
}
