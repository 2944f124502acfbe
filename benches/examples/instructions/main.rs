//! Counts the instructions of the hot paths, and compares them with a baseline.
//!
//! Each part runs under valgrind's callgrind in a process of its own, which executes a fixed number
//! of operations inside of [`counted`]; only what is inside is counted. There is no clock, no
//! thread and no random seed in it, so the same machine code gives the same count on any machine,
//! busy or not. A count says nothing about cache misses: that is what the benchmarks are for.
//!
//! `cargo xtask test --only instructions` runs it and fails if a count is 10 % above
//! `benches/instructions.txt`. A change that is worth its instructions writes a new baseline:
//! `cargo run --release -p hybrid-benches --example instructions -- --update`.

#![forbid(unsafe_code)]

mod parts;
mod rig;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use hybrid_conventions::{Column, Exit, Table, not_started};

/// A count that is more than this many hundredths of the baseline has got worse.
const LIMIT: f64 = 110.0;

/// Where the baseline is.
const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.txt");

/// Counts the instructions of the hot paths and compares them with a baseline.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 ok, 1 error, 2 a count rose by more than 10 %, \
    3 valgrind is missing."
)]
struct Args {
    /// Write what was counted as the new baseline.
    #[arg(long)]
    update: bool,
    /// The baseline.
    #[arg(long, value_name = "FILE", default_value = BASELINE)]
    baseline: PathBuf,
    /// Only the parts whose name contains this.
    #[arg(long, value_name = "TEXT", conflicts_with = "update")]
    only: Option<String>,
    /// Carry out one part, without valgrind, and print how many operations it was.
    #[arg(long, value_name = "PART", conflicts_with_all = ["update", "only"])]
    part: Option<String>,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return not_started(&error),
    };
    let exit = run(&args).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Exit::Error
    });
    ExitCode::from(exit.code())
}

fn run(args: &Args) -> Result<Exit> {
    if let Some(part) = &args.part {
        println!("{}", parts::run(part)?);
        return Ok(Exit::Ok);
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("error: no valgrind, which counts instructions; `apt-get install valgrind`");
        return Ok(Exit::Missing);
    }
    let wanted = |name: &&str| args.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let names: Vec<_> = parts::NAMES.into_iter().filter(wanted).collect();
    if names.is_empty() {
        bail!("no part matches; there are: {}", parts::NAMES.join(", "));
    }
    let mut counts = BTreeMap::new();
    for name in names {
        counts.insert(name.to_owned(), count(name)?);
    }
    if args.update {
        std::fs::write(&args.baseline, to_text(&counts))
            .with_context(|| format!("cannot write {}", args.baseline.display()))?;
        println!("{} written", args.baseline.display());
        return Ok(Exit::Ok);
    }
    compare(&counts, &read(&args.baseline)?, args.only.is_none())
}

/// Instructions an operation.
fn count(part: &str) -> Result<f64> {
    let own = std::env::current_exe().context("where this program is")?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*counted*"])
        .arg(own)
        .args(["--part", part])
        .output()
        .context("valgrind did not start")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{part} failed under valgrind:\n{said}");
    }
    let number = |text: &str| text.trim().parse::<u32>().ok();
    let collected = said
        .lines()
        .find_map(|line| number(line.split("Collected :").nth(1)?))
        .with_context(|| format!("valgrind did not say what it counted:\n{said}"))?;
    let done =
        number(&String::from_utf8_lossy(&output.stdout)).context("no number of operations")?;
    if collected == 0 || done == 0 {
        bail!("{part}: {collected} instructions in {done} operations cannot be right");
    }
    Ok(f64::from(collected) / f64::from(done))
}

fn to_text(counts: &BTreeMap<String, f64>) -> String {
    let mut text =
        "# Instructions an operation, by `cargo run --release -p hybrid-benches --example \
                    instructions -- --update`.\n"
            .to_owned();
    for (name, count) in counts {
        text += &format!("{name} = {count:.2}\n");
    }
    text
}

fn read(path: &Path) -> Result<BTreeMap<String, f64>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {}; --update writes it", path.display()))?;
    let line = |line: &str| {
        let (name, count) = line.split_once(" = ")?;
        Some((name.to_owned(), count.parse().ok()?))
    };
    text.lines()
        .filter(|text| !text.starts_with('#'))
        .map(|text| line(text).with_context(|| format!("{}: {text:?}", path.display())))
        .collect()
}

/// Prints the table; exit code 2 if something has got worse.
fn compare(
    counts: &BTreeMap<String, f64>,
    baseline: &BTreeMap<String, f64>,
    all: bool,
) -> Result<Exit> {
    if let Some(gone) = baseline.keys().find(|name| all && !counts.contains_key(*name)) {
        bail!("the baseline has {gone:?}, which is no part any more; --update writes a new one");
    }
    let table = Table::new([
        Column::left("instructions an operation"),
        Column::right("old"),
        Column::right("new"),
        Column::right("ratio"),
    ]);
    let mut worse = Vec::new();
    let mut cells = Vec::new();
    for (name, new) in counts {
        let old = baseline
            .get(name)
            .with_context(|| format!("the baseline lacks {name:?}; --update writes a new one"))?;
        let percent = new / old * 100.0;
        if percent > LIMIT {
            worse.push(name.as_str());
        }
        let ratio = format!("{:.2}", percent / 100.0);
        cells.push([name.clone(), format!("{old:.1}"), format!("{new:.1}"), ratio]);
    }
    let rows: Vec<_> =
        cells.iter().map(|row| row.each_ref().map(|cell| cell as &dyn Display)).collect();
    let mut text = String::new();
    table.write(&mut text, &rows)?;
    print!("{text}");
    if worse.is_empty() {
        return Ok(Exit::Ok);
    }
    println!("more than 10 % above the baseline: {}; --update accepts it", worse.join(", "));
    Ok(Exit::Threshold)
}

/// What is between begin and end of `work` is counted.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
    std::hint::black_box(());
}
