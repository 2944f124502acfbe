//! The report: machine, sheets of figures, checksum; as text that lines up, or as JSON.

use std::fmt::Write as _;

use host_bridge::facts::MachineFacts;
use host_bridge::topology::Topology;
use hybrid_conventions::Exit;
use serde_json::{Map, Value, json};

/// One cell of a sheet.
#[derive(Clone, Debug)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A count.
    Int(u64),
    /// A number with so many decimals.
    Float(f64, usize),
    /// Nothing was measured: every repetition was too noisy, or it does not apply.
    None,
}

impl Cell {
    /// A number, or nothing.
    #[must_use]
    pub fn maybe(value: Option<f64>, decimals: usize) -> Self {
        value.map_or(Self::None, |value| Self::Float(value, decimals))
    }

    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Int(n) => hybrid_conventions::Count(*n).to_string(),
            Self::Float(x, decimals) => format!("{x:.decimals$}"),
            Self::None => "-".to_owned(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Int(n) => json!(n),
            Self::Float(x, _) => json!(x),
            Self::None => Value::Null,
        }
    }

    const fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Cell {
    fn from(n: u64) -> Self {
        Self::Int(n)
    }
}

/// A table.
#[derive(Clone, Debug)]
pub struct Sheet {
    name: String,
    titles: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    notes: Vec<String>,
}

impl Sheet {
    /// An empty one. The name is the sheet's key in JSON, the titles those of its rows.
    #[must_use]
    pub fn new(name: impl Into<String>, titles: &[&'static str]) -> Self {
        Self { name: name.into(), titles: titles.to_vec(), rows: Vec::new(), notes: Vec::new() }
    }

    /// Adds a row; it has as many cells as there are titles.
    ///
    /// # Panics
    /// If it has not.
    pub fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.titles.len(), "a row of sheet {}", self.name);
        self.rows.push(cells);
    }

    /// Adds a line below the table.
    pub fn note(&mut self, line: impl Into<String>) {
        self.notes.push(line.into());
    }

    /// The number under `title` in the first row whose text under `key` is `text`.
    #[must_use]
    pub fn number(&self, key: &str, text: &str, title: &str) -> Option<f64> {
        let column = |title: &str| self.titles.iter().position(|t| *t == title);
        let (key, title) = (column(key)?, column(title)?);
        let row = self.rows.iter().find(|row| row[key].text() == text)?;
        match row[title] {
            Cell::Float(value, _) => Some(value),
            Cell::Int(_) | Cell::Text(_) | Cell::None => None,
        }
    }

    fn write(&self, out: &mut String) {
        let mut lines = vec![self.titles.iter().map(ToString::to_string).collect::<Vec<_>>()];
        lines.extend(self.rows.iter().map(|row| row.iter().map(Cell::text).collect()));
        let columns = self.titles.len();
        let width = |c: usize| lines.iter().map(|line| line[c].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let left: Vec<bool> =
            (0..columns).map(|c| self.rows.iter().any(|row| row[c].is_text())).collect();
        let _ = writeln!(out, "\n{}", self.name);
        for line in &lines {
            let mut text = String::new();
            for (c, cell) in line.iter().enumerate() {
                let width = widths[c];
                let _ = if left[c] {
                    write!(text, "  {cell:<width$}")
                } else {
                    write!(text, "  {cell:>width$}")
                };
            }
            let _ = writeln!(out, "{}", text.trim_end());
        }
        for note in &self.notes {
            let _ = writeln!(out, "  {note}");
        }
    }

    fn json(&self) -> Value {
        let row = |row: &Vec<Cell>| {
            let cells = self.titles.iter().zip(row);
            Value::Object(cells.map(|(t, cell)| ((*t).to_owned(), cell.json())).collect())
        };
        json!({ "rows": self.rows.iter().map(row).collect::<Vec<_>>(), "notes": self.notes })
    }
}

/// A goal and what was reached.
#[derive(Clone, Debug)]
struct Goal {
    what: String,
    reached: Option<f64>,
    limit: f64,
    /// At most the limit, not at least.
    most: bool,
}

impl Goal {
    fn is_missed(&self) -> bool {
        self.reached.is_some_and(|x| if self.most { x > self.limit } else { x < self.limit })
    }
}

/// All that a benchmark has to say.
#[derive(Clone, Debug)]
pub struct Report {
    schema: &'static str,
    title: String,
    device: &'static str,
    facts: MachineFacts,
    tsc_hz: u64,
    steal_ticks: Option<u64>,
    sheets: Vec<Sheet>,
    goals: Vec<Goal>,
    lines: Vec<String>,
    checksum: u64,
}

impl Report {
    /// A report on `device`: what the figures were measured on (`model`, `memory`). Steal time of
    /// the machine is counted from here on.
    #[must_use]
    pub fn new(schema: &'static str, title: impl Into<String>, device: &'static str) -> Self {
        Self {
            schema,
            title: title.into(),
            device,
            facts: MachineFacts::read(&Topology::read()),
            tsc_hz: 0,
            steal_ticks: steal(),
            sheets: Vec::new(),
            goals: Vec::new(),
            lines: Vec::new(),
            checksum: 0,
        }
    }

    /// Says what a tick is.
    pub const fn tsc(&mut self, hz: u64) {
        self.tsc_hz = hz;
    }

    /// Adds a sheet.
    pub fn add(&mut self, sheet: Sheet) {
        self.sheets.push(sheet);
    }

