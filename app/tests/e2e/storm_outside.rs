//! What strikes from outside while a replay is in a storm of faults ([`crate::storm`]): its
//! processes are stopped or killed, its device's server does not answer, the IOMMU stops its
//! queues.
//!
//! Each in the middle, at a command drawn from the seed; and the quotes are the exact ones, on the
//! same device.

use std::time::{Duration, Instant};

use host_bridge::backend::model::LatencyModel;
use hybrid_conventions::testing::{self, Random};

use crate::fallback::{ADMIN, Day};
use crate::machine::Machine;
use crate::run::{Run, Started, kill};
use crate::storm::{DEPTH, FEW_MESSAGES, MESSAGES, Served, Storm, seeds, storm};

/// What a read takes: a replay of 30 chunks is long enough to be met in its middle, on a machine
/// that does other things too.
const LATENCY: LatencyModel = LatencyModel::FixedNs(20_000_000);

/// Beyond what any of these takes, so that no read is lost to a deadline by itself.
const DEADLINE: &str = "60s";

/// How long a process is stopped.
fn while_long() -> Duration {
    Duration::from_secs(if testing::soak() { 10 } else { 2 })
}

/// How long a server is silent: many looks at its registers, and less than an admin command may
/// take.
const SILENCE: Duration = Duration::from_millis(500);

/// A replay that has got as far as its middle.
struct Middle {
    served: Served,
    started: Started,
    /// The partition's process.
    partition: u32,
}

impl Middle {
    fn of(storm: &Storm<'_>, name: &str) -> Self {
        let mut random = Random::new(storm.seed);
        let at = 3 + random.below(storm.day.chunks - 4 * DEPTH);
        let served = storm.serve(name, &self::storm(&mut random, at, false), &[], LATENCY);
        let started = storm.start(&served, DEADLINE);
        let partition = started.partition(None).expect("a partition");
        let begun = Instant::now();
        while served.gauges.completions() < at + ADMIN {
            assert!(begun.elapsed() < Duration::from_secs(60), "{name}: nothing goes on");
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Self { served, started, partition }
    }

    /// Completions that stay the same for a while: nobody asks for anything.
    fn is_still(&self) -> bool {
        let answered = || self.served.gauges.completions();
        let before = answered();
        pass(Duration::from_millis(100));
        answered() == before
    }

    /// Its end: the exact quotes, on the device.
    fn ends(self, storm: &Storm<'_>, restarts: u64) -> (Run, String) {
        let run = self.started.wait().ok();
        let what = format!("{}: {run:?}", self.served.what);
        storm.day.check(&run, &what);
        let json = run.json();
        assert_eq!(json["starts"]["fallbacks"], 0, "{what}");
        assert_eq!(json["starts"]["restarts"], restarts, "{what}");
        assert_eq!(json["ring"]["dropped"], 0, "{what}");
        self.served.server.stop().expect("the model").assert_no_mistakes();
        (run, what)
    }
}

/// Lets so much time pass: it is what strikes, and nothing is waited for.
fn pass(time: Duration) {
    let begun = Instant::now();
    while let Some(left) = time.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// State of a process: one letter.
fn state(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next()).unwrap_or('?')
}

fn host_stopped(storm: &Storm<'_>) {
    let middle = Middle::of(storm, "host-stopped");
    let (host, partition) = (middle.started.id(), middle.partition);
    assert!(kill("STOP", host));
    let begun = Instant::now();
    while begun.elapsed() < while_long() {
        // The partition is nobody's to stop: it goes on as far as its ring has room.
        assert!(
            !['T', 'Z', '?'].contains(&state(partition)),
            "the partition is {}",
            state(partition)
        );
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert_eq!(state(host), 'T');
    assert!(kill("CONT", host));
    let (run, what) = middle.ends(storm, 0);
    assert_eq!(run.json()["driver"]["repeated"], 0, "{what}");
    assert!(!run.stderr.contains("died"), "{what}");
}

fn partition_stopped(storm: &Storm<'_>) {
    let middle = Middle::of(storm, "partition-stopped");
    assert!(kill("STOP", middle.partition));
    pass(while_long());
    assert!(middle.is_still(), "a stopped partition asks for nothing");
    assert_eq!(state(middle.partition), 'T', "it was met at work");
    assert!(kill("CONT", middle.partition));
    let (run, what) = middle.ends(storm, 0);
    assert_eq!(run.json()["driver"]["resets"], 0, "{what}");
    assert!(run.stderr.contains("goes on, after having been stopped for"), "{what}");
}

fn partition_killed(storm: &Storm<'_>) {
    let middle = Middle::of(storm, "partition-killed");
    assert!(kill("KILL", middle.partition), "it was met at work");
    middle.ends(storm, 1);
}

/// Neither registers nor queues are served.
fn registers_silent(storm: &Storm<'_>) {
    let middle = Middle::of(storm, "registers-silent");
    middle.served.server.with_model(|_| pass(SILENCE)).expect("the model");
    let (run, what) = middle.ends(storm, 0);
    let driver = &run.json()["driver"];
    assert_eq!((&driver["resets"], &driver["repeated"]), (&0.into(), &0.into()), "{what}");
}

fn iommu_fault(storm: &Storm<'_>) {
    let middle = Middle::of(storm, "iommu-fault");
    let mapped = middle.served.server.with_model(|model| model.iommu_fault()).expect("the model");
    mapped.expect("mapped as before");
    let (run, what) = middle.ends(storm, 0);
    let driver = &run.json()["driver"];
    assert!(driver["resets"].as_u64() >= Some(1), "{what}");
    assert!(driver["repeated"].as_u64() >= Some(1), "{what}");
}

/// Runs `strike` in each storm.
fn in_storms(name: &str, strike: impl Fn(&Storm<'_>)) {
    let Some(machine) = Machine::of(name) else { return };
    let day = Day::of(&machine, if testing::soak() { MESSAGES } else { FEW_MESSAGES });
    seeds().for_each(|seed| strike(&Storm { machine: &machine, day: &day, seed }));
}

#[test]
fn a_replay_whose_host_is_stopped_for_seconds_loses_nothing_and_its_partition_goes_on() {
    let name = "a_replay_whose_host_is_stopped_for_seconds_loses_nothing_and_its_partition_goes_on";
    in_storms(name, host_stopped);
}

#[test]
fn a_replay_that_is_struck_from_outside_in_a_storm_ends_with_the_exact_quotes() {
    let name = "a_replay_that_is_struck_from_outside_in_a_storm_ends_with_the_exact_quotes";
    in_storms(name, |storm| {
        partition_stopped(storm);
        partition_killed(storm);
        registers_silent(storm);
        iommu_fault(storm);
    });
}
