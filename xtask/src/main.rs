//! Developer commands: `cargo xtask test`, `soak`, `bench`, `sim`, `mutants`, `fuzz`, `vm`, `dist`,
//! `dashboard`.
//!
//! CI calls `cargo xtask test` and nothing else, so what CI checks is what a developer can check.

#![forbid(unsafe_code)]

mod bench;
mod command;
mod dashboard;
mod dist;
mod excerpt;
mod fuzz;
mod libtest;
mod mutants;
mod project;
mod runner;
mod screen;
mod sim;
mod soak;
mod steps;
mod stop;
mod summary;
mod test;
mod tidy;
mod tools;
mod vm;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use hybrid_conventions::{Exit, Nanos, not_started};

use crate::project::Project;

/// Developer commands of the hybrid runtime.
#[derive(Parser)]
#[command(name = "cargo xtask", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs what CI runs; the last line is `N passed, N failed, N skipped`.
    #[command(after_long_help = TEST_HELP)]
    Test {
        /// Run this step only (may be repeated, or be several with commas between).
        #[arg(long, value_name = "STEP", value_delimiter = ',')]
        only: Vec<String>,
        /// Print the steps and run none.
        #[arg(long)]
        list: bool,
        /// Give up after this time (10s, 5m, 1h); what has not run by then has failed.
        #[arg(long, value_name = "TIME", default_value = "29m")]
        limit: Nanos,
    },
    /// Runs the long versions of the random tests.
    #[command(after_long_help = SOAK_HELP)]
    Soak {
        /// Start rounds until so many minutes have passed; one round runs in any case.
        #[arg(long, value_name = "N", default_value_t = 0)]
        minutes: u64,
        /// For so many hours (0.2 is 12 minutes): simulation, fuzzing, generated mutants, crash
        /// storms and the guest's suite in turn, each for a sixth of the time and 20 minutes at
        /// most. What fails is kept in target/soak with its seed, and the next one begins. The
        /// first round runs whole.
        #[arg(long, value_name = "N", value_parser = parse_hours,
            conflicts_with_all = ["minutes", "ops"])]
        hours: Option<Duration>,
        /// Operations of each random test, instead of 10^7 (oracle) and 10^8 (allocator).
        #[arg(long, value_name = "N")]
        ops: Option<u64>,
        /// Seed of the first round; each round adds one.
        #[arg(long, value_name = "N", default_value_t = 1)]
        seed: u64,
    },
    /// Runs the benchmark binaries; exit code 2 if one exceeded its threshold.
    Bench {
        /// Small sizes: shows that they work, not how fast.
        #[arg(long)]
        quick: bool,
        /// A controller of somebody else's that storage-bench reads from, too, such as
        /// vfio-user:SOCKET of a third-party target.
        #[arg(long, value_name = "DEVICE")]
        race_device: Option<String>,
        /// Only binaries whose name contains this.
        filter: Option<String>,
    },
    /// Simulates scheduler, driver and controller on a virtual clock; `sim --help` has the options.
    #[command(disable_help_flag = true)]
    Sim {
        /// Options of the simulation.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
        options: Vec<String>,
    },
    /// Gives any bytes to everything that reads bytes of others, under libFuzzer (nightly).
    #[command(after_long_help = FUZZ_HELP)]
    Fuzz {
        /// How long each target computes (10s, 5m, 1h); on a crowded machine that takes longer.
        #[arg(long, value_name = "TIME", default_value = "60s")]
        time: Nanos,
        /// Instead, run this input once, and show what it breaks. Its target is the one that is
        /// named, or its folder, or what its name begins with.
        #[arg(long, value_name = "FILE", conflicts_with = "time")]
        repeat: Option<PathBuf>,
        /// Only these targets.
        targets: Vec<String>,
    },
    /// Breaks the driver on purpose, one way at a time, and runs the test that must notice.
    #[command(after_long_help = MUTANTS_HELP)]
    Mutants {
        /// Only look whether every mutant of xtask/mutants.txt still applies.
        #[arg(long)]
        check: bool,
        /// Print the mutants with their tests and run none.
        #[arg(long)]
        list: bool,
        /// Instead, those that cargo-mutants makes up in ring, queue pair, PRP lists and slots.
        #[arg(long, conflicts_with = "check")]
        generated: bool,
        /// With --generated: go on where the last run was stopped, if the code is still the same.
        #[arg(long, requires = "generated")]
        resume: bool,
        /// With --generated: stop after this time (10s, 5m, 1h); --resume goes on.
        #[arg(long = "for", value_name = "TIME", requires = "generated")]
        time: Option<Nanos>,
        /// Only those whose name contains one of these; with --generated, whose file's path does.
        names: Vec<String>,
    },
    /// Runs a Debian kernel under QEMU, with emulated drives behind an emulated IOMMU.
    #[command(after_long_help = VM_HELP)]
    Vm {
        #[command(subcommand)]
        action: Option<vm::Action>,
    },
    /// Builds the Debian package, with man pages and completions out of the programs.
    #[command(after_long_help = DIST_HELP)]
    Dist {
        /// Install, use, remove and purge it in a fresh Debian tree (needs root; a few minutes).
        #[arg(long)]
        test: bool,
        /// With --test: boot the tree in an emulated machine too, where limits and devices of the
        /// unit's sandbox can be tried whatever this machine allows (QEMU; some minutes more).
        #[arg(long, requires = "test")]
        emulated: bool,
        /// Where the package and the tree go [default: target/dist].
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Has a real Prometheus scrape a replay, puts every query of the shipped dashboard to it, and
    /// draws the answers; a query without an answer is an error (two minutes; needs prometheus and
    /// chromium).
    Dashboard {
        /// The picture [default: docs/images/dashboard.png].
        #[arg(long, value_name = "FILE.png")]
        out: Option<PathBuf>,
    },
}

