//! Faults that the model makes on purpose.
//!
//! A [`FaultPlan`] is a list of rules. Each fetched command is held against them in order; the
//! first that matches decides. The plan draws from the model's seed, so a run can be repeated.
//! Faults of the whole controller are injected by a rule, or by [`crate::Model::inject`].

use crate::rng::Rng;
use core::ops::RangeInclusive;
use nvme_spec::{AdminOpcode, AsyncEvent, NvmOpcode, QueueId, Sqe, Status};
use std::sync::Arc;

/// Which queue a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnQueue {
    /// The admin queue.
    Admin,
    /// Every I/O queue.
    Io,
    /// One submission queue.
    Sq(u16),
}

/// Which of the commands that match otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Each.
    Always,
    /// The n-th, counted from 1, and no other.
    Nth(u64),
    /// The first n.
    First(u64),
    /// All after the first n.
    After(u64),
    /// Every n-th.
    Every(u64),
    /// With this probability, in parts of a million.
    PerMillion(u32),
}

/// A condition and what happens where it holds.
#[derive(Clone, Debug)]
pub struct FaultRule {
    queue: OnQueue,
    opcode: Option<u8>,
    nsid: Option<u32>,
    lbas: Option<RangeInclusive<u64>>,
    cid: Option<u16>,
    when: When,
    action: FaultAction,
    matched: u64,
}

impl FaultRule {
    /// On admin commands of one opcode.
    #[must_use]
    pub const fn admin(opcode: AdminOpcode, action: FaultAction) -> Self {
        Self::on(OnQueue::Admin, action).opcode(opcode.0)
    }

    /// On I/O commands of one opcode.
    #[must_use]
    pub const fn io(opcode: NvmOpcode, action: FaultAction) -> Self {
        Self::on(OnQueue::Io, action).opcode(opcode.0)
    }

    /// On every command of a queue.
    #[must_use]
    pub const fn on(queue: OnQueue, action: FaultAction) -> Self {
        Self {
            queue,
            opcode: None,
            nsid: None,
            lbas: None,
            cid: None,
            when: When::Always,
            action,
            matched: 0,
        }
    }

    /// Only this opcode.
    #[must_use]
    pub const fn opcode(mut self, opcode: u8) -> Self {
        self.opcode = Some(opcode);
        self
    }

    /// Only this namespace.
    #[must_use]
    pub const fn nsid(mut self, nsid: u32) -> Self {
        self.nsid = Some(nsid);
        self
    }

    /// Only reading, writing, comparing and zeroing commands that touch one of these blocks.
    #[must_use]
    pub const fn lbas(mut self, lbas: RangeInclusive<u64>) -> Self {
        self.lbas = Some(lbas);
        self
    }

    /// Only this command identifier.
    #[must_use]
    pub const fn cid(mut self, cid: u16) -> Self {
        self.cid = Some(cid);
        self
    }

    /// Only some of the commands that match.
    #[must_use]
    pub const fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    /// Whether this command is one, counting it if it matches.
    fn takes(&mut self, sqid: u16, sqe: &Sqe, rng: &mut Rng) -> bool {
        let queue = match self.queue {
            OnQueue::Admin => sqid == 0,
            OnQueue::Io => sqid != 0,
            OnQueue::Sq(only) => sqid == only,
        };
        if !queue
            || self.opcode.is_some_and(|opcode| opcode != sqe.opcode())
            || self.nsid.is_some_and(|nsid| nsid != sqe.nsid().0)
            || self.cid.is_some_and(|cid| cid != sqe.cid().0)
        {
            return false;
        }
        if let Some(lbas) = &self.lbas {
            let has_range = matches!(
                NvmOpcode(sqe.opcode()),
                NvmOpcode::READ | NvmOpcode::WRITE | NvmOpcode::COMPARE | NvmOpcode::WRITE_ZEROES
            );
            let first = sqe.slba().0;
            let last = first.saturating_add(u64::from(sqe.nlb()) - 1);
            if sqid == 0 || !has_range || last < *lbas.start() || first > *lbas.end() {
                return false;
            }
        }
        self.matched += 1;
        match self.when {
            When::Always => true,
            When::Nth(n) => self.matched == n,
            When::First(n) => self.matched <= n,
            When::After(n) => self.matched > n,
            When::Every(n) => n != 0 && self.matched.is_multiple_of(n),
            When::PerMillion(parts) => rng.below(1_000_000) < u64::from(parts),
        }
    }
}

