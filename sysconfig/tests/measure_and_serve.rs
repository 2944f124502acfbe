//! The program from outside: `jitter`, `bind`, `serve` and `ask` on the machine of the tests.
//!
//! What is measured here is not judged: a busy machine is not quiet. The form, the exit codes and
//! the lines of errors are.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use hybrid_conventions::testing::skipped;
use serde_json::Value;

/// Longest that a child takes to get somewhere on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn sysconfig(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sysconfig"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A service manager's variables would make `serve` look for its socket.
    command.env_remove("LISTEN_FDS").env_remove("LISTEN_PID");
    command
}

fn run(args: &[&str]) -> Output {
    sysconfig(args).output().expect("the program runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal ended it")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("JSON on stdout")
}

/// Looks until it is so; a child that has ended meanwhile is a failure.
fn wait_for(child: &mut Child, what: &str, mut is: impl FnMut(u32) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is(child.id()) {
        let ended = child.try_wait().expect("ours");
        assert!(ended.is_none(), "it ended with {ended:?} before {what}");
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

fn kill(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    let done = Command::new("kill").args([signal, &pid]).status().expect("kill is there");
    assert!(done.success());
}

/// Whether a thread of the process has this name and has run a while.
fn spins(pid: u32, name: &str) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        let read = |file: &str| std::fs::read_to_string(thread.path().join(file));
        let ran = read("schedstat").unwrap_or_default();
        let ran: u64 = ran.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        read("comm").is_ok_and(|comm| comm.trim() == name) && ran > 100_000_000
    })
}

#[test]
fn jitter_measures_and_its_exit_code_is_its_verdict() {
    let args = ["jitter", "-c", "0", "-d", "300ms", "-T", "1us", "--json", "--trust-tsc"];
    let output = run(&args);
    let report = json(&output);
    assert_eq!(report["schema"], "sysconfig-jitter/1");
    assert_eq!(report["threshold_ns"], 1_000);
    let core = &report["cpus"][0];
    let number = |key: &str| core[key].as_u64().expect("a whole number");
    assert_eq!(number("cpu"), 0);
    assert!(number("samples") > 1_000 && number("spun_ns") >= 299_000_000);
    assert!(number("min_ns") <= number("p50_ns") && number("p999_ns") <= number("max_ns"));
    assert_eq!(report["passed"], number("over") == 0);
    assert_eq!(code(&output), if number("over") == 0 { 0 } else { 2 });
    assert_eq!(stderr(&output), "", "no progress where nobody looks");
}

#[test]
fn jitter_stops_at_the_first_gap_when_asked() {
    // A tick, an interrupt or a stolen slice comes within the hour: it ends long before.
    let args = ["jitter", "-c", "0", "-d", "1h", "-T", "1us", "--stop", "--json", "--trust-tsc"];
    let output = run(&args);
    assert_eq!(code(&output), 2);
    let report = json(&output);
    assert!(report["measured_ns"].as_u64() < report["asked_ns"].as_u64());
    assert_eq!(report["cpus"][0]["over"], 1);
}

#[test]
fn a_signal_ends_jitter_with_its_results() {
    for (signal, exit) in [("-INT", 130), ("-TERM", 143)] {
        let args = ["jitter", "-c", "0", "-d", "1h", "--json", "--trust-tsc"];
        let mut child = sysconfig(&args).spawn().expect("it runs");
        wait_for(&mut child, "the spinner spins", |pid| spins(pid, "jitter/0"));
        kill(&child, signal);
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(code(&output), exit);
        let report = json(&output);
        assert_eq!(report["interrupted"], true);
        assert!(report["cpus"][0]["samples"].as_u64().expect("a number") > 0);
    }
}

#[test]
fn bad_input_is_one_line_with_its_exit_code() {
    for (args, exit, said) in [
        (&["jitter", "-c", "1023"][..], 1, "--cpus names 1023, and online are"),
        (&["jitter", "-c", ""], 1, "--cpus"),
        (&["jitter", "-c", "0", "-d", "8d"], 1, "not between"),
        (&["jitter", "-c", "0", "--stop"], 1, "--threshold"),
        (&["bind", "0000:fe:1f.7"], 3, "0000:fe:1f.7 is not there"),
        (&["bind", "fe:*"], 3, "names no NVMe controller"),
        (&["bind", "nonsense"], 1, "pci address \"nonsense\" is not understood"),
        (&["unbind", "0000:fe:1f.7"], 3, "0000:fe:1f.7 is not there"),
        (&["ask", "list", "--socket", "/nowhere/x"], 3, "no helper is running"),
        (&["ask", "bind", "x"], 1, "pci address"),
        (&["serve", "--config", "/nowhere/helper.toml"], 3, "sysconfig serve --example"),
        (&["nonsense"], 1, "nonsense"),
    ] {
        let output = run(args);
        assert_eq!(code(&output), exit, "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(said), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn the_helper_serves_a_client_and_ends_in_order() {
    const NAME: &str = "the_helper_serves_a_client_and_ends_in_order";
    let folder = tempfile::tempdir().expect("a folder");
    let (config, socket) = (folder.path().join("helper.toml"), folder.path().join("run/h.sock"));
    let text =
        format!("socket = {:?}\n[[device]]\nbdf = \"fe:1f.7\"\nverbs = [\"bind\"]\n", socket);
    std::fs::write(&config, text).expect("written");
    let (config, socket) = (show(&config), show(&socket));
    let is_root = std::fs::metadata("/proc/self/environ").is_ok_and(|meta| {
        use std::os::unix::fs::MetadataExt as _;
        meta.uid() == 0
    });
    if !is_root {
        return skipped(NAME, "only root's config is obeyed, and this is not root");
    }
    let mut helper = sysconfig(&["serve", "--config", config]).spawn().expect("it runs");
    wait_for(&mut helper, "its socket is there", |_| {
        std::os::unix::net::UnixStream::connect(socket).is_ok()
    });
    let output = run(&["ask", "list", "--json", "--socket", socket]);
    assert_eq!(json(&output)["result"][0]["bdf"], "0000:fe:1f.7");
    assert_eq!(json(&output)["result"][0]["there"], false);
    let output = run(&["ask", "methods", "--socket", socket]);
    assert!(String::from_utf8_lossy(&output.stdout).lines().any(|line| line == "device_bind"));
    let output = run(&["ask", "bind", "fe:1f.7", "--socket", socket]);
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    let output = run(&["ask", "bind", "fe:1f.6", "--socket", socket]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("is not listed"), "{}", stderr(&output));
    kill(&helper, "-TERM");
    let output = helper.wait_with_output().expect("it ends");
    assert_eq!(code(&output), 143);
    assert!(!Path::new(socket).exists());
    let log = stderr(&output);
    assert!(
        log.contains("device_bind {\"bdf\":\"0000:fe:1f.7\"}: refused (-32002)")
            || log.contains("device_bind {\\\"bdf\\\":\\\"0000:fe:1f.7\\\"}: refused (-32002)"),
        "{log}"
    );
}

fn show(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}
