//! What a program is told: flags over environment over files.
//!
//! Called by the `main` of each program with options that someone may want to keep. The options
//! themselves are the keys, so that there is no second list that could drift: a key is an option's
//! long name with `_` for `-`, and its value is read by the option's own parser.
//!
//! ```text
//!  flags                                        highest
//!  HYBRID_<PROGRAM>_<OPTION>
//!  /etc/hybrid-runtime/<program>.toml.d/*.toml  by name, later ones over earlier ones
//!  /etc/hybrid-runtime/<program>.toml
//!  the option's own default                     lowest
//! ```
//! In a file, keys on top are for every command of the program that has the option, those in a
//! table `[command]` for that one; `command = "…"` is what runs when the command line names none.
//! `--config FILE` reads FILE and FILE.d instead, `--print-config` shows what holds and from where,
//! `--generate DIR` writes man pages and completions. Without a file nothing is different.
//!
//! Does not: write files, or know what an option means.

mod file;
mod generate;
mod keys;
mod layer;
mod print;
#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::path::PathBuf;
use std::prelude::rust_2024::*;
use std::process::ExitCode;
use std::{env, format};

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, value_parser};

use crate::{Exit, not_started};
use layer::{Given, Resolved, Stop, resolve};

pub use generate::{Generated, generate};
pub use keys::nearest;

/// Where the files are, unless [`DIR_VARIABLE`] says otherwise.
pub const DIR: &str = "/etc/hybrid-runtime";

/// Names another directory of files: for tests, which no file of a machine may change.
pub const DIR_VARIABLE: &str = "HYBRID_CONFIG_DIR";

const CONFIG: &str = "hybrid_config";
const PRINT: &str = "hybrid_print_config";
const GENERATE: &str = "hybrid_generate";
const HEADING: &str = "Configuration";

/// What a program takes from files and environment.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Whether it reads them at all; one with files of its own does not.
    pub files: bool,
    /// Keys that only a flag may set: permissions.
    pub by_hand: &'static [&'static str],
}

impl Rules {
    /// Every option may stand in a file.
    pub const FILES: Self = Self { files: true, by_hand: &[] };
    /// No file; the program has its own.
    pub const OWN_FILES: Self = Self { files: false, by_hand: &[] };
}

/// A program's command line with the options that every program of ours has.
#[must_use]
pub fn command(program: Command, rules: &Rules) -> Command {
    let path = || value_parser!(PathBuf);
    let generate = Arg::new(GENERATE)
        .long("generate")
        .value_name("DIR")
        .value_parser(path())
        .help_heading(HEADING)
        .help("Write man pages and completions for bash, zsh and fish below DIR, and end");
    if !rules.files {
        return program.arg(generate);
    }
    let prefix = layer::prefix(&program);
    let file = format!("{DIR}/{}.toml", program.get_name());
    let config = Arg::new(CONFIG)
        .long("config")
        .value_name("FILE")
        .value_parser(path())
        .global(true)
        .help_heading(HEADING)
        .help(format!(
            "Read FILE and FILE.d/*.toml instead of {file} and {file}.d/*.toml. A key is an \
             option's long name with _ for -, in a table [COMMAND] for that command alone; \
             environment variables {prefix}<OPTION> go over files, flags over both. A switch that \
             they set is taken back with =false"
        ));
    let print = Arg::new(PRINT)
        .long("print-config")
        .action(ArgAction::SetTrue)
        .global(true)
        .help_heading(HEADING)
        .help("Print each option with its value and where that comes from, as a file, and end");
    program.arg(config).arg(print).arg(generate)
}

/// Parses this process's command line over its files and environment.
///
/// # Errors
/// How the program ends instead, when everything was said: usage errors, `--help`,
/// `--print-config`, `--generate`.
pub fn parsed<C: FromArgMatches>(
    program: Command,
    rules: &Rules,
) -> Result<(C, ArgMatches), ExitCode> {
    let program = command(program, rules);
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let environment: Vec<(String, String)> = env::vars_os().filter_map(text).collect();
    let dir = environment.iter().find(|(name, _)| name == DIR_VARIABLE);
    let dir = dir.map_or_else(|| PathBuf::from(DIR), |(_, dir)| PathBuf::from(dir));
    let given = Given { argv: env::args_os().collect(), environment, dir };
    let name = program.get_name().to_owned();
    match resolve(&program, rules, &given) {
        Ok(resolved) if asks_to_print(&resolved) => Err(said(&print::text(&program, &resolved))),
        Ok(Resolved { matches, .. }) => match C::from_arg_matches(&matches) {
            Ok(cli) => Ok((cli, matches)),
            Err(error) => Err(not_started(&error.format(&mut program.clone()))),
        },
        Err(Stop::Clap(error)) => Err(not_started(&error)),
        Err(Stop::Wrong(line)) => Err(complain(&name, &line, Exit::Error)),
        Err(Stop::Missing(line)) => Err(complain(&name, &line, Exit::Missing)),
        Err(Stop::Generate(dir)) => Err(match generate(&program, rules, &dir) {
            Ok(written) => said(&format!("{written}")),
            Err(error) => complain(&name, &format!("{}: {error}", dir.display()), Exit::Error),
        }),
    }
}

fn asks_to_print(resolved: &Resolved) -> bool {
    resolved.matches.try_get_one::<bool>(PRINT).ok().flatten() == Some(&true)
}

/// A result; a closed stream is no error.
fn said(text: &str) -> ExitCode {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    ExitCode::from(Exit::Ok.code())
}

fn complain(name: &str, line: &str, exit: Exit) -> ExitCode {
    let _ = std::io::stderr().lock().write_all(format!("{name}: {line}\n").as_bytes());
    ExitCode::from(exit.code())
}
