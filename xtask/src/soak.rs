//! `cargo xtask soak`: the long versions of the random tests, round after round, a new seed each.

mod totals;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hybrid_conventions::{Exit, testing};

use crate::command::Run;
use crate::fuzz::FUZZ;
use crate::mutants;
use crate::project::Project;
use crate::runner::Runner;
use crate::screen::Screen;
use crate::sim::SIM;
use crate::steps::{self, Work};
use crate::stop;
use crate::tools::{self, Found, Tool};

use self::totals::Totals;

/// Operations of the oracle test in one round: what the acceptance of the driver asks for.
const ORACLE_OPS: u64 = 10_000_000;

/// Allocations and frees in one round: what the acceptance of the DMA arena asks for.
const ALLOC_OPS: u64 = 100_000_000;

/// Cases of each test with hostile shared memory in one round: ten times what CI runs in all.
const HOSTILE_CASES: u64 = 10_000_000;

/// Crash points of the journal's simulation in one round: what its acceptance asks for.
const CRASH_POINTS: u64 = 1_000_000;

/// Inputs of each target of the fuzzer's short form in one round.
const FUZZ_INPUTS: u64 = 1_000_000;

/// Deaths of a partition in one round.
const CRASHES: u64 = 1000;

/// Simulated commands in one round: some hours of one core.
const SIM_COMMANDS: u64 = 1_000_000_000;

/// Preemptions per interleaving; each one more costs about ten times the time.
const LOOM_PREEMPTIONS: &str = "5";

/// One command of a soak may take so long; a hang must still end.
const LIMIT: Duration = Duration::from_secs(12 * 3600);

/// With `--hours`, what one round gives the simulation, and the fuzzer, at most, so that all take
/// turns.
const TURN: Duration = Duration::from_secs(20 * 60);

/// And at least: a target of the fuzzer then has six seconds.
const SHORTEST_TURN: Duration = Duration::from_secs(60);

/// Turns of a round.
const TURNS: u32 = 6;

/// Targets of the fuzzer share a turn.
const FUZZ_TARGETS: u32 = 9;

/// How long, and how much in a round.
pub(crate) struct Soak {
    /// Rounds in which simulation, fuzzing, generated mutants, crash storms and the guest's suite
    /// take turns, instead of ones in which each has its full count.
    pub(crate) in_turn: bool,
    /// Rounds start until this much time has passed; one round runs in any case, and whole.
    pub(crate) time: Duration,
    /// Operations of every test, instead of each one's own number.
    pub(crate) ops: Option<u64>,
    /// Seed of the first round.
    pub(crate) seed: u64,
}

/// Runs the rounds, until the time is over or a signal comes, and says what they came to; the last
/// line is that of `test`.
pub(crate) fn run(project: &Project, soak: &Soak) -> Result<Exit> {
    stop::install()?;
    let runner = Runner::new(project, soak.time.saturating_add(LIMIT))?;
    let screen = Screen::new();
    let start = Instant::now();
    let mut totals = Totals::default();
    let mut interrupted = None;
    'rounds: for round in 0.. {
        let seed = soak.seed.wrapping_add(round);
        println!("round {} with {}={seed}", round + 1, testing::SEED);
        let works = round_of(project, soak, seed);
        for (index, (name, work)) in works.iter().enumerate() {
            screen.begin(index, works.len(), name, "a long time");
            let mut report = runner.run(name, work);
            interrupted = stop::exit();
            let log = runner.log(name);
            let text = text_of(&log);
            report.notes.extend(totals::figures(&text));
            if report.stopped {
                totals::found(&text).into_iter().for_each(|line| report.fail(line));
            }
            screen.end(name, &report, &log);
            if report.tally.failed > 0 {
                totals.keep(keep(project, &log, name, seed)?);
            }
            totals.add(name, &report);
            if interrupted.is_some() {
                break 'rounds;
            }
            if soak.in_turn && round > 0 && start.elapsed() >= soak.time {
                break;
            }
        }
        // Hours are spent whatever was found: what failed is kept, and the next seed may find more.
        let failed = totals.tally().failed > 0;
        if failed && !soak.in_turn || start.elapsed() >= soak.time {
            break;
        }
    }
    println!("\n{totals}");
    let good = if totals.tally().is_good() { Exit::Ok } else { Exit::Error };
    Ok(interrupted.unwrap_or(good))
}

/// A log, as far as it is text.
fn text_of(log: &Path) -> String {
    fs::read(log).map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into_owned())
}

/// Keeps the log of what failed, under its seed, and says where; bundles of the simulation are in
/// `target/sim`, and inputs of the fuzzer in `target/fuzz/broken`.
fn keep(project: &Project, log: &Path, name: &str, seed: u64) -> Result<PathBuf> {
    let dir = project.target.join("soak");
    fs::create_dir_all(&dir)?;
    let kept = dir.join(format!("{name}-seed-{seed}.log"));
    fs::copy(log, &kept).with_context(|| log.display().to_string())?;
    Ok(kept)
}

