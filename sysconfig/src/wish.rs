//! What a setting wants of the machine: places, each with the state that it shall have.
//!
//! Everything that `plan` shows, `apply` changes, `verify` compares and `reset` restores comes
//! through [`Setting`]. A setting reads, decides, and touches nothing; the engine does the rest.

use hybrid_conventions::CpuSet;

use crate::config::Config;
use crate::failure::Failure;
use crate::journal::Hook;
use crate::machine::Machine;
use crate::place::{Place, State};

/// A part of the machine that is prepared.
pub(crate) trait Setting {
    /// One word, for `--only` and `--skip`.
    fn name(&self) -> &'static str;

    /// One line for `--help` and the report.
    fn about(&self) -> &'static str;

    /// Whether it lies in files that a boot keeps, and not in the running kernel.
    fn stays(&self) -> bool;

    /// What it wants of this machine.
    ///
    /// # Errors
    /// If what the operator asked for cannot be had here, in one line with the fix.
    fn wishes(&self, machine: &Machine, config: &Config) -> Result<Wishes, Failure>;
}

/// The wishes of one setting.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// In the order in which they are to be made; undone in reverse.
    pub(crate) list: Vec<Wish>,
    /// What the operator should know and no change says: printed by `plan` and `apply`.
    pub(crate) notes: Vec<String>,
    /// What was asked for and cannot be had, with what fixes it: the rest is made all the same, and
    /// the exit code tells.
    pub(crate) failed: Vec<Failure>,
}

/// One place and the state that it shall have.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) place: Place,
    pub(crate) wanted: State,
    pub(crate) accept: Accept,
    pub(crate) hook: Option<Hook>,
    /// Why it cannot be changed, where that is known beforehand.
    pub(crate) fixed: Option<String>,
    /// Whether the kernel may refuse: reported, and no failure.
    pub(crate) may_refuse: bool,
    pub(crate) detail: Option<String>,
    /// Kept in the journal although it is met: another change of its setting may disturb it.
    pub(crate) remember: bool,
    /// What `reset` puts there, of a value that is made together with its folder.
    pub(crate) before: Option<State>,
}

/// When a state is good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accept {
    /// It says the same.
    Same,
    /// A number that is at least the wanted one: what others need is not taken from them.
    AtLeast,
    /// CPUs, none of which is among these: a narrower set is not widened.
    Off(CpuSet),
}

impl Wishes {
    /// Adds a wish.
    pub(crate) fn push(&mut self, wish: Wish) {
        self.list.push(wish);
    }

    /// Adds something to know.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

impl Wish {
    /// `place` shall be `wanted`.
    pub(crate) fn new(place: Place, wanted: State) -> Self {
        Self {
            place,
            wanted,
            accept: Accept::Same,
            hook: None,
            fixed: None,
            may_refuse: false,
            detail: None,
            remember: false,
            before: None,
        }
    }

    /// A program must run after the change.
    pub(crate) fn then(mut self, hook: Hook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// The kernel may refuse.
    pub(crate) fn may_refuse(mut self) -> Self {
        self.may_refuse = true;
        self
    }

    /// It cannot be changed, for this reason.
    pub(crate) fn fixed(mut self, reason: impl Into<String>) -> Self {
        self.fixed = Some(reason.into());
        self
    }

    /// More is good too.
    pub(crate) fn at_least(mut self) -> Self {
        self.accept = Accept::AtLeast;
        self
    }

    /// What is there is good, and is put back by `reset` whoever changes it.
    pub(crate) fn remember(place: Place, now: State) -> Self {
        Self { remember: true, ..Self::new(place, now) }
    }

    /// Any CPUs are good, if none of these is among them.
    pub(crate) fn off(mut self, cpus: CpuSet) -> Self {
        self.accept = Accept::Off(cpus);
        self
    }

    /// Kept in the journal beside the change.
    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Whether this state is good enough.
    pub(crate) fn is_met_by(&self, now: &State) -> bool {
        if self.place.same(now, &self.wanted) {
            return true;
        }
        match (self.accept, now, &self.wanted) {
            (Accept::AtLeast, State::Text { text: now }, State::Text { text: least }) => {
                let both = now.parse::<u64>().ok().zip(least.parse::<u64>().ok());
                both.is_some_and(|(now, least)| now >= least)
            }
            (Accept::Off(cpus), now, _) => {
                let now = self.place.cpus(now);
                now.is_some_and(|now| !now.is_empty() && now.intersection(cpus).is_empty())
            }
            _ => false,
        }
    }
}
