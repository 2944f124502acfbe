//! The command line: every knob of `feed-handler`, and nothing that is not one.
//!
//! Parsed by `main`; it opens nothing and prints nothing. Sizes, times, CPU numbers and devices are
//! spelled as everywhere in the project (`hybrid_conventions`). Usage errors exit with 1.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use feed_handler::synth::MAX_STOCKS;
use host_bridge::Isolation;
use host_bridge::backend::SqPollChoice;
use host_bridge::probes::ProbeArgs;
use host_bridge::sys::realtime::RtPriority;
use host_bridge::telemetry::log::LogFormat;
use hybrid_conventions::config::Rules;

use crate::storage::StorageArgs;
use crate::supervise::SupervisionArgs;
use crate::telemetry::TelemetryArgs;
use crate::values::{
    parse_block, parse_count, parse_cpu, parse_idle, parse_mdts, parse_message_time, parse_orders,
    parse_reconnect_time, parse_size, parse_sqpoll, parse_symbols, parse_time_ns, parse_transfer,
};

/// To overwrite a device is permitted by hand, each time.
pub(crate) const RULES: Rules = Rules { files: true, by_hand: &["allow_writes"] };

/// Reads a NASDAQ ITCH 5.0 feed from an NVMe controller on a core of its own and keeps the books.
///
/// Without a command it makes a synthetic trading day, writes it to the device through the
/// user-space NVMe driver, reads it back, decodes it, keeps every book and prints one screen.
/// The default device is a software model of an NVMe controller: no root, no hardware.
#[derive(Debug, Parser)]
#[command(name = "feed-handler", version, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Exit codes: 0 ok, 1 error, 2 a threshold exceeded, 3 something is \
    missing (with the command that fixes it), 130 interrupted, 143 terminated.\n\n\
    Examples:\n  \
      feed-handler\n  \
      feed-handler replay day.itch --bbo bbo.csv\n  \
      feed-handler ingest day.itch --device model:/var/tmp/day.img\n  \
      feed-handler replay --device model:/var/tmp/day.img --symbols AAPL,MSFT --json")]
pub(crate) struct Cli {
    /// What to do; without one, the synthetic day.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// The synthetic day, when no command is given.
    #[command(flatten)]
    pub(crate) day: DayArgs,

    /// Device and core, when no command is given.
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write an ITCH file (2-byte length framing) to the device
    Ingest(IngestArgs),
    /// Read the feed from the device and keep the books; with FILE, ingest it first
    Replay(ReplayArgs),
    /// Listen to a MoldUDP64 feed (UDP), decode it and keep the books, without a device
    Live(LiveArgs),
    /// Listen to a MoldUDP64 feed (UDP) and write its packets to a journal on the device
    Record(RecordArgs),
    /// Print the controller's identify data, in nvme-cli's words
    IdCtrl(AdminArgs),
    /// Print a namespace's identify data, in nvme-cli's words
    IdNs(IdNsArgs),
    /// Print the SMART / health information log
    SmartLog(AdminArgs),
    /// Print the error information log
    ErrorLog(AdminArgs),
    /// List the device's namespaces, a line each
    List(AdminArgs),
}

/// The synthetic day.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Synthetic day")]
pub(crate) struct DayArgs {
    /// Messages of the day (`6M` is six million)
    #[arg(long, value_name = "N", default_value = "6M", value_parser = parse_count)]
    pub(crate) messages: u64,
    /// Stocks traded
    #[arg(long, value_name = "N", default_value_t = 500,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_STOCKS)))]
    pub(crate) stocks: u16,
    /// Seed: the same seed makes the same day, byte for byte
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// `ingest`.
#[derive(Args, Clone, Debug)]
pub(crate) struct IngestArgs {
    /// The feed: messages behind 2-byte big-endian lengths
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// What of a journal is replayed.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Journal")]
pub(crate) struct JournalArgs {
    /// Replay the journal that `record` wrote on the device
    #[arg(long, conflicts_with = "file")]
    pub(crate) journal: bool,
    /// Begin at a message's sequence number, at a time (`@SECONDS` since 1970, fractions allowed),
    /// or at the last `snapshot` of the books
    #[arg(long, value_name = "SEQ|@TIME|snapshot", requires = "journal",
          value_parser = crate::journal::parse_begin)]
    pub(crate) from: Option<crate::journal::Begin>,
    /// At the speed at which the packets came, instead of as fast as it goes
    #[arg(long, requires = "journal")]
    pub(crate) original_speed: bool,
    /// Write a snapshot of the books beside the journal at its end
    #[arg(long, requires = "journal")]
    pub(crate) save_snapshot: bool,
}

