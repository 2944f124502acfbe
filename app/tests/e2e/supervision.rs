//! The partition dies while the program runs: it is told, a dump kept, and the job done again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::feeds;
use crate::machine::Machine;
use crate::run::{Started, kill};
use crate::temp::{TempDir, text};

/// Slow enough that the partition is met at work.
const SLOW: [&str; 4] = ["--model-latency", "2ms", "--queue-depth", "1"];

/// The partition's process, once it is at work.
#[track_caller]
fn partition_of(started: &Started) -> u32 {
    started.partition(None).expect("it ended before its partition began")
}

fn dumps(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[test]
fn a_partition_that_is_killed_leaves_a_dump_and_its_job_is_done_again() {
    let name = "a_partition_that_is_killed_leaves_a_dump_and_its_job_is_done_again";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (day, out) = (dir.file("day.itch", &feeds::day(1, 50, 50_000)), dir.path("bbo.csv"));
    let (kept, whole, hook) = (dir.path("dumps"), dir.path("whole.csv"), dir.path("hook"));
    machine.run(&["replay", text(&day), "--bbo", text(&whole), "--no-probe"]).ok();
    let command = format!("printf '%s %s' \"$HYBRID_REASON\" \"$1\" > {}", text(&hook));
    let mut args = vec!["replay", text(&day), "--bbo", text(&out), "--no-probe", "--json"];
    args.extend(["--dump-dir", text(&kept), "--on-crash", &command, "--spare"]);
    let started = machine.start(&[&args[..], &SLOW].concat());
    assert!(kill("KILL", partition_of(&started)));
    let run = started.wait().ok();
    assert_eq!(run.json()["replay"]["messages"], 50_000);
    let died = run.stderr.lines().find(|line| line.starts_with("alert: ")).expect("an alert");
    assert!(died.contains("incarnation 1) died: killed by signal 9"), "{died}");
    assert!(died.contains("started again at once"), "{died}");
    let dump = &dumps(&kept)[..];
    assert!(dump.len() == 1 && died.contains(text(&dump[0])), "{died}, {dump:?}");
    let said = std::fs::read_to_string(hook).expect("what the command wrote");
    assert_eq!(said, format!("killed {}", text(&dump[0])));
    let (out, whole) = (std::fs::read(out), std::fs::read(whole));
    assert!(out.expect("quotes") == whole.expect("quotes"), "other quotes than without a death");
}

#[test]
fn with_restart_never_a_death_is_the_end() {
    let name = "with_restart_never_a_death_is_the_end";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (day, kept) = (dir.file("day.itch", &feeds::day(1, 50, 50_000)), dir.path("dumps"));
    let args = ["ingest", text(&day), "--restart", "never", "--dump-dir", text(&kept)];
    let started = machine.start(&[&args[..], &SLOW].concat());
    assert!(kill("KILL", partition_of(&started)));
    let run = started.wait();
    assert_eq!(run.code(), Some(1), "{run:?}");
    assert!(run.stderr.contains("died: killed by signal 9"), "{run:?}");
    assert!(run.stderr.contains("not started again"), "{run:?}");
    assert_eq!(dumps(&kept).len(), 1);
}

#[test]
fn a_partition_that_is_stopped_and_let_go_on_survives() {
    let name = "a_partition_that_is_stopped_and_let_go_on_survives";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let day = dir.file("day.itch", &feeds::day(1, 50, 50_000));
    let mut args = vec!["ingest", text(&day), "--heartbeat-timeout", "100ms"];
    args.extend(["--task-timeout", "200ms", "--json"]);
    let started = machine.start(&[&args[..], &SLOW].concat());
    let pid = partition_of(&started);
    assert!(kill("STOP", pid));
    // Far longer than what it would be killed for, were it not stopped.
    assert!(started.runs_for(Duration::from_secs(1)), "it ended");
    assert!(kill("CONT", pid));
    let run = started.wait().ok();
    assert_eq!(run.json()["ingest"]["messages"], 50_000);
    let lines: Vec<_> = run.stderr.lines().filter(|line| line.contains("state T")).collect();
    assert_eq!(lines.len(), 1, "{run:?}");
    assert!(run.stderr.contains("goes on, after having been stopped for"), "{run:?}");
    assert!(!run.stderr.contains("dump"), "{run:?}");
}
