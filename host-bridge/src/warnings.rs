//! Warnings: one clear line a cause, however often the cause occurs.
//!
//! Every part of the host that can go on without something (huge pages, locked memory, an isolated
//! core) says so here. The first line of a kind reaches the sink, the others are dropped, so that a
//! user reads each problem once, with its fix.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

/// What a warning is about; each kind is printed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WarningKind {
    /// Memory in smaller pages than asked for.
    SmallPages,
    /// Memory that could not be locked.
    Unlocked,
    /// A time-stamp counter that the processor does not call invariant.
    Clock,
    /// A core that other work shares.
    SharedCore,
    /// A device's server that is gone.
    ServerLost,
    /// A device's server that came back.
    ServerBack,
    /// Time that the kernel takes from a real-time thread.
    RtThrottled,
    /// Memory on another NUMA node than its core.
    RemoteMemory,
    /// A core on another NUMA node than its device.
    RemoteDevice,
    /// Partitions that take turns on one core.
    CoreInTurns,
    /// An error that a partition survived; each one is said.
    Alert,
    /// What io_uring, or its storage, is gone without.
    Uring,
    /// Figures that cannot be told where they should be.
    Export,
    /// A probe ring that was saved, or cannot be; each one is said.
    Probes,
}

/// One warning: a line without a full stop that says what is so, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it is about.
    pub kind: WarningKind,
    /// The line.
    pub line: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "warning: {}", self.line)
    }
}

type Sink = dyn Fn(&Warning) + Send + Sync;

/// Where warnings go. Clones share their memory of what was said.
#[derive(Clone)]
pub struct Warnings {
    said: Arc<Mutex<BTreeSet<WarningKind>>>,
    sink: Arc<Sink>,
}

impl fmt::Debug for Warnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Warnings").field("said", &self.said).finish_non_exhaustive()
    }
}

impl Default for Warnings {
    fn default() -> Self {
        // A closed stderr is no reason to stop.
        Self::to(|warning| drop(writeln!(std::io::stderr(), "{warning}")))
    }
}

impl Warnings {
    /// Sends each kind's first warning to `sink`; the default sink is a line on stderr.
    #[must_use]
    pub fn to(sink: impl Fn(&Warning) + Send + Sync + 'static) -> Self {
        Self { said: Arc::default(), sink: Arc::new(sink) }
    }

    /// Says it, unless something of this kind was said before.
    pub fn say(&self, kind: WarningKind, line: impl FnOnce() -> String) {
        let first = self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(kind);
        if first {
            (self.sink)(&Warning { kind, line: line() });
        }
    }

    /// Says it whatever was said before: for what is news each time.
    pub fn say_each(&self, kind: WarningKind, line: impl FnOnce() -> String) {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(kind);
        (self.sink)(&Warning { kind, line: line() });
    }

    /// The kinds said so far, for reports.
    #[must_use]
    pub fn said(&self) -> Vec<WarningKind> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_said_once_whoever_says_it() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let warnings = Warnings::to(move |w| sink.lock().expect("lock").push(w.to_string()));
        let other = warnings.clone();
        warnings.say(WarningKind::SmallPages, || "first".into());
        other.say(WarningKind::SmallPages, || unreachable!("not even made"));
        other.say(WarningKind::Unlocked, || "second".into());
        assert_eq!(*lines.lock().expect("lock"), ["warning: first", "warning: second"]);
        assert_eq!(warnings.said(), [WarningKind::SmallPages, WarningKind::Unlocked]);
    }
}
