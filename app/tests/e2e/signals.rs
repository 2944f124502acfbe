//! SIGINT and SIGTERM end a run in order: results flushed, the exit code of the signal.

use std::time::{Duration, Instant};

use hybrid_abi::feed::{CHUNK_MAGIC, SUPERBLOCK_BYTES, Superblock};

use crate::feeds;
use crate::machine::Machine;
use crate::run::Started;
use crate::temp::{TempDir, text};

/// A day in 24 chunks, on a device on which each takes 160 ms: 16 commands of 4 KiB, one after the
/// other.
const SLOW: [&str; 6] = ["--model-latency", "10ms", "--queue-depth", "1", "--max-transfer", "4k"];

fn slow_day() -> Vec<u8> {
    feeds::day(1, 50, 50_000)
}

/// Waits until `ready`, as long as the program runs.
#[track_caller]
fn wait_until(started: &Started, mut ready: impl FnMut(u32) -> bool) {
    let begun = Instant::now();
    while !ready(started.id()) {
        assert!(started.runs_for(Duration::from_millis(1)), "it ended before the signal");
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing happens");
    }
}

/// Whether the process has a handler for SIGINT and SIGTERM.
fn catches_signals(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let bit = |signal: u32| caught >> (signal - 1) & 1;
    bit(2) == 1 && bit(15) == 1
}

#[test]
fn an_interrupted_ingest_ends_with_130_and_its_image_is_refused_as_incomplete() {
    let name = "an_interrupted_ingest_ends_with_130_and_its_image_is_refused_as_incomplete";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (day, (device, image)) = (dir.file("day.itch", &slow_day()), dir.image("day.img"));
    let ingest = ["ingest", text(&day), "--device", &device];
    let size = ["--model-size", "4M", "--json"];
    let started = machine.start(&[&ingest[..], &size, &SLOW].concat());
    // Until the second chunk begins to be there.
    let second = SUPERBLOCK_BYTES + feed_handler::handler::CHUNK_BYTES as usize;
    wait_until(&started, |_| {
        let bytes = std::fs::read(&image).unwrap_or_default();
        bytes.get(second..second + 8) == Some(&CHUNK_MAGIC.to_le_bytes())
    });
    started.signal("INT");
    let run = started.wait();
    assert_eq!(run.code(), Some(130), "{run:?}");
    let json = run.json();
    assert_eq!(json["interrupted"], true);
    assert!(json["ingest"]["messages"].as_u64().is_some_and(|m| m < 50_000), "{json}");
    assert!(json["replay"].is_null(), "{json}");
    let superblock = Superblock::parse(&std::fs::read(&image).expect("the image"));
    assert!(!superblock.expect("a superblock").is_complete());

    let run = machine.run(&["replay", "--device", &device]);
    run.refused(1, &["the feed on the device is incomplete", "ingest it again"]);
    // Which works, since what is there is ours.
    machine.run(&ingest).ok();
    machine.run(&["replay", "--device", &device, "--no-probe"]).ok();
}

#[test]
fn an_interrupted_replay_flushes_the_quotes_so_far() {
    let name = "an_interrupted_replay_flushes_the_quotes_so_far";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (day, out) = (dir.file("day.itch", &slow_day()), dir.path("bbo.csv"));
    let device = dir.image("day.img").0;
    machine.run(&["ingest", text(&day), "--device", &device]).ok();
    let replay = ["replay", "--device", &device, "--no-probe", "--bbo", text(&out), "--json"];
    machine.run(&replay).ok();
    let whole = std::fs::read_to_string(&out).expect("quotes");
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let started = machine.start(&[&replay[..], &SLOW].concat());
        wait_until(&started, catches_signals);
        // Some chunks later; the test is right, if weaker, wherever the signal falls.
        assert!(started.runs_for(Duration::from_millis(900)), "it ended before the signal");
        started.signal(signal);
        let run = started.wait();
        assert_eq!(run.code(), Some(code), "{run:?}");
        assert!(!run.stderr.contains("panicked"), "{run:?}");
        if !run.stdout.is_empty() {
            let json = run.json();
            assert_eq!(json["interrupted"], true);
            assert!(json["replay"]["messages"].as_u64().is_some_and(|m| m < 50_000), "{json}");
        }
        let part = std::fs::read_to_string(&out).expect("quotes");
        assert!(part.ends_with('\n'), "the last row is whole");
        assert!(part.len() < whole.len(), "it was not interrupted");
        let rows = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
        let (part, whole) = (rows(&part), rows(&whole));
        // Where only one symbol was seen, its rows have no leading column yet.
        let named = part.first().is_some_and(|row| row.split(',').count() == 5);
        assert!(!named || whole.starts_with(&part), "the rows are the first ones");
    }
}

#[test]
fn a_terminated_day_ends_with_143() {
    let name = "a_terminated_day_ends_with_143";
    let Some(machine) = Machine::of(name) else { return };
    let started = machine.start(&[&["--messages", "300k"][..], &SLOW].concat());
    wait_until(&started, catches_signals);
    started.signal("TERM");
    let run = started.wait();
    assert_eq!(run.code(), Some(143), "{run:?}");
    assert!(!run.stderr.contains("panicked"), "{run:?}");
}
