//! `cargo xtask fuzz`: the targets of `fuzz` under libFuzzer, one after the other.
//!
//! Builds `fuzz/libfuzzer` with the nightly compiler, as `cargo fuzz` would: coverage, and the
//! address sanitizer. What a fuzzer learnt stays in `target/fuzz/corpus`, what broke something is
//! in `target/fuzz/broken`, and belongs into `fuzz/corpus/TARGET` once it is mended.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use hybrid_conventions::Exit;

use crate::command::Run;
use crate::project::Project;

/// The package with the targets and their seeds.
pub(crate) const FUZZ: &str = "hybrid-fuzz";

/// The programs; not in the workspace.
const PROGRAMS: &str = "fuzz/libfuzzer/Cargo.toml";

/// What `cargo fuzz` gives the compiler.
const FLAGS: &str = "--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1";

/// The instrumented standard library is for one target only.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// The build takes three minutes on two idle cores; it must come to its end beside a soak, too.
const BUILD: Duration = Duration::from_secs(3600);

/// Inputs of `identify`: each ends its controller, whose memory is never freed.
const MOST_CONTROLLERS: u32 = 10_000;

/// What is wanted.
pub(crate) struct Wanted {
    /// How long each target runs.
    pub(crate) time: Duration,
    /// Targets; all if there are none.
    pub(crate) targets: Vec<String>,
}

/// Runs them; the last line is `N of N targets found nothing`.
pub(crate) fn run(project: &Project, wanted: &Wanted) -> Result<Exit> {
    let all = targets(project)?;
    if let Some(unknown) = wanted.targets.iter().find(|name| !all.contains(name)) {
        bail!("no target `{unknown}`: {} are there", all.join(", "));
    }
    if !Run::new("cargo +nightly --version").succeeds(&project.root) {
        eprintln!("error: libFuzzer wants a nightly compiler: rustup toolchain install nightly");
        return Ok(Exit::Missing);
    }
    let base = project.target.join("fuzz");
    let home = |what: &str| base.join(what).to_string_lossy().into_owned();
    let logs = project.target.join("xtask-logs");
    fs::create_dir_all(&logs)?;
    let log = logs.join("fuzz.log");
    let _ = fs::remove_file(&log);
    let seeds = Run::new(&format!("cargo run --quiet -p {FUZZ} --bin fuzz-seeds --"));
    let build = Run::new("cargo +nightly build --release --target")
        .arg(TRIPLE)
        .arg("--manifest-path")
        .arg(PROGRAMS)
        .env("RUSTFLAGS", FLAGS)
        .env("CARGO_TARGET_DIR", home("build"));
    for step in [seeds.arg(home("seeds")), build] {
        if let Some(trouble) = step.limit(BUILD).run(&project.root, &log).trouble() {
            bail!("{trouble}; see {}", log.display());
        }
    }
    let chosen: Vec<_> = match wanted.targets.is_empty() {
        true => all,
        false => wanted.targets.clone(),
    };
    let mut good = 0;
    for name in &chosen {
        let (corpus, broken) = (home(&format!("corpus/{name}")), home("broken"));
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&broken)?;
        let program = PathBuf::from(home("build")).join(TRIPLE).join("release").join(name);
        let run = Run::new(&program.to_string_lossy())
            .arg(format!("-max_total_time={}", wanted.time.as_secs().max(1)))
            .arg(format!("-artifact_prefix={broken}/{name}-"))
            // Rigs and spans are leaked once; leaks of an input would show as growth. The sanitizer
            // looks once more at the end unless it is told, too.
            .arg("-detect_leaks=0")
            .env("ASAN_OPTIONS", "detect_leaks=0")
            .arg("-rss_limit_mb=3072")
            .arg("-timeout=30")
            .arg("-max_len=16384")
            .arg("-print_final_stats=1")
            .args((name == "identify").then(|| format!("-runs={MOST_CONTROLLERS}")))
            .args([corpus, home(&format!("seeds/{name}"))])
            .args(kept(project, name))
            .limit(wanted.time.saturating_add(Duration::from_secs(120)));
        let log = logs.join(format!("fuzz-{name}.log"));
        let _ = fs::remove_file(&log);
        let trouble = run.run(&project.root, &log).trouble();
        let text = fs::read_to_string(&log).unwrap_or_default();
        let units = figure(&text, "stat::number_of_executed_units:");
        match trouble {
            None => println!("{name:<10} {units} inputs, nothing found"),
            Some(trouble) => println!("{name:<10} {trouble}; see {}", log.display()),
        }
        good += usize::from(run_was_good(&text, &units));
    }
    println!("{good} of {} targets found nothing", chosen.len());
    Ok(if good == chosen.len() { Exit::Ok } else { Exit::Error })
}

/// It came to its end and counted what it did.
fn run_was_good(text: &str, units: &str) -> bool {
    units != "no" && !text.contains("SUMMARY: ")
}

/// The figure behind a word of libFuzzer's last lines.
fn figure(text: &str, word: &str) -> String {
    let line = text.lines().rev().find_map(|line| line.strip_prefix(word));
    line.map_or_else(|| "no".to_owned(), |figure| figure.trim().to_owned())
}

/// Inputs that once broke something.
fn kept(project: &Project, name: &str) -> Option<String> {
    let dir = project.root.join("fuzz/corpus").join(name);
    dir.is_dir().then(|| dir.to_string_lossy().into_owned())
}

/// The targets are the files of programs.
fn targets(project: &Project) -> Result<Vec<String>> {
    let dir = project.root.join("fuzz/libfuzzer/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if let Some(name) = path.file_stem() {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    ensure!(!names.is_empty(), "{} is empty", dir.display());
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_figure_of_a_word_is_read() {
        let text = "x\nstat::number_of_executed_units: 12\nstat::average_exec_per_sec: 3\n";
        assert_eq!(figure(text, "stat::number_of_executed_units:"), "12");
        assert_eq!(figure(text, "stat::none:"), "no");
        assert!(run_was_good(text, "12"));
        assert!(!run_was_good("SUMMARY: libFuzzer: deadly signal", "12"));
        assert!(!run_was_good("", "no"), "it never came to its end");
    }
}
