//! What the program tells while it runs, and that a client can end its partition in order.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hybrid_conventions::testing::skipped;
use serde_json::{Value, json};

use crate::feeds;
use crate::machine::Machine;
use crate::run::{PROGRAM, Started};
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
    // As a service's unit has it; the collector is another user all the same.
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; exec \"$0\" \"$@\"", PROGRAM]).args(&args);
    let started = machine.start_command(command);
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
    let mode = std::fs::metadata(&prom).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
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

/// The replay of what the same run has put on the device, begun again by a client in its middle.
#[test]
fn a_run_that_ingested_goes_on_where_its_replay_was_restarted() {
    let name = "a_run_that_ingested_goes_on_where_its_replay_was_restarted";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let day = dir.file("day.itch", &feeds::day(5, 40, 40_000));
    let (whole, again, run_dir) = (dir.path("whole.csv"), dir.path("again.csv"), dir.path("run"));
    machine.run(&["replay", text(&day), "--no-probe", "--bbo", text(&whole)]).ok();
    let mut args = vec!["replay", text(&day), "--no-probe", "--bbo", text(&again)];
    args.extend(["--run-dir", text(&run_dir), "--model-latency", "40ms", "--queue-depth", "1"]);
    let started = machine.start(&args);
    let stream = connect(&started, &run_dir);
    let begun = Instant::now();
    loop {
        let seen = call(&stream, "statistics_get");
        let read = &seen["result"]["partitions"][0]["metrics"]["feed_bytes_read"];
        if read.as_u64().unwrap_or(0) != 0 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{seen}");
        assert!(started.runs_for(Duration::from_millis(1)), "it ended early");
    }
    assert_eq!(call(&stream, "partition_restart")["result"]["asked"], "restart");
    drop(stream);
    started.wait().ok();
    let of = |path| std::fs::read(path).expect("the changes");
    assert!(of(&again) == of(&whole), "each change once");
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
    // It measures the steps of its replay then, too.
    let page = dir.path("out.html");
    args.extend(["--report", text(&page)]);
    let started = machine.start(&args);
    let stream = connect(&started, &run_dir);
    incarnation(&started, &stream, 1);
    let mut scrape = UnixStream::connect(&socket).expect("the metrics' socket");
    scrape.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("sent");
    let mut answer = String::new();
    scrape.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("\nhybrid_partition_up{partition=\"feed-handler\",cpu="), "{answer}");
    assert!(answer.contains("\nhybrid_partition_starts_total 1\n"), "{answer}");
    let families = answer.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut exported: Vec<&str> = families.filter_map(|line| line.split(' ').next()).collect();
    exported.sort_unstable();
    let document = include_str!("../../../docs/observability.md");
    let rows = document.lines().filter(|line| line.starts_with("| `hybrid_"));
    let first = rows.filter_map(|row| row.split(" | ").next());
    let mut told: Vec<&str> = first.flat_map(|names| names.split('`').skip(1).step_by(2)).collect();
    told.retain(|name| !name.starts_with("hybrid_mesh_"));
    told.sort_unstable();
    assert_eq!(told, exported, "docs/observability.md, and what is exported");
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
        "Steps of the replay",
        "Steps of a message, by percentile",
        "A software model of a controller",
    ] {
        assert!(html.contains(wanted), "{wanted}");
    }
    assert!(!html.contains("NaN") && !html.contains("inf,"), "every point has a place");
    let csv = std::fs::read_to_string(page.with_extension("csv")).expect("pieces");
    let columns = |line: &str| line.split(',').count();
    assert!(csv.lines().count() > 2 && csv.lines().all(|line| columns(line) == 10), "{csv}");
    let steps = std::fs::read_to_string(page.with_extension("steps.csv")).expect("steps");
    let steps: Vec<Vec<&str>> = steps.lines().map(|line| line.split(',').collect()).collect();
    let names: Vec<_> = steps.iter().skip(1).map(|step| step[0]).collect();
    assert_eq!(names, ["read", "wait", "check", "slice", "decode", "book", "output"]);
    let number = |step: usize, column: usize| steps[step][column].parse::<u64>().expect("ns");
    for step in 1..steps.len() {
        assert_eq!(steps[step].len(), 9, "{steps:?}");
        assert!(number(step, 2) != 0 && number(step, 4) <= number(step, 7), "{steps:?}");
        assert!(html.contains(&format!("<tr><th>{}, a {}<td", steps[step][0], steps[step][1])));
    }
    assert_eq!(number(2, 2), number(3, 2), "each chunk was waited for and checked");
    assert_eq!(number(5, 2), number(6, 2), "each message was decoded and met the books");
    assert!(number(7, 2) < number(6, 2), "not each message tells something");
    for kind in ["reads", "writes", "wait", "check", "slice", "decode", "book", "output"] {
        let path = page.with_extension(format!("{kind}.hgrm"));
        let hgrm = std::fs::read_to_string(path).expect("percentiles");
        assert!(hgrm.contains("Percentile TotalCount") && hgrm.contains("#[Max     ="), "{hgrm}");
    }
    // What the first run measured, on the second one's axes.
    let (again, reads) = (dir.path("again.html"), page.with_extension("reads.hgrm"));
    let beside = ["--report-beside", text(&reads)];
    let args = [&["--messages", "10k", "--no-control", "--report", text(&again)][..], &beside];
    machine.run(&args.concat()).ok();
    let html = std::fs::read_to_string(&again).expect("the page");
    assert_eq!(html.matches("<polyline class=\"line beside1\"").count(), 2, "both charts");
    assert!(html.contains("<span class=\"key beside1\">out.reads</span>"), "it has a name");

    let nowhere = dir.path("no/out.html");
    let args = ["--messages", "10k", "--no-control", "--report", text(&nowhere)];
    machine.run(&args).refused(1, &["--report: ", "is not written", "a folder that is there"]);
    let args = [&args[..4], &[text(&again), "--report-beside", text(&again)]].concat();
    machine.run(&args).refused(1, &["--report-beside: ", "again.html: line 1: "]);
}

