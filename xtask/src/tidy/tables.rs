//! What the rules know of this project: rooms, banned calls, arrows. Each entry has its reason.

/// Where `unsafe` may stand: a path starts with the first, for the reason in the second.
pub(super) const UNSAFE_ROOMS: &[(&str, &str)] = &[
    ("core-runtime/shm/", "the only access to shared memory"),
    ("core-runtime/src/mem", "queue memory, buffers and arenas over mapped bytes"),
    ("core-runtime/src/ring", "cells of a ring that another process writes"),
    ("core-runtime/src/task", "wakers and task storage without a heap"),
    ("core-runtime/src/clock", "the time-stamp counter"),
    ("core-runtime/src/probe", "probe words in shared memory"),
    ("core-runtime/src/crash", "the crash record, written by a signal handler"),
    ("core-runtime/src/crc", "the CRC instruction"),
    ("core-runtime/src/metrics/histogram.rs", "a bucket's word without a check; ADR 0002"),
    ("core-runtime/tests/", "what those rooms promise is tried from outside"),
    ("benches/peers/src/pools", "what embassy-executor asks of who polls it"),
    ("host-bridge/src/sys", "system calls"),
    ("conformance/src/bin/", "what a partition of the suite promises, and ways to die on purpose"),
    ("sysconfig/src/sys", "system calls"),
    ("host-bridge/tests/", "system calls that check the host's own"),
    ("app/src/bin/", "the counting allocator"),
    ("app/tests/", "the proof that a partition makes no system call and no allocation"),
];

/// Crate roots that forbid `unsafe` altogether.
pub(super) const FORBID_UNSAFE: &[&str] = &[
    "app/src/lib.rs",
    "conventions/src/lib.rs",
    "core-runtime/abi/src/lib.rs",
    "host-bridge/policy/src/lib.rs",
    "journal/src/lib.rs",
    "nvme-driver/model/src/lib.rs",
    "nvme-driver/spec/src/lib.rs",
    "nvme-driver/src/lib.rs",
    "probe-util/src/main.rs",
    "sim/src/lib.rs",
    "sim/src/bin/sim/main.rs",
    "xtask/src/main.rs",
];

/// Code that runs on a partition: no std, no heap, no panic on what comes from outside.
const NO_STD: &[&str] = &[
    "app/src/",
    "conventions/src/",
    "core-runtime/abi/src/",
    "core-runtime/shm/src/",
    "core-runtime/src/",
    "journal/src/",
    "nvme-driver/spec/src/",
    "nvme-driver/src/",
];

/// Files under [`NO_STD`] that a partition never contains.
const NOT_NO_STD: &[&str] = &[
    "app/src/bin/",                 // the std binary
    "app/src/main.rs",              // the std binary
    "conventions/src/config/",      // feature config: host programs' command lines
    "conventions/src/testing.rs",   // feature std: what tests share with xtask
    "conventions/src/testing/",     // the same
    "core-runtime/shm/src/heap.rs", // feature std: heap-backed spans for tests and tools
];

/// Code that owns its process: it may print, exit and read the environment.
const PROGRAMS: &[&str] = &["app/benches/", "benches/", "xtask/", "sysconfig/", "probe-util/"];

/// Library files that may do so too.
const TEST_SUPPORT: &[&str] = &[
    "conventions/src/testing.rs", // talks to cargo xtask through variables that its help lists
];

/// Whether a file is part of what runs on a partition.
pub(super) fn is_no_std(path: &str) -> bool {
    starts_with_any(path, NO_STD) && !starts_with_any(path, NOT_NO_STD)
}

/// Whether a file may print, exit and read the environment.
pub(super) fn is_at_the_edge(path: &str) -> bool {
    starts_with_any(path, PROGRAMS)
        || starts_with_any(path, TEST_SUPPORT)
        || path.contains("/src/bin/")
        || path.contains("/examples/")
        || path.contains("/benches/")
        || path.ends_with("src/main.rs")
        || path.ends_with("build.rs")
}

pub(super) fn starts_with_any(path: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| path.starts_with(prefix))
}

/// Where a call is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Where {
    Everywhere,
    /// Outside binaries, tests and their support.
    Libraries,
    /// In what runs on a partition, outside its tests.
    Partition,
    Tests,
}

