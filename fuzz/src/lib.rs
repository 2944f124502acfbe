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
