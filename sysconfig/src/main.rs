//! Stand-in main.
mod device;
mod failure;
mod jitter;
mod output;
mod root;
mod sys;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "sysconfig", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}
#[derive(Subcommand)]
enum Command {
    /// Measure how quiet cores are, and who disturbs them
    Jitter(jitter::JitterArgs),
    /// Give NVMe controllers to user space (vfio-pci)
    Bind(device::BindArgs),
    /// Give NVMe controllers back to the kernel
    Unbind(device::UnbindArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let root = root::Root::at("/");
    let outcome = match &cli.command {
        Command::Jitter(args) => jitter::command(&root, args),
        Command::Bind(args) => device::bind_command(&root, args),
        Command::Unbind(args) => device::unbind_command(&root, args),
    };
    match outcome {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(failure::Failure { exit, line }) => {
            output::note(format_args!("sysconfig: {line}"));
            ExitCode::from(exit.code())
        }
    }
}
