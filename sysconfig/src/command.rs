//! The verbs `status`, `plan`, `apply`, `verify` and `reset`: what they read, and in which order.
//!
//! Each reads flags and files, the machine and the journal, asks the settings for their wishes and
//! hands them to the engine. What is printed is made in [`crate::report`].

use std::path::PathBuf;

use clap::{ArgAction, Args};
use hybrid_conventions::Exit;

use crate::config::Config;
use crate::config::file::Asked;
use crate::engine::{self, Outcome, Plan};
use crate::failure::Failure;
use crate::journal::{self, Journal};
use crate::machine::Machine;
use crate::report::{self, Style};
use crate::root::Root;
use crate::wish::Wishes;
use crate::{output, settings};

/// Where to work.
#[derive(Args, Clone, Debug)]
pub(crate) struct Where {
    /// Work on the tree below DIR instead of the running machine: an image that is being built
    #[arg(long, value_name = "DIR", default_value = "/", help_heading = "Where")]
    pub(crate) root: PathBuf,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// What to prepare.
#[derive(Args, Clone, Debug)]
pub(crate) struct What {
    #[command(flatten)]
    pub(crate) asked: Asked,
    /// Read FILE instead of /etc/hybrid-runtime/machine.toml
    #[arg(long, value_name = "FILE", help_heading = "Which settings")]
    pub(crate) config: Option<String>,
    /// Only these settings: irq,threads (see below for their names)
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "Which settings")]
    pub(crate) only: Vec<String>,
    /// All settings but these
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "Which settings")]
    pub(crate) skip: Vec<String>,
    /// Only what the next boot forgets: what the service applies at each boot
    #[arg(long, help_heading = "Which settings")]
    pub(crate) run_time: bool,
    /// Give a disk to user space although it carries data, which whoever drives it can overwrite
    /// then; a disk that is mounted or held is never given
    #[arg(long, help_heading = "Which settings")]
    pub(crate) force_in_use: bool,
    #[command(flatten)]
    pub(crate) place: Where,
}

/// `plan`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) what: What,
    /// Show each value, also where many alike change
    #[arg(short, long, help_heading = "Output")]
    pub(crate) all: bool,
}

/// `reset`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ResetArgs {
    #[command(flatten)]
    pub(crate) place: Where,
    /// Put back files too that someone changed after apply: that change is lost
    #[arg(long, action = ArgAction::SetTrue)]
    pub(crate) force: bool,
}

/// Everything that a verb needs.
pub(crate) struct Prepared {
    pub(crate) machine: Machine,
    pub(crate) config: Config,
    pub(crate) journal: Journal,
    pub(crate) plan: Plan,
}

/// For the verbs that look: flags say what to compare with, and need not be kept.
pub(crate) fn look_at(root: &Root, what: &What, journal: Journal) -> Result<Prepared, Failure> {
    prepare(root, what, journal, false)
}

/// For the verbs that change, or show what would be changed: flags are kept in a drop-in.
pub(crate) fn prepare_at(root: &Root, what: &What, journal: Journal) -> Result<Prepared, Failure> {
    prepare(root, what, journal, true)
}

/// Reads, checks and compares; changes nothing.
fn prepare(
    root: &Root,
    what: &What,
    journal: Journal,
    keep_flags: bool,
) -> Result<Prepared, Failure> {
    let machine = Machine::read(root, &journal);
    let files = Asked::from_files(root, what.config.as_deref())?;
    let flags = what.asked.clone();
    let kept = if !keep_flags || flags == Asked::default() {
        None
    } else {
        Some(flags.clone().over(Asked::kept(root)?).to_toml())
    };
    let mut config = Config::new(&machine, &flags.over(files))?;
    config.kept = kept;
    config.force_in_use = what.force_in_use;
    let plan = make_plan(&machine, &config, what, &journal)?;
    Ok(Prepared { machine, config, journal, plan })
}

