//! The host's supervision of the partition, on the virtual clock.
//!
//! The decisions are the real ones ([`hybrid_policy`], which `host_bridge::supervisor` carries
//! out): a [`Watchman`] looks every few milliseconds, and at once when the process has ended, and
//! the world does what the policy says. When the policy says that supervision is over, somebody
//! starts the service again by hand, with a policy that knows of nothing.
//!
//! What is held against it here: a partition that lives and was not stopped is never asked for a
//! dump nor killed; one that hangs is, in time; nothing is started before what was there is gone
//! and fenced; what is to be started again is, within the fence's limit and the longest delay. That
//! no acknowledged write is lost on the way is the oracle's business, which knows of all this only
//! the fence.

use std::time::Duration;

use hybrid_policy::fallback::Fallback;
use hybrid_policy::policy::Seen;
use hybrid_policy::policy::{Action, Alarm, Cause, Ending, Limits, Over, Phase, Policy, Polled};
use hybrid_policy::restart::{BackOff, CrashLimit, RestartPolicy, Restarts};
use nvme_model::Rng;

use super::{Stage, World};
use crate::plan::Plan;
use crate::tape::{What, Who};

/// From one look to the next, at least and at most: `host_bridge::supervisor` sleeps for 5 ms.
const LOOK_NS: (u64, u64) = (1_000_000, 5_000_000);

/// Actions of one look: as many as the real one carries out.
const ACTIONS: u32 = 8;

/// From a death to the end of its fence, where nothing holds it: measured up to 23 ms.
const FENCE_NS: u64 = 23_000_000;

/// Until somebody starts again by hand what was given up.
const BY_HAND_NS: u64 = 1_000_000_000;

/// What the looks may add to a deadline: three of them until silence counts, and one an action.
const SLACK_NS: u64 = 12 * LOOK_NS.1;

/// What became of the partition's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// It makes passes.
    Alive,
    /// It makes none. It may still hear a request for a dump, and may be in the middle of a task.
    Hung { hears: bool, in_task: bool },
    /// Somebody stopped it.
    Stopped,
    /// It has ended, in this way.
    Dead(Ending),
}

impl Body {
    pub(super) const fn is_dead(self) -> bool {
        matches!(self, Self::Dead(_))
    }
}

/// The one who looks, and what fate has in store for what he does.
pub(super) struct Watchman {
    policy: Policy,
    fallback: Fallback,
    /// Where the policy's time begins.
    begun: u64,
    next_look: u64,
    stop_asked: bool,
    /// When the service is started by hand, supervision being over.
    by_hand: Option<u64>,
    /// Since when it hangs or is dead, and what it died of.
    since: u64,
    fenced: bool,
    /// When the fence was open.
    fenced_at: u64,
    fence_opens: u64,
    /// It hears what the dead partition still said: not after its own death.
    hears: bool,
    /// When a stopped process, or the host, goes on.
    wakes: u64,
    host_wakes: u64,
    /// How long the next fence is held, starts that fail, and how the next crash is told.
    held_ns: u64,
    refusals: u32,
    pub(super) dies_as: Ending,
    /// The operation from which on the service goes back to the controller.
    back_at: Option<u64>,
    rng: Rng,
}

impl Watchman {
    /// Looks at the first incarnation, which is started now.
    pub(super) fn new(plan: &Plan, now: u64) -> Self {
        Self {
            policy: Self::policy(plan),
            fallback: Self::fallback(plan),
            begun: now,
            next_look: now,
            stop_asked: false,
            by_hand: None,
            since: 0,
            fenced: false,
            fenced_at: 0,
            fence_opens: 0,
            hears: true,
            wakes: 0,
            host_wakes: 0,
            held_ns: 0,
            refusals: 0,
            dies_as: Ending::Killed,
            back_at: None,
            rng: Rng::new(plan.seed ^ 0x5EE5),
        }
    }

    fn policy(plan: &Plan) -> Policy {
        let restart = match plan.restart {
            0 => RestartPolicy::Never,
            1 => RestartPolicy::OnAbnormal,
            2 => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        };
        let limit = match plan.crash_limit {
            0 => CrashLimit::OFF,
            crashes => CrashLimit { crashes, ..CrashLimit::default() },
        };
        let restarts = Restarts::new(restart, limit, BackOff::default());
        Policy::new(Limits::default(), restarts, Duration::ZERO)
    }

