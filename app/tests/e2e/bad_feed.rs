//! Feeds that are wrong: each ends in one line with the position, and the fix where there is one.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};

use crate::feeds::{self, Feed, add_order};
use crate::machine::Machine;
use crate::run::{self, Run};
use crate::temp::{TempDir, text};

/// Replays `bytes` as a feed.
fn replay(machine: &Machine, bytes: &[u8], options: &[&str]) -> Run {
    let dir = TempDir::new();
    let feed = dir.file("bad.itch", bytes);
    let mut args = vec!["replay", text(&feed), "--no-probe"];
    args.extend(options);
    machine.run(&args)
}

#[test]
fn an_empty_feed_is_refused() {
    let dir = TempDir::new();
    let feed = dir.file("empty.itch", b"");
    for command in ["replay", "ingest"] {
        let run = run::start(&[command, text(&feed)]).wait();
        run.refused(1, &["empty.itch: message 1 at byte offset 0: the file is empty", "ITCH"]);
    }
}

#[test]
fn a_feed_that_is_not_there_is_refused_and_so_is_what_is_no_file() {
    let dir = TempDir::new();
    let missing = dir.path("missing.itch");
    let run = run::start(&["replay", text(&missing)]).wait();
    run.refused(1, &["feed ", "missing.itch: No such file"]);
    let run = run::start(&["ingest", text(&dir.path(""))]).wait();
    run.refused(1, &["not a regular file"]);
    let run = run::start(&["replay", "/dev/zero"]).wait();
    run.refused(1, &["feed /dev/zero: not a regular file"]);
}

#[test]
fn a_pipe_without_a_writer_is_refused_and_not_waited_for() {
    let dir = TempDir::new();
    let pipe = dir.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if !made.is_ok_and(|status| status.success()) {
        let name = "a_pipe_without_a_writer_is_refused_and_not_waited_for";
        return hybrid_conventions::testing::skipped(name, "mkfifo is not installed");
    }
    run::start(&["replay", text(&pipe)]).wait().refused(1, &["not a regular file"]);
}

#[test]
fn text_is_refused_as_no_feed() {
    let dir = TempDir::new();
    let lines = "symbol,price,shares\nAAPL,100.25,300\n".repeat(10_000);
    let feed = dir.file("feed.csv", lines.as_bytes());
    let run = run::start(&["replay", text(&feed)]).wait();
    run.refused(1, &["feed.csv: message 1 at byte offset 0: this is not an ITCH 5.0 feed", "0x6d"]);
}

#[test]
fn sixty_four_mebibytes_of_garbage_are_refused() {
    let dir = TempDir::new();
    let zeros = vec![0; 64 << 20];
    let letters = vec![b'A'; 64 << 20];
    for (name, bytes) in [("noise", feeds::noise(64 << 20)), ("zeros", zeros), ("as", letters)] {
        let feed = dir.file(name, &bytes);
        let run = run::start(&["replay", text(&feed)]).wait();
        let words = format!("{name}: message 1 at byte offset 0: this is not an ITCH 5.0 feed: ");
        run.refused(1, &[&words]);
    }
}

#[test]
fn a_gibibyte_of_garbage_is_refused_without_being_read() {
    let dir = TempDir::new();
    let noise = feeds::noise(4096);
    for start in [&noise[..], &[]] {
        let path = dir.path("sparse");
        let mut file = File::create(&path).expect("a file");
        file.write_all(start).expect("room for a page");
        file.set_len(1 << 30).expect("a sparse file");
        let run = run::start(&["ingest", text(&path)]).wait();
        run.refused(1, &["message 1 at byte offset 0: this is not an ITCH 5.0 feed"]);
    }
}

