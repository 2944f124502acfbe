//! Blows of fate, and what comes after them: the end of a partition, and the next one.

use hybrid_policy::policy::Ending;
use nvme_driver::{Device, DeviceParts};
use nvme_model::ControllerFault;
use nvme_spec::Nsid;

use super::supervise::Body;
use super::{Stage, World, rings};
use crate::catalogue::{Deed, World as Blow};
use crate::device::span_ns;
use crate::kernel::Kernel;
use crate::partition::Partition;
use crate::tape::{What, Who};
use core_runtime::clock::Clock;

/// The longest that a process or the host is stopped, and that a device is not to be had: beyond
/// what a supervisor waits for it.
const STOP_NS: u64 = 12_000_000_000;
pub(crate) const HELD_NS: u64 = 14_000_000_000;

impl World<'_> {
    /// Strikes with what is due; what needs the controller waits for it.
    pub(super) fn strike(&mut self) {
        let next = self.host.next();
        while self.blows.front().is_some_and(|at| self.plan.faults[*at].at <= next) {
            if self.ending || self.body != Body::Alive || self.stage != Stage::Working {
                return;
            }
            let may = |at: &usize| {
                let fault = self.plan.faults[*at];
                let Deed::World(blow) = fault.deed() else { return false };
                let here = self.kernel.is_none() || !blow.needs_controller();
                // A driver that never saw the true size believes the other one.
                let seen = match blow {
                    Blow::Resize => self.knows_its_size(),
                    Blow::NeverNotReady => self.state == 1,
                    _ => true,
                };
                fault.at <= next && here && seen
            };
            let Some(place) = self.blows.iter().position(may) else { return };
            let Some(at) = self.blows.remove(place) else { return };
            let fault = self.plan.faults[at];
            if let Deed::World(blow) = fault.deed() {
                self.shared.event(Who::Device, What::World, [fault.kind as u64, fault.choice, 0]);
                self.shared.strike(&fault);
                self.strike_with(blow, fault.choice);
            }
        }
    }

    fn strike_with(&mut self, blow: Blow, choice: u64) {
        let (few, now) = (u32::try_from(1 + choice % 64).unwrap_or(1), self.now());
        match blow {
            Blow::Jump => {
                let ns = span_ns(choice, 100_000_000_000);
                self.shared.clock.advance(ns);
                self.progress_at.0 += ns;
                self.shared.event(Who::Device, What::Jump, [ns / 1_000, 0, 0]);
            }
            Blow::Still => self.still = u32::try_from(choice % 500).unwrap_or(0),
            Blow::Reset => self.request_reset(),
            Blow::Shutdown => self.stop_service(),
            Blow::Restart => {
                self.watchman.restart_asked();
                self.end_partition();
            }
            Blow::NeverNotReady => {
                self.device.with(|model| model.inject(ControllerFault::NeverNotReady));
                if choice & 1 == 0 { self.request_reset() } else { self.stop_service() }
            }
            Blow::Silence => self.device.be_silent(u32::try_from(1 + choice % 4).unwrap_or(1)),
            Blow::Abort => self.device.change_aborts(choice),
            Blow::RegistersGone => self.device.be_gone(),
            Blow::Unbind => {
                self.device.be_gone();
                self.watchman.hold(1 + choice % HELD_NS);
            }
            Blow::IommuFault => {
                self.check_mistakes();
                if let Err(error) = self.device.iommu_fault() {
                    self.shared.violate(|| format!("memory cannot be mapped again: {error}"));
                }
            }
            Blow::Resize => {
                self.resized_until = self.host.next() + 1 + choice % 400;
                if self.device.resize(self.plan, true) {
                    self.request_reset();
                }
            }
            Blow::Hang => self.hang(choice),
            Blow::Stop => self.stop_process(now + span_ns(choice, STOP_NS)),
            Blow::HostStop => self.watchman.stop_host(now + span_ns(choice, STOP_NS)),
            Blow::HostCrash => self.host_crash(),
            Blow::Crash | Blow::Held | Blow::Refused => {
                if blow == Blow::Held {
                    self.watchman.hold(1 + choice % HELD_NS);
                } else if blow == Blow::Refused {
                    self.watchman.refuse(u32::try_from(1 + choice % 3).unwrap_or(1));
                }
                let killed = choice & 1 << 32 == 0;
                self.watchman.dies_as = if killed { Ending::Killed } else { Ending::Crashed };
                self.shared.crash_in.set(few);
            }
            Blow::PowerCut => self.power_cut(),
        }
    }

    /// Whether its driver is ready and has a namespace of a size: an Identify that failed leaves
    /// one that is refused.
    fn knows_its_size(&self) -> bool {
        let ns = self.partition.device.block_device(Nsid(1));
        self.state == 1 && ns.is_some_and(|ns| ns.lba_bytes() != 0)
    }

    pub(super) fn request_reset(&self) {
        if let Device::Nvme(controller) = self.partition.device {
            controller.request_reset();
        }
    }

    /// The namespace says how large it is again. Its driver has refused it for good, so somebody
    /// has the partition started again.
    pub(super) fn restore_size(&mut self) {
        if self.device.resize(self.plan, false) {
            self.watchman.restart_asked();
            self.end_partition();
        }
    }

    /// No more faults.
    pub(super) fn heal(&mut self) {
        self.device.heal();
        self.fortune.heal();
        self.watchman.heal();
        self.blows.clear();
        self.shared.crash_in.set(0);
    }

    /// The partition is asked to let its device go and to end.
    pub(super) fn end_partition(&mut self) {
        self.partition.close();
        self.ending = true;
        // One on a bridge may be off after its next pass.
        self.watch_state();
    }

    // ---- ends of partitions ------------------------------------------------------------------

    /// The device is off or has failed, and everything is answered: the partition ends.
    pub(super) fn end_incarnation(&mut self) {
        let (off, failed) = (self.partition.state() == 4, self.partition.state() == 5);
        if !off && !failed {
            // A shutdown that was asked for is still under way.
            return;
        }
        self.partition.check_leaks(failed);
        let refused = self.kernel.as_ref().map(|kernel| kernel.refused_flushes);
        self.partition.check_flushes(refused.unwrap_or(self.device.refused_flushes()));
        if self.stage == Stage::Closing && !off {
            self.shared.violate(|| "the last shutdown ended in a failure".to_owned());
        }
        self.die(if off { Ending::Done } else { Ending::DeviceGone });
    }

    /// Nothing of the dead partition's reaches memory any more: what it still said is heard, and
    /// the rest of what it was asked is lost.
    pub(super) fn fence(&mut self, power_cut: bool, hears: bool) {
        self.collect();
        self.check_mistakes();
        if hears {
            let taken = self.host.take(&self.taking, self.plant);
            self.shared.reach("answer taken after a death", taken.into());
        }
        self.host.lose();
        self.kernel = None;
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
    }

    /// Starts the next incarnation, on the controller or, with `fallback`, on the host's kernel.
    pub(super) fn next_incarnation(&mut self, fallback: bool) -> Result<(), String> {
        self.shared.reach("new partition", 1);
        let number = self.shared.reached.borrow().get("new partition").copied().unwrap_or(0) + 1;
        self.device.resize(self.plan, false);
        self.forget_early_phases();
        let arena = self.device.memory(!fallback)?;
        let ((sending, commands), (answers, taking)) = rings(self.plan, number)?;
        let (ends, shared) = ((commands, answers), self.shared.clone());
        let start = |parts| Partition::start(self.plan, (parts, arena), ends, shared);
        if fallback {
            let clock = Clock::manual(self.shared.clock);
            let (parts, open) = Kernel::lay(self.plan, arena, number, clock)?;
            self.partition = start(DeviceParts::Bridge(parts))?;
            self.kernel = Some(open()?);
        } else {
            self.partition = start(DeviceParts::Nvme(self.device.parts(arena)))?;
        }
        (self.sending, self.taking) = (sending, taking);
        (self.ending, self.state, self.quiet, self.body) = (false, 0, 0, Body::Alive);
        self.progress_at = (self.now(), self.passes);
        self.shared.event(Who::Queues, What::Restart, [number, u64::from(fallback), 0]);
        Ok(())
    }

    /// Phases that flipped early so far.
    pub(super) fn early_phases(&self) -> u64 {
        self.shared.reached.borrow().get("fault phase-early").copied().unwrap_or(0)
    }

    pub(super) fn check_mistakes(&mut self) {
        let early = self.early_phases() != self.early.0;
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
        let stats = self.partition.device.stats();
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
            ("namespace refused", stats.namespaces_refused),
            ("ignored: cid beyond", ignored.cid_beyond),
            ("ignored: cid of a free slot", ignored.free_slot),
            ("ignored: duplicate", ignored.duplicate),
            ("ignored: old generation", ignored.old_generation),
            ("ignored: sqid", ignored.sqid),
        ] {
            self.shared.reach(name, count);
        }
        let ready = self.kernel.is_none() && self.state == 1 && !self.device.is_resized();
        if ready && self.plan.liar != 0 && stats.namespaces_refused == 0 {
            let liar = self.plan.liar;
            self.shared.violate(|| format!("namespace 2 lies (way {liar}) and is not refused"));
        }
        let quiet = stats.aborts + stats.resets + stats.queue_resets + ignored.total();
        if !self.shared.costs().has_trouble() && quiet != 0 {
            self.shared.violate(|| format!("trouble that no fault so far can cost: {stats:?}"));
        }
    }
}
