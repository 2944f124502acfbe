//! Replays give the truth line for line, whatever the device is like.

use std::path::Path;

use crate::feeds;
use crate::machine::Machine;
use crate::temp::{TempDir, text};

/// Fails at the first row that differs.
#[track_caller]
pub(crate) fn same_rows(ours: &str, truth: &str, about: &str) {
    for (number, (ours, truth)) in ours.lines().zip(truth.lines()).enumerate() {
        assert_eq!(ours, truth, "{about}: line {number}, from zero");
    }
    assert_eq!(ours.lines().count(), truth.lines().count(), "{about}");
}

/// Replays `feed` on every kind of model and compares the quotes. A limit of 4 KiB is the driver's
/// own, since no controller can report it: the MDTS that would be 4 KiB, 0, means no limit.
fn through_every_device(machine: &Machine, feed: &Path, truth: &str) {
    let dir = TempDir::new();
    let out = dir.path("bbo.csv");
    for depth in ["1", "7", "256"] {
        for lba in ["512", "4096"] {
            for transfer in [
                ["--max-transfer", "4k", "--model-mdts", "2M"],
                ["--max-transfer", "2M", "--model-mdts", "8k"],
                ["--max-transfer", "2M", "--model-mdts", "2M"],
            ] {
                for order in [&[][..], &["--model-out-of-order", "7"]] {
                    let mut args = vec!["replay", text(feed), "--bbo", text(&out), "--no-probe"];
                    args.extend(["--queue-depth", depth, "--model-lba", lba]);
                    args.extend(transfer);
                    args.extend(order);
                    let about = args.join(" ");
                    let run = machine.run(&args).ok();
                    assert!(run.stdout.contains("0 dropped"), "{about}: {run:?}");
                    let ours = std::fs::read_to_string(&out).expect("the program wrote it");
                    same_rows(&ours, truth, &about);
                }
            }
        }
    }
}

#[test]
fn real_order_flow_gives_the_published_quotes_through_every_device() {
    let name = "real_order_flow_gives_the_published_quotes_through_every_device";
    let Some(machine) = Machine::of(name) else { return };
    let Some((feed, quotes)) = feeds::real(name) else { return };
    through_every_device(&machine, &feed, &quotes);
}

#[test]
fn the_projects_own_feed_gives_its_quotes_through_every_device() {
    let name = "the_projects_own_feed_gives_its_quotes_through_every_device";
    let Some(machine) = Machine::of(name) else { return };
    through_every_device(&machine, &feeds::small(), &feeds::small_quotes());
}

#[test]
fn blocks_of_64_kib_and_slow_commands_change_nothing() {
    let name = "blocks_of_64_kib_and_slow_commands_change_nothing";
    let Some(machine) = Machine::of(name) else { return };
    let (dir, feed) = (TempDir::new(), feeds::small());
    let out = dir.path("bbo.csv");
    for device in [["--model-lba", "64k"], ["--model-latency", "2ms"]] {
        let mut args = vec!["replay", text(&feed), "--bbo", text(&out), "--no-probe"];
        args.extend(device);
        machine.run(&args).ok();
        let ours = std::fs::read_to_string(&out).expect("the program wrote it");
        same_rows(&ours, &feeds::small_quotes(), &device.join(" "));
    }
}
