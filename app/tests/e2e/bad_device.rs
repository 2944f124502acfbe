//! Devices that are not there, too small, foreign, incomplete or damaged.

use std::path::Path;

use hybrid_abi::feed::{CHUNK_HEADER_BYTES, SUPERBLOCK_BYTES};

use crate::feeds;
use crate::machine::Machine;
use crate::run;
use crate::temp::{TempDir, text};

/// Bytes of a chunk on the device.
const CHUNK: usize = feed_handler::handler::CHUNK_BYTES as usize;

/// An image with the small feed.
fn ingested(machine: &Machine, device: &str) {
    machine.run(&["ingest", text(&feeds::small()), "--device", device]).ok();
}

/// Flips a bit of a file.
fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("the image");
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).expect("the image");
}

#[test]
fn storage_of_the_kernel_that_is_not_there_is_refused_and_has_no_controller_to_ask() {
    for (device, path) in
        [("uring:/dev/nvme99n1", "/dev/nvme99n1"), ("uring-cmd:/dev/ng99n1", "/dev/ng99n1")]
    {
        let args = ["replay", "--device", device];
        let gone = format!("{path} is not there; ");
        run::start(&args).wait().refused(3, &[&gone]);
        let words = ["driven by the host's kernel", "nvme id-ctrl"];
        run::start(&["list", "--device", device]).wait().refused(1, &words);
    }
}

#[test]
fn a_pci_function_that_is_not_there_is_refused_before_anything_else_is_done() {
    for (device, full) in [("ffff:fe:1f.7", "ffff:fe:1f.7"), ("fe:1f.7", "0000:fe:1f.7")] {
        for command in [&["list"][..], &["replay"], &["--allow-writes"]] {
            let args = [command, &["--device", device]].concat();
            let no_function = format!("no pci function {full}; ");
            let words = [no_function.as_str(), "list them with: lspci"];
            run::start(&args).wait().refused(3, &words);
        }
    }
}

#[test]
fn malformed_devices_are_refused_with_the_grammar() {
    for (device, words) in [
        ("disk", "allowed are model[:IMAGE], a pci address"),
        ("", "allowed are model[:IMAGE]"),
        ("model:", "device \"model:\" has no path after its colon"),
        ("0000:03:00.9", "0000:03:00.9"),
        ("uring-cmd:/dev/nvme0", "allowed are /dev/ngXnY"),
    ] {
        run::start(&["list", "--device", device]).wait().refused(1, &[words]);
    }
}

#[test]
fn an_image_that_is_not_there_is_refused_with_the_command_that_makes_it() {
    let dir = TempDir::new();
    let (device, _) = dir.image("missing.img");
    let fix = format!("feed-handler ingest FILE --device {device}");
    for command in ["replay", "list", "id-ctrl"] {
        let run = run::start(&[command, "--device", &device]).wait();
        run.refused(3, &["missing.img is not there", &fix]);
    }
}

#[test]
fn a_replay_of_nothing_is_refused() {
    let words = ["nothing to replay: a model in memory begins empty", "--device model:IMAGE"];
    run::start(&["replay"]).wait().refused(1, &words);
}

#[test]
fn an_image_that_cannot_be_made_is_refused() {
    let name = "an_image_that_cannot_be_made_is_refused";
    let Some(machine) = Machine::of(name) else { return };
    let device = "model:/nonexistent/directory/day.img";
    let run = machine.run(&["ingest", text(&feeds::small()), "--device", device]);
    run.refused(1, &["/nonexistent/directory/day.img: No such file or directory"]);
    let run = machine.run(&["ingest", text(&feeds::small()), "--device", "model:/tmp"]);
    run.refused(1, &["image /tmp: not a regular file"]);
}

#[test]
fn an_image_smaller_than_the_feed_is_refused_before_it_is_written() {
    let dir = TempDir::new();
    let (device, image) = dir.image("small.img");
    std::fs::write(&image, vec![0; 128 << 10]).expect("a small file");
    let feed = feeds::small();
    let run = run::start(&["ingest", text(&feed), "--device", &device]).wait();
    // A superblock and three chunks.
    run.refused(
        1,
        &["the feed needs 200704 bytes on the device", "has 131072", "remove the image"],
    );
    assert_eq!(std::fs::read(&image).expect("the image"), vec![0; 128 << 10]);
    let args = ["replay", text(&feed), "--model-size", "64k"];
    run::start(&args).wait().refused(1, &["has 65536; raise --model-size"]);
}

