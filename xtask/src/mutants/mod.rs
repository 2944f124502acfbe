//! `cargo xtask mutants`: breaks the driver on purpose, one way at a time, and runs the test that
//! must notice.
//!
//! Works on a copy of the tree in `target/mutants`, never on the working tree. A mutant is *caught*
//! if its test fails or hangs, *survives* if it passes, and is no mutant at all if it does not
//! compile; each test is first run on the copy unbroken, where it must pass.

mod copy;
pub(crate) mod generated;
mod list;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use hybrid_conventions::Exit;

use crate::command::{End, Run};
use crate::libtest;
use crate::project::Project;
use list::Mutant;

/// A test that runs for so long under a mutant hangs: unbroken they take seconds.
const HANG: Duration = Duration::from_secs(120);

/// What is wanted.
pub(crate) struct Wanted {
    /// Only look whether every mutant still applies.
    pub(crate) check: bool,
    /// Only print the names.
    pub(crate) list: bool,
    /// Names that contain one of these; all if there are none.
    pub(crate) names: Vec<String>,
}

/// How the test of a mutant ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Caught,
    Hung,
    Survived,
}

/// The copy of the tree.
struct Copy {
    tree: PathBuf,
    build: PathBuf,
    logs: PathBuf,
}

/// Runs the mutants and ends with `N of N mutants caught`.
pub(crate) fn run(project: &Project, wanted: &Wanted) -> Result<Exit> {
    let count = list::check(&project.root)?;
    let mutants = list::load(&project.root)?;
    let chosen = |mutant: &&Mutant| {
        wanted.names.is_empty() || wanted.names.iter().any(|name| mutant.name.contains(name))
    };
    let mutants: Vec<&Mutant> = mutants.iter().filter(chosen).collect();
    ensure!(!mutants.is_empty(), "no mutant has such a name; --list prints them");
    if wanted.list {
        mutants.iter().for_each(|mutant| println!("{:<34} {}", mutant.name, mutant.test));
    }
    if wanted.check || wanted.list {
        println!("{count} mutants apply");
        return Ok(Exit::Ok);
    }
    let copy = Copy::make(project)?;
    let tests: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.test.as_str()).collect();
    for test in &tests {
        copy.must_pass(test)?;
    }
    println!("{} tests pass unbroken", tests.len());
    let mut caught = 0;
    for mutant in &mutants {
        let start = Instant::now();
        let fate = copy.try_out(mutant)?;
        let word = match fate {
            Fate::Caught => "caught",
            Fate::Hung => "caught, hung",
            Fate::Survived => "SURVIVED",
        };
        caught += usize::from(fate != Fate::Survived);
        let secs = start.elapsed().as_secs();
        println!("{word:<13} {:<34} {secs:>4} s  {}", mutant.name, mutant.test);
    }
    println!("{caught} of {} mutants caught", mutants.len());
    Ok(if caught == mutants.len() { Exit::Ok } else { Exit::Error })
}

impl Copy {
    fn make(project: &Project) -> Result<Self> {
        let base = project.target.join("mutants");
        let copy = Self {
            tree: base.join("tree"),
            build: base.join("build"),
            logs: project.target.join("xtask-logs"),
        };
        fs::create_dir_all(&copy.logs)?;
        copy::mirror(project, &copy.tree)?;
        Ok(copy)
    }

    /// The command of a test.
    fn command(&self, test: &str, build_only: bool) -> Run {
        let (kind, test) = match test.split_once(' ') {
            Some((kind @ ("miri" | "loom"), rest)) => (kind, rest),
            _ => ("", test),
        };
        let (package, arguments) = test.split_once(' ').unwrap_or((test, ""));
        let (arguments, filter) = arguments.split_once(" -- ").unwrap_or((arguments, ""));
        let words = match (kind, build_only) {
            ("miri", _) => "cargo +nightly miri test",
            ("loom", _) => "cargo test --release",
            _ => "cargo test",
        };
        let build = self.build.join(kind);
        let mut run = Run::new(&format!("{words} -p {package} {arguments}"));
        if build_only && kind != "miri" {
            run = run.arg("--no-run");
        } else if !filter.is_empty() {
            run.argv.extend(filter.split(' ').map(str::to_owned));
        }
        run = match kind {
            "loom" => run.env("RUSTFLAGS", "--cfg loom").env("LOOM_MAX_PREEMPTIONS", "3"),
            "miri" => run.env(
                "MIRIFLAGS",
                "-Zmiri-ignore-leaks -Zmiri-disable-isolation -Zmiri-many-seeds=0..16",
            ),
            // What is tested is whether something fails: quick builds.
            _ => run.env("CARGO_PROFILE_TEST_OPT_LEVEL", "0").env("CARGO_PROFILE_TEST_DEBUG", "0"),
        };
        run.env("CARGO_TARGET_DIR", build.to_string_lossy())
    }

    /// A test on the unbroken copy.
    fn must_pass(&self, test: &str) -> Result<()> {
        let log = self.logs.join("mutants.log");
        let _ = fs::remove_file(&log);
        let end = self.command(test, false).run(&self.tree, &log);
        let text = fs::read_to_string(&log).unwrap_or_default();
        let tally = libtest::parse(&text).tally;
        if end.trouble().is_some() || tally.passed == 0 {
            let shown = log.display();
            bail!("`{test}` does not pass unbroken ({tally}); see {shown}");
        }
        Ok(())
    }

    fn try_out(&self, mutant: &Mutant) -> Result<Fate> {
        let path = self.tree.join(&mutant.file);
        let text = fs::read_to_string(&path)?;
        fs::write(&path, mutant.applied(&text)?)?;
        let fate = self.fate_of(mutant);
        fs::write(&path, text)?;
        fate
    }

    fn fate_of(&self, mutant: &Mutant) -> Result<Fate> {
        let log = self.logs.join(format!("mutant-{}.log", mutant.name));
        let _ = fs::remove_file(&log);
        let is_miri = mutant.test.starts_with("miri ");
        if !is_miri && self.command(&mutant.test, true).run(&self.tree, &log).trouble().is_some() {
            bail!("{} does not compile; see {}", mutant.name, log.display());
        }
        let test = self.command(&mutant.test, false);
        let test = if is_miri { test } else { test.limit(HANG) };
        let end = test.run(&self.tree, &log);
        let text = fs::read_to_string(&log).unwrap_or_default();
        match end {
            End::TimedOut(_) => Ok(Fate::Hung),
            End::Stopped => bail!("{}: stopped", mutant.name),
            End::NotStarted(error) => bail!("{}: {error}", mutant.name),
            End::Exited(status) if status.success() => Ok(Fate::Survived),
            End::Exited(_) if text.contains("could not compile") => {
                bail!("{} does not compile; see {}", mutant.name, log.display())
            }
            End::Exited(_) => Ok(Fate::Caught),
        }
    }
}
