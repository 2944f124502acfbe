//! A real morning over the loopback into a journal, and out of it again from a message and from a
//! time, at full and at original speed: the quotes are those of a file with the same messages.

use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::feeds;
use crate::journal::{number, rows, shuffled};
use crate::live::{A_PACKET, hear, packets};
use crate::machine::Machine;
use crate::real_data::same_rows;
use crate::temp::{TempDir, text};

/// What waits in a listener's socket at most: its usual room is 208 KiB, as the kernel counts.
const WAITING: u64 = 64 << 10;

/// Bytes that wait in the socket that is bound to `port`, as the kernel counts them.
fn waiting(port: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/net/udp").expect("the kernel's table");
    let local = format!(":{port:04X}");
    let line = table.lines().find(|line| {
        line.split_whitespace().nth(1).is_some_and(|address| address.ends_with(&local))
    });
    let queues = line.and_then(|line| line.split_whitespace().nth(4)).unwrap_or("0:0");
    let (_, bytes) = queues.split_once(':').expect("two queues");
    u64::from_str_radix(bytes, 16).expect("a number")
}

/// Sends packets no faster than they are taken, so that none is lost but those that shall be.
fn send_all(sender: &UdpSocket, sent: &[Vec<u8>]) {
    let port = sender.peer_addr().expect("connected").port();
    let begun = Instant::now();
    for packet in sent {
        while waiting(port) > WAITING {
            assert!(begun.elapsed() < Duration::from_secs(60), "nobody takes them");
            std::thread::yield_now();
        }
        sender.send(packet).expect("sent");
    }
}

/// Records packets, in this order; says when the first was sent, too.
pub(crate) fn record(device: &str, sent: &[Vec<u8>], more: &[&str]) -> (Value, Instant) {
    let options = ["--device", device, "--journal-size", "96M", "--snapshot-size", "1M"];
    let next = u64::from_be_bytes(sent[0][10..18].try_into().expect("eight bytes"));
    let mut begun = Instant::now();
    let run = hear("record", next, &[&options[..], more].concat(), |sender| {
        begun = Instant::now();
        send_all(sender, sent);
    });
    (run.ok().json(), begun)
}

/// A packet that ends the session in front of `next`.
pub(crate) fn end_before(next: &[u8]) -> Vec<u8> {
    let mut end = next[..20].to_vec();
    end[18..].fill(0xFF);
    end
}

/// The messages of a file, each behind its length.
fn messages(feed: &[u8]) -> Vec<&[u8]> {
    let (mut all, mut rest) = (Vec::new(), feed);
    while let Some((length, _)) = rest.split_first_chunk::<2>() {
        let length = 2 + usize::from(u16::from_be_bytes(*length));
        if length == 2 {
            break;
        }
        let (message, after) = rest.split_at(length);
        all.push(message);
        rest = after;
    }
    all
}

/// The quotes that a file of these messages gives.
fn quotes_of(machine: &Machine, dir: &TempDir, messages: &[&[u8]]) -> Vec<String> {
    let file = dir.file("part.itch", &messages.concat());
    let out = dir.path("part.csv");
    let run = ["replay", text(&file), "--lenient", "--no-probe", "-q", "--bbo", text(&out)];
    machine.run(&run).ok();
    rows(&out)
}

/// The quotes of the journal from a place on.
fn replayed(machine: &Machine, device: &str, out: &Path, more: &[&str]) -> Vec<String> {
    let journal =
        ["replay", "--journal", "--lenient", "-q", "--device", device, "--bbo", text(out)];
    machine.run(&[&journal[..], more].concat()).ok();
    rows(out)
}

#[test]
fn a_real_morning_is_recorded_and_replayed_exactly_from_a_message_and_from_a_time() {
    let name = "a_real_morning_is_recorded_and_replayed_exactly_from_a_message_and_from_a_time";
    let Some(machine) = Machine::of(name) else { return };
    let Some((file, quotes)) = feeds::real(name) else { return };
    let dir = TempDir::in_memory();
    let feed = std::fs::read(file).expect("it is there");
    let mut all = messages(&feed);
    // What says that the stock is there and that the session has begun is told again at two places,
    // so that there are books and quotes from there on, of the orders from there on.
    let (split, middle) = (400, 12_007);
    assert!(middle % A_PACKET > 0, "in the middle of a packet");
    let directory = all.iter().copied().find(|m| m[2] == b'R').expect("the stock");
    let begin = all.iter().copied().find(|m| m[2] == b'S' && m[13] == b'Q').expect("its event");
    for place in [split * A_PACKET, middle] {
        all.splice(place..place, [directory, begin]);
    }
    let feed = all.concat();
    let sent = packets(&feed);

    // Two recordings, and a time between them; doubled and out of order.
    let device = format!("model:{}", text(&dir.path("journal.img")));
    let mut first = shuffled(&sent[..split]);
    first.push(end_before(&sent[split]));
    record(&device, &first, &["--from-start"]);
    let between = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let ended = Instant::now();
    let (told, begun) = record(&device, &shuffled(&sent[split..]), &[]);
    let pause = begun - ended;
    assert_eq!((number(&told, "gaps"), number(&told, "missing")), (0, 0), "{told:#}");
    assert!(number(&told, "duplicates") > 40 && number(&told, "reordered") > 40, "{told:#}");
    assert_eq!(number(&told, "messages"), (all.len() - split * A_PACKET) as u64);

    let out = dir.path("out.csv");
    let replay = Instant::now();
    let whole = replayed(&machine, &device, &out, &["--original-speed"]);
    assert!(replay.elapsed() >= pause, "it takes no less time than its recordings lay apart");
    let published: Vec<_> = quotes.lines().skip(1).collect();
    same_rows(&whole.join("\n"), &published.join("\n"), "the whole morning");

    let time = format!("@{}.{:09}", between.as_secs(), between.subsec_nanos());
    let message = (middle + 1).to_string();
    let tails = [(time.as_str(), &all[split * A_PACKET..]), (&message, &all[middle..])];
    for (from, messages) in tails {
        let truth = quotes_of(&machine, &dir, messages);
        assert!(truth.len() > 1_000 && truth != whole, "{from}: {}", truth.len());
        for speed in [&[][..], &["--original-speed"]] {
            let ours = replayed(&machine, &device, &out, &[&["--from", from], speed].concat());
            same_rows(&ours.join("\n"), &truth.join("\n"), &format!("from {from} {speed:?}"));
        }
    }
}