/// The work of one round.
fn round_of(project: &Project, soak: &Soak, seed: u64) -> Vec<(&'static str, Work)> {
    if soak.in_turn {
        turns(project, soak.time, (seed, tools::has_nightly(&project.root)))
    } else {
        counts(project, soak.ops, seed)
    }
}

/// Simulation, fuzzing, generated mutants, crash storms and the guest's suite, each for a while.
fn turns(
    project: &Project,
    time: Duration,
    (seed, has_nightly): (u64, bool),
) -> Vec<(&'static str, Work)> {
    let turn = (time / TURNS).clamp(SHORTEST_TURN, TURN);
    let half = turn.as_secs() / 2;
    let base = seed.wrapping_mul(1 << 32);
    let sim = format!("cargo xtask sim --shrink --for {half}s --seed {base}");
    let swarm = format!("{sim} --swarm --run-ops 20000");
    let fuzz = format!("cargo xtask fuzz --time {}s", (turn / FUZZ_TARGETS).as_secs());
    // Each turn goes on where the last one ended, until all were tried.
    let mutants = format!(" --resume --for {}s", turn.as_secs());
    // As much of their count as the turn is of the longest one.
    let deaths = CRASHES * turn.as_secs() / TURN.as_secs();
    vec![
        ("soak-sim", own(&sim)),
        ("soak-swarm", own(&swarm)),
        ("soak-fuzz", libfuzzer(has_nightly, &fuzz)),
        ("soak-mutants-generated", generated(project, &mutants)),
        ("soak-crashes", crashes(project, deaths, seed)),
        ("soak-storms", storms(project, turn == TURN, seed)),
        ("soak-guest", own("cargo xtask test --only vm")),
    ]
}

/// A command of ours.
fn own(line: &str) -> Work {
    Work::Gates(vec![Run::new(line).limit(LIMIT)])
}

/// The fuzzer, where there is a compiler for it.
fn libfuzzer(has_nightly: bool, line: &str) -> Work {
    match has_nightly {
        true => own(line),
        false => Work::Skip("no nightly toolchain; `rustup toolchain install nightly`".to_owned()),
    }
}

/// The mutants that cargo-mutants makes up, where it is.
fn generated(project: &Project, options: &str) -> Work {
    match mutants::generated::is_there(project) {
        true => own(&format!("cargo xtask mutants --generated{options}")),
        false => Work::Skip(mutants::generated::MISSING.to_owned()),
    }
}

/// All unit tests of what partitions run, interpreted.
fn miri(project: &Project) -> Work {
    match Tool::Miri.find(&project.root) {
        Found::Yes => steps::miri_of_all(project, LIMIT),
        Found::No(reason) => Work::Skip(reason),
        Found::Missing { why, fix } => Work::Skip(format!("{why}: {fix}")),
    }
}

/// Everything that has a count, with its full one.
fn counts(project: &Project, ops: Option<u64>, seed: u64) -> Vec<(&'static str, Work)> {
    let core = if project.package("core-runtime").is_some() {
        let mut run = Run::new("cargo test --release --no-fail-fast -p core-runtime --lib --tests");
        run.argv.extend(project.std_features(&["core-runtime"]));
        Work::Tests(vec![run])
    } else {
        Work::Skip("no package core-runtime".to_owned())
    };
    let prolong = |work, own_ops: u64| long(work, ops.unwrap_or(own_ops), seed);
    vec![
        ("soak-crashes", crashes(project, CRASHES, seed)),
        ("soak-conformance", prolong(steps::conformance(project), ORACLE_OPS)),
        ("soak-core", prolong(core, ALLOC_OPS)),
        ("soak-e2e", prolong(steps::e2e(project), ORACLE_OPS)),
        ("soak-hostile", prolong(hostile(project), HOSTILE_CASES)),
        ("soak-sim", sim(project, ops.unwrap_or(SIM_COMMANDS), seed)),
        ("soak-loom", steps::loom_with(project, LOOM_PREEMPTIONS, LIMIT)),
        ("soak-miri", miri(project)),
        ("soak-journal", prolong(journal(project), CRASH_POINTS)),
        ("soak-fuzz", prolong(fuzz(project), FUZZ_INPUTS)),
        ("soak-shuttle", shuttle(project)),
        ("soak-mutants", own("cargo xtask mutants")),
        ("soak-mutants-generated", generated(project, "")),
        ("soak-dist", own("cargo xtask dist --test")),
    ]
}

/// Deaths of partitions under load.
fn crashes(project: &Project, deaths: u64, seed: u64) -> Work {
    match project.package(steps::CONFORMANCE) {
        Some(_) => {
            let drill = steps::crash_drill().arg("--").arg("--crashes").arg(deaths.to_string());
            Work::Tests(vec![drill.env(testing::SEED, seed.to_string()).limit(LIMIT)])
        }
        None => Work::Skip(format!("no package {}", steps::CONFORMANCE)),
    }
}