/// Banned text, where, and what to write instead.
pub(super) const CALLS: &[(&str, Where, &str)] = &[
    ("env::var(", Where::Libraries, "take it as an argument; clap reads the environment"),
    ("env::var_os(", Where::Libraries, "take it as an argument; clap reads the environment"),
    ("println!(", Where::Libraries, "return it, or write to a `fmt::Write`"),
    ("eprintln!(", Where::Libraries, "return an error, or report through the caller"),
    ("print!(", Where::Libraries, "return it, or write to a `fmt::Write`"),
    ("eprint!(", Where::Libraries, "return an error, or report through the caller"),
    ("process::exit(", Where::Libraries, "return an error; the binary chooses the exit code"),
    (".unwrap()", Where::Partition, "a typed error, or `expect` with the invariant that holds"),
    ("extern crate alloc", Where::Partition, "caller-given storage; a partition has no heap"),
    ("thread::sleep(", Where::Tests, "an injected clock, or wait for the event itself"),
    ("static mut ", Where::Everywhere, "an atomic, or a cell that its owner passes on"),
    ("mem::transmute", Where::Everywhere, "zerocopy, `from_bits` or `cast`"),
    ("#![feature(", Where::Everywhere, "stable Rust"),
];

/// Leftovers in code, with what to do about each. In halves: nothing here is left over itself.
pub(super) const LEFTOVER_CODE: &[(&str, &str)] = &[
    (concat!("to", "do!"), "write it, or return a named error"),
    (concat!("unimpl", "emented!"), "write it, or return a named error"),
    (concat!("db", "g!"), "take it out"),
    (concat!("#[ign", "ore"), "skip with a reason: hybrid_conventions::testing::skipped"),
    (concat!("#[al", "low("), "use `expect` with a reason"),
    (concat!("#![al", "low("), "use `expect` with a reason"),
];

/// Leftovers in comments, as words.
pub(super) const LEFTOVER_WORDS: &[&str] =
    &[concat!("FIX", "ME"), concat!("X", "XX"), concat!("TO", "DO")];

/// Who may depend on whom: a package, and those of ours that it may name in `[dependencies]`.
/// `conventions` is open to all. A new arrow is an ADR.
pub(super) const ARROWS: &[(&str, &[&str])] = &[
    ("hybrid-abi", &[]),
    ("hybrid-conventions", &[]),
    ("hybrid-shm", &["hybrid-abi"]),
    ("core-runtime", &["hybrid-abi", "hybrid-shm"]),
    ("nvme-spec", &[]),
    ("nvme-driver", &["hybrid-abi", "hybrid-shm", "core-runtime", "nvme-spec"]),
    ("nvme-model", &["hybrid-abi", "hybrid-shm", "core-runtime", "nvme-spec"]),
    ("journal", &["hybrid-abi", "hybrid-shm", "core-runtime", "nvme-spec", "nvme-driver"]),
    ("hybrid-policy", &[]),
    (
        "host-bridge",
        &[
            "hybrid-abi",
            "hybrid-policy",
            "hybrid-shm",
            "core-runtime",
            "nvme-spec",
            "nvme-driver",
            "nvme-model",
            "journal",
        ],
    ),
    (
        "hybrid-conformance",
        &[
            "hybrid-abi",
            "hybrid-shm",
            "core-runtime",
            "nvme-spec",
            "nvme-driver",
            "nvme-model",
            "journal",
            "host-bridge",
        ],
    ),
    (
        "feed-handler",
        &["hybrid-abi", "hybrid-shm", "core-runtime", "nvme-spec", "nvme-driver", "journal"],
    ),
    (
        "hybrid-sim",
        &[
            "hybrid-abi",
            "hybrid-policy",
            "hybrid-shm",
            "core-runtime",
            "nvme-spec",
            "nvme-driver",
            "nvme-model",
        ],
    ),
    (
        "hybrid-fuzz",
        &[
            "hybrid-abi",
            "hybrid-shm",
            "core-runtime",
            "nvme-spec",
            "nvme-driver",
            "nvme-model",
            "host-bridge",
            "hybrid-conformance",
            "feed-handler",
        ],
    ),
    ("probe-util", &["hybrid-abi", "hybrid-shm"]),
    ("sysconfig", &[]),
    (
        "hybrid-benches",
        &[
            "hybrid-abi",
            "hybrid-shm",
            "core-runtime",
            "nvme-spec",
            "nvme-driver",
            "nvme-model",
            "journal",
            "host-bridge",
        ],
    ),
    ("xtask", &[]),
];

/// Arrows that must be `optional`: the library of the package does not see them, its binary does.
pub(super) const OPTIONAL_ARROWS: &[(&str, &str)] = &[("feed-handler", "host-bridge")];

/// Arrows that only tests have.
pub(super) const DEV_ARROWS: &[(&str, &str)] = &[
    ("nvme-driver", "nvme-model"),
    ("probe-util", "core-runtime"),
    ("probe-util", "host-bridge"),
    ("probe-util", "journal"),
    ("probe-util", "nvme-driver"),
];

/// The package that every other may name.
pub(super) const OPEN_TO_ALL: &str = "hybrid-conventions";
