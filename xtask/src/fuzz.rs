//! `cargo xtask fuzz`, and the step `fuzz` of `cargo xtask test`: the targets of `fuzz` under
//! libFuzzer.
//!
//! Builds `fuzz/libfuzzer` with the nightly compiler, as `cargo fuzz` would: coverage, and the
//! address sanitizer; one program has all targets. A target's time is what it computes, so that a
//! crowded machine makes it longer and not emptier. What a fuzzer learnt stays in
//! `target/fuzz/corpus`, what broke something is in `target/fuzz/broken`, and belongs into
//! `fuzz/corpus/TARGET` once it is mended.

mod outcome;
mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hybrid_conventions::Exit;

use self::outcome::Outcome;
use self::program::Program;
use crate::libtest::Tally;
use crate::project::Project;
use crate::runner::Report;
use crate::tools::{Found, Tool};

/// The package with the targets and their seeds.
pub(crate) const FUZZ: &str = "hybrid-fuzz";

/// What it takes to build the program.
pub(crate) const TOOLS: [Tool; 2] = [Tool::NightlyStd, Tool::Cxx];

/// What each target computes in CI.
const STEP_TIME: Duration = Duration::from_secs(60);

/// Targets that run at once in CI, behind the other steps: there are two cores.
const STEP_TARGETS_AT_ONCE: usize = 2;

/// What is wanted.
pub(crate) struct Wanted {
    /// How long each target computes.
    pub(crate) time: Duration,
    /// Targets; all if there are none.
    pub(crate) targets: Vec<String>,
    /// Instead: this input, once.
    pub(crate) repeat: Option<PathBuf>,
}

/// Runs them one after the other; the last line is `N of N targets found nothing`.
pub(crate) fn run(project: &Project, wanted: &Wanted) -> Result<Exit> {
    let all = targets(project)?;
    if let Some(unknown) = wanted.targets.iter().find(|name| !all.contains(name)) {
        bail!("no target `{unknown}`: {} are there", all.join(", "));
    }
    for tool in TOOLS {
        match tool.find(&project.root) {
            Found::Yes => (),
            Found::No(why) => return Ok(missing(&why)),
            Found::Missing { why, fix } => return Ok(missing(&format!("{why}: {fix}"))),
        }
    }
    let program = Program::new(project)?;
    let log = program.log("fuzz");
    let _ = fs::remove_file(&log);
    if let Some(trouble) = program.build(&log) {
        bail!("{trouble}; see {}", log.display());
    }
    if let Some(input) = &wanted.repeat {
        let target = target_of(input, &wanted.targets, &all)?;
        return program.repeat(&target, input);
    }
    let chosen = if wanted.targets.is_empty() { &all } else { &wanted.targets };
    let mut good = 0;
    for name in chosen {
        let outcome = program.run(name, wanted.time);
        match &outcome.trouble {
            None => println!("{name:<10} {outcome}, nothing found"),
            Some(trouble) => {
                println!("{name:<10} {trouble}; see {}", program.log_of(name).display())
            }
        }
        good += usize::from(outcome.trouble.is_none());
    }
    println!("{good} of {} targets found nothing", chosen.len());
    Ok(if good == chosen.len() { Exit::Ok } else { Exit::Error })
}

fn missing(what: &str) -> Exit {
    eprintln!("error: libFuzzer can't be built here: {what}");
    Exit::Missing
}

/// Every target for a minute of its own, two at once, on the time that other steps leave; each
/// counts as one test.
pub(crate) fn step(project: &Project, log: &Path, left: Duration) -> Report {
    let begun = Instant::now();
    let started = targets(project).and_then(|names| Ok((names, Program::new(project)?)));
    let (names, program) = match started {
        Ok(started) => started,
        Err(error) => return failed(format!("{error:#}")),
    };
    let program = program.behind(left);
    if let Some(trouble) = program.build(log) {
        return failed(trouble);
    }
    let queue = Mutex::new(names.iter());
    let next = || queue.lock().ok()?.next();
    let work = || {
        let mut outcomes = Vec::new();
        while let Some(name) = next() {
            let left = left.saturating_sub(begun.elapsed());
            outcomes.push(program.clone().behind(left).run(name, STEP_TIME));
        }
        outcomes
    };
    let outcomes: Vec<_> = thread::scope(|scope| {
        let workers = [(); STEP_TARGETS_AT_ONCE].map(|()| scope.spawn(work));
        workers.into_iter().map(|worker| worker.join().ok()).collect()
    });
    let mut report = Report::default();
    for outcomes in outcomes {
        match outcomes {
            Some(outcomes) => outcomes.iter().for_each(|outcome| tell(outcome, &mut report)),
            None => report.fail("xtask panicked over a target"),
        }
    }
    report.notes.sort();
    keep_logs(&program, names, &report, log);
    report
}