/// `replay`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    pub(crate) journal: JournalArgs,
    /// Ingest this file first
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Write each change of the best bid and offer (bid_price,bid_shares,ask_price,ask_shares;
    /// a leading `symbol` column when more than one symbol is selected)
    #[arg(long, value_name = "FILE.csv")]
    pub(crate) bbo: Option<PathBuf>,
    /// Keep and report only these symbols' books
    #[arg(long, value_name = "A,B", value_parser = parse_symbols)]
    pub(crate) symbols: Option<Symbols>,
    /// Count messages that contradict the book (unknown order, too many shares) and go on, instead
    /// of stopping at the first
    #[arg(long)]
    pub(crate) lenient: bool,
    /// Orders that the books have room for, over all symbols; a feed that needs more is stopped
    #[arg(long, value_name = "N", default_value = "1M", value_parser = parse_orders)]
    pub(crate) max_orders: u32,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// `live`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LiveArgs {
    /// Where to listen, ADDRESS:PORT; port 0 takes a free one, which is told
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:26400")]
    pub(crate) listen: SocketAddr,
    /// Join this multicast group, on the interface that has the address
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<Ipv4Addr>,
    /// End when nothing came for so long, 1ms to 1m, or `never`
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_idle)]
    pub(crate) idle: Duration,
    /// The CPU to run on [default: any]
    #[arg(long, value_name = "CPU", value_parser = parse_cpu)]
    pub(crate) core: Option<u32>,
    /// Never sleep: look for datagrams all the time
    #[arg(long)]
    pub(crate) spin: bool,
    /// Want the session from its first message on: a late start is a gap
    #[arg(long)]
    pub(crate) from_start: bool,
    /// Count messages that contradict the book and go on, instead of stopping at the first: with
    /// messages missing there will be some
    #[arg(long)]
    pub(crate) lenient: bool,
    /// Orders that the books have room for, over all symbols
    #[arg(long, value_name = "N", default_value = "1M", value_parser = parse_orders)]
    pub(crate) max_orders: u32,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
    /// No notes on stderr; errors still
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// `record`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RecordArgs {
    /// The address to listen at
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: SocketAddr,
    /// The IPv4 multicast group to join, on the interface that has the address of --listen
    #[arg(long, value_name = "ADDR")]
    pub(crate) group: Option<Ipv4Addr>,
    /// End when nothing came for so long, 1ms to 1m, or `never`
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_idle)]
    pub(crate) idle: Duration,
    /// Packets that are held back while one before them is missing; then the gap is taken as it is
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(0..=4096))]
    pub(crate) reorder: u16,
    /// Want the session from its first message on: a late start is a gap
    #[arg(long)]
    pub(crate) from_start: bool,
    /// Size of a model's image or namespace that is made for it
    #[arg(long, value_name = "BYTES", default_value = "256M", value_parser = parse_size)]
    pub(crate) journal_size: u64,
    /// Bytes of each of the two places for snapshots of the books in a journal that is made
    #[arg(long, value_name = "BYTES", default_value = "32M", value_parser = parse_size)]
    pub(crate) snapshot_size: u64,
    /// Tie each batch of a journal that is made to all before it by BLAKE3, and print the chain at
    /// the end: kept elsewhere, it lets `probe-util journal DEVICE --verify --chain HEX` tell
    /// whether the journal is what was recorded; a journal without a chain is refused
    #[arg(long)]
    pub(crate) chain: bool,
    /// Where the journal is full, give its oldest packets up instead of ending
    #[arg(long)]
    pub(crate) wrap: bool,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// A parsed `--symbols` list: ITCH symbols, space-padded to eight bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Symbols(pub(crate) Vec<[u8; 8]>);

