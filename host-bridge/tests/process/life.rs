//! Starts, words, ends in order.

use std::process::Command;

use core_runtime::partition::{PartitionState, StopReason};
use host_bridge::process::{Death, code};
use host_bridge::{Isolation, RuntimeError};
use hybrid_abi::Record as _;
use hybrid_abi::command::Ping;
use hybrid_abi::event::{KIND_PONG, Pong};
use rustix::process::{Pid, Signal, kill_process};

use crate::common;
use crate::seen::{ended, goes_round, pid, spec, start, start_on, status, until};
use crate::{FORGOTTEN, IDLE, Test, VICTIM, WORK};

pub(crate) const TESTS: &[Test] = &[
    ("life::it_works_stops_when_asked_and_is_silent", it_works_stops_and_is_silent),
    ("life::commands_and_events_cross", commands_and_events_cross),
    ("life::it_is_killed_and_its_core_is_free_again", it_is_killed_and_its_core_is_free_again),
    ("life::a_stopped_process_goes_on", a_stopped_process_goes_on),
    ("life::a_dropped_handle_ends_a_process_that_hangs", a_dropped_handle_ends_one_that_hangs),
    ("life::what_cannot_start_says_why", what_cannot_start_says_why),
    ("life::the_role_is_not_for_the_command_line", the_role_is_not_for_the_command_line),
    ("life::memory_of_the_dead_is_given_back", memory_of_the_dead_is_given_back),
];

fn it_works_stops_and_is_silent() {
    let Some(only) = common::runtime("a process works") else { return };
    let handle = start_on(&only, WORK, common::model());
    goes_round(&handle, 20_000);
    handle.request_stop(StopReason::Finished);
    let report = handle.join();
    assert!(report.exit.is_done(), "{:?}", report.exit);
    assert_eq!(report.death, Death::Exited { code: code::DONE });
    let device = report.device.as_ref().expect("the model");
    assert_eq!((device.mistakes.len(), device.problem.as_deref()), (0, None));
    assert_eq!(report.check_silence(), Ok(()));
    assert_eq!((report.usage.minor_faults, report.usage.major_faults), (0, 0));
}

fn commands_and_events_cross() {
    let Some(only) = common::runtime("a process hears and speaks") else { return };
    let mut handle = start(&only, IDLE, "");
    handle.send(&Ping { sent_tsc: 42 }).expect("room");
    let mut pong = None;
    until("an answer", || {
        let each = |header: hybrid_abi::RecordHeader, payload: &[u8]| {
            assert_eq!(header.kind, KIND_PONG);
            pong = Pong::parse(payload).ok();
        };
        handle.poll_events(8, each).expect("an open ring");
        pong.is_some()
    });
    assert_eq!(pong.expect("an answer").sent_tsc, 42);
    assert_eq!(handle.state(), PartitionState::Running);
    handle.request_stop(StopReason::Finished);
    assert!(handle.join().exit.is_done());
}

fn it_is_killed_and_its_core_is_free_again() {
    let Some(only) = common::runtime("a process is killed") else { return };
    for _ in 0..3 {
        let handle = start_on(&only, WORK, common::model());
        goes_round(&handle, 1_000);
        let process = handle.process().expect("a process");
        process.kill().expect("it lives");
        let number = process.pid();
        let (record, report) = ended(handle);
        assert!(record.is_none(), "{record:?}");
        assert_eq!(report.death, Death::Killed { signal: 9 });
        assert_eq!(report.exit.text, "its process was killed by signal 9");
        assert!(!std::path::Path::new(&format!("/proc/{number}")).exists(), "it was waited for");
    }
    let handle = start(&only, VICTIM, "silent");
    assert!(handle.join().exit.is_done());
}

