//! A partition that is killed in the middle of a replay: the next one goes on where it was, or
//! begins anew behind what was told, and the BBO file is that of a replay without a death, to the
//! byte.
//!
//! Killed at random times, once or twice a run. At full speed nearly all of a replay is decoding,
//! with the seal open; on a slow device nearly all of it is waiting for a read, with the seal
//! closed. What a death hit is read off what the program says, and both ways must have been seen.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hybrid_conventions::testing::{self, Random};

use crate::feeds;
use crate::machine::Machine;
use crate::run::{Run, kill};
use crate::temp::{TempDir, text};

const MESSAGES: u64 = 100_000;

/// How fast the device is.
#[derive(Clone, Copy, Debug)]
enum Pace {
    Full,
    Slow,
}

impl Pace {
    const fn options(self) -> &'static [&'static str] {
        match self {
            Self::Full => &[],
            Self::Slow => &["--model-latency", "2ms", "--queue-depth", "1"],
        }
    }
}

/// A day on an image, and the quotes of a replay without a death.
struct Day {
    dir: TempDir,
    device: String,
    quotes: Vec<u8>,
}

impl Day {
    fn new(machine: &Machine) -> Self {
        let dir = TempDir::new();
        let day = dir.file("day.itch", &feeds::day(9, 40, MESSAGES));
        let (device, _) = dir.image("day.img");
        machine.run(&["ingest", text(&day), "--device", &device, "--model-size", "16M"]).ok();
        Self { dir, device, quotes: Vec::new() }
    }

    fn bbo(&self) -> PathBuf {
        self.dir.path("bbo.csv")
    }

    /// A replay whose partition is killed so long after it began; the next one too, if it comes to
    /// that. How long the last one took.
    fn replay(&self, machine: &Machine, pace: Pace, deaths: &[Duration]) -> (Run, Duration) {
        let (bbo, dumps) = (self.bbo(), self.dir.path("dumps"));
        let mut args = vec!["replay", "--device", &self.device, "--bbo", text(&bbo), "--no-probe"];
        args.extend(["--dump-dir", text(&dumps), "--restart-limit", "off", "--json"]);
        let started = machine.start(&[&args[..], pace.options()].concat());
        let mut before = None;
        for after in deaths {
            let Some(partition) = started.partition(before) else { break };
            let begun = Instant::now();
            // Not a wait for anything: the moment is random.
            while begun.elapsed() < *after {
                std::hint::spin_loop();
            }
            kill("KILL", partition);
            before = Some(partition);
        }
        started.partition(before);
        let begun = Instant::now();
        let run = started.wait().ok();
        let _ = std::fs::remove_dir_all(dumps);
        (run, begun.elapsed())
    }
}

/// What deaths have hit.
#[derive(Debug, Default)]
struct Hits {
    /// The books were being changed.
    open: u32,
    /// They were sealed: the next one went on.
    sealed: u32,
    /// The next one was killed too, while it left out what had been told.
    twice: u32,
}

impl Hits {
    /// Of which kind there are the fewest.
    fn fewest(&self) -> u32 {
        self.open.min(self.sealed)
    }

    fn add(&mut self, run: &Run) {
        let json = run.json();
        let anew = run.stderr.matches("begins anew, and leaves out").count();
        self.twice += u32::from(anew > 1);
        self.open += u32::from(anew > 0);
        self.sealed += u32::from(anew == 0 && json["starts"]["resumed_bytes"] != 0);
    }
}

#[test]
fn a_replay_whose_partition_is_killed_at_random_points_ends_with_the_exact_quotes() {
    let name = "a_replay_whose_partition_is_killed_at_random_points_ends_with_the_exact_quotes";
    let Some(machine) = Machine::of(name) else { return };
    let mut day = Day::new(&machine);
    let spans = [Pace::Full, Pace::Slow].map(|pace| {
        let (run, span) = day.replay(&machine, pace, &[]);
        assert_eq!(run.json()["starts"]["restarts"], 0, "{run:?}");
        (pace, span)
    });
    day.quotes = std::fs::read(day.bbo()).expect("the program wrote it");
    assert!(day.quotes.len() > 500_000);
    // How many of all, and of each kind.
    let (points, each, twice) = if testing::soak() { (200, 3, 1) } else { (4, 1, 0) };
    let seed = testing::seed(1);
    let mut random = Random::new(seed);
    let mut hits = Hits::default();
    let mut tries = 0;
    // A death before anything was told, or behind the end, is no point.
    while hits.open + hits.sealed < points || hits.fewest() < each || hits.twice < twice {
        let (pace, span) = spans[tries % 2];
        let whole = u64::try_from(span.as_nanos()).expect("seconds");
        let deaths: Vec<_> =
            (0..=tries / 2 % 2).map(|_| Duration::from_nanos(random.below(whole))).collect();
        let what = format!("try {tries}, {pace:?}, {deaths:?}, seed {seed}: {hits:?}");
        let (run, _) = day.replay(&machine, pace, &deaths);
        let quotes = std::fs::read(day.bbo()).expect("the program wrote it");
        assert!(quotes == day.quotes, "{what}: other quotes than without a death\n{run:?}");
        assert_eq!(run.json()["replay"]["messages"], MESSAGES, "{what}");
        hits.add(&run);
        tries += 1;
        assert!(tries < 20 * points.max(10) as usize, "{what}");
    }
    println!("{tries} runs: {hits:?}");
}
