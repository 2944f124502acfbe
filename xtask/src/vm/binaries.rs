//! Our own programs for the guest: release builds, linked statically, without symbols.
//!
//! The guest has no C library. `crt-static` links ours in, for the target that we ship; a second
//! target (musl) would test something else. They have a target folder of their own, so that
//! nothing is rebuilt when one changes between the two ways to link.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::image::Extra;
use crate::command::Run;
use crate::project::Project;

/// The target is named so that build scripts and macros are linked as usual.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Packages whose programs the guest gets, where the workspace has them.
const PACKAGES: [&str; 4] = ["feed-handler", "sysconfig", "hybrid-conformance", "hybrid-benches"];

/// Builds the programs of [`PACKAGES`] and says where they are.
pub(crate) fn build(project: &Project, dir: &Path, log: &Path) -> Result<Vec<Extra>> {
    let mut names = Vec::new();
    let mut run = Run::new("cargo build --release --bins --target").arg(TARGET);
    for package in PACKAGES.iter().filter_map(|name| project.package(name)) {
        let mut bins = package.targets_of("bin").peekable();
        if bins.peek().is_some() {
            run = run.arg("-p").arg(&package.name);
            names.extend(bins.map(|bin| bin.name.clone()));
        }
    }
    let target = dir.join("build");
    let run = run
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C force-frame-pointers=yes")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("CARGO_TARGET_DIR", target.to_string_lossy());
    if let Some(trouble) = run.run(&project.root, log).trouble() {
        bail!("`{}`: {trouble}; see {}", run.line(), log.display());
    }
    let place = |name: String| -> Extra {
        let host: PathBuf = target.join(TARGET).join("release").join(&name);
        Extra { host, guest: format!("/usr/local/bin/{name}") }
    };
    Ok(names.into_iter().map(place).collect())
}