/// The log of the step ends with those of its targets, what failed last: a person sees its end.
fn keep_logs(program: &Program<'_>, mut names: Vec<String>, report: &Report, log: &Path) {
    let has_failed = |name: &str| {
        let line = |failure: &String| failure.split_once(": ").is_some_and(|(of, _)| of == name);
        report.failures.iter().any(line)
    };
    names.sort_by_key(|name| has_failed(name));
    let mut text = fs::read(log).unwrap_or_default();
    for name in &names {
        text.extend(fs::read(program.log_of(name)).unwrap_or_default());
    }
    let _ = fs::write(log, text);
}

fn failed(why: String) -> Report {
    let mut report = Report::default();
    report.fail(why);
    report
}

/// A target's line among those of a step.
fn tell(outcome: &Outcome, report: &mut Report) {
    match &outcome.trouble {
        None => {
            report.tally.add(Tally::PASSED);
            report.notes.push(format!("{:<8} {outcome}", outcome.target));
        }
        Some(trouble) => {
            let failure = format!("{}: {trouble}", outcome.target);
            report.excerpts.extend(outcome.excerpt(&failure));
            report.fail(failure);
        }
    }
}

/// The target of an input: the one that is named, or the folder's, or what its name begins with.
fn target_of(input: &Path, named: &[String], all: &[String]) -> Result<String> {
    let text =
        |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let folder = text(input.parent().and_then(Path::file_name));
    let prefix = text(input.file_name())
        .and_then(|name| name.split_once('-').map(|(before, _)| before.to_owned()));
    let named = named.first().cloned();
    let guesses = [named, folder, prefix].into_iter().flatten();
    let found = guesses.into_iter().find(|name| all.contains(name));
    found.with_context(|| {
        format!("{}: name its target behind it, one of {}", input.display(), all.join(", "))
    })
}

/// The targets are the files of programs.
fn targets(project: &Project) -> Result<Vec<String>> {
    let dir = project.root.join("fuzz/libfuzzer/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if let Some(name) = path.file_stem() {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    ensure!(!names.is_empty(), "{} is empty", dir.display());
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_input_says_whose_it_is() {
        let all = names(&["cqe", "ring"]);
        let of = |path: &str, named: &[&str]| target_of(Path::new(path), &names(named), &all).ok();
        assert_eq!(of("target/fuzz/broken/cqe-crash-12", &[]).as_deref(), Some("cqe"));
        assert_eq!(of("fuzz/corpus/ring/wrong-phases", &[]).as_deref(), Some("ring"));
        assert_eq!(of("cqe-crash-12", &["ring"]).as_deref(), Some("ring"));
        assert_eq!(of("/tmp/input", &[]), None);
    }

    #[test]
    fn the_log_of_a_step_ends_with_what_failed() {
        let root = std::env::temp_dir().join(format!("xtask-{}-fuzz", std::process::id()));
        let target = root.join("target");
        let project = Project { root: root.clone(), target, packages: Vec::new() };
        let program = Program::new(&project).expect("folders");
        for name in ["cqe", "ring"] {
            fs::write(program.log_of(name), format!("of {name}\n")).expect("a log");
        }
        let log = program.log("fuzz");
        fs::write(&log, "built\n").expect("a log");
        keep_logs(&program, names(&["cqe", "ring"]), &failed("cqe: it broke".to_owned()), &log);
        assert_eq!(fs::read_to_string(&log).expect("a log"), "built\nof ring\nof cqe\n");
        let _ = fs::remove_dir_all(&root);
    }

    #[test]
    fn a_target_that_broke_is_told_with_its_words_and_one_that_did_not_with_its_figures() {
        let mut report = Report::default();
        let good = Outcome::of("ring", outcome::tests::GOOD, None, 10);
        tell(&good, &mut report);
        let text = outcome::tests::BROKEN;
        tell(&Outcome::of("cqe", text, Some("exit status: 77".to_owned()), 10), &mut report);
        assert_eq!(report.tally, Tally::new(1, 1, 0));
        assert!(report.notes[0].starts_with("ring     "), "{:?}", report.notes);
        let line = report.failure_lines().next().expect("a failure");
        assert!(line.starts_with("cqe: "), "{line}");
        assert!(
            line.contains("cargo xtask fuzz --repeat target/fuzz/broken/cqe-crash-0b"),
            "{line}"
        );
        assert!(
            line.ends_with("panicked at fuzz/src/device.rs:106:9: a buffer is missing"),
            "{line}"
        );
    }
}
