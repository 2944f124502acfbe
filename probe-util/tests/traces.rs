//! Saved traces, printed as they were when they were saved: a frozen ring of a replay, as it was
//! left by the ABI's version 1. A change of the format that no longer reads it fails here.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn traces() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces")
}

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_probe-util"));
    command.current_dir(traces()).arg("trace").args(args).output().expect("it starts")
}

/// What it printed is what stands in the file beside the trace.
fn prints(args: &[&str], golden: &str) {
    let output = run(args);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let expected = std::fs::read_to_string(traces().join(golden)).expect("the expected text");
    let printed = String::from_utf8(output.stdout).expect("text");
    for (number, (is, was)) in printed.lines().zip(expected.lines()).enumerate() {
        assert_eq!(is, was, "line {} of {golden}", number + 1);
    }
    assert_eq!(printed.lines().count(), expected.lines().count(), "{golden}");
}

/// What it says of a file that is not whole, and what it prints all the same.
fn damaged(bytes: &[u8], name: &str) -> (String, String) {
    let path = std::env::temp_dir().join(format!("probe-util-{}-{name}", std::process::id()));
    std::fs::write(&path, bytes).expect("a file");
    let output = run(&["show", path.to_str().expect("a path")]);
    std::fs::remove_file(&path).expect("it was there");
    assert_eq!(output.status.code(), Some(1));
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stderr), text(output.stdout))
}

#[test]
fn a_saved_flight_is_printed_as_before() {
    prints(&["show", "flight.hytrace"], "flight.txt");
    prints(&["show", "flight.hytrace", "--json"], "flight.jsonl");
    prints(&["show", "flight.hytrace", "--last", "200us", "--group", "driver"], "last.txt");
}

#[test]
fn a_cut_or_torn_trace_is_told_as_far_as_it_goes_and_is_an_error_with_its_place() {
    let whole = std::fs::read(traces().join("flight.hytrace")).expect("a trace");
    let cut = whole.len() - 40;
    let (said, printed) = damaged(&whole[..cut], "cut.hytrace");
    assert!(said.contains(&format!("at byte {cut}: the file was cut short")), "{said}");
    let all = std::fs::read_to_string(traces().join("flight.txt")).expect("text");
    assert_eq!(printed, all, "every record of it is whole");
    // A byte of the dictionary, which is the first chunk, behind the header.
    let mut torn = whole;
    torn[256 + 100] ^= 1;
    let (said, printed) = damaged(&torn, "torn.hytrace");
    assert!(said.contains("at byte 256: a chunk of "), "{said}");
    assert!(said.contains("the dictionary is lost; name the program with --binary"), "{said}");
    assert_eq!(printed.lines().count(), all.lines().count());
    assert!(printed.contains("unknown 0x"), "{printed}");
}

#[test]
fn another_build_is_refused_with_the_way_to_the_right_one() {
    let output = run(&["show", "flight.hytrace", "--binary", env!("CARGO_BIN_EXE_probe-util")]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).expect("text");
    let (_, rest) = said.split_once(" is build ").expect("its own build id");
    assert!(rest.contains("the trace was written by build ") && rest.contains("from /"), "{said}");
    assert!(rest.contains("leave --binary out"), "{said}");
}
