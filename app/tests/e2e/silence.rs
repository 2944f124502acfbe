//! Between *running* and *stopping* the partition neither allocates nor calls the kernel.

use crate::feeds;
use crate::machine::Machine;
use crate::run::Run;
use crate::temp::{TempDir, text};

/// Fails unless the run was silent; skips where the kernel cannot tell.
fn check(name: &str, run: Run) {
    if run.code() == Some(3) && run.stderr.contains("system calls") {
        return hybrid_conventions::testing::skipped(name, run.stderr.trim_end());
    }
    let json = run.ok().json();
    assert_eq!(json["silence"]["heap_allocations"], 0);
    assert_eq!(json["silence"]["system_calls"], 0);
}

#[test]
fn a_day_is_made_and_replayed_without_allocation_and_without_system_call() {
    let name = "a_day_is_made_and_replayed_without_allocation_and_without_system_call";
    let Some(machine) = Machine::of(name) else { return };
    for isolation in ["process", "thread"] {
        let args = ["--messages", "300k", "--json", "--check-silence", "--isolation", isolation];
        check(name, machine.run(&args));
    }
}

#[test]
fn a_replay_with_a_file_of_quotes_is_silent_too() {
    let name = "a_replay_with_a_file_of_quotes_is_silent_too";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (out, feed, (device, _)) = (dir.path("bbo.csv"), feeds::small(), dir.image("day.img"));
    let mut args = vec!["replay", text(&feed), "--json", "--check-silence", "--bbo", text(&out)];
    args.extend(["--device", &device, "--no-probe"]);
    check(name, machine.run(&args));
}

#[test]
fn a_refused_feed_and_questions_are_silent_too() {
    let name = "a_refused_feed_and_questions_are_silent_too";
    let Some(machine) = Machine::of(name) else { return };
    let run = machine.run(&["id-ctrl", "--check-silence", "--json"]);
    if run.code() == Some(3) && run.stderr.contains("system calls") {
        return hybrid_conventions::testing::skipped(name, run.stderr.trim_end());
    }
    run.ok();
}

#[test]
fn system_calls_are_not_told_of_when_nobody_asked() {
    let name = "system_calls_are_not_told_of_when_nobody_asked";
    let Some(machine) = Machine::of(name) else { return };
    let feed = feeds::small();
    let args = ["replay", text(&feed), "--json", "--no-probe", "--isolation", "thread"];
    let json = machine.run(&args).ok().json();
    assert!(json["silence"]["system_calls"].is_null());
    assert_eq!(json["silence"]["heap_allocations"], 0);
    assert_eq!(json["machine"]["isolation"], "thread");
}

#[test]
fn a_process_makes_no_system_call_and_takes_no_page_fault_without_being_asked() {
    let name = "a_process_makes_no_system_call_and_takes_no_page_fault_without_being_asked";
    let Some(machine) = Machine::of(name) else { return };
    let feed = feeds::small();
    let json = machine.run(&["replay", text(&feed), "--json", "--no-probe"]).ok().json();
    assert_eq!(json["machine"]["isolation"], "process");
    for what in ["system_calls", "heap_allocations", "page_faults"] {
        assert_eq!(json["silence"][what], 0, "{what}");
    }
}
