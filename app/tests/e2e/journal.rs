//! `record` and `replay --journal`: packets over the loopback into a journal and out of it, with
//! loss, doubles and packets out of order.

use std::os::unix::fs::FileExt as _;

use serde_json::Value;

use crate::feeds;
use crate::live::{hear, packets};
use crate::machine::Machine;
use crate::temp::{TempDir, text};

const MESSAGES: u64 = 1_500;

pub(crate) fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} in {value:#}"))
}

/// The rows of a BBO file, without its title.
pub(crate) fn rows(file: &std::path::Path) -> Vec<String> {
    let all = std::fs::read_to_string(file).expect("a BBO file");
    all.lines().skip(1).map(str::to_owned).collect()
}

/// Records packets, in this order, into the journal of `device`.
fn record(device: &str, sent: &[Vec<u8>], more: &[&str]) -> Value {
    let options = [&["--device", device, "--journal-size", "96M", "--snapshot-size", "1M"], more];
    let next = u64::from_be_bytes(sent[0][10..18].try_into().expect("eight bytes"));
    let run = hear("record", next, &options.concat(), |sender| {
        for packet in sent {
            sender.send(packet).expect("sent");
        }
    });
    run.ok().json()
}

/// Doubles every seventh packet, and lets every fifth one come three places late.
pub(crate) fn shuffled(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut late: Vec<(usize, Vec<u8>)> = Vec::new();
    for (n, packet) in packets.iter().enumerate() {
        let last = n + 1 == packets.len();
        let place = if n % 5 == 4 && !last { 2 * n + 7 } else { 2 * n };
        late.push((place, packet.clone()));
        if n % 7 == 3 {
            late.push((place + 9, packet.clone()));
        }
    }
    late.sort_by_key(|(place, _)| *place);
    late.into_iter().map(|(_, packet)| packet).collect()
}

#[test]
fn a_session_out_of_order_and_twice_is_replayed_exactly_and_from_anywhere() {
    let name = "a_session_out_of_order_and_twice_is_replayed_exactly_and_from_anywhere";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let feed = feeds::day(3, 20, MESSAGES);
    let file = dir.file("day.itch", &feed);
    let bbo = |name: &str| dir.path(name);
    let run = |args: &[&str]| machine.run(args).ok();
    run(&["replay", text(&file), "--no-probe", "-q", "--bbo", text(&bbo("file.csv"))]);
    let whole = rows(&bbo("file.csv"));
    assert!(whole.len() > 100);

    // The first half, a snapshot of the books, then the rest of the session.
    let device = format!("model:{}", text(&dir.path("journal.img")));
    let all = packets(&feed);
    let (first, second) = all.split_at(all.len() / 2);
    let mut sent = shuffled(first);
    let mut end = second[0][..20].to_vec();
    end[18..].fill(0xFF);
    sent.push(end);
    let half = record(&device, &sent, &["--from-start"]);
    assert_eq!((number(&half, "gaps"), number(&half, "missing")), (0, 0), "{half:#}");
    assert!(number(&half, "duplicates") > 2 && number(&half, "reordered") > 2, "{half:#}");
    assert_eq!(number(&half, "packets"), first.len() as u64 + 1);
    let journal = ["replay", "--journal", "-q", "--device", &device];
    let with = |more: &[&str]| run(&[&journal[..], more].concat());
    with(&["--save-snapshot", "--bbo", text(&bbo("half.csv"))]);
    let rest = record(&device, &shuffled(second), &[]);
    assert_eq!((number(&rest, "gaps"), rest["journal_made"].as_bool()), (0, Some(false)));

    with(&["--bbo", text(&bbo("journal.csv"))]);
    assert!(rows(&bbo("journal.csv")) == whole, "the BBO file of the journal is another one");
    with(&["--from", "snapshot", "--bbo", text(&bbo("rest.csv"))]);
    let halves = [rows(&bbo("half.csv")), rows(&bbo("rest.csv"))];
    assert!(halves.iter().all(|half| half.len() > 20), "both halves have some");
    assert!(halves.concat() == whole, "snapshot and tail are not the whole");

    let from = with(&["--from", "1001", "--lenient", "--json"]).json();
    assert!(number(&from["replay"], "messages") < MESSAGES - 900, "{from:#}");
    let time = with(&["--from", "@0", "--original-speed", "--json"]).json();
    assert_eq!(time["feed"]["bbo_changes"], with(&["--json"]).json()["feed"]["bbo_changes"]);
    let played = &time["journal"];
    assert_eq!((number(played, "messages"), number(played, "clock_jumps")), (MESSAGES, 0));
    let none = with(&["--from", "@9999999999", "--json"]).json();
    assert_eq!(number(&none["replay"], "messages"), 0);
}

#[test]
fn what_was_lost_is_named_by_recorder_and_replay() {
    let Some(machine) = Machine::of("what_was_lost_is_named_by_recorder_and_replay") else {
        return;
    };
    let dir = TempDir::new();
    let feed = feeds::day(3, 20, MESSAGES);
    let device = format!("model:{}", text(&dir.path("journal.img")));
    let mut sent = packets(&feed);
    // The eleventh packet of 25 messages.
    sent.remove(10);
    let told = record(&device, &shuffled(&sent), &[]);
    assert_eq!((number(&told, "gaps"), number(&told, "missing")), (1, 25), "{told:#}");
    let journal = ["replay", "--journal", "--device", &device];
    let words = "messages 251 to 275 are missing in the journal";
    machine.run(&journal).refused(1, &[words]);
    let lenient = [&journal[..], &["--lenient", "-q"]].concat();
    let run = machine.run(&lenient).ok();
    assert!(run.stdout.contains("gaps      1, 25 messages missing, the first is 251"), "{run:?}");
    let told = machine.run(&[&journal[..], &["--lenient", "--json"]].concat()).ok().json();
    assert_eq!(number(&told["journal"], "first_missing"), 251);
}

#[test]
fn a_journal_that_is_not_there_or_damaged_is_refused() {
    let Some(machine) = Machine::of("a_journal_that_is_not_there_or_damaged_is_refused") else {
        return;
    };
    let dir = TempDir::new();
    let image = dir.path("journal.img");
    let file = std::fs::File::create(&image).expect("an image");
    file.set_len(128 << 20).expect("room");
    let device = format!("model:{}", text(&image));
    let journal = ["replay", "--journal", "-q", "--device", &device];
    machine.run(&journal).refused(1, &["there is no journal on the device"]);
    record(&device, &packets(&feeds::day(3, 20, 600)), &[]);
    let snapshot = [&journal[..], &["--from", "snapshot"]].concat();
    machine.run(&snapshot).refused(1, &["no whole snapshot"]);
    // The first batch lies behind superblocks and two snapshot slots of 1 MiB.
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&image).expect("it");
    let (at, mut word) = (131_072 + (2 << 20), [0; 8]);
    file.read_exact_at(&mut word, at).expect("read");
    assert_eq!(&word, b"HYJBATCH");
    file.write_all_at(&[0xEE; 8], at + 300).expect("written");
    machine.run(&journal).refused(1, &["the journal is damaged: record 0 at position 0"]);
    for args in [
        &["replay", "--from", "3"][..],
        &["replay", "x.itch", "--journal"],
        &["replay", "--journal", "--from", "x"],
    ] {
        assert_eq!(machine.run(args).code(), Some(1), "{args:?}");
    }
}
