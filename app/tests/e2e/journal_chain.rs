//! Recordings with a chain, held against it by another program; and the example of a log.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hybrid_conventions::testing::skipped;

use crate::feeds;
use crate::journal_real::{end_before, record};
use crate::live::packets;
use crate::machine::Machine;
use crate::temp::{TempDir, text};

/// The folder of a profile's programs: this test's own, or its neighbour.
fn built(profile: Option<&str>) -> PathBuf {
    let own = std::env::current_exe().expect("this program");
    let own = own.ancestors().nth(2).expect("target/PROFILE/deps").to_owned();
    profile.map_or_else(|| own.clone(), |profile| own.with_file_name(profile))
}

/// `probe-util`, which the unit tests build; `None`, reported, where nobody did.
fn probe_util(test: &str) -> Option<PathBuf> {
    let folders = [built(None), built(Some("debug")), built(Some("release"))];
    let program = folders.map(|folder| folder.join("probe-util")).into_iter().find(|p| p.is_file());
    if program.is_none() {
        skipped(test, "probe-util is not built: cargo build -p probe-util");
    }
    program
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn a_chained_recording_is_held_against_its_chain_from_genesis_and_from_a_checkpoint() {
    let name = "a_chained_recording_is_held_against_its_chain_from_genesis_and_from_a_checkpoint";
    let Some(machine) = Machine::of(name) else { return };
    let Some(program) = probe_util(name) else { return };
    let dir = TempDir::in_memory();
    let probe = |image: &Path, options: &[&str]| {
        let run = Command::new(&program).arg("journal").arg(image).args(options).output();
        let run = run.expect("probe-util runs");
        (run.status.code(), said(&run))
    };
    let sent = packets(&feeds::day(3, 20, 1_500));
    let (first, second) = sent.split_at(sent.len() / 2);
    let first = [first, &[end_before(&second[0])]].concat();
    let image = dir.path("journal.img");
    let device = format!("model:{}", text(&image));
    let chain = |told: &serde_json::Value| {
        let chain = told["chain"].as_str().unwrap_or_else(|| panic!("a chain in {told:#}"));
        (chain.to_owned(), told["end"].as_u64().expect("a number"))
    };
    let (before, middle) = chain(&record(&device, &first, &["--chain"]).0);
    // A journal that has a chain goes on with it, asked or not.
    let (behind, end) = chain(&record(&device, second, &[]).0);
    assert!(before != behind && middle < end);

    for (chain, record) in [(&before, middle), (&behind, end)] {
        let (code, said) = probe(&image, &["--verify", "--chain", chain]);
        assert_eq!(code, Some(0), "{said}");
        for words in [
            "chained from genesis to its end".to_owned(),
            format!("goes through the given chain in front of record {record}\n"),
        ] {
            assert!(said.contains(&words), "{words:?} in {said}");
        }
    }
    // From the checkpoint on, without the records before it.
    let (code, said) = probe(&image, &["--chain", &behind]);
    assert_eq!(code, Some(0), "{said}");
    let words = format!("goes through the given chain in front of record {end}\n");
    assert!(said.contains(&words) && !said.contains("verified"), "{said}");
    let (code, said) = probe(&image, &["--chain", &before]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("from its checkpoint on; --verify looks at all of it"), "{said}");

    // The same packets, recorded by somebody else, are another history.
    let other = dir.path("other.img");
    record(&format!("model:{}", text(&other)), &first, &["--chain"]);
    let (code, said) = probe(&other, &["--verify", "--chain", &before]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("the log does not go through chain {before}")), "{said}");

    let plain = format!("model:{}", text(&dir.path("plain.img")));
    assert!(record(&plain, &first, &[]).0["chain"].is_null());
    let listen = ["record", "--listen", "127.0.0.1:0", "--idle", "1ms", "-q", "--device", &plain];
    let run = machine.run(&[&listen[..], &["--journal-size", "96M", "--chain"]].concat());
    assert_eq!(run.code(), Some(1), "{run:?}");
    run.one_error(&["was made without a chain", "leave --chain out"]);
}

#[test]
fn the_example_of_a_log_says_what_was_durable_before() {
    let name = "the_example_of_a_log_says_what_was_durable_before";
    let Some(_machine) = Machine::of(name) else { return };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "-p", "feed-handler", "--example", "wal", "--target-dir"]);
    build.arg(built(None).parent().expect("target")).current_dir(env!("CARGO_MANIFEST_DIR"));
    if built(None).ends_with("release") {
        build.arg("--release");
    }
    let run = build.output().expect("cargo runs");
    assert!(run.status.success(), "{}", said(&run));
    let dir = TempDir::in_memory();
    let image = dir.path("wal.img");
    let device = format!("model:{}", text(&image));
    let program = built(None).join("examples/wal");
    let set =
        |value: &str| Command::new(&program).args([&device, value]).output().expect("it runs");
    for (value, was) in
        [("42", "0"), ("7", "42"), ("18446744073709551615", "7"), ("1", "18446744073709551615")]
    {
        let run = set(value);
        let stdout = String::from_utf8_lossy(&run.stdout).into_owned();
        assert_eq!(stdout, format!("it was {was}\n{value} is durable\n"), "{}", said(&run));
        assert!(run.status.success());
    }
    // A block of the log decays.
    let file = File::options().read(true).write(true).open(&image).expect("the image");
    let mut bytes = vec![0; 1 << 20];
    file.read_exact_at(&mut bytes, 0).expect("its beginning");
    let batch = bytes.windows(8).position(|word| word == b"HYJBATCH").expect("a batch");
    file.write_all_at(&[bytes[batch + 100] ^ 1], batch as u64 + 100).expect("written");
    let run = set("2");
    assert_eq!(run.status.code(), Some(1));
    let words = "wal: the journal is damaged: record 0 at position 0";
    assert!(said(&run).contains(words), "{}", said(&run));
    let run = Command::new(&program).output().expect("it runs");
    assert_eq!(
        (run.status.code(), said(&run).as_str()),
        (Some(1), "wal: usage: wal DEVICE NUMBER\n")
    );
}
