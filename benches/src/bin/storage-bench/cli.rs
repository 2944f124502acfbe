//! The command line. Flags are spdk_nvme_perf's where it has one.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use host_bridge::Isolation;
use host_bridge::backend::SqPollChoice;
use host_bridge::probes::ProbeArgs;
use hybrid_conventions::config::Rules;

use crate::values::{Arrivals, Dist, Fault, Rate, Workload, block_size, long_size, seconds, size};

/// To write to a device is permitted by hand, each time.
pub(crate) const RULES: Rules = Rules { files: true, by_hand: &["allow_writes"] };

/// Measures NVMe I/O through this project's driver on a core of its own.
#[derive(Parser, Debug)]
#[command(
    name = "storage-bench",
    version,
    after_long_help = AFTER,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

const AFTER: &str = "\
Every result says what it was measured on: the model (a software controller on a thread of the
host: its figures say what our software costs, never what a drive does), a vfio-user target, a
drive, or the host's kernel over io_uring. docs/benchmarks.md explains each figure.

Exit codes: 0 ok, 1 error (usage and failed verification too), 2 a threshold was exceeded (compare:
a regression), 3 something is missing (the line says what fixes it), 130 and 143 on signals.";

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Everything in one run: depths, futures, bursts, batches, mixes, hot spots, overload, the
    /// pure software cost; on the model with and without memory behind it, over vfio-user to our
    /// own server, and on what --race-device names
    Suite(SuiteArgs),
    /// Compare two results of `--out`: exit code 2 if B is worse than A beyond the noise
    Compare {
        /// The results to compare with
        #[arg(value_name = "A.json")]
        a: PathBuf,
        /// The results that should not be worse
        #[arg(value_name = "B.json")]
        b: PathBuf,
        /// Print the comparison as JSON
        #[arg(long)]
        json: bool,
    },
}

