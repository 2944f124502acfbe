//! Switch and keeper against a ring that the test writes as a partition would.

use std::time::Instant;

use core_runtime::clock::{Clock, ManualClock};
use core_runtime::probe::Probes;
use hybrid_abi::probe::file::{ChunkKind, Piece, Pieces, TraceHeader, records_of};
use hybrid_abi::probe::registers::BANK_BYTES;
use hybrid_abi::probe::{
    CONTROL_BYTES, FREEZE_LATENCY, ProbeHeader, entries, parse_groups, probe_id,
};
use hybrid_abi::region::{RegionHeader, WRITER_PARTITION};
use hybrid_shm::leak_aligned;

use super::keeper::{Keeper, Keeping};
use super::*;
use crate::testing::TempDir;
use crate::warnings::Warnings;

core_runtime::probe! {
    /// An event of the test.
    STEP = "test.step", APP, DEBUG, "a step" (number: NUMBER COUNT);
}

#[test]
fn a_frozen_ring_is_saved_and_thawed_and_a_trace_holds_everything() {
    let dir = TempDir::new("probe-keeper");
    let clock: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1000)));
    let clock = Clock::manual(clock);
    let probes: &'static Probes = Box::leak(Box::new(Probes::off(clock)));
    let ring = leak_aligned(ProbeHeader::part_bytes(1024), 128);
    let control = leak_aligned(CONTROL_BYTES, 128);
    let switch = ProbeSwitch::new(control, clock);
    let wishes = ProbeWishes {
        mask: parse_groups("app").expect("a group"),
        freeze_over: FreezeOver { latency: Duration::from_micros(50), ..FreezeOver::default() },
        flight_dir: Some(dir.path().join("flights")),
        flights: 1,
        trace: Some(dir.path().join("all.hytrace")),
        drops: false,
    };
    switch.apply(&wishes);
    let bank = leak_aligned(BANK_BYTES, 128);
    probes.attach(ring, bank, control.read_only(), 1024).expect("it fits");
    let region = RegionHeader {
        tsc_hz: 1_000_000_000,
        incarnation: 1,
        partition: 5,
        ..RegionHeader::blank(WRITER_PARTITION)
    };
    let origin = Origin { name: "p".into(), region, program: "/proc/self/exe".into() };
    let keeper = Keeper::start(Keeping {
        ring: ring.read_only(),
        task_names: None,
        origin,
        switch,
        wishes,
        warnings: Warnings::to(|_| {}),
    })
    .expect("a thread");
    for number in 0..10 {
        STEP.emit(probes, number, 0, 0);
    }
    probes.check_latency(Ticks::new(60_000));
    STEP.emit(probes, 99, 0, 0);
    let begun = Instant::now();
    while !probes.begin_pass(clock.now()) {
        assert!(begun.elapsed() < Duration::from_secs(30), "nobody thaws it");
        std::thread::yield_now();
    }
    STEP.emit(probes, 10, 0, 0);
    // The one flight is used up: nothing freezes any more.
    probes.check_latency(Ticks::new(60_000));
    STEP.emit(probes, 11, 0, 0);
    keeper.finish();
    let step = probe_id("test.step");
    let flight = read(&dir.path().join("flights/p-5-1-1.hytrace"));
    assert_eq!((flight.0.freeze_reason, flight.0.freeze_value), (FREEZE_LATENCY, 60_000));
    let expected: Vec<_> = (0..10).map(|n| (step, n)).collect();
    assert_eq!(flight.1[..10], expected);
    assert_eq!(flight.1[10], (probe_id("trace.freeze"), FREEZE_LATENCY));
    assert_eq!(flight.1.len(), 11);
    let all = read(&dir.path().join("all.hytrace"));
    assert_eq!(all.1.len(), 14);
    assert_eq!(all.1[11].0, probe_id("trace.thaw"));
    assert_eq!(all.1[12..], [(step, 10), (step, 11)]);
}

#[test]
fn a_ring_that_drops_loses_nothing_that_it_took_and_one_that_nobody_keeps_is_not_frozen() {
    let dir = TempDir::new("probe-drops");
    let clock: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1000)));
    let clock = Clock::manual(clock);
    let probes: &'static Probes = Box::leak(Box::new(Probes::off(clock)));
    let ring = leak_aligned(ProbeHeader::part_bytes(16), 128);
    let control = leak_aligned(CONTROL_BYTES, 128);
    let switch = ProbeSwitch::new(control, clock);
    let path = dir.path().join("all.hytrace");
    let wishes = ProbeWishes {
        mask: parse_groups("app").expect("a group"),
        trace: Some(path.clone()),
        drops: true,
        ..ProbeWishes::default()
    };
    switch.apply(&wishes);
    probes.attach(ring, leak_aligned(BANK_BYTES, 128), control.read_only(), 16).expect("it fits");
    for number in 0..20 {
        STEP.emit(probes, number, 0, 0);
    }
    assert_eq!((probes.written(), probes.dropped()), (15, 5));
    assert_eq!(switch.freeze(), Err(NotKept));
    let keeper = Keeper::start(Keeping {
        ring: ring.read_only(),
        task_names: None,
        origin: Origin {
            name: "p".into(),
            region: RegionHeader::blank(WRITER_PARTITION),
            program: "/proc/self/exe".into(),
        },
        switch: switch.clone(),
        wishes,
        warnings: Warnings::to(|_| {}),
    })
    .expect("a thread");
    // What it has read makes room: as many again go in, sooner or later.
    let begun = Instant::now();
    let mut tries = 0;
    while probes.written() < 15 + 1000 {
        assert!(begun.elapsed() < Duration::from_secs(30), "nobody says what was read");
        STEP.emit(probes, 100, 0, 0);
        tries += 1;
    }
    assert_eq!(probes.written() + probes.dropped(), 20 + tries);
    let before = probes.written();
    assert_eq!(switch.freeze(), Ok(()));
    probes.begin_pass(clock.now());
    while probes.mask() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "nobody thaws it");
        std::thread::yield_now();
        probes.begin_pass(clock.now());
    }
    keeper.finish();
    assert_eq!(switch.freeze(), Err(NotKept));
    let (header, records) = read(&path);
    assert_eq!(header.name.as_str(), "p");
    let step = probe_id("test.step");
    let steps: Vec<u32> = records.iter().filter(|(id, _)| *id == step).map(|(_, n)| *n).collect();
    assert_eq!(steps[..15], (0..15).collect::<Vec<_>>());
    assert_eq!(steps.len() as u64, before, "everything that was written was read");
}

/// Header, and identifier and first field of each record.
fn read(path: &std::path::Path) -> (TraceHeader, Vec<(u32, u32)>) {
    let file = std::fs::read(path).expect("a file");
    let header = TraceHeader::parse(&file).expect("a header");
    let (mut records, mut kinds) = (Vec::new(), Vec::new());
    for piece in Pieces::of(&file) {
        let Piece::Chunk { kind, payload, .. } = piece else { panic!("{piece:?}") };
        kinds.push(kind);
        match kind {
            ChunkKind::DICTIONARY => {
                assert!(entries(payload).any(|entry| entry.name.as_str() == "test.step"));
            }
            ChunkKind::RECORDS => {
                let (_, bytes) = records_of(payload).expect("records");
                records.extend(bytes.chunks(32).map(|bytes| {
                    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| bytes[at + n]));
                    (word(8), word(12))
                }));
            }
            _ => {}
        }
    }
    assert_eq!(kinds.first(), Some(&ChunkKind::DICTIONARY));
    assert_eq!(kinds.last(), Some(&ChunkKind::END));
    (header, records)
}
