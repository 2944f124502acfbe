//! Reads what `cargo test` printed: how many tests passed, which failed, which were ignored.
//! A program of ours that runs tests (`conformance`) prints the same lines and ends with our own.
//!
//! Pure text in, numbers out. The lines are libtest's, whose human form has been stable for years;
//! a line that isn't one of them is ignored, so a test's own output can't hide the counts.

use std::collections::VecDeque;

use crate::excerpt::{self, Excerpt};

/// How many tests passed, failed and did not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    pub(crate) const PASSED: Self = Self::new(1, 0, 0);
    pub(crate) const FAILED: Self = Self::new(0, 1, 0);
    pub(crate) const SKIPPED: Self = Self::new(0, 0, 1);

    pub(crate) const fn new(passed: u64, failed: u64, skipped: u64) -> Self {
        Self { passed, failed, skipped }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Moves tests that skipped themselves from the passed to the skipped ones.
    pub(crate) fn move_skipped(&mut self, count: u64) {
        self.passed = self.passed.saturating_sub(count);
        self.skipped += count;
    }

    /// Whether a run with this tally counts as good: something ran and nothing failed.
    pub(crate) const fn is_good(self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

/// The line that ends `cargo xtask test`; CI parses exactly this form.
impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// What one `cargo test` said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TestOutput {
    pub(crate) tally: Tally,
    /// Names of failed tests, as `binary: test` where the binary is known.
    pub(crate) failures: Vec<String>,
    /// What failed tests said.
    pub(crate) excerpts: Vec<Excerpt>,
    /// Ignored tests with the reason that their attribute gives.
    pub(crate) ignored: Vec<String>,
    /// Test binaries that started and never printed their result: they crashed or hung.
    pub(crate) unfinished: Vec<String>,
    /// What the last of these had come to.
    pub(crate) begun: Tally,
}

/// Parses the whole output of one `cargo test`, standard output and error in one file.
pub(crate) fn parse(output: &str) -> TestOutput {
    let mut parsed = TestOutput::default();
    let mut running: Option<String> = None;
    // Of the running binary: its failed tests, and what follows its line `failures:`.
    let (mut failed, mut section) = (Vec::new(), None::<Vec<&str>>);
    for line in output.lines() {
        match &mut section {
            Some(lines) => lines.push(line),
            None if line == "failures:" => section = Some(Vec::new()),
            None => {}
        }
        if let Some(binary) = started(line) {
            parsed.unfinished.extend(running.replace(binary));
            parsed.begun = Tally::default();
            failed.clear();
            section = None;
        } else if let Some(tally) = result_line(line).or_else(|| own_line(line)) {
            parsed.tally.add(tally);
            let section = section.take().unwrap_or_default();
            parsed.excerpts.extend(excerpt::of_section(&section, &failed));
            failed.clear();
            parsed.begun = Tally::default();
            running = None;
        } else if let Some((name, outcome)) = test_line(line) {
            let place = running.as_deref().unwrap_or("test");
            parsed.begun.add(match outcome {
                "ok" => Tally::PASSED,
                "FAILED" => Tally::FAILED,
                _ => Tally::default(),
            });
            match outcome.split_once(", ") {
                _ if outcome == "FAILED" => {
                    let listed = format!("{place}: {name}");
                    failed.push((name.to_owned(), listed.clone()));
                    parsed.failures.push(listed);
                }
                Some(("ignored", reason)) => parsed.ignored.push(format!("{name}: {reason}")),
                None if outcome == "ignored" => {
                    parsed.ignored.push(format!("{name}: ignored without a reason"));
                }
                _ => {}
            }
        }
    }
    parsed.unfinished.extend(running);
    parsed
}

/// `     Running unittests src/lib.rs (target/debug/deps/abi-0123)` or `   Doc-tests abi`.
fn started(line: &str) -> Option<String> {
    if !line.starts_with("   ") {
        return None;
    }
    let line = line.trim_start();
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(format!("doc tests of {name}"));
    }
    let (what, path) = line.strip_prefix("Running ")?.rsplit_once(" (")?;
    let file = path.trim_end_matches(')').rsplit('/').next()?;
    let stem = file.rsplit_once('-').map_or(file, |(stem, _)| stem);
    Some(format!("{stem} ({})", what.trim_start_matches("unittests ")))
}

/// `test result: ok. 46 passed; 0 failed; 1 ignored; 0 measured; ...`.
fn result_line(line: &str) -> Option<Tally> {
    let rest = line.strip_prefix("test result: ")?;
    let (_, counts) = rest.split_once(". ")?;
    let count = |word: &str| {
        counts.split("; ").find_map(|part| {
            let (number, name) = part.split_once(' ')?;
            (name == word).then(|| number.parse::<u64>().ok())?
        })
    };
    Some(Tally::new(count("passed")?, count("failed")?, count("ignored")?))
}

/// `46 passed, 0 failed, 5 skipped`, and nothing else: [`Tally`]'s own form.
fn own_line(line: &str) -> Option<Tally> {
    let mut parts = line.split(", ");
    let mut count = |word| parts.next()?.strip_suffix(word)?.parse().ok();
    let tally = Tally::new(count(" passed")?, count(" failed")?, count(" skipped")?);
    parts.next().is_none().then_some(tally)
}

/// `test ring::tests::peer_lies_are_counted ... FAILED`.
fn test_line(line: &str) -> Option<(&str, &str)> {
    let (name, outcome) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    Some((name.trim_end_matches(" - should panic"), outcome))
}

