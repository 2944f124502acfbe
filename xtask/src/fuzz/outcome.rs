//! What a target did, out of the lines that libFuzzer prints.

use std::fmt;

use crate::excerpt::Excerpt;

/// What came of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) target: String,
    /// What broke, or why it is as good as not run.
    pub(super) trouble: Option<String>,
    inputs: u64,
    /// Edges of the program that the seeds reached, and that all inputs did.
    edges: (u64, u64),
    /// What it said as it broke.
    said: Vec<String>,
}

impl Outcome {
    /// Of a log, of one process or several, the last of which ended with `trouble`, and which are
    /// to have run `least` inputs.
    pub(super) fn of(target: &str, log: &str, trouble: Option<String>, least: u64) -> Self {
        let units = figures(log, "stat::number_of_executed_units:");
        let edges = |line: Option<&str>| line.and_then(|line| figure(line, "cov: ")).unwrap_or(0);
        let covered = |line: &&str| line.starts_with('#') && line.contains("cov: ");
        let mut outcome = Self {
            target: target.to_owned(),
            trouble: None,
            inputs: units.sum(),
            edges: (
                edges(log.lines().filter(covered).find(|line| line.contains("INITED"))),
                edges(log.lines().rfind(covered)),
            ),
            said: Vec::new(),
        };
        let starved = || {
            let inputs = outcome.inputs;
            (inputs < least).then(|| {
                format!("it ran {inputs} inputs, and one that does something runs {least}")
            })
        };
        outcome.trouble = trouble.map(|end| broken(log, &end)).or_else(starved);
        if outcome.trouble.is_some() {
            outcome.said = words(log);
        }
        outcome
    }

    /// What it said, for a person who sees no log.
    pub(super) fn excerpt(&self, of: &str) -> Option<Excerpt> {
        let said: Vec<_> = self.said.iter().map(String::as_str).collect();
        (!said.is_empty()).then(|| Excerpt::new(of, &said))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (begun, ended) = self.edges;
        write!(f, "{} inputs, {begun} edges at the start, {ended} at the end", self.inputs)
    }
}

/// What broke, and the command that shows it again, where an input was kept.
fn broken(log: &str, end: &str) -> String {
    let what = log.lines().rev().find_map(|line| line.strip_prefix("SUMMARY: ")).unwrap_or(end);
    let kept = log.lines().rev().find_map(|line| line.split_once("Test unit written to "));
    match kept {
        Some((_, path)) => format!("{what}; again: cargo xtask fuzz --repeat {}", path.trim()),
        None => what.to_owned(),
    }
}

/// From the panic on, or from the sanitizer's error: without the progress before it.
fn words(log: &str) -> Vec<String> {
    let lines: Vec<_> = log.lines().filter(|line| !line.starts_with('#')).collect();
    let begins = |line: &&str| line.contains(" panicked at ") || line.contains("ERROR: ");
    let start = lines.iter().position(begins).unwrap_or(lines.len());
    lines.iter().skip(start).map(|line| (*line).to_owned()).collect()
}

/// The figures behind a word at the start of a line.
fn figures<'a>(log: &'a str, word: &'a str) -> impl Iterator<Item = u64> + 'a {
    log.lines().filter_map(move |line| line.strip_prefix(word)?.trim().parse().ok())
}

/// The figure behind a word of a line.
fn figure(line: &str, word: &str) -> Option<u64> {
    let (_, rest) = line.split_once(word)?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Two processes, one after the other.
    pub(in super::super) const GOOD: &str = "\
$ HYBRID_FUZZ_TARGET=ring hybrid-libfuzzer -runs=7
INFO: Seed: 3116318124
#2	INITED cov: 136 ft: 136 corp: 1/896b exec/s: 0 rss: 37Mb
#7	DONE   cov: 200 ft: 327 corp: 41/19Kb lim: 4889 exec/s: 7340 rss: 434Mb
stat::number_of_executed_units: 7
stat::peak_rss_mb:              434
$ HYBRID_FUZZ_TARGET=ring hybrid-libfuzzer -runs=7
#42	INITED cov: 200 ft: 327 corp: 41/19Kb exec/s: 0 rss: 37Mb
#45	NEW    cov: 229 ft: 330 corp: 42/19Kb lim: 4096 exec/s: 0 rss: 40Mb
==1== INFO: libFuzzer: exiting as requested
stat::number_of_executed_units: 45
stat::peak_rss_mb:              40
";

    pub(in super::super) const BROKEN: &str = "\
#48	INITED cov: 2018 ft: 3309 corp: 36/249b exec/s: 0 rss: 47Mb
thread '<unnamed>' (4711) panicked at fuzz/src/device.rs:106:9:
a buffer is missing
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace
==4711== ERROR: libFuzzer: deadly signal
    #0 0x5581 in __sanitizer_print_stack_trace asan_stack.cpp:87:3
SUMMARY: libFuzzer: deadly signal
MS: 1 ChangeBit-; base unit: 0b
artifact_prefix='target/fuzz/broken/cqe-'; Test unit written to target/fuzz/broken/cqe-crash-0b
stat::number_of_executed_units: 2518
";

    #[test]
    fn inputs_of_all_processes_are_counted_and_edges_from_the_first_to_the_last() {
        let outcome = Outcome::of("ring", GOOD, None, 52);
        assert_eq!(outcome.to_string(), "52 inputs, 136 edges at the start, 229 at the end");
        assert_eq!(outcome.trouble, None);
        assert_eq!(outcome.excerpt("ring"), None);
    }

    #[test]
    fn a_run_that_did_next_to_nothing_is_trouble() {
        let trouble = Outcome::of("ring", GOOD, None, 53).trouble;
        let expected = "it ran 52 inputs, and one that does something runs 53";
        assert_eq!(trouble.as_deref(), Some(expected));
        assert!(Outcome::of("ring", "", None, 1).trouble.is_some());
    }

    #[test]
    fn what_broke_is_told_with_the_command_that_shows_it_again() {
        let outcome = Outcome::of("cqe", BROKEN, Some("exit status: 77".to_owned()), 1);
        let again = "cargo xtask fuzz --repeat target/fuzz/broken/cqe-crash-0b";
        let expected = format!("libFuzzer: deadly signal; again: {again}");
        assert_eq!(outcome.trouble.as_deref(), Some(&*expected));
        let excerpt = outcome.excerpt("cqe: it").expect("an excerpt");
        assert_eq!(excerpt.lines[1], "a buffer is missing");
        assert!(excerpt.lines.iter().all(|line| !line.contains("INITED")), "{excerpt:?}");
    }

    #[test]
    fn a_program_that_says_nothing_is_told_by_how_it_ended() {
        let killed = "signal: 9 (SIGKILL)";
        let outcome = Outcome::of("cqe", "#2	INITED cov: 9\n", Some(killed.to_owned()), 1);
        assert_eq!(outcome.trouble.as_deref(), Some(killed));
    }
}
