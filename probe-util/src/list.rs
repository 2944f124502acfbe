//! `probe-util list`: the hosts and partitions that run on this machine.

use std::fmt::{Display, Write as _};
use std::io::Write as _;

use anyhow::{Context as _, Result};
use hybrid_conventions::{Column, Exit, HumanNanos, Table};
use serde_json::{Value, json};

use crate::hosts::{Target, Which};
use crate::look::Look;

/// Arguments of `probe-util list`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// Print JSON, schema partition-list/1
    #[arg(long)]
    json: bool,
}

/// Runs it. Nothing that runs is no error: the list is empty.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn command(args: &Args) -> Result<Exit> {
    let targets = args.which.partitions();
    let rows: Vec<_> = targets.iter().map(|target| (target, look(target))).collect();
    let printed = if args.json { print_json(&rows) } else { print_text(&rows)? };
    std::io::stdout().lock().write_all(printed.as_bytes()).context("writing the list")?;
    Ok(Exit::Ok)
}

fn look(target: &Target) -> Option<Look> {
    Look::take(&target.region).ok()
}

/// For how long its loop has run, by its own account.
fn ran_ns(look: &Look) -> u64 {
    ["useful_ns", "empty_ns", "stolen_ns"].iter().map(|part| look.number(part)).sum()
}

fn state(look: Option<&Look>) -> &'static str {
    look.map_or("gone", Look::state_name)
}

fn print_json(rows: &[(&Target, Option<Look>)]) -> String {
    let rows = rows.iter().map(|(target, look)| {
        json!({
            "host": target.host,
            "program": target.program,
            "partition": target.name,
            "cpu": target.cpu,
            "pid": target.pid,
            "isolation": if target.pid.is_some() { "process" } else { "thread" },
            "incarnation": target.incarnation,
            "state": state(look.as_ref()),
            "ran_ns": look.as_ref().map(ran_ns),
            "device": target.device,
        })
    });
    let rows: Vec<Value> = rows.collect();
    format!("{:#}\n", json!({ "schema": "partition-list/1", "partitions": rows }))
}

fn print_text(rows: &[(&Target, Option<Look>)]) -> Result<String> {
    let mut out = String::new();
    if rows.is_empty() {
        writeln!(out, "no partition runs")?;
        return Ok(out);
    }
    let table = Table::new([
        Column::right("HOST"),
        Column::left("PROGRAM"),
        Column::left("PARTITION"),
        Column::right("CPU"),
        Column::right("PID"),
        Column::right("START"),
        Column::left("STATE"),
        Column::right("RAN"),
        Column::left("DEVICE"),
    ]);
    let cells: Vec<_> = rows
        .iter()
        .map(|(target, look)| {
            let pid = target.pid.map_or_else(|| "thread".to_owned(), |pid| pid.to_string());
            let ran = look.as_ref().map(|look| HumanNanos(ran_ns(look)).to_string());
            (target, pid, state(look.as_ref()), ran.unwrap_or_default())
        })
        .collect();
    let cells: Vec<[&dyn Display; 9]> = cells
        .iter()
        .map(|(target, pid, state, ran)| -> [&dyn Display; 9] {
            [
                &target.host,
                &target.program,
                &target.name,
                &target.cpu,
                pid,
                &target.incarnation,
                state,
                ran,
                &target.device,
            ]
        })
        .collect();
    table.write(&mut out, &cells)?;
    Ok(out)
}
