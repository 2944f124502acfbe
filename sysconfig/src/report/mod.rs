//! What the verbs print: a plan as a diff, what was done, and what is.
//!
//! Pure: text and JSON out of plans and outcomes. Colours only where [`Style`] says so.

pub(crate) mod diff;
mod status;

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use serde_json::{Value, json};

use crate::command::Prepared;
use crate::engine::{Outcome, Step, Verdict};
use crate::failure::Failure;
use crate::place::{Place, State};

pub(crate) use status::{StatusArgs, command as status};

/// So many changes that are alike are shown one by one; of more the first, and their number.
const ALIKE: usize = 3;

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Colour,
}

impl Style {
    /// Colour on a terminal, unless NO_COLOR says no.
    pub(crate) fn of_stdout() -> Self {
        let no = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if std::io::stdout().is_terminal() && !no { Self::Colour } else { Self::Plain }
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        }
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// The plan for a person.
pub(crate) fn plan(prepared: &Prepared, style: Style, all: bool) -> String {
    let (config, plan) = (&prepared.config, &prepared.plan);
    let mut out = String::new();
    let set = |cpus: hybrid_conventions::CpuSet| {
        if cpus.is_empty() { "none".to_owned() } else { cpus.to_string() }
    };
    let off = if config.off.is_empty() { String::new() } else { format!(", off {}", config.off) };
    let _ = writeln!(
        out,
        "isolated {}, housekeeping {}{off}",
        set(config.isolated),
        set(config.housekeeping)
    );
    for steps in plan.steps.chunk_by(|a, b| a.setting == b.setting) {
        section(&mut out, steps, style, all);
    }
    let fixed = unmovable(plan.steps.iter());
    if !fixed.is_empty() {
        let _ = writeln!(out, "\n{}", style.bold("cannot be changed"));
        for (what, reason) in &fixed {
            let _ = writeln!(out, "  {what}: {reason}");
        }
    }
    if !plan.notes.is_empty() {
        let _ = writeln!(out, "\n{}", style.bold("to know"));
        for (setting, note) in &plan.notes {
            let _ = writeln!(out, "  {setting}: {note}");
        }
    }
    let count = plan.changes().count();
    let verb = if count == 1 { "1 change".to_owned() } else { format!("{count} changes") };
    let next = if count == 0 { "" } else { "; sysconfig apply with the same flags makes them" };
    let _ = writeln!(out, "\n{verb}, {} not possible{next}", fixed.len());
    out
}

fn section(out: &mut String, steps: &[Step], style: Style, all: bool) {
    let changes: Vec<&Step> = steps.iter().filter(|step| step.verdict == Verdict::Change).collect();
    if changes.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{}", style.bold(steps[0].setting));
    let mut values = Vec::new();
    for step in changes {
        match (&step.wish.place, &step.now, &step.wish.wanted) {
            (Place::File { path }, now, wanted) if is_file(now) || is_file(wanted) => {
                lines(out, &values, style, all);
                values.clear();
                out.push_str(&diff::file(path, now, wanted, style));
            }
            _ => values.push(step),
        }
    }
    lines(out, &values, style, all);
}

fn is_file(state: &State) -> bool {
    matches!(state, State::File { .. })
}

/// `path: now -> wanted`, a line each; many alike in one.
fn lines(out: &mut String, steps: &[&Step], style: Style, all: bool) {
    let pairs: Vec<(String, String, String)> = steps
        .iter()
        .map(|step| {
            let of = step.wish.detail.as_ref().map_or(String::new(), |d| format!(" ({d})"));
            let what = format!("{}{of}", step.wish.place);
            (what, step.now.to_string(), step.wish.wanted.to_string())
        })
        .collect();
    for (what, now, wanted) in shortened(&pairs, all) {
        let (now, wanted) = (style.red(&now), style.green(&wanted));
        let _ = writeln!(out, "  {what}: {now} -> {wanted}");
    }
}

/// The lines, where of many with the same change only the first stays, with the number of others.
fn shortened(pairs: &[(String, String, String)], all: bool) -> Vec<(String, String, String)> {
    let alike = |pair: &(String, String, String)| {
        pairs.iter().filter(|other| other.1 == pair.1 && other.2 == pair.2).count()
    };
    let mut shown: Vec<(String, String, String)> = Vec::new();
    for pair in pairs {
        let count = alike(pair);
        let seen = shown.iter().any(|other| other.1 == pair.1 && other.2 == pair.2);
        if all || count <= ALIKE {
            shown.push(pair.clone());
        } else if !seen {
            let what = format!("{} and {} more", pair.0, count - 1);
            shown.push((what, pair.1.clone(), pair.2.clone()));
        }
    }
    shown
}

/// What can't be had, with the reason.
fn unmovable<'a>(steps: impl Iterator<Item = &'a Step>) -> Vec<(String, String)> {
    let mut list = Vec::new();
    for step in steps {
        if let Verdict::Fixed(reason) = &step.verdict {
            let of = step.wish.detail.as_ref().map_or(String::new(), |d| format!(" ({d})"));
            list.push((format!("{}{of}", step.wish.place), reason.clone()));
        }
    }
    list
}