/// A browser that runs without a screen, if there is one.
fn browser() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    names.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok())
}

/// What a browser makes of the page in a window of that width: its own width, its background, its
/// charts and tables that are broader than the window, with the words that a chart cuts off at its
/// left, and the least height of a chart's letters.
fn rendered(browser: &str, dir: &TempDir, html: &str, width: u32, dark: bool) -> String {
    let (framed, profile) = (dir.path("framed.html"), dir.path("profile"));
    let page = html.replace('&', "&amp;").replace('"', "&quot;");
    let script = "onload = () => { const d = f.contentDocument, w = d.documentElement.clientWidth; \
         const all = [...d.querySelectorAll('svg, section, .tile')]; \
         const left = e => e.getBoundingClientRect().left; \
         const cut = [...d.querySelectorAll('svg text')].filter(e => \
             e.getClientRects().length && left(e) < left(e.ownerSVGElement)).length; \
         const broad = cut + all.filter(e => e.getBoundingClientRect().right > w).length; \
         const scale = m => Math.hypot(m.a, m.b); \
         const letters = [...d.querySelectorAll('svg text')].map(e => \
             parseFloat(getComputedStyle(e).fontSize) * scale(e.getScreenCTM())); \
         seen.textContent = [d.documentElement.scrollWidth, \
             getComputedStyle(d.body).backgroundColor.replaceAll(' ', ''), broad, \
             Math.min(...letters).toFixed(1), d.querySelectorAll('svg').length].join(' '); }";
    let text = format!(
        "<body><iframe id=f width={width} height=900 style=\"border:0\" srcdoc=\"{page}\"></iframe>\
         <pre id=seen></pre><script>{script}</script>"
    );
    std::fs::write(&framed, text).expect("written");
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]);
    // A phone's scroll bars take no room.
    command.arg("--hide-scrollbars");
    command.arg(format!("--user-data-dir={}", profile.display()));
    if dark {
        command.arg("--force-dark-mode");
    }
    let output = command.arg(format!("file://{}", framed.display())).output().expect("it runs");
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let seen = dom.split("<pre id=\"seen\">").nth(1).and_then(|rest| rest.split('<').next());
    seen.unwrap_or_else(|| panic!("{output:?}")).to_owned()
}

#[test]
fn a_report_is_readable_on_a_phone_and_in_the_dark() {
    let name = "a_report_is_readable_on_a_phone_and_in_the_dark";
    let Some(machine) = Machine::of(name) else { return };
    let Some(browser) = browser() else {
        return skipped(name, "it needs a browser (apt-get install chromium)");
    };
    let dir = TempDir::new();
    let page = dir.path("out.html");
    machine.run(&["--messages", "10k", "--no-control", "--report", text(&page)]).ok();
    let html = std::fs::read_to_string(&page).expect("the page");
    let mut grounds = Vec::new();
    for (width, dark) in [(390, false), (390, true), (1000, false)] {
        let seen = rendered(browser, &dir, &html, width, dark);
        let words: Vec<_> = seen.split(' ').collect();
        let [wide, ground, broad, letters, charts] = words[..] else { panic!("{seen}") };
        assert_eq!(wide, width.to_string(), "nothing has to be pushed aside: {seen}");
        assert_eq!(broad, "0", "{seen}");
        assert!(letters.parse::<f64>().is_ok_and(|height| height >= 9.0), "{seen}");
        assert_eq!(charts, html.matches("<svg ").count().to_string(), "{seen}");
        grounds.push(ground.to_owned());
    }
    assert_ne!(grounds[0], grounds[1], "light and dark");
    assert_eq!(grounds[0], grounds[2]);
}
