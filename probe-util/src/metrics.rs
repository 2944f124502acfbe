//! `probe-util metrics`: every figure that a partition publishes.

use std::fmt::{Display, Write as _};
use std::io::Write as _;

use anyhow::{Context as _, Result};
use hybrid_abi::view::MetricView;
use hybrid_conventions::{Column, Exit, HumanNanos, Table};
use serde_json::{Value, json};

use crate::figures::{metric_json, metric_words};
use crate::hosts::{Target, Which};
use crate::look::{Between, Look};

/// Arguments of `probe-util metrics`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  probe-util metrics
  probe-util metrics latency
  probe-util metrics --json | jq '.partitions[].metrics[] | select(.kind == \"counter\")'")]
pub(crate) struct Args {
    /// Only metrics whose name has this in it
    name: Option<String>,
    #[command(flatten)]
    which: Which,
    /// Print JSON, schema metrics/1
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// If there is no such partition, or it cannot be read.
pub(crate) fn command(args: &Args) -> Result<Exit> {
    let targets = args.which.some_partitions()?;
    let mut rows = Vec::new();
    for target in &targets {
        let who = || format!("partition {} of host {}", target.name, target.host);
        rows.push((target, Look::take(&target.region).with_context(who)?));
    }
    let printed = if args.json { print_json(args, &rows) } else { print_text(args, &rows)? };
    std::io::stdout().lock().write_all(printed.as_bytes()).context("writing the metrics")?;
    Ok(Exit::Ok)
}

fn wanted<'a>(args: &'a Args, look: &'a Look) -> impl Iterator<Item = MetricView<'a>> {
    let all = look.metrics().into_iter().flat_map(|metrics| metrics.iter()).flatten();
    all.filter(|metric| args.name.as_ref().is_none_or(|name| metric.name().contains(name)))
}

fn print_json(args: &Args, rows: &[(&Target, Look)]) -> String {
    let rows = rows.iter().map(|(target, look)| {
        let metrics: Vec<Value> = wanted(args, look).map(|metric| metric_json(&metric)).collect();
        let tasks = Between { before: None, now: look }.tasks();
        let tasks: Vec<Value> = tasks
            .iter()
            .map(|task| {
                json!({
                    "task": task.figures.task,
                    "name": task.name,
                    "class": task.figures.class_name(),
                    "state": task.state_name(),
                    "polls": task.figures.polls,
                    "overruns": task.figures.overruns,
                    "budget_ns": task.budget_ns,
                    "longest_ns": task.longest_ns,
                    "total_ns": look.ns(task.figures.total_ticks),
                })
            })
            .collect();
        json!({
            "host": target.host,
            "program": target.program,
            "partition": target.name,
            "cpu": target.cpu,
            "incarnation": target.incarnation,
            "state": look.state_name(),
            "metrics": metrics,
            "tasks": tasks,
        })
    });
    let rows: Vec<Value> = rows.collect();
    format!("{:#}\n", json!({ "schema": "metrics/1", "partitions": rows }))
}

fn print_text(args: &Args, rows: &[(&Target, Look)]) -> Result<String> {
    let mut out = String::new();
    for (index, (target, look)) in rows.iter().enumerate() {
        let between = if index == 0 { "" } else { "\n" };
        writeln!(
            out,
            "{between}partition {} of {} (host {}), cpu {}, start {}, {}",
            target.name,
            target.program,
            target.host,
            target.cpu,
            target.incarnation,
            look.state_name()
        )?;
        let cells: Vec<_> = wanted(args, look)
            .map(|m| (m.name().to_owned(), m.entry().kind.name(), metric_words(&m)))
            .collect();
        let cells: Vec<[&dyn Display; 3]> = cells
            .iter()
            .map(|(name, kind, value)| -> [&dyn Display; 3] { [name, kind, value] })
            .collect();
        let columns = [Column::left("METRIC"), Column::left("KIND"), Column::left("VALUE")];
        Table::new(columns).write(&mut out, &cells)?;
        if args.name.is_none() {
            tasks(&mut out, look)?;
        }
    }
    Ok(out)
}

fn tasks(out: &mut String, look: &Look) -> Result<()> {
    let tasks = Between { before: None, now: look }.tasks();
    if tasks.is_empty() {
        return Ok(());
    }
    let cells: Vec<_> = tasks
        .iter()
        .map(|task| {
            let total = HumanNanos(look.ns(task.figures.total_ticks));
            let share = format!("{:.1} %", task.share);
            (task, task.state_name(), total, share, HumanNanos(task.longest_ns))
        })
        .collect();
    let cells: Vec<[&dyn Display; 8]> = cells
        .iter()
        .map(|(task, state, total, share, longest)| -> [&dyn Display; 8] {
            [
                &task.figures.task,
                &task.name,
                state,
                total,
                share,
                &task.figures.polls,
                &task.figures.overruns,
                longest,
            ]
        })
        .collect();
    let columns = [
        Column::right("TASK"),
        Column::left("NAME"),
        Column::left("STATE"),
        Column::right("TIME"),
        Column::right("SHARE"),
        Column::right("POLLS"),
        Column::right("OVERRUNS"),
        Column::right("LONGEST"),
    ];
    writeln!(out)?;
    Ok(Table::new(columns).write(out, &cells)?)
}
