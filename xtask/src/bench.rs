//! `cargo xtask bench`: every benchmark, one after the other, output as it comes.
//!
//! They are the binaries of one package, the `[[bench]]` targets of the package on which nothing
//! may depend, and the crate outside the workspace that races against public ones.

use anyhow::{Context as _, Result, bail};
use hybrid_conventions::Exit;

use crate::command::Run;
use crate::project::Project;
use crate::steps::{APP, PEERS};

/// The package whose binaries are the benchmarks.
const BENCHES: &str = "hybrid-benches";

/// Runs all benchmarks, or those whose name contains `filter`.
///
/// A benchmark that exceeds its threshold ends with 2; so does this then, after running the rest.
pub(crate) fn run(project: &Project, quick: bool, filter: Option<&str>) -> Result<Exit> {
    let mut worst = Exit::Ok;
    for (name, mut run) in runs(project, filter)? {
        if quick {
            run = run.arg("--quick");
        }
        println!("== {name}");
        let status = run.command(&project.root).status().context("cargo did not start")?;
        worst = worse(worst, status.code());
    }
    Ok(worst)
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
            (target.name.clone(), run.arg("--"))
        }))
    })
    .flatten()
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

/// The races against public crates, which are not in the workspace.
fn peers(project: &Project) -> Option<(String, Run)> {
    let target = project.target.join("peers").to_string_lossy().into_owned();
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
