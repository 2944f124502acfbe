//! `storage-bench` on storage of the host's kernel: the bridge, and the ladder, at a size that
//! shows that they work.

use std::path::PathBuf;
use std::process::{Command, Output};

use hybrid_conventions::testing::skipped;
use serde_json::Value;

fn two_cpus(test: &str) -> bool {
    let enough = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
    if !enough {
        skipped(test, "this process may use one CPU only");
    }
    enough
}

/// Runs it where no fio is found.
fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_storage-bench"));
    command.env("PATH", "/nowhere").args(args).output().expect("it starts")
}

fn image(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let block: Vec<u8> = (0..1 << 20).map(|at: u32| at.to_le_bytes()[0] | 1).collect();
    std::fs::write(&path, block.repeat(4)).expect("an image");
    path
}

#[test]
fn reads_writes_and_verification_go_over_the_bridge() {
    if !two_cpus("reads_writes_and_verification_go_over_the_bridge") {
        return;
    }
    let image = image("bridge.img");
    let device = format!("uring:{}", image.display());
    let common = ["-t", "100ms", "--repetitions", "2", "--quiet", "--device", &device];
    for more in [
        &["-q", "4", "--json"][..],
        &["-q", "4", "--json", "-w", "randwrite", "--allow-writes"],
        &["-q", "4", "--json", "--futures"],
        &["-q", "8", "--json", "--verify", "--allow-writes"],
    ] {
        let output = run(&[&common[..], more].concat());
        let (text, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{more:?}\n{text}\n{error}");
        let value: Value = serde_json::from_str(&text).expect("json");
        assert_eq!(value["on"], "host's kernel over io_uring", "{more:?}");
    }
    let output = run(&[&common[..], &["--queues", "2", "-q", "4"]].concat());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("gives 1 i/o queues"), "{error}");
}

#[test]
fn the_ladder_has_a_row_for_each_way_and_a_reason_for_each_that_is_not_here() {
    if !two_cpus("the_ladder_has_a_row_for_each_way_and_a_reason_for_each_that_is_not_here") {
        return;
    }
    let image = image("ladder.img");
    let path = image.to_str().expect("text");
    let args = ["--ladder", path, "-t", "400ms", "--repetitions", "2", "-a", "2ms", "-q", "8"];
    let output = run(&[&args[..], &["--json", "--quiet"]].concat());
    let (text, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // 2: a goal was missed, which a machine that is busy may do.
    assert!(matches!(output.status.code(), Some(0 | 2)), "{text}\n{error}");
    let value: Value = serde_json::from_str(&text).expect("json");
    let sheet = value["sheets"]["rungs"].clone();
    let rows = sheet["rows"].as_array().unwrap_or_else(|| panic!("{value:#}"));
    let notes = sheet["notes"].to_string();
    let row = |rung, depth| {
        let row = rows.iter().find(|row| row["rung"] == rung && row["depth"] == depth);
        let row = row.unwrap_or_else(|| panic!("no {rung} at depth {depth}\n{value:#}"));
        assert!(row["iops"].as_f64().is_some_and(|iops| iops > 0.0), "{row}");
        row
    };
    for rung in ["psync", "io_uring, interrupts", "+ fixed buffers, files"] {
        for depth in [1, 8] {
            let row = row(rung, depth);
            assert_eq!(row["fio iops"], "fio is not installed");
            assert_eq!(row["to before"].is_null(), rung == "psync", "like beside like: {row}");
        }
    }
    // On a file with two CPUs nothing is in the way of either.
    for rung in ["partition, uring", "partition, model"] {
        // Counted by the kernel, where it lets a listener in.
        assert!(matches!(row(rung, 8)["calls/s"].as_f64(), None | Some(0.0)), "{value:#}");
    }
    for rung in ["+ SQPOLL", "+ IOPOLL", "+ passthrough"] {
        for depth in [1, 8] {
            let there = rows.iter().any(|row| row["rung"] == rung && row["depth"] == depth);
            let reason = notes.contains(&format!("{rung}, depth {depth}: not here: "));
            assert!(there != reason, "{rung}: neither a row nor a reason, or both\n{value:#}");
        }
    }
    let lines = value.to_string();
    assert!(lines.contains("NOP with SQPOLL") && lines.contains("fdatasync"), "{lines}");
}

#[test]
fn a_ladder_that_would_write_or_cannot_be_climbed_says_so() {
    for (args, words) in [
        (&["--ladder", "/tmp/x.img", "-w", "randwrite"][..], "--allow-writes"),
        (&["--ladder", "/tmp/x.img", "-w", "randrw"], "not -w randrw"),
        (&["--ladder", "/nowhere/x.img"], "/nowhere/x.img"),
    ] {
        let output = run(args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
        assert!(error.contains(words), "{args:?}: {error}");
    }
}
