//! `cargo xtask soak`: the long versions of the random tests, round after round, a new seed each.

use std::time::{Duration, Instant};

use anyhow::Result;
use hybrid_conventions::{Exit, testing};

use crate::command::Run;
use crate::libtest::Tally;
use crate::project::Project;
use crate::runner::Runner;
use crate::screen::Screen;
use crate::sim::SIM;
use crate::steps::{self, Work};

/// Operations of the oracle test in one round: what the acceptance of the driver asks for.
const ORACLE_OPS: u64 = 10_000_000;

/// Allocations and frees in one round: what the acceptance of the DMA arena asks for.
const ALLOC_OPS: u64 = 100_000_000;

/// Cases of each test with hostile shared memory in one round: ten times what CI runs in all.
const HOSTILE_CASES: u64 = 10_000_000;

/// Crash points of the journal's simulation in one round: what its acceptance asks for.
const CRASH_POINTS: u64 = 1_000_000;

/// Deaths of a partition in one round.
const CRASHES: &str = "1000";

/// Simulated commands in one round: some hours of one core.
const SIM_COMMANDS: u64 = 1_000_000_000;

/// Preemptions per interleaving; each one more costs about ten times the time.
const LOOM_PREEMPTIONS: &str = "5";

/// One command of a soak may take so long; a hang must still end.
const LIMIT: Duration = Duration::from_secs(12 * 3600);

/// How long, and how much in a round.
pub(crate) struct Soak {
    /// Rounds start until this much time has passed; one round runs in any case.
    pub(crate) time: Duration,
    /// Operations of every test, instead of each one's own number.
    pub(crate) ops: Option<u64>,
    /// Seed of the first round.
    pub(crate) seed: u64,
}

/// Runs the rounds and ends with one line, as `test` does.
pub(crate) fn run(project: &Project, soak: &Soak) -> Result<Exit> {
    let runner = Runner::new(project, soak.time.saturating_add(LIMIT))?;
    let screen = Screen::new();
    let start = Instant::now();
    let mut total = Tally::default();
    for round in 0.. {
        let seed = soak.seed.wrapping_add(round);
        println!("round {} with {}={seed}", round + 1, testing::SEED);
        let works = round_of(project, soak.ops, seed);
        for (index, (name, work)) in works.iter().enumerate() {
            screen.begin(index, works.len(), name, "a long time");
            let report = runner.run(name, work);
            screen.end(name, &report, &runner.log(name));
            total.add(report.tally);
        }
        if total.failed > 0 || start.elapsed() >= soak.time {
            break;
        }
    }
    println!("{total}");
    Ok(if total.is_good() { Exit::Ok } else { Exit::Error })
}

/// The work of one round.
fn round_of(project: &Project, ops: Option<u64>, seed: u64) -> Vec<(&'static str, Work)> {
    let core = if project.package("core-runtime").is_some() {
        let mut run = Run::new("cargo test --release --no-fail-fast -p core-runtime --lib --tests");
        run.argv.extend(project.std_features(&["core-runtime"]));
        Work::Tests(vec![run])
    } else {
        Work::Skip("no package core-runtime".to_owned())
    };
    let prolong = |work, own_ops: u64| long(work, ops.unwrap_or(own_ops), seed);
    let crashes = match project.package(steps::CONFORMANCE) {
        Some(_) => {
            let drill = steps::crash_drill().arg("--").arg("--crashes").arg(CRASHES);
            Work::Tests(vec![drill.env(testing::SEED, seed.to_string()).limit(LIMIT)])
        }
        None => Work::Skip(format!("no package {}", steps::CONFORMANCE)),
    };
    vec![
        ("soak-crashes", crashes),
        ("soak-conformance", prolong(steps::conformance(project), ORACLE_OPS)),
        ("soak-core", prolong(core, ALLOC_OPS)),
        ("soak-e2e", prolong(steps::e2e(project), ORACLE_OPS)),
        ("soak-hostile", prolong(hostile(project), HOSTILE_CASES)),
        ("soak-sim", sim(project, ops.unwrap_or(SIM_COMMANDS), seed)),
        ("soak-loom", steps::loom_with(project, LOOM_PREEMPTIONS, LIMIT)),
        ("soak-journal", prolong(journal(project), CRASH_POINTS)),
    ]
}

/// The log under power failures and decay.
fn journal(project: &Project) -> Work {
    if project.package("journal").is_none() {
        return Work::Skip("no package journal".to_owned());
    }
    Work::Tests(vec![Run::new("cargo test --release --no-fail-fast -p journal --test sim")])
}

/// The simulation, ordinary and in swarms; seeds of rounds are far apart.
fn sim(project: &Project, commands: u64, seed: u64) -> Work {
    if project.package(SIM).is_none() {
        return Work::Skip(format!("no package {SIM}"));
    }
    let run = |rest: &str| {
        let seed = seed.wrapping_mul(1 << 32);
        let line = "cargo run --release --quiet -p";
        let options =
            format!("{line} {SIM} -- --shrink --seed {seed} --commands {commands} {rest}");
        Run::new(&options).limit(LIMIT)
    };
    Work::Gates(vec![run(""), run("--swarm --run-ops 20000")])
}

/// Shared memory as hostile peers write it.
fn hostile(project: &Project) -> Work {
    if project.package("host-bridge").is_none() {
        return Work::Skip("no package host-bridge".to_owned());
    }
    let run = Run::new("cargo test --release --no-fail-fast -p host-bridge --test hostile");
    Work::Tests(vec![run])
}

/// The same work with the large sizes and without a short deadline.
fn long(work: Work, ops: u64, seed: u64) -> Work {
    let prolong = |run: Run| {
        run.env(testing::SOAK, "1")
            .env(testing::SOAK_OPS, ops.to_string())
            .env(testing::SEED, seed.to_string())
            .limit(LIMIT)
    };
    match work {
        Work::Tests(runs) => Work::Tests(runs.into_iter().map(prolong).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::tests::METADATA;

    fn line(work: &Work) -> String {
        match work {
            Work::Tests(runs) => runs[0].line(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_round_asks_for_the_large_sizes_and_its_seed() {
        let project = Project::parse(METADATA).expect("metadata");
        let round = round_of(&project, None, 7);
        let core = line(&round[2].1);
        let env = "HYBRID_SOAK=1 HYBRID_SOAK_OPS=100000000 HYBRID_SEED=7 cargo test --release";
        assert!(core.starts_with(env), "{core}");
        assert!(line(&round[6].1).contains("LOOM_MAX_PREEMPTIONS=5"));
    }

    #[test]
    fn operations_can_be_chosen() {
        let project = Project::parse(METADATA).expect("metadata");
        let round = round_of(&project, Some(5), 7);
        assert!(line(&round[2].1).contains("HYBRID_SOAK_OPS=5 "));
    }
}
