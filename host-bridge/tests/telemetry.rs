//! Figures of a real partition, as Prometheus, a control client and a reader of its region see
//! them.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use core_runtime::partition::{Partition, PartitionExit, PartitionState, StopReason};
use host_bridge::PartitionHandle;
use host_bridge::supervisor::counters::Counters;
use host_bridge::telemetry::Telemetry;
use host_bridge::telemetry::control::ControlSocket;
use host_bridge::telemetry::export::{ExportOptions, Exports};
use host_bridge::telemetry::families::help_of;
use host_bridge::telemetry::http::Listen;
use hybrid_conventions::testing::skipped;
use nvme_driver::DeviceParts;
use serde_json::{Value, json};

/// Model I/O until it is asked to stop.
fn work_for_ever(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    common::work(partition, device, u64::MAX, common::no_plant)
}

/// A sample: name, labels as they stand, value.
type Sample = (String, String, f64);

/// What a strict reader of the text format believes; panics where a line is not of it.
struct Scrape {
    kinds: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

impl Scrape {
    fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'));
        let (mut kinds, mut samples) = (BTreeMap::new(), Vec::new());
        let mut family = String::new();
        let mut helped = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help text");
                assert!(!help.is_empty() && !helped.contains(&name.to_owned()), "{line}");
                helped.push(name.to_owned());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a kind");
                assert_eq!(helped.last().map(String::as_str), Some(name), "HELP comes first");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                let known = kinds.insert(name.to_owned(), kind.to_owned());
                assert!(known.is_none(), "a family stands in one place: {line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(is_name(name) && name.starts_with("hybrid_"), "{line}");
                assert!(!name.contains("_ns") && !name.contains("_ticks"), "base units: {line}");
                name.clone_into(&mut family);
            } else {
                samples.push(Self::sample(line, &family, &kinds));
            }
        }
        Self { kinds, samples }
    }

    fn sample(line: &str, family: &str, kinds: &BTreeMap<String, String>) -> Sample {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
        let (name, labels) = series.split_once('{').map_or((series, ""), |(name, labels)| {
            (name, labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}")))
        });
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(name) && !value.contains('\n'), "{line}");
        }
        let histogram = kinds.get(family).is_some_and(|kind| kind == "histogram");
        let stem = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
        let named = if histogram { stem } else { Some(name) };
        assert_eq!(named, Some(family), "{line}");
        (name.to_owned(), labels.to_owned(), value)
    }

    fn value(&self, name: &str) -> f64 {
        let found = self.samples.iter().find(|(there, ..)| there == name);
        found.unwrap_or_else(|| panic!("there is no {name}")).2
    }

    /// Buckets grow, and the last one is the count.
    fn check_histograms(&self) -> usize {
        let histograms = self.kinds.iter().filter(|(_, kind)| *kind == "histogram");
        let names: Vec<_> = histograms.map(|(name, _)| name).collect();
        for name in &names {
            let bucket = format!("{name}_bucket");
            let counts: Vec<_> =
                self.samples.iter().filter(|(there, ..)| *there == bucket).map(|s| s.2).collect();
            assert!(counts.len() > 50 && counts.is_sorted(), "{name}");
            assert_eq!(counts.last(), Some(&self.value(&format!("{name}_count"))), "{name}");
        }
        names.len()
    }
}

fn scrape(at: &Listen) -> Scrape {
    let Listen::Port(address) = at else { panic!("a port") };
    let mut stream = TcpStream::connect(address).expect("the port");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let length = format!("Content-Length: {}", body.len());
    assert!(head.lines().any(|line| line == length), "{head}");
    Scrape::parse(body)
}

/// Asks the control socket; a descriptor that comes beside the answer is not looked at.
fn call(stream: &UnixStream, method: &str, params: &Value) -> Value {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let mut writer = stream;
    writer.write_all(format!("{request}\n").as_bytes()).expect("sent");
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).expect("an answer");
    let mut answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert!(answer.get("error").is_none(), "{answer}");
    answer["result"].take()
}

fn wait_for_reads(partition: &PartitionHandle, reads: u64) {
    let begun = Instant::now();
    while partition.metrics().number("io_completed").unwrap_or(0) < reads {
        assert!(begun.elapsed() < Duration::from_secs(30), "no reads");
        std::thread::yield_now();
    }
}