fn make_plan(
    machine: &Machine,
    config: &Config,
    what: &What,
    journal: &Journal,
) -> Result<Plan, Failure> {
    let names: Vec<&str> = settings::all().map(|setting| setting.name()).collect();
    for name in what.only.iter().chain(&what.skip) {
        if !names.contains(&name.as_str()) {
            return Err(Failure::error(format_args!(
                "no setting is called {name}; there are {}",
                names.join(", ")
            )));
        }
    }
    let mut wishes: Vec<(&'static str, Wishes)> = Vec::new();
    for setting in settings::all() {
        let named = |list: &[String]| list.iter().any(|name| name == setting.name());
        let out = (!what.only.is_empty() && !named(&what.only))
            || named(&what.skip)
            || (what.run_time && setting.stays());
        if !out {
            wishes.push((setting.name(), setting.wishes(machine, config)?));
        }
    }
    let mut plan = Plan::new(machine, journal, wishes)?;
    if what.only.is_empty() && what.skip.is_empty() && !what.run_time {
        plan.undo_the_rest(machine, journal);
    }
    Ok(plan)
}

/// Without a word of what to prepare, there is nothing to plan, apply or verify.
pub(crate) fn needs_wishes(prepared: &Prepared) -> Result<(), Failure> {
    let Prepared { config, plan, .. } = prepared;
    let nothing = config.isolated.is_empty() && config.devices.is_empty() && config.huge.is_empty();
    if nothing && plan.changes().next().is_none() {
        let last = prepared.machine.online.iter().last().unwrap_or(1).max(1);
        return Err(Failure::missing(format_args!(
            "nothing is asked for: neither flags nor {} say which cores to isolate; for instance \
             sysconfig plan --isolated-cores {last}",
            crate::config::file::FILE
        )));
    }
    Ok(())
}

/// `plan`.
pub(crate) fn plan(args: &PlanArgs) -> Result<Exit, Failure> {
    let root = Root::at(&args.what.place.root);
    let prepared = prepare_at(&root, &args.what, Journal::read(&root)?)?;
    needs_wishes(&prepared)?;
    if args.what.place.json {
        output::result(report::plan_json(&prepared)?)?;
    } else {
        output::result(report::plan(&prepared, Style::of_stdout(), args.all))?;
    }
    Ok(tell(prepared.plan.failed.iter().map(|(_, failure)| failure)))
}

/// `apply`.
pub(crate) fn apply(args: &PlanArgs) -> Result<Exit, Failure> {
    let root = Root::at(&args.what.place.root);
    // Refusals come before the first byte is written.
    let prepared = prepare_at(&root, &args.what, Journal::read(&root)?)?;
    needs_wishes(&prepared)?;
    let outcome = apply_at(&root, &args.what)?;
    let json = args.what.place.json;
    finish("apply", &outcome, json, args.all)
}

/// Applies what [`prepare_at`] finds, and tries the huge pages.
pub(crate) fn apply_at(root: &Root, what: &What) -> Result<Outcome, Failure> {
    let before = prepare_at(root, what, Journal::read(root)?)?;
    let idle = before.plan.changes().next().is_none() && before.journal.pending_hooks().is_empty();
    let mut outcome = if idle {
        Outcome::default()
    } else {
        let journal = Journal::open(root)?;
        let Prepared { machine, plan, mut journal, .. } = prepare_at(root, what, journal)?;
        engine::apply(root, &machine.boot, &plan, &mut journal)?
    };
    let Prepared { machine, config, plan, .. } = before;
    // Told once: among the failures.
    outcome.refused.retain(|(_, reason)| plan.failure(reason).is_none());
    outcome.notes.extend(plan.notes.iter().map(|(setting, note)| format!("{setting}: {note}")));
    let wants_pages = what.only.is_empty() || what.only.iter().any(|name| name == "hugepages");
    if root.is_live() && wants_pages && !what.skip.iter().any(|name| name == "hugepages") {
        match settings::try_pages(&machine, &config) {
            Ok(tried) => outcome.notes.extend(tried),
            Err(failure) => outcome.failed.push(failure),
        }
    }
    outcome.failed.extend(plan.failed.into_iter().map(|(_, failure)| failure));
    Ok(outcome)
}

/// `reset`.
pub(crate) fn reset(args: &ResetArgs) -> Result<Exit, Failure> {
    let root = Root::at(&args.place.root);
    let outcome = reset_at(&root, args.force)?;
    finish("reset", &outcome, args.place.json, true)
}

/// Puts everything back; without a journal there is nothing to put back.
pub(crate) fn reset_at(root: &Root, force: bool) -> Result<Outcome, Failure> {
    if !root.exists(journal::FOLDER) {
        journal::remove_folders(root)?;
        return Ok(Outcome::default());
    }
    let journal = Journal::open(root)?;
    let boot = Machine::read(root, &journal).boot;
    engine::reset(root, &boot, journal, force)
}

/// Prints what was done, the failures last, and chooses the exit code: the gravest failure's.
fn finish(verb: &str, outcome: &Outcome, json: bool, all: bool) -> Result<Exit, Failure> {
    let text = if json {
        report::outcome_json(verb, outcome)?
    } else {
        report::outcome(verb, outcome, all)
    };
    output::result(text)?;
    Ok(tell(outcome.failed.iter()))
}

/// Prints a line for each failure; the exit code of the gravest.
fn tell<'a>(failures: impl Iterator<Item = &'a Failure>) -> Exit {
    let mut exit = Exit::Ok;
    for failure in failures {
        output::note(format_args!("sysconfig: {}", failure.line));
        if exit != Exit::Error {
            exit = failure.exit;
        }
    }
    exit
}