/// `suite --only`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SuitePart {
    /// A namespace without memory
    Null,
    /// A namespace of memory, and what comes with it: shapes of load, overload, the proposal
    Memory,
    /// A namespace without memory behind our own vfio-user server, polling on the other core
    VfioUser,
    /// What --race-device names
    Race,
    /// Driver and model on one core
    Stepped,
    /// Submit + reap of a read in each set-up (stepped, on the model's thread, over vfio-user, on
    /// --race-device), round by round in turn, in one table
    Cost,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SuiteArgs {
    /// Tiny sizes: shows that it works, not how fast
    #[arg(long)]
    pub(crate) quick: bool,
    /// Repetitions; each figure is their median [default: 5; 1 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) repetitions: Option<u32>,
    /// Only these parts; the proposal's table comes with memory
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    pub(crate) only: Vec<SuitePart>,
    /// A controller of somebody else's to read from, too, such as vfio-user:SOCKET of a third-party
    /// target that polls on another core; nothing is written to it
    #[arg(long, value_name = "DEVICE")]
    pub(crate) race_device: Option<String>,
    /// CPU that is measured [default: the last isolated one, else the last]
    #[arg(long, value_name = "CPU")]
    pub(crate) core: Option<u32>,
    /// Print the results as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the results as JSON to this file too
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) mode: ModeArgs,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    #[command(flatten)]
    pub(crate) probes: ProbeArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadArgs {
    /// Operations in flight, over all queue pairs
    #[arg(short = 'q', long = "depth", value_name = "N", default_value_t = 32,
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) depth: u32,
    /// Bytes of an operation
    #[arg(short = 'o', long = "io-size", value_name = "BYTES", default_value = "4k",
          value_parser = size)]
    pub(crate) bytes: u32,
    /// What is done: read and write go through the namespace in order
    #[arg(short = 'w', long = "workload", value_name = "WORKLOAD", default_value = "randread")]
    pub(crate) workload: Workload,
    /// Reads in per cent of randrw [default: 70]
    #[arg(short = 'M', long = "read-mix", value_name = "PERCENT",
          value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) mix: Option<u32>,
    /// Where random operations go: uniform, zipf:THETA, hotspot:PLACES/ACCESSES (in per cent)
    #[arg(long, value_name = "DIST", default_value = "uniform")]
    pub(crate) dist: Dist,
    /// Seconds of measurement, over all repetitions (or with a unit: 500ms, 2m)
    #[arg(short = 't', long = "time", value_name = "SECONDS", default_value = "5",
          value_parser = seconds)]
    pub(crate) time_ns: u64,
    /// Seconds of warm-up before it
    #[arg(short = 'a', long = "warm-up", value_name = "SECONDS", default_value = "500ms",
          value_parser = seconds)]
    pub(crate) warm_up_ns: u64,
    /// Repetitions that the time is cut into; compare pairs them
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) repetitions: u32,
    /// I/O queue pairs that the depth is spread over
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=15))]
    pub(crate) queues: u32,
    /// Through futures and the scheduler, a task for each operation in flight, as applications do
    #[arg(long)]
    pub(crate) futures: bool,
    /// Seed of everything that looks like chance
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Mode (default: a closed loop)")]
pub(crate) struct ModeArgs {
    /// Open loop: so many arrivals a second (500k, 1.5M), or a multiple of the capacity, which is
    /// measured first (2x); latency counts from the intended start
    #[arg(long, value_name = "RATE", conflicts_with_all = ["batch", "burst", "futures"])]
    pub(crate) rate: Option<Rate>,
    /// How arrivals are spaced
    #[arg(long, value_name = "HOW", default_value = "poisson", requires = "rate")]
    pub(crate) arrivals: Arrivals,
    /// Arrivals come in groups of N at once, at the same mean rate
    #[arg(long, value_name = "N", default_value_t = 1, requires = "rate",
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) bursty: u32,
    /// Arrivals that may wait; more are turned away and counted [default: four times the depth]
    #[arg(long, value_name = "N", requires = "rate",
          value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) backlog: Option<u32>,
    /// N operations, all ended before the next N are asked for
    #[arg(long, value_name = "N", conflicts_with_all = ["burst", "futures"],
          value_parser = clap::value_parser!(u32).range(1..=8000))]
    pub(crate) batch: Option<u32>,
    /// N submits and one doorbell, 100 us left alone, one reap of all N: the driver's own cost
    #[arg(long, value_name = "N", conflicts_with_all = ["futures", "latency"],
          value_parser = clap::value_parser!(u32).range(1..=1023))]
    pub(crate) burst: Option<u32>,
    /// A burst rings the doorbell after each submit
    #[arg(long, requires = "burst")]
    pub(crate) doorbell_each: bool,
    /// Write labelled blocks, read them back, compare place, version and CRC32C with an oracle
    #[arg(long, conflicts_with_all = ["rate", "batch", "burst", "futures", "stepped"])]
    pub(crate) verify: bool,
    /// The model stepped on the same core, completions posted before the reap: pure software cost
    #[arg(long, conflicts_with_all = ["rate", "batch", "burst", "futures", "verify"])]
    pub(crate) stepped: bool,
    /// The proposal's table: four goals, measured, beside fio with io_uring where it is installed
    #[arg(long, conflicts_with_all = ["rate", "batch", "burst", "futures", "verify", "stepped"])]
    pub(crate) proposal: bool,
    /// The workload through psync, io_uring with interrupts, + fixed buffers and files, + SQPOLL, +
    /// IOPOLL, + passthrough, with fio beside each, then through a partition (the bridge, and
    /// --device or the model); a file that is not there is made, and removed afterwards
    #[arg(long, value_name = "FILE|DEV", conflicts_with_all = [
        "rate", "batch", "burst", "futures", "verify", "stepped", "proposal"])]
    pub(crate) ladder: Option<PathBuf>,
    /// A file or block device for fio's side of the proposal's table; a file that is not there is
    /// made, and removed afterwards [default: a file of 64 MiB in the working directory]
    #[arg(long, value_name = "PATH", requires = "proposal")]
    pub(crate) baseline: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Machine")]