#[test]
fn a_partition_at_work_is_seen_through_every_way_out() {
    let Some(only) = common::runtime("a_partition_at_work_is_seen_through_every_way_out") else {
        return;
    };
    let runtime = &only.runtime;
    let telemetry = runtime.telemetry();
    telemetry.add_counters(&Counters::default());
    let dir = std::env::temp_dir().join(format!("hybrid-telemetry-{}", std::process::id()));
    let prom = dir.join("hybrid.prom");
    std::fs::create_dir_all(&dir).expect("a directory");
    let options = ExportOptions {
        metrics: Some("127.0.0.1:0".parse().expect("an address")),
        textfile: Some((prom.clone(), Duration::from_secs(3600))),
        run_dir: Some(dir.join("run")),
        program: "test".to_owned(),
    };
    let exports = Exports::start(telemetry, &options, runtime.warnings()).expect("exports");
    let at = exports.metrics_at().expect("a port").clone();
    let spec = common::spec("worker", work_for_ever).with_device(common::model());
    let partition = runtime.spawn(spec).expect("a partition");
    wait_for_reads(&partition, 1000);

    let (first, second) = (scrape(&at), scrape(&at));
    assert!(first.check_histograms() >= 5 && second.check_histograms() >= 5);
    for (name, kind) in &first.kinds {
        assert_eq!(second.kinds.get(name), Some(kind));
        if kind == "counter" {
            assert!(second.value(name) >= first.value(name), "{name} went back");
        }
    }
    assert_eq!(first.value("hybrid_partition_up"), 1.0);
    assert!(first.value("hybrid_io_completed_total") >= 1000.0);
    assert!(first.value("hybrid_poll_to_poll_seconds_sum") > 0.0);
    let parts = ["useful", "empty", "stolen"];
    let time: f64 =
        parts.iter().map(|part| second.value(&format!("hybrid_{part}_seconds_total"))).sum();
    let ran = partition.since(partition.snapshot().running_at).as_secs_f64();
    assert!(time <= ran && time > 0.0, "{time} s of {ran} s");

    what_is_shipped_asks_for_what_is_exported(&second);
    the_documents_table_has_every_family_and_no_other(&second);
    the_control_socket_agrees(telemetry, &dir, &partition);

    partition.request_stop(StopReason::Finished);
    assert_eq!(partition.join().exit.state, PartitionState::Stopped);
    let after = scrape(&at);
    assert_eq!(after.value("hybrid_partition_up"), 0.0);
    assert!(!after.kinds.contains_key("hybrid_io_completed_total"), "it is gone");
    drop(exports);
    let text = std::fs::read_to_string(&prom).expect("the textfile");
    assert_eq!(Scrape::parse(&text).value("hybrid_partition_up"), 0.0);
    assert!(!dir.join("run").join(std::process::id().to_string()).exists());
    std::fs::remove_dir_all(&dir).expect("ours");
}

