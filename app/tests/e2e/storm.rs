//! A replay in a storm of faults ends with the exact quotes.
//!
//! The device is the model behind a vfio-user socket, with the model's schedule of faults: each
//! kind by its name in `cargo xtask sim --list-faults`, again and again, at commands drawn from the
//! seed. What a driver bears is borne without another storage, another start or a failed command.
//! What loses commands, or costs a reset, strikes once in the middle of the storm: the reads that
//! were lost are read again, on the same device. What the device does not come back from costs it
//! the device, a step of bring-up one attempt; and what nobody can recover ends the run, by name
//! and behind a right beginning. Each in CI by turns, all in a soak.
//!
//! What strikes from outside is in [`crate::storm_outside`]: `host-stopped`, `partition-stopped`,
//! `partition-killed`, `registers-silent`, `iommu-fault`. Of the simulation's faults these have no
//! place in either. What the program has no way to be asked for: `reset-asked-for`,
//! `restart-asked-for`; `shutdown` is the end of each run. What only a kernel does to a function
//! of its own, and the guest's suite has: `registers-gone`, `group-busy`, `start-refused`,
//! `unbound`. What no process can do to this machine's clock or power: `clock-jumps`,
//! `clock-stops`, `power-cut`. What is the other storage's: `kernel-error`, `kernel-gone`,
//! `kernel-silent`. `host-killed`: nobody is left to write the rest. `partition-hangs`: nothing
//! from outside makes it one, and it ends as `partition-killed` does. `protection-error`: a status
//! like a media error's. `namespace-resized`: one that was ever found changed is refused for as
//! long as the partition lives, since its blocks may be others. And `cq-overrun`, which comes by
//! itself: a queue has room for the answers of all commands in flight and for no more, so that a
//! completion nobody asked for overwrites one while the partition is not looking.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use host_bridge::backend::model::{
    AbortPolicy, ControllerFault, CqeFault, DataFault, FaultAction, FaultPlan, FaultRule,
    LatencyModel, ModelGauges, OnQueue, When,
};
use host_bridge::vfio_user_server::VfioUserServer;
use hybrid_conventions::testing::{self, Random};
use nvme_driver::spec::{AdminOpcode, AsyncEvent, AsyncEventType, LogPageId, StatusCode};

use crate::fallback::{Day, model, serve_model};
use crate::machine::Machine;
use crate::run::{PROGRAM, Run, Started};

/// A chunk of the day is read by one command: about 150 for the whole storm, and 30 where it is cut
/// short.
pub(crate) const MESSAGES: u64 = 300_000;
pub(crate) const FEW_MESSAGES: u64 = 60_000;

/// Commands in flight: no power of two, so that some CIDs name no slot.
pub(crate) const DEPTH: u64 = 5;

/// `--io-timeout` where a command is never answered: the other storage must keep it too, on a
/// crowded machine.
const DEADLINE: &str = "1s";

/// All bits of a CID that name one of five slots.
const SLOT_BITS: u16 = 0x7;

/// One of the others, which count generations.
const GENERATION: u16 = 0x1000;

/// Bad completions in a storm: as many more within a second would make the controller a rogue,
/// which is reset.
const STRAYS: usize = 12;

