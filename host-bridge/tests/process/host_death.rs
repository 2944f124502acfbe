//! The host is killed under load: its partition ends in order, soon, and the next start works.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use core_runtime::partition::StopReason;
use host_bridge::topology::Topology;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::common;
use crate::seen::{LIMIT, goes_round, pid, start, start_on, until};
use crate::{Test, VICTIM, WORK};

/// The first argument of a host that will be killed.
pub(crate) const HOST_ROLE: &str = "--host-to-be-killed";

pub(crate) const TESTS: &[Test] = &[
    (
        "host_death::a_partition_is_gone_within_a_second_of_its_host_and_the_next_start_works",
        a_partition_is_gone_within_a_second,
    ),
    ("host_death::one_that_hangs_does_not_outlive_its_host", one_that_hangs_does_not_outlive_it),
];

/// The second argument of one whose partition hangs.
const HANGS: &str = "hangs";

/// What the issue asks for.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// The host: starts a partition under load, says its number, and waits for its end.
pub(crate) fn host() -> ExitCode {
    let Some(only) = common::runtime("a host to be killed") else { return ExitCode::SUCCESS };
    let hangs = std::env::args().nth(2).is_some_and(|arg| arg == HANGS);
    let handle = match hangs {
        true => start(&only, VICTIM, "loop"),
        false => start_on(&only, WORK, common::model()),
    };
    match hangs {
        true => until("it to hang", || handle.snapshot().heartbeat >= 100),
        false => goes_round(&handle, 10_000),
    }
    println!("{}", pid(&handle));
    let _ = std::io::stdout().flush();
    loop {
        std::thread::park();
    }
}

/// Starts a host, kills it, and says how long its partition went on.
fn outlived(more: &[&str]) -> Duration {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    let mut host =
        command.arg(HOST_ROLE).args(more).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut line = String::new();
    let read = BufReader::new(host.stdout.take().expect("a pipe")).read_line(&mut line);
    let number = line.trim().parse().ok().filter(|_| read.is_ok()).and_then(Pid::from_raw);
    let number = number.unwrap_or_else(|| panic!("the partition's number: {line}"));
    let partition = pidfd_open(number, PidfdFlags::empty()).expect("it lives");
    host.kill().expect("it lives");
    let begun = Instant::now();
    let mut fds = [PollFd::new(&partition, PollFlags::IN)];
    let limit = Timespec::try_from(LIMIT).expect("small");
    assert_eq!(poll(&mut fds, Some(&limit)), Ok(1), "it goes on for ever");
    let took = begun.elapsed();
    host.wait().expect("it has ended");
    took
}

fn can_run() -> bool {
    let can = Topology::read().suggested_core().is_some();
    if !can {
        hybrid_conventions::testing::skipped("the host is killed", "it needs two CPUs");
    }
    can
}

fn a_partition_is_gone_within_a_second() {
    for _ in 0..3 {
        if !can_run() {
            return;
        }
        let took = outlived(&[]);
        assert!(took < GONE_WITHIN, "{took:?} after its host");
        println!("the partition was gone {took:?} after its host was killed");
        let only = common::runtime("the next start").expect("two CPUs");
        let handle = start_on(&only, WORK, common::model());
        goes_round(&handle, 1_000);
        handle.request_stop(StopReason::Finished);
        assert!(handle.join().exit.is_done());
    }
}

/// Its loop never looks at the flag: the alarm ends it.
fn one_that_hangs_does_not_outlive_it() {
    if can_run() {
        let took = outlived(&[HANGS]);
        assert!(took < GONE_WITHIN + Duration::from_secs(2), "{took:?} after its host");
        println!("the partition that hung was gone {took:?} after its host was killed");
    }
}
