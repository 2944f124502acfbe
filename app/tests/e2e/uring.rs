//! `uring:PATH`: the same handler on storage that the host's kernel drives.

use crate::feeds;
use crate::machine::Machine;
use crate::real_data::same_rows;
use crate::temp::{TempDir, text};

/// A device of a file in `dir`, and the file.
fn device(dir: &TempDir) -> (String, std::path::PathBuf) {
    let path = dir.path("day.img");
    (format!("uring:{}", path.display()), path)
}

#[test]
fn the_quotes_are_those_of_the_model_to_the_byte() {
    let Some(machine) = Machine::of("the_quotes_are_those_of_the_model_to_the_byte") else {
        return;
    };
    let dir = TempDir::new();
    let (kernel, path) = device(&dir);
    let (feed, by_model, by_kernel) =
        (feeds::small(), dir.path("model.csv"), dir.path("kernel.csv"));
    machine.run(&["replay", text(&feed), "--bbo", text(&by_model), "--no-probe"]).ok();
    let mut args = vec!["replay", text(&feed), "--bbo", text(&by_kernel), "--no-probe", "--json"];
    args.extend(["--device", &kernel, "--allow-writes"]);
    let run = machine.run(&args).ok();
    let read = |path| std::fs::read(path).expect("the program wrote it");
    assert!(read(&by_model) == read(&by_kernel), "other quotes over the bridge");
    let json = run.json();
    assert_eq!(json["device"]["is_model"], false);
    let backend = json["device"]["backend"].as_str().expect("told").to_owned();
    assert!(backend.starts_with(&kernel) && backend.contains("registered buffers"), "{backend}");
    assert!(std::fs::metadata(&path).expect("it was made").len() >= 1 << 20);
}

#[test]
fn an_image_is_the_same_for_the_model_and_for_the_kernel() {
    let name = "an_image_is_the_same_for_the_model_and_for_the_kernel";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (feed, out) = (feeds::small(), dir.path("bbo.csv"));
    let (model, image) = dir.image("day.img");
    machine.run(&["ingest", text(&feed), "--device", &model]).ok();
    let kernel = format!("uring:{}", image.display());
    let sqpoll = &["--uring-sqpoll=0", "--uring-sqpoll-idle=1ms"][..];
    let plain = &["--uring-sqpoll=off", "--uring-no-fixed"][..];
    for options in [&[][..], &["--uring-buffered"], plain, sqpoll, &["--uring-iopoll"]] {
        let mut args = vec!["replay", "--device", &kernel, "--bbo", text(&out), "--no-probe"];
        args.extend(options);
        let run = machine.run(&args).ok();
        // Through the page cache nothing can be polled for: that is one line.
        let told = run.stderr.contains("without IOPOLL");
        assert!(!told || options.contains(&"--uring-iopoll"), "{run:?}");
        let ours = std::fs::read_to_string(&out).expect("the program wrote it");
        same_rows(&ours, &feeds::small_quotes(), &options.join(" "));
    }
}

#[test]
fn a_file_is_made_as_it_was_asked_for() {
    let Some(machine) = Machine::of("a_file_is_made_as_it_was_asked_for") else { return };
    let dir = TempDir::new();
    let (kernel, path) = device(&dir);
    let feed = feeds::small();
    let mut args = vec!["replay", text(&feed), "--device", &kernel, "--allow-writes", "--json"];
    args.extend(["--no-probe", "--uring-size", "9M", "--uring-lba", "512"]);
    let json = machine.run(&args).ok().json();
    assert_eq!(json["device"]["lba_bytes"], 512);
    assert_eq!(json["device"]["namespace_bytes"], 9 << 20);
    assert_eq!(std::fs::metadata(&path).expect("made").len(), 9 << 20);
}

#[test]
fn a_day_over_the_bridge_is_silent_and_its_single_reads_are_measured() {
    let name = "a_day_over_the_bridge_is_silent_and_its_single_reads_are_measured";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (kernel, _) = device(&dir);
    let mut args = vec!["--messages", "100k", "--device", &kernel, "--allow-writes", "--json"];
    args.push("--check-silence");
    let run = machine.run(&args);
    if run.code() == Some(3) && run.stderr.contains("system calls") {
        return hybrid_conventions::testing::skipped(name, run.stderr.trim_end());
    }
    let json = run.ok().json();
    assert_eq!(json["silence"]["system_calls"], 0);
    assert_eq!(json["silence"]["heap_allocations"], 0);
    assert_eq!(json["driver"]["failed"], 0);
    assert_eq!(json["single_reads"]["samples"], 20_000);
}

#[test]
fn what_cannot_be_is_refused_in_one_line_with_its_fix() {
    let Some(machine) = Machine::of("what_cannot_be_is_refused_in_one_line_with_its_fix") else {
        return;
    };
    let dir = TempDir::new();
    let (kernel, path) = device(&dir);
    let feed = feeds::small();
    machine.run(&["replay", "--device", &kernel]).refused(3, &["is not there; make it"]);
    machine
        .run(&["ingest", text(&feed), "--device", &kernel])
        .refused(1, &["may carry data", "--allow-writes"]);
    machine.run(&["replay", "--device", "uring:/tmp"]).refused(1, &["is a directory"]);
    machine.run(&["id-ctrl", "--device", &kernel]).refused(1, &["driven by the host's kernel"]);
    machine
        .run(&["replay", "--device", "uring-cmd:/dev/ng99n1"])
        .refused(3, &["/dev/ng99n1 is not there"]);
    std::fs::write(&path, vec![7; 12 << 10]).expect("a file");
    machine
        .run(&["replay", "--device", &kernel, "--no-probe"])
        .refused(1, &["carries no feed", "feed-handler ingest FILE"]);
    let itself = format!("uring:{}", text(&feed));
    machine.run(&["ingest", text(&feed), "--device", &itself, "--allow-writes"]).refused(1, &[]);
}
