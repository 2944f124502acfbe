//! `nvme-vfio-user-server`: a software NVMe controller behind a vfio-user socket.
//!
//! The program around `host_bridge::vfio_user_server`: parses the command line, serves until a
//! signal comes, syncs the image, and says what was done.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, ValueEnum};
use host_bridge::affinity::{confine_to, pin_to};
use host_bridge::backend::model::{
    Backing, ControllerFault, FaultAction, FaultPlan, FaultRule, Idle, LatencyModel, ModelConfig,
    ModelGauges, NamespaceConfig, OnQueue, When,
};
use host_bridge::sys::signals::StopSignals;
use host_bridge::topology::Topology;
use host_bridge::vfio_user_server::{ServerOptions, VfioUserServer};
use hybrid_conventions::config::{Rules, parsed};
use hybrid_conventions::{Bytes, Count, Exit, HumanBytes, Nanos, TimeUnit};
use nvme_spec::AdminOpcode;
use rustix::process::{Signal, getpid, kill_process};

/// How often signals are looked for.
const LOOK: Duration = Duration::from_millis(20);

/// The same where a fault waits for its command.
const DRILL_LOOK: Duration = Duration::from_micros(50);

/// Empty polls before the thread begins to give way with `--idle yield`: about 100 us.
const YIELD_AFTER_STEPS: u32 = 2_000;

/// Serves a software NVMe controller over vfio-user to any client on this machine.
///
/// The controller polls doorbells that the client maps, and reads and writes the client's memory
/// directly; registers go by message. It raises no interrupts: drivers must poll. One client at a
/// time; the namespace keeps its blocks from one to the next.
#[derive(Debug, Parser)]
#[command(name = "nvme-vfio-user-server", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 ok, 1 error, 3 something is missing, 130 interrupted, 143 \
    terminated (the image is synced).\n\n\
    Examples:\n  \
      nvme-vfio-user-server --socket /tmp/nvme.sock\n  \
      feed-handler --device vfio-user:/tmp/nvme.sock\n\n  \
      nvme-vfio-user-server --socket /run/nvme/cntrl --image day.img --core 0\n  \
      nvme-vfio-user-server --socket /tmp/null.sock --null 0 --queue-entries 256")]
struct Cli {
    /// Path of the socket to listen at; a dead server's is replaced. A directory's `cntrl` is what
    /// clients of other projects expect
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Capacity of the namespace [default: 256M; an existing image keeps its size]
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    size: Option<u64>,
    /// Logical block size: 512 to 64k, a power of two
    #[arg(long, value_name = "BYTES", default_value = "4k", value_parser = parse_block)]
    lba: u32,
    /// Keep the blocks in this file; it is made if it is not there
    #[arg(long, value_name = "FILE", conflicts_with = "null")]
    image: Option<PathBuf>,
    /// Keep no blocks: a read writes the first 16 bytes of each block only, made from its number
    /// and this; a write is forgotten. For measuring what is in front of the controller
    #[arg(long, value_name = "PATTERN")]
    null: Option<u64>,
    /// Time that each command takes at least
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_time_ns)]
    latency: u64,
    /// Largest transfer of one command (MDTS): a power of two from 8k to 1G, or `none`
    #[arg(long, value_name = "BYTES", default_value = "128k", value_parser = parse_mdts)]
    mdts: u8,
    /// Complete commands in an order shuffled from this seed
    #[arg(long, value_name = "SEED")]
    out_of_order: Option<u64>,
    /// Entries of the largest queue (MQES), 2 to 65536
    #[arg(long, value_name = "N", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(2..=65_536))]
    queue_entries: u32,
    /// I/O queue pairs, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(1..=64))]
    queues: u16,
    /// Doorbell stride (DSTRD), 0 to 8: doorbells are 4 << N bytes apart
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u8).range(0..=8))]
    dstrd: u8,
    /// CPU of the controller's thread [default: any that the process may use]
    #[arg(long, value_name = "CPU")]
    core: Option<u32>,
    /// For drills, from the Nth I/O command on: `dies@N` kills this process, `fatal@N` sets
    /// CSTS.CFS, `silent@N` answers no command any more, aborts included
    #[arg(long, value_name = "FAULT@N", value_parser = parse_fault)]
    fault: Option<Fault>,
    /// What the controller's thread does without work
    #[arg(long, value_name = "HOW", value_enum, default_value_t = IdleArg::Yield)]
    idle: IdleArg,
    /// No lines about start and end on stderr; errors still
    #[arg(short, long)]
    quiet: bool,
}