#[test]
fn garbage_behind_a_good_start_is_refused_where_it_begins() {
    let name = "garbage_behind_a_good_start_is_refused_where_it_begins";
    let Some(machine) = Machine::of(name) else { return };
    let mut feed = Feed::in_session();
    let (position, start) = (feed.position(), feed.bytes.len());
    // Lengths of 16,705 and types that do not have them: it frames well.
    feed.bytes.resize(start + 3 * 16_707, b'A');
    replay(&machine, &feed.bytes, &[]).refused(1, &[&position, "type A has 16705 bytes"]);

    // Zeros that begin behind what the host looks at: the end of a session, and more.
    let dir = TempDir::new();
    let path = dir.file("zeros.itch", &feeds::day(1, 20, 20_000));
    let mut file = File::options().write(true).open(&path).expect("the file");
    let end = file.seek(SeekFrom::End(0)).expect("its length");
    file.set_len(1 << 30).expect("a sparse file");
    let offset = format!("message 20001 at byte offset {end}: ");
    let run = machine.run(&["replay", text(&path), "--no-probe"]);
    run.refused(1, &[&offset, "bytes or more follow the end of the session"]);
}

#[test]
fn a_truncated_feed_is_refused_wherever_it_was_cut() {
    let name = "a_truncated_feed_is_refused_wherever_it_was_cut";
    let Some(machine) = Machine::of(name) else { return };
    let mut feed = Feed::in_session();
    feed.add(1);
    let position = feed.position();
    let whole = feed.bytes.len();
    feed.add(2);
    for (cut, there) in [(1, "1 of 2"), (2, "2 of 38"), (3, "3 of 38"), (37, "37 of 38")] {
        let run = replay(&machine, &feed.bytes[..whole + cut], &[]);
        let there = format!("ends inside a message: {there} bytes are there");
        run.refused(1, &["bad.itch: ", &position, &there]);
    }
    let first = replay(&machine, &feed.bytes[..1], &[]);
    first.refused(1, &["message 1 at byte offset 0: ", "1 of 2 bytes"]);
    // Between two messages it is whole: captures often lack the mark at the end.
    replay(&machine, &feed.bytes[..whole], &[]).ok();
}

#[test]
fn a_long_feed_that_was_cut_is_refused_by_the_partition() {
    let name = "a_long_feed_that_was_cut_is_refused_by_the_partition";
    let Some(machine) = Machine::of(name) else { return };
    let day = feeds::day(1, 50, 50_000);
    let cut = day.len() - 10;
    let run = replay(&machine, &day[..cut], &[]);
    // The mark at the end has two bytes, the message before it 14: eight are cut off.
    run.refused(1, &["message 50000 at byte offset ", "6 of 14 bytes are there"]);
}

#[test]
fn a_message_whose_length_disagrees_with_its_type_is_refused_or_counted() {
    let name = "a_message_whose_length_disagrees_with_its_type_is_refused_or_counted";
    let Some(machine) = Machine::of(name) else { return };
    for (message, words) in [
        (&add_order(1)[..35], "type A has 35 bytes, the specification says 36"),
        (&[&add_order(1)[..], &[0]].concat(), "type A has 37 bytes, the specification says 36"),
        (&b"Z1234567"[..], "type Z has 8 bytes, every message has at least 11"),
        (&b"\x01234567890123"[..], "0x01 is not a message type"),
    ] {
        let mut feed = Feed::in_session();
        let position = feed.position();
        feed.raw(message);
        feed.add(7);
        let run = replay(&machine, &feed.bytes, &[]);
        run.refused(1, &[&position, words, "--lenient"]);
        counted(&machine, &feed, 1, 1);
    }
}

/// Fails unless a lenient replay counts `refused` messages and ends with `open` orders.
#[track_caller]
fn counted(machine: &Machine, feed: &Feed, refused: u64, open: u64) {
    let run = replay(machine, &feed.bytes, &["--lenient", "--json"]).ok();
    let json = run.json();
    assert_eq!(json["feed"]["refused"], refused, "{run:?}");
    assert_eq!(json["feed"]["orders_open"], open, "{run:?}");
}

