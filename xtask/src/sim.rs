//! `cargo xtask sim`: builds the simulation as it is to run, and hands over to it.

use std::process::Command;

use anyhow::{Context as _, Result};
use hybrid_conventions::Exit;

use crate::project::Project;
use crate::{command, stop};

/// The package of the simulation.
pub(crate) const SIM: &str = "hybrid-sim";

/// Runs it with `options` and gives its exit code.
pub(crate) fn run(project: &Project, options: &[String]) -> Result<u8> {
    let mut cargo = Command::new("cargo");
    cargo.args(["run", "--profile", "simulation", "--quiet", "-p", SIM, "--"]);
    cargo.args(options).current_dir(&project.root);
    // It says what it did when a signal ends it, and so has to outlive us no more than that.
    stop::install()?;
    let status = command::wait_for(cargo).context("cargo could not be started")?;
    let code = status.and_then(|status| status.code());
    let stopped = stop::exit().map_or(1, Exit::code);
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(stopped))
}
