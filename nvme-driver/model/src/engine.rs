//! The loop: doorbells in, commands out, completions back.
//!
//! Two ways for an I/O command. The short one, without latency, faults or random order: fetched,
//! carried out and completed at once, without a look at anything else. The long one goes through
//! `flight`. Admin commands complete in the step that fetches them unless a fault says otherwise.

use crate::fault::{CqeFault, FaultAction, FaultNote};
use crate::flight::{Flight, Torn};
use crate::mistake::HostMistake;
use crate::model::Model;
use crate::queues::{Cq, completion};
use crate::stats::StepReport;
use core_runtime::mem::{Iova, prefetch_write};
use nvme_spec::{AsyncEvent, Cid, Cqe, NvmOpcode, QueueId, Sqe, Status};

/// Bursts of so few commands are completed one by one: a host that waits for one of them goes on
/// sooner than the cache line saved is worth. Two lines of completions.
const STAGE_ABOVE: u32 = 8;

/// What a command came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) status: Status,
    pub(crate) result: u32,
}

impl From<Status> for Outcome {
    fn from(status: Status) -> Self {
        Self { status, result: 0 }
    }
}

impl Model {
    /// Does a bounded amount of work: at most a burst of commands from each queue, and what is due.
    /// `now_ns` is any clock that does not go back; where nothing has a latency or a delay, it may
    /// stand still.
    pub fn step(&mut self, now_ns: u64) -> StepReport {
        self.now_ns = now_ns.max(self.now_ns);
        if !self.regs.serving() {
            self.check_doorbells_while_down();
            self.advance_life();
            return StepReport { idle: true, ..StepReport::default() };
        }
        if self.now_ns < self.paused_until_ns {
            return StepReport::default();
        }
        let fetched = self.stats.admin + self.stats.io;
        let completed = self.stats.completions;
        self.serve_all();
        self.complete_ready();
        self.report_events();
        self.scan_doorbells();
        let count = |new: u64, old: u64| u32::try_from(new - old).unwrap_or(u32::MAX);
        let commands = count(self.stats.admin + self.stats.io, fetched);
        let completions = count(self.stats.completions, completed);
        StepReport {
            commands,
            completions,
            idle: commands == 0 && completions == 0 && self.flights.torn.is_empty(),
        }
    }

    /// The time of the last step.
    #[must_use]
    pub const fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// When the next command is due, if any waits for its time, or a pause ends: for a stepping
    /// clock.
    #[must_use]
    pub fn next_due_ns(&self) -> Option<u64> {
        if self.is_paused() {
            return Some(self.paused_until_ns);
        }
        self.flights.next_due_ns()
    }

