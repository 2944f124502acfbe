//! A partition over vfio-user: against our server in this process and in one of its own, which may
//! be killed under load.

mod common;
#[path = "common/survivor.rs"]
mod survivor;

use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use core_runtime::partition::{Partition, PartitionExit, StopReason};
use host_bridge::PartitionHandle;
use host_bridge::backend::model::{Idle, ModelConfig, ModelGauges, NamespaceConfig};
use host_bridge::backend::{VfioUserBackend, VfioUserOptions};
use host_bridge::vfio_user_server::{ServerOptions, VfioUserServer};
use nvme_driver::DeviceParts;

use survivor::{WRONG, survivor};

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vfu-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("cntrl")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn options() -> ServerOptions {
    let namespaces = vec![NamespaceConfig::memory(1, 4096)];
    ServerOptions {
        model: ModelConfig { namespaces, ..ModelConfig::default() },
        // One CPU of two is the partition's: the server shares the other with everybody.
        idle: Idle::Yield { after_steps: 64 },
        ..ServerOptions::default()
    }
}

fn backend(socket: &Path) -> VfioUserBackend {
    VfioUserBackend::new(socket, VfioUserOptions::default())
}

fn few_blocks(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    common::work(partition, device, 200, common::no_plant)
}

#[test]
fn a_partition_writes_and_reads_through_a_server_in_this_process() {
    let Some(only) = common::runtime("vfio-user in process") else { return };
    let dir = Dir::new("same");
    let server = VfioUserServer::start(&dir.socket(), options()).expect("a server");
    for client in 1..=3 {
        let spec = common::spec("blocks", few_blocks).with_device(backend(&dir.socket()));
        let report = only.runtime.spawn(spec).expect("a partition").join();
        assert!(report.exit.is_done(), "{:?}", report.exit);
        let device = report.device.expect("a device");
        assert_eq!(device.problem, None);
        assert_eq!(server.clients(), client);
    }
    let mut model = server.stop().expect("the model");
    model.assert_no_mistakes();
    assert!(model.stats().completions > 3 * 400);
    assert!(!dir.socket().exists(), "the socket goes with the server");
}