/// The feed handler under faults of its device, under deaths of its partition, and on other
/// storage: `whole` in its large sizes.
fn storms(project: &Project, whole: bool, seed: u64) -> Work {
    if project.package(steps::APP).is_none() {
        return Work::Skip(format!("no package {}", steps::APP));
    }
    let run = Run::new("cargo test --release --no-fail-fast --test e2e -p").arg(steps::APP);
    let run = ["--", "storm::", "deaths::", "fallback"].into_iter().fold(run, Run::arg);
    let run = run.env(testing::SOAK, if whole { "1" } else { "0" });
    Work::Tests(vec![run.env(testing::SEED, seed.to_string()).limit(LIMIT)])
}

/// Interleavings of the host's supervision, as many as its tests say.
fn shuttle(project: &Project) -> Work {
    if project.package("host-bridge").is_none() {
        return Work::Skip("no package host-bridge".to_owned());
    }
    let run = Run::new("cargo test --release --no-fail-fast -p host-bridge --lib interleavings::");
    let target = project.target.join("shuttle").to_string_lossy().into_owned();
    let run = run.env("RUSTFLAGS", "--cfg shuttle").env("CARGO_TARGET_DIR", target);
    Work::Tests(vec![run.env(testing::SOAK, "1").limit(LIMIT)])
}

/// Mutations of the fuzzer's seeds, without its feedback.
fn fuzz(project: &Project) -> Work {
    if project.package(FUZZ).is_none() {
        return Work::Skip(format!("no package {FUZZ}"));
    }
    let run = Run::new("cargo test --release --no-fail-fast --test corpora -p").arg(FUZZ);
    Work::Tests(vec![run])
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
    use crate::project::{Package, tests::METADATA};

    fn soak(ops: Option<u64>, in_turn: bool) -> Soak {
        Soak { in_turn, time: Duration::ZERO, ops, seed: 1 }
    }

    fn turns_in(time: Duration) -> Vec<String> {
        let mut project = Project::parse(METADATA).expect("metadata");
        for name in [steps::APP, steps::CONFORMANCE] {
            project.packages.push(Package { name: name.to_owned(), ..Package::default() });
        }
        let round = turns(&project, time, (7, true));
        round.iter().map(|(_, work)| line(work)).collect()
    }

    #[test]
    fn by_the_hour_all_take_turns() {
        let lines = turns_in(Duration::from_secs(24 * 3600));
        assert_eq!(lines[0], "cargo xtask sim --shrink --for 600s --seed 30064771072");
        assert_eq!(lines[2], "cargo xtask fuzz --time 133s");
        let mutants = "cargo xtask mutants --generated --resume --for 1200s";
        assert!(lines[3] == mutants || lines[3].contains("cargo-mutants is not"), "{}", lines[3]);
        assert!(lines[4].ends_with("--crashes 1000"), "{}", lines[4]);
        assert!(lines[5].contains("HYBRID_SOAK=1 HYBRID_SEED=7 "), "{}", lines[5]);
        assert_eq!(lines[6], "cargo xtask test --only vm");
        assert_eq!(lines.len(), 7);
    }

    #[test]
    fn turns_of_a_part_of_an_hour_are_shorter() {
        let lines = turns_in(Duration::from_secs(360));
        assert_eq!(lines[0], "cargo xtask sim --shrink --for 30s --seed 30064771072");
        assert_eq!(lines[2], "cargo xtask fuzz --time 6s");
        assert!(lines[4].ends_with("--crashes 50"), "{}", lines[4]);
        assert!(lines[5].contains("HYBRID_SOAK=0 "), "{}", lines[5]);
        assert_eq!(turns_in(Duration::from_secs(1))[2], "cargo xtask fuzz --time 6s");
    }

    fn line(work: &Work) -> String {
        match work {
            Work::Gates(runs) | Work::Tests(runs) => runs[0].line(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_round_asks_for_the_large_sizes_and_its_seed() {
        let project = Project::parse(METADATA).expect("metadata");
        let round = round_of(&project, &soak(None, false), 7);
        let core = line(&round[2].1);
        let env = "HYBRID_SOAK=1 HYBRID_SOAK_OPS=100000000 HYBRID_SEED=7 cargo test --release";
        assert!(core.starts_with(env), "{core}");
        assert!(line(&round[6].1).contains("LOOM_MAX_PREEMPTIONS=5"));
    }

    #[test]
    fn operations_can_be_chosen() {
        let project = Project::parse(METADATA).expect("metadata");
        let round = round_of(&project, &soak(Some(5), false), 7);
        assert!(line(&round[2].1).contains("HYBRID_SOAK_OPS=5 "));
    }
}
