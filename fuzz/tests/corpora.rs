//! The short form of the fuzzing: seeds, kept inputs, and mutations of both, on any toolchain.
//!
//! A second or two in CI; `cargo xtask soak` gives it `HYBRID_SOAK_OPS` mutations a target, and
//! runs libFuzzer for minutes besides (`cargo xtask fuzz`). An input that broke something once is
//! kept in `fuzz/corpus/TARGET/`.

use std::fs;
use std::path::Path;

use hybrid_conventions::testing::{self, Random};
use hybrid_fuzz::{TARGETS, Target, mutate, seeds};

/// Mutations of a target whose input is memory or text, and of one that drives a controller.
const MUTATIONS: u64 = 3_000;
const DRIVEN: u64 = 100;

fn kept(target: &Target) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut inputs: Vec<_> = entries.filter_map(|entry| fs::read(entry.path()).ok()).collect();
    inputs.sort();
    inputs
}

fn short_form(name: &str) {
    let target = hybrid_fuzz::find(name).expect("a target");
    let mut inputs = seeds::of(name);
    assert!(!inputs.is_empty(), "{name} has no seeds");
    inputs.extend(kept(target));
    inputs.push(Vec::new());
    inputs.iter().for_each(|input| (target.run)(input));
    let seed = testing::seed(1);
    println!("{}={seed}", testing::SEED);
    let mut random = Random::new(seed);
    let driven = matches!(name, "cqe" | "identify");
    let count = testing::ops(if driven { DRIVEN } else { MUTATIONS }, 1_000_000);
    // Each input of `identify` ends its controller, whose memory is never freed.
    for _ in 0..if driven { count.min(5_000) } else { count } {
        let one = usize::try_from(random.below(inputs.len() as u64)).expect("small");
        let other = usize::try_from(random.below(inputs.len() as u64)).expect("small");
        let mut input = inputs[one].clone();
        mutate::mutate(&mut input, &inputs[other], &mut random);
        (target.run)(&input);
    }
}

#[test]
fn completions_of_any_kind_end_each_read_once() {
    short_form("cqe");
}

#[test]
fn identify_data_of_any_bytes_are_refused_or_used_within_bounds() {
    short_form("identify");
}

#[test]
fn ring_headers_of_any_bytes_are_refused_or_a_ring() {
    short_form("ring");
}

#[test]
fn region_headers_of_any_bytes_are_refused_or_a_region() {
    short_form("region");
}

#[test]
fn trace_files_of_any_bytes_are_read_forward() {
    short_form("trace");
}

#[test]
fn crash_dumps_of_any_bytes_are_read_or_refused() {
    short_form("dump");
}

#[test]
fn itch_of_any_bytes_leaves_the_books_whole() {
    short_form("itch");
}

#[test]
fn packets_of_any_bytes_tell_each_message_once() {
    short_form("mold");
}

#[test]
fn requests_of_any_bytes_are_answered_with_one_line() {
    short_form("control");
}

#[test]
fn every_target_has_a_test_here_and_a_program_for_the_fuzzer() {
    let here = include_str!("corpora.rs");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for Target { name, .. } in &TARGETS {
        assert!(here.contains(&format!("short_form(\"{name}\")")), "{name}");
        let program = root.join(format!("libfuzzer/fuzz_targets/{name}.rs"));
        let text = fs::read_to_string(&program).expect("a program");
        assert!(text.contains(&format!("find(\"{name}\")")), "{name}");
    }
}
