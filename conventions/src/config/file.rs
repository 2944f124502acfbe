//! A TOML file and its drop-ins, as a list of settings that know their line.
//!
//! Units: lines are counted from 1. Nothing is known here of what a key means.

use std::path::{Path, PathBuf};
use std::prelude::rust_2024::*;
use std::{fmt, format, fs, io, vec};

use toml::de::{DeTable, DeValue};

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// In a line of a file.
    File(PathBuf, usize),
    /// In a variable of the environment.
    Environment(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "${name}"),
        }
    }
}

/// What was written for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// `true` or `false`.
    Bool(bool),
    /// A number or text, as the command line would have it.
    One(String),
    /// An array of those.
    Many(Vec<String>),
    /// Text of the environment: a flag reads it as a truth value, any other option as text.
    Word(String),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The commands below the program that it was written for; none: every one that has the key.
    pub(super) table: Vec<String>,
    pub(super) key: String,
    pub(super) written: Written,
    pub(super) origin: Origin,
    /// The source's place in the order: a higher one goes over a lower one.
    pub(super) rank: usize,
}

/// A file that holds settings, and the folder beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) main: PathBuf,
    /// Whether someone named it: then it has to be there.
    pub(super) named: bool,
}

/// Why there are no settings: one line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileError {
    /// It says something that is not understood, or cannot be read.
    Wrong(String),
    /// It was named and is not there.
    Missing(String),
}

impl Files {
    /// The folder of drop-ins: the file's name and `.d`.
    pub(super) fn folder(&self) -> PathBuf {
        let mut name = self.main.clone().into_os_string();
        name.push(".d");
        name.into()
    }

    /// Reads the file and then the drop-ins in the order of their names; gives the settings in
    /// order of rank, and the files that there were.
    pub(super) fn read(&self) -> Result<(Vec<Setting>, Vec<PathBuf>), FileError> {
        let mut settings = Vec::new();
        let mut seen = Vec::new();
        for path in std::iter::once(self.main.clone()).chain(self.drop_ins()?) {
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound && path == self.main => {
                    if self.named {
                        return Err(FileError::Missing(format!(
                            "{} is not there; --config names a file that is",
                            path.display()
                        )));
                    }
                    continue;
                }
                Err(error) => {
                    return Err(FileError::Wrong(format!("{}: {error}", path.display())));
                }
            };
            settings.extend(parse(&path, &text, seen.len()).map_err(FileError::Wrong)?);
            seen.push(path);
        }
        Ok((settings, seen))
    }

    fn drop_ins(&self) -> Result<Vec<PathBuf>, FileError> {
        let folder = self.folder();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(Vec::new());
            }
            Err(error) => return Err(FileError::Wrong(format!("{}: {error}", folder.display()))),
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|end| end == "toml"));
        paths.sort();
        Ok(paths)
    }
}

/// The settings of one file.
fn parse(path: &Path, text: &str, rank: usize) -> Result<Vec<Setting>, String> {
    let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(span.start));
        format!("{}:{line}: {}", path.display(), error.message().replace('\n', "; "))
    })?;
    let mut settings = Vec::new();
    let mut tables = vec![(Vec::new(), table.into_inner())];
    while let Some((names, table)) = tables.pop() {
        for (key, value) in table {
            let origin = Origin::File(path.to_owned(), line_of(key.span().start));
            let key = key.into_inner().into_owned();
            let written = match value.into_inner() {
                DeValue::Table(inner) => {
                    let mut names = names.clone();
                    names.push(key);
                    // So that a table without a key is looked at, too.
                    settings.push(Setting {
                        table: names.clone(),
                        key: String::new(),
                        written: Written::Bool(true),
                        origin,
                        rank,
                    });
                    tables.push((names, inner));
                    continue;
                }
                value => written(value).map_err(|what| {
                    format!(
                        "{origin}: {key} is {what}; allowed are text, numbers, true, false, and \
                         arrays of them"
                    )
                })?,
            };
            settings.push(Setting { table: names.clone(), key, written, origin, rank });
        }
    }
    // By line: the first mistake is told first.
    settings.sort_by_key(|setting| match &setting.origin {
        Origin::File(_, line) => *line,
        Origin::Environment(_) => 0,
    });
    Ok(settings)
}

fn written(value: DeValue<'_>) -> Result<Written, &'static str> {
    match value {
        DeValue::Boolean(value) => Ok(Written::Bool(value)),
        DeValue::Array(items) => {
            let items = items.into_iter().map(|item| scalar(item.into_inner()));
            items.collect::<Result<_, _>>().map(Written::Many)
        }
        value => scalar(value).map(Written::One),
    }
}

fn scalar(value: DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.into_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Integer(_) => Err("a number that is not decimal"),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(value) => Ok(format!("{value}")),
        DeValue::Datetime(_) => Err("a date"),
        DeValue::Array(_) => Err("an array in an array"),
        DeValue::Table(_) => Err("a table in an array"),
    }
}
