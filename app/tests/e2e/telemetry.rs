//! What the program tells while it runs, and that a client can end its partition in order.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::run::Started;
use crate::temp::{TempDir, text};

/// Slow enough that the partition is met at work.
const SLOW: [&str; 4] = ["--model-latency", "2ms", "--queue-depth", "1"];

/// Connects once the socket is there.
fn connect(started: &Started, run_dir: &Path) -> UnixStream {
    let path = run_dir.join(started.id().to_string()).join("control.sock");
    let begun = Instant::now();
    loop {
        match UnixStream::connect(&path) {
            Ok(stream) => return stream,
            Err(error) => {
                assert!(begun.elapsed() < Duration::from_secs(60), "{}: {error}", path.display());
                assert!(started.runs_for(Duration::from_millis(5)), "it ended early");
            }
        }
    }
}

fn call(stream: &UnixStream, method: &str) -> Value {
    let mut writer = stream;
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method });
    writer.write_all(format!("{request}\n").as_bytes()).expect("sent");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer");
    serde_json::from_str(&line).expect("JSON")
}

/// The incarnation that runs, once that is at least `wanted`.
fn incarnation(started: &Started, stream: &UnixStream, wanted: u64) -> u64 {
    let begun = Instant::now();
    loop {
        let list = call(stream, "partition_list");
        let one = &list["result"][0];
        let number = one["incarnation"].as_u64().unwrap_or(0);
        if number >= wanted && one["state"] == "running" {
            return number;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{list}");
        assert!(started.runs_for(Duration::from_millis(5)), "it ended early");
    }
}

#[test]
fn a_client_restarts_and_drains_the_partition_and_every_line_is_json() {
    let name = "a_client_restarts_and_drains_the_partition_and_every_line_is_json";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (run_dir, prom) = (dir.path("run"), dir.path("hybrid.prom"));
    let mut args = vec!["--messages", "50k", "--log", "json", "--run-dir", text(&run_dir)];
    args.extend(["--metrics", "127.0.0.1:0", "--metrics-textfile", text(&prom)]);
    args.extend(["--metrics-every", "10ms"]);
    args.extend(SLOW);
    let started = machine.start(&args);
    let stream = connect(&started, &run_dir);
    assert_eq!(incarnation(&started, &stream, 1), 1);
    let asked = call(&stream, "partition_restart");
    assert_eq!(asked["result"]["asked"], "restart", "{asked}");
    assert_eq!(incarnation(&started, &stream, 2), 2);
    let statistics = call(&stream, "statistics_get");
    let supervision = &statistics["result"]["supervision"];
    assert_eq!(supervision["hybrid_partition_restarts_total"], 1, "{supervision}");
    assert_eq!(supervision["hybrid_crash_dumps_total/panic"], 0, "{supervision}");
    let begun = Instant::now();
    while !std::fs::read_to_string(&prom).expect("whole").contains("_restarts_total 1\n") {
        assert!(begun.elapsed() < Duration::from_secs(60), "the file is not written again");
        assert!(started.runs_for(Duration::from_millis(5)), "it ended early");
    }
    assert_eq!(call(&stream, "partition_drain")["result"]["asked"], "drain");
    drop(stream);
    let run = started.wait();
    let lines: Vec<Value> = run
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}: {run:?}")))
        .collect();
    let events = ["asked", "restarted", "asked"];
    let told: Vec<_> = lines.iter().filter_map(|line| line["event"].as_str()).collect();
    assert_eq!(told[..3], events, "{run:?}");
    assert!(lines.iter().any(|line| {
        line["message"].as_str().is_some_and(|said| said.starts_with("metrics at 127.0.0.1:"))
    }));
    assert!(prom.exists() && std::fs::read_dir(&run_dir).expect("there").next().is_none());
}

#[test]
fn figures_are_served_while_it_runs() {
    let name = "figures_are_served_while_it_runs";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (socket, run_dir) = (dir.path("m.sock"), dir.path("run"));
    let at = format!("unix:{}", socket.display());
    let mut args = vec!["--messages", "50k", "--metrics", &at, "--run-dir", text(&run_dir)];
    args.extend(SLOW);
    let started = machine.start(&args);
    let stream = connect(&started, &run_dir);
    incarnation(&started, &stream, 1);
    let mut scrape = UnixStream::connect(&socket).expect("the metrics' socket");
    scrape.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("sent");
    let mut answer = String::new();
    scrape.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("\nhybrid_partition_up{partition=\"feed-handler\",cpu="), "{answer}");
    assert!(answer.contains("\nhybrid_partition_starts_total 1\n"), "{answer}");
    drop(stream);
    started.signal("TERM");
    let run = started.wait();
    assert_eq!(run.code(), Some(143), "{run:?}");
    assert!(!socket.exists());
}

#[test]
fn a_place_that_cannot_be_had_is_one_line_with_what_to_change() {
    let name = "a_place_that_cannot_be_had_is_one_line_with_what_to_change";
    let Some(machine) = Machine::of(name) else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address").to_string();
    let run = machine.run(&["--messages", "10k", "--metrics", &at, "--no-control"]);
    run.refused(1, &["--metrics", &at, "name another place"]);
    assert!(TcpStream::connect(&at).is_ok(), "the other one still listens");
}

#[test]
fn a_report_is_a_page_that_holds_everything_it_shows() {
    let name = "a_report_is_a_page_that_holds_everything_it_shows";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let page = dir.path("out.html");
    let args = ["--messages", "100k", "--no-control", "--report", text(&page)];
    machine.run(&args).ok();
    let html = std::fs::read_to_string(&page).expect("the page");
    for outside in ["src=", "href=", "@import", "url(", "<script", "<link"] {
        assert!(!html.contains(outside), "{outside} would load something");
    }
    let sites = html.matches("http").count();
    assert_eq!(sites, html.matches("xmlns=\"http://www.w3.org/2000/svg\"").count());
    assert_eq!(html.matches("<svg ").count(), html.matches("</svg>").count());
    assert!(html.matches("<svg ").count() >= 4, "percentiles, tail, throughput, latency");
    for wanted in [
        "<!doctype html>",
        "name=viewport",
        "prefers-color-scheme: dark",
        "Latency by percentile",
        "How many were slower",
        "Throughput over time",
        "Latency over time",
        "How quiet the core was",
        "<th>replay",
        "A software model of a controller",
    ] {
        assert!(html.contains(wanted), "{wanted}");
    }
    assert!(!html.contains("NaN") && !html.contains("inf,"), "every point has a place");
    let csv = std::fs::read_to_string(page.with_extension("csv")).expect("pieces");
    let columns = |line: &str| line.split(',').count();
    assert!(csv.lines().count() > 2 && csv.lines().all(|line| columns(line) == 10), "{csv}");
    for kind in ["reads", "writes"] {
        let path = page.with_extension(format!("{kind}.hgrm"));
        let hgrm = std::fs::read_to_string(path).expect("percentiles");
        assert!(hgrm.contains("Percentile TotalCount") && hgrm.contains("#[Max     ="), "{hgrm}");
    }
    let nowhere = dir.path("no/out.html");
    let run = machine.run(&["--messages", "10k", "--no-control", "--report", text(&nowhere)]);
    assert_eq!(run.code(), Some(1), "{run:?}");
    assert!(run.stderr.contains("--report: ") && run.stderr.contains("is not written"), "{run:?}");
}
