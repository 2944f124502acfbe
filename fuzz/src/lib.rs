//! What any bytes do to everything here that reads bytes of others: one function a target.
//!
//! `cargo xtask fuzz` runs them under libFuzzer (`fuzz/libfuzzer`, which is not in the workspace),
//! `tests/corpora.rs` runs the corpora and some thousand mutations of them in every test. A target
//! panics where something believed what it must not; an error that is named is what it should be.

#![forbid(unsafe_code)]

mod device;
mod feed;
mod memory;
pub mod mutate;
pub mod seeds;
mod text;

/// Longest input.
pub const LONGEST: usize = 16 << 10;

/// A target: its name, which is that of its corpus, and what it does with bytes.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
}

impl core::fmt::Debug for Target {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name)
    }
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// All of them.
pub static TARGETS: [Target; 9] = [
    target("cqe", device::completions),
    target("identify", device::identify),
    target("ring", memory::ring),
    target("region", memory::region),
    target("trace", memory::trace),
    target("dump", memory::dump),
    target("itch", feed::itch),
    target("mold", feed::mold),
    target("control", text::control),
];

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Names the target that the one program of `fuzz/libfuzzer` is to run.
pub const TARGET_VARIABLE: &str = "HYBRID_FUZZ_TARGET";

/// A folder: the same program writes all seeds there, and runs nothing.
pub const SEEDS_VARIABLE: &str = "HYBRID_FUZZ_SEEDS";

/// The target that [`TARGET_VARIABLE`] names.
///
/// # Errors
/// The names that are allowed.
pub fn chosen(name: Option<&str>) -> Result<&'static Target, String> {
    name.and_then(find).ok_or_else(|| {
        let names = TARGETS.each_ref().map(|target| target.name).join(", ");
        let found = name.unwrap_or("not set");
        format!("{TARGET_VARIABLE} is {found}; allowed are {names}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_chosen_by_its_name_and_others_are_told_the_names() {
        assert_eq!(chosen(Some("cqe")).expect("a target").name, "cqe");
        let message = chosen(Some("cq")).expect_err("no target");
        assert!(message.starts_with("HYBRID_FUZZ_TARGET is cq; allowed are cqe, "), "{message}");
        assert!(chosen(None).expect_err("no target").contains("is not set; "));
    }
}
