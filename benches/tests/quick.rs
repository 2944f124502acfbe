//! Every benchmark runs at its smallest size and prints its checksum: a broken one is noticed here,
//! not by whoever wants figures.

use std::process::Command;

/// The machine's CPUs that this process may use.
fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs a benchmark with these arguments; its standard output.
fn quick(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {}\n{text}\n{error}", output.status);
    text
}

fn checksum(text: &str) -> &str {
    let line = text.lines().last().expect("a last line");
    let sum = line.strip_prefix("checksum ").unwrap_or_else(|| panic!("no checksum in:\n{text}"));
    assert_eq!(sum.len(), 16, "{line}");
    assert_ne!(sum, "0000000000000000", "nothing was done");
    sum
}

#[test]
fn the_suite_reads_the_same_right_data_each_time() {
    if cpus() < 2 {
        return hybrid_conventions::testing::skipped("suite", "this process may use one CPU only");
    }
    let program = env!("CARGO_BIN_EXE_storage-bench");
    let text = quick(program, &["suite", "--quick"]);
    assert_eq!(checksum(&text), checksum(&quick(program, &["suite", "--quick"])));
    assert!(text.contains("(on: model; tables of vfio-user: vfio-user target)"), "{text}");
    for sheet in [
        "stepped on one core",
        "reads, null",
        "latency, memory",
        "bursts, null",
        "bursts, vfio-user",
    ] {
        assert!(text.contains(sheet), "no {sheet} in:\n{text}");
    }
    for sheet in [
        "depth 1 beside the floor",
        "queue pairs, vfio-user",
        "shapes of load",
        "open loop",
        "the proposal",
        "submit + reap of a 4 KiB read, set-ups in turn",
    ] {
        assert!(text.contains(sheet), "no {sheet} in:\n{text}");
    }
}

#[test]
fn what_a_read_costs_is_told_for_each_set_up_round_by_round() {
    if cpus() < 2 {
        return hybrid_conventions::testing::skipped("cost", "this process may use one CPU only");
    }
    let program = env!("CARGO_BIN_EXE_storage-bench");
    let line = ["suite", "--quick", "--json", "--only", "cost", "--repetitions", "2"];
    let value: serde_json::Value = serde_json::from_str(&quick(program, &line)).expect("json");
    let cost = &value["cost"];
    assert_eq!(cost["rounds"], 2);
    let setups = cost["setups"].as_array().expect("set-ups");
    let on: Vec<_> = setups.iter().filter_map(|setup| setup["on"].as_str()).collect();
    assert_eq!(on, ["model", "model", "vfio-user target"]);
    for setup in setups {
        assert_eq!(setup["rows"].as_array().map(Vec::len), Some(6), "{setup:#}");
    }
    // Stepped, nothing is ever dropped: a value of each round, and the median is one of them.
    let sum = &setups[0]["rows"][3]["sum_ticks"];
    assert_eq!(sum["values"].as_array().map(Vec::len), Some(2), "{sum}");
    assert_eq!(sum["median"], sum["least"], "the lower of two");
    let goals = value["goals"].as_array().expect("goals");
    assert_eq!(goals.len(), 5, "depths 1, 32, 64, 128 and an empty poll: {goals:#?}");
}

#[test]
fn the_runtime_bench_does_the_same_work_each_time() {
    let program = env!("CARGO_BIN_EXE_runtime");
    let text = quick(program, &["--quick"]);
    assert_eq!(checksum(&text), checksum(&quick(program, &["--quick"])));
    for row in ["ring: push + pop of a u64", "task: wake + poll", "probe: on", "arena:", "crc32c"] {
        assert!(text.contains(row), "no {row} in:\n{text}");
    }
}

#[test]
fn the_journal_bench_appends_and_opens() {
    if cpus() < 2 {
        return hybrid_conventions::testing::skipped(
            "journal",
            "this process may use one CPU only",
        );
    }
    let program = env!("CARGO_BIN_EXE_journal-bench");
    let text = quick(program, &["--quick", "--json", "--open-size", "20M"]);
    let value: serde_json::Value = serde_json::from_str(&text).expect("json");
    assert_eq!(value["schema"], "journal-bench/1");
    let rows = value["rows"].as_array().expect("rows");
    let number = |row: &serde_json::Value, name: &str| row[name].as_u64().unwrap_or(0);
    assert!(rows.len() > 15, "{value:#}");
    for row in &rows[..rows.len() - 2] {
        assert!(number(row, "samples") > 0 && number(row, "batches") > 0, "{row:#}");
    }
    // On one core, in rounds, in batches; the opening of 1 GiB is no part of a quick look.
    assert_eq!(value["goals"].as_array().map(Vec::len), Some(3), "{value:#}");
    for goal in value["goals"].as_array().expect("goals") {
        let bound = goal["most"].as_f64().or(goal["least"].as_f64());
        // A machine that others use most of the time says nothing of the log.
        let noisy = goal["what"].as_str().is_some_and(|what| what.contains("quiet rounds"));
        let reached = &goal["reached"];
        assert!(reached.is_number() || noisy && reached.is_null(), "{goal:#}");
        assert!(bound.is_some(), "{goal:#}");
        assert!(goal["missed"].is_boolean(), "{goal:#}");
    }
    let opening = &rows[rows.len() - 1];
    assert!(number(opening, "open_ns") > 0, "{opening:#}");
    assert!(number(opening, "log_bytes") >= 20 << 20 && number(opening, "records") > 1000);
    let output = Command::new(program).arg("--nothing").output();
    assert_eq!(output.expect("it starts").status.code(), Some(1));
}

#[test]
fn reports_are_json_when_asked_for() {
    let suite = ["suite", "--quick", "--json", "--only", "stepped"];
    let runtime = ["--quick", "--json", "--only", "ring"];
    for (program, args, schema) in [
        (env!("CARGO_BIN_EXE_storage-bench"), &suite[..], "storage-bench/1"),
        (env!("CARGO_BIN_EXE_runtime"), &runtime[..], "bench-runtime/1"),
    ] {
        let json: serde_json::Value = serde_json::from_str(&quick(program, args)).expect("json");
        assert_eq!(json["schema"], schema);
        assert_eq!(json["checksum"].as_str().map(str::len), Some(16));
    }
}

#[test]
fn a_part_that_is_not_there_is_an_error_that_names_those_that_are() {
    let runtime = (env!("CARGO_BIN_EXE_runtime"), vec!["--quick", "--only", "nothing"]);
    let suite = vec!["suite", "--quick", "--only", "nothing"];
    for (program, args) in [runtime, (env!("CARGO_BIN_EXE_storage-bench"), suite)] {
        let output = Command::new(program).args(&args).output().expect("it starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("crc32c") || error.contains("memory"), "{error}");
    }
}

#[test]
fn usage_errors_end_with_one() {
    for program in [env!("CARGO_BIN_EXE_storage-bench"), env!("CARGO_BIN_EXE_runtime")] {
        let output = Command::new(program).arg("--nothing").output();
        assert_eq!(output.expect("it starts").status.code(), Some(1));
    }
}