/// A kind of fault, and what it does this time.
pub(crate) type Kind = (&'static str, fn(&mut Random) -> FaultAction);

/// A command fails, and is tried again.
const RETRIED: [Kind; 4] = [
    ("status-retry", |_| status(StatusCode::NAMESPACE_NOT_READY)),
    // After the first of the controller's delays, 100 ms.
    ("status-retry-later", |_| {
        FaultAction::Status(StatusCode::NAMESPACE_NOT_READY.status().with_crd(1))
    }),
    ("status-after", |_| FaultAction::StatusAfter(StatusCode::INTERNAL_ERROR.status())),
    (TRANSFER, |_| status(StatusCode::DATA_TRANSFER_ERROR)),
];

/// Tried once more and no more: its command must not have failed before.
const TRANSFER: &str = "transfer-error";

/// A completion that belongs to no command: ignored, unless the queue was full.
const STRAY: [Kind; 4] = [
    ("cid-beyond", |_| cqe(CqeFault::Extra(GENERATION | SLOT_BITS))),
    ("cid-free-or-old", |_| cqe(CqeFault::Extra(GENERATION | 1))),
    ("cid-old-generation", |_| cqe(CqeFault::Extra(GENERATION))),
    ("cqe-twice", |_| cqe(CqeFault::Twice)),
];

/// Nothing fails.
const HARMLESS: [Kind; 7] = [
    ("sqhd-lies", |_| cqe(CqeFault::WrongSqhd(0x7777))),
    // The phase behind the word that it vouches for.
    (WORDS, |random| {
        let mut words = [0, 1, 2, 3];
        shuffle(&mut words, random);
        let place = |word| words.iter().position(|w| *w == word).expect("there");
        let (sqid, phase) = (place(2), place(3));
        if phase < sqid {
            words.swap(sqid, phase);
        }
        cqe(CqeFault::Order(words))
    }),
    ("command-delayed", |random| FaultAction::DelayNs(10_000 + random.below(2_000_000))),
    ("pause", |random| controller(ControllerFault::PauseNs(1_000_000 + random.below(9_000_000)))),
    ("event-unknown", |_| {
        let event = AsyncEvent::new(AsyncEventType::VENDOR, 0x77, LogPageId(0xC0));
        controller(ControllerFault::EventStorm(event, 1))
    }),
    ("event-storm", |_| {
        controller(ControllerFault::EventStorm(AsyncEvent::SMART_TEMPERATURE, 100))
    }),
    ("smart-warning", |_| controller(ControllerFault::Event(AsyncEvent::SMART_RELIABILITY))),
];

const WORDS: &str = "words-in-any-order";

/// A step of bring-up fails twice, and is tried again.
const ADMIN: (&str, [AdminOpcode; 3]) =
    ("admin-status", [AdminOpcode::IDENTIFY, AdminOpcode::CREATE_CQ, AdminOpcode::CREATE_SQ]);

/// Costs one attempt of bring-up, at its fourth command.
const ATTEMPT: [Kind; 2] = [
    ("admin-fatal", |_| controller(ControllerFault::Fatal)),
    ("admin-dropped", |_| FaultAction::Drop),
];

/// Commands are lost, and all of them in a reset: they are read again, and the replay goes on.
const REPEATED: [Kind; 7] = [
    ("cid-lost", |_| cqe(CqeFault::WrongCid(GENERATION))),
    ("sqid-foreign", |_| cqe(CqeFault::WrongSqid(9))),
    ("phase-stuck", |_| cqe(CqeFault::PhaseStuck)),
    ("command-dropped", |_| FaultAction::Drop),
    (REFUSED, |_| FaultAction::Drop),
    ("fatal", |_| controller(ControllerFault::Fatal)),
    ("subsystem-reset", |_| controller(ControllerFault::SubsystemReset)),
];

/// Costs the device, which does not come back: the kernel goes on.
const LOST: [Kind; 2] = [
    ("all-zeros", |_| controller(ControllerFault::AllZeros)),
    // With a fatal status behind it, which asks for the reset that never ends.
    ("never-ready", |_| controller(ControllerFault::NeverReady)),
];

/// Loses commands, or nothing: it depends on what is in flight at that moment.
const PERHAPS: [Kind; 3] = [
    ("phase-early", |_| cqe(CqeFault::PhaseEarly)),
    // In the ring's first lap it vouches for an SQID that is not there yet.
    (WORDS, |_| cqe(CqeFault::Order([3, 0, 1, 2]))),
    ("event-invalid-doorbell", |_| {
        controller(ControllerFault::Event(AsyncEvent::INVALID_DOORBELL_VALUE))
    }),
];

/// Those that cost a reset of the controller. (An event may come too late for that: it waits for a
/// request, which the driver keeps back for up to a second after an event storm.)
const RESETS: [&str; 2] = ["fatal", "subsystem-reset"];

/// Costs the device, and nobody can say that it no longer reaches memory: its server cannot reset
/// it, and nothing may go on. (Of a PCI function the kernel can.)
const UNFENCED: [Kind; 2] = [
    ("all-ones", |_| controller(ControllerFault::AllOnes)),
    (STAYS_READY, |_| controller(ControllerFault::NeverNotReady)),
];

/// With a fatal status behind it.
const STAYS_READY: &str = "never-not-ready";

/// The controller does not let go of the command that it does not answer.
const REFUSED: &str = "abort-refused";

/// Costs the device when all is done: nothing is done again.
const SHUTDOWN: Kind = ("never-shut-down", |_| controller(ControllerFault::NeverShutDown));

/// What nobody can recover: the device says so, or the checksum does.
const TOLD: [Kind; 8] = [
    ("media-error", |_| FaultAction::Status(StatusCode::UNRECOVERED_READ_ERROR.do_not_retry())),
    ("write-fault", |_| status(StatusCode::WRITE_FAULT)),
    ("capacity-exceeded", |_| status(StatusCode::CAPACITY_EXCEEDED)),
    ("data-nothing", |_| FaultAction::Data(DataFault::Nothing)),
    ("data-half", |_| FaultAction::Data(DataFault::Half)),
    ("data-wrong-lba", |_| FaultAction::Data(DataFault::WrongLba(16))),
    ("data-bit-flip", |_| FaultAction::Data(DataFault::BitFlip)),
    (EARLY, |random| cqe(CqeFault::WrongCid(1 + u16::from(random.below(2) == 0)))),
];

/// A command ends early and another never: told by the checksum, or as a device that is lost.
const EARLY: &str = "cid-of-another";

const fn status(code: StatusCode) -> FaultAction {
    FaultAction::Status(code.status())
}

const fn cqe(fault: CqeFault) -> FaultAction {
    FaultAction::Cqe(fault)
}

const fn controller(fault: ControllerFault) -> FaultAction {
    FaultAction::Controller(fault)
}

fn shuffle<T>(things: &mut [T], random: &mut Random) {
    for last in (1..things.len()).rev() {
        things.swap(last, usize::try_from(random.below(last as u64 + 1)).expect("small"));
    }
}

/// What is to come of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Costs {
    /// The device: one switch to the other storage.
    Device,
    /// At least one read that is read again on the same device.
    Reads,
    /// As that, or nothing.
    Perhaps,
    /// Nothing but an attempt to bring it up.
    Attempt,
}

