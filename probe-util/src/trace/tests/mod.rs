//! Traces that are made here: one read through all its steps, damage, and a million events.

mod proto;

use std::collections::HashMap;
use std::time::Duration;

use hybrid_abi::Name;
use hybrid_abi::metrics::MetricUnit;
use hybrid_abi::probe::dictionary::{FieldKind, KIND_EVENT};
use hybrid_abi::probe::file::{ChunkHeader, ChunkKind, RecordsHead, TraceEnd, TraceHeader};
use hybrid_abi::probe::{Group, Level, ProbeEntry, ProbeField, ProbeRecord, probe_id};
use proptest::prelude::*;
use rustix::time::{ClockId, clock_gettime};
use zerocopy::IntoBytes as _;

use self::proto::{Parsed, Schema, Value};
use super::loaded::{Event, Loaded};
use super::{lines, perfetto, text};

fn entry(name: &str, group: Group, first: FieldKind, second: FieldKind) -> ProbeEntry {
    let field = |name, kind| {
        let unit = if kind == FieldKind::TICKS { MetricUnit::TICKS } else { MetricUnit::COUNT };
        ProbeField::new(name, unit, kind)
    };
    let fields = [field("first", first), field("second", second), ProbeField::NONE];
    ProbeEntry::new(KIND_EVENT, (name, "a test's"), (group, Level::DEBUG), fields, ("a.rs", 1))
}

fn dictionary() -> Vec<u8> {
    use FieldKind as Kind;
    let number = Kind::NUMBER;
    [
        entry("sched.poll", Group::SCHED, Kind::TASK, number),
        entry("sched.polled", Group::SCHED, Kind::TASK, Kind::FLAG),
        entry("sched.wake", Group::SCHED, Kind::TASK, number),
        entry("sched.overrun", Group::SCHED, Kind::TASK, Kind::TICKS),
        entry("sched.stolen", Group::SCHED, number, Kind::TICKS),
        entry("driver.submit", Group::DRIVER, Kind::COMMAND, number),
        entry("driver.doorbell", Group::DRIVER, Kind::QUEUE, number),
        entry("driver.complete", Group::DRIVER, Kind::COMMAND, Kind::STATUS),
        entry("ring.depth", Group::RING, number, number),
    ]
    .iter()
    .flat_map(|entry| entry.as_bytes().to_vec())
    .collect()
}

fn record(tsc: u64, name: &str, a: u32, b: u64) -> ProbeRecord {
    ProbeRecord { tsc, id: probe_id(name), a, b, c: 0 }
}

/// A read by task 1, another by task 2 that is posted later and answered earlier, an overrun, and
/// stolen time.
fn two_reads() -> Vec<ProbeRecord> {
    const ONE: u32 = 1 << 16 | 7;
    const TWO: u32 = 1 << 16 | 9;
    vec![
        record(1000, "sched.poll", 1, 0),
        record(1010, "driver.submit", ONE, 100),
        record(1050, "sched.polled", 1, 0),
        record(1050, "sched.poll", 2, 0),
        record(1060, "driver.submit", TWO, 200),
        record(1090, "sched.polled", 2, 0),
        record(1090, "sched.overrun", 2, 30),
        record(1100, "driver.doorbell", 1, 2),
        record(5000, "sched.stolen", 0, 3000),
        record(5000, "driver.complete", TWO, 0),
        record(5000, "sched.wake", 2, 1),
        record(5010, "sched.poll", 2, 0),
        record(5020, "sched.polled", 2, 1),
        record(6000, "driver.complete", ONE, 0),
        record(6000, "sched.wake", 1, 1),
        record(6010, "sched.poll", 1, 0),
        record(6020, "sched.polled", 1, 1),
        record(6030, "ring.depth", 3, 4096),
    ]
}

fn chunk(file: &mut Vec<u8>, kind: ChunkKind, payload: &[u8]) {
    file.extend(ChunkHeader::of(kind, payload).as_bytes());
    file.extend(payload);
    file.resize(file.len().next_multiple_of(8), 0);
}

fn file(records: &[ProbeRecord]) -> Vec<u8> {
    let header = TraceHeader {
        partition: 3,
        incarnation: 1,
        tsc_hz: 1_000_000_000,
        build_id: [0xB1; 20],
        name: Name::lossy("feed"),
        ..TraceHeader::blank()
    };
    let mut file = header.sealed().as_bytes().to_vec();
    chunk(&mut file, ChunkKind::DICTIONARY, &dictionary());
    let names = ["reader", "writer"].map(|name| *Name::<48>::lossy(name).as_bytes_padded());
    chunk(&mut file, ChunkKind::TASK_NAMES, names.as_flattened());
    let mut first = 0;
    for part in records.chunks(4096) {
        let head = RecordsHead { first, lost: 0 };
        chunk(&mut file, ChunkKind::RECORDS, &[head.as_bytes(), part.as_bytes()].concat());
        first += part.len() as u64;
    }
    let end = TraceEnd { records: first, lost: 0, dropped: 0, tsc: 0 };
    chunk(&mut file, ChunkKind::END, end.as_bytes());
    file
}

