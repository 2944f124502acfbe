//! A campaign that a signal ends says what it did, as one that ends by itself does.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

fn ended_by(signal: &str) -> (Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["--seed", "900", "--run-ops", "500", "--jobs", "2"])
        .env_remove("HYBRID_SEED")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // As a terminal has it: the signal comes to all of them.
        .process_group(0)
        .spawn()
        .expect("the program");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut said = String::new();
    // From the first line on it listens to signals.
    stdout.read_line(&mut said).expect("a pipe of ours");
    let group = format!("-{}", child.id());
    let kill = Command::new("kill").args(["-s", signal, "--", &group]).status().expect("kill");
    assert!(kill.success());
    stdout.read_to_string(&mut said).expect("a pipe of ours");
    (child.wait().expect("our child").code(), said)
}

#[test]
fn a_campaign_that_a_signal_ends_tells_its_seed_and_its_totals() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let (ended, said) = ended_by(signal);
        let lines: Vec<_> = said.lines().collect();
        let [first, kinds, hashes, totals] = lines[..] else { panic!("{said}") };
        assert_eq!(first, "seed 900, ordinary runs of 500 operations, until ^C, 2 jobs");
        assert!(kinds.starts_with("faults by kind") || kinds == "no faults", "{said}");
        assert!(hashes.contains("seeds 900 to "), "{said}");
        assert!(totals.contains(" 0 violations, ") && totals.ends_with(", 2 jobs"), "{said}");
        assert_eq!(ended, Some(code), "{said}");
    }
}
