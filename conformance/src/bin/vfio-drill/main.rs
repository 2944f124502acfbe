//! `vfio-drill`: what a drive's sudden ends do to the driver, on a real PCI function.
//!
//! Run in the guest of `cargo xtask vm` by the guest tests, with somebody beside it who unplugs the
//! drive, clears its bus mastering, or resets it. It keeps a partition as any program does and
//! counts how each command ended. It is also useful with a spare drive: everything but `fill` and
//! `put` only reads.
#![forbid(unsafe_code)]

mod drill;
mod host;
mod stamp;
mod still;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hybrid_conventions::{DeviceSpec, Exit, not_started};

/// Drills for a drive behind VFIO, and for whoever drives it.
#[derive(Debug, Parser)]
#[command(name = "vfio-drill", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 ok, 1 error (the device is gone, a block is wrong), 3 \
    something is missing (with the command that fixes it).")]
struct Cli {
    /// The controller: a PCI address, or `model:IMAGE`
    #[arg(long, value_name = "DEVICE")]
    device: String,
    /// The CPU that the partition takes for itself [default: the last isolated one, else the last]
    #[arg(long, value_name = "CPU")]
    core: Option<u32>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Write a stamp into each 4 KiB of the first 16 MiB; needs --allow-writes
    Fill {
        /// Overwrite what is there
        #[arg(long)]
        allow_writes: bool,
    },
    /// Read stamped blocks with a full window until stopped, or until the device is gone
    Storm {
        /// Reads to start; 0 is no limit
        #[arg(long, default_value_t = 0)]
        reads: u64,
        /// Reads in flight
        #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
        window: u16,
    },
    /// Let the device write to an address that it was given no memory for, then read on
    Stray {
        /// The address, in hexadecimal after 0x or decimal
        #[arg(long, default_value = "0x3000000000", value_parser = parse_address)]
        address: u64,
    },
    /// Copy a file to the device, from a byte offset on; needs --allow-writes
    Put {
        /// Overwrite what is there
        #[arg(long)]
        allow_writes: bool,
        /// Where on the device, a multiple of its block
        #[arg(long, default_value_t = 0)]
        offset: u64,
        /// A file of at most 1 MiB, a multiple of the device's block
        file: PathBuf,
    },
    /// Copy bytes of the device into a file
    Get {
        /// Where on the device, a multiple of its block
        #[arg(long, default_value_t = 0)]
        offset: u64,
        /// How many, a multiple of the device's block, at most 1 MiB
        #[arg(long, default_value_t = 1 << 20)]
        bytes: u32,
        /// Where to
        file: PathBuf,
    },
}

fn parse_address(text: &str) -> Result<u64, String> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    u64::from_str_radix(digits, radix)
        .ok()
        .filter(|address| address.is_multiple_of(4096))
        .ok_or_else(|| format!("{text} is no address; allowed are multiples of 4096"))
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_started(&error),
    };
    let result = DeviceSpec::parse(&cli.device)
        .map_err(|error| (Exit::Error, error.to_string()))
        .and_then(|device| host::run(&device, cli.core, &cli.command));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((exit, line)) => {
            eprintln!("vfio-drill: {line}");
            exit.code().into()
        }
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
    fn addresses_are_pages() {
        assert_eq!(parse_address("0x3000"), Ok(0x3000));
        assert_eq!(parse_address("8192"), Ok(8192));
        for text in ["", "0x", "12", "0x3001", "page"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }
}
