//! Which keys a program has: its options, by the names that its command line defines.
//!
//! A key is an option's long name with `_` for `-`. Positional arguments have none.

use std::ffi::OsString;
use std::format;
use std::prelude::rust_2024::*;

use clap::builder::ValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};

use super::file::{Setting, Written};
use super::{CONFIG, GENERATE, PRINT};

/// The key that chooses a command where the command line names none.
pub(super) const COMMAND: &str = "command";

/// An option's key, if files may set it.
pub(super) fn key_of(arg: &Arg) -> Option<String> {
    let id = arg.get_id().as_str();
    let ours = [CONFIG, PRINT, GENERATE].contains(&id);
    let acts = matches!(
        arg.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    );
    let key = || arg.get_long().map(|long| long.replace('-', "_"));
    if ours || acts || arg.is_positional() { None } else { key() }
}

/// An option by its key.
pub(super) fn find<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| key_of(arg).as_deref() == Some(key))
}

/// A command below `program` by its path, if there is one.
pub(super) fn descend<'a>(program: &'a Command, path: &[String]) -> Option<&'a Command> {
    path.iter().try_fold(program, |command, name| command.find_subcommand(name))
}

/// The program and every command below it, with their paths.
pub(super) fn every(program: &Command) -> Vec<(Vec<String>, &Command)> {
    let mut all = Vec::from([(Vec::new(), program)]);
    let mut next = 0;
    while next < all.len() {
        let (path, command) = all[next].clone();
        all.extend(command.get_subcommands().map(|below| {
            let mut path = path.clone();
            path.push(below.get_name().to_owned());
            (path, below)
        }));
        next += 1;
    }
    all
}

/// Refuses a setting that nothing of the program would ever use: unknown, of the wrong kind, with
/// a value that the option refuses, or one that only a hand may set.
pub(super) fn check(program: &Command, setting: &Setting, by_hand: &[&str]) -> Result<(), String> {
    let Setting { table, key, origin, .. } = setting;
    let name = program.get_name();
    let whole = |path: &[String]| [&[name.to_owned()], path].concat().join(" ");
    for depth in 0..table.len() {
        let above = descend(program, &table[..depth]);
        let here = above.and_then(|above| above.find_subcommand(&table[depth]));
        if let (Some(above), None) = (above, here) {
            let names = above.get_subcommands().map(|below| below.get_name().to_owned());
            return Err(format!(
                "{origin}: {} has no command {}{}",
                whole(&table[..depth]),
                table[depth],
                nearest(&table[depth], names)
            ));
        }
    }
    if key.is_empty() {
        return Ok(());
    }
    if table.is_empty() && key == COMMAND {
        return check_command(program, setting);
    }
    if by_hand.contains(&key.as_str()) {
        return Err(format!(
            "{origin}: {key} is a permission, which is given by hand each time: --{}",
            key.replace('_', "-")
        ));
    }
    let (path, command, arg) = every(program)
        .into_iter()
        .filter(|(path, _)| if table.is_empty() { true } else { path == table })
        .find_map(|(path, command)| Some((path, command, find(command, key)?)))
        .ok_or_else(|| {
            let all = every(program);
            let all = all.iter().filter(|(path, _)| table.is_empty() || path == table);
            let keys = all.flat_map(|(_, command)| command.get_arguments().filter_map(key_of));
            format!("{origin}: {} has no option {key}{}", whole(table), nearest(key, keys))
        })?;
    let values = values(arg, setting)?;
    try_value(command, &path, arg, &values).map_err(|why| format!("{origin}: {key}: {why}"))
}

fn check_command(program: &Command, setting: &Setting) -> Result<(), String> {
    let origin = &setting.origin;
    let name = match &setting.written {
        Written::One(name) | Written::Word(name) => name,
        _ => return Err(format!("{origin}: {COMMAND} is a command's name, in quotes")),
    };
    if program.find_subcommand(name).is_some() {
        return Ok(());
    }
    let names = program.get_subcommands().map(|below| below.get_name().to_owned());
    let name_of = program.get_name();
    Err(format!("{origin}: {name_of} has no command {name}{}", nearest(name, names)))
}

/// The known word that looks most like what was written, as the end of a line.
#[must_use]
pub fn nearest(seen: &str, known: impl Iterator<Item = String>) -> String {
    let like =
        |word: &String| strsim::jaro_winkler(&seen.replace('-', "_"), &word.replace('-', "_"));
    let best = known.max_by(|a, b| like(a).total_cmp(&like(b)));
    best.map(|word| format!("; the nearest is {word}")).unwrap_or_default()
}

