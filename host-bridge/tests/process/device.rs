//! A device in another process: vfio-user servers that die, come back, or do not.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use core_runtime::partition::StopReason;
use host_bridge::PartitionHandle;
use host_bridge::backend::{VfioUserBackend, VfioUserOptions};

use crate::common;
use crate::seen::{ended, start_on, until};
use crate::survivor::WRONG;
use crate::{SURVIVOR, Test};

pub(crate) const TESTS: &[Test] = &[
    ("device::a_server_that_is_killed_and_started_again_is_gone_on_with", a_server_comes_back),
    ("device::a_server_that_does_not_come_back_is_a_device_that_is_gone", a_server_stays_away),
];

/// A server's process, and the directory of its socket.
struct Server {
    dir: PathBuf,
    process: Child,
}

impl Server {
    fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("hp-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        Self { process: process(&dir.join("cntrl")), dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("cntrl")
    }

    fn kill(&mut self) {
        self.process.kill().expect("a child of ours");
        self.process.wait().expect("a child of ours");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn process(socket: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvme-vfio-user-server"));
    command.arg("--socket").arg(socket).args(["--size", "16M", "--idle", "yield"]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the program");
    // It says so when it listens.
    let mut line = String::new();
    let stderr = child.stderr.as_mut().expect("piped");
    BufReader::new(stderr).read_line(&mut line).expect("a line");
    assert!(line.contains("16.0 MiB in blocks of 4.0 KiB"), "{line}");
    child
}

fn completes(handle: &PartitionHandle, more: u64) {
    let done = || handle.metrics().number("io_completed").unwrap_or(0);
    let from = done();
    until("completions", || handle.is_finished() || done() >= from + more);
    assert!(!handle.is_finished(), "{handle:?}");
}

/// The first server's doorbells stay mapped in the partition: the session carries over what is rung
/// there.
fn a_server_comes_back() {
    let Some(only) = common::runtime("a process's server comes back") else { return };
    let mut server = Server::start("back");
    let backend = VfioUserBackend::new(server.socket(), VfioUserOptions::default());
    let handle = start_on(&only, SURVIVOR, backend);
    for _ in 0..3 {
        completes(&handle, 2_000);
        server.kill();
        server.process = process(&server.socket());
    }
    completes(&handle, 2_000);
    handle.request_stop(StopReason::Signal);
    let report = handle.join();
    assert!(report.exit.is_done(), "{:?}", report.exit);
    assert_eq!(report.device.expect("a device").problem, None);
}

fn a_server_stays_away() {
    let Some(only) = common::runtime("a process's server stays away") else { return };
    let mut server = Server::start("away");
    let reconnect = Duration::from_millis(100);
    let patience = VfioUserOptions { reconnect, ..VfioUserOptions::default() };
    let handle = start_on(&only, SURVIVOR, VfioUserBackend::new(server.socket(), patience));
    completes(&handle, 1_000);
    server.kill();
    let (record, report) = ended(handle);
    assert!(record.is_none(), "{record:?}");
    assert_eq!(report.exit.code, WRONG, "{:?}", report.exit);
    assert!(report.exit.text.as_str().contains("gone"), "{:?}", report.exit);
    let problem = report.device.expect("a device").problem.expect("it was lost");
    assert!(problem.contains("no other server came"), "{problem}");
}
