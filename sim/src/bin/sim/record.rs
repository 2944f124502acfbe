//! Two builds of one run, compared event by event.
//!
//! A recording is the plan and, for each event, the hashes of trace and state after it. The state
//! holds the generators' too, so that the first event after which it differs is where two builds
//! part, even if what is seen of it comes later.

use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use hybrid_conventions::Exit;
use hybrid_sim::{Event, HEADING, Plan, Watch, run};

use crate::{place, read};

/// The line between the plan and the hashes.
const HASHES: &str = "# hashes of trace and state after each event";

/// Events that are shown before the one that differs.
const BEFORE: usize = 24;

const ALL: Watch = Watch { timeline: usize::MAX, check_every: 1 };

/// Runs the plan and writes a recording.
pub(crate) fn record(plan: &Plan, file: &Path) -> Result<Exit, String> {
    let outcome = run(plan, Watch { timeline: 0, ..ALL });
    let write = || {
        let mut out = BufWriter::new(fs::File::create(file)?);
        out.write_all(plan.to_text().as_bytes())?;
        writeln!(out, "{HASHES}")?;
        for (trace, state) in &outcome.checks {
            writeln!(out, "{trace:016x} {state:016x}")?;
        }
        out.flush()
    };
    write().map_err(|error| place(file, &error.to_string()))?;
    println!("{} events recorded in {}", outcome.checks.len(), file.display());
    Ok(Exit::Ok)
}

/// Repeats a recording and shows where this build parts from it.
pub(crate) fn bisect(file: &Path) -> Result<Exit, String> {
    let text = read(file)?;
    let (plan, hashes) = text
        .split_once(HASHES)
        .ok_or_else(|| place(file, "it is no recording: `--record` writes one"))?;
    let plan = Plan::parse(plan).map_err(|error| place(file, &error))?;
    let outcome = run(&plan, ALL);
    let hash = |text: &str| u64::from_str_radix(text, 16).ok();
    let theirs = hashes.lines().skip(1).map(|line| {
        let (trace, state) = line.split_once(' ')?;
        Some((hash(trace)?, hash(state)?))
    });
    let mut count = 0;
    for (index, theirs) in theirs.enumerate() {
        let Some(theirs) = theirs else {
            return Err(place(file, &format!("line {index} of the hashes makes no sense")));
        };
        let ours = outcome.checks.get(index).copied();
        if ours != Some(theirs) {
            differs(index, ours, theirs, &outcome.timeline);
            return Ok(Exit::Error);
        }
        count += 1;
    }
    if count != outcome.checks.len() {
        println!("the first {count} events are alike; this build goes on, the recording ends");
        return Ok(Exit::Error);
    }
    println!("all {count} events are alike");
    Ok(Exit::Ok)
}

fn differs(index: usize, ours: Option<(u64, u64)>, theirs: (u64, u64), timeline: &[Event]) {
    let what = match ours {
        None => "this build ends before it",
        Some((trace, _)) if trace != theirs.0 => "the event itself differs",
        Some(_) => "the event is the same, the state after it is not",
    };
    println!("event {} is the first that differs: {what}", index + 1);
    println!("{HEADING}");
    for event in timeline.iter().take(index + 1).skip(index.saturating_sub(BEFORE)) {
        println!("{event}");
    }
}
