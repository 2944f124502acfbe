//! Flags over environment over files, for the command that the command line names.
//!
//! What files and environment say becomes the *default* of an option, so that everything that a
//! program asks of what was given by hand (conflicts, flags without effect) still asks the command
//! line alone. A value that cannot stand beside what goes over it is left out: it is tried on the
//! command line first, by the program's own definitions.
//!
//! ```text
//!  argv ── probe ──► chain, --config ──► settings ── keys::check ──► candidates
//!                                                                        │ not given by hand
//!  matches ◄── defaults of those that are used ◄── tried, highest first ─┘
//! ```

use std::ffi::OsString;
use std::path::PathBuf;
use std::prelude::rust_2024::*;
use std::{format, mem};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};

use super::file::{FileError, Files, Origin, Setting, Written};
use super::keys::{
    COMMAND, check, descend, find, is_flag, key_of, lenient, reason, values, with_no, words,
};
use super::print::pair;
use super::{CONFIG, GENERATE, PRINT, Rules};

/// What the process was given.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) argv: Vec<OsString>,
    /// Variables whose names and values are text.
    pub(super) environment: Vec<(String, String)>,
    /// Where the program's file is, unless one is named.
    pub(super) dir: PathBuf,
}

/// A value that a file or the environment has for an option of the command.
#[derive(Clone, Debug)]
pub(super) struct Layered {
    pub(super) id: String,
    pub(super) key: String,
    pub(super) values: Vec<String>,
    pub(super) origin: Origin,
    rank: usize,
}

/// Those that are left out, and why.
pub(super) type Unused = Vec<(Layered, String)>;

/// The command line, filled up.
#[derive(Debug)]
pub(super) struct Resolved {
    /// The names of the commands below the program.
    pub(super) chain: Vec<String>,
    /// The command that they lead to.
    pub(super) target: Command,
    pub(super) matches: ArgMatches,
    pub(super) used: Vec<Layered>,
    pub(super) unused: Unused,
    /// The files that there were.
    pub(super) files: Vec<PathBuf>,
    /// The file and the folder that were looked for.
    pub(super) looked_at: Vec<PathBuf>,
}

/// Why the program does not start.
#[derive(Debug)]
pub(super) enum Stop {
    /// Help, version, or a usage error.
    Clap(clap::Error),
    /// A line about a file or the environment.
    Wrong(String),
    /// A named file is not there.
    Missing(String),
    /// `--generate DIR`.
    Generate(PathBuf),
}

impl From<clap::Error> for Stop {
    fn from(error: clap::Error) -> Self {
        Self::Clap(error)
    }
}

impl From<FileError> for Stop {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Wrong(line) => Self::Wrong(line),
            FileError::Missing(line) => Self::Missing(line),
        }
    }
}

/// The start of the names of a program's variables.
pub(super) fn prefix(program: &Command) -> String {
    format!("HYBRID_{}_", program.get_name().to_uppercase().replace('-', "_"))
}

/// Merges the layers and parses the command line.
pub(super) fn resolve(plain: &Command, rules: &Rules, given: &Given) -> Result<Resolved, Stop> {
    let program = every_command(plain.clone(), &|command| command.mut_args(with_no));
    let mut argv = given.argv.clone();
    let probed = match probe(&program, &argv) {
        Ok(probed) => probed,
        // Help or version, unless something before it is wrong.
        Err(error) => {
            return Err(Stop::Clap(
                plain.clone().try_get_matches_from(argv).err().unwrap_or(error),
            ));
        }
    };
    if let Ok(Some(dir)) = probed.try_get_one::<PathBuf>(GENERATE) {
        return Err(Stop::Generate(dir.clone()));
    }
    let mut chain = chain_of(&probed);
    if !rules.files {
        let matches = program.clone().try_get_matches_from(&argv)?;
        let target = descend(&program, &chain).unwrap_or(&program).clone();
        let (used, unused) = (Vec::new(), Vec::new());
        let (files, looked_at) = (Vec::new(), Vec::new());
        return Ok(Resolved { chain, target, matches, used, unused, files, looked_at });
    }
    let named = probed.try_get_one::<PathBuf>(CONFIG).ok().flatten().cloned();
    let usual = || given.dir.join(format!("{}.toml", program.get_name()));
    let place = Files { named: named.is_some(), main: named.unwrap_or_else(usual) };
    let (mut settings, files) = place.read()?;
    settings.extend(environment(&program, given, files.len()));
    for setting in &settings {
        check(&program, setting, rules.by_hand).map_err(Stop::Wrong)?;
    }
    if let (true, Some(name)) = (chain.is_empty(), command_of(&settings)) {
        argv.insert(argv.len().min(1), name.into());
        chain = chain_of(&probe(&program, &argv)?);
    }
    let print = probed.try_get_one::<bool>(PRINT).ok().flatten() == Some(&true);
    let program = if print { at(program, &chain, lenient) } else { program };
    let target = descend(&program, &chain).unwrap_or(&program).clone();
    let layers = candidates(&target, &chain, &settings).map_err(Stop::Wrong)?;
    let looked_at = Vec::from([place.main.clone(), place.folder()]);
    let merged = merge(&program, &chain, &argv, layers)?;
    let Merged { matches, used, unused } = merged;
    Ok(Resolved { chain, target, matches, used, unused, files, looked_at })
}