/// The commands that only ask the controller.
#[derive(Args, Clone, Debug)]
pub(crate) struct AdminArgs {
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// `id-ns`.
#[derive(Args, Clone, Debug)]
pub(crate) struct IdNsArgs {
    /// Namespace identifier
    #[arg(short, long, value_name = "NSID", default_value_t = 1)]
    pub(crate) namespace_id: u32,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// Device, core and output: the same for every command.
#[derive(Args, Clone, Debug)]
pub(crate) struct MachineArgs {
    /// The NVMe controller: `model` (in memory), `model:IMAGE` (blocks kept in a file),
    /// `vfio-user:SOCKET` (a server in another process), or the PCI address of a function on
    /// vfio-pci (`0000:03:00.0`, `03:00.0`). Or storage that the host's kernel drives, through
    /// io_uring: `uring:PATH` (a block device or a file), `uring-cmd:/dev/ngXnY` (NVMe passthrough)
    #[arg(long, value_name = "DEVICE", default_value = "model", help_heading = "Machine")]
    pub(crate) device: String,
    /// The CPU that the partition takes for itself [default: the last isolated CPU, else the last]
    #[arg(long, value_name = "CPU", value_parser = parse_cpu, help_heading = "Machine")]
    pub(crate) core: Option<u32>,
    /// Run the partition under SCHED_FIFO with this priority, 1 to 99 (needs RLIMIT_RTPRIO or
    /// root); what the kernel's throttling takes from it is a warning with the fix
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub(crate) rt_priority: Option<RtPriority>,
    /// What the partition is: `process` is one of its own, with seccomp and without privileges;
    /// `thread` is for debuggers
    #[arg(
        long,
        value_name = "process|thread",
        default_value = "process",
        help_heading = "Machine"
    )]
    pub(crate) isolation: Isolation,
    /// Commands kept in flight, 1 to 1023
    #[arg(long, value_name = "N", default_value_t = 32, help_heading = "Machine",
          value_parser = clap::value_parser!(u16).range(1..=1023))]
    pub(crate) queue_depth: u16,
    /// Largest transfer of one command, a power of two from 4k to 2M; the controller's MDTS may
    /// make it less
    #[arg(long, value_name = "BYTES", default_value = "512k", help_heading = "Machine",
          value_parser = parse_transfer)]
    pub(crate) max_transfer: u32,
    /// Overwrite a device that carries something else than one of our feeds
    #[arg(long, help_heading = "Machine")]
    pub(crate) allow_writes: bool,
    /// Leave out the measurement of single reads and of the driver's cycles after the work
    #[arg(long, help_heading = "Machine")]
    pub(crate) no_probe: bool,
    /// With --isolation thread, have the kernel report every system call that the partition makes
    /// while it runs; exit with 2 if there is one (a process may make none, and ends if it does)
    #[arg(long, help_heading = "Machine")]
    pub(crate) check_silence: bool,
    /// Print the result as JSON on stdout
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// Write a page with charts of the run, and measure the steps of its replay for it; beside it
    /// .csv and .hgrm files with what they show
    #[arg(long, value_name = "FILE.html", help_heading = "Output")]
    pub(crate) report: Option<PathBuf>,
    /// Draw another run's or program's latencies on the page's axes: a percentile file of
    /// HdrHistogram's, in microseconds; up to four times
    #[arg(long, value_name = "FILE.hgrm", requires = "report", help_heading = "Output")]
    pub(crate) report_beside: Vec<PathBuf>,
    /// No progress and no notes on stderr; errors still
    #[arg(short, long, help_heading = "Output")]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) storage: StorageArgs,
    #[command(flatten)]
    pub(crate) supervision: SupervisionArgs,
    #[command(flatten)]
    pub(crate) probes: ProbeArgs,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArgs,
    #[command(flatten)]
    pub(crate) vfio: VfioArgs,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) vfio_user: VfioUserArgs,
    #[command(flatten)]
    pub(crate) uring: UringArgs,
}

