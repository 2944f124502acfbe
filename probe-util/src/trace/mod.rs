//! `probe-util trace`: records what a partition's probes write, and shows it.
//!
//! [`source`] follows a ring from outside, into a file ([`record`]) or onto the screen
//! ([`follow`]); [`loaded`] takes a file apart and believes only what its
//! checksums confirm; [`text`], [`lines`] and [`perfetto`] tell it. A damaged file is told as far
//! as it goes, with an error for each place that is not.

pub(crate) mod dictionary;
pub(crate) mod event;
mod follow;
mod follow_ring;
mod lines;
mod loaded;
mod perfetto;
mod proto;
mod record;
mod source;
#[cfg(test)]
mod tests;
mod text;

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hybrid_abi::probe::Group;
use hybrid_abi::probe::groups::GROUPS;
use hybrid_conventions::{Exit, Nanos};

use loaded::{Event, Loaded};

/// Arguments of `probe-util trace`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Follow a running partition's probes into a file, until Ctrl-C or --for
    Record(record::Args),
    /// Print what a running partition's probes write, as it happens
    Follow(follow::Args),
    /// Print a trace as text, or as JSON lines
    Show(ShowArgs),
    /// Write a trace as a Perfetto file, for ui.perfetto.dev
    Export(ExportArgs),
}

/// What of a trace is wanted.
#[derive(Debug, clap::Args)]
struct Wanted {
    /// The trace, *.hytrace
    file: PathBuf,
    /// Only the last so much of it: `100ms`, `2s`
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    last: Option<Duration>,
    #[command(flatten)]
    filter: Filter,
    /// Take the dictionary from this program instead; its build id must be the trace's
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

/// Which events are shown.
#[derive(Debug, clap::Args)]
struct Filter {
    /// Only probes of these groups: `driver,sched`
    #[arg(long, value_name = "GROUPS", value_delimiter = ',', value_parser = parse_group)]
    group: Vec<Group>,
    /// Only probes whose name contains this; may be repeated
    #[arg(long, value_name = "TEXT")]
    name: Vec<String>,
    /// Only events that name this task
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
}

/// Arguments of `probe-util trace show`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  probe-util trace show feed.hytrace --last 100ms
  probe-util trace show feed.hytrace --group driver --json | jq 'select(.took_ns > 50000)'

Exit codes: 0 ok, 1 error; a damaged file is told as far as it goes and ends with 1.")]
struct ShowArgs {
    #[command(flatten)]
    wanted: Wanted,
    /// A JSON object a line, schema trace-event/1
    #[arg(long)]
    json: bool,
}

/// Arguments of `probe-util trace export`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  probe-util trace export feed.hytrace -o feed.pftrace
  probe-util trace export feed.hytrace -o last.pftrace --last 100ms

Exit codes: 0 ok, 1 error; a damaged file is told as far as it goes and ends with 1.")]
struct ExportArgs {
    #[command(flatten)]
    wanted: Wanted,
    /// The Perfetto file [default: the trace's name with .pftrace]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let nanos = text.parse::<Nanos>().map_err(|error| error.to_string())?;
    Ok(Duration::from_nanos(nanos.0))
}

fn parse_group(text: &str) -> Result<Group, String> {
    let found = GROUPS.iter().find(|(_, name)| *name == text).map(|(group, _)| *group);
    found.ok_or_else(|| {
        let names: Vec<_> = GROUPS.iter().map(|(_, name)| *name).collect();
        format!("{text:?} is no group; there are {}", names.join(", "))
    })
}

/// Runs it.
///
/// # Errors
/// If there is no such file or partition, it is no trace at all, or a program given is another one.
pub(crate) fn command(args: &Args) -> Result<Exit> {
    match &args.command {
        Command::Record(args) => record::command(args),
        Command::Follow(args) => follow::command(args),
        Command::Show(args) => show(args),
        Command::Export(args) => export(args),
    }
}

fn show(args: &ShowArgs) -> Result<Exit> {
    let loaded = args.wanted.load()?;
    let events = args.wanted.events(&loaded);
    let mut out = BufWriter::new(std::io::stdout().lock());
    let printed = match args.json {
        true => lines::print(&loaded, &events, &mut out),
        false => text::print(&loaded, &events, &mut out),
    };
    match printed.and_then(|()| out.flush()) {
        // Whoever reads it, `head` for instance, has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        printed => printed.context("writing the trace")?,
    }
    tell_problems(&loaded, &args.wanted.file)
}

fn export(args: &ExportArgs) -> Result<Exit> {
    let loaded = args.wanted.load()?;
    let events = args.wanted.events(&loaded);
    let default = || args.wanted.file.with_extension("pftrace");
    let path = args.output.clone().unwrap_or_else(default);
    if path == args.wanted.file {
        bail!("{} is the trace itself; name another file with -o", path.display());
    }
    let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let written = perfetto::write(&loaded, &events, &mut out).and_then(|()| out.flush());
    written.with_context(|| format!("writing {}", path.display()))?;
    eprintln!("{} events to {}; open it in ui.perfetto.dev", events.len(), path.display());
    tell_problems(&loaded, &args.wanted.file)
}

/// What could not be read is an error, after everything that could.
fn tell_problems(loaded: &Loaded, path: &Path) -> Result<Exit> {
    let mut err = std::io::stderr().lock();
    for problem in &loaded.problems {
        let (at, what) = (problem.offset, &problem.what);
        writeln!(err, "probe-util: {}: at byte {at}: {what}", path.display())
            .context("writing errors")?;
    }
    Ok(if loaded.problems.is_empty() { Exit::Ok } else { Exit::Error })
}

impl Wanted {
    fn load(&self) -> Result<Loaded> {
        let shown = self.file.display();
        let bytes = std::fs::read(&self.file).with_context(|| format!("reading {shown}"))?;
        let mut loaded = Loaded::parse(&bytes).with_context(|| format!("{shown} is no trace"))?;
        if let Some(binary) = &self.binary {
            loaded.dictionary = dictionary::of_program(binary, &loaded)?;
        }
        Ok(loaded)
    }

    /// The events that are wanted, by time.
    fn events(&self, loaded: &Loaded) -> Vec<Event> {
        let mut events = loaded.events.clone();
        events.sort_by_key(|event| event.record.tsc);
        let newest = events.last().map_or(0, |event| event.record.tsc);
        let from = match self.last {
            Some(last) => newest.saturating_sub(loaded.ticks(last)),
            None => 0,
        };
        events.retain(|event| event.record.tsc >= from && self.filter.wants(loaded, event));
        events
    }
}

impl Filter {
    fn wants(&self, loaded: &Loaded, event: &Event) -> bool {
        let Some(entry) = loaded.dictionary.get(&event.record.id) else {
            return self.group.is_empty() && self.name.is_empty() && self.task.is_none();
        };
        let name = entry.name.as_str();
        (self.group.is_empty() || self.group.contains(&Group(entry.group)))
            && (self.name.is_empty() || self.name.iter().any(|wanted| name.contains(wanted)))
            && self.task.as_ref().is_none_or(|wanted| {
                loaded.task_of(event).is_some_and(|task| loaded.task_name(event, task) == *wanted)
            })
    }
}
