//! `probe-util trace follow`: what a partition's probes write, as it happens.

use std::io::{BufWriter, ErrorKind, Write};

use anyhow::{Context as _, Result};
use hybrid_abi::probe::{ProbeRecord, entries};
use hybrid_conventions::Exit;
use serde_json::json;

use super::Filter;
use super::dictionary::section;
use super::follow_ring::Look;
use super::loaded::{Event, Loaded};
use super::source::{Source, Taker, header};
use super::{lines, text};

/// Arguments of `probe-util trace follow`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  probe-util trace follow --groups sched:error,watchdog      # until Ctrl-C
  probe-util trace follow --groups driver:info --name latency --for 2s --json

Where events are missing a line says how many: overwritten before they were read, or dropped by the
partition, whose ring was full (--trace-drop). With --json it is {\"lost\": N, \"dropped\": N}.

Exit codes: 0 ok, 1 error; Ctrl-C ends it in order.")]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    filter: Filter,
    /// A JSON object a line, schema trace-event/1
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// If no such partition runs, its program is another one, or stdout can't be written.
pub(super) fn command(args: &Args) -> Result<Exit> {
    let (lost, dropped) = args.source.with(|target, program, stop| {
        let mut loaded = Loaded::of(header(target));
        loaded.dictionary = entries(&section(program)?).map(|entry| (entry.id, entry)).collect();
        let out = BufWriter::new(std::io::stdout().lock());
        let mut printing = Printing { args, loaded, first: None, dropped: 0, out };
        match args.source.take(target, stop, &mut printing) {
            // Whoever reads it has seen enough.
            Err(error) if !is_closed(&error) => Err(error),
            _ => Ok((printing.loaded.lost, printing.dropped)),
        }
    })?;
    if lost != 0 || dropped != 0 {
        eprintln!(
            "{lost} events were overwritten before they were read, {dropped} dropped by the \
             partition; ask for fewer groups"
        );
    }
    Ok(Exit::Ok)
}

fn is_closed(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// A terminal, or a pipe.
struct Printing<'a, W> {
    args: &'a Args,
    /// What is known of the partition; its events are printed and not kept.
    loaded: Loaded,
    /// When the first event was.
    first: Option<u64>,
    /// Events that the partition dropped.
    dropped: u64,
    out: W,
}

impl<W: Write> Printing<'_, W> {
    /// Says where in the stream something is missing.
    fn missing(&mut self, lost: u64, dropped: u64) -> Result<()> {
        if lost == 0 && dropped == 0 {
            return Ok(());
        }
        match self.args.json {
            true => writeln!(self.out, "{}", json!({ "lost": lost, "dropped": dropped }))?,
            false => {
                let gap = "-".repeat(16);
                writeln!(self.out, "{gap}  missing: {lost} overwritten, {dropped} dropped")?;
            }
        }
        Ok(())
    }
}

impl<W: Write> Taker for Printing<'_, W> {
    fn names(&mut self, names: Vec<u8>) -> Result<()> {
        self.loaded.names.clear();
        self.loaded.take_names(&names);
        Ok(())
    }

    fn records(&mut self, look: Look, records: &[ProbeRecord]) -> Result<()> {
        let Look { seen, dropped } = look;
        self.loaded.lost += seen.lost;
        self.dropped += dropped;
        self.missing(seen.lost, 0)?;
        for record in records.iter().take(seen.count) {
            let event = Event { record: *record, names: 0 };
            if !self.args.filter.wants(&self.loaded, &event) {
                continue;
            }
            let first = *self.first.get_or_insert(record.tsc);
            if self.args.json {
                lines::line(&self.loaded, &event, &mut self.out)?;
            } else {
                text::line(&self.loaded, &event, first, &mut self.out)?;
            }
        }
        // A full ring drops what would come behind it.
        self.missing(0, dropped)?;
        self.out.flush().context("writing to stdout")
    }
}
