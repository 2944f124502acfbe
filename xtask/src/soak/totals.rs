//! What a soak did, for people: what each suite came to, what it left behind, how to do it again.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::libtest::Tally;
use crate::runner::Report;

/// One suite in all its rounds.
#[derive(Debug)]
struct Suite {
    name: String,
    rounds: u32,
    tally: Tally,
    took: Duration,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Totals {
    suites: Vec<Suite>,
    /// Logs of what failed; their names have the seeds.
    kept: Vec<PathBuf>,
}

impl Totals {
    pub(super) fn add(&mut self, name: &str, report: &Report) {
        let index = self.suites.iter().position(|suite| suite.name == name);
        let index = index.unwrap_or_else(|| {
            let (tally, took) = (Tally::default(), Duration::ZERO);
            self.suites.push(Suite { name: name.to_owned(), rounds: 0, tally, took });
            self.suites.len() - 1
        });
        let Some(suite) = self.suites.get_mut(index) else { return };
        suite.rounds += 1;
        suite.tally.add(report.tally);
        suite.took += report.took;
    }

    pub(super) fn keep(&mut self, log: PathBuf) {
        self.kept.push(log);
    }

    pub(super) fn tally(&self) -> Tally {
        let mut all = Tally::default();
        self.suites.iter().for_each(|suite| all.add(suite.tally));
        all
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.suites.is_empty() {
            return write!(f, "{}", self.tally());
        }
        let width = self.suites.iter().map(|suite| suite.name.len()).max().unwrap_or(0).max(5);
        writeln!(f, "{:<width$}  rounds  passed  failed  skipped      took", "suite")?;
        for Suite { name, rounds, tally, took } in &self.suites {
            let Tally { passed, failed, skipped } = tally;
            let took = clock(*took);
            writeln!(
                f,
                "{name:<width$}  {rounds:>6}  {passed:>6}  {failed:>6}  {skipped:>7}  {took:>8}"
            )?;
        }
        self.kept.iter().try_for_each(|log| writeln!(f, "failed: {}", log.display()))?;
        write!(f, "{}", self.tally())
    }
}

/// `1:02:03`, or `2:03` below an hour.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// What a program of ours did, out of its log: the simulation's last totals, each target of the
/// fuzzer, what a crash storm survived.
pub(super) fn figures(log: &str) -> Vec<String> {
    let simulated = log.lines().rfind(|line| line.contains(" commands, ") && is_sum(line));
    let fuzzed = log.lines().filter(|line| line.contains(" inputs, "));
    let survived = log.lines().filter(|line| line.contains(" deaths and dumps "));
    let made_up = log.lines().filter(|line| line.contains(" made up: "));
    let lines = simulated.into_iter().chain(fuzzed).chain(survived).chain(made_up);
    lines.map(|line| line.trim().to_owned()).collect()
}

/// What programs of ours had found when they were stopped, which their exit code then does not say:
/// a violation of the simulation, a broken target of the fuzzer, a mutant that nothing noticed.
pub(super) fn found(log: &str) -> Vec<String> {
    let fuzzed = |line: &str| line.contains("; see ") && line.contains("/fuzz-");
    let words = ["violation: ", "SURVIVED ", "MISSED ", "    failed: "];
    let tells = |line: &&str| words.iter().any(|word| line.starts_with(word)) || fuzzed(line);
    log.lines().filter(tells).map(str::to_owned).collect()
}

/// Whether a line is one of the simulation's totals.
fn is_sum(line: &str) -> bool {
    line.contains(" violations, ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(tally: Tally, seconds: u64) -> Report {
        Report { tally, took: Duration::from_secs(seconds), ..Report::default() }
    }

    #[test]
    fn the_table_has_a_line_for_each_suite_and_ends_with_all_of_them() {
        let mut totals = Totals::default();
        assert_eq!(totals.to_string(), "0 passed, 0 failed, 0 skipped");
        totals.add("soak-sim", &report(Tally::new(1, 0, 0), 600));
        totals.add("soak-crashes", &report(Tally::new(4, 1, 0), 61));
        totals.add("soak-sim", &report(Tally::new(1, 0, 0), 3001));
        totals.keep("target/soak/soak-crashes-seed-7.log".into());
        let expected = "\
suite         rounds  passed  failed  skipped      took
soak-sim           2       2       0        0   1:00:01
soak-crashes       1       4       1        0      1:01
failed: target/soak/soak-crashes-seed-7.log
6 passed, 1 failed, 0 skipped";
        assert_eq!(totals.to_string(), expected);
        assert_eq!(totals.tally(), Tally::new(6, 1, 0));
    }

    #[test]
    fn what_was_found_before_a_stop_is_a_line_each() {
        let log = "\
$ cargo xtask sim
1 runs, 10 commands, 2 faults (20.00 %), 0 violations, 1 s, 10 commands/s, next seed 3
violation: block 7 has bytes that nobody wrote
cqe        12 inputs, nothing found
ring       exit status: 77; see /target/xtask-logs/fuzz-ring.log
SURVIVED      phase-not-flipped                     3 s  nvme-driver --lib
MISSED nvme-driver/src/cid.rs:16:62: replace - with +
caught        wrap-one-early                        3 s  nvme-driver --lib
";
        let found = found(log);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].starts_with("violation: block 7"), "{found:?}");
        assert!(found[1].starts_with("ring       exit status: 77"), "{found:?}");
    }

    #[test]
    fn figures_are_the_last_totals_and_every_target() {
        let log = "\
$ cargo xtask sim
1 runs, 10 commands, 2 faults (20.00 %), 0 violations, 1 s, 10 commands/s, next seed 3
2 runs, 20 commands, 2 faults (10.00 %), 0 violations, 2 s, 10 commands/s, 1 job
cqe        12 inputs, nothing found
ring       9 inputs, nothing found
";
        let figures = figures(log);
        assert_eq!(figures.len(), 3, "{figures:?}");
        assert!(figures[0].starts_with("2 runs, 20 commands"), "{figures:?}");
        assert_eq!(figures[2], "ring       9 inputs, nothing found");
    }
}