/// What hits which command that the controller fetches.
pub(crate) type Schedule = Vec<(u64, Kind, FaultAction)>;

/// Every kind that is borne, in turns of an order drawn anew, up to command `end`; with `strays`
/// also completions that belong to nothing.
///
/// A command is tried four times. While it is not done, its task posts no further read once it is
/// the oldest, so that at most twice the depth of others are fetched between its first try and its
/// last: failures that are [`DEPTH`] commands apart hit it three times at most.
pub(crate) fn storm(random: &mut Random, end: u64, strays: bool) -> Schedule {
    let mut deck: Vec<Kind> = [&RETRIED[..], &HARMLESS].concat();
    if strays {
        deck.extend(STRAY);
    }
    let is = |of: &[Kind], name| of.iter().any(|kind| kind.0 == name);
    let (mut schedule, mut at, mut failed, mut strays) = (Schedule::new(), 1, 0, 0);
    loop {
        shuffle(&mut deck, random);
        for kind in &deck {
            at += 1 + random.below(2);
            if is(&RETRIED, kind.0) {
                let apart = if kind.0 == TRANSFER { 3 * DEPTH } else { DEPTH };
                at = at.max(failed + apart);
                failed = at;
            } else if is(&STRAY, kind.0) {
                strays += 1;
                if strays > STRAYS {
                    continue;
                }
            }
            if at >= end {
                return schedule;
            }
            schedule.push((at, *kind, kind.1(random)));
        }
    }
}

/// The storm's day, once for each test.
pub(crate) struct Storm<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) day: &'a Day,
    pub(crate) seed: u64,
}

/// What came of a run.
struct Outcome {
    run: Run,
    server: VfioUserServer,
    what: String,
}

/// The device of a storm that has begun.
pub(crate) struct Served {
    pub(crate) server: VfioUserServer,
    pub(crate) gauges: ModelGauges,
    socket: PathBuf,
    pub(crate) what: String,
}

