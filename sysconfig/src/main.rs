//! `sysconfig`: prepares a machine for partitions, and verifies that it is quiet.
//!
//! The command line and what each verb calls. Everything the program reads or changes goes through
//! a [`root::Root`]; what it says goes through [`output`].

mod device;
mod failure;
mod jitter;
mod output;
mod root;
mod serve;
mod sys;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hybrid_conventions::Exit;

use failure::Failure;
use root::Root;

/// Prepares a machine for hybrid-runtime, verifies it, and measures how quiet its cores are.
#[derive(Debug, Parser)]
#[command(name = "sysconfig", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 ok, 1 error, 2 a threshold exceeded, 3 something is \
    missing (with the command that fixes it), 130 interrupted, 143 terminated.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
enum Command {
    /// List NVMe drives, who has them, and why they are in use
    Status(device::StatusArgs),
    /// Measure how quiet cores are, and who disturbs them
    Jitter(jitter::JitterArgs),
    /// Give NVMe drives to user space (vfio-pci)
    Bind(device::BindArgs),
    /// Give NVMe drives back to the kernel
    Unbind(device::UnbindArgs),
    /// Do what needs root for users who are not, from a list (the privileged helper)
    Serve(serve::ServeArgs),
    /// Ask the privileged helper
    Ask(serve::AskArgs),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; the stream is clap's choice.
            let _ = error.print();
            let exit = if error.use_stderr() { Exit::Error } else { Exit::Ok };
            return ExitCode::from(exit.code());
        }
    };
    let root = Root::at("/");
    let outcome = match &cli.command {
        Command::Status(args) => device::status_command(&root, args),
        Command::Jitter(args) => jitter::command(&root, args),
        Command::Bind(args) => device::bind_command(&root, args),
        Command::Unbind(args) => device::unbind_command(&root, args),
        Command::Serve(args) => serve::serve_command(&root, args),
        Command::Ask(args) => serve::ask_command(args),
    };
    match outcome {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(Failure { exit, line }) => {
            output::note(format_args!("sysconfig: {line}"));
            ExitCode::from(exit.code())
        }
    }
}
