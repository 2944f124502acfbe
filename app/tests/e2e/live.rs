//! `live`: a MoldUDP64 feed over the loopback, whole and with packets that get lost or come twice.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::feeds;
use crate::machine::Machine;
use crate::run::{Run, Started, start};
use crate::temp::{TempDir, text};

/// Messages of a packet: with their headers it stays below a frame of Ethernet.
pub(crate) const A_PACKET: usize = 25;

/// Messages of the feed: few enough for the socket's own queue, should the program be slow.
const MESSAGES: u64 = 1_500;

/// Header and messages of packets, the last one ending the session.
pub(crate) fn packets(feed: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let mut rest = feed;
    while let Some((prefix, after)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*prefix));
        if len == 0 {
            // A file's end; packets have one of their own.
            break;
        }
        messages.push(&rest[..2 + len]);
        rest = &after[len..];
    }
    let packet = |sequence: usize, count: u16, body: &[&[u8]]| {
        let mut bytes = b"SESSION001".to_vec();
        bytes.extend(u64::try_from(sequence).expect("small").to_be_bytes());
        bytes.extend(count.to_be_bytes());
        bytes.extend(body.concat());
        bytes
    };
    let mut packets: Vec<_> = messages
        .chunks(A_PACKET)
        .enumerate()
        .map(|(n, body)| packet(1 + n * A_PACKET, body.len() as u16, body))
        .collect();
    packets.push(packet(1 + messages.len(), 0xFFFF, &[]));
    packets
}

fn listen(options: &[&str], send: impl FnOnce(&UdpSocket)) -> Run {
    hear("live", 1, options, send)
}

/// Runs a command of the program on what `send` sends, and returns its words. The heartbeats that
/// come first say that message `next` is the next one.
pub(crate) fn hear(
    command: &str,
    next: u64,
    options: &[&str],
    send: impl FnOnce(&UdpSocket),
) -> Run {
    hear_at_work(command, next, options, |sender, _| send(sender))
}

/// The same, where what is sent depends on the program.
pub(crate) fn hear_at_work(
    command: &str,
    next: u64,
    options: &[&str],
    send: impl FnOnce(&UdpSocket, &Started),
) -> Run {
    let port = {
        let probe = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        probe.local_addr().expect("bound").port()
    };
    let address = format!("127.0.0.1:{port}");
    let mut args = vec![command, "--listen", &address, "--json", "--idle", "20s"];
    args.extend(options);
    let program = start(&args);
    let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    sender.connect(&address).expect("connected");
    // A port without a listener is told at the next call.
    let heartbeat = [&b"SESSION001"[..], &next.to_be_bytes(), &[0, 0]].concat();
    let begun = Instant::now();
    while sender.send(&heartbeat).and(sender.send(&heartbeat)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not listen");
        std::thread::yield_now();
    }
    send(&sender, &program);
    program.wait()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} in {value:#}"))
}

#[test]
fn a_whole_session_gives_the_books_of_a_replay() {
    let Some(machine) = Machine::of("a_whole_session_gives_the_books_of_a_replay") else { return };
    let dir = TempDir::new();
    let feed = feeds::day(3, 20, MESSAGES);
    let file = dir.file("day.itch", &feed);
    let replay = machine.run(&["replay", text(&file), "--json", "--no-probe"]).ok().json();
    let run = listen(&["--from-start"], |sender| {
        for packet in packets(&feed) {
            sender.send(&packet).expect("sent");
        }
    });
    let live = run.ok().json();
    assert_eq!(number(&live, "messages"), number(&replay["replay"], "messages"));
    assert_eq!(live["bbo_changes"], replay["feed"]["bbo_changes"]);
    assert_eq!(live["trades"], replay["feed"]["trades"]);
    assert_eq!((number(&live, "gaps"), number(&live, "missing")), (0, 0));
    assert_eq!(live["ended"], true);
    assert!(number(&live["wake_to_handle_ns"], "p99") > 0);
}

#[test]
fn what_is_lost_or_comes_twice_is_told_and_the_rest_is_decoded() {
    let name = "what_is_lost_or_comes_twice_is_told_and_the_rest_is_decoded";
    let Some(_machine) = Machine::of(name) else { return };
    let feed = feeds::day(3, 20, MESSAGES);
    let run = listen(&["--lenient", "--spin"], |sender| {
        for (n, packet) in packets(&feed).iter().enumerate() {
            // The tenth is lost, the twentieth comes twice.
            let times = [1, 0, 2][usize::from(n == 10) + 2 * usize::from(n == 20)];
            for _ in 0..times {
                sender.send(packet).expect("sent");
            }
        }
    });
    assert_eq!(run.code(), Some(0), "{run:?}");
    let (first, last) = (1 + 10 * A_PACKET, 11 * A_PACKET);
    let gap = format!("messages {first} to {last} are missing");
    assert!(run.stderr.contains(&gap), "{run:?}");
    let live = run.json();
    assert_eq!((number(&live, "gaps"), number(&live, "missing")), (1, A_PACKET as u64));
    assert_eq!(number(&live, "duplicates"), A_PACKET as u64);
}

#[test]
fn silence_ends_it_and_an_address_that_is_not_ours_is_refused() {
    let Some(_machine) = Machine::of("silence_ends_it_and_an_address_that_is_not_ours_is_refused")
    else {
        return;
    };
    let args = ["live", "--listen", "127.0.0.1:0", "--idle", "10ms"];
    let run = start(&args).wait();
    assert_eq!(run.code(), Some(0), "{run:?}");
    assert!(run.stderr.contains("listening at 127.0.0.1:"), "{run:?}");
    assert!(run.stdout.contains("0 messages in 0 packets"), "{run:?}");
    start(&["live", "--listen", "192.0.2.1:1"]).wait().refused(1, &["cannot listen at 192.0.2.1"]);
    let args = ["live", "--listen", "127.0.0.1:0", "--group", "10.0.0.1"];
    start(&args).wait().refused(1, &["cannot join 10.0.0.1 on 127.0.0.1"]);
}