impl Storm<'_> {
    /// A device with this schedule, steps of bring-up that fail, and `first` before them.
    pub(crate) fn serve(
        &self,
        name: &str,
        faults: &Schedule,
        first: &[FaultRule],
        latency: LatencyModel,
    ) -> Served {
        let busy = status(StatusCode::INTERNAL_ERROR);
        let busy = ADMIN.1.map(|opcode| FaultRule::admin(opcode, busy).when(When::First(2)));
        let rules = first.iter().cloned().chain(busy).fold(FaultPlan::none(), FaultPlan::with);
        let faults = faults.iter().map(|(at, _, action)| (*at, *action)).collect();
        let mut model = model(&self.day.image, rules.scheduled(false, faults));
        if name == REFUSED {
            model.abort = AbortPolicy::Refuse;
        }
        model.latency = latency;
        let socket = self.day.dir.path(&format!("cntrl-{name}-{}", self.seed));
        let (server, options) = serve_model(&socket, model);
        let what = format!("{name} in the storm of seed {}", self.seed);
        Served { server, gauges: options.gauges, socket, what }
    }

    /// Starts a replay on it.
    pub(crate) fn start(&self, served: &Served, deadline: &str) -> Started {
        let depth = DEPTH.to_string();
        let patience = ["--io-timeout", deadline, "--queue-depth", &depth];
        let command = self.day.command(Command::new(PROGRAM), &served.socket, patience);
        self.machine.start_command(command)
    }

    /// A replay with this schedule, and `first` before the steps of bring-up that fail.
    fn replay(
        &self,
        name: &str,
        faults: &Schedule,
        first: &[FaultRule],
        deadline: &str,
    ) -> Outcome {
        let served = self.serve(name, faults, first, LatencyModel::None);
        let run = self.start(&served, deadline).wait();
        Outcome { run, server: served.server, what: served.what }
    }

    /// The storm alone.
    fn is_borne(&self) {
        let mut random = Random::new(self.seed);
        let schedule = storm(&mut random, self.day.chunks, false);
        let end = self.replay("nothing", &schedule, &[], "5s");
        let (run, what) = (end.run.ok(), end.what);
        self.day.check(&run, &what);
        let json = run.json();
        assert_eq!(json["starts"]["fallbacks"], 0, "{what}: {run:?}");
        assert_eq!(json["starts"]["restarts"], 0, "{what}: {run:?}");
        let mut model = end.server.stop().expect("the model");
        model.assert_no_mistakes();
        let stats = model.stats();
        let struck = schedule.iter().take_while(|(at, ..)| *at <= stats.io);
        let struck: Vec<_> = struck.map(|(_, kind, _)| kind.0).collect();
        let kinds: BTreeSet<_> = struck.iter().collect();
        assert_eq!(kinds.len(), RETRIED.len() + HARMLESS.len(), "{what}: {kinds:?}");
        let admin = 2 * ADMIN.1.len();
        assert_eq!(stats.faults, (struck.len() + admin) as u64, "{what}: each struck");
        let retried = struck.iter().filter(|name| RETRIED.iter().any(|kind| kind.0 == **name));
        let (driver, retried) = (&json["driver"], retried.count());
        assert_eq!(driver["failed"], retried, "{what}: each failed once, {driver}");
        assert_eq!(driver["retried"], retried, "{what}: and was tried again, {driver}");
        assert_eq!(driver["resets"], 0, "{what}");
        assert_eq!(driver["repeated"], 0, "{what}: nothing was lost");
    }

    /// What costs a step of the ladder, in the middle of the storm.
    fn costs(&self, kind: &Kind, costs: Costs) {
        let mut random = Random::new(self.seed);
        // Behind the superblock, and with reads in flight behind it.
        let at = 3 + random.below(self.day.chunks - 3 * DEPTH);
        let mut schedule = storm(&mut random, at, costs != Costs::Attempt);
        let mut first = Vec::new();
        let action = kind.1(&mut random);
        if ATTEMPT.iter().any(|attempt| attempt.0 == kind.0) {
            first.push(FaultRule::on(OnQueue::Admin, action).when(When::Nth(4)));
        } else {
            schedule.push((at, *kind, action));
        }
        if kind.0 == "never-ready" {
            schedule.push((at + 1, *kind, controller(ControllerFault::Fatal)));
        }
        let end = self.replay(kind.0, &schedule, &first, DEADLINE);
        let (run, what) = (end.run.ok(), end.what);
        drop(end.server);
        self.day.check(&run, &format!("{what}, at {at}"));
        let json = run.json();
        let (driver, starts) = (&json["driver"], &json["starts"]);
        let what = format!("{what}, at {at}: {starts}, {driver}, {run:?}");
        // A switch is another start.
        let switched = u64::from(costs == Costs::Device);
        assert_eq!(starts["fallbacks"], switched, "{what}");
        assert_eq!(starts["restarts"], switched, "{what}");
        let told = run.stderr.matches("is read again").count();
        match (costs, driver["repeated"].as_u64().expect("a number")) {
            (Costs::Device, _) => {}
            (Costs::Reads, repeated) => assert!(repeated >= 1 && told >= 1, "{what}"),
            (Costs::Perhaps, repeated) => assert_eq!(repeated >= 1, told >= 1, "{what}"),
            (Costs::Attempt, repeated) => assert_eq!((repeated, told), (0, 0), "{what}"),
        }
        let resets = driver["resets"].as_u64().expect("a number");
        assert!(!RESETS.contains(&kind.0) || resets >= 1, "{what}");
    }

    /// What cannot be recovered, in the middle of the storm, with `words` for it.
    fn is_told(&self, kind: &Kind, words: &str) {
        let mut random = Random::new(self.seed);
        let at = 4 * DEPTH + random.below(self.day.chunks - 5 * DEPTH);
        // A command that is tried again may have its data from the first time.
        let mut schedule = storm(&mut random, at - 3 * DEPTH, false);
        schedule.push((at, *kind, kind.1(&mut random)));
        if kind.0 == STAYS_READY {
            schedule.push((at + 1, *kind, controller(ControllerFault::Fatal)));
        }
        let end = self.replay(kind.0, &schedule, &[], DEADLINE);
        let (run, what) = (end.run, format!("{}, at {at}", end.what));
        drop(end.server);
        if kind.0 == EARLY && run.code() == Some(0) {
            self.day.check(&run, &what);
            return;
        }
        assert_eq!(run.code(), Some(1), "{what}: {run:?}");
        let error = run.stderr.lines().last().unwrap_or_default();
        assert!(error.starts_with("feed-handler: ") && error.contains(words), "{what}: {run:?}");
        let quotes = std::fs::read(self.day.bbo()).expect("the program wrote it");
        assert!(self.day.quotes.starts_with(&quotes), "{what}: other quotes");
    }
}

