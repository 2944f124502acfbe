//! Rows, goals, and how they print.

use std::fmt::{Display, Write as _};

use hybrid_conventions::{Column, HumanBytes, HumanNanos, Si, Table};
use serde_json::{Value, json};

use crate::wire::{BATCH, FILL, OPEN, OPENING, Outcome, Phase};

/// One measurement, ours or somebody else's.
pub(crate) struct Row {
    pub(crate) who: String,
    pub(crate) what: String,
    pub(crate) record_bytes: u64,
    pub(crate) appends_per_second: f64,
    pub(crate) rejected: u64,
    /// p50, p99, p99.9, max in ns.
    pub(crate) latency_ns: Option<[u64; 4]>,
    pub(crate) samples: u64,
    /// Ours alone.
    pub(crate) outcome: Option<Outcome>,
    pub(crate) tsc_hz: u64,
}

impl Row {
    pub(crate) fn ours(phase: &Phase, outcome: &Outcome, tsc_hz: u64) -> Self {
        let what = match phase.kind {
            OPEN => format!("open loop, {}/s", Si(phase.rate)),
            BATCH => format!("batches of {}", phase.batch),
            FILL => "fill".to_owned(),
            OPENING => format!("opening {}", HumanBytes(outcome.log_bytes)),
            other => format!("phase {other}"),
        };
        let latency = [outcome.p50, outcome.p99, outcome.p999, outcome.max];
        Self {
            who: "journal".to_owned(),
            what,
            record_bytes: phase.record_bytes.into(),
            appends_per_second: outcome.appends as f64 * 1e9 / outcome.ns.max(1) as f64,
            rejected: outcome.rejected,
            latency_ns: (outcome.samples > 0).then_some(latency),
            samples: outcome.samples,
            outcome: Some(*outcome),
            tsc_hz,
        }
    }

    pub(crate) fn json(&self) -> Value {
        let mut value = json!({
            "who": self.who,
            "what": self.what,
            "record_bytes": self.record_bytes,
            "appends_per_second": self.appends_per_second,
            "rejected": self.rejected,
            "samples": self.samples,
            "latency_ns": self.latency_ns.map(|[p50, p99, p999, max]| json!({
                "p50": p50, "p99": p99, "p99.9": p999, "max": max,
            })),
        });
        if let (Some(out), Some(object)) = (&self.outcome, value.as_object_mut()) {
            let more = json!({
                "append_ticks": out.append_ticks,
                "added_ticks": out.added_ticks,
                "tsc_hz": self.tsc_hz,
                "batches": out.batches,
                "device_bytes": out.device_bytes,
                "flushes": out.flushes,
                "checkpoints": out.checkpoints,
                "open_ns": out.open_ns,
                "verify_ns": out.verify_ns,
                "log_bytes": out.log_bytes,
                "records": out.records,
                "checksum": out.checksum,
                "volatile_write_cache": out.cached != 0,
                "lba_bytes": out.lba_bytes,
                "gaps": out.gaps,
                "gaps_ns": out.gaps_ns,
                "rounds": out.rounds,
                "quiet_rounds": out.quiet_rounds,
                "quiet_samples": out.quiet_samples,
                "quiet_p99": out.quiet_p99,
            });
            if let Some(more) = more.as_object() {
                object.extend(more.clone());
            }
        }
        value
    }

    fn cells(&self) -> [String; 10] {
        let latency = |at: usize| {
            self.latency_ns.map_or_else(|| "-".to_owned(), |all| HumanNanos(all[at]).to_string())
        };
        let (batch, ticks) = match &self.outcome {
            Some(out) if out.batches > 0 => (
                format!("{:.1}", out.appends as f64 / out.batches as f64),
                if out.append_ticks > 0 { out.append_ticks.to_string() } else { "-".to_owned() },
            ),
            _ => ("-".to_owned(), "-".to_owned()),
        };
        [
            self.who.clone(),
            self.what.clone(),
            HumanBytes(self.record_bytes).to_string(),
            rate(self.appends_per_second),
            latency(0),
            latency(1),
            latency(2),
            latency(3),
            batch,
            ticks,
        ]
    }
}

fn rate(value: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "appends a second")]
    #[expect(clippy::cast_sign_loss, reason = "never negative")]
    let value = value as u64;
    if value == 0 { "-".to_owned() } else { Si(value).to_string() }
}

