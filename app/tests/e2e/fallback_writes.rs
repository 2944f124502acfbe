//! `--storage auto`: the device fails in the middle of an ingest, and the kernel goes on.
//!
//! What must be true whatever fails and when: an ingest that ends with 0 has left the whole feed,
//! once; one that ends with an error has left a feed that is refused, or the one before it.

use std::path::{Path, PathBuf};

use host_bridge::backend::model::{
    ControllerFault, FaultAction, FaultPlan, FaultRule, OnQueue, When,
};
use hybrid_abi::feed::{CHUNK_HEADER_BYTES, ChunkHeader, Superblock};
use hybrid_conventions::testing::{self, Random};
use nvme_driver::spec::CriticalWarning;

use crate::fallback::{ADMIN, Process, WAYS, Way, plan, serve};
use crate::feeds;
use crate::machine::Machine;
use crate::run::Run;
use crate::temp::{TempDir, text};

/// Commands of an ingest beside its chunks, on an image with a feed: a read and a write of the
/// superblock, a flush; at the end a flush, the superblock, a flush.
const OTHERS: u64 = 6;

/// An image with another feed, a feed to put in its place, and the quotes of both.
struct Days {
    dir: TempDir,
    image: PathBuf,
    before: Feed,
    after: Feed,
}

struct Feed {
    file: PathBuf,
    bytes: Vec<u8>,
    quotes: Vec<u8>,
}

impl Days {
    fn new(machine: &Machine) -> Self {
        let dir = TempDir::in_memory();
        let feed = |name: &str, seed| {
            let (bytes, bbo) = (feeds::day(seed, 20, 20_000), dir.path(&format!("{name}.csv")));
            let file = dir.file(&format!("{name}.itch"), &bytes);
            machine.run(&["replay", text(&file), "--bbo", text(&bbo), "--no-probe"]).ok();
            Feed { file, bytes, quotes: std::fs::read(&bbo).expect("the program wrote it") }
        };
        let (before, after) = (feed("before", 1), feed("after", 2));
        let image = dir.path("day.img");
        let days = Self { dir, image, before, after };
        assert!(days.before.quotes != days.after.quotes);
        days
    }

    /// The image as it was.
    fn reset(&self, machine: &Machine) {
        let _ = std::fs::remove_file(&self.image);
        let device = format!("model:{}", text(&self.image));
        let size = ["--device", &device, "--model-size", "16M"];
        machine.run(&[&["ingest", text(&self.before.file)], &size[..]].concat()).ok();
    }

    const fn commands(&self) -> u64 {
        self.after.bytes.len() as u64 / ((64 << 10) - CHUNK_HEADER_BYTES as u64) + 1 + OTHERS
    }

    /// An ingest of the other feed whose device fails at `command`.
    fn ingest(
        &self,
        machine: &Machine,
        (point, way, command): (u64, Way, u64),
        more: &[&str],
    ) -> Run {
        let socket = self.dir.path(&format!("cntrl-{point}"));
        let device = format!("vfio-user:{}", text(&socket));
        let mut args = vec!["ingest", text(&self.after.file), "--device", &device];
        args.extend(["--queue-depth", "4", "--io-timeout", way.patience(), "--json"]);
        args.extend(["--vfio-user-reconnect", "0"]);
        args.extend(more);
        if way == Way::Killed {
            let process = Process::start(&socket, &self.image, command + ADMIN);
            let run = machine.run(&args);
            process.end();
            return run;
        }
        let (server, _) = serve(&socket, &self.image, plan(way, command));
        let run = machine.run(&args);
        drop(server);
        run
    }

    /// A replay of what is on the image now: its quotes, or the refusal.
    fn replay(&self, machine: &Machine) -> (Run, Vec<u8>) {
        let bbo = self.dir.path("bbo.csv");
        let device = format!("model:{}", text(&self.image));
        let run = machine.run(&["replay", "--device", &device, "--bbo", text(&bbo), "--no-probe"]);
        (run, std::fs::read(&bbo).unwrap_or_default())
    }
}

