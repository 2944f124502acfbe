//! A recording whose partition or device ends in the middle: each packet is in the journal, once,
//! and what nobody can know is told.

use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::Duration;

use host_bridge::backend::model::FaultPlan;
use hybrid_conventions::testing::{self, Random};

use crate::fallback::{ADMIN, Process, WAYS, Way, plan, serve};
use crate::feeds;
use crate::live::{hear, hear_at_work, packets};
use crate::machine::Machine;
use crate::run::{Run, Started, kill};
use crate::temp::{TempDir, text};

/// Few enough for the socket's own queue, should the program be between two partitions.
const MESSAGES: u64 = 1_500;

/// A journal for its packets, and room for a snapshot.
const SIZES: [&str; 4] = ["--journal-size", "24M", "--snapshot-size", "1M"];

/// A session, and the quotes of a replay of it.
struct Session {
    dir: TempDir,
    image: PathBuf,
    packets: Vec<Vec<u8>>,
    quotes: Vec<u8>,
}

impl Session {
    fn new(machine: &Machine) -> Self {
        let dir = TempDir::in_memory();
        let feed = feeds::day(3, 20, MESSAGES);
        let (file, bbo) = (dir.file("day.itch", &feed), dir.path("whole.csv"));
        machine.run(&["replay", text(&file), "--no-probe", "-q", "--bbo", text(&bbo)]).ok();
        let quotes = std::fs::read(bbo).expect("the program wrote it");
        let image = dir.path("journal.img");
        Self { dir, image, packets: packets(&feed), quotes }
    }

    /// An image with nothing on it.
    fn reset(&self) {
        let _ = std::fs::remove_file(&self.image);
        let image = std::fs::File::create(&self.image).expect("a file");
        image.set_len(32 << 20).expect("room");
    }

    /// Not all at once, so that what ends hits packets in every state.
    fn send(&self, sender: &UdpSocket) {
        for packet in &self.packets {
            sender.send(packet).expect("sent");
            std::thread::park_timeout(Duration::from_micros(200));
        }
    }

    /// Records over a server whose device fails at `command`.
    fn record(&self, (point, way, command): (u64, Way, u64), more: &[&str]) -> Run {
        let socket = self.dir.path(&format!("cntrl-{point}"));
        let device = format!("vfio-user:{}", text(&socket));
        let mut args = vec!["--device", &device, "--io-timeout", way.patience(), "--from-start"];
        args.extend(["--vfio-user-reconnect", "0"]);
        args.extend(SIZES.iter().chain(more));
        if way == Way::Killed {
            let process = Process::start(&socket, &self.image, command + ADMIN);
            let run = hear("record", 1, &args, |sender| self.send(sender));
            process.end();
            return run;
        }
        let (server, _) = serve(&socket, &self.image, plan(way, command));
        let run = hear("record", 1, &args, |sender| self.send(sender));
        drop(server);
        run
    }

    /// What is in the journal, replayed: the quotes of the whole session, nothing lost or twice.
    #[track_caller]
    fn is_whole(&self, machine: &Machine, run: &Run, what: &str) {
        let json = run.json();
        assert_eq!((json["gaps"].as_u64(), json["missing"].as_u64()), (Some(0), Some(0)), "{what}");
        assert_eq!(json["packets"], self.packets.len(), "{what}: {run:?}");
        let (bbo, device) = (self.dir.path("bbo.csv"), format!("model:{}", text(&self.image)));
        let replay = ["replay", "--journal", "-q", "--device", &device, "--bbo", text(&bbo)];
        machine.run(&replay).ok();
        let quotes = std::fs::read(bbo).expect("the program wrote it");
        assert!(quotes == self.quotes, "{what}: other quotes than were sent\n{run:?}");
    }

    /// I/O commands of a recording.
    fn commands(&self) -> u64 {
        self.reset();
        let socket = self.dir.path("cntrl");
        let (server, options) = serve(&socket, &self.image, FaultPlan::none());
        let device = format!("vfio-user:{}", text(&socket));
        let args = [&["--device", &device, "--from-start"], &SIZES[..]].concat();
        hear("record", 1, &args, |sender| self.send(sender)).ok();
        let commands = options.gauges.completions() - ADMIN;
        drop(server);
        commands
    }
}

