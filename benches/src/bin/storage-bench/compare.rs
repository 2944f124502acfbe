//! `storage-bench compare A.json B.json`: is B worse than A?
//!
//! Both files hold `figures`: a value for each repetition. Repetition by repetition the ratio of B
//! to A is taken; its median says how much changed, and how far the ratios lie apart says how much
//! of that is noise: the noise of a figure is the larger of half the distance between the quartiles
//! of the ratios, times [`SPREAD`], and [`LEAST_NOISE`]. A figure that is worse by more than its
//! noise is a regression. Instructions do not depend on the machine's mood: they may grow by
//! [`INSTRUCTIONS_LIMIT`], whatever their noise.

use std::fmt::Write as _;
use std::path::Path;

use hybrid_conventions::Exit;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::summary::BY_GATE;

/// What a change must exceed even where repetitions agree: machines drift between two runs.
const LEAST_NOISE: f64 = 0.03;

/// Of half the distance between the quartiles: three standard errors of a normal median of five.
const SPREAD: f64 = 2.5;

/// How much instruction counts may grow.
const INSTRUCTIONS_LIMIT: f64 = 0.10;

/// With fewer pairs the spread says nothing: this is taken for the noise.
const FEW: usize = 3;
const NOISE_OF_FEW: f64 = 0.10;

/// One figure of both runs.
#[derive(Debug, PartialEq)]
struct Line {
    name: String,
    unit: String,
    a: f64,
    b: f64,
    /// B over A, turned so that more than 1 is worse.
    worse: f64,
    noise: f64,
    pairs: usize,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    Better,
    Worse,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Better => "better",
            Self::Worse => "WORSE",
        }
    }
}

/// Compares, prints, and chooses the exit code.
pub(crate) fn run(a: &Path, b: &Path, as_json: bool) -> Result<Exit, Failure> {
    let (before, after) = (read(a)?, read(b)?);
    if before["on"] != after["on"] {
        return Err(Failure::error(format_args!(
            "{} was measured on {}, {} on {}: these do not compare",
            a.display(),
            before["on"],
            b.display(),
            after["on"]
        )));
    }
    let other = job_differences(&before["job"], &after["job"]);
    let lines = compare(&before, &after);
    if lines.is_empty() {
        return Err(Failure::error("the two files have no figure in common"));
    }
    let worse = lines.iter().any(|line| line.verdict == Verdict::Worse);
    if as_json {
        print!("{}", to_json(&lines, worse, &other));
    } else {
        for line in &other {
            println!("note: the jobs differ: {line}");
        }
        print!("{}", to_text(&lines, &before, &after));
    }
    Ok(if worse { Exit::Threshold } else { Exit::Ok })
}

fn read(path: &Path) -> Result<Value, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::error(format_args!("{}: {error}", path.display())))?;
    match value["schema"].as_str() {
        Some(crate::json::SCHEMA) => Ok(value),
        seen => Err(Failure::error(format_args!(
            "{}: schema {}, allowed is {}; write it with `storage-bench … --out FILE`",
            path.display(),
            seen.unwrap_or("none"),
            crate::json::SCHEMA
        ))),
    }
}

/// What was asked for otherwise: a difference of the figures may be its doing.
fn job_differences(before: &Value, after: &Value) -> Vec<String> {
    let fields = before.as_object().into_iter().flatten();
    let other = fields.filter(|(name, value)| after[name.as_str()] != **value);
    other.map(|(name, value)| format!("{name} {value} and {}", after[name.as_str()])).collect()
}

fn compare(before: &Value, after: &Value) -> Vec<Line> {
    let list = |value: &Value| value["figures"].as_array().cloned().unwrap_or_default();
    let (before, after) = (list(before), list(after));
    let same = |a: &Value| after.iter().find(|b| b["name"] == a["name"]);
    before.iter().filter_map(|a| line(a, same(a)?)).collect()
}