    fn fallback(plan: &Plan) -> Fallback {
        if plan.fallback { Fallback::to("nvme", "uring") } else { Fallback::default() }
    }

    /// The service is started anew, by somebody who knows of nothing.
    fn begin_anew(&mut self, plan: &Plan, now: u64) {
        (self.policy, self.fallback) = (Self::policy(plan), Self::fallback(plan));
        (self.begun, self.next_look) = (now, now);
        (self.stop_asked, self.by_hand, self.back_at) = (false, None, None);
    }

    fn time(&self, now: u64) -> Duration {
        Duration::from_nanos(now.saturating_sub(self.begun))
    }

    /// When something happens next while the partition does nothing.
    pub(super) fn next(&self, body: Body, now: u64) -> u64 {
        let look = self.by_hand.unwrap_or(self.next_look).max(self.host_wakes);
        let next = if body == Body::Stopped { look.min(self.wakes) } else { look };
        next.max(now)
    }

    pub(super) const fn host_is_stopped(&self, now: u64) -> bool {
        now < self.host_wakes
    }

    pub(super) const fn stop_host(&mut self, until: u64) {
        self.host_wakes = until;
    }

    pub(super) const fn restart_asked(&mut self) {
        self.policy.restart_asked();
    }

    /// The next fence does not open for so much longer.
    pub(super) const fn hold(&mut self, ns: u64) {
        self.held_ns = ns;
    }

    /// So many starts fail.
    pub(super) const fn refuse(&mut self, starts: u32) {
        self.refusals = starts;
    }

    pub(super) const fn heal(&mut self) {
        (self.held_ns, self.refusals, self.back_at) = (0, 0, None);
    }

    /// How long an incarnation may take to its first pass.
    pub(super) fn start_limit_ns(&self) -> u64 {
        u64::try_from(self.policy.limits().start.as_nanos()).unwrap_or(u64::MAX)
    }

    /// A number that differs where states differ.
    pub(super) fn digest(&self) -> u64 {
        self.rng.clone().next_u64() ^ self.next_look ^ self.fence_opens.rotate_left(32)
    }

    /// Whether it has been on the fallback for long enough.
    pub(super) fn is_to_go_back(&self, next: u64) -> bool {
        self.back_at.is_some_and(|at| next >= at)
    }
}

