//! The suite on the model: stepped in virtual time, and on a thread of its own.
//!
//! Has a `main` of its own, so that each case on each kind of model is a test by name, out of the
//! suite's one table. Understands what people type: `cargo test --test suite -- [FILTER]...
//! [--exact] [--list] [--nocapture]`; nothing is captured in any case.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hybrid_conformance::suite::{Case, Cx, Verdict, cases, watch_panics};
use hybrid_conformance::{Backend, Stepped, Threaded, seed};
use hybrid_conventions::testing;
use nvme_model::{LatencyModel, ModelConfig, NamespaceConfig};

/// DMA memory: a queue of 4,095 commands, their buffers of 4 KiB, and two transfers of 4 MiB.
const DMA_BYTES: usize = 64 << 20;

/// Random operations are divided by this, so that the whole is a few seconds; 1 in a soak.
const SCALE: u64 = 2;

/// A kind of model, and how its device is put together.
struct Kind {
    name: &'static str,
    model: fn() -> ModelConfig,
    /// `None` is the stepped model; else the threaded one, whose operations are divided by this.
    threaded: Option<u64>,
    /// Parts of the names of cases that have nothing to try on it. Any other case that skips itself
    /// has failed: on the model everything can be had.
    without: &'static [&'static str],
    /// Parts of the names of rows of `answers` that have nothing to try on it; any other one that
    /// is left out has failed.
    rows_left_out: &'static [&'static str],
}

static KINDS: [Kind; 5] = [
    Kind {
        name: "stepped",
        model: usual,
        threaded: None,
        without: &["lists_of_511", "fewer_than_asked", "other_sizes"],
        rows_left_out: &[],
    },
    Kind {
        name: "stepped-small",
        model: small,
        threaded: None,
        without: &[
            "refused_by_name",
            "without_a_place",
            "lists_of_511",
            "the_same_block_of_each",
            "all_at_once",
            "4096",
            "other_sizes",
        ],
        rows_left_out: &["the write cache", "flush of all namespaces"],
    },
    Kind {
        name: "stepped-large",
        model: large,
        threaded: None,
        without: &["numbers_between", "refused_by_name", "fewer_than_asked", "4096"],
        rows_left_out: &["an inactive namespace", "beyond MDTS", "beyond MQES"],
    },
    Kind {
        name: "stepped-pages-of-8k",
        model: pages_of_8k,
        threaded: None,
        without: &["lists_of_511", "fewer_than_asked", "other_sizes"],
        rows_left_out: &[],
    },
    Kind {
        name: "threaded",
        model: usual,
        threaded: Some(8),
        without: &["lists_of_511", "fewer_than_asked", "other_sizes"],
        rows_left_out: &[],
    },
];

/// Namespaces of both common block sizes, with a hole, and three that must be refused.
fn usual() -> ModelConfig {
    let mut metadata = NamespaceConfig::memory(9, 64);
    metadata.metadata_bytes = 8;
    let mut zoned = NamespaceConfig::memory(10, 64);
    zoned.command_set = 2;
    let mut extended = metadata.clone();
    extended.nsid = 4_000_000_000;
    extended.extended_metadata = true;
    ModelConfig {
        namespaces: vec![
            NamespaceConfig::memory(1, 32 << 10).lba_bytes(512),
            NamespaceConfig::memory(3, 8 << 10),
            metadata,
            zoned,
            extended,
        ],
        ready_delay_ns: 3_000_000,
        not_ready_delay_ns: 1_000_000,
        shutdown_delay_ns: 1_000_000,
        paranoid: true,
        ..ModelConfig::default()
    }
}

/// Everything as small as it may be, answers in no order, and a stride.
fn small() -> ModelConfig {
    ModelConfig {
        namespaces: vec![NamespaceConfig::memory(7, 2048).lba_bytes(512)],
        mdts: 1,
        max_queue_entries: 4,
        dstrd: 2,
        max_io_queues: 2,
        async_event_limit: 1,
        volatile_write_cache: false,
        latency: LatencyModel::UniformNs { min: 0, max: 50_000 },
        out_of_order: true,
        ..ModelConfig::default()
    }
}

/// No limit of transfers, the deepest queues, and the largest blocks.
fn large() -> ModelConfig {
    ModelConfig {
        namespaces: vec![
            NamespaceConfig::memory(1, 64 << 10).lba_bytes(512),
            NamespaceConfig::memory(2, 1024).lba_bytes(65536),
        ],
        mdts: 0,
        max_queue_entries: 65_536,
        max_io_queues: 16,
        out_of_order: true,
        ..ModelConfig::default()
    }
}