/// Every name of ours in a text: `hybrid_` and what goes on like a name.
fn names_in(text: &str) -> Vec<String> {
    let mut names: Vec<String> = text
        .match_indices("hybrid_")
        .map(|(at, _)| {
            let rest = text[at..].chars();
            rest.take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Dashboard and rules ask for nothing that is not there.
fn what_is_shipped_asks_for_what_is_exported(scrape: &Scrape) {
    let dashboard = include_str!("../monitoring/grafana-dashboard.json");
    let rules = include_str!("../monitoring/alerts.yml");
    let runbook = include_str!("../../docs/runbook.md");
    let parsed: Value = serde_json::from_str(dashboard).expect("JSON");
    assert!(parsed["panels"].as_array().is_some_and(|panels| panels.len() > 20));
    for (what, text) in [("dashboard", dashboard), ("rules", rules)] {
        let names = names_in(text);
        assert!(names.len() > 8, "{what}: {names:?}");
        for name in names {
            let there = scrape.samples.iter().any(|(series, ..)| *series == name);
            assert!(there, "the {what} asks for {name}, which is not exported");
        }
    }
    let alerts: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in &alerts {
        let anchor = format!("runbook: docs/runbook.md#{}", alert.to_lowercase());
        assert!(rules.contains(&anchor), "{alert} names its runbook");
        assert!(runbook.contains(&format!("\n## {alert}\n")), "{alert} has a runbook");
    }
    assert_eq!(runbook.matches("\n## ").count(), alerts.len(), "no runbook without an alert");
}

/// The first table of `docs/observability.md`. What partitions that talk to each other have beyond
/// the others is told there as well; `mesh.rs` sees it.
fn the_documents_table_has_every_family_and_no_other(scrape: &Scrape) {
    let document = include_str!("../../docs/observability.md");
    let (_, table) = document.split_once("\n| family | what |\n").expect("a table");
    let (table, _) = table.split_once("\n\n").expect("its end");
    let (mesh, told): (Vec<_>, Vec<_>) =
        names_in(table).into_iter().partition(|name| name.starts_with("hybrid_mesh_"));
    let exported: Vec<String> = scrape.kinds.keys().cloned().collect();
    assert_eq!(told, exported, "docs/observability.md, and what is exported");
    assert_eq!(mesh.len(), 5, "{mesh:?}");
}

fn the_control_socket_agrees(
    telemetry: &Telemetry,
    dir: &std::path::Path,
    partition: &PartitionHandle,
) {
    let path = dir.join("run").join(std::process::id().to_string()).join("control.sock");
    let stream = UnixStream::connect(path).expect("the socket");
    let list = call(&stream, "partition_list", &json!({}));
    assert_eq!((&list[0]["name"], &list[0]["state"]), (&json!("worker"), &json!("running")));
    let one = json!({ "partition": "worker" });
    let all = call(&stream, "statistics_get", &one);
    let completed = |value: &Value| value["partitions"][0]["metrics"]["io_completed"].as_u64();
    assert!(completed(&all) >= Some(1000), "{all}");
    let tasks = all["partitions"][0]["tasks"].as_array().expect("tasks");
    assert!(tasks.iter().any(|task| task["polls"].as_u64() > Some(0)), "{tasks:?}");
    call(&stream, "statistics_reset", &one);
    let since = call(&stream, "statistics_get", &one);
    assert!(completed(&since) < completed(&all) && since["partitions"][0]["since_reset"] == true);
    let region = call(&stream, "partition_get_region", &one);
    assert_eq!(region["cpu"], partition.cpu());
    let look = telemetry.partition("worker").expect("there").look().expect("a look");
    assert_eq!(look.header.incarnation, partition.incarnation());
}

#[test]
fn every_metric_of_the_runtime_has_a_help_text_of_its_own() {
    let name = "every_metric_of_the_runtime_has_a_help_text_of_its_own";
    let Some(only) = common::runtime(name) else { return };
    let partition = only.runtime.spawn(common::spec("idle", common::idle)).expect("a partition");
    let unknown = help_of("nothing of ours");
    let begun = Instant::now();
    while partition.metrics().find("polls").is_none() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it makes no pass");
        std::thread::yield_now();
    }
    for metric in partition.metrics().iter().flatten() {
        assert_ne!(help_of(metric.name()), unknown, "{}: add it to families.rs", metric.name());
    }
    partition.request_stop(StopReason::Finished);
    assert_eq!(partition.join().exit.state, PartitionState::Stopped);
    // A second host of one process finds its directory taken over, not in its way.
    let dir = std::env::temp_dir().join(format!("hybrid-again-{}", std::process::id()));
    for _ in 0..2 {
        let socket = ControlSocket::start(only.runtime.telemetry(), &dir, "test").expect("again");
        assert!(socket.path().exists());
    }
    std::fs::remove_dir_all(&dir).expect("ours");
}

/// The file beside the rules has a case for each of them, and one in which nothing is wrong.
#[test]
fn each_rule_fires_for_what_it_is_there_for() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/monitoring");
    let (rules, cases) =
        (include_str!("../monitoring/alerts.yml"), include_str!("../monitoring/alerts-test.yml"));
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(cases.contains(&format!("  - name: {alert}\n")), "{alert} has no case");
        let silent = format!("alertname: {alert}, exp_alerts: []");
        assert!(cases.contains(&silent), "{alert} is silent where nothing is wrong");
    }
    let checked = Command::new("promtool")
        .args(["test", "rules", "alerts-test.yml"])
        .current_dir(folder)
        .output();
    match checked {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(_) => skipped(
            "each_rule_fires_for_what_it_is_there_for",
            "it needs promtool (apt-get install prometheus)",
        ),
    }
}
