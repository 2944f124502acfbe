//! The steps of `cargo xtask test`: what each one runs, and why it may not.
//!
//! A plan is a pure function of the workspace, so that the tests can ask what would be run.

use std::path::Path;
use std::time::Duration;

use crate::command::Run;
use crate::fuzz;
use crate::project::{Package, Project};
use crate::sim::SIM;
use crate::tools::Tool;
use crate::vm;

/// One step, in the order of [`STEPS`].
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) tools: &'static [Tool],
    pub(crate) plan: fn(&Project) -> Work,
    /// Whether it runs behind the others, from the start, on what time they leave: its result
    /// doesn't depend on how fast it is, and nothing waits for what it builds.
    pub(crate) behind: bool,
}

impl Step {
    const fn behind(self) -> Self {
        Self { behind: true, ..self }
    }

    /// What it does, on whose time.
    pub(crate) fn work(&self, project: &Project) -> Work {
        match self.behind {
            true => (self.plan)(project).behind(),
            false => (self.plan)(project),
        }
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Commands that count as one test each.
    Gates(Vec<Run>),
    /// `cargo test` commands, whose tests are counted.
    Tests(Vec<Run>),
    /// A command, and then the same, all at once: each keeps one core busy.
    Beside(Run, Vec<Run>),
    /// The rules of `tidy`, run inside xtask; one test.
    Tidy,
    /// The suite of `cargo xtask vm`, whose tests are counted.
    Guest,
    /// Every target of the fuzzer, each of which counts as one test; always behind the others.
    Fuzz,
    /// Nothing to run, for this reason.
    Skip(String),
}

impl Work {
    fn behind(self) -> Self {
        let all = |runs: Vec<Run>| runs.into_iter().map(Run::behind).collect();
        match self {
            Self::Gates(runs) => Self::Gates(all(runs)),
            Self::Tests(runs) => Self::Tests(all(runs)),
            Self::Beside(first, runs) => Self::Beside(first.behind(), all(runs)),
            other => other,
        }
    }
}

/// Every step, cheap ones first, so that a slip is reported in seconds.
pub(crate) const STEPS: [Step; 18] = [
    step("fmt", "rustfmt finds nothing to change", &[Tool::Rustfmt], fmt),
    step("tidy", "lengths, banned calls, unsafe rooms, arrows, links", &[], tidy),
    step("clippy", "no warning in any target", &[Tool::Clippy], clippy),
    step("docs", "rustdoc has no warning", &[], docs),
    step("no-std", "no_std crates build without std", &[Tool::NoStdTarget], no_std),
    step("unit", "unit and integration tests of all crates", &[Tool::Fio], unit),
    step("doc", "examples in the documentation", &[], doc),
    step("release", "tests of the hot crates as they ship", &[], release),
    step(
        "instructions",
        "the hot paths are no longer than before",
        &[Tool::Valgrind],
        instructions,
    ),
    step("allocations", "no hot loop calls the allocator", &[], allocations),
    step("conformance", "one suite on every backend", &[], conformance),
    step("sim", "everything on a virtual clock, alike in debug and release", &[], sim),
    step("e2e", "the feed-handler binary, from outside", &[], e2e),
    step("peers", "the races against public crates agree with them", &[], peers),
    step("vm", "VFIO and Linux in an emulated machine", &[Tool::Qemu, Tool::AptLists], guest),
    step("miri", "no undefined behaviour in the no_std crates", &[Tool::Miri], miri).behind(),
    step("fuzz", "any bytes under libFuzzer, a minute a target", &fuzz::TOOLS, fuzz).behind(),
    step("loom", "every interleaving of the ring and the waker", &[], loom).behind(),
];

const fn step(
    name: &'static str,
    about: &'static str,
    tools: &'static [Tool],
    plan: fn(&Project) -> Work,
) -> Step {
    Step { name, about, tools, plan, behind: false }
}

/// Crates that run on a partition, with the arguments that leave everything else out.
const NO_STD: [(&str, &str); 8] = [
    ("hybrid-abi", ""),
    ("hybrid-shm", ""),
    ("hybrid-conventions", ""),
    ("core-runtime", ""),
    ("nvme-spec", ""),
    ("nvme-driver", ""),
    ("journal", ""),
    ("feed-handler", "--lib --no-default-features"),
];

/// Crates whose machine code in release is what partitions run: tested as they ship.
const HOT: [&str; 5] = ["hybrid-abi", "hybrid-shm", "core-runtime", "nvme-driver", "feed-handler"];

/// Crates with or near `unsafe`, small enough for an interpreter.
const MIRI: [&str; 3] = ["hybrid-abi", "hybrid-shm", "core-runtime"];

/// The package that holds the one suite for all backends.
pub(crate) const CONFORMANCE: &str = "hybrid-conformance";

/// The benchmark with peers; not in the workspace.
pub(crate) const PEERS: &str = "benches/peers/Cargo.toml";

/// The package with the binary that the end-to-end tests drive.
pub(crate) const APP: &str = "feed-handler";

/// Interleavings per loom test are bounded by this many preemptions; three find all but
/// contrived errors (the loom manual's advice) in seconds.
const LOOM_PREEMPTIONS: &str = "3";

/// A crate that takes Miri more time of its own than this needs smaller sizes under `cfg!(miri)`.
const MIRI_LIMIT: Duration = Duration::from_secs(5 * 60);

/// Cases of a property under Miri, which is some hundred times slower.
const MIRI_CASES: &str = "4";

fn fmt(_: &Project) -> Work {
    Work::Gates(vec![Run::new("cargo fmt --all --check -- --color never")])
}

fn tidy(_: &Project) -> Work {
    Work::Tidy
}

fn clippy(_: &Project) -> Work {
    Work::Gates(vec![Run::new("cargo clippy --workspace --all-targets -- -D warnings")])
}

fn docs(_: &Project) -> Work {
    let run = Run::new("cargo doc --workspace --no-deps --document-private-items");
    Work::Gates(vec![run.env("RUSTDOCFLAGS", "-Dwarnings -Arustdoc::private_intra_doc_links")])
}

fn no_std(project: &Project) -> Work {
    let build = |(package, rest): &(&str, &str)| {
        let run = Run::new(&format!("cargo build --target {} -p {package} {rest}", Tool::TARGET));
        // Whether it builds is asked, and nobody runs it.
        run.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0")
    };
    let here = NO_STD.iter().filter(|(name, _)| project.package(name).is_some());
    gates(here.map(build).collect(), "no no_std crate in the workspace")
}

/// Each package's own tests, in one command, so that no crate is built twice with other features;
/// the tests of the two packages that are steps of their own are left out.
fn unit(project: &Project) -> Work {
    let mut run = Run::new("cargo test --workspace --no-fail-fast --lib --bins");
    if project.package(CONFORMANCE).is_some() {
        run = run.arg("--exclude").arg(CONFORMANCE);
    }
    let elsewhere = |package: &&Package| [CONFORMANCE, APP].contains(&package.name.as_str());
    let packages = project.packages.iter().filter(|package| !elsewhere(package));
    for target in packages.flat_map(|package| package.targets_of("test")) {
        run = run.arg("--test").arg(&target.name);
    }
    Work::Tests(vec![run])
}

fn doc(_: &Project) -> Work {
    Work::Tests(vec![Run::new("cargo test --workspace --no-fail-fast --doc")])
}

fn release(project: &Project) -> Work {
    let hot = present(project, &HOT);
    if hot.is_empty() {
        return Work::Skip("no hot crate in the workspace".to_owned());
    }
    let mut run = Run::new("cargo test --release --no-fail-fast --lib");
    for package in &hot {
        run = run.arg("-p").arg(*package);
    }
    run.argv.extend(project.std_features(&hot));
    Work::Tests(vec![run])
}

/// Instruction counts against the baseline in `benches/instructions.txt`.
fn instructions(project: &Project) -> Work {
    let run = "cargo run --release -p hybrid-benches --example instructions";
    match project.package("hybrid-benches") {
        Some(_) => Work::Gates(vec![Run::new(run)]),
        None => Work::Skip("no package hybrid-benches".to_owned()),
    }
}

/// Every mode of storage-bench with an allocator that counts: a call from a hot loop, the
/// partition's, the model's or the stepped one, is an error there.
fn allocations(project: &Project) -> Work {
    // Of the whole workspace, whose crates from outside are built already with its features.
    let run = "cargo test --workspace --no-fail-fast --features hybrid-benches/allocation-tracking";
    match project.package("hybrid-benches") {
        Some(_) => {
            let run = Run::new(run).arg("--bin").arg("storage-bench");
            Work::Tests(vec![run.arg("--test").arg("storage_bench").arg("--test").arg("quick")])
        }
        None => Work::Skip("no package hybrid-benches".to_owned()),
    }
}

/// Loom tests are the files `tests/loom_*.rs` of any package.
pub(crate) fn loom(project: &Project) -> Work {
    loom_with(project, LOOM_PREEMPTIONS, Run::LIMIT)
}

pub(crate) fn loom_with(project: &Project, preemptions: &str, limit: Duration) -> Work {
    let run = |package: &Package| {
        Run::new("cargo test --release --no-fail-fast -p")
            .arg(&package.name)
            .arg("--test")
            .arg("loom*")
            .env("RUSTFLAGS", "--cfg loom")
            .env("LOOM_MAX_PREEMPTIONS", preemptions)
            .env("CARGO_TARGET_DIR", path(&project.target.join("loom")))
            .limit(limit)
    };
    let with_loom = |package: &&Package| {
        package.targets_of("test").any(|target| target.name.starts_with("loom"))
    };
    let runs = project.packages.iter().filter(with_loom).map(run).collect();
    tests(runs, "no package has tests/loom_*.rs")
}

fn miri(project: &Project) -> Work {
    // An interpreter is one thread, whatever it interprets. What all need is made before.
    let setup = Run::new("cargo +nightly miri setup");
    match miri_runs(project, &MIRI, MIRI_LIMIT) {
        runs if runs.is_empty() => Work::Skip("no crate for Miri in the workspace".to_owned()),
        runs => Work::Beside(setup, runs),
    }
}

/// The unit tests of every no_std crate under Miri, one crate after the other.
pub(crate) fn miri_of_all(project: &Project, limit: Duration) -> Work {
    let names = NO_STD.map(|(name, _)| name);
    let mut runs = miri_runs(project, &names, limit);
    for (name, rest) in NO_STD {
        let without_std = rest.split_whitespace().filter(|word| *word != "--lib");
        let run = runs.iter_mut().find(|run| run.argv.iter().any(|word| word == name));
        if let Some(run) = run {
            run.argv.extend(without_std.map(str::to_owned));
        }
    }
    tests(runs, "no no_std crate in the workspace")
}

fn miri_runs(project: &Project, names: &[&str], limit: Duration) -> Vec<Run> {
    let run = |package: &&str| {
        let run = Run::new("cargo +nightly miri test --no-fail-fast --lib -p").arg(*package);
        let mut run = run
            .env("MIRIFLAGS", "-Zmiri-ignore-leaks -Zmiri-disable-isolation")
            .env("PROPTEST_CASES", MIRI_CASES)
            .env("CARGO_TARGET_DIR", path(&project.target.join("miri")))
            .limit(limit);
        run.argv.extend(project.std_features(&[package]));
        run
    };
    present(project, names).iter().map(run).collect()
}

pub(crate) fn conformance(project: &Project) -> Work {
    match project.package(CONFORMANCE) {
        None => Work::Skip(format!("no package {CONFORMANCE}")),
        Some(_) => Work::Tests(vec![
            // The program's own unit tests with them.
            Run::new("cargo test --release --no-fail-fast --lib --bins --tests -p")
                .arg(CONFORMANCE),
            // On a partition's core, by the program that also runs on drives.
            Run::new("cargo run --release --quiet --bin conformance -p")
                .arg(CONFORMANCE)
                .arg("--")
                .arg("--device")
                .arg("model"),
            // The same over the vfio-user protocol, against the model behind our own server.
            Run::new("cargo run --release --quiet --bin conformance -p")
                .arg(CONFORMANCE)
                .arg("--")
                .arg("--own-server")
                .arg("--device")
                .arg(format!("vfio-user:{}", path(&project.target.join("conformance.sock")))),
            crash_drill(),
        ]),
    }
}

/// Partitions that die under load, and the host that stays; 100 of them unless told otherwise.
pub(crate) fn crash_drill() -> Run {
    Run::new("cargo run --release --quiet --bin crash-drill -p").arg(CONFORMANCE)
}

pub(crate) fn e2e(project: &Project) -> Work {
    let app = project.package(APP);
    if app.is_none_or(|package| package.targets_of("test").next().is_none()) {
        return Work::Skip(format!("{APP} has no tests/*.rs"));
    }
    let run = Run::new("cargo test --release --no-fail-fast -p").arg(APP);
    Work::Tests(vec![run.arg("--test").arg("*")])
}

/// A few seconds of ordinary runs and of swarm by the program that the guest gets, and one run that
/// must be alike, event by event, with the test profile's checks and without.
fn sim(project: &Project) -> Work {
    if project.package(SIM).is_none() {
        return Work::Skip(format!("no package {SIM}"));
    }
    // Alone it would get other features, and everything that it is made of would be built again.
    let checked = Run::new("cargo build --profile test --workspace --bin sim");
    let run = |profile: &str, options: &str| {
        let program = path(&project.target.join(profile).join("sim"));
        let options = options.split(' ').map(str::to_owned);
        Run::new("").arg(program).args(options)
    };
    let record = path(&project.target.join("sim.record"));
    let alike = "--swarm --seed 11 --run-ops 4000 --record";
    Work::Gates(vec![
        vm::build_of_programs(project).0,
        checked,
        run("release", "--runs 10 --seed 2026"),
        run("release", "--swarm --runs 60 --run-ops 20000 --seed 2026"),
        run("release", alike).arg(&record),
        run("debug", "--bisect").arg(&record),
    ])
}

fn guest(_: &Project) -> Work {
    Work::Guest
}

fn fuzz(project: &Project) -> Work {
    match project.package(fuzz::FUZZ) {
        Some(_) => Work::Fuzz,
        None => Work::Skip(format!("no package {}", fuzz::FUZZ)),
    }
}

/// The crate outside the workspace that races against others': it must build, and agree with them.
fn peers(project: &Project) -> Work {
    let manifest = project.root.join(PEERS);
    if !manifest.exists() {
        return Work::Skip(format!("no {PEERS}"));
    }
    // Crates from outside that the workspace builds alike are not built again.
    let run = |words: &str| Run::new(words).env("CARGO_TARGET_DIR", path(&project.target));
    Work::Gates(vec![
        run(&format!("cargo fmt --check --manifest-path {PEERS}")),
        run(&format!("cargo clippy --locked --manifest-path {PEERS} -- -D warnings")),
        run(&format!("cargo run --locked --manifest-path {PEERS} -- --quick")),
    ])
}

fn present<'a>(project: &Project, names: &[&'a str]) -> Vec<&'a str> {
    let here = |name: &&&str| project.package(name).is_some();
    names.iter().filter(here).copied().collect()
}