const TEST_HELP: &str = "\
Every test counts as one; fmt, tidy, clippy, docs, each no_std build and each target of the fuzzer
count as one each. Logs are
in target/xtask-logs/STEP.log; of a failed step the end is printed. What is missing is installed
when run as root; otherwise the command is printed and the exit code is 3.

What a test sees and says (hybrid_conventions::testing, feature std):
  HYBRID_SKIP_LOG   set here: a file; a test that cannot run appends the line `NAME: REASON` with
                    testing::skipped(NAME, REASON) and returns. It is counted as skipped.
  PROPTEST_CASES, LOOM_MAX_PREEMPTIONS, MIRIFLAGS, CARGO_TARGET_DIR are set for the steps miri
                    and loom.

Exit codes: 0 all passed, 1 something failed, 3 something is missing.";

const SOAK_HELP: &str = "\
Tests read their sizes through hybrid_conventions::testing (feature std):
  HYBRID_SOAK=1         testing::soak(): large sizes
  HYBRID_SOAK_OPS=N     testing::ops(ordinary, soak): operations of a random test
  HYBRID_SEED=N         testing::seed(ordinary): seed of the round, printed before it
Loom runs with LOOM_MAX_PREEMPTIONS=5. At the end, and at ^C or SIGTERM: a table of what ran, how
often, how long and with which result, the logs of what failed (their names have the seeds), and
the last line of `cargo xtask test`.

Exit codes: 0 all passed, 1 something failed, 130 and 143 ended by SIGINT and SIGTERM.";

const FUZZ_HELP: &str = "\
Targets: cqe, identify, ring, region, trace, dump, itch, mold, control. What was learnt stays in
target/fuzz/corpus; what broke something is in target/fuzz/broken, `--repeat` shows it again, and it
belongs into fuzz/corpus/TARGET once it is mended. A target that runs fewer than ten inputs a second
of what it computes has failed. CI runs each target for a minute (`cargo xtask test --only fuzz`),
and the short form, which runs on any toolchain (`cargo test -p hybrid-fuzz`).

Exit codes: 0 nothing was found, 1 something was, 3 there is no nightly or no C++ compiler.";

const MUTANTS_HELP: &str = "\
Works on a copy in target/mutants; logs are in target/xtask-logs/mutant-NAME.log. Each test is first
run on the copy unbroken. With --generated, NAMEs choose among the files; what became of each is
printed as a table at the end, and at ^C or SIGTERM, and stays in
target/mutants/generated/GROUP/decided.txt. What runs now is the end of
target/xtask-logs/mutants-GROUP.log.

Exit codes: 0 all were caught (that were tried within the time of --for), 1 one survived, or its
text or its test is not as the list says, 3 cargo-mutants is not there (cargo install
cargo-mutants), 130 and 143 ended by SIGINT and SIGTERM.";