#[test]
fn an_image_shorter_than_its_namespace_is_refused() {
    let name = "an_image_shorter_than_its_namespace_is_refused";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (device, image) = dir.image("day.img");
    ingested(&machine, &device);
    let args = ["replay", "--device", &device, "--model-size", "1G"];
    machine.run(&args).refused(1, &["day.img has 268435456 bytes", "needs 1073741824"]);
    let file = std::fs::File::options().write(true).open(&image).expect("the image");
    file.set_len(100 << 10).expect("a shorter file");
    machine.run(&["replay", "--device", &device]).refused(1, &["does not fit its namespace"]);
    file.set_len(1024).expect("a shorter file");
    let run = machine.run(&["replay", "--device", &device]);
    assert_eq!(run.code(), Some(1), "{run:?}");
    run.one_error(&[]);
}

#[test]
fn an_empty_device_and_a_foreign_one_are_refused_by_replay() {
    let name = "an_empty_device_and_a_foreign_one_are_refused_by_replay";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    for (file, bytes) in [("zeros.img", vec![0; 1 << 20]), ("noise.img", feeds::noise(1 << 20))] {
        let (device, image) = dir.image(file);
        std::fs::write(&image, &bytes).expect("an image");
        let run = machine.run(&["replay", "--device", &device]);
        run.refused(1, &["the device carries no feed", "feed-handler ingest FILE"]);
        assert!(bytes == std::fs::read(&image).expect("the image"), "a replay writes nothing");
    }
}

#[test]
fn a_device_that_carries_something_else_is_overwritten_only_when_asked_to() {
    let name = "a_device_that_carries_something_else_is_overwritten_only_when_asked_to";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (device, image) = dir.image("foreign.img");
    let feed = feeds::small();
    let ingest = ["ingest", text(&feed), "--device", &device];
    // At the start, within the first MiB, and at the very end, where filesystems and RAID write.
    for at in [0, 1080, (1 << 20) - 1, (4 << 20) - 4096, (4 << 20) - 1] {
        let mut bytes = vec![0; 4 << 20];
        bytes[at] = 1;
        std::fs::write(&image, &bytes).expect("an image");
        let first = format!("first at byte {at})");
        machine.run(&ingest).refused(1, &["no feed of ours", &first, "--allow-writes"]);
        assert!(bytes == std::fs::read(&image).expect("the image"), "it was written");
    }
    machine.run(&[&ingest[..], &["--allow-writes"]].concat()).ok();
    machine.run(&["replay", "--device", &device, "--no-probe"]).ok();
}

#[test]
fn a_damaged_chunk_is_named() {
    let name = "a_damaged_chunk_is_named";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (device, image) = dir.image("day.img");
    ingested(&machine, &device);
    for chunk in 0..3 {
        let start = SUPERBLOCK_BYTES + chunk * CHUNK;
        let named = format!("chunk {chunk} on the device is damaged: ");
        let header = "feed chunk";
        for (at, words) in [(0, header), (20, header), (CHUNK_HEADER_BYTES + 5, "payload crc32c")] {
            flip(&image, start + at);
            let run = machine.run(&["replay", "--device", &device, "--no-probe"]);
            run.refused(1, &[&named, words]);
            flip(&image, start + at);
        }
    }
    machine.run(&["replay", "--device", &device, "--no-probe"]).ok();
}

#[test]
fn a_damaged_superblock_is_refused() {
    let name = "a_damaged_superblock_is_refused";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (device, image) = dir.image("day.img");
    ingested(&machine, &device);
    flip(&image, 30);
    let run = machine.run(&["replay", "--device", &device]);
    run.refused(1, &["the device carries no feed (feed superblock", "ingest"]);
}

#[test]
fn another_block_size_than_that_of_the_ingest_is_refused_with_the_option() {
    let name = "another_block_size_than_that_of_the_ingest_is_refused_with_the_option";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (device, _) = dir.image("day.img");
    ingested(&machine, &device);
    let run = machine.run(&["replay", "--device", &device, "--model-lba", "512"]);
    run.refused(1, &["block size", "512", "4096", "--model-lba"]);
}

#[test]
fn chunks_of_an_earlier_feed_are_not_taken_for_those_of_this_one() {
    let name = "chunks_of_an_earlier_feed_are_not_taken_for_those_of_this_one";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (device, image) = dir.image("day.img");
    ingested(&machine, &device);
    let first = std::fs::read(&image).expect("the image");
    ingested(&machine, &device);
    let mut second = std::fs::read(&image).expect("the image");
    let chunk = SUPERBLOCK_BYTES + CHUNK..SUPERBLOCK_BYTES + 2 * CHUNK;
    second[chunk.clone()].copy_from_slice(&first[chunk]);
    std::fs::write(&image, second).expect("the image");
    let run = machine.run(&["replay", "--device", &device, "--no-probe"]);
    run.refused(1, &["chunk 1 on the device is damaged: ", "epoch"]);
}
