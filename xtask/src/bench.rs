//! `cargo xtask bench`: every benchmark binary, one after the other, output as it comes.

use anyhow::{Context as _, Result, bail};
use hybrid_conventions::Exit;

use crate::command::Run;
use crate::project::Project;

/// The package whose binaries are the benchmarks.
const BENCHES: &str = "hybrid-benches";

/// Runs all benchmark binaries, or those that contain `filter`.
///
/// A benchmark that exceeds its threshold ends with 2; so does this then, after running the rest.
pub(crate) fn run(project: &Project, quick: bool, filter: Option<&str>) -> Result<Exit> {
    let names = names(project, filter)?;
    let mut worst = Exit::Ok;
    for name in names {
        let mut run = Run::new("cargo run --quiet --release -p").arg(BENCHES);
        run = run.arg("--bin").arg(&name);
        if quick {
            run = run.arg("--").arg("--quick");
        }
        println!("== {name}");
        let status = run.command(&project.root).status().context("cargo did not start")?;
        worst = worse(worst, status.code());
    }
    Ok(worst)
}

fn names(project: &Project, filter: Option<&str>) -> Result<Vec<String>> {
    let package = project.package(BENCHES).with_context(|| format!("no package {BENCHES}"))?;
    let all: Vec<_> = package.targets_of("bin").map(|target| target.name.clone()).collect();
    let chosen: Vec<_> = all
        .iter()
        .filter(|name| filter.is_none_or(|filter| name.contains(filter)))
        .cloned()
        .collect();
    if chosen.is_empty() {
        bail!("no benchmark matches; there are: {}", all.join(", "));
    }
    Ok(chosen)
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

    #[test]
    fn every_binary_of_the_package_is_a_benchmark() {
        let project = Project::parse(METADATA).expect("metadata");
        assert_eq!(names(&project, None).expect("names"), ["ring", "driver"]);
        assert_eq!(names(&project, Some("dri")).expect("names"), ["driver"]);
        let error = names(&project, Some("x")).expect_err("none").to_string();
        assert_eq!(error, "no benchmark matches; there are: ring, driver");
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
