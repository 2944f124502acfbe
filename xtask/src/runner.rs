//! Runs one step: its commands, its log, its tally, and the reasons of what did not run.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hybrid_conventions::testing;

use crate::command::{End, Run};
use crate::excerpt::Excerpt;
use crate::fuzz;
use crate::libtest::{self, Tally};
use crate::project::Project;
use crate::steps::Work;
use crate::stop;
use crate::tidy;
use crate::vm;

/// What came of a step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) tally: Tally,
    /// One line each: what did not run, and why.
    pub(crate) skips: Vec<String>,
    /// One line each: what failed.
    pub(crate) failures: Vec<String>,
    /// What some of these said.
    pub(crate) excerpts: Vec<Excerpt>,
    /// One line each: figures that were measured on the way.
    pub(crate) notes: Vec<String>,
    pub(crate) took: Duration,
    /// We were to end, so that this is what it had come to by then.
    pub(crate) stopped: bool,
}

impl Report {
    pub(crate) fn skipped(reason: impl Into<String>) -> Self {
        Self { tally: Tally::SKIPPED, skips: vec![reason.into()], ..Self::default() }
    }

    /// Of a step that xtask itself didn't survive.
    pub(crate) fn panicked(step: &str) -> Self {
        let mut report = Self::default();
        report.fail(format!("xtask panicked in step {step}"));
        report
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.tally.add(other.tally);
        self.skips.extend(other.skips);
        self.failures.extend(other.failures);
        self.excerpts.extend(other.excerpts);
        self.notes.extend(other.notes);
    }

    pub(crate) fn fail(&mut self, what: impl Into<String>) {
        self.tally.add(Tally::FAILED);
        self.failures.push(what.into());
    }

    /// A line for each failure, with what it panicked over where that is known.
    pub(crate) fn failure_lines(&self) -> impl Iterator<Item = String> {
        self.failures.iter().map(|failure| {
            let excerpt = self.excerpts.iter().find(|excerpt| excerpt.of == *failure);
            excerpt.map_or_else(|| failure.clone(), Excerpt::line)
        })
    }
}

/// Where a run keeps its logs, and until when it may go on.
pub(crate) struct Runner<'a> {
    project: &'a Project,
    logs: PathBuf,
    deadline: Instant,
}

impl<'a> Runner<'a> {
    /// Logs go to `xtask-logs` in the target directory.
    pub(crate) fn new(project: &'a Project, limit: Duration) -> Result<Self> {
        let logs = project.target.join("xtask-logs");
        fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        Ok(Self { project, logs, deadline: Instant::now() + limit })
    }

    pub(crate) fn log(&self, step: &str) -> PathBuf {
        self.logs.join(format!("{step}.log"))
    }