/// The last `count` lines, for the screen; the log has them all.
pub(crate) fn tail(output: &str, count: usize) -> String {
    let mut lines = VecDeque::with_capacity(count + 1);
    for line in output.lines() {
        lines.push_back(line);
        if lines.len() > count {
            lines.pop_front();
        }
    }
    lines.make_contiguous().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_ours_is_counted_by_its_last_line() {
        let output = "running 3 tests\ntest a::b ... ok\ntest a::c ... ignored, no such namespace\n\
            test a::d ... FAILED\n    block 7 is wrong\n\n1 passed, 1 failed, 1 skipped\n";
        let parsed = parse(output);
        assert_eq!(parsed.tally, Tally::new(1, 1, 1));
        assert_eq!(parsed.failures, ["test: a::d"]);
        assert_eq!(parsed.ignored, ["a::c: no such namespace"]);
        for line in ["1 passed, 1 failed", "1 passed, 1 failed, 1 skipped, 2 more", "so 1 passed"] {
            assert_eq!(own_line(line), None, "{line}");
        }
    }

    const GOOD: &str = "\
   Compiling hybrid-abi v0.1.0
    Finished `test` profile [optimized + debuginfo] target(s) in 1.02s
     Running unittests src/lib.rs (target/debug/deps/hybrid_abi-0a1b2c)

running 3 tests
test a::b ... ok
test a::c ... ignored, needs a device
test a::d - should panic ... ok

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.12s

     Running tests/golden.rs (target/debug/deps/golden-0a1b2c)

running 1 test
.
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

   Doc-tests hybrid_abi

running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn every_result_line_is_added_up() {
        let parsed = parse(GOOD);
        assert_eq!(parsed.tally, Tally::new(3, 0, 1));
        assert_eq!(parsed.ignored, ["a::c: needs a device"]);
        assert!(parsed.failures.is_empty() && parsed.unfinished.is_empty());
    }

    #[test]
    fn failures_are_named_with_their_binary() {
        let output = "     Running tests/ring.rs (target/debug/deps/ring-00ff)\n\
             test x ... ok\ntest lost ... FAILED\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let parsed = parse(output);
        assert_eq!(parsed.tally, Tally::new(1, 1, 0));
        assert_eq!(parsed.failures, ["ring (tests/ring.rs): lost"]);
    }

    #[test]
    fn what_a_failed_test_said_is_taken_from_its_own_binarys_section() {
        let one = |binary: &str, message: &str| {
            format!(
                "     Running tests/{binary}.rs (target/debug/deps/{binary}-00)\n\
                 running 1 test\ntest lost ... FAILED\n\nfailures:\n\n---- lost stdout ----\n\n\
                 thread 'lost' panicked at tests/{binary}.rs:1:1:\n{message}\n\n\n\
                 failures:\n    lost\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored; \
                 0 measured; 0 filtered out\n\n"
            )
        };
        let parsed = parse(&format!("{}{}", one("a", "no a"), one("b", "no b")));
        let lines: Vec<_> = parsed.excerpts.iter().map(Excerpt::line).collect();
        assert_eq!(parsed.tally, Tally::new(0, 2, 0));
        assert_eq!(
            lines,
            [
                "a (tests/a.rs): lost: panicked at tests/a.rs:1:1: no a",
                "b (tests/b.rs): lost: panicked at tests/b.rs:1:1: no b",
            ]
        );
        assert_eq!(parsed.excerpts[0].lines, ["thread 'lost' panicked at tests/a.rs:1:1:", "no a"]);
    }

    #[test]
    fn a_binary_that_dies_is_unfinished() {
        let output = "     Running tests/a.rs (target/debug/deps/a-00)\n\
             error: test failed, to rerun pass `--test a`\n\
             Caused by:\n  process didn't exit successfully (signal: 6, SIGABRT)\n\
                  Running tests/b.rs (target/debug/deps/b-00)\n\
             test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\
                  Running tests/c.rs (target/debug/deps/c-00)\n";
        let output = output.replace("                  Running", "     Running");
        let output = output.replace("\nRunning", "\n     Running");
        let parsed = parse(&output);
        assert_eq!(parsed.tally, Tally::new(4, 0, 0));
        assert_eq!(parsed.unfinished, ["a (tests/a.rs)", "c (tests/c.rs)"]);
    }

    #[test]
    fn doc_tests_are_named() {
        let parsed = parse("   Doc-tests core_runtime\nrunning 3 tests\n");
        assert_eq!(parsed.unfinished, ["doc tests of core_runtime"]);
    }

    #[test]
    fn a_compiler_error_counts_nothing() {
        let parsed = parse("error[E0425]: cannot find value\nerror: could not compile `x`\n");
        assert_eq!(parsed, TestOutput::default());
    }

    #[test]
    fn a_result_line_that_is_cut_is_no_result() {
        for line in [
            "test result:",
            "test result: ok. 5 passed",
            "test result: ok. x passed; 0 failed; 0 ignored",
            "  test result: ok. 5 passed; 0 failed; 0 ignored",
        ] {
            assert_eq!(parse(line).tally, Tally::default(), "{line:?}");
        }
    }

    #[test]
    fn the_last_line_has_exactly_this_form() {
        assert_eq!(Tally::new(12, 0, 3).to_string(), "12 passed, 0 failed, 3 skipped");
    }

    #[test]
    fn good_means_something_passed_and_nothing_failed() {
        assert!(Tally::new(1, 0, 5).is_good());
        assert!(!Tally::new(0, 0, 5).is_good());
        assert!(!Tally::new(9, 1, 0).is_good());
    }

    #[test]
    fn tests_that_skipped_themselves_did_not_pass() {
        let mut tally = Tally::new(10, 0, 1);
        tally.move_skipped(3);
        assert_eq!(tally, Tally::new(7, 0, 4));
        tally.move_skipped(100);
        assert_eq!(tally.passed, 0);
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 5), "a");
        assert_eq!(tail("", 5), "");
    }
}