pub(crate) struct MachineArgs {
    /// The device: `model[:IMAGE]`, `vfio-user:SOCKET`, a PCI address; or, driven by the host's
    /// kernel through io_uring, `uring:PATH` and `uring-cmd:/dev/ngXnY`
    #[arg(long, value_name = "DEVICE", default_value = "model")]
    pub(crate) device: String,
    /// The namespace
    #[arg(short = 'n', long, value_name = "NSID", default_value_t = 1)]
    pub(crate) namespace: u32,
    /// CPU that the partition takes for itself [default: the last isolated one, else the last]
    #[arg(long, value_name = "CPU")]
    pub(crate) core: Option<u32>,
    /// What the partition is: a `thread`, beside which the model says how busy it is, or a
    /// `process` of its own, as programs have it, to whom the model is a stranger
    #[arg(long, value_name = "thread|process", default_value = "thread")]
    pub(crate) isolation: Isolation,
    /// Write to a device that may carry someone's data
    #[arg(long)]
    pub(crate) allow_writes: bool,
    /// The model's namespace has no memory behind it: a read brings a computed header
    #[arg(long)]
    pub(crate) model_null: bool,
    /// Size of the model's namespace [default: 256M; 64G with --model-null]
    #[arg(long, value_name = "BYTES", value_parser = long_size)]
    pub(crate) model_size: Option<u64>,
    /// Logical block size of the model
    #[arg(long, value_name = "BYTES", default_value = "4k", value_parser = block_size)]
    pub(crate) model_lba: u32,
    /// Time that each of the model's commands takes at least
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = seconds)]
    pub(crate) model_latency: u64,
    /// The model does this wrong once in 1,000 commands, for --verify to notice
    #[arg(long, value_name = "FAULT", requires = "verify")]
    pub(crate) model_fault: Option<Fault>,
    /// io_uring: the kernel's submission thread: `auto` (with two host CPUs or more), `off`, or its
    /// CPU
    #[arg(long, value_name = "CPU", default_value = "auto")]
    pub(crate) uring_sqpoll: SqPollChoice,
    /// io_uring: poll for completions, where the device has poll queues
    #[arg(long)]
    pub(crate) uring_iopoll: bool,
    /// io_uring: go through the page cache, without O_DIRECT
    #[arg(long)]
    pub(crate) uring_buffered: bool,
    /// io_uring: do not register DMA memory with the kernel
    #[arg(long)]
    pub(crate) uring_no_fixed: bool,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Take the time of each operation and print percentiles, as is always done at depth 1, with
    /// --rate and with --batch (there of whole batches); twice: with the histogram
    #[arg(short = 'L', long = "latency", action = ArgAction::Count)]
    pub(crate) latency: u8,
    /// Print the result as JSON on stdout
    #[arg(long, conflicts_with = "fio_json")]
    pub(crate) json: bool,
    /// Print the result in fio's JSON layout (jobs[].read.clat_ns.percentile) on stdout
    #[arg(long)]
    pub(crate) fio_json: bool,
    /// Write the result as JSON to this file too
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Write one self-contained page with plots (takes each operation's time); beside it .csv and
    /// .hgrm files with what they show
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// Draw another run's or program's latencies on the page's axes: a percentile file of
    /// HdrHistogram's, in microseconds; up to four times
    #[arg(long, value_name = "FILE.hgrm", requires = "report")]
    pub(crate) report_beside: Vec<PathBuf>,
    /// Write percentiles and the empirical distribution function, for trends (takes each
    /// operation's time)
    #[arg(long, value_name = "FILE.csv")]
    pub(crate) csv: Option<PathBuf>,
    /// No notes and no warnings on stderr; errors still
    #[arg(long)]
    pub(crate) quiet: bool,
}

impl RunArgs {
    /// Whether each operation's time is taken.
    pub(crate) const fn stamped(&self) -> bool {
        self.output.latency != 0
            || self.output.report.is_some()
            || self.output.csv.is_some()
            || self.output.fio_json
            || self.load.depth == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_does_not_contradict_itself() {
        Cli::command().debug_assert();
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "--burst 8 --rate 1k",
            "--batch 8001",
            "--doorbell-each",
            "--bursty 4",
            "-M 101",
            "--verify --stepped",
            "--json --fio-json",
            "-q 0",
            "suite -q 4",
        ] {
            let line = std::iter::once("storage-bench").chain(line.split(' '));
            assert!(Cli::try_parse_from(line.clone()).is_err(), "{:?}", line.collect::<Vec<_>>());
        }
        let twice = Cli::try_parse_from(["storage-bench", "-LL"]).expect("allowed");
        assert_eq!(twice.run.output.latency, 2);
    }
}
