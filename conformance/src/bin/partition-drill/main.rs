//! `partition-drill`: several partitions on cores of their own, and memory on several NUMA nodes.
//!
//! For machines with at least three CPUs: the guest suite runs it in an emulated one with two
//! nodes, and it runs on any other. It prints libtest's lines; figures are `note` lines, and say
//! where they come from. What a machine lacks is `ignored`, with the reason.

mod numa;
mod orders;
mod pingpong;

use std::process::ExitCode;

use clap::Parser;
use host_bridge::Runtime;
use host_bridge::topology::Topology;
use host_bridge::warnings::Warnings;
use hybrid_conventions::{CpuSet, Exit, not_started};

/// Several partitions on cores of their own: their rings, their memory's places, and how long a
/// record takes from one core to another.
#[derive(Debug, Parser)]
#[command(name = "partition-drill", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 ok, 1 a test failed or an error, 3 something is missing.")]
struct Cli {
    /// The partitions' CPUs, at least two [default: the isolated ones that may be used]
    #[arg(long, value_name = "CPUS")]
    cpus: Option<CpuSet>,
    /// Records for each key's order, and round trips timed
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    records: u64,
    /// Words for the figures: what machine this is
    #[arg(long, value_name = "TEXT", default_value = "this machine")]
    machine: String,
}

/// One test's outcome.
pub(crate) enum Outcome {
    Passed,
    Failed(String),
    Ignored(String),
}

impl<E: std::fmt::Display> From<Result<(), E>> for Outcome {
    fn from(result: Result<(), E>) -> Self {
        result.map_or_else(|error| Self::Failed(error.to_string()), |()| Self::Passed)
    }
}

/// What the tests work with.
pub(crate) struct Drill {
    pub(crate) runtime: Runtime,
    pub(crate) cpus: Vec<u32>,
    pub(crate) records: u64,
    pub(crate) machine: String,
}

type Test = (&'static str, fn(&Drill) -> Outcome);

const TESTS: &[Test] = &[
    ("partitions::keys_keep_their_order_between_cores", orders::keep_their_order),
    ("partitions::a_record_goes_there_and_back", pingpong::there_and_back),
    ("partitions::each_has_the_memory_of_its_cores_node", numa::memory_of_the_core),
    ("partitions::rings_lie_on_their_producers_node", numa::rings_of_the_producer),
    ("partitions::a_table_is_spread_over_the_nodes", numa::table_is_spread),
    ("partitions::local_and_remote_memory_are_timed", numa::local_and_remote),
];

fn run(cli: Cli) -> Result<Exit, Box<dyn std::error::Error>> {
    let topology = Topology::read();
    let cores = cli.cpus.unwrap_or(topology.isolated.intersection(topology.allowed));
    if cores.len() < 2 {
        eprintln!("error: two cpus for partitions are needed: name them with --cpus, one is left");
        return Ok(Exit::Missing);
    }
    let runtime = match Runtime::with_warnings(cores, Warnings::default()) {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return Ok(error.exit());
        }
    };
    let cpus = cores.iter().collect();
    let drill = Drill { runtime, cpus, records: cli.records, machine: cli.machine };
    let mut failed = 0;
    for (name, test) in TESTS {
        match test(&drill) {
            Outcome::Passed => println!("test {name} ... ok"),
            Outcome::Ignored(reason) => println!("test {name} ... ignored, {reason}"),
            Outcome::Failed(why) => {
                failed += 1;
                println!("    {why}");
                println!("test {name} ... FAILED");
            }
        }
    }
    Ok(if failed == 0 { Exit::Ok } else { Exit::Error })
}

host_bridge::partition_main! {
    entries: [orders::TRADE, pingpong::PLAY, numa::IDLE],
    main: host,
}

fn host() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_started(&error),
    };
    let exit = run(cli).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        Exit::Error
    });
    ExitCode::from(exit.code())
}
