//! `--generate DIR`: man pages and completions out of the command line's own definitions.
//!
//! The folders below DIR are those of `/usr/share` and of `~/.local/share`: `man/man1`,
//! `bash-completion/completions`, `zsh/site-functions`, `fish/vendor_completions.d`.

use std::path::{Path, PathBuf};
use std::prelude::rust_2024::*;
use std::{fmt, format, fs, io};

use clap::Command;
use clap_complete::aot::{Bash, Fish, Generator, Zsh, generate as complete};
use clap_mangen::Man;
use roff::{Roff, bold, roman};

use super::layer::prefix;
use super::{DIR, DIR_VARIABLE, Rules};

/// The files that were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated(pub Vec<PathBuf>);

impl fmt::Display for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|path| writeln!(f, "{}", path.display()))
    }
}

/// Writes the pages of a program and of each of its commands, and completions for three shells.
///
/// # Errors
/// If a folder or a file cannot be written.
pub fn generate(program: &Command, rules: &Rules, dir: &Path) -> io::Result<Generated> {
    let mut written = Vec::new();
    for (name, page) in pages(program, rules)? {
        written.push(put(dir, "man/man1", &name, &page)?);
    }
    let name = program.get_name().to_owned();
    let bash = completion(Bash, program, &name);
    written.push(put(dir, "bash-completion/completions", &name, &bash)?);
    let zsh = completion(Zsh, program, &name);
    written.push(put(dir, "zsh/site-functions", &format!("_{name}"), &zsh)?);
    let fish = completion(Fish, program, &name);
    written.push(put(dir, "fish/vendor_completions.d", &format!("{name}.fish"), &fish)?);
    Ok(Generated(written))
}

fn put(dir: &Path, folder: &str, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    let folder = dir.join(folder);
    fs::create_dir_all(&folder)?;
    let path = folder.join(name);
    fs::write(&path, bytes)?;
    Ok(path)
}

fn completion(shell: impl Generator, program: &Command, name: &str) -> Vec<u8> {
    let mut script = Vec::new();
    complete(shell, &mut program.clone(), name, &mut script);
    script
}

/// Every page by its file's name.
fn pages(program: &Command, rules: &Rules) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut program = program.clone().disable_help_subcommand(true);
    program.build();
    let mut pages = Vec::new();
    let mut open = Vec::from([program.clone()]);
    while let Some(one) = open.pop() {
        open.extend(one.get_subcommands().filter(|below| !below.is_hide_set()).cloned());
        pages.push(page(&program, rules, one)?);
    }
    Ok(pages)
}

fn page(program: &Command, rules: &Rules, mut one: Command) -> io::Result<(String, Vec<u8>)> {
    let is_program = one.get_name() == program.get_name();
    let usage = format!("{}", one.render_usage());
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    let mut help = Roff::new();
    // What stands below the options in `--help` is sections here.
    for text in [one.get_after_help(), one.get_after_long_help()].into_iter().flatten() {
        sections(&mut help, &format!("{text}"));
    }
    if rules.files {
        files(&mut help, program);
    }
    if !is_program {
        help.control("SH", ["SEE ALSO"]).text([bold(program.get_name()), roman("(1)")]);
    }
    let version = program.get_version().unwrap_or_default();
    let has_below = one.get_subcommands().any(|below| !below.is_hide_set());
    let man = Man::new(one.override_usage(usage))
        .source(format!("hybrid-runtime {version}"))
        .manual("hybrid-runtime");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    if has_below {
        man.render_subcommands_section(&mut out)?;
    }
    man.render_options_section(&mut out)?;
    help.to_writer(&mut out)?;
    Ok((man.get_filename(), out))
}

/// Paragraphs that begin with one of our headings become sections; examples keep their lines.
fn sections(page: &mut Roff, text: &str) {
    const HEADINGS: [(&str, &str); 4] = [
        ("Exit codes:", "EXIT STATUS"),
        ("Examples:", "EXAMPLES"),
        ("Files:", "FILES"),
        ("Settings,", "SETTINGS"),
    ];
    let mut noted = false;
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
        let known = HEADINGS.iter().find(|(start, _)| paragraph.starts_with(start));
        let body = match known {
            Some((start, heading)) => {
                page.control("SH", [*heading]);
                paragraph.strip_prefix(start).filter(|_| start.ends_with(':')).unwrap_or(paragraph)
            }
            None => {
                let (macro_name, words) = if noted { ("PP", None) } else { ("SH", Some("NOTES")) };
                page.control(macro_name, words);
                noted = true;
                paragraph
            }
        };
        if body.contains("\n  ") {
            page.control("nf", []);
            for line in body.trim_matches('\n').lines() {
                page.text([roman(line)]);
            }
            page.control("fi", []);
        } else {
            page.text([roman(body.trim().replace('\n', " "))]);
        }
    }
}

fn files(page: &mut Roff, program: &Command) {
    let name = program.get_name();
    let rows = [
        (
            "FILES",
            format!("{DIR}/{name}.toml"),
            "Values for options. A key is an option's long name with _ for -; keys on top are for \
             every command that has the option, those in a table [COMMAND] for that one. \
             command = \"...\" is what runs when the command line names none."
                .to_owned(),
        ),
        (
            "",
            format!("{DIR}/{name}.toml.d/*.toml"),
            "The same, read after it in the order of their names; a later file goes over an \
             earlier one."
                .to_owned(),
        ),
        (
            "ENVIRONMENT",
            format!("{}<OPTION>", prefix(program)),
            format!(
                "The value of --<OPTION>, over files and under flags: {}CONFIG is none, but every \
                 other option that takes a value or is a switch (1, true, 0, false) is.",
                prefix(program)
            ),
        ),
        ("", DIR_VARIABLE.to_owned(), format!("Another directory than {DIR}.")),
    ];
    for (heading, name, about) in rows {
        if !heading.is_empty() {
            page.control("SH", [heading]);
        }
        page.control("TP", []).text([bold(name)]).text([roman(about)]);
    }
}
