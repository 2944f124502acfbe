//! `cargo xtask sim`: builds the simulation as it is to run, and hands over to it.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::project::Project;

/// The package of the simulation.
pub(crate) const SIM: &str = "hybrid-sim";

/// Runs it with `options` and gives its exit code.
pub(crate) fn run(project: &Project, options: &[String]) -> Result<u8> {
    let status = Command::new("cargo")
        .args(["run", "--profile", "simulation", "--quiet", "-p", SIM, "--"])
        .args(options)
        .current_dir(&project.root)
        .status()
        .context("cargo could not be started")?;
    // A signal ends it as it ends us.
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
