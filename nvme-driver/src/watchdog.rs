//! Deadlines, aborts, queue resets, health: what keeps a silent or a lying controller from keeping
//! anybody waiting for ever.
//!
//! ```text
//!   deadline passes -> Abort -> (grace) -> queue reset -> controller reset -> failed for good
//! ```
//! Part of the controller's housekeeping while it is ready. A command's age is counted in epochs,
//! eighths of the deadline, of which each housekeeping starts at most one.

use core::cell::Cell;

use nvme_spec::registers::Csts;
use nvme_spec::{Cid, QueueId, Sqe, Status};

use crate::admin::AdminToken;
use crate::controller::Controller;
use crate::error::ResetReason;
use crate::probes;
use crate::queue::{EPOCHS_PER_DEADLINE, Mode, QueuePair};
use crate::regs::RegsError;
use crate::requests::INTERNAL;
use crate::stats::{ControllerStats, Count};

/// How long looks at CSTS may go unanswered: three times what a stopped register server is survived
/// for. A look waits 1 ms, so that a count of them would say nothing.
const SILENT_NS: u64 = 30_000_000_000;

#[derive(Debug)]
pub(crate) struct Watch {
    next_epoch: Cell<u64>,
    next_admin_epoch: Cell<u64>,
    next_health: Cell<u64>,
    /// When looks at CSTS that nobody answered mean that the device is gone.
    silent_end: Cell<u64>,
    window_end: Cell<u64>,
    ignored_before: Cell<u64>,
    aborts_out: Cell<u32>,
    abort_limit: Cell<u32>,
    want_reset: Cell<bool>,
    aborts: Count,
    aborts_refused: Count,
    deadlines: Count,
    pub(crate) resets: Count,
    pub(crate) queue_resets: Count,
}

/// What the watchdog found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing.
    Well,
    /// A command on this I/O queue (index) was neither completed nor aborted.
    StuckQueue(u16),
    /// Only a reset helps.
    Reset(ResetReason),
    /// The device is gone.
    Gone(RegsError),
}

impl Watch {
    pub(crate) const fn new() -> Self {
        Self {
            next_epoch: Cell::new(0),
            next_admin_epoch: Cell::new(0),
            next_health: Cell::new(0),
            silent_end: Cell::new(0),
            window_end: Cell::new(0),
            ignored_before: Cell::new(0),
            aborts_out: Cell::new(0),
            abort_limit: Cell::new(1),
            want_reset: Cell::new(false),
            aborts: Count::new(),
            aborts_refused: Count::new(),
            deadlines: Count::new(),
            resets: Count::new(),
            queue_resets: Count::new(),
        }
    }

    pub(crate) fn want_reset(&self) {
        self.want_reset.set(true);
    }

    pub(crate) fn set_abort_limit(&self, limit: u32) {
        self.abort_limit.set(limit);
    }

    pub(crate) fn abort_answered(&self, result: Result<u32, Status>) {
        self.abort_lost();
        // Bit 0 of the result: the command was not aborted.
        if !matches!(result, Ok(dw0) if dw0 & 1 == 0) {
            self.aborts_refused.add(1);
        }
    }

    pub(crate) fn abort_lost(&self) {
        self.aborts_out.set(self.aborts_out.get().saturating_sub(1));
    }

    /// Aborts that were not answered yet.
    pub(crate) fn aborts_out(&self) -> u32 {
        self.aborts_out.get()
    }

    /// When CSTS is looked at next.
    pub(crate) fn next_health(&self) -> u64 {
        self.next_health.get()
    }

    /// When the next epoch of the admin queue, or of the I/O queues, begins.
    pub(crate) fn next_epoch(&self, admin: bool) -> u64 {
        if admin { self.next_admin_epoch.get() } else { self.next_epoch.get() }
    }

    pub(crate) fn stats(&self) -> ControllerStats {
        ControllerStats {
            resets: self.resets.get(),
            queue_resets: self.queue_resets.get(),
            aborts: self.aborts.get(),
            aborts_refused: self.aborts_refused.get(),
            deadlines: self.deadlines.get(),
            ..ControllerStats::default()
        }
    }
}

impl Controller {
    /// Starts all periods anew, after a bring-up.
    pub(crate) fn restart_watch(&self) {
        let watch = &self.watch;
        let now = self.time();
        watch.aborts_out.set(0);
        watch.want_reset.set(false);
        watch.ignored_before.set(self.all_ignored());
        watch.window_end.set(now);
        watch.next_health.set(now);
        watch.silent_end.set(self.time_in(SILENT_NS));
        watch.next_epoch.set(now.saturating_add(self.epoch(self.config.deadline_ns)));
        self.restart_admin_watch();
    }

    /// Starts the admin queue's periods, before the first command of a bring-up.
    pub(crate) fn restart_admin_watch(&self) {
        let next = self.time().saturating_add(self.epoch(self.config.admin_deadline_ns));
        self.watch.next_admin_epoch.set(next);
    }

