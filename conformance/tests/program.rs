//! The program `conformance`, from outside: its lines, its exit codes, and what it refuses.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use hybrid_conventions::testing;

fn conformance(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_conformance");
    Command::new(program).args(args).env_remove(testing::SEED).output().expect("it starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// Whether the machine has a CPU for a partition; says so if not.
fn has_two_cpus(test: &str) -> bool {
    let enough = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() >= 2);
    if !enough {
        testing::skipped(test, "it needs two CPUs");
    }
    enough
}

/// An image that goes with the test.
struct Image(PathBuf);

impl Image {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let file = format!("hybrid-conformance-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(file);
        fs::write(&path, bytes).expect("an image");
        Self(path)
    }

    fn device(&self) -> String {
        format!("model:{}", self.0.display())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn the_list_names_every_case_once_with_what_it_needs() {
    let output = conformance(&["--list"]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    assert_eq!(text.lines().count(), hybrid_conformance::suite::cases().len());
    assert!(text.contains("commands::log_pages_are_read\n"));
    assert!(text.contains("random::blocks_of_512_bytes_hold_what_was_written: writes\n"));
}

#[test]
fn what_makes_no_sense_is_one_line_and_exit_code_1() {
    for (args, line) in [
        (&["--only", "no-such"][..], "conformance: no case has no-such in its name; "),
        (&["--device", "nvme0"], "conformance: device \"nvme0\" is not understood; allowed are"),
        (&["--device", "model:/nowhere/x.img"], "conformance: "),
        (&["--namespace", "77"], "conformance: device model: namespace 77 cannot be used; those"),
    ] {
        let output = conformance(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        let text = stderr(&output);
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with(line), "{args:?}: {text}");
        assert!(stdout(&output).is_empty(), "{args:?}");
    }
    assert_eq!(conformance(&["--scale", "0"]).status.code(), Some(1));
}

#[test]
fn a_run_prints_a_line_a_case_and_the_same_twice_for_the_same_seed() {
    if !has_two_cpus("program") {
        return;
    }
    let args = ["--only", "commands::", "--only", "bringup::", "--seed", "7", "--scale", "4"];
    let (first, second) = (conformance(&args), conformance(&args));
    assert_eq!(first.status.code(), Some(0), "{}", stdout(&first));
    assert_eq!(stdout(&first), stdout(&second));
    let text = stdout(&first);
    assert!(text.contains("\nseed 7, operations divided by 4\n"), "{text}");
    assert!(text.contains("\ntest commands::log_pages_are_read ... ok\n"), "{text}");
    let passed = text.matches(" ... ok\n").count();
    assert!(text.ends_with(&format!("\n{passed} passed, 0 failed, 0 skipped\n")), "{text}");
}

#[test]
fn a_namespace_that_carries_data_is_refused_untouched_and_an_empty_one_is_marked() {
    if !has_two_cpus("program") {
        return;
    }
    // The signature of a GPT's backup, in the last block.
    let mut bytes = vec![0; 8 << 20];
    let at = bytes.len() - 512;
    bytes[at..at + 8].copy_from_slice(b"EFI PART");
    let image = Image::new("gpt", &bytes);
    let output = conformance(&["--device", &image.device(), "--only", "random::"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("namespace 1 carries data (block 2047 is not blank)"));
    assert!(fs::read(&image.0).expect("an image") == bytes, "it was written");

    let image = Image::new("empty", &vec![0; 8 << 20]);
    for _ in 0..2 {
        let args = ["--device", &image.device(), "--only", "random::", "--scale", "20"];
        let output = conformance(&args);
        assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
        let text = stdout(&output);
        let skipped = "blocks_of_512_bytes_hold_what_was_written ... ignored, no namespace with";
        assert!(text.contains(skipped), "{text}");
    }
    let after = fs::read(&image.0).expect("an image");
    assert!(after.starts_with(b"hybrid-runtime conformance: "), "no mark");
    assert!(after[65536..].iter().any(|byte| *byte != 0), "nothing was written");
}