    /// Does the work of a step.
    pub(crate) fn run(&self, step: &str, work: &Work) -> Report {
        let start = Instant::now();
        let log = self.log(step);
        // A log of the run before would be read as one of this run.
        let _ = fs::remove_file(&log);
        let mut report = match work {
            Work::Skip(reason) => Report::skipped(reason.clone()),
            Work::Tidy => self.tidy(&log),
            Work::Guest => vm::step(self.project, &log, self.left()),
            Work::Fuzz => fuzz::step(self.project, &log, self.left()),
            Work::Gates(runs) => self.each(runs, |run| self.gate(run, &log)),
            Work::Tests(runs) => self.each(runs, |run| self.tests(run, step, &log)),
            Work::Beside(first, runs) => self.beside(first, runs, step, &log),
        };
        report.stopped = stop::exit().is_some();
        if report.tally == Tally::default() && !report.stopped {
            report.add(Report::skipped("it has no tests yet"));
        }
        report.took = start.elapsed();
        report
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn each(&self, runs: &[Run], one: impl Fn(&Run) -> Report) -> Report {
        let mut all = Report::default();
        for run in runs {
            let left = self.left();
            if left.is_zero() {
                all.fail(format!("no time left for `{}`", run.line()));
                continue;
            }
            all.add(one(&run.clone().limit(run.limit.min(left))));
        }
        all
    }

    /// `first`, then all at once, each with a log of its own; the step's log is all of them.
    fn beside(&self, first: &Run, runs: &[Run], step: &str, log: &Path) -> Report {
        let mut all = self.gate(&first.clone().limit(first.limit.min(self.left())), log);
        if all.tally.failed > 0 {
            return all;
        }
        all.tally = Tally::default();
        let left = self.left();
        let one = |index: usize, run: &Run| {
            let name = format!("{step}-{}", index + 1);
            let own = self.log(&name);
            let _ = fs::remove_file(&own);
            let report = self.tests(&run.clone().limit(run.limit.min(left)), &name, &own);
            (report, fs::read(&own).unwrap_or_default())
        };
        let one = &one;
        let mut text = fs::read(log).unwrap_or_default();
        thread::scope(|scope| {
            let spawn = |(index, run)| scope.spawn(move || one(index, run));
            let threads: Vec<_> = runs.iter().enumerate().map(spawn).collect();
            for (thread, run) in threads.into_iter().zip(runs) {
                match thread.join() {
                    Ok((report, own)) => {
                        all.add(report);
                        text.extend(own);
                    }
                    Err(_) => all.fail(format!("xtask panicked over `{}`", run.line())),
                }
            }
        });
        let _ = fs::write(log, text);
        all
    }

    fn tidy(&self, log: &Path) -> Report {
        let mut report = Report::default();
        match tidy::check(self.project) {
            Err(error) => report.fail(format!("tidy could not read the workspace: {error:#}")),
            Ok(found) => {
                let _ = fs::write(log, found.to_string());
                if found.violations() == 0 {
                    report.tally.add(Tally::PASSED);
                } else {
                    report.fail(format!("{} violations", found.violations()));
                }
            }
        }
        report
    }

    fn gate(&self, run: &Run, log: &Path) -> Report {
        let mut report = Report::default();
        let end = run.run(&self.project.root, log);
        match end.trouble() {
            None => report.tally.add(Tally::PASSED),
            // It has not failed, and what it found stands in its log.
            Some(_) if matches!(end, End::Stopped) => {}
            Some(trouble) => report.fail(format!("`{}`: {trouble}", run.line())),
        }
        report
    }

    fn tests(&self, run: &Run, step: &str, log: &Path) -> Report {
        let skip_log = self.logs.join(format!("{step}.skips"));
        let _ = fs::remove_file(&skip_log);
        let before = fs::metadata(log).map_or(0, |meta| meta.len());
        let run = run.clone().env(testing::SKIP_LOG, skip_log.to_string_lossy());
        let end = run.run(&self.project.root, log);
        let output = read_from(log, before);
        let skips = fs::read_to_string(&skip_log).unwrap_or_default();
        judge(&run, &end, &output, &skips)
    }
}

/// The part of a log that one command wrote; bytes that are no text are shown as such.
fn read_from(log: &Path, before: u64) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let before = usize::try_from(before).unwrap_or(usize::MAX);
    String::from_utf8_lossy(bytes.get(before..).unwrap_or_default()).into_owned()
}