fn line(a: &Value, b: &Value) -> Option<Line> {
    let values = |value: &Value| -> Vec<f64> {
        value["values"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
    };
    let (before, after) = (values(a), values(b));
    let more = a["better"] == "more";
    let usable = |pair: &(&f64, &f64)| *pair.0 > 0.0 && *pair.1 > 0.0;
    let mut ratios: Vec<f64> = before
        .iter()
        .zip(&after)
        .filter(usable)
        .map(|(a, b)| if more { a / b } else { b / a })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let worse = hybrid_benches::figures::median(&ratios)?;
    let instructions = a["instructions"] == true;
    let noise = match (instructions, ratios.len()) {
        (true, _) => INSTRUCTIONS_LIMIT,
        (false, pairs) if pairs < FEW => NOISE_OF_FEW,
        (false, pairs) => {
            let quartiles = ratios[(3 * pairs).div_ceil(4) - 1] - ratios[pairs / 4];
            (SPREAD * quartiles / 2.0).max(LEAST_NOISE)
        }
    };
    let verdict = if worse > 1.0 + noise {
        Verdict::Worse
    } else if worse < 1.0 / (1.0 + noise) {
        Verdict::Better
    } else {
        Verdict::Same
    };
    Some(Line {
        name: a["name"].as_str()?.to_owned(),
        unit: a["unit"].as_str().unwrap_or_default().to_owned(),
        a: hybrid_benches::figures::median(&before)?,
        b: hybrid_benches::figures::median(&after)?,
        worse,
        noise,
        pairs: ratios.len(),
        verdict,
    })
}

fn to_text(lines: &[Line], before: &Value, after: &Value) -> String {
    let mut out = String::new();
    let (a, b) = (&before["machine"]["cpu"], &after["machine"]["cpu"]);
    if a != b {
        let _ = writeln!(out, "note: other machines: {a} and {b}");
    }
    // Counts of the source, not of these runs: a line each only where they say something.
    let quiet = |line: &Line| line.name.ends_with(BY_GATE) && line.verdict == Verdict::Same;
    let silent = lines.iter().filter(|line| quiet(line)).count();
    let shown = || lines.iter().filter(|line| !quiet(line));
    let width = shown().map(|line| line.name.chars().count()).max().unwrap_or(0).max(6);
    let _ = writeln!(
        out,
        "{:<width$}  {:>12}{:>14}{:>14}{:>10}{:>10}{:>7}  verdict",
        "figure", "unit", "A", "B", "B vs A", "noise", "pairs"
    );
    for line in shown() {
        let change = 100.0 * (line.b / line.a - 1.0);
        let _ = writeln!(
            out,
            "{:<width$}  {:>12}{:>14.1}{:>14.1}{:>9.1}%{:>9.1}%{:>7}  {}",
            line.name,
            line.unit,
            line.a,
            line.b,
            change,
            100.0 * line.noise,
            line.pairs,
            line.verdict.name()
        );
    }
    if silent != 0 {
        let _ = writeln!(out, "{silent} instruction counts{BY_GATE} are the same within 10 %");
    }
    let worse = lines.iter().filter(|line| line.verdict == Verdict::Worse).count();
    let _ = writeln!(out, "{worse} of {} figures are worse beyond their noise", lines.len());
    out
}

fn to_json(lines: &[Line], worse: bool, other: &[String]) -> String {
    let line = |line: &Line| {
        json!({
            "name": line.name,
            "unit": line.unit,
            "a": line.a,
            "b": line.b,
            "times_worse": line.worse,
            "noise": line.noise,
            "pairs": line.pairs,
            "verdict": line.verdict.name().to_lowercase(),
        })
    };
    let lines: Vec<Value> = lines.iter().map(line).collect();
    let value = json!({
        "schema": "storage-bench-compare/1",
        "regression": worse,
        "job_differences": other,
        "figures": lines,
    });
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(better: &str, instructions: bool, values: &[f64]) -> Value {
        json!({ "figures": [{
            "name": "x", "unit": "ns", "better": better, "instructions": instructions,
            "values": values,
        }] })
    }

    fn verdict(better: &str, instructions: bool, a: &[f64], b: &[f64]) -> (Verdict, f64) {
        let lines = compare(&file(better, instructions, a), &file(better, instructions, b));
        (lines[0].verdict, lines[0].noise)
    }

    #[test]
    fn worse_is_beyond_the_noise_of_the_pairs() {
        let steady = [100.0, 101.0, 99.0, 100.0, 100.0];
        let slower = steady.map(|x| x * 1.05);
        assert_eq!(verdict("less", false, &steady, &slower).0, Verdict::Worse);
        assert_eq!(verdict("less", false, &slower, &steady).0, Verdict::Better);
        assert_eq!(verdict("more", false, &steady, &slower).0, Verdict::Better);
        assert_eq!(verdict("more", false, &slower, &steady).0, Verdict::Worse);
        assert_eq!(verdict("less", false, &steady, &steady), (Verdict::Same, LEAST_NOISE));
        // The same change, drowned: the repetitions disagree by more.
        let noisy = [80.0, 130.0, 100.0, 120.0, 105.0];
        let (seen, noise) = verdict("less", false, &steady, &noisy);
        assert!(seen == Verdict::Same && noise > 0.2, "{noise}");
    }

    #[test]
    fn instructions_may_grow_by_a_tenth() {
        assert_eq!(verdict("less", true, &[100.0], &[109.0]).0, Verdict::Same);
        assert_eq!(verdict("less", true, &[100.0], &[111.0]).0, Verdict::Worse);
    }

    #[test]
    fn few_pairs_say_so() {
        assert_eq!(verdict("less", false, &[100.0], &[105.0]), (Verdict::Same, NOISE_OF_FEW));
        assert_eq!(verdict("less", false, &[100.0], &[115.0]), (Verdict::Worse, NOISE_OF_FEW));
    }

    #[test]
    fn jobs_that_differ_are_named() {
        let job = |depth: u32, rate: Value| json!({ "depth": depth, "rate": rate, "seed": 1 });
        let (a, b) = (job(32, Value::Null), job(4, json!("2x")));
        assert_eq!(job_differences(&a, &a), [""; 0]);
        assert_eq!(job_differences(&a, &b), ["depth 32 and 4", "rate null and \"2x\""]);
    }

    #[test]
    fn figures_without_a_partner_or_a_value_are_left_out() {
        let empty = file("less", false, &[]);
        assert_eq!(compare(&empty, &empty), []);
        assert_eq!(compare(&file("less", false, &[1.0]), &json!({ "figures": [] })), []);
    }
}
