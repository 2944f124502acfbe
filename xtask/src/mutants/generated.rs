//! `cargo xtask mutants --generated`: what cargo-mutants makes up in ring, queue pair, PRP lists
//! and slots, each against the tests of its own package.
//!
//! Works on a copy of the tree in `target/mutants/generated`. What became of each mutant is kept
//! there, so that a run that was stopped can go on while the code is the same. A mutant that
//! nothing notices is either a hole of the tests, or the same program in other words: those are in
//! [`LEFT_OUT`], each with its reason, and not run.

mod ledger;
mod table;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hybrid_conventions::Exit;

use super::copy;
use crate::command::{End, Run};
use crate::project::Project;
use crate::stop;
use ledger::Ledger;
use table::{Mutant, Sum};

/// What is wanted.
pub(crate) struct Wanted {
    /// Only print them.
    pub(crate) list: bool,
    /// Go on where the last run was stopped, if the code is still the same.
    pub(crate) resume: bool,
    /// Start no mutant after this time.
    pub(crate) time: Option<Duration>,
    /// Parts of the paths of files; all if there are none.
    pub(crate) names: Vec<String>,
}

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
            "core-runtime/src/ring/cell.rs",
            "core-runtime/src/ring/engine.rs",
            "core-runtime/src/ring/index.rs",
            "core-runtime/src/ring/mod.rs",
            "core-runtime/src/ring/records.rs",
            "core-runtime/src/ring/stats.rs",
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

/// Why no test can notice a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// It does what the program does.
    Same,
    /// It is one of a proof, which is a test.
    Proof,
}

/// Mutants that are not run.
struct LeftOut {
    /// A pattern that their names have.
    pattern: &'static str,
    why: Why,
    reason: &'static str,
}

const LEFT_OUT: [LeftOut; 5] = [
    LeftOut {
        pattern: "proofs::",
        why: Why::Proof,
        reason: "of a proof for Kani, which is a test and not the program",
    },
    LeftOut {
        pattern: r"replace \| with \^ in QueuePair::(write|command|ignore)$",
        why: Why::Same,
        reason: "joins fields that share no bit: either operator gives the same word",
    },
    LeftOut {
        pattern: r"replace \| with \^ in Slot::(post|release|hold)$",
        why: Why::Same,
        reason: "joins fields that share no bit: either operator gives the same word",
    },
    LeftOut {
        pattern: "replace > with >= in QueuePair::tell_depth$",
        why: Why::Same,
        reason: "stores the greatest depth so far over itself",
    },
    LeftOut {
        pattern: "replace (> with >=|< with <=) in capacity_for$",
        why: Why::Same,
        reason: "at either bound both ways give the bound",
    },
];

/// A test that runs for so many seconds under a mutant hangs.
const HANG_SECONDS: &str = "60";

/// cargo-mutants' exit codes: all caught, some missed, some hung.
const TRIED: [i32; 3] = [0, 2, 3];

/// Where things are.
struct Places {
    tree: PathBuf,
    build: PathBuf,
    base: PathBuf,
    logs: PathBuf,
    /// Of the code in `tree`.
    fingerprint: u64,
}

/// What is said where cargo-mutants is not.
pub(crate) const MISSING: &str = "cargo-mutants is not there: cargo install cargo-mutants";

/// Whether it can be called.
pub(crate) fn is_there(project: &Project) -> bool {
    Run::new("cargo mutants --version").succeeds(&project.root)
}

/// Runs them, or lists them; the last line is the sum.
pub(crate) fn run(project: &Project, wanted: &Wanted) -> Result<Exit> {
    if !is_there(project) {
        eprintln!("error: {MISSING}");
        return Ok(Exit::Missing);
    }
    let deadline = wanted.time.map(|time| Instant::now() + time);
    stop::install()?;
    let places = Places::make(project)?;
    let mut sum = Sum::default();
    for group in &GROUPS {
        let names = &wanted.names;
        let chosen = |file: &&&str| names.is_empty() || names.iter().any(|n| file.contains(&**n));
        let files: Vec<&str> = group.files.iter().filter(chosen).copied().collect();
        if files.is_empty() {
            continue;
        }
        let mut mutants = group.mutants(&files, &places)?;
        if wanted.list {
            mutants.iter().filter(|mutant| mutant.left_out.is_none()).for_each(|mutant| {
                println!("{}", mutant.name);
            });
        } else {
            let mut ledger = Ledger::open(&places.of(group), places.fingerprint, wanted.resume)?;
            group.try_out(&files, &mutants, (&places, &mut ledger), deadline)?;
            mutants.iter_mut().for_each(|mutant| mutant.fate = ledger.fate(&mutant.name));
        }
        sum.add(mutants);
    }
    ensure!(!sum.is_empty(), "no file of these groups has such a name");
    println!("{}", if wanted.list { sum.left_out() } else { sum.to_string() });
    let good = wanted.list || sum.is_good(deadline.is_some());
    Ok(stop::exit().unwrap_or(if good { Exit::Ok } else { Exit::Error }))
}