/// Turns what a `cargo test` printed and how it ended into a report.
///
/// A failure that no test was blamed for (a compiler error, a crash, a deadline) counts as one; of
/// a run that was stopped, what it had come to counts.
fn judge(run: &Run, end: &End, output: &str, skips: &str) -> Report {
    let parsed = libtest::parse(output);
    let mut report = Report {
        tally: parsed.tally,
        skips: parsed.ignored,
        failures: parsed.failures,
        excerpts: parsed.excerpts,
        ..Report::default()
    };
    let own: Vec<String> = skips.lines().map(str::to_owned).collect();
    report.tally.move_skipped(own.len() as u64);
    report.skips.extend(own);
    let Some(trouble) = end.trouble() else {
        return report;
    };
    if matches!(end, End::Stopped) {
        report.tally.add(parsed.begun);
        return report;
    }
    for binary in parsed.unfinished {
        report.fail(format!("{binary}: ended without a result ({trouble})"));
    }
    if report.tally.failed == 0 {
        report.fail(format!("`{}`: {trouble}", run.line()));
    }
    report
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    const TWO: &str = "     Running unittests src/lib.rs (target/debug/deps/x-00)\n\
        test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";

    fn run() -> Run {
        Run::new("cargo test")
    }

    fn good() -> End {
        End::Exited(ExitStatus::from_raw(0))
    }

    fn failed() -> End {
        End::Exited(ExitStatus::from_raw(101 << 8))
    }

    #[test]
    fn passed_tests_are_counted() {
        let report = judge(&run(), &good(), TWO, "");
        assert_eq!(report.tally, Tally::new(2, 0, 0));
    }

    #[test]
    fn a_test_that_skipped_itself_is_skipped_with_its_reason() {
        let report = judge(&run(), &good(), TWO, "vfio: no device\n");
        assert_eq!(report.tally, Tally::new(1, 0, 1));
        assert_eq!(report.skips, ["vfio: no device"]);
    }

    #[test]
    fn a_compiler_error_is_one_failure() {
        let report = judge(&run(), &failed(), "error: could not compile\n", "");
        assert_eq!(report.tally, Tally::FAILED);
        assert_eq!(report.failures, ["`cargo test`: exit status: 101"]);
    }

    #[test]
    fn a_crash_is_a_failure_beside_the_tests_that_passed() {
        let crash = format!("{TWO}     Running tests/y.rs (target/debug/deps/y-00)\n");
        let report = judge(&run(), &failed(), &crash, "");
        assert_eq!(report.tally, Tally::new(2, 1, 0));
        assert!(report.failures[0].starts_with("y (tests/y.rs)"), "{report:?}");
    }

    #[test]
    fn a_failed_test_is_not_counted_twice() {
        let output = "     Running tests/y.rs (target/debug/deps/y-00)\ntest z ... FAILED\n\
            test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let report = judge(&run(), &failed(), output, "");
        assert_eq!(report.tally, Tally::FAILED);
        assert_eq!(report.failures, ["y (tests/y.rs): z"]);
    }

    #[test]
    fn what_a_run_had_come_to_when_it_was_stopped_counts_and_the_stop_does_not() {
        let output = format!(
            "{TWO}     Running tests/y.rs (target/debug/deps/y-00)\ntest z ... FAILED\n\
            test a ... ok\ntest b ... "
        );
        let report = judge(&run(), &End::Stopped, &output, "");
        assert_eq!(report.tally, Tally::new(3, 1, 0));
        assert_eq!(report.failures, ["y (tests/y.rs): z"]);
        let report = judge(&run(), &End::Stopped, "   Compiling y v0.1.0\n", "");
        assert_eq!((report.tally, report.failures.len()), (Tally::default(), 0));
    }

    fn scratch(name: &str) -> Project {
        let root = std::env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()));
        let target = root.join("target");
        fs::create_dir_all(&target).expect("a directory");
        Project { root, target, packages: Vec::new() }
    }

    #[test]
    fn a_step_runs_its_commands_and_keeps_their_log() {
        let project = scratch("runner");
        let runner = Runner::new(&project, Duration::from_secs(60)).expect("a runner");
        let text = TWO.replace('\n', "\\n");
        let good = Run::new("sh -c").arg(format!("printf '{text}'"));
        let skip = "echo \"late: no device\" >> $HYBRID_SKIP_LOG";
        let skipping = Run::new("sh -c").arg(format!("printf '{text}'; {skip}"));
        let report = runner.run("both", &Work::Tests(vec![good, skipping]));
        assert_eq!(report.tally, Tally::new(3, 0, 1), "{report:?}");
        let log = fs::read_to_string(runner.log("both")).expect("a log");
        assert_eq!(log.matches("test result").count() - log.matches("$ HYBRID").count(), 2);
        let report = runner.run("gate", &Work::Gates(vec![Run::new("true"), Run::new("false")]));
        assert_eq!(report.tally, Tally::new(1, 1, 0));
        let _ = fs::remove_dir_all(&project.root);
    }

    #[test]
    fn after_the_deadline_nothing_starts_and_everything_fails() {
        let project = scratch("late");
        let runner = Runner::new(&project, Duration::ZERO).expect("a runner");
        let report = runner.run("late", &Work::Gates(vec![Run::new("true")]));
        assert_eq!(report.tally, Tally::FAILED);
        assert_eq!(report.failures, ["no time left for `true`"]);
        let _ = fs::remove_dir_all(&project.root);
    }

    #[test]
    fn a_step_without_tests_is_skipped_not_passed() {
        let project = scratch("none");
        let runner = Runner::new(&project, Duration::from_secs(60)).expect("a runner");
        let report = runner.run("none", &Work::Tests(vec![Run::new("true")]));
        assert_eq!(report.tally, Tally::SKIPPED);
        let _ = fs::remove_dir_all(&project.root);
    }
}