/// Every byte of the feed on an image, by its chunks alone: each of the superblock's epoch, in its
/// place, and no more of them than the superblock counts.
#[track_caller]
fn feed_on(image: &Path, what: &str) -> Vec<u8> {
    let bytes = std::fs::read(image).expect("the image");
    let superblock = Superblock::parse(&bytes).expect("a superblock");
    assert!(superblock.is_complete(), "{what}");
    let mut feed = Vec::new();
    let chunk_bytes = superblock.chunk_bytes as usize;
    let data = usize::try_from(superblock.data_offset).expect("small");
    let chunks = bytes[data..].chunks_exact(chunk_bytes);
    for (sequence, chunk) in (0..superblock.chunk_count).zip(chunks) {
        let crc = core_runtime::crc::crc32c;
        let header = ChunkHeader::parse_with(chunk, &superblock, sequence, crc).expect(what);
        let payload = &chunk[CHUNK_HEADER_BYTES..][..header.payload_bytes as usize];
        assert_eq!(crc(payload), header.payload_crc32c, "{what}: chunk {sequence}");
        feed.extend_from_slice(payload);
    }
    assert_eq!(superblock.feed_bytes, feed.len() as u64, "{what}");
    feed
}

#[test]
fn an_ingest_whose_device_fails_at_random_points_leaves_the_whole_feed_once() {
    let name = "an_ingest_whose_device_fails_at_random_points_leaves_the_whole_feed_once";
    let Some(machine) = Machine::of(name) else { return };
    let days = Days::new(&machine);
    let points = if testing::soak() { 90 } else { 5 };
    let seed = testing::seed(1);
    let mut random = Random::new(seed);
    let mut fallbacks = 0;
    for point in 0..points {
        let way = WAYS[point as usize % WAYS.len()];
        // The first of each way hits the last flush: everything is written, and nobody knows.
        let command = match point < 3 {
            true => days.commands(),
            false => 1 + random.below(days.commands()),
        };
        let what = format!("point {point}: {way:?} at command {command}, seed {seed}");
        days.reset(&machine);
        let fallback = format!("uring:{}", text(&days.image));
        let more = ["--storage", "auto", "--fallback", &fallback];
        let run = days.ingest(&machine, (point, way, command), &more).ok();
        let json = run.json();
        assert_eq!(json["ingest"]["messages"], 20_000, "{what}");
        let fell_back = json["starts"]["fallbacks"].as_u64().expect("a count");
        let told = run.stderr.matches("lost its device: ").count() as u64;
        assert_eq!(told, fell_back, "{what}: the switch is one line: {run:?}");
        assert!(fell_back == 1 || way == Way::Killed, "{what}: {run:?}");
        fallbacks += fell_back;
        assert!(feed_on(&days.image, &what) == days.after.bytes, "{what}: another feed\n{run:?}");
        let (run, quotes) = days.replay(&machine);
        run.ok();
        assert!(quotes == days.after.quotes, "{what}: other quotes");
    }
    assert!(fallbacks * 3 >= points * 2, "{fallbacks} fell back");
}

