//! A trace as JSON lines, schema `trace-event/1`: the first line describes the trace.

use std::io::{Result, Write};

use hybrid_abi::probe::freeze_name;
use serde_json::{Map, Value, json};

use super::dictionary::hex;
use super::event;
use super::loaded::{Event, Loaded, Then};

/// Prints them.
pub(super) fn print(loaded: &Loaded, events: &[Event], out: &mut impl Write) -> Result<()> {
    let header = &loaded.header;
    let frozen = (header.freeze_reason != 0).then(|| {
        json!({
            "reason": freeze_name(header.freeze_reason),
            "value_ns": loaded.ns(header.freeze_value),
        })
    });
    let head = json!({
        "schema": "trace-event/1",
        "partition": header.name.as_str(),
        "cpu": header.partition,
        "incarnation": header.incarnation,
        "tsc_hz": header.tsc_hz,
        "build_id": hex(&header.build_id),
        "events": events.len(),
        "lost": loaded.lost,
        "dropped": loaded.end.map(|end| end.dropped),
        "frozen": frozen,
    });
    writeln!(out, "{head}")?;
    events.iter().try_for_each(|event| line(loaded, event, out))
}

/// Prints one event.
pub(super) fn line(loaded: &Loaded, event: &Event, out: &mut impl Write) -> Result<()> {
    writeln!(out, "{}", Value::Object(object(loaded, event)))
}

fn object(loaded: &Loaded, event: &Event) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("unix_ns".into(), loaded.unix_ns(event.record.tsc).into());
    map.insert("tsc".into(), event.record.tsc.into());
    let entry = loaded.dictionary.get(&event.record.id);
    event::json(entry, &event.record, &Then(loaded, event), &mut map);
    map
}
