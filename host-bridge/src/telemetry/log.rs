//! Lines for a log, as text or as JSON.
//!
//! A line of this project begins with how serious it is: `alert: `, `warning: `, `note: `. As JSON
//! that word is a field of its own, beside the time, the program and what else is known.

use std::str::FromStr;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::supervisor::alert::Alert;
use crate::supervisor::stamp::rfc3339;

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// As people read them.
    #[default]
    Text,
    /// One object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(said: &str) -> Result<Self, Self::Err> {
        match said {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("log format {said}: text and json are allowed")),
        }
    }
}

/// A line of a program as an object of one line, with `more` fields.
#[must_use]
pub fn json_line(at: SystemTime, program: &str, line: &str, more: Map<String, Value>) -> String {
    let level = ["alert", "warning", "note"];
    let split = line.split_once(": ").filter(|(word, _)| level.contains(word));
    // What begins with the program's name is why it ends.
    let failed = line.strip_prefix(program).and_then(|rest| rest.strip_prefix(": "));
    let (level, message) = match (split, failed) {
        (Some((level, rest)), _) => (level, rest),
        (None, Some(rest)) => ("error", rest),
        (None, None) => ("note", line),
    };
    let mut object = Map::new();
    object.insert("time".to_owned(), json!(rfc3339(at)));
    object.insert("level".to_owned(), json!(level));
    object.insert("program".to_owned(), json!(program));
    object.insert("message".to_owned(), json!(message));
    object.extend(more);
    Value::Object(object).to_string()
}

/// What an alert knows beside its line.
#[must_use]
pub fn alert_fields(alert: &Alert) -> Map<String, Value> {
    let dump = alert.dump.as_ref().map(|path| path.display().to_string());
    let fields = [
        ("event", json!(alert.kind.event())),
        ("partition", json!(alert.partition)),
        ("incarnation", json!(alert.incarnation)),
        ("pid", json!(alert.pid)),
        ("reason", json!(alert.reason)),
        ("dump", json!(dump)),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_line_is_one_object_with_its_level_apart() {
        let at = UNIX_EPOCH + Duration::from_millis(951_782_400_123);
        let of = |line: &str| json_line(at, "feed-handler", line, Map::new());
        assert_eq!(
            of("warning: small\npages"),
            "{\"level\":\"warning\",\"message\":\"small\\npages\",\"program\":\"feed-handler\",\
             \"time\":\"2000-02-29T00:00:00.123Z\"}"
        );
        for (line, level, message) in [
            ("alert: it died", "alert", "it died"),
            ("feed-handler: no such file", "error", "no such file"),
            ("listening at 127.0.0.1:1", "note", "listening at 127.0.0.1:1"),
            ("odd: line", "note", "odd: line"),
        ] {
            let value: Value = serde_json::from_str(&of(line)).expect("JSON");
            assert_eq!((&value["level"], &value["message"]), (&json!(level), &json!(message)));
        }
    }
}
