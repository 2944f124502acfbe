//! A look as a line of JSON, schema top/1. Percentages and rates are of the time between two looks.

use serde_json::{Value, json};

use super::watch::{Watch, Watched};
use crate::figures::distribution;

/// A line with all partitions.
pub(super) fn line(watch: &Watch) -> String {
    let partitions: Vec<Value> = watch.iter().map(partition).collect();
    format!("{}\n", json!({ "schema": "top/1", "partitions": partitions }))
}

fn partition(watched: &Watched) -> Value {
    let mut told = json!({
        "host": watched.host,
        "program": watched.program,
        "partition": watched.name,
        "cpu": watched.cpu,
        "pid": watched.pid,
        "incarnation": watched.incarnation,
        "device": watched.device,
        "state": watched.state(),
    });
    let (Some(between), Some(now)) = (watched.between(false), watched.now()) else { return told };
    let of = |name| between.histogram(name).map(|histogram| distribution(&histogram));
    let tasks: Vec<Value> = between
        .tasks()
        .iter()
        .map(|task| {
            json!({
                "task": task.figures.task,
                "name": task.name,
                "class": task.figures.class_name(),
                "state": task.state_name(),
                "percent": task.share,
                "polls_per_s": task.polls,
                "overruns": task.overruns,
                "longest_ns": task.longest_ns,
                "budget_ns": task.budget_ns,
            })
        })
        .collect();
    let load = watched.core_load();
    let figures = json!({
        "elapsed_ns": between.elapsed_ns(),
        "useful_percent": between.share("useful_ns"),
        "empty_percent": between.share("empty_ns"),
        "stolen_percent": between.share("stolen_ns"),
        "passes_per_s": between.rate("polls"),
        "iops": between.rate("io_completed"),
        "bytes_per_s": between.rate("io_bytes"),
        "failed": between.grown("io_failed"),
        "retried": between.grown("io_retried"),
        "resets": between.grown("controller_resets"),
        "queue_depth": now.number("queue_depth"),
        "queue_depth_high_water": now.number("queue_depth_high_water"),
        "event_ring_bytes": now.number("event_ring_depth"),
        "event_ring_high_water_bytes": now.number("event_ring_high_water"),
        "ring_dropped": between.grown("ring_dropped"),
        "budget_overruns": between.grown("budget_overruns"),
        "alerts": between.grown("alerts"),
        "fallbacks": watched.fallbacks,
        "restarts": watched.incarnation.saturating_sub(1),
        "read_latency_ns": of("read_latency_ns"),
        "write_latency_ns": of("write_latency_ns"),
        "poll_to_poll_ns": of("poll_to_poll_ns"),
        "stolen_gap_ns": of("stolen_gap_ns"),
        "tasks": tasks,
        "interrupts_per_s": load.interrupts,
        "threads_percent": load.threads,
    });
    if let (Value::Object(told), Value::Object(figures)) = (&mut told, figures) {
        told.extend(figures);
    }
    told
}