#[test]
fn an_ingest_onto_a_drive_that_becomes_read_only_goes_on_elsewhere_or_says_so() {
    let name = "an_ingest_onto_a_drive_that_becomes_read_only_goes_on_elsewhere_or_says_so";
    let Some(machine) = Machine::of(name) else { return };
    let days = Days::new(&machine);
    let socket = days.dir.path("cntrl");
    let device = format!("vfio-user:{}", text(&socket));
    let fallback = format!("uring:{}", text(&days.image));
    let said = "the drive has made its media read only";
    // What is refused behind it: the first write, one in the middle, the superblock at the end.
    for command in [1, days.commands() / 2, days.commands() - 2] {
        for other in [true, false] {
            days.reset(&machine);
            let warning = ControllerFault::CriticalWarning(CriticalWarning::READ_ONLY.bits());
            let at = FaultRule::on(OnQueue::Io, FaultAction::Controller(warning));
            let plan = FaultPlan::none().with(at.when(When::Nth(command)));
            let (server, _) = serve(&socket, &days.image, plan);
            let mut args = vec!["ingest", text(&days.after.file), "--device", &device, "--json"];
            args.extend(["--queue-depth", "4", "--io-timeout", "5s", "--restart", "never"]);
            if other {
                args.extend(["--storage", "auto", "--fallback", &fallback]);
            }
            let run = machine.run(&args);
            drop(server);
            let what = format!("command {command}, other storage {other}: {run:?}");
            if other {
                assert_eq!(run.code(), Some(0), "{what}");
                assert_eq!(run.json()["starts"]["fallbacks"], 1, "{what}");
                assert!(feed_on(&days.image, &what) == days.after.bytes, "{what}");
            } else {
                assert_eq!(run.code(), Some(1), "{what}");
                let (replayed, quotes) = days.replay(&machine);
                match command {
                    1 => assert!(quotes == days.before.quotes, "{what}"),
                    _ => replayed.refused(1, &["is incomplete", "ingest it again"]),
                }
            }
            assert!(run.stderr.contains(said), "{what}");
        }
    }
}

#[test]
fn a_warning_of_the_drive_is_one_alert_and_costs_the_run_nothing() {
    let name = "a_warning_of_the_drive_is_one_alert_and_costs_the_run_nothing";
    let Some(machine) = Machine::of(name) else { return };
    let days = Days::new(&machine);
    days.reset(&machine);
    let socket = days.dir.path("cntrl");
    let warning = ControllerFault::CriticalWarning(CriticalWarning::SPARE.bits());
    let at = |n, action| FaultRule::on(OnQueue::Io, action).when(When::Nth(n));
    // The run goes on for long enough to read the log and to tell.
    let plan = FaultPlan::none()
        .with(at(2, FaultAction::Controller(warning)))
        .with(at(4, FaultAction::DelayNs(500_000_000)));
    let (server, _) = serve(&socket, &days.image, plan);
    let device = format!("vfio-user:{}", text(&socket));
    let run = machine.run(&["replay", "--device", &device, "--json", "--no-probe"]).ok();
    drop(server);
    let said = "the drive warns: its spare blocks are below their threshold \
                (SMART critical warning 0x01)";
    assert_eq!(run.stderr.matches(said).count(), 1, "{run:?}");
    assert_eq!(run.json()["driver"]["resets"], 0, "{run:?}");
}

#[test]
fn an_ingest_without_a_fallback_leaves_no_half_feed_that_anybody_takes_for_one() {
    let name = "an_ingest_without_a_fallback_leaves_no_half_feed_that_anybody_takes_for_one";
    let Some(machine) = Machine::of(name) else { return };
    let days = Days::new(&machine);
    let seed = testing::seed(2);
    let mut random = Random::new(seed);
    // The ways that cost no waiting, where time matters.
    let points = if testing::soak() { 90 } else { 2 };
    let mut refused = 0;
    for point in 0..points {
        let way = WAYS[point as usize % WAYS.len()];
        let command = 1 + random.below(days.commands());
        let what = format!("point {point}: {way:?} at command {command}, seed {seed}");
        days.reset(&machine);
        let never = ["--restart", "never"];
        let run = days.ingest(&machine, (point, way, command), &never);
        let (replayed, quotes) = days.replay(&machine);
        if run.code() == Some(0) {
            assert!(quotes == days.after.quotes, "{what}: {run:?}");
            continue;
        }
        assert_eq!(run.code(), Some(1), "{what}: {run:?}");
        assert!(run.stderr.contains("was lost"), "{what}: {run:?}");
        if replayed.code() == Some(0) {
            // Nothing of it was written, or all of it.
            let whole = [&days.before.quotes, &days.after.quotes].contains(&&quotes);
            assert!(whole, "{what}: half a feed was replayed\n{replayed:?}");
        } else {
            refused += 1;
            replayed.refused(1, &["is incomplete", "ingest it again"]);
        }
    }
    assert!(refused > 0, "no ingest was cut short");
}
