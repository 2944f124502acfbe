//! Machines that lack something: processors, huge pages, rights.

use std::process::Command;

use hybrid_conventions::testing::skipped;

use crate::feeds;
use crate::machine::{Machine, has_tool};
use crate::run::{self, PROGRAM};
use crate::temp::{TempDir, text};

#[test]
fn a_core_that_does_not_exist_is_refused() {
    let feed = feeds::small();
    for core in ["9999", "1000", "4294967295"] {
        let run = run::start(&["replay", text(&feed), "--core", core]).wait();
        run.refused(1, &[core]);
    }
    let run = run::start(&["replay", text(&feed), "--core", "x"]).wait();
    assert_eq!(run.code(), Some(1), "{run:?}");
    assert!(run.stderr.contains("`x` is no CPU number"), "{run:?}");
}

#[test]
fn one_cpu_only_is_refused_with_what_to_do() {
    if !has_tool("one_cpu_only_is_refused_with_what_to_do", "taskset") {
        return;
    }
    for core in [&[][..], &["--core", "0"], &["--core", "1"]] {
        let mut command = Command::new("taskset");
        command.args(["-c", "0", PROGRAM, "replay", text(&feeds::small())]).args(core);
        let run = run::start_command(command).wait();
        if run.stderr.contains("failed to set pid") {
            let name = "one_cpu_only_is_refused_with_what_to_do";
            return skipped(name, "cpu 0 is not allowed for the tests");
        }
        run.refused(3, &["one cpu only (cpu 0)", "taskset -c"]);
    }
}

/// Free huge pages of 2 MiB.
fn free_huge_pages() -> u64 {
    let path = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

#[test]
fn without_huge_pages_there_is_one_warning_with_the_fix_and_the_run_goes_on() {
    let name = "without_huge_pages_there_is_one_warning_with_the_fix_and_the_run_goes_on";
    let Some(machine) = Machine::of(name) else { return };
    if free_huge_pages() != 0 {
        return skipped(name, "this machine has huge pages");
    }
    let run = machine.run(&["replay", text(&feeds::small()), "--no-probe"]).ok();
    let huge: Vec<_> = run.warnings().into_iter().filter(|l| l.contains("huge pages")).collect();
    assert_eq!(huge.len(), 1, "{run:?}");
    assert!(huge[0].contains("0 free; using 4 KiB pages instead"), "{run:?}");
    assert!(huge[0].contains("sysctl vm.nr_hugepages="), "{run:?}");
    assert_eq!(run.stderr.lines().count(), run.warnings().len(), "{run:?}");
}

#[test]
fn without_rights_the_run_goes_on_with_a_warning_for_each_cause() {
    let name = "without_rights_the_run_goes_on_with_a_warning_for_each_cause";
    let Some(machine) = Machine::of(name) else { return };
    if !has_tool(name, "prlimit") || !has_tool(name, "setpriv") {
        return;
    }
    // Another user may not be able to look into the directory where the program was built.
    let dir = TempDir::new();
    let program = dir.path("feed-handler");
    std::fs::copy(PROGRAM, &program).expect("room for the program");
    let feed = dir.file("feed.itch", &std::fs::read(feeds::small()).expect("the feed"));
    let mut command = Command::new("prlimit");
    command.args(["--memlock=65536:65536", "setpriv", "--no-new-privs"]);
    if is_root() {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    command.args([text(&program), "replay", text(&feed), "--no-probe"]);
    let run = machine.run_command(command);
    if run.stderr.starts_with("setpriv: ") || run.stderr.starts_with("prlimit: ") {
        return skipped(name, run.stderr.trim_end());
    }
    let run = run.ok();
    let about = |words: &str| run.warnings().iter().filter(|line| line.contains(words)).count();
    assert_eq!(about("memory is not locked"), 1, "{run:?}");
    assert_eq!(about("/etc/security/limits.conf"), 1, "{run:?}");
    assert_eq!(about("RLIMIT_MEMLOCK is 65536 bytes"), 1, "{run:?}");
    assert!(about("huge pages") <= 1, "{run:?}");
    assert_eq!(run.stderr.lines().count(), run.warnings().len(), "{run:?}");
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uid.is_some_and(|uid| uid.split_whitespace().nth(1) == Some("0"))
}