/// A controller whose smallest page is not ours.
fn pages_of_8k() -> ModelConfig {
    ModelConfig { mpsmin: 1, mdts: 4, ..usual() }
}

impl Kind {
    fn has(&self, case: &Case) -> bool {
        !self.without.iter().any(|part| case.name.contains(part))
    }

    fn run(&self, case: &Case, seed: u64) -> Verdict {
        let verdict = match self.threaded {
            Some(scale) => on(&Threaded::new((self.model)(), DMA_BYTES), case, seed, scale),
            None => on(&Stepped::new((self.model)(), DMA_BYTES), case, seed, SCALE),
        };
        match verdict {
            Verdict::Skipped(why) => Verdict::Failed(format!("it found nothing to try: {why}")),
            Verdict::Passed(left_out) => {
                let known = |row: &str| self.rows_left_out.iter().any(|part| row.contains(part));
                let row = |line: &String| line.split(": ").next().is_some_and(known);
                let more: Vec<_> = left_out.iter().filter(|line| !row(line)).cloned().collect();
                match more.is_empty() {
                    true => Verdict::Passed(left_out),
                    false => Verdict::Failed(format!("it left out\n{}", more.join("\n"))),
                }
            }
            verdict => verdict,
        }
    }
}

fn on(backend: &dyn Backend, case: &Case, seed: u64, scale: u64) -> Verdict {
    let scale = if testing::soak() { 1 } else { scale };
    case.run(&Cx { backend, seed, scale, nsid: None, may_write: true })
}

/// What was asked for on the command line.
#[derive(Default)]
struct Wish {
    filters: Vec<String>,
    exact: bool,
    list: bool,
}

impl Wish {
    fn from_args(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut wish = Self::default();
        for arg in args {
            match arg.as_str() {
                "--exact" => wish.exact = true,
                "--list" => wish.list = true,
                "--nocapture" | "--no-capture" => {}
                flag if flag.starts_with('-') => {
                    let allowed = "FILTER, --exact, --list and --nocapture";
                    return Err(format!("option {flag} is not understood; allowed are {allowed}"));
                }
                _ => wish.filters.push(arg),
            }
        }
        Ok(wish)
    }

    fn wants(&self, name: &str) -> bool {
        let hit = |filter: &String| if self.exact { name == filter } else { name.contains(filter) };
        self.filters.is_empty() || self.filters.iter().any(hit)
    }
}

struct Test {
    name: String,
    kind: &'static Kind,
    case: Case,
}

fn main() -> ExitCode {
    let wish = match Wish::from_args(std::env::args().skip(1)) {
        Ok(wish) => wish,
        Err(line) => {
            eprintln!("error: {line}");
            return ExitCode::FAILURE;
        }
    };
    let cases = cases();
    for case in &cases {
        let somewhere = KINDS.iter().any(|kind| kind.has(case));
        assert!(somewhere, "{} runs on no kind of model", case.name);
    }
    let of = |kind: &'static Kind| {
        cases.iter().filter(|case| kind.has(case)).map(move |case| Test {
            name: format!("{}::{}", kind.name, case.name),
            kind,
            case: *case,
        })
    };
    let all: Vec<_> = KINDS.iter().flat_map(of).collect();
    let total = all.len();
    let tests: Vec<_> = all.into_iter().filter(|test| wish.wants(&test.name)).collect();
    if wish.list {
        tests.iter().for_each(|test| println!("{}: test", test.name));
        println!("\n{} tests, 0 benchmarks", tests.len());
        return ExitCode::SUCCESS;
    }
    run(&tests, total - tests.len())
}

/// Runs them on all CPUs and prints what libtest would.
fn run(tests: &[Test], filtered: usize) -> ExitCode {
    watch_panics();
    let seed = seed();
    println!("\nrunning {} tests", tests.len());
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(test) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = test.kind.run(&test.case, seed);
                    println!("test {} ... {verdict}", test.name);
                    if let Verdict::Passed(left_out) = &verdict {
                        left_out.iter().for_each(|line| println!("    left out: {line}"));
                    }
                    verdicts.lock().expect("nobody panics with it").push((&test.name, verdict));
                }
            });
        }
    });
    let verdicts = verdicts.into_inner().expect("all threads have ended");
    let mut failed = 0;
    for (name, verdict) in &verdicts {
        if let Verdict::Failed(why) = verdict {
            failed += 1;
            println!("\n---- {name} ----\n{why}");
        }
    }
    let passed = verdicts.len() - failed;
    let end = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {end}. {passed} passed; {failed} failed; 0 ignored; 0 measured; \
         {filtered} filtered out"
    );
    ExitCode::from(u8::from(failed != 0))
}
