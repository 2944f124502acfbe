//! What an incarnation left behind, for its dump and its line.
//!
//! Called behind the fence. The record is the one that the partition wrote while it died; one that
//! was killed wrote none, and its record is composed here from what it had published: state, task,
//! metrics. Both are the same form, in a file of the same form ([`hybrid_abi::crash`]).

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use core_runtime::clock::rdtsc;
use core_runtime::crash::{RecordHead, Recorder, metrics_section};
use core_runtime::partition::{CRASH_PART, METRICS_PART};
use core_runtime::region::RegionReader;
use hybrid_abi::crash::file::{
    END_EXITED, END_SIGNALLED, END_UNKNOWN, FileHeader, HOST_COMPOSED, HOST_FENCED, HOST_SENT_IT,
    HostWords, section,
};
use hybrid_abi::crash::program::{CurrentTask, Location};
use hybrid_abi::crash::{
    CRASH_PART_BYTES, CRASH_SLOT_BYTES, CrashHeader, REASON_ALLOCATION, REASON_ASKED, REASON_FAULT,
    REASON_KILLED, REASON_PANIC, REASON_SYSCALL, Section, SectionKind, newest, reason_name, slot,
    text,
};
use hybrid_abi::region::{PartKind, RegionHeader};
use hybrid_abi::{LINE_BYTES, Name};
use zerocopy::IntoBytes;

use super::incarnation::Evidence;
use super::policy::{Cause, Ending};
use super::supervised::ending;
use crate::PartitionHandle;
use crate::process::{DUMP_SIGNAL, Death, code};

/// Reads it. `fenced`: its device is quiet.
pub(super) fn collect(
    handle: &mut PartitionHandle,
    fenced: bool,
    killed: Option<Cause>,
) -> Evidence {
    let seen = handle.snapshot();
    let death = handle.death();
    let ending = ending(death, seen.state, seen.code);
    let region = RegionReader::new(handle.region()).ok();
    let own = region.as_ref().and_then(own_record);
    let mut line = words(death, killed);
    let last = handle.last_words();
    if !last.is_empty() {
        line = format!("{line}: {last}");
    }
    let died = matches!(ending, Ending::Crashed | Ending::Killed);
    let composed = own.is_none();
    let record = match (own, died) {
        (Some(own), _) => Some(own),
        (None, true) => Some(compose(handle, region.as_ref(), death, &line)),
        (None, false) => None,
    };
    let Some(record) = record else {
        return Evidence {
            ending,
            reason: ending.word().to_owned(),
            what: last.as_str().to_owned(),
            task: None,
            dump: None,
        };
    };
    let flag = |on: bool, flag| if on { flag } else { 0 };
    let flags = flag(fenced, HOST_FENCED)
        | flag(composed, HOST_COMPOSED)
        | flag(killed.is_some(), HOST_SENT_IT);
    let pid = handle.process().and_then(|process| u32::try_from(process.pid()).ok());
    let host = host_words(death, flags, pid.unwrap_or(0));
    let header = region.as_ref().map(RegionReader::header);
    let file = file(header, &[(SectionKind::RECORD, &record), (SectionKind::HOST, &host(&line))]);
    let told = Told::of(&record, handle);
    let reason = killed.map_or_else(|| told.reason.clone(), |cause| cause.word().to_owned());
    let what = if composed { line } else { told.what };
    Evidence { ending, reason, what, task: told.task, dump: Some(file) }
}

/// The record that the partition wrote, its header and what is committed.
fn own_record(region: &RegionReader) -> Option<Vec<u8>> {
    let part = region.part(PartKind::CRASH, CRASH_PART).ok()?;
    let mut bytes = vec![0; CRASH_PART_BYTES.min(part.len())];
    part.read(0, &mut bytes).ok()?;
    let (index, header) = newest(&bytes)?;
    let end = LINE_BYTES.saturating_add(header.committed as usize);
    slot(&bytes, index).get(..end).map(<[u8]>::to_vec)
}

/// How it ended, as its host saw it.
fn words(death: Death, killed: Option<Cause>) -> String {
    let by_us = killed.map_or("", |_| ", by its supervisor");
    match death {
        Death::Killed { signal } => format!("killed by signal {signal}{by_us}"),
        Death::Exited { code } => format!("its process ended with code {code}"),
        Death::Thread => "its thread ended".to_owned(),
        Death::Lost => "its process was lost".to_owned(),
    }
}

/// What the way of its end says, where it wrote no record of it.
const fn reason_of(death: Death) -> u32 {
    const DUMPED: i32 = code::SIGNAL + DUMP_SIGNAL;
    const SYSCALL: i32 = code::SIGNAL + libc::SIGSYS;
    match death {
        Death::Exited { code: code::PANIC } => REASON_PANIC,
        Death::Exited { code: code::ALLOCATION } => REASON_ALLOCATION,
        Death::Exited { code: DUMPED } => REASON_ASKED,
        Death::Exited { code: SYSCALL } => REASON_SYSCALL,
        Death::Exited { code } if code > code::SIGNAL => REASON_FAULT,
        _ => REASON_KILLED,
    }
}

