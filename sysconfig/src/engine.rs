//! The change engine: makes a plan of wishes, carries it out, and puts everything back.
//!
//! ```text
//! wishes ──plan──► steps ──apply──► journal, then change, then programs
//!                                      │
//!                       reset ◄────────┘  oldest state of each place, last change first
//! ```
//! Invariants:
//! 1. `plan` changes nothing.
//! 2. `apply` of what is met already writes nothing, not even to the journal.
//! 3. Killed anywhere, both `apply` and `reset` work afterwards: what is in the journal and was not
//!    made is the same as made and undone.

use std::io;

use crate::failure::Failure;
use crate::journal::{Change, Hook, Journal, Record, hooks};
use crate::machine::Machine;
use crate::place::{Place, State};
use crate::root::Root;
use crate::wish::{Wish, Wishes};

/// The name of what a former `apply` did and the present wishes leave out.
pub(crate) const NO_LONGER: &str = "no longer asked for";

/// One wish and what is there.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) setting: &'static str,
    pub(crate) wish: Wish,
    pub(crate) now: State,
    pub(crate) verdict: Verdict,
}

/// What is to be done about a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing: it is so.
    Met,
    /// To be changed.
    Change,
    /// Not to be had, for this reason; reported.
    Fixed(String),
}

/// All steps, in their order.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) notes: Vec<(&'static str, String)>,
    /// What was asked for and cannot be had: in the steps it is [`Verdict::Fixed`].
    pub(crate) failed: Vec<(&'static str, Failure)>,
}

/// What an `apply` or a `reset` did.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Each change that was made: what, from, to.
    pub(crate) changed: Vec<(Place, State, State)>,
    /// What the kernel refused, and why that is no failure.
    pub(crate) refused: Vec<(Place, String)>,
    /// What failed, in one line each.
    pub(crate) failed: Vec<Failure>,
    /// Programs that ran.
    pub(crate) ran: Vec<String>,
    pub(crate) notes: Vec<String>,
}

impl Plan {
    /// Compares wishes with what is.
    pub(crate) fn new(
        machine: &Machine,
        journal: &Journal,
        wishes: Vec<(&'static str, Wishes)>,
    ) -> Result<Self, Failure> {
        let root = &machine.root;
        let mut plan = Self::default();
        for (setting, wishes) in wishes {
            plan.notes.extend(wishes.notes.into_iter().map(|note| (setting, note)));
            plan.failed.extend(wishes.failed.into_iter().map(|failure| (setting, failure)));
            for mut wish in wishes.list {
                if let Some(reason) = journal.refusal(&machine.boot, &wish.place) {
                    wish.fixed.get_or_insert_with(|| format!("refused before: {reason}"));
                }
                let now = look(root, &wish.place)?;
                let verdict = verdict(&wish, &now);
                plan.steps.push(Step { setting, wish, now, verdict });
            }
        }
        Ok(plan)
    }

    /// Adds what a former `apply` changed and nobody wishes any more: back to what it was.
    pub(crate) fn undo_the_rest(&mut self, machine: &Machine, journal: &Journal) {
        for first in journal.originals(&machine.boot).into_iter().rev() {
            let gone = matches!(first.old, State::Absent)
                && first.place.is_volatile()
                && !matches!(first.place, Place::Dir { .. });
            if gone || self.steps.iter().any(|step| step.wish.place == first.place) {
                continue;
            }
            let Ok(now) = first.place.read(&machine.root) else { continue };
            let mut wish = Wish::new(first.place.clone(), first.old.clone()).may_refuse();
            wish.hook = first.hook;
            let verdict = verdict(&wish, &now);
            self.steps.push(Step { setting: NO_LONGER, wish, now, verdict });
        }
    }

    /// What was asked for and cannot be had, if that is why a step is fixed.
    pub(crate) fn failure(&self, reason: &str) -> Option<&Failure> {
        self.failed.iter().map(|(_, failure)| failure).find(|failure| failure.line == reason)
    }

    /// Steps that would change something.
    pub(crate) fn changes(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.verdict == Verdict::Change)
    }
}

