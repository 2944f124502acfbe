//! A trace as text: a line an event.

use std::io::{Result, Write};

use hybrid_abi::probe::freeze_name;

use super::event;
use super::loaded::{Event, Loaded, Then};

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
    events.iter().try_for_each(|event| line(loaded, event, first, out))
}

/// Prints one event: when after `first` it was, in microseconds, and what.
pub(super) fn line(loaded: &Loaded, event: &Event, first: u64, out: &mut impl Write) -> Result<()> {
    let at = loaded.ns(event.record.tsc.saturating_sub(first));
    let entry = loaded.dictionary.get(&event.record.id);
    let text = event::text(entry, &event.record, &Then(loaded, event));
    writeln!(out, "{:>12}.{:03}  {text}", at / 1000, at % 1000)
}
