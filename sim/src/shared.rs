//! What host, partition and world share in a run: the oracle, the tape, what was reached, and the
//! first thing that was wrong.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};

use core_runtime::clock::ManualClock;
use nvme_driver::{BridgeError, IoError};
use nvme_spec::StatusCode;

use crate::catalogue::Fault;
use crate::cost::{Cost, Costs};
use crate::oracle::Oracle;
use crate::tape::{Tape, What, Who};

/// Statuses of faults that are remembered: more than are sent while a command waits for its last
/// retry.
const STATUSES: usize = 1 << 14;

/// Counts of what a run reached, by name.
pub type Reached = BTreeMap<String, u64>;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) oracle: RefCell<Oracle>,
    pub(crate) tape: RefCell<Tape>,
    pub(crate) reached: RefCell<Reached>,
    violation: RefCell<Option<String>>,
    pub(crate) clock: &'static ManualClock,
    /// Faults and blows so far: an error before the first one has no excuse.
    pub(crate) faults: Cell<u64>,
    costs: Cell<Costs>,
    statuses: RefCell<VecDeque<(u64, StatusCode)>>,
    /// Those of the host's kernel among them.
    pub(crate) kernel_faults: Cell<u64>,
    /// Crash points until the partition dies; 0 is never.
    pub(crate) crash_in: Cell<u32>,
    /// Words of the state that are not the oracle's.
    pub(crate) state: Cell<u64>,
}

/// What unwinds a partition that dies.
#[derive(Debug)]
pub(crate) struct Died;

impl Shared {
    pub(crate) fn new(oracle: Oracle, tape: Tape, clock: &'static ManualClock) -> Self {
        Self {
            oracle: RefCell::new(oracle),
            tape: RefCell::new(tape),
            reached: RefCell::new(BTreeMap::new()),
            violation: RefCell::new(None),
            clock,
            faults: Cell::new(0),
            costs: Cell::new(Costs::default()),
            statuses: RefCell::new(VecDeque::new()),
            kernel_faults: Cell::new(0),
            crash_in: Cell::new(0),
            state: Cell::new(0),
        }
    }

    #[inline]
    pub(crate) fn event(&self, who: Who, what: What, numbers: [u64; 3]) {
        let mut tape = self.tape.borrow_mut();
        if tape.event(self.clock.now().ticks(), who, what, numbers) {
            let state = self.state.get() ^ self.oracle.borrow().digest;
            tape.check(state);
        }
    }

    /// A place in the partition's work where it may die: everything that it was about to do is not
    /// done. Unwinds to whoever lets it pass.
    #[inline]
    pub(crate) fn crash_point(&self) {
        if self.crash_in.get() != 0 {
            self.come_closer();
        }
    }

    #[cold]
    fn come_closer(&self) {
        let left = self.crash_in.get() - 1;
        self.crash_in.set(left);
        if left == 0 {
            std::panic::resume_unwind(Box::new(Died));
        }
    }

    /// A fault or blow strikes.
    pub(crate) fn strike(&self, fault: &Fault) {
        self.faults.set(self.faults.get() + 1);
        self.may_cost(fault.cost());
        self.reach(&format!("fault {}", fault.kind().name), 1);
    }

    /// From now on errors of this kind have a reason.
    pub(crate) fn may_cost(&self, cost: Cost) {
        self.costs.set(self.costs.get().with(cost));
    }

    /// What may have come of the faults so far.
    pub(crate) fn costs(&self) -> Costs {
        self.costs.get()
    }

    /// Something is wrong; the first is kept.
    #[cold]
    pub(crate) fn violate(&self, what: impl FnOnce() -> String) {
        self.violation.borrow_mut().get_or_insert_with(what);
    }

    pub(crate) fn violation(&self) -> Option<String> {
        self.violation.borrow().clone()
    }

    pub(crate) fn is_violated(&self) -> bool {
        self.violation.borrow().is_some()
    }

    pub(crate) fn reach(&self, what: &str, count: u64) {
        if count == 0 {
            return;
        }
        let mut reached = self.reached.borrow_mut();
        match reached.get_mut(what) {
            Some(sum) => *sum += count,
            None => {
                reached.insert(what.to_owned(), count);
            }
        }
    }

    /// A fault makes the controller answer with this status.
    pub(crate) fn note_status(&self, slba: u64, code: StatusCode) {
        let mut statuses = self.statuses.borrow_mut();
        if statuses.len() == STATUSES {
            statuses.pop_front();
        }
        statuses.push_back((slba, code));
    }

    /// An operation over `count` blocks from `lba` failed: is there a fault that explains it?
    pub(crate) fn explain(&self, error: IoError, (lba, count): (u64, u64)) {
        self.reach(&format!("error {}", kind_of(error)), 1);
        if self.faults.get() == 0 {
            self.violate(|| format!("an error before the first fault: {error}"));
            return;
        }
        match error {
            IoError::Status { status, slba } => {
                let code = status.code();
                let sent = { self.statuses.borrow() }.iter().any(|s| *s == (slba.0, code));
                let inside = count == 0 || (lba..lba + count).contains(&slba.0);
                if !sent || !inside {
                    self.violate(|| format!("a status that no fault made: {error}"));
                }
            }
            IoError::Bridge(BridgeError::Errno(_)) if self.kernel_faults.get() != 0 => {}
            // For ever, after one that failed or that was cancelled because time had jumped.
            IoError::Bridge(BridgeError::Unflushed) => {}
            IoError::TimedOut
            | IoError::Reset(_)
            | IoError::Gone
            | IoError::NotReady
            | IoError::NamespaceChanged(_) => {
                if !self.costs.get().explain(error) {
                    self.violate(|| format!("an error that no fault so far can cost: {error}"));
                }
            }
            other => self.violate(|| format!("an error that cannot be: {other}")),
        }
    }
}

fn kind_of(error: IoError) -> &'static str {
    use nvme_driver::ResetReason as R;
    match error {
        IoError::Status { .. } => "status",
        IoError::TimedOut => "timed out",
        IoError::Gone => "gone",
        IoError::NotReady => "not ready",
        IoError::NamespaceChanged(_) => "namespace refused",
        IoError::Bridge(_) => "bridge",
        IoError::Reset(reason) => match reason {
            R::FatalStatus => "reset: fatal status",
            R::NotReady => "reset: not ready",
            R::Stuck { .. } => "reset: stuck command",
            R::AdminStuck => "reset: stuck admin command",
            R::Rogue => "reset: rogue",
            R::Event => "reset: event",
            R::QueueReset => "reset: queue",
            R::Requested => "reset: asked for",
        },
        _ => "other",
    }
}