#[test]
fn a_recording_whose_device_fails_at_random_points_has_each_packet_once() {
    let name = "a_recording_whose_device_fails_at_random_points_has_each_packet_once";
    let Some(machine) = Machine::of(name) else { return };
    let session = Session::new(&machine);
    let commands = session.commands();
    let points = if testing::soak() { 90 } else { 3 };
    let seed = testing::seed(1);
    let mut random = Random::new(seed);
    let (mut fallbacks, mut again) = (0, 0);
    for point in 0..points {
        let way = WAYS[point as usize % WAYS.len()];
        // How many there are depends on how packets fall into batches.
        let command = 1 + random.below(commands * 3 / 4);
        let what =
            format!("point {point}: {way:?} at command {command} of {commands}, seed {seed}");
        session.reset();
        let fallback = format!("uring:{}", text(&session.image));
        let more = ["--storage", "auto", "--fallback", &fallback];
        let run = session.record((point, way, command), &more);
        assert_eq!(run.code(), Some(0), "{what}: {run:?}");
        let json = run.json();
        let fell_back = json["fallbacks"].as_u64().expect("a count");
        let told = run.stderr.matches("lost its device: ").count() as u64;
        assert_eq!(told, fell_back, "{what}: the switch is one line: {run:?}");
        let device = if fell_back == 1 { "uring:" } else { "vfio-user:" };
        assert!(json["device"].as_str().is_some_and(|name| name.starts_with(device)), "{what}");
        fallbacks += fell_back;
        again += json["sent_again"].as_u64().expect("a count");
        session.is_whole(&machine, &run, &what);
    }
    println!("{fallbacks} of {points} fell back, {again} packets were sent again");
    assert!(fallbacks * 2 >= points, "{fallbacks} of {points} fell back");
}

#[test]
fn a_recording_whose_partition_is_killed_has_each_packet_once() {
    let name = "a_recording_whose_partition_is_killed_has_each_packet_once";
    let Some(machine) = Machine::of(name) else { return };
    let session = Session::new(&machine);
    session.reset();
    let (device, dumps) = (format!("model:{}", text(&session.image)), session.dir.path("dumps"));
    let args = ["--device", &device, "--from-start", "--dump-dir", text(&dumps)];
    let args = [&args[..], &["--model-latency", "2ms", "--allow-writes"], &SIZES].concat();
    let (first, second) = session.packets.split_at(session.packets.len() / 2);
    let send = |sender: &UdpSocket, program: &Started| {
        let send = |packets: &[Vec<u8>]| {
            packets.iter().for_each(|packet| {
                sender.send(packet).expect("sent");
            });
        };
        let mut before = None;
        for part in [first, second] {
            send(part);
            let partition = program.partition(before).expect("it records");
            kill("KILL", partition);
            before = Some(partition);
        }
    };
    let run = hear_at_work("record", 1, &args, send).ok();
    assert_eq!(run.json()["restarts"], 2, "{run:?}");
    session.is_whole(&machine, &run, "killed twice");
}

#[test]
fn a_recording_that_ends_with_its_device_says_what_is_unknown() {
    let name = "a_recording_that_ends_with_its_device_says_what_is_unknown";
    let Some(machine) = Machine::of(name) else { return };
    let session = Session::new(&machine);
    let commands = session.commands();
    session.reset();
    let run = session.record((1, Way::Fatal, commands / 2), &["--restart", "never"]);
    assert_eq!(run.code(), Some(1), "{run:?}");
    let line = run.stderr.lines().find(|line| line.contains("it is unknown whether"));
    let line = line.unwrap_or_else(|| panic!("{run:?}"));
    let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [durable, unknown, _] = numbers[..] else { panic!("{line}") };
    // What was acknowledged is there; of the rest, none but what was sent.
    let device = format!("model:{}", text(&session.image));
    let replay = machine.run(&["replay", "--journal", "--lenient", "--device", &device]).ok();
    let found = replay.stdout.lines().find(|line| line.starts_with("journal"));
    let found: Vec<u64> = found
        .unwrap_or_else(|| panic!("{replay:?}"))
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    let packets = found[2];
    assert!((durable..=durable + unknown).contains(&packets), "{packets}: {line}");
}
