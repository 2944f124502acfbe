//! Our own programs for the guest: the release builds that other steps test, without symbols, and
//! the C library that they are linked with.
//!
//! The guest has no C library of its own: it gets the machine's, at the same paths, so that
//! nothing is built a second time for the sake of the guest. What `ldd` names is what it gets.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::image::Extra;
use crate::command::Run;
use crate::project::Project;
use crate::sim::SIM;

/// Packages whose programs the guest gets, where the workspace has them.
const PACKAGES: [&str; 5] =
    ["feed-handler", "sysconfig", "hybrid-conformance", "hybrid-benches", SIM];

/// A run of the simulation, with every fault, which must be the same one in the guest.
const SIMULATED: &str = "--seed 11 --runs 1 --run-ops 10000";

/// Where the programs lie, below the folder of the guests.
pub(crate) fn folder(dir: &Path) -> PathBuf {
    dir.join("programs")
}

/// What builds the programs of [`PACKAGES`], and their names.
pub(crate) fn build_of_programs(project: &Project) -> (Run, Vec<String>) {
    let mut names = Vec::new();
    let mut run = Run::new("cargo build --release --bins");
    for package in PACKAGES.iter().filter_map(|name| project.package(name)) {
        let mut bins = package.targets_of("bin").peekable();
        if bins.peek().is_some() {
            run = run.arg("-p").arg(&package.name);
            names.extend(bins.map(|bin| bin.name.clone()));
        }
    }
    (run, names)
}

/// Builds the programs of [`PACKAGES`] and says where they are, and what they need.
pub(crate) fn build(project: &Project, dir: &Path, log: &Path) -> Result<Vec<Extra>> {
    let (run, names) = build_of_programs(project);
    let work = |run: &Run| match run.run(&project.root, log).trouble() {
        Some(trouble) => bail!("`{}`: {trouble}; see {}", run.line(), log.display()),
        None => Ok(()),
    };
    work(&run)?;
    let programs = folder(dir);
    fs::create_dir_all(&programs)
        .with_context(|| format!("cannot create {}", programs.display()))?;
    let (mut extras, mut libraries) = (Vec::new(), BTreeSet::new());
    for name in names {
        let built = project.target.join("release").join(&name);
        let host = programs.join(&name);
        let strip = Run::new("strip -o").arg(host.to_string_lossy());
        work(&strip.arg(built.to_string_lossy()))?;
        libraries.extend(needed(&host)?);
        extras.push(Extra { host, guest: format!("/usr/local/bin/{name}") });
    }
    if project.package(SIM).is_some() {
        extras.push(simulated(project, &programs)?);
    }
    extras.extend(
        libraries
            .into_iter()
            .map(|path| Extra { guest: path.to_string_lossy().into_owned(), host: path }),
    );
    Ok(extras)
}

/// What the simulation says here, for the guest to compare: options, then trace and state hash.
fn simulated(project: &Project, programs: &Path) -> Result<Extra> {
    let mut run = Run::new(SIMULATED);
    run.argv.insert(0, project.target.join("release/sim").to_string_lossy().into_owned());
    let text = run.output(&project.root).with_context(|| format!("`{}` failed", run.line()))?;
    let Some(hashes) = text.lines().find(|line| line.contains("trace hash")) else {
        bail!("`{}` told no hashes: {text}", run.line());
    };
    let host = programs.join("sim.expected");
    fs::write(&host, format!("{SIMULATED}\n{hashes}\n"))?;
    Ok(Extra { host, guest: "/guest/sim.expected".to_owned() })
}

/// The loader and the libraries of a program.
fn needed(program: &Path) -> Result<Vec<PathBuf>> {
    let run = Run::new("ldd").arg(program.to_string_lossy());
    let text = run.output(Path::new("/"));
    let text = text.with_context(|| format!("`{}` failed", run.line()))?;
    libraries(&text).with_context(|| format!("`{}`", run.line()))
}

/// The paths in what `ldd` prints; the kernel's own library has none.
fn libraries(text: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, found) = line.split_once(" => ").unwrap_or((line, line));
        let path = found.split(" (0x").next().unwrap_or_default();
        match path.starts_with('/') {
            true => paths.push(PathBuf::from(path)),
            false if found.starts_with("linux-vdso") || line == "statically linked" => {}
            false => bail!("the library {name} is not there"),
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loader_and_libraries_are_found_and_a_missing_one_is_named() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd1)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n";
        let paths = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(text).expect("all there"), paths.map(PathBuf::from));
        assert!(libraries("\tstatically linked\n").expect("none").is_empty());
        let error = libraries("\tlibx.so.1 => not found\n").expect_err("missing").to_string();
        assert_eq!(error, "the library libx.so.1 is not there");
    }
}
