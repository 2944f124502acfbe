//! `cargo xtask bench`: every benchmark, one after the other, output as it comes; results as JSON
//! in `target/bench/`, and at the end what they say together ([`crate::summary`]).
//!
//! They are the binaries of one package, the `[[bench]]` targets of the package on which nothing
//! may depend, and the crate outside the workspace that races against public ones.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use hybrid_conventions::Exit;
use serde_json::{Value, json};

use crate::command::Run;
use crate::project::Project;
use crate::steps::{APP, PEERS};
use crate::summary::Summary;
use crate::tools::{self, Found, Tool};

/// The package whose binaries are the benchmarks.
const BENCHES: &str = "hybrid-benches";

/// The benchmark that has a subcommand for all that it measures.
const STORAGE: &str = "storage-bench";

/// Its ladder, which is no part of the suite: it wants fio, and a file.
const LADDER: &str = "ladder";

/// What is run.
pub(crate) struct Wanted {
    pub(crate) quick: bool,
    pub(crate) race_device: Option<String>,
    pub(crate) filter: Option<String>,
}

/// Runs all benchmarks, or those whose name contains the filter.
///
/// A benchmark that exceeds its threshold ends with 2; so does this then, after running the rest.
pub(crate) fn run(project: &Project, wanted: &Wanted) -> Result<Exit> {
    let mut worst = Exit::Ok;
    let dir = project.target.join("bench");
    std::fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
    let runs = runs(project, wanted.filter.as_deref())?;
    if wanted.race_device.is_some() && !runs.iter().any(|(name, _)| name == STORAGE) {
        bail!("--race-device is for {STORAGE}, which the filter leaves out");
    }
    if runs.iter().any(|(name, _)| name == LADDER) {
        bring_fio(project, &dir);
    }
    let mut results = Vec::new();
    for (name, mut run) in runs {
        run = match (wanted.quick, name.as_str()) {
            (false, _) => run,
            (true, LADDER) => run.arg("-t").arg("400ms"),
            (true, _) => run.arg("--quick"),
        };
        if let (STORAGE, Some(device)) = (name.as_str(), &wanted.race_device) {
            run = run.arg("--race-device").arg(device);
        }
        let file = dir.join(format!("{name}.json"));
        // One of an earlier run is no result of this one.
        let _ = std::fs::remove_file(&file);
        run = run.arg("--out").arg(file.to_string_lossy());
        println!("== {name}");
        let status = run.command(&project.root).status().context("cargo did not start")?;
        worst = worse(worst, status.code());
        results.push((name, status.code(), file));
    }
    finish(project, &dir, wanted.quick, &results)?;
    Ok(worst)
}

/// fio for the ladder, as the tests' tools are brought; without it the ladder says so.
fn bring_fio(project: &Project, dir: &Path) {
    if let Found::Missing { why, fix } = Tool::Fio.find(&project.root) {
        if !tools::is_root() {
            eprintln!("missing: {why}; this brings it: {fix}");
            return;
        }
        eprintln!("installing, because {why}: {fix}");
        if let Found::No(reason) = Tool::Fio.install(&project.root, &dir.join("install.log")) {
            eprintln!("{reason}");
        }
    }
}

/// The tables, and all results in one file with the machine and the source they are of.
fn finish(
    project: &Project,
    dir: &Path,
    quick: bool,
    results: &[(String, Option<i32>, PathBuf)],
) -> Result<()> {
    let mut all = Vec::new();
    for (name, code, file) in results {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        all.push((name.as_str(), *code, value));
    }
    let commit = Run::new("git describe --always --dirty").output(&project.root);
    let commit = commit.as_deref().map(str::trim);
    let summary = Summary::of(&all);
    let value = json!({
        "schema": "bench-summary/1",
        "quick": quick,
        "source": commit,
        "machine": summary.machine,
        "ratios": summary.ratios_json(),
        "goals": summary.goals_json(),
        "benchmarks": all
            .iter()
            .map(|(name, code, value)| json!({ "name": name, "exit": code, "result": value }))
            .collect::<Vec<_>>(),
    });
    let path = dir.join("summary.json");
    std::fs::write(&path, format!("{value:#}\n")).with_context(|| format!("{}", path.display()))?;
    print!("{}", summary.text());
    println!("source {}; results: {}", commit.unwrap_or("unknown"), path.display());
    Ok(())
}

