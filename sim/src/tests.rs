//! What the simulation must catch, and that it repeats itself.

use crate::campaign::{Limit, Shape, campaign};
use crate::catalogue::{CATALOGUE, Trigger};
use crate::plan::{Plan, Workload};
use crate::planted::Plant;
use crate::world::{Outcome, Watch, run};

fn shape(swarm: bool, run_ops: u64) -> Shape {
    Shape { seed: 1, run_ops, workload: None, swarm, faults: None }
}

#[test]
fn a_short_campaign_of_every_workload_finds_nothing_wrong() {
    let (total, violation) =
        campaign(&shape(false, 12_000), Limit::Runs(5), |_, _, _| true).expect("a campaign");
    assert_eq!(violation, None);
    assert!(total.commands > 50_000 && total.faults > 500, "{total}");
    assert_eq!(total.missing(&shape(false, 12_000)), Vec::<String>::new());
    // Not by chance: each run has what it takes, and one of five a start that fails.
    for name in [
        "device not free in time",
        "killed by its supervisor",
        "state resetting -> failed",
        "state shutting down -> failed",
        "state starting -> failed",
    ] {
        assert!(total.reached.contains_key(name), "{name}");
    }
}

#[test]
fn a_short_swarm_finds_nothing_wrong() {
    let (_, violation) =
        campaign(&shape(true, 4_000), Limit::Runs(40), |_, _, _| true).expect("a campaign");
    assert_eq!(violation, None);
}

#[test]
fn the_same_plan_gives_the_same_run_and_another_seed_another() {
    let hashes = |seed| {
        let Outcome { trace_hash, state_hash, .. } =
            run(&Plan::swarm(seed, 3_000), Watch::default());
        (trace_hash, state_hash)
    };
    assert_eq!(hashes(11), hashes(11));
    assert_ne!(hashes(11), hashes(12));
    let plan = Plan::parse(&Plan::swarm(11, 3_000).to_text()).expect("a plan");
    assert_eq!(run(&plan, Watch { timeline: 9, check_every: 1 }).trace_hash, hashes(11).0);
}

#[test]
fn every_planted_bug_is_caught() {
    for plant in Plant::ALL {
        let caught = (1..=6).find_map(|seed| {
            let mut plan = Plan::ordinary(seed, 20_000, Workload::HotSpot);
            plan.plant = Plant::number(plant);
            // What is not durable is seen by those who lose it.
            let cut = crate::find("power-cut").expect("a fault");
            let cuts = (1..10).map(|i| crate::Fault { at: i * 2_000, kind: cut, choice: i });
            plan.faults.extend(cuts);
            plan.faults.sort_unstable();
            run(&plan, Watch::default()).violation
        });
        assert!(caught.is_some(), "{plant:?} was not caught");
    }
}

/// What strikes besides is no excuse for it.
#[test]
fn a_reset_at_random_is_caught_under_every_fault_that_costs_nothing() {
    for name in [
        "none",
        "status-retry",
        "sqhd-lies",
        "command-delayed",
        "event-storm",
        "clock-jumps",
        "partition-killed",
        "restart-asked-for",
    ] {
        let mut plan = Plan::ordinary(7, 3_000, Workload::Mixed);
        let names: &[&str] = if name == "none" { &[] } else { &[name] };
        plan.only_faults(names).expect("a fault");
        assert_eq!(run(&plan, Watch::default()).violation, None, "{name}");
        plan.plant = Plant::number(Plant::ResetAtRandom);
        let violation = run(&plan, Watch::default()).violation.unwrap_or_default();
        assert!(violation.contains("fault"), "{name}: {violation:?}");
    }
}

#[test]
fn a_run_that_does_nothing_has_reached_nothing() {
    let total = crate::campaign::Total::default();
    assert!(total.missing(&shape(false, 1)).contains(&"operation good".to_owned()));
}

