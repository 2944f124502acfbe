//! What the benchmarks say together: ratios, the cost of a read in each set-up, the goals.
//!
//! Made of the JSON that each benchmark writes: sheets of rows with named cells, and goals. A cell
//! that is not there is not measured, and its row is left out.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// Batches of which the cost of a read is compared.
const BATCHES: [u64; 4] = [1, 4, 32, 128];

/// A benchmark's name, its exit code, and its result.
type Bench<'a> = (&'a str, Option<i32>, Value);

/// One side beside another.
#[derive(Clone, Debug, PartialEq)]
struct Ratio {
    what: String,
    peer: String,
    unit: &'static str,
    ours: f64,
    theirs: f64,
}

impl Ratio {
    /// How many times faster we are.
    fn times(&self) -> f64 {
        self.theirs / self.ours
    }
}

/// A goal: of which benchmark, what, reached, wanted, and whether it was missed.
#[derive(Clone, Debug, PartialEq)]
struct Goal {
    what: String,
    reached: Option<f64>,
    bound: String,
    missed: bool,
}

/// A set-up, and ticks to submit and to reap a read in each of [`BATCHES`].
type Cost = (String, [Option<(f64, f64)>; BATCHES.len()]);

/// All of it.
pub(crate) struct Summary {
    pub(crate) machine: Vec<String>,
    ratios: Vec<Ratio>,
    costs: Vec<Cost>,
    goals: Vec<Goal>,
}

impl Summary {
    pub(crate) fn of(all: &[Bench<'_>]) -> Self {
        let mut machine: Vec<String> = Vec::new();
        for (_, _, result) in all {
            let line = result["machine"].as_str().or(result["machine"]["cpu"].as_str());
            machine.extend(line.map(ToOwned::to_owned));
        }
        machine.dedup();
        let results = || all.iter().map(|(_, _, result)| result);
        Self {
            machine,
            ratios: results().flat_map(|result| [races(result), cross(result)].concat()).collect(),
            costs: results().flat_map(costs).collect(),
            goals: all.iter().flat_map(|(name, _, result)| goals(name, result)).collect(),
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        ratios_text(&mut out, &self.ratios);
        costs_text(&mut out, &self.costs);
        if !self.goals.is_empty() {
            out.push_str("== goals\n");
        }
        for Goal { what, reached, bound, missed } in &self.goals {
            let verdict = match (missed, reached) {
                (_, None) => "not measured",
                (true, _) => "missed",
                (false, _) => "met",
            };
            let reached = reached.map_or("-".to_owned(), |x| format!("{x:.2}"));
            let _ = writeln!(out, "{verdict:<12}  {what}: {reached}, wanted {bound}");
        }
        self.machine.iter().for_each(|line| {
            let _ = writeln!(out, "machine: {line}");
        });
        out
    }

    pub(crate) fn ratios_json(&self) -> Value {
        let ratio = |ratio: &Ratio| {
            json!({ "what": ratio.what, "peer": ratio.peer, "unit": ratio.unit,
                    "ours": ratio.ours, "theirs": ratio.theirs, "ratio": ratio.times() })
        };
        self.ratios.iter().map(ratio).collect()
    }

    pub(crate) fn goals_json(&self) -> Value {
        let goal = |goal: &Goal| {
            json!({ "what": goal.what, "reached": goal.reached, "wanted": goal.bound,
                    "missed": goal.missed })
        };
        self.goals.iter().map(goal).collect()
    }
}

fn rows<'a>(report: &'a Value, sheet: &str) -> impl Iterator<Item = &'a Value> {
    report["sheets"][sheet]["rows"].as_array().into_iter().flatten()
}

/// Rows of a report's sheets that name a peer.
fn races(report: &Value) -> Vec<Ratio> {
    let sheets = report["sheets"].as_object().into_iter().flatten();
    let rows = sheets.flat_map(|(_, sheet)| sheet["rows"].as_array().into_iter().flatten());
    rows.filter_map(|row| {
        let peer = row["peer"].as_str().filter(|peer| !peer.is_empty())?.to_owned();
        let what = row["what"].as_str()?.to_owned();
        let (ours, theirs) = (row["ticks"].as_f64()?, row["peer ticks"].as_f64()?);
        Some(Ratio { what, peer, unit: "ticks", ours, theirs })
    })
    .collect()
}

/// Rings across cores: the first row of each kind is ours, the others are peers.
fn cross(report: &Value) -> Vec<Ratio> {
    let rows: Vec<&Value> = rows(report, "cross-core rings of u64").collect();
    let mut ratios = Vec::new();
    for (way, title, what) in [
        ("one way", "p50 ns", "ring across cores, one way, p50"),
        ("one way", "p99 ns", "ring across cores, one way, p99"),
        ("back", "p50 ns", "ring across cores, there and back, p50"),
        ("one way", "stream ns", "ring across cores, stream"),
    ] {
        let mut values = rows
            .iter()
            .filter(|row| row["way"] == way)
            .filter_map(|row| Some((row["ring"].as_str()?.to_owned(), row[title].as_f64()?)));
        let Some((_, ours)) = values.next().filter(|(ring, _)| ring == "ours") else { continue };
        let ratio =
            |(peer, theirs)| Ratio { what: what.to_owned(), peer, unit: "ns", ours, theirs };
        ratios.extend(values.map(ratio));
    }
    ratios
}

