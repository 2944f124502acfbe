//! A trace as JSON lines, schema `trace-event/1`: the first line describes the trace.

use std::io::{Result, Write};

use hybrid_abi::metrics::MetricUnit;
use hybrid_abi::probe::dictionary::FieldKind;
use hybrid_abi::probe::freeze_name;
use hybrid_abi::probe::{Group, Level};
use serde_json::{Map, Value, json};

use super::dictionary::hex;
use super::loaded::{Event, Loaded, fields};

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
    for event in events {
        writeln!(out, "{}", Value::Object(object(loaded, event)))?;
    }
    Ok(())
}

fn object(loaded: &Loaded, event: &Event) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("unix_ns".into(), loaded.unix_ns(event.record.tsc).into());
    map.insert("tsc".into(), event.record.tsc.into());
    let Some(entry) = loaded.dictionary.get(&event.record.id) else {
        map.insert("id".into(), event.record.id.into());
        return map;
    };
    map.insert("probe".into(), entry.name.as_str().into());
    map.insert("group".into(), Group(entry.group).name().into());
    map.insert("level".into(), Level(entry.level).name().into());
    for (field, value) in fields(entry, &event.record) {
        let name = field.name.as_str();
        let (name, value) = match field.kind {
            FieldKind::TASK => (name.to_owned(), loaded.task_name(event, value).into()),
            FieldKind::FLAG => (name.to_owned(), Value::from(value != 0)),
            _ if field.unit == MetricUnit::TICKS => (format!("{name}_ns"), loaded.ns(value).into()),
            _ => (name.to_owned(), value.into()),
        };
        map.insert(name, value);
    }
    map
}
