//! One event in words and as JSON: of a trace, or of a crash record's last ones.

use std::fmt::Write as _;

use hybrid_abi::metrics::MetricUnit;
use hybrid_abi::probe::dictionary::FieldKind;
use hybrid_abi::probe::{Group, Level, ProbeEntry, ProbeField, ProbeRecord, freeze_name};
use serde_json::{Map, Value};

/// What has to be known beside a record.
pub(crate) trait Setting {
    /// What a task was called then.
    fn task_name(&self, task: u64) -> String;
    /// A time.
    fn ns(&self, ticks: u64) -> u64;
}

/// Fields of an event, with what they are.
pub(super) fn fields<'a>(
    entry: &'a ProbeEntry,
    record: &ProbeRecord,
) -> impl Iterator<Item = (&'a ProbeField, u64)> + use<'a> {
    let values = [u64::from(record.a), record.b, record.c];
    let fields = entry.fields.iter().zip(values);
    fields.filter(|(field, _)| field.is_some() && field.name.as_str() != "none")
}

/// Its name, and its fields as a person reads them.
pub(crate) fn text(
    entry: Option<&ProbeEntry>,
    record: &ProbeRecord,
    setting: &impl Setting,
) -> String {
    let ProbeRecord { id, a, b, c, .. } = *record;
    let Some(entry) = entry else { return format!("unknown {id:#010x} {a} {b} {c}") };
    let mut text = format!("{:<18}", entry.name);
    for (name, value) in named(entry, record, setting) {
        let _ = write!(text, " {name}={value}");
    }
    text
}

/// Its fields as a person reads them.
pub(crate) fn named<'a>(
    entry: &'a ProbeEntry,
    record: &ProbeRecord,
    setting: &'a impl Setting,
) -> impl Iterator<Item = (&'a str, String)> {
    let fields = fields(entry, record);
    fields.map(|(field, value)| (field.name.as_str(), shown(field, value, setting)))
}

fn shown(field: &ProbeField, value: u64, setting: &impl Setting) -> String {
    match field.kind {
        FieldKind::TASK => setting.task_name(value),
        FieldKind::HEX => format!("{value:#x}"),
        FieldKind::COMMAND => format!("{}:{:#06x}", value >> 16, value & 0xFFFF),
        FieldKind::STATUS => format!("{value:#05x}"),
        FieldKind::FREEZE => freeze_name(u32::try_from(value).unwrap_or(0)).to_owned(),
        FieldKind::FLAG => if value == 0 { "no" } else { "yes" }.to_owned(),
        FieldKind::OPERATION => {
            let name = match value & 0xFF {
                0 => "flush",
                1 => "write",
                2 => "read",
                5 => "compare",
                8 => "write-zeroes",
                9 => "dataset-management",
                _ => return format!("op-{:#04x}", value & 0xFF),
            };
            format!("{name}*{}", (value >> 16 & 0xFFFF) + 1)
        }
        _ if field.unit == MetricUnit::TICKS => {
            let ns = setting.ns(value);
            format!("{}.{:03}us", ns / 1000, ns % 1000)
        }
        _ => value.to_string(),
    }
}

/// Puts its name and its fields into an object.
pub(crate) fn json(
    entry: Option<&ProbeEntry>,
    record: &ProbeRecord,
    setting: &impl Setting,
    map: &mut Map<String, Value>,
) {
    let Some(entry) = entry else {
        map.insert("id".into(), record.id.into());
        return;
    };
    map.insert("probe".into(), entry.name.as_str().into());
    map.insert("group".into(), Group(entry.group).name().into());
    map.insert("level".into(), Level(entry.level).name().into());
    for (field, value) in fields(entry, record) {
        let name = field.name.as_str();
        let (name, value) = match field.kind {
            FieldKind::TASK => (name.to_owned(), setting.task_name(value).into()),
            FieldKind::FLAG => (name.to_owned(), Value::from(value != 0)),
            _ if field.unit == MetricUnit::TICKS => {
                (format!("{name}_ns"), setting.ns(value).into())
            }
            _ => (name.to_owned(), value.into()),
        };
        map.insert(name, value);
    }
}
