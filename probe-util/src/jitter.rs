//! `probe-util jitter`: how quiet the cores have been, from histograms that are always on.
//!
//! Every partition counts the time from each pass of its loop to the next, and the gaps that
//! nothing of its own explains. This prints them: since the partition's start, or of a while from
//! now on (`-d`). `sysconfig jitter` measures a core that has no partition.

use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hybrid_abi::view::PERCENTILES;
use hybrid_conventions::{Column, Count, Exit, HumanNanos, Nanos, Table};
use serde_json::{Value, json};

use crate::figures::distribution;
use crate::hosts::{Target, Which};
use crate::look::{Between, Look};
use crate::stop::Stop;

/// The histograms, with what a person calls them.
const ROWS: [(&str, &str); 3] = [
    ("poll_to_poll_ns", "pass to pass"),
    ("stolen_gap_ns", "stolen"),
    ("budget_exceeded_ns", "over budget"),
];

/// Arguments of `probe-util jitter`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  probe-util jitter                    since each partition's start
  probe-util jitter -d 10s -T 20us     of the next ten seconds; 2 if more was stolen at once

Exit codes: 0 ok, 1 error, 2 a gap above the threshold, 130 and 143 on signals.")]
pub(crate) struct Args {
    /// Look for so long, instead of at what there was since the start
    #[arg(short, long, value_name = "TIME")]
    duration: Option<Nanos>,
    /// A stolen gap above this is an exit code of 2
    #[arg(short = 'T', long, value_name = "TIME")]
    threshold: Option<Nanos>,
    #[command(flatten)]
    which: Which,
    /// Print JSON, schema partition-jitter/1
    #[arg(long)]
    json: bool,
}

/// A partition at two moments; the first may be its beginning.
struct Row {
    target: Target,
    before: Option<Look>,
    now: Look,
}

impl Row {
    const fn between(&self) -> Between<'_> {
        Between { before: self.before.as_ref(), now: &self.now }
    }

    /// The longest stolen gap.
    fn worst_ns(&self) -> u64 {
        self.between().histogram("stolen_gap_ns").map_or(0, |gaps| gaps.max())
    }
}

/// Runs it.
///
/// # Errors
/// If there is no such partition, or it cannot be read.
pub(crate) fn command(args: &Args) -> Result<Exit> {
    let stop = Stop::install()?;
    let targets = args.which.some_partitions()?;
    let mut before = Vec::new();
    if let Some(duration) = args.duration {
        for target in &targets {
            before.push(Some(Look::take(&target.region)?));
        }
        stop.wait(Duration::from_nanos(duration.get()));
    }
    before.resize_with(targets.len(), || None);
    let mut rows = Vec::new();
    for (target, before) in targets.into_iter().zip(before) {
        let now = Look::take(&target.region)?;
        rows.push(Row { target, before, now });
    }
    let printed = if args.json { print_json(&rows) } else { print_text(&rows)? };
    std::io::stdout().lock().write_all(printed.as_bytes()).context("writing the report")?;
    if let Some(exit) = stop.exit() {
        return Ok(exit);
    }
    let threshold = args.threshold.map(|time| time.get());
    let over = threshold.is_some_and(|most| rows.iter().any(|row| row.worst_ns() > most));
    Ok(if over { Exit::Threshold } else { Exit::Ok })
}

fn print_json(rows: &[Row]) -> String {
    let rows = rows.iter().map(|row| {
        let between = row.between();
        let of = |name| between.histogram(name).map(|histogram| distribution(&histogram));
        json!({
            "host": row.target.host,
            "partition": row.target.name,
            "cpu": row.target.cpu,
            "incarnation": row.target.incarnation,
            "elapsed_ns": between.elapsed_ns(),
            "useful_ns": between.grown("useful_ns"),
            "empty_ns": between.grown("empty_ns"),
            "stolen_ns": between.grown("stolen_ns"),
            "passes": between.grown("polls"),
            "poll_to_poll_ns": of("poll_to_poll_ns"),
            "stolen_gap_ns": of("stolen_gap_ns"),
            "budget_exceeded_ns": of("budget_exceeded_ns"),
        })
    });
    let rows: Vec<Value> = rows.collect();
    format!("{:#}\n", json!({ "schema": "partition-jitter/1", "partitions": rows }))
}

fn print_text(rows: &[Row]) -> Result<String> {
    let mut out = String::new();
    for (index, row) in rows.iter().enumerate() {
        let (between, target) = (row.between(), &row.target);
        let apart = if index == 0 { "" } else { "\n" };
        writeln!(
            out,
            "{apart}cpu {}, partition {} of {} (host {}): {} in {} passes",
            target.cpu,
            target.name,
            target.program,
            target.host,
            HumanNanos(between.elapsed_ns()),
            Count(between.grown("polls"))
        )?;
        writeln!(
            out,
            "useful {:.2} %, empty {:.2} %, stolen {:.4} % ({})",
            between.share("useful_ns"),
            between.share("empty_ns"),
            between.share("stolen_ns"),
            HumanNanos(between.grown("stolen_ns"))
        )?;
        table(&mut out, &between)?;
    }
    Ok(out)
}

fn table(out: &mut String, between: &Between<'_>) -> Result<()> {
    let mut cells = Vec::new();
    for (name, words) in ROWS {
        let Some(histogram) = between.histogram(name) else { continue };
        let empty = histogram.count() == 0;
        let time = |ns| if empty { "-".to_owned() } else { HumanNanos(ns).to_string() };
        let mut row = vec![words.to_owned(), Count(histogram.count()).to_string()];
        row.extend(PERCENTILES.iter().map(|(_, ppm)| time(histogram.quantile(*ppm))));
        row.push(time(histogram.max()));
        cells.push(row);
    }
    let cells: Vec<[&dyn Display; 9]> = cells
        .iter()
        .map(|row| core::array::from_fn(|column| -> &dyn Display { &row[column] }))
        .collect();
    let columns = [
        Column::left(""),
        Column::right("SAMPLES"),
        Column::right("p50"),
        Column::right("p90"),
        Column::right("p99"),
        Column::right("p99.9"),
        Column::right("p99.99"),
        Column::right("p99.999"),
        Column::right("MAX"),
    ];
    Ok(Table::new(columns).write(out, &cells)?)
}
