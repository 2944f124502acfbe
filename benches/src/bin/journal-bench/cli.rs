//! The command line of `journal-bench`.

use std::path::PathBuf;

use clap::Parser;
use host_bridge::Isolation;
use hybrid_conventions::{Bytes, Nanos, TimeUnit};

/// Measure the journal: appends a second and their latency, and what opening costs
///
/// Without modes it runs the suite: the goals of the project, then tables by record size, batch and
/// arrival rate, and opening. Every append's latency counts from when it was due (open loop) to its
/// acknowledgement.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 ok, 1 error, 2 a goal was missed (only with --goals), 3 \
    something is missing, 130 interrupted, 143 terminated.\n\n\
    Examples:\n  \
      journal-bench --goals --beside /var/tmp\n  \
      journal-bench --rate 100k -o 128 -t 10s --model-latency 5us\n  \
      journal-bench --batch 1000 -o 128\n  \
      journal-bench --beside /var/tmp\n  \
      journal-bench --device uring:/var/tmp/log.img --allow-writes --rate 10k")]
pub(crate) struct Cli {
    /// The goals: p99 at 100,000 appends/s, on one core and across two, appends/s in batches,
    /// opening 1 GiB; and the ticks of an append
    #[arg(long, conflicts_with_all = ["rate", "batch"])]
    pub(crate) goals: bool,
    /// Open loop: appends a second, Poisson
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub(crate) rate: Option<u64>,
    /// So many appends, then all of them durable, and again
    #[arg(long, value_name = "N", value_parser = parse_count, conflicts_with = "rate")]
    pub(crate) batch: Option<u64>,
    /// A folder: this journal over io_uring on a file there, a plain-file log and fio's write and
    /// fdatasync, in turn
    #[arg(long, value_name = "DIR", conflicts_with_all = ["rate", "batch"])]
    pub(crate) beside: Option<PathBuf>,
    /// Bytes of a record's payload, up to 64k less 144
    #[arg(short = 'o', long, value_name = "SIZE", default_value = "128", value_parser = parse_size)]
    pub(crate) size: u64,
    /// How long each measurement takes
    #[arg(short = 't', long, value_name = "TIME", default_value = "3s", value_parser = parse_time)]
    pub(crate) time: u64,
    /// Writes in flight at once
    #[arg(long, value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) in_flight: u8,
    /// Bytes of the log that is opened with and without its checkpoint; the goal speaks of 1G and
    /// is judged from there on
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    pub(crate) open_size: u64,
    /// model, uring:PATH, a PCI address or vfio-user:SOCKET
    #[arg(long, value_name = "DEVICE", default_value = "model")]
    pub(crate) device: String,
    /// Needed for every device but the model: the journal overwrites it
    #[arg(long)]
    pub(crate) allow_writes: bool,
    /// Fixed latency of the model's commands
    #[arg(long, value_name = "TIME", default_value = "5us", value_parser = parse_time)]
    pub(crate) model_latency: u64,
    /// The model has a volatile write cache: acknowledged is after a flush, a second command
    #[arg(long)]
    pub(crate) model_cache: bool,
    /// Bytes of the model's blocks
    #[arg(long, value_name = "SIZE", default_value_t = 4096)]
    pub(crate) model_lba: u32,
    /// CPU of the partition
    #[arg(long, value_name = "CPU")]
    pub(crate) core: Option<u32>,
    /// A process, or a thread of this one
    #[arg(long, value_name = "KIND", default_value = "process", value_parser = parse_isolation)]
    pub(crate) isolation: Isolation,
    /// Seed of payloads and arrivals
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Tiny sizes: shows that it works, not how fast
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print JSON, schema journal-bench/1
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the JSON to this file too
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

fn parse_count(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no number; allowed are such as 5000, 100k, 2M");
    let (digits, unit) = match text.strip_suffix(['k', 'M']) {
        Some(digits) if text.ends_with('k') => (digits, 1_000),
        Some(digits) => (digits, 1_000_000),
        None => (text, 1),
    };
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    count.checked_mul(unit).filter(|count| (1..=100_000_000).contains(count)).ok_or_else(wrong)
}

fn parse_size(text: &str) -> Result<u64, String> {
    text.parse::<Bytes>().map(|bytes| bytes.0).map_err(|error| error.to_string())
}

fn parse_time(text: &str) -> Result<u64, String> {
    Nanos::parse(text, TimeUnit::Second).map(|nanos| nanos.0).map_err(|error| error.to_string())
}

fn parse_isolation(text: &str) -> Result<Isolation, String> {
    match text {
        "process" => Ok(Isolation::Process),
        "thread" => Ok(Isolation::Thread),
        other => Err(format!("isolation {other:?}; allowed are process and thread")),
    }
}