/// `--fault`: what happens, and from which I/O command on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Dies(u64),
    Fatal(u64),
    Silent(u64),
}

fn parse_fault(text: &str) -> Result<Fault, String> {
    let allowed = || format!("`{text}` is no fault: dies@N, fatal@N and silent@N are allowed");
    let (kind, number) = text.split_once('@').ok_or_else(allowed)?;
    let number = number.parse().ok().filter(|number| *number != 0).ok_or_else(allowed)?;
    match kind {
        "dies" => Ok(Fault::Dies(number)),
        "fatal" => Ok(Fault::Fatal(number)),
        "silent" => Ok(Fault::Silent(number)),
        _ => Err(allowed()),
    }
}

impl Fault {
    /// What the controller does of it.
    fn plan(self) -> FaultPlan {
        let io =
            |number: u64, action| FaultRule::on(OnQueue::Io, action).when(When::After(number - 1));
        match self {
            Self::Dies(_) => FaultPlan::none(),
            Self::Fatal(number) => {
                let fatal = FaultAction::Controller(ControllerFault::Fatal);
                FaultPlan::none().with(io(number, fatal))
            }
            // Nothing but what follows silence is left unanswered from the start.
            Self::Silent(number) => {
                [AdminOpcode::ABORT, AdminOpcode::DELETE_SQ, AdminOpcode::DELETE_CQ]
                    .into_iter()
                    .map(|opcode| FaultRule::admin(opcode, FaultAction::Drop))
                    .chain([io(number, FaultAction::Drop)])
                    .fold(FaultPlan::none(), FaultPlan::with)
            }
        }
    }
}

/// `--idle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum IdleArg {
    /// Poll on at once: the lowest latency, and a CPU of its own
    Spin,
    /// Let others run after 100 us without work: for CPUs that are shared
    Yield,
}

fn parse_size(text: &str) -> Result<u64, String> {
    text.parse::<Bytes>().map(Bytes::get).map_err(|error| error.to_string())
}

fn parse_power(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if bytes.is_power_of_two() && (least..=most).contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!("allowed are powers of two from {} to {}", Bytes(least), Bytes(most)))
}

fn parse_block(text: &str) -> Result<u32, String> {
    parse_power(text, 512, 64 << 10)?.try_into().map_err(|_| "too large".to_owned())
}

/// The exponent of a power of two of 4 KiB pages; 0 for no limit.
fn parse_mdts(text: &str) -> Result<u8, String> {
    if text == "none" {
        return Ok(0);
    }
    let bytes = parse_power(text, 8 << 10, 1 << 30)?;
    u8::try_from(bytes.trailing_zeros() - 12).map_err(|error| error.to_string())
}

fn parse_time_ns(text: &str) -> Result<u64, String> {
    Nanos::parse(text, TimeUnit::Nano).map(Nanos::get).map_err(|error| error.to_string())
}

/// An exit code and one line.
type Failure = (Exit, String);

fn main() -> ExitCode {
    let cli = match parsed::<Cli>(Cli::command(), &Rules::FILES) {
        Ok((cli, _)) => cli,
        Err(exit) => return exit,
    };
    let exit = run(&cli).unwrap_or_else(|(exit, line)| {
        note(&line);
        exit
    });
    ExitCode::from(exit.code())
}

/// A line on stderr; a closed one is no reason to stop.
fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "nvme-vfio-user-server: {line}");
}

fn failed(error: impl std::fmt::Display) -> Failure {
    (Exit::Error, error.to_string())
}

fn run(cli: &Cli) -> Result<Exit, Failure> {
    let idle = match cli.idle {
        IdleArg::Spin => Idle::Spin,
        IdleArg::Yield => Idle::Yield { after_steps: YIELD_AFTER_STEPS },
    };
    let cpu = cli.core.map(check_core).transpose()?;
    let signals = StopSignals::install().map_err(failed)?;
    let (model, what) = model(cli)?;
    let gauges = ModelGauges::default();
    let options = ServerOptions { model, idle, cpu, gauges: gauges.clone() };
    let server = VfioUserServer::start(&cli.socket, options).map_err(failed)?;
    if !cli.quiet {
        let socket = cli.socket.display();
        note(&format!("{what}; for clients vfio-user:{socket}; ctrl-c ends it"));
    }
    let signal = loop {
        match signals.pending() {
            Some(signal) => break signal,
            None => std::thread::sleep(if cli.fault.is_some() { DRILL_LOOK } else { LOOK }),
        }
        if let Some(Fault::Dies(number)) = cli.fault
            && gauges.completions() >= number
        {
            let _ = kill_process(getpid(), Signal::KILL);
        }
    };
    let clients = Count(server.clients());
    let mut model = server.stop().map_err(failed)?;
    if !cli.quiet {
        let completions = Count(model.stats().completions);
        note(&format!("{clients} clients, {completions} completions; the blocks are synced"));
        for mistake in model.take_mistakes() {
            note(&format!("a client's mistake: {mistake}"));
        }
    }
    Ok(signal.exit())
}