/// What happens to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultAction {
    /// Fails with this status, without a transfer.
    Status(Status),
    /// Is carried out and then reported with this status.
    StatusAfter(Status),
    /// Never completes.
    Drop,
    /// Takes this much longer, in nanoseconds.
    DelayNs(u64),
    /// Its completion is spoilt.
    Cqe(CqeFault),
    /// Its data are spoilt; the status says success.
    Data(DataFault),
    /// The controller as a whole fails when the command comes; the command is lost if it stops.
    Controller(ControllerFault),
}

/// How a completion is spoilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CqeFault {
    /// Posted twice.
    Twice,
    /// CID xored with this, instead of the right one.
    WrongCid(u16),
    /// An extra entry comes first, with the CID xored with this.
    Extra(u16),
    /// SQID set to this.
    WrongSqid(u16),
    /// SQHD set to this.
    WrongSqhd(u16),
    /// The entry after it gets its phase bit early, over stale content.
    PhaseEarly,
    /// The phase bit does not flip: the entry is written with the old one.
    PhaseStuck,
    /// Posted even if the queue is full.
    Overrun,
    /// The four dwords are stored one a step, in this order.
    Order([u8; 4]),
}

/// How a transfer is spoilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFault {
    /// Nothing is transferred.
    Nothing,
    /// Only the first half is transferred.
    Half,
    /// One bit, drawn from the seed, is flipped.
    BitFlip,
    /// Blocks that lie this much further (or, negative, before) are transferred.
    WrongLba(i64),
}

/// A fault of the whole controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerFault {
    /// CSTS.CFS: nothing is served until a reset.
    Fatal,
    /// Every register reads all ones and nothing is served: surprise removal.
    AllOnes,
    /// Every register reads all zeros and nothing is served.
    AllZeros,
    /// CSTS.RDY never becomes 1.
    NeverReady,
    /// CSTS.RDY never becomes 0.
    NeverNotReady,
    /// CSTS.SHST never becomes 2.
    NeverShutDown,
    /// A subsystem reset behind the host's back: disabled, CSTS.NSSRO set.
    SubsystemReset,
    /// No queue is served for this long, in nanoseconds.
    PauseNs(u64),
    /// An event, reported when a request is there and the host wants it.
    Event(AsyncEvent),
    /// The critical warning byte of the SMART log, with the events of the bits that are new.
    CriticalWarning(u8),
    /// So many events, reported without regard to masks.
    EventStorm(AsyncEvent, u32),
}

/// What the controller answers to an Abort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AbortPolicy {
    /// A command that is still there is aborted, both complete.
    #[default]
    Honest,
    /// "Not aborted", always; the command goes on.
    Refuse,
    /// "Aborted", but the command goes on and completes later.
    Lie,
}

/// A fault that hit a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultNote {
    /// The model's time.
    pub now_ns: u64,
    /// Queue of the command.
    pub sqid: QueueId,
    /// The command.
    pub sqe: Sqe,
    /// What happens to it.
    pub action: FaultAction,
    /// False when the fault was decided on, as the command was fetched; true when a spoilt
    /// transfer or completion has been made.
    pub done: bool,
}

/// Faults by number: the n-th command that is fetched, counted from 1, has this one.
#[derive(Clone, Debug, Default)]
struct Schedule {
    faults: Arc<[(u64, FaultAction)]>,
    next: usize,
    fetched: u64,
}

impl Schedule {
    fn takes(&mut self) -> Option<FaultAction> {
        self.fetched += 1;
        let (at, action) = *self.faults.get(self.next)?;
        if at > self.fetched {
            return None;
        }
        self.next += 1;
        Some(action)
    }
}

/// Rules, in order, and schedules, which come first.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    rules: Vec<FaultRule>,
    admin: Schedule,
    io: Schedule,
}

impl FaultPlan {
    /// No faults.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// With these faults on the n-th command that is fetched from the admin queue (`admin`), or
    /// from any I/O queue, whatever it is; n counts from 1. Of several for one command the later
    /// ones hit the next commands.
    #[must_use]
    pub fn scheduled(mut self, admin: bool, mut faults: Vec<(u64, FaultAction)>) -> Self {
        faults.sort_by_key(|(at, _)| *at);
        let schedule = Schedule { faults: faults.into(), next: 0, fetched: 0 };
        if admin {
            self.admin = schedule;
        } else {
            self.io = schedule;
        }
        self
    }

