//! `cargo xtask mutants --generated`: what cargo-mutants makes up in ring, queue pair, PRP lists
//! and slots, each against the tests of its own package.
//!
//! Works on cargo-mutants' own copy of the tree. A mutant that nothing notices is either a hole of
//! the tests, or the same program in other words: those are in [`SAME`], each with its reason, and
//! left out.

use std::fs;

use anyhow::{Result, ensure};
use hybrid_conventions::Exit;

use crate::command::{End, Run};
use crate::project::Project;

/// Files of one package, and the tests that are to notice.
struct Group {
    name: &'static str,
    package: &'static str,
    files: &'static [&'static str],
    /// Which targets of the package are built and run, for every `cargo`.
    targets: &'static [&'static str],
    /// Which of their tests, for `cargo test`.
    tests: &'static [&'static str],
}

const GROUPS: [Group; 2] = [
    Group {
        name: "driver",
        package: "nvme-driver",
        files: &[
            "nvme-driver/src/cid.rs",
            "nvme-driver/src/prp.rs",
            "nvme-driver/src/queue.rs",
            "nvme-driver/src/queue/rare.rs",
            "nvme-driver/src/slot.rs",
            "nvme-driver/src/split.rs",
        ],
        targets: &["--lib"],
        tests: &[],
    },
    Group {
        name: "ring",
        package: "core-runtime",
        files: &[
            "core-runtime/src/ring/engine.rs",
            "core-runtime/src/ring/index.rs",
            "core-runtime/src/ring/records.rs",
        ],
        targets: &["--features=std", "--test=it"],
        // Two threads wait for each other: under most mutants for ever. What they notice is for
        // the mutants by hand, with loom.
        tests: &[
            "ring_",
            "--",
            "--skip=two_threads",
            "--skip=a_peer_that_writes_its_words_at_random_meanwhile",
        ],
    },
];

/// Mutants that do what the program does, by a part of their names (a pattern), and why.
const SAME: &[(&str, &str)] = &[
    ("proofs::", "compiled by Kani only: the program and its tests have no such code"),
    (
        r"replace \| with \^ in (QueuePair::(write|command|ignore)|Slot::(post|release|hold))$",
        "joins fields that share no bit: either operator gives the same word",
    ),
    ("replace > with >= in QueuePair::tell_depth$", "stores the greatest depth so far over itself"),
];

/// A test that runs for so many seconds under a mutant hangs.
const HANG_SECONDS: &str = "60";

/// cargo-mutants' exit codes: all caught, and all caught or hung.
const ALL_CAUGHT: [i32; 2] = [0, 3];

/// Runs them, or lists them; with `names` only the files whose path contains one of these.
pub(crate) fn run(project: &Project, list: bool, names: &[String]) -> Result<Exit> {
    if !Run::new("cargo mutants --version").succeeds(&project.root) {
        eprintln!("error: cargo-mutants is not there: cargo install cargo-mutants");
        return Ok(Exit::Missing);
    }
    let mut good = true;
    let mut any = false;
    for group in &GROUPS {
        let chosen = |file: &&&str| names.is_empty() || names.iter().any(|n| file.contains(&**n));
        let files: Vec<_> = group.files.iter().filter(chosen).collect();
        if files.is_empty() {
            continue;
        }
        any = true;
        let mut run = Run::new("cargo mutants --colors never --no-times --package");
        run = run.arg(group.package);
        for file in files {
            run = run.arg("--file").arg(*file);
        }
        for (same, _) in SAME {
            run = run.arg("--exclude-re").arg(*same);
        }
        if list {
            print!("{}", run.arg("--list").output(&project.root).unwrap_or_default());
            continue;
        }
        good &= try_out(project, group, run)?;
    }
    ensure!(any, "no file of these groups has such a name");
    Ok(if good { Exit::Ok } else { Exit::Error })
}

/// Runs those of one group; whether each was noticed.
fn try_out(project: &Project, group: &Group, run: Run) -> Result<bool> {
    let out = project.target.join("mutants").join(format!("generated-{}", group.name));
    fs::create_dir_all(&out)?;
    let mut run = run.arg("--timeout").arg(HANG_SECONDS).arg("--output");
    run = run.arg(out.to_string_lossy()).env("CARGO_PROFILE_TEST_OPT_LEVEL", "0");
    run = run.env("CARGO_PROFILE_TEST_DEBUG", "0").limit(std::time::Duration::MAX);
    // For building too: else every other target of the package is built for each mutant.
    run.argv.extend(group.targets.iter().map(|target| format!("--cargo-arg={target}")));
    run.argv.extend(["--"].iter().chain(group.tests).map(|&word| word.to_owned()));
    let log = project.target.join("xtask-logs").join(format!("mutants-{}.log", group.name));
    fs::create_dir_all(log.parent().unwrap_or(&out))?;
    let _ = fs::remove_file(&log);
    let end = run.run(&project.root, &log);
    let text = fs::read_to_string(&log).unwrap_or_default();
    for line in text.lines().filter(|line| line.starts_with("MISSED") || is_summary(line)) {
        println!("{}: {line}", group.name);
    }
    match end {
        End::Exited(status) => Ok(status.code().is_some_and(|code| ALL_CAUGHT.contains(&code))),
        other => {
            let trouble = other.trouble().unwrap_or_default();
            println!("{}: {trouble}; see {}", group.name, log.display());
            Ok(false)
        }
    }
}

/// `123 mutants tested: 4 missed, 110 caught, 9 unviable`.
fn is_summary(line: &str) -> bool {
    line.contains(" mutants tested")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_file_of_a_group_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        for file in GROUPS.iter().flat_map(|group| group.files) {
            assert!(root.join(file).is_file(), "{file}");
        }
    }
}