/// Whether an option is one that takes no value, or was one before [`with_no`].
pub(super) fn is_flag(arg: &Arg) -> bool {
    let may_be_bare = arg.get_num_args().is_some_and(|range| range.min_values() == 0);
    let truth = || arg.get_possible_values().iter().any(|value| value.get_name() == "true");
    let taken_back = arg.is_require_equals_set() && may_be_bare && truth();
    matches!(arg.get_action(), ArgAction::SetTrue) || taken_back
}

/// What the command line would have as the option's values.
pub(super) fn values(arg: &Arg, setting: &Setting) -> Result<Vec<String>, String> {
    let Setting { key, origin, .. } = setting;
    let several = matches!(arg.get_action(), ArgAction::Append)
        || arg.get_value_delimiter().is_some()
        || arg.get_num_args().is_some_and(|range| range.max_values() > 1);
    match (&setting.written, is_flag(arg)) {
        (Written::Bool(value), true) => Ok(Vec::from([format!("{value}")])),
        (Written::Word(word), true) => match word.as_str() {
            "1" | "true" => Ok(Vec::from(["true".to_owned()])),
            "0" | "false" | "" => Ok(Vec::from(["false".to_owned()])),
            _ => Err(format!("{origin}: {key} is {word:?}; allowed are true, false, 1 and 0")),
        },
        (_, true) => Err(format!("{origin}: {key} is a switch; allowed are true and false")),
        // Options such as `--boot true`.
        (Written::Bool(value), false) => Ok(Vec::from([format!("{value}")])),
        (Written::One(value) | Written::Word(value), false) => Ok(Vec::from([value.clone()])),
        (Written::Many(values), false) if several => Ok(values.clone()),
        (Written::Many(_), false) => {
            Err(format!("{origin}: {key} takes one value, and this is an array"))
        }
    }
}

/// Has the option's own parser look at the values; what else the command lacks does not matter.
fn try_value(
    command: &Command,
    path: &[String],
    arg: &Arg,
    values: &[String],
) -> Result<(), String> {
    let mut line = Vec::from([OsString::from(path.last().map_or("x", |name| name.as_str()))]);
    if matches!(arg.get_action(), ArgAction::Count) {
        let count = values.first().map_or("", |value| value.as_str());
        let fits = count.parse::<u8>().is_ok();
        return if fits {
            Ok(())
        } else {
            Err(format!("{count:?} is no count; allowed are 0 to 255"))
        };
    }
    line.extend(words(arg, values));
    let lone = lenient(command.clone()).subcommand_required(false);
    let Err(error) = lone.try_get_matches_from(line) else { return Ok(()) };
    match error.kind() {
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::WrongNumberOfValues => {
            Err(reason(&error))
        }
        _ => Ok(()),
    }
}

/// The error's first line, without clap's prefix.
pub(super) fn reason(error: &clap::Error) -> String {
    let text = format!("{}", error.render());
    // Possible values stand in a second paragraph.
    let lines = text.lines().take_while(|line| !line.starts_with("Usage"));
    let lines: Vec<&str> = lines
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("For more"))
        .collect();
    let text = lines.join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

/// An option as the command line spells it. A switch that is off is no word.
pub(super) fn words(arg: &Arg, values: &[String]) -> Vec<OsString> {
    let long = arg.get_long().unwrap_or_default();
    match arg.get_action() {
        ArgAction::Count => {
            let times = values.first().and_then(|value| value.parse().ok()).unwrap_or(0);
            (0..times).map(|_: u8| format!("--{long}").into()).collect()
        }
        // Off is what it is without a word.
        _ if is_flag(arg) => {
            let on = values.first().is_some_and(|value| value == "true");
            on.then(|| format!("--{long}").into()).into_iter().collect()
        }
        _ => values.iter().map(|value| format!("--{long}={value}").into()).collect(),
    }
}

/// A command that misses nothing.
pub(super) fn lenient(command: Command) -> Command {
    command.mut_args(|arg| arg.required(false)).arg_required_else_help(false)
}

/// A switch that can be taken back: `--quiet=false`.
pub(super) fn with_no(arg: Arg) -> Arg {
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return arg;
    }
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_value("false")
        .default_missing_value("true")
        .value_parser(ValueParser::bool())
}