/// The CPU, if this process may use it.
fn check_core(cpu: u32) -> Result<u32, Failure> {
    let topology = Topology::read();
    if !topology.online.contains(cpu) {
        let line = format!("cpu {cpu} does not exist: online are cpus {}", topology.online);
        return Err((Exit::Error, line));
    }
    if !topology.allowed.contains(cpu) {
        let line = format!(
            "cpu {cpu} is not allowed for this process, only cpus {} are; start it with taskset -c",
            topology.allowed
        );
        return Err((Exit::Missing, line));
    }
    // Tried on this thread, which goes back to where it was: the model's thread does it for good.
    pin_to(cpu).map_err(|error| (Exit::Missing, error.to_string()))?;
    let _ = confine_to(topology.allowed);
    Ok(cpu)
}

/// The controller that the options describe, and what to call it.
fn model(cli: &Cli) -> Result<(ModelConfig, String), Failure> {
    const DEFAULT_BYTES: u64 = 256 << 20;
    let there = cli.image.as_ref().and_then(|path| std::fs::metadata(path).ok());
    let bytes = match (cli.size, &there) {
        (Some(size), _) => size,
        (None, Some(meta)) => meta.len(),
        (None, None) => DEFAULT_BYTES,
    };
    let blocks = bytes / u64::from(cli.lba);
    if blocks == 0 {
        return Err(failed(format_args!("{bytes} bytes are less than a block of {}", cli.lba)));
    }
    let mut namespace = NamespaceConfig::memory(1, blocks).lba_bytes(cli.lba);
    let mut place = "memory".to_owned();
    if let Some(pattern) = cli.null {
        namespace.backing = Backing::Null { pattern };
        "nothing: reads are made up, writes forgotten".clone_into(&mut place);
    }
    if let Some(path) = &cli.image {
        namespace.backing = Backing::Image { path: path.clone(), create: there.is_none() };
        place = path.display().to_string();
    }
    let mut config = ModelConfig {
        namespaces: vec![namespace],
        serial: "HYBRIDVFU0001".to_owned(),
        mdts: cli.mdts,
        max_queue_entries: cli.queue_entries,
        max_io_queues: cli.queues,
        dstrd: cli.dstrd,
        ..ModelConfig::default()
    };
    if cli.latency != 0 {
        config.latency = LatencyModel::FixedNs(cli.latency);
    }
    if let Some(fault) = cli.fault {
        config.faults = fault.plan();
    }
    if let Some(seed) = cli.out_of_order {
        config.out_of_order = true;
        config.seed = seed;
    }
    let (size, block) = (HumanBytes(blocks * u64::from(cli.lba)), HumanBytes(cli.lba.into()));
    Ok((config, format!("a software nvme controller, {size} in blocks of {block}, in {place}")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_does_not_contradict_itself() {
        Cli::command().debug_assert();
    }

    #[test]
    fn faults_have_a_kind_and_a_command() {
        assert_eq!(parse_fault("fatal@7"), Ok(Fault::Fatal(7)));
        for text in ["", "fatal", "fatal@0", "fatal@x", "sulks@1"] {
            assert!(parse_fault(text).is_err_and(|line| line.contains("silent@N")), "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_two_where_they_must_be() {
        assert_eq!(parse_mdts("128k"), Ok(5));
        assert_eq!(parse_mdts("none"), Ok(0));
        assert!(parse_mdts("4k").is_err() && parse_mdts("100k").is_err());
        assert_eq!(parse_block("512"), Ok(512));
        assert!(parse_block("256").is_err() && parse_block("1000").is_err());
        assert!(parse_size("x").is_err() && parse_time_ns("5 parsecs").is_err());
    }
}
