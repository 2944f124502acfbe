//! SIGINT and SIGTERM: the partition ends in order, results are flushed, the exit code says why.
//!
//! libtest gives no way to own `main`, so the tests execute this very binary again with one test,
//! [`interrupted`], in the role of the program.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::process::{Command, Stdio};
use std::time::Duration;

use core_runtime::partition::{Partition, PartitionExit, StopReason};
use host_bridge::sys::signals::StopSignals;
use nvme_driver::DeviceParts;
use rustix::process::{Pid, Signal, kill_process};

/// Set for the program's role only.
const ROLE: &str = "HOST_BRIDGE_TEST_ROLE";
const UP: &str = "the partition is up";

fn endless(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    common::work(partition, device, u64::MAX, common::no_plant)
}

/// The program; as a test of its own it has nothing to do.
#[test]
fn interrupted() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let signals = StopSignals::install().expect("handlers");
    let only = common::runtime("the program").expect("two CPUs");
    let spec = common::spec("endless", endless).with_device(common::model());
    let mut handle = only.runtime.spawn(spec).expect("a partition");
    let mut said = false;
    handle.wait(Duration::from_millis(1), |handle| {
        let done = handle.metrics().number("io_completed").unwrap_or(0);
        if done > 0 && !std::mem::replace(&mut said, true) {
            println!("{UP}");
        }
        if signals.pending().is_some() {
            handle.request_stop(StopReason::Signal);
        }
        ControlFlow::Continue(())
    });
    let report = handle.join();
    let signal = signals.pending().expect("only a signal ends it");
    println!("flushed, {} passes, done {}", report.passes, report.exit.is_done());
    std::io::stdout().flush().expect("stdout");
    std::process::exit(signal.exit().code().into());
}

fn ends_with(test: &str, signal: Signal, code: i32) {
    if host_bridge::topology::Topology::read().suggested_core().is_none() {
        return hybrid_conventions::testing::skipped(test, "it needs two CPUs");
    }
    let program = std::env::current_exe().expect("this binary");
    let mut child = Command::new(program)
        .args(["--exact", "interrupted", "--nocapture"])
        .env(ROLE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("this binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains(UP) {
        line.clear();
        let read = lines.read_line(&mut line).expect("a line");
        assert_ne!(read, 0, "the program ended before its partition was up");
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(pid, signal).expect("our child");
    let mut rest = String::new();
    lines.read_to_string(&mut rest).expect("the rest");
    let status = child.wait().expect("our child");
    assert_eq!(status.code(), Some(code), "{rest}");
    assert!(rest.contains("flushed, ") && rest.contains("done true"), "{rest}");
}

#[test]
fn an_interrupt_ends_in_order_with_130() {
    ends_with("SIGINT", Signal::INT, 130);
}

#[test]
fn a_termination_ends_in_order_with_143() {
    ends_with("SIGTERM", Signal::TERM, 143);
}
