//! What tests of all crates share: with `cargo xtask` skips that are counted and sizes of a soak,
//! among themselves a seeded generator.
//!
//! Feature `std`; a dev-dependency only. `cargo xtask test --help` documents the variables.
//! A test that cannot run here calls [`skipped`] and returns: libtest then counts it as passed, and
//! `cargo xtask test` moves it to the skipped ones, with its reason. Without xtask the reason is
//! printed and nothing else happens.

pub mod kani;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::string::String;

/// Names the file that [`skipped`] appends to.
pub const SKIP_LOG: &str = "HYBRID_SKIP_LOG";

/// Set to `1` by `cargo xtask soak`: tests choose their large sizes.
pub const SOAK: &str = "HYBRID_SOAK";

/// Operations of an oracle test during a soak.
pub const SOAK_OPS: &str = "HYBRID_SOAK_OPS";

/// Seed of the round during a soak; absent otherwise.
pub const SEED: &str = "HYBRID_SEED";

/// Reports that `test` did not run because of `reason` (one line, says what is missing).
///
/// A log that cannot be written is an error of the test that wanted to report.
///
/// # Panics
/// If the file that [`SKIP_LOG`] names cannot be appended to.
pub fn skipped(test: &str, reason: &str) {
    std::eprintln!("skipped: {test}: {reason}");
    let Some(path) = std::env::var_os(SKIP_LOG) else {
        return;
    };
    let line = skip_line(test, reason);
    let appended = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    assert!(appended.is_ok(), "cannot append to {}: {appended:?}", path.display());
}

/// One line of the log, so that one `write` is one record.
fn skip_line(test: &str, reason: &str) -> String {
    let mut line = String::with_capacity(test.len() + reason.len() + 3);
    line.push_str(test);
    line.push_str(": ");
    line.push_str(reason);
    line = line.replace(['\n', '\r'], " ");
    line.push('\n');
    line
}

/// Whether this run is a soak.
#[must_use]
pub fn soak() -> bool {
    std::env::var_os(SOAK).is_some_and(|value| value == "1")
}

/// Operations for a test: `ordinary` in CI, and in a soak what [`SOAK_OPS`] says or else `soak`.
///
/// # Panics
/// If [`SOAK_OPS`] is set to something that is not a number.
#[must_use]
pub fn ops(ordinary: u64, soak_default: u64) -> u64 {
    let wish = std::env::var(SOAK_OPS).ok();
    choose_ops(soak(), wish.as_deref(), ordinary, soak_default)
}

fn choose_ops(soak: bool, wish: Option<&str>, ordinary: u64, soak_default: u64) -> u64 {
    match (soak, wish) {
        (false, _) => ordinary,
        (true, None) => soak_default,
        (true, Some(text)) => match text.parse() {
            Ok(ops) => ops,
            Err(_) => panic!("{SOAK_OPS} is {text:?}, which is not a number"),
        },
    }
}

/// The seed of a random test: `ordinary` in CI, that of the round in a soak. Printed, so that a run
/// can be repeated.
///
/// # Panics
/// If [`SEED`] is set to something that is not a number.
#[must_use]
pub fn seed(ordinary: u64) -> u64 {
    let seed = match std::env::var(SEED) {
        Err(_) => ordinary,
        Ok(text) => match text.parse() {
            Ok(seed) => seed,
            Err(_) => panic!("{SEED} is {text:?}, which is not a number"),
        },
    };
    std::eprintln!("seed {seed} ({SEED})");
    seed
}

/// A seeded generator: xorshift64*. Not for benchmarks, which have their own.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers; seeds that are close give others.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 32 bits.
    pub const fn next32(&mut self) -> u32 {
        let [.., a, b, c, d] = self.next().to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_and_the_bound_holds() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            [(); 8].map(|()| random.below(1_000))
        };
        assert_eq!(draw(1), draw(1));
        // Even seeds as well: the state is odd, and so is never zero.
        assert!(draw(2) != draw(3) && draw(0) != draw(1));
        assert!(draw(5).iter().all(|number| *number < 1_000));
    }

    #[test]
    fn the_numbers_are_those_of_the_published_generator() {
        // Worked out apart from this code, from the state 1.
        assert_eq!(Random(1).next(), 0x47e4_ce4b_896c_dd1d);
    }

    #[test]
    fn a_skip_is_one_line() {
        assert_eq!(skip_line("mod::name", "no file\nat all"), "mod::name: no file at all\n");
    }

    #[test]
    fn a_soak_uses_the_wished_operations_and_ci_its_own() {
        assert_eq!(choose_ops(false, Some("5"), 1, 2), 1);
        assert_eq!(choose_ops(true, None, 1, 2), 2);
        assert_eq!(choose_ops(true, Some("5"), 1, 2), 5);
    }

    #[test]
    #[should_panic(expected = "not a number")]
    fn a_wish_that_is_no_number_is_an_error() {
        let _ = choose_ops(true, Some("many"), 1, 2);
    }
}
