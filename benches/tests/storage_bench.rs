//! Every flag of `storage-bench`, end to end, at a size that shows that it works.

use std::path::PathBuf;
use std::process::{Command, Output};

use hybrid_abi::probe::file::{ChunkKind, Piece, Pieces, TraceHeader, records_of};
use hybrid_abi::probe::{FREEZE_LATENCY, ProbeRecord, RECORD_BYTES, probe_id};
use hybrid_conventions::testing::skipped;
use serde_json::Value;
use zerocopy::FromBytes as _;

/// Tiny, but long enough for a clean window on a machine that is busy.
const SMALL: &str = "-t 60ms --repetitions 2 -a 2ms";

/// The same where nothing warms up.
const COLD: &str = "-t 60ms --repetitions 2";

/// Whether two sides fit on this machine.
fn two_cpus(test: &str) -> bool {
    let enough = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
    if !enough {
        skipped(test, "this process may use one CPU only");
    }
    enough
}

fn run(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_storage-bench"));
    command.args(line.split_ascii_whitespace());
    command.output().expect("it starts")
}

/// A small run on 4 MiB.
fn small(line: &str) -> String {
    right(&format!("{SMALL} --model-size 4M {line}"))
}

/// A run that must end with 0.
fn right(line: &str) -> String {
    let output = run(&format!("--quiet {line}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{line}\n{text}\n{error}");
    text
}

fn json(line: &str) -> Value {
    serde_json::from_str(&small(&format!("--json {line}"))).expect("json")
}

fn cold_json(line: &str) -> Value {
    serde_json::from_str(&right(&format!("--json {COLD} {line}"))).expect("json")
}

fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Paths of all values, numbers and texts by their kind: what readers rely on.
fn shape(value: &Value, path: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = if key.parse::<f64>().is_ok() { "N" } else { key };
                shape(value, &format!("{path}.{key}"), out);
            }
        }
        Value::Array(list) => list.iter().for_each(|v| shape(v, &format!("{path}[]"), out)),
        Value::Null => out.push(format!("{path} null")),
        Value::Bool(_) => out.push(format!("{path} bool")),
        Value::Number(n) if n.is_f64() => out.push(format!("{path} number")),
        Value::Number(_) => out.push(format!("{path} integer")),
        Value::String(_) => out.push(format!("{path} text")),
    }
}

/// Fields that another machine gives otherwise: one with a governor, with hardware counters,
/// without a gap in its core's time.
const OPEN: [&str; 4] = [".machine.governor", ".machine.stolen_ms", ".counters", ".noise.gap"];

/// A line of the shape, open fields by their name alone.
fn settled(line: &str) -> String {
    let open = OPEN.iter().find(|field| line.starts_with(**field));
    open.map_or_else(|| line.to_owned(), |field| format!("{field} any"))
}

#[test]
fn the_json_has_its_golden_shape() {
    if !two_cpus("json") {
        return;
    }
    let value = json("-L -q 4");
    assert_eq!((&value["schema"], &value["on"]), (&"storage-bench/1".into(), &"model".into()));
    let mut lines = Vec::new();
    shape(&value, "", &mut lines);
    let mut seen: Vec<String> = lines.iter().map(|line| settled(line)).collect();
    seen.sort();
    seen.dedup();
    let golden = include_str!("data/storage-bench-1.shape");
    assert_eq!(
        seen.join("\n"),
        golden.trim_end(),
        "the format is a promise: see docs/benchmarks.md"
    );
}

