//! What `ingest` leaves in an image, another process replays; the same seed makes the same image.

use hybrid_abi::feed::{SUPERBLOCK_BYTES, Superblock};

use crate::feeds;
use crate::machine::Machine;
use crate::real_data::same_rows;
use crate::temp::{TempDir, text};

#[test]
fn a_feed_that_one_process_ingests_another_replays() {
    let name = "a_feed_that_one_process_ingests_another_replays";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (out, (device, _)) = (dir.path("bbo.csv"), dir.image("day.img"));
    for lba in ["4096", "512"] {
        let shape = ["--device", &device, "--model-lba", lba];
        let mut ingest = vec!["ingest"];
        let feed = feeds::small();
        ingest.extend([text(&feed)].iter().chain(&shape));
        machine.run(&ingest).ok();
        for _ in 0..2 {
            let mut replay = vec!["replay", "--bbo", text(&out), "--no-probe"];
            replay.extend(shape);
            let run = machine.run(&replay).ok();
            assert!(run.stdout.contains("5,000"), "{run:?}");
            let ours = std::fs::read_to_string(&out).expect("the program wrote it");
            same_rows(&ours, &feeds::small_quotes(), lba);
        }
    }
}

#[test]
fn a_second_ingest_takes_the_place_of_the_first() {
    let name = "a_second_ingest_takes_the_place_of_the_first";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (device, image) = dir.image("day.img");
    let day = dir.file("day.itch", &feeds::day(3, 20, 20_000));
    let mut epochs = Vec::new();
    for feed in [&day, &feeds::small()] {
        machine.run(&["ingest", text(feed), "--device", &device]).ok();
        let bytes = std::fs::read(&image).expect("the image");
        let superblock = Superblock::parse(&bytes).expect("a superblock");
        assert!(superblock.is_complete());
        epochs.push(superblock.epoch);
    }
    assert_eq!(epochs, [1, 2]);
    let run = machine.run(&["replay", "--device", &device, "--no-probe", "--json"]).ok();
    assert_eq!(run.json()["replay"]["messages"], 5000);
}

#[test]
fn the_same_seed_makes_the_same_day_and_another_seed_another_one() {
    let name = "the_same_seed_makes_the_same_day_and_another_seed_another_one";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let chunks = |file: &str, seed: &str| {
        let (device, image) = dir.image(file);
        let day = ["--messages", "50k", "--stocks", "100", "--seed", seed];
        let mut args = vec!["--device", &device, "--model-size", "4M", "--no-probe"];
        args.extend(day);
        machine.run(&args).ok();
        let bytes = std::fs::read(&image).expect("the image");
        let superblock = Superblock::parse(&bytes).expect("a superblock");
        assert_eq!(superblock.message_count, 50_000);
        // All but the superblock, which tells the time.
        bytes.get(SUPERBLOCK_BYTES..).expect("chunks").to_vec()
    };
    let first = chunks("a.img", "1");
    assert!(first == chunks("b.img", "1"), "one seed, two days");
    assert!(first != chunks("c.img", "2"), "two seeds, one day");
}
