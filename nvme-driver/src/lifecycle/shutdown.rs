//! The orderly way out: drain, delete the queues, notify, wait for SHST, disable.
//!
//! Steps of [`super`]; each is bounded, and none waits for another's success.

use nvme_spec::registers::{Crto, Csts, Shn, Shst};

use super::{Ask, Phase};
use crate::bringup;
use crate::controller::Controller;
use crate::error::{ControllerError, ResetReason, Step};
use crate::hub::Gate;
use crate::queue::Mode;
use crate::quirks::Quirks;
use crate::regs::RegsError;
use crate::watchdog::Finding;

impl Controller {
    pub(super) fn begin_drain(&'static self) {
        self.hub.end(Gate::ShutDown);
        self.state_changed();
        self.enter_for(Phase::Draining, self.config.drain_ns);
    }

    pub(super) fn draining(&'static self) {
        let idle = self.hub.live().all(|queue| queue.qp().unfinished() == 0);
        match self.watch() {
            Finding::Well if idle => {
                self.close_io();
                self.delete(Ask::DeleteSq(0));
            }
            // A queue that is stuck, or time that is up: the disable below ends the commands.
            Finding::Well if !self.is_over() => {}
            Finding::Well | Finding::StuckQueue(_) => self.notify_shutdown(),
            Finding::Reset(_) => self.begin_final_disable(),
            Finding::Gone(error) => self.die(error.into()),
        }
    }

    fn delete(&self, ask: Ask) {
        self.send(ask);
        self.enter_for(Phase::Deleting(ask), self.config.admin_deadline_ns);
    }

    pub(super) fn deleting(&'static self, ask: Ask) {
        match (self.life.answer.take(), ask) {
            (None, _) if !self.is_over() => {}
            (Some(Ok(_)), Ask::DeleteSq(i)) => self.delete(Ask::DeleteCq(i)),
            (Some(Ok(_)), Ask::DeleteCq(i)) if i + 1 < self.hub.live.get() => {
                self.delete(Ask::DeleteSq(i + 1));
            }
            // All gone, or it does not want to: the disable takes care of them.
            _ => self.notify_shutdown(),
        }
    }

    fn notify_shutdown(&'static self) {
        // NVMe Base 2.0, section 3.6.1: nothing new once SHN is set.
        self.close_io();
        // An Abort that this very look at the deadlines posted goes before it, or not at all.
        self.admin.qp().ring();
        let cc = self.plan.cc.with_en(true).with_shn(Shn::Normal);
        match self.regs.insist(cc) {
            Ok(()) => {
                let limit = self.life.shutdown_limit_ns.get();
                self.enter_for(Phase::ShutdownWait, limit);
            }
            Err(error) => self.die(error.into()),
        }
    }

    pub(super) fn shutdown_wait(&'static self) {
        match self.regs.read::<Csts>() {
            Ok(csts) if csts.shst() == Shst::Complete => self.begin_final_disable(),
            Ok(csts) if csts.cfs() => {
                self.unconfirmed(ControllerError::FatalStatus(Step::Shutdown))
            }
            Ok(_) | Err(RegsError::TimedOut) if !self.is_over() => {}
            Ok(_) | Err(RegsError::TimedOut) if self.quirks.contains(Quirks::NO_SHST) => {
                self.begin_final_disable();
            }
            Ok(_) | Err(RegsError::TimedOut) => self.unconfirmed(self.timed_out(Step::Shutdown)),
            Err(error) => self.die(error.into()),
        }
    }

    /// What the controller has in its cache may be lost: goes on, but tells.
    fn unconfirmed(&'static self, error: ControllerError) {
        self.life.error.set(Some(error));
        self.begin_final_disable();
    }

    fn begin_final_disable(&'static self) {
        self.close_all();
        if let Err(error) = self.regs.insist(self.plan.cc) {
            self.die(error.into());
            return;
        }
        let crto = match self.cap.crwms() {
            true => self.regs.read::<Crto>().ok(),
            false => None,
        };
        let limit = bringup::ready_limit_ns(self.cap, crto, &self.config);
        self.enter_for(Phase::FinalDisable, limit);
    }

    pub(super) fn final_disable(&'static self) {
        // All zeros are a device that is not there, and confirm nothing.
        let known =
            |csts: Csts| if csts.rdy() { Ok(csts) } else { self.regs.identity().map(|_| csts) };
        match self.regs.read::<Csts>().and_then(known) {
            Ok(csts) if !csts.rdy() => {
                self.fence_all(Mode::Fenced(ResetReason::Requested));
                self.finish_shutdown();
            }
            Ok(_) | Err(RegsError::TimedOut) if !self.is_over() => {}
            Ok(_) => self.die(self.timed_out(Step::Disable)),
            Err(error) => self.die(error.into()),
        }
    }

    pub(super) fn finish_shutdown(&self) {
        self.hub.end(Gate::ShutDown);
        self.enter(Phase::Off);
        self.state_changed();
    }
}
