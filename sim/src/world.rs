//! A run: host, rings, partition and device on one virtual clock, and the blows of fate.
//!
//! One pass lets the host send, the controller work (before the partition, after it, or not at
//! all), the partition make a pass of its loop, and the host take answers; then time goes on, by
//! little, or to whatever is due next if nobody had anything to do. All of it is drawn from the
//! plan's seed. The host's supervision ([`supervise`]) looks at the partition every few
//! milliseconds, fences what died and starts what comes next, on the controller or on the fallback.
//! When the workload is through, all blocks are read once more without faults, and an orderly
//! shutdown ends the run.
//!
//! ```text
//!   Working --all answered--> Verifying --all answered--> Closing --off--> done
//!      |  ^
//!      |  +-- started --- supervision: alarms, kill, fence, back-off, fallback, by hand
//!      +--- ended, failed, died, hangs, stopped ---^
//! ```

mod ends;
mod supervise;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use core_runtime::clock::{Instant, ManualClock};
use core_runtime::ring::{Consumer, Producer, RingSpec, pair};
use hybrid_shm::leak_aligned;
use nvme_driver::DeviceParts;
use nvme_model::Rng;

use crate::catalogue::Deed;
use crate::cost::Cost;
use crate::device::Device;
use crate::host::Host;
use crate::kernel::{Fortune, Kernel};
use crate::op::{Answer, Op};
use crate::oracle::{Oracle, Seen};
use crate::partition::{Partition, Passed};
use crate::plan::Plan;
use crate::planted::Plant;
use crate::shared::{Died, Reached, Shared};
use crate::tape::{Event, STATES, Tape, What, Who};
pub(crate) use ends::HELD_NS;
use supervise::{Body, Watchman};

/// Virtual time without an answer after which the run is said to hang: far beyond a controller that
/// fails all its bring-ups.
const HANG_NS: u64 = 60_000_000_000;

/// The same in passes, for a clock that stands.
const HANG_PASSES: u64 = 2_000_000;

/// Housekeeping while ready is due once a millisecond, otherwise ten times as often.
const READY_STEP_NS: u64 = 1_000_000;
const OTHER_STEP_NS: u64 = 100_000;

/// Passes in which tasks are polled and nothing moves, after which time goes on as if all slept.
const MAX_SPINS: u32 = 32;

/// Passes without anything in flight after which abandoned writes are over.
const QUIET_PASSES: u32 = 4;

/// Passes after which a command that the device alone still has is taken from it by a reset: its
/// driver had to believe a stray answer, and the command's own was dropped.
const FORGOTTEN_PASSES: u32 = 10_000;

/// What to keep of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// Events of the timeline, the last ones.
    pub timeline: usize,
    /// A hash of trace and state after every so many events; 0 is none.
    pub check_every: u64,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was wrong first, if anything.
    pub violation: Option<String>,
    /// Operations sent.
    pub ops: u64,
    /// I/O commands that the controller fetched.
    pub commands: u64,
    /// Faults and blows that struck.
    pub faults: u64,
    /// Events of the trace, and their hash.
    pub events: u64,
    /// Hash of all events.
    pub trace_hash: u64,
    /// Hash of the state at the end: what the namespaces hold, counters, generators.
    pub state_hash: u64,
    /// Virtual time.
    pub time_ns: u64,
    /// What the reads showed.
    pub seen: Seen,
    /// What was reached, by name.
    pub reached: Reached,
    /// The last events, if asked for.
    pub timeline: Vec<Event>,
    /// Trace and state hashes, if asked for.
    pub checks: Vec<(u64, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Working,
    Verifying,
    Closing,
    Done,
}

struct World<'p> {
    plan: &'p Plan,
    rng: Rng,
    shared: Rc<Shared>,
    device: Device,
    host: Host,
    /// The host's kernel, while it has the device.
    kernel: Option<Kernel>,
    fortune: Fortune,
    partition: Rc<Partition>,
    /// What became of its process.
    body: Body,
    watchman: Watchman,
    sending: Producer<Op>,
    taking: Consumer<Answer>,
    blows: VecDeque<usize>,
    stage: Stage,
    /// The incarnation is on its way out: nothing is sent to it.
    ending: bool,
    state: usize,
    /// The operation from which on the namespace has its size again.
    resized_until: u64,
    /// Passes for which the clock stands.
    still: u32,
    spins: u32,
    quiet: u32,
    forgotten: u32,
    passes: u64,
    progress: (u64, u64),
    progress_at: (u64, u64),
    plant: Plant,
    /// Somebody wants hashes of the state.
    checks: bool,
    /// Phases that had flipped early when the queues before these were given up, and these made.
    early: (u64, u64),
    /// Mistakes of the driver that the controller saw last.
    complaints: Vec<String>,
}