impl World<'_> {
    // ---- what happens to the partition -------------------------------------------------------

    /// The process has ended.
    pub(super) fn die(&mut self, ending: Ending) {
        let now = self.now();
        self.body = Body::Dead(ending);
        self.ending = true;
        self.shared.crash_in.set(0);
        self.shared.reach(&format!("end: {}", ending.word()), 1);
        let man = &mut self.watchman;
        let held = core::mem::take(&mut man.held_ns);
        (man.since, man.fenced, man.hears) = (now, false, true);
        man.fence_opens = now + man.rng.below(FENCE_NS) + held;
        // Its end wakes the host.
        man.next_look = now;
        self.shared.event(Who::Queues, What::Ended, [ending as u64, held / 1_000, 0]);
    }

    pub(super) fn hang(&mut self, choice: u64) {
        self.body = Body::Hung { hears: choice & 1 == 0, in_task: choice & 2 == 0 };
        self.watchman.since = self.now();
    }

    pub(super) fn stop_process(&mut self, until: u64) {
        self.body = Body::Stopped;
        self.watchman.wakes = until;
    }

    /// The host dies, its partition with it, and nobody hears what that still had to say.
    pub(super) fn host_crash(&mut self) {
        self.die(Ending::Killed);
        self.watchman.hears = false;
        self.give_up();
    }

    /// The power goes and comes back, and the machine starts its service.
    pub(super) fn power_cut(&mut self) {
        self.die(Ending::Killed);
        self.fence(true, false);
        self.watchman.fenced = true;
        self.start_by_hand();
    }

    /// Somebody stops the service, in order.
    pub(super) fn stop_service(&mut self) {
        self.watchman.stop_asked = true;
        self.end_partition();
    }

    /// From the fallback back to the controller: by hand, as it is for users.
    pub(super) fn go_back(&mut self) {
        self.shared.reach("back to the device", 1);
        self.stop_service();
    }

    // ---- looks -------------------------------------------------------------------------------

    /// Looks, if it is time, and does what is due.
    pub(super) fn supervise(&mut self) {
        let now = self.now();
        if self.body == Body::Stopped && now >= self.watchman.wakes {
            self.body = Body::Alive;
        }
        let due = self.watchman.by_hand.unwrap_or(self.watchman.next_look);
        if now < due || self.watchman.host_is_stopped(now) || self.stage == Stage::Done {
            return;
        }
        if self.watchman.by_hand.is_some() {
            self.start_by_hand();
            return;
        }
        let (least, most) = LOOK_NS;
        self.watchman.next_look = now + least + self.watchman.rng.below(most - least);
        for _ in 0..ACTIONS {
            let seen = self.see(now);
            let man = &mut self.watchman;
            man.policy.fallback(man.fallback.is_ready());
            let action = man.policy.step(&seen);
            if !self.obey(action, now) || self.shared.is_violated() {
                break;
            }
        }
    }

    fn see(&self, now: u64) -> Seen {
        let passes = self.partition.passes();
        let phase = match self.body {
            Body::Alive | Body::Stopped if self.ending => Phase::Stopping,
            _ if passes == 0 => Phase::Starting,
            _ => Phase::Running,
        };
        let age = Duration::from_nanos(now.saturating_sub(self.watchman.since));
        let in_task = matches!(self.body, Body::Hung { in_task: true, .. });
        Seen {
            now: self.watchman.time(now),
            ended: self.body.is_dead(),
            stopped: self.body == Body::Stopped,
            phase,
            passes,
            task: in_task.then_some(Polled { number: 1, age }),
            killable: true,
            stop_asked: self.watchman.stop_asked,
        }
    }

    /// Does what the policy says; false if nothing more comes at this look.
    fn obey(&mut self, action: Action, now: u64) -> bool {
        match action {
            Action::Wait => return false,
            Action::Alarm { what, .. } => self.alarm(what),
            Action::Clear { .. } => self.shared.reach("alarm over", 1),
            Action::AskDump(cause) => self.ask_dump(cause, now),
            Action::Kill(cause) => self.kill(cause, now),
            Action::Fence => return self.ask_fence(now),
            Action::Save { fenced } => {
                if !fenced {
                    self.shared.reach("device not free in time", 1);
                }
                let time = self.watchman.time(now);
                let next = self.watchman.policy.saved(time, None);
                self.follow(next, now);
            }
            Action::Delay(_) => {}
            Action::Start => self.start_again(now),
            Action::Over(over) => {
                self.over(over, now);
                return false;
            }
        }
        true
    }

    /// What the policy answered to an answer.
    fn follow(&mut self, next: Action, now: u64) {
        match next {
            Action::Delay(delay) => {
                self.shared.reach("restart decided", 1);
                let at = now + u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
                self.watchman.next_look = self.watchman.next_look.max(at);
                if delay.is_zero() {
                    self.watchman.next_look = now;
                } else {
                    self.shared.reach("restart after a delay", 1);
                }
            }
            Action::Over(over) => self.over(over, now),
            _ => {}
        }
    }

    fn alarm(&mut self, what: Alarm) {
        let name = match what {
            Alarm::Accused(cause) => cause.word(),
            Alarm::Stopped => "stopped",
            Alarm::DoesNotDie => "does-not-die",
        };
        self.shared.reach(&format!("alarm: {name}"), 1);
        if what == Alarm::Stopped && self.body != Body::Stopped {
            self.shared.violate(|| "an alarm tells of a stop that is none".to_owned());
        }
    }

    /// Only what hangs is accused beyond an alarm.
    fn check_accused(&mut self, what: &str, cause: Cause, beyond: Duration, now: u64) {
        let (body, since) = (self.body, self.watchman.since);
        let limits = *self.watchman.policy.limits();
        // Before its first pass it may be busy with its start.
        let quiet = if self.partition.passes() == 0 { limits.start } else { limits.heartbeat };
        let limit = quiet + limits.escalate + beyond;
        if !matches!(body, Body::Hung { .. }) {
            self.shared.violate(|| format!("a partition that is {body:?} {what}: {cause:?}"));
            return;
        }
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX) + SLACK_NS;
        // Of the host's own sleep nobody is to blame: it counts what it sees once it is back.
        let since = since.max(self.watchman.host_wakes);
        let late = now.saturating_sub(since);
        if late > limit {
            self.shared.violate(|| format!("it {what} after {late} ns, allowed are {limit}"));
        }
    }

    fn ask_dump(&mut self, cause: Cause, now: u64) {
        self.shared.reach("asked for a dump", 1);
        self.check_accused("is asked for a dump", cause, Duration::ZERO, now);
        if matches!(self.body, Body::Hung { hears: true, .. }) {
            self.die(Ending::Crashed);
        }
    }

    fn kill(&mut self, cause: Cause, now: u64) {
        let dump = self.watchman.policy.limits().dump;
        self.shared.reach("killed by its supervisor", 1);
        self.check_accused("is killed", cause, dump, now);
        self.die(Ending::Killed);
    }

    fn ask_fence(&mut self, now: u64) -> bool {
        let Body::Dead(ending) = self.body else {
            let body = self.body;
            self.shared.violate(|| format!("a partition that is {body:?} is fenced"));
            return false;
        };
        let free = now >= self.watchman.fence_opens;
        if free {
            self.fence_once(now);
        }
        self.watchman.policy.fenced(free, ending);
        free
    }

    fn fence_once(&mut self, now: u64) {
        if !self.watchman.fenced {
            (self.watchman.fenced, self.watchman.fenced_at) = (true, now);
            self.fence(false, self.watchman.hears);
        }
    }

    fn over(&mut self, over: Over, now: u64) {
        let why = match over {
            Over::Ended(ending) => ending.word(),
            Over::CrashLoop(..) => "crash loop",
            Over::NotFenced(_) => "not fenced",
        };
        self.shared.reach(&format!("supervision over: {why}"), 1);
        if self.stage == Stage::Closing {
            if over != Over::Ended(Ending::Done) {
                self.shared.violate(|| format!("the last shutdown ended in {over:?}"));
            }
            self.fence_once(now);
            self.stage = Stage::Done;
            return;
        }
        self.give_up();
    }

    /// Until somebody starts the service again by hand.
    fn give_up(&mut self) {
        let now = self.now();
        let man = &mut self.watchman;
        man.by_hand = Some(man.fence_opens.max(now) + 1 + man.rng.below(BY_HAND_NS));
    }

    // ---- starts ------------------------------------------------------------------------------

    fn start_by_hand(&mut self) {
        let now = self.now();
        self.fence_once(now);
        self.shared.reach("started by hand", 1);
        self.watchman.begin_anew(self.plan, now);
        self.start(false);
    }

    /// The policy wants the next incarnation.
    fn start_again(&mut self, now: u64) {
        let Body::Dead(ending) = self.body else {
            let body = self.body;
            self.shared.violate(|| format!("a start beside a partition that is {body:?}"));
            return;
        };
        let man = &mut self.watchman;
        if !man.fenced {
            self.shared.violate(|| "a start before the fence".to_owned());
            return;
        }
        let cap = u64::try_from(BackOff::default().cap.as_nanos()).unwrap_or(u64::MAX);
        // Of the host's own sleep nobody is to blame.
        let from = man.fenced_at.max(man.host_wakes);
        if now.saturating_sub(from) > cap + SLACK_NS {
            let late = now - from;
            self.shared.violate(|| format!("started again {late} ns after the fence"));
        }
        let time = man.time(now);
        if man.refusals != 0 {
            man.refusals -= 1;
            // The next delay counts from here.
            man.fenced_at = now;
            let next = man.policy.started(time, false);
            self.shared.reach("start refused", 1);
            self.follow(next, now);
            return;
        }
        if ending.blames_device() && man.fallback.take() {
            self.shared.reach("fell back", 1);
        }
        let fallback = man.fallback.is_taken();
        man.policy.started(time, true);
        self.start(fallback);
    }

    fn start(&mut self, fallback: bool) {
        let next = self.host.next();
        let man = &mut self.watchman;
        if fallback && man.back_at.is_none() {
            man.back_at = Some(next + 200 + man.rng.below(1_800));
        }
        if let Err(error) = self.next_incarnation(fallback) {
            self.shared.violate(|| format!("no new partition: {error}"));
        }
    }
}