#[test]
fn closed_loops_of_every_workload() {
    if !two_cpus("closed loops") {
        return;
    }
    for (line, reads) in [
        ("-w randread", Some(100)),
        ("-w randwrite", Some(0)),
        ("-w randrw -M 30", Some(30)),
        ("-w randrw", Some(70)),
        ("-w read -o 16k", Some(100)),
        ("-w write -o 128k -q 4", Some(0)),
        ("--dist zipf:0.99 -q 1", None),
        ("--dist hotspot:20/80 --queues 3 -q 48", None),
        ("--futures -q 8 --seed 7 -w randrw -M 40", Some(40)),
        ("--model-null --model-lba 512 -o 512", None),
        ("--model-latency 20us -q 2", None),
    ] {
        let value = json(line);
        let result = &value["result"];
        assert!(result["iops_with_everything"].as_f64() > Some(0.0), "{line}: {result}");
        if let Some(reads) = reads {
            assert_eq!(value["job"]["read_percent"], reads, "{line}");
            let share = result["write_share"].as_f64().expect("a share") * 100.0;
            assert!((share - f64::from(100 - reads)).abs() < 8.0, "{line}: {share} % writes");
        }
    }
}

#[test]
fn latency_detail_comes_when_it_is_asked_for() {
    if !two_cpus("latency") {
        return;
    }
    let timed = json("-q 8 -L --futures");
    assert!(timed["result"]["latency"]["read"]["count"].as_u64() > Some(0), "{timed:#}");
    assert!(timed["result"]["latency"]["read_undisturbed"]["count"].as_u64() > Some(0));
    let plain = small("-q 8");
    assert!(plain.contains("average by Little's law") && !plain.contains("99.999 %"), "{plain}");
    let detailed = small("-q 8 -L");
    assert!(detailed.contains("99.999 %") && !detailed.contains("histogram"), "{detailed}");
    assert!(small("-q 8 -LL").contains("histogram, from us"));
    let single = small("-q 1");
    assert!(single.contains("99.999 %"), "depth 1 is always timed:\n{single}");
    for word in
        ["on        model: a software controller", "our cost", "core      alone", "counters"]
    {
        assert!(single.contains(word), "no {word} in:\n{single}");
    }
}

#[test]
fn open_loops_keep_latency_bounded_and_count_who_was_turned_away() {
    if !two_cpus("open loop") {
        return;
    }
    let value = json("--rate 3x --backlog 16 -q 4");
    let arrivals = &value["result"]["arrivals"];
    assert!(arrivals["rejected"].as_u64() > Some(0), "three times the capacity: {arrivals}");
    assert_eq!(arrivals["backlog_most"], 16);
    // Little's law: no more than backlog and depth are ever in it, so that is what one takes.
    let read = &value["result"]["latency"]["read"];
    let (mean, bound) = (read["mean_ns"].as_f64(), arrivals["bound_ns"].as_f64());
    let (mean, bound) = (mean.expect("a mean"), bound.expect("a bound"));
    assert!(mean <= 1.1 * bound, "{mean} ns on average, at most {bound} ns: {arrivals}");
    let served = read["count"].as_u64().expect("a count");
    let turned = arrivals["rejected"].as_u64().expect("a count");
    assert_eq!(Some(served + turned), arrivals["count"].as_u64(), "all are accounted for");
    // Room for all of them: on however crowded a machine, what was due is served and counted.
    let value = json("--rate 20k --arrivals fixed --bursty 4 --backlog 4096 -q 4");
    let arrivals = &value["result"]["arrivals"];
    let count = arrivals["count"].as_u64().expect("a count");
    // In each repetition the last four are due when it ends, or a tick later.
    assert!((1192..=1200).contains(&count) && arrivals["rejected"] == 0, "{arrivals}");
    let latency = &value["result"]["latency"]["read"];
    assert_eq!(latency["count"], count, "each has its time: {latency}");
}

#[test]
fn bursts_batches_and_the_stepped_model_are_measured() {
    if !two_cpus("bursts") {
        return;
    }
    let value = json("--burst 16");
    assert_eq!(value["result"]["burst"], 16);
    assert!(value["result"]["submit_ticks"].as_f64() > Some(0.0), "{value:#}");
    let each = small("--burst 8 --doorbell-each");
    assert!(each.contains("a doorbell each") && each.contains("empty poll"), "{each}");
    for batch in [1, 8000] {
        let value = json(&format!("--batch {batch} -q 16"));
        assert!(value["result"]["latency"]["read"]["count"].as_u64() > Some(0), "{value:#}");
    }
    let value = cold_json("--stepped");
    let rows = value["result"]["rows"].as_array().expect("rows");
    assert!(rows.iter().all(|row| row["sum_ticks"].as_f64() > Some(0.0)), "{rows:#?}");
}