    fn epoch(&self, deadline_ns: u64) -> u64 {
        self.ticks(deadline_ns / u64::from(EPOCHS_PER_DEADLINE)).max(1)
    }

    fn all_ignored(&self) -> u64 {
        let io = self.hub.queues.iter().map(|q| q.qp().ignored());
        io.sum::<u64>() + self.admin.qp().ignored()
    }

    /// Looks at everything that is due.
    pub(crate) fn watch(&self) -> Finding {
        if self.watch.want_reset.replace(false) {
            return Finding::Reset(ResetReason::Requested);
        }
        if let Some(finding) = self.check_health() {
            return finding;
        }
        if self.is_rogue() {
            return Finding::Reset(ResetReason::Rogue);
        }
        if self.admin_is_stuck() {
            return Finding::Reset(ResetReason::AdminStuck);
        }
        self.check_deadlines()
    }

    /// Reads CSTS every `health_ns`.
    fn check_health(&self) -> Option<Finding> {
        let now = self.time();
        if now < self.watch.next_health.get() {
            return None;
        }
        self.watch.next_health.set(self.time_in(self.config.health_ns));
        let csts: Csts = match self.regs.look() {
            Ok(csts) => csts,
            // A backend that is slow to answer is not a lost device, for a while.
            Err(RegsError::TimedOut) if now < self.watch.silent_end.get() => return None,
            Err(error) => return Some(Finding::Gone(error)),
        };
        self.watch.silent_end.set(self.time_in(SILENT_NS));
        if csts.cfs() {
            return Some(Finding::Reset(ResetReason::FatalStatus));
        }
        if !csts.rdy() {
            // All zeros is what a removed device reads like in places: CAP and VS tell.
            return Some(match self.regs.identity() {
                Ok(_) => Finding::Reset(ResetReason::NotReady),
                Err(error) => Finding::Gone(error),
            });
        }
        None
    }

    /// Too many stray completions within a second?
    fn is_rogue(&self) -> bool {
        const WINDOW_NS: u64 = 1_000_000_000;
        let watch = &self.watch;
        let ignored = self.all_ignored();
        let rogue = ignored - watch.ignored_before.get() >= u64::from(self.config.rogue_threshold);
        if rogue || self.time() >= watch.window_end.get() {
            watch.window_end.set(self.time_in(WINDOW_NS));
            watch.ignored_before.set(ignored);
        }
        rogue
    }

    /// Whether an admin command other than an event request is too old.
    pub(crate) fn admin_is_stuck(&self) -> bool {
        if self.time() < self.watch.next_admin_epoch.get() {
            return false;
        }
        self.restart_admin_watch();
        let mut stuck = false;
        self.admin.qp().next_epoch(0, |_, token| {
            let patient = token & INTERNAL != 0 && AdminToken::unpack(token) == AdminToken::Event;
            stuck |= !patient;
            !patient
        });
        stuck
    }

    fn check_deadlines(&self) -> Finding {
        if self.time() < self.watch.next_epoch.get() {
            return Finding::Well;
        }
        let epoch = self.epoch(self.config.deadline_ns);
        self.watch.next_epoch.set(self.time().saturating_add(epoch));
        let grace = self.ticks(self.config.abort_grace_ns).div_ceil(epoch);
        let grace = u8::try_from(grace).unwrap_or(u8::MAX).clamp(1, u8::MAX / 2);
        let mut finding = Finding::Well;
        for (index, queue) in (0_u16..).zip(self.hub.live()) {
            let qp = queue.qp();
            if qp.mode() != Mode::Open {
                continue;
            }
            let stuck = qp.next_epoch(grace, |cid, _| {
                self.watch.deadlines.add(1);
                let command = u32::from(qp.qid().0) << 16 | u32::from(cid);
                probes::LATE.emit(self.probes, command, 0, 0);
                self.abort(index, qp, cid);
                true
            });
            if stuck && finding == Finding::Well {
                finding = Finding::StuckQueue(index);
            }
        }
        finding
    }

    /// Asks the controller to abort a command. Where no more aborts are allowed the command is left
    /// to the queue reset.
    fn abort(&self, index: u16, qp: &QueuePair, cid: u16) {
        let watch = &self.watch;
        if watch.aborts_out.get() >= watch.abort_limit.get() {
            return;
        }
        let sqe = Sqe::abort(Cid(0), QueueId(qp.qid().0), Cid(cid));
        if self.post_admin(AdminToken::Abort { queue: index, cid }, sqe) {
            watch.aborts_out.set(watch.aborts_out.get() + 1);
            watch.aborts.add(1);
            let command = u32::from(qp.qid().0) << 16 | u32::from(cid);
            probes::ABORT.emit(self.probes, command, 0, 0);
        }
    }
}
