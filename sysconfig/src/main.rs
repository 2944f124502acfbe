//! `sysconfig`: prepares a machine for partitions, and verifies that it is quiet.
//!
//! The command line and what each verb calls. Everything the program reads or changes goes through
//! a [`root::Root`]; what it says goes through [`output`].

mod command;
mod config;
mod device;
mod engine;
#[cfg(test)]
mod engine_tests;
mod failure;
#[cfg(test)]
mod fake;
mod jitter;
mod journal;
mod machine;
mod output;
mod place;
mod report;
mod root;
mod serve;
mod settings;
#[cfg(test)]
mod settings_tests;
mod sys;
mod threads;
mod verify;
mod wish;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use hybrid_conventions::config::{Rules, parsed};

use failure::Failure;
use root::Root;

/// Prepares a machine for hybrid-runtime, verifies it, and measures how quiet its cores are.
///
/// `plan` shows what would change and changes nothing; `apply` makes the changes and writes down
/// what was; `verify` compares and measures; `reset` puts back exactly what was.
#[derive(Debug, Parser)]
#[command(name = "sysconfig", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 ok, 1 error, 2 a threshold exceeded, 3 something is \
    missing (with the command that fixes it), 130 interrupted, 143 terminated.\n\n\
    Examples:\n  \
      sysconfig status\n  \
      sysconfig plan -c 2-3 --hugepages 2M=512 --device 0000:03:00.0\n  \
      sudo sysconfig apply -c 2-3 --hugepages 2M=512 --device 0000:03:00.0\n  \
      sudo sysconfig verify -d 10s -T 20us\n  \
      sudo sysconfig reset\n\n\
    Files: /etc/hybrid-runtime/machine.toml and machine.toml.d/*.toml say what is asked for, flags \
    go over them; /var/lib/hybrid-runtime/sysconfig/journal holds what was before.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
enum Command {
    /// Show what the machine is, how far it is from what was asked, and its NVMe drives
    Status(report::StatusArgs),
    /// Show what apply would change; changes nothing
    Plan(command::PlanArgs),
    /// Prepare the machine; what was before is written down first
    Apply(command::PlanArgs),
    /// Compare the machine with what was asked, and measure the isolated CPUs
    Verify(verify::VerifyArgs),
    /// Put back exactly what was before apply
    Reset(command::ResetArgs),
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

/// The verbs that take settings' names say which there are.
fn with_settings(mut cli: clap::Command) -> clap::Command {
    let wide = settings::all().map(|setting| setting.name().len()).max().unwrap_or(0);
    let mut help = "Settings, in the order in which apply makes them:\n".to_owned();
    for setting in settings::all() {
        help.push_str(&format!("  {:wide$}  {}\n", setting.name(), setting.about()));
    }
    help.push_str(
        "\nA key of /etc/hybrid-runtime/machine.toml has its flag's name: \
         isolated_cores = \"2-3\"\n\
         \n\
         Examples:\n  \
           sysconfig plan -c 2-3\n  \
           sysconfig plan -c 2-3 --hugepages 2M=256@0 --hugepages 2M=256@1 --smt isolate\n  \
           sudo sysconfig apply --run-time --skip devices",
    );
    for verb in ["status", "plan", "apply", "verify"] {
        cli = cli.mut_subcommand(verb, |command| command.after_help(help.clone()));
    }
    cli
}

fn main() -> ExitCode {
    let cli = match parsed::<Cli>(with_settings(Cli::command()), &Rules::OWN_FILES) {
        Ok((cli, _)) => cli,
        Err(exit) => return exit,
    };
    let root = Root::at("/");
    let outcome = match &cli.command {
        Command::Status(args) => report::status(args),
        Command::Plan(args) => command::plan(args),
        Command::Apply(args) => command::apply(args),
        Command::Verify(args) => verify::command(args),
        Command::Reset(args) => command::reset(args),
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
