//! Saved dumps, printed as they were when they were saved: what a drill left on a machine, by a
//! panic and by a SIGKILL. A change of the format that no longer reads them fails here.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn dumps() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dumps")
}

fn run(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_probe-util");
    Command::new(program).current_dir(dumps()).args(args).output().expect("it starts")
}

/// What it printed is what stands in the file beside the dump.
fn prints(args: &[&str], golden: &str) {
    let output = run(args);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let expected = std::fs::read_to_string(dumps().join(golden)).expect("the expected text");
    let printed = String::from_utf8(output.stdout).expect("text");
    for (number, (is, was)) in printed.lines().zip(expected.lines()).enumerate() {
        assert_eq!(is, was, "line {} of {golden}", number + 1);
    }
    assert_eq!(printed.lines().count(), expected.lines().count(), "{golden}");
}

#[test]
fn a_saved_panic_is_printed_as_before() {
    prints(&["dump", "panic.hycrash"], "panic.txt");
    prints(&["dump", "panic.hycrash", "--json"], "panic.json");
}

#[test]
fn a_saved_kill_is_printed_as_before() {
    prints(&["dump", "killed.hycrash"], "killed.txt");
    prints(&["dump", "killed.hycrash", "--json"], "killed.json");
}

/// Of this version of the ABI: with the last events, which were on, and what they are called.
#[test]
fn a_saved_fault_is_printed_with_its_last_events_as_before() {
    prints(&["dump", "events.hycrash"], "events.txt");
    prints(&["dump", "events.hycrash", "--json"], "events.json");
    let text = std::fs::read_to_string(dumps().join("events.txt")).expect("the text");
    let (_, events) = text.split_once("\nlast events, by their age").expect("events");
    let events = events.lines().skip(1).take_while(|line| !line.is_empty());
    let names: Vec<_> = events.filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(names.len(), 128);
    for name in ["driver.submit", "driver.complete", "sched.poll"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    assert!(!text.contains("unknown 0x"), "each has its name");
}

#[test]
fn a_cut_dump_is_printed_as_far_as_it_goes_and_is_an_error_with_its_place() {
    let whole = std::fs::read(dumps().join("panic.hycrash")).expect("a dump");
    let path = std::env::temp_dir().join(format!("probe-util-{}.hycrash", std::process::id()));
    std::fs::write(&path, &whole[..whole.len() / 2]).expect("a file");
    let output = run(&["dump", path.to_str().expect("a path")]);
    std::fs::remove_file(&path).expect("it was there");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.contains(&format!("at byte {}: the file has", whole.len() / 2)), "{said}");
    let printed = String::from_utf8(output.stdout).expect("text");
    assert!(printed.lines().next().expect("a line").contains("died: panic: "), "{printed}");
}

#[test]
fn wrong_files_and_wrong_usage_end_with_1_and_a_line() {
    let said = |args: &[&str]| {
        let output = run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    assert!(said(&["dump", "absent"]).starts_with("probe-util: reading absent: "));
    assert!(said(&["dump", "panic.txt"]).starts_with("probe-util: panic.txt is no crash dump: "));
    assert!(said(&["dump"]).contains("Usage"));
    assert!(said(&["fly"]).contains("unrecognized subcommand"));
    let nobody = ["--run-dir", "/nonexistent"];
    for command in [&["metrics"][..], &["jitter"], &["top", "--once"], &["top", "--json"]] {
        let line = said(&[command, &nobody[..]].concat());
        let start = "probe-util: no such partition runs (looked in /nonexistent); ";
        assert!(line.starts_with(start), "{command:?}: {line}");
    }
    assert!(said(&["top"]).starts_with("probe-util: stdout is no terminal; --once prints"));
    assert!(said(&["top", "-d", "1ms"]).contains("at least 50ms is allowed"));
    let list = run(&[&["list"][..], &nobody].concat());
    assert_eq!((list.status.code(), &list.stdout[..]), (Some(0), &b"no partition runs\n"[..]));
    let help = run(&["dump", "--help"]);
    assert!(help.status.success());
}
