//! The program of all targets: how it is built, and run for a while.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hybrid_conventions::Exit;

use super::outcome::Outcome;
use crate::command::{End, Run};
use crate::project::Project;

/// Its package; not in the workspace.
const MANIFEST: &str = "fuzz/libfuzzer/Cargo.toml";

/// Its name.
const NAME: &str = "hybrid-libfuzzer";

/// What `cargo fuzz` gives the compiler; and the hint that most of each crate is not used here, so
/// that what is used is compiled once, with the program. Without it half of the build was for parts
/// of `host-bridge` and of crates from outside that no input comes near.
const FLAGS: &str = "--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 -Zhint-mostly-unused";

/// The instrumented standard library is for one target only.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// The build takes a minute or two on two idle cores; it must come to its end beside a soak, too.
const BUILD: Duration = Duration::from_secs(3600);

/// The longest wall time of one input: alone, and behind others, who may have every core for
/// seconds (what it computes is limited besides, by that of the whole run).
const INPUT_ALONE: Duration = Duration::from_secs(30);
const INPUT_BEHIND: Duration = Duration::from_secs(120);

/// What a run may take beyond its time: to begin with what it knows, and to end.
const SPARE: Duration = Duration::from_secs(120);

/// Inputs of `identify` for one process: each ends its controller, whose memory is never freed. It
/// is started again until its time is over.
const CONTROLLERS: u32 = 5_000;

/// Inputs a second that a target runs at the least, or it did nothing: the slowest, each input of
/// which is dozens of reads of a simulated drive, runs some hundred.
const LEAST_A_SECOND: u64 = 10;

/// The names of its variables, as `hybrid_fuzz` has them.
const TARGET_VARIABLE: &str = "HYBRID_FUZZ_TARGET";
const SEEDS_VARIABLE: &str = "HYBRID_FUZZ_SEEDS";

/// Where it is, and what it leaves.
#[derive(Clone, Debug)]
pub(super) struct Program<'a> {
    project: &'a Project,
    base: PathBuf,
    logs: PathBuf,
    /// Set if it runs behind others: until when at the latest.
    behind: Option<Duration>,
}

impl<'a> Program<'a> {
    pub(super) fn new(project: &'a Project) -> Result<Self> {
        let base = project.target.join("fuzz");
        let logs = project.target.join("xtask-logs");
        for dir in [&logs, &base.join("broken")] {
            fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
        Ok(Self { project, base, logs, behind: None })
    }

    /// The same on the time that others leave, for so long at the most.
    pub(super) fn behind(self, left: Duration) -> Self {
        Self { behind: Some(left), ..self }
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// The log of a target.
    pub(super) fn log_of(&self, target: &str) -> PathBuf {
        self.log(&format!("fuzz-{target}"))
    }

    /// Builds it, and has it write the seeds; what went wrong.
    pub(super) fn build(&self, log: &Path) -> Option<String> {
        let build = Run::new("cargo +nightly build --release --locked --target")
            .arg(TRIPLE)
            .arg("--manifest-path")
            .arg(MANIFEST)
            .arg("--bin")
            .arg(NAME)
            .env("RUSTFLAGS", FLAGS)
            .env("CARGO_TARGET_DIR", self.home("build"));
        let seeds = self.command().env(SEEDS_VARIABLE, self.home("seeds"));
        [build, seeds].into_iter().find_map(|run| {
            let run = self.placed(run.limit(BUILD));
            let trouble = run.run(&self.project.root, log).trouble()?;
            Some(format!("`{}`: {trouble}", run.line()))
        })
    }

    /// Runs a target until it has computed for `time`.
    pub(super) fn run(&self, target: &str, time: Duration) -> Outcome {
        let log = self.log_of(target);
        let _ = fs::remove_file(&log);
        let least = LEAST_A_SECOND.saturating_mul(time.as_secs().max(1));
        let not_run = |why: String| Outcome::of(target, "", Some(why), least);
        if self.behind.is_some_and(|left| left.is_zero()) {
            return not_run("no time left".to_owned());
        }
        let corpus = self.base.join("corpus").join(target);
        if let Err(error) = fs::create_dir_all(&corpus) {
            return not_run(format!("{}: {error}", corpus.display()));
        }
        let run = self.fuzzing(target).limit(time.saturating_add(SPARE));
        let (mut computed, mut trouble) = (Duration::ZERO, None);
        while computed < time && trouble.is_none() {
            let (end, took) = self.one(&run, &log, time - computed);
            // One that ends at once has no time that can be seen.
            computed += took.max(Duration::from_millis(100));
            trouble = end.trouble();
        }
        let text = fs::read(&log).unwrap_or_default();
        Outcome::of(target, &String::from_utf8_lossy(&text), trouble, least)
    }

    fn one(&self, run: &Run, log: &Path, time: Duration) -> (End, Duration) {
        self.placed(run.clone()).run_for(&self.project.root, log, time)
    }

    /// Runs one input, before the person's eyes.
    pub(super) fn repeat(&self, target: &str, input: &Path) -> Result<Exit> {
        let found = fs::canonicalize(input)
            .or_else(|_| fs::canonicalize(self.project.root.join(input)))
            .with_context(|| input.display().to_string())?;
        let run = self.command().env(TARGET_VARIABLE, target);
        let run = run.arg(found.to_string_lossy());
        let mut command = run.command(&self.project.root);
        let status = command.stdin(Stdio::null()).status().with_context(|| run.line())?;
        println!("{target}: {}", if status.success() { "nothing found" } else { "it broke" });
        Ok(if status.success() { Exit::Ok } else { Exit::Error })
    }

    fn fuzzing(&self, target: &str) -> Run {
        let input = if self.behind.is_some() { INPUT_BEHIND } else { INPUT_ALONE };
        self.command()
            .env(TARGET_VARIABLE, target)
            .arg(format!("-artifact_prefix={}/{target}-", self.home("broken")))
            .arg("-detect_leaks=0")
            .arg("-rss_limit_mb=3072")
            .arg(format!("-timeout={}", input.as_secs()))
            .arg(format!("-report_slow_units={}", input.as_secs()))
            .arg("-max_len=16384")
            .arg("-print_final_stats=1")
            .args((target == "identify").then(|| format!("-runs={CONTROLLERS}")))
            .args(["corpus", "seeds"].map(|kind| self.home(&format!("{kind}/{target}"))))
            .args(self.kept(target))
    }

    /// It without arguments. Rigs and spans are leaked once, and seeds; leaks of an input would
    /// show as growth. libFuzzer looks for them unless it is told, and the sanitizer at the end.
    fn command(&self) -> Run {
        let program = self.base.join("build").join(TRIPLE).join("release").join(NAME);
        Run::new("").arg(program.to_string_lossy()).env("ASAN_OPTIONS", "detect_leaks=0")
    }

    /// On whose time, and until when.
    fn placed(&self, run: Run) -> Run {
        match self.behind {
            Some(left) => run.behind().limit(left),
            None => run,
        }
    }

    /// As it is called from the project's folder, where everything runs and a person types.
    fn home(&self, what: &str) -> String {
        let path = self.base.join(what);
        let path = path.strip_prefix(&self.project.root).unwrap_or(&path);
        path.to_string_lossy().into_owned()
    }

    /// Inputs that once broke something.
    fn kept(&self, target: &str) -> Option<String> {
        let dir = self.project.root.join("fuzz/corpus").join(target);
        dir.is_dir().then(|| dir.to_string_lossy().into_owned())
    }
}
