//! What each option does, seen in the report.

use crate::feeds;
use crate::machine::Machine;
use crate::temp::text;

/// Arguments of a short day whose report is JSON.
const SHORT_DAY: [&str; 5] = ["--messages", "20k", "--stocks", "50", "--json"];

#[test]
fn a_day_is_as_long_and_as_wide_as_was_asked_for() {
    let name = "a_day_is_as_long_and_as_wide_as_was_asked_for";
    let Some(machine) = Machine::of(name) else { return };
    let json = machine.run(&[&SHORT_DAY[..], &["--no-probe", "--seed", "9"]].concat()).ok().json();
    assert_eq!(json["ingest"]["messages"], 20_000);
    assert_eq!(json["replay"]["messages"], 20_000);
    assert_eq!(json["feed"]["books"], 50);
    assert_eq!(json["feed"]["messages_by_type"]["R"], 50);
    assert_eq!(json["feed"]["refused"], 0);
    assert_eq!(json["ring"]["dropped"], 0);
    let title = "feed-handler: a synthetic day of 20,000 messages, 50 stocks, seed 9";
    assert_eq!(json["title"], title);
}

#[test]
fn the_model_is_what_its_options_say() {
    let name = "the_model_is_what_its_options_say";
    let Some(machine) = Machine::of(name) else { return };
    let feed = feeds::small();
    let mut args = vec!["replay", text(&feed), "--json", "--no-probe"];
    args.extend(["--model-size", "8M", "--model-lba", "512", "--model-mdts", "16k"]);
    args.extend(["--queue-depth", "5"]);
    let json = machine.run(&args).ok().json();
    assert_eq!(json["device"]["namespace_bytes"], 8 << 20);
    assert_eq!(json["device"]["lba_bytes"], 512);
    assert_eq!(json["device"]["max_transfer_bytes"], 16 << 10);
    assert_eq!(json["device"]["queue_depth"], 5);
    args.extend(["--max-transfer", "4k"]);
    let json = machine.run(&args).ok().json();
    assert_eq!(json["device"]["max_transfer_bytes"], 4 << 10);
    assert_eq!(json["reads"]["request_bytes"], 4 << 10);
    assert!(json["reads"]["samples"].as_u64().is_some_and(|reads| reads >= 3 * 16), "{json}");
    assert_eq!(json["device"]["is_model"], true);
}

#[test]
fn commands_take_as_long_as_the_model_was_told() {
    let name = "commands_take_as_long_as_the_model_was_told";
    let Some(machine) = Machine::of(name) else { return };
    let feed = feeds::small();
    let mut args = vec!["replay", text(&feed), "--json", "--no-probe", "--queue-depth", "1"];
    args.extend(["--model-latency", "20ms"]);
    let json = machine.run(&args).ok().json();
    // Three chunks, one after the other.
    let ns = json["replay"]["ns"].as_u64().expect("a number");
    assert!(ns >= 3 * 20_000_000, "{ns}");
}

#[test]
fn the_probe_is_left_out_when_asked_to() {
    let name = "the_probe_is_left_out_when_asked_to";
    let Some(machine) = Machine::of(name) else { return };
    let feed = feeds::small();
    let args = ["replay", text(&feed), "--json"];
    let json = machine.run(&args).ok().json();
    assert_eq!(json["single_reads"]["samples"], 20_000);
    assert_eq!(json["single_reads"]["request_bytes"], 4096);
    // The probe's reads are not those of the work: three chunks, and the superblock.
    assert_eq!(json["reads"]["request_bytes"], 65_536);
    assert!(json["reads"]["samples"].as_u64().is_some_and(|reads| reads < 30), "{json}");
    assert!(json["driver"]["submit_cycles"].as_f64().is_some_and(|cycles| cycles > 0.0), "{json}");
    let json = machine.run(&[&args[..], &["--no-probe"]].concat()).ok().json();
    assert!(json["single_reads"].is_null() && json["driver"]["submit_cycles"].is_null(), "{json}");
}

#[test]
fn the_partition_runs_on_the_core_that_was_named() {
    let name = "the_partition_runs_on_the_core_that_was_named";
    let Some(machine) = Machine::of(name) else { return };
    let feed = feeds::small();
    let status = std::fs::read_to_string("/proc/self/status").expect("the kernel tells");
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let allowed: hybrid_conventions::CpuSet =
        allowed.expect("a line").trim().parse().expect("a set");
    for cpu in allowed.first().into_iter().chain(allowed.iter().last()) {
        let core = cpu.to_string();
        let args = ["replay", text(&feed), "--json", "--no-probe", "--core", &core];
        assert_eq!(machine.run(&args).ok().json()["machine"]["partition_cpu"], cpu);
    }
}

#[test]
fn quiet_leaves_nothing_on_standard_error() {
    let name = "quiet_leaves_nothing_on_standard_error";
    let Some(machine) = Machine::of(name) else { return };
    let feed = feeds::small();
    for quiet in ["-q", "--quiet"] {
        let run = machine.run(&["replay", text(&feed), "--no-probe", quiet]).ok();
        assert_eq!(run.stderr, "");
        assert!(run.stdout.starts_with("feed-handler replay: one-stock.itch\n"), "{run:?}");
    }
    // Errors are told all the same.
    machine.run(&["replay", "-q"]).refused(1, &["nothing to replay"]);
}

#[test]
fn the_screen_fits_one_hundred_columns_and_one_terminal() {
    let name = "the_screen_fits_one_hundred_columns_and_one_terminal";
    let Some(machine) = Machine::of(name) else { return };
    let run = machine.run(&["--messages", "50k"]).ok();
    assert!(run.stdout.lines().count() <= 40, "{}", run.stdout);
    for line in run.stdout.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    for words in ["a software model", "messages/s", "p99.9", "0 dropped", "0 heap allocations"] {
        assert!(run.stdout.contains(words), "{words:?} is not in\n{}", run.stdout);
    }
    // No terminal, no bar and no colours.
    assert!(!run.stdout.contains('\x1b') && !run.stderr.contains('\x1b'), "{run:?}");
    assert_eq!(run.stderr.lines().count(), run.warnings().len(), "{run:?}");
}