/// Names and commands, the commands ending in the benchmark's own arguments.
fn runs(project: &Project, filter: Option<&str>) -> Result<Vec<(String, Run)>> {
    project.package(BENCHES).with_context(|| format!("no package {BENCHES}"))?;
    let all: Vec<(String, Run)> = [
        (BENCHES, "bin", "cargo run --quiet --release", "--bin"),
        (APP, "bench", "cargo bench --quiet", "--bench"),
    ]
    .into_iter()
    .filter_map(|(package, kind, command, flag)| {
        let targets = project.package(package)?.targets_of(kind);
        Some(targets.map(move |target| {
            let run = Run::new(command).arg("-p").arg(package).arg(flag).arg(&target.name);
            let run = run.arg("--");
            let run = if target.name == STORAGE { run.arg("suite") } else { run };
            (target.name.clone(), run)
        }))
    })
    .flatten()
    .chain(ladder(project))
    .chain(peers(project))
    .collect();
    let names: Vec<_> = all.iter().map(|(name, _)| name.clone()).collect();
    let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter));
    let chosen: Vec<_> = all.into_iter().filter(|(name, _)| wanted(name)).collect();
    if chosen.is_empty() {
        bail!("no benchmark matches; there are: {}", names.join(", "));
    }
    Ok(chosen)
}

/// The ladder on a file that it makes and removes.
fn ladder(project: &Project) -> Option<(String, Run)> {
    let mut bins = project.package(BENCHES)?.targets_of("bin");
    bins.find(|target| target.name == STORAGE)?;
    let run = format!("cargo run --quiet --release -p {BENCHES} --bin {STORAGE} -- --ladder");
    let file = project.target.join("bench/ladder.img");
    Some((LADDER.to_owned(), Run::new(&run).arg(file.to_string_lossy())))
}

/// The races against public crates, which are not in the workspace.
fn peers(project: &Project) -> Option<(String, Run)> {
    let target = project.target.to_string_lossy().into_owned();
    let run = Run::new(&format!("cargo run --quiet --release --locked --manifest-path {PEERS} --"));
    let there = project.root.join(PEERS).exists();
    there.then(|| ("peers".to_owned(), run.env("CARGO_TARGET_DIR", target)))
}

/// An error outweighs an exceeded threshold, and that outweighs success.
fn worse(worst: Exit, code: Option<i32>) -> Exit {
    match (worst, code) {
        (worst, Some(0)) => worst,
        (Exit::Ok | Exit::Threshold, Some(2)) => Exit::Threshold,
        _ => Exit::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::tests::METADATA;
    use crate::project::{Package, Target};

    fn lines(project: &Project, filter: Option<&str>) -> Vec<String> {
        runs(project, filter).expect("runs").iter().map(|(_, run)| run.line()).collect()
    }

    #[test]
    fn every_binary_of_the_package_is_a_benchmark() {
        let project = Project::parse(METADATA).expect("metadata");
        assert_eq!(lines(&project, None).len(), 2);
        let line = "cargo run --quiet --release -p hybrid-benches --bin driver --";
        assert_eq!(lines(&project, Some("dri")), [line]);
        let error = runs(&project, Some("x")).map(drop).expect_err("none").to_string();
        assert_eq!(error, "no benchmark matches; there are: ring, driver");
    }

    #[test]
    fn the_benches_of_the_program_are_run_too() {
        let mut project = Project::parse(METADATA).expect("metadata");
        let targets = vec![Target { name: "itch".to_owned(), kind: "bench".to_owned() }];
        project.packages.push(Package { name: APP.to_owned(), targets, ..Package::default() });
        let line = "cargo bench --quiet -p feed-handler --bench itch --";
        assert_eq!(lines(&project, Some("itch")), [line]);
    }

    #[test]
    fn storage_bench_runs_its_suite() {
        let mut project = Project::parse(METADATA).expect("metadata");
        let target = Target { name: STORAGE.to_owned(), kind: "bin".to_owned() };
        for package in project.packages.iter_mut().filter(|package| package.name == BENCHES) {
            package.targets.push(target.clone());
        }
        let line = "cargo run --quiet --release -p hybrid-benches --bin storage-bench -- suite";
        assert_eq!(lines(&project, Some(STORAGE)), [line]);
        let lines = lines(&project, Some(LADDER));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("--bin storage-bench -- --ladder "), "{lines:?}");
    }

    #[test]
    fn the_worst_outcome_is_the_outcome() {
        for (worst, code, expected) in [
            (Exit::Ok, Some(0), Exit::Ok),
            (Exit::Ok, Some(2), Exit::Threshold),
            (Exit::Threshold, Some(0), Exit::Threshold),
            (Exit::Threshold, Some(1), Exit::Error),
            (Exit::Error, Some(2), Exit::Error),
            (Exit::Ok, None, Exit::Error),
        ] {
            assert_eq!(worse(worst, code), expected);
        }
    }
}