#[test]
fn verification_passes_and_notices_every_fault() {
    if !two_cpus("verify") {
        return;
    }
    for dist in ["uniform", "zipf:0.9", "hotspot:10/90"] {
        let line = format!("--model-size 4M --verify -w randrw -M 50 -q 16 --dist {dist}");
        let value = cold_json(&line);
        let result = &value["result"];
        assert!(result["compared"].as_u64() > Some(1000), "{result}");
        for fault in ["misdirected", "torn", "stale", "corrupt"] {
            assert_eq!(result[fault], 0, "{dist}: {result}");
        }
    }
    for (fault, found) in
        [("misdirect", "misdirected"), ("torn", "torn"), ("lost", "stale"), ("flip", "corrupt")]
    {
        let line = format!(
            "-t 30ms --repetitions 1 --model-size 16M --quiet --json --verify \
             --model-fault {fault}"
        );
        let output = run(&line);
        assert_eq!(output.status.code(), Some(1), "{fault}");
        let value: Value = serde_json::from_slice(&output.stdout).expect("json");
        assert!(value["result"][found].as_u64() > Some(0), "{fault}: {}", value["result"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("blocks hold other data than they should"), "{error}");
    }
}

#[test]
fn files_are_written_and_compared() {
    if !two_cpus("files") {
        return;
    }
    let [out, csv, page] = ["out.json", "out.csv", "out.html"].map(scratch);
    small(&format!(
        "-q 4 --out {} --csv {} --report {}",
        out.display(),
        csv.display(),
        page.display()
    ));
    let csv = std::fs::read_to_string(csv).expect("written");
    assert!(csv.starts_with("kind,series,value,latency_ns\n"), "{csv}");
    assert!(csv.contains("percentile,all,99.999,") && csv.contains("ecdf,undisturbed,1.000"));
    curves_rise(&csv);
    let page = std::fs::read_to_string(page).expect("written");
    for word in ["<!doctype html>", "<svg", "prefers-color-scheme", "viewport", "p99.9"] {
        assert!(page.contains(word), "no {word} in the page");
    }
    let beside = [out.with_extension("csv"), out.with_extension("hgrm")];
    assert!(beside.iter().all(|file| file.is_file()), "{beside:?}");
    let again = scratch("again.html");
    let hgrm = beside[1].display();
    // Long enough for several pieces, however crowded the machine is.
    let long = "-t 500ms --repetitions 5 -a 2ms --model-size 4M -q 4";
    right(&format!("{long} --report {} --report-beside {hgrm}", again.display()));
    let both = std::fs::read_to_string(again).expect("written");
    for section in ["Throughput over time", "Latency over time", "How quiet the core was"] {
        assert!(both.contains(section), "no {section} in the page");
    }
    assert_eq!(both.matches("class=\"line beside1\"").count(), 2, "it is on both axes");
    for word in ["http://", "https://", "src="] {
        let own = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!own.contains(word), "the page reaches out: {word}");
    }

    let compare = |a: &PathBuf, b: &PathBuf| {
        run(&format!("compare {} {}", a.display(), b.display())).status.code()
    };
    assert_eq!(compare(&out, &out), Some(0));
    let mut worse: Value =
        serde_json::from_str(&std::fs::read_to_string(&out).expect("written")).expect("json");
    for value in worse["figures"][0]["values"].as_array_mut().expect("values") {
        *value = (value.as_f64().expect("a rate") / 3.0).into();
    }
    let slow = scratch("worse.json");
    std::fs::write(&slow, worse.to_string()).expect("written");
    assert_eq!(compare(&out, &slow), Some(2), "a third of the rate is a regression");
    assert_eq!(compare(&slow, &out), Some(0), "and the other way round it is none");

    // What the gate counted is in every result, whatever the machine counts: 9 % more may be.
    let text = std::fs::read_to_string(&out).expect("written");
    for (times, code) in [(1.09, 0), (1.12, 2)] {
        let mut longer: Value = serde_json::from_str(&text).expect("json");
        let figures = longer["figures"].as_array_mut().expect("figures");
        let submit = figures
            .iter_mut()
            .find(|figure| figure["name"] == "instructions of raw-submit-32, counted by the gate")
            .expect("counted");
        assert_eq!(submit["instructions"], true);
        let counted = submit["values"][0].as_f64().expect("a count");
        submit["values"][0] = (counted * times).into();
        let long = scratch("longer.json");
        std::fs::write(&long, longer.to_string()).expect("written");
        assert_eq!(compare(&out, &long), Some(code), "{times} times the instructions");
    }
    assert_eq!(compare(&out, &scratch("nothing.json")), Some(1));
}