/// Waits until the partition has completed `more` commands than now.
fn until_more(handle: &mut PartitionHandle, more: u64) {
    let done = |handle: &PartitionHandle| handle.metrics().number("io_completed").unwrap_or(0);
    let (begun, goal) = (Instant::now(), done(handle) + more);
    handle.wait(LOOK, |handle| {
        assert!(begun.elapsed() < LIMIT, "{} of {goal} commands; {handle:?}", done(handle));
        if done(handle) < goal { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert!(done(handle) >= goal, "it ended: {handle:?}");
}

/// A bound for what must come.
const LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(1);

#[test]
fn a_server_of_this_process_that_restarts_is_found_again() {
    let Some(only) = common::runtime("vfio-user restart in process") else { return };
    let dir = Dir::new("again");
    let mut server = VfioUserServer::start(&dir.socket(), options()).expect("a server");
    let spec = common::spec("survivor", survivor).with_device(backend(&dir.socket()));
    let mut handle = only.runtime.spawn(spec).expect("a partition");
    for _ in 0..3 {
        until_more(&mut handle, 2_000);
        let model = server.stop().expect("the model");
        server = VfioUserServer::serve(
            &dir.socket(),
            *model,
            Idle::Yield { after_steps: 64 },
            None,
            ModelGauges::default(),
        )
        .expect("a server");
    }
    until_more(&mut handle, 2_000);
    handle.request_stop(StopReason::Signal);
    let report = handle.join();
    assert!(report.exit.is_done(), "{:?}", report.exit);
    assert_eq!(report.device.expect("a device").problem, None, "a loss made good is none");
    server.stop().expect("the model").assert_no_mistakes();
}

/// A server in a process of its own.
struct Process(Child);

impl Process {
    fn start(socket: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nvme-vfio-user-server"));
        command.arg("--socket").arg(socket).args(["--size", "16M", "--idle", "yield"]);
        let child = command.stderr(Stdio::piped()).spawn().expect("the program");
        let mut started = Self(child);
        // It says so when it listens.
        let mut line = String::new();
        let stderr = started.0.stderr.as_mut().expect("piped");
        BufReader::new(stderr).read_line(&mut line).expect("a line");
        assert!(line.contains("16.0 MiB in blocks of 4.0 KiB"), "{line}");
        started
    }

    fn kill(mut self) {
        self.0.kill().expect("a child of ours");
        self.0.wait().expect("a child of ours");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_process_that_is_killed_under_load_and_started_again_is_found_again() {
    let Some(only) = common::runtime("vfio-user SIGKILL") else { return };
    let dir = Dir::new("killed");
    let mut server = Process::start(&dir.socket());
    let spec = common::spec("survivor", survivor).with_device(backend(&dir.socket()));
    let mut handle = only.runtime.spawn(spec).expect("a partition");
    for _ in 0..3 {
        until_more(&mut handle, 2_000);
        server.kill();
        server = Process::start(&dir.socket());
    }
    until_more(&mut handle, 2_000);
    handle.request_stop(StopReason::Signal);
    let report = handle.join();
    assert!(report.exit.is_done(), "{:?}", report.exit);
    assert_eq!(report.device.expect("a device").problem, None);
    drop(server);
}

#[test]
fn a_server_that_does_not_come_back_is_a_device_that_is_gone() {
    let Some(only) = common::runtime("vfio-user for good") else { return };
    let dir = Dir::new("gone");
    let server = Process::start(&dir.socket());
    let reconnect = Duration::from_millis(100);
    let patience = VfioUserOptions { reconnect, ..VfioUserOptions::default() };
    let backend = VfioUserBackend::new(dir.socket(), patience);
    let spec = common::spec("survivor", survivor).with_device(backend);
    let mut handle = only.runtime.spawn(spec).expect("a partition");
    until_more(&mut handle, 2_000);
    server.kill();
    let begun = Instant::now();
    handle.wait(LOOK, |handle| {
        assert!(begun.elapsed() < LIMIT, "{handle:?}");
        ControlFlow::Continue(())
    });
    let report = handle.join();
    assert_eq!(report.exit.code, WRONG, "{:?}", report.exit);
    assert!(report.exit.text.as_str().contains("gone"), "{:?}", report.exit);
    let problem = report.device.expect("a device").problem.expect("it was lost");
    // It may have died while it was asked for a register, or between two questions.
    let (_, lost) = problem.split_once(" was lost: ").expect("what was lost");
    let lost = lost.strip_prefix("REGION_READ: ").unwrap_or(lost);
    assert!(lost.starts_with("the peer closed the connection; no other server came"), "{problem}");
    assert!(problem.contains("no vfio-user server listens"), "{problem}");
}

#[test]
fn an_interrupted_server_ends_in_order_and_its_image_is_whole() {
    let dir = Dir::new("image");
    let image = dir.0.join("blocks.img");
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvme-vfio-user-server"));
    command.arg("--socket").arg(dir.socket()).arg("--image").arg(&image).args(["--size", "1M"]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the program");
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    stderr.read_line(&mut line).expect("a line");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a child of ours");
    let status = child.wait().expect("a child of ours");
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stderr, &mut rest).expect("text");
    assert_eq!(status.code(), Some(143), "{line}{rest}");
    assert!(rest.contains("0 clients, 0 completions; the blocks are synced"), "{rest}");
    assert_eq!(std::fs::metadata(&image).expect("the image").len(), 1 << 20);
    assert!(!dir.socket().exists());
}

/// Microseconds that a thread of a process has run.
fn run_us(pid: u32, name: &str) -> u64 {
    // A thread gives itself its name when it has started.
    let path = loop {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
        let task = tasks.flatten().map(|task| task.path()).find(|task| {
            std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name)
        });
        if let Some(task) = task {
            break task.join("schedstat");
        }
        std::thread::yield_now();
    };
    let text = std::fs::read_to_string(path).expect("its time");
    let ns = text.split_ascii_whitespace().next().and_then(|ns| ns.parse::<u64>().ok());
    ns.expect("a number") / 1000
}

#[test]
fn a_server_without_a_descriptor_for_a_client_waits_for_one_and_does_not_spin() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let dir = Dir::new("emfile");
    let server = Process::start(&dir.socket());
    let pid = server.0.id();
    let used = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its files").count() as u64;
    // The child's limits are ours; lowered and raised below the hard one, which takes no rights.
    let own = rustix::process::getrlimit(Resource::Nofile);
    let limit = |current| {
        let limit = Rlimit { current, maximum: own.maximum };
        prlimit(Some(Pid::from_child(&server.0)), Resource::Nofile, limit).expect("a child of ours")
    };
    limit(Some(used));
    let client = std::os::unix::net::UnixStream::connect(dir.socket()).expect("the backlog");
    let (begun, name) = (Instant::now(), "vfio-user-ctrl");
    let run_before = run_us(pid, name);
    // Nothing comes; what counts is what the server does meanwhile.
    let half = rustix::event::Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
    let mut fds = [rustix::event::PollFd::new(&client, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut fds, Some(&half)), Ok(0));
    let (run, waited) = (run_us(pid, name) - run_before, begun.elapsed());
    assert!(u128::from(run) < waited.as_micros() / 20, "it ran {run} us of {waited:?}");
    limit(own.current);
    // The one that waited is served now, and hangs up; then it is the partition's turn.
    drop(client);
    let Some(only) = common::runtime("vfio-user descriptors") else { return };
    let spec = common::spec("blocks", few_blocks).with_device(backend(&dir.socket()));
    let report = only.runtime.spawn(spec).expect("a partition").join();
    assert!(report.exit.is_done(), "{:?}", report.exit);
}