/// Runs a plan.
#[must_use]
pub fn run(plan: &Plan, watch: Watch) -> Outcome {
    match World::new(plan, watch) {
        Ok(mut world) => {
            while world.stage != Stage::Done && !world.shared.is_violated() {
                world.pass();
            }
            // What the controller says of it may be the cause.
            world.complaints = world.device.mistakes();
            world.outcome()
        }
        Err(error) => Outcome {
            violation: Some(format!("the run could not begin: {error}")),
            ops: 0,
            commands: 0,
            faults: 0,
            events: 0,
            trace_hash: 0,
            state_hash: 0,
            time_ns: 0,
            seen: Seen::default(),
            reached: Reached::new(),
            timeline: Vec::new(),
            checks: Vec::new(),
        },
    }
}

type Rings = ((Producer<Op>, Consumer<Op>), (Producer<Answer>, Consumer<Answer>));

fn rings(plan: &Plan, incarnation: u64) -> Result<Rings, String> {
    // Indices that wrap soon.
    let first = u32::MAX - 100;
    let shape = |spec: RingSpec| spec.with_epoch(incarnation).with_first_index(first);
    let parts = |spec: &RingSpec| {
        (leak_aligned(spec.producer_bytes(), 128), leak_aligned(spec.consumer_bytes(), 128))
    };
    let ops = shape(RingSpec::fixed::<Op>(plan.ring).map_err(|error| error.to_string())?);
    let answers = shape(RingSpec::fixed::<Answer>(plan.ring).map_err(|error| error.to_string())?);
    let ((op_tail, op_head), (answer_tail, answer_head)) = (parts(&ops), parts(&answers));
    Ok((
        pair(op_tail, op_head, ops).map_err(|error| error.to_string())?,
        pair(answer_tail, answer_head, answers).map_err(|error| error.to_string())?,
    ))
}

