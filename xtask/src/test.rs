//! `cargo xtask test`: installs what is missing, runs the steps, ends with one line.

use std::time::Duration;

use anyhow::{Result, bail};
use hybrid_conventions::Exit;

use crate::libtest::Tally;
use crate::project::Project;
use crate::runner::{Report, Runner};
use crate::screen::Screen;
use crate::steps::{STEPS, Step};
use crate::tools::{self, Found, Tool};

/// Prints the steps.
pub(crate) fn list() {
    for step in &STEPS {
        println!("{:<12} {}", step.name, step.about);
    }
}

/// Runs the steps named in `only`, or all.
pub(crate) fn run(project: &Project, only: &[String], limit: Duration) -> Result<Exit> {
    let steps = choose(only)?;
    let runner = Runner::new(project, limit)?;
    let screen = Screen::new();
    let tools = equip(project, &runner, &steps);
    let mut total = Tally::default();
    if tools.iter().any(Option::is_none) {
        total.skipped = steps.len() as u64;
        println!("{total}");
        return Ok(Exit::Missing);
    }
    for (index, (step, found)) in steps.iter().zip(tools.into_iter().flatten()).enumerate() {
        screen.begin(index, steps.len(), step.name, step.about);
        let report = match found {
            Found::Yes => runner.run(step.name, &(step.plan)(project)),
            Found::No(reason) => Report::skipped(reason),
            Found::Missing { why, fix } => Report::skipped(format!("{why}; `{fix}` brings it")),
        };
        screen.end(step.name, &report, &runner.log(step.name));
        total.add(report.tally);
    }
    println!("{total}");
    Ok(if total.is_good() { Exit::Ok } else { Exit::Error })
}

fn choose(only: &[String]) -> Result<Vec<&'static Step>> {
    for name in only {
        if !STEPS.iter().any(|step| step.name == name) {
            let names: Vec<_> = STEPS.iter().map(|step| step.name).collect();
            bail!("step {name:?} does not exist; allowed are {}", names.join(", "));
        }
    }
    let chosen = |step: &&Step| only.is_empty() || only.iter().any(|name| name == step.name);
    Ok(STEPS.iter().filter(chosen).collect())
}

/// Finds or installs each step's tools; [`None`] where a required one is missing and we are not
/// root, after its command was printed.
fn equip(project: &Project, runner: &Runner<'_>, steps: &[&Step]) -> Vec<Option<Found>> {
    let root = tools::is_root();
    let one = |tool: &Tool| match tool.find(&project.root) {
        Found::Missing { why, fix } if root => {
            eprintln!("installing, because {why}: {fix}");
            Some(tool.install(&project.root, &runner.log("install")))
        }
        Found::Missing { why, fix } if tool.is_required() => {
            eprintln!("missing: {why}; this brings it: {fix}");
            None
        }
        found => Some(found),
    };
    let all = |step: &&Step| {
        // Every tool is looked for, so that one run names all that is missing.
        let found: Vec<_> = step.tools.iter().map(one).collect();
        let found: Option<Vec<Found>> = found.into_iter().collect();
        Some(found?.into_iter().find(|found| *found != Found::Yes).unwrap_or(Found::Yes))
    };
    steps.iter().map(all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_chosen_by_name_and_run_in_their_own_order() {
        let names = ["unit".to_owned(), "fmt".to_owned()];
        let chosen = choose(&names).expect("steps");
        assert_eq!(chosen.iter().map(|s| s.name).collect::<Vec<_>>(), ["fmt", "unit"]);
        assert_eq!(choose(&[]).expect("steps").len(), STEPS.len());
    }

    #[test]
    fn an_unknown_step_is_refused_with_the_known_ones() {
        let error = choose(&["lint".to_owned()]).err().expect("an error").to_string();
        assert!(error.starts_with("step \"lint\" does not exist; allowed are fmt,"), "{error}");
    }
}