const DIST_HELP: &str = "\
The package is target/dist/hybrid-runtime_VERSION_amd64.deb; docs/installing.md says what is in it.
The tree comes from where apt gets its packages (debootstrap), and is kept for the next time as
target/dist/base.

Exit codes: 0 ok, 1 error, 3 something is missing.";

const VM_HELP: &str = "\
The guest has busybox, our programs, the drives' PCI addresses in $NVME0, $NVME1, ... and $DRIVES,
and these scripts: vfio-bind BDF..., as-user COMMAND..., host device_del nvme0. Its kernel's log is
in target/xtask-logs/vm-*.console.log. More is in docs/vm.md.

Exit codes: that of the command in the guest; 1 if there was none, 3 if something is missing.";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_started(&error),
    };
    let code = run(cli.command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        let exit = if error.is::<vm::Missing>() { Exit::Missing } else { Exit::Error };
        exit.code()
    });
    ExitCode::from(code)
}

/// Hours, which may have a fraction.
fn parse_hours(text: &str) -> Result<Duration, String> {
    let hours = text.parse().ok().filter(|hours: &f64| *hours > 0.0 && *hours <= 10_000.0);
    let hours = hours.ok_or_else(|| "allowed are numbers up to 10000: 8, 0.5".to_owned())?;
    Ok(Duration::from_secs_f64(hours * 3600.0))
}

/// Where the project is: cargo says it to what it runs. The folder of the build would be another
/// checkout's if the target directory was copied.
fn home(cargo_says: Option<OsString>) -> PathBuf {
    cargo_says.map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// Runs a command and gives the exit code.
fn run(command: Command) -> Result<u8> {
    let load = || Project::load(&home(std::env::var_os("CARGO_MANIFEST_DIR")));
    let exit = match command {
        Command::Test { list: true, .. } => {
            test::list();
            Exit::Ok
        }
        Command::Test { only, limit, .. } => test::run(&load()?, &only, limit.to_duration())?,
        Command::Soak { minutes, hours, ops, seed } => {
            let time = hours.unwrap_or(Duration::from_secs(minutes.saturating_mul(60)));
            soak::run(&load()?, &soak::Soak { in_turn: hours.is_some(), time, ops, seed })?
        }
        Command::Bench { quick, race_device, filter } => {
            let wanted = bench::Wanted { quick, race_device, filter };
            bench::run(&load()?, &wanted)?
        }
        Command::Dist { test, emulated, out } => {
            dist::run(&load()?, &dist::Dist { test, emulated, out })?
        }
        Command::Dashboard { out } => dashboard::run(&load()?, &dashboard::Wanted { out })?,
        Command::Sim { options } => return sim::run(&load()?, &options),
        Command::Fuzz { time, repeat, targets } => {
            fuzz::run(&load()?, &fuzz::Wanted { time: time.to_duration(), targets, repeat })?
        }
        Command::Mutants { generated: true, list, resume, time, names, .. } => {
            let time = time.map(Nanos::to_duration);
            let wanted = mutants::generated::Wanted { list, resume, time, names };
            mutants::generated::run(&load()?, &wanted)?
        }
        Command::Mutants { check, list, names, .. } => {
            mutants::run(&load()?, &mutants::Wanted { check, list, names })?
        }
        Command::Vm { action } => return vm::run(&load()?, action.as_ref()),
    };
    Ok(exit.code())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_project_is_where_cargo_says() {
        assert_eq!(home(Some("/else/xtask".into())), PathBuf::from("/else/xtask"));
        assert_eq!(home(None), PathBuf::from("."));
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usage_errors_are_errors_and_help_is_not() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).err().expect("no command");
        assert!(parse("xtask test --nothing").use_stderr());
        assert!(parse("xtask test --limit 10").use_stderr());
        assert!(!parse("xtask test --help").use_stderr());
    }

    #[test]
    fn hours_may_have_a_fraction_and_must_be_some() {
        assert_eq!(parse_hours("0.5"), Ok(Duration::from_secs(1800)));
        assert_eq!(parse_hours("24"), Ok(Duration::from_secs(86_400)));
        for bad in ["0", "-1", "1e9", "NaN", "1h"] {
            assert!(parse_hours(bad).is_err(), "{bad}");
        }
    }
}