fn verdict(wish: &Wish, now: &State) -> Verdict {
    // A thread that ended, an interrupt that its driver took along.
    let goes = matches!(wish.place, Place::Thread { .. } | Place::Value { .. }) && wish.may_refuse;
    let gone = goes && *now == State::Absent;
    match &wish.fixed {
        _ if gone || wish.remember || wish.is_met_by(now) => Verdict::Met,
        Some(reason) => Verdict::Fixed(reason.clone()),
        None => Verdict::Change,
    }
}

fn look(root: &Root, place: &Place) -> Result<State, Failure> {
    place.read(root).map_err(|error| Failure::error(format_args!("{place}: {error}")))
}

/// Carries the plan out.
///
/// # Errors
/// If the journal cannot be written: then nothing more is changed. What else goes wrong is in the
/// outcome, and does not keep the other steps from being made.
pub(crate) fn apply(
    root: &Root,
    boot: &str,
    plan: &Plan,
    journal: &mut Journal,
) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::default();
    for steps in plan.steps.chunk_by(|a, b| a.setting == b.setting) {
        let (mut batch, mut remembered) = (Vec::new(), Vec::new());
        for step in steps {
            // What the steps before changed may have changed this too.
            let now = look(root, &step.wish.place)?;
            match verdict(&step.wish, &now) {
                Verdict::Met if step.wish.remember => {
                    remembered.push(Record::Change(change(boot, step, &now)));
                }
                Verdict::Met => {}
                Verdict::Fixed(reason) => outcome.refused.push((step.wish.place.clone(), reason)),
                Verdict::Change => batch.push((step, now)),
            }
        }
        if batch.is_empty() {
            continue;
        }
        let mut records = remembered;
        records.extend(batch.iter().map(|(step, now)| Record::Change(change(boot, step, now))));
        journal.append(root, &records)?;
        let refused = outcome.refused.len();
        for (step, now) in batch {
            make(root, &step.wish, now, &mut outcome);
        }
        let refused: Vec<Record> = outcome.refused[refused..]
            .iter()
            .map(|(place, reason)| Record::Refused {
                boot: boot.to_owned(),
                place: place.clone(),
                reason: reason.clone(),
            })
            .collect();
        if !refused.is_empty() {
            journal.append(root, &refused)?;
        }
    }
    let pending = journal.pending_hooks();
    if !pending.is_empty() {
        run_hooks(root, &pending, &mut outcome);
        if outcome.failed.is_empty() {
            journal.append(root, &[Record::HooksDone])?;
        }
    }
    Ok(outcome)
}

fn change(boot: &str, step: &Step, now: &State) -> Change {
    Change {
        boot: boot.to_owned(),
        setting: step.setting.to_owned(),
        place: step.wish.place.clone(),
        old: match &step.wish.before {
            Some(before) if *now == State::Absent => before.clone(),
            _ => now.clone(),
        },
        new: step.wish.wanted.clone(),
        hook: step.wish.hook,
        detail: step.wish.detail.clone(),
    }
}

/// Makes one change and looks whether it holds.
fn make(root: &Root, wish: &Wish, now: State, outcome: &mut Outcome) {
    let place = &wish.place;
    let made = prepare(root, place).and_then(|()| place.put(root, &wish.wanted));
    let is = made.and_then(|()| place.read(root));
    match is {
        Ok(is) if wish.is_met_by(&is) => {
            outcome.changed.push((place.clone(), now, wish.wanted.clone()));
        }
        Ok(State::Absent) if matches!(place, Place::Thread { .. }) => {}
        Ok(is) if wish.may_refuse => {
            outcome.refused.push((place.clone(), format!("it says {is} after {}", wish.wanted)));
        }
        Ok(is) => outcome.failed.push(not_held(wish, &is)),
        Err(error) if wish.may_refuse && is_refusal(&error) => {
            outcome.refused.push((place.clone(), error.to_string()));
        }
        Err(error) => outcome.failed.push(Failure::error(format_args!(
            "{place}: {} was wanted, and writing it failed: {error}{}",
            wish.wanted,
            hint(&error)
        ))),
    }
}

/// A file needs no remains of itself beside it.
fn prepare(root: &Root, place: &Place) -> io::Result<()> {
    match place {
        Place::File { path } => root.remove_unfinished(path),
        _ => Ok(()),
    }
}

