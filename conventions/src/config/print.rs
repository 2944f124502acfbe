//! `--print-config`: every option of the command, its value and where that comes from.
//!
//! What it prints is a file that says the same.

use std::format;
use std::prelude::rust_2024::*;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};

use super::file::Origin;
use super::keys::{is_flag, key_of};
use super::layer::{Layered, Resolved};

/// Columns before the origins.
const WIDE: usize = 44;

/// The whole text.
pub(super) fn text(program: &Command, resolved: &Resolved) -> String {
    let Resolved { target, matches, chain, .. } = resolved;
    let name = [&[program.get_name().to_owned()], chain.as_slice()].concat().join(" ");
    let mut out = format!("# {name}: each option, and where its value comes from\n");
    for path in &resolved.looked_at {
        let here = if resolved.files.contains(path) { "" } else { " (not there)" };
        out.push_str(&format!("# file: {}{here}\n", path.display()));
    }
    for path in resolved.files.iter().filter(|path| !resolved.looked_at.contains(path)) {
        out.push_str(&format!("# file: {}\n", path.display()));
    }
    if !chain.is_empty() {
        out.push_str(&format!("\n[{}]\n", chain.join(".")));
    }
    let below = chain.iter().fold(matches, |matches: &ArgMatches, name| {
        matches.subcommand_matches(name).unwrap_or(matches)
    });
    for arg in target.get_arguments() {
        let Some(key) = key_of(arg) else { continue };
        let id = arg.get_id().as_str();
        let used = resolved.used.iter().find(|one| one.id == id);
        let unused = resolved.unused.iter().find(|(one, _)| one.id == id);
        let raw = below.get_raw(id).map(|values| {
            values.map(|value| value.to_string_lossy().into_owned()).collect::<Vec<_>>()
        });
        let bare = is_flag(arg) || matches!(arg.get_action(), ArgAction::Count);
        let count = || format!("{}", below.get_count(id));
        let values = match arg.get_action() {
            ArgAction::Count => Some(Vec::from([count()])),
            _ => raw,
        };
        let source = below.value_source(id);
        let (line, why) = match (source, values) {
            (Some(ValueSource::CommandLine), Some(values)) => {
                let long = arg.get_long().unwrap_or_default();
                (written(&key, &values, bare), format!("--{long}"))
            }
            (_, values) => match (used, values) {
                (Some(Layered { origin, values, .. }), _) => {
                    (written(&key, values, bare), format!("{origin}"))
                }
                (None, Some(values)) => (written(&key, &values, bare), "default".to_owned()),
                (None, None) => (format!("#{key} ="), "not set".to_owned()),
            },
        };
        push(&mut out, &line, &why);
        if let Some((one, reason)) = unused {
            let line = format!("#{}", written(&key, &one.values, bare));
            push(&mut out, &line, &format!("{}, not used: {reason}", one.origin));
        }
    }
    out
}

fn push(out: &mut String, line: &str, why: &str) {
    out.push_str(&format!("{line:WIDE$} # {why}\n"));
}

/// `key = value` as TOML has it.
fn written(key: &str, values: &[String], bare: bool) -> String {
    let one = |value: &String| match bare || is_number(value) {
        true => value.clone(),
        false => quoted(value),
    };
    match values {
        [value] => format!("{key} = {}", one(value)),
        values => {
            let all: Vec<String> = values.iter().map(one).collect();
            format!("{key} = [{}]", all.join(", "))
        }
    }
}

/// A decimal that TOML knows as one.
fn is_number(text: &str) -> bool {
    let leads = text.len() > 1 && text.starts_with('0');
    !leads && text.len() < 19 && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// For the words of errors: what an origin is called.
pub(super) fn pair(a: (&str, &Origin), b: (&str, &Origin), why: &str) -> String {
    format!("{}: {} contradicts {} of {}: {why}", a.1, a.0, b.0, b.1)
}