impl<'p> World<'p> {
    fn new(plan: &'p Plan, watch: Watch) -> Result<Self, String> {
        let clock: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1_000_000)));
        let oracle = Oracle::new(plan.blocks, plan.awun, plan.awupf);
        let tape = Tape::new(watch.timeline, watch.check_every);
        let shared = Rc::new(Shared::new(oracle, tape, clock));
        let mut device = Device::new(plan, shared.clone())?;
        let ((sending, commands), (answers, taking)) = rings(plan, 1)?;
        let ends = (commands, answers);
        let arena = device.memory(true)?;
        let parts = (DeviceParts::Nvme(device.parts(arena)), arena);
        let partition = Partition::start(plan, parts, ends, shared.clone())?;
        let is_blow = |at: &usize| matches!(plan.faults[*at].deed(), Deed::World(_));
        Ok(Self {
            plan,
            rng: Rng::new(plan.seed),
            host: Host::new(plan, shared.clone()),
            shared,
            device,
            kernel: None,
            fortune: Fortune::new(plan),
            partition,
            body: Body::Alive,
            watchman: Watchman::new(plan, 1_000_000),
            sending,
            taking,
            blows: (0..plan.faults.len()).filter(is_blow).collect(),
            stage: Stage::Working,
            ending: false,
            state: 0,
            resized_until: 0,
            still: 0,
            spins: 0,
            quiet: 0,
            forgotten: 0,
            passes: 0,
            progress: (0, 0),
            progress_at: (0, 0),
            plant: Plant::of(plan.plant),
            checks: watch.check_every != 0,
            early: (0, 0),
            complaints: Vec::new(),
        })
    }

    /// What the generators would give next.
    fn chance(&self) -> u64 {
        let others = self.fortune.digest() ^ self.watchman.digest().rotate_left(29);
        self.rng.clone().next_u64() ^ others
    }

    fn now(&self) -> u64 {
        self.shared.clock.now().ticks()
    }

    // ---- a pass ------------------------------------------------------------------------------

    fn pass(&mut self) {
        self.passes += 1;
        if self.checks {
            let state = self.chance() ^ self.device.digest();
            self.shared.state.set(state.rotate_left(17) ^ self.partition.digest());
        }
        self.strike();
        if self.plant.strikes(self.passes) == Some(Plant::ResetAtRandom) {
            self.request_reset();
        }
        let host = !self.watchman.host_is_stopped(self.now());
        // It does not know of one that hangs or is stopped.
        if host && !self.ending && self.stage != Stage::Closing {
            let verify = self.stage == Stage::Verifying;
            self.host.send(self.plan, &mut self.rng, &self.sending, verify);
        }
        let lag = u64::from(self.plan.lag_one_in);
        let lags = lag != 0 && self.rng.below(lag) == 0;
        let turn = self.rng.below(4);
        let mut worked = false;
        if !lags && turn != 0 {
            worked |= self.step_device();
        }
        let passed = match self.body {
            Body::Alive => self.let_pass(),
            _ => Passed::NOTHING,
        };
        if !lags && turn != 1 {
            worked |= self.step_device();
        }
        let mut taken = 0;
        if host && !self.body.is_dead() && (turn != 3 || passed.idle) {
            taken = self.host.take(&self.taking, self.plant);
        }
        self.watch_quiet(!worked && !lags);
        if self.body == Body::Alive {
            self.watch_state();
            self.advance(passed, worked || taken != 0, lags);
            self.move_on();
        } else {
            self.pass_time();
        }
        self.supervise();
        self.watch_progress();
    }

    /// Whoever has the device works.
    fn step_device(&mut self) -> bool {
        match &mut self.kernel {
            Some(kernel) => kernel.step(self.plan, &self.device, &mut self.fortune, &self.shared),
            None => self.device.step(self.plan),
        }
    }

    /// One pass of the partition's loop, in which it may die.
    fn let_pass(&mut self) -> Passed {
        let now = Instant::from_ticks(self.now());
        if self.shared.crash_in.get() == 0 {
            return self.partition.pass(now);
        }
        match catch_unwind(AssertUnwindSafe(|| self.partition.pass(now))) {
            Ok(passed) => passed,
            Err(payload) if payload.is::<Died>() => {
                self.die(self.watchman.dies_as);
                Passed::NOTHING
            }
            Err(payload) => resume_unwind(payload),
        }
    }

    /// Nothing in flight for a while: what was abandoned is over.
    fn watch_quiet(&mut self, device_idle: bool) {
        if self.shared.oracle.borrow().unsettled() == 0 {
            self.quiet = 0;
            return;
        }
        let nothing = device_idle
            && match &self.kernel {
                Some(kernel) => kernel.in_flight() == 0,
                None => self.device.with(|model| model.io_in_flight()) == Some(0),
            }
            && self.partition.device.stats().io.in_flight == 0;
        let waits = self.state == 1 && self.host.pending() == 0;
        self.forgotten = if waits && !nothing { self.forgotten + 1 } else { 0 };
        if self.forgotten >= FORGOTTEN_PASSES {
            self.forgotten = 0;
            self.shared.may_cost(Cost::Device);
            self.request_reset();
        }
        self.quiet = if nothing { self.quiet + 1 } else { 0 };
        if self.quiet >= QUIET_PASSES {
            self.quiet = 0;
            self.shared.oracle.borrow_mut().settle();
        }
    }

    fn watch_state(&mut self) {
        let state = self.partition.state();
        if state != self.state {
            let way = format!("state {} -> {}", STATES[self.state], STATES[state]);
            self.shared.reach(&way, 1);
            self.state = state;
            if state == 2 {
                self.forget_early_phases();
            }
            self.shared.event(Who::Queues, What::State, [state as u64, 0, 0]);
        }
        if state >= 4 {
            self.ending = true;
        }
    }

    /// The queues are given up: what an early phase made their driver take is of the past when the
    /// next ones are, since doorbells may be looked at late.
    fn forget_early_phases(&mut self) {
        self.check_mistakes();
        self.early = (self.early.1, self.early_phases());
    }

    fn advance(&mut self, passed: Passed, busy: bool, lags: bool) {
        // Tasks that find no place in a line ask again and again: that moves nothing.
        self.spins = if busy || !passed.quiet { 0 } else { self.spins + 1 };
        let idle = passed.idle && !lags || self.spins > MAX_SPINS;
        let clock = self.shared.clock;
        if self.still != 0 {
            self.still -= 1;
            return;
        }
        let now = self.now();
        let little = 1 + self.rng.below(self.plan.pass_ns.into());
        if busy || !idle {
            clock.advance(little);
            return;
        }
        let step = if self.state == 1 { READY_STEP_NS } else { OTHER_STEP_NS };
        let timer = passed.next_timer.map(Instant::ticks);
        // What was due and did not come is held back: it does not stop the time.
        let due = [self.next_due(now), timer, Some(now + step)];
        let next = due.into_iter().flatten().min().unwrap_or(now);
        clock.set(next.max(now + little));
    }

    /// When the device has something to do, if that is still to come.
    fn next_due(&self, now: u64) -> Option<u64> {
        let due = match &self.kernel {
            Some(kernel) => kernel.next_due_ns(),
            None => self.device.next_due_ns(),
        };
        due.filter(|due| *due > now)
    }

    /// Time goes on though the partition does nothing.
    fn pass_time(&mut self) {
        let now = self.now();
        let next = [self.next_due(now), Some(self.watchman.next(self.body, now))];
        let next = next.into_iter().flatten().min().unwrap_or(now);
        let little = 1 + self.rng.below(self.plan.pass_ns.into());
        self.shared.clock.set(next.max(now + little));
    }

    /// What comes next in the life of the run.
    fn move_on(&mut self) {
        if self.ending {
            // Every operation must be answered, whatever became of the controller.
            if self.partition.running() == 0 && self.host.pending() == 0 {
                self.end_incarnation();
            }
            return;
        }
        let quiet = self.host.pending() == 0;
        match self.stage {
            Stage::Working if quiet && self.host.is_through() => {
                if self.device.is_resized() {
                    // It is to be read once more.
                    return self.restore_size();
                }
                if self.state != 1 {
                    return;
                }
                self.heal();
                self.stage = Stage::Verifying;
            }
            Stage::Working
                if self.device.is_resized() && self.host.next() >= self.resized_until =>
            {
                self.restore_size();
            }
            Stage::Working if self.watchman.is_to_go_back(self.host.next()) => self.go_back(),
            Stage::Verifying if quiet && self.host.is_done() => {
                self.stage = Stage::Closing;
                self.stop_service();
            }
            _ => {}
        }
    }

    fn watch_progress(&mut self) {
        let progress = (self.host.answered + self.host.lost, self.host.sent);
        let at = (self.now(), self.passes);
        if progress != self.progress {
            (self.progress, self.progress_at) = (progress, at);
            if self.passes.is_multiple_of(1 << 10) {
                self.check_mistakes();
            }
            return;
        }
        let time = at.0.saturating_sub(self.progress_at.0);
        let passes = at.1 - self.progress_at.1;
        // One that hangs before its first pass is given the time for its start first.
        let alive = self.body == Body::Alive;
        let limit = HANG_NS + if alive { 0 } else { self.watchman.start_limit_ns() };
        if time > limit || passes > HANG_PASSES {
            let (device, pending) = (self.partition.device, self.host.pending());
            let (state, body) = (STATES[self.partition.state()], self.body);
            self.shared.violate(|| {
                format!(
                    "{pending} operations hang for {time} ns and {passes} passes; partition \
                     {body:?}, device {state}, {:?}",
                    device.stats()
                )
            });
        }
    }

    fn outcome(self) -> Outcome {
        let shared = &self.shared;
        let model = self.device.with(|model| *model.stats()).unwrap_or_default();
        let seen = shared.oracle.borrow().seen;
        for (name, count) in [
            ("read shows the later of several versions", seen.newer),
            ("read shows an earlier one", seen.older),
            ("spoilt block caught", seen.caught),
            ("atomic write compared", seen.atomic),
            ("atomic write compared after a power cut", seen.atomic_cut),
            ("completion queue full", model.cq_full),
            ("bridge request", self.fortune.taken),
            ("ring to the partition full", self.host.full),
            ("operation good", self.host.codes[0]),
            ("operation failed", self.host.codes[1]),
            ("operation dropped", self.host.codes[2]),
            ("operation lost with its partition", self.host.lost),
        ] {
            shared.reach(name, count);
        }
        let parts = [
            self.device.content_hash(self.plan.blocks),
            shared.oracle.borrow().digest,
            self.device.digest(),
            self.partition.digest(),
            self.chance(),
        ];
        let mix =
            |sum: u64, part: &u64| (sum.rotate_left(7) ^ part).wrapping_mul(0x2545_f491_4f6c_dd1d);
        let state_hash = parts.iter().fold(0, mix);
        let tape = shared.tape.replace(Tape::new(0, 0));
        let (events, trace_hash) = (tape.count(), tape.hash());
        let (timeline, checks) = tape.into_parts();
        Outcome {
            violation: shared.violation().map(|what| match self.complaints.first() {
                Some(first) => format!("{what}; the controller complains: {first}"),
                None => what,
            }),
            ops: self.host.sent,
            commands: model.io + self.fortune.taken,
            faults: shared.faults.get(),
            events,
            trace_hash,
            state_hash,
            time_ns: self.now(),
            seen,
            reached: shared.reached.take(),
            timeline,
            checks,
        }
    }
}
