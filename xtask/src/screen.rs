//! What the developer sees: one line a step on standard output, what runs now on standard error.

use std::io::{IsTerminal as _, Write as _};

use crate::libtest;
use crate::runner::Report;

/// Lines of a failed step's log that are shown; the rest is in the file.
const TAIL_LINES: usize = 60;

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
        for failure in &report.failures {
            println!("    failed: {failure}");
        }
        if report.tally.failed > 0 {
            let text = std::fs::read(log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            println!("---- last lines of {}", log.display());
            println!("{}", libtest::tail(&text, TAIL_LINES));
            println!("----");
        }
    }
}

fn line(name: &str, report: &Report) -> String {
    let verdict = match report.tally {
        tally if tally.failed > 0 => "FAILED",
        tally if tally.passed == 0 => "skipped",
        _ => "ok",
    };
    let seconds = report.took.as_secs_f64();
    format!("{name:<12} {verdict:<8} {seconds:>7.1} s   {}", report.tally)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtest::Tally;
    use std::time::Duration;

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