impl Places {
    fn make(project: &Project) -> Result<Self> {
        let base = project.target.join("mutants").join("generated");
        let (tree, build) = (base.join("tree"), base.join("build"));
        let logs = project.target.join("xtask-logs");
        fs::create_dir_all(&logs)?;
        let fingerprint = copy::mirror(project, &tree)?;
        Ok(Self { tree, build, base, logs, fingerprint })
    }

    /// What became of those of a group.
    fn of(&self, group: &Group) -> PathBuf {
        self.base.join(group.name)
    }
}

impl Group {
    /// cargo-mutants on some of its files.
    fn command(&self, files: &[&str]) -> Run {
        let run = Run::new("cargo mutants --colors never --no-times --package").arg(self.package);
        files.iter().fold(run, |run, file| run.arg("--file").arg(*file))
    }

    /// All that are made up in these files.
    fn mutants(&self, files: &[&str], places: &Places) -> Result<Vec<Mutant>> {
        let list = |run: Run| {
            let text = run.arg("--list").output(&places.tree);
            text.ok_or_else(|| anyhow::anyhow!("cargo mutants --list failed; see above"))
        };
        let mut mutants: Vec<_> = list(self.command(files))?.lines().map(Mutant::new).collect();
        for (index, LeftOut { pattern, .. }) in LEFT_OUT.iter().enumerate() {
            // What is missing then: `--re` also lists fields that are deleted, whatever their name.
            let others = list(self.command(files).arg("--exclude-re").arg(*pattern))?;
            let others: BTreeSet<&str> = others.lines().collect();
            for mutant in mutants.iter_mut().filter(|mutant| !others.contains(&*mutant.name)) {
                mutant.left_out.get_or_insert(index);
            }
        }
        Ok(mutants)
    }

    /// Runs those that nothing is known of.
    fn try_out(
        &self,
        files: &[&str],
        mutants: &[Mutant],
        (places, ledger): (&Places, &mut Ledger),
        deadline: Option<Instant>,
    ) -> Result<()> {
        let tested = mutants.iter().filter(|mutant| mutant.left_out.is_none());
        let left = tested.clone().filter(|mutant| ledger.needs(&mutant.name)).count();
        let time = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        let log = places.logs.join(format!("mutants-{}.log", self.name));
        println!("{}: {left} of {} to try; {}", self.name, tested.count(), log.display());
        if left == 0 || time.is_some_and(|time| time.is_zero()) || stop::exit().is_some() {
            return Ok(());
        }
        let _ = fs::remove_file(&log);
        let run = self.trying(files, places).limit(time.unwrap_or(Duration::MAX));
        let end = run.run(&places.tree, &log);
        ledger.collect()?;
        match end {
            End::Exited(status) if status.code().is_some_and(|code| TRIED.contains(&code)) => {}
            End::Stopped | End::TimedOut(_) => {}
            other => {
                let trouble = other.trouble().unwrap_or_default();
                println!("{}: cargo-mutants: {trouble}; see {}", self.name, log.display());
            }
        }
        Ok(())
    }

    /// The command that runs them.
    fn trying(&self, files: &[&str], places: &Places) -> Run {
        let run = self.command(files).arg("--in-place").arg("--iterate").arg("--caught");
        let run = LEFT_OUT.iter().fold(run, |run, left| run.arg("--exclude-re").arg(left.pattern));
        let run = run.arg("--unviable").arg("--timeout").arg(HANG_SECONDS).arg("--output");
        let run = run.arg(places.of(self).to_string_lossy());
        let run = run.env("CARGO_TARGET_DIR", places.build.to_string_lossy());
        let run = run.env("CARGO_PROFILE_TEST_OPT_LEVEL", "0").env("CARGO_PROFILE_TEST_DEBUG", "0");
        // For building too: else every other target of the package is built for each mutant.
        let targets = self.targets.iter().map(|target| format!("--cargo-arg={target}"));
        let tests = ["--"].iter().chain(self.tests).map(|&word| word.to_owned());
        run.args(targets).args(tests)
    }
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

    #[test]
    fn what_is_left_out_is_not_run() {
        let places = Places {
            tree: "/t/tree".into(),
            build: "/t/build".into(),
            base: "/t".into(),
            logs: "/logs".into(),
            fingerprint: 0,
        };
        let line = GROUPS[1].trying(&GROUPS[1].files[..1], &places).line();
        for LeftOut { pattern, .. } in &LEFT_OUT {
            assert!(line.contains(&format!("--exclude-re {pattern}")), "{line}");
        }
        assert!(line.contains("--file core-runtime/src/ring/cell.rs --in-place"), "{line}");
        assert!(line.contains("--output /t/ring"), "{line}");
        assert!(line.contains("--cargo-arg=--test=it -- ring_ -- --skip=two_threads"), "{line}");
    }
}