/// What a read costs the driver in each set-up, by a result of alternating rounds.
fn costs(report: &Value) -> Vec<Cost> {
    let setups = report["cost"]["setups"].as_array().into_iter().flatten();
    let setup = |setup: &Value| {
        let of = |batch| {
            let row = setup["rows"].as_array()?.iter().find(|row| row["reads"] == batch)?;
            let ticks = |what: &str| row[what]["median"].as_f64();
            ticks("submit_ticks").zip(ticks("reap_ticks"))
        };
        Some((setup["name"].as_str()?.to_owned(), BATCHES.map(of)))
    };
    setups.filter_map(setup).filter(|(_, costs)| costs.iter().any(Option::is_some)).collect()
}

fn goals(name: &str, report: &Value) -> Vec<Goal> {
    let goals = report["goals"].as_array().into_iter().flatten();
    goals
        .filter_map(|goal| {
            let bound = match (goal["most"].as_f64(), goal["least"].as_f64()) {
                (Some(most), _) => format!("at most {most}"),
                (None, Some(least)) => format!("at least {least}"),
                (None, None) => return None,
            };
            Some(Goal {
                what: format!("{name}: {}", goal["what"].as_str()?),
                reached: goal["reached"].as_f64(),
                bound,
                missed: goal["missed"] == true,
            })
        })
        .collect()
}

fn ratios_text(out: &mut String, ratios: &[Ratio]) {
    if ratios.is_empty() {
        return;
    }
    let width = |f: &dyn Fn(&Ratio) -> usize| ratios.iter().map(f).max().unwrap_or(0);
    let what = width(&|ratio| ratio.what.chars().count());
    let peer = width(&|ratio| ratio.peer.chars().count());
    let _ = writeln!(
        out,
        "== side by side\n{:<what$}  {:<peer$}  {:>10}  {:>10}  {:<5}  {:>7}",
        "what", "peer", "ours", "peer's", "", "ratio"
    );
    for ratio in ratios {
        let _ = writeln!(
            out,
            "{:<what$}  {:<peer$}  {:>10.1}  {:>10.1}  {:<5}  {:>6.2}x",
            ratio.what,
            ratio.peer,
            ratio.ours,
            ratio.theirs,
            ratio.unit,
            ratio.times()
        );
    }
}

fn costs_text(out: &mut String, costs: &[Cost]) {
    if costs.is_empty() {
        return;
    }
    let _ = write!(
        out,
        "== submit + reap of a 4 KiB read, set-ups in turn, ticks\n{:<26}",
        "in batches of"
    );
    BATCHES.iter().for_each(|batch| {
        let _ = write!(out, "{batch:>18}");
    });
    out.push('\n');
    for (setup, costs) in costs {
        let _ = write!(out, "{setup:<26}");
        for cost in costs {
            let text = cost.map_or("-".to_owned(), |(submit, reap)| {
                format!("{submit:.0} + {reap:.0} = {:.0}", submit + reap)
            });
            let _ = write!(out, "{text:>18}");
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Value {
        json!({
            "machine": "a machine",
            "sheets": {
                "one core": { "rows": [
                    { "what": "ring", "peer": "rtrb", "ticks": 5.0, "peer ticks": 10.0 },
                    { "what": "alone", "peer": "", "ticks": 5.0, "peer ticks": null },
                ] },
                "cross-core rings of u64": { "rows": [
                    { "ring": "ours", "way": "one way", "p50 ns": 100.0, "stream ns": 10.0 },
                    { "ring": "ours", "way": "back", "p50 ns": 200.0, "stream ns": null },
                    { "ring": "rtrb", "way": "one way", "p50 ns": 150.0, "stream ns": 5.0 },
                    { "ring": "rtrb", "way": "back", "p50 ns": 200.0, "stream ns": null },
                ] },
            },
            "cost": { "setups": [
                { "name": "the model's thread", "rows": [
                    { "reads": 1, "submit_ticks": null, "reap_ticks": null },
                    { "reads": 32, "submit_ticks": { "median": 24.0 },
                      "reap_ticks": { "median": 20.0 } },
                ] },
                { "name": "nothing measured", "rows": [] },
            ] },
            "goals": [
                { "what": "speed", "reached": 3.0, "least": 2.0, "missed": false },
                { "what": "cost", "reached": null, "most": 60.0, "missed": false },
            ],
        })
    }

    #[test]
    fn rows_with_a_peer_are_races_and_the_first_ring_is_ours() {
        let summary = Summary::of(&[("runtime", Some(0), report()), ("itch", None, Value::Null)]);
        let seen: Vec<_> = summary
            .ratios
            .iter()
            .map(|ratio| (ratio.what.as_str(), ratio.peer.as_str(), ratio.times()))
            .collect();
        assert_eq!(
            seen,
            [
                ("ring", "rtrb", 2.0),
                ("ring across cores, one way, p50", "rtrb", 1.5),
                ("ring across cores, there and back, p50", "rtrb", 1.0),
                ("ring across cores, stream", "rtrb", 0.5),
            ]
        );
        assert_eq!(summary.ratios_json()[3]["ratio"], 0.5);
    }

    #[test]
    fn the_tables_say_what_was_measured_and_what_was_not() {
        let text = Summary::of(&[("runtime", Some(0), report())]).text();
        for line in [
            "rtrb         5.0        10.0  ticks    2.00x\n",
            "the model's thread                         -                 -      24 + 20 = 44",
            "met           runtime: speed: 3.00, wanted at least 2\n",
            "not measured  runtime: cost: -, wanted at most 60\n",
            "machine: a machine\n",
        ] {
            assert!(text.contains(line), "no {line:?} in:\n{text}");
        }
        assert!(!text.contains("nothing measured"), "{text}");
        assert_eq!(Summary::of(&[]).text(), "");
    }
}
