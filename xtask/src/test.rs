//! `cargo xtask test`: installs what is missing, runs the steps, ends with one line.

use std::sync::mpsc::{self, Receiver};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use hybrid_conventions::Exit;

use crate::libtest::Tally;
use crate::project::Project;
use crate::runner::{Report, Runner};
use crate::screen::{Ending, Screen};
use crate::steps::{STEPS, Step};
use crate::tools::{self, Found, Tool};

/// A step by name, and what came of it.
type Reported = (String, Report);

/// Prints the steps.
pub(crate) fn list() {
    for step in &STEPS {
        println!("{:<12} {}", step.name, step.about);
    }
}

/// Runs the steps named in `only`, or all.
///
/// Packages are installed while the first steps run, and the steps that may run behind the others
/// do, two at once: two cores are idle at times, while one links or a drill waits.
pub(crate) fn run(project: &Project, only: &[String], limit: Duration) -> Result<Exit> {
    let steps = choose(only)?;
    let runner = Runner::new(project, limit)?;
    let screen = Screen::new();
    let mut ending = Ending::default();
    let Some(missing) = look(project, &steps) else {
        println!("{}", Tally::new(0, 0, steps.len() as u64));
        return Ok(Exit::Missing);
    };
    let install = |tool| install(project, &runner, tool);
    // The toolchain's own parts first: no compiler may run while they change.
    let parts: Vec<Tool> = missing.iter().copied().filter(|tool| !tool.is_package()).collect();
    let equipped = Equipped::new(parts.into_iter().map(|tool| (tool, install(tool))).collect());
    let do_step = |step: &Step| match equipped.wait(project, step.tools, &missing) {
        Found::Yes => runner.run(step.name, &step.work(project)),
        Found::No(reason) => Report::skipped(reason),
        Found::Missing { why, fix } => Report::skipped(format!("{why}; `{fix}` brings it")),
    };
    let behind = Mutex::new(steps.iter().filter(|step| step.behind));
    let next = || behind.lock().unwrap_or_else(PoisonError::into_inner).next();
    let (next, do_step) = (&next, &do_step);
    thread::scope(|scope| {
        scope.spawn(|| {
            for tool in missing.iter().filter(|tool| tool.is_package()) {
                equipped.add(*tool, install(*tool));
            }
        });
        let (send, reports) = mpsc::channel();
        for send in [send.clone(), send] {
            scope.spawn(move || {
                while let Some(step) = next() {
                    let _ = send.send((step.name, do_step(step)));
                }
            });
        }
        let mut early = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            screen.begin(index, steps.len(), step.name, step.about);
            let report = match step.behind {
                true => report_of(step.name, &reports, &mut early),
                false => do_step(step),
            };
            screen.end(step.name, &report, &runner.log(step.name));
            ending.add(step.name, &report);
        }
    });
    println!("{ending}");
    Ok(ending.exit())
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

/// What the steps want and this machine lacks, and may install; [`None`] where something required
/// is missing and we are not root, after its command was printed.
fn look(project: &Project, steps: &[&Step]) -> Option<Vec<Tool>> {
    let root = tools::is_root();
    let mut missing: Vec<Tool> = Vec::new();
    let mut complete = true;
    // Every tool is looked for, so that one run names all that is missing.
    for tool in steps.iter().flat_map(|step| step.tools) {
        match tool.find(&project.root) {
            Found::Missing { .. } if root && !missing.contains(tool) => missing.push(*tool),
            Found::Missing { why, fix } if !root && tool.is_required() => {
                eprintln!("missing: {why}; this brings it: {fix}");
                complete = false;
            }
            _ => (),
        }
    }
    complete.then_some(missing)
}

fn install(project: &Project, runner: &Runner<'_>, tool: Tool) -> Found {
    if let Found::Missing { why, fix } = tool.find(&project.root) {
        eprintln!("installing, because {why}: {fix}");
        return tool.install(&project.root, &runner.log("install"));
    }
    tool.find(&project.root)
}

/// The report of a step that runs behind the others, whichever of them ends first.
fn report_of(name: &str, reports: &Receiver<(&str, Report)>, early: &mut Vec<Reported>) -> Report {
    loop {
        if let Some(place) = early.iter().position(|(of, _)| *of == name) {
            return early.swap_remove(place).1;
        }
        match reports.recv() {
            Ok((of, report)) => early.push((of.to_owned(), report)),
            // Nobody is left who could send it.
            Err(_) => return Report::panicked(name),
        }
    }
}

/// What came of the tools that are installed while steps run.
struct Equipped {
    done: Mutex<Vec<(Tool, Found)>>,
    more: Condvar,
}

impl Equipped {
    fn new(done: Vec<(Tool, Found)>) -> Self {
        Self { done: Mutex::new(done), more: Condvar::new() }
    }

    fn add(&self, tool: Tool, found: Found) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push((tool, found));
        self.more.notify_all();
    }

    /// Waits until those of `tools` that are `awaited` were tried; the first that isn't there.
    fn wait(&self, project: &Project, tools: &[Tool], awaited: &[Tool]) -> Found {
        for tool in tools {
            let found = match awaited.contains(tool) {
                true => self.outcome(*tool),
                false => tool.find(&project.root),
            };
            if found != Found::Yes {
                return found;
            }
        }
        Found::Yes
    }

    fn outcome(&self, tool: Tool) -> Found {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some((_, found)) = done.iter().find(|(of, _)| *of == tool) {
                return found.clone();
            }
            done = self.more.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
    }
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
    fn a_step_waits_for_the_tools_that_are_still_installed_and_for_no_others() {
        let root = std::env::temp_dir();
        let project = Project { root: root.clone(), target: root, packages: Vec::new() };
        let equipped = Equipped::new(vec![(Tool::Miri, Found::Yes)]);
        let awaited = [Tool::Miri, Tool::Fio];
        assert_eq!(equipped.wait(&project, &[Tool::Miri], &awaited), Found::Yes);
        let no = Found::No("there is no way out".to_owned());
        thread::scope(|scope| {
            let step = scope.spawn(|| equipped.wait(&project, &[Tool::Miri, Tool::Fio], &awaited));
            equipped.add(Tool::Valgrind, Found::Yes);
            equipped.add(Tool::Fio, no.clone());
            assert_eq!(step.join().expect("a report"), no);
        });
    }

    #[test]
    fn what_runs_behind_the_others_is_reported_after_them() {
        let behind: Vec<_> = STEPS.iter().map(|step| step.behind).collect();
        assert!(behind.contains(&true));
        assert!(behind.is_sorted(), "{behind:?}");
    }

    #[test]
    fn reports_from_behind_may_come_in_any_order_and_none_is_waited_for_in_vain() {
        let (send, reports) = mpsc::channel();
        let passed = Report { tally: Tally::PASSED, ..Report::default() };
        send.send(("loom", passed.clone())).expect("a receiver");
        send.send(("miri", Report::skipped("no nightly"))).expect("a receiver");
        drop(send);
        let mut early = Vec::new();
        assert_eq!(report_of("miri", &reports, &mut early).tally, Tally::SKIPPED);
        assert_eq!(report_of("fuzz", &reports, &mut early).tally, Tally::FAILED);
        assert_eq!(report_of("loom", &reports, &mut early).tally, Tally::PASSED);
    }

    #[test]
    fn an_unknown_step_is_refused_with_the_known_ones() {
        let error = choose(&["lint".to_owned()]).err().expect("an error").to_string();
        assert!(error.starts_with("step \"lint\" does not exist; allowed are fmt,"), "{error}");
    }
}
