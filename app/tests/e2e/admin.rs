//! What the controller says of itself: text and JSON, against golden files.

use serde_json::Value;

use crate::machine::Machine;
use crate::run;
use crate::temp::{TempDir, text};

#[track_caller]
fn check(machine: &Machine, args: &[&str], golden: &str) {
    let run = machine.run(args).ok();
    let ours = &run.stdout;
    assert!(golden == ours, "{args:?}: the golden file differs; the output is now:\n{ours}");
    for line in ours.lines() {
        assert!(line.chars().count() <= 100, "{line}");
        assert_eq!(line, line.trim_end(), "{args:?}");
    }
}

#[test]
fn the_texts_are_as_in_the_golden_files() {
    let name = "the_texts_are_as_in_the_golden_files";
    let Some(machine) = Machine::of(name) else { return };
    check(&machine, &["id-ctrl"], include_str!("golden/id-ctrl.txt"));
    check(&machine, &["id-ns"], include_str!("golden/id-ns.txt"));
    check(&machine, &["smart-log"], include_str!("golden/smart-log.txt"));
    check(&machine, &["error-log"], include_str!("golden/error-log.txt"));
    // A table that is wider with a longer device, as nvme-cli's.
    let list = machine.run(&["list"]).ok();
    assert_eq!(list.stdout, include_str!("golden/list.txt"));
}

#[test]
fn the_json_is_as_in_the_golden_files() {
    let name = "the_json_is_as_in_the_golden_files";
    let Some(machine) = Machine::of(name) else { return };
    check(&machine, &["id-ctrl", "--json"], include_str!("golden/id-ctrl.json"));
    check(&machine, &["id-ns", "--json"], include_str!("golden/id-ns.json"));
    check(&machine, &["smart-log", "--json"], include_str!("golden/smart-log.json"));
    check(&machine, &["error-log", "--json"], include_str!("golden/error-log.json"));
    check(&machine, &["list", "--json"], include_str!("golden/list.json"));
}

#[test]
fn each_json_names_its_schema() {
    for (golden, schema) in [
        (include_str!("golden/id-ctrl.json"), "id-ctrl/1"),
        (include_str!("golden/id-ns.json"), "id-ns/1"),
        (include_str!("golden/smart-log.json"), "smart-log/1"),
        (include_str!("golden/error-log.json"), "error-log/1"),
        (include_str!("golden/list.json"), "list/1"),
    ] {
        let value: Value = serde_json::from_str(golden).expect("JSON");
        assert_eq!(value["schema"], schema);
    }
}

#[test]
fn the_model_says_what_its_options_say() {
    let name = "the_model_says_what_its_options_say";
    let Some(machine) = Machine::of(name) else { return };
    let model = ["--model-size", "1G", "--model-lba", "512", "--model-mdts", "1M", "--json"];
    let ask = |command| machine.run(&[&[command][..], &model].concat()).ok().json();
    assert_eq!(ask("id-ns")["nsze"], 1 << 21);
    assert_eq!(ask("id-ctrl")["mdts"], 8);
    let list = ask("list");
    assert_eq!(list["Devices"][0]["PhysicalSize"], 1 << 30);
    assert_eq!(list["Devices"][0]["SectorSize"], 512);
}

#[test]
fn a_namespace_that_is_not_active_is_refused_with_those_that_are() {
    let name = "a_namespace_that_is_not_active_is_refused_with_those_that_are";
    let Some(machine) = Machine::of(name) else { return };
    machine.run(&["id-ns", "-n", "1"]).ok();
    let words = ["namespace 7 is not active; active are 1"];
    machine.run(&["id-ns", "--namespace-id", "7"]).refused(1, &words);
}

#[test]
fn questions_write_nothing_to_an_image() {
    let name = "questions_write_nothing_to_an_image";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (device, image) = dir.image("foreign.img");
    let bytes = crate::feeds::noise(1 << 20);
    std::fs::write(&image, &bytes).expect("an image");
    for command in ["id-ctrl", "id-ns", "smart-log", "error-log", "list"] {
        machine.run(&[command, "--device", &device]).ok();
    }
    assert!(bytes == std::fs::read(&image).expect("the image"), "{}", text(&image));
}

#[test]
fn an_image_that_is_a_directory_is_refused() {
    run::start(&["list", "--device", "model:/"]).wait().refused(1, &["not a regular file"]);
}
