//! The last probe events of a record: what happened just before.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use hybrid_conventions::HumanNanos;
use serde_json::{Map, Value};

use super::loaded::{Loaded, Record};
use crate::trace::dictionary::{Dictionary, of_build};
use crate::trace::event::{self, Setting};

/// The record that they are of.
struct Dead<'a>(&'a Loaded, &'a Record);

impl Setting for Dead<'_> {
    fn task_name(&self, task: u64) -> String {
        let tasks = self.1.tasks.iter().flat_map(|(_, tasks)| tasks);
        let mut named = tasks.filter(|known| u64::from(known.figures.task) == task);
        // A record that the host wrote has no tasks, but the one that ran.
        let current = self.1.current.as_ref().filter(|ran| u64::from(ran.task) == task);
        let name = named.next().map(|known| known.name).or(current.map(|ran| ran.name));
        let name = name.filter(|name| !name.as_str().is_empty());
        name.map_or_else(|| format!("task {task}"), |name| name.to_string())
    }

    fn ns(&self, ticks: u64) -> u64 {
        self.0.ns(ticks).unwrap_or(ticks)
    }
}

/// What the probes of the program that died are called: what the dump says, or the program itself,
/// if it is that build. Where it lay in memory is no matter for that.
pub(super) fn dictionary(loaded: &Loaded, binary: Option<&Path>) -> Dictionary {
    if !loaded.names.is_empty() {
        return loaded.names.clone();
    }
    let path =
        binary.map(Path::to_owned).or_else(|| loaded.program_path.as_ref().map(PathBuf::from));
    let program = loaded.record.as_ref().and_then(|record| record.program);
    path.zip(program)
        .and_then(|(path, program)| of_build(&path, &program.build_id).ok())
        .unwrap_or_default()
}

/// Prints them, the oldest first; nothing where no probe was on.
pub(super) fn print(
    out: &mut String,
    loaded: &Loaded,
    record: &Record,
    names: &Dictionary,
) -> std::fmt::Result {
    if record.probes.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nlast events, by their age when the record was written")?;
    for event in &record.probes {
        let age = record.header.tsc.saturating_sub(event.tsc);
        match loaded.ns(age) {
            Some(ns) => write!(out, "  {:>10}", HumanNanos(ns).to_string())?,
            None => write!(out, "  {age:>10} ticks")?,
        }
        let text = event::text(names.get(&event.id), event, &Dead(loaded, record));
        writeln!(out, "  {text}")?;
    }
    Ok(())
}

/// The same for programs.
pub(super) fn json(loaded: &Loaded, record: &Record, names: &Dictionary) -> Value {
    let events = record.probes.iter().map(|event| {
        let age = loaded.ns(record.header.tsc.saturating_sub(event.tsc));
        let mut map = Map::new();
        map.insert("age_ns".into(), age.into());
        map.insert("tsc".into(), event.tsc.into());
        event::json(names.get(&event.id), event, &Dead(loaded, record), &mut map);
        Value::Object(map)
    });
    events.collect()
}