    /// Whether a fault keeps it from serving any queue for a while.
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        self.now_ns < self.paused_until_ns
    }

    /// Whether steps need the time: something has a latency or a delay.
    #[must_use]
    pub fn needs_time(&self) -> bool {
        self.long_way || !self.regs.serving() || self.paused_until_ns > self.now_ns
    }

    fn serve_all(&mut self) {
        // Serving the admin queue may add and remove queues.
        for _ in 0..self.active.len() {
            if self.turn >= self.active.len() {
                self.turn = 0;
            }
            let Some(&qid) = self.active.get(self.turn) else { return };
            self.turn += 1;
            self.serve(qid);
            if !self.regs.serving() {
                return;
            }
        }
    }

    /// Fetches from one queue.
    #[inline]
    fn serve(&mut self, qid: QueueId) {
        let Some(sq) = &mut self.sqs[usize::from(qid.0)] else { return };
        let tail = sq.poll();
        let (waiting, cqid) = (sq.waiting(), sq.cqid);
        let Some(cq) = &mut self.cqs[usize::from(cqid.0)] else { return };
        let head = cq.poll();
        let space = cq.space();
        if let Err(mistake) = tail.and(head) {
            self.doorbell_mistake(mistake);
            return;
        }
        if waiting == 0 {
            return;
        }
        let limit = waiting.min(u32::from(self.config.burst));
        if self.long_way || qid == QueueId::ADMIN {
            self.fetch_long(qid, limit);
            return;
        }
        if space == 0 {
            self.stats.cq_full += 1;
            return;
        }
        self.fetch_short(qid, limit.min(space));
    }

    /// The short way: `count` commands that are there, with room for their completions. One
    /// command is fetched ahead, so that its memory is near when its turn comes.
    #[inline]
    fn fetch_short(&mut self, qid: QueueId, count: u32) {
        if let Some(sq) = &self.sqs[usize::from(qid.0)] {
            sq.prefetch(count);
        }
        let mut next = self.fetch(qid);
        for done in 1..=count {
            let Some(sqe) = next else { break };
            next = if done < count { self.fetch(qid) } else { None };
            if let Some(ahead) = &next {
                self.prefetch_target(ahead);
            }
            let status = self.execute_io(qid, &sqe, None);
            if count > STAGE_ABOVE {
                self.stage(qid, sqe.cid(), status.into());
            } else {
                self.post(qid, sqe.cid(), status.into());
            }
        }
        if let Some(cq) = self.cq_of(qid) {
            cq.flush();
        }
    }

    /// Posts a completion when its cache line is full, or at the end of the short way.
    #[inline]
    fn stage(&mut self, sqid: QueueId, cid: Cid, outcome: Outcome) {
        let Some(sq) = &mut self.sqs[usize::from(sqid.0)] else { return };
        sq.in_flight.remove(cid);
        let cqe = completion(sq, cid, outcome.status, outcome.result);
        if let Some(cq) = &mut self.cqs[usize::from(sq.cqid.0)] {
            self.stats.completions += 1;
            cq.stage(cqe);
        }
    }

    #[inline]
    fn cq_of(&mut self, sqid: QueueId) -> Option<&mut Cq> {
        let sq = self.sqs[usize::from(sqid.0)].as_ref()?;
        self.cqs[usize::from(sq.cqid.0)].as_mut()
    }

    #[inline]
    fn prefetch_target(&mut self, sqe: &Sqe) {
        if let Ok(span) = self.dma.translate(Iova(sqe.prp1()), 1) {
            prefetch_write(span.as_ptr());
        }
        if sqe.opcode() == NvmOpcode::READ.0
            && let Some(ns) = self.namespaces.iter().find(|ns| ns.nsid == sqe.nsid())
        {
            ns.store.prefetch(sqe.slba().0.wrapping_mul(ns.stride()));
        }
    }

    /// Takes one entry and notes its CID.
    #[inline]
    fn fetch(&mut self, qid: QueueId) -> Option<Sqe> {
        let sq = self.sqs[usize::from(qid.0)].as_mut()?;
        let sqe = sq.fetch()?;
        let cid = sqe.cid();
        if !sq.in_flight.insert(cid) {
            self.mistakes.add(HostMistake::CidInFlight { sqid: qid, cid });
        }
        if qid == QueueId::ADMIN {
            self.stats.admin += 1;
        } else {
            self.stats.io += 1;
        }
        Some(sqe)
    }

    /// The long way: through the fault plan and the flights.
    fn fetch_long(&mut self, qid: QueueId, count: u32) {
        if self.config.paranoid {
            self.copy_rung(qid);
        }
        for _ in 0..count {
            if qid == QueueId::ADMIN && !self.has_space(qid) {
                self.stats.cq_full += 1;
                return;
            }
            let Some(sqe) = self.fetch(qid) else { return };
            if self.config.paranoid {
                self.check_fetched(qid, &sqe);
            }
            self.admit(qid, sqe);
            if !self.regs.serving() || self.now_ns < self.paused_until_ns {
                return;
            }
        }
    }

    fn admit(&mut self, sqid: QueueId, sqe: Sqe) {
        let action = self.config.faults.decide(sqid.0, &sqe, &mut self.rng);
        let mut flight = Flight { sqid, sqe, action, claim: None };
        if let Some(action) = action {
            self.stats.faults += 1;
            self.note_fault(FaultNote { now_ns: self.now_ns, sqid, sqe, action, done: false });
        }
        if self.config.paranoid && sqid != QueueId::ADMIN {
            self.note_claim(&mut flight);
        }
        let mut delay_ns = 0;
        match action {
            Some(FaultAction::Drop) => {
                self.flights.hang(flight);
                return;
            }
            Some(FaultAction::DelayNs(ns)) => delay_ns = ns,
            Some(FaultAction::Controller(fault)) => {
                self.inject(fault);
                if self.sqs[usize::from(sqid.0)].is_none() {
                    // The fault was a reset: it has forgotten this command with its queue.
                    return;
                }
            }
            _ => {}
        }
        if sqid == QueueId::ADMIN {
            if delay_ns == 0 && self.regs.serving() {
                self.finish(flight);
            } else {
                self.flights.add(flight, self.now_ns.saturating_add(delay_ns));
            }
            return;
        }
        delay_ns = delay_ns.saturating_add(self.config.latency.draw(&mut self.rng));
        self.flights.add(flight, self.now_ns.saturating_add(delay_ns));
    }

    /// Completes what is due: all of it in order, or some of it in any.
    fn complete_ready(&mut self) {
        if !self.flights.torn.is_empty() {
            self.store_torn();
        }
        let paused = self.now_ns < self.paused_until_ns;
        if self.flights.len() == 0 || !self.regs.serving() || paused {
            return;
        }
        let mut ready = self.flights.mature(self.now_ns);
        let random = self.config.out_of_order;
        let mut rounds = if random && ready > 0 { 1 + self.rng.index(ready) } else { ready };
        let mut place = 0;
        while rounds > 0 && ready > 0 {
            rounds -= 1;
            if random {
                place = self.rng.index(ready);
            }
            let Some(flight) = self.flights.ready_at(place) else { return };
            let overrun = flight.action == Some(FaultAction::Cqe(CqeFault::Overrun));
            if !overrun && !self.has_space(flight.sqid) {
                self.stats.cq_full += 1;
                place += 1;
                continue;
            }
            if let Some(flight) = self.flights.take_ready(place) {
                ready -= 1;
                self.finish(flight);
            }
            if !self.regs.serving() {
                return;
            }
        }
    }

    /// Whether the queue that `sqid` posts to has room, after a look at its doorbell.
    fn has_space(&mut self, sqid: QueueId) -> bool {
        let Some(sq) = &self.sqs[usize::from(sqid.0)] else { return true };
        let Some(cq) = &mut self.cqs[usize::from(sq.cqid.0)] else { return true };
        let polled = cq.poll();
        let space = cq.space();
        if let Err(mistake) = polled {
            self.doorbell_mistake(mistake);
        }
        space > 0
    }

    /// Carries a command out and completes it, as its fault wants.
    pub(crate) fn finish(&mut self, flight: Flight) {
        self.check_claim(&flight);
        let Flight { sqid, sqe, action, .. } = flight;
        let data = match action {
            Some(FaultAction::Data(fault)) => Some(fault),
            _ => None,
        };
        let outcome = match action {
            Some(FaultAction::Status(status)) => self.fail_with(sqid, &sqe, status).into(),
            _ if sqid == QueueId::ADMIN => match self.execute_admin(&sqe) {
                Some(outcome) => outcome,
                // It waits: an asynchronous event request.
                None => return,
            },
            _ => self.execute_io(sqid, &sqe, data).into(),
        };
        let outcome = match action {
            Some(FaultAction::StatusAfter(status)) => self.fail_with(sqid, &sqe, status).into(),
            _ => outcome,
        };
        if let Some(action @ (FaultAction::Cqe(_) | FaultAction::Data(_))) = action {
            self.note_fault(FaultNote { now_ns: self.now_ns, sqid, sqe, action, done: true });
        }
        match action {
            Some(FaultAction::Cqe(fault)) => self.post_spoilt(sqid, sqe.cid(), outcome, fault),
            _ => self.post(sqid, sqe.cid(), outcome),
        }
    }

    /// Posts a completion.
    #[inline]
    pub(crate) fn post(&mut self, sqid: QueueId, cid: Cid, outcome: Outcome) {
        // The queue may have gone while its command was carried out.
        let Some(sq) = &mut self.sqs[usize::from(sqid.0)] else { return };
        sq.in_flight.remove(cid);
        let cqe = completion(sq, cid, outcome.status, outcome.result);
        let cqid = sq.cqid;
        self.post_cqe(cqid, cqe);
    }

    #[inline]
    fn post_cqe(&mut self, cqid: QueueId, cqe: Cqe) {
        self.make_way(cqid);
        let Some(cq) = &mut self.cqs[usize::from(cqid.0)] else { return };
        self.stats.completions += 1;
        if let Err(mistake) = cq.post(cqe) {
            self.mistakes.add(mistake);
        }
    }

    /// Posts for a fault, whatever the room.
    fn post_forced(&mut self, cqid: QueueId, cqe: Cqe) {
        if let Some(cq) = &mut self.cqs[usize::from(cqid.0)] {
            cq.note_overrun();
        }
        self.post_cqe(cqid, cqe);
    }

    fn post_spoilt(&mut self, sqid: QueueId, cid: Cid, outcome: Outcome, fault: CqeFault) {
        let Some(sq) = &mut self.sqs[usize::from(sqid.0)] else { return };
        sq.in_flight.remove(cid);
        let right = completion(sq, cid, outcome.status, outcome.result);
        let cqid = sq.cqid;
        self.excuse_for(sqid, cid, fault);
        let with = |sqhd: u16, sqid: QueueId, cid: Cid| {
            Cqe::new(outcome.result, sqhd, sqid, cid, false, outcome.status)
        };
        match fault {
            CqeFault::Twice => {
                self.post_forced(cqid, right);
                self.post_forced(cqid, right);
            }
            CqeFault::WrongCid(bits) => {
                self.post_forced(cqid, with(right.sqhd(), sqid, Cid(cid.0 ^ bits)));
            }
            CqeFault::Extra(bits) => {
                self.post_forced(cqid, with(right.sqhd(), sqid, Cid(cid.0 ^ bits)));
                self.post_forced(cqid, right);
            }
            CqeFault::WrongSqid(other) => {
                self.post_forced(cqid, with(right.sqhd(), QueueId(other), cid));
            }
            CqeFault::WrongSqhd(sqhd) => self.post_forced(cqid, with(sqhd, sqid, cid)),
            CqeFault::Overrun => self.post_forced(cqid, right),
            CqeFault::PhaseEarly => {
                self.post_cqe(cqid, right);
                if let Some(cq) = &mut self.cqs[usize::from(cqid.0)] {
                    let stale = cq.flip_early();
                    self.excuse(stale.sqid(), stale.cid());
                }
            }
            CqeFault::PhaseStuck => {
                self.stats.completions += 1;
                self.make_way(cqid);
                if let Some(cq) = &mut self.cqs[usize::from(cqid.0)] {
                    cq.post_stuck(right);
                }
            }
            CqeFault::Order(order) => {
                self.stats.completions += 1;
                self.make_way(cqid);
                if let Some(cq) = &mut self.cqs[usize::from(cqid.0)] {
                    let (index, cqe) = cq.reserve(right);
                    self.flights.torn.push(Torn { cqid, index, cqe, order, done: 0 });
                }
            }
        }
    }

    /// An entry that is to be written again is stored to its end first, if it becomes visible piece
    /// by piece: its host has taken it with the dword that has the phase.
    #[inline]
    fn make_way(&mut self, cqid: QueueId) {
        if !self.flights.torn.is_empty() {
            self.finish_torn(cqid);
        }
    }

    #[cold]
    fn finish_torn(&mut self, cqid: QueueId) {
        let Some(cq) = &self.cqs[usize::from(cqid.0)] else { return };
        self.flights.torn.retain(|torn| {
            if torn.cqid != cqid || torn.index != cq.tail {
                return true;
            }
            let rest = torn.order.iter().skip(torn.done);
            rest.for_each(|dword| cq.store_dword(torn.index, torn.cqe, *dword));
            false
        });
    }

    /// Stores the next dword of each completion that becomes visible piece by piece.
    fn store_torn(&mut self) {
        for torn in &mut self.flights.torn {
            if let (Some(cq), Some(dword)) =
                (&self.cqs[usize::from(torn.cqid.0)], torn.order.get(torn.done))
            {
                cq.store_dword(torn.index, torn.cqe, *dword);
            }
            torn.done += 1;
        }
        self.flights.torn.retain(|torn| torn.done < torn.order.len());
    }

    /// A fault of resets: data of commands in flight move while CC.EN is 0 and RDY still 1.
    pub(crate) fn transfer_late(&mut self) {
        let commands: Vec<_> = self.flights.commands().collect();
        for (sqid, sqe) in commands {
            if sqid != QueueId::ADMIN && self.rng.below(2) == 0 {
                self.execute_io(sqid, &sqe, None);
            }
        }
    }

    #[cold]
    fn doorbell_mistake(&mut self, mistake: HostMistake) {
        self.mistakes.add(mistake);
        self.raise(AsyncEvent::INVALID_DOORBELL_VALUE);
    }
}
