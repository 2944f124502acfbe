//! The suite: named cases that any NVMe controller must stand, whatever is behind it.
//!
//! A [`Case`] is a name, what it needs, and a function over a [`Cx`], which gives it a backend, the
//! namespaces that it may use and the sizes that this device is fast enough for. It fails by a
//! panic, and says by [`Skip`] why it has nothing to try here; nothing is left out in silence.
//! Cases know the driver's interface and the specification, and nothing of the model.
//!
//! | module | what |
//! |---|---|
//! | [`bringup`] | bring-up, take-over, shutdown, a fresh controller over old data |
//! | [`identify`] | controller, namespaces, holes, what is refused by name |
//! | [`commands`] | each command, logs, events, what is refused with which status |
//! | [`transfers`] | PRP shapes, MDTS, splitting |
//! | [`queues`] | counts, depths, wrap-around, back-pressure, bursts |
//! | [`trouble`] | resets in flight, deadlines, dropped futures |
//! | [`answers`] | single commands, right and wrong, past the driver: the same answer everywhere |
//! | [`data`] | namespaces side by side, random I/O against a copy in memory |
//!
//! It does not lie in `nvme-driver/model`, since the model can't see the host's backends
//! (`docs/adr/0010-conformance-suite.md`).

mod answers;
mod bringup;
mod commands;
mod cx;
mod data;
mod guard;
mod identify;
mod queues;
mod transfers;
mod trouble;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bitflags::bitflags;

pub use cx::{Cx, Fixture, RESERVED_BYTES, Space};
pub use guard::watch_panics;

bitflags! {
    /// What a case needs of whoever runs it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Needs: u8 {
        /// Blocks of the device may be overwritten.
        const WRITES = 1 << 0;
        /// Reads can be left unanswered ([`crate::Backend::stall`]).
        const STALL = 1 << 1;
        /// It does on purpose what a host must not: what the device says of its host is not held
        /// against it ([`crate::Backend::pardon`]).
        const PARDON = 1 << 2;
    }
}

/// A case.
#[derive(Clone, Copy)]
pub struct Case {
    /// `area::what_it_shows`.
    pub name: &'static str,
    /// What it needs.
    pub needs: Needs,
    /// What it does.
    pub run: fn(&Cx<'_>) -> Outcome,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a case has nothing to try on this device, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip(pub String);

/// How a case ends, unless it panics.
pub type Outcome = Result<(), Skip>;

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It held; parts of it that had nothing to try, a line each.
    Passed(Vec<String>),
    /// It did not, for this reason.
    Failed(String),
    /// It was not tried, for this reason.
    Skipped(String),
}

/// As the end of libtest's lines: `test NAME ... VERDICT`.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(_) => f.write_str("ok"),
            Self::Failed(_) => f.write_str("FAILED"),
            Self::Skipped(reason) => write!(f, "ignored, {reason}"),
        }
    }
}

impl Case {
    /// Runs it; a panic is its failure.
    #[must_use]
    pub fn run(&self, cx: &Cx<'_>) -> Verdict {
        if self.needs.contains(Needs::WRITES) && !cx.may_write {
            return Verdict::Skipped("it writes, and nobody said --allow-writes".to_owned());
        }
        if self.needs.contains(Needs::STALL) && !cx.backend.stall(false) {
            let reason = "nobody can make this device leave a command unanswered";
            return Verdict::Skipped(reason.to_owned());
        }
        let ended = guard::watched(|| catch_unwind(AssertUnwindSafe(|| (self.run)(cx))));
        if self.needs.contains(Needs::PARDON) {
            cx.backend.pardon();
        }
        match ended {
            (Ok(Ok(())), _) => Verdict::Passed(guard::left_out()),
            (Ok(Err(Skip(reason))), _) => Verdict::Skipped(reason),
            (Err(panic), seen) => {
                Verdict::Failed(seen.unwrap_or_else(|| guard::text(panic.as_ref())))
            }
        }
    }
}

/// All cases, in the order in which they are run: what others build upon comes first.
#[must_use]
pub fn cases() -> Vec<Case> {
    [
        bringup::CASES,
        identify::CASES,
        commands::CASES,
        transfers::CASES,
        queues::CASES,
        trouble::CASES,
        answers::CASES,
        data::CASES,
    ]
    .concat()
}

/// A case that writes.
const fn writes(name: &'static str, run: fn(&Cx<'_>) -> Outcome) -> Case {
    Case { name, needs: Needs::WRITES, run }
}

/// A case that only reads.
const fn reads(name: &'static str, run: fn(&Cx<'_>) -> Outcome) -> Case {
    Case { name, needs: Needs::empty(), run }
}

/// A case for devices that can be stalled.
const fn stalls(name: &'static str, run: fn(&Cx<'_>) -> Outcome) -> Case {
    Case { name, needs: Needs::WRITES.union(Needs::STALL), run }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_say_their_area() {
        let mut names: Vec<_> = cases().iter().map(|case| case.name).collect();
        assert!(names.iter().all(|name| name.contains("::") && !name.contains(' ')));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
