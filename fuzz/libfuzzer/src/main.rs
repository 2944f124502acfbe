//! Every target of `hybrid_fuzz` in one program of libFuzzer, which is linked once: `cargo xtask
//! fuzz` runs it. `HYBRID_FUZZ_TARGET` names the target, `HYBRID_FUZZ_SEEDS` the folder for seeds.
#![no_main]

use std::path::Path;
use std::process;
use std::sync::LazyLock;

use hybrid_fuzz::{SEEDS_VARIABLE, TARGET_VARIABLE, Target, chosen, seeds};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var(TARGET_VARIABLE).ok();
    chosen(name.as_deref()).unwrap_or_else(|message| end(&message))
});

/// Before the first input.
fn begin() {
    if let Some(dir) = std::env::var_os(SEEDS_VARIABLE) {
        match seeds::write_all(Path::new(&dir)) {
            Ok(()) => process::exit(0),
            Err(error) => end(&format!("{}: {error}", dir.display())),
        }
    }
    LazyLock::force(&TARGET);
}

fn end(message: &str) -> ! {
    eprintln!("error: {message}");
    process::exit(1)
}

libfuzzer_sys::fuzz_target!(init: begin(), |data: &[u8]| {
    (TARGET.run)(data);
});
