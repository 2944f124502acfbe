//! Blows of fate, and what comes after them: the end of a partition, and the next one.

use nvme_driver::ControllerState;

use super::{Stage, World, rings};
use crate::catalogue::{Deed, World as Blow};
use crate::device::span_ns;
use crate::partition::Partition;
use crate::tape::{What, Who};

impl World<'_> {
    pub(super) fn strike(&mut self) {
        while let Some(&at) = self.blows.front() {
            let fault = self.plan.faults[at];
            if fault.at > self.host.sent || self.ending || self.stage != Stage::Working {
                return;
            }
            self.blows.pop_front();
            if let Deed::World(blow) = fault.deed() {
                self.shared.event(Who::Device, What::World, [fault.kind as u64, fault.choice, 0]);
                self.shared.reach(&format!("fault {}", fault.kind().name), 1);
                self.strike_with(blow, fault.choice);
            }
        }
    }

    pub(super) fn strike_with(&mut self, blow: Blow, choice: u64) {
        if !matches!(blow, Blow::Jump | Blow::Still) {
            self.shared.faults.set(self.shared.faults.get() + 1);
        }
        match blow {
            Blow::Jump => {
                let ns = span_ns(choice, 100_000_000_000);
                self.shared.clock.advance(ns);
                self.progress_at.0 += ns;
                self.shared.event(Who::Device, What::Jump, [ns / 1_000, 0, 0]);
            }
            Blow::Still => self.still = u32::try_from(choice % 500).unwrap_or(0),
            Blow::Reset => self.partition.controller.request_reset(),
            Blow::Shutdown => {
                self.partition.controller.request_shutdown();
                self.ending = true;
            }
            Blow::Silence => self.device.be_silent(u32::try_from(1 + choice % 4).unwrap_or(1)),
            Blow::Abort => self.device.change_aborts(choice),
            Blow::Crash => self.restart(false),
            Blow::PowerCut => self.restart(true),
        }
    }

    // ---- ends of partitions ------------------------------------------------------------------

    /// The controller is off or has failed, and everything is answered.
    pub(super) fn end_incarnation(&mut self) {
        let controller = self.partition.controller;
        match controller.state() {
            ControllerState::Off => self.partition.check_leaks(false),
            ControllerState::Failed(_) => self.partition.check_leaks(true),
            // A shutdown that was asked for is still under way.
            _ => return,
        }
        self.partition.check_flushes(self.device.refused_flushes);
        if self.stage == Stage::Closing {
            if controller.state() != ControllerState::Off {
                let state = controller.state();
                self.shared.violate(|| format!("the last shutdown ended in {state:?}"));
            }
            self.collect();
            self.check_mistakes();
            self.stage = Stage::Done;
            return;
        }
        self.restart(false);
    }

    /// The partition is gone: fence, and the next one.
    pub(super) fn restart(&mut self, power_cut: bool) {
        self.collect();
        self.check_mistakes();
        self.host.lose();
        if power_cut {
            let (kept, lost) = self.device.with(|model| model.power_cut()).unwrap_or_default();
            self.shared.reach("cached write kept by a power cut", kept);
            self.shared.reach("cached write lost by a power cut", lost);
        } else {
            self.device.with(|model| model.function_reset());
        }
        let mut oracle = self.shared.oracle.borrow_mut();
        oracle.fence();
        if power_cut {
            oracle.power_cut();
        }
        drop(oracle);
        self.shared.reach("new partition", 1);
        if let Err(error) = self.next_incarnation() {
            self.shared.violate(|| format!("no new partition: {error}"));
        }
    }

    pub(super) fn next_incarnation(&mut self) -> Result<(), String> {
        let number = self.shared.reached.borrow().get("new partition").copied().unwrap_or(0) + 1;
        let parts = self.device.parts()?;
        let ((sending, commands), (answers, taking)) = rings(self.plan, number)?;
        let ends = (commands, answers);
        self.partition = Partition::start(self.plan, parts, ends, self.shared.clone())?;
        (self.sending, self.taking) = (sending, taking);
        (self.ending, self.state, self.quiet) = (false, 0, 0);
        self.shared.event(Who::Queues, What::Restart, [number, 0, 0]);
        Ok(())
    }

    pub(super) fn check_mistakes(&mut self) {
        let early = self.shared.reached.borrow().contains_key("fault phase-early");
        for mistake in self.device.mistakes() {
            // A phase that flips early makes the driver take what was never posted.
            if early && mistake.contains("but posted only to") {
                self.shared.reach("completion taken that was never posted", 1);
                continue;
            }
            self.shared.violate(|| format!("the controller complains of its host: {mistake}"));
        }
    }

    /// Adds what the incarnation's counters say to what was reached.
    pub(super) fn collect(&self) {
        let stats = self.partition.controller.stats();
        let ignored = stats.io.ignored;
        for (name, count) in [
            ("abort", stats.aborts),
            ("abort refused", stats.aborts_refused),
            ("command past its deadline", stats.deadlines),
            ("controller reset", stats.resets),
            ("queue reset", stats.queue_resets),
            ("bring-up failed", stats.bringup_failures),
            ("event", stats.events),
            ("event held back", stats.events_held_back),
            ("future dropped in flight", stats.orphans),
            ("command lost in a reset", stats.io.lost),
            ("retry", stats.io.retries),
            ("queue full", stats.io.full),
            ("sqhd that cannot be", stats.io.bad_sqhd),
            ("ignored: cid beyond", ignored.cid_beyond),
            ("ignored: cid of a free slot", ignored.free_slot),
            ("ignored: duplicate", ignored.duplicate),
            ("ignored: old generation", ignored.old_generation),
            ("ignored: sqid", ignored.sqid),
        ] {
            self.shared.reach(name, count);
        }
        let quiet = stats.aborts + stats.resets + stats.queue_resets + ignored.total();
        if self.shared.faults.get() == 0 && quiet != 0 {
            self.shared.violate(|| format!("trouble without a fault: {stats:?}"));
        }
    }
}
