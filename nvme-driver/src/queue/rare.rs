//! What a queue pair does rarely: retries, deadlines, closing, fencing, opening, counting.

use core_runtime::mem::{Iova, ShadowDoorbell};
use core_runtime::probe::Probes;
use nvme_spec::{Cqe, QueueId};

use super::{EPOCHS_PER_DEADLINE, Mode, PostError, QueuePair};
use crate::latency::LatencyHistograms;
use crate::probes;
use crate::prp::{self, Rest};
use crate::slot::{NO_SLOT, SlotState};
use crate::stats::QueueStats;

impl QueuePair {
    /// Sampled latencies go there too, in nanoseconds.
    pub(crate) fn record_into(&self, histograms: LatencyHistograms) {
        self.histograms.set(Some(histograms));
    }

    /// Where it writes its events.
    pub(crate) const fn probes(&self) -> &'static Probes {
        self.probes
    }

    /// Posts a held command again, in its slot, with a new generation.
    pub(crate) fn repost(&self, index: u16, token: u64, sqe: [u64; 8]) -> Result<(), PostError> {
        if !self.open.get() {
            return Err(PostError::Closed);
        }
        match self.slots.get(usize::from(index)) {
            Some(slot) if slot.state() == SlotState::Held => {
                self.held.set(self.held.get() - 1);
                self.write(index, slot, token, sqe);
                self.cold.retries.add(1);
                Ok(())
            }
            _ => Err(PostError::Full),
        }
    }

    /// PRP2 for `len` bytes at `iova` as the slot's commands give it; for [`Self::repost`].
    pub(crate) fn prp2(&self, index: u16, iova: Iova, len: u32) -> u64 {
        match prp::rest(iova, len, self.page_shift) {
            Ok(Rest::Page(second)) => second.0,
            Ok(Rest::List { first, pages }) => self.write_list(index, first, pages),
            Ok(Rest::Nothing) | Err(_) => 0,
        }
    }

    /// Gives up a held command.
    pub(crate) fn release_held(&self, index: u16) {
        if let Some(slot) = self.slots.get(usize::from(index))
            && slot.state() == SlotState::Held
        {
            self.held.set(self.held.get() - 1);
            self.release(index, slot);
        }
    }

    /// Calls `f(slot, token)` for each held command.
    pub(crate) fn each_held(&self, mut f: impl FnMut(u16, u64)) {
        if self.held.get() == 0 {
            return;
        }
        for (slot, index) in self.slots.iter().zip(0_u16..) {
            if slot.state() == SlotState::Held {
                f(index, slot.token());
            }
        }
    }

    /// Starts the next epoch. Calls `late(cid, token)` once for each command that has now passed
    /// its deadline, and returns whether one has been late for `grace` more epochs.
    pub(crate) fn next_epoch(&self, grace: u8, mut late: impl FnMut(u16, u64) -> bool) -> bool {
        let epoch = self.epoch.get().wrapping_add(1);
        self.epoch.set(epoch);
        let mut stuck = false;
        for slot in self.slots {
            match slot.state() {
                SlotState::InFlight if slot.age(epoch) > EPOCHS_PER_DEADLINE => {
                    if late(slot.word().live(), slot.token()) {
                        slot.expire();
                    } else {
                        // Exempt: its age starts again, so that it never wraps into something.
                        slot.post(slot.word().live(), u16::from(epoch), slot.token());
                    }
                }
                SlotState::Expired => {
                    let limit = EPOCHS_PER_DEADLINE.saturating_add(grace);
                    stuck |= slot.age(epoch) > limit;
                }
                _ => {}
            }
        }
        stuck
    }

    /// Opens the queue, which was cleared and which the device now knows; at once, or when
    /// [`Self::drain`] has ended what the fence left.
    pub(crate) fn open_when_drained(&self) {
        if self.unfinished() == 0 {
            self.open();
        } else {
            self.reopen.set(true);
        }
    }

    /// Tells the device of completions that were taken and not told of.
    pub(crate) fn acknowledge_all(&self) {
        if self.open.get() && self.unacknowledged() != 0 {
            self.acknowledge();
        }
    }

    fn open(&self) {
        self.reopen.set(false);
        self.sq_tail.set(0);
        self.sq_rung.set(0);
        self.cq_head.set(0);
        self.cq_rung.set(0);
        self.last_taken.set(0);
        self.sqhd.set(0);
        self.phase.set(Cqe::PHASE);
        self.open.set(true);
        self.mode.set(Mode::Open);
        self.free.set(self.parked_free.replace(NO_SLOT));
    }

    /// Zeroes the completion queue, or a stale phase bit would complete something at random. Only
    /// while the device does not know the queue.
    pub(crate) fn clear(&self) {
        self.sq.clear();
        self.cq.clear();
        if let Some((tail, head)) = self.shadows.get() {
            tail.reset(0);
            head.reset(0);
        }
    }

    /// Uses these shadow doorbells from now on, or none. The admin queue's registers are written in
    /// any case: not every controller looks at its shadows (NVMe Base 2.0, section 5.8 wants both).
    pub(crate) fn shadow(&self, shadows: Option<(ShadowDoorbell, ShadowDoorbell)>) {
        if let Some((tail, head)) = shadows {
            tail.reset(self.sq_rung.get());
            head.reset(self.cq_rung.get());
        }
        self.shadows.set(shadows);
    }

    /// Closes the queue: nothing is posted, rung or reaped from now on.
    pub(crate) fn close(&self) {
        if self.open.replace(false) {
            self.parked_free.set(self.free.replace(NO_SLOT));
            self.mode.set(Mode::Closed);
            // What was not rung never will be.
            self.sq_rung.set(self.sq_tail.get());
        }
    }

    /// Says how the commands in flight are to be ended; [`Self::drain`] does it.
    pub(crate) fn fence(&self, mode: Mode) {
        self.close();
        self.reopen.set(false);
        self.mode.set(mode);
    }

    /// Ends each command that was in flight or held: `f(token)` once for each, its slot freed
    /// before.
    pub(crate) fn drain(&self, mut f: impl FnMut(u64)) {
        for (slot, index) in self.slots.iter().zip(0_u16..) {
            if slot.state() != SlotState::Free {
                self.release(index, slot);
                self.cold.lost.add(1);
                f(slot.token());
            }
        }
        self.in_flight.set(0);
        self.held.set(0);
        if self.reopen.get() {
            self.open();
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode.get()
    }

    /// Queue identifier.
    #[must_use]
    pub const fn qid(&self) -> QueueId {
        QueueId(self.qid)
    }

    /// Most commands in flight.
    #[must_use]
    pub const fn depth(&self) -> u16 {
        self.entries - 1
    }

    /// Ring size, counted from 0 as Create Queue wants it.
    pub(crate) const fn size_z(&self) -> u16 {
        self.entries - 1
    }

    /// Commands in flight now.
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        self.in_flight.get()
    }

    /// Commands in flight or held for a retry.
    pub(crate) fn unfinished(&self) -> u16 {
        self.in_flight.get() + self.held.get()
    }

    pub(crate) const fn max_len(&self) -> u32 {
        self.max_len
    }

    /// Device addresses of the submission and of the completion queue.
    pub(crate) fn iovas(&self) -> (Iova, Iova) {
        (self.sq.iova(), self.cq.iova())
    }

    pub(crate) fn ignored(&self) -> u64 {
        self.cold.ignored.get().total()
    }

    /// Snapshot of the counters.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        QueueStats {
            submitted: self.submitted.get(),
            completed: self.completed.get(),
            bytes: self.bytes.get(),
            failed: self.cold.failed.get(),
            lost: self.cold.lost.get(),
            in_flight: u32::from(self.in_flight.get()),
            high_water: u32::from(self.cold.high_water.get()),
            ignored: self.cold.ignored.get(),
            bad_sqhd: self.cold.bad_sqhd.get(),
            sq_doorbells: self.cold.sq_doorbells.get(),
            cq_doorbells: self.cold.cq_doorbells.get(),
            full: self.cold.full.get(),
            retries: self.cold.retries.get(),
            latency: self.cold.latency.get(),
        }
    }

    /// A doorbell that is told to the probes. It looks up itself what there is to say, so that one
    /// which is not has nothing ready for it.
    #[cold]
    #[inline(never)]
    pub(super) fn rung(&self) {
        let (tail, depth) = (self.sq_rung.get(), self.in_flight.get());
        probes::DOORBELL.emit(self.probes, self.qid.into(), tail.into(), depth.into());
    }

    /// A sampled command was answered.
    #[cold]
    #[inline(never)]
    pub(super) fn sample(&self, index: u16) {
        if let Some(stamp) = self.stamps.get(usize::from(index)) {
            let stamp = stamp.get();
            let ticks = self.clock.now().since(stamp.at());
            self.cold.latency.set(self.cold.latency.get().record(ticks.get()));
            let cid = self.slots.get(usize::from(index)).map_or(0, |slot| slot.word().last());
            probes::LATENCY.emit(self.probes, self.command(cid), ticks.get(), 0);
            self.probes.check_latency(ticks);
            if let Some(histograms) = self.histograms.get() {
                histograms.record(stamp.kind(), self.clock.ticks_to_ns(ticks));
            }
        }
    }
}