#[test]
fn a_long_campaign_must_reach_what_is_rare_and_a_swarm_what_only_it_reaches() {
    let missing = |swarm, commands| {
        let total = crate::campaign::Total { commands, ..Default::default() };
        total.missing(&shape(swarm, 100_000))
    };
    let is_missing = |missing: &[String], name: &str| missing.iter().any(|m| m == name);
    let (rare, swarm) = ("error reset: stuck admin command", "error reset: rogue");
    assert!(!is_missing(&missing(false, 1_000_000), rare));
    assert!(is_missing(&missing(false, 20_000_000), rare));
    assert!(!is_missing(&missing(false, 20_000_000), swarm));
    assert!(!is_missing(&missing(true, 9_000_000), "fault fatal"));
    assert!(is_missing(&missing(true, 10_000_000), "fault fatal"));
    assert!(!is_missing(&missing(true, 10_000_000), swarm));
    let all = missing(true, 50_000_000);
    assert!([rare, swarm, "abort"].iter().all(|name| is_missing(&all, name)), "{all:?}");
}

/// The Identify of a bring-up fails, and the next one is answered with another size.
#[test]
fn a_namespace_is_resized_only_for_a_driver_that_knew_its_size() {
    let mut plan = Plan::ordinary(880_496, 400, Workload::Mixed);
    let fault = |name, at| crate::Fault { at, kind: crate::find(name).expect("one"), choice: 0 };
    for at in 1..40 {
        plan.retries = 0;
        plan.faults = vec![fault("admin-status", at), fault("namespace-resized", 20)];
        assert_eq!(run(&plan, Watch::default()).violation, None, "admin command {at}");
    }
}

/// One fault by name, alone, twenty times in a run: nothing is lost or invented, everything is
/// answered, and the controller is well in the end, which the run itself checks.
fn survives(name: &str) {
    let mut plan = Plan::ordinary(7, 10_000, Workload::Mixed);
    plan.only_faults(&[name]).expect("a fault");
    let kind = &CATALOGUE[crate::find(name).expect("a fault")];
    let last = match kind.trigger {
        Trigger::Admin => 12,
        Trigger::Kernel => 180,
        Trigger::Io | Trigger::Op => 9_000,
    };
    let mut choices = nvme_model::Rng::new(7);
    let first = *plan.faults.iter().find(|fault| fault.kind().name == name).expect("one of it");
    let strikes =
        (1..=20).map(|i| crate::Fault { at: i * last / 20, choice: choices.next_u64(), ..first });
    plan.faults = strikes.collect();
    if kind.trigger == Trigger::Kernel {
        // It has the device once that is at fault.
        let gone = crate::find("all-ones").expect("a fault");
        plan.faults.push(crate::Fault { at: 50, kind: gone, choice: 0 });
    }
    plan.faults.sort_unstable();
    let outcome = run(&plan, Watch::default());
    assert_eq!(outcome.violation, None, "{name}");
    let struck = outcome.reached.get(&format!("fault {name}")).copied().unwrap_or(0);
    assert!(struck >= 1, "{name} never struck: {:?}", outcome.reached);
}

#[test]
fn each_fault_that_is_named_strikes_in_a_short_run() {
    for kind in CATALOGUE {
        let faults = Some(vec![kind.name.to_owned()]);
        for swarm in [false, true] {
            let shape = Shape { faults: faults.clone(), ..shape(swarm, 1_000) };
            let (total, violation) = campaign(&shape, Limit::Runs(2), |_, _, _| true).expect("one");
            assert_eq!(violation, None, "{kind:?}");
            assert_eq!(total.missing(&shape), [""; 0], "{kind:?}, swarm: {swarm}");
        }
    }
}

#[test]
fn a_fault_that_was_named_and_never_struck_is_missing() {
    let shape = Shape { faults: Some(vec!["kernel-gone".to_owned()]), ..shape(false, 1) };
    let missing = crate::campaign::Total::default().missing(&shape);
    assert!(missing.contains(&"fault kernel-gone".to_owned()), "{missing:?}");
}

#[test]
fn each_fault_of_the_catalogue_alone_is_survived() {
    for kind in CATALOGUE {
        survives(kind.name);
    }
}