/// A promise and what came of it.
pub(crate) struct Goal {
    pub(crate) what: &'static str,
    /// `None` where the machine was too noisy to say.
    pub(crate) got: Option<f64>,
    pub(crate) bound: f64,
    pub(crate) at_most: bool,
}

impl Goal {
    /// Whether it was measured and is not what was promised.
    pub(crate) fn is_missed(&self) -> bool {
        self.got.is_some_and(|got| if self.at_most { got >= self.bound } else { got < self.bound })
    }

    /// As the other benchmarks write a goal: `cargo xtask bench` prints them all in one table.
    pub(crate) fn json(&self) -> Value {
        let bound = if self.at_most { "most" } else { "least" };
        json!({
            "what": self.what, "reached": self.got, bound: self.bound, "missed": self.is_missed(),
        })
    }
}

/// What a row's line has no room for.
fn notes(out: &mut String, row: &Row) {
    let (who, what) = (&row.who, &row.what);
    if row.rejected > 0 {
        let _ = writeln!(out, "{who}, {what}: {} appends turned away", row.rejected);
    }
    if let Some(found) = row.outcome.filter(|found| found.rounds > 0) {
        let _ = writeln!(
            out,
            "{who}, {what}: {} of {} rounds were quiet, p99 in them {}",
            found.quiet_rounds,
            found.rounds,
            HumanNanos(found.quiet_p99)
        );
    }
    if let Some(found) = row.outcome.filter(|found| found.added_ticks > 0) {
        let ns = found.added_ticks as f64 * 1e9 / row.tsc_hz.max(1) as f64;
        let _ = writeln!(
            out,
            "{who}, {what}: our software takes {} ticks ({ns:.0} ns) an append, all of it",
            found.added_ticks
        );
    }
    if let Some(gaps) = row.outcome.filter(|out| out.gaps > 0) {
        let ns = HumanNanos(gaps.gaps_ns);
        let _ = writeln!(out, "{who}, {what}: {ns} taken by others in {} gaps", gaps.gaps);
    }
}

/// The screen.
pub(crate) fn text(machine: &str, device: &str, rows: &[Row], goals: &[Goal]) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "device    {device}\nmachine   {machine}\n");
    let columns = [
        Column::left("log"),
        Column::left("load"),
        Column::right("record"),
        Column::right("appends/s"),
        Column::right("p50"),
        Column::right("p99"),
        Column::right("p99.9"),
        Column::right("max"),
        Column::right("a batch"),
        Column::right("ticks"),
    ];
    let (openings, rest): (Vec<&Row>, Vec<&Row>) =
        rows.iter().partition(|row| row.outcome.is_some_and(|out| out.open_ns > 0));
    let cells: Vec<[String; 10]> = rest.iter().map(|row| row.cells()).collect();
    let rows: Vec<[&dyn Display; 10]> =
        cells.iter().map(|row| row.each_ref().map(|cell| cell as &dyn Display)).collect();
    // A string takes everything.
    let _ = Table::new(columns).write(&mut out, &rows);
    let _ = writeln!(
        out,
        "\nlatency: from when an append was due to its acknowledgement; of batches, a whole batch\n\
         ticks: an append's own, TSC ticks, median"
    );
    rest.iter().for_each(|row| notes(&mut out, row));
    for row in openings {
        let Some(result) = row.outcome else { continue };
        let _ = writeln!(
            out,
            "{} with {} records: {} from its checkpoint, {} with every record verified: {:.0} x",
            row.what,
            result.records,
            HumanNanos(result.open_ns),
            HumanNanos(result.verify_ns),
            result.verify_ns as f64 / result.open_ns.max(1) as f64
        );
    }
    for goal in goals {
        let sign = if goal.at_most { "<" } else { ">=" };
        let Goal { what, got, bound, .. } = goal;
        let _ = match got {
            Some(got) => {
                let word = if goal.is_missed() { "MISSED" } else { "met" };
                writeln!(out, "goal {word:>6}  {what}: {got:.1} (wanted {sign} {bound})")
            }
            None => writeln!(
                out,
                "goal      -  {what}: not measured, too noisy a machine (wanted {sign} {bound})"
            ),
        };
    }
    out
}
