//! The JSON of a run: its schema, and all of its keys in a golden file: a change is noticed.

use serde_json::Value;

use crate::feeds;
use crate::machine::Machine;
use crate::temp::text;

/// Every path to a value, with the value's kind, a line each.
fn keys(value: &Value) -> String {
    fn walk(value: &Value, path: &str, lines: &mut Vec<String>) {
        let kind = match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    walk(field, &format!("{path}.{name}"), lines);
                }
                return;
            }
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(number) if number.is_u64() => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "text",
            Value::Array(_) => "list",
        };
        lines.push(format!("{} {kind}", path.trim_start_matches('.')));
    }
    let mut lines = Vec::new();
    walk(value, "", &mut lines);
    lines.sort();
    lines.join("\n") + "\n"
}

#[test]
fn the_keys_of_a_replay_are_those_of_the_golden_file() {
    let name = "the_keys_of_a_replay_are_those_of_the_golden_file";
    let Some(machine) = Machine::of(name) else { return };
    let run = machine.run(&["replay", text(&feeds::small()), "--json", "-q"]).ok();
    let json = run.json();
    assert_eq!(json["schema"], "feed-handler/1");
    // What depends on the machine is either way right.
    let keys = keys(&json).replace("machine.governor text", "machine.governor null");
    let golden = include_str!("golden/replay-keys.txt");
    assert!(keys == golden, "the golden file differs; the keys are now:\n{keys}");
}

#[test]
fn the_figures_of_a_replay_are_those_of_the_feed() {
    let name = "the_figures_of_a_replay_are_those_of_the_feed";
    let Some(machine) = Machine::of(name) else { return };
    let feed = feeds::small();
    let run = machine.run(&["replay", text(&feed), "--json", "--no-probe"]).ok();
    let json = run.json();
    let bytes = std::fs::metadata(&feed).expect("the feed").len();
    for phase in ["ingest", "replay"] {
        assert_eq!(json[phase]["messages"], 5000);
        assert_eq!(json[phase]["bytes"], bytes);
    }
    let types = json["feed"]["messages_by_type"].as_object().expect("an object");
    assert_eq!(types.values().filter_map(Value::as_u64).sum::<u64>(), 5000);
    assert_eq!(types.len(), 23, "every type of message");
    let rows = feeds::small_quotes().lines().count() as u64 - 1;
    let changes = json["feed"]["bbo_changes"].as_u64().expect("a number");
    assert!(changes >= rows, "{changes} changes, {rows} of them in the session");
    let told = ["bbo_changes", "trades", "trading_states"];
    let told: u64 = told.iter().filter_map(|field| json["feed"][field].as_u64()).sum();
    assert_eq!(json["ring"]["events"], told, "every event was heard");
    let ring = |field: &str| json["ring"][field].as_u64().expect("a number");
    assert!((1..=ring("capacity_bytes")).contains(&ring("high_water_bytes")), "{json}");
    assert_eq!(json["interrupted"], false);
}
