//! A trace, taken apart.
//!
//! A damaged chunk of records costs itself; behind a damaged length the next chunk is found. What
//! is left is told, with the offset of each place that is not.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use hybrid_abi::Name;
use hybrid_abi::crash::program::TASK_NAME_BYTES;
use hybrid_abi::probe::file::{ChunkKind, Piece, Pieces, TraceEnd, TraceHeader, records_of};
use hybrid_abi::probe::{FieldKind, ProbeRecord, RECORD_BYTES, entries};
use zerocopy::FromBytes as _;

use super::dictionary::Dictionary;
use super::event::{Setting, fields};

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) offset: u64,
    pub(super) what: String,
}

/// A record, and which names were valid then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) record: ProbeRecord,
    /// Index of the names.
    pub(super) names: u32,
}

/// What a file holds.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) header: TraceHeader,
    pub(super) dictionary: Dictionary,
    pub(super) program: Option<String>,
    /// As they were, one after the other.
    pub(super) names: Vec<Vec<String>>,
    pub(super) events: Vec<Event>,
    pub(super) end: Option<TraceEnd>,
    /// Records that were overwritten before they were read.
    pub(super) lost: u64,
    pub(super) problems: Vec<Problem>,
}

/// An event, and what its trace says of that moment.
pub(super) struct Then<'a>(pub(super) &'a Loaded, pub(super) &'a Event);

impl Setting for Then<'_> {
    fn task_name(&self, task: u64) -> String {
        self.0.task_name(self.1, task)
    }

    fn ns(&self, ticks: u64) -> u64 {
        self.0.ns(ticks)
    }
}

impl Loaded {
    /// A trace of which nothing but the header is known yet.
    pub(super) fn of(header: TraceHeader) -> Self {
        Self {
            header,
            dictionary: HashMap::new(),
            program: None,
            names: vec![Vec::new()],
            events: Vec::new(),
            end: None,
            lost: 0,
            problems: Vec::new(),
        }
    }

    /// Takes `file` apart.
    ///
    /// # Errors
    /// If its header is none, or of a newer version.
    pub(super) fn parse(file: &[u8]) -> Result<Self> {
        let mut loaded = Self::of(TraceHeader::parse(file)?);
        for piece in Pieces::of(file) {
            match piece {
                Piece::Chunk { offset, kind, payload } => loaded.take(offset, kind, payload),
                Piece::Damaged { offset, kind, payload } => {
                    let (name, len) = (kind.name(), payload.len());
                    let what = format!("a chunk of {len} bytes ({name}) is damaged");
                    loaded.problem(offset, what);
                }
                Piece::Gap { offset, len } => {
                    let what = format!("{len} bytes are no chunk");
                    loaded.problem(offset, what);
                }
            }
        }
        if loaded.end.is_none() {
            loaded.problem(file.len() as u64, "the file was cut short: it has no end");
        }
        if loaded.dictionary.is_empty() {
            let offset = size_of::<TraceHeader>() as u64;
            let what = "the dictionary is lost; name the program with --binary";
            loaded.problem(offset, what);
        }
        Ok(loaded)
    }

    fn problem(&mut self, offset: u64, what: impl ToString) {
        self.problems.push(Problem { offset, what: what.to_string() });
    }

    fn take(&mut self, offset: u64, kind: ChunkKind, payload: &[u8]) {
        match kind {
            ChunkKind::DICTIONARY => {
                self.dictionary.extend(entries(payload).map(|entry| (entry.id, entry)));
            }
            ChunkKind::PROGRAM_PATH => {
                self.program = Some(String::from_utf8_lossy(payload).into_owned());
            }
            ChunkKind::TASK_NAMES => self.take_names(payload),
            ChunkKind::RECORDS => match records_of(payload) {
                Some((head, records)) => {
                    self.lost = self.lost.saturating_add(head.lost);
                    let names = u32::try_from(self.names.len() - 1).unwrap_or(0);
                    self.events.extend(records.chunks_exact(RECORD_BYTES).filter_map(|bytes| {
                        let record = ProbeRecord::read_from_bytes(bytes).ok()?;
                        Some(Event { record, names })
                    }));
                }
                None => self.problem(offset, "a chunk of records has no head"),
            },
            ChunkKind::END => self.end = TraceEnd::read_from_prefix(payload).ok().map(|(e, _)| e),
            // Of a newer writer.
            _ => {}
        }
    }

    /// What the tasks are called from now on.
    pub(super) fn take_names(&mut self, names: &[u8]) {
        let names = names.chunks_exact(TASK_NAME_BYTES).map(|bytes| {
            let name = Name::<TASK_NAME_BYTES>::read_from_bytes(bytes);
            name.map_or_else(|_| String::new(), |name| name.as_str().to_owned())
        });
        self.names.push(names.collect());
    }

    /// Nanoseconds from the trace's anchor: what a person calls the time.
    pub(super) fn ns(&self, ticks: u64) -> u64 {
        self.header.ticks_to_ns(ticks).unwrap_or(ticks)
    }

    /// A time in ticks.
    pub(super) fn ticks(&self, time: Duration) -> u64 {
        let hz = u128::from(self.header.tsc_hz.max(1));
        u64::try_from(time.as_nanos() * hz / 1_000_000_000).unwrap_or(u64::MAX)
    }

    /// Wall clock of a tick, nanoseconds since 1970.
    pub(super) fn unix_ns(&self, tsc: u64) -> u64 {
        let (anchor, at) = (self.header.anchor_tsc, self.header.anchor_unix_ns);
        match tsc.checked_sub(anchor) {
            Some(later) => at.saturating_add(self.ns(later)),
            None => at.saturating_sub(self.ns(anchor - tsc)),
        }
    }

    /// The task that an event names, from 1.
    pub(super) fn task_of(&self, event: &Event) -> Option<u64> {
        let entry = self.dictionary.get(&event.record.id)?;
        fields(entry, &event.record)
            .find(|(field, _)| field.kind == FieldKind::TASK)
            .map(|(_, value)| value)
    }

    /// What a task was called then.
    pub(super) fn task_name(&self, event: &Event, task: u64) -> String {
        // Names come a little later than the first events of a task: the next list is asked too.
        let index = usize::try_from(task).unwrap_or(0).wrapping_sub(1);
        let lists = self.names.get(event.names as usize..).unwrap_or_default();
        let mut named = lists.iter().take(2).filter_map(|names| names.get(index));
        match named.find(|name| !name.is_empty()) {
            Some(name) => name.clone(),
            None => format!("task {task}"),
        }
    }
}