fn gates(runs: Vec<Run>, none: &str) -> Work {
    match runs.is_empty() {
        true => Work::Skip(none.to_owned()),
        false => Work::Gates(runs),
    }
}

fn tests(runs: Vec<Run>, none: &str) -> Work {
    match runs.is_empty() {
        true => Work::Skip(none.to_owned()),
        false => Work::Tests(runs),
    }
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::{Target, tests::METADATA};

    fn project() -> Project {
        Project::parse(METADATA).expect("metadata")
    }

    fn lines(work: Work) -> Vec<String> {
        match work {
            Work::Gates(runs) | Work::Tests(runs) | Work::Beside(_, runs) => {
                runs.iter().map(Run::line).collect()
            }
            Work::Tidy => vec!["tidy".to_owned()],
            Work::Guest => vec!["guest".to_owned()],
            Work::Fuzz => vec!["fuzz".to_owned()],
            Work::Skip(reason) => vec![format!("skip: {reason}")],
        }
    }

    #[test]
    fn names_of_steps_are_unique() {
        let mut names: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STEPS.len());
    }

    #[test]
    fn loom_runs_where_a_package_has_loom_tests() {
        let lines = lines(loom(&project()));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("RUSTFLAGS='--cfg loom'"), "{lines:?}");
        assert!(lines[0].contains("CARGO_TARGET_DIR=/w/target/loom"), "{lines:?}");
        assert!(lines[0].ends_with("-p core-runtime --test loom*"), "{lines:?}");
    }

    #[test]
    fn loom_is_skipped_with_a_reason_where_none_has() {
        let mut project = project();
        project.packages.iter_mut().for_each(|package| package.targets.clear());
        assert_eq!(lines(loom(&project)), ["skip: no package has tests/loom_*.rs"]);
    }

    #[test]
    fn miri_runs_each_crate_by_itself_with_its_std_form() {
        let lines = lines(miri(&project()));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].ends_with("-p hybrid-abi"), "{lines:?}");
        assert!(lines[1].ends_with("-p core-runtime --features core-runtime/std"), "{lines:?}");
    }

    #[test]
    fn miri_of_all_interprets_no_host() {
        let mut project = project();
        project.packages.push(Package { name: APP.to_owned(), ..Package::default() });
        let lines = lines(miri_of_all(&project, MIRI_LIMIT));
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[2].ends_with("--lib -p feed-handler --no-default-features"), "{lines:?}");
    }

    #[test]
    fn end_to_end_tests_run_once_they_exist() {
        let mut project = project();
        assert!(matches!(e2e(&project), Work::Skip(_)));
        project.packages.push(Package { name: APP.to_owned(), ..Package::default() });
        assert!(matches!(e2e(&project), Work::Skip(_)));
        let name = "replay".to_owned();
        let kind = "test".to_owned();
        project.packages[3].targets.push(Target { name, kind });
        let run = "cargo test --release --no-fail-fast -p feed-handler --test *";
        assert_eq!(lines(e2e(&project)), [run]);
    }

    #[test]
    fn unit_leaves_out_what_other_steps_run() {
        let mut project = project();
        for name in [CONFORMANCE, APP] {
            let target = |name: &str| Target { name: name.to_owned(), kind: "test".to_owned() };
            let targets = vec![target(&format!("of-{name}"))];
            let name = name.to_owned();
            project.packages.push(Package { name, targets, ..Package::default() });
        }
        let lines = lines(unit(&project));
        let all = "cargo test --workspace --no-fail-fast --lib --bins";
        let run = format!("{all} --exclude hybrid-conformance --test loom_ring");
        assert_eq!(lines, [run]);
    }

    #[test]
    fn every_no_std_crate_is_built_by_itself() {
        let lines = lines(no_std(&project()));
        assert_eq!(lines.len(), 2);
        let quickly = "CARGO_PROFILE_DEV_OPT_LEVEL=0";
        let build = "cargo build --target x86_64-unknown-none -p hybrid-abi";
        assert_eq!(lines[0], format!("{quickly} {build}"));
    }
}