/// The plan for a program.
pub(crate) fn plan_json(prepared: &Prepared) -> Result<String, Failure> {
    let (config, plan) = (&prepared.config, &prepared.plan);
    let changes: Vec<Value> = plan
        .changes()
        .map(|step| {
            json!({
                "setting": step.setting,
                "what": step.wish.place.to_string(),
                "place": step.wish.place,
                "now": step.now,
                "wanted": step.wish.wanted,
                "detail": step.wish.detail,
            })
        })
        .collect();
    let fixed = unmovable(plan.steps.iter());
    let fixed: Vec<Value> =
        fixed.iter().map(|(what, reason)| json!({"what": what, "reason": reason})).collect();
    let notes: Vec<Value> = plan
        .notes
        .iter()
        .map(|(setting, note)| json!({"setting": setting, "note": note}))
        .collect();
    pretty(&json!({
        "schema": "sysconfig-plan/1",
        "isolated_cores": config.isolated.to_string(),
        "housekeeping": config.housekeeping.to_string(),
        "off": config.off.to_string(),
        "met": plan.steps.iter().filter(|step| step.verdict == Verdict::Met).count(),
        "changes": changes,
        "not_possible": fixed,
        "notes": notes,
    }))
}

/// JSON as it is printed.
pub(crate) fn pretty(value: &Value) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::error)?;
    Ok(text + "\n")
}

/// What was done, for a person.
pub(crate) fn outcome(verb: &str, outcome: &Outcome, all: bool) -> String {
    let mut out = String::new();
    let pairs: Vec<(String, String, String)> = outcome
        .changed
        .iter()
        .map(|(place, from, to)| (place.to_string(), from.to_string(), to.to_string()))
        .collect();
    for (what, from, to) in shortened(&pairs, all) {
        let _ = writeln!(out, "{what}: {from} -> {to}");
    }
    for program in &outcome.ran {
        let _ = writeln!(out, "ran {program}");
    }
    for (place, reason) in &outcome.refused {
        let _ = writeln!(out, "not possible: {place}: {reason}");
    }
    for note in &outcome.notes {
        let _ = writeln!(out, "note: {note}");
    }
    let count = outcome.changed.len();
    let changes = if count == 1 { "1 change".to_owned() } else { format!("{count} changes") };
    let failed = match outcome.failed.len() {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    let _ = writeln!(out, "{verb}: {changes}, {} not possible{failed}", outcome.refused.len());
    out
}

/// What was done, for a program.
pub(crate) fn outcome_json(verb: &str, outcome: &Outcome) -> Result<String, Failure> {
    let changed: Vec<Value> = outcome
        .changed
        .iter()
        .map(|(place, from, to)| {
            json!({"what": place.to_string(), "place": place, "from": from, "to": to})
        })
        .collect();
    let refused: Vec<Value> = outcome
        .refused
        .iter()
        .map(|(place, reason)| json!({"what": place.to_string(), "reason": reason}))
        .collect();
    let failed: Vec<&str> = outcome.failed.iter().map(|failure| failure.line.as_str()).collect();
    pretty(&json!({
        "schema": format!("sysconfig-{verb}/1"),
        "changed": changed,
        "not_possible": refused,
        "failed": failed,
        "ran": outcome.ran,
        "notes": outcome.notes,
    }))
}
