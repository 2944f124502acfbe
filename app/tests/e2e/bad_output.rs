//! Outputs that cannot be written: files, full disks, readers that have gone.

use std::fs::File;
use std::process::{Command, Stdio};

use crate::feeds;
use crate::machine::Machine;
use crate::run::{self, PROGRAM};
use crate::temp::{TempDir, text};

#[test]
fn a_quotes_file_that_cannot_be_made_is_refused_before_the_run() {
    let feed = feeds::small();
    let args = ["replay", text(&feed), "--bbo", "/nonexistent/x.csv"];
    run::start(&args).wait().refused(1, &["--bbo /nonexistent/x.csv: No such file"]);
}

#[test]
fn a_full_disk_below_the_quotes_is_an_error() {
    let name = "a_full_disk_below_the_quotes_is_an_error";
    let Some(machine) = Machine::of(name) else { return };
    let feed = feeds::small();
    let run = machine.run(&["replay", text(&feed), "--no-probe", "--bbo", "/dev/full"]);
    assert_eq!(run.code(), Some(1), "{run:?}");
    run.one_error(&["--bbo /dev/full: No space left on device"]);
}

#[test]
fn the_feed_is_never_overwritten_by_its_own_quotes_or_image() {
    let dir = TempDir::new();
    let bytes = std::fs::read(feeds::small()).expect("the feed");
    let feed = dir.file("day.itch", &bytes);
    let link = dir.path("link.itch");
    std::os::unix::fs::symlink(&feed, &link).expect("a link");
    let run = run::start(&["replay", text(&feed), "--bbo", text(&link)]).wait();
    run.refused(1, &["link.itch is the feed itself"]);
    let device = format!("model:{}", link.display());
    for command in ["ingest", "replay"] {
        let args = [command, text(&feed), "--device", &device, "--allow-writes"];
        run::start(&args).wait().refused(1, &["link.itch is the feed itself"]);
    }
    assert!(bytes == std::fs::read(&feed).expect("the feed"), "it was written");
}

#[test]
fn a_full_disk_below_the_result_is_an_error() {
    let name = "a_full_disk_below_the_result_is_an_error";
    let Some(_machine) = Machine::of(name) else { return };
    for args in [&["list"][..], &["smart-log", "--json"], &["--messages", "20k", "--no-probe"]] {
        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let mut command = Command::new(PROGRAM);
        let output = command.args(args).stdin(Stdio::null()).stdout(full).output();
        let output = output.expect("the program starts");
        let stderr = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(stderr.contains("feed-handler: stdout: No space left on device"), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn readers_that_have_gone_are_no_panic() {
    let name = "readers_that_have_gone_are_no_panic";
    let Some(_machine) = Machine::of(name) else { return };
    for args in [&["--messages", "20k", "--no-probe"][..], &["id-ctrl"], &["list", "--json"]] {
        let mut command = Command::new(PROGRAM);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        drop(child.stdout.take());
        drop(child.stderr.take());
        assert_eq!(run::Ending::of(child).wait().code(), Some(0), "{args:?}");
    }
    // An error that nobody can read still has its code.
    let mut command = Command::new(PROGRAM);
    command.args(["replay", "/nonexistent"]).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    drop(child.stderr.take());
    assert_eq!(run::Ending::of(child).wait().code(), Some(1));
}