/// Each series of the CSV rises, in its value and in its latency, from more than nothing to all.
fn curves_rise(csv: &str) {
    for series in ["percentile,all", "percentile,undisturbed", "ecdf,all", "ecdf,undisturbed"] {
        let row = |line: &str| {
            let (value, ns) = line.strip_prefix(series)?.strip_prefix(',')?.split_once(',')?;
            Some((value.parse::<f64>().expect("a value"), ns.parse::<u64>().expect("a time")))
        };
        let rows: Vec<_> = csv.lines().filter_map(row).collect();
        assert!(rows.len() > 2 && rows[0].1 > 0, "{series}: {rows:?}");
        assert!(rows.is_sorted(), "{series}: {rows:?}");
        let last = if series.starts_with("ecdf") { 1.0 } else { 99.999 };
        assert_eq!(rows[rows.len() - 1].0, last, "{series}");
    }
}

#[test]
fn fios_layout_has_what_plot_scripts_read() {
    if !two_cpus("fio layout") {
        return;
    }
    let value: Value = serde_json::from_str(&small("--fio-json -q 4 -w randrw")).expect("json");
    for side in ["read", "write"] {
        let clat = &value["jobs"][0][side]["clat_ns"];
        for name in ["50.000000", "99.000000", "99.990000"] {
            assert!(clat["percentile"][name].as_u64() > Some(0), "{side} {name}: {clat}");
        }
        assert!(value["jobs"][0][side]["iops"].as_f64() > Some(0.0));
    }
}

#[test]
fn an_image_is_read_and_written_only_when_permitted() {
    if !two_cpus("image") {
        return;
    }
    let image = scratch("bench.img");
    std::fs::File::create(&image).and_then(|file| file.set_len(4 << 20)).expect("an image");
    let line =
        |more: &str| run(&format!("{SMALL} --quiet --device model:{} {more}", image.display()));
    assert_eq!(line("-w randread").status.code(), Some(0));
    let refused = line("-w randwrite");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--allow-writes permits it"));
    assert_eq!(line("-w randwrite --allow-writes").status.code(), Some(0));
}

#[test]
fn the_proposals_table_says_pass_or_fail() {
    if !two_cpus("proposal") {
        return;
    }
    let file = scratch("baseline.tmp");
    let output =
        run(&format!("{} --model-size 4M --quiet --proposal --baseline {}", SMALL, file.display()));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(matches!(output.status.code(), Some(0 | 2)), "{text}");
    for row in ["average latency", "p99 latency", "throughput", "jitter", "on the model"] {
        assert!(text.contains(row), "no {row} in:\n{text}");
    }
    assert!(text.contains("fio reads") || text.contains("no baseline: "), "{text}");
    assert!(!file.exists(), "what was made for fio is removed");
}

