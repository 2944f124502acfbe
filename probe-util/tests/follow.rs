//! `probe-util top` across the deaths and returns of what it looks at.
//!
//! The host is this program, executed again with [`HOST`], and so are its partitions, which is why
//! it has a `main` of its own and prints libtest's lines itself.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use core_runtime::partition::{Partition, PartitionExit, run_until_stopped};
use core_runtime::task::TaskOptions;
use host_bridge::telemetry::control::ControlSocket;
use host_bridge::topology::Topology;
use host_bridge::warnings::Warnings;
use host_bridge::{Entry, Isolation, PartitionHandle, PartitionSpec, Runtime};
use hybrid_conventions::CpuSet;
use hybrid_conventions::testing::skipped;
use nvme_driver::DeviceParts;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A bound for every wait: nothing takes as long, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// The first argument of a host.
const HOST: &str = "host-of-the-test";

const WAIT: Entry = Entry::new("wait", wait);
const PANIC: Entry = Entry::new("panic", panics);

host_bridge::partition_main! { entries: [WAIT, PANIC], main: host_or_tests }

fn host_or_tests() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [role, run_dir] if role == HOST => serve(Path::new(run_dir)),
        _ => tests(&args),
    }
}

// ---- the host and its partition ----------------------------------------------------------------

fn run(partition: &'static Partition, work: impl Future<Output = ()> + 'static) -> PartitionExit {
    match partition.spawner().spawn(TaskOptions::normal("work"), work) {
        Ok(task) => task.detach(),
        Err(error) => return PartitionExit::failed(1, format_args!("{error}")),
    }
    run_until_stopped(partition, ())
}

fn wait(partition: &'static Partition, _: Option<DeviceParts>) -> PartitionExit {
    run(partition, async move {
        let _ = partition.stopping().await;
        partition.finish(PartitionExit::done());
    })
}

/// Lives for a while, so that somebody can see it, and panics.
fn panics(partition: &'static Partition, _: Option<DeviceParts>) -> PartitionExit {
    run(partition, async move {
        partition.spawner().sleep_ns(300_000_000).await;
        panic!("planted");
    })
}

/// Starts and ends partitions as the lines on its standard input say, and answers each with one.
fn serve(run_dir: &Path) -> ExitCode {
    let core = Topology::read().suggested_core().expect("the test has looked");
    let cores = CpuSet::single(core).expect("a small number");
    let runtime = Runtime::with_warnings(cores, Warnings::to(|_| {})).expect("a runtime");
    let _socket = ControlSocket::start(runtime.telemetry(), run_dir, "follow").expect("a socket");
    let start = |entry| {
        let mut spec = PartitionSpec::new("p", entry).isolated_by(Isolation::Process);
        (spec.dma_bytes, spec.private_bytes) = (4 << 20, 8 << 20);
        runtime.spawn(spec).expect("a partition")
    };
    let mut running: Option<PartitionHandle> = None;
    for line in std::io::stdin().lines() {
        match line.expect("a line").as_str() {
            "start" => running = Some(start(WAIT)),
            "panic" => {
                let _ = start(PANIC).join();
            }
            _ => {
                let handle = running.take().expect("it runs");
                let pid = Pid::from_raw(handle.process().expect("a process").pid());
                kill_process(pid.expect("a number"), Signal::KILL).expect("killed");
                let _ = handle.join();
            }
        }
        println!("done");
    }
    ExitCode::SUCCESS
}

// ---- the test ----------------------------------------------------------------------------------

/// A child that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Host {
    _process: Process,
    words: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Host {
    fn start(run_dir: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.arg(HOST).arg(run_dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.stderr(Stdio::null()).spawn().expect("a host");
        let words = process.stdin.take().expect("a pipe");
        let answers = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        Self { _process: Process(process), words, answers }
    }

    /// Has it do something: `start`, `kill` or `panic`.
    fn does(&mut self, what: &str) {
        writeln!(self.words, "{what}").expect("it listens");
        let answer = self.answers.next().expect("it lives").expect("a line");
        assert_eq!(answer, "done", "{what}");
    }
}

/// `probe-util top --json`, a look after the other.
struct Top {
    process: Process,
    looks: Lines<BufReader<ChildStdout>>,
}

impl Top {
    fn start(run_dir: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_probe-util"));
        command.args(["top", "--json", "-d", "50ms", "--run-dir"]).arg(run_dir);
        let mut process = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let looks = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        Self { process: Process(process), looks }
    }

    /// Looks until its only partition is in that state; every look on the way is whole.
    fn sees(&mut self, state: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let line = self.looks.next().expect("it goes on").expect("a line");
            let mut look: Value = serde_json::from_str(&line).expect("JSON");
            let all = look["partitions"].as_array_mut().expect("partitions");
            assert_eq!(all.len(), 1, "one that returns is the same one: {all:?}");
            let one = all.remove(0);
            if one["state"] == state && wanted(&one) {
                return one;
            }
            assert!(begun.elapsed() < LIMIT, "never {state}: {one}");
        }
    }
}

struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn top_follows_its_target_through_deaths_and_returns() {
    let run_dir = Place(std::env::temp_dir().join(format!("follow-{}", std::process::id())));
    let mut host = Host::start(&run_dir.0);
    host.does("start");
    let mut top = Top::start(&run_dir.0);
    let is_start = |number: u64| move |one: &Value| one["incarnation"] == number;
    let first = top.sees("running", is_start(1));

    host.does("kill");
    let gone = top.sees("gone", is_start(1));
    assert_eq!(gone["pid"], first["pid"], "what was seen last stays");
    host.does("start");
    let second = top.sees("running", is_start(2));
    assert_ne!(second["pid"], first["pid"]);

    host.does("kill");
    host.does("panic");
    top.sees("gone", |_| true);
    host.does("start");
    top.sees("running", is_start(4));

    // As a host does whom nobody asks; its partition goes with it.
    drop(host);
    top.sees("gone", is_start(4));
    let mut host = Host::start(&run_dir.0);
    host.does("start");
    let again = top.sees("running", is_start(1));
    assert_ne!(again["host"], first["host"], "its program was started again");

    let told = kill_process(Pid::from_child(&top.process.0), Signal::TERM);
    told.expect("it is there");
    assert_eq!(top.process.0.wait().expect("it ends").code(), Some(143));
}

type Test = (&'static str, fn());

const TESTS: [Test; 1] = [(
    "top_follows_its_target_through_deaths_and_returns",
    top_follows_its_target_through_deaths_and_returns,
)];

fn tests(args: &[String]) -> ExitCode {
    let filters: Vec<_> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |(name, _): &&Test| {
        filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
    };
    let tests: Vec<_> = TESTS.iter().filter(wanted).collect();
    if args.iter().any(|arg| arg == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", tests.len());
    for (name, test) in &tests {
        match Topology::read().suggested_core() {
            Some(_) => test(),
            None => skipped(name, "it needs two CPUs"),
        }
        println!("test {name} ... ok");
    }
    let others = TESTS.len() - tests.len();
    println!(
        "\ntest result: ok. {} passed; 0 failed; 0 ignored; 0 measured; {others} filtered out",
        tests.len()
    );
    ExitCode::SUCCESS
}