fn events(loaded: &Loaded) -> Vec<Event> {
    let mut events = loaded.events.clone();
    events.sort_by_key(|event| event.record.tsc);
    events
}

/// Time, type, track, name, and flows of a track event.
type Drawn = (u64, u64, u64, String, Vec<u64>);

/// Each track event of a trace, which is as Google's definitions want it.
fn exported(file: &[u8]) -> (Parsed, Vec<Drawn>) {
    let loaded = Loaded::parse(file).expect("a trace");
    let mut out = Vec::new();
    perfetto::write(&loaded, &events(&loaded), &mut out).expect("memory");
    let packets = 1 + loaded.events.len();
    assert!(Schema::of_google().check("Trace", &out) > packets, "a packet an event, at least");
    let trace = Parsed::of(&out);
    let mut all = Vec::new();
    for packet in trace.messages(1) {
        for event in packet.messages(11) {
            let numbers = |field| {
                event.all(field).map(|value| match value {
                    Value::Word(flow) => *flow,
                    _ => panic!("a flow is a word"),
                })
            };
            let flows = numbers(47).chain(numbers(48)).collect();
            all.push((
                packet.number(8).expect("a time"),
                event.number(9).expect("a type"),
                event.number(11).expect("a track"),
                event.text(23).unwrap_or_default(),
                flows,
            ));
        }
    }
    (trace, all)
}

#[test]
fn one_read_is_a_flow_through_all_its_steps() {
    let (_, all) = exported(&file(&two_reads()));
    let flow_of = |at: u64| {
        let found = all.iter().find(|(time, .., name, _)| *time == at && name == "driver.submit");
        let flows = &found.expect("a submission").4;
        assert_eq!(flows.len(), 1);
        flows[0]
    };
    let steps = |flow: u64| -> Vec<(u64, &str)> {
        let with = all.iter().filter(|(.., flows)| flows.contains(&flow));
        with.map(|(time, _, _, name, _)| (*time, name.as_str())).collect()
    };
    let (one, two) = (flow_of(1010), flow_of(1060));
    assert_ne!(one, two);
    let expected = [
        (1010, "driver.submit"),
        (1100, "driver.doorbell"),
        (6000, "driver.complete"),
        (6000, "sched.wake"),
        (6010, "reader"),
    ];
    assert_eq!(steps(one), expected);
    let expected = [
        (1060, "driver.submit"),
        (1100, "driver.doorbell"),
        (5000, "driver.complete"),
        (5000, "sched.wake"),
        (5010, "writer"),
    ];
    assert_eq!(steps(two), expected);
}

/// A ring that a replay left, frozen by a slow read: of a real driver and a real scheduler.
#[test]
fn saved_reads_are_flows_through_all_their_steps_as_far_as_they_went() {
    let (_, all) = exported(include_bytes!("../../../tests/traces/flight.hytrace"));
    let mut whole = 0;
    let submissions = all.iter().filter(|(.., name, _)| name == "driver.submit");
    for (.., flows) in submissions {
        let [flow] = flows[..] else { panic!("a submission begins one flow: {flows:?}") };
        let with: Vec<&Drawn> = all.iter().filter(|(.., flows)| flows.contains(&flow)).collect();
        assert!(with.is_sorted_by_key(|(time, ..)| *time), "{with:?}");
        let steps: Vec<_> = with.iter().map(|(.., name, _)| name.as_str()).collect();
        let every = ["driver.submit", "driver.doorbell", "driver.complete", "sched.wake", "job"];
        assert!(every.starts_with(&steps), "{steps:?}");
        whole += usize::from(steps.len() == every.len());
    }
    assert_eq!(whole, 18, "reads that were answered, and whose task was polled");
}

#[test]
fn tracks_slices_and_counters_are_what_they_should_be() {
    let (trace, all) = exported(&file(&two_reads()));
    let tracks: Vec<Parsed> =
        trace.messages(1).flat_map(|p| p.messages(60).collect::<Vec<_>>()).collect();
    let names: Vec<String> = tracks.iter().filter_map(|track| track.text(2)).collect();
    let expected = [
        "taken by others",
        "over budget",
        "in flight, queue 1",
        "tasks ready",
        "event ring, bytes",
    ];
    assert_eq!(names, expected);
    let threads: Vec<_> = tracks.iter().flat_map(|track| track.messages(4)).collect();
    assert_eq!(threads[0].text(5).as_deref(), Some("core 3"));
    // Slices open and close, each on its track.
    let mut open: HashMap<u64, i32> = HashMap::new();
    for (_, kind, track, ..) in &all {
        let depth = open.entry(*track).or_default();
        match kind {
            1 => *depth += 1,
            2 => *depth -= 1,
            _ => {}
        }
        assert!((0..=1).contains(depth), "track {track}");
    }
    assert!(open.values().all(|depth| *depth == 0));
    let slice = |name: &str| {
        let at = all.iter().position(|(.., found, _)| found == name).expect("a slice");
        (all[at].0, all[at + 1].0)
    };
    assert_eq!(slice("writer over budget"), (1060, 1090));
    assert_eq!(slice("taken by others"), (2000, 5000));
    let counted = |number: u64| {
        let track =
            tracks.iter().find(|track| track.text(2).as_deref() == Some("in flight, queue 1"));
        let uuid = track.and_then(|track| track.number(1));
        let packets = trace.messages(1).flat_map(|p| p.messages(11).collect::<Vec<_>>());
        let mine = packets.filter(|event| event.number(11) == uuid);
        mine.filter_map(|event| event.number(30)).filter(|depth| *depth == number).count()
    };
    assert_eq!((counted(0), counted(1), counted(2)), (1, 2, 1));
}