/// A record of one that wrote none.
fn compose(
    handle: &PartitionHandle,
    region: Option<&RegionReader>,
    death: Death,
    line: &str,
) -> Vec<u8> {
    let seen = handle.snapshot();
    let slot = vec![Cell::new(0); CRASH_SLOT_BYTES];
    let tsc = rdtsc();
    let head = RecordHead {
        reason: reason_of(death),
        sequence: 1,
        tsc,
        incarnation: handle.incarnation(),
    };
    let cells = &slot[..];
    let mut recorder = Recorder::begin(&cells, head);
    recorder.section(SectionKind::MESSAGE, line.len(), |section| {
        section.put(line.as_bytes());
    });
    let name = handle.task_name(seen.task);
    let current = CurrentTask {
        task: seen.task,
        reserved: 0,
        since_tsc: seen.task_since.ticks(),
        age_ticks: tsc.saturating_sub(seen.task_since.ticks()),
        heartbeat: seen.heartbeat,
        heartbeat_tsc: seen.heartbeat_at.ticks(),
        name: name.as_deref().map_or(Name::EMPTY, Name::lossy),
    };
    recorder.section(SectionKind::CURRENT_TASK, usize::MAX, |section| {
        section.head(&current);
    });
    let metrics = region.and_then(|region| region.part(PartKind::METRICS, METRICS_PART).ok());
    if let Some(metrics) = metrics {
        metrics_section(&mut recorder, metrics);
    }
    recorder.finish();
    let bytes: Vec<u8> = slot.iter().map(Cell::get).collect();
    let committed = CrashHeader::parse(&bytes).map_or(0, |header| header.committed as usize);
    bytes.get(..LINE_BYTES + committed).unwrap_or(&bytes).to_vec()
}

fn host_words(death: Death, flags: u32, pid: u32) -> impl Fn(&str) -> Vec<u8> {
    let (end, code) = match death {
        Death::Exited { code } => (END_EXITED, code),
        Death::Killed { signal } => (END_SIGNALLED, signal),
        Death::Thread | Death::Lost => (END_UNKNOWN, 0),
    };
    let words = HostWords {
        end,
        code: code.unsigned_abs(),
        flags,
        pid,
        noticed_unix_ns: unix_ns(),
        noticed_tsc: rdtsc(),
    };
    move |line| [words.as_bytes(), line.as_bytes()].concat()
}

fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The file's bytes.
fn file(region: Option<&RegionHeader>, sections: &[(SectionKind, &Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0; LINE_BYTES];
    for (kind, payload) in sections {
        // All of ours are far smaller than a file may be.
        let Ok(header) = section(*kind, 0, payload) else { continue };
        bytes.extend(header.as_bytes());
        bytes.extend(payload.as_slice());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    let mut header = FileHeader { file_bytes: bytes.len() as u64, ..FileHeader::blank() };
    header.saved_unix_ns = unix_ns();
    if let Some(region) = region {
        header.partition = region.partition;
        header.incarnation = region.incarnation;
        header.boot_id = region.boot_id;
        header.tsc_hz = region.tsc_hz;
        header.anchor_tsc = region.anchor_tsc;
        header.anchor_unix_ns = region.anchor_unix_ns;
        header.build_id = region.build_id;
    }
    bytes[..LINE_BYTES].copy_from_slice(header.sealed().as_bytes());
    bytes
}

/// What a record says, for a line.
struct Told {
    reason: String,
    what: String,
    task: Option<(String, Duration)>,
}

impl Told {
    fn of(record: &[u8], handle: &PartitionHandle) -> Self {
        let Ok(header) = CrashHeader::parse_record(record) else {
            return Self { reason: "unknown".to_owned(), what: String::new(), task: None };
        };
        let sections: Vec<_> = header.sections(record).filter(|section| section.intact).collect();
        let find = |kind| sections.iter().find(|section| section.header.kind == kind);
        let reason = reason_name(header.reason).replace(' ', "-");
        let mut what = reason_name(header.reason).to_owned();
        if let Some(message) = find(SectionKind::MESSAGE) {
            what = format!("{what}: {}", text(message.payload));
        }
        if let Some((at, file)) = find(SectionKind::LOCATION).and_then(location) {
            what = format!("{what}, at {file}:{}", at.line);
        }
        let task = find(SectionKind::CURRENT_TASK)
            .and_then(|section| section.head::<CurrentTask>().ok())
            .filter(|(current, _)| current.task != 0)
            .map(|(current, _)| {
                (current.name.as_str().to_owned(), handle.ticks(current.age_ticks))
            });
        // Of one that was asked the cause says more.
        let what = if header.reason == REASON_ASKED { String::new() } else { what };
        Self { reason, what, task }
    }
}

fn location<'a>(section: &Section<'a>) -> Option<(Location, &'a str)> {
    section.head::<Location>().ok().map(|(at, file)| (at, text(file)))
}