/// What the command line says in spite of what may be wrong with it.
fn probe(program: &Command, argv: &[OsString]) -> Result<ArgMatches, clap::Error> {
    program.clone().ignore_errors(true).try_get_matches_from(argv)
}

fn chain_of(matches: &ArgMatches) -> Vec<String> {
    let below = matches.subcommand();
    let rest = |(name, matches): (&str, &ArgMatches)| {
        [&[name.to_owned()], chain_of(matches).as_slice()].concat()
    };
    below.map(rest).unwrap_or_default()
}

/// The environment's settings, over all files.
fn environment(program: &Command, given: &Given, rank: usize) -> Vec<Setting> {
    let prefix = prefix(program);
    let setting = |(name, value): &(String, String)| {
        let key = name.strip_prefix(&prefix)?.to_lowercase();
        let (table, written) = (Vec::new(), Written::Word(value.clone()));
        Some(Setting { table, key, written, origin: Origin::Environment(name.clone()), rank })
    };
    given.environment.iter().filter_map(setting).collect()
}

/// The command that the highest layer chooses.
fn command_of(settings: &[Setting]) -> Option<String> {
    let choices = settings.iter().filter(|one| one.table.is_empty() && one.key == COMMAND);
    choices.max_by_key(|one| one.rank).and_then(|one| match &one.written {
        Written::One(name) | Written::Word(name) => Some(name.clone()),
        _ => None,
    })
}

/// For each option of the command what goes over the rest: the later source, and within one what
/// was written for this command.
fn candidates(
    target: &Command,
    chain: &[String],
    settings: &[Setting],
) -> Result<Vec<Layered>, String> {
    let mut layers = Vec::new();
    for arg in target.get_arguments() {
        let Some(key) = key_of(arg) else { continue };
        let fits = |one: &&Setting| one.key == key && (one.table.is_empty() || one.table == chain);
        let best = settings.iter().filter(fits).max_by_key(|one| (one.rank, one.table.len()));
        if let Some(setting) = best {
            let (id, values) = (arg.get_id().as_str().to_owned(), values(arg, setting)?);
            let (origin, rank) = (setting.origin.clone(), setting.rank);
            layers.push(Layered { id, key, values, origin, rank });
        }
    }
    // Highest first: it stays, and the lower ones have to fit.
    layers.sort_by_key(|one| std::cmp::Reverse(one.rank));
    Ok(layers)
}

/// Those that are used, those that are not, and the command line over them.
struct Merged {
    matches: ArgMatches,
    used: Vec<Layered>,
    unused: Unused,
}

fn merge(
    program: &Command,
    chain: &[String],
    argv: &[OsString],
    layers: Vec<Layered>,
) -> Result<Merged, Stop> {
    let parse = |layers: &[Layered]| {
        let filled = at(program.clone(), chain, |command| {
            layers.iter().fold(command, |command, layer| {
                command.mut_arg(&layer.id, |arg| {
                    let bare = is_flag(&arg) || matches!(arg.get_action(), ArgAction::Count);
                    let arg = arg.required(false);
                    match (bare, layer.values.first()) {
                        (true, Some(value)) => arg.default_value(value.clone()),
                        _ => arg.default_values(layer.values.clone()),
                    }
                })
            })
        });
        filled.try_get_matches_from(argv)
    };
    let matches = parse(&layers)?;
    let below = chain.iter().fold(&matches, |matches: &ArgMatches, name| {
        matches.subcommand_matches(name).unwrap_or(matches)
    });
    let by_hand = |one: &Layered| below.value_source(&one.id) == Some(ValueSource::CommandLine);
    let open: Vec<Layered> = layers.into_iter().filter(|one| !by_hand(one)).collect();
    if open.is_empty() {
        return Ok(Merged { matches, used: open, unused: Vec::new() });
    }
    let trial = Trial::new(program, chain, argv, &open);
    let (used, unused) = trial.settle(open)?;
    let matches = if unused.is_empty() { matches } else { parse(&used)? };
    Ok(Merged { matches, used, unused })
}