#[test]
fn text_and_lines_say_the_same() {
    let loaded = Loaded::parse(&file(&two_reads())).expect("a trace");
    let (mut shown, mut told) = (Vec::new(), Vec::new());
    text::print(&loaded, &events(&loaded), &mut shown).expect("memory");
    lines::print(&loaded, &events(&loaded), &mut told).expect("memory");
    let shown = String::from_utf8(shown).expect("text");
    let told = String::from_utf8(told).expect("text");
    assert_eq!(shown.lines().count(), 2 + 18);
    assert!(shown.contains("driver.submit      first=1:0x0007 second=100"), "{shown}");
    assert!(shown.contains("sched.overrun      first=writer second=0.030us"), "{shown}");
    let lines: Vec<serde_json::Value> =
        told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 1 + 18);
    assert_eq!(lines[0]["schema"], "trace-event/1");
    assert_eq!((&lines[7]["probe"], &lines[7]["second_ns"]), (&"sched.overrun".into(), &30.into()));
}

#[test]
fn a_damaged_trace_is_told_as_far_as_it_goes_with_the_place() {
    let many: Vec<_> = (0..10_000).map(|n| record(n, "sched.wake", 1, n)).collect();
    let whole = file(&many);
    let loaded = Loaded::parse(&whole).expect("a trace");
    assert_eq!((loaded.events.len(), loaded.problems.len()), (10_000, 0));
    let second = whole.windows(8).enumerate().filter(|(_, w)| *w == b"HYCHUNK0").nth(3);
    let (second, _) = second.expect("a second chunk of records");
    let mut file = whole.clone();
    file[second + 100] ^= 1;
    let loaded = Loaded::parse(&file).expect("a trace");
    assert_eq!(loaded.events.len(), 10_000 - 4096);
    assert_eq!(loaded.problems[0].offset, second as u64);
    assert!(loaded.problems[0].what.contains("records"), "{:?}", loaded.problems);
    let cut = Loaded::parse(&whole[..second + 50]).expect("a trace");
    assert_eq!(cut.events.len(), 4096);
    assert!(cut.problems.iter().any(|problem| problem.what.contains("cut short")));
    let mut newer = whole;
    newer[8] = 9;
    let said = Loaded::parse(&newer).unwrap_err().to_string();
    assert!(said.contains("version 9, this program knows up to 1"), "{said}");
}

/// CPU time that this thread has had.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("it is not negative")
}

#[test]
fn a_million_events_convert_in_two_seconds() {
    let reads = two_reads();
    let million: Vec<ProbeRecord> = (0..1_000_000_usize)
        .map(|n| {
            let base = reads[n % reads.len()];
            ProbeRecord { tsc: base.tsc + (n / reads.len()) as u64 * 10_000, ..base }
        })
        .collect();
    let bytes = file(&million);
    // Of its own work: a machine that is busy elsewhere makes it wait, and is not waited for here.
    let begun = cpu_time();
    let loaded = Loaded::parse(&bytes).expect("a trace");
    let mut out = Vec::new();
    perfetto::write(&loaded, &events(&loaded), &mut out).expect("memory");
    let took = cpu_time() - begun;
    println!("a million events: {took:?} of CPU time, {} bytes", out.len());
    assert_eq!(loaded.events.len(), million.len());
    assert!(took < Duration::from_secs(2), "{took:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn random_damage_never_ends_the_program(
        writes in proptest::collection::vec((any::<u32>(), any::<u8>()), 1..40),
    ) {
        let mut file = file(&two_reads());
        for (at, value) in writes {
            let at = at as usize % file.len();
            file[at] = value;
        }
        if let Ok(loaded) = Loaded::parse(&file) {
            let events = events(&loaded);
            perfetto::write(&loaded, &events, &mut Vec::new()).expect("memory");
            text::print(&loaded, &events, &mut Vec::new()).expect("memory");
            lines::print(&loaded, &events, &mut Vec::new()).expect("memory");
        }
    }
}