    /// With one more rule at the end.
    #[must_use]
    pub fn with(mut self, rule: FaultRule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Whether there are no rules and no schedules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.admin.faults.is_empty() && self.io.faults.is_empty()
    }

    /// What happens to this command. All rules up to the deciding one count it.
    pub(crate) fn decide(&mut self, sqid: u16, sqe: &Sqe, rng: &mut Rng) -> Option<FaultAction> {
        let schedule = if sqid == 0 { &mut self.admin } else { &mut self.io };
        if let Some(action) = schedule.takes() {
            return Some(action);
        }
        self.rules.iter_mut().find_map(|rule| rule.takes(sqid, sqe, rng).then_some(rule.action))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvme_spec::{Cdw12Io, Cid, Lba, Nsid, StatusCode};

    const FAIL: FaultAction = FaultAction::Status(StatusCode::INTERNAL_ERROR.status());

    fn read(slba: u64, nlb_z: u16) -> Sqe {
        let flags = Cdw12Io::empty();
        Sqe::io(NvmOpcode::READ, Cid(1), Nsid(1), Lba(slba), nlb_z, flags)
    }

    fn hits(when: When) -> Vec<u32> {
        let mut plan = FaultPlan::none().with(FaultRule::io(NvmOpcode::READ, FAIL).when(when));
        let mut rng = Rng::new(1);
        (1..=6).filter(|_| plan.decide(1, &read(0, 0), &mut rng).is_some()).collect()
    }

    #[test]
    fn when_selects_by_count() {
        assert_eq!(hits(When::Always), [1, 2, 3, 4, 5, 6]);
        assert_eq!(hits(When::Nth(3)), [3]);
        assert_eq!(hits(When::First(2)), [1, 2]);
        assert_eq!(hits(When::After(4)), [5, 6]);
        assert_eq!(hits(When::Every(2)), [2, 4, 6]);
        assert_eq!(hits(When::Every(0)), [0_u32; 0]);
        assert_eq!(hits(When::PerMillion(0)), [0_u32; 0]);
        assert_eq!(hits(When::PerMillion(1_000_000)), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_schedule_hits_the_nth_command_of_its_queues_and_comes_before_the_rules() {
        let rule = FaultRule::on(OnQueue::Io, FAIL).when(When::Nth(3));
        let faults = vec![(3, FaultAction::Drop), (1, FaultAction::DelayNs(7)), (3, FAIL)];
        let mut plan = FaultPlan::none().with(rule).scheduled(false, faults);
        let mut rng = Rng::new(1);
        let mut hit = |sqid| plan.decide(sqid, &read(0, 0), &mut rng);
        assert_eq!((hit(1), hit(0)), (Some(FaultAction::DelayNs(7)), None));
        assert_eq!((hit(2), hit(1)), (None, Some(FaultAction::Drop)));
        assert_eq!(hit(1), Some(FAIL), "the second of one number comes with the next command");
        assert_eq!((hit(1), hit(1)), (None, Some(FAIL)), "the rule counts what the schedule left");
    }

    #[test]
    fn block_ranges_match_by_overlap() {
        let rule = FaultRule::io(NvmOpcode::READ, FAIL).lbas(10..=11);
        let mut plan = FaultPlan::none().with(rule);
        let mut rng = Rng::new(1);
        let mut hit = |slba, nlb_z| plan.decide(1, &read(slba, nlb_z), &mut rng).is_some();
        assert!(hit(10, 0) && hit(11, 5) && hit(3, 7));
        assert!(!hit(9, 0) && !hit(12, 0) && !hit(3, 6));
        assert!(!hit(u64::MAX, u16::MAX));
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let mut plan = FaultPlan::none()
            .with(FaultRule::on(OnQueue::Sq(2), FaultAction::Drop).cid(1))
            .with(FaultRule::on(OnQueue::Io, FAIL).nsid(1));
        let mut rng = Rng::new(1);
        assert_eq!(plan.decide(2, &read(0, 0), &mut rng), Some(FaultAction::Drop));
        assert_eq!(plan.decide(1, &read(0, 0), &mut rng), Some(FAIL));
        assert_eq!(plan.decide(0, &read(0, 0), &mut rng), None);
    }
}