fn a_stopped_process_goes_on() {
    let Some(only) = common::runtime("a process is stopped") else { return };
    let handle = start_on(&only, WORK, common::model());
    goes_round(&handle, 1_000);
    let number = Pid::from_raw(pid(&handle)).expect("a process");
    kill_process(number, Signal::STOP).expect("it lives");
    until("state T", || status(&handle, "State").starts_with('T'));
    let seen = handle.snapshot().heartbeat;
    assert_eq!(handle.snapshot().heartbeat, seen);
    kill_process(number, Signal::CONT).expect("it lives");
    goes_round(&handle, 1_000);
    handle.request_stop(StopReason::Finished);
    assert!(handle.join().exit.is_done());
}

fn a_dropped_handle_ends_one_that_hangs() {
    let Some(only) = common::runtime("a hanging process is dropped") else { return };
    let mut spec = spec("p", VICTIM).with_args("loop");
    spec.config.stop_grace_ns = 1;
    let handle = only.runtime.spawn(spec).expect("a partition");
    let number = pid(&handle);
    until("it to hang", || handle.snapshot().task != 0);
    drop(handle);
    assert!(!std::path::Path::new(&format!("/proc/{number}")).exists());
    let handle = start(&only, VICTIM, "silent");
    assert!(handle.join().exit.is_done(), "the core is free again");
}

fn what_cannot_start_says_why() {
    let Some(only) = common::runtime("a process does not start") else { return };
    let mut small = spec("small", IDLE);
    small.private_bytes = 4096;
    small.config.scheduler.task_memory_bytes = 64 << 20;
    let line = only.runtime.spawn(small).expect_err("64 MiB do not fit").to_string();
    assert!(line.starts_with("partition small did not start: "), "{line}");
    assert!(line.ends_with("; raise private_bytes, or ask for fewer tasks"), "{line}");
    let forgotten = only.runtime.spawn(spec("p", FORGOTTEN)).expect_err("no such entry");
    let line = forgotten.to_string();
    assert!(line.contains("entry forgotten is not named in this program's partition"), "{line}");
    let mut other = spec("p", FORGOTTEN);
    other.executable = std::env::current_exe().ok();
    let line = only.runtime.spawn(other).expect_err("no such entry").to_string();
    assert!(line.contains("entry forgotten is not named in its program's"), "{line}");
    for (program, why) in [("/nowhere/at/all", "No such file"), ("/bin/true", "without a word")] {
        let mut other = spec("p", IDLE);
        other.executable = Some(program.into());
        let error = only.runtime.spawn(other).expect_err(program);
        assert!(matches!(error, RuntimeError::NotLaunched { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let handle = start(&only, VICTIM, "silent");
    assert!(handle.join().exit.is_done(), "the core is free");
}

fn the_role_is_not_for_the_command_line() {
    let program = std::env::current_exe().expect("this program");
    for more in [vec![], vec!["9"], vec!["0"], vec!["x"], vec!["4294967295"]] {
        let run = Command::new(&program).arg("--hybrid-partition").args(&more).output();
        let run = run.expect("it runs");
        assert_eq!(run.status.code(), Some(code::NOT_STARTED), "{more:?}");
        let line = String::from_utf8_lossy(&run.stderr);
        assert!(line.contains("is what a host starts its partitions with"), "{line}");
    }
}

fn memory_of_the_dead_is_given_back() {
    let Some(only) = common::runtime("memory is given back") else { return };
    let shared = || {
        let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.trim().parse::<u64>().ok()).expect("a number")
    };
    let files = || std::fs::read_dir("/proc/self/fd").expect("procfs").count();
    let once = || {
        let handle = start_on(&only, VICTIM, common::model());
        // Without an argument there is no way to die: it fails at once.
        let report = handle.join();
        assert!(report.exit.text.contains("no way to die"), "{:?}", report.exit);
    };
    once();
    let before = (shared(), files());
    for _ in 0..10 {
        once();
    }
    let after = (shared(), files());
    assert!(after.0 <= before.0 + 1024 && after.1 <= before.1, "{before:?} {after:?}");
    // A thread's would stay: nobody knows what its entry has kept.
    let thread = spec("p", VICTIM).isolated_by(Isolation::Thread);
    assert!(!only.runtime.spawn(thread).expect("a thread").join().exit.is_done());
}