/// `in_ci` of them from one that the seed chooses on; all in a soak.
fn in_turn(kinds: &'static [Kind], in_ci: usize, seed: u64) -> impl Iterator<Item = &'static Kind> {
    let from = usize::try_from(seed % kinds.len() as u64).expect("few");
    let count = if testing::soak() { kinds.len() } else { in_ci };
    kinds.iter().cycle().skip(from).take(count)
}

/// Storms of one soak; one in CI.
pub(crate) fn seeds() -> std::ops::Range<u64> {
    let first = testing::seed(1).wrapping_mul(1_000);
    first..first + if testing::soak() { 20 } else { 1 }
}

#[test]
fn a_replay_in_a_storm_of_faults_that_are_survived_ends_with_the_exact_quotes() {
    let name = "a_replay_in_a_storm_of_faults_that_are_survived_ends_with_the_exact_quotes";
    let Some(machine) = Machine::of(name) else { return };
    let day = Day::of(&machine, MESSAGES);
    assert!(day.chunks > 100, "{}", day.chunks);
    for seed in seeds() {
        Storm { machine: &machine, day: &day, seed }.is_borne();
    }
}

#[test]
fn a_replay_that_loses_commands_in_a_storm_ends_on_the_same_device_with_the_exact_quotes() {
    let name =
        "a_replay_that_loses_commands_in_a_storm_ends_on_the_same_device_with_the_exact_quotes";
    let Some(machine) = Machine::of(name) else { return };
    let day = Day::of(&machine, if testing::soak() { MESSAGES } else { FEW_MESSAGES });
    for seed in seeds() {
        let storm = Storm { machine: &machine, day: &day, seed };
        in_turn(&REPEATED, 2, seed).for_each(|kind| storm.costs(kind, Costs::Reads));
        if testing::soak() {
            PERHAPS.iter().for_each(|kind| storm.costs(kind, Costs::Perhaps));
        }
    }
}

#[test]
fn a_replay_that_loses_its_device_in_a_storm_ends_with_the_exact_quotes() {
    let name = "a_replay_that_loses_its_device_in_a_storm_ends_with_the_exact_quotes";
    let Some(machine) = Machine::of(name) else { return };
    let day = Day::of(&machine, if testing::soak() { MESSAGES } else { FEW_MESSAGES });
    for seed in seeds() {
        let storm = Storm { machine: &machine, day: &day, seed };
        in_turn(&LOST, 1, seed).for_each(|kind| storm.costs(kind, Costs::Device));
        in_turn(&ATTEMPT, 1, seed).for_each(|kind| storm.costs(kind, Costs::Attempt));
        if testing::soak() {
            storm.costs(&SHUTDOWN, Costs::Device);
        }
    }
}

#[test]
fn what_nobody_can_recover_ends_a_replay_by_name_and_behind_a_right_beginning() {
    let name = "what_nobody_can_recover_ends_a_replay_by_name_and_behind_a_right_beginning";
    let Some(machine) = Machine::of(name) else { return };
    let day = Day::of(&machine, if testing::soak() { MESSAGES } else { FEW_MESSAGES });
    for seed in seeds() {
        let storm = Storm { machine: &machine, day: &day, seed };
        in_turn(&TOLD, 1, seed).for_each(|kind| storm.is_told(kind, "chunk "));
        if testing::soak() {
            UNFENCED.iter().for_each(|kind| storm.is_told(kind, "may still reach our memory"));
        }
    }
}
