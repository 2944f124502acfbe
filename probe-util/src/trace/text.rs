//! A trace as text: a line an event.

use std::io::{Result, Write};

use hybrid_abi::metrics::MetricUnit;
use hybrid_abi::probe::dictionary::FieldKind;
use hybrid_abi::probe::{ProbeField, freeze_name};

use super::loaded::{Event, Loaded, fields};

/// Prints the events, the oldest first.
pub(super) fn print(loaded: &Loaded, events: &[Event], out: &mut impl Write) -> Result<()> {
    let header = &loaded.header;
    writeln!(
        out,
        "partition {} on CPU {}, incarnation {}, TSC {:.3} GHz",
        header.name,
        header.partition,
        header.incarnation,
        header.tsc_hz as f64 / 1e9
    )?;
    if header.freeze_reason != 0 {
        let (reason, value) = (freeze_name(header.freeze_reason), loaded.ns(header.freeze_value));
        writeln!(out, "frozen: {reason}, {} us", value / 1000)?;
    }
    writeln!(out, "{} of {} events, {} lost", events.len(), loaded.events.len(), loaded.lost)?;
    let first = events.first().map_or(0, |event| event.record.tsc);
    for event in events {
        let at = loaded.ns(event.record.tsc.saturating_sub(first));
        write!(out, "{:>12}.{:03}", at / 1000, at % 1000)?;
        match loaded.dictionary.get(&event.record.id) {
            Some(entry) => {
                write!(out, "  {:<18}", entry.name)?;
                for (field, value) in fields(entry, &event.record) {
                    write!(out, " {}={}", field.name, shown(loaded, event, field, value))?;
                }
            }
            None => {
                let record = &event.record;
                write!(
                    out,
                    "  unknown {:#010x} {} {} {}",
                    record.id, record.a, record.b, record.c
                )?;
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

/// A field as a person reads it.
pub(super) fn shown(loaded: &Loaded, event: &Event, field: &ProbeField, value: u64) -> String {
    match field.kind {
        FieldKind::TASK => loaded.task_name(event, value),
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
            let ns = loaded.ns(value);
            format!("{}.{:03}us", ns / 1000, ns % 1000)
        }
        _ => value.to_string(),
    }
}