/// Answers that mean "this cannot be changed", for what may say so: managed interrupts give EIO.
fn is_refusal(error: &io::Error) -> bool {
    let refusals =
        [libc::EIO, libc::EPERM, libc::EINVAL, libc::EBUSY, libc::ENOSPC, libc::EOPNOTSUPP];
    error.raw_os_error().is_some_and(|code| refusals.contains(&code))
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => "; run it as root",
        Some(libc::EROFS) => "; the file system must be writable: mount -o remount,rw",
        _ => "",
    }
}

fn not_held(wish: &Wish, is: &State) -> Failure {
    let place = &wish.place;
    if place.to_string().ends_with("nr_hugepages") {
        return Failure::missing(format_args!(
            "{place}: {} pages were wanted, the kernel found memory for {is}; have them made at \
             boot (sysconfig apply, then reboot), or free memory: sysctl vm.compact_memory=1",
            wish.wanted
        ));
    }
    Failure::error(format_args!("{place}: {} was written, and it says {is}", wish.wanted))
}

fn run_hooks(root: &Root, hooks: &[Hook], outcome: &mut Outcome) {
    for (program, args) in hooks.iter().flat_map(|hook| hook.commands()) {
        let line = [&[*program], *args].concat().join(" ");
        match root.run(program, args) {
            Ok(()) => outcome.ran.push(line),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                outcome.notes.push(format!("{program} is not installed: {line} was not run"));
            }
            Err(error) if !root.is_live() => outcome.notes.push(format!("{line}: {error}")),
            Err(error) => outcome
                .failed
                .push(Failure::error(format_args!("{line} failed: {error}; run it by hand"))),
        }
    }
}

/// Puts back what was, and takes the journal away if all of it is back.
///
/// A file that someone changed after us is left alone, with a failure, unless `force` is set.
///
/// # Errors
/// If the journal cannot be taken away.
pub(crate) fn reset(
    root: &Root,
    boot: &str,
    journal: Journal,
    force: bool,
) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::default();
    for first in journal.originals(boot).into_iter().rev() {
        if let Err(failure) = restore(root, boot, &journal, first, force, &mut outcome) {
            outcome.failed.push(failure);
        }
    }
    run_hooks(root, &hooks(journal.changes(boot)), &mut outcome);
    if outcome.failed.is_empty() {
        journal.remove(root)?;
    }
    Ok(outcome)
}

fn restore(
    root: &Root,
    boot: &str,
    journal: &Journal,
    first: &Change,
    force: bool,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let place = &first.place;
    let fails = |error: io::Error| {
        let hint = hint(&error);
        Failure::error(format_args!("{place}: {} could not be put back: {error}{hint}", first.old))
    };
    prepare(root, place).map_err(fails)?;
    let now = look(root, place)?;
    if place.same(&now, &first.old) {
        return Ok(());
    }
    if now == State::Absent && matches!(place, Place::Value { .. } | Place::Driver { .. }) {
        outcome.notes.push(format!("{place} is gone; it was {}", first.old));
        return Ok(());
    }
    let ours = journal.changes(boot).any(|c| c.place == *place && place.same(&now, &c.new));
    if !ours && matches!(place, Place::File { .. }) && !force {
        return Err(Failure::error(format_args!(
            "{place} was changed by someone else after apply: reset would lose that; keep a copy, \
             then sysconfig reset --force"
        )));
    }
    match place.put(root, &first.old) {
        Ok(()) => outcome.changed.push((place.clone(), now, first.old.clone())),
        Err(error)
            if matches!(place, Place::Dir { path } if !path.starts_with("/sys/"))
                && error.kind() == io::ErrorKind::DirectoryNotEmpty =>
        {
            outcome.notes.push(format!("{place} stays: it holds files of others"));
        }
        Err(error) if matches!(place, Place::Value { .. }) && is_refusal(&error) => {
            // It was refused when it was asked for too, or the kernel has taken it away since.
            let unchanged = journal.last(boot, place).is_some_and(|c| !place.same(&now, &c.new));
            if !unchanged {
                return Err(fails(error));
            }
            outcome.refused.push((place.clone(), error.to_string()));
        }
        Err(error) => return Err(fails(error)),
    }
    Ok(())
}