    /// Adds a goal: at least so much.
    pub fn goal(&mut self, what: impl Into<String>, reached: Option<f64>, least: f64) {
        self.goals.push(Goal { what: what.into(), reached, limit: least, most: false });
    }

    /// Adds a goal: at most so much.
    pub fn goal_most(&mut self, what: impl Into<String>, reached: Option<f64>, most: f64) {
        self.goals.push(Goal { what: what.into(), reached, limit: most, most: true });
    }

    /// Adds a line of text below the tables.
    pub fn line(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    /// Mixes a part's checksum in.
    pub const fn checksum(&mut self, part: u64) {
        self.checksum = crate::rng::mix(self.checksum ^ part);
    }

    /// What the goals say: one that was missed is a threshold exceeded; one that could not be
    /// measured is no success, and the report says which.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if self.goals.iter().any(Goal::is_missed) {
            Exit::Threshold
        } else if self.goals.iter().any(|goal| goal.reached.is_none()) {
            Exit::Error
        } else {
            Exit::Ok
        }
    }

    /// Steal time since the report was begun, in hundredths of a second over all CPUs.
    fn stolen(&self) -> Option<u64> {
        Some(steal()?.saturating_sub(self.steal_ticks?))
    }

    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "{} (on: {})", self.title, self.device);
        let _ = writeln!(out, "{}, TSC {:.3} GHz", self.facts, self.tsc_hz as f64 / 1e9);
        for sheet in &self.sheets {
            sheet.write(&mut out);
        }
        out.push('\n');
        for line in &self.lines {
            let _ = writeln!(out, "{line}");
        }
        if !self.lines.is_empty() {
            out.push('\n');
        }
        for goal in &self.goals {
            let reached = goal.reached.map_or("-".to_owned(), |x| format!("{x:.2}"));
            let verdict = match goal.reached {
                None => "not measured",
                Some(_) if goal.is_missed() => "missed",
                Some(_) => "met",
            };
            let bound = if goal.most { "at most" } else { "at least" };
            let (what, limit) = (&goal.what, goal.limit);
            let _ = writeln!(out, "goal {verdict}: {what}: {reached}, wanted {bound} {limit}");
        }
        if let Some(stolen) = self.stolen() {
            let _ = writeln!(out, "stolen by the hypervisor meanwhile: {} ms", stolen * 10);
        }
        let _ = writeln!(out, "checksum {:016x}", self.checksum);
        out
    }

    /// For programs.
    #[must_use]
    pub fn to_json(&self) -> String {
        format!("{:#}\n", self.to_value())
    }

    /// For programs that add to it.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let sheets: Map<String, Value> =
            self.sheets.iter().map(|sheet| (sheet.name.clone(), sheet.json())).collect();
        let goal = |goal: &Goal| {
            let bound = if goal.most { "most" } else { "least" };
            json!({ "what": goal.what, "reached": goal.reached, bound: goal.limit,
                    "missed": goal.is_missed() })
        };
        json!({
            "schema": self.schema,
            "title": self.title,
            "device": self.device,
            "machine": self.facts.to_string(),
            "tsc_hz": self.tsc_hz,
            "stolen_ms": self.stolen().map(|ticks| ticks * 10),
            "sheets": sheets,
            "goals": self.goals.iter().map(goal).collect::<Vec<_>>(),
            "checksum": format!("{:016x}", self.checksum),
        })
    }
}

/// Time that the hypervisor took from all CPUs since boot, in milliseconds.
#[must_use]
pub fn steal_ms() -> Option<u64> {
    steal().map(|hundredths| hundredths * 10)
}

/// As [`steal_ms`], in hundredths of a second.
fn steal() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().next()?.split_ascii_whitespace().nth(8)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_that_was_not_measured_is_no_success() {
        let mut report = Report::new("bench-x/1", "x", "model");
        assert_eq!(report.exit(), Exit::Ok);
        report.goal_most("met", Some(1.0), 2.0);
        assert_eq!(report.exit(), Exit::Ok);
        report.goal("unknown", None, 2.0);
        assert_eq!(report.exit(), Exit::Error);
        assert!(report.to_text().contains("goal not measured: unknown: -, wanted at least 2"));
        report.goal("missed", Some(1.0), 2.0);
        assert_eq!(report.exit(), Exit::Threshold);
    }

    #[test]
    fn a_report_lines_up_and_says_which_goal_was_missed() {
        let mut sheet = Sheet::new("reads", &["what", "M/s"]);
        sheet.row(vec!["null".into(), Cell::Float(12.5, 2)]);
        sheet.row(vec!["memory of 256 MiB".into(), Cell::None]);
        let mut report = Report::new("bench-x/1", "x", "model");
        assert_eq!(sheet.number("what", "null", "M/s"), Some(12.5));
        assert_eq!(sheet.number("what", "nothing", "M/s"), None);
        report.add(sheet);
        report.goal("speed", Some(1.0), 2.0);
        let text = report.to_text();
        assert!(
            text.contains("  what                 M/s\n  null               12.50\n"),
            "{text}"
        );
        assert!(text.contains("goal missed: speed: 1.00, wanted at least 2"), "{text}");
        assert_eq!(report.exit(), Exit::Threshold);
        let json: Value = serde_json::from_str(&report.to_json()).expect("json");
        assert_eq!(json["sheets"]["reads"]["rows"][1]["M/s"], Value::Null);
        assert_eq!(json["checksum"], "0000000000000000");
    }
}