#[test]
fn a_message_of_an_unknown_type_is_counted_and_passed_over() {
    let name = "a_message_of_an_unknown_type_is_counted_and_passed_over";
    let Some(machine) = Machine::of(name) else { return };
    let mut feed = Feed::in_session();
    feed.raw(&[&b"Z"[..], &[0; 30]].concat());
    feed.add(1);
    let json = replay(&machine, &feed.bytes, &["--json"]).ok().json();
    assert_eq!(json["feed"]["unknown_types"], 1);
    assert_eq!(json["feed"]["refused"], 0);
    assert_eq!(json["feed"]["orders_open"], 1);
}

#[test]
fn an_unknown_order_reference_is_refused_or_counted() {
    let name = "an_unknown_order_reference_is_refused_or_counted";
    let Some(machine) = Machine::of(name) else { return };
    let wrong: [fn(&mut Feed); 3] = [|f| f.delete(9), |f| f.cancel(9, 1), |f| f.execute(9, 1)];
    for wrong in wrong {
        let mut feed = Feed::in_session();
        feed.add(1);
        let position = feed.position();
        wrong(&mut feed);
        let run = replay(&machine, &feed.bytes, &[]);
        run.refused(1, &[&position, "order reference 9 is not known; --lenient counts"]);
        counted(&machine, &feed, 1, 1);
    }
}

#[test]
fn a_doubled_order_reference_is_refused_or_counted() {
    let name = "a_doubled_order_reference_is_refused_or_counted";
    let Some(machine) = Machine::of(name) else { return };
    let mut feed = Feed::in_session();
    feed.add(1);
    let position = feed.position();
    feed.add(1);
    feed.add(2);
    let run = replay(&machine, &feed.bytes, &[]);
    run.refused(1, &[&position, "order reference 1 is in the book already; --lenient counts"]);
    counted(&machine, &feed, 1, 2);
}

#[test]
fn an_execution_beyond_the_open_shares_is_refused_or_counted() {
    let name = "an_execution_beyond_the_open_shares_is_refused_or_counted";
    let Some(machine) = Machine::of(name) else { return };
    let mut feed = Feed::in_session();
    feed.add(1);
    feed.execute(1, 60);
    let position = feed.position();
    feed.execute(1, 41);
    feed.execute(1, 40);
    let run = replay(&machine, &feed.bytes, &[]);
    run.refused(1, &[&position, "order reference 1 has 40 open shares, 41 are to be taken off"]);
    // The refused execution took nothing off: the next one takes all that is left.
    counted(&machine, &feed, 1, 0);
}

#[test]
fn books_that_are_too_small_are_refused_with_the_option_that_makes_them_larger() {
    let name = "books_that_are_too_small_are_refused_with_the_option_that_makes_them_larger";
    let Some(machine) = Machine::of(name) else { return };
    let mut feed = Feed::in_session();
    for order in 1..=1000 {
        feed.add(order);
    }
    let position = feed.position();
    for order in 1001..=1500 {
        feed.add(order);
    }
    let run = replay(&machine, &feed.bytes, &["--max-orders", "1k"]);
    run.refused(1, &[&position, "resting orders: all 1000 are in use", "--max-orders"]);
    replay(&machine, &feed.bytes, &["--max-orders", "2k"]).ok();
}

#[test]
fn a_file_that_is_no_feed_leaves_the_feed_on_the_device_as_it_was() {
    let name = "a_file_that_is_no_feed_leaves_the_feed_on_the_device_as_it_was";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (device, image) = dir.image("day.img");
    machine.run(&["ingest", text(&feeds::small()), "--device", &device]).ok();
    let before = std::fs::read(&image).expect("the image");
    let noise = dir.file("noise", &feeds::noise(100_000));
    machine.run(&["ingest", text(&noise), "--device", &device]).refused(1, &["noise: message 1"]);
    assert!(before == std::fs::read(&image).expect("the image"), "the image was changed");
}
