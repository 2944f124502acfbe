//! What the developer sees: one line a step on standard output, what runs now on standard error.

use std::io::{IsTerminal as _, Write as _};

use hybrid_conventions::Exit;

use crate::libtest::{self, Tally};
use crate::runner::Report;

/// Lines of a failed step's log that are shown; the rest is in the file.
const TAIL_LINES: usize = 60;

/// The same where the failed tests' own words are shown above.
const SHORT_TAIL_LINES: usize = 20;

/// The progress line, on a terminal only.
pub(crate) struct Screen {
    live: bool,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let live = std::io::stderr().is_terminal();
        Self { live }
    }

    /// Shows what runs now.
    pub(crate) fn begin(&self, index: usize, count: usize, name: &str, about: &str) {
        if self.live {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r\x1b[K[{}/{count}] {name}: {about} ...", index + 1);
            let _ = err.flush();
        }
    }

    fn clear(&self) {
        if self.live {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r\x1b[K");
            let _ = err.flush();
        }
    }

    /// Shows what came of a step; on a failure, the end of its log.
    pub(crate) fn end(&self, name: &str, report: &Report, log: &std::path::Path) {
        self.clear();
        println!("{}", line(name, report));
        for note in &report.notes {
            println!("    {note}");
        }
        for skip in &report.skips {
            println!("    skipped: {skip}");
        }
        failures(report).iter().for_each(|line| println!("    {line}"));
        if report.tally.failed > 0 {
            let text = std::fs::read(log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines = if report.excerpts.is_empty() { TAIL_LINES } else { SHORT_TAIL_LINES };
            println!("---- last lines of {}", log.display());
            println!("{}", libtest::tail(&text, lines));
            println!("----");
        }
    }
}

/// What failed, each with what it said.
fn failures(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for failure in &report.failures {
        lines.push(format!("failed: {failure}"));
        let excerpts = report.excerpts.iter().filter(|excerpt| excerpt.of == *failure);
        lines.extend(excerpts.flat_map(|excerpt| &excerpt.lines).map(|line| format!("    {line}")));
    }
    lines
}

/// The end of a run: what failed once more, since the middle of an output is easily cut, then the
/// tally, which is the last line.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    tally: Tally,
    failures: Vec<String>,
}

impl Ending {
    pub(crate) fn add(&mut self, step: &str, report: &Report) {
        self.tally.add(report.tally);
        self.failures
            .extend(report.failure_lines().map(|line| format!("failed in {step}: {line}")));
    }

    pub(crate) fn exit(&self) -> Exit {
        if self.tally.is_good() { Exit::Ok } else { Exit::Error }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.failures.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        write!(f, "{}", self.tally)
    }
}

fn line(name: &str, report: &Report) -> String {
    let verdict = match report.tally {
        tally if tally.failed > 0 => "FAILED",
        _ if report.stopped => "stopped",
        tally if tally.passed == 0 => "skipped",
        _ => "ok",
    };
    let seconds = report.took.as_secs_f64();
    format!("{name:<12} {verdict:<8} {seconds:>7.1} s   {}", report.tally)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::excerpt::Excerpt;
    use std::time::Duration;

    fn failed() -> Report {
        let mut report = Report::default();
        report.fail("a: lost");
        report.fail("`cargo test`: exit status: 101");
        let said = ["seed 7", "thread 'lost' panicked at a.rs:1:2:", "no", "more"];
        report.excerpts.push(Excerpt::new("a: lost", &said));
        report
    }

    #[test]
    fn what_a_failed_test_said_stands_below_its_name() {
        assert_eq!(
            failures(&failed()),
            [
                "failed: a: lost",
                "    thread 'lost' panicked at a.rs:1:2:",
                "    no",
                "    more",
                "    before that it printed:",
                "    seed 7",
                "failed: `cargo test`: exit status: 101",
            ]
        );
    }

    #[test]
    fn a_run_ends_with_its_failures_and_then_its_tally() {
        let mut ending = Ending::default();
        ending.add("fmt", &Report { tally: Tally::PASSED, ..Report::default() });
        assert_eq!(ending.to_string(), "1 passed, 0 failed, 0 skipped");
        assert_eq!(ending.exit(), Exit::Ok);
        ending.add("unit", &failed());
        let text = "failed in unit: a: lost: panicked at a.rs:1:2: no\n\
                    failed in unit: `cargo test`: exit status: 101\n\
                    1 passed, 2 failed, 0 skipped";
        assert_eq!(ending.to_string(), text);
        assert_eq!(ending.exit(), Exit::Error);
    }

    #[test]
    fn a_step_is_one_line_with_its_verdict() {
        let report =
            |tally| Report { tally, took: Duration::from_millis(1_250), ..Report::default() };
        assert_eq!(
            line("unit", &report(Tally::new(9, 0, 1))),
            "unit         ok           1.2 s   9 passed, 0 failed, 1 skipped"
        );
        assert!(line("unit", &report(Tally::new(9, 1, 0))).contains("FAILED"));
        assert!(line("unit", &report(Tally::SKIPPED)).contains("skipped "));
    }
}