/// What goes with `uring:` and `uring-cmd:`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "io_uring")]
pub(crate) struct UringArgs {
    /// The kernel's submission thread: `auto` (with two host CPUs or more), `off`, or its CPU
    #[arg(long, value_name = "CPU", default_value = "auto", value_parser = parse_sqpoll)]
    pub(crate) uring_sqpoll: SqPollChoice,
    /// How long that thread looks for work before it sleeps, 1ms to 1m
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = parse_message_time)]
    pub(crate) uring_sqpoll_idle: Duration,
    /// Poll for completions, where the device has poll queues
    #[arg(long)]
    pub(crate) uring_iopoll: bool,
    /// Go through the page cache, without O_DIRECT
    #[arg(long)]
    pub(crate) uring_buffered: bool,
    /// Do not register DMA memory with the kernel
    #[arg(long)]
    pub(crate) uring_no_fixed: bool,
    /// Block size of a file: 512 to 64k, a power of two [default: 4k, or 512 where its size is no
    /// multiple of that]
    #[arg(long, value_name = "BYTES", value_parser = parse_block)]
    pub(crate) uring_lba: Option<u32>,
    /// Size of a file that is made because it is not there [default: what the feed needs]
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    pub(crate) uring_size: Option<u64>,
}

/// How patient the client of a vfio-user server is.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "vfio-user")]
pub(crate) struct VfioUserArgs {
    /// How long a message to the server may take, 1ms to 1m
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_message_time)]
    pub(crate) vfio_user_timeout: Duration,
    /// How long another server is waited for at the same socket when one dies, up to 1h; 0 does not
    /// wait [default: 10s; 0 with --storage auto]
    #[arg(long, value_name = "TIME", value_parser = parse_reconnect_time)]
    pub(crate) vfio_user_reconnect: Option<Duration>,
}

/// What goes with a PCI address.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "VFIO")]
pub(crate) struct VfioArgs {
    /// At the end, give the function back to the kernel's nvme driver (needs root)
    #[arg(long)]
    pub(crate) give_back: bool,
}

/// What the model pretends to be.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// Capacity of the namespace [default: what the feed needs, at least 256M; an existing image
    /// keeps its size]
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    pub(crate) model_size: Option<u64>,
    /// Logical block size: 512 to 64k, a power of two
    #[arg(long, value_name = "BYTES", default_value = "4k", value_parser = parse_block)]
    pub(crate) model_lba: u32,
    /// MDTS, the controller's limit of one transfer: a power of two from 8k, or `none`
    #[arg(long, value_name = "BYTES", default_value = "128k", value_parser = parse_mdts)]
    pub(crate) model_mdts: u8,
    /// Complete commands in an order shuffled from this seed
    #[arg(long, value_name = "SEED")]
    pub(crate) model_out_of_order: Option<u64>,
    /// Time that each command takes at least
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_time_ns)]
    pub(crate) model_latency: u64,
}

impl Cli {
    /// How the lines on stderr are written. A listener without a partition writes text.
    pub(crate) fn log_format(&self) -> LogFormat {
        let machine = match &self.command {
            None => &self.machine,
            Some(Command::Ingest(args)) => &args.machine,
            Some(Command::Replay(args)) => &args.machine,
            Some(Command::Record(args)) => &args.machine,
            Some(Command::IdNs(args)) => &args.machine,
            Some(
                Command::IdCtrl(args)
                | Command::SmartLog(args)
                | Command::ErrorLog(args)
                | Command::List(args),
            ) => &args.machine,
            Some(Command::Live(_)) => return LogFormat::Text,
        };
        machine.telemetry.log
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
}
