//! The host's side: sends operations over a ring, takes answers from the other, and holds each
//! operation to exactly one answer.

use std::collections::VecDeque;
use std::rc::Rc;

use core_runtime::ring::{Consumer, PopError, Producer, PushError};
use nvme_model::Rng;

use crate::op::{Answer, Op};
use crate::plan::{Plan, Workload};
use crate::planted::Plant;
use crate::shared::Shared;
use crate::tape::{What, Who};

/// Writes that were dropped and blocks that may still be spoilt: with more of them the host waits,
/// since nobody can say what their blocks hold.
const MAX_UNSETTLED: usize = 24;

/// The host.
pub(crate) struct Host {
    next: u64,
    /// Operations of the workload, and with the reads that verify.
    ops: u64,
    end: u64,
    /// Sent and not answered.
    pending: VecDeque<u64>,
    /// Waits for silence (the bursty workload).
    resting: bool,
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) lost: u64,
    /// Times that the ring to the partition was full.
    pub(crate) full: u64,
    /// Answers by code.
    pub(crate) codes: [u64; 5],
    shared: Rc<Shared>,
}

impl Host {
    pub(crate) fn new(plan: &Plan, shared: Rc<Shared>) -> Self {
        Self {
            next: 0,
            ops: plan.ops,
            end: plan.ops + Op::verifying_count(plan),
            pending: VecDeque::new(),
            resting: false,
            sent: 0,
            answered: 0,
            lost: 0,
            full: 0,
            codes: [0; 5],
            shared,
        }
    }

    /// Operations sent and not answered.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The workload has been sent; what remains are the reads that verify.
    pub(crate) const fn is_through(&self) -> bool {
        self.next >= self.ops
    }

    /// Everything has been sent.
    pub(crate) const fn is_done(&self) -> bool {
        self.next >= self.end
    }

    /// Sends a few operations, up to the workload's end or, with `verify`, beyond it.
    pub(crate) fn send(&mut self, plan: &Plan, rng: &mut Rng, ring: &Producer<Op>, verify: bool) {
        let end = if verify { self.end } else { self.ops };
        if self.resting {
            self.resting = !self.pending.is_empty();
            return;
        }
        if self.next >= end || self.shared.oracle.borrow().unsettled() > MAX_UNSETTLED {
            return;
        }
        let bursty = plan.workload == Workload::Bursty;
        let batch = u64::from(plan.batch);
        let mut left = if bursty { 64 } else { rng.below(batch + 1) };
        while left != 0 && self.next < end {
            if self.next < self.ops && !plan.keeps(self.next) {
                self.next += 1;
                continue;
            }
            let op = Op::draw(plan, self.next);
            match ring.try_push(&op) {
                Ok(()) => {}
                Err(PushError::Full) => {
                    self.full += 1;
                    break;
                }
                Err(error) => {
                    self.shared.violate(|| format!("the operations' ring: {error}"));
                    return;
                }
            }
            self.shared.event(Who::Host, What::Send, op.numbers());
            self.pending.push_back(self.next);
            self.next += 1;
            self.sent += 1;
            left -= 1;
        }
        self.resting = bursty;
    }

    /// Takes answers; each belongs to an operation that waits for one. Returns how many.
    pub(crate) fn take(&mut self, ring: &Consumer<Answer>, plant: Plant) -> u32 {
        let mut taken = 0;
        loop {
            let answer = match ring.pop() {
                Ok(answer) => answer,
                Err(PopError::Empty) => return taken,
                Err(error) => {
                    self.shared.violate(|| format!("the answers' ring: {error}"));
                    return taken;
                }
            };
            taken += 1;
            match plant.strikes(answer.index) {
                Some(Plant::AnswerLost) => continue,
                Some(Plant::AnswerTwice) => self.take_one(answer),
                _ => {}
            }
            self.take_one(answer);
        }
    }

    fn take_one(&mut self, answer: Answer) {
        let Answer { index, code } = answer;
        self.shared.event(Who::Host, What::Answer, [index, code, 0]);
        let Some(place) = self.pending.iter().position(|pending| *pending == index) else {
            self.shared.violate(|| format!("operation {index} was answered and was not pending"));
            return;
        };
        self.pending.swap_remove_front(place);
        self.answered += 1;
        if let Some(count) = usize::try_from(code).ok().and_then(|at| self.codes.get_mut(at)) {
            *count += 1;
        }
    }

    /// The operation that comes next, whether it is sent or left out: what counts until a blow, so
    /// that leaving operations out moves none.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// The partition is gone, and with it what it had not answered.
    pub(crate) fn lose(&mut self) {
        self.lost += self.pending.len() as u64;
        self.pending.clear();
        self.resting = false;
    }
}