/// Header of a trace, and which probes are in it.
fn traced(path: &PathBuf) -> (TraceHeader, Vec<u32>) {
    let file = std::fs::read(path).expect("a trace");
    let mut ids = Vec::new();
    for piece in Pieces::of(&file) {
        let Piece::Chunk { kind, payload, .. } = piece else { panic!("it is damaged") };
        if kind == ChunkKind::RECORDS {
            let (_, records) = records_of(payload).expect("a head");
            let records = records.chunks_exact(RECORD_BYTES);
            ids.extend(records.filter_map(|r| Some(ProbeRecord::read_from_bytes(r).ok()?.id)));
        }
    }
    (TraceHeader::parse(&file).expect("a header"), ids)
}

#[test]
fn probes_are_followed_into_a_file_and_a_slow_command_freezes_them() {
    if !two_cpus("probes of a run") {
        return;
    }
    let (trace, flights) = (scratch("bench.hytrace"), scratch("flights"));
    let _ = std::fs::remove_dir_all(&flights);
    let (to, dir) = (trace.display(), flights.display());
    small(&format!("--trace {to} --freeze-over 1ns --freeze-dir {dir} --freeze-most 1 --futures"));
    let (header, ids) = traced(&trace);
    assert_eq!((header.name.as_str(), header.freeze_reason), ("bench", 0));
    for name in ["sched.poll", "driver.submit", "driver.doorbell", "driver.complete"] {
        assert!(ids.contains(&probe_id(name)), "{name}");
    }
    let saved: Vec<_> = std::fs::read_dir(&flights).expect("a directory").flatten().collect();
    let [saved] = &saved[..] else { panic!("one is saved: {saved:?}") };
    let (header, ids) = traced(&saved.path());
    assert_eq!(header.freeze_reason, FREEZE_LATENCY);
    assert!(ids.contains(&probe_id("driver.latency")) && ids.contains(&probe_id("trace.freeze")));
}

#[test]
fn bad_input_is_one_line_and_an_exit_code() {
    for (line, code, says) in [
        ("-q 4 --queues 8", 1, "raise -q"),
        ("-q 4096", 1, "raise --queues"),
        ("-M 50", 1, "-M is the read share of randrw"),
        ("--futures -q 1000", 1, "256 at most"),
        ("-t 1ms", 1, "lengthen it"),
        ("--verify --model-null", 1, "--model-null has no effect with --verify; allowed"),
        ("--burst 8 --queues 2", 1, "--queues has no effect with --burst; allowed"),
        ("--stepped -q 4", 1, "-q has no effect with --stepped; allowed with it are -t"),
        ("--proposal --csv x", 1, "--csv has no effect with --proposal; allowed with it are"),
        ("--burst 8 --fio-json", 1, "--fio-json has no effect with --burst"),
        ("-w read --dist zipf:1", 1, "--dist is for random workloads"),
        ("--device vfio-user:/x --model-size 4M", 1, "it is for the model without an image"),
        ("--device nothing", 1, "is not understood"),
        ("--device uring:/nowhere/x", 3, "/nowhere/x is not there; make it"),
        ("--device vfio-user:/nowhere/cntrl -w randwrite", 1, "--allow-writes permits it"),
        ("--stepped --device vfio-user:/x", 1, "--device has no effect with --stepped"),
        ("--proposal -w randwrite", 1, "-w has no effect with --proposal; allowed"),
        ("compare /nothing.json /nothing.json", 1, "/nothing.json"),
        ("--out /nowhere/a.json", 1, "/nowhere/a.json: a result needs the name of a file in a"),
    ] {
        let output = run(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {error}");
        assert!(error.contains(says), "{line}: {error}");
        assert_eq!(error.trim_end().lines().count(), 1, "{line}: {error}");
    }
    if !two_cpus("limits of the device") {
        return;
    }
    for (line, says) in [
        ("-o 512", "no multiple of the namespace's blocks"),
        ("-o 1M -q 1", "lower -o"),
        ("--namespace 0", "namespace"),
    ] {
        let output = run(&format!("-t 20ms --repetitions 1 --quiet --model-size 4M {line}"));
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {error}");
        assert!(error.contains(says), "{line}: {error}");
    }
}