/// Puts settings on the command line, to see whether they may stand beside it.
struct Trial {
    program: Command,
    target: Command,
    argv: Vec<OsString>,
    /// Where options of the command may stand.
    place: usize,
}

impl Trial {
    fn new(program: &Command, chain: &[String], argv: &[OsString], open: &[Layered]) -> Self {
        // What one of them brings is not missing while another is tried.
        let program = at(program.clone(), chain, |command| {
            open.iter()
                .fold(command, |command, one| command.mut_arg(&one.id, |arg| arg.required(false)))
        });
        let leads = |n: &usize| {
            probe(&program, &argv[..*n]).is_ok_and(|matches| chain_of(&matches) == chain)
        };
        let place = (1..=argv.len()).find(leads).unwrap_or(argv.len());
        let target = descend(&program, chain).unwrap_or(&program).clone();
        Self { target, argv: argv.to_vec(), place, program }
    }

    /// Whether all of them may stand there.
    fn try_all(&self, layers: &[&Layered]) -> Result<(), clap::Error> {
        let mut argv = self.argv.clone();
        for layer in layers {
            let arg = find(&self.target, &layer.key);
            let words = arg.map(|arg| words(arg, &layer.values)).unwrap_or_default();
            argv.splice(self.place..self.place, words);
        }
        self.program.clone().try_get_matches_from(argv).map(mem::drop)
    }

    /// Takes them highest first, again and again, because one may need another.
    fn settle(&self, mut open: Vec<Layered>) -> Result<(Vec<Layered>, Unused), Stop> {
        let mut used: Vec<Layered> = Vec::new();
        loop {
            let before = open.len();
            let mut left = Vec::new();
            for one in open {
                let all: Vec<&Layered> = used.iter().chain([&one]).collect();
                match self.try_all(&all) {
                    Ok(()) => used.push(one),
                    Err(error) => left.push((one, error)),
                }
            }
            if left.len() == before || left.is_empty() {
                for (one, error) in &left {
                    self.refuse_contradiction(&used, one, error)?;
                }
                let why = |(one, error): (Layered, clap::Error)| (one, reason(&error));
                return Ok((used, left.into_iter().map(why).collect()));
            }
            open = left.into_iter().map(|(one, _)| one).collect();
        }
    }

    /// What one source says twice, differently, is a mistake. Of two sources the later has its way.
    fn refuse_contradiction(
        &self,
        used: &[Layered],
        one: &Layered,
        error: &clap::Error,
    ) -> Result<(), Stop> {
        if error.kind() != ErrorKind::ArgumentConflict || self.try_all(&[one]).is_err() {
            return Ok(());
        }
        let rival =
            |other: &&Layered| other.rank == one.rank && self.try_all(&[other, one]).is_err();
        match used.iter().find(rival) {
            None => Ok(()),
            Some(other) => Err(Stop::Wrong(pair(
                (&one.key, &one.origin),
                (&other.key, &other.origin),
                &reason(error),
            ))),
        }
    }
}

/// Changes one command.
fn at(program: Command, chain: &[String], change: impl FnOnce(Command) -> Command) -> Command {
    match chain {
        [] => change(program),
        [name, rest @ ..] => {
            let mut change = Some(change);
            program.mut_subcommand(name, |below| match change.take() {
                Some(change) => {
                    let boxed: Box<dyn FnOnce(Command) -> Command> = Box::new(change);
                    at(below, rest, boxed)
                }
                None => below,
            })
        }
    }
}

/// Changes every command.
fn every_command(command: Command, change: &dyn Fn(Command) -> Command) -> Command {
    change(command).mut_subcommands(|below| every_command(below, change))
}
